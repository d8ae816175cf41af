//! Norms of vectors and matrices.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, astype};
use motet_core::error::Result;
use motet_core::kernel::Reduction;
use motet_core::ops::shape::{ExpandDims, Squeeze};

use super::{invalid, moved_last, reduced, svdvals};
use crate::ops::{self, Axes};

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Of vectors: the p-norm, `sum(|x|^p)^(1/p)`. For 0 the number of nonzero elements, for plus
    /// or minus infinity the largest or smallest magnitude.
    ///
    /// Of matrices: for 1 and -1 the largest and smallest sum of magnitudes of a column, for plus
    /// and minus infinity that of a row, for 2 and -2 the largest and smallest singular value.
    P(f64),
    /// Of matrices: the Frobenius norm, the root of the sum of squares. MLX's `"fro"`.
    Fro,
    /// Of matrices: the nuclear norm, the sum of singular values. MLX's `"nuc"`.
    Nuc,
}

/// Vector norms along one axis, or matrix norms along two (rows, then columns). Without an order
/// that is the root of the sum of squares.
///
/// All axes (`..`) are one or two where there is an order; without one, an array of any rank counts
/// as one vector. The axes stay with size one inside of [`keepdims`](crate::ops::keepdims). Results
/// have the dtype of `a`, or float32 for integers and bool; roots of sums of squares and nuclear
/// norms of complex64 are float32.
///
/// # Errors
/// Where axes are out of range, named twice, or not one or two; where an order is not one for as
/// many axes; and where a norm by singular values meets a half type or elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg, linalg::Order, ops};
/// let x = Array::from_slice(&[3.0f32, -4.0, 0.0, 1.0], [2, 2])?;
/// assert_eq!(linalg::norm(&x, None, -1)?.to_vec::<f32>()?, [5.0, 1.0]);
/// assert_eq!(linalg::norm(&x, Some(Order::P(1.0)), ..)?.item::<f32>()?, 5.0);
/// let largest = linalg::norm(&x, Some(Order::P(f64::INFINITY)), ops::keepdims(0))?;
/// assert_eq!(largest.to_vec::<f32>()?, [3.0, 4.0]);
/// assert_eq!(*largest.shape(), [1, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn norm(a: &Array, ord: Option<Order>, axis: impl Into<Axes>) -> Result<Array> {
    let axis = axis.into();
    let listed = axis.listed("norm", a.shape().len())?;
    let axes = match &listed {
        Some(axes) => axes.clone(),
        None => (0..a.shape().len() as i32).collect(),
    };
    let dtype = a.dtype().at_least_float();
    let x = &astype(a, dtype)?;
    // The reduced axes stay until the end.
    let norm = match (ord, &axes[..]) {
        (None, axes) if listed.is_none() || axes.len() <= 2 => root_of_squares(x, axes)?,
        (Some(Order::P(2.0)), &[axis]) => root_of_squares(x, &[axis])?,
        (Some(Order::P(p)), &[axis]) => astype(&vector_norm(x, p, axis)?, dtype)?,
        (Some(Order::P(p)), &[rows, columns]) => {
            astype(&matrix_norm(x, p, [rows, columns])?, dtype)?
        }
        (Some(Order::Fro), &[_, _]) => root_of_squares(x, &axes)?,
        (Some(Order::Nuc), &[rows, columns]) => {
            of_singular_values(Reduction::Sum, x, [rows, columns])?
        }
        (ord, axes) => {
            let number = axes.len();
            return Err(invalid(
                "norm",
                match ord {
                    Some(ord @ (Order::Fro | Order::Nuc)) => {
                        format!("{ord:?} is a norm of matrices: got {number} axes, expected 2")
                    }
                    _ => format!("got {number} axes, expected 1 or 2"),
                },
            ));
        }
    };
    match axis.keepdims() {
        true => Ok(norm),
        false => apply_one(Squeeze { axes }, &[norm]),
    }
}

fn root_of_squares(x: &Array, axes: &[i32]) -> Result<Array> {
    let squares = match x.dtype() {
        motet_core::dtype::Dtype::Complex64 => ops::square(ops::abs(x)?)?,
        _ => ops::square(x)?,
    };
    ops::sqrt(reduced(Reduction::Sum, &squares, axes)?)
}

fn vector_norm(x: &Array, p: f64, axis: i32) -> Result<Array> {
    if p == 0.0 {
        let nonzero = ops::not_equal(x, 0)?;
        return reduced(Reduction::Sum, &nonzero, &[axis]);
    }
    let magnitudes = ops::abs(x)?;
    if p == 1.0 {
        reduced(Reduction::Sum, &magnitudes, &[axis])
    } else if p == f64::INFINITY {
        reduced(Reduction::Max, &magnitudes, &[axis])
    } else if p == f64::NEG_INFINITY {
        reduced(Reduction::Min, &magnitudes, &[axis])
    } else {
        let sum = reduced(Reduction::Sum, &ops::power(magnitudes, p)?, &[axis])?;
        ops::power(sum, 1.0 / p)
    }
}

fn matrix_norm(x: &Array, p: f64, [rows, columns]: [i32; 2]) -> Result<Array> {
    let extreme = match p > 0.0 {
        true => Reduction::Max,
        false => Reduction::Min,
    };
    let (summed, compared) = match p.abs() {
        1.0 => (rows, columns),
        f64::INFINITY => (columns, rows),
        2.0 => return of_singular_values(extreme, x, [rows, columns]),
        _ => {
            return Err(invalid(
                "norm",
                format!(
                    "got order {p} for matrices, expected 1, 2 or infinity, or minus one of them"
                ),
            ));
        }
    };
    let sums = reduced(Reduction::Sum, &ops::abs(x)?, &[summed])?;
    reduced(extreme, &sums, &[compared])
}

/// The singular values of the matrices along two axes, combined; the axes stay with size one.
fn of_singular_values(op: Reduction, x: &Array, axes: [i32; 2]) -> Result<Array> {
    let values = svdvals(&moved_last(x, axes)?)?;
    let combined = reduced(op, &values, &[-1])?;
    let combined = apply_one(Squeeze { axes: vec![-1] }, &[combined])?;
    apply_one(
        ExpandDims {
            axes: axes.to_vec(),
        },
        &[combined],
    )
}
