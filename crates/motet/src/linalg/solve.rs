//! Systems of linear equations, and determinants.

use motet_core::array::apply::{apply_one, astype, broadcast_to, promote};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::Reduction;
use motet_core::ops::indexing::GatherAxis;
use motet_core::ops::shape::Squeeze;

use super::factors::{Lu, tri_inv};
use super::{Triangle, expanded, invalid, one_batch, product, reduced};
use crate::ops;

/// The solutions of `a x = b` for square matrices `a` (..., M, M): of the shape of `b`, which is
/// (..., M, N), or a vector (M). Operands promote to one dtype; the batch dimensions broadcast.
///
/// # Errors
/// Where shapes do not fit, the dtype is not float32 or float64, or a matrix is singular.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[0.0f32, 2.0, 4.0, 0.0], [2, 2])?;
/// let b = Array::from_slice(&[6.0f32, 8.0], [2])?;
/// assert_eq!(linalg::solve(&a, &b)?.to_vec::<f32>()?, [2.0, 3.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn solve(a: impl Into<Operand>, b: impl Into<Operand>) -> Result<Array> {
    system("solve", a.into(), b.into(), |a, b| {
        let lu = Lu::of(a)?;
        // Row i of L U is row `sources[i]` of a.
        let [_, b] = one_batch(a, b)?;
        let sources = broadcast_to(&expanded(&lu.sources, -1)?, b.shape())?;
        let b = apply_one(GatherAxis { axis: -2 }, &[b, sources])?;
        let b = product(&tri_inv(&lu.lower()?, Triangle::Lower)?, &b)?;
        product(&tri_inv(&lu.packed, Triangle::Upper)?, &b)
    })
}

/// The solutions of `a x = b` where only one triangle of `a` counts; else as [`solve`].
///
/// # Errors
/// As [`solve`].
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let a = Array::from_slice(&[2.0f32, 9.0, 1.0, 4.0], [2, 2])?;
/// let b = Array::from_slice(&[6.0f32, 7.0], [2])?;
/// assert_eq!(linalg::solve_triangular(&a, &b, Triangle::Lower)?.to_vec::<f32>()?, [3.0, 1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn solve_triangular(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    triangle: Triangle,
) -> Result<Array> {
    system("solve_triangular", a.into(), b.into(), |a, b| {
        product(&tri_inv(a, triangle)?, b)
    })
}

/// Checks a system, and solves it with `b` as matrices.
fn system(
    name: &str,
    a: Operand,
    b: Operand,
    solve: impl Fn(&Array, &Array) -> Result<Array>,
) -> Result<Array> {
    let [a, b] = promote([a, b])?;
    let vector = b.shape().len() == 1;
    let rows = b.shape().iter().rev().nth(usize::from(!vector));
    let fits = match *a.shape().as_ref() {
        [.., m, n] => m == n && rows == Some(&m),
        _ => false,
    };
    if !fits {
        return Err(invalid(
            name,
            format!(
                "got {} and {}, expected (..., M, M) and (..., M, N) or (M)",
                a.spec(),
                b.spec()
            ),
        ));
    }
    match vector {
        false => solve(&a, &b),
        true => apply_one(
            Squeeze { axes: vec![-1] },
            &[solve(&a, &expanded(&b, -1)?)?],
        ),
    }
}

/// The determinants (...) of square matrices (..., M, M). Half types are computed in float32 and
/// rounded at the end; of integers and bool the result is float32.
///
/// # Errors
/// Where `a` is not of square matrices, or complex.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[0.0f32, 2.0, 4.0, 0.0], [2, 2])?;
/// assert_eq!(linalg::det(&a)?.item::<f32>()?, -8.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn det(a: &Array) -> Result<Array> {
    let (diagonal, parity, dtype) = triangular("det", a)?;
    let product = squeezed(Reduction::Prod, &diagonal)?;
    astype(&ops::multiply(product, parity)?, dtype)
}

/// The signs of the determinants (...) of square matrices (..., M, M), and the natural logarithms of
/// their magnitudes: 0 and minus infinity for a singular matrix. Dtypes as in [`det`].
///
/// # Errors
/// As [`det`].
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[0.0f32, 1.0, 1.0, 0.0], [2, 2])?;
/// let (sign, logdet) = linalg::slogdet(&a)?;
/// assert_eq!((sign.item::<f32>()?, logdet.item::<f32>()?), (-1.0, 0.0));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn slogdet(a: &Array) -> Result<(Array, Array)> {
    let (diagonal, parity, dtype) = triangular("slogdet", a)?;
    let sign = squeezed(Reduction::Prod, &ops::sign(&diagonal)?)?;
    let sign = ops::multiply(sign, parity)?;
    let logarithm = squeezed(Reduction::Sum, &ops::log(ops::abs(&diagonal)?)?)?;
    Ok((astype(&sign, dtype)?, astype(&logarithm, dtype)?))
}

/// What a determinant is made of: the diagonal of U, 1 or -1 for the exchanged rows, and the dtype
/// of the result.
fn triangular(name: &str, a: &Array) -> Result<(Array, Array, Dtype)> {
    match *a.shape().as_ref() {
        [.., m, n] if m == n && a.dtype() != Dtype::Complex64 => {}
        _ => {
            return Err(invalid(
                name,
                format!("got {}, expected square matrices of real numbers", a.spec()),
            ));
        }
    }
    let dtype = a.dtype().at_least_float();
    let wide = match dtype {
        Dtype::Float64 => Dtype::Float64,
        _ => Dtype::Float32,
    };
    let lu = Lu::of(&astype(a, wide)?)?;
    let m = lu.exchanges.shape().last().copied().unwrap_or(0);
    let own: Vec<u32> = (0..m as u32).collect();
    let exchanged = ops::not_equal(&lu.exchanges, Array::from_slice(&own, [m])?)?;
    let odd = ops::remainder(squeezed(Reduction::Sum, &exchanged)?, 2)?;
    let parity = astype(&ops::subtract(1, ops::multiply(odd, 2)?)?, wide)?;
    Ok((lu.diagonal()?, parity, dtype))
}

/// The last axis, reduced.
fn squeezed(op: Reduction, x: &Array) -> Result<Array> {
    apply_one(Squeeze { axes: vec![-1] }, &[reduced(op, x, &[-1])?])
}
