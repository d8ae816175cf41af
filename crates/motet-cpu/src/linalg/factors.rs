//! Factorisations and inverses: done after a number of steps that the shape decides.

use faer::linalg::solvers::DenseSolveCore;
use faer::linalg::triangular_inverse::{invert_lower_triangular, invert_upper_triangular};
use faer::{MatRef, Par, Side};
use motet_core::error::{Error, Result};
use motet_core::kernel::Triangle;

use super::{Parts, Scalar, check_finite, has};

/// L of `A = L L^T`, or U of `A = U^T U`.
pub(super) fn cholesky<T: Scalar>(
    x: MatRef<'_, T>,
    triangle: Triangle,
    mut out: Parts<'_>,
) -> Result<()> {
    check_finite("Cholesky", x, |i, j| has(triangle, i, j))?;
    let mut factor = out.next_matrix::<T>(x.nrows(), x.ncols())?;
    let side = match triangle {
        Triangle::Lower => Side::Lower,
        Triangle::Upper => Side::Upper,
    };
    let llt = x.llt(side).map_err(|_| {
        Error::invalid(
            "Cholesky",
            "a matrix is not positive definite, so it has no such factor",
        )
    })?;
    match triangle {
        Triangle::Lower => factor.copy_from(llt.L()),
        Triangle::Upper => factor.copy_from(llt.L().transpose()),
    }
    Ok(())
}

/// The inverse.
pub(super) fn inverse<T: Scalar>(x: MatRef<'_, T>, mut out: Parts<'_>) -> Result<()> {
    check_finite("Inverse", x, |_, _| true)?;
    let mut inverse = out.next_matrix::<T>(x.nrows(), x.ncols())?;
    if x.nrows() > 0 {
        let lu = x.partial_piv_lu();
        check_diagonal(lu.U())?;
        inverse.copy_from(lu.inverse());
    }
    Ok(())
}

/// The inverse of a triangle, zero elsewhere.
pub(super) fn triangular_inverse<T: Scalar>(
    x: MatRef<'_, T>,
    triangle: Triangle,
    mut out: Parts<'_>,
) -> Result<()> {
    check_finite("Inverse", x, |i, j| has(triangle, i, j))?;
    check_diagonal(x)?;
    let mut inverse = out.next_matrix::<T>(x.nrows(), x.ncols())?;
    inverse.fill(T::ZERO);
    match triangle {
        Triangle::Lower => invert_lower_triangular(inverse, x, Par::Seq),
        Triangle::Upper => invert_upper_triangular(inverse, x, Par::Seq),
    }
    Ok(())
}

/// Refuses a triangular matrix without inverse.
fn check_diagonal<T: Scalar>(x: MatRef<'_, T>) -> Result<()> {
    match (0..x.nrows()).any(|i| x[(i, i)].is_zero()) {
        true => Err(Error::invalid(
            "Inverse",
            "a matrix is singular, so it has no inverse",
        )),
        false => Ok(()),
    }
}

/// L and U in one matrix, the exchanges, and the rows that they lead to.
pub(super) fn lu<T: Scalar>(x: MatRef<'_, T>, mut out: Parts<'_>) -> Result<()> {
    let (m, n) = x.shape();
    let lu = x.partial_piv_lu();
    let mut factors = out.next_matrix::<T>(m, n)?;
    for i in 0..m {
        for j in 0..n {
            factors[(i, j)] = if j < i {
                lu.L()[(i, j)]
            } else {
                lu.U()[(i, j)]
            };
        }
    }
    let (exchanges, sources) = (out.next::<u32>()?, out.next::<u32>()?);
    for (source, &row) in sources.iter_mut().zip(lu.P().arrays().0) {
        *source = row as u32;
    }
    // Which exchanges lead to these rows: each step brings its row to its place for good.
    let mut rows: Vec<u32> = (0..m as u32).collect();
    let mut places = rows.clone();
    for (i, exchange) in exchanges.iter_mut().enumerate() {
        let place = places[sources[i] as usize];
        *exchange = place;
        rows.swap(i, place as usize);
        places[rows[place as usize] as usize] = place;
    }
    Ok(())
}

/// Q and R.
pub(super) fn qr<T: Scalar>(x: MatRef<'_, T>, mut out: Parts<'_>) -> Result<()> {
    check_finite("QRF", x, |_, _| true)?;
    let (m, n) = x.shape();
    let k = m.min(n);
    let (mut q, mut r) = (out.next_matrix::<T>(m, k)?, out.next_matrix::<T>(k, n)?);
    if k > 0 {
        let qr = x.qr();
        q.copy_from(qr.compute_thin_Q());
        r.copy_from(qr.thin_R());
    }
    Ok(())
}
