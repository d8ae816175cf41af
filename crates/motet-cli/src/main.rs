//! The command `motet`: inspect, run, check, measure, trace and rewrite `.mlxfn` models.
//!
//! A file per subcommand; what they share is in `sample` (calls stored in files), `compare`
//! (results against expectations), `subject` (models that are measured), `timeline` (pictures of what
//! was recorded), `manifest` and `output`.

mod bench;
mod check;
mod compare;
mod completions;
mod export;
mod failure;
mod inspect;
mod manifest;
mod output;
mod run;
mod sample;
mod subject;
mod timeline;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Runs .mlxfn models, several at a time, each from its own thread.
#[derive(Parser)]
#[command(version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 a check or a computation failed, 2 usage \
(also: an input missing or unknown by name), 3 bad input file (also: a wrong shape or dtype in \
it), 4 unsupported operation.";

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Run(run::Args),
    Check(check::Args),
    Bench(bench::Args),
    Trace(trace::Args),
    Export(export::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    // clap prints usage errors and exits with code 2 by itself.
    let result = match Cli::parse().command {
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Trace(args) => trace::trace(&args),
        Command::Export(args) => export::export(&args),
        Command::Completions(args) => completions::completions(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::from(code)
        }
    }
}
