//! Arrays in files, under MLX's names: `.npy` and `.npz` as numpy has them, and safetensors.
//!
//! bfloat16, which numpy has not, is written there as two bytes without a meaning (`V2`), and read so.
//! A file that is written over is replaced in one step: arrays that are mapped from it stay valid.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use motet_core::array::Array;
use motet_core::error::{Error, Result};
use motet_core::eval::eval;
use motet_io::{Compression, Tensors};

/// Arrays by name.
pub type Arrays = BTreeMap<String, Array>;

pub use motet_io::Metadata;

/// The arrays in a file: `.npy` (its array is called `arr_0`), `.npz` or `.safetensors`.
///
/// Safetensors files are mapped: what is aligned in them is read when it is used, and the file must
/// not be changed in place while its arrays live.
///
/// # Errors
/// Where the file cannot be read, is damaged, has a name of another kind, or holds numbers of a type
/// that motet has not.
///
/// ```
/// # use motet::Array;
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// motet::save("x", &Array::from([1, 2, 3]))?;
/// assert_eq!(motet::load("x.npy")?["arr_0"].to_vec::<i32>()?, [1, 2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<Arrays> {
    motet_io::read(path.as_ref()).map(arrays)
}

/// Writes an array to a `.npy` file; adds the extension where the name has it not.
///
/// # Errors
/// Where the array's computation failed, or the file cannot be written.
///
/// ```
/// # use motet::Array;
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// motet::save("x", &Array::from([[1.5f32, 2.5]]))?;
/// assert_eq!(*motet::load("x.npy")?["arr_0"].shape(), [1, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn save(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    motet_io::write_npy(&with_extension(path, ".npy"), &array.tensor()?)
}

/// Writes arrays to a `.npz` file, uncompressed; adds the extension where the name has it not. Those
/// without a name are called `arr_0`, `arr_1` and so on.
///
/// # Errors
/// Where a name is taken by an array without one, a computation failed, or the file cannot be written.
///
/// ```
/// # use motet::{Array, Arrays};
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// let named = Arrays::from([("bias".to_owned(), Array::from([0.5f32]))]);
/// motet::savez("layer", &[Array::from([1, 2])], &named)?;
/// let loaded = motet::load("layer.npz")?;
/// assert_eq!(loaded["arr_0"].to_vec::<i32>()?, [1, 2]);
/// assert_eq!(loaded["bias"].item::<f32>()?, 0.5);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn savez(path: impl AsRef<Path>, unnamed: &[Array], named: &Arrays) -> Result<()> {
    write_npz("savez", path, unnamed, named, Compression::Stored)
}

/// As [`savez`], compressed.
///
/// # Errors
/// As [`savez`].
///
/// ```
/// # use motet::{Array, Arrays};
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// let zeros = Array::from([[0.0f32; 1000]; 10]);
/// motet::savez_compressed("zeros", &[zeros], &Arrays::new())?;
/// assert_eq!(motet::load("zeros.npz")?["arr_0"].nbytes(), 40_000);
/// assert!(std::fs::metadata("zeros.npz").unwrap().len() < 1000);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn savez_compressed(path: impl AsRef<Path>, unnamed: &[Array], named: &Arrays) -> Result<()> {
    write_npz(
        "savez_compressed",
        path,
        unnamed,
        named,
        Compression::Deflated,
    )
}

/// The arrays and the metadata in a safetensors file, whatever its name. As [`load`] otherwise.
///
/// # Errors
/// As [`load`].
///
/// ```
/// # use motet::{Array, Arrays, Metadata};
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// let arrays = Arrays::from([("w".to_owned(), Array::from([1.0f32, 2.0]))]);
/// let metadata = Metadata::from([("format".to_owned(), "motet".to_owned())]);
/// motet::save_safetensors("weights", &arrays, &metadata)?;
/// let (loaded, told) = motet::load_safetensors("weights.safetensors")?;
/// assert_eq!(loaded["w"].to_vec::<f32>()?, [1.0, 2.0]);
/// assert_eq!(told, metadata);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn load_safetensors(path: impl AsRef<Path>) -> Result<(Arrays, Metadata)> {
    let (tensors, metadata) = motet_io::read_safetensors(path.as_ref())?;
    Ok((arrays(tensors), metadata))
}

/// Writes arrays and metadata to a safetensors file; adds the extension where the name has it not.
///
/// # Errors
/// Where a computation failed, or the file cannot be written.
///
/// See [`load_safetensors`] for an example.
pub fn save_safetensors(
    path: impl AsRef<Path>,
    arrays: &Arrays,
    metadata: &Metadata,
) -> Result<()> {
    let tensors = tensors(arrays)?;
    motet_io::write_safetensors(&with_extension(path, ".safetensors"), &tensors, metadata)
}

fn write_npz(
    name: &str,
    path: impl AsRef<Path>,
    unnamed: &[Array],
    named: &Arrays,
    compression: Compression,
) -> Result<()> {
    let mut all = named.clone();
    for (i, array) in unnamed.iter().enumerate() {
        let key = format!("arr_{i}");
        if all.insert(key.clone(), array.clone()).is_some() {
            let message = format!(
                "got an array named '{key}' beside {} unnamed",
                unnamed.len()
            );
            return Err(Error::invalid(name, message + "; name it otherwise"));
        }
    }
    motet_io::write_npz(&with_extension(path, ".npz"), &tensors(&all)?, compression)
}

/// The values of arrays, which are computed together.
fn tensors(arrays: &Arrays) -> Result<Tensors> {
    eval(&arrays.values().cloned().collect::<Vec<_>>())?;
    let tensor = |(name, array): (&String, &Array)| Ok((name.clone(), array.tensor()?));
    arrays.iter().map(tensor).collect()
}

fn arrays(tensors: Tensors) -> Arrays {
    let array = |(name, tensor)| (name, Array::from_tensor(tensor));
    tensors.into_iter().map(array).collect()
}

fn with_extension(path: impl AsRef<Path>, extension: &str) -> PathBuf {
    let mut name = path.as_ref().as_os_str().to_owned();
    if !name.as_encoded_bytes().ends_with(extension.as_bytes()) {
        name.push(extension);
    }
    name.into()
}
