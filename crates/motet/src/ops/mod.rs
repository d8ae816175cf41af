//! Operations on arrays, under MLX's names. Lazy: they check shapes and dtypes and return at once.
//!
//! - Operands are arrays or numbers (`impl Into<Operand>`); they promote to one dtype and broadcast
//!   to one shape as in MLX.
//! - Axes are one (`-1`), several (`[0, 2]`) or all (`..`); see [`Axes`].
//! - What MLX takes as optional keywords is an `Option` or a struct of options with a `Default`.
//! - Results are on the calling thread's default stream: see [`with_stream`](crate::with_stream).

mod axes;
mod elementwise;
mod reduce;

use motet_core::array::Array;
use motet_core::array::apply::apply_one;
use motet_core::error::Result;
use motet_core::ops::matmul::Matmul;
use motet_core::shape::Shape;

pub use axes::{Axes, keepdims};
pub use elementwise::*;
pub use motet_core::array::apply::{apply, astype};
pub use motet_core::array::operators::bitwise_invert;
pub use reduce::*;

/// The matrix product of the last two dimensions, (..., M, K) by (..., K, N); the dimensions before
/// are equal.
///
/// # Errors
/// Where dtypes differ or are not inexact, or shapes do not fit.
pub fn matmul(a: &Array, b: &Array) -> Result<Array> {
    apply_one(Matmul, &[a.clone(), b.clone()])
}

/// `x` repeated along dimensions of size one, and new leading ones, to this shape.
///
/// # Errors
/// Where the shape is not one that `x` broadcasts to.
///
/// ```
/// # use motet::{Array, ops};
/// let row = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::broadcast_to(&row, [2, 2])?.to_vec::<i32>()?, [1, 2, 1, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn broadcast_to(x: &Array, shape: impl Into<Shape>) -> Result<Array> {
    motet_core::array::apply::broadcast_to(x, &shape.into())
}
