//! Files that are written whole or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use motet_core::error::Result;

use crate::file_error;

/// Makes the file at `path` of what `write` writes. It is written beside it and then takes its place:
/// a file there stays as it was until then, also for arrays that are mapped from it.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let written = || {
        // A plain `File`, so that others may read it as any file that the process makes.
        let file = tempfile::Builder::new().make_in(folder, |path| File::create_new(path))?;
        write(file.as_file())?;
        file.persist(path).map_err(|error| error.error)
    };
    let written = written();
    written.map_err(|error| file_error(path, format!("cannot write the file: {error}")))?;
    Ok(())
}
