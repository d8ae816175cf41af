//! Normalisation of rows (RMS norm, layer norm) and its gradients.
//!
//! Each row is read once from memory and stays in the first-level cache while its statistics are
//! taken. Half types are computed in float32 and rounded once.

use std::borrow::Cow;
use std::marker::PhantomData;

use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Spec};

use crate::matmul::{Factor, Operand};
use crate::number::Number;
use crate::operand::{Output, Strided, Walk, input};
use crate::real::{Real, sum_of};
use crate::simd::{Level, Simd, leveled};

/// x may have its rows anywhere, each of them contiguous.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    let contiguous_rows = layout.shape.last() == Some(&1) || layout.strides.last() == Some(&1);
    matches!(kernel, Kernel::Norm { .. }) && index == 0 && contiguous_rows
}

/// A step for a norm or its gradients.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (eps, center, gradients) = match *kernel {
        Kernel::Norm { eps, center } => (eps, center, false),
        Kernel::NormVjp { eps, center } => (eps, center, true),
        _ => return Err(unexpected()),
    };
    let parameters = 1 + usize::from(center);
    let (ins, outs) = match gradients {
        false => (1 + parameters, 1),
        true => (2 + parameters, 1 + parameters),
    };
    if inputs.len() != ins || outputs.len() != outs || inputs[0].shape.is_empty() {
        return Err(unexpected());
    }
    if inputs[0].spec().bytes() > MAX_BYTES {
        return Err(Error::invalid("norm", "the input is too large"));
    }
    macro_rules! step {
        ($T:ty) => {{
            let rows = Rows::<$T>::new(eps, center, &inputs[0], &inputs[1..=parameters]);
            let outputs = outputs.to_vec();
            match gradients {
                false => Ok(Box::new(Norm { rows, outputs })),
                true => Ok(Box::new(NormVjp { rows, outputs })),
            }
        }};
    }
    match inputs[0].dtype {
        Dtype::Float16 => step!(half::f16),
        Dtype::Bfloat16 => step!(half::bf16),
        Dtype::Float32 => step!(f32),
        Dtype::Float64 => step!(f64),
        dtype => Err(Error::unsupported(
            "norm",
            format!("not defined for {dtype}"),
        )),
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "norm", "unexpected operands")
}

/// Inputs of so many bytes cannot exist, but be planned for: the scratch memory of the gradients is at
/// most four times as large, which has to be a number.
const MAX_BYTES: usize = isize::MAX as usize / 8;

/// Elements of a region's tile: about 10 us.
const TILE: usize = 1 << 14;

/// What both steps know of the input.
struct Rows<T> {
    eps: f32,
    center: bool,
    /// The length of a row, and how many there are.
    row: usize,
    rows: usize,
    x: Layout,
    walk: Walk,
    /// w and, where rows are centered, b.
    parameters: Vec<Layout>,
    simd: Simd,
    element: PhantomData<T>,
}

impl<T: Operand<Sum: Real>> Rows<T> {
    fn new(eps: f32, center: bool, x: &Layout, parameters: &[Layout]) -> Rows<T> {
        let batch = x.shape.len() - 1;
        let row = x.shape[batch];
        Rows {
            eps,
            center,
            row,
            rows: x.shape.size() / row.max(1),
            x: x.clone(),
            walk: Walk::new(&x.shape[..batch], [&x.strides[..batch]]),
            parameters: parameters.to_vec(),
            simd: Simd::detect(),
            element: PhantomData,
        }
    }

    /// The parameter that is input `index`, in the type of sums, an element for each of a row.
    fn parameter<'a>(&self, index: usize, location: &Location<'a>) -> Result<Cow<'a, [T::Sum]>> {
        let layout = &self.parameters[index];
        let values = input::<T>(location, layout)?;
        if let (Some(values), false) = (T::as_sums(values), layout.shape.is_empty()) {
            return Ok(Cow::Borrowed(values));
        }
        let mut wide = vec![T::Sum::ZERO; values.len()];
        T::load(values, &mut wide);
        if layout.shape.is_empty() {
            wide = vec![wide[0]; self.row];
        }
        Ok(Cow::Owned(wide))
    }

    /// Rows in a tile.
    fn group(&self) -> usize {
        (TILE / self.row.max(1)).max(1)
    }
}

struct Norm<T> {
    rows: Rows<T>,
    outputs: Vec<Layout>,
}

impl<T: Operand<Sum: Real>> Step for Norm<T> {
    fn writes_over(&self, input: usize, _: usize) -> bool {
        input == 0
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Rows {
            row,
            rows,
            center,
            simd,
            ..
        } = self.rows;
        let out = Output::<T>::new(&launch.outputs[0], &self.outputs[0])?;
        let x = Strided::<T>::new(&launch.inputs[0], &self.rows.x)?;
        if out.len() == 0 {
            return Ok(());
        }
        let w = self.rows.parameter(0, &launch.inputs[1])?;
        let b = match center {
            true => Some(self.rows.parameter(1, &launch.inputs[2])?),
            false => None,
        };
        let (w, b, eps) = (&*w, b.as_deref(), T::Sum::from_f32(self.rows.eps));
        let group = self.rows.group();
        let cost_ns = group * row / 2;
        let tiles = rows.div_ceil(group);
        launch.pool.for_each_tile(tiles, cost_ns, &|tile| {
            let mut work = vec![T::Sum::ZERO; row];
            for number in tile * group..rows.min((tile + 1) * group) {
                // SAFETY: the elements of one row, which are contiguous and not written yet.
                let from = unsafe { x.run(self.rows.walk.offset(number), row) };
                T::load(from, &mut work);
                // SAFETY: rows do not overlap, and each is written once; where it lies over one of x,
                // that has just been read for the last time.
                let to = unsafe { out.part(number * row..(number + 1) * row) };
                let x = &mut work[..];
                leveled!(
                    simd,
                    normalize<S: Real = T::Sum>(x: &mut [S], w: &[S], b: Option<&[S]>, eps: S)
                );
                T::store(x, to);
            }
        });
        Ok(())
    }
}

/// One row in place: centered where there is a bias.
#[inline(always)]
fn normalize<L: Level, S: Real>(x: &mut [S], w: &[S], b: Option<&[S]>, eps: S) {
    let (mean, scale) = statistics(x, b.is_some(), eps);
    match b {
        Some(b) => {
            for ((x, &w), &b) in x.iter_mut().zip(w).zip(b) {
                *x = (*x - mean) * scale * w + b;
            }
        }
        None => {
            for (x, &w) in x.iter_mut().zip(w) {
                *x = *x * scale * w;
            }
        }
    }
}

/// The mean (zero where rows are not centered), and what rows are multiplied by.
#[inline(always)]
fn statistics<S: Real>(x: &[S], center: bool, eps: S) -> (S, S) {
    let count = S::from_count(x.len());
    let mean = match center {
        true => sum_of(x, x, |x, _| x) / count,
        false => S::ZERO,
    };
    let squares = sum_of(x, x, |x, _| (x - mean) * (x - mean));
    (mean, S::ONE / (squares / count + eps).sqrt())
}

struct NormVjp<T> {
    rows: Rows<T>,
    outputs: Vec<Layout>,
}

/// Columns whose gradients of w and b are summed by one tile.
const COLUMNS: usize = 64;

impl<T: Operand<Sum: Real>> NormVjp<T> {
    /// Mean and scale of each row.
    fn statistics(&self) -> Spec {
        Spec::new([self.rows.rows, 2], T::Sum::DTYPE)
    }

    /// Stores the gradients of x, and each row's statistics.
    fn rows(&self, launch: &Launch<'_>, x: &[T], g: &[T], seen: &Output<'_, T::Sum>) -> Result<()> {
        let Rows {
            row,
            rows,
            center,
            simd,
            ..
        } = self.rows;
        let dx = Output::<T>::new(&launch.outputs[0], &self.outputs[0])?;
        let w = self.rows.parameter(0, &launch.inputs[1])?;
        let (w, eps) = (&*w, T::Sum::from_f32(self.rows.eps));
        let group = self.rows.group();
        let tiles = rows.div_ceil(group);
        launch.pool.for_each_tile(tiles, group * row, &|tile| {
            let (mut x_row, mut g_row) = (vec![T::Sum::ZERO; row], vec![T::Sum::ZERO; row]);
            for number in tile * group..rows.min((tile + 1) * group) {
                let range = number * row..(number + 1) * row;
                T::load(&x[range.clone()], &mut x_row);
                T::load(&g[range.clone()], &mut g_row);
                let (x, g) = (&mut x_row[..], &mut g_row[..]);
                let (mean, scale) = leveled!(simd, row_gradient<S: Real = T::Sum>(
                    x: &mut [S], w: &[S], g: &mut [S], center: bool, eps: S
                ) -> (S, S));
                // SAFETY: rows and their statistics do not overlap, and each is written once.
                let (to, seen) = unsafe { (dx.part(range), seen.part(number * 2..number * 2 + 2)) };
                T::store(x, to);
                seen.copy_from_slice(&[mean, scale]);
            }
        });
        Ok(())
    }

    /// Stores the gradients of w and b: sums over all rows, a block of columns at a time.
    fn columns(&self, launch: &Launch<'_>, x: &[T], g: &[T], seen: &[T::Sum]) -> Result<()> {
        let Rows { row, rows, .. } = self.rows;
        let outputs = launch.outputs[1..].iter().zip(&self.outputs[1..]);
        for (index, (location, layout)) in outputs.enumerate() {
            let output = Output::<T>::new(location, layout)?;
            if layout.shape.is_empty() {
                T::store(&[T::Sum::ZERO], output.into_slice());
                continue;
            }
            let tiles = row.div_ceil(COLUMNS);
            launch.pool.for_each_tile(tiles, rows * COLUMNS, &|tile| {
                let columns = tile * COLUMNS..row.min((tile + 1) * COLUMNS);
                let [mut sum, mut x_part, mut g_part] = [[T::Sum::ZERO; COLUMNS]; 3];
                let x_part = &mut x_part[..columns.len()];
                let g_part = &mut g_part[..columns.len()];
                for (number, &[mean, scale]) in seen.as_chunks::<2>().0.iter().enumerate() {
                    let range = number * row + columns.start..number * row + columns.end;
                    T::load(&g[range.clone()], g_part);
                    if index == 0 {
                        T::load(&x[range], x_part);
                        for (g, &mut x) in g_part.iter_mut().zip(&mut *x_part) {
                            *g *= (x - mean) * scale;
                        }
                    }
                    for (sum, &mut g) in sum.iter_mut().zip(&mut *g_part) {
                        *sum += g;
                    }
                }
                // SAFETY: blocks of columns do not overlap, and each is written once.
                let to = unsafe { output.part(columns.clone()) };
                T::store(&sum[..columns.len()], to);
            });
        }
        Ok(())
    }
}

impl<T: Operand<Sum: Real>> Step for NormVjp<T> {
    fn scratch_bytes(&self) -> usize {
        self.statistics().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.rows.x)?;
        let gradient = launch.inputs.len() - 1;
        let g = input::<T>(&launch.inputs[gradient], &self.rows.x)?;
        let seen = Output::<T::Sum>::new(&launch.scratch, &self.statistics().layout())?;
        self.rows(launch, x, g, &seen)?;
        self.columns(launch, x, g, seen.into_slice())
    }
}

/// The gradient of a row, from x in place and g, which is used up; its mean and scale.
#[inline(always)]
fn row_gradient<L: Level, S: Real>(
    x: &mut [S],
    w: &[S],
    g: &mut [S],
    center: bool,
    eps: S,
) -> (S, S) {
    let (mean, scale) = statistics(x, center, eps);
    for ((x, g), &w) in x.iter_mut().zip(&mut *g).zip(w) {
        *x = *x - mean;
        *g *= w;
    }
    let count = S::from_count(x.len());
    let shift = match center {
        true => sum_of(g, g, |g, _| g) / count,
        false => S::ZERO,
    };
    let along = sum_of(g, x, |g, x| g * x) / count * scale * scale * scale;
    for (x, &mut g) in x.iter_mut().zip(g) {
        *x = (g - shift) * scale - *x * along;
    }
    (mean, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, run, tensor, values};
    use half::bf16;
    use motet_core::tensor::Tensor;

    const EPS: f32 = 1e-3;

    fn kernel(center: bool) -> Kernel {
        Kernel::Norm { eps: EPS, center }
    }

    fn gradients(center: bool) -> Kernel {
        Kernel::NormVjp { eps: EPS, center }
    }

    /// The definition, in float64.
    fn reference(x: &[f64], w: &[f64], b: &[f64], center: bool) -> Vec<f64> {
        let mut result = Vec::new();
        for row in x.chunks(w.len()) {
            let count = row.len() as f64;
            let mean = if center {
                row.iter().sum::<f64>() / count
            } else {
                0.0
            };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let scale = (variance + f64::from(EPS)).sqrt();
            let parameters = w.iter().zip(b);
            result.extend(
                row.iter()
                    .zip(parameters)
                    .map(|(x, (w, b))| (x - mean) / scale * w + b),
            );
        }
        result
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&x| f64::from(x)).collect()
    }

    /// Inputs in float64: x, w, b of 7 rows of this length.
    fn operands(row: usize) -> [Vec<f64>; 3] {
        [noise(7 * row, 1), noise(row, 2), noise(row, 3)].map(|values| wide(&values))
    }

    fn tensors(row: usize, center: bool, [x, w, b]: &[Vec<f64>; 3]) -> Vec<Tensor> {
        let mut all = vec![tensor(&[7, row], x), tensor(&[row], w)];
        all.extend(center.then(|| tensor(&[row], b)));
        all
    }

    #[test]
    fn rows_of_all_dtypes_follow_the_definition() {
        for row in [1, 5, 16, 100, 3000] {
            let [x, w, b] = operands(row);
            for center in [false, true] {
                let zero = vec![0.0; row];
                let b = if center { &b } else { &zero };
                let want = reference(&x, &w, b, center);
                let check = |got: Vec<f64>, tolerance: f64| {
                    for (got, want) in got.iter().zip(&want) {
                        let error = (got - want).abs();
                        assert!(
                            error <= tolerance * (1.0 + want.abs()),
                            "{row}: {got} {want}"
                        );
                    }
                };
                macro_rules! try_dtype {
                    ($T:ty, $convert:expr, $back:expr, $tolerance:expr) => {{
                        let convert = |v: &[f64]| v.iter().map($convert).collect::<Vec<$T>>();
                        let mut inputs = vec![tensor(&[7, row], &convert(&x))];
                        inputs.push(tensor(&[row], &convert(&w)));
                        inputs.extend(center.then(|| tensor(&[row], &convert(b))));
                        let inputs: Vec<&Tensor> = inputs.iter().collect();
                        let out = [inputs[0].layout.spec()];
                        let out = run(&kernel(center), &inputs, &out).unwrap();
                        check(
                            values::<$T>(&out[0]).into_iter().map($back).collect(),
                            $tolerance,
                        );
                    }};
                }
                try_dtype!(f64, |&x| x, |x| x, 1e-13);
                try_dtype!(f32, |&x| x as f32, f64::from, 2e-6);
                try_dtype!(bf16, |&x| bf16::from_f64(x), f64::from, 1e-2);
            }
        }
    }

    #[test]
    fn scalar_parameters_and_strided_rows() {
        let data = noise(4 * 6, 1);
        let mut x = tensor(&[6, 4], &data);
        x.layout.strides[0] = 8;
        x.layout.shape.dims_mut()[0] = 3;
        let every_second: Vec<f32> = data
            .chunks(8)
            .flat_map(|rows| &rows[..4])
            .copied()
            .collect();
        let want = reference(&wide(&every_second), &[2.0; 4], &[0.5; 4], true);
        let (w, b) = (tensor(&[], &[2.0f32]), tensor(&[], &[0.5f32]));
        let out = [Spec::new([3, 4], Dtype::Float32)];
        let got = run(&kernel(true), &[&x, &w, &b], &out).unwrap();
        for (got, want) in values::<f32>(&got[0]).iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-5);
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_norm() {
        let row = 70;
        for center in [false, true] {
            let operands = operands(row);
            let g = wide(&noise(7 * row, 4));
            let loss = |operands: &[Vec<f64>; 3]| -> f64 {
                let [x, w, b] = operands;
                let zero = vec![0.0; row];
                let y = reference(x, w, if center { b } else { &zero }, center);
                y.iter().zip(&g).map(|(y, g)| y * g).sum()
            };
            let mut inputs = tensors(row, center, &operands);
            inputs.push(tensor(&[7, row], &g));
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            let specs: Vec<Spec> = inputs.iter().map(|t| t.layout.spec()).collect();
            let got = run(&gradients(center), &inputs, &specs[..inputs.len() - 1]).unwrap();
            for (place, got) in got.iter().enumerate() {
                for (i, got) in values::<f64>(got).into_iter().enumerate().step_by(13) {
                    let moved = |step: f64| {
                        let mut operands = operands.clone();
                        operands[place][i] += step;
                        loss(&operands)
                    };
                    let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                    assert!(
                        (got - slope).abs() < 1e-6 * (1.0 + slope.abs()),
                        "{got} {slope}"
                    );
                }
            }
        }
    }

    #[test]
    fn scalars_have_no_gradient_and_nothing_has_none() {
        let x = tensor(&[2, 3], &noise(6, 1));
        let one = tensor(&[], &[1.0f32]);
        let specs = [x.layout.spec(), one.layout.spec(), one.layout.spec()];
        let got = run(&gradients(true), &[&x, &one, &one, &x], &specs).unwrap();
        assert_eq!(values::<f32>(&got[1]), [0.0]);
        assert_eq!(values::<f32>(&got[2]), [0.0]);
        for shape in [[0, 3], [3, 0]] {
            let (x, w) = (tensor::<f32>(&shape, &[]), noise(shape[1], 1));
            let w = tensor(&[shape[1]], &w);
            let specs = [x.layout.spec(), w.layout.spec()];
            assert!(run(&kernel(false), &[&x, &w], &specs[..1]).is_ok());
            let got = run(&gradients(false), &[&x, &w, &x], &specs).unwrap();
            assert_eq!(values::<f32>(&got[1]), vec![0.0; shape[1]]);
        }
    }

    /// Each row is computed alike whatever the tile that it is in.
    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        let (rows, row) = (300, 129);
        let (data, w) = (noise(rows * row, 1), tensor(&[row], &noise(row, 2)));
        let normalize = |data: &[f32]| {
            let x = tensor(&[data.len() / row, row], data);
            let out = run(&kernel(false), &[&x, &w], &[x.layout.spec()]).unwrap();
            values::<f32>(&out[0])
        };
        let together = normalize(&data);
        for (alone, together) in data.chunks(row).zip(together.chunks(row)) {
            assert_eq!(normalize(alone), together);
        }
    }
}
