//! Reductions, scans, sorts, and what is computed along the last dimension.

use std::cmp::Ordering;

use motet_core::dtype::Dtype;
use motet_core::kernel::{Reduction, ScanOp};
use motet_core::shape::Spec;
use num_complex::Complex64;

use super::elementwise::{less, log_add_exp};
use super::{number, places};
use crate::value::{Expected, Scalar, Value, wrap};

/// The elements of lines along `axis`, each line with the places of its elements.
fn lines(shape: &[usize], axis: usize) -> Vec<Vec<usize>> {
    let mut first = shape.to_vec();
    first[axis] = shape[axis].min(1);
    let line = |mut place: Vec<usize>| {
        let at = |at| {
            place[axis] = at;
            number(shape, &place)
        };
        (0..shape[axis]).map(at).collect()
    };
    places(&first).map(line).collect()
}

pub(super) fn reduce(x: &Value, output: &Spec, op: Reduction, axes: &[usize]) -> Vec<Expected> {
    let mut groups: Vec<Vec<Scalar>> = vec![Vec::new(); output.shape.size()];
    for (mut place, &element) in places(&x.spec.shape).zip(&x.elements) {
        axes.iter().for_each(|&axis| place[axis] = 0);
        groups[number(&output.shape, &place)].push(element);
    }
    let truth = |holds: bool| Expected::from(Scalar::Int(i128::from(holds)));
    let is_true = |element: &Scalar| element.to(Dtype::Bool) == Scalar::Int(1);
    let group = |group: Vec<Scalar>| match op {
        Reduction::And => truth(group.iter().all(is_true)),
        Reduction::Or => truth(group.iter().any(is_true)),
        Reduction::Sum => sum(&group, output.dtype),
        Reduction::Prod => product(&group, output.dtype),
        Reduction::Min | Reduction::Max => group[extreme(&group, op == Reduction::Max)].into(),
    };
    groups.into_iter().map(group).collect()
}

fn sum(elements: &[Scalar], dtype: Dtype) -> Expected {
    if !dtype.is_inexact() {
        let sum = elements.iter().fold(0, |sum, e| sum + e.int());
        return Scalar::Int(wrap(sum, dtype)).into();
    }
    let sum: Complex64 = elements.iter().map(|e| e.complex()).sum();
    let scale = elements.iter().map(|e| e.abs()).sum();
    Expected {
        value: float(sum, dtype),
        scale,
    }
}

fn product(elements: &[Scalar], dtype: Dtype) -> Expected {
    if !dtype.is_inexact() {
        let product = elements
            .iter()
            .fold(1, |product, e| wrap(product * e.int(), dtype));
        return Scalar::Int(product).into();
    }
    let product: Complex64 = elements.iter().map(|e| e.complex()).product();
    let scale = 2.0 * product.norm();
    Expected {
        value: float(product, dtype),
        scale,
    }
}

/// A number as a scalar of a floating dtype.
pub(super) fn float(value: Complex64, dtype: Dtype) -> Scalar {
    match dtype {
        Dtype::Complex64 => Scalar::Complex(value),
        _ => Scalar::Float(value.re),
    }
}

/// Where the largest or smallest element is first; the first NaN wins.
fn extreme(elements: &[Scalar], max: bool) -> usize {
    let better = |a: Scalar, b: Scalar| match (a.is_nan(), b.is_nan()) {
        (a_nan, b_nan) if a_nan || b_nan => a_nan && !b_nan,
        _ if max => less(b, a),
        _ => less(a, b),
    };
    let places = 1..elements.len();
    places.fold(0, |best, at| {
        if better(elements[at], elements[best]) {
            at
        } else {
            best
        }
    })
}

pub(super) fn arg_reduce(x: &Value, output: &Spec, max: bool, axis: usize) -> Vec<Expected> {
    let mut result = vec![Scalar::Int(0).into(); output.shape.size()];
    for (line, result) in lines(&x.spec.shape, axis).into_iter().zip(&mut result) {
        let elements: Vec<Scalar> = line.iter().map(|&at| x.elements[at]).collect();
        *result = Scalar::Int(extreme(&elements, max) as i128).into();
    }
    result
}

pub(super) fn scan(
    x: &Value,
    output: &Spec,
    op: ScanOp,
    axis: usize,
    (reverse, inclusive): (bool, bool),
) -> Vec<Expected> {
    let dtype = output.dtype;
    let mut result: Vec<Expected> = vec![Scalar::Any.into(); output.shape.size()];
    for mut line in lines(&x.spec.shape, axis) {
        if reverse {
            line.reverse();
        }
        let mut so_far: Vec<Scalar> = Vec::new();
        for at in line {
            let element = x.elements[at].to(dtype);
            if inclusive {
                so_far.push(element);
            }
            result[at] = match (op, &so_far[..]) {
                (ScanOp::Sum, elements) => sum(elements, dtype),
                (ScanOp::Prod, elements) => product(elements, dtype),
                (ScanOp::Max, []) => bound(dtype, false).into(),
                (ScanOp::Min, []) => bound(dtype, true).into(),
                (ScanOp::Max | ScanOp::Min, elements) => {
                    elements[extreme(elements, op == ScanOp::Max)].into()
                }
                (ScanOp::LogAddExp, elements) => {
                    let reals = elements.iter().map(|e| e.real());
                    let scale = elements.iter().map(|e| e.abs()).sum();
                    let value = reals.fold(f64::NEG_INFINITY, log_add_exp);
                    Expected {
                        value: Scalar::Float(value),
                        scale,
                    }
                }
            };
            if !inclusive {
                so_far.push(element);
            }
        }
    }
    // Halves are rounded at each step, as in MLX.
    if dtype.is_half() {
        let steps = x.spec.shape[axis] as f64;
        result
            .iter_mut()
            .for_each(|expected| expected.scale *= steps);
    }
    result
}

/// The least or the greatest number that a dtype has.
fn bound(dtype: Dtype, greatest: bool) -> Scalar {
    let infinity = if greatest {
        f64::INFINITY
    } else {
        f64::NEG_INFINITY
    };
    match dtype {
        Dtype::Complex64 => Scalar::Complex(Complex64::new(infinity, infinity)),
        _ if dtype.is_float() => Scalar::Float(infinity),
        Dtype::Bool => Scalar::Int(i128::from(greatest)),
        _ => {
            let bits = 8 * dtype.size() as u32 - u32::from(!dtype.is_unsigned());
            let top = (1i128 << bits) - 1;
            let least = if dtype.is_unsigned() { 0 } else { -top - 1 };
            Scalar::Int(if greatest { top } else { least })
        }
    }
}

/// Ascending, NaN last.
fn order(a: Scalar, b: Scalar) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if less(a, b) => Ordering::Less,
        (false, false) if less(b, a) => Ordering::Greater,
        (a, b) => a.cmp(&b),
    }
}

pub(super) fn sort(x: &Value, output: &Spec, axis: usize, indices: bool) -> Vec<Expected> {
    let mut result: Vec<Expected> = vec![Scalar::Any.into(); output.shape.size()];
    for line in lines(&x.spec.shape, axis) {
        let mut sorted: Vec<usize> = (0..line.len()).collect();
        sorted.sort_by(|&a, &b| order(x.elements[line[a]], x.elements[line[b]]));
        for (&to, from) in line.iter().zip(sorted) {
            result[to] = match indices {
                true => Scalar::Int(from as i128).into(),
                false => x.elements[line[from]].into(),
            };
        }
    }
    result
}

/// The rows of the last dimension.
fn rows(x: &Value) -> impl Iterator<Item = &[Scalar]> {
    let last = *x.spec.shape.last().expect("there is a last dimension");
    x.elements.chunks(last.max(1))
}

/// `exp(x - max)` of a row, and the maximum.
fn exponentials(row: &[Scalar]) -> (Vec<Complex64>, Complex64) {
    let max = row[extreme(row, true)].complex();
    (row.iter().map(|e| (e.complex() - max).exp()).collect(), max)
}

pub(super) fn softmax(x: &Value) -> Vec<Expected> {
    let row = |row| {
        let (powers, _) = exponentials(row);
        let sum: Complex64 = powers.iter().sum();
        let quotient = move |power: Complex64| float(power / sum, x.spec.dtype).into();
        powers.into_iter().map(quotient)
    };
    rows(x).flat_map(row).collect()
}

pub(super) fn log_sum_exp(x: &Value) -> Vec<Expected> {
    if let Some((0, rows)) = x.spec.shape.split_last() {
        // The sum of nothing is zero.
        let nothing = Scalar::Float(f64::NEG_INFINITY).into();
        return vec![nothing; rows.iter().product()];
    }
    let row = |row| {
        let (powers, max) = exponentials(row);
        let value = max + powers.iter().sum::<Complex64>().ln();
        Expected {
            value: float(value, x.spec.dtype),
            scale: max.norm(),
        }
    };
    rows(x).map(row).collect()
}

pub(super) fn search_sorted(inputs: &[Value], right: bool) -> Vec<Expected> {
    let (sorted, values) = (&inputs[0].elements, &inputs[1].elements);
    let before = |&value: &Scalar| {
        let comes_before = |&&element: &&Scalar| match order(element, value) {
            Ordering::Less => true,
            Ordering::Equal => right,
            Ordering::Greater => false,
        };
        let count = sorted.iter().filter(comes_before).count();
        Scalar::Int(count as i128).into()
    };
    values.iter().map(before).collect()
}
