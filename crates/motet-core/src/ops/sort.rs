//! Sorting. Ascending and stable, NaN last; a partition is a full sort, which is a legal one.

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

#[cfg(test)]
mod tests {
    use super::*;

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
