//! Matrix products. Operands have at least two dimensions and equal batch dimensions: broadcasting
//! is a node of its own.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, same_dtype, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::Spec;

operation! {
    /// `a @ b`.
    Matmul;
}

operation! {
    /// `alpha * (a @ b) + beta * c`, with c in the output's shape.
    AddMM {
        /// Scale of the product.
        alpha: f32,
        /// Scale of c.
        beta: f32,
    }
}

/// The spec of `a @ b`.
fn product<T: State>(a: &Spec, b: &Spec) -> Result<Spec> {
    let rank = a.shape.len();
    let fits = rank >= 2
        && rank == b.shape.len()
        && a.shape[..rank - 2] == b.shape[..rank - 2]
        && a.shape[rank - 1] == b.shape[rank - 2];
    match fits && a.dtype == b.dtype && a.dtype.is_inexact() {
        true => Ok(Spec::new(
            with_dim(&a.shape, rank - 1, b.shape[rank - 1]),
            a.dtype,
        )),
        false => Err(T::error(format!(
            "{a} and {b}: expected (..., M, K) and (..., K, N) of one floating dtype"
        ))),
    }
}

impl Operation for Matmul {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        Ok(vec![product::<Self>(&inputs[0], &inputs[1])?])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (alpha, beta) = (1.0, None);
        Ok(Lowered::Kernel(Kernel::Matmul { alpha, beta }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        operands()
            .into_iter()
            .map(|(a, b)| (Matmul, vec![a, b]))
            .collect()
    }
}

impl Operation for AddMM {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let product = product::<Self>(&inputs[0], &inputs[1])?;
        same_dtype(Self::NAME, inputs)?;
        // A file for any shape may have broadcast a bias to the shape of its trace.
        match inputs[2].shape == product.shape {
            true => Ok(vec![product]),
            false => Err(Self::error(format!(
                "got c of shape {}, expected {} as the product has",
                inputs[2].shape, product.shape
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (alpha, beta) = (self.alpha, Some(self.beta));
        Ok(Lowered::Kernel(Kernel::Matmul { alpha, beta }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for (a, b) in operands() {
            for (alpha, beta) in [(1.0, 1.0), (0.5, -2.0), (1.0, 0.0)] {
                let c = product::<Self>(&a, &b).into_iter();
                let inputs = c.map(|c| vec![a.clone(), b.clone(), c]);
                samples.extend(inputs.map(|inputs| (AddMM { alpha, beta }, inputs)));
            }
        }
        samples
    }
}

/// Operands for samples: all dtypes, vectors, batches, empty ones, sizes beside those of tiles.
fn operands() -> Vec<(Spec, Spec)> {
    let pair = |a: &[usize], b: &[usize], dtype| (Spec::new(a, dtype), Spec::new(b, dtype));
    let inexact = Dtype::ALL.into_iter().filter(|dtype| dtype.is_inexact());
    let mut pairs: Vec<_> = inexact.map(|dtype| pair(&[3, 4], &[4, 5], dtype)).collect();
    for (a, b) in [
        (&[1, 7][..], &[7, 9][..]),
        (&[7, 9], &[9, 1]),
        (&[2, 3, 5, 4], &[2, 3, 4, 6]),
        (&[3, 0], &[0, 2]),
        (&[0, 3], &[3, 2]),
        (&[37, 65], &[65, 33]),
    ] {
        pairs.push(pair(a, b, Dtype::Float32));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_to_fit() {
        let matmul = |a: &[usize], b: &[usize]| {
            let inputs = [Spec::new(a, Dtype::Float32), Spec::new(b, Dtype::Float32)];
            let outputs = Matmul.infer(&inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(matmul(&[2, 3], &[3, 4]), Some(vec![2, 4]));
        assert_eq!(matmul(&[5, 2, 3], &[5, 3, 4]), Some(vec![5, 2, 4]));
        assert_eq!(matmul(&[5, 2, 3], &[1, 3, 4]), None);
        assert_eq!(matmul(&[2, 3], &[2, 3]), None);
        assert_eq!(matmul(&[3], &[3]), None);
        assert_eq!(matmul(&[2, 2, 3], &[3, 4]), None);
        let ints = vec![Spec::new([2, 2], Dtype::Int32); 2];
        assert!(Matmul.infer(&ints, None).is_err());
    }

    #[test]
    fn c_has_the_shape_of_the_product() {
        let addmm = AddMM {
            alpha: 1.0,
            beta: 1.0,
        };
        let square = || Spec::new([2, 2], Dtype::Float32);
        assert!(addmm.infer(&[square(), square(), square()], None).is_ok());
        for c in [
            Spec::new([2], Dtype::Float32),
            Spec::new([2, 2], Dtype::Float16),
        ] {
            assert!(addmm.infer(&[square(), square(), c], None).is_err());
        }
    }
}
