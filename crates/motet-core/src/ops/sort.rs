//! Sorting, and searching what is sorted. Ascending and stable, NaN last; a partition is a full
//! sort, which is a legal one.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Spec, normalize_axis};

operation! {
    /// The elements along a dimension in ascending order.
    Sort {
        /// The dimension.
        axis: i32,
    }
}

operation! {
    /// The indices (uint32) that sort a dimension.
    ArgSort {
        /// The dimension.
        axis: i32,
    }
}

operation! {
    /// The elements along a dimension with one in the place that sorting gives it, smaller ones
    /// before and larger ones after it.
    Partition {
        /// The place.
        kth: i32,
        /// The dimension.
        axis: i32,
    }
}

operation! {
    /// The indices (uint32) that partition a dimension.
    ArgPartition {
        /// The place, as in [`Partition`].
        kth: i32,
        /// The dimension.
        axis: i32,
    }
}

operation! {
    /// For each element of input 1 the number (uint32) of elements of input 0, a sorted vector, that
    /// are smaller.
    SearchSorted {
        /// Smaller or equal.
        right: bool,
    }
}

macro_rules! sorts {
    ($($name:ident indices: $indices:literal, kth: |$op:ident| $kth:expr,
       samples: |$axis:ident| $sample:expr;)*) => {$(
        impl Operation for $name {
            fn arity(&self) -> RangeInclusive<usize> {
                1..=1
            }

            fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
                let Spec { shape, dtype } = &inputs[0];
                let axis = normalize_axis(Self::NAME, self.axis.into(), shape.len())?;
                let $op = self;
                let kth: Option<i32> = $kth;
                if let Some(kth) = kth {
                    normalize_axis(Self::NAME, kth.into(), shape[axis]).map_err(|_| {
                        Self::error(format!("axis {axis} of {shape} has no element {kth}"))
                    })?;
                }
                let dtype = if $indices { Dtype::Uint32 } else { *dtype };
                Ok(vec![Spec::new(shape.clone(), dtype)])
            }

            fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
                let axis = normalize_axis(Self::NAME, self.axis.into(), inputs[0].shape.len())?;
                Ok(Lowered::Kernel(Kernel::Sort { axis, indices: $indices }))
            }

            fn samples() -> Vec<(Self, Vec<Spec>)> {
                let mut samples = Vec::new();
                for dtype in Dtype::ALL {
                    for $axis in [0, -1] {
                        samples.push(($sample, vec![Spec::new([4, 9], dtype)]));
                    }
                }
                samples
            }
        }
    )*};
}

sorts! {
    Sort indices: false, kth: |_op| None, samples: |axis| Sort { axis };
    ArgSort indices: true, kth: |_op| None, samples: |axis| ArgSort { axis };
    Partition indices: false, kth: |op| Some(op.kth), samples: |axis| Partition { kth: 2, axis };
    ArgPartition indices: true, kth: |op| Some(op.kth), samples: |axis| ArgPartition { kth: 2, axis };
}

impl Operation for SearchSorted {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (sorted, values) = (&inputs[0], &inputs[1]);
        match sorted.shape.len() == 1 && sorted.dtype == values.dtype {
            true => Ok(vec![Spec::new(values.shape.clone(), Dtype::Uint32)]),
            false => Err(Self::error(format!(
                "got {sorted} and {values}, expected a vector and values of its dtype"
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let right = self.right;
        Ok(Lowered::Kernel(Kernel::SearchSorted { right }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for right in [false, true] {
            for dtype in Dtype::ALL {
                let inputs = vec![Spec::new([9], dtype), Spec::new([2, 3], dtype)];
                samples.push((SearchSorted { right }, inputs));
            }
            let empty = vec![
                Spec::new([0], Dtype::Float32),
                Spec::new([], Dtype::Float32),
            ];
            samples.push((SearchSorted { right }, empty));
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_in_a_vector_of_the_same_dtype() {
        let search = |sorted: &[usize], dtype| {
            let inputs = [Spec::new(sorted, dtype), Spec::new([2, 3], Dtype::Float32)];
            let outputs = SearchSorted { right: false }.infer(&inputs, None).ok()?;
            Some(outputs[0].clone())
        };
        let counts = Spec::new([2, 3], Dtype::Uint32);
        assert_eq!(search(&[5], Dtype::Float32), Some(counts));
        assert_eq!(search(&[5], Dtype::Int32), None);
        assert_eq!(search(&[5, 1], Dtype::Float32), None);
        assert_eq!(search(&[], Dtype::Float32), None);
    }

    #[test]
    fn indices_are_uint32_and_bounds_are_checked() {
        let input = [Spec::new([4, 2], Dtype::Float16)];
        assert_eq!(Sort { axis: -1 }.infer(&input, None).unwrap(), input);
        let indices = ArgSort { axis: 0 }.infer(&input, None).unwrap();
        assert_eq!(indices, [Spec::new([4, 2], Dtype::Uint32)]);
        assert!(Sort { axis: 2 }.infer(&input, None).is_err());
        assert!(Partition { kth: 3, axis: 0 }.infer(&input, None).is_ok());
        assert!(Partition { kth: 4, axis: 0 }.infer(&input, None).is_err());
        assert!(
            ArgPartition { kth: 2, axis: 1 }
                .infer(&input, None)
                .is_err()
        );
    }
}
