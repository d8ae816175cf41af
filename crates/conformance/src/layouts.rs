//! The ways in which a value can lie in memory.

use std::ptr::NonNull;
use std::sync::Arc;

use motet_core::error::Result;
use motet_core::memory::Buffer;
use motet_core::shape::Strides;
use motet_core::tensor::Tensor;

/// How a value lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Some elements after the start of its buffer.
    Offset,
    /// The first dimension is the innermost.
    ColumnMajor,
    /// Each dimension runs backwards.
    Reversed,
    /// Two elements lie between neighbours.
    Gaps,
    /// At an odd address, as constants in a file may.
    Askew,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Arrangement; 5] = [
        Arrangement::Offset,
        Arrangement::ColumnMajor,
        Arrangement::Reversed,
        Arrangement::Gaps,
        Arrangement::Askew,
    ];

    /// The same value, lying so.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn apply(self, tensor: &Tensor) -> Result<Tensor> {
        let (mut layout, size) = (tensor.spec().layout(), tensor.layout.dtype.size());
        let dims = layout.shape.to_vec();
        let step = if self == Arrangement::Gaps { 3 } else { 1 };
        if self == Arrangement::ColumnMajor {
            let mut stride = 1;
            for (to, &dim) in layout.strides.iter_mut().zip(&dims) {
                *to = stride;
                stride *= dim.max(1) as isize;
            }
        }
        let sign = if self == Arrangement::Reversed { -1 } else { 1 };
        layout
            .strides
            .iter_mut()
            .for_each(|stride| *stride *= sign * step);
        let count = layout.shape.size() * step as usize;
        // In elements, from the start of the buffer, the askew byte aside.
        let first = match self {
            Arrangement::Offset => 3,
            Arrangement::Reversed => layout.shape.size().saturating_sub(1),
            _ => 0,
        };
        let askew = usize::from(self == Arrangement::Askew);
        let mut bytes = vec![0u8; askew + (first + count) * size];
        let source = motet_io::row_major(tensor);
        for (number, element) in source.chunks_exact(size).enumerate() {
            let offset = offset(&dims, &layout.strides, number);
            let at = askew + first.wrapping_add_signed(offset) * size;
            bytes[at..at + size].copy_from_slice(element);
        }
        Ok(Tensor {
            buffer: Arc::new(held(bytes)),
            offset: askew + first * size,
            layout,
        })
    }
}

/// The offset in elements of the element with this row-major number.
fn offset(dims: &[usize], strides: &Strides, mut number: usize) -> isize {
    let mut offset = 0;
    for (&dim, &stride) in dims.iter().zip(strides).rev() {
        offset += (number % dim) as isize * stride;
        number /= dim;
    }
    offset
}

/// A buffer of these bytes, the first of them at a multiple of 64.
fn held(bytes: Vec<u8>) -> Buffer {
    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line([u8; 64]);
    let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64).max(1)];
    for (line, bytes) in lines.iter_mut().zip(bytes.chunks(64)) {
        line.0[..bytes.len()].copy_from_slice(bytes);
    }
    let address = NonNull::from(lines.as_slice()).cast();
    // SAFETY: the lines hold that many initialised bytes, stay where they are when the vector is
    // moved, and nobody writes to them any more.
    unsafe { Buffer::foreign(address, bytes.len(), Box::new(lines)) }
}

/// A value that repeats its first elements along a dimension, and the same with a stride of zero;
/// `None` where there is no such dimension.
///
/// # Errors
/// Where there is no memory for it.
pub fn repeated(tensor: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let layout = &tensor.layout;
    let Some(axis) = layout.shape.iter().rposition(|&dim| dim > 1) else {
        return Ok(None);
    };
    let mut view = tensor.clone();
    view.layout.strides[axis] = 0;
    let copy = motet_io::from_row_major(&view.spec(), &motet_io::row_major(&view))?;
    Ok(Some((copy, view)))
}
