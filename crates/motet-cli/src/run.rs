//! `motet run`: call a model with tensors from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use motet::{Array, Function};
use motet_core::device::{Device, DeviceType};
use motet_core::tensor::Tensor;
use motet_io::{Tensors, row_major};

use crate::compare::show;
use crate::failure::{Failure, Outcome};
use crate::output::say;
use crate::sample::{Inputs, describe_signatures};

/// Call a model with inputs from files
#[derive(clap::Args)]
pub struct Args {
    /// The model, a .mlxfn file
    model: PathBuf,
    /// An input: a position (0, 1, ...) or a keyword, and a .npy file, or a .safetensors or .npz
    /// file with one tensor
    #[arg(long, value_name = "NAME=FILE")]
    input: Vec<String>,
    /// Inputs in one file: tensors called in.0, in.1, ..., in.kw.NAME (or 0, arr_0, NAME)
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Where to write the outputs, as out.0, out.1, ...: .safetensors, .npz, or .npy for one
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The device to run on
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: Device,
    /// Call so many times, and print how long a call took
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

/// Calls the model.
pub fn run(args: &Args) -> Outcome {
    let function = motet::import_function(&args.model)?;
    let inputs = collect_inputs(args)?;
    check_names(&function, &inputs)?;
    let stream = motet::new_stream(args.device)?;
    let function = function.compile().on(&stream);

    let mut durations = Vec::new();
    let mut outputs = Vec::new();
    for _ in 0..args.repeat {
        let start = Instant::now();
        outputs = inputs.call(&function)?;
        durations.push(start.elapsed());
    }
    let outputs: Tensors = outputs
        .iter()
        .enumerate()
        .map(|(index, array)| Ok((format!("out.{index}"), array.tensor()?)))
        .collect::<motet_core::error::Result<_>>()?;
    match &args.output {
        Some(path) => motet_io::write(path, &outputs)?,
        None => outputs
            .iter()
            .for_each(|(name, tensor)| say(summary(name, tensor))),
    }
    if args.repeat > 1 {
        let first = durations[0];
        durations.sort_unstable();
        say(format_args!(
            "{} calls: first {first:.1?}, median {:.1?}, fastest {:.1?}",
            args.repeat,
            durations[durations.len() / 2],
            durations[0],
        ));
    }
    Ok(())
}

fn parse_device(text: &str) -> Result<Device, String> {
    let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
    let kind = match kind {
        "cpu" => DeviceType::Cpu,
        "gpu" => DeviceType::Gpu,
        _ => return Err("expected cpu or gpu, or one with an index like gpu:1".into()),
    };
    let index = index.parse().map_err(|_| "the index is not a number")?;
    Ok(Device { kind, index })
}

/// Where an input goes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Position(usize),
    Keyword(String),
}

impl Slot {
    fn parse(name: &str) -> Slot {
        if let Some(keyword) = name.strip_prefix("in.kw.") {
            return Slot::Keyword(keyword.to_owned());
        }
        // numpy's savez calls unnamed arrays arr_0, arr_1, ...; `motet_io` does so in .npy files.
        let bare = name
            .strip_prefix("in.")
            .or_else(|| name.strip_prefix("arr_"));
        match bare.unwrap_or(name).parse() {
            Ok(index) => Slot::Position(index),
            Err(_) => Slot::Keyword(name.to_owned()),
        }
    }
}

fn collect_inputs(args: &Args) -> Outcome<Inputs> {
    let mut slots = BTreeMap::new();
    if let Some(path) = &args.inputs {
        for (name, tensor) in motet_io::read(path)? {
            // So that the sample call beside a model can be run as it is.
            if !name.starts_with("out.") && !name.starts_with("ref.") {
                slots.insert(Slot::parse(&name), tensor);
            }
        }
    }
    for text in &args.input {
        let Some((name, file)) = text.split_once('=') else {
            return Err(Failure::usage(format!(
                "--input {text}: expected NAME=FILE, for instance 0=x.npy"
            )));
        };
        if slots
            .insert(Slot::parse(name), read_one(Path::new(file), name)?)
            .is_some()
        {
            return Err(Failure::usage(format!("input '{name}' is given twice")));
        }
    }
    let mut inputs = Inputs::default();
    for (slot, tensor) in slots {
        let array = Array::from_tensor(tensor);
        match slot {
            Slot::Position(index) if index == inputs.positional.len() => {
                inputs.positional.push(array);
            }
            Slot::Position(index) => {
                let missing = inputs.positional.len();
                return Err(Failure::usage(format!(
                    "got input {index}, but input {missing} is missing"
                )));
            }
            Slot::Keyword(name) => {
                inputs.keywords.insert(name, array);
            }
        }
    }
    Ok(inputs)
}

/// The tensor of this name in a file, or the only one.
fn read_one(path: &Path, name: &str) -> Outcome<Tensor> {
    let mut tensors = motet_io::read(path)?;
    if let Some(tensor) = tensors.remove(name) {
        return Ok(tensor);
    }
    match tensors.len() {
        1 => Ok(tensors.pop_first().expect("there is one").1),
        count => Err(Failure::usage(format!(
            "{}: got {count} tensors, none called '{name}'; use --inputs for a file of several",
            path.display()
        ))),
    }
}

/// Whether some signature takes as many inputs, by these names; shapes and dtypes are left to the
/// call.
fn check_names(function: &Function, inputs: &Inputs) -> Outcome {
    let signatures = function.signatures();
    let fits = signatures.iter().any(|graph| {
        graph.positional() == inputs.positional.len()
            && graph.keywords.len() == inputs.keywords.len()
            && graph
                .keywords
                .iter()
                .all(|name| inputs.keywords.contains_key(name))
    });
    if fits {
        return Ok(());
    }
    let got = match inputs.describe() {
        none if none.is_empty() => "none".to_owned(),
        some => some,
    };
    Err(Failure::usage(format!(
        "the inputs do not fit the model: got {got}, expected\n{}\n\
         give inputs with --input NAME=FILE or --inputs FILE",
        describe_signatures(signatures)
    )))
}

fn summary(name: &str, tensor: &Tensor) -> String {
    const SHOWN: usize = 8;
    let spec = tensor.spec();
    let bytes = row_major(tensor);
    let elements = bytes.chunks_exact(spec.dtype.size());
    let shown: Vec<String> = elements.take(SHOWN).map(|e| show(spec.dtype, e)).collect();
    let more = if spec.shape.size() > SHOWN {
        ", ..."
    } else {
        ""
    };
    format!("{name} {spec}: {}{more}", shown.join(", "))
}
