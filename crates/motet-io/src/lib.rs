//! Tensors in files: safetensors, npy and npz.
//!
//! [`read`] and [`write()`] choose the format by the file's extension. What lies aligned in a
//! safetensors file is used where it is mapped; everything else is copied. Every error names the
//! file that it is about.

mod bytes;
mod npy;
mod replace;
mod safetensors;

use std::collections::BTreeMap;
use std::path::Path;

use motet_core::error::{Error, Result};
use motet_core::tensor::Tensor;

pub use bytes::{from_row_major, row_major};
pub use npy::{Compression, write_npy, write_npz};
pub use safetensors::{read_safetensors, write_safetensors};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Texts by name, which a safetensors file has beside its tensors.
pub type Metadata = BTreeMap<String, String>;

/// The name of the tensor in a `.npy` file, which has none there.
pub const NPY_NAME: &str = "arr_0";

/// Reads all tensors of a `.safetensors`, `.npz` or `.npy` file.
///
/// The file must not be changed in place while tensors of it are alive; replacing it by renaming
/// another over it is fine.
///
/// # Errors
/// [`ErrorKind::File`](motet_core::error::ErrorKind::File) where the file cannot be read or is
/// damaged, [`Unsupported`](motet_core::error::ErrorKind::Unsupported) where it holds a type that
/// motet has not.
pub fn read(path: &Path) -> Result<Tensors> {
    match Format::of(path)? {
        Format::Safetensors => Ok(read_safetensors(path)?.0),
        Format::Npz => npy::read_npz(path),
        Format::Npy => Ok(Tensors::from([(NPY_NAME.to_owned(), npy::read_npy(path)?)])),
    }
}

/// Writes tensors to a `.safetensors`, `.npz` or (a single one) `.npy` file.
///
/// # Errors
/// Where the file cannot be written, or a `.npy` file is to hold other than one tensor.
pub fn write(path: &Path, tensors: &Tensors) -> Result<()> {
    match Format::of(path)? {
        Format::Safetensors => write_safetensors(path, tensors, &Metadata::new()),
        Format::Npz => write_npz(path, tensors, Compression::Stored),
        Format::Npy => match tensors.values().next() {
            Some(tensor) if tensors.len() == 1 => write_npy(path, tensor),
            _ => Err(file_error(
                path,
                format!(
                    "got {} tensors, a .npy file holds one; use .npz",
                    tensors.len()
                ),
            )),
        },
    }
}

enum Format {
    Safetensors,
    Npz,
    Npy,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("npz") => Ok(Format::Npz),
            Some("npy") => Ok(Format::Npy),
            _ => Err(file_error(
                path,
                "the name does not tell the format; expected .safetensors, .npz or .npy",
            )),
        }
    }
}

fn file_error(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::file(path.display().to_string(), message.to_string())
}
