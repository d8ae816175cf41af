//! Matrices of ones in some places, triangles, and diagonals.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::Shape;

use super::creation::count_to;
use super::{
    add, as_strided, at_least_matrix, axis_of, equal, expand_dims, greater_equal, pad, sum, where_,
    zeros_like,
};

/// The numbers of the rows plus `k`, as a column, and of the columns, as a row. `k` beyond the
/// matrix means no more than at its border.
fn rows_and_columns(n: usize, m: usize, k: i32) -> Result<(Array, Array)> {
    let rows = expand_dims(&count_to(n, Dtype::Int64)?, 1)?;
    let columns = count_to(m, Dtype::Int64)?;
    let k = i64::from(k).clamp(-(n as i64), m as i64);
    Ok((add(rows, k)?, columns))
}

/// A matrix of `n` rows and `m` columns (`n` if `None`) with ones on the `k`-th diagonal, counted
/// from the main one to the right, and zeros elsewhere; float32 unless a dtype is given.
///
/// # Errors
/// Where the matrix is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::eye(2, 3, 1, None)?;
/// assert_eq!(x.to_vec::<f32>()?, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn eye(
    n: usize,
    m: impl Into<Option<usize>>,
    k: i32,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let (rows, columns) = rows_and_columns(n, m.into().unwrap_or(n), k)?;
    astype(
        &equal(rows, columns)?,
        dtype.into().unwrap_or(Dtype::Float32),
    )
}

/// The identity matrix of `n` rows; float32 unless a dtype is given.
///
/// # Errors
/// Where the matrix is too large.
///
/// ```
/// # use motet::{Array, ops};
/// assert_eq!(ops::identity(2, None)?.to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn identity(n: usize, dtype: impl Into<Option<Dtype>>) -> Result<Array> {
    eye(n, None, 0, dtype)
}

/// A matrix of `n` rows and `m` columns (`n` if `None`) with ones on and below the `k`-th diagonal
/// and zeros above; float32 unless a dtype is given.
///
/// # Errors
/// Where the matrix is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::tri(2, 3, 0, None)?;
/// assert_eq!(x.to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn tri(
    n: usize,
    m: impl Into<Option<usize>>,
    k: i32,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let (rows, columns) = rows_and_columns(n, m.into().unwrap_or(n), k)?;
    astype(
        &greater_equal(rows, columns)?,
        dtype.into().unwrap_or(Dtype::Float32),
    )
}

/// Where matrices of the shape of `x` are on or below their `k`-th diagonal.
fn lower(name: &str, x: &Array, k: i32) -> Result<Array> {
    at_least_matrix(name, x)?;
    let rank = x.shape().len();
    tri(x.shape()[rank - 2], x.shape()[rank - 1], k, Dtype::Bool)
}

/// The matrices in the last two dimensions with zeros above the `k`-th diagonal.
///
/// # Errors
/// Where `x` has fewer than two dimensions.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::tril(&x, 0)?.to_vec::<i32>()?, [1, 0, 3, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn tril(x: &Array, k: i32) -> Result<Array> {
    where_(lower("tril", x, k)?, x, zeros_like(x, None)?)
}

/// The matrices in the last two dimensions with zeros below the `k`-th diagonal.
///
/// # Errors
/// Where `x` has fewer than two dimensions.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::triu(&x, 0)?.to_vec::<i32>()?, [1, 2, 0, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn triu(x: &Array, k: i32) -> Result<Array> {
    let below = lower("triu", x, k.saturating_sub(1))?;
    where_(below, zeros_like(x, None)?, x)
}

/// The `k`-th diagonal of a matrix; of a vector the square matrix with it as the `k`-th diagonal.
///
/// # Errors
/// Where `x` has not one or two dimensions, or the matrix is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// let matrix = ops::diag(&x, 0)?;
/// assert_eq!(matrix.to_vec::<i32>()?, [1, 0, 0, 2]);
/// assert_eq!(ops::diag(&matrix, 1)?.to_vec::<i32>()?, [0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn diag(x: &Array, k: i32) -> Result<Array> {
    match x.shape().len() {
        1 => {
            let shift = k.unsigned_abs() as usize;
            let n = x.shape()[0] + shift;
            let values = pad(x, (0, shift), Default::default())?;
            // Row i of the result shows value i where the diagonal is shifted right, column i where
            // it is shifted down.
            let values = expand_dims(&values, if k < 0 { 0 } else { 1 })?;
            let zero = zeros_like(&values, None)?;
            where_(eye(n, None, k, Dtype::Bool)?, values, zero)
        }
        2 => diagonal(x, k, 0, 1),
        _ => Err(Error::invalid(
            "diag",
            format!("got {}, expected one or two dimensions", x.spec()),
        )),
    }
}

/// The diagonals of the matrices in two dimensions, in the last dimension of the result. `offset`
/// counts from the main diagonal to the right.
///
/// # Errors
/// Where there are fewer than two dimensions, an axis is out of range, or both are the same.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], [2, 3])?;
/// assert_eq!(ops::diagonal(&x, 1, 0, 1)?.to_vec::<i32>()?, [2, 6]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn diagonal(x: &Array, offset: i32, axis1: i32, axis2: i32) -> Result<Array> {
    at_least_matrix("diagonal", x)?;
    let row = axis_of("diagonal", axis1, x)?;
    let column = axis_of("diagonal", axis2, x)?;
    if row == column {
        return Err(Error::invalid(
            "diagonal",
            format!("got axis {row} twice, expected two axes of {}", x.shape()),
        ));
    }
    let strides = x.shape().strides();
    let shift = offset.unsigned_abs() as usize;
    let (down, right) = match offset < 0 {
        true => (shift, 0),
        false => (0, shift),
    };
    let length = x.shape()[row]
        .saturating_sub(down)
        .min(x.shape()[column].saturating_sub(right));
    let others: Vec<usize> = (0..x.shape().len())
        .filter(|&axis| axis != row && axis != column)
        .collect();
    let shape: Shape = others
        .iter()
        .map(|&axis| x.shape()[axis])
        .chain([length])
        .collect();
    let steps = others.iter().map(|&axis| strides[axis]);
    let steps: Vec<i64> = steps
        .chain([strides[row] + strides[column]])
        .map(|step| step as i64)
        .collect();
    let first = match length {
        0 => 0,
        _ => down * strides[row] as usize + right * strides[column] as usize,
    };
    as_strided(x, shape, steps, first)
}

/// The sum along a diagonal, as in [`diagonal`] and [`sum`]; `x` is converted to the dtype first
/// where one is given.
///
/// # Errors
/// As [`diagonal`].
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::trace(&x, 0, 0, 1, None)?.item::<i32>()?, 5);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn trace(
    x: &Array,
    offset: i32,
    axis1: i32,
    axis2: i32,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    at_least_matrix("trace", x)?;
    let diagonal = diagonal(x, offset, axis1, axis2)?;
    sum(&astype(&diagonal, dtype.into().unwrap_or(x.dtype()))?, -1)
}
