//! numpy's formats: `.npy` (one array) and `.npz` (a zip of them), as MLX reads and writes them:
//! bfloat16, which numpy has not, is `V2`.
//!
//! Headers are read here and not by `npyz`, which multiplies the dimensions of a hostile file
//! without a check.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::{Spec, Strides};
use motet_core::tensor::Tensor;
use npyz::npz::{NpzArchive, NpzWriter};
use npyz::{DType, WriteOptions, WriterBuilder};
use zip::CompressionMethod;
use zip::write::FileOptions;

use crate::bytes::from_reader;
use crate::replace::replace;
use crate::{Tensors, file_error, row_major};

pub(crate) fn read_npy(path: &Path) -> Result<Tensor> {
    let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
    read_array(BufReader::new(file))
        .map_err(|error| error.in_file(path.display().to_string(), "not a readable npy file"))
}

pub(crate) fn read_npz(path: &Path) -> Result<Tensors> {
    let mut archive = NpzArchive::open(path).map_err(|error| cannot("read", path, &error))?;
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut tensors = Tensors::new();
    for name in names {
        let entry = archive.zip_archive().by_name(&format!("{name}.npy"));
        let entry = entry.map_err(|error| cannot("read", path, &error))?;
        let tensor = read_array(entry).map_err(|error| {
            error.in_file(path.display().to_string(), format!("array '{name}'"))
        })?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Writes a `.npy` file, whatever its name.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let tensor = tensor.contiguous()?;
    replace(path, |file| {
        let mut file = BufWriter::new(file);
        write_array(WriteOptions::new_header_only().writer(&mut file), &tensor)?;
        file.flush()
    })
}

/// Writes a `.npz` file, whatever its name.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_npz(path: &Path, tensors: &Tensors, compression: Compression) -> Result<()> {
    let method = match compression {
        Compression::Stored => CompressionMethod::Stored,
        Compression::Deflated => CompressionMethod::Deflated,
    };
    let contiguous = |(name, tensor): (_, &Tensor)| Ok((name, tensor.contiguous()?));
    let tensors = tensors.iter().map(contiguous).collect::<Result<Vec<_>>>()?;
    replace(path, |file| {
        let mut archive = NpzWriter::new(BufWriter::new(file));
        for (name, tensor) in tensors {
            // Entries of 4 GiB and more have to be announced.
            let options = FileOptions::default()
                .compression_method(method)
                .large_file(tensor.spec().bytes() >= u32::MAX as usize / 2);
            write_array(archive.array::<u8>(name, options)?, &tensor)?;
        }
        archive.zip_writer().finish()?.flush()
    })
}

/// How arrays lie in a `.npz` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    Stored,
    /// Compressed.
    Deflated,
}

fn cannot(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    file_error(path, format!("cannot {what} the file: {error}"))
}

/// Writes header and elements through a builder of `npyz`.
fn write_array<T, B>(builder: B, tensor: &Tensor) -> std::io::Result<()>
where
    T: ?Sized,
    B: WriterBuilder<T> + npyz::write_options::HasWriter,
    B::Writer: Write,
{
    let code = CODES
        .iter()
        .find(|(_, dtype)| *dtype == tensor.layout.dtype);
    let (code, dtype) = code.expect("the table has all dtypes");
    let order = if dtype.size() == 1 { '|' } else { '<' };
    let text = format!("{order}{code}")
        .parse()
        .expect("the table has numpy's codes");
    let shape: Vec<u64> = tensor.layout.shape.iter().map(|&dim| dim as u64).collect();
    let builder = builder.dtype(DType::new_scalar(text)).shape(&shape);
    builder.write_header_only()?.write_all(&row_major(tensor))
}

fn read_array(mut source: impl Read) -> Result<Tensor> {
    let broken =
        |error: std::io::Error| Error::file("npy", format!("the file ends early: {error}"));
    let mut start = [0; 8];
    source.read_exact(&mut start).map_err(broken)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(Error::file("npy", "it does not begin as npy files do"));
    }
    let mut len = [0; 4];
    let digits = if start[6] == 1 { 2 } else { 4 };
    source.read_exact(&mut len[..digits]).map_err(broken)?;
    let len = u32::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(Error::file(
            "npy",
            format!("got a header of {len} bytes, expected few"),
        ));
    }
    let mut header = vec![0; len as usize];
    source.read_exact(&mut header).map_err(broken)?;
    let header = Header::parse(&String::from_utf8_lossy(&header))?;

    let spec = &header.spec;
    let part = match spec.dtype {
        _ if header.big_endian == cfg!(target_endian = "big") => 1,
        Dtype::Complex64 => size_of::<f32>(),
        dtype => dtype.size(),
    };
    let mut tensor = from_reader(spec, source, part)?;
    if header.column_major {
        tensor.layout.strides = column_major_strides(&header.spec.shape);
    }
    Ok(tensor)
}

/// numpy itself refuses headers longer than 10 000 bytes unless told otherwise.
const MAX_HEADER: u32 = 1 << 16;

struct Header {
    spec: Spec,
    big_endian: bool,
    column_major: bool,
}

impl Header {
    /// Parses a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Result<Header> {
        let after = |key: &str| {
            let (_, value) = text.split_once(&format!("'{key}':"))?;
            Some(value.trim_start())
        };
        let missing = |key: &str| Error::file("npy", format!("the header has no legible '{key}'"));

        let descr = after("descr").ok_or_else(|| missing("descr"))?;
        let code = descr
            .strip_prefix('\'')
            .and_then(|rest| rest.split_once('\''));
        // Structured types are lists, not strings.
        let (code, _) = code.ok_or_else(|| unsupported("a structured type"))?;
        let plain = code.trim_start_matches(['<', '>', '|', '=']);
        let entry = CODES.iter().find(|(known, _)| *known == plain);
        let &(_, dtype) = entry.ok_or_else(|| unsupported(&format!("'{code}'")))?;

        let column_major = match after("fortran_order").ok_or_else(|| missing("fortran_order"))? {
            value if value.starts_with("False") => false,
            value if value.starts_with("True") => true,
            _ => return Err(missing("fortran_order")),
        };

        let shape = after("shape").and_then(|value| value.strip_prefix('('));
        let (dims, _) = shape
            .and_then(|rest| rest.split_once(')'))
            .ok_or_else(|| missing("shape"))?;
        let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
        let dims: std::result::Result<Vec<usize>, _> = dims.map(str::parse).collect();
        let spec = Spec::new(dims.map_err(|_| missing("shape"))?, dtype);
        spec.shape.check(dtype)?;
        Ok(Header {
            spec,
            big_endian: code.starts_with('>'),
            column_major,
        })
    }
}

fn unsupported(what: &str) -> Error {
    Error::unsupported("npy", format!("motet has no dtype like numpy's {what}"))
}

fn column_major_strides(shape: &[usize]) -> Strides {
    let mut stride = 1;
    let mut next = |&dim: &usize| {
        let this = stride;
        stride *= dim.max(1) as isize;
        this
    };
    shape.iter().map(&mut next).collect()
}

/// numpy's codes, without the byte order in front.
const CODES: [(&str, Dtype); 14] = [
    ("b1", Dtype::Bool),
    ("u1", Dtype::Uint8),
    ("u2", Dtype::Uint16),
    ("u4", Dtype::Uint32),
    ("u8", Dtype::Uint64),
    ("i1", Dtype::Int8),
    ("i2", Dtype::Int16),
    ("i4", Dtype::Int32),
    ("i8", Dtype::Int64),
    ("f2", Dtype::Float16),
    ("f4", Dtype::Float32),
    ("f8", Dtype::Float64),
    ("V2", Dtype::Bfloat16),
    ("c8", Dtype::Complex64),
];
