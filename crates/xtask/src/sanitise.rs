//! The stress test under a sanitiser, with everything built for it.
//!
//! With a standard library that is not instrumented, ThreadSanitizer does not see the synchronisation
//! inside it and reports races that are none: it is built, too. AddressSanitizer does without: what is
//! generic is compiled with the code that uses it, and allocations are seen in any case.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

use super::{cargo, run};

/// What looks for mistakes while the program runs.
#[derive(Clone, Copy, ValueEnum)]
pub enum Sanitiser {
    /// Data races, and locks that are taken in circles.
    Thread,
    /// Memory that is used after it was freed, or beyond its end, or never freed.
    Address,
}

/// Builds the stress test with the sanitiser, and runs it with these arguments.
///
/// # Errors
/// What is missing, or what was found.
pub fn sanitise(root: &Path, sanitiser: Sanitiser, arguments: &[String]) -> Result<(), String> {
    let host = rustc(&["--version", "--verbose"])?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc does not say what it compiles for")?;
    let folder = root.join("target/sanitise");
    // Sanitisers are options of rustc that a stable one has, and takes where this is said. Little is
    // optimised, and nothing in other crates: the build would take half an hour.
    let mut build = cargo(root);
    build
        .args(["build", "--release", "--package", "xtask"])
        .args(["--target", host, "--target-dir"])
        .arg(&folder)
        .args(["--config", "profile.release.package.'*'.opt-level=0"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    let (name, options, value) = match sanitiser {
        Sanitiser::Thread => {
            let library = Path::new(&rustc(&["--print", "sysroot"])?).join(LIBRARY);
            if !library.exists() {
                return Err(MISSING.to_owned());
            }
            build.arg("-Zbuild-std");
            // The first report ends the run, as does what the test itself finds.
            ("thread", "TSAN_OPTIONS", "halt_on_error=1")
        }
        Sanitiser::Address => ("address", "ASAN_OPTIONS", "detect_leaks=1"),
    };
    run(build.env("RUSTFLAGS", format!("-Zsanitizer={name}")))?;
    let stress = folder.join(host).join("release/xtask");
    run(Command::new(stress)
        .arg("stress")
        .args(arguments)
        .env(options, value))
}

const LIBRARY: &str = "lib/rustlib/src/rust/library";
const MISSING: &str =
    "the sources of the standard library are not there: rustup component add rust-src";

fn rustc(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("rustc").args(arguments).output();
    let output = output.map_err(|e| format!("rustc does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().to_owned())
}
