//! `motet bench`: how fast models run, alone and at the same time.
//!
//! Each round measures every mode for a short window, one after the other, so that a machine that
//! is slower for a while is slower for all modes; figures are medians over the rounds. Every
//! thread's last result of every window must be identical to the first result, to the bit, which
//! itself is compared with the sample call beside the model.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output::{bytes, memory, say, write_json};
use crate::subject::{Calls, Subject, Which, call_from_threads, parse_seconds};
use crate::trace;

/// Measure models called from several threads at once
///
/// Thread t calls model t modulo the number of models. Modes: `concurrent`, all threads at once;
/// `mutex`, the same behind one global mutex; `single`, each model alone, called from one thread.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Measure this mode only (and `single`, to compare with); by default all
    #[arg(long)]
    mode: Option<Mode>,
    /// Seconds of measuring in all
    #[arg(long, default_value_t = 6.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Afterwards, record a few calls of all threads at once: an SVG where the name ends in .svg,
    /// else Chrome trace JSON
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Concurrent,
    Mutex,
    Single,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Concurrent => "concurrent",
            Mode::Mutex => "mutex",
            Mode::Single => "single",
        }
    }
}

const ROUNDS: u32 = 7;

/// Measures and prints.
pub fn bench(args: &Args) -> Outcome {
    let (subjects, threads) = args.which.load()?;
    let loaded = Loaded::now();
    let headline = args.mode.unwrap_or(Mode::Concurrent);
    let mut modes = vec![Mode::Single, Mode::Concurrent, Mode::Mutex];
    if args.mode.is_some() {
        modes.retain(|&mode| mode == headline || mode == Mode::Single);
    }
    let window = Duration::from_secs_f64(args.seconds / f64::from(ROUNDS) / modes.len() as f64);
    let mut measured: Vec<Measured> = modes
        .iter()
        .map(|&mode| Measured::new(mode, subjects.len()))
        .collect();
    let progress = ProgressBar::new(u64::from(ROUNDS) * modes.len() as u64);
    for _ in 0..ROUNDS {
        for measured in &mut measured {
            measured.measure(&subjects, threads, window)?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();

    let alone = measured[0].rates();
    for measured in &measured {
        measured.print(&subjects, threads, &alone);
    }
    let ratio_of = |mode| {
        measured
            .iter()
            .find(|m| m.mode == mode)
            .map(|m| m.ratio(&alone))
    };
    if let (Some(concurrent), Some(mutex)) = (ratio_of(Mode::Concurrent), ratio_of(Mode::Mutex)) {
        let speed_up = concurrent / mutex;
        say(format_args!(
            "concurrent does {speed_up:.2} times the work of mutex"
        ));
    }
    let checked = subjects.iter().filter(|subject| subject.has_sample).count();
    say(format_args!(
        "results: identical to the bit in every window; {checked} of {} models agree with the \
         sample beside them",
        subjects.len()
    ));
    let memory = loaded.memory();
    if let Some(path) = &args.json {
        let chosen = measured.iter().find(|measured| measured.mode == headline);
        let chosen = chosen.expect("the headline mode is measured");
        write_json(path, &chosen.json(&subjects, threads, &alone, &memory))?;
    }
    if let Some(path) = &args.trace {
        let timeline = trace::record(&subjects, threads, |calls, _| calls >= trace::CALLS)?;
        trace::write(path, &timeline, &trace::title("bench", &subjects, threads))?;
    }
    Ok(())
}

/// The memory before anything is measured.
struct Loaded {
    /// What models and samples take when no call is in flight.
    held: usize,
    /// The most that was in use while they were loaded.
    peak: usize,
}

impl Loaded {
    fn now() -> Loaded {
        let heap = motet_core::memory::heap();
        let loaded = Loaded {
            held: heap.active(),
            peak: heap.peak(),
        };
        heap.reset_peak();
        loaded
    }

    /// Says what memory was in use, for `--json` too.
    fn memory(&self) -> Value {
        let mut memory = memory();
        let calls = motet_core::memory::heap().peak();
        memory["peak_bytes"] = calls.max(self.peak).into();
        memory["loaded_bytes"] = self.held.into();
        memory["peak_beyond_loaded_bytes"] = calls.saturating_sub(self.held).into();
        say(format_args!(
            "memory: {} in weights and samples, at most {} more during calls; {} at most while \
             loading",
            bytes(self.held),
            bytes(calls.saturating_sub(self.held)),
            bytes(self.peak)
        ));
        memory
    }
}

/// What was measured in one mode, per model.
struct Measured {
    mode: Mode,
    /// Calls per second in each window.
    rates: Vec<Vec<f64>>,
    latencies: Vec<Vec<Duration>>,
    /// Calls of each thread; its model is its number modulo the number of models.
    calls_of_threads: Vec<usize>,
}

impl Measured {
    fn new(mode: Mode, models: usize) -> Measured {
        Measured {
            mode,
            rates: vec![Vec::new(); models],
            latencies: vec![Vec::new(); models],
            calls_of_threads: Vec::new(),
        }
    }

    fn measure(&mut self, subjects: &[Subject], threads: usize, window: Duration) -> Outcome {
        let calls = if self.mode == Mode::Single {
            let share = window / subjects.len() as u32;
            let over = |_, elapsed| elapsed >= share;
            let alone = subjects
                .iter()
                .map(|subject| subject.call_until(over, None));
            alone.collect::<Outcome<Vec<Calls>>>()?
        } else {
            let gate = Mutex::new(());
            let gate = (self.mode == Mode::Mutex).then_some(&gate);
            call_from_threads(subjects, threads, |_, elapsed| elapsed >= window, gate)?
        };
        let mut rates = vec![0.0; subjects.len()];
        self.calls_of_threads.resize(calls.len(), 0);
        for (thread, calls) in calls.into_iter().enumerate() {
            let model = thread % subjects.len();
            rates[model] += calls.latencies.len() as f64 / calls.elapsed.as_secs_f64();
            self.calls_of_threads[thread] += calls.latencies.len();
            self.latencies[model].extend(calls.latencies);
        }
        for (all, rate) in self.rates.iter_mut().zip(rates) {
            all.push(rate);
        }
        Ok(())
    }

    /// Calls per second of each model: the median window's.
    fn rates(&self) -> Vec<f64> {
        self.rates.iter().map(|windows| median(windows)).collect()
    }

    /// How much work is done per second, in units of what a model does when it runs alone; 1 for
    /// models that run alone, one after the other.
    fn ratio(&self, alone: &[f64]) -> f64 {
        if self.mode == Mode::Single {
            return 1.0;
        }
        self.rates()
            .iter()
            .zip(alone)
            .map(|(rate, alone)| rate / alone)
            .sum()
    }

    fn print(&self, subjects: &[Subject], threads: usize, alone: &[f64]) {
        match self.mode {
            Mode::Single => say("single: each model alone, called from one thread"),
            Mode::Concurrent => say(format_args!("concurrent: {threads} threads at once")),
            Mode::Mutex => say(format_args!(
                "mutex: {threads} threads behind one global mutex"
            )),
        }
        for ((subject, rate), latencies) in subjects.iter().zip(self.rates()).zip(&self.latencies) {
            let [p50, p99, p999] = percentiles(latencies);
            say(format_args!(
                "  {:<16} {rate:>10.1} calls/s   p50 {p50:>9.1} us   p99 {p99:>9.1} us   \
                 p99.9 {p999:>9.1} us",
                subject.name
            ));
        }
        if self.mode != Mode::Single {
            say(format_args!(
                "  calls per thread: {}",
                self.calls_of_threads
                    .iter()
                    .map(usize::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
            say(format_args!(
                "  speed-up over the models run alone from one thread: {:.2}",
                self.ratio(alone)
            ));
        }
    }

    fn json(&self, subjects: &[Subject], threads: usize, alone: &[f64], memory: &Value) -> Value {
        let rates = self.rates();
        let models: Vec<Value> = subjects
            .iter()
            .zip(&rates)
            .zip(&self.latencies)
            .map(|((subject, rate), latencies)| {
                let [p50, p99, p999] = percentiles(latencies);
                json!({
                    "name": subject.name, "calls_per_s": rate,
                    "p50_us": p50, "p99_us": p99, "p999_us": p999,
                })
            })
            .collect();
        json!({
            "mode": self.mode.name(),
            "threads": if self.mode == Mode::Single { 1 } else { threads },
            "calls_per_s": rates.iter().sum::<f64>(),
            "ratio_to_alone": self.ratio(alone),
            "calls_of_threads": self.calls_of_threads,
            "models": models,
            "memory": memory,
        })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The 50th, 99th and 99.9th percentile in microseconds: the smallest value that so many are not
/// above.
fn percentiles(latencies: &[Duration]) -> [f64; 3] {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    [0.5, 0.99, 0.999].map(|share| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted[rank.saturating_sub(1)].as_nanos() as f64 / 1e3
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_that_were_measured() {
        let latencies: Vec<Duration> = (1..=1000).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(&latencies), [500.0, 990.0, 999.0]);
        assert_eq!(percentiles(&latencies[..1]), [1000.0; 3]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn the_ratio_weighs_models_by_what_they_do_alone() {
        let mut measured = Measured::new(Mode::Concurrent, 2);
        measured.rates = vec![vec![100.0], vec![10.0]];
        assert_eq!(measured.ratio(&[100.0, 10.0]), 2.0);
        assert_eq!(measured.ratio(&[200.0, 20.0]), 1.0);
    }
}
