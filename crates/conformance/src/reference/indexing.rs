//! Gathering, scattering, and putting together.

use motet_core::kernel::Update;
use motet_core::shape::Spec;

use super::elementwise::less;
use super::{number, place, places};
use crate::value::{Expected, Scalar, Value};

pub(super) fn concatenate(inputs: &[Value], output: &Spec, axis: usize) -> Vec<Expected> {
    let element = |mut place: Vec<usize>| {
        for input in inputs {
            match place[axis].checked_sub(input.spec.shape[axis]) {
                Some(rest) => place[axis] = rest,
                None => return input.elements[number(&input.spec.shape, &place)].into(),
            }
        }
        panic!("the output is longer than all inputs")
    };
    places(&output.shape).map(element).collect()
}

pub(super) fn pad(inputs: &[Value], output: &Spec, low: &[usize]) -> Vec<Expected> {
    let shape = &inputs[0].spec.shape;
    let element = |place: Vec<usize>| {
        let inner: Option<Vec<usize>> = (0..place.len())
            .map(|axis| {
                place[axis]
                    .checked_sub(low[axis])
                    .filter(|&at| at < shape[axis])
            })
            .collect();
        match inner {
            Some(place) => inputs[0].elements[number(shape, &place)].into(),
            None => inputs[1].elements[0].into(),
        }
    };
    places(&output.shape).map(element).collect()
}

/// Where index `number` of each index input points in `x`, for a block that starts there.
fn start(x: &Value, indices: &[Value], axes: &[usize], number: usize) -> Vec<usize> {
    let mut start = vec![0; x.spec.shape.len()];
    for (index, &axis) in indices.iter().zip(axes) {
        start[axis] = from_end(index.elements[number], x.spec.shape[axis]);
    }
    start
}

fn from_end(index: Scalar, dim: usize) -> usize {
    let index = index.int();
    let index = if index < 0 {
        index + dim as i128
    } else {
        index
    };
    usize::try_from(index).expect("samples have indices in range")
}

fn add(a: &[usize], b: &[usize]) -> Vec<usize> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(super) fn gather(
    inputs: &[Value],
    output: &Spec,
    axes: &[usize],
    block: &[usize],
) -> Vec<Expected> {
    let (x, indices) = (&inputs[0], &inputs[1..]);
    let elements: usize = block.iter().product();
    let element = |at: usize| {
        let start = start(x, indices, axes, at / elements);
        let place = add(&start, &place(block, at % elements));
        x.elements[number(&x.spec.shape, &place)].into()
    };
    (0..output.shape.size()).map(element).collect()
}

pub(super) fn gather_axis(inputs: &[Value], output: &Spec, axis: usize) -> Vec<Expected> {
    let (x, indices) = (&inputs[0], &inputs[1]);
    let element = |(at, mut place): (usize, Vec<usize>)| {
        place[axis] = from_end(indices.elements[at], x.spec.shape[axis]);
        x.elements[number(&x.spec.shape, &place)].into()
    };
    places(&output.shape).enumerate().map(element).collect()
}

/// A copy of `x` in which updates are combined with what is there, one after the other.
struct Updated {
    spec: Spec,
    elements: Vec<Expected>,
    op: Update,
}

impl Updated {
    fn new(x: &Value, op: Update) -> Updated {
        Updated {
            spec: x.spec.clone(),
            elements: x.elements.iter().map(|&e| e.into()).collect(),
            op,
        }
    }

    fn update(&mut self, place: &[usize], new: Scalar) {
        let Expected { value: old, scale } = self.elements[number(&self.spec.shape, place)];
        let value = match self.op {
            Update::Set => new,
            Update::Max if old.is_nan() || less(new, old) => old,
            Update::Min if old.is_nan() || less(old, new) => old,
            Update::Max | Update::Min => new,
            Update::Sum | Update::Prod => combine(self.op, old, new).to(self.spec.dtype),
        };
        // Halves are rounded at each step.
        let scale = match self.op {
            Update::Sum => scale + value.abs(),
            _ => 2.0 * value.abs(),
        };
        self.elements[number(&self.spec.shape, place)] = Expected { value, scale };
    }
}

fn combine(op: Update, a: Scalar, b: Scalar) -> Scalar {
    let sum = op == Update::Sum;
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => {
            Scalar::Int(if sum { a + b } else { a.wrapping_mul(b) })
        }
        (Scalar::Float(a), Scalar::Float(b)) => Scalar::Float(if sum { a + b } else { a * b }),
        _ => {
            let (a, b) = (a.complex(), b.complex());
            Scalar::Complex(if sum { a + b } else { a * b })
        }
    }
}

pub(super) fn scatter(inputs: &[Value], op: Update, axes: &[usize]) -> Vec<Expected> {
    let (x, indices, updates) = (&inputs[0], &inputs[1..=axes.len()], &inputs[axes.len() + 1]);
    let rank = x.spec.shape.len();
    let block = &updates.spec.shape[updates.spec.shape.len() - rank..];
    let elements: usize = block.iter().product();
    let mut updated = Updated::new(x, op);
    for (at, &update) in updates.elements.iter().enumerate() {
        let start = start(x, indices, axes, at / elements);
        updated.update(&add(&start, &place(block, at % elements)), update);
    }
    updated.elements
}

pub(super) fn scatter_axis(inputs: &[Value], op: Update, axis: usize) -> Vec<Expected> {
    let (x, indices, updates) = (&inputs[0], &inputs[1], &inputs[2]);
    let mut updated = Updated::new(x, op);
    for (at, mut place) in places(&updates.spec.shape).enumerate() {
        place[axis] = from_end(indices.elements[at], x.spec.shape[axis]);
        updated.update(&place, updates.elements[at]);
    }
    updated.elements
}

pub(super) fn slice_update(
    inputs: &[Value],
    op: Update,
    start: &[usize],
    strides: &[isize],
) -> Vec<Expected> {
    let (x, updates) = (&inputs[0], &inputs[1]);
    let mut updated = Updated::new(x, op);
    for (at, place) in places(&updates.spec.shape).enumerate() {
        let steps = place.iter().zip(start).zip(strides);
        let place: Vec<usize> = steps
            .map(|((&place, &start), &stride)| start.wrapping_add_signed(place as isize * stride))
            .collect();
        updated.update(&place, updates.elements[at]);
    }
    updated.elements
}

/// Where a block starts that a position for each of `axes` says.
fn position(x: &Spec, axes: &[usize], start: &Value, block: &[usize]) -> Vec<usize> {
    let mut position = vec![0; x.shape.len()];
    for (&axis, index) in axes.iter().zip(&start.elements) {
        position[axis] = from_end(*index, x.shape[axis]);
        assert!(
            position[axis] + block[axis] <= x.shape[axis],
            "samples are in range"
        );
    }
    position
}

pub(super) fn dynamic_slice(inputs: &[Value], output: &Spec, axes: &[usize]) -> Vec<Expected> {
    let x = &inputs[0];
    let start = position(&x.spec, axes, &inputs[1], &output.shape);
    let element =
        |place: Vec<usize>| x.elements[number(&x.spec.shape, &add(&start, &place))].into();
    places(&output.shape).map(element).collect()
}

pub(super) fn dynamic_slice_update(inputs: &[Value], axes: &[usize]) -> Vec<Expected> {
    let (x, update) = (&inputs[0], &inputs[1]);
    let start = position(&x.spec, axes, &inputs[2], &update.spec.shape);
    let mut updated = Updated::new(x, Update::Set);
    for (place, &element) in places(&update.spec.shape).zip(&update.elements) {
        updated.update(&add(&start, &place), element);
    }
    updated.elements
}

pub(super) fn masked_scatter(inputs: &[Value]) -> Vec<Expected> {
    let (x, mask, source) = (&inputs[0], &inputs[1], &inputs[2]);
    let batches = x.spec.shape[0].max(1);
    let (size, given) = (x.elements.len() / batches, source.elements.len() / batches);
    let mut used = 0;
    let element = |at: usize| {
        if at.is_multiple_of(size) {
            used = 0;
        }
        if mask.elements[at] == Scalar::Int(0) {
            return x.elements[at].into();
        }
        used += 1;
        source.elements[at / size * given + used - 1].into()
    };
    (0..x.elements.len()).map(element).collect()
}
