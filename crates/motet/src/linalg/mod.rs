//! Linear algebra, under the names of MLX's `mlx.core.linalg`.
//!
//! Functions work on each matrix of a batch: an array (..., M, N) is matrices of M rows and N
//! columns, and K stands for the smaller of M and N. They take float32 and float64, and complex64
//! where it says so; `norm`, `det`, `slogdet` and `cross` take every dtype with an answer. Like all
//! operations they are lazy: what only the values show, such as a singular matrix or elements that
//! are not finite, is an error when the result is evaluated.
//!
//! Where MLX has a flag `upper` or a string `UPLO`, a [`Triangle`] says which half of a matrix is
//! meant.

mod factors;
mod norm;
mod solve;
mod spectra;

use motet_core::array::apply::{apply_one, broadcast, broadcast_to, promote};
use motet_core::array::{Array, Operand};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Reduction;
use motet_core::ops::assemble::Concatenate;
use motet_core::ops::elementwise::Select;
use motet_core::ops::matmul::Matmul;
use motet_core::ops::reduce::Reduce;
use motet_core::ops::shape::{ExpandDims, Transpose};
use motet_core::ops::slicing::Slice;
use motet_core::shape::{Shape, normalize_axis};

use crate::ops;

pub use factors::{cholesky, cholesky_inv, inv, lu, lu_factor, pinv, qr, tri_inv};
pub use motet_core::kernel::Triangle;
pub use norm::{Order, norm};
pub use solve::{det, slogdet, solve, solve_triangular};
pub use spectra::{eig, eigh, eigvals, eigvalsh, svd, svdvals};

/// The cross products of vectors of 2 or 3 elements along an axis (the last one for `None`); a third
/// element that is not there is zero. Operands promote to one dtype and broadcast; the axis has size
/// 3 in the result.
///
/// # Errors
/// Where the axis is out of range or of another size, or the other dimensions do not broadcast.
///
/// ```
/// # use motet::{Array, linalg};
/// let x = Array::from_slice(&[1.0f32, 0.0, 0.0], [3])?;
/// let y = Array::from_slice(&[0.0f32, 1.0], [2])?;
/// assert_eq!(linalg::cross(&x, &y, None)?.to_vec::<f32>()?, [0.0, 0.0, 1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn cross(a: impl Into<Operand>, b: impl Into<Operand>, axis: Option<i32>) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    let rank = a.shape().len().max(b.shape().len());
    let axis = normalize_axis("cross", axis.unwrap_or(-1).into(), rank)?;
    let [a, b] = [a, b].map(|x| components(&x, rank, axis));
    let (a, b) = (a?, b?);
    let part = |i: usize, j: usize| {
        let difference = ops::subtract(ops::multiply(&a[i], &b[j])?, ops::multiply(&a[j], &b[i])?);
        difference.map_err(|error| error.context("cross", "the operands do not fit"))
    };
    let axis = axis as i32;
    apply_one(
        Concatenate { axis },
        &[part(1, 2)?, part(2, 0)?, part(0, 1)?],
    )
}

/// The three elements of vectors along an axis, each with that axis at size one.
fn components(x: &Array, rank: usize, axis: usize) -> Result<[Array; 3]> {
    let mut shape = vec![1; rank - x.shape().len()];
    shape.extend(x.shape().iter());
    let x = broadcast_to(x, &shape.clone().into())?;
    let part = |i: usize| {
        let (mut start, mut end) = (vec![0; rank], shape.clone());
        (start[axis], end[axis]) = (i, i + 1);
        slice(&x, &start, &end)
    };
    let third = match shape[axis] {
        2 => ops::multiply(part(0)?, 0)?,
        3 => part(2)?,
        size => {
            return Err(invalid(
                "cross",
                format!("got {size} elements along axis {axis}, expected 2 or 3"),
            ));
        }
    };
    Ok([part(0)?, part(1)?, third])
}

fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::invalid(name, message)
}

/// The outputs of a primitive that has this many.
fn outputs<const N: usize>(outputs: Vec<Array>) -> Result<[Array; N]> {
    outputs
        .try_into()
        .map_err(|_| Error::new(ErrorKind::Internal, "linalg", "lost an output"))
}

/// Rows and columns of matrices.
fn matrix_dims(name: &str, a: &Array) -> Result<(usize, usize)> {
    match **a.shape() {
        [.., m, n] => Ok((m, n)),
        _ => Err(invalid(
            name,
            format!("got {}, expected matrices", a.spec()),
        )),
    }
}

/// The matrix product; batch dimensions broadcast.
fn product(a: &Array, b: &Array) -> Result<Array> {
    apply_one(Matmul, &one_batch(a, b)?)
}

/// The factors of a product with their batch dimensions broadcast.
fn one_batch(a: &Array, b: &Array) -> Result<[Array; 2]> {
    let ((m, k), (l, n)) = (matrix_dims("matmul", a)?, matrix_dims("matmul", b)?);
    let batch = |x: &Array| Shape::new(&x.shape()[..x.shape().len() - 2]);
    let common = batch(a).broadcast(&batch(b))?;
    let with = |x: &Array, dims: [usize; 2]| {
        let shape: Shape = common.iter().copied().chain(dims).collect();
        broadcast_to(x, &shape)
    };
    Ok([with(a, [m, k])?, with(b, [l, n])?])
}

/// Matrices with rows and columns exchanged.
fn transposed(a: &Array) -> Result<Array> {
    let rank = a.shape().len() as i32;
    moved_last(a, [rank - 1, rank - 2])
}

/// `x` with these axes, counted from 0, moved to the end.
fn moved_last(x: &Array, last: [i32; 2]) -> Result<Array> {
    let others = (0..x.shape().len() as i32).filter(|axis| !last.contains(axis));
    let permutation = others.chain(last).collect();
    apply_one(Transpose { permutation }, std::slice::from_ref(x))
}

/// `x` with an axis of size one.
fn expanded(x: &Array, axis: i32) -> Result<Array> {
    apply_one(ExpandDims { axes: vec![axis] }, std::slice::from_ref(x))
}

/// `x` reduced over axes, which stay with size one.
fn reduced(op: Reduction, x: &Array, axes: &[i32]) -> Result<Array> {
    let axes = axes.to_vec();
    apply_one(Reduce { op, axes }, std::slice::from_ref(x))
}

/// The first rows and columns of matrices.
fn leading(x: &Array, rows: usize, columns: usize) -> Result<Array> {
    let mut end = x.shape().to_vec();
    let rank = end.len();
    end[rank - 2..].copy_from_slice(&[rows, columns]);
    slice(x, &vec![0; rank], &end)
}

fn slice(x: &Array, start: &[usize], end: &[usize]) -> Result<Array> {
    let axes = |axes: &[usize]| axes.iter().map(|&at| at as i32).collect();
    let slice = Slice {
        start: axes(start),
        end: axes(end),
        strides: vec![1; start.len()],
    };
    apply_one(slice, std::slice::from_ref(x))
}

/// The number of each row, and of each column, of a matrix: (M, 1) and (1, N).
fn positions(rows: usize, columns: usize) -> Result<(Array, Array)> {
    let count = |size: usize| (0..size as i32).collect::<Vec<i32>>();
    Ok((
        Array::from_slice(&count(rows), [rows, 1])?,
        Array::from_slice(&count(columns), [1, columns])?,
    ))
}

/// `a` where the condition holds, else `b`.
fn select(condition: &Array, a: &Array, b: impl Into<Operand>) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    let operands = broadcast("where", [condition.clone(), a, b])?;
    apply_one(Select, &operands)
}
