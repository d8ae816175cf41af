//! Discrete Fourier and Hadamard transforms.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, normalize_axes, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::{Axes, Spec};

operation! {
    /// Discrete Fourier transform over some dimensions; inverse ones are divided by the number of
    /// elements.
    FFT {
        /// The dimensions. A real transform is along the last one that is listed.
        axes: Vec<u64>,
        /// From frequencies to values.
        inverse: bool,
        /// The values are real, and half of the frequencies are stored.
        real: bool,
        /// The values of an inverse real transform are odd in number.
        odd_out: bool => since (0, 32, 4) or false,
    }
}

impl FFT {
    fn axes(&self, rank: usize) -> Result<Axes> {
        let axes: Option<Vec<i32>> = self.axes.iter().map(|&a| i32::try_from(a).ok()).collect();
        match axes {
            Some(axes) if !axes.is_empty() => normalize_axes(Self::NAME, &axes, rank),
            _ => Err(Self::error(format!(
                "axes {:?} of an array of {rank} dimensions",
                self.axes
            ))),
        }
    }
}

impl Operation for FFT {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    /// Files before 0.32.4 tell by the recorded shape alone whether an inverse real transform has an
    /// odd number of values.
    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        let axes = self.axes(shape.len())?;
        let (from, to) = match (self.real, self.inverse) {
            (false, _) => (Dtype::Complex64, Dtype::Complex64),
            (true, false) => (Dtype::Float32, Dtype::Complex64),
            (true, true) => (Dtype::Complex64, Dtype::Float32),
        };
        if *dtype != from || axes.iter().any(|&axis| shape[axis] == 0) {
            return Err(Self::error(format!(
                "got {}, expected {from} with elements along axes {:?}",
                inputs[0], self.axes
            )));
        }
        let last = axes[axes.len() - 1];
        let size = shape[last];
        let transformed = match (self.real, self.inverse) {
            (false, _) => size,
            (true, false) => size / 2 + 1,
            (true, true) => {
                let even = 2 * (size - 1);
                let recorded = recorded.and_then(|specs| specs.first()?.shape.get(last));
                match recorded {
                    Some(&recorded) if recorded == even || recorded == even + 1 => recorded,
                    _ => even + usize::from(self.odd_out),
                }
            }
        };
        if transformed == 0 {
            return Err(Self::error(format!(
                "axis {last} of {shape} has no real values"
            )));
        }
        Ok(vec![Spec::new(with_dim(shape, last, transformed), to)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axes = self.axes(inputs[0].shape.len())?;
        let inverse = self.inverse;
        Ok(Lowered::Kernel(Kernel::Fft { axes, inverse }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |axes: &[u64], inverse: bool, real, odd_out| {
            let axes = axes.to_vec();
            let dtype = if real && !inverse {
                Dtype::Float32
            } else {
                Dtype::Complex64
            };
            (
                FFT {
                    axes,
                    inverse,
                    real,
                    odd_out,
                },
                vec![Spec::new([4, 7], dtype)],
            )
        };
        vec![
            sample(&[1], false, false, false),
            sample(&[0, 1], true, false, false),
            sample(&[1], false, true, false),
            sample(&[1, 0], false, true, false),
            sample(&[1], true, true, false),
            sample(&[0, 1], true, true, true),
        ]
    }
}

operation! {
    /// Product of the last dimension by the Hadamard matrix of its size, which is m * 2^k with m 1,
    /// 12, 20 or 28.
    Hadamard {
        /// What results are multiplied by.
        scale: f32,
    }
}

impl Operation for Hadamard {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        let size = shape.last().copied().unwrap_or(0);
        let known = [1, 12, 20, 28]
            .into_iter()
            .any(|m: usize| size.is_multiple_of(m) && (size / m).is_power_of_two());
        match known && (dtype.is_half() || *dtype == Dtype::Float32) {
            true => Ok(inputs.to_vec()),
            false => Err(Self::error(format!(
                "got {}, expected floats of at most 32 bits with a last dimension of m * 2^k, m \
                 being 1, 12, 20 or 28",
                inputs[0]
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let scale = self.scale;
        Ok(Lowered::Kernel(Kernel::Hadamard { scale }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |size, dtype| (Hadamard { scale: 0.5 }, vec![Spec::new([3, size], dtype)]);
        let sizes = [1, 2, 16, 24, 20, 56, 112];
        let mut samples = sizes.map(|size| sample(size, Dtype::Float32)).to_vec();
        samples.push(sample(32, Dtype::Float16));
        samples.push(sample(12, Dtype::Bfloat16));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hadamard_matrices_have_certain_sizes() {
        let ok = |shape: &[usize], dtype| {
            let input = Spec::new(shape, dtype);
            Hadamard { scale: 1.0 }.infer(&[input], None).is_ok()
        };
        for size in [1, 2, 4, 12, 20, 28, 56, 384] {
            assert!(ok(&[2, size], Dtype::Float32), "{size}");
        }
        for size in [0, 3, 6, 10, 14, 36, 44] {
            assert!(!ok(&[2, size], Dtype::Float32), "{size}");
        }
        assert!(ok(&[4], Dtype::Float16) && !ok(&[4], Dtype::Float64) && !ok(&[], Dtype::Float32));
    }

    #[test]
    fn real_transforms_halve_the_last_listed_axis() {
        let fft = |axes: &[u64], inverse: bool, recorded: Option<usize>| {
            let dtype = if inverse {
                Dtype::Complex64
            } else {
                Dtype::Float32
            };
            let recorded = recorded.map(|n| [Spec::new([6, n], Dtype::Float32)]);
            let op = FFT {
                axes: axes.to_vec(),
                inverse,
                real: true,
                odd_out: false,
            };
            let input = [Spec::new([6, 5], dtype)];
            let outputs = crate::ops::infer(&op, &input, recorded.as_ref().map(|r| &r[..])).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(fft(&[0, 1], false, None), Some(vec![6, 3]));
        assert_eq!(fft(&[1, 0], false, None), Some(vec![4, 5]));
        assert_eq!(fft(&[1], true, None), Some(vec![6, 8]));
        assert_eq!(fft(&[1], true, Some(9)), Some(vec![6, 9]));
        assert_eq!(fft(&[1], true, Some(10)), None);
        for refused in [&[][..], &[2], &[1, 1], &[u64::MAX]] {
            assert_eq!(fft(refused, false, None), None);
        }
    }

    #[test]
    fn dtypes_are_checked() {
        let op = FFT {
            axes: vec![0],
            inverse: false,
            real: false,
            odd_out: false,
        };
        assert!(op.infer(&[Spec::new([4], Dtype::Float32)], None).is_err());
        assert!(op.infer(&[Spec::new([0], Dtype::Complex64)], None).is_err());
        assert!(op.infer(&[Spec::new([4], Dtype::Complex64)], None).is_ok());
        let real = FFT {
            axes: vec![0],
            inverse: true,
            real: true,
            odd_out: false,
        };
        assert!(
            real.infer(&[Spec::new([1], Dtype::Complex64)], None)
                .is_err()
        );
    }
}
