//! What `bench` and `trace` run: models with inputs, called from several threads.

use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use motet::Function;
use motet_core::tensor::Tensor;

use crate::check::{all_identical, call, check_call, load};
use crate::failure::{CHECK_FAILED, Failure, Outcome};
use crate::manifest::Manifest;
use crate::sample::{Inputs, Sample};

/// Which models to run, and from how many threads.
#[derive(clap::Args)]
pub struct Which {
    /// The models, .mlxfn files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Threads that call models; by default one for each
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Which {
    /// The models, and the number of threads: at least one for each.
    pub fn load(&self) -> Outcome<(Vec<Subject>, usize)> {
        let subjects = self.models.iter().map(|path| Subject::load(path));
        let subjects = subjects.collect::<Outcome<Vec<Subject>>>()?;
        let threads = self.threads.map_or(subjects.len(), usize::from);
        if threads < subjects.len() {
            return Err(Failure::usage(format!(
                "got {threads} threads for {} models, expected at least as many",
                subjects.len()
            )));
        }
        Ok((subjects, threads))
    }
}

/// A model to run.
pub struct Subject {
    pub name: String,
    function: Function,
    inputs: Inputs,
    reference: Vec<Tensor>,
    /// Whether its first result was compared with a sample.
    pub has_sample: bool,
}

impl Subject {
    /// Loads the model, warms it up, and checks it against the sample beside it if there is one.
    fn load(path: &Path) -> Outcome<Subject> {
        let function = load(path, false)?;
        let beside = Sample::path_beside(path);
        let has_sample = beside.exists();
        let (inputs, reference) = if has_sample {
            let sample = Sample::read(&beside)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let entry = Manifest::read(folder)?.entry(&file);
            let reference = check_call(&function, &sample, &entry, 1, 1).map_err(|failure| {
                Failure::new(
                    failure.code,
                    format!("{}: {}", path.display(), failure.message),
                )
            })?;
            (sample.inputs, reference)
        } else {
            let inputs = Inputs::zeros(&function.signatures()[0])?;
            let reference = call(&function, &inputs)?;
            (inputs, reference)
        };
        Ok(Subject {
            name: function.name().to_owned(),
            function,
            inputs,
            reference,
            has_sample,
        })
    }

    /// Calls the model until it is `over` after a call, which is asked with their number and the
    /// time; every call takes `gate` if there is one. The last result must be the first one's, to
    /// the bit.
    pub fn call_until(
        &self,
        over: impl Fn(usize, Duration) -> bool,
        gate: Option<&Mutex<()>>,
    ) -> Outcome<Calls> {
        let mut latencies = Vec::new();
        let begin = Instant::now();
        let mut last = begin;
        let outputs = loop {
            let outputs = {
                let _turn = gate.map(|gate| gate.lock().expect("no call panics"));
                call(&self.function, &self.inputs)?
            };
            let now = Instant::now();
            latencies.push(now - last);
            last = now;
            if over(latencies.len(), last - begin) {
                break outputs;
            }
        };
        if !all_identical(&outputs, &self.reference) {
            let message = format!("{}: a result differs from the first one", self.name);
            return Err(Failure::new(CHECK_FAILED, message));
        }
        Ok(Calls {
            elapsed: last - begin,
            latencies,
        })
    }
}

/// What one thread did in one window.
pub struct Calls {
    pub elapsed: Duration,
    pub latencies: Vec<Duration>,
}

/// Calls models from so many threads at once, thread t model t modulo the number of models.
pub fn call_from_threads(
    subjects: &[Subject],
    threads: usize,
    over: impl Fn(usize, Duration) -> bool + Sync,
    gate: Option<&Mutex<()>>,
) -> Outcome<Vec<Calls>> {
    let (start, over) = (&Barrier::new(threads), &over);
    std::thread::scope(|scope| {
        let work = |thread: usize| {
            let subject = &subjects[thread % subjects.len()];
            let named = std::thread::Builder::new().name(format!("caller {}", thread + 1));
            let work = move || {
                start.wait();
                subject.call_until(over, gate)
            };
            named
                .spawn_scoped(scope, work)
                .expect("the system has threads")
        };
        let running: Vec<_> = (0..threads).map(work).collect();
        let panicked = |_| Err(Failure::new(CHECK_FAILED, "a thread panicked"));
        let join = running
            .into_iter()
            .map(|t| t.join().unwrap_or_else(panicked));
        join.collect()
    })
}

/// A number of seconds on the command line.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds, 0.01 to 86400".into()),
    }
}
