//! The stress test: random programs, run by many threads at once, against a naive interpreter.
//!
//! A [program] is data: a graph, and what each thread does with it. It is a function of its
//! seed. [`execute`](mod@execute) runs one on the real runtime; whatever the threads see has to be
//! the value that the [interpreter](interpret) gives, or an error that the program explains.
//! Operations are wrapped, so that they [fail](injected) where the program says, with no hook in the
//! runtime. What fails is [shrunk](mod@shrink) and printed.

pub mod execute;
pub mod functions;
pub mod generate;
pub mod injected;
pub mod interpret;
pub mod program;
mod scopes;
pub mod shrink;
mod tasks;
mod watchdog;

use std::fmt;
use std::time::{Duration, Instant};

use execute::{Stats, execute};
use generate::generate;
use program::Program;
use shrink::shrink;

/// How often a program that has failed is run again to see whether it does so once more.
const TRIES: usize = 10;

/// Runs the programs of `seed`, `seed + 1` and so on, each with up to so many threads, until `time`
/// is up or there were `programs`. Says on stdout what it does.
///
/// # Errors
/// The smallest program that was found to fail, and how.
pub fn run(seed: u64, threads: usize, time: Duration, programs: u64) -> Result<(), String> {
    println!(
        "stress: programs from seed {seed} on, of up to {threads} threads; again with: cargo xtask \
         stress --seed {seed} --threads {threads}"
    );
    let start = Instant::now();
    // A sanitiser has a thread of its own, which starts with the first.
    let _joined = std::thread::spawn(|| {}).join();
    let before = Belongings::now();
    let mut stats = Stats::default();
    let mut done = 0;
    while done < programs && start.elapsed() < time {
        let program = generate(seed + done, threads);
        match execute(&program) {
            Ok(more) => stats.add(&more),
            Err(error) => return Err(report(&program, threads, &error)),
        }
        done += 1;
    }
    println!("{done} programs in {:.0?}: {stats}", start.elapsed());
    // Threads that have returned need a moment to end.
    let end = Instant::now();
    let mut after = Belongings::now();
    while after.threads > before.threads && end.elapsed() < execute::SETTLE {
        std::thread::yield_now();
        after = Belongings::now();
    }
    println!("at the start the process had {before}, at the end {after}");
    match after.threads > before.threads || after.files > before.files {
        true => Err("threads or files were left behind".to_owned()),
        false => Ok(()),
    }
}

/// What the process has of the system, workers aside. Nothing where the system does not tell.
struct Belongings {
    threads: usize,
    files: usize,
    resident_kib: usize,
}

impl Belongings {
    fn now() -> Belongings {
        let entries = |folder: &str| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let is_worker = |task: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm"));
            name.is_ok_and(|name| name.trim() == "motet-worker")
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Belongings {
            threads: entries("/proc/self/task")
                .filter(|task| !is_worker(task))
                .count(),
            files: entries("/proc/self/fd").count(),
            resident_kib: resident.unwrap_or(0),
        }
    }
}

impl fmt::Display for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} threads beside the workers, {} files and {} KiB of memory",
            self.threads, self.files, self.resident_kib
        )
    }
}

/// Finds out how small a program can be and still fail.
fn report(program: &Program, threads: usize, error: &str) -> String {
    let seed = program.seed;
    println!("the program of seed {seed} fails: {error}\nlooking for a smaller one ...");
    let smallest = shrink(program, |candidate| {
        (0..TRIES).find_map(|_| execute(candidate).err())
    });
    let (smallest, error) = smallest.unwrap_or_else(|| {
        println!("it did not fail again in {TRIES} tries");
        (program.clone(), error.to_owned())
    });
    format!(
        "{error}\nin the program\n{smallest}\nagain with: cargo xtask stress --seed {seed} \
         --threads {threads} --programs 1"
    )
}
