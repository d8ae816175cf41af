//! What the tests of the command share: running it, and what they expect of its end.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const CHECK_FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const BAD_FILE: i32 = 3;

/// The folder of the bundled models.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// Runs the command.
pub fn motet<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_motet"));
    command.args(arguments).output().expect("the binary runs")
}

/// Asserts the exit code, and that stderr is one message that contains `part`.
#[track_caller]
pub fn fails(arguments: &[&str], code: i32, part: &str) {
    let output = motet(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    let messages = stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(messages.count(), 1, "{arguments:?}: {stderr}");
}

/// Asserts success; what is on stdout.
#[track_caller]
pub fn succeeds(arguments: &[&str]) -> String {
    let output = motet(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
