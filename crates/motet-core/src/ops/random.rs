//! Random numbers. Distributions are graphs around one primitive that makes bits from keys.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Shape, Spec};

operation! {
    /// Random integers for each key, a pair of uint32 in the last dimension of input 0: an array of
    /// the keys' other dimensions followed by `shape`.
    RandomBits {
        /// The shape for one key.
        shape: Shape,
        /// Bytes of an integer: 1, 2 or 4.
        width: i32,
    }
}

impl Operation for RandomBits {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let dtype = match self.width {
            1 => Dtype::Uint8,
            2 => Dtype::Uint16,
            4 => Dtype::Uint32,
            width => {
                return Err(Self::error(format!(
                    "got width {width}, expected 1, 2 or 4"
                )));
            }
        };
        match (inputs[0].dtype, inputs[0].shape.split_last()) {
            (Dtype::Uint32, Some((2, keys))) => {
                Ok(vec![Spec::new([keys, &*self.shape].concat(), dtype)])
            }
            _ => Err(Self::error(format!(
                "got {} as keys, expected uint32 with a last dimension of 2",
                inputs[0]
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::RandomBits))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for width in [1, 2, 4] {
            for (shape, keys) in [
                (&[5, 3][..], &[2][..]),
                (&[], &[2]),
                (&[8], &[3, 4, 2]),
                (&[0], &[2]),
                (&[7], &[0, 2]),
            ] {
                let shape = Shape::new(shape);
                let op = RandomBits { shape, width };
                samples.push((op, vec![Spec::new(keys, Dtype::Uint32)]));
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pairs_and_widths_are_those_of_integers() {
        let bits = |width, shape: &[usize], keys: Spec| {
            let shape = Shape::new(shape);
            let outputs = crate::ops::infer(&RandomBits { shape, width }, &[keys], None);
            outputs.ok().map(|outputs| outputs[0].clone())
        };
        let keys = |shape: &[usize]| Spec::new(shape, Dtype::Uint32);
        assert_eq!(
            bits(2, &[5], keys(&[3, 2])),
            Some(Spec::new([3, 5], Dtype::Uint16))
        );
        for width in [0, 3, 8, -1] {
            assert_eq!(bits(width, &[5], keys(&[2])), None);
        }
        assert_eq!(bits(4, &[5], keys(&[])), None);
        assert_eq!(bits(4, &[5], keys(&[3])), None);
        assert_eq!(bits(4, &[5], Spec::new([2], Dtype::Int32)), None);
        let huge = 1 << 30;
        assert_eq!(bits(4, &[huge, huge, huge], keys(&[2])), None);
    }
}
