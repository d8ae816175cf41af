//! Arrays put together: from numbers, from each other, from a border.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, normalize_axes, same_dtype, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Axes, Shape, Spec, normalize_axis};

operation! {
    /// `start`, `start + step`, ... before `stop`, added up in the output's dtype.
    Arange {
        /// The first value.
        start: f64,
        /// Where to stop.
        stop: f64,
        /// The distance of neighbours.
        step: f64,
    }
}

impl Operation for Arange {
    fn arity(&self) -> RangeInclusive<usize> {
        0..=0
    }

    /// The dtype is what is recorded; float32 otherwise.
    fn infer(&self, _: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let recorded = recorded.and_then(<[Spec]>::first);
        let dtype = recorded.map_or(Dtype::Float32, |spec| spec.dtype);
        let Arange { start, stop, step } = *self;
        if !(start.is_finite() && stop.is_finite() && step.is_finite()) {
            return Err(Self::error(format!(
                "{start} to {stop} by {step} is not finite"
            )));
        }
        // With one value the step is never taken.
        if recorded.is_some_and(|spec| *spec.shape == [1]) {
            return Ok(vec![Spec::new([1], dtype)]);
        }
        let count = ((stop - start) / step).ceil().max(0.0);
        if step == 0.0 || count > f64::from(i32::MAX) {
            return Err(Self::error(format!(
                "{start} to {stop} by {step} does not end"
            )));
        }
        Ok(vec![Spec::new([count as usize], dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Arange {
            start: self.start,
            next: self.start + self.step,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |start, stop, step| (Arange { start, stop, step }, vec![]);
        vec![
            sample(0.0, 10.0, 1.0),
            sample(5.0, 0.5, -1.5),
            sample(3.0, 3.0, 1.0),
        ]
    }
}

operation! {
    /// The inputs one after the other along a dimension.
    Concatenate {
        /// The dimension.
        axis: i32,
    }
}

impl Operation for Concatenate {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, inputs)?;
        let Spec { shape, dtype } = &inputs[0];
        let axis = normalize_axis(Self::NAME, self.axis.into(), shape.len())?;
        let mut sum = 0usize;
        for input in inputs {
            let fits = input.shape.len() == shape.len()
                && with_dim(&input.shape, axis, 0) == with_dim(shape, axis, 0);
            sum = match sum.checked_add(*input.shape.get(axis).unwrap_or(&0)) {
                Some(sum) if fits => sum,
                _ => {
                    return Err(Self::error(format!(
                        "{inputs:?} do not agree beside axis {axis}"
                    )));
                }
            };
        }
        Ok(vec![Spec::new(with_dim(shape, axis, sum), *dtype)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axis = normalize_axis(Self::NAME, self.axis.into(), inputs[0].shape.len())?;
        Ok(Lowered::Kernel(Kernel::Concatenate { axis }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axis, inputs: &[&[usize]], dtype| {
            let inputs = inputs
                .iter()
                .map(|&shape| Spec::new(shape, dtype))
                .collect();
            (Concatenate { axis }, inputs)
        };
        vec![
            sample(0, &[&[2, 3], &[1, 3], &[0, 3]], Dtype::Float32),
            sample(-1, &[&[2, 3], &[2, 4]], Dtype::Int8),
            sample(1, &[&[2, 3, 2]], Dtype::Complex64),
        ]
    }
}

operation! {
    /// Input 0 with the value of input 1 around it.
    Pad {
        /// The dimensions that grow.
        axes: Vec<i32>,
        /// By how much before the input.
        low: Vec<i32>,
        /// By how much after it.
        high: Vec<i32>,
    }
}

impl Pad {
    /// What is added before and after, for each dimension.
    fn widths(&self, shape: &Shape) -> Result<(Axes, Axes)> {
        let axes = normalize_axes(Self::NAME, &self.axes, shape.len())?;
        let fail = || {
            let Pad { axes, low, high } = self;
            Self::error(format!("axes {axes:?} by {low:?} and {high:?} of {shape}"))
        };
        if self.low.len() != axes.len() || self.high.len() != axes.len() {
            return Err(fail());
        }
        let mut widths = (
            Axes::from_elem(0, shape.len()),
            Axes::from_elem(0, shape.len()),
        );
        for (i, &axis) in axes.iter().enumerate() {
            widths.0[axis] = usize::try_from(self.low[i]).map_err(|_| fail())?;
            widths.1[axis] = usize::try_from(self.high[i]).map_err(|_| fail())?;
        }
        Ok(widths)
    }
}

impl Operation for Pad {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, inputs)?;
        let Spec { shape, dtype } = &inputs[0];
        if inputs[1].shape.size() != 1 {
            return Err(Self::error(format!(
                "got a value {}, expected one element",
                inputs[1]
            )));
        }
        let (low, high) = self.widths(shape)?;
        // Three 32-bit numbers.
        let shape: Shape = (0..shape.len())
            .map(|i| low[i] + shape[i] + high[i])
            .collect();
        Ok(vec![Spec::new(shape, *dtype)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (low, _) = self.widths(&inputs[0].shape)?;
        Ok(Lowered::Kernel(Kernel::Pad { low }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axes: &[i32], low: &[i32], high: &[i32], dtype| {
            let op = Pad {
                axes: axes.to_vec(),
                low: low.to_vec(),
                high: high.to_vec(),
            };
            (op, vec![Spec::new([2, 3], dtype), Spec::new([], dtype)])
        };
        vec![
            sample(&[0, 1], &[1, 0], &[0, 2], Dtype::Float32),
            sample(&[-1], &[2], &[1], Dtype::Int8),
            sample(&[], &[], &[], Dtype::Float32),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end() {
        let arange = |start, stop, step, recorded: Option<usize>| {
            let recorded = recorded.map(|count| [Spec::new([count], Dtype::Int32)]);
            let op = Arange { start, stop, step };
            let outputs = crate::ops::infer(&op, &[], recorded.as_ref().map(|r| &r[..])).ok()?;
            Some((outputs[0].shape[0], outputs[0].dtype))
        };
        assert_eq!(arange(0.5, 5.0, 1.5, Some(3)), Some((3, Dtype::Int32)));
        assert_eq!(arange(0.0, 1.0, 0.3, None), Some((4, Dtype::Float32)));
        assert_eq!(arange(1.0, 0.0, 1.0, None), Some((0, Dtype::Float32)));
        assert_eq!(arange(2.0, 2.0, 0.0, Some(1)), Some((1, Dtype::Int32)));
        assert_eq!(arange(0.0, 5.0, 1.0, Some(6)), None);
        assert_eq!(arange(0.0, 5.0, 0.0, None), None);
        assert_eq!(arange(0.0, f64::NAN, 1.0, None), None);
        assert_eq!(arange(0.0, f64::INFINITY, 1.0, None), None);
        assert_eq!(arange(0.0, 1e300, 1e-300, None), None);
    }

    #[test]
    fn concatenated_inputs_agree_beside_the_axis() {
        let concatenate = |axis, inputs: &[&[usize]]| {
            let inputs: Vec<Spec> = inputs.iter().map(|&s| Spec::new(s, Dtype::Int8)).collect();
            let outputs = crate::ops::infer(&Concatenate { axis }, &inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(concatenate(1, &[&[2, 3], &[2, 4]]), Some(vec![2, 7]));
        assert_eq!(concatenate(0, &[&[2, 3], &[2, 4]]), None);
        assert_eq!(concatenate(0, &[&[2, 3], &[2]]), None);
        assert_eq!(concatenate(1, &[&[2, 3], &[2]]), None);
        assert_eq!(concatenate(2, &[&[2, 3]]), None);
        assert_eq!(concatenate(0, &[]), None);
        let large = &[i32::MAX as usize][..];
        assert_eq!(concatenate(0, &[large, large]), None);
    }

    #[test]
    fn pads_grow() {
        let pad = |axes: &[i32], low: &[i32], high: &[i32], value: &[usize]| {
            let op = Pad {
                axes: axes.to_vec(),
                low: low.to_vec(),
                high: high.to_vec(),
            };
            let inputs = [
                Spec::new([2, 3], Dtype::Int8),
                Spec::new(value, Dtype::Int8),
            ];
            let outputs = crate::ops::infer(&op, &inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(pad(&[1], &[1], &[4], &[]), Some(vec![2, 8]));
        assert_eq!(pad(&[1], &[-1], &[4], &[]), None);
        assert_eq!(pad(&[1], &[1], &[], &[]), None);
        assert_eq!(pad(&[1, 1], &[1, 1], &[1, 1], &[]), None);
        assert_eq!(pad(&[2], &[1], &[1], &[]), None);
        assert_eq!(pad(&[1], &[1], &[1], &[2]), None);
        assert_eq!(pad(&[1], &[i32::MAX], &[1], &[]), None);
    }
}
