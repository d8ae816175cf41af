//! Normalisation, rotary embedding and attention.

use motet_core::dtype::Dtype;
use motet_core::kernel::Rope;
use motet_core::shape::Spec;

use super::place;
use crate::value::{Expected, Scalar, Value, tolerance};

fn reals(value: &Value) -> Vec<f64> {
    value.elements.iter().map(|e| e.real()).collect()
}

fn expected(value: f64, scale: f64) -> Expected {
    let value = Scalar::Float(value);
    Expected { value, scale }
}

/// A row less its mean, where that is to be taken away, and one over its deviation.
fn normalized(row: &[f64], eps: f64, center: bool) -> (Vec<f64>, f64) {
    let count = row.len() as f64;
    let mean = if center {
        row.iter().sum::<f64>() / count
    } else {
        0.0
    };
    let moved: Vec<f64> = row.iter().map(|x| x - mean).collect();
    let variance = moved.iter().map(|x| x * x).sum::<f64>() / count;
    (moved, 1.0 / (variance + eps).sqrt())
}

/// The number of a parameter that may be a scalar.
fn parameter(values: &[f64], at: usize) -> f64 {
    values[at % values.len()]
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

pub(super) fn norm(inputs: &[Value], eps: f32, center: bool) -> Vec<Expected> {
    let (x, w) = (reals(&inputs[0]), reals(&inputs[1]));
    let b = if center { reals(&inputs[2]) } else { vec![0.0] };
    let row = |row: &[f64]| {
        let (moved, n) = normalized(row, eps.into(), center);
        let most = largest(row) * n;
        let element = |(at, x): (usize, &f64)| {
            let (w, b) = (parameter(&w, at), parameter(&b, at));
            expected(x * n * w + b, 2.0 * (most * w.abs() + b.abs()))
        };
        moved.iter().enumerate().map(element).collect::<Vec<_>>()
    };
    x.chunks(row_length(&inputs[0])).flat_map(row).collect()
}

fn row_length(x: &Value) -> usize {
    x.spec.shape.last().copied().unwrap_or(1).max(1)
}

/// The gradients of x, of the weights and, with a center, of the biases.
pub(super) fn norm_vjp(inputs: &[Value], eps: f32, center: bool) -> Vec<Vec<Expected>> {
    let (x, w) = (reals(&inputs[0]), reals(&inputs[1]));
    let g = reals(&inputs[inputs.len() - 1]);
    let length = row_length(&inputs[0]);
    let mut of_x = Vec::new();
    let (mut of_w, mut of_b) = (vec![(0.0, 0.0); length], vec![(0.0, 0.0); length]);
    for (row, g) in x.chunks(length).zip(g.chunks(length)) {
        let (moved, n) = normalized(row, eps.into(), center);
        let wg: Vec<f64> = g
            .iter()
            .enumerate()
            .map(|(at, g)| g * parameter(&w, at))
            .collect();
        let count = row.len() as f64;
        let mean = if center {
            wg.iter().sum::<f64>() / count
        } else {
            0.0
        };
        let along = wg.iter().zip(&moved).map(|(wg, x)| wg * x).sum::<f64>() / count;
        let most = largest(&wg) * n * (1.0 + largest(&moved).powi(2) * n * n);
        for (at, (wg, x)) in wg.iter().zip(&moved).enumerate() {
            of_x.push(expected(
                n * (wg - mean) - x * n.powi(3) * along,
                4.0 * most,
            ));
            let (term, size) = (g[at] * x * n, g[at].abs() * largest(row) * n);
            of_w[at] = (of_w[at].0 + term, of_w[at].1 + size);
            of_b[at] = (of_b[at].0 + g[at], of_b[at].1 + g[at].abs());
        }
    }
    let parameter = |sums: Vec<(f64, f64)>, input: &Value| match input.spec.shape.is_empty() {
        // What stands for absent weights has no gradient.
        true => vec![expected(0.0, 0.0)],
        false => {
            let sums = sums.into_iter().take(input.elements.len());
            sums.map(|(sum, scale)| expected(sum, scale)).collect()
        }
    };
    let mut gradients = vec![of_x, parameter(of_w, &inputs[1])];
    if center {
        gradients.push(parameter(of_b, &inputs[2]));
    }
    gradients
}

pub(super) fn rope(inputs: &[Value], output: &Spec, rope: &Rope) -> Vec<Expected> {
    let (x, offsets) = (reals(&inputs[0]), reals(&inputs[1]));
    let periods = inputs.get(2).map(reals);
    let shape = &output.shape;
    let (rows, length) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let half = rope.dims / 2;
    let element = |number: usize| {
        let at = place(shape, number);
        let column = at[at.len() - 1];
        if column >= rope.dims {
            return expected(x[number], x[number].abs());
        }
        let (pair, second) = match rope.traditional {
            true => (column / 2, column % 2 == 1),
            false => (column % half, column >= half),
        };
        let other = match (rope.traditional, second) {
            (true, false) => number + 1,
            (true, true) => number - 1,
            (false, false) => number + half,
            (false, true) => number - half,
        };
        let time = number / length % rows;
        let position = (time as f64 + parameter(&offsets, at[0])) * f64::from(rope.scale);
        let base = rope.base.map_or(1.0, f64::from);
        let angle = match &periods {
            Some(periods) => position / periods[pair],
            None => position * base.powf(-(pair as f64) / half as f64),
        };
        let (sin, cos) = if rope.forward { angle } else { -angle }.sin_cos();
        let value = match second {
            false => x[number] * cos - x[other] * sin,
            true => x[other] * sin + x[number] * cos,
        };
        // The angle is a rounded number itself, of float32 whatever x is.
        let rounding = (tolerance(Dtype::Float32) / tolerance(output.dtype)).max(1.0);
        let scale = (x[number].abs() + x[other].abs()) * (1.0 + angle.abs());
        expected(value, scale * rounding)
    };
    (0..x.len()).map(element).collect()
}

/// Whether there are a mask and sinks behind q, k and v, and which keys are seen.
pub(super) struct Attention {
    pub(super) scale: f32,
    pub(super) causal: bool,
    pub(super) mask: bool,
    pub(super) sinks: bool,
}

pub(super) fn attention(inputs: &[Value], output: &Spec, a: &Attention) -> Vec<Expected> {
    let [q, k, v] = [0, 1, 2].map(|input| reals(&inputs[input]));
    let (queries, keys) = (&inputs[0].spec.shape, &inputs[1].spec.shape);
    let (heads, length, features) = (queries[1], queries[2], queries[3]);
    let (shared, seen, made) = (keys[1], keys[2], output.shape[3]);
    let mask = a.mask.then(|| &inputs[3]);
    let sinks = a.sinks.then(|| reals(&inputs[inputs.len() - 1]));
    let element = |number: usize| {
        let at = place(&output.shape, number);
        let [batch, head, query, feature] = at[..] else {
            panic!("four dimensions")
        };
        let key_head = batch * shared + head / (heads / shared);
        let score = |key: usize| -> Option<f64> {
            if a.causal && key + length > query + seen {
                return None;
            }
            let q = &q[((batch * heads + head) * length + query) * features..][..features];
            let k = &k[(key_head * seen + key) * features..][..features];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
            let score = dot * f64::from(a.scale);
            match mask.map(|mask| masked(mask, &[batch, head, query, key])) {
                None => Some(score),
                Some(Scalar::Int(keep)) => (keep != 0).then_some(score),
                Some(added) => Some(score + added.real()),
            }
        };
        let scores: Vec<Option<f64>> = (0..seen).map(score).collect();
        let sink = sinks.as_ref().map(|sinks| sinks[head]);
        let max = scores
            .iter()
            .flatten()
            .chain(&sink)
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        if scores.iter().flatten().next().is_none() {
            // What a query gets that sees nothing is open.
            return Scalar::Any.into();
        }
        let weights: Vec<f64> = scores
            .iter()
            .map(|s| s.map_or(0.0, |s| (s - max).exp()))
            .collect();
        let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - max).exp());
        let of = |key: usize| v[(key_head * seen + key) * made + feature];
        let terms = (0..seen).map(|key| weights[key] / sum * of(key));
        let most = (0..seen).map(|key| of(key).abs()).fold(0.0, f64::max);
        expected(terms.sum(), most * (1.0 + max.abs()))
    };
    (0..output.shape.size()).map(element).collect()
}

/// The element of a mask that broadcasts to the scores.
fn masked(mask: &Value, place: &[usize; 4]) -> Scalar {
    let shape = &mask.spec.shape;
    let place = &place[4 - shape.len()..];
    let dims = shape.iter().zip(place);
    let at = dims.fold(0, |number, (&dim, &at)| {
        number * dim + if dim == 1 { 0 } else { at }
    });
    mask.elements[at]
}
