//! Reductions over any axes, and the positions of extremes.
//!
//! A reduction is a [`Fold`]: how an element enters an accumulator and how accumulators combine.
//! Two loops cover all layouts: along runs of reduced elements, in several lanes, and across rows
//! of kept ones. Both split the work the same way however many threads there are.

use std::ops::Range;

use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, Result};
use motet_core::kernel::{Kernel, Reduction};
use motet_core::memory::vector;
use motet_core::shape::{Layout, Strides};
use num_complex::Complex32;

use crate::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16};
use crate::number::{Number, with_number};
use crate::operand::{Output, Strided, Walk};
use crate::simd::{Level, Simd, leveled};

/// Any strides will do.
pub(crate) fn accepts(_kernel: &Kernel, _index: usize, _layout: &Layout) -> bool {
    true
}

/// A step that reduces.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let ([input], [output]) = (inputs, outputs) else {
        return Err(Error::invalid(
            "Reduce",
            "expected one input and one output",
        ));
    };
    match kernel {
        Kernel::Reduce { op, axes } => reduction(*op, Axes::new(axes, input, output)?),
        Kernel::ArgReduce { max, axis } => {
            let axes = Axes::new(&[*axis], input, output)?;
            if output.dtype != Dtype::Uint32 {
                return Err(Error::invalid("ArgReduce", "the output is not uint32"));
            }
            if axes.reduced.len() == 0 {
                return Err(Error::invalid("ArgReduce", "the axis has no elements"));
            }
            with_number!(input.dtype, T => {
                let element = std::marker::PhantomData::<T>;
                if *max {
                    Ok(Box::new(ArgReduce::<T, true> { axes, element }))
                } else {
                    Ok(Box::new(ArgReduce::<T, false> { axes, element }))
                }
            })
        }
        _ => Err(Error::invalid("Reduce", "not a reduction")),
    }
}

/// Elements of a region's tile: about 10 us.
const TILE: usize = 1 << 15;

/// Neighbouring outputs that are accumulated together where rows are combined.
const ROW: usize = 512;

/// Independent accumulators along a run.
const LANES: usize = 16;

/// Input and output of a reduction, and the walks over what is kept and what is reduced.
struct Axes {
    input: Layout,
    output: Layout,
    kept: Walk,
    reduced: Walk,
}

impl Axes {
    fn new(axes: &[usize], input: &Layout, output: &Layout) -> Result<Axes> {
        let dims = input.shape.iter().enumerate();
        let expected = dims.map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim });
        if !expected.eq(output.shape.iter().copied()) {
            return Err(Error::invalid(
                "Reduce",
                format!(
                    "axes {axes:?} of {} do not give {}",
                    input.shape, output.shape
                ),
            ));
        }
        let walk = |reduced: bool| {
            let chosen = |axis: &usize| axes.contains(axis) == reduced;
            let chosen = || (0..input.shape.len()).filter(chosen);
            let dims: Vec<usize> = chosen().map(|axis| input.shape[axis]).collect();
            let strides: Strides = chosen().map(|axis| input.strides[axis]).collect();
            Walk::new(&dims, [&strides])
        };
        Ok(Axes {
            kept: walk(false),
            reduced: walk(true),
            input: input.clone(),
            output: output.clone(),
        })
    }
}

/// How elements of type `I` are accumulated.
trait Fold: Send + Sync + 'static {
    type Input: Element;
    type Sum: Copy + Send + Sync;
    type Output: Element;
    const START: Self::Sum;
    fn lift(element: Self::Input) -> Self::Sum;
    fn combine(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn finish(sum: Self::Sum) -> Self::Output;
}

/// `fold!(Input => Sum => Output, start, |x| lift, combine, |x| finish)`, boxed as a step.
macro_rules! fold {
    ($axes:expr, $I:ty => $S:ty => $O:ty, $start:expr, |$x:ident| $lift:expr, |$a:ident, $b:ident| $combine:expr, |$s:ident| $finish:expr) => {{
        struct F;
        impl Fold for F {
            type Input = $I;
            type Sum = $S;
            type Output = $O;
            const START: $S = $start;
            #[inline(always)]
            fn lift($x: $I) -> $S {
                $lift
            }
            #[inline(always)]
            fn combine($a: $S, $b: $S) -> $S {
                $combine
            }
            #[inline(always)]
            fn finish($s: $S) -> $O {
                $finish
            }
        }
        Ok(Box::new(Reduce::<F>::new($axes)))
    }};
}

/// The step of a reduction.
fn reduction(op: Reduction, axes: Axes) -> Result<Box<dyn Step>> {
    let (from, to) = (axes.input.dtype, axes.output.dtype);
    // Sums and products: the type of the elements, how one is widened and a result narrowed.
    macro_rules! arithmetic {
        ($I:ty => $S:ty => $O:ty, |$x:ident| $lift:expr, |$s:ident| $finish:expr) => {
            if op == Reduction::Sum {
                fold!(axes, $I => $S => $O, <$S>::ZERO, |$x| $lift, |a, b| a.add(b), |$s| $finish)
            } else {
                fold!(axes, $I => $S => $O, <$S>::ONE, |$x| $lift, |a, b| a.mul(b), |$s| $finish)
            }
        };
        ($I:ty => $O:ty) => { arithmetic!($I => $O => $O, |x| x as $O, |s| s) };
    }
    match op {
        Reduction::And if to == Dtype::Bool => with_number!(from, T => {
            fold!(axes, T => u8 => bool, 1, |x| u8::from(!x.is_zero()), |a, b| a & b, |s| s != 0)
        }),
        Reduction::Or if to == Dtype::Bool => with_number!(from, T => {
            fold!(axes, T => u8 => bool, 0, |x| u8::from(!x.is_zero()), |a, b| a | b, |s| s != 0)
        }),
        Reduction::Max if from == to => match from {
            Dtype::Float16 => fold!(axes, f16 => f32 => f16, f32::LOWEST, |x| f16_to_f32(x),
                |a, b| Number::max(a, b), |s| f16::from_f32(s)),
            Dtype::Bfloat16 => fold!(axes, bf16 => f32 => bf16, f32::LOWEST, |x| bf16_to_f32(x),
                |a, b| Number::max(a, b), |s| f32_to_bf16(s)),
            _ => with_number!(from, T => {
                fold!(axes, T => T => T, T::LOWEST, |x| x, |a, b| Number::max(a, b), |s| s)
            }),
        },
        Reduction::Min if from == to => match from {
            Dtype::Float16 => fold!(axes, f16 => f32 => f16, f32::HIGHEST, |x| f16_to_f32(x),
                |a, b| Number::min(a, b), |s| f16::from_f32(s)),
            Dtype::Bfloat16 => fold!(axes, bf16 => f32 => bf16, f32::HIGHEST, |x| bf16_to_f32(x),
                |a, b| Number::min(a, b), |s| f32_to_bf16(s)),
            _ => with_number!(from, T => {
                fold!(axes, T => T => T, T::HIGHEST, |x| x, |a, b| Number::min(a, b), |s| s)
            }),
        },
        Reduction::Sum | Reduction::Prod => match (from, to) {
            (Dtype::Bool, Dtype::Int32) => arithmetic!(bool => i32),
            (Dtype::Int8, Dtype::Int32) => arithmetic!(i8 => i32),
            (Dtype::Int16, Dtype::Int32) => arithmetic!(i16 => i32),
            (Dtype::Int32, Dtype::Int32) => arithmetic!(i32 => i32),
            (Dtype::Int64, Dtype::Int64) => arithmetic!(i64 => i64),
            (Dtype::Uint8, Dtype::Uint32) => arithmetic!(u8 => u32),
            (Dtype::Uint16, Dtype::Uint32) => arithmetic!(u16 => u32),
            (Dtype::Uint32, Dtype::Uint32) => arithmetic!(u32 => u32),
            (Dtype::Uint64, Dtype::Uint64) => arithmetic!(u64 => u64),
            (Dtype::Float32, Dtype::Float32) => arithmetic!(f32 => f32),
            (Dtype::Float64, Dtype::Float64) => arithmetic!(f64 => f64),
            (Dtype::Complex64, Dtype::Complex64) => {
                arithmetic!(Complex32 => Complex32 => Complex32, |x| x, |s| s)
            }
            (Dtype::Float16, Dtype::Float16) => {
                arithmetic!(f16 => f32 => f16, |x| f16_to_f32(x), |s| f16::from_f32(s))
            }
            (Dtype::Bfloat16, Dtype::Bfloat16) => {
                arithmetic!(bf16 => f32 => bf16, |x| bf16_to_f32(x), |s| f32_to_bf16(s))
            }
            _ => Err(unsupported(op, from, to)),
        },
        _ => Err(unsupported(op, from, to)),
    }
}

fn unsupported(op: Reduction, from: Dtype, to: Dtype) -> Error {
    Error::unsupported("Reduce", format!("{op:?} of {from} to {to} is not defined"))
}

/// A prepared reduction. The outputs are cut into groups, the reduced elements into parts; each
/// pair is a tile. With several parts, their sums are combined at the end.
struct Reduce<F> {
    axes: Axes,
    /// Whether neighbours in memory are neighbours among the outputs.
    across: bool,
    /// Outputs of a tile.
    group: usize,
    /// Reduced elements of a tile.
    part: usize,
    simd: Simd,
    fold: std::marker::PhantomData<F>,
}

impl<F: Fold> Reduce<F> {
    fn new(axes: Axes) -> Reduce<F> {
        let (kept, reduced) = (axes.kept.len(), axes.reduced.len());
        let across = axes.kept.step() == 1 && kept >= LANES && axes.reduced.step() != 1;
        let least = if across { ROW } else { 1 };
        let group = (TILE / reduced.max(1)).max(least).min(kept.max(1));
        // Few long reductions are cut, as their outputs alone make too few tiles.
        let enough = kept.div_ceil(group) >= 16;
        let part = if enough { reduced } else { 4 * TILE / group };
        Reduce {
            axes,
            across,
            group,
            part: part.max(1),
            simd: Simd::detect(),
            fold: std::marker::PhantomData,
        }
    }

    /// Reduces the elements `part` of each output of `group` into `sums`.
    fn tile(
        &self,
        input: Strided<'_, F::Input>,
        group: Range<usize>,
        part: Range<usize>,
        sums: &mut [F::Sum],
    ) {
        #[inline(always)]
        fn body<L: Level, F: Fold>(
            reduce: &Reduce<F>,
            input: Strided<'_, F::Input>,
            group: Range<usize>,
            part: Range<usize>,
            sums: &mut [F::Sum],
        ) {
            reduce.tile_here(input, group, part, sums);
        }
        // For what floats and most integers are summed in; compiled once for the rest, which is rare.
        if const { size_of::<F::Sum>() == 4 } {
            let (simd, reduce) = (self.simd, self);
            leveled!(
                simd,
                body<S: Fold = F>(
                    reduce: &Reduce<S>,
                    input: Strided<'_, S::Input>,
                    group: Range<usize>,
                    part: Range<usize>,
                    sums: &mut [S::Sum],
                )
            );
        } else {
            self.tile_here(input, group, part, sums);
        }
    }

    #[inline(always)]
    fn tile_here(
        &self,
        input: Strided<'_, F::Input>,
        group: Range<usize>,
        part: Range<usize>,
        sums: &mut [F::Sum],
    ) {
        let (kept, reduced) = (&self.axes.kept, &self.axes.reduced);
        sums.fill(F::START);
        if self.across {
            let step = reduced.step();
            let first = group.start;
            reduced.runs(part, |_, [offset], len| {
                for i in 0..len as isize {
                    kept.runs(group.clone(), |number, [start], len| {
                        // SAFETY: kept and reduced offsets add up to those of elements, and runs
                        // of kept ones have step 1.
                        let row = unsafe { input.run(start + offset + i * step, len) };
                        for (sum, &x) in sums[number - first..].iter_mut().zip(row) {
                            *sum = F::combine(*sum, F::lift(x));
                        }
                    });
                }
            });
        } else {
            for (output, sum) in group.zip(sums) {
                let start = kept.offset(output);
                reduced.runs(part.clone(), |_, [offset], len| {
                    *sum = F::combine(*sum, self.run(input, start + offset, len));
                });
            }
        }
    }

    /// Reduces one run of reduced elements, in lanes where they are neighbours.
    #[inline(always)]
    fn run(&self, input: Strided<'_, F::Input>, start: isize, len: usize) -> F::Sum {
        let step = self.axes.reduced.step();
        let mut lanes = [F::START; LANES];
        if step == 1 {
            // SAFETY: runs of reduced elements from a kept one on are elements.
            let (chunks, rest) = unsafe { input.run(start, len) }.as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = F::combine(*lane, F::lift(x));
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane = F::combine(*lane, F::lift(x));
            }
        } else {
            for i in 0..len {
                // SAFETY: as above.
                let x = unsafe { input.get(start + i as isize * step) };
                lanes[i % LANES] = F::combine(lanes[i % LANES], F::lift(x));
            }
        }
        lanes.into_iter().reduce(F::combine).unwrap_or(F::START)
    }
}

impl<F: Fold> Step for Reduce<F> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let axes = &self.axes;
        let input = Strided::<F::Input>::new(&launch.inputs[0], &axes.input)?;
        let output = Output::<F::Output>::new(&launch.outputs[0], &axes.output)?;
        let (kept, reduced) = (output.len(), axes.reduced.len());
        let groups = kept.div_ceil(self.group);
        let parts = reduced.div_ceil(self.part).max(1);
        // A part's sums of all outputs lie together.
        let count = if parts > 1 { parts * kept } else { 0 };
        let mut sums = vector(count)?;
        sums.resize(count, F::START);
        let shared = Output::over(&mut sums);
        let cost_ns = self.group * self.part.min(reduced) / 3;
        launch.pool.for_each_tile(groups * parts, cost_ns, &|tile| {
            let group = tile / parts * self.group;
            let group = group..kept.min(group + self.group);
            let part = tile % parts;
            let range = part * self.part..reduced.min((part + 1) * self.part);
            let mut local = smallvec::SmallVec::<[F::Sum; 64]>::from_elem(F::START, group.len());
            self.tile(input, group.clone(), range, &mut local);
            if parts == 1 {
                // SAFETY: the tiles' groups do not overlap.
                let results = unsafe { output.part(group) };
                results
                    .iter_mut()
                    .zip(&local)
                    .for_each(|(out, &sum)| *out = F::finish(sum));
            } else {
                // SAFETY: each tile has its own sums.
                unsafe { shared.part(part * kept + group.start..part * kept + group.end) }
                    .copy_from_slice(&local);
            }
        });
        if parts > 1 {
            for (index, result) in output.into_slice().iter_mut().enumerate() {
                let parts = (0..parts).map(|part| sums[part * kept + index]);
                *result = F::finish(parts.reduce(F::combine).unwrap_or(F::START));
            }
        }
        Ok(())
    }
}

/// A prepared search for the first smallest or, with `MAX`, largest element.
struct ArgReduce<T, const MAX: bool> {
    axes: Axes,
    element: std::marker::PhantomData<T>,
}

impl<T: Number, const MAX: bool> ArgReduce<T, MAX> {
    #[inline(always)]
    fn extreme(a: T, b: T) -> T {
        if MAX { a.max(b) } else { a.min(b) }
    }

    /// The first position of the extreme: found by value, then looked for, as both vectorise.
    fn in_run(run: &[T]) -> usize {
        let mut lanes = [run[0]; LANES];
        let (chunks, rest) = run.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = Self::extreme(*lane, x);
            }
        }
        let extreme = lanes
            .iter()
            .chain(rest)
            .copied()
            .reduce(Self::extreme)
            .unwrap_or(run[0]);
        let found = |&x: &T| {
            if extreme.is_nan() {
                x.is_nan()
            } else {
                !x.less(extreme) && !extreme.less(x)
            }
        };
        run.iter().position(found).unwrap_or(0)
    }

    /// The same, element by element.
    fn in_steps(input: Strided<'_, T>, start: isize, len: usize, step: isize) -> usize {
        // SAFETY: elements along the reduced axis from a kept one on are elements.
        let at = |i: usize| unsafe { input.get(start + i as isize * step) };
        let (mut best, mut position) = (at(0), 0);
        for i in 1..len {
            let x = at(i);
            let better = if MAX { best.less(x) } else { x.less(best) };
            // A complex number may be less than one whose other part is NaN.
            if !best.is_nan() && (better || x.is_nan()) {
                (best, position) = (x, i);
            }
        }
        position
    }
}

impl<T: Number, const MAX: bool> Step for ArgReduce<T, MAX> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let axes = &self.axes;
        let input = Strided::<T>::new(&launch.inputs[0], &axes.input)?;
        let output = Output::<u32>::new(&launch.outputs[0], &axes.output)?;
        let (len, step) = (axes.reduced.len(), axes.reduced.step());
        let group = (TILE / len).max(1);
        let tiles = output.len().div_ceil(group);
        launch.pool.for_each_tile(tiles, group * len, &|tile| {
            let range = tile * group..output.len().min((tile + 1) * group);
            // SAFETY: the tiles do not overlap.
            let results = unsafe { output.part(range.clone()) };
            for (number, result) in range.zip(results) {
                let start = axes.kept.offset(number);
                *result = if step == 1 {
                    // SAFETY: as in `in_steps`, with step 1.
                    Self::in_run(unsafe { input.run(start, len) })
                } else {
                    Self::in_steps(input, start, len, step)
                } as u32;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, run, tensor, values};
    use motet_core::shape::Spec;
    use motet_core::tensor::Tensor;
    use smallvec::SmallVec;

    fn reduce(op: Reduction, axes: &[usize], x: &Tensor, dtype: Dtype) -> Result<Tensor> {
        let mut shape = x.layout.shape.clone();
        axes.iter().for_each(|&axis| shape.dims_mut()[axis] = 1);
        let axes = SmallVec::from_slice(axes);
        Ok(run(
            &Kernel::Reduce { op, axes },
            &[x],
            &[Spec::new(shape, dtype)],
        )?
        .remove(0))
    }

    /// Dimensions in another order.
    fn permuted(tensor: &Tensor, order: &[usize]) -> Tensor {
        let mut layout = tensor.layout.clone();
        for (to, &from) in order.iter().enumerate() {
            layout.shape.dims_mut()[to] = tensor.layout.shape[from];
            layout.strides[to] = tensor.layout.strides[from];
        }
        tensor.view(layout, 0).unwrap()
    }

    /// The reference: every element's index, and what it adds to.
    fn sums(x: &Tensor, axes: &[usize]) -> Vec<f64> {
        let shape = &x.layout.shape;
        let kept = |axis: usize| if axes.contains(&axis) { 1 } else { shape[axis] };
        let mut sums = vec![0.0; (0..shape.len()).map(kept).product()];
        for (number, value) in values::<f32>(x).into_iter().enumerate() {
            let (mut rest, mut index, mut scale) = (number, 0, 1);
            for axis in (0..shape.len()).rev() {
                let i = rest % shape[axis];
                rest /= shape[axis];
                index += scale * (i % kept(axis));
                scale *= kept(axis);
            }
            sums[index] += f64::from(value);
        }
        sums
    }

    #[test]
    fn sums_over_any_axes_and_strides() {
        let shapes: [&[usize]; 5] = [
            &[7, 33, 20],
            &[3, 1, 700],
            &[2000, 3, 40],
            &[1, 1, 300_000],
            &[300_000, 1, 2],
        ];
        for shape in shapes {
            let x = tensor(shape, &noise(shape.iter().product(), 1));
            for order in [[0, 1, 2], [2, 0, 1], [1, 0, 2]] {
                let x = permuted(&x, &order);
                for axes in [&[0][..], &[1], &[2], &[0, 2], &[1, 2], &[0, 1, 2], &[]] {
                    let got = reduce(Reduction::Sum, axes, &x, Dtype::Float32).unwrap();
                    for (got, want) in values::<f32>(&got).into_iter().zip(sums(&x, axes)) {
                        let error = (f64::from(got) - want).abs();
                        assert!(error < 1e-3, "{shape:?} {order:?} {axes:?}: {got} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn integers_widen_and_wrap() {
        let x = tensor(&[3], &[100i8, 100, 100]);
        let sum = reduce(Reduction::Sum, &[0], &x, Dtype::Int32).unwrap();
        assert_eq!(values::<i32>(&sum), [300]);
        let x = tensor(&[2], &[1u32 << 31, 1 << 31]);
        let sum = reduce(Reduction::Sum, &[0], &x, Dtype::Uint32).unwrap();
        assert_eq!(values::<u32>(&sum), [0]);
        let x = tensor(&[3], &[true, false, true]);
        assert_eq!(
            values::<i32>(&reduce(Reduction::Sum, &[0], &x, Dtype::Int32).unwrap()),
            [2]
        );
        assert_eq!(
            values::<i32>(&reduce(Reduction::Prod, &[0], &x, Dtype::Int32).unwrap()),
            [0]
        );
        assert!(reduce(Reduction::Sum, &[0], &x, Dtype::Float32).is_err());
    }

    #[test]
    fn halves_accumulate_in_float32() {
        let x = tensor(&[5000], &[half::f16::from_f32(0.25); 5000]);
        let sum = reduce(Reduction::Sum, &[0], &x, Dtype::Float16).unwrap();
        assert_eq!(values::<f16>(&sum)[0].to_f32(), 1250.0);
        let x = tensor(&[5000], &[bf16::from_f32(0.25); 5000]);
        let sum = reduce(Reduction::Sum, &[0], &x, Dtype::Bfloat16).unwrap();
        assert_eq!(values::<bf16>(&sum)[0], bf16::from_f32(1250.0));
    }

    #[test]
    fn edges_of_reductions() {
        let nothing = tensor::<f32>(&[2, 0], &[]);
        let all = |op, dtype| reduce(op, &[1], &nothing, dtype).unwrap();
        assert_eq!(
            values::<f32>(&all(Reduction::Sum, Dtype::Float32)),
            [0.0; 2]
        );
        assert_eq!(
            values::<f32>(&all(Reduction::Prod, Dtype::Float32)),
            [1.0; 2]
        );
        assert_eq!(values::<bool>(&all(Reduction::And, Dtype::Bool)), [true; 2]);
        assert_eq!(values::<bool>(&all(Reduction::Or, Dtype::Bool)), [false; 2]);
        for at in 0..40 {
            let mut data = noise(40, 3);
            data[at] = f32::NAN;
            let x = tensor(&[40], &data);
            let max = reduce(Reduction::Max, &[0], &x, Dtype::Float32).unwrap();
            assert!(values::<f32>(&max)[0].is_nan());
            let min = reduce(Reduction::Min, &[0], &x, Dtype::Float32).unwrap();
            assert!(values::<f32>(&min)[0].is_nan());
            let any = reduce(Reduction::And, &[0], &x, Dtype::Bool).unwrap();
            assert_eq!(values::<bool>(&any), [true]);
        }
    }

    #[test]
    fn extremes_are_found_first_and_nan_wins() {
        let arg = |x: &Tensor, max: bool, axis: usize| {
            let mut shape = x.layout.shape.clone();
            shape.dims_mut()[axis] = 1;
            let spec = Spec::new(shape, Dtype::Uint32);
            values::<u32>(&run(&Kernel::ArgReduce { max, axis }, &[x], &[spec]).unwrap()[0])
        };
        let nan = f32::NAN;
        let x = tensor(&[2, 4], &[1.0f32, 3.0, 3.0, 1.0, 2.0, nan, 0.0, nan]);
        assert_eq!(arg(&x, true, 1), [1, 1]);
        assert_eq!(arg(&x, false, 1), [0, 1]);
        assert_eq!(arg(&x, true, 0), [1, 1, 0, 1]);
        assert_eq!(arg(&x, false, 0), [0, 1, 1, 1]);
        let long = tensor(&[1000], &noise(1000, 7));
        let data = values::<f32>(&long);
        let best = (0..1000)
            .max_by(|&a, &b| data[a].total_cmp(&data[b]))
            .unwrap();
        assert_eq!(arg(&long, true, 0), [best as u32]);
        assert_eq!(arg(&tensor(&[3], &[false, true, true]), true, 0), [1]);
    }
}
