//! Gathering and scattering by indices. What the indices are is known when a kernel runs: it checks
//! them. All else is checked here.

use std::ops::RangeInclusive;

use super::state::{Field, operation};
use super::{Lowered, Operation, State, normalize_axes, same_dtype};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::export::codec::{Reader, Version, Writer};
use crate::kernel::{Kernel, Update};
use crate::shape::{Shape, Spec, normalize_axis};

/// The common shape of index inputs, which have one integer dtype.
pub(super) fn index_shape<T: State>(indices: &[Spec]) -> Result<Shape> {
    let Some(first) = indices.first() else {
        return Ok(Shape::default());
    };
    match first.dtype.is_integer() && indices.iter().all(|index| index == first) {
        true => Ok(first.shape.clone()),
        false => Err(T::error(format!(
            "indices have to be integers of one dtype and shape: got {indices:?}"
        ))),
    }
}

/// For samples: every dtype of elements with one of indices, and the other way around.
fn index_dtypes() -> impl Iterator<Item = [Dtype; 2]> {
    let elements = Dtype::ALL.map(|dtype| [dtype, Dtype::Uint32]);
    let indices = Dtype::ALL.into_iter().filter(|dtype| dtype.is_integer());
    let indices = indices.map(|index| [Dtype::Float32, index]);
    elements.into_iter().chain(indices)
}

/// Refuses blocks that do not fit into an array of this shape.
fn check_block<T: State>(block: &[usize], shape: &Shape) -> Result<()> {
    let fits = block.len() == shape.len() && block.iter().zip(shape.iter()).all(|(b, s)| b <= s);
    match fits {
        true => Ok(()),
        false => Err(T::error(format!(
            "blocks of {} do not fit into {shape}",
            Shape::new(block)
        ))),
    }
}

operation! {
    /// Blocks of input 0 at indices: for inputs of shape `I`, an array of shape `I + slice_sizes`.
    Gather {
        /// The dimension that each index input is for.
        axes: Vec<i32>,
        /// The size of a block.
        slice_sizes: Shape,
    }
}

impl Operation for Gather {
    fn arity(&self) -> RangeInclusive<usize> {
        let inputs = self.axes.len().saturating_add(1);
        inputs..=inputs
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        normalize_axes(Self::NAME, &self.axes, shape.len())?;
        let indices = index_shape::<Self>(&inputs[1..])?;
        check_block::<Self>(&self.slice_sizes, shape)?;
        Ok(vec![Spec::new(
            [&*indices, &*self.slice_sizes].concat(),
            *dtype,
        )])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Gather {
            axes: normalize_axes(Self::NAME, &self.axes, inputs[0].shape.len())?,
            slice_sizes: self.slice_sizes.clone(),
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axes: &[i32], slice_sizes: &[usize], index: &[usize], dtypes: [Dtype; 2]| {
            let op = Gather {
                axes: axes.to_vec(),
                slice_sizes: Shape::new(slice_sizes),
            };
            let mut inputs = vec![Spec::new([4, 5, 6], dtypes[0])];
            inputs.resize(1 + axes.len(), Spec::new(index, dtypes[1]));
            (op, inputs)
        };
        let mut samples = vec![
            sample(&[0, 2], &[1, 5, 1], &[7], [Dtype::Float16, Dtype::Int32]),
            sample(&[1], &[2, 1, 6], &[], [Dtype::Int8, Dtype::Int32]),
            sample(&[], &[4, 1, 6], &[], [Dtype::Bool, Dtype::Int32]),
        ];
        samples.extend(index_dtypes().map(|dtypes| sample(&[0], &[1, 5, 6], &[2, 3], dtypes)));
        samples
    }
}

operation! {
    /// `out[..., j, ...] = x[..., indices[..., j, ...], ...]` along a dimension.
    GatherAxis {
        /// The dimension.
        axis: i32,
    }
}

/// The dimension, if `indices` are as `x` in all others.
fn along<T: State>(axis: i32, x: &Spec, indices: &Spec) -> Result<usize> {
    let axis = normalize_axis(T::NAME, axis.into(), x.shape.len())?;
    let agree = |(i, (a, b)): (usize, (&usize, &usize))| i == axis || a == b;
    let fits = x.shape.len() == indices.shape.len()
        && x.shape
            .iter()
            .zip(indices.shape.iter())
            .enumerate()
            .all(agree);
    match fits && indices.dtype.is_integer() {
        true => Ok(axis),
        false => Err(T::error(format!(
            "indices {indices} are not integers that agree with {x} beside axis {axis}"
        ))),
    }
}

impl Operation for GatherAxis {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        along::<Self>(self.axis, &inputs[0], &inputs[1])?;
        Ok(vec![Spec::new(inputs[1].shape.clone(), inputs[0].dtype)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axis = along::<Self>(self.axis, &inputs[0], &inputs[1])?;
        Ok(Lowered::Kernel(Kernel::GatherAxis { axis }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axis, indices: &[usize], dtypes: [Dtype; 2]| {
            let x = Spec::new([4, 5], dtypes[0]);
            (GatherAxis { axis }, vec![x, Spec::new(indices, dtypes[1])])
        };
        let mut samples = vec![sample(-1, &[4, 2], [Dtype::Float32, Dtype::Int64])];
        samples.extend(index_dtypes().map(|dtypes| sample(0, &[7, 5], dtypes)));
        samples
    }
}

operation! {
    /// Copy of input 0 with the blocks of the last input combined in at the indices between.
    Scatter {
        /// How an update combines with what is there.
        op: Update,
        /// The dimension that each index input is for.
        axes: Vec<i32>,
    }
}

impl Operation for Scatter {
    fn arity(&self) -> RangeInclusive<usize> {
        let inputs = self.axes.len().saturating_add(2);
        inputs..=inputs
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (x, updates) = (&inputs[0], &inputs[inputs.len() - 1]);
        normalize_axes(Self::NAME, &self.axes, x.shape.len())?;
        let indices = index_shape::<Self>(&inputs[1..inputs.len() - 1])?;
        match updates.shape.strip_prefix(&*indices) {
            Some(block) if updates.dtype == x.dtype => check_block::<Self>(block, &x.shape)?,
            _ => {
                return Err(Self::error(format!(
                    "updates {updates} for indices of shape {indices} into {x}"
                )));
            }
        }
        Ok(vec![x.clone()])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Scatter {
            op: self.op,
            axes: normalize_axes(Self::NAME, &self.axes, inputs[0].shape.len())?,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        use Update::*;
        let mut samples = Vec::new();
        for op in [Max, Min, Sum, Prod, Set] {
            let mut sample = |axes: &[i32], index: &[usize], updates: &[usize], dtype| {
                let mut inputs = vec![Spec::new([4, 5], dtype)];
                inputs.resize(1 + axes.len(), Spec::new(index, Dtype::Int32));
                inputs.push(Spec::new(updates, dtype));
                samples.push((
                    Scatter {
                        op,
                        axes: axes.to_vec(),
                    },
                    inputs,
                ));
            };
            for dtype in Dtype::ALL {
                sample(&[0], &[3], &[3, 1, 5], dtype);
            }
            sample(&[0, 1], &[2, 2], &[2, 2, 1, 1], Dtype::Int32);
            sample(&[1], &[], &[2, 3], Dtype::Float16);
            sample(&[], &[], &[4, 2], Dtype::Float32);
        }
        samples
    }
}

operation! {
    /// Copy of input 0 with the updates (input 2) combined in at the indices (input 1) along a
    /// dimension.
    ScatterAxis {
        /// How an update combines with what is there.
        op: AxisUpdate,
        /// The dimension.
        axis: i32,
    }
}

/// How a [`ScatterAxis`] combines: only `Sum` and `Set` exist, which it numbers in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AxisUpdate(pub Update);

impl Field for AxisUpdate {
    fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self> {
        match reader.i32()? {
            0 => Ok(AxisUpdate(Update::Sum)),
            1 => Ok(AxisUpdate(Update::Set)),
            code => Err(reader.error(format!("got {code} for AxisUpdate, expected 0 or 1"))),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.i32(i32::from(self.0 == Update::Set));
    }
}

impl Operation for ScatterAxis {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (x, indices, updates) = (&inputs[0], &inputs[1], &inputs[2]);
        along::<Self>(self.axis, x, indices)?;
        if updates.shape != indices.shape {
            return Err(Self::error(format!(
                "updates {updates} for indices {indices}"
            )));
        }
        if !matches!(self.op.0, Update::Sum | Update::Set) {
            return Err(Self::error(format!("cannot combine by {:?}", self.op.0)));
        }
        same_dtype(Self::NAME, &[x.clone(), updates.clone()])?;
        Ok(vec![x.clone()])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axis = along::<Self>(self.axis, &inputs[0], &inputs[1])?;
        Ok(Lowered::Kernel(Kernel::ScatterAxis {
            op: self.op.0,
            axis,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |op, axis, indices: &[usize], dtypes: [Dtype; 2]| {
            let values = |shape: &[usize]| Spec::new(shape, dtypes[0]);
            let inputs = vec![
                values(&[4, 5]),
                Spec::new(indices, dtypes[1]),
                values(indices),
            ];
            (
                ScatterAxis {
                    op: AxisUpdate(op),
                    axis,
                },
                inputs,
            )
        };
        let mut samples = Vec::new();
        for dtypes in index_dtypes() {
            samples.push(sample(Update::Sum, 0, &[6, 5], dtypes));
            samples.push(sample(Update::Set, 1, &[4, 2], dtypes));
        }
        samples
    }
}

operation! {
    /// Copy of input 0 whose elements where the mask (input 1) is true are replaced by those of
    /// input 2, one after the other, for each index of the first dimension.
    MaskedScatter;
}

impl Operation for MaskedScatter {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (x, mask, source) = (&inputs[0], &inputs[1], &inputs[2]);
        let batches = x.shape.first();
        let fits = batches.is_some()
            && *mask == Spec::new(x.shape.clone(), Dtype::Bool)
            && source.shape.first() == batches
            && source.dtype == x.dtype;
        match fits {
            true => Ok(vec![x.clone()]),
            false => Err(Self::error(format!(
                "mask {mask} and elements {source} are not for {x}: expected bool of its shape, and \
                 its dtype and first dimension"
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::MaskedScatter))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |x: &[usize], source: &[usize], dtype| {
            let mask = Spec::new(x, Dtype::Bool);
            let inputs = vec![Spec::new(x, dtype), mask, Spec::new(source, dtype)];
            (MaskedScatter, inputs)
        };
        let dtypes = Dtype::ALL.into_iter();
        let mut samples: Vec<_> = dtypes
            .map(|dtype| sample(&[1, 4, 5], &[1, 20], dtype))
            .collect();
        samples.push(sample(&[3, 6], &[3, 2, 3], Dtype::Float32));
        samples.push(sample(&[0, 6], &[0, 6], Dtype::Float32));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Float32)
    }

    fn index(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Int32)
    }

    fn ok(op: &impl Operation, inputs: &[Spec]) -> bool {
        crate::ops::infer(op, inputs, None).is_ok()
    }

    #[test]
    fn gather_gives_index_shape_then_block() {
        let gather = |axes: &[i32], block: &[usize]| Gather {
            axes: axes.to_vec(),
            slice_sizes: Shape::new(block),
        };
        let inputs = [float(&[4, 5]), index(&[2, 3])];
        let outputs = gather(&[0], &[1, 5]).infer(&inputs, None).unwrap();
        assert_eq!(outputs, [float(&[2, 3, 1, 5])]);
        assert!(!ok(&gather(&[0], &[1, 6]), &inputs));
        assert!(!ok(&gather(&[0], &[1]), &inputs));
        assert!(!ok(&gather(&[2], &[1, 5]), &inputs));
        assert!(!ok(&gather(&[0, 1], &[1, 5]), &inputs));
        let twice = [float(&[4, 5]), index(&[2]), index(&[2])];
        assert!(ok(&gather(&[0, 1], &[1, 1]), &twice));
        assert!(!ok(&gather(&[0, 0], &[1, 1]), &twice));
        assert!(!ok(&gather(&[0], &[1, 5]), &[float(&[4, 5]), float(&[2])]));
        let uneven = [float(&[4, 5]), index(&[2]), index(&[3])];
        assert!(!ok(&gather(&[0, 1], &[1, 1]), &uneven));
    }

    #[test]
    fn scatter_updates_have_index_shape_then_block() {
        let scatter = Scatter {
            op: Update::Sum,
            axes: vec![0],
        };
        let x = || float(&[4, 5]);
        assert!(ok(&scatter, &[x(), index(&[3]), float(&[3, 1, 5])]));
        assert!(!ok(&scatter, &[x(), index(&[3]), float(&[2, 1, 5])]));
        assert!(!ok(&scatter, &[x(), index(&[3]), float(&[3, 1, 6])]));
        assert!(!ok(&scatter, &[x(), index(&[3]), float(&[3, 5])]));
        assert!(!ok(&scatter, &[x(), index(&[3]), index(&[3, 1, 5])]));
        assert!(!ok(&scatter, &[x(), index(&[3])]));
    }

    #[test]
    fn masks_have_the_shape_and_elements_the_dtype() {
        let mask = |shape: &[usize]| Spec::new(shape, Dtype::Bool);
        let x = || float(&[2, 5]);
        assert!(ok(&MaskedScatter, &[x(), mask(&[2, 5]), float(&[2, 3])]));
        assert!(ok(&MaskedScatter, &[x(), mask(&[2, 5]), float(&[2])]));
        assert!(!ok(&MaskedScatter, &[x(), mask(&[5]), float(&[2, 3])]));
        assert!(!ok(&MaskedScatter, &[x(), float(&[2, 5]), float(&[2, 3])]));
        assert!(!ok(&MaskedScatter, &[x(), mask(&[2, 5]), index(&[2, 3])]));
        assert!(!ok(&MaskedScatter, &[x(), mask(&[2, 5]), float(&[1, 5])]));
        assert!(!ok(&MaskedScatter, &[float(&[]), mask(&[]), float(&[])]));
    }

    #[test]
    fn axis_indices_agree_beside_the_axis() {
        let gather = GatherAxis { axis: 1 };
        assert!(ok(&gather, &[float(&[4, 5]), index(&[4, 9])]));
        assert!(!ok(&gather, &[float(&[4, 5]), index(&[3, 5])]));
        assert!(!ok(&gather, &[float(&[4, 5]), index(&[4])]));
        assert!(!ok(&gather, &[float(&[4, 5]), float(&[4, 5])]));
        let scatter = ScatterAxis {
            op: AxisUpdate(Update::Set),
            axis: 1,
        };
        assert!(ok(
            &scatter,
            &[float(&[4, 5]), index(&[4, 2]), float(&[4, 2])]
        ));
        assert!(!ok(
            &scatter,
            &[float(&[4, 5]), index(&[4, 2]), float(&[4, 3])]
        ));
        assert!(!ok(
            &scatter,
            &[float(&[4, 5]), index(&[4, 2]), index(&[4, 2])]
        ));
        let max = ScatterAxis {
            op: AxisUpdate(Update::Max),
            axis: 1,
        };
        assert!(!ok(&max, &[float(&[4, 5]), index(&[4, 2]), float(&[4, 2])]));
    }
}
