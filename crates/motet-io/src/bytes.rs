//! Between tensors and bytes: mapped files, and elements in row-major order.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::memory::{Buffer, heap};
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;

use crate::file_error;

/// A tensor with a copy of `bytes`, its elements in row-major order and the machine's byte order.
///
/// # Errors
/// Where there are not as many bytes as the value has, or a bool is neither 0 nor 1.
pub fn from_row_major(spec: &Spec, bytes: &[u8]) -> Result<Tensor> {
    spec.shape.check(spec.dtype)?;
    if spec.bytes() != bytes.len() {
        return Err(Error::invalid(
            "from_row_major",
            format!(
                "got {} bytes for {spec}, expected {}",
                bytes.len(),
                spec.bytes()
            ),
        ));
    }
    check_bools(spec.dtype, bytes)?;
    let tensor = Tensor::allocate(spec, heap())?;
    // SAFETY: the buffer is new, so nothing else refers to it, and has `spec.bytes()` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), tensor.buffer.as_ptr(), bytes.len());
    }
    Ok(tensor)
}

/// A tensor of the elements that `source` gives in row-major order, each `part` bytes of them turned
/// round. Nothing is read before there is memory for everything.
pub(crate) fn from_reader(spec: &Spec, mut source: impl Read, part: usize) -> Result<Tensor> {
    let tensor = Tensor::allocate(spec, heap())?;
    let expected = spec.bytes();
    let mut chunk = vec![0; CHUNK.min(expected)];
    for start in (0..expected).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(expected - start)];
        source.read_exact(chunk).map_err(|error| {
            let message = format!("cannot read {expected} bytes of elements: {error}");
            Error::file("npy", message)
        })?;
        if part > 1 {
            chunk.chunks_exact_mut(part).for_each(<[u8]>::reverse);
        }
        check_bools(spec.dtype, chunk)?;
        // SAFETY: the buffer is new, so nothing else refers to it, and has `expected` bytes, of
        // which the chunk's end is one at most.
        unsafe {
            let to = tensor.buffer.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(chunk.as_ptr(), to, chunk.len());
        }
    }
    Ok(tensor)
}

/// How much of a file is read at once: whole elements.
const CHUNK: usize = 64 << 10;

/// The tensor's elements in row-major order; a copy only where they do not lie so in memory.
pub fn row_major(tensor: &Tensor) -> Cow<'_, [u8]> {
    tensor.row_major()
}

/// A file in memory.
pub(crate) struct MappedFile {
    buffer: Arc<Buffer>,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<MappedFile> {
        let cannot = |error| file_error(path, format!("cannot read the file: {error}"));
        let file = File::open(path).map_err(cannot)?;
        // SAFETY: the mapping is read-only; `read` asks its callers not to change the file.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        Ok(MappedFile {
            buffer: Arc::new(Buffer::mapped(Arc::new(map))),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer is a mapped file, readable as long as it lives.
        unsafe { std::slice::from_raw_parts(self.buffer.as_ptr(), self.buffer.len()) }
    }

    /// The value in `len` bytes from `offset` on, used in place where its elements are aligned.
    pub(crate) fn tensor(&self, spec: &Spec, offset: usize, len: usize) -> Result<Tensor> {
        let bytes = offset
            .checked_add(len)
            .and_then(|end| self.bytes().get(offset..end))
            .ok_or_else(|| Error::file("file", "the value reaches past the end of the file"))?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(spec.dtype.size());
        if !aligned || bytes.is_empty() {
            return from_row_major(spec, bytes);
        }
        check_bools(spec.dtype, bytes)?;
        Ok(Tensor {
            buffer: Arc::clone(&self.buffer),
            offset,
            layout: spec.layout(),
        })
    }
}

/// Kernels rely on bools being 0 or 1.
fn check_bools(dtype: Dtype, bytes: &[u8]) -> Result<()> {
    if dtype != Dtype::Bool {
        return Ok(());
    }
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(byte) => Err(Error::file(
            "bool",
            format!("got the value {byte}, expected 0 or 1"),
        )),
        None => Ok(()),
    }
}
