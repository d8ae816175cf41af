//! Views: other ways to look at the same memory. They copy nothing.

use crate::shape::{Axes, Layout, Spec, Strides};

/// How an output lies in its input's memory.
///
/// The parameters have been checked by the primitive's `infer` and `lower`: a view of a value that
/// lies within its buffer lies within that buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The input itself.
    Identity,
    /// The elements, in row-major order, in another shape.
    Reshape,
    /// Dimension `i` of the output is dimension `axes[i]` of the input.
    Transpose(Axes),
    /// Numpy broadcasting to the output's shape.
    Broadcast,
    /// Every `strides[i]`-th element of dimension `i` from `start[i]` on.
    Slice {
        /// The position of the first element in each dimension.
        start: Axes,
        /// The distance of neighbours in each dimension, in the input's elements.
        strides: Strides,
    },
    /// Any strides over the elements in row-major order.
    AsStrided {
        /// The step between neighbours in each dimension.
        strides: Strides,
        /// The first element.
        offset: usize,
    },
    /// The same bytes as another dtype. To a wider dtype the input must start at a multiple of the
    /// wider element's size, which whoever knows the address checks.
    Bitcast,
}

impl View {
    /// The layout of the output and the bytes from the input's first element to the output's.
    /// `None` where the input's memory order does not allow it: for a row-major input it does.
    pub fn apply(&self, input: &Layout, output: &Spec) -> Option<(Layout, isize)> {
        let with = |strides: Strides| Layout {
            shape: output.shape.clone(),
            strides,
            dtype: output.dtype,
        };
        let bytes = |elements: isize| elements * input.dtype.size() as isize;
        match self {
            View::Identity => Some((input.clone(), 0)),
            View::Reshape => Some((input.reshape(&output.shape)?, 0)),
            View::Transpose(axes) => Some((
                with(axes.iter().map(|&axis| input.strides[axis]).collect()),
                0,
            )),
            View::Broadcast => {
                let added = output.shape.len() - input.shape.len();
                let stride = |i: usize| match i.checked_sub(added) {
                    Some(j) if input.shape[j] == output.shape[i] => input.strides[j],
                    _ => 0,
                };
                Some((with((0..output.shape.len()).map(stride).collect()), 0))
            }
            View::Slice { start, strides } => {
                let offset = start.iter().zip(&input.strides);
                let offset = offset
                    .map(|(&start, &stride)| start as isize * stride)
                    .sum();
                let strides = strides.iter().zip(&input.strides).map(|(a, b)| a * b);
                Some((with(strides.collect()), bytes(offset)))
            }
            View::AsStrided { strides, offset } => input
                .is_contiguous()
                .then(|| (with(strides.clone()), bytes(*offset as isize))),
            View::Bitcast if input.dtype.size() == output.dtype.size() => {
                Some((with(input.strides.clone()), 0))
            }
            View::Bitcast => input.is_contiguous().then(|| (output.layout(), 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    fn apply(view: &View, input: &Layout, output: &[usize]) -> Option<(Vec<isize>, isize)> {
        let (layout, offset) = view.apply(input, &Spec::new(output, input.dtype))?;
        assert_eq!(&*layout.shape, output);
        Some((layout.strides.to_vec(), offset))
    }

    fn matrix() -> Layout {
        Spec::new([2, 3], Dtype::Float32).layout()
    }

    #[test]
    fn views_move_strides_and_offset() {
        let transpose = View::Transpose(Axes::from_slice(&[1, 0]));
        let m = matrix();
        assert_eq!(apply(&View::Identity, &m, &[2, 3]), Some((vec![3, 1], 0)));
        assert_eq!(apply(&transpose, &m, &[3, 2]), Some((vec![1, 3], 0)));
        assert_eq!(
            apply(&View::Broadcast, &m, &[4, 2, 3]),
            Some((vec![0, 3, 1], 0))
        );
        let slice = View::Slice {
            start: Axes::from_slice(&[1, 2]),
            strides: Strides::from_slice(&[1, -2]),
        };
        assert_eq!(apply(&slice, &m, &[1, 2]), Some((vec![3, -2], 20)));
        let strided = View::AsStrided {
            strides: Strides::from_slice(&[1, 1]),
            offset: 1,
        };
        assert_eq!(apply(&strided, &m, &[2, 2]), Some((vec![1, 1], 4)));
    }

    #[test]
    fn broadcast_gives_ones_zero_strides() {
        let column = Spec::new([2, 1], Dtype::Float32).layout();
        assert_eq!(
            apply(&View::Broadcast, &column, &[2, 5]),
            Some((vec![1, 0], 0))
        );
    }

    #[test]
    fn what_needs_row_major_says_so() {
        let (transposed, _) = View::Transpose(Axes::from_slice(&[1, 0]))
            .apply(&matrix(), &Spec::new([3, 2], Dtype::Float32))
            .unwrap();
        let strided = View::AsStrided {
            strides: Strides::from_slice(&[2]),
            offset: 0,
        };
        assert_eq!(apply(&View::Reshape, &transposed, &[6]), None);
        assert_eq!(apply(&strided, &transposed, &[3]), None);
        let bytes = Spec::new([3, 8], Dtype::Uint8);
        assert_eq!(View::Bitcast.apply(&transposed, &bytes), None);
        let (layout, _) = View::Bitcast
            .apply(&transposed, &Spec::new([3, 2], Dtype::Int32))
            .unwrap();
        assert_eq!(layout.strides[..], [1, 3]);
    }
}
