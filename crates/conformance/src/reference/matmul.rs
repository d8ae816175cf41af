//! Matrix products: a sum for each element.

use motet_core::shape::Spec;
use num_complex::Complex64;

use super::places;
use super::reduce::float;
use crate::value::{Expected, Value};

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
