//! Primitives that give the same elements another shape: views, none of them copies.

use std::ops::RangeInclusive;

use super::state::operation;
use super::view;
use super::{Lowered, Operation, State, normalize_axes, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::program::{Expr, Program};
use crate::shape::{Axes, Shape, Spec, normalize_axis};

/// A primitive whose one output is a view of its one input.
pub(super) trait ViewOf: State {
    /// What the output is; `recorded` as in [`Operation::infer`].
    fn output(&self, input: &Spec, recorded: Option<&Spec>) -> Result<Spec>;

    /// How the output lies in the input's memory.
    fn view(&self, input: &Spec, output: &Spec) -> Result<view::View>;

    /// See [`Operation::samples`].
    fn samples() -> Vec<(Self, Spec)>;
}

macro_rules! view_operations {
    ($($name:ident)*) => {$(
        impl $crate::ops::Operation for $name {
            fn arity(&self) -> std::ops::RangeInclusive<usize> {
                1..=1
            }
            fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
                let recorded = recorded.and_then(<[Spec]>::first);
                Ok(vec![$crate::ops::shape::ViewOf::output(self, &inputs[0], recorded)?])
            }
            fn lower(&self, inputs: &[Spec], outputs: &[Spec]) -> Result<$crate::ops::Lowered> {
                let view = $crate::ops::shape::ViewOf::view(self, &inputs[0], &outputs[0])?;
                Ok($crate::ops::Lowered::view(view))
            }
            fn samples() -> Vec<(Self, Vec<Spec>)> {
                let samples = <$name as $crate::ops::shape::ViewOf>::samples().into_iter();
                samples.map(|(op, input)| (op, vec![input])).collect()
            }
        }
    )*};
}
pub(super) use view_operations;

view_operations! { Copy ExpandDims Flatten Full Reshape Squeeze StopGradient Transpose Unflatten }

fn float32(shape: &[usize]) -> Spec {
    Spec::new(shape, Dtype::Float32)
}

macro_rules! identities {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        operation! {
            $(#[$meta])*
            $name;
        }

        impl ViewOf for $name {
            fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
                Ok(input.clone())
            }
            fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
                Ok(view::View::Identity)
            }
            fn samples() -> Vec<(Self, Spec)> {
                [&[2, 3][..], &[]].map(|shape| ($name, float32(shape))).to_vec()
            }
        }
    )*};
}

identities! {
    /// The input.
    Copy;
    /// The input, which was broadcast to the full shape before.
    Full;
    /// The input, through which no gradient flows.
    StopGradient;
}

/// `dims` as a shape, with one -1 replaced so that there are `size` elements.
fn fill_in<T: State>(dims: &[i32], size: usize) -> Result<Shape> {
    let fail = || T::error(format!("{size} elements do not have the shape {dims:?}"));
    let mut known = 1usize;
    for &dim in dims.iter().filter(|&&dim| dim != -1) {
        let dim = usize::try_from(dim).map_err(|_| fail())?;
        known = known.checked_mul(dim).ok_or_else(fail)?;
    }
    let open = dims.iter().filter(|&&dim| dim == -1).count();
    let missing = match open {
        0 if known == size => 1,
        1 if known != 0 && size.is_multiple_of(known) => size / known,
        _ => return Err(fail()),
    };
    let dim = |&dim: &i32| usize::try_from(dim).unwrap_or(missing);
    Ok(dims.iter().map(dim).collect())
}

operation! {
    /// The elements in row-major order in another shape.
    Reshape {
        /// The shape; one dimension may be -1.
        shape: Vec<i32>,
    }
}

impl ViewOf for Reshape {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        let shape = fill_in::<Self>(&self.shape, input.shape.size())?;
        Ok(Spec::new(shape, input.dtype))
    }

    fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Reshape)
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |shape: &[i32], input| {
            (
                Reshape {
                    shape: shape.to_vec(),
                },
                float32(input),
            )
        };
        vec![
            sample(&[3, -1], &[2, 3, 4]),
            sample(&[], &[1, 1]),
            sample(&[1], &[]),
            sample(&[3, 0], &[0, 2]),
        ]
    }
}

operation! {
    /// Merges neighbouring dimensions.
    Flatten {
        /// The first one.
        start_axis: i32,
        /// The last one.
        end_axis: i32,
    }
}

impl ViewOf for Flatten {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        // A scalar flattens to one dimension.
        let rank = input.shape.len().max(1);
        let start = normalize_axis(Self::NAME, self.start_axis.into(), rank)?;
        let end = normalize_axis(Self::NAME, self.end_axis.into(), rank)?;
        if start > end {
            return Err(Self::error(format!("axis {start} to {end} is not a range")));
        }
        let dims = &input.shape;
        let after = dims.get(end + 1..).unwrap_or_default();
        let merged: usize = dims.iter().take(end + 1).skip(start).product();
        let before = dims.iter().take(start).copied();
        let shape: Shape = before
            .chain([merged])
            .chain(after.iter().copied())
            .collect();
        Ok(Spec::new(shape, input.dtype))
    }

    fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Reshape)
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |start_axis, end_axis, input| {
            (
                Flatten {
                    start_axis,
                    end_axis,
                },
                float32(input),
            )
        };
        vec![
            sample(1, 2, &[2, 3, 4, 5]),
            sample(0, -1, &[2, 3]),
            sample(0, 0, &[]),
        ]
    }
}

operation! {
    /// Splits one dimension.
    Unflatten {
        /// The dimension.
        axis: i32,
        /// What it becomes; one may be -1.
        shape: Vec<i32>,
    }
}

impl ViewOf for Unflatten {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        let axis = normalize_axis(Self::NAME, self.axis.into(), input.shape.len())?;
        let split = fill_in::<Self>(&self.shape, input.shape[axis])?;
        let (before, after) = (&input.shape[..axis], &input.shape[axis + 1..]);
        Ok(Spec::new([before, &split, after].concat(), input.dtype))
    }

    fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Reshape)
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |axis, shape: &[i32], input| {
            (
                Unflatten {
                    axis,
                    shape: shape.to_vec(),
                },
                float32(input),
            )
        };
        vec![sample(1, &[2, -1], &[2, 6, 3]), sample(-1, &[1, 4], &[4])]
    }
}

operation! {
    /// Removes dimensions of size one.
    Squeeze {
        /// The dimensions.
        axes: Vec<i32>,
    }
}

impl ViewOf for Squeeze {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        let axes = normalize_axes(Self::NAME, &self.axes, input.shape.len())?;
        if let Some(axis) = axes.iter().find(|&&axis| input.shape[axis] != 1) {
            return Err(Self::error(format!(
                "axis {axis} of {} has not size 1",
                input.shape
            )));
        }
        let kept = (0..input.shape.len()).filter(|axis| !axes.contains(axis));
        let shape: Shape = kept.map(|axis| input.shape[axis]).collect();
        Ok(Spec::new(shape, input.dtype))
    }

    fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Reshape)
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |axes: &[i32], input| {
            (
                Squeeze {
                    axes: axes.to_vec(),
                },
                float32(input),
            )
        };
        vec![sample(&[0, 2], &[1, 3, 1, 2]), sample(&[-1], &[1])]
    }
}

operation! {
    /// Adds dimensions of size one.
    ExpandDims {
        /// The new dimensions, as numbers of the output's.
        axes: Vec<i32>,
    }
}

impl ViewOf for ExpandDims {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        let rank = input.shape.len() + self.axes.len();
        let axes = normalize_axes(Self::NAME, &self.axes, rank)?;
        let mut old = input.shape.iter().copied();
        let shape: Shape = (0..rank)
            .map(|axis| match axes.contains(&axis) {
                true => 1,
                false => old.next().unwrap_or(1),
            })
            .collect();
        Ok(Spec::new(shape, input.dtype))
    }

    fn view(&self, _: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Reshape)
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |axes: &[i32], input| {
            (
                ExpandDims {
                    axes: axes.to_vec(),
                },
                float32(input),
            )
        };
        vec![
            sample(&[0, 2], &[2, 3]),
            sample(&[-1], &[2]),
            sample(&[0], &[]),
        ]
    }
}

operation! {
    /// Permutes dimensions.
    Transpose {
        /// The input's dimension that each of the output's is.
        permutation: Vec<i32>,
    }
}

impl Transpose {
    fn axes(&self, input: &Spec) -> Result<Axes> {
        let axes = normalize_axes(Self::NAME, &self.permutation, input.shape.len())?;
        match axes.len() == input.shape.len() {
            true => Ok(axes),
            false => Err(Self::error(format!(
                "{:?} is not a permutation of the dimensions of {}",
                self.permutation, input.shape
            ))),
        }
    }
}

impl ViewOf for Transpose {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        let axes = self.axes(input)?;
        let shape: Shape = axes.iter().map(|&axis| input.shape[axis]).collect();
        Ok(Spec::new(shape, input.dtype))
    }

    fn view(&self, input: &Spec, _: &Spec) -> Result<view::View> {
        Ok(view::View::Transpose(self.axes(input)?))
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |axes: &[i32], input| {
            let permutation = axes.to_vec();
            (Transpose { permutation }, float32(input))
        };
        vec![
            sample(&[1, 0], &[2, 3]),
            sample(&[0, 2, -3, 3], &[2, 3, 4, 5]),
            sample(&[], &[]),
        ]
    }
}

operation! {
    /// The first inputs, once the others have been computed.
    Depends;
}

impl Operation for Depends {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let outputs = recorded.map_or(1, <[Spec]>::len);
        match inputs.get(..outputs) {
            Some(inputs) => Ok(inputs.to_vec()),
            None => Err(Self::error(format!(
                "got {} inputs for {outputs} outputs",
                inputs.len()
            ))),
        }
    }

    fn lower(&self, _: &[Spec], outputs: &[Spec]) -> Result<Lowered> {
        let views = (0..outputs.len()).map(|i| (i, view::View::Identity));
        Ok(Lowered::Views(views.collect()))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        vec![(Depends, vec![float32(&[2]), float32(&[3])])]
    }
}

operation! {
    /// The same bytes as another dtype; the last dimension grows or shrinks by the ratio of sizes.
    View {
        /// The dtype.
        dtype: Dtype,
    }
}

impl Operation for View {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        let (from, to) = (dtype.size(), self.dtype.size());
        if from == to {
            return Ok(vec![Spec::new(shape.clone(), self.dtype)]);
        }
        let last = shape.last().and_then(|last| last.checked_mul(from));
        match last {
            Some(bytes) if bytes.is_multiple_of(to) => {
                let shape = with_dim(shape, shape.len() - 1, bytes / to);
                Ok(vec![Spec::new(shape, self.dtype)])
            }
            _ => Err(Self::error(format!(
                "{} cannot be viewed as {}",
                inputs[0], self.dtype
            ))),
        }
    }

    /// Bools have to stay 0 or 1, so bytes become bools by comparison.
    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let from = inputs[0].dtype;
        match self.dtype {
            dtype if dtype == from => Ok(Lowered::view(view::View::Identity)),
            Dtype::Bool if from.size() == 1 => {
                let expr = Expr::Cast(Dtype::Bool, Box::new(Expr::Input(0)));
                Ok(Lowered::Kernel(Kernel::Elementwise(Program::from_expr(
                    &expr,
                    &[from],
                ))))
            }
            Dtype::Bool => Err(crate::error::Error::unsupported(
                Self::NAME,
                format!("{from} as bool; view it as uint8 first"),
            )),
            _ => Ok(Lowered::view(view::View::Bitcast)),
        }
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |from, dtype| (View { dtype }, vec![Spec::new([2, 8], from)]);
        vec![
            sample(Dtype::Float32, Dtype::Uint32),
            sample(Dtype::Float32, Dtype::Uint8),
            sample(Dtype::Uint8, Dtype::Float32),
            sample(Dtype::Int8, Dtype::Bool),
        ]
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
    fn reshape_infers_one_dimension() {
        let reshape = |dims: &[i32], input: &[usize]| {
            shape(
                Reshape {
                    shape: dims.to_vec(),
                },
                &[input],
                None,
            )
        };
        assert_eq!(reshape(&[3, -1], &[2, 6]), Some(vec![3, 4]));
        assert_eq!(reshape(&[0, 5], &[0]), Some(vec![0, 5]));
        for refused in [
            &[5, -1][..],
            &[-1, -1],
            &[-2, 6],
            &[13],
            &[0, -1],
            &[i32::MAX; 4],
        ] {
            assert_eq!(reshape(refused, &[2, 6]), None, "{refused:?}");
        }
    }

    #[test]
    fn dimensions_merge_split_vanish_and_appear() {
        let flatten = |start_axis, end_axis, input: &[usize]| {
            shape(
                Flatten {
                    start_axis,
                    end_axis,
                },
                &[input],
                None,
            )
        };
        assert_eq!(flatten(1, -1, &[2, 3, 4]), Some(vec![2, 12]));
        assert_eq!(flatten(0, 0, &[]), Some(vec![1]));
        assert_eq!(flatten(2, 1, &[2, 3, 4]), None);
        assert_eq!(flatten(0, 3, &[2, 3, 4]), None);
        let unflatten = |axis, dims: &[i32]| {
            shape(
                Unflatten {
                    axis,
                    shape: dims.to_vec(),
                },
                &[&[2, 6]],
                None,
            )
        };
        assert_eq!(unflatten(-1, &[2, -1]), Some(vec![2, 2, 3]));
        assert_eq!(unflatten(1, &[4, -1]), None);
        assert_eq!(unflatten(2, &[1]), None);
        let squeeze = |axes: &[i32]| {
            shape(
                Squeeze {
                    axes: axes.to_vec(),
                },
                &[&[1, 2, 1]],
                None,
            )
        };
        assert_eq!(squeeze(&[0, 2]), Some(vec![2]));
        assert_eq!(squeeze(&[1]), None);
        assert_eq!(squeeze(&[0, -3]), None);
        let expand = |axes: &[i32]| {
            shape(
                ExpandDims {
                    axes: axes.to_vec(),
                },
                &[&[2, 3]],
                None,
            )
        };
        assert_eq!(expand(&[-1, 0]), Some(vec![1, 2, 3, 1]));
        assert_eq!(expand(&[4]), None);
        assert_eq!(expand(&[1; 70]), None);
        let transpose = |axes: &[i32]| {
            shape(
                Transpose {
                    permutation: axes.to_vec(),
                },
                &[&[2, 3, 4]],
                None,
            )
        };
        assert_eq!(transpose(&[2, 0, 1]), Some(vec![4, 2, 3]));
        for refused in [&[0, 1][..], &[0, 0, 1], &[0, 1, 3]] {
            assert_eq!(transpose(refused), None);
        }
    }

    #[test]
    fn views_of_bytes_scale_the_last_dimension() {
        let view = |dtype, input: &[usize]| shape(View { dtype }, &[input], None);
        assert_eq!(view(Dtype::Uint8, &[2, 3]), Some(vec![2, 12]));
        assert_eq!(view(Dtype::Float64, &[2, 4]), Some(vec![2, 2]));
        assert_eq!(view(Dtype::Float64, &[2, 3]), None);
        assert_eq!(view(Dtype::Float64, &[]), None);
        let words = [float32(&[2])];
        assert!(View { dtype: Dtype::Bool }.lower(&words, &words).is_err());
    }

    #[test]
    fn depends_gives_as_many_as_recorded() {
        let inputs = [float32(&[1]), float32(&[2])];
        assert_eq!(Depends.infer(&inputs, Some(&inputs)).unwrap(), inputs);
        let three = [float32(&[1]), float32(&[2]), float32(&[3])];
        assert!(Depends.infer(&inputs, Some(&three)).is_err());
    }
}
