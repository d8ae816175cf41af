//! Factorisations and inverses.

use motet_core::array::Array;
use motet_core::array::apply::{apply, apply_one};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::ops::linalg::{Cholesky, Inverse, LUF, QRF};
use motet_core::ops::sort::ArgSort;

use super::{Triangle, invalid, leading, matrix_dims, product, reduced, select, svd, transposed};
use crate::ops;

/// The QR factorisation `a = Q R` of (..., M, N): Q (..., M, K) with orthonormal columns, and R
/// (..., K, N), upper triangular with the signs of LAPACK's Householder reflections.
///
/// # Errors
/// Where `a` is not of matrices of float32 or float64, or has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[3.0f32, 1.0, 4.0, 2.0], [2, 2])?;
/// let (q, r) = linalg::qr(&a)?;
/// assert!((q.to_vec::<f32>()?[0] + 0.6).abs() < 1e-6);
/// assert!((r.to_vec::<f32>()?[0] + 5.0).abs() < 1e-6);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn qr(a: &Array) -> Result<(Array, Array)> {
    let [q, r] = super::outputs(apply(QRF, std::slice::from_ref(a))?)?;
    Ok((q, r))
}

/// The inverses of square matrices (..., M, M).
///
/// # Errors
/// Where `a` is not of square matrices of float32 or float64, a matrix is singular, or has elements
/// that are not finite.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[2.0f32, 0.0, 0.0, 4.0], [2, 2])?;
/// assert_eq!(linalg::inv(&a)?.to_vec::<f32>()?, [0.5, 0.0, 0.0, 0.25]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn inv(a: &Array) -> Result<Array> {
    let inverse = Inverse {
        triangular: false,
        upper: false,
    };
    apply_one(inverse, std::slice::from_ref(a))
}

/// The inverses of one triangle of square matrices (..., M, M), zero elsewhere.
///
/// # Errors
/// As [`inv`]; the other triangle is not looked at.
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let a = Array::from_slice(&[2.0f32, 9.0, 1.0, 4.0], [2, 2])?;
/// let inverse = linalg::tri_inv(&a, Triangle::Lower)?;
/// assert_eq!(inverse.to_vec::<f32>()?, [0.5, 0.0, -0.125, 0.25]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn tri_inv(a: &Array, triangle: Triangle) -> Result<Array> {
    let inverse = Inverse {
        triangular: true,
        upper: triangle == Triangle::Upper,
    };
    apply_one(inverse, std::slice::from_ref(a))
}

/// The Cholesky factor of symmetric positive definite matrices (..., M, M): the lower L of
/// `a = L L^T`, or the upper U of `a = U^T U`. Only that triangle of `a` is looked at.
///
/// # Errors
/// Where `a` is not of square matrices of float32 or float64, a matrix is not positive definite, or
/// has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let a = Array::from_slice(&[4.0f32, 2.0, 2.0, 5.0], [2, 2])?;
/// let l = linalg::cholesky(&a, Triangle::Lower)?;
/// assert_eq!(l.to_vec::<f32>()?, [2.0, 0.0, 1.0, 2.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn cholesky(a: &Array, triangle: Triangle) -> Result<Array> {
    let upper = triangle == Triangle::Upper;
    apply_one(Cholesky { upper }, std::slice::from_ref(a))
}

/// The inverses of the matrices whose [`cholesky`] factor `a` (..., M, M) is.
///
/// # Errors
/// As [`tri_inv`].
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let l = Array::from_slice(&[2.0f32, 0.0, 1.0, 2.0], [2, 2])?;
/// let inverse = linalg::cholesky_inv(&l, Triangle::Lower)?;
/// assert_eq!(inverse.to_vec::<f32>()?, [0.3125, -0.125, -0.125, 0.25]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn cholesky_inv(a: &Array, triangle: Triangle) -> Result<Array> {
    let inverse = tri_inv(a, triangle)?;
    let other = transposed(&inverse)?;
    match triangle {
        Triangle::Lower => product(&other, &inverse),
        Triangle::Upper => product(&inverse, &other),
    }
}

/// The Moore-Penrose inverses (..., N, M) of matrices (..., M, N). Singular values that are not
/// greater than `10 max(M, N)` times the dtype's precision times the largest count as zero.
///
/// # Errors
/// Where `a` is not of matrices of float32 or float64, or has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[2.0f32, 0.0, 0.0, 0.0, 4.0, 0.0], [2, 3])?;
/// let inverse = linalg::pinv(&a)?;
/// assert_eq!(inverse.to_vec::<f32>()?, [0.5, 0.0, 0.0, 0.25, 0.0, 0.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn pinv(a: &Array) -> Result<Array> {
    let (m, n) = matrix_dims("pinv", a)?;
    let precision = match a.dtype() {
        Dtype::Float32 => f64::from(f32::EPSILON),
        Dtype::Float64 => f64::EPSILON,
        dtype => {
            return Err(invalid(
                "pinv",
                format!("got matrices of {dtype}, expected float32 or float64"),
            ));
        }
    };
    let k = m.min(n);
    if k == 0 {
        return transposed(a);
    }
    let (u, s, vt) = svd(a)?;
    let largest = reduced(motet_core::kernel::Reduction::Max, &s, &[-1])?;
    let cutoff = ops::multiply(largest, 10.0 * m.max(n) as f64 * precision)?;
    let scale = select(&ops::greater(&s, cutoff)?, &ops::divide(1.0, &s)?, 0.0)?;
    let scale = super::expanded(&scale, -2)?;
    let v = transposed(&leading(&vt, k, n)?)?;
    let scaled = ops::multiply(v, scale)?;
    product(&scaled, &transposed(&leading(&u, m, k)?)?)
}

/// The LU factorisation of (..., M, N) with rows exchanged, as three arrays: for each row of `a` the
/// row of L that it comes from (..., M, uint32), unit lower triangular L (..., M, K), and upper
/// triangular U (..., K, N). For one matrix `a = L[P, :] U`.
///
/// # Errors
/// Where `a` is not of matrices of float32 or float64.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[1.0f32, 2.0, 2.0, 8.0], [2, 2])?;
/// let (p, l, u) = linalg::lu(&a)?;
/// assert_eq!(p.to_vec::<u32>()?, [1, 0]);
/// assert_eq!(l.to_vec::<f32>()?, [1.0, 0.0, 0.5, 1.0]);
/// assert_eq!(u.to_vec::<f32>()?, [2.0, 8.0, 0.0, -2.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn lu(a: &Array) -> Result<(Array, Array, Array)> {
    let factors = Lu::of(a)?;
    let p = apply_one(ArgSort { axis: -1 }, std::slice::from_ref(&factors.sources))?;
    Ok((p, factors.lower()?, factors.upper()?))
}

/// The LU factorisation of (..., M, N) with rows exchanged, in LAPACK's form: U with the multipliers
/// of L below its diagonal (..., M, N), and for each step the row that it exchanges with its own,
/// counted from 0 (..., K, uint32).
///
/// # Errors
/// Where `a` is not of matrices of float32 or float64.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[1.0f32, 2.0, 2.0, 8.0], [2, 2])?;
/// let (lu, pivots) = linalg::lu_factor(&a)?;
/// assert_eq!(lu.to_vec::<f32>()?, [2.0, 8.0, 0.5, -2.0]);
/// assert_eq!(pivots.to_vec::<u32>()?, [1, 1]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn lu_factor(a: &Array) -> Result<(Array, Array)> {
    let factors = Lu::of(a)?;
    Ok((factors.packed, factors.exchanges))
}

/// The outputs of the primitive LUF, and what is made of them.
pub(super) struct Lu {
    pub packed: Array,
    pub exchanges: Array,
    pub sources: Array,
    rows: usize,
    columns: usize,
}

impl Lu {
    pub fn of(a: &Array) -> Result<Lu> {
        let (rows, columns) = matrix_dims("lu", a)?;
        let [packed, exchanges, sources] = super::outputs(apply(LUF, std::slice::from_ref(a))?)?;
        Ok(Lu {
            packed,
            exchanges,
            sources,
            rows,
            columns,
        })
    }

    /// L, with ones on its diagonal.
    pub fn lower(&self) -> Result<Array> {
        let k = self.rows.min(self.columns);
        let packed = leading(&self.packed, self.rows, k)?;
        let (i, j) = super::positions(self.rows, k)?;
        let unit = ops::astype(&ops::equal(&i, &j)?, packed.dtype())?;
        select(&ops::less(j, i)?, &packed, unit)
    }

    /// U.
    pub fn upper(&self) -> Result<Array> {
        let k = self.rows.min(self.columns);
        let packed = leading(&self.packed, k, self.columns)?;
        let (i, j) = super::positions(k, self.columns)?;
        select(&ops::less_equal(i, j)?, &packed, 0.0)
    }

    /// The diagonal of U (..., K).
    pub fn diagonal(&self) -> Result<Array> {
        let (i, j) = super::positions(self.rows, self.columns)?;
        let diagonal = select(&ops::equal(i, j)?, &self.packed, 0.0)?;
        ops::sum(&diagonal, -1)
    }
}
