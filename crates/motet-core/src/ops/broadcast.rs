//! Broadcasting: views that repeat elements.

use std::ops::RangeInclusive;

use super::state::operation;
use super::view::View;
use super::{Lowered, Operation, State, normalize_axes};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::shape::{Shape, Spec};

fn float32(shape: &[usize]) -> Spec {
    Spec::new(shape, Dtype::Float32)
}

operation! {
    /// Numpy broadcasting of input 0.
    Broadcast {
        /// The shape to which a single input is broadcast.
        shape: Shape,
    }
}

/// `input` has to broadcast to `target`.
fn broadcasts<T: State>(input: &Shape, target: &Shape) -> Result<()> {
    match input.broadcast(target) {
        Ok(shape) if shape == *target => Ok(()),
        _ => Err(T::error(format!("{input} does not broadcast to {target}"))),
    }
}

impl Operation for Broadcast {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    /// With several inputs the others lend their shapes: so files for any shape say it.
    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let shape = match inputs {
            [input] => {
                broadcasts::<Self>(&input.shape, &self.shape)?;
                self.shape.clone()
            }
            _ => inputs.iter().try_fold(Shape::default(), |shape, input| {
                shape.broadcast(&input.shape)
            })?,
        };
        Ok(vec![Spec::new(shape, inputs[0].dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::view(View::Broadcast))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |shape: &[usize], inputs: &[&[usize]]| {
            let shape = Shape::new(shape);
            (
                Broadcast { shape },
                inputs.iter().map(|input| float32(input)).collect(),
            )
        };
        vec![
            sample(&[4, 2, 3], &[&[2, 1]]),
            sample(&[2, 2], &[&[]]),
            sample(&[9], &[&[1, 3], &[2, 1], &[3]]),
        ]
    }
}

operation! {
    /// Numpy broadcasting of input 0 that leaves some dimensions alone.
    BroadcastAxes {
        /// The dimensions that are left alone, counted from the end.
        axes: Vec<i32>,
    }
}

impl BroadcastAxes {
    /// The shape without the ignored dimensions.
    fn strip(&self, shape: &Shape) -> Result<Shape> {
        let axes = normalize_axes(Self::NAME, &self.axes, shape.len())?;
        let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
        Ok(kept.map(|axis| shape[axis]).collect())
    }
}

impl Operation for BroadcastAxes {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    /// With one input the target is what the file recorded.
    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        if self.axes.iter().any(|&axis| axis >= 0) {
            return Err(Self::error(format!(
                "got axes {:?}, expected negative ones",
                self.axes
            )));
        }
        let input = &inputs[0];
        let mut stripped = Shape::default();
        for input in inputs {
            stripped = stripped.broadcast(&self.strip(&input.shape)?)?;
        }
        if let (1, Some([recorded])) = (inputs.len(), recorded) {
            let target = self.strip(&recorded.shape)?;
            broadcasts::<Self>(&stripped, &target)?;
            stripped = target;
        }
        let rank = stripped.len() + self.axes.len();
        let ignored = normalize_axes(Self::NAME, &self.axes, rank)?;
        let mut stripped = stripped.iter().copied();
        let shape: Shape = (0..rank)
            .map(|axis| match ignored.contains(&axis) {
                // Counted from the end, which exists: `strip` found it.
                true => input.shape[input.shape.len() + axis - rank],
                false => stripped.next().unwrap_or(1),
            })
            .collect();
        Ok(vec![Spec::new(shape, input.dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::view(View::Broadcast))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let axes = vec![-2, -1];
        let inputs = vec![float32(&[1, 3, 4]), float32(&[5, 2, 7, 8])];
        vec![(BroadcastAxes { axes }, inputs)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output's dimensions, `None` if refused.
    fn shape(
        op: impl Operation,
        inputs: &[&[usize]],
        recorded: Option<&[usize]>,
    ) -> Option<Vec<usize>> {
        let inputs: Vec<Spec> = inputs.iter().map(|dims| float32(dims)).collect();
        let recorded = recorded.map(|dims| [float32(dims)]);
        let outputs = crate::ops::infer(&op, &inputs, recorded.as_ref().map(|r| &r[..]));
        outputs.ok().map(|outputs| outputs[0].shape.to_vec())
    }

    #[test]
    fn one_input_broadcasts_to_the_state_and_several_to_each_other() {
        let broadcast = |inputs: &[&[usize]]| {
            shape(
                Broadcast {
                    shape: Shape::new(&[4, 3]),
                },
                inputs,
                None,
            )
        };
        assert_eq!(broadcast(&[&[3]]), Some(vec![4, 3]));
        assert_eq!(broadcast(&[&[5, 3]]), None);
        assert_eq!(broadcast(&[&[2, 4, 3]]), None);
        assert_eq!(broadcast(&[&[1, 3], &[7, 1]]), Some(vec![7, 3]));
        assert_eq!(broadcast(&[&[2], &[3]]), None);
    }

    #[test]
    fn broadcast_axes_keeps_the_sizes_of_its_own() {
        let broadcast = |inputs: &[&[usize]], recorded| {
            shape(BroadcastAxes { axes: vec![-2, -1] }, inputs, recorded)
        };
        assert_eq!(broadcast(&[&[3, 4], &[6, 9, 8]], None), Some(vec![6, 3, 4]));
        assert_eq!(
            broadcast(&[&[1, 3, 4]], Some(&[5, 3, 4])),
            Some(vec![5, 3, 4])
        );
        assert_eq!(broadcast(&[&[1, 3, 4]], Some(&[5, 3, 5])), None);
        assert_eq!(broadcast(&[&[2, 3, 4]], Some(&[5, 3, 4])), None);
        assert_eq!(broadcast(&[&[4], &[2, 3, 4]], None), None);
        assert_eq!(shape(BroadcastAxes { axes: vec![0] }, &[&[4]], None), None);
    }
}
