//! Fourier transforms of frames that move over a signal.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};

use super::{Norm, fft, ifft, irfft, resize, rfft};
use crate::ops::{self, PadMode};

/// How [`stft`] takes frames.
#[derive(Clone, Debug)]
pub struct Stft {
    /// The size of the transforms, and of frames.
    pub n_fft: usize,
    /// From a frame to the next; a quarter of `n_fft` where it is `None`.
    pub hop_length: Option<usize>,
    /// The size of the window where none is given: `n_fft` where this is `None`.
    pub win_length: Option<usize>,
    /// What frames are multiplied by, centered in them; ones where it is `None`.
    pub window: Option<Array>,
    /// Pad the signal by half a frame, so that frames are centered at multiples of the hop.
    pub center: bool,
    /// What it is padded with.
    pub pad_mode: PadMode,
    /// What divides the transforms.
    pub norm: Norm,
    /// Leave out the frequencies that mirror others: where `None`, for signals that are real.
    pub onesided: Option<bool>,
}

impl Default for Stft {
    /// MLX's defaults: frames of 2048, centered, the signal mirrored at its ends.
    fn default() -> Stft {
        Stft {
            n_fft: 2048,
            hop_length: None,
            win_length: None,
            window: None,
            center: true,
            pad_mode: PadMode::Reflect,
            norm: Norm::Backward,
            onesided: None,
        }
    }
}

/// The short-time Fourier transform of the last axis: of (..., length) it gives (..., frequencies,
/// frames), complex64.
///
/// # Errors
/// Where the signal is shorter than a frame, the window has not one dimension or is longer than a
/// frame, or a size is zero.
///
/// ```
/// # use motet::{Array, fft};
/// let x = Array::from_slice(&[1.0f32; 16], [16])?;
/// let spectrum = fft::stft(&x, fft::Stft { n_fft: 8, ..Default::default() })?;
/// assert_eq!(*spectrum.shape(), [5, 9].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn stft(x: &Array, options: Stft) -> Result<Array> {
    const NAME: &str = "stft";
    let onesided = options.onesided.unwrap_or(x.dtype() != Dtype::Complex64);
    let x = astype(
        x,
        match onesided {
            true => Dtype::Float32,
            false => Dtype::Complex64,
        },
    )?;
    let size = options.n_fft;
    let hop = hop_length(NAME, size, options.hop_length)?;
    let window = framed_window(NAME, size, options.win_length, options.window.as_ref())?;
    let Some(last) = x.shape().len().checked_sub(1) else {
        return Err(Error::invalid(NAME, "got a scalar, expected a signal"));
    };
    let x = match options.center {
        true => {
            let mut widths = vec![(0, 0); last + 1];
            widths[last] = (size / 2, size / 2);
            ops::pad(&x, &widths[..], options.pad_mode)?
        }
        false => x,
    };
    let length = x.shape()[last];
    let Some(room) = length.checked_sub(size) else {
        return Err(Error::invalid(
            NAME,
            format!("got a signal of {length} elements, expected at least a frame of {size}"),
        ));
    };
    let shape = [&x.shape()[..last], &[room / hop + 1, size]].concat();
    let mut strides: Vec<i64> = x.shape().strides().iter().map(|&s| s as i64).collect();
    strides.insert(last, hop as i64);
    let frames = ops::multiply(ops::as_strided(&x, shape, strides, 0)?, window)?;
    let spectra = match onesided {
        true => rfft(&frames, None, -1, options.norm)?,
        false => fft(&frames, None, -1, options.norm)?,
    };
    ops::swapaxes(&spectra, -1, -2)
}

/// How [`istft`] joins frames; as the transform was made.
#[derive(Clone, Debug)]
pub struct Istft {
    /// The size of frames; where `None`, what the number of frequencies says (if `onesided`, the even
    /// one).
    pub n_fft: Option<usize>,
    /// From a frame to the next; a quarter of `n_fft` where it is `None`.
    pub hop_length: Option<usize>,
    /// The size of the window where none is given: `n_fft` where this is `None`.
    pub win_length: Option<usize>,
    /// What frames were multiplied by, centered in them; ones where it is `None`.
    pub window: Option<Array>,
    /// Frames were centered: the half frames at both ends are left out.
    pub center: bool,
    /// What divides the transforms.
    pub norm: Norm,
    /// Frequencies that mirror others are left out.
    pub onesided: bool,
    /// The length of the result: cut off, or filled up with zeros.
    pub length: Option<usize>,
}

impl Default for Istft {
    /// MLX's defaults: centered frames of real signals.
    fn default() -> Istft {
        Istft {
            n_fft: None,
            hop_length: None,
            win_length: None,
            window: None,
            center: true,
            norm: Norm::Backward,
            onesided: true,
            length: None,
        }
    }
}

/// Smallest sum of squared windows that the joined frames are divided by.
const ENVELOPE_MIN: f64 = 1e-8;

/// The signal of a short-time Fourier transform: of (..., frequencies, frames) it gives (..., length),
/// float32. Overlapping frames, windowed again, are added up and divided by the sum of the squared
/// windows.
///
/// # Errors
/// Where there are less than two dimensions or no frames, the window has not one dimension or is
/// longer than a frame, or a size is zero.
///
/// ```
/// # use motet::{Array, fft};
/// let x = Array::from_slice(&[1.0f32; 16], [16])?;
/// let spectrum = fft::stft(&x, fft::Stft { n_fft: 8, ..Default::default() })?;
/// let again = fft::istft(&spectrum, fft::Istft::default())?;
/// assert!(again.to_vec::<f32>()?.iter().all(|x| (x - 1.0).abs() < 1e-6));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn istft(stft_matrix: &Array, options: Istft) -> Result<Array> {
    const NAME: &str = "istft";
    let &[ref batch @ .., frequencies, count] = &stft_matrix.shape()[..] else {
        return Err(Error::invalid(
            NAME,
            format!(
                "got {}, expected (..., frequencies, frames)",
                stft_matrix.spec()
            ),
        ));
    };
    let own = match options.onesided {
        true => 2 * frequencies.saturating_sub(1),
        false => frequencies,
    };
    let size = options.n_fft.unwrap_or(own);
    let hop = hop_length(NAME, size, options.hop_length)?;
    let window = framed_window(NAME, size, options.win_length, options.window.as_ref())?;
    let spectra = ops::swapaxes(stft_matrix, -1, -2)?;
    let frames = match options.onesided {
        true => irfft(&spectra, size, -1, options.norm)?,
        false => astype(&ifft(&spectra, size, -1, options.norm)?, Dtype::Float32)?,
    };
    let total = count
        .checked_sub(1)
        .and_then(|hops| hops.checked_mul(hop)?.checked_add(size))
        .filter(|&total| i32::try_from(total).is_ok());
    let Some(total) = total else {
        return Err(Error::invalid(
            NAME,
            format!("got {count} frames of {size} elements, {hop} apart: none, or too many"),
        ));
    };
    // Where the elements of all frames, one after the other, lie in the signal.
    let places = ops::arange(0, total as i64, 1, Dtype::Int32)?;
    let places = ops::as_strided(&places, [count, size], [hop as i64, 1], 0)?;
    let joined = |frames: &Array, batch: &[usize]| {
        let elements = [batch, &[count * size]].concat();
        let dims: Vec<i32> = elements.iter().map(|&dim| dim as i32).collect();
        let places = ops::flatten(&places, 0, -1)?;
        let places = ops::broadcast_to(&places, elements)?;
        let nothing = ops::zeros([batch, &[total]].concat(), None)?;
        ops::scatter_add_axis(&nothing, &places, ops::reshape(frames, dims)?, -1)
    };
    let signal = joined(&ops::multiply(frames, &window)?, batch)?;
    let squares = ops::broadcast_to(&ops::square(&window)?, [count, size])?;
    let envelope = joined(&squares, &[])?;
    let signal = ops::divide(signal, ops::maximum(envelope, ENVELOPE_MIN)?)?;
    let start = if options.center { size / 2 } else { 0 };
    let length = options.length.unwrap_or(total - 2 * start);
    // What comes before the start is moved behind the end, and cut off.
    let signal = ops::roll(&signal, -(start as i32), -1)?;
    resize(
        &resize(&signal, batch.len(), total - start)?,
        batch.len(),
        length,
    )
}

fn hop_length(name: &str, size: usize, hop: Option<usize>) -> Result<usize> {
    let hop = hop.unwrap_or(size / 4);
    match size > 0 && hop > 0 && i32::try_from(size).is_ok() {
        true => Ok(hop),
        false => Err(Error::invalid(
            name,
            format!("got frames of {size} elements, {hop} apart; expected more than none"),
        )),
    }
}

/// The window, centered in a frame of this size.
fn framed_window(
    name: &str,
    size: usize,
    length: Option<usize>,
    window: Option<&Array>,
) -> Result<Array> {
    let window = match window {
        Some(window) => astype(window, Dtype::Float32)?,
        None => ops::ones([length.unwrap_or(size)], None)?,
    };
    let &[length] = &window.shape()[..] else {
        return Err(Error::invalid(
            name,
            format!("got a window {}, expected one dimension", window.spec()),
        ));
    };
    let Some(rest) = size.checked_sub(length) else {
        return Err(Error::invalid(
            name,
            format!("got a window of {length} elements for frames of {size}"),
        ));
    };
    ops::pad(&window, [(rest / 2, rest - rest / 2)], PadMode::default())
}
