//! `motet completions`: completion scripts for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Outcome;
use crate::output::say;

/// Print a completion script for a shell
#[derive(clap::Args)]
pub struct Args {
    shell: Shell,
}

/// Prints the script.
pub fn completions(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "motet", &mut script);
    say(String::from_utf8_lossy(&script));
    Ok(())
}
