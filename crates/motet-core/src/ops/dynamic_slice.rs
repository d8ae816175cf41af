//! Blocks whose position is data. It is known when a kernel runs: the kernel checks it. All else is
//! checked here.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, normalize_axes, same_dtype};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Axes, Shape, Spec};

operation! {
    /// The block of input 0 that starts at the position in input 1: a scalar or vector with an
    /// integer for each of `axes`.
    DynamicSlice {
        /// The dimensions that a position is given for; it is 0 in others.
        axes: Vec<i32>,
        /// The shape of the block.
        slice_sizes: Shape,
    }
}

operation! {
    /// Copy of input 0 with the block in input 1 written to the position in input 2: a scalar or
    /// vector with an integer for each of `axes`.
    DynamicSliceUpdate {
        /// The dimensions that a position is given for; it is 0 in others.
        axes: Vec<i32>,
    }
}

/// The dimensions, if a block of this shape fits into `x` and `start` has a position for each.
fn axes<T: State>(axes: &[i32], x: &Spec, block: &Shape, start: &Spec) -> Result<Axes> {
    let normal = normalize_axes(T::NAME, axes, x.shape.len())?;
    let mut both = block.iter().zip(x.shape.iter());
    if block.len() != x.shape.len() || !both.all(|(block, dim)| block <= dim) {
        return Err(T::error(format!(
            "a block of shape {block} does not fit into {x}"
        )));
    }
    let positions = start.shape.len() <= 1 && start.shape.size() == normal.len();
    match positions && start.dtype.is_integer() {
        true => Ok(normal),
        false => Err(T::error(format!(
            "got {start} as the position, expected {} integers for axes {axes:?}",
            normal.len()
        ))),
    }
}

impl Operation for DynamicSlice {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        axes::<Self>(&self.axes, &inputs[0], &self.slice_sizes, &inputs[1])?;
        Ok(vec![Spec::new(self.slice_sizes.clone(), inputs[0].dtype)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axes = axes::<Self>(&self.axes, &inputs[0], &self.slice_sizes, &inputs[1])?;
        Ok(Lowered::Kernel(Kernel::DynamicSlice { axes }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axes: &[i32], block: &[usize], start: &[usize], x, index| {
            let op = DynamicSlice {
                axes: axes.to_vec(),
                slice_sizes: Shape::new(block),
            };
            (op, vec![Spec::new([4, 5, 6], x), Spec::new(start, index)])
        };
        let dtypes = Dtype::ALL
            .into_iter()
            .map(|dtype| sample(&[0, 2], &[3, 5, 2], &[2], dtype, Dtype::Int32));
        let indices = Dtype::ALL.into_iter().filter(|dtype| dtype.is_integer());
        let indices = indices.map(|index| sample(&[-2], &[1, 1, 6], &[], Dtype::Float32, index));
        let none = sample(&[], &[4, 2, 6], &[0], Dtype::Float32, Dtype::Uint32);
        dtypes.chain(indices).chain([none]).collect()
    }
}

impl Operation for DynamicSliceUpdate {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, &inputs[..2])?;
        axes::<Self>(&self.axes, &inputs[0], &inputs[1].shape, &inputs[2])?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axes = axes::<Self>(&self.axes, &inputs[0], &inputs[1].shape, &inputs[2])?;
        Ok(Lowered::Kernel(Kernel::DynamicSliceUpdate { axes }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let slices = DynamicSlice::samples().into_iter();
        slices
            .map(|(DynamicSlice { axes, slice_sizes }, inputs)| {
                let update = Spec::new(slice_sizes, inputs[0].dtype);
                let inputs = vec![inputs[0].clone(), update, inputs[1].clone()];
                (DynamicSliceUpdate { axes }, inputs)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Float32)
    }

    fn index(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Int64)
    }

    fn ok(op: &impl Operation, inputs: &[Spec]) -> bool {
        crate::ops::infer(op, inputs, None).is_ok()
    }

    #[test]
    fn blocks_have_to_fit_and_positions_to_be_integers() {
        let slice = |axes: &[i32], block: &[usize], start: Spec| {
            let op = DynamicSlice {
                axes: axes.to_vec(),
                slice_sizes: Shape::new(block),
            };
            ok(&op, &[float(&[4, 5]), start])
        };
        assert!(slice(&[0, 1], &[4, 1], index(&[2])));
        assert!(slice(&[-1], &[2, 5], index(&[])));
        assert!(slice(&[], &[0, 5], index(&[0])));
        assert!(!slice(&[0], &[5, 5], index(&[])));
        assert!(!slice(&[0], &[4], index(&[])));
        assert!(!slice(&[0, 0], &[1, 1], index(&[2])));
        assert!(!slice(&[2], &[1, 1], index(&[1])));
        assert!(!slice(&[0], &[1, 1], index(&[2])));
        assert!(!slice(&[0], &[1, 1], index(&[1, 1])));
        assert!(!slice(&[0], &[1, 1], float(&[1])));
    }

    #[test]
    fn updates_are_blocks_of_the_same_dtype() {
        let update = DynamicSliceUpdate { axes: vec![1] };
        let x = || float(&[4, 5]);
        assert!(ok(&update, &[x(), float(&[4, 2]), index(&[1])]));
        assert!(!ok(&update, &[x(), index(&[4, 2]), index(&[1])]));
        assert!(!ok(&update, &[x(), float(&[4, 6]), index(&[1])]));
        assert!(!ok(&update, &[x(), float(&[2]), index(&[1])]));
    }
}
