//! Discrete Fourier transforms, under the names of MLX's `fft`.
//!
//! Transforms of real arrays compute in float32, others in complex64; other dtypes are converted
//! first. Sizes `n` cut the input off, or fill it up with zeros, along the axes of the transform.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, astype};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::transform::FFT;
use motet_core::shape::normalize_axis;

use crate::ops::{self, Axes, PadMode};

mod short_time;

pub use short_time::{Istft, Stft, istft, stft};

/// What divides a transform of n elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// The inverse by n.
    #[default]
    Backward,
    /// Both by the root of n.
    Ortho,
    /// The forward one by n.
    Forward,
}

/// Which transform.
#[derive(Clone, Copy)]
struct Kind {
    inverse: bool,
    real: bool,
}

macro_rules! transforms {
    ($($what:literal, $result:literal, $real:literal $inverse:literal:
        $one:ident $two:ident $many:ident $example:literal => $expected:literal;)*) => {$(
        #[doc = concat!("The one-dimensional ", $what, " along an axis (MLX's default is -1), of `n` elements.")]
        ///
        #[doc = $result]
        ///
        /// # Errors
        /// Where the axis is out of range, or there are no elements along it.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, Dtype, fft, ops};\n",
            "let x = Array::from_slice(&", $example, ", [2])?;\n",
            "let y = fft::", stringify!($one), "(&x, None, -1, fft::Norm::Backward)?;\n",
            "assert_eq!(ops::astype(&y, Dtype::Float32)?.to_vec::<f32>()?, ", $expected, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $one(
            a: &Array,
            n: impl Into<Option<usize>>,
            axis: i32,
            norm: Norm,
        ) -> Result<Array> {
            let n = n.into();
            let kind = Kind { inverse: $inverse, real: $real };
            transform(stringify!($one), kind, a, n.as_slice(), &axis.into(), norm)
        }

        #[doc = concat!("The two-dimensional ", $what, " along two axes (MLX's default is `[-2, -1]`), of `n` elements.")]
        ///
        #[doc = $result]
        ///
        /// # Errors
        /// Where an axis is out of range or named twice, or there are no elements along it.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, Dtype, fft, ops};\n",
            "let x = Array::from_slice(&", $example, ", [1, 2])?;\n",
            "let y = fft::", stringify!($two), "(&x, None, [-2, -1], fft::Norm::Backward)?;\n",
            "assert_eq!(ops::astype(&y, Dtype::Float32)?.to_vec::<f32>()?, ", $expected, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $two(
            a: &Array,
            n: impl Into<Option<[usize; 2]>>,
            axes: [i32; 2],
            norm: Norm,
        ) -> Result<Array> {
            let n = n.into();
            let kind = Kind { inverse: $inverse, real: $real };
            let n = n.as_ref().map_or(&[][..], |n| n);
            transform(stringify!($two), kind, a, n, &axes.into(), norm)
        }

        #[doc = concat!("The n-dimensional ", $what, " along these axes, or all (`..`), of `n` elements; those of the array where `n` is empty.")]
        ///
        #[doc = $result]
        ///
        /// # Errors
        /// Where an axis is out of range or named twice, there are no elements along it, or sizes are
        /// not as many as axes.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, Dtype, fft, ops};\n",
            "let x = Array::from_slice(&", $example, ", [1, 2])?;\n",
            "let y = fft::", stringify!($many), "(&x, &[], .., fft::Norm::Backward)?;\n",
            "assert_eq!(ops::astype(&y, Dtype::Float32)?.to_vec::<f32>()?, ", $expected, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $many(a: &Array, n: &[usize], axes: impl Into<Axes>, norm: Norm) -> Result<Array> {
            let kind = Kind { inverse: $inverse, real: $real };
            transform(stringify!($many), kind, a, n, &axes.into(), norm)
        }
    )*};
}

transforms! {
    "Fourier transform", "The result is complex64.",
        false false: fft fft2 fftn "[1.0f32, 3.0]" => "[4.0, -2.0]";
    "inverse Fourier transform", "The result is complex64.",
        false true: ifft ifft2 ifftn "[4.0f32, -2.0]" => "[1.0, 3.0]";
    "Fourier transform of real elements",
        "The result is complex64, with `n / 2 + 1` frequencies along the last of the axes: the others mirror them.",
        true false: rfft rfft2 rfftn "[1.0f32, 3.0]" => "[4.0, -2.0]";
    "inverse Fourier transform to real elements",
        "The result is float32. Along the last of the axes `n` is that of the result, `2 * (m - 1)` for `m` frequencies unless it is given.",
        true true: irfft irfft2 irfftn "[4.0f32, -2.0]" => "[1.0, 3.0]";
}

/// All transforms: `n` is empty where sizes are the array's.
fn transform(
    name: &str,
    Kind { inverse, real }: Kind,
    a: &Array,
    n: &[usize],
    axes: &Axes,
    norm: Norm,
) -> Result<Array> {
    let rank = a.shape().len();
    let axes: Vec<usize> = match axes.listed(name, rank)? {
        Some(axes) => axes.into_iter().map(|axis| axis as usize).collect(),
        None => (0..rank).collect(),
    };
    let Some(&last) = axes.last() else {
        return Ok(a.clone());
    };
    if !n.is_empty() && n.len() != axes.len() {
        return Err(Error::invalid(
            name,
            format!("got sizes {n:?} for axes {axes:?}, expected one for each"),
        ));
    }
    let to_real = real && inverse;
    let mut x = astype(
        a,
        match real && !inverse {
            true => Dtype::Float32,
            false => Dtype::Complex64,
        },
    )?;
    let mut sizes = Vec::with_capacity(axes.len());
    for (i, &axis) in axes.iter().enumerate() {
        let halved = to_real && axis == last;
        let dim = a.shape()[axis];
        let own = if halved {
            2 * dim.saturating_sub(1)
        } else {
            dim
        };
        let size = n.get(i).copied().unwrap_or(own);
        if size == 0 {
            return Err(Error::invalid(
                name,
                format!("axis {axis} of {} has no elements to transform", a.spec()),
            ));
        }
        x = resize(&x, axis, if halved { size / 2 + 1 } else { size })?;
        sizes.push(size);
    }
    let op = FFT {
        axes: axes.iter().map(|&axis| axis as u64).collect(),
        inverse,
        real,
        odd_out: to_real && sizes[sizes.len() - 1] % 2 == 1,
    };
    let y = apply_one(op, &[x])?;
    let count: f64 = sizes.iter().map(|&size| size as f64).product();
    // The primitive's inverse is divided by the count.
    match (norm, inverse) {
        (Norm::Backward, _) => Ok(y),
        (Norm::Ortho, false) => ops::multiply(y, 1.0 / count.sqrt()),
        (Norm::Ortho, true) => ops::multiply(y, count.sqrt()),
        (Norm::Forward, false) => ops::multiply(y, 1.0 / count),
        (Norm::Forward, true) => ops::multiply(y, count),
    }
}

/// `x` cut off, or filled up with zeros, to this size along an axis.
fn resize(x: &Array, axis: usize, size: usize) -> Result<Array> {
    let dim = x.shape()[axis];
    if size >= dim {
        let mut widths = vec![(0, 0); x.shape().len()];
        widths[axis].1 = size - dim;
        return match size == dim {
            true => Ok(x.clone()),
            false => ops::pad(x, &widths[..], PadMode::default()),
        };
    }
    let mut end: Vec<i32> = x.shape().iter().map(|&dim| dim as i32).collect();
    end[axis] = size as i32;
    ops::slice(x, vec![0; end.len()], &end, vec![1; end.len()])
}

/// The frequencies of a transform of `n` elements that are `d` apart: those that are not negative,
/// then the negative ones. float32.
///
/// # Errors
/// Where `n` or `d` is zero.
///
/// ```
/// # use motet::fft;
/// assert_eq!(fft::fftfreq(4, 0.5)?.to_vec::<f32>()?, [0.0, 0.5, -1.0, -0.5]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn fftfreq(n: usize, d: f64) -> Result<Array> {
    let scale = frequency_step("fftfreq", n, d)?;
    let half = (n / 2) as i64;
    let counts = [
        ops::arange(0, n as i64 - half, 1, None)?,
        ops::arange(-half, 0, 1, None)?,
    ];
    ops::multiply(ops::concatenate(&counts, 0)?, scale)
}

/// The frequencies of a transform of `n` real elements that are `d` apart. float32.
///
/// # Errors
/// Where `n` or `d` is zero.
///
/// ```
/// # use motet::fft;
/// assert_eq!(fft::rfftfreq(4, 0.5)?.to_vec::<f32>()?, [0.0, 0.5, 1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn rfftfreq(n: usize, d: f64) -> Result<Array> {
    let scale = frequency_step("rfftfreq", n, d)?;
    ops::multiply(ops::arange(0, (n / 2 + 1) as i64, 1, None)?, scale)
}

fn frequency_step(name: &str, n: usize, d: f64) -> Result<f64> {
    match i32::try_from(n).is_ok() && n > 0 && d != 0.0 {
        true => Ok(1.0 / (n as f64 * d)),
        false => Err(Error::invalid(
            name,
            format!("got {n} elements that are {d} apart, expected neither to be zero"),
        )),
    }
}

/// Moves the frequency zero to the middle of these axes, or of all (`..`).
///
/// # Errors
/// Where an axis is out of range.
///
/// ```
/// # use motet::{Array, fft};
/// let x = Array::from_slice(&[0, 1, -2, -1], [4])?;
/// assert_eq!(fft::fftshift(&x, ..)?.to_vec::<i32>()?, [-2, -1, 0, 1]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn fftshift(a: &Array, axes: impl Into<Axes>) -> Result<Array> {
    shift("fftshift", a, &axes.into(), |dim| dim / 2)
}

/// The inverse of [`fftshift`]: moves the frequency zero back to the start.
///
/// # Errors
/// Where an axis is out of range.
///
/// ```
/// # use motet::{Array, fft};
/// let x = Array::from_slice(&[-1, 0, 1], [3])?;
/// assert_eq!(fft::ifftshift(&x, ..)?.to_vec::<i32>()?, [0, 1, -1]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn ifftshift(a: &Array, axes: impl Into<Axes>) -> Result<Array> {
    shift("ifftshift", a, &axes.into(), |dim| dim - dim / 2)
}

fn shift(name: &str, a: &Array, axes: &Axes, by: impl Fn(usize) -> usize) -> Result<Array> {
    let rank = a.shape().len();
    let axes: Vec<i32> = match axes.as_given() {
        Some(axes) => axes.to_vec(),
        None => (0..rank as i32).collect(),
    };
    let mut shifts = Vec::with_capacity(axes.len());
    for &axis in &axes {
        shifts.push(by(a.shape()[normalize_axis(name, axis.into(), rank)?]) as i32);
    }
    ops::roll(a, &shifts[..], axes)
}

#[cfg(test)]
mod tests;
