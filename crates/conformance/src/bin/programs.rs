//! Writes functions with sample calls for another runtime to run: random programs with what the
//! reference makes of them, and closures that motet traced with what motet makes of them.
//!
//! `programs FOLDER COUNT SEED` replaces FOLDER. It is then one that `motet check` and
//! `tools/check_with_mlx.py` take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use conformance::programs::Program;
use motet::{Array, Dtype, ExportOptions, Keywords, ops};
use motet_core::error::{Error, Result};
use motet_core::export::reader::ExportedFile;
use motet_core::graph::{Graph, Node};
use motet_core::ops::Primitive;
use motet_core::ops::elementwise::DivMod;
use motet_core::ops::shape::Transpose;
use motet_core::ops::slicing::Split;
use motet_core::tensor::Tensor;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count, seed] = &arguments[..] else {
        eprintln!("usage: programs FOLDER COUNT SEED");
        return ExitCode::from(2);
    };
    let (Ok(count), Ok(seed)) = (count.parse(), seed.parse()) else {
        eprintln!("COUNT and SEED have to be numbers");
        return ExitCode::from(2);
    };
    match write(Path::new(folder), count, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path, count: usize, seed: u64) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(folder.display().to_string(), e.to_string());
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(failed)?;
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut written = Written {
        folder: folder.to_owned(),
        entries: Vec::new(),
    };
    let programs = (seed..).map(|seed| (seed, Program::new(seed)));
    let for_mlx = programs.filter(|(_, Program { graph, .. })| {
        let mut nodes = graph.nodes.iter();
        nodes.all(|node| mlx_has(node, graph))
    });
    for (seed, program) in for_mlx.take(count) {
        random(&mut written, seed, program)?;
    }
    traced(&mut written)?;
    let manifest = json!({ "fixtures": written.entries });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).map_err(failed)
}

/// The files so far.
struct Written {
    folder: PathBuf,
    entries: Vec<Value>,
}

/// A call of a function and its outputs.
struct Call {
    inputs: Vec<Array>,
    keywords: Vec<(&'static str, Array)>,
    outputs: Vec<Array>,
}

impl Written {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.mlxfn"))
    }

    /// Writes the calls of a function that is at `path(name)`. Floats may differ by `tolerance`,
    /// and by as much of their size.
    fn calls(&mut self, name: &str, calls: &[Call], tolerance: Option<f64>) -> Result<()> {
        let mut files = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
            let mut keep = |name: String, array: &Array| -> Result<()> {
                tensors.insert(name, array.tensor()?);
                Ok(())
            };
            for (index, input) in call.inputs.iter().enumerate() {
                keep(format!("in.{index}"), input)?;
            }
            for (keyword, input) in &call.keywords {
                keep(format!("in.kw.{keyword}"), input)?;
            }
            for (index, output) in call.outputs.iter().enumerate() {
                keep(format!("out.{index}"), output)?;
            }
            let file = format!("{name}.call{number}.safetensors");
            motet_io::write(&self.folder.join(&file), &tensors)?;
            files.push(file);
        }
        let floats = ["float16", "bfloat16", "float32", "float64", "complex64"];
        let tolerances: BTreeMap<&str, [f64; 2]> = tolerance
            .iter()
            .flat_map(|&both| floats.map(|dtype| (dtype, [both; 2])))
            .collect();
        let file = format!("{name}.mlxfn");
        let entry = json!({ "file": file, "calls": files, "tol": tolerances });
        self.entries.push(entry);
        Ok(())
    }

    /// Exports a function as it is called, with one signature for each of `examples`; then calls it
    /// also with `more`.
    fn export(
        &mut self,
        name: &str,
        f: impl Fn(&[Array], &Keywords) -> Result<Vec<Array>> + Send + Sync,
        options: ExportOptions,
        examples: &[Inputs],
        more: &[Inputs],
    ) -> Result<()> {
        let mut exporter = motet::exporter(self.path(name), &f, options);
        for (inputs, keywords) in examples {
            exporter.call_with(inputs, keywords)?;
        }
        exporter.close()?;
        let call = |(inputs, keywords): &Inputs| -> Result<Call> {
            let named = keywords.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
            Ok(Call {
                inputs: inputs.clone(),
                keywords: keywords.clone(),
                outputs: f(inputs, &named.collect())?,
            })
        };
        let calls: Vec<Call> = examples
            .iter()
            .chain(more)
            .map(call)
            .collect::<Result<_>>()?;
        self.calls(name, &calls, None)
    }

    /// Exports a function of positional inputs with one signature.
    fn export_one(
        &mut self,
        name: &str,
        f: impl Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync,
        inputs: &[Array],
    ) -> Result<()> {
        let f = |inputs: &[Array], _: &Keywords| f(inputs);
        let example = (inputs.to_vec(), Vec::new());
        self.export(name, f, ExportOptions::default(), &[example], &[])
    }
}

/// Positional and keyword inputs.
type Inputs = (Vec<Array>, Vec<(&'static str, Array)>);

/// Whether MLX computes the node right. It never writes others: it converts what they get before,
/// counts axes from the start, and computes nothing of empty arrays.
fn mlx_has(node: &Node, graph: &Graph) -> bool {
    if node
        .inputs
        .iter()
        .any(|&value| graph.values[value].shape.size() == 0)
    {
        return false;
    }
    let first = node.inputs.first();
    let is = |test: fn(Dtype) -> bool| first.is_some_and(|&value| test(graph.values[value].dtype));
    match &node.primitive {
        Primitive::LogicalNot(_) | Primitive::LogicalAnd(_) | Primitive::LogicalOr(_) => {
            is(|dtype| dtype == Dtype::Bool)
        }
        Primitive::Equal(equal) => !equal.equal_nan || is(Dtype::is_inexact),
        Primitive::Concatenate(concatenate) => concatenate.axis >= 0,
        Primitive::Split(split) => split.axis >= 0,
        _ => true,
    }
}

fn random(written: &mut Written, seed: u64, program: Program) -> Result<()> {
    let name = format!("random_{seed}");
    let arrays = |values: &[conformance::value::Value]| -> Result<Vec<Array>> {
        let arrays = values.iter().map(|v| Ok(Array::from_tensor(v.tensor()?)));
        arrays.collect()
    };
    let call = Call {
        inputs: arrays(&program.inputs)?,
        keywords: Vec::new(),
        outputs: arrays(&program.outputs)?,
    };
    let mut file = ExportedFile::new(false, &format!("seed {seed}"));
    file.functions.push(Arc::new(program.graph));
    file.save(&written.path(&name))?;
    written.calls(&name, &[call], Some(program.tolerance))
}

fn array(data: &[f32], shape: &[usize]) -> Result<Array> {
    Array::from_slice(data, shape)
}

fn transpose(x: &Array) -> Result<Array> {
    let permutation = (0..x.shape().len() as i32).rev().collect();
    Ok(ops::apply(Transpose { permutation }, std::slice::from_ref(x))?.swap_remove(0))
}

/// What tracing can meet.
fn traced(written: &mut Written) -> Result<()> {
    let row = array(&[0.5, -1.0, 2.0], &[3])?;
    let column = array(&[1.0, -2.0], &[2, 1])?;
    let matrix = array(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;

    let operators = |x: &[Array]| {
        let mixed = ops::astype(&x[0], Dtype::Float16)? + ops::astype(&x[1], Dtype::Int32)?;
        let shifted = ops::astype(&x[0], Dtype::Int32)? << 2;
        let logical = ops::logical_and(&x[0], !ops::greater(&x[1], 0.0)?)?;
        let float = (1.0 - &x[0]) * &x[1] / 3.0;
        Ok(vec![mixed, shifted, logical, ops::exp(float)?])
    };
    written.export_one(
        "traced_operators",
        operators,
        &[row.clone(), column.clone()],
    )?;

    let several = |x: &[Array]| {
        let both = ops::apply(DivMod, &[x[0].clone(), &x[0] * 0.0 + 0.75])?;
        let split = Split {
            indices: vec![1],
            axis: 1,
        };
        let parts = ops::apply(split, std::slice::from_ref(&x[0]))?;
        // The second output alone, the first twice, an input, a constant.
        let constant = matrix.clone();
        Ok(vec![
            parts[1].clone(),
            both[1].clone(),
            x[0].clone(),
            both[0].clone(),
            constant,
            both[0].clone(),
        ])
    };
    written.export_one(
        "traced_several_outputs",
        several,
        &[matrix.clone(), row.clone()],
    )?;

    // Constants that do not lie in memory as they are seen, of every dtype.
    let mut views = Vec::new();
    for dtype in Dtype::ALL {
        let view = transpose(&ops::astype(&matrix, dtype)?)?;
        view.eval()?;
        views.push(view);
    }
    let float32 = transpose(&matrix)?;
    let repeated = ops::broadcast_to(&row, [2, 3])?;
    repeated.eval()?;
    let constants = |x: &[Array]| {
        // MLX reads no float64 from safetensors files, in which the outputs are.
        let readable = |view: &Array| match view.dtype() {
            Dtype::Float64 => ops::astype(view, Dtype::Float32),
            _ => Ok(view.clone()),
        };
        let mut outputs: Vec<Array> = views.iter().map(readable).collect::<Result<_>>()?;
        outputs.push(&repeated + &x[0]);
        outputs.push(ops::matmul(&x[0], &float32)?);
        Ok(outputs)
    };
    written.export_one("traced_constants", constants, std::slice::from_ref(&matrix))?;
    written.export_one("traced_no_inputs", |_| Ok(vec![&row * 2.0]), &[])?;

    let double = motet::compile(|x| Ok(vec![&x[0] + &x[0], ops::sum(&x[0], ..)?]));
    let lazy = ops::exp(&row)?;
    let nested = |x: &[Array]| {
        let doubled = double.call(&[&x[0] * &lazy])?;
        let again = double.call(&doubled[..1])?;
        Ok([&doubled[..], &again[..]].concat())
    };
    written.export_one("traced_nested", nested, std::slice::from_ref(&matrix))?;

    let other = motet::new_stream(motet::Device::CPU)?;
    let streams = |x: &[Array]| {
        let a = ops::exp(&x[0])?;
        let b = motet::with_stream(&other, || ops::sin(&a))?;
        Ok(vec![a + b])
    };
    written.export_one("traced_streams", streams, std::slice::from_ref(&row))?;

    let chain = |x: &[Array]| Ok(vec![(0..2000).fold(x[0].clone(), |sum, _| sum * 0.5 + 1.0)]);
    written.export_one("traced_chain", chain, std::slice::from_ref(&row))?;

    let sum = |x: &[Array], keywords: &Keywords| {
        let all = x.iter().chain(keywords.values());
        Ok(vec![all.fold(Array::from(1.0f32), |sum, x| sum + x)])
    };
    let options = ExportOptions {
        metadata: "sums ♪".to_owned(),
        ..ExportOptions::default()
    };
    let signatures = [
        (vec![row.clone()], vec![]),
        (vec![column.clone()], vec![]),
        (vec![row.clone(), column.clone()], vec![]),
        (
            vec![row.clone()],
            vec![("z", column.clone()), ("a", row.clone())],
        ),
        (vec![], vec![("z", column.clone())]),
    ];
    written.export("traced_signatures", sum, options, &signatures, &[])?;

    let any_shape = |x: &[Array], _: &Keywords| {
        let centred = (&x[0] + &row) * &x[1];
        Ok(vec![ops::sum(&centred, -1)?, ops::greater(&x[0], 0.5)?])
    };
    let options = ExportOptions {
        shapeless: true,
        ..ExportOptions::default()
    };
    let example = (vec![matrix.clone(), column.clone()], vec![]);
    let ones = |shape: &[usize]| array(&vec![1.5; shape.iter().product()], shape);
    let more = [
        (vec![ones(&[5, 3])?, ones(&[1, 3])?], vec![]),
        (vec![ones(&[1, 3])?, ones(&[4, 1])?], vec![]),
    ];
    written.export("traced_shapeless", any_shape, options, &[example], &more)
}
