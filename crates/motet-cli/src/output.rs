//! Writing to stdout and to `--json` files.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use motet_core::error::Error;

use crate::failure::{CHECK_FAILED, Failure, Outcome};

/// Prints a line. A reader that went away (`motet ... | head`) ends the command quietly.
pub fn say(line: impl Display) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {error}");
            std::process::exit(i32::from(CHECK_FAILED));
        }
        std::process::exit(0);
    }
}

/// Writes a JSON document to a file.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Outcome {
    write_file(path, |file| writeln!(file, "{value:#}"))
}

/// Writes a file.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Outcome {
    let written = || {
        let mut file = BufWriter::new(File::create(path)?);
        write(&mut file)?;
        file.flush()
    };
    written().map_err(|error: std::io::Error| {
        let message = format!("cannot write the file: {error}");
        Failure::from(Error::file(path.display().to_string(), message))
    })
}

/// A number of bytes for people.
pub fn bytes(count: usize) -> String {
    let count = count as f64;
    match count {
        0.0..1024.0 => format!("{count} B"),
        1024.0..1_048_576.0 => format!("{:.1} KiB", count / 1024.0),
        1_048_576.0..1_073_741_824.0 => format!("{:.1} MiB", count / 1_048_576.0),
        _ => format!("{:.2} GiB", count / 1_073_741_824.0),
    }
}

/// What the arrays of this process take.
pub fn memory() -> serde_json::Value {
    let heap = motet_core::memory::heap();
    serde_json::json!({
        "active_bytes": heap.active(),
        "peak_bytes": heap.peak(),
        "cached_bytes": heap.cached(),
    })
}
