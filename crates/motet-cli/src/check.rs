//! `motet check`: do models give what their sample calls say?

use std::path::{Path, PathBuf};
use std::sync::Barrier;

use indicatif::ProgressBar;
use motet::Function;
use motet_core::error::{Error, ErrorKind};
use motet_core::tensor::Tensor;
use serde_json::json;

use crate::compare::{compare, identical};
use crate::failure::{CHECK_FAILED, Failure, Outcome, UNSUPPORTED};
use crate::manifest::{Entry, Manifest};
use crate::output::{say, write_json};
use crate::sample::{Inputs, Sample};

/// Compare models with their sample calls
///
/// A model NAME.mlxfn has its calls beside it: NAME.safetensors (tensors in.*, in.kw.*, out.*) and
/// NAME.callK.safetensors. A folder's manifest.json, where there is one, gives tolerances, and the
/// files that must be refused (group `reject`).
#[derive(clap::Args)]
pub struct Args {
    /// Models, or folders of models
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Threads that share each function; their results must agree to the bit
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Calls per thread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Run without compiling
    #[arg(long)]
    eager: bool,
    /// Write the results to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Checks all models that the paths name, and fails if any failed.
pub fn check(args: &Args) -> Outcome {
    let mut cases = Vec::new();
    for path in &args.paths {
        find_cases(path, &mut cases)?;
    }
    let mut results = Vec::new();
    let progress = ProgressBar::new(cases.len() as u64);
    for case in &cases {
        let name = case.model.display();
        let verdict = case.check(args);
        progress.suspend(|| match &verdict {
            Verdict::Passed => say(format_args!("pass  {name}")),
            Verdict::Skipped(why) => say(format_args!("skip  {name}: {why}")),
            Verdict::Failed(failure) => say(format_args!("FAIL  {name}: {}", failure.message)),
        });
        progress.inc(1);
        results.push((name.to_string(), verdict));
    }
    progress.finish_and_clear();
    let count = |label| {
        results
            .iter()
            .filter(|(_, verdict)| verdict.label() == label)
            .count()
    };
    let (passed, failed, skipped) = (count("passed"), count("failed"), count("skipped"));
    say(format_args!(
        "{passed} passed, {failed} failed, {skipped} skipped"
    ));
    if let Some(path) = &args.json {
        let details: Vec<_> = results
            .iter()
            .map(|(name, verdict)| {
                json!({"name": name, "outcome": verdict.label(), "reason": verdict.reason()})
            })
            .collect();
        let summary = json!({
            "passed": passed, "failed": failed, "skipped": skipped,
            "threads": args.threads, "repeat": args.repeat, "eager": args.eager,
            "results": details,
        });
        write_json(path, &summary)?;
    }
    // A wrong result outweighs a bad file.
    let codes = results.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Failed(failure) => Some(failure.code),
        _ => None,
    });
    match codes.min() {
        Some(code) => Err(Failure::new(code, "")),
        None if skipped > 0 => Err(Failure::new(UNSUPPORTED, "")),
        None => Ok(()),
    }
}

/// What came out of checking a model.
enum Verdict {
    Passed,
    Failed(Failure),
    Skipped(String),
}

impl Verdict {
    fn label(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed(_) => "failed",
            Verdict::Skipped(_) => "skipped",
        }
    }

    fn reason(&self) -> &str {
        match self {
            Verdict::Passed => "",
            Verdict::Failed(failure) => &failure.message,
            Verdict::Skipped(why) => why,
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Verdict {
        match failure.code {
            UNSUPPORTED => Verdict::Skipped(failure.message),
            _ => Verdict::Failed(failure),
        }
    }
}

/// A model to check.
struct Case {
    model: PathBuf,
    entry: Entry,
}

/// The model that `path` is, or the models in the folder that it is.
fn find_cases(path: &Path, cases: &mut Vec<Case>) -> Outcome {
    let cannot = |error| {
        let message = format!("cannot read it: {error}");
        Error::file(path.display().to_string(), message)
    };
    if !std::fs::metadata(path).map_err(cannot)?.is_dir() {
        cases.push(Case::new(path, &Manifest::read(folder_of(path))?));
        return Ok(());
    }
    let manifest = Manifest::read(path)?;
    // What the manifest lists must be there, whether or not a look into the folder finds it.
    let mut models: Vec<PathBuf> = manifest
        .entries
        .iter()
        .map(|e| path.join(&e.file))
        .collect();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "mlxfn")
        {
            models.push(file);
        }
    }
    models.sort();
    models.dedup();
    if models.is_empty() {
        let message = "no .mlxfn files in this folder";
        return Err(Error::file(path.display().to_string(), message).into());
    }
    cases.extend(models.iter().map(|model| Case::new(model, &manifest)));
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

impl Case {
    fn new(model: &Path, manifest: &Manifest) -> Case {
        let file = model.file_name().unwrap_or_default().to_string_lossy();
        Case {
            model: model.to_owned(),
            entry: manifest.entry(&file),
        }
    }

    fn check(&self, args: &Args) -> Verdict {
        if self.entry.must_be_refused() {
            return self.check_refused(args);
        }
        let result = load(&self.model, args.eager).and_then(|function| {
            for call in self.calls() {
                let sample = Sample::read(&call)?;
                check_call(&function, &sample, &self.entry, args.threads, args.repeat)
                    .map_err(|failure| in_call(&call, failure))?;
            }
            Ok(())
        });
        match result {
            Ok(()) => Verdict::Passed,
            Err(failure) => failure.into(),
        }
    }

    /// Reading the model, or else calling it, must fail, and not by a bug.
    fn check_refused(&self, args: &Args) -> Verdict {
        let result = motet::import_function(&self.model).and_then(|function| {
            let function = if args.eager {
                function
            } else {
                function.compile()
            };
            for graph in function.signatures() {
                Inputs::zeros(graph)?.call(&function)?;
            }
            Ok(())
        });
        let complaint = match result {
            Err(error) if error.kind() != ErrorKind::Internal => return Verdict::Passed,
            Err(error) => format!("it must be refused, but it met a bug: {error}"),
            Ok(()) => "it must be refused, but it was read and called".into(),
        };
        Verdict::Failed(Failure::new(CHECK_FAILED, complaint))
    }

    /// The files with calls: those that the manifest lists, else those that are there.
    fn calls(&self) -> Vec<PathBuf> {
        if !self.entry.calls.is_empty() {
            let folder = folder_of(&self.model);
            return self
                .entry
                .calls
                .iter()
                .map(|call| folder.join(call))
                .collect();
        }
        let further = |k| self.model.with_extension(format!("call{k}.safetensors"));
        let further = (1..).map(further).take_while(|path| path.exists());
        std::iter::once(Sample::path_beside(&self.model))
            .chain(further)
            .collect()
    }
}

fn in_call(call: &Path, failure: Failure) -> Failure {
    let file = call.file_name().unwrap_or_default().to_string_lossy();
    Failure::new(failure.code, format!("{file}: {}", failure.message))
}

/// Reads a model and, unless `eager`, compiles it.
pub fn load(model: &Path, eager: bool) -> Outcome<Function> {
    let function = motet::import_function(model)?;
    Ok(if eager { function } else { function.compile() })
}

/// Calls a function from some threads at once; all must agree to the bit, and with the sample.
/// Returns what they agreed on.
pub fn check_call(
    function: &Function,
    sample: &Sample,
    entry: &Entry,
    threads: u16,
    repeat: u32,
) -> Outcome<Vec<Tensor>> {
    let start = Barrier::new(threads.into());
    let work = || {
        start.wait();
        let call = || call(function, &sample.inputs);
        let first = call()?;
        for _ in 1..repeat {
            if !all_identical(&first, &call()?) {
                return Err(differ("calls of one thread"));
            }
        }
        Ok(first)
    };
    let results: Vec<Outcome<Vec<Tensor>>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            let panicked = |_| Err(Failure::new(CHECK_FAILED, "a thread panicked"));
            thread.join().unwrap_or_else(panicked)
        };
        std::iter::once(own)
            .chain(others.into_iter().map(join))
            .collect()
    });
    let mut results = results.into_iter();
    let first = results.next().expect("there is at least one thread")?;
    for other in results {
        if !all_identical(&first, &other?) {
            return Err(differ("threads"));
        }
    }
    check_outputs(&first, sample, entry)?;
    Ok(first)
}

fn differ(who: &str) -> Failure {
    let message = format!("{who} got results that are not identical to the bit");
    Failure::new(CHECK_FAILED, message)
}

/// Calls a function and takes its outputs. A call that fails is a failed check, whatever it
/// says, unless an operation is unsupported.
pub fn call(function: &Function, inputs: &Inputs) -> Outcome<Vec<Tensor>> {
    let outputs = inputs
        .call(function)
        .and_then(|outputs| outputs.iter().map(|array| array.tensor()).collect());
    outputs.map_err(|error: Error| match error.kind() {
        ErrorKind::Unsupported => error.into(),
        _ => Failure::new(CHECK_FAILED, error.to_string()),
    })
}

/// Whether two results are the same to the bit.
pub fn all_identical(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b))
}

fn check_outputs(outputs: &[Tensor], sample: &Sample, entry: &Entry) -> Outcome {
    if outputs.len() != sample.outputs.len() {
        let (got, expected) = (outputs.len(), sample.outputs.len());
        let message = format!("got {got} outputs, expected {expected}");
        return Err(Failure::new(CHECK_FAILED, message));
    }
    for (index, (got, expected)) in outputs.iter().zip(&sample.outputs).enumerate() {
        let tolerance = entry.tolerance(expected.layout.dtype);
        compare(got, expected, tolerance)
            .map_err(|why| Failure::new(CHECK_FAILED, format!("out.{index}: {why}")))?;
    }
    Ok(())
}
