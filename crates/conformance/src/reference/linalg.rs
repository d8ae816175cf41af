//! Linear algebra: what results have to fulfil, since signs and phases are open.

use num_complex::Complex64;

use super::matmul::{Matrices, dot};
use crate::Verdict;
use crate::value::{Value, tolerance};

/// Whether `u * diag(s) * vt` is `x`, with orthogonal factors and descending singular values.
pub(super) fn svd(x: &Value, got: &[Value]) -> Verdict {
    let a = Matrices::of(x);
    let count = a.rows.min(a.columns);
    let batches = x.elements.len() / (a.rows * a.columns).max(1);
    let values = |batch: usize| {
        let all = if got.len() == 3 { &got[1] } else { &got[0] };
        let values = all.elements[batch * count..][..count].iter();
        values.map(|e| e.real()).collect::<Vec<f64>>()
    };
    for batch in 0..batches {
        let values = values(batch);
        if !values.is_sorted_by(|a, b| a >= b) || values.last().is_some_and(|&v| v < 0.0) {
            return Err(format!("singular values {values:?} do not descend"));
        }
        // The squares of the values and those of the elements have one sum.
        let elements = (0..a.rows * a.columns)
            .map(|at| a.at(batch, at / a.columns, at % a.columns).norm_sqr());
        let squares = elements.sum::<f64>();
        let sum: f64 = values.iter().map(|v| v * v).sum();
        near("the sum of squares", x, sum, squares, squares)?;
    }
    let [u, _, vt] = got else { return Ok(()) };
    let (u, vt) = (Matrices::of(u), Matrices::of(vt));
    for batch in 0..batches {
        let values = values(batch);
        let largest = values.first().copied().unwrap_or(0.0);
        for row in 0..a.rows {
            for column in 0..a.columns {
                let terms =
                    (0..count).map(|k| (u.at(batch, row, k) * values[k], vt.at(batch, k, column)));
                let product = dot(terms).0.re;
                let wanted = a.at(batch, row, column).re;
                near("the product of the factors", x, product, wanted, largest)?;
            }
        }
        orthogonal(&u, batch, x)?;
        orthogonal(&vt, batch, x)?;
    }
    Ok(())
}

/// Whether the rows of a matrix are of length one and at right angles.
fn orthogonal(m: &Matrices, batch: usize, x: &Value) -> Verdict {
    for i in 0..m.rows {
        for j in 0..m.rows {
            let terms = (0..m.columns).map(|k| (m.at(batch, i, k), m.at(batch, j, k).conj()));
            let product: Complex64 = dot(terms).0;
            let wanted = if i == j { 1.0 } else { 0.0 };
            near("the product of two rows", x, product.re, wanted, 1.0)?;
        }
    }
    Ok(())
}

/// Sums over a few rows lose a few digits.
fn near(what: &str, x: &Value, got: f64, wanted: f64, scale: f64) -> Verdict {
    let bound = 10.0 * tolerance(x.spec.dtype) * scale;
    match (got - wanted).abs() <= bound {
        true => Ok(()),
        false => Err(format!("{what} is {got}, expected {wanted} within {bound}")),
    }
}
