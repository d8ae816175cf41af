//! Operations on arrays, under MLX's names. Lazy: they check shapes and dtypes and return at once.
//!
//! - Operands are arrays or numbers (`impl Into<Operand>`); they promote to one dtype and broadcast
//!   to one shape as in MLX.
//! - Axes are one (`-1`), several (`[0, 2]`) or all (`..`); see [`Axes`].
//! - What MLX takes as optional keywords is an `Option` or a struct of options with a `Default`.
//! - Results are on the calling thread's default stream: see [`with_stream`](crate::with_stream).
//!
//! MLX's `where` is [`where_`], since the name is a keyword of Rust. MLX's `slice` and `slice_update`
//! with an array as the start are [`dynamic_slice`] and [`dynamic_slice_update`].

mod axes;
mod batched;
mod convolution;
mod creation;
mod einsum;
mod elementwise;
mod gather;
mod join;
mod matrices;
mod pad;
mod products;
mod qqmm;
mod quantized;
mod reduce;
mod scan;
mod scatter;
mod selection;
mod shape;
mod slice;
mod sort;
mod statistics;

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, astype as convert};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::Primitive;
use motet_core::shape::{Shape, normalize_axis};

pub use axes::{Axes, keepdims};
pub use batched::*;
pub use convolution::*;
pub use creation::*;
pub use einsum::*;
pub use elementwise::*;
pub use gather::*;
pub use join::*;
pub use matrices::*;
pub use motet_core::array::apply::{apply, astype};
pub use motet_core::array::operators::bitwise_invert;
pub use pad::*;
pub use products::*;
pub use qqmm::*;
pub use quantized::*;
pub use reduce::*;
pub use scan::*;
pub use scatter::*;
pub use selection::*;
pub use shape::*;
pub use slice::*;
pub use sort::*;
pub use statistics::*;

/// The output of a primitive that takes one array.
fn with(primitive: impl Into<Primitive>, x: &Array) -> Result<Array> {
    apply_one(primitive, std::slice::from_ref(x))
}

/// `axis` of `x`, from 0.
fn axis_of(name: &str, axis: i32, x: &Array) -> Result<usize> {
    normalize_axis(name, axis.into(), x.shape().len())
}

/// Dimensions as the parameters of primitives have them. Those of arrays are 32-bit.
fn dims(shape: &[usize]) -> Vec<i32> {
    shape.iter().map(|&dim| dim as i32).collect()
}

/// `shape` with another size on `axis`.
fn with_dim(shape: &Shape, axis: usize, dim: usize) -> Shape {
    let mut shape = shape.clone();
    shape.dims_mut()[axis] = dim;
    shape
}

/// Those dimensions of an array of this rank that are not among `axes`.
fn other_axes(rank: usize, axes: &[i32]) -> Vec<i32> {
    (0..rank as i32)
        .filter(|axis| !axes.contains(axis))
        .collect()
}

/// The arrays, of one dtype: the one that MLX promotes theirs to.
fn promote_all(arrays: &[Array]) -> Result<Vec<Array>> {
    let dtypes = arrays.iter().map(Array::dtype);
    let dtype = dtypes.reduce(Dtype::promote).unwrap_or(Dtype::Float32);
    arrays.iter().map(|array| convert(array, dtype)).collect()
}

/// Refuses arrays of fewer than two dimensions.
fn at_least_matrix(name: &str, x: &Array) -> Result<()> {
    match x.shape().len() {
        0 | 1 => Err(Error::invalid(
            name,
            format!("got {}, expected two dimensions or more", x.spec()),
        )),
        _ => Ok(()),
    }
}
