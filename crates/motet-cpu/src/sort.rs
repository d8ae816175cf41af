//! Sorting and running combinations (cumulative sums and their kin) along an axis.
//!
//! Both see the input as (outer, axis, inner). Sorts are cut into groups of lines, scans into
//! blocks of one outer index; long lines and blocks are cut further ([`sort_line`],
//! [`ScanStep::block`]). Half types are scanned in float32 and each result is rounded.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

use half::f16;
use motet_core::backend::{Launch, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, Result};
use motet_core::kernel::{Kernel, ScanOp};
use motet_core::pool::Pool;
use motet_core::shape::Layout;

use crate::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16};
use crate::number::{Number, with_number};
use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a sort or scan.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (op, axis) = match *kernel {
        Kernel::Sort { axis, .. } => ("Sort", axis),
        Kernel::Scan { axis, .. } => ("Scan", axis),
        _ => return Err(Error::invalid("Sort", "got another kernel")),
    };
    let ([x], [out]) = (inputs, outputs) else {
        return Err(Error::invalid(op, "expected one input and one output"));
    };
    if axis >= x.shape.len() || out.shape != x.shape {
        return Err(Error::invalid(
            op,
            format!(
                "axis {axis} or output {} does not fit the input {}",
                out.shape, x.shape
            ),
        ));
    }
    let lines = Lines {
        x: x.clone(),
        out: out.clone(),
        outer: x.shape[..axis].iter().product(),
        len: x.shape[axis],
        inner: x.shape[axis + 1..].iter().product(),
    };
    match *kernel {
        Kernel::Sort { indices, .. } => sort(lines, indices),
        Kernel::Scan {
            op,
            reverse,
            inclusive,
            ..
        } => scan(lines, op, Order { reverse, inclusive }),
        _ => Err(Error::invalid("Sort", "got another kernel")),
    }
}

/// The input and the output as (outer, len, inner).
struct Lines {
    x: Layout,
    out: Layout,
    outer: usize,
    len: usize,
    inner: usize,
}

/// Elements in a tile.
const TILE: usize = 16 << 10;

impl Lines {
    /// Lines that a tile has.
    fn group(&self) -> usize {
        (TILE / self.len.max(1)).max(1)
    }

    /// The elements of line `line`, which are `inner` apart.
    fn elements(&self, line: usize) -> impl Iterator<Item = usize> + use<> {
        let (outer, column) = (line / self.inner, line % self.inner);
        let (start, inner) = (outer * self.len * self.inner + column, self.inner);
        (0..self.len).map(move |i| start + i * inner)
    }
}

fn sort(lines: Lines, indices: bool) -> Result<Box<dyn Step>> {
    let expected = if indices {
        Dtype::Uint32
    } else {
        lines.x.dtype
    };
    if lines.out.dtype != expected {
        return Err(Error::invalid(
            "Sort",
            format!("the output must be {expected}"),
        ));
    }
    Ok(with_number!(lines.x.dtype, T => match indices {
        true => Box::new(ArgSortStep::<T>(lines, PhantomData)) as Box<dyn Step>,
        false => Box::new(SortStep::<T>(lines, PhantomData)),
    }))
}

/// Ascending, everything that is not a number last, negative zero equal to zero.
pub(crate) fn compare<T: Number>(a: &T, b: &T) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a.less(*b) => Ordering::Less,
        (false, false) if b.less(*a) => Ordering::Greater,
        (false, false) => Ordering::Equal,
        (a, b) => a.cmp(&b),
    }
}

struct SortStep<T>(Lines, PhantomData<fn() -> T>);

impl<T: Number> Step for SortStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        sort_lines::<T, T>(&self.0, launch, |x, line, sorted| {
            sorted.clear();
            sorted.extend(line.map(|i| x[i]));
            sort_line(launch.pool, sorted, compare);
        })
    }
}

struct ArgSortStep<T>(Lines, PhantomData<fn() -> T>);

impl<T: Number> Step for ArgSortStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let lines = &self.0;
        sort_lines::<T, u32>(lines, launch, |x, line, order| {
            let first = line.next().unwrap_or(0);
            order.clear();
            order.extend(0..lines.len as u32);
            let value = |i: u32| x[first + i as usize * lines.inner];
            sort_line(launch.pool, order, |&a, &b| compare(&value(a), &value(b)));
        })
    }
}

/// Writes what `sorted` makes of each line.
fn sort_lines<T: Number, O: Element>(
    lines: &Lines,
    launch: &Launch<'_>,
    sorted: impl Fn(&[T], &mut dyn Iterator<Item = usize>, &mut Vec<O>) + Sync,
) -> Result<()> {
    let x = input::<T>(&launch.inputs[0], &lines.x)?;
    let out = Output::<O>::new(&launch.outputs[0], &lines.out)?;
    if out.len() == 0 {
        return Ok(());
    }
    let (count, group) = (lines.outer * lines.inner, lines.group());
    let cost = group.saturating_mul(lines.len).saturating_mul(30);
    launch
        .pool
        .for_each_tile(count.div_ceil(group), cost, &|tile| {
            let mut result = Vec::new();
            for line in tile * group..((tile + 1) * group).min(count) {
                sorted(x, &mut lines.elements(line), &mut result);
                for (place, &value) in lines.elements(line).zip(&result) {
                    // SAFETY: the element is inside the output, and its line is this tile's alone.
                    unsafe { out.set(place, value) };
                }
            }
        });
    Ok(())
}

/// Elements that are sorted at once, in a few milliseconds.
const RUN: usize = 128 << 10;

/// Sorts, stably: a long line in runs, which are then merged, two to one. All of it in tiles, so that
/// threads share it, and others need not wait for its end.
fn sort_line<T: Copy + Send + Sync>(
    pool: &Pool,
    line: &mut Vec<T>,
    compare: impl Fn(&T, &T) -> Ordering + Sync,
) {
    let runs = line.chunks_mut(RUN);
    each(pool, runs, 30 * RUN, |_, run| run.sort_by(&compare));
    let (len, mut width) = (line.len(), RUN);
    let mut merged = line.clone();
    while width < len {
        let from = &*line;
        each(pool, merged.chunks_mut(RUN), 5 * RUN, |number, part| {
            // Which two runs the part is merged from, and where in the result it starts.
            let (first, start) = (number * RUN / (2 * width) * 2 * width, number * RUN);
            let (middle, end) = ((first + width).min(len), (first + 2 * width).min(len));
            merge(
                &from[first..middle],
                &from[middle..end],
                start - first,
                part,
                &compare,
            );
        });
        std::mem::swap(line, &mut merged);
        width *= 2;
    }
}

/// Calls `run` with each part and its number, as tiles.
fn each<'a, T: Send + 'a>(
    pool: &Pool,
    parts: impl Iterator<Item = &'a mut [T]>,
    cost_ns: usize,
    run: impl Fn(usize, &mut [T]) + Sync,
) {
    // Each tile takes its part out.
    let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
    pool.for_each_tile(parts.len(), cost_ns, &|tile| {
        let part = parts[tile].lock().map(|mut part| part.take());
        if let Ok(Some(part)) = part {
            run(tile, part);
        }
    });
}

/// Fills `part` with what two sorted runs give together from element `start` on; of equal ones, those
/// of the first run go first.
fn merge<T: Copy>(
    first: &[T],
    second: &[T],
    start: usize,
    part: &mut [T],
    compare: impl Fn(&T, &T) -> Ordering,
) {
    // How many of the `start` elements before are of the first run, by bisection.
    let (mut low, mut high) = (start.saturating_sub(second.len()), start.min(first.len()));
    while low < high {
        let i = low.midpoint(high);
        match compare(&first[i], &second[start - i - 1]) {
            Ordering::Greater => high = i,
            _ => low = i + 1,
        }
    }
    let (first, second) = (&first[low..], &second[start - low..]);
    let (mut i, mut j) = (0, 0);
    // No branch on what is compared: it could not be predicted.
    while let (Some(a), Some(b)) = (first.get(i), second.get(j))
        && let Some(element) = part.get_mut(i + j)
    {
        let later = compare(a, b) == Ordering::Greater;
        *element = if later { *b } else { *a };
        j += usize::from(later);
        i += usize::from(!later);
    }
    let rest = &mut part[i + j..];
    let left = if i < first.len() {
        &first[i..]
    } else {
        &second[j..]
    };
    rest.copy_from_slice(&left[..rest.len()]);
}

#[derive(Clone, Copy)]
struct Order {
    reverse: bool,
    inclusive: bool,
}

fn scan(lines: Lines, op: ScanOp, order: Order) -> Result<Box<dyn Step>> {
    let (from, to) = (lines.x.dtype, lines.out.dtype);
    if op == ScanOp::LogAddExp {
        return log_add_exp(lines, order);
    }
    Ok(match (from, to) {
        (Dtype::Bool, Dtype::Int32) => {
            combined(lines, op, order, |x: bool| i32::from(x), |sum| sum)
        }
        (Dtype::Float16, Dtype::Float16) => combined(lines, op, order, f16_to_f32, f16::from_f32),
        (Dtype::Bfloat16, Dtype::Bfloat16) => combined(lines, op, order, bf16_to_f32, f32_to_bf16),
        _ if from == to => {
            with_number!(from, T => combined(lines, op, order, |value: T| value, |sum: T| sum))
        }
        _ => {
            return Err(Error::unsupported(
                "Scan",
                format!("no scan of {from} to {to}"),
            ));
        }
    })
}

/// The step for a scan with `load` before and `store` after.
fn combined<T: Element, S: Number, O: Element>(
    lines: Lines,
    op: ScanOp,
    order: Order,
    load: fn(T) -> S,
    store: fn(S) -> O,
) -> Box<dyn Step> {
    // As items and not as pointers the combinations are compiled into the loops.
    match op {
        ScanOp::Max => ScanStep::boxed(lines, order, S::LOWEST, S::max, load, store),
        ScanOp::Min => ScanStep::boxed(lines, order, S::HIGHEST, S::min, load, store),
        ScanOp::Prod => ScanStep::boxed(lines, order, S::ONE, S::mul, load, store),
        _ => ScanStep::boxed(lines, order, S::ZERO, S::add, load, store),
    }
}

fn log_add_exp(lines: Lines, order: Order) -> Result<Box<dyn Step>> {
    macro_rules! of {
        ($float:ty, $load:expr, $store:expr) => {{
            let add = |a: $float, b: $float| {
                let (low, high) = (Number::min(a, b), Number::max(a, b));
                // Equal infinities have no difference.
                if low == high {
                    high + <$float>::ln_1p(1.0)
                } else {
                    high + (low - high).exp().ln_1p()
                }
            };
            Ok(ScanStep::boxed(
                lines,
                order,
                <$float>::NEG_INFINITY,
                add,
                $load,
                $store,
            ))
        }};
    }
    match (lines.x.dtype, lines.out.dtype) {
        (Dtype::Float32, Dtype::Float32) => of!(f32, |x: f32| x, |x: f32| x),
        (Dtype::Float64, Dtype::Float64) => of!(f64, |x: f64| x, |x: f64| x),
        (Dtype::Float16, Dtype::Float16) => of!(f32, f16_to_f32, f16::from_f32),
        (Dtype::Bfloat16, Dtype::Bfloat16) => of!(f32, bf16_to_f32, f32_to_bf16),
        (dtype, _) => Err(Error::unsupported(
            "Scan",
            format!("no logaddexp of {dtype}"),
        )),
    }
}

struct ScanStep<T, S, O, C> {
    lines: Lines,
    order: Order,
    identity: S,
    combine: C,
    load: fn(T) -> S,
    store: fn(S) -> O,
}

impl<T: Element, S: Number, O: Element, C: Fn(S, S) -> S + Send + Sync + 'static>
    ScanStep<T, S, O, C>
{
    fn boxed(
        lines: Lines,
        order: Order,
        identity: S,
        combine: C,
        load: fn(T) -> S,
        store: fn(S) -> O,
    ) -> Box<dyn Step> {
        Box::new(ScanStep {
            lines,
            order,
            identity,
            combine,
            load,
            store,
        })
    }

    /// One outer index: all lines side by side, row after row, some rows at once.
    fn block(&self, pool: &Pool, x: &[T], out: &mut [O]) {
        let (len, inner) = (self.lines.len, self.lines.inner);
        let mut sums = vec![self.identity; inner];
        let group = (TILE / inner).max(1);
        let Ok(()) = pool.for_each_in_order(len.div_ceil(group), |piece| {
            for i in piece * group..((piece + 1) * group).min(len) {
                let i = if self.order.reverse { len - 1 - i } else { i };
                let row: Range<usize> = i * inner..(i + 1) * inner;
                for ((sum, &x), out) in sums.iter_mut().zip(&x[row.clone()]).zip(&mut out[row]) {
                    let next = (self.combine)(*sum, (self.load)(x));
                    *out = (self.store)(if self.order.inclusive { next } else { *sum });
                    *sum = next;
                }
            }
            Ok::<(), Infallible>(())
        });
    }
}

impl<T: Element, S: Number, O: Element, C: Fn(S, S) -> S + Send + Sync + 'static> Step
    for ScanStep<T, S, O, C>
{
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.lines.x)?;
        let out = Output::<O>::new(&launch.outputs[0], &self.lines.out)?;
        let block = self.lines.len * self.lines.inner;
        if out.len() == 0 {
            return Ok(());
        }
        let group = (TILE / block).max(1);
        let cost = group.saturating_mul(block).saturating_mul(2);
        launch
            .pool
            .for_each_tile(self.lines.outer.div_ceil(group), cost, &|tile| {
                for outer in tile * group..((tile + 1) * group).min(self.lines.outer) {
                    let range = outer * block..(outer + 1) * block;
                    // SAFETY: this outer index is this tile's alone.
                    self.block(launch.pool, &x[range.clone()], unsafe { out.part(range) });
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use motet_core::shape::Spec;
    use num_complex::Complex32;

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    fn sorted<T: Number>(shape: &[usize], axis: usize, x: &[T]) -> (Vec<T>, Vec<u32>) {
        let sort = |indices| Kernel::Sort { axis, indices };
        let x = tensor(shape, x);
        let values_out = run(&sort(false), &[&x], &[x.spec()]).unwrap();
        let order = run(&sort(true), &[&x], &[Spec::new(shape, Dtype::Uint32)]).unwrap();
        (values(&values_out[0]), values(&order[0]))
    }

    #[test]
    fn sorts_are_stable_along_any_axis() {
        let x: Vec<i32> = noise(6 * 50 * 4, 1)
            .iter()
            .map(|x| (x * 10.0) as i32)
            .collect();
        for (shape, axis) in [([6, 50, 4], 1), ([6, 50, 4], 0), ([4, 6, 50], 2)] {
            let (got, order) = sorted(&shape, axis, &x);
            let (len, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
            for line in 0..x.len() / len {
                let start = line / inner * len * inner + line % inner;
                let mut expected: Vec<(i32, u32)> =
                    (0..len).map(|i| (x[start + i * inner], i as u32)).collect();
                expected.sort();
                for (i, &(value, index)) in expected.iter().enumerate() {
                    assert_eq!(
                        (got[start + i * inner], order[start + i * inner]),
                        (value, index)
                    );
                }
            }
        }
        assert_eq!(sorted::<f32>(&[0, 3], 1, &[]).0, [0.0; 0]);
    }

    #[test]
    fn long_lines_are_sorted_in_runs_as_at_once() {
        for cores in [1, 3] {
            let pool = Pool::new(cores);
            for len in [RUN, RUN + 1, 2 * RUN, 3 * RUN - 1, 5 * RUN + 17] {
                // Few values, each with the place where it was, which is not compared.
                let line: Vec<(u32, usize)> = (0..len)
                    .map(|i| (i.wrapping_mul(2_654_435_761) as u32 >> 25, i))
                    .collect();
                let (mut got, mut expected) = (line.clone(), line);
                sort_line(&pool, &mut got, |a, b| a.0.cmp(&b.0));
                expected.sort_by_key(|&(value, _)| value);
                assert!(got == expected, "{len} elements, {cores} cores");
            }
        }
    }

    #[test]
    fn special_values_have_their_places() {
        let x = [
            f32::NAN,
            1.0,
            0.0,
            -0.0,
            f32::NEG_INFINITY,
            f32::INFINITY,
            -f32::NAN,
        ];
        let (got, order) = sorted(&[7], 0, &x);
        assert_eq!(order, [4, 2, 3, 1, 5, 0, 6]);
        assert_eq!(got[..5], [f32::NEG_INFINITY, 0.0, -0.0, 1.0, f32::INFINITY]);
        assert!(got[5].is_nan() && got[6].is_nan() && got[2].is_sign_negative());
        let c = Complex32::new;
        let (got, order) = sorted(&[3], 0, &[c(1.0, 2.0), c(f32::NAN, 0.0), c(1.0, -2.0)]);
        assert_eq!((got[0], order), (c(1.0, -2.0), vec![2, 0, 1]));
        assert_eq!(sorted(&[3], 0, &[true, false, true]).0, [false, true, true]);
    }

    #[test]
    fn scans_agree_with_loops() {
        type Combine = fn(f64, f64) -> f64;
        let ops: [(ScanOp, f64, Combine); 5] = [
            (ScanOp::Sum, 0.0, |a, b| a + b),
            (ScanOp::Prod, 1.0, |a, b| a * b),
            (ScanOp::Max, f64::NEG_INFINITY, f64::max),
            (ScanOp::Min, f64::INFINITY, f64::min),
            (ScanOp::LogAddExp, f64::NEG_INFINITY, |a, b| {
                (a.exp() + b.exp()).ln()
            }),
        ];
        let shape = [3, 7, 5];
        let x = noise(105, 1);
        let halves: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
        let (single, half) = (tensor(&shape, &x), tensor(&shape, &halves));
        for (op, identity, combine) in ops {
            for (axis, reverse, inclusive) in [
                (0, false, true),
                (1, true, true),
                (2, false, false),
                (1, true, false),
            ] {
                let kernel = Kernel::Scan {
                    op,
                    axis,
                    reverse,
                    inclusive,
                };
                let out = run(&kernel, &[&single], &[single.spec()]).unwrap();
                let (out, len) = (values::<f32>(&out[0]), shape[axis]);
                let half_out = run(&kernel, &[&half], &[half.spec()]).unwrap();
                let half_out = values::<f16>(&half_out[0]);
                let inner: usize = shape[axis + 1..].iter().product();
                for i in 0..105 {
                    let (line, at) = (i / (len * inner) * len * inner + i % inner, i / inner % len);
                    let covered: Box<dyn Iterator<Item = usize>> = match (reverse, inclusive) {
                        (false, true) => Box::new(0..at + 1),
                        (false, false) => Box::new(0..at),
                        (true, true) => Box::new(at..len),
                        (true, false) => Box::new(at + 1..len),
                    };
                    let want =
                        covered.fold(identity, |s, j| combine(s, f64::from(x[line + j * inner])));
                    let near = |got: f64, tolerance: f64| {
                        got == want || (got - want).abs() <= tolerance * (1.0 + want.abs())
                    };
                    assert!(
                        near(f64::from(out[i]), 1e-5),
                        "{op:?} {axis} {want} {}",
                        out[i]
                    );
                    assert!(
                        near(half_out[i].to_f64(), 2e-3),
                        "{op:?} {want} {}",
                        half_out[i]
                    );
                }
            }
        }
    }

    #[test]
    fn integers_wrap_and_bools_are_counted() {
        let sum = Kernel::Scan {
            op: ScanOp::Sum,
            axis: 0,
            reverse: false,
            inclusive: true,
        };
        let x = tensor(&[3], &[100i8, 100, 100]);
        assert_eq!(
            values::<i8>(&run(&sum, &[&x], &[x.spec()]).unwrap()[0]),
            [100, -56, 44]
        );
        let x = tensor(&[3], &[true, false, true]);
        let out = [Spec::new([3], Dtype::Int32)];
        assert_eq!(
            values::<i32>(&run(&sum, &[&x], &out).unwrap()[0]),
            [1, 1, 2]
        );
        let out = [Spec::new([3], Dtype::Float64)];
        assert!(run(&sum, &[&x], &out).is_err());
        let x = tensor(&[3], &[f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0]);
        let lse = Kernel::Scan {
            op: ScanOp::LogAddExp,
            axis: 0,
            reverse: false,
            inclusive: true,
        };
        let got = values::<f32>(&run(&lse, &[&x], &[x.spec()]).unwrap()[0]);
        assert_eq!(got, [f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0]);
    }
}
