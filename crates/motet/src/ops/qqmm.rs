//! Products of which both sides are quantised.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::{Quantization, QuantizationMode};

use super::{GatherMM, dequantize, gather_mm, matmul, quantize, swapaxes};

/// How [`qqmm`] and [`gather_qqmm`] quantise.
#[derive(Clone, Debug)]
pub struct Qqmm {
    /// How values are packed: nvfp4 or mxfp8.
    pub quantization: Quantization,
    /// A scale of all of x, for nvfp4: see [`quantize`].
    pub global_scale_x: Option<Array>,
    /// A scale of all of w, for nvfp4.
    pub global_scale_w: Option<Array>,
}

impl Default for Qqmm {
    /// nvfp4 without scales of all values.
    fn default() -> Qqmm {
        Qqmm {
            quantization: Quantization::of(QuantizationMode::Nvfp4),
            global_scale_x: None,
            global_scale_w: None,
        }
    }
}

/// `x @ wᵀ` of values that are rounded to those of a quantisation: `x`, (..., M, K), and `w`, (N, K);
/// or `w` as [`quantize`] packed it, with its scales. The result, (..., M, N), is summed in float32,
/// and of the dtype of `x`. MLX computes this on GPUs alone.
///
/// # Errors
/// Where the mode is neither nvfp4 nor mxfp8, shapes do not fit, or the dtype is not floating.
///
/// ```
/// # use motet::ops;
/// let (x, w) = (ops::full([2, 16], 6.0, None)?, ops::full([3, 16], 0.5, None)?);
/// let q = ops::Qqmm::default();
/// assert_eq!(ops::qqmm(&x, &x, None, q.clone())?.to_vec::<f32>()?, [576.0; 4]);
/// assert_eq!(*ops::qqmm(&x, &w, None, q)?.shape(), [2, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn qqmm(x: &Array, w: &Array, scales: Option<&Array>, options: Qqmm) -> Result<Array> {
    if w.ndim() != 2 {
        return Err(Error::invalid(
            "qqmm",
            format!("got w {}, expected two dimensions", w.spec()),
        ));
    }
    let [x_values, w_values] = values("qqmm", x, w, scales, &options)?;
    let products = matmul(&x_values, &swapaxes(&w_values, -1, -2)?)?;
    astype(&products, x.dtype())
}

/// As [`qqmm`] for matrices of `x`, (..., M, K), and of `w`, (..., N, K), each pair picked by indices
/// as in [`gather_mm`].
///
/// # Errors
/// As [`qqmm`]; where indices are not integers; when evaluated, where an index is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let (x, w) = (ops::ones([1, 2, 16], None)?, ops::ones([4, 3, 16], None)?);
/// let picks = ops::GatherMM {
///     lhs_indices: Some(Array::from_slice(&[0, 0], [2])?),
///     rhs_indices: Some(Array::from_slice(&[3, 1], [2])?),
///     ..ops::GatherMM::default()
/// };
/// let y = ops::gather_qqmm(&x, &w, None, picks, ops::Qqmm::default())?;
/// assert_eq!(*y.shape(), [2, 2, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gather_qqmm(
    x: &Array,
    w: &Array,
    scales: Option<&Array>,
    picks: GatherMM,
    options: Qqmm,
) -> Result<Array> {
    let [x_values, w_values] = values("gather_qqmm", x, w, scales, &options)?;
    let products = gather_mm(&x_values, &swapaxes(&w_values, -1, -2)?, picks)?;
    astype(&products, x.dtype())
}

/// What both sides are after quantisation, in float32.
fn values(
    name: &str,
    x: &Array,
    w: &Array,
    scales: Option<&Array>,
    options: &Qqmm,
) -> Result<[Array; 2]> {
    let by = options.quantization;
    if !matches!(by.mode, QuantizationMode::Nvfp4 | QuantizationMode::Mxfp8) {
        return Err(Error::invalid(
            name,
            format!("got the mode {:?}, expected nvfp4 or mxfp8", by.mode),
        ));
    }
    let [scale_x, scale_w] = [&options.global_scale_x, &options.global_scale_w];
    let unpacked = |w: &Array, scales: &Array, global: &Option<Array>| {
        dequantize(w, scales, None, by, global.as_ref(), Dtype::Float32)
    };
    let rounded = |x: &Array, global: &Option<Array>| {
        let q = quantize(x, by, global.as_ref())?;
        unpacked(&q.w, &q.scales, global)
    };
    let w = match scales {
        Some(scales) => unpacked(w, scales, scale_w)?,
        None => rounded(w, scale_w)?,
    };
    Ok([rounded(x, scale_x)?, w])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp<const N: usize>(shape: [usize; N], first: usize) -> Array {
        let number = |i: usize| (((i + first) * 7) % 23) as f32 / 7.0 - 1.5;
        let data: Vec<f32> = (0..shape.iter().product()).map(number).collect();
        Array::from_slice(&data, shape).unwrap()
    }

    fn floats(x: &Array) -> Vec<f32> {
        x.to_vec().unwrap()
    }

    #[test]
    fn both_sides_are_rounded() {
        let (x, w) = (ramp([2, 3, 64], 0), ramp([5, 64], 4));
        for mode in [QuantizationMode::Nvfp4, QuantizationMode::Mxfp8] {
            let options = Qqmm {
                quantization: Quantization::of(mode),
                ..Qqmm::default()
            };
            let y = qqmm(&x, &w, None, options.clone()).unwrap();
            let q = quantize(&w, options.quantization, None).unwrap();
            let packed = qqmm(&x, &q.w, Some(&q.scales), options.clone()).unwrap();
            assert_eq!(floats(&y), floats(&packed));
            let exact = floats(&matmul(&x, &swapaxes(&w, 0, 1).unwrap()).unwrap());
            for (got, want) in floats(&y).into_iter().zip(&exact) {
                assert!((got - want).abs() < 4.0, "{mode:?}: {got} {want}");
            }
            assert_ne!(floats(&y), exact);
            // The same products, picked one by one.
            let picks = GatherMM {
                lhs_indices: Some(Array::from_slice(&[1, 0], [2]).unwrap()),
                rhs_indices: Some(Array::from_slice(&[0, 0], [2]).unwrap()),
                ..GatherMM::default()
            };
            let stack = crate::ops::expand_dims(&w, 0).unwrap();
            let picked = gather_qqmm(&x, &stack, None, picks, options).unwrap();
            let swapped = [&floats(&y)[15..], &floats(&y)[..15]].concat();
            for (got, want) in floats(&picked).into_iter().zip(swapped) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }

    #[test]
    fn other_modes_and_shapes_are_refused() {
        let (x, w) = (ramp([2, 64], 0), ramp([5, 64], 4));
        let affine = Qqmm {
            quantization: Quantization::default(),
            ..Qqmm::default()
        };
        assert!(qqmm(&x, &w, None, affine).is_err());
        assert!(qqmm(&x, &ramp([1, 5, 64], 0), None, Qqmm::default()).is_err());
        assert!(qqmm(&x, &ramp([5, 32], 0), None, Qqmm::default()).is_err());
    }
}
