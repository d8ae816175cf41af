//! Softmax and log-sum-exp over the last axis, row by row, in float32 inside for half types.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::matmul::Operand;
use crate::number::Number;
use crate::operand::{Output, Strided};
use crate::real::{Real, exp_minus, maximum};
use crate::simd::{Level, Simd, leveled};

/// Row-major inputs only.
pub(crate) fn accepts(_kernel: &Kernel, _index: usize, _layout: &Layout) -> bool {
    false
}

/// A step for softmax or log-sum-exp.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let softmax = *kernel == Kernel::Softmax;
    let op = if softmax { "Softmax" } else { "LogSumExp" };
    let ([from], [to]) = (inputs, outputs) else {
        return Err(Error::invalid(op, "expected one input and one output"));
    };
    let row = from.shape.last().copied().unwrap_or(1);
    let result = if softmax { row } else { 1 };
    if !from.is_contiguous()
        || from.dtype != to.dtype
        || from.shape.size() / row.max(1) * result != to.shape.size()
    {
        return Err(Error::invalid(
            op,
            format!("{} does not give {}", from.spec(), to.spec()),
        ));
    }
    macro_rules! step {
        ($T:ty) => {
            Ok(Box::new(Rows::<$T> {
                softmax,
                row,
                from: from.clone(),
                to: to.clone(),
                simd: Simd::detect(),
                element: PhantomData,
            }))
        };
    }
    match from.dtype {
        Dtype::Float16 => step!(half::f16),
        Dtype::Bfloat16 => step!(half::bf16),
        Dtype::Float32 => step!(f32),
        Dtype::Float64 => step!(f64),
        dtype => Err(Error::unsupported(op, format!("not defined for {dtype}"))),
    }
}

/// Elements of a region's tile: about 20 us.
const TILE: usize = 1 << 14;

struct Rows<T> {
    softmax: bool,
    row: usize,
    from: Layout,
    to: Layout,
    simd: Simd,
    element: PhantomData<T>,
}

impl<T: Operand<Sum: Real>> Step for Rows<T> {
    fn writes_over(&self, _: usize, _: usize) -> bool {
        // The logarithm of a row lies over another row.
        self.softmax
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let from = Strided::<T>::new(&launch.inputs[0], &self.from)?;
        let to = Output::<T>::new(&launch.outputs[0], &self.to)?;
        let result = if self.softmax { self.row } else { 1 };
        let rows = to.len() / result.max(1);
        let group = (TILE / self.row.max(1)).max(1);
        let cost_ns = group * self.row;
        launch
            .pool
            .for_each_tile(rows.div_ceil(group), cost_ns, &|tile| {
                let mut work = vec![T::Sum::ZERO; self.row];
                for row in tile * group..rows.min((tile + 1) * group) {
                    // SAFETY: the elements of one row, which is not written yet.
                    T::load(
                        unsafe { from.run((row * self.row) as isize, self.row) },
                        &mut work,
                    );
                    // SAFETY: rows do not overlap, and each is written once; where it lies over one of
                    // the input, that has just been read for the last time.
                    let to = unsafe { to.part(row * result..(row + 1) * result) };
                    let (simd, work) = (self.simd, &mut work[..]);
                    if self.softmax {
                        leveled!(simd, softmax<S: Real = T::Sum>(work: &mut [S]));
                        T::store(work, to);
                    } else {
                        let sum =
                            leveled!(simd, log_sum_exp<S: Real = T::Sum>(work: &mut [S]) -> S);
                        T::store(&[sum], to);
                    }
                }
            });
        Ok(())
    }
}

/// Softmax of one row in place.
#[inline(always)]
fn softmax<L: Level, S: Real>(row: &mut [S]) {
    let max = maximum(row);
    let scale = S::ONE / exp_minus::<L, S>(row, max);
    row.iter_mut().for_each(|x| *x *= scale);
}

/// The logarithm of the sum of exponentials of one row, which is used up.
#[inline(always)]
fn log_sum_exp<L: Level, S: Real>(row: &mut [S]) -> S {
    // Where the maximum is infinite, differences to it are NaN; a NaN element shows in the sum.
    let max = maximum(row);
    let center = if max.is_finite() { max } else { S::ZERO };
    exp_minus::<L, S>(row, center).log::<L>() + center
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, run, tensor, values};
    use motet_core::shape::Spec;

    #[test]
    fn rows_are_distributions_as_in_float64() {
        for row in [1, 5, 16, 100, 3000] {
            let data: Vec<f32> = noise(7 * row, 5).iter().map(|x| x * 20.0).collect();
            let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
            let run_both = |kernel: &Kernel, last: usize| {
                let outputs = |dtype| [Spec::new([7, last], dtype)];
                let x = tensor(&[7, row], &data);
                let narrow = run(kernel, &[&x], &outputs(Dtype::Float32)).unwrap();
                let x = tensor(&[7, row], &wide);
                let exact = run(kernel, &[&x], &outputs(Dtype::Float64)).unwrap();
                (values::<f32>(&narrow[0]), values::<f64>(&exact[0]))
            };
            let (got, want) = run_both(&Kernel::Softmax, row);
            for (got, want) in got.iter().zip(&want) {
                // Differences of up to 40 are rounded before their exponential is taken.
                assert!(
                    (f64::from(*got) - want).abs() <= 5e-6 * want,
                    "{row}: {got} {want}"
                );
            }
            for row in want.chunks(row) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
            let (got, want) = run_both(&Kernel::LogSumExp, 1);
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() <= 2e-6 * want.abs() + 1e-6);
            }
        }
    }

    #[test]
    fn infinities_and_nan() {
        let inf = f32::INFINITY;
        let x = tensor(&[4, 2], &[-inf, -inf, inf, 0.0, -inf, 1.0, f32::NAN, 1.0]);
        let lse = run(
            &Kernel::LogSumExp,
            &[&x],
            &[Spec::new([4, 1], Dtype::Float32)],
        )
        .unwrap();
        let lse = values::<f32>(&lse[0]);
        assert_eq!(lse[..3], [-inf, inf, 1.0]);
        assert!(lse[3].is_nan());
        let softmax = run(
            &Kernel::Softmax,
            &[&x],
            &[Spec::new([4, 2], Dtype::Float32)],
        )
        .unwrap();
        let softmax = values::<f32>(&softmax[0]);
        assert!(softmax[0].is_nan() && softmax[6].is_nan());
        assert_eq!(softmax[4..6], [0.0, 1.0]);
    }

    #[test]
    fn halves_and_empty_rows() {
        let x = tensor(&[1, 2], &[half::f16::ONE, half::f16::ONE]);
        let out = run(
            &Kernel::Softmax,
            &[&x],
            &[Spec::new([1, 2], Dtype::Float16)],
        )
        .unwrap();
        assert_eq!(values::<half::f16>(&out[0])[0].to_f32(), 0.5);
        let none = tensor::<f32>(&[3, 0], &[]);
        assert!(
            run(
                &Kernel::Softmax,
                &[&none],
                &[Spec::new([3, 0], Dtype::Float32)]
            )
            .is_ok()
        );
        let ints = tensor(&[1], &[1i32]);
        assert!(run(&Kernel::Softmax, &[&ints], &[Spec::new([1], Dtype::Int32)]).is_err());
    }
}
