//! Discrete Fourier transforms, one axis after the other, by `rustfft` and `realfft`.
//!
//! A real transform runs along the last listed axis: first when forward, last when inverse. Plans
//! are made in `prepare` and shared by all launches.

use std::sync::Arc;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::pool::Pool;
use motet_core::shape::{Layout, Shape, Spec};
use num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};

use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a transform.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (Kernel::Fft { axes, inverse }, [x], [out]) = (kernel, inputs, outputs) else {
        return Err(Error::invalid("FFT", "expected one input and one output"));
    };
    let (&last, others) = axes
        .split_last()
        .ok_or_else(|| Error::invalid("FFT", "got no axes to transform"))?;
    let real = match (x.dtype, out.dtype) {
        (Dtype::Complex64, Dtype::Complex64) => None,
        (Dtype::Float32, Dtype::Complex64) if !inverse => Some(&out.shape),
        (Dtype::Complex64, Dtype::Float32) if *inverse => Some(&x.shape),
        (from, to) => {
            return Err(Error::unsupported(
                "FFT",
                format!("no transform from {from} to {to}"),
            ));
        }
    };
    let fits = axes.iter().all(|&axis| axis < x.shape.len())
        && x.shape.len() == out.shape.len()
        && (0..x.shape.len()).all(|axis| match real {
            Some(half) if axis == last => {
                let full = if *inverse {
                    out.shape[axis]
                } else {
                    x.shape[axis]
                };
                full > 0 && half[axis] == full / 2 + 1
            }
            _ => x.shape[axis] == out.shape[axis],
        })
        && !(real.is_some() && others.contains(&last));
    if !fits {
        return Err(Error::invalid(
            "FFT",
            format!(
                "axes {axes:?}, input {} and output {} do not fit together",
                x.shape, out.shape
            ),
        ));
    }
    let mut planner = FftPlanner::<f32>::new();
    let mut complex = |shape: &Shape, axis: usize| {
        let len = shape[axis].max(1);
        ComplexAxis {
            plan: if *inverse {
                planner.plan_fft_inverse(len)
            } else {
                planner.plan_fft_forward(len)
            },
            lines: Lines::new(shape, axis),
            scale: if *inverse { 1.0 / len as f32 } else { 1.0 },
        }
    };
    let shape = real.unwrap_or(&x.shape);
    let mut axes: Vec<ComplexAxis> = others.iter().map(|&axis| complex(shape, axis)).collect();
    let real_plan = match (real, inverse) {
        (None, _) => {
            axes.push(complex(shape, last));
            RealPlan::None
        }
        (_, false) => RealPlan::Forward(RealFftPlanner::new().plan_fft_forward(x.shape[last])),
        (_, true) => RealPlan::Inverse(RealFftPlanner::new().plan_fft_inverse(out.shape[last])),
    };
    Ok(Box::new(FftStep {
        real: real_plan,
        axes,
        from: Lines::new(&x.shape, last),
        to: Lines::new(&out.shape, last),
        x: x.clone(),
        out: out.clone(),
    }))
}

struct FftStep {
    x: Layout,
    out: Layout,
    real: RealPlan,
    /// The complex axes.
    axes: Vec<ComplexAxis>,
    /// Input and output along the real axis.
    from: Lines,
    to: Lines,
}

enum RealPlan {
    None,
    Forward(Arc<dyn RealToComplex<f32>>),
    Inverse(Arc<dyn ComplexToReal<f32>>),
}

struct ComplexAxis {
    plan: Arc<dyn Fft<f32>>,
    lines: Lines,
    scale: f32,
}

/// An array as lines along an axis.
struct Lines {
    len: usize,
    inner: usize,
    count: usize,
}

impl Lines {
    fn new(shape: &Shape, axis: usize) -> Lines {
        let inner: usize = shape[axis + 1..].iter().product();
        Lines {
            len: shape[axis],
            inner,
            count: shape[..axis].iter().product::<usize>() * inner,
        }
    }

    /// The elements of a line.
    fn elements(&self, line: usize) -> impl Iterator<Item = usize> + use<> {
        let (outer, column) = (line / self.inner, line % self.inner);
        let (start, inner) = (outer * self.len * self.inner + column, self.inner);
        (0..self.len).map(move |i| start + i * inner)
    }

    fn store<T: Element>(&self, line: usize, values: impl Iterator<Item = T>, out: &Output<'_, T>) {
        for (place, value) in self.elements(line).zip(values) {
            // SAFETY: the element is inside the array and its line is the calling tile's alone.
            unsafe { out.set(place, value) };
        }
    }

    /// Calls `run` with ranges of lines: the tiles.
    fn for_each_group(&self, pool: &Pool, run: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let group = (TILE / self.len.max(1)).max(1);
        let cost = group.saturating_mul(self.len).saturating_mul(10);
        pool.for_each_tile(self.count.div_ceil(group), cost, &|tile| {
            run(tile * group..((tile + 1) * group).min(self.count));
        });
    }
}

/// Elements in a tile.
const TILE: usize = 4 << 10;

impl ComplexAxis {
    /// Transforms all lines in place.
    fn run(&self, pool: &Pool, data: &Output<'_, Complex32>) {
        self.lines.for_each_group(pool, &|group| {
            let mut line_data = vec![Complex32::ZERO; self.lines.len];
            let mut scratch = vec![Complex32::ZERO; self.plan.get_inplace_scratch_len()];
            for line in group {
                for (place, value) in self.lines.elements(line).zip(&mut line_data) {
                    // SAFETY: the line is this tile's alone.
                    *value = unsafe { data.part(place..place + 1) }[0];
                }
                self.plan.process_with_scratch(&mut line_data, &mut scratch);
                let scaled = line_data.iter().map(|value| value * self.scale);
                self.lines.store(line, scaled, data);
            }
        });
    }
}

impl FftStep {
    /// Where the complex axes of an inverse real transform are done.
    fn between(&self) -> Spec {
        let needed = matches!(self.real, RealPlan::Inverse(_)) && !self.axes.is_empty();
        if needed {
            self.x.spec()
        } else {
            Spec::new([0], Dtype::Complex64)
        }
    }

    fn complex_axes(&self, pool: &Pool, data: &Output<'_, Complex32>) {
        self.axes.iter().for_each(|axis| axis.run(pool, data));
    }

    fn forward(
        &self,
        plan: &dyn RealToComplex<f32>,
        pool: &Pool,
        x: &[f32],
        out: &Output<'_, Complex32>,
    ) {
        self.from.for_each_group(pool, &|group| {
            let (mut from, mut to) = (plan.make_input_vec(), plan.make_output_vec());
            let mut scratch = plan.make_scratch_vec();
            for line in group {
                for (place, value) in self.from.elements(line).zip(&mut from) {
                    *value = x[place];
                }
                // It fails for wrong lengths alone, and the plan made the vectors.
                let _ = plan.process_with_scratch(&mut from, &mut to, &mut scratch);
                self.to.store(line, to.iter().copied(), out);
            }
        });
    }

    fn inverse(
        &self,
        plan: &dyn ComplexToReal<f32>,
        pool: &Pool,
        x: &[Complex32],
        out: &Output<'_, f32>,
    ) {
        let scale = 1.0 / self.to.len as f32;
        self.from.for_each_group(pool, &|group| {
            let (mut from, mut to) = (plan.make_input_vec(), plan.make_output_vec());
            let mut scratch = plan.make_scratch_vec();
            for line in group {
                for (place, value) in self.from.elements(line).zip(&mut from) {
                    *value = x[place];
                }
                // These imaginary parts have no meaning and are ignored.
                from[0].im = 0.0;
                if self.to.len.is_multiple_of(2) {
                    from[self.to.len / 2].im = 0.0;
                }
                // It fails for wrong lengths and the imaginary parts above alone.
                let _ = plan.process_with_scratch(&mut from, &mut to, &mut scratch);
                self.to
                    .store(line, to.iter().map(|value| value * scale), out);
            }
        });
    }
}

impl Step for FftStep {
    fn scratch_bytes(&self) -> usize {
        self.between().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if self.out.shape.size() == 0 {
            return Ok(());
        }
        let (pool, place) = (launch.pool, &launch.outputs[0]);
        match &self.real {
            RealPlan::None => {
                let out = Output::<Complex32>::new(place, &self.out)?;
                let x = input::<Complex32>(&launch.inputs[0], &self.x)?;
                // SAFETY: no other part exists yet.
                unsafe { out.part(0..x.len()) }.copy_from_slice(x);
                self.complex_axes(pool, &out);
            }
            RealPlan::Forward(plan) => {
                let out = Output::<Complex32>::new(place, &self.out)?;
                let x = input::<f32>(&launch.inputs[0], &self.x)?;
                self.forward(&**plan, pool, x, &out);
                self.complex_axes(pool, &out);
            }
            RealPlan::Inverse(plan) => {
                let out = Output::<f32>::new(place, &self.out)?;
                let x = input::<Complex32>(&launch.inputs[0], &self.x)?;
                if self.axes.is_empty() {
                    self.inverse(&**plan, pool, x, &out);
                    return Ok(());
                }
                let between = Output::<Complex32>::new(&launch.scratch, &self.between().layout())?;
                if between.len() != x.len() {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        "FFT",
                        "scratch of another size",
                    ));
                }
                // SAFETY: no other part exists yet.
                unsafe { between.part(0..x.len()) }.copy_from_slice(x);
                self.complex_axes(pool, &between);
                self.inverse(&**plan, pool, between.into_slice(), &out);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use num_complex::Complex64;

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    /// The sum that defines a transform along one axis.
    fn transform(x: &[Complex64], shape: &[usize], axis: usize, inverse: bool) -> Vec<Complex64> {
        let (n, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let sign = if inverse { 1.0 } else { -1.0 };
        let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
        (0..x.len())
            .map(|i| {
                let (line, k) = (i / (n * inner) * n * inner + i % inner, i / inner % n);
                let term = |j: usize| {
                    let angle = sign * std::f64::consts::TAU * (j * k % n) as f64 / n as f64;
                    x[line + j * inner] * Complex64::cis(angle)
                };
                (0..n).map(term).sum::<Complex64>() * scale
            })
            .collect()
    }

    fn complex_noise(len: usize) -> Vec<Complex32> {
        noise(len, 1)
            .into_iter()
            .zip(noise(len, 2))
            .map(|(a, b)| Complex32::new(a, b))
            .collect()
    }

    fn wide(x: &[Complex32]) -> Vec<Complex64> {
        x.iter()
            .map(|x| Complex64::new(x.re.into(), x.im.into()))
            .collect()
    }

    fn fft(axes: &[usize], inverse: bool) -> Kernel {
        Kernel::Fft {
            axes: axes.into(),
            inverse,
        }
    }

    #[test]
    fn complex_transforms_agree_with_sums() {
        for (shape, axes) in [
            (vec![8], vec![0]),
            (vec![3, 7, 6], vec![1]),
            (vec![3, 7, 6], vec![2, 0, 1]),
            (vec![2, 0], vec![1]),
            (vec![600, 13], vec![0]),
        ] {
            for inverse in [false, true] {
                let x = complex_noise(shape.iter().product());
                let expected = axes
                    .iter()
                    .fold(wide(&x), |x, &axis| transform(&x, &shape, axis, inverse));
                let out = [Spec::new(&shape[..], Dtype::Complex64)];
                let got = run(&fft(&axes, inverse), &[&tensor(&shape, &x)], &out).unwrap();
                for (got, want) in wide(&values::<Complex32>(&got[0])).iter().zip(expected) {
                    assert!((got - want).norm() < 1e-4, "{shape:?} {axes:?}");
                }
            }
        }
    }

    #[test]
    fn real_transforms_agree_with_sums() {
        for (shape, axes) in [
            ([4, 6, 8], vec![2]),
            ([4, 6, 7], vec![0, 2]),
            ([5, 9, 4], vec![2, 1]),
            ([1, 1, 2], vec![1]),
        ] {
            let last = axes[axes.len() - 1];
            let x = noise(shape.iter().product(), 3);
            let as_complex: Vec<Complex64> =
                x.iter().map(|&x| Complex64::new(x.into(), 0.0)).collect();
            let full = axes
                .iter()
                .fold(as_complex, |x, &a| transform(&x, &shape, a, false));
            let mut half = shape;
            half[last] = shape[last] / 2 + 1;
            let inner: usize = shape[last + 1..].iter().product();
            let expected: Vec<Complex64> = (0..full.len())
                .filter(|i| i / inner % shape[last] < half[last])
                .map(|i| full[i])
                .collect();
            let out = [Spec::new(half, Dtype::Complex64)];
            let got = run(&fft(&axes, false), &[&tensor(&shape, &x)], &out).unwrap();
            for (got, want) in wide(&values::<Complex32>(&got[0])).iter().zip(expected) {
                assert!((got - want).norm() < 1e-4, "{shape:?} {axes:?}");
            }
            let back = [Spec::new(shape, Dtype::Float32)];
            let back = run(&fft(&axes, true), &[&got[0]], &back).unwrap();
            for (got, want) in values::<f32>(&back[0]).iter().zip(&x) {
                assert!((got - want).abs() < 1e-5, "{shape:?} {axes:?}");
            }
        }
    }

    #[test]
    fn meaningless_imaginary_parts_are_ignored() {
        let c = Complex32::new;
        for n in [4, 5] {
            let back = |dc: Complex32, last: Complex32| {
                let x = tensor(&[3], &[dc, c(2.0, 1.0), last]);
                let out = [Spec::new([n], Dtype::Float32)];
                values::<f32>(&run(&fft(&[0], true), &[&x], &out).unwrap()[0])
            };
            let clean = back(c(1.0, 0.0), c(3.0, 0.0));
            assert_eq!(back(c(1.0, 9.0), c(3.0, 0.0)), clean);
            assert_eq!(back(c(1.0, 0.0), c(3.0, 9.0)) == clean, n == 4);
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let refused = |axes: &[usize], from: Spec, to: Spec, inverse| {
            prepare(&fft(axes, inverse), &[from.layout()], &[to.layout()]).is_err()
        };
        let real = |n: usize| Spec::new([n], Dtype::Float32);
        let complex = |n: usize| Spec::new([n], Dtype::Complex64);
        assert!(!refused(&[0], real(6), complex(4), false));
        assert!(refused(&[0], real(6), complex(6), false));
        assert!(refused(&[0], real(0), complex(1), false));
        assert!(refused(&[1], complex(4), complex(4), false));
        assert!(refused(&[], complex(4), complex(4), false));
        assert!(refused(&[0], complex(4), real(0), true));
        assert!(refused(&[0], complex(4), real(8), true));
    }
}
