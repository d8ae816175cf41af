//! Quantisation: codes bit by bit, scales and biases as the file format defines them.

use motet_core::kernel::{Quantization, QuantizationMode};
use motet_core::shape::Spec;

use super::matmul::dot;
use crate::value::{Expected, Scalar, Value};

/// The values of packed words, scales and, for affine, biases.
pub(super) fn dequantize(arrays: &[Value], q: Quantization) -> Vec<Expected> {
    let words = &arrays[0];
    let in_row = *words.spec.shape.last().expect("there is a row");
    let mut values = Vec::new();
    for (row, words) in words.elements.chunks(in_row.max(1)).enumerate() {
        let count = in_row * 32 / q.bits;
        for at in 0..count {
            let group = row * (count / q.group_size) + at / q.group_size;
            let code = code(words, at, q.bits);
            let scale = arrays[1].elements[group];
            let value = match q.mode {
                QuantizationMode::Affine => {
                    let bias = arrays[2].elements[group].real();
                    let product = f64::from(code) * scale.real();
                    let value = Scalar::Float(product + bias);
                    let scale = product.abs() + bias.abs();
                    values.push(Expected { value, scale });
                    continue;
                }
                QuantizationMode::Mxfp4 | QuantizationMode::Nvfp4 => fp4(code),
                QuantizationMode::Mxfp8 => e4m3(code),
            };
            let scale = scale_value(scale.int() as u32, q.mode);
            values.push(Scalar::Float(value * scale).into());
        }
    }
    values
}

/// The code with this number in a row of words: bits from the least significant on.
fn code(words: &[Scalar], number: usize, bits: usize) -> u32 {
    let bit = |place: usize| words[place / 32].int() as u32 >> (place % 32) & 1;
    (0..bits).fold(0, |code, i| code | bit(number * bits + i) << i)
}

/// A sign, two bits of exponent, one of mantissa.
fn fp4(code: u32) -> f64 {
    let magnitude = match (code >> 1 & 3, f64::from(code & 1)) {
        (0, mantissa) => mantissa / 2.0,
        (exponent, mantissa) => 2f64.powi(exponent as i32 - 1) * (1.0 + mantissa / 2.0),
    };
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// A sign, four bits of exponent, three of mantissa; no infinities.
fn e4m3(code: u32) -> f64 {
    let magnitude = match (code >> 3 & 15, code & 7) {
        (15, 7) => f64::NAN,
        (0, mantissa) => f64::from(mantissa) / 8.0 * 2f64.powi(-6),
        (exponent, mantissa) => (1.0 + f64::from(mantissa) / 8.0) * 2f64.powi(exponent as i32 - 7),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

fn scale_value(code: u32, mode: QuantizationMode) -> f64 {
    match mode {
        QuantizationMode::Nvfp4 => e4m3(code),
        // In float32, where the last one is infinite.
        _ => f64::from(2f64.powi(code as i32 - 127) as f32),
    }
}

pub(super) fn matmul(
    inputs: &[Value],
    output: &Spec,
    q: Quantization,
    transpose: bool,
) -> Vec<Expected> {
    let (x, w) = (&inputs[0], Packed::new(&inputs[1..], q, transpose));
    let x_rows = x.elements.len() / w.k.max(1);
    // One matrix is for all rows of x.
    let rows_of_a_matrix = x_rows.div_ceil(w.matrices.max(1)).max(1);
    let element = |number: usize| {
        let (row, column) = (number / w.n, number % w.n);
        w.product(x, row, row / rows_of_a_matrix, column)
    };
    (0..output.shape.size()).map(element).collect()
}

/// Inputs x, the arrays of w, and the indices of the matrices of each.
pub(super) fn gathered(
    inputs: &[Value],
    output: &Spec,
    q: Quantization,
    transpose: bool,
) -> Vec<Expected> {
    let (inputs, indices) = inputs.split_at(inputs.len() - 2);
    let (x, w) = (&inputs[0], Packed::new(&inputs[1..], q, transpose));
    let m = x.spec.shape[x.spec.shape.len() - 2];
    let pick = |side: &Value, at: usize| side.elements[at].int() as usize;
    let element = |number: usize| {
        let (at, row, column) = (number / w.n / m, number / w.n % m, number % w.n);
        let row = pick(&indices[0], at) * m + row;
        w.product(x, row, pick(&indices[1], at), column)
    };
    (0..output.shape.size()).map(element).collect()
}

/// Packed matrices of K rows and N columns, transposed where they are to be.
struct Packed {
    values: Vec<Expected>,
    matrices: usize,
    k: usize,
    n: usize,
    transpose: bool,
}

impl Packed {
    fn new(arrays: &[Value], q: Quantization, transpose: bool) -> Packed {
        let values = dequantize(arrays, q);
        let shape = &arrays[0].spec.shape;
        let columns = shape[shape.len() - 1] * 32 / q.bits;
        let rows = shape[shape.len() - 2];
        let (k, n) = if transpose {
            (columns, rows)
        } else {
            (rows, columns)
        };
        let matrices = values.len() / (rows * columns).max(1);
        Packed {
            values,
            matrices,
            k,
            n,
            transpose,
        }
    }

    /// A row of x times a column.
    fn product(&self, x: &Value, row: usize, matrix: usize, column: usize) -> Expected {
        let at = |k: usize| {
            let place = if self.transpose {
                column * self.k + k
            } else {
                k * self.n + column
            };
            self.values[matrix * self.k * self.n + place]
        };
        let x = |k: usize| x.elements[row * self.k + k].complex();
        let (sum, scale) = dot((0..self.k).map(|k| (x(k), at(k).value.complex())));
        // Values are a difference of a product and a bias.
        let parts: f64 = (0..self.k).map(|k| x(k).norm() * at(k).scale).sum();
        let value = Scalar::Float(sum.re);
        Expected {
            value,
            scale: scale.max(parts),
        }
    }
}

fn k_of(x: &Value) -> usize {
    *x.spec.shape.last().expect("there is a row")
}

/// Packed words, scales and, for affine, biases.
pub(super) fn quantize(w: &Value, outputs: &[Spec], q: Quantization) -> Vec<Vec<Expected>> {
    let mut codes = Vec::new();
    let mut scales = vec![Vec::new(); outputs.len() - 1];
    for group in w.elements.chunks(q.group_size) {
        let values: Vec<f32> = group.iter().map(|e| e.real() as f32).collect();
        match q.mode {
            QuantizationMode::Affine => {
                let (scale, bias) = affine(&values, q.bits, &mut codes);
                scales[0].push(Scalar::Float(scale.into()).into());
                scales[1].push(Scalar::Float(bias.into()).into());
            }
            mode => {
                let scale = floats(&values, mode, &mut codes);
                scales[0].push(Scalar::Int(scale.into()).into());
            }
        }
    }
    let row = k_of(w);
    let words = codes
        .chunks(row.max(1))
        .flat_map(|codes| pack(codes, q.bits));
    let words = words.map(|word| Scalar::Int(word.into()).into()).collect();
    [vec![words], scales].concat()
}

fn pack(codes: &[u32], bits: usize) -> Vec<u32> {
    let mut words = vec![0; codes.len() * bits / 32];
    for place in 0..codes.len() * bits {
        words[place / 32] |= (codes[place / bits] >> (place % bits) & 1) << (place % 32);
    }
    words
}

/// Codes, scale and bias of a group, each step in float32.
fn affine(values: &[f32], bits: usize, codes: &mut Vec<u32>) -> (f32, f32) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = (2f32.powi(bits as i32)) - 1.0;
    let step = ((high - low) / most).max(1e-7);
    if bits == 1 {
        codes.extend(
            values
                .iter()
                .map(|value| nearest_step(value, step, low, most)),
        );
        return (step, low);
    }
    let (edge, step) = if low.abs() > high.abs() {
        (low, step)
    } else {
        (high, -step)
    };
    let zero = (edge / step).round_ties_even();
    let (scale, bias) = if zero == 0.0 {
        (step, 0.0)
    } else {
        (edge / zero, edge)
    };
    codes.extend(
        values
            .iter()
            .map(|value| nearest_step(value, scale, bias, most)),
    );
    (scale, bias)
}

fn nearest_step(value: &f32, scale: f32, bias: f32, most: f32) -> u32 {
    ((value - bias) / scale).round_ties_even().clamp(0.0, most) as u32
}

/// Codes of a group, and its scale's code.
fn floats(values: &[f32], mode: QuantizationMode, codes: &mut Vec<u32>) -> u32 {
    let largest = values.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let eight = mode == QuantizationMode::Mxfp8;
    let scale = largest / if eight { 448.0 } else { 6.0 };
    let code = match mode {
        QuantizationMode::Nvfp4 => nearest_e4m3(scale),
        _ if scale == 0.0 => 127,
        _ => {
            let exponent = scale.log2().round();
            let up = if exponent.exp2() < scale { 1.0 } else { 0.0 };
            (exponent + up + 127.0).clamp(0.0, 254.0) as u32
        }
    };
    let divisor = scale_value(code, mode) as f32;
    if eight {
        codes.extend(values.iter().map(|value| {
            let value = value / divisor;
            nearest_e4m3(value.abs()) | u32::from(value.is_sign_negative()) << 7
        }));
        return code;
    }
    let table: Vec<f32> = (0..16).map(|code| fp4(code) as f32).collect();
    let nearest = |value: &f32| {
        let distance = |code: usize| (value / divisor - table[code]).abs();
        let codes = (0..table.len()).filter(|&code| !distance(code).is_nan());
        // The first of the nearest: the smaller magnitude, and no negative zero.
        codes
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
            .unwrap_or(0) as u32
    };
    codes.extend(values.iter().map(nearest));
    code
}

/// The code of the nearest positive number, the even one of two.
fn nearest_e4m3(value: f32) -> u32 {
    let value = f64::from(value.min(448.0));
    let distance = |code: u32| (value - e4m3(code)).abs();
    (0..0x7F)
        .min_by(|&a, &b| {
            distance(a)
                .total_cmp(&distance(b))
                .then((a % 2).cmp(&(b % 2)))
        })
        .unwrap_or(0)
}
