//! Linear algebra on each matrix of a batch.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Shape, Spec};

operation! {
    /// Singular values in descending order, with full U before and Vt after them where asked for.
    SVD {
        /// Whether U and Vt are outputs.
        compute_uv: bool => since (0, 23, 2) or true,
    }
}

impl Operation for SVD {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        let (batch, m, n) = match **shape {
            [ref batch @ .., m, n] if matches!(dtype, Dtype::Float32 | Dtype::Float64) => {
                (batch, m, n)
            }
            _ => {
                return Err(Self::error(format!(
                    "got {}, expected matrices of float32 or float64",
                    inputs[0]
                )));
            }
        };
        let output = |dims: &[usize]| {
            let shape: Shape = batch.iter().chain(dims).copied().collect();
            Spec::new(shape, *dtype)
        };
        let values = output(&[m.min(n)]);
        Ok(match self.compute_uv {
            true => vec![output(&[m, m]), values, output(&[n, n])],
            false => vec![values],
        })
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Svd))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for compute_uv in [true, false] {
            for shape in [&[5, 3][..], &[3, 5], &[2, 4, 4]] {
                samples.push((SVD { compute_uv }, vec![Spec::new(shape, Dtype::Float32)]));
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u_and_vt_are_square() {
        let input = |shape: &[usize]| [Spec::new(shape, Dtype::Float32)];
        let shapes = |op: SVD, shape: &[usize]| -> Option<Vec<Vec<usize>>> {
            let outputs = op.infer(&input(shape), None).ok()?;
            Some(outputs.iter().map(|output| output.shape.to_vec()).collect())
        };
        let full = shapes(SVD { compute_uv: true }, &[2, 5, 3]);
        assert_eq!(full, Some(vec![vec![2, 5, 5], vec![2, 3], vec![2, 3, 3]]));
        assert_eq!(
            shapes(SVD { compute_uv: false }, &[3, 5]),
            Some(vec![vec![3]])
        );
        assert_eq!(shapes(SVD { compute_uv: true }, &[3]), None);
    }
}
