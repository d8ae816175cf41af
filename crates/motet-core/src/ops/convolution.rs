//! Convolution of one to three (or more) spatial dimensions, channels last.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, same_dtype};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::{self, Kernel};
use crate::shape::{Axes, Spec};

operation! {
    /// Convolution of x (N, spatial..., C) by w (O, spatial..., C / groups).
    Convolution {
        /// Strides, padding, dilations, groups and direction.
        parameters: Box<kernel::Convolution>,
    }
}

impl Convolution {
    /// The output's size in a dimension where x has `n` and w has `k` elements; `None` if the
    /// kernel does not fit.
    fn size(&self, axis: usize, n: usize, k: usize) -> Option<usize> {
        let p = &self.parameters;
        let dilated = |n: usize, by: usize| n.checked_sub(1)?.checked_mul(by)?.checked_add(1);
        let input = dilated(n, p.input_dilation[axis])?
            .checked_add(p.padding_low[axis])?
            .checked_add(p.padding_high[axis])?;
        let steps = input.checked_sub(dilated(k, p.kernel_dilation[axis])?)?;
        Some(steps / p.strides[axis] + 1)
    }
}

impl Operation for Convolution {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, inputs)?;
        let (x, w, p) = (&inputs[0], &inputs[1], &self.parameters);
        let rank = x.shape.len();
        let spatial = rank.saturating_sub(2);
        if spatial == 0 || w.shape.len() != rank || !x.dtype.is_float() {
            return Err(Self::error(format!(
                "{x} by {w}: expected (N, spatial..., C) and (O, spatial..., C) of a real floating dtype"
            )));
        }
        let all = [
            &p.strides,
            &p.padding_low,
            &p.padding_high,
            &p.kernel_dilation,
            &p.input_dilation,
        ];
        let positive = [&p.strides, &p.kernel_dilation, &p.input_dilation];
        if all.iter().any(|values| values.len() != spatial)
            || positive.iter().any(|values| values.contains(&0))
        {
            return Err(Self::error(format!(
                "{p:?} is not for {spatial} spatial dimensions"
            )));
        }
        let (channels, taken, made) = (x.shape[rank - 1], w.shape[rank - 1], w.shape[0]);
        if p.groups == 0
            || !made.is_multiple_of(p.groups)
            || taken.checked_mul(p.groups) != Some(channels)
        {
            return Err(Self::error(format!(
                "{} groups of channels of {x} by {w}: expected (O, ..., C / groups)",
                p.groups
            )));
        }
        let size = |axis: usize| {
            let (n, k) = (x.shape[axis + 1], w.shape[axis + 1]);
            self.size(axis, n, k).ok_or_else(|| {
                Self::error(format!(
                    "{k} elements do not fit into axis {} of {x}",
                    axis + 1
                ))
            })
        };
        let mut dims = vec![x.shape[0]];
        for axis in 0..spatial {
            dims.push(size(axis)?);
        }
        dims.push(made);
        Ok(vec![Spec::new(dims, x.dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Convolution(
            (*self.parameters).clone(),
        )))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let typed = |x: &[usize], w: &[usize], dtype, change: &dyn Fn(&mut kernel::Convolution)| {
            let ones = Axes::from_elem(1, x.len() - 2);
            let zeros = Axes::from_elem(0, x.len() - 2);
            let mut parameters = kernel::Convolution {
                strides: ones.clone(),
                padding_low: zeros.clone(),
                padding_high: zeros,
                kernel_dilation: ones.clone(),
                input_dilation: ones,
                groups: 1,
                flip: false,
            };
            change(&mut parameters);
            let parameters = Box::new(parameters);
            let inputs = vec![Spec::new(x, dtype), Spec::new(w, dtype)];
            (Convolution { parameters }, inputs)
        };
        let sample = |x: &[usize], w: &[usize], change: &dyn Fn(&mut kernel::Convolution)| {
            typed(x, w, Dtype::Float32, change)
        };
        let mut samples = vec![
            sample(&[2, 9, 3], &[4, 3, 3], &|_| ()),
            sample(&[1, 6, 7, 4], &[6, 3, 2, 2], &|p| p.groups = 2),
            sample(&[1, 8, 8, 3], &[5, 3, 3, 3], &|p| {
                p.strides.fill(2);
                p.padding_low.fill(1);
                p.padding_high[1] = 2;
            }),
            sample(&[1, 5, 5, 2], &[3, 3, 3, 2], &|p| {
                p.input_dilation.fill(2);
                p.kernel_dilation[0] = 2;
                p.flip = true;
            }),
            sample(&[1, 4, 4, 4, 2], &[3, 2, 2, 2, 2], &|_| ()),
        ];
        for dtype in [Dtype::Float16, Dtype::Bfloat16, Dtype::Float64] {
            let padded = |p: &mut kernel::Convolution| p.padding_low.fill(1);
            samples.push(typed(&[2, 5, 6, 3], &[4, 3, 2, 3], dtype, &padded));
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(
        change: impl Fn(&mut kernel::Convolution),
        x: &[usize],
        w: &[usize],
    ) -> Option<Vec<usize>> {
        let (mut op, _) = Convolution::samples().remove(0);
        change(&mut op.parameters);
        let inputs = [Spec::new(x, Dtype::Float32), Spec::new(w, Dtype::Float32)];
        let outputs = op.infer(&inputs, None).ok()?;
        Some(outputs[0].shape.to_vec())
    }

    #[test]
    fn sizes_follow_strides_padding_and_dilation() {
        let (x, w) = (&[2, 9, 4][..], &[6, 3, 4][..]);
        assert_eq!(infer(|_| (), x, w), Some(vec![2, 7, 6]));
        assert_eq!(infer(|p| p.strides[0] = 2, x, w), Some(vec![2, 4, 6]));
        assert_eq!(infer(|p| p.padding_high[0] = 3, x, w), Some(vec![2, 10, 6]));
        assert_eq!(
            infer(|p| p.kernel_dilation[0] = 4, x, w),
            Some(vec![2, 1, 6])
        );
        assert_eq!(
            infer(|p| p.input_dilation[0] = 2, x, w),
            Some(vec![2, 15, 6])
        );
        assert_eq!(infer(|p| p.groups = 2, x, &[6, 3, 2]), Some(vec![2, 7, 6]));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let (x, w) = (&[2, 9, 4][..], &[6, 3, 4][..]);
        assert_eq!(infer(|p| p.strides[0] = 0, x, w), None);
        assert_eq!(infer(|p| p.kernel_dilation[0] = 0, x, w), None);
        assert_eq!(infer(|p| p.input_dilation[0] = 0, x, w), None);
        assert_eq!(infer(|p| p.groups = 0, x, w), None);
        assert_eq!(infer(|p| p.groups = 2, x, w), None);
        assert_eq!(infer(|p| p.groups = 4, x, &[6, 3, 1]), None);
        assert_eq!(infer(|p| p.strides.push(1), x, w), None);
        assert_eq!(infer(|p| p.kernel_dilation[0] = 5, x, w), None);
        assert_eq!(infer(|p| p.kernel_dilation[0] = usize::MAX, x, w), None);
        assert_eq!(infer(|_| (), &[2, 4], &[6, 4]), None);
        assert_eq!(infer(|_| (), &[2, 0, 4], w), None);
        assert_eq!(infer(|_| (), x, &[6, 3, 3, 4]), None);
    }
}
