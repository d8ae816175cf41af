//! The encoding of `.mlxfn` files: little-endian, packed, read front to back.
//!
//! [`Reader`] trusts nothing: each count is bounded by the bytes that are left before anything is
//! allocated, and every error says at which byte it was found. [`Writer`] is its inverse.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::shape::{MAX_RANK, Shape, Spec};

/// The MLX version that wrote a file, by which the layout of some states is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub patch: u32,
}

impl Version {
    /// The version whose layouts are written, and the newest that is known.
    pub const NEWEST: Version = Version::new(0, 32, 4);

    /// The version `major.minor.patch`.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    /// The numbers that a version string starts with: `0.32.4.dev20260801+abc` is 0.32.4.
    pub fn parse(text: &str) -> Result<Version> {
        let mut numbers = text.splitn(4, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit());
            part[..digits.unwrap_or(part.len())].parse().ok()
        });
        let mut next = || numbers.next().flatten();
        match (next(), next(), next()) {
            (Some(major), Some(minor), patch) => Ok(Version::new(major, minor, patch.unwrap_or(0))),
            _ => Err(Error::file(
                "version",
                format!("got {text:?}, expected an MLX version such as \"0.32.4\""),
            )),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Reads values from bytes, in order.
#[derive(Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

macro_rules! read_numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self) -> Result<$type> {
            Ok(<$type>::from_le_bytes(self.array()?))
        })*
    };
}

macro_rules! read_vectors {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self) -> Result<Vec<$type>> {
            let count = self.count(size_of::<$type>())?;
            (0..count).map(|_| Ok(<$type>::from_le_bytes(self.array()?))).collect()
        })*
    };
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, position: 0 }
    }

    /// The number of bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The number of bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// An error about what was just read.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file("mlxfn", format!("{message}, at byte {}", self.position))
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.remaining() {
            let left = self.remaining();
            return Err(self.error(format!(
                "the file ends early: {count} bytes needed, {left} left"
            )));
        }
        let start = self.position;
        self.position += count;
        Ok(&self.bytes[start..self.position])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    read_numbers! {
        /// One byte.
        u8: u8;
        /// A signed 32-bit number.
        i32: i32;
        /// A signed 64-bit number.
        i64: i64;
        /// An unsigned 64-bit number.
        u64: u64;
        /// A 32-bit float.
        f32: f32;
        /// A 64-bit float.
        f64: f64;
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("got {other} for a bool, expected 0 or 1"))),
        }
    }

    /// The count of a vector whose elements take at least `element_bytes` each.
    pub fn count(&mut self, element_bytes: usize) -> Result<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() / element_bytes.max(1) => Ok(count),
            _ => {
                let left = self.remaining();
                Err(self.error(format!(
                    "got a count of {count}, but only {left} bytes are left"
                )))
            }
        }
    }

    /// UTF-8 text.
    pub fn string(&mut self) -> Result<String> {
        let count = self.count(1)?;
        let bytes = self.bytes(count)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| self.error("a string is not UTF-8"))
    }

    read_vectors! {
        /// A vector of signed 32-bit numbers.
        vec_i32: i32;
        /// A vector of signed 64-bit numbers.
        vec_i64: i64;
        /// A vector of unsigned 64-bit numbers.
        vec_u64: u64;
    }

    /// A shape: not negative, of at most [`MAX_RANK`] dimensions.
    pub fn shape(&mut self) -> Result<Shape> {
        let dims = self.vec_i32()?;
        if dims.len() > MAX_RANK {
            return Err(self.error(format!(
                "a shape has {} dimensions, at most {MAX_RANK} are possible",
                dims.len()
            )));
        }
        dims.into_iter()
            .map(|dim| {
                usize::try_from(dim)
                    .map_err(|_| self.error(format!("a shape has the negative dimension {dim}")))
            })
            .collect()
    }

    /// A dtype: its code and its size, which must agree.
    pub fn dtype(&mut self) -> Result<Dtype> {
        let (code, size) = (self.i32()?, self.u8()?);
        match Dtype::from_code(code) {
            None => Err(self.error(format!("the dtype code {code} is unknown"))),
            Some(dtype) if dtype.size() != usize::from(size) => Err(self.error(format!(
                "got {size} bytes for an element of {dtype}, expected {}",
                dtype.size()
            ))),
            Some(dtype) => Ok(dtype),
        }
    }

    /// Shape and dtype of a value that can exist.
    pub fn spec(&mut self) -> Result<Spec> {
        let spec = Spec {
            shape: self.shape()?,
            dtype: self.dtype()?,
        };
        match spec.shape.check(spec.dtype) {
            Ok(()) => Ok(spec),
            Err(cause) => Err(self.error(cause)),
        }
    }
}

/// Appends values to bytes.
pub struct Writer<'a>(pub &'a mut Vec<u8>);

macro_rules! write_numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, value: $type) {
            self.0.extend_from_slice(&value.to_le_bytes());
        })*
    };
}

macro_rules! write_vectors {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, values: &[$type]) {
            self.u64(values.len() as u64);
            values.iter().for_each(|value| self.0.extend_from_slice(&value.to_le_bytes()));
        })*
    };
}

impl Writer<'_> {
    write_numbers! {
        /// One byte.
        u8: u8;
        /// A signed 32-bit number.
        i32: i32;
        /// A signed 64-bit number.
        i64: i64;
        /// An unsigned 64-bit number.
        u64: u64;
        /// A 32-bit float.
        f32: f32;
        /// A 64-bit float.
        f64: f64;
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Text.
    pub fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    write_vectors! {
        /// A vector of signed 32-bit numbers.
        vec_i32: i32;
        /// A vector of signed 64-bit numbers.
        vec_i64: i64;
        /// A vector of unsigned 64-bit numbers.
        vec_u64: u64;
    }

    /// A shape; dimensions that an array can have fit into 32 bits.
    pub fn shape(&mut self, shape: &Shape) {
        self.u64(shape.len() as u64);
        shape.iter().for_each(|&dim| self.i32(dim as i32));
    }

    /// A dtype.
    pub fn dtype(&mut self, dtype: Dtype) {
        self.i32(dtype.code());
        self.u8(dtype.size() as u8);
    }

    /// Shape and dtype of a value.
    pub fn spec(&mut self, spec: &Spec) {
        self.shape(&spec.shape);
        self.dtype(spec.dtype);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let mut writer = Writer(&mut bytes);
        let spec = Spec::new([2, 0, 3], Dtype::Bfloat16);
        writer.u8(7);
        writer.i32(-2);
        writer.i64(i64::MIN);
        writer.u64(u64::MAX);
        writer.f32(1.5);
        writer.f64(-0.1);
        writer.bool(true);
        writer.string("motet ♪");
        writer.vec_i32(&[1, -1]);
        writer.vec_i64(&[]);
        writer.vec_u64(&[9]);
        writer.spec(&spec);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8().unwrap(), 7);
        assert_eq!(reader.i32().unwrap(), -2);
        assert_eq!(reader.i64().unwrap(), i64::MIN);
        assert_eq!(reader.u64().unwrap(), u64::MAX);
        assert_eq!(reader.f32().unwrap(), 1.5);
        assert_eq!(reader.f64().unwrap(), -0.1);
        assert!(reader.bool().unwrap());
        assert_eq!(reader.string().unwrap(), "motet ♪");
        assert_eq!(reader.vec_i32().unwrap(), [1, -1]);
        assert!(reader.vec_i64().unwrap().is_empty());
        assert_eq!(reader.vec_u64().unwrap(), [9]);
        assert_eq!(reader.spec().unwrap(), spec);
        assert_eq!((reader.position(), reader.remaining()), (bytes.len(), 0));
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[cut..cut]);
            let error = reader.u8().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::File);
            assert!(error.to_string().contains("at byte 0"));
        }
    }

    fn written(write: impl Fn(&mut Writer<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut Writer(&mut bytes));
        bytes
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let huge = written(|w| w.u64(1 << 62));
        assert!(Reader::new(&huge).string().is_err());
        assert!(Reader::new(&huge).vec_i32().is_err());
        assert!(Reader::new(&huge).vec_u64().is_err());
        assert!(Reader::new(&written(|w| w.vec_i32(&[-1]))).shape().is_err());
        assert!(
            Reader::new(&written(|w| w.vec_i32(&[1; 65])))
                .shape()
                .is_err()
        );
        assert!(Reader::new(&[2]).bool().is_err());
        assert!(Reader::new(&[77, 0, 0, 0, 4]).dtype().is_err());
        assert!(Reader::new(&[10, 0, 0, 0, 1]).dtype().is_err());
        let not_text = written(|w| {
            w.u64(1);
            w.u8(0xFF);
        });
        assert!(Reader::new(&not_text).string().is_err());
        let too_large = written(|w| {
            w.vec_i32(&[i32::MAX; 3]);
            w.dtype(Dtype::Float32);
        });
        assert!(Reader::new(&too_large).spec().is_err());
    }

    #[test]
    fn versions_order_by_number() {
        let parse = |text| Version::parse(text).unwrap();
        assert_eq!(parse("0.32.4.dev20260801+abc"), Version::NEWEST);
        assert_eq!(parse("0.32.4rc1"), Version::NEWEST);
        assert!(parse("0.9.0") < parse("0.22.0"));
        assert_eq!(parse("1.2"), Version::new(1, 2, 0));
        for text in ["", "x", "1", ".1.2", "99999999999.0.0"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }
}
