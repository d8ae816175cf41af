//! The safetensors format, through the crate of that name.

use std::borrow::Cow;
use std::path::Path;

use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;
use safetensors::tensor::{Dtype as Tag, SafeTensors, View};

use crate::bytes::MappedFile;
use crate::{Metadata, Tensors, file_error, row_major};

/// Reads a safetensors file, whatever its name. As [`read`](crate::read), with the file's metadata.
///
/// # Errors
/// As [`read`](crate::read).
pub fn read_safetensors(path: &Path) -> Result<(Tensors, Metadata)> {
    let file = MappedFile::open(path)?;
    let broken = |error| file_error(path, format!("not a whole safetensors file: {error}"));
    let (_, header) = SafeTensors::read_metadata(file.bytes()).map_err(broken)?;
    let metadata = header.metadata().iter().flatten();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
    let views = SafeTensors::deserialize(file.bytes()).map_err(broken)?;
    let start = file.bytes().as_ptr().addr();
    let mut tensors = Tensors::new();
    for (name, view) in views.tensors() {
        let bytes = view.data();
        let tensor = || {
            let dtype = DTYPES.iter().find(|(_, tag)| *tag == view.dtype());
            let Some(&(dtype, _)) = dtype else {
                let message = format!("motet has no dtype like {:?}", view.dtype());
                return Err(Error::unsupported("dtype", message));
            };
            let spec = Spec::new(view.shape(), dtype);
            spec.shape.check(dtype)?;
            file.tensor(&spec, bytes.as_ptr().addr() - start, bytes.len())
        };
        let in_file =
            |error: Error| error.in_file(path.display().to_string(), format!("tensor '{name}'"));
        let tensor = tensor().map_err(in_file)?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata.collect()))
}

/// Writes a safetensors file, whatever its name.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_safetensors(path: &Path, tensors: &Tensors, metadata: &Metadata) -> Result<()> {
    let contiguous = |(name, tensor): (_, &Tensor)| Ok((name, Outgoing(tensor.contiguous()?)));
    let views = tensors.iter().map(contiguous).collect::<Result<Vec<_>>>()?;
    let copies = metadata
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    let metadata = (!metadata.is_empty()).then(|| copies.collect());
    safetensors::serialize_to_file(views, metadata, path)
        .map_err(|error| file_error(path, format!("cannot write the file: {error}")))
}

/// A tensor as the crate wants to see it.
struct Outgoing(Tensor);

impl View for Outgoing {
    fn dtype(&self) -> Tag {
        let dtype = self.0.layout.dtype;
        let entry = DTYPES.iter().find(|(known, _)| *known == dtype);
        entry.expect("the table has all dtypes").1
    }

    fn shape(&self) -> &[usize] {
        &self.0.layout.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        row_major(&self.0)
    }

    fn data_len(&self) -> usize {
        self.0.spec().bytes()
    }
}

const DTYPES: [(Dtype, Tag); 14] = [
    (Dtype::Bool, Tag::BOOL),
    (Dtype::Uint8, Tag::U8),
    (Dtype::Uint16, Tag::U16),
    (Dtype::Uint32, Tag::U32),
    (Dtype::Uint64, Tag::U64),
    (Dtype::Int8, Tag::I8),
    (Dtype::Int16, Tag::I16),
    (Dtype::Int32, Tag::I32),
    (Dtype::Int64, Tag::I64),
    (Dtype::Float16, Tag::F16),
    (Dtype::Float32, Tag::F32),
    (Dtype::Float64, Tag::F64),
    (Dtype::Bfloat16, Tag::BF16),
    (Dtype::Complex64, Tag::C64),
];
