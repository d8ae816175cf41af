//! Eigenvalues and singular values.

use motet_core::array::Array;
use motet_core::array::apply::{apply, apply_one};
use motet_core::error::Result;
use motet_core::ops::linalg::{Eig, Eigh, SVD};

use super::{Triangle, outputs};

/// The singular value decomposition `a = U S Vt` of (..., M, N) in full size: U (..., M, M), the
/// singular values S (..., K) in descending order, and Vt (..., N, N), the conjugate transpose of V.
/// Takes complex64 too; S is float32 then.
///
/// # Errors
/// Where `a` is not of matrices of such a dtype, or has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[0.0f32, 3.0, 2.0, 0.0], [2, 2])?;
/// let (u, s, vt) = linalg::svd(&a)?;
/// assert_eq!(s.to_vec::<f32>()?, [3.0, 2.0]);
/// assert_eq!((u.shape(), vt.shape()), (a.shape(), a.shape()));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn svd(a: &Array) -> Result<(Array, Array, Array)> {
    let svd = SVD { compute_uv: true };
    let [u, s, vt] = outputs(apply(svd, std::slice::from_ref(a))?)?;
    Ok((u, s, vt))
}

/// The singular values of [`svd`] alone: MLX's `svd` with `compute_uv=False`.
///
/// # Errors
/// As [`svd`].
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[0.0f32, 3.0, 2.0, 0.0], [2, 2])?;
/// assert_eq!(linalg::svdvals(&a)?.to_vec::<f32>()?, [3.0, 2.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn svdvals(a: &Array) -> Result<Array> {
    apply_one(SVD { compute_uv: false }, std::slice::from_ref(a))
}

/// The eigenvalues (..., M) of square matrices (..., M, M) in no particular order, and as columns
/// of a second array (..., M, M) eigenvectors of length 1. Both are complex64; takes complex64 too.
///
/// # Errors
/// Where `a` is not of square matrices of such a dtype, or has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg};
/// let turn = Array::from_slice(&[0.0f32, -1.0, 1.0, 0.0], [2, 2])?;
/// let (values, vectors) = linalg::eig(&turn)?;
/// assert_eq!(values.to_vec::<num_complex::Complex32>()?[0].im.abs(), 1.0);
/// assert_eq!(vectors.shape(), turn.shape());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn eig(a: &Array) -> Result<(Array, Array)> {
    let eig = Eig { vectors: true };
    let [values, vectors] = outputs(apply(eig, std::slice::from_ref(a))?)?;
    Ok((values, vectors))
}

/// The eigenvalues of [`eig`] alone.
///
/// # Errors
/// As [`eig`].
///
/// ```
/// # use motet::{Array, linalg};
/// let a = Array::from_slice(&[5.0f32], [1, 1])?;
/// assert_eq!(linalg::eigvals(&a)?.to_vec::<num_complex::Complex32>()?[0].re, 5.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn eigvals(a: &Array) -> Result<Array> {
    apply_one(Eig { vectors: false }, std::slice::from_ref(a))
}

/// The real eigenvalues (..., M) of symmetric or Hermitian matrices (..., M, M) in ascending order,
/// and orthonormal eigenvectors as columns of a second array (..., M, M). One triangle of `a` is
/// looked at. Takes complex64 too; the eigenvalues are float32 then.
///
/// # Errors
/// Where `a` is not of square matrices of such a dtype, or has elements that are not finite.
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let a = Array::from_slice(&[7.0f32, 0.0, 0.0, 3.0], [2, 2])?;
/// let (values, vectors) = linalg::eigh(&a, Triangle::Lower)?;
/// assert_eq!(values.to_vec::<f32>()?, [3.0, 7.0]);
/// assert_eq!(vectors.to_vec::<f32>()?[0], 0.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn eigh(a: &Array, triangle: Triangle) -> Result<(Array, Array)> {
    let eigh = Eigh {
        uplo: triangle,
        vectors: true,
    };
    let [values, vectors] = outputs(apply(eigh, std::slice::from_ref(a))?)?;
    Ok((values, vectors))
}

/// The eigenvalues of [`eigh`] alone.
///
/// # Errors
/// As [`eigh`].
///
/// ```
/// # use motet::{Array, linalg, linalg::Triangle};
/// let a = Array::from_slice(&[7.0f32, 0.0, 0.0, 3.0], [2, 2])?;
/// assert_eq!(linalg::eigvalsh(&a, Triangle::Upper)?.to_vec::<f32>()?, [3.0, 7.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn eigvalsh(a: &Array, triangle: Triangle) -> Result<Array> {
    let eigh = Eigh {
        uplo: triangle,
        vectors: false,
    };
    apply_one(eigh, std::slice::from_ref(a))
}
