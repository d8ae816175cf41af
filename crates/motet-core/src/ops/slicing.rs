//! Primitives that take a regular part of an array, or write one.
//!
//! Everything here is checked against the input's bounds: a view that passed `infer` reads nothing
//! outside of its input.

use std::ops::RangeInclusive;

use super::shape::{ViewOf, view_operations};
use super::state::operation;
use super::view::View;
use super::{Lowered, Operation, State, same_dtype, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::{Kernel, Update};
use crate::shape::{Axes, Shape, Spec, Strides, normalize_axis};

/// A part of an array: in each dimension the positions `start + i * stride`.
struct Window {
    start: Axes,
    strides: Strides,
    shape: Shape,
}

/// Checks that the window lies within `dims`. `shape` is the window's, or follows from `end`.
fn window<T: State>(
    (start, end, strides): (&[i32], &[i32], &[i32]),
    dims: &Shape,
    shape: Option<&Shape>,
) -> Result<Window> {
    let rank = dims.len();
    let given = [
        start.len(),
        end.len(),
        strides.len(),
        shape.map_or(rank, |s| s.len()),
    ];
    if given.iter().any(|&len| len != rank) {
        return Err(T::error(format!(
            "start {start:?}, end {end:?} and strides {strides:?} are not for an array of shape {dims}"
        )));
    }
    let mut window = Window {
        start: Axes::new(),
        strides: Strides::new(),
        shape: Shape::default(),
    };
    for axis in 0..rank {
        let (dim, stride) = (dims[axis] as i64, i64::from(strides[axis]));
        let from_end = |value: i32| i64::from(value) + if value < 0 { dim } else { 0 };
        let (mut first, end) = (from_end(start[axis]), from_end(end[axis]));
        if stride == 0 {
            return Err(T::error(format!("the stride of axis {axis} is 0")));
        }
        let count = match shape {
            Some(shape) => shape[axis] as i64,
            None if stride > 0 => {
                first = first.clamp(0, dim);
                steps(end.clamp(0, dim) - first, stride)
            }
            None => {
                first = first.clamp(-1, dim - 1);
                steps(first - end.clamp(-1, dim - 1), -stride)
            }
        };
        let last = first + (count - 1).max(0) * stride;
        let inside = |position: i64| (0..dim).contains(&position);
        if count > 0 && !(inside(first) && inside(last)) {
            return Err(T::error(format!(
                "axis {axis} of {dims} has no elements {first} to {last}"
            )));
        }
        // Where nothing is read or stepped over, start and stride mean nothing: keep them harmless.
        window
            .start
            .push(if count > 0 { first as usize } else { 0 });
        window
            .strides
            .push(if count > 1 { stride as isize } else { 1 });
        window.shape.dims_mut().push(count as usize);
    }
    Ok(window)
}

/// How many steps of `stride` it takes to walk `distance`; none for a negative one.
fn steps(distance: i64, stride: i64) -> i64 {
    (distance.max(0) + stride - 1) / stride
}

fn float32(shape: &[usize]) -> Spec {
    Spec::new(shape, Dtype::Float32)
}

view_operations! { AsStrided Slice }

operation! {
    /// Every `strides`-th element from `start` on.
    Slice {
        /// The position of the first element in each dimension.
        start: Vec<i32>,
        /// The position before which to stop. Not looked at where a file records the shape.
        end: Vec<i32>,
        /// The distance of neighbours; may be negative.
        strides: Vec<i32>,
    }
}

impl Slice {
    fn window(&self, input: &Spec, shape: Option<&Shape>) -> Result<Window> {
        window::<Self>((&self.start, &self.end, &self.strides), &input.shape, shape)
    }
}

impl ViewOf for Slice {
    fn output(&self, input: &Spec, recorded: Option<&Spec>) -> Result<Spec> {
        let window = self.window(input, recorded.map(|recorded| &recorded.shape))?;
        Ok(Spec::new(window.shape, input.dtype))
    }

    fn view(&self, input: &Spec, output: &Spec) -> Result<View> {
        let Window { start, strides, .. } = self.window(input, Some(&output.shape))?;
        Ok(View::Slice { start, strides })
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |start: &[i32], end: &[i32], strides: &[i32]| {
            let op = Slice {
                start: start.to_vec(),
                end: end.to_vec(),
                strides: strides.to_vec(),
            };
            (op, float32(&[5, 6]))
        };
        vec![
            sample(&[1, 0], &[4, 6], &[1, 2]),
            sample(&[4, 5], &[-6, 1], &[-1, -2]),
            sample(&[2, 3], &[2, 6], &[1, 1]),
        ]
    }
}

operation! {
    /// Copy of input 0 in which the elements that a [`Slice`] takes are combined with input 1.
    SliceUpdate {
        /// How.
        op: Update => since (0, 31, 2) or Update::Set,
        /// As in [`Slice`].
        start: Vec<i32>,
        /// As in [`Slice`]; the shape of input 1 decides.
        end: Vec<i32>,
        /// As in [`Slice`].
        strides: Vec<i32>,
    }
}

impl SliceUpdate {
    fn window(&self, inputs: &[Spec]) -> Result<Window> {
        let bounds = (&self.start[..], &self.end[..], &self.strides[..]);
        window::<Self>(bounds, &inputs[0].shape, Some(&inputs[1].shape))
    }
}

impl Operation for SliceUpdate {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, inputs)?;
        self.window(inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let Window { start, strides, .. } = self.window(inputs)?;
        let op = self.op;
        Ok(Lowered::Kernel(Kernel::SliceUpdate { op, start, strides }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        use Update::*;
        let mut samples = Vec::new();
        for op in [Max, Min, Sum, Prod, Set] {
            for (slice, input) in <Slice as ViewOf>::samples() {
                let Slice {
                    start,
                    end,
                    strides,
                } = slice.clone();
                let update = slice.output(&input, None).into_iter();
                samples.extend(update.map(|update| {
                    let (start, end, strides) = (start.clone(), end.clone(), strides.clone());
                    (
                        SliceUpdate {
                            op,
                            start,
                            end,
                            strides,
                        },
                        vec![input.clone(), update],
                    )
                }));
            }
        }
        samples
    }
}

operation! {
    /// Consecutive parts of a dimension.
    Split {
        /// Where the second and further parts start.
        indices: Vec<i32>,
        /// The dimension.
        axis: i32,
    }
}

impl Split {
    /// The dimension and the start and end of each part.
    fn parts(&self, input: &Spec) -> Result<(usize, Vec<(usize, usize)>)> {
        let axis = normalize_axis(Self::NAME, self.axis.into(), input.shape.len())?;
        let dim = input.shape[axis];
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.indices.len() + 1);
        for end in self
            .indices
            .iter()
            .map(|&index| usize::try_from(index))
            .chain([Ok(dim)])
        {
            match end {
                Ok(end) if start <= end && end <= dim => parts.push((start, end)),
                _ => {
                    return Err(Self::error(format!(
                        "indices {:?} do not split axis {axis} of {}",
                        self.indices, input.shape
                    )));
                }
            }
            start = end.unwrap_or(dim);
        }
        Ok((axis, parts))
    }
}

impl Operation for Split {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let input = &inputs[0];
        let (axis, parts) = self.parts(input)?;
        let part = |(start, end)| Spec::new(with_dim(&input.shape, axis, end - start), input.dtype);
        Ok(parts.into_iter().map(part).collect())
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let rank = inputs[0].shape.len();
        let (axis, parts) = self.parts(&inputs[0])?;
        let part = |(first, end)| {
            let mut start = Axes::from_elem(0, rank);
            start[axis] = if first < end { first } else { 0 };
            let strides = Strides::from_elem(1, rank);
            (0, View::Slice { start, strides })
        };
        Ok(Lowered::Views(parts.into_iter().map(part).collect()))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |indices: &[i32], axis| {
            let indices = indices.to_vec();
            (Split { indices, axis }, vec![float32(&[4, 6])])
        };
        vec![sample(&[2, 3, 3], 1), sample(&[], 0), sample(&[1, 4], -2)]
    }
}

operation! {
    /// Any strides over the input's elements in row-major order.
    AsStrided {
        /// The shape of the output.
        shape: Shape,
        /// The step between neighbours in each dimension, in elements.
        strides: Vec<i64>,
        /// The first element.
        offset: u64,
    }
}

impl ViewOf for AsStrided {
    fn output(&self, input: &Spec, _: Option<&Spec>) -> Result<Spec> {
        if self.strides.len() != self.shape.len() {
            return Err(Self::error(format!(
                "strides {:?} are not for the shape {}",
                self.strides, self.shape
            )));
        }
        // At most 64 products of 31 and 64 bits.
        let (mut low, mut high) = (i128::from(self.offset), i128::from(self.offset));
        for (&dim, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = (dim as i128 - 1) * i128::from(stride);
            low += reach.min(0);
            high += reach.max(0);
        }
        let size = input.shape.size();
        let empty = self.shape.contains(&0);
        if !empty && (low < 0 || high >= size as i128) {
            return Err(Self::error(format!(
                "elements {low} to {high} of an array of {size} elements"
            )));
        }
        Ok(Spec::new(self.shape.clone(), input.dtype))
    }

    fn view(&self, _: &Spec, output: &Spec) -> Result<View> {
        let row_major = output.shape.strides();
        if output.shape.contains(&0) {
            return Ok(View::AsStrided {
                strides: row_major,
                offset: 0,
            });
        }
        let dims = output.shape.iter().zip(&self.strides);
        let stride = |(&dim, &stride): (&usize, &i64)| if dim > 1 { stride as isize } else { 1 };
        Ok(View::AsStrided {
            strides: dims.map(stride).collect(),
            offset: self.offset as usize,
        })
    }

    fn samples() -> Vec<(Self, Spec)> {
        let sample = |shape: &[usize], strides: &[i64], offset| {
            let (shape, strides) = (Shape::new(shape), strides.to_vec());
            (
                AsStrided {
                    shape,
                    strides,
                    offset,
                },
                float32(&[10]),
            )
        };
        vec![
            sample(&[4, 3], &[2, 1], 1),
            sample(&[2, 5], &[0, -2], 9),
            sample(&[0, 2], &[i64::MAX, 1], 77),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(start: i32, end: i32, stride: i32, dim: usize, count: Option<usize>) -> Option<usize> {
        let op = Slice {
            start: vec![start],
            end: vec![end],
            strides: vec![stride],
        };
        let recorded = count.map(|count| float32(&[count]));
        let output = op.output(&float32(&[dim]), recorded.as_ref()).ok()?;
        Some(output.shape[0])
    }

    /// Python's rule, by walking.
    fn walked(start: i32, end: i32, stride: i32, dim: usize) -> usize {
        let dim = dim as i32;
        let from_end = |value: i32| if value < 0 { value + dim } else { value };
        let (low, high) = if stride > 0 { (0, dim) } else { (-1, dim - 1) };
        let (mut at, end) = (
            from_end(start).clamp(low, high),
            from_end(end).clamp(low, high),
        );
        let mut count = 0;
        while (stride > 0 && at < end) || (stride < 0 && at > end) {
            (at, count) = (at + stride, count + 1);
        }
        count
    }

    #[test]
    fn slices_without_a_recorded_shape_follow_python() {
        for dim in 0..5 {
            for start in -7..8 {
                for end in -7..8 {
                    for stride in [-3, -2, -1, 1, 2, 3] {
                        assert_eq!(
                            slice(start, end, stride, dim, None),
                            Some(walked(start, end, stride, dim)),
                            "{start}:{end}:{stride} of {dim}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn recorded_shapes_have_to_lie_inside() {
        assert_eq!(slice(1, 0, 2, 6, Some(3)), Some(3));
        assert_eq!(slice(5, 0, -5, 6, Some(2)), Some(2));
        assert_eq!(slice(1, 0, 2, 6, Some(4)), None);
        assert_eq!(slice(0, 0, -1, 6, Some(2)), None);
        assert_eq!(slice(6, 9, 1, 6, Some(1)), None);
        assert_eq!(slice(i32::MAX, 0, i32::MAX, 6, Some(2)), None);
        assert_eq!(slice(6, 6, 1, 6, Some(0)), Some(0));
        assert_eq!(slice(0, 6, 0, 6, None), None);
    }

    #[test]
    fn updates_have_to_fit() {
        let op = SliceUpdate {
            op: Update::Set,
            start: vec![2],
            end: vec![4],
            strides: vec![1],
        };
        let infer = |update: Spec| op.infer(&[float32(&[5]), update], None).is_ok();
        assert!(infer(float32(&[3])));
        assert!(!infer(float32(&[4])));
        assert!(!infer(float32(&[1, 3])));
        assert!(!infer(Spec::new([3], Dtype::Int32)));
    }

    #[test]
    fn parts_follow_each_other() {
        let split = |indices: &[i32]| {
            let op = Split {
                indices: indices.to_vec(),
                axis: 0,
            };
            let outputs = op.infer(&[float32(&[5, 2])], None).ok()?;
            Some(outputs.iter().map(|part| part.shape[0]).collect::<Vec<_>>())
        };
        assert_eq!(split(&[1, 1, 4]), Some(vec![1, 0, 3, 1]));
        assert_eq!(split(&[3, 2]), None);
        assert_eq!(split(&[6]), None);
        assert_eq!(split(&[-1]), None);
    }

    #[test]
    fn strided_views_stay_inside() {
        let strided = |shape: &[usize], strides: &[i64], offset| {
            let op = AsStrided {
                shape: Shape::new(shape),
                strides: strides.to_vec(),
                offset,
            };
            op.output(&float32(&[2, 5]), None).is_ok()
        };
        assert!(strided(&[3, 2], &[4, 1], 0));
        assert!(!strided(&[3, 2], &[4, 1], 1));
        assert!(!strided(&[2], &[-1], 0));
        assert!(!strided(&[2], &[i64::MAX], 0));
        assert!(!strided(&[1], &[0], u64::MAX));
        assert!(!strided(&[2], &[1, 1], 0));
        assert!(!strided(&[1 << 31; 64], &[i64::MIN; 64], 0));
    }
}
