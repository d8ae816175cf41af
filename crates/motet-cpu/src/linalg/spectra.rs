//! Eigenvalues and singular values: found by iterations, which may fail to converge.

use faer::traits::math_utils::{from_real, real};
use faer::{MatMut, MatRef, Side};
use motet_core::error::{Error, Result};
use motet_core::kernel::Triangle;
use num_complex::Complex32;

use super::{Parts, Scalar, check_finite, has};

/// Complex eigenvalues, and unit eigenvectors where asked for.
pub(super) fn eig<T: Scalar>(x: MatRef<'_, T>, mut out: Parts<'_>) -> Result<()> {
    check_finite("Eig", x, |_, _| true)?;
    let n = x.nrows();
    let only_values = out.is_last();
    let values = out.next::<Complex32>()?;
    if n == 0 {
        return Ok(());
    }
    let failed = |_| no_convergence("Eig");
    if only_values {
        let found = x.eigenvalues().map_err(failed)?;
        for (value, found) in values.iter_mut().zip(found) {
            *value = narrow(wide(found.re), wide(found.im));
        }
        return Ok(());
    }
    let eigen = x.eigen().map_err(failed)?;
    for (value, found) in values.iter_mut().zip(eigen.S().column_vector().iter()) {
        *value = narrow(wide(found.re), wide(found.im));
    }
    let mut vectors = out.next_matrix::<Complex32>(n, n)?;
    for (vector, found) in vectors.as_mut().col_iter_mut().zip(eigen.U().col_iter()) {
        let norm = wide(found.norm_l2());
        for (x, found) in vector.iter_mut().zip(found.iter()) {
            *x = narrow(wide(found.re) / norm, wide(found.im) / norm);
        }
    }
    Ok(())
}

fn wide(x: impl Into<f64>) -> f64 {
    x.into()
}

fn narrow(re: f64, im: f64) -> Complex32 {
    Complex32::new(re as f32, im as f32)
}

/// Ascending eigenvalues, and orthonormal eigenvectors where asked for.
pub(super) fn eigh<T: Scalar>(
    x: MatRef<'_, T>,
    triangle: Triangle,
    mut out: Parts<'_>,
) -> Result<()> {
    check_finite("Eigh", x, |i, j| has(triangle, i, j))?;
    let only_values = out.is_last();
    let values = out.next::<T::Real>()?;
    if x.nrows() == 0 {
        return Ok(());
    }
    let side = match triangle {
        Triangle::Lower => Side::Lower,
        Triangle::Upper => Side::Upper,
    };
    // The diagonal of what is Hermitian is real; LAPACK reads no imaginary parts there.
    let mut x = x.to_owned();
    x.diagonal_mut()
        .column_vector_mut()
        .iter_mut()
        .for_each(|x| *x = from_real(&real(x)));
    let failed = |_| no_convergence("Eigh");
    if only_values {
        let found = x.self_adjoint_eigenvalues(side).map_err(failed)?;
        values.copy_from_slice(&found);
        return Ok(());
    }
    let eigen = x.self_adjoint_eigen(side).map_err(failed)?;
    for (value, found) in values.iter_mut().zip(eigen.S().column_vector().iter()) {
        *value = real(found);
    }
    let mut vectors = out.next_matrix::<T>(x.nrows(), x.ncols())?;
    vectors.copy_from(eigen.U());
    Ok(())
}

/// Singular values, and full U and the conjugate transpose of V around them where asked for.
pub(super) fn svd<T: Scalar>(x: MatRef<'_, T>, mut out: Parts<'_>) -> Result<()> {
    check_finite("SVD", x, |_, _| true)?;
    let (m, n) = x.shape();
    let failed = |_| no_convergence("SVD");
    if out.is_last() {
        let values = out.next::<T::Real>()?;
        if !values.is_empty() {
            values.copy_from_slice(&x.singular_values().map_err(failed)?);
        }
        return Ok(());
    }
    let mut u = out.next_matrix::<T>(m, m)?;
    let values = out.next::<T::Real>()?;
    let mut vh = out.next_matrix::<T>(n, n)?;
    if values.is_empty() {
        // Nothing to decompose: any orthogonal matrices will do.
        identity(u);
        identity(vh);
        return Ok(());
    }
    let svd = x.svd().map_err(failed)?;
    u.copy_from(svd.U());
    for (value, found) in values.iter_mut().zip(svd.S().column_vector().iter()) {
        *value = real(found);
    }
    vh.copy_from(svd.V().adjoint());
    Ok(())
}

fn identity<T: Scalar>(mut matrix: MatMut<'_, T>) {
    matrix.fill(T::ZERO);
    matrix.diagonal_mut().fill(T::ONE);
}

fn no_convergence(op: &str) -> Error {
    Error::invalid(op, "the iterations for a matrix do not converge")
}
