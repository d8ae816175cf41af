//! `cargo xtask neighbours`: what a model's latency becomes when others run, or are loaded, beside
//! it.
//!
//! One thread calls the small model again and again, with pauses as a service has them. Each round
//! measures every situation for a short window, so that a machine that is slower for a while is
//! slower for all of them.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use motet::{Array, Function, Priority, Result, eval, import_function};

/// What the neighbours do.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// They call the large model, with this priority.
    Calls(Priority),
    /// They import, compile, call once in the background and drop it.
    Loading,
}

/// What is compared: a name, what the neighbours do, and how urgent the small model is.
const SITUATIONS: [(&str, Beside, Priority); 5] = [
    ("alone", Beside::Nothing, Priority::Normal),
    (
        "beside calls of equal priority",
        Beside::Calls(Priority::Normal),
        Priority::Normal,
    ),
    (
        "urgent, beside calls",
        Beside::Calls(Priority::Normal),
        Priority::Urgent,
    ),
    (
        "urgent, beside background calls",
        Beside::Calls(Priority::Background),
        Priority::Urgent,
    ),
    ("beside loading", Beside::Loading, Priority::Normal),
];

const ROUNDS: u32 = 5;

/// Between two calls of the small model. It is part of the load that is measured, as requests come now
/// and then; nothing depends on how long it is.
const PAUSE: Duration = Duration::from_micros(500);

/// Measures `small` with `neighbours` threads that use `large`, and prints a table.
pub fn neighbours(
    small: &Path,
    large: &Path,
    neighbours: usize,
    seconds: f64,
) -> std::result::Result<(), String> {
    let measure = || -> Result<Vec<Measured>> {
        let subject = Subject::load(small)?;
        let window = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / SITUATIONS.len() as f64);
        let mut all = vec![Measured::default(); SITUATIONS.len()];
        for _ in 0..ROUNDS {
            for ((_, beside, priority), measured) in SITUATIONS.iter().zip(&mut all) {
                measured.window(&subject, *priority, *beside, large, neighbours, window)?;
            }
        }
        Ok(all)
    };
    let mut all = measure().map_err(|error| error.to_string())?;
    println!("| {neighbours} neighbours | p50 us | p99 us | p99 to alone | neighbours' calls/s |");
    println!("|---|---|---|---|---|");
    let alone = all[0].percentile(0.99);
    for ((name, ..), measured) in SITUATIONS.iter().zip(&mut all) {
        let (p50, p99) = (measured.percentile(0.5), measured.percentile(0.99));
        println!(
            "| {name} | {p50:.1} | {p99:.1} | {:.2} | {:.1} |",
            p99 / alone,
            measured.beside as f64 / measured.time.as_secs_f64(),
        );
    }
    Ok(())
}

/// A compiled model with its sample inputs.
struct Subject {
    function: Function,
    inputs: Vec<Array>,
}

impl Subject {
    fn load(path: &Path) -> Result<Subject> {
        let sample: PathBuf = path.with_extension("safetensors");
        let arrays = motet::load(sample)?;
        let inputs = (0..).map_while(|i| arrays.get(&format!("in.{i}")).cloned());
        Ok(Subject {
            function: import_function(path)?.compile(),
            inputs: inputs.collect(),
        })
    }

    fn call(&self, function: &Function) -> Result<()> {
        eval(&function.call(&self.inputs)?)
    }
}

/// What was measured in one situation.
#[derive(Clone, Default)]
struct Measured {
    latencies: Vec<Duration>,
    /// What the neighbours did, and in which time.
    beside: usize,
    time: Duration,
}

impl Measured {
    fn window(
        &mut self,
        small: &Subject,
        priority: Priority,
        beside: Beside,
        large: &Path,
        neighbours: usize,
        window: Duration,
    ) -> Result<()> {
        let function = small.function.priority(priority);
        let count = match beside {
            Beside::Nothing => 0,
            _ => neighbours,
        };
        let (start, over) = (Barrier::new(count + 1), AtomicBool::new(false));
        let calls = AtomicUsize::new(0);
        thread::scope(|scope| {
            let neighbour = || -> Result<()> {
                let loaded = Subject::load(large);
                start.wait();
                let loaded = loaded?;
                while !over.load(Ordering::Relaxed) {
                    match beside {
                        Beside::Calls(priority) => loaded.call(&loaded.function.priority(priority)),
                        // The first call makes the plan.
                        _ => import_function(large).and_then(|fresh| {
                            loaded.call(&fresh.compile().priority(Priority::Background))
                        }),
                    }?;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            let running: Vec<_> = (0..count).map(|_| scope.spawn(neighbour)).collect();
            start.wait();
            let begin = Instant::now();
            let mut result = Ok(());
            while begin.elapsed() < window && result.is_ok() {
                thread::sleep(PAUSE);
                let before = Instant::now();
                result = small.call(&function);
                self.latencies.push(before.elapsed());
            }
            over.store(true, Ordering::Relaxed);
            self.time += begin.elapsed();
            for neighbour in running {
                result = result.and(neighbour.join().expect("neighbours do not panic"));
            }
            result
        })?;
        self.beside += calls.into_inner();
        Ok(())
    }

    /// In microseconds.
    fn percentile(&mut self, share: f64) -> f64 {
        self.latencies.sort_unstable();
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        let latency = self.latencies.get(rank.saturating_sub(1));
        latency.map_or(0.0, |latency| latency.as_nanos() as f64 / 1e3)
    }
}
