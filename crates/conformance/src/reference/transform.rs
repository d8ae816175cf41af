//! Convolutions, Fourier transforms, and ranges.

use motet_core::dtype::Dtype;
use motet_core::kernel::Convolution;
use motet_core::shape::{Shape, Spec};
use num_complex::Complex64;

use super::matmul::dot;
use super::reduce::float;
use super::{Outcome, number, places};
use crate::value::{Expected, Scalar, Value, tolerance};

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

/// Threefry, twenty rounds, of two words.
pub(super) fn random_bits(keys: &Value, output: &Spec) -> Vec<Expected> {
    let mut elements = Vec::new();
    let width = output.dtype.size();
    let count = output.shape.size() / (keys.elements.len() / 2).max(1);
    for key in keys.elements.chunks(2) {
        let key = [key[0].int() as u32, key[1].int() as u32];
        let words = (count * width).div_ceil(4);
        let (half, odd) = (words / 2, words % 2);
        let mut bits = vec![0; words];
        for j in 0..half {
            let pair = threefry(key, [j as u32, (half + odd + j) as u32]);
            [bits[j], bits[half + odd + j]] = pair;
        }
        if odd == 1 {
            bits[half] = threefry(key, [half as u32, 0])[0];
        }
        let bytes: Vec<u8> = bits
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        let numbers = bytes.chunks(width).take(count);
        elements.extend(numbers.map(|bytes| {
            let number = bytes
                .iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | i128::from(byte));
            Expected::from(Scalar::Int(number))
        }));
    }
    elements
}

fn threefry([k0, k1]: [u32; 2], [mut a, mut b]: [u32; 2]) -> [u32; 2] {
    let keys = [k0, k1, k0 ^ k1 ^ 0x1BD1_1BDA];
    (a, b) = (a.wrapping_add(keys[0]), b.wrapping_add(keys[1]));
    for i in 0..5 {
        let rotations = if i % 2 == 0 {
            [13, 15, 26, 6]
        } else {
            [17, 29, 16, 24]
        };
        for by in rotations {
            a = a.wrapping_add(b);
            b = b.rotate_left(by) ^ a;
        }
        a = a.wrapping_add(keys[(i + 1) % 3]);
        b = b.wrapping_add(keys[(i + 2) % 3]).wrapping_add(i as u32 + 1);
    }
    [a, b]
}

/// The product with the Hadamard matrix of a power of two. Others have entries of their own: their
/// product is as long as theirs is.
pub(super) fn hadamard(x: &Value, scale: f32) -> Outcome<'_> {
    let n = x.spec.shape[x.spec.shape.len() - 1];
    let scale = f64::from(scale);
    let row = |row: &[Scalar]| row.iter().map(|e| e.real()).collect::<Vec<f64>>();
    if n.is_power_of_two() {
        let product = |row: Vec<f64>| {
            let size: f64 = row.iter().map(|x| x.abs()).sum::<f64>() * scale.abs();
            let element = |i: usize| {
                let sign = |j: usize| {
                    if (i & j).count_ones().is_multiple_of(2) {
                        1.0
                    } else {
                        -1.0
                    }
                };
                let sum: f64 = row.iter().enumerate().map(|(j, x)| sign(j) * x).sum();
                let value = Scalar::Float(sum * scale);
                Expected { value, scale: size }
            };
            (0..n).map(element).collect::<Vec<Expected>>()
        };
        return Outcome::Elements(vec![
            x.elements.chunks(n).map(row).flat_map(product).collect(),
        ]);
    }
    let dtype = x.spec.dtype;
    Outcome::Property(Box::new(move |got| {
        let squares = |row: Vec<f64>| row.iter().map(|x| x * x).sum::<f64>();
        let rows = x.elements.chunks(n).zip(got[0].elements.chunks(n));
        for (x, y) in rows {
            let (wanted, got) = (squares(row(x)) * n as f64 * scale * scale, squares(row(y)));
            if (got - wanted).abs() > 4.0 * tolerance(dtype) * wanted {
                return Err(format!(
                    "a product has the square length {got}, expected {wanted}"
                ));
            }
        }
        Ok(())
    }))
}
