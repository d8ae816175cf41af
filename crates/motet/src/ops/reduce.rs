//! Reductions: from many elements to one.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, astype};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::Reduction;
use motet_core::ops::reduce::Reduce;
use motet_core::ops::shape::Squeeze;

use super::Axes;

/// The sum over axes: of integers of up to 32 bits in int32 or uint32, and wrapping.
///
/// # Errors
/// Where an axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::sum(&x, -1)?.to_vec::<i32>()?, [3, 7]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn sum(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    reduce(Reduction::Sum, x, &axes.into())
}

fn reduce(op: Reduction, x: &Array, axes: &Axes) -> Result<Array> {
    let over = axes.of("reduce", x.shape().len())?;
    let reduced = match over.is_empty() {
        // Nothing to reduce, but to the result's dtype.
        true => match op {
            Reduction::And | Reduction::Or => return astype(x, Dtype::Bool),
            _ => x.clone(),
        },
        false => apply_one(
            Reduce {
                op,
                axes: over.clone(),
            },
            std::slice::from_ref(x),
        )?,
    };
    match axes.keepdims() || over.is_empty() {
        true => Ok(reduced),
        false => apply_one(Squeeze { axes: over }, &[reduced]),
    }
}
