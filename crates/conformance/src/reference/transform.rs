//! Convolutions, Fourier transforms, and ranges.

use motet_core::dtype::Dtype;
use motet_core::kernel::Convolution;
use motet_core::shape::{Shape, Spec};
use num_complex::Complex64;

use super::matmul::dot;
use super::reduce::float;
use super::{number, places};
use crate::value::{Expected, Scalar, Value};

/// Adds up in the output's dtype, as the file format says.
pub(super) fn arange(output: &Spec, start: f64, next: f64) -> Vec<Expected> {
    let dtype = output.dtype;
    let (mut value, next) = (
        Scalar::Float(start).to(dtype),
        Scalar::Float(next).to(dtype),
    );
    let step = next.complex() - value.complex();
    let mut element = || {
        let this = value;
        value = match this {
            Scalar::Int(int) => Scalar::Int(int + step.re as i128),
            other => float(other.complex() + step, dtype),
        }
        .to(dtype);
        Expected::from(this)
    };
    (0..output.shape.size()).map(|_| element()).collect()
}

pub(super) fn convolution(inputs: &[Value], output: &Spec, p: &Convolution) -> Vec<Expected> {
    let (x, w) = (&inputs[0], &inputs[1]);
    let (x_shape, w_shape) = (&x.spec.shape, &w.spec.shape);
    let rank = x_shape.len();
    let (kernel, taken) = (&w_shape[1..rank - 1], w_shape[rank - 1]);
    let made = w_shape[0] / p.groups;
    let element = |place: Vec<usize>| {
        let group = place[rank - 1] / made;
        // The input that meets an element of the kernel, where there is one.
        let met = |at: &[usize], channel: usize| {
            let mut from = vec![place[0]];
            for axis in 0..rank - 2 {
                let reach = at[axis] * p.kernel_dilation[axis];
                let position = place[axis + 1] * p.strides[axis] + reach;
                let position = position.checked_sub(p.padding_low[axis])?;
                let (position, between) = (
                    position / p.input_dilation[axis],
                    position % p.input_dilation[axis],
                );
                if between != 0 || position >= x_shape[axis + 1] {
                    return None;
                }
                from.push(position);
            }
            from.push(group * taken + channel);
            Some(x.elements[number(x_shape, &from)].complex())
        };
        let mut terms = Vec::new();
        for at in places(kernel) {
            for channel in 0..taken {
                let element = met(&at, channel);
                terms.extend(element.map(|x| {
                    let mut from = vec![place[rank - 1]];
                    from.extend((0..at.len()).map(|axis| match p.flip {
                        true => kernel[axis] - 1 - at[axis],
                        false => at[axis],
                    }));
                    from.push(channel);
                    (x, w.elements[number(w_shape, &from)].complex())
                }));
            }
        }
        let (sum, scale) = dot(terms.into_iter());
        Expected {
            value: float(sum, output.dtype),
            scale,
        }
    };
    places(&output.shape).map(element).collect()
}

pub(super) fn fft(x: &Value, output: &Spec, axes: &[usize], inverse: bool) -> Vec<Expected> {
    let scale = x.elements.iter().map(|e| e.abs()).fold(0.0, f64::max);
    let mut shape = x.spec.shape.clone();
    let mut values: Vec<Complex64> = x.elements.iter().map(|e| e.complex()).collect();
    let last = axes[axes.len() - 1];
    // Half of the frequencies of real values are stored: the others are their conjugates.
    if output.dtype != Dtype::Complex64 {
        let whole = output.shape[last];
        let (others, _) = axes.split_at(axes.len() - 1);
        for &axis in others {
            values = transform(&values, &shape, axis, inverse);
        }
        let mut full = shape.clone();
        full.dims_mut()[last] = whole;
        let element = |mut place: Vec<usize>| {
            let at = place[last];
            let mirrored = at > whole / 2;
            place[last] = if mirrored { whole - at } else { at };
            let mut value = values[number(&shape, &place)];
            if at == 0 || 2 * at == whole {
                value.im = 0.0;
            }
            if mirrored { value.conj() } else { value }
        };
        let filled: Vec<Complex64> = places(&full).map(element).collect();
        values = transform(&filled, &full, last, inverse);
        shape = full;
    } else {
        for &axis in axes {
            values = transform(&values, &shape, axis, inverse);
        }
    }
    let count: usize = axes.iter().map(|&axis| shape[axis]).product();
    let factor = if inverse { 1.0 / count as f64 } else { 1.0 };
    let scale = scale * if inverse { 1.0 } else { count as f64 };
    let element = |place: Vec<usize>| {
        let value = values[number(&shape, &place)] * factor;
        Expected {
            value: float(value, output.dtype),
            scale,
        }
    };
    places(&output.shape).map(element).collect()
}

/// The unscaled transform along one axis, by its definition.
fn transform(values: &[Complex64], shape: &Shape, axis: usize, inverse: bool) -> Vec<Complex64> {
    let n = shape[axis];
    let direction = if inverse { 1.0 } else { -1.0 };
    let element = |mut place: Vec<usize>| {
        let frequency = place[axis];
        let term = |at: usize| {
            place[axis] = at;
            let turn = (frequency * at % n) as f64 / n as f64;
            let angle = direction * std::f64::consts::TAU * turn;
            values[number(shape, &place)] * Complex64::cis(angle)
        };
        (0..n).map(term).sum()
    };
    places(shape).map(element).collect()
}
