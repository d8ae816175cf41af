//! Matrix products: a sum for each element.

use motet_core::shape::Spec;
use num_complex::Complex64;

use super::places;
use super::reduce::float;
use crate::value::{Expected, Scalar, Value};

/// A batch of matrices as complex numbers.
pub(super) struct Matrices {
    pub(super) rows: usize,
    pub(super) columns: usize,
    elements: Vec<Complex64>,
}

impl Matrices {
    pub(super) fn of(value: &Value) -> Matrices {
        let shape = &value.spec.shape;
        Matrices {
            rows: shape[shape.len() - 2],
            columns: shape[shape.len() - 1],
            elements: value.elements.iter().map(|e| e.complex()).collect(),
        }
    }

    pub(super) fn at(&self, matrix: usize, row: usize, column: usize) -> Complex64 {
        self.elements[(matrix * self.rows + row) * self.columns + column]
    }
}

/// The sum of products and of their sizes.
pub(super) fn dot(pairs: impl Iterator<Item = (Complex64, Complex64)>) -> (Complex64, f64) {
    pairs.fold((Complex64::ZERO, 0.0), |(sum, scale), (a, b)| {
        (sum + a * b, scale + a.norm() * b.norm())
    })
}

pub(super) fn matmul(
    inputs: &[Value],
    output: &Spec,
    alpha: f32,
    beta: Option<f32>,
) -> Vec<Expected> {
    let (a, b) = (Matrices::of(&inputs[0]), Matrices::of(&inputs[1]));
    let (alpha, beta) = (f64::from(alpha), beta.map(f64::from));
    let matrices = output.shape.size() / (a.rows * b.columns).max(1);
    let element = |(number, place): (usize, Vec<usize>)| {
        let [matrix, row, column] = place[..] else {
            panic!("three dimensions")
        };
        let terms = (0..a.columns).map(|k| (a.at(matrix, row, k), b.at(matrix, k, column)));
        let (mut sum, mut scale) = dot(terms);
        (sum, scale) = (sum * alpha, scale * alpha.abs());
        if let Some(beta) = beta {
            let c = inputs[2].elements[number].complex() * beta;
            (sum, scale) = (sum + c, scale + c.norm());
        }
        Expected {
            value: float(sum, output.dtype),
            scale,
        }
    };
    places(&[matrices, a.rows, b.columns])
        .enumerate()
        .map(element)
        .collect()
}

/// The numbers of an input of indices into a batch.
fn picks(indices: &Value) -> Vec<usize> {
    let pick = |index: &Scalar| usize::try_from(index.int()).expect("samples are in range");
    indices.elements.iter().map(pick).collect()
}

pub(super) fn gathered(inputs: &[Value], output: &Spec) -> Vec<Expected> {
    let (a, b) = (Matrices::of(&inputs[0]), Matrices::of(&inputs[1]));
    let (lhs, rhs) = (picks(&inputs[2]), picks(&inputs[3]));
    let element = |place: Vec<usize>| {
        let [at, row, column] = place[..] else {
            panic!("three dimensions")
        };
        let terms = (0..a.columns).map(|k| (a.at(lhs[at], row, k), b.at(rhs[at], k, column)));
        let (sum, scale) = dot(terms);
        let value = float(sum, output.dtype);
        Expected { value, scale }
    };
    places(&[lhs.len(), a.rows, b.columns])
        .map(element)
        .collect()
}

pub(super) fn block_masked(inputs: &[Value], output: &Spec, block_size: usize) -> Vec<Expected> {
    let (a, b) = (Matrices::of(&inputs[0]), Matrices::of(&inputs[1]));
    let masks: Vec<Matrices> = inputs[2..].iter().map(Matrices::of).collect();
    // The factors of the result's tiles, of a's and of b's.
    let (out, lhs, rhs) = match &masks[..] {
        [out] => (Some(out), None, None),
        [lhs, rhs] => (None, Some(lhs), Some(rhs)),
        [out, lhs, rhs] => (Some(out), Some(lhs), Some(rhs)),
        _ => panic!("one to three masks"),
    };
    let factor = |mask: Option<&Matrices>, matrix: usize, row: usize, column: usize| match mask {
        Some(mask) => mask.at(matrix, row / block_size, column / block_size),
        None => Complex64::ONE,
    };
    let matrices = output.shape.size() / (a.rows * b.columns).max(1);
    let element = |place: Vec<usize>| {
        let [matrix, row, column] = place[..] else {
            panic!("three dimensions")
        };
        let terms = (0..a.columns).map(|k| {
            let a = a.at(matrix, row, k) * factor(lhs, matrix, row, k);
            (a, b.at(matrix, k, column) * factor(rhs, matrix, k, column))
        });
        let (sum, scale) = dot(terms);
        let factor = factor(out, matrix, row, column);
        let value = float(sum * factor, output.dtype);
        Expected {
            value,
            scale: scale * factor.norm(),
        }
    };
    places(&[matrices, a.rows, b.columns])
        .map(element)
        .collect()
}
