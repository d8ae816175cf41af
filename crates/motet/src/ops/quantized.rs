//! Quantised values: packed into 32-bit words, with a scale for each group of them.

use motet_core::array::Array;
use motet_core::array::apply::{apply, apply_one, astype, broadcast};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::{Quantization, QuantizationMode};
use motet_core::ops::quantized as primitive;
use motet_core::shape::Shape;

use super::{
    abs, add, arange, bitwise_and, bitwise_or, broadcast_to, dims, divide, left_shift, less,
    multiply, reshape, right_shift, round, subtract, take, view, where_,
};

/// What [`quantize`] gives.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The packed values: uint32 of shape (..., N * bits / 32).
    pub w: Array,
    /// The scales of groups, of shape (..., N / group size): of the dtype of the values for affine,
    /// else uint8.
    pub scales: Array,
    /// The biases of groups, for affine; as the scales.
    pub biases: Option<Array>,
}

/// Packs the rows of `w`, which is (..., N) of two or more dimensions, float32 or a half type; N is a
/// multiple of the group size. For nvfp4 there may be a scale of all values, a float32: the largest
/// magnitude that is to be represented.
///
/// # Errors
/// Where MLX has no such quantisation, `w` is not floating, or has less than two dimensions, or its
/// rows are not whole groups.
///
/// ```
/// # use motet::{Array, Dtype, Quantization, ops};
/// let w = ops::reshape(&ops::arange(0, 64, 1, Dtype::Float32)?, [1, 64])?;
/// let q = ops::quantize(&w, Quantization { bits: 8, ..Quantization::default() }, None)?;
/// assert_eq!(*q.w.shape(), [1, 16].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn quantize(
    w: &Array,
    quantization: Quantization,
    global_scale: Option<&Array>,
) -> Result<Quantized> {
    if w.shape().len() < 2 || !w.dtype().is_float() {
        return Err(Error::invalid(
            "quantize",
            format!(
                "got {}, expected floats of two or more dimensions",
                w.spec()
            ),
        ));
    }
    let w = match global_scale {
        Some(scale) => {
            check_global_scale("quantize", scale, quantization)?;
            multiply(w, divide(NVFP4_MAX, scale)?)?
        }
        None => w.clone(),
    };
    let op = primitive::Quantize {
        quantization,
        dequantize: false,
    };
    let mut arrays = apply(op, &[w])?.into_iter();
    match (arrays.next(), arrays.next()) {
        (Some(w), Some(scales)) => Ok(Quantized {
            w,
            scales,
            biases: arrays.next(),
        }),
        _ => Err(Error::invalid("quantize", "no arrays came out")),
    }
}

/// The values that [`quantize`] packed, with the same scale of all: of the dtype given, else of that
/// of affine scales, else float32 where there is a scale of all, else bfloat16.
///
/// # Errors
/// Where shapes and dtypes are not those of such a quantisation, or the dtype is not floating.
///
/// ```
/// # use motet::{Array, Dtype, Quantization, ops};
/// let w = ops::reshape(&ops::arange(0, 64, 1, Dtype::Float32)?, [1, 64])?;
/// let by = Quantization { bits: 6, ..Quantization::default() };
/// let q = ops::quantize(&w, by, None)?;
/// let again = ops::dequantize(&q.w, &q.scales, q.biases.as_ref(), by, None, None)?;
/// assert!(ops::allclose(&w, &again, ops::IsClose::default())?.item::<bool>()?);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    quantization: Quantization,
    global_scale: Option<&Array>,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let affine = quantization.mode == QuantizationMode::Affine;
    let own = match (affine, biases) {
        (true, Some(biases)) => scales.dtype().promote(biases.dtype()),
        (true, None) => scales.dtype(),
        (false, _) if global_scale.is_some() => Dtype::Float32,
        (false, _) => Dtype::Bfloat16,
    };
    let dtype = dtype.into().unwrap_or(own);
    if !dtype.is_float() {
        return Err(Error::invalid(
            "dequantize",
            format!("got {dtype} for the values, expected a floating dtype"),
        ));
    }
    let op = primitive::Quantize {
        quantization,
        dequantize: true,
    };
    let packed = packed("dequantize", w, scales, biases, affine.then_some(own))?;
    let mut values = apply_one(op, &packed)?;
    if let Some(scale) = global_scale {
        check_global_scale("dequantize", scale, quantization)?;
        values = multiply(values, divide(scale, NVFP4_MAX)?)?;
    }
    astype(&values, dtype)
}

/// The largest magnitude of nvfp4: that of a code times that of a scale.
const NVFP4_MAX: f32 = 6.0 * FP8_MAX;

fn check_global_scale(name: &str, scale: &Array, quantization: Quantization) -> Result<()> {
    let nvfp4 = quantization.mode == QuantizationMode::Nvfp4;
    match nvfp4 && scale.size() == 1 && scale.dtype() == Dtype::Float32 {
        true => Ok(()),
        false => Err(Error::invalid(
            name,
            format!(
                "got a scale of all values {} for {:?}, expected one float32 for nvfp4",
                scale.spec(),
                quantization.mode
            ),
        )),
    }
}

/// How [`quantized_matmul`] multiplies.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedMatmul {
    /// Whether w holds values of shape (N, K), rather than (K, N).
    pub transpose: bool,
    /// How w is packed.
    pub quantization: Quantization,
}

impl Default for QuantizedMatmul {
    /// Transposed, MLX's default quantisation.
    fn default() -> QuantizedMatmul {
        QuantizedMatmul {
            transpose: true,
            quantization: Quantization::default(),
        }
    }
}

/// The matrix product of `x`, (..., M, K), with what [`quantize`] packed: values of shape (..., N, K),
/// or (..., K, N) where not transposed. The result, (..., M, N), is summed in float32, and of the
/// dtype that `x` and affine scales and biases promote to.
///
/// # Errors
/// Where shapes do not fit, or the dtype is not floating.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// let w = ops::ones([3, 64], None)?;
/// let options = ops::QuantizedMatmul::default();
/// let q = ops::quantize(&w, options.quantization, None)?;
/// let y = ops::quantized_matmul(&w, &q.w, &q.scales, q.biases.as_ref(), options)?;
/// assert_eq!(*y.shape(), [3, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    options: QuantizedMatmul,
) -> Result<Array> {
    let QuantizedMatmul {
        transpose,
        quantization,
    } = options;
    let mut inputs = operands("quantized_matmul", x, w, scales, biases, quantization)?;
    if w.shape().len() > 2 {
        let all = Shape::from(batch(x)).broadcast(&batch(w).into())?;
        for input in &mut inputs {
            let shape = [&all[..], &input.shape()[batch(input).len()..]].concat();
            *input = broadcast_to(input, shape)?;
        }
    }
    let op = primitive::QuantizedMatmul {
        quantization,
        transpose,
    };
    apply_one(op, &inputs)
}

/// How [`gather_qmm`] multiplies.
#[derive(Clone, Debug, Default)]
pub struct GatherQmm {
    /// Which matrix of `x` each product takes, of those of its batch dimensions in row-major order;
    /// where `None`, each of them once.
    pub lhs_indices: Option<Array>,
    /// As `lhs_indices`, of `w`.
    pub rhs_indices: Option<Array>,
    /// How matrices are packed, and multiplied.
    pub product: QuantizedMatmul,
    /// The indices are ascending. A hint to MLX's GPU kernels, without effect here.
    pub sorted_indices: bool,
}

/// The products of matrices of `x`, (..., M, K), with quantised ones of `w`, each pair picked by
/// indices that broadcast to one shape. The result has the shape of the indices, then (M, N), and the
/// dtype that [`quantized_matmul`] gives.
///
/// # Errors
/// Where shapes do not fit, indices are not integers, or the dtype is not floating; when evaluated,
/// where an index is out of range.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// let w = ops::ones([2, 3, 64], None)?;
/// let mut options = ops::GatherQmm::default();
/// let q = ops::quantize(&w, options.product.quantization, None)?;
/// options.rhs_indices = Some(Array::from_slice(&[1, 0, 1, 1], [2, 2])?);
/// let x = ops::ones([2, 5, 64], None)?;
/// let y = ops::gather_qmm(&x, &q.w, &q.scales, q.biases.as_ref(), options)?;
/// assert_eq!(*y.shape(), [2, 2, 5, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    options: GatherQmm,
) -> Result<Array> {
    const NAME: &str = "gather_qmm";
    let QuantizedMatmul {
        transpose,
        quantization,
    } = options.product;
    let mut inputs = operands(NAME, x, w, scales, biases, quantization)?;
    let indices = [(x, options.lhs_indices), (w, options.rhs_indices)];
    let indices = indices.map(|(stack, indices)| match indices {
        Some(indices) if indices.dtype().is_integer() => astype(&indices, Dtype::Uint32),
        Some(indices) => Err(Error::invalid(
            NAME,
            format!("got indices {}, expected integers", indices.spec()),
        )),
        None => {
            let batch = dims(batch(stack));
            let count = batch.iter().map(|&dim| i64::from(dim)).product::<i64>();
            reshape(&arange(0, count, 1, Dtype::Uint32)?, batch)
        }
    });
    let [lhs, rhs] = indices;
    inputs.extend(broadcast(NAME, [lhs?, rhs?])?);
    let op = primitive::GatherQMM {
        quantization,
        transpose,
        left_sorted: options.sorted_indices,
        right_sorted: options.sorted_indices,
    };
    apply_one(op, &inputs)
}

/// x, w, scales and, for affine, biases, those that are floats of one dtype.
fn operands(
    name: &str,
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    quantization: Quantization,
) -> Result<Vec<Array>> {
    let affine = quantization.mode == QuantizationMode::Affine;
    let floats = [scales].into_iter().chain(biases).filter(|_| affine);
    let dtype = floats.fold(x.dtype(), |dtype, array| dtype.promote(array.dtype()));
    let mut inputs = vec![astype(x, dtype)?];
    inputs.extend(packed(name, w, scales, biases, affine.then_some(dtype))?);
    Ok(inputs)
}

/// The dimensions before those of a matrix.
fn batch(stack: &Array) -> &[usize] {
    &stack.shape()[..stack.shape().len().saturating_sub(2)]
}

/// w, scales and, for affine, biases, the last two of this dtype.
fn packed(
    name: &str,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    affine: Option<Dtype>,
) -> Result<Vec<Array>> {
    match (affine, biases) {
        (Some(dtype), Some(biases)) => Ok(vec![
            w.clone(),
            astype(scales, dtype)?,
            astype(biases, dtype)?,
        ]),
        (None, None) => Ok(vec![w.clone(), scales.clone()]),
        (Some(_), None) => Err(Error::invalid(
            name,
            "affine quantisation has biases: got none",
        )),
        (None, Some(_)) => Err(Error::invalid(
            name,
            "only affine quantisation has biases: got some",
        )),
    }
}

/// The nearest 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa), as uint8; what is too large
/// and NaN become the largest, 448.
///
/// # Errors
/// Where the dtype is not floating.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// let x = Array::from_slice(&[1.0f32, -1.5, 1000.0], [3])?;
/// let y = ops::from_fp8(&ops::to_fp8(&x)?, Dtype::Float32)?;
/// assert_eq!(y.to_vec::<f32>()?, [1.0, -1.5, 448.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn to_fp8(x: &Array) -> Result<Array> {
    if !x.dtype().is_float() {
        return Err(Error::invalid(
            "to_fp8",
            format!("got {}, expected floats", x.spec()),
        ));
    }
    let x = astype(x, Dtype::Float32)?;
    let size = abs(&x)?;
    let size = where_(less(&size, FP8_MAX)?, &size, FP8_MAX)?;
    // Of a float32's mantissa 20 bits are dropped, rounded to even; its exponent is 120 larger.
    let bits = view(&size, Dtype::Uint32)?;
    let odd = bitwise_and(right_shift(&bits, 20)?, 1)?;
    let rounded = right_shift(add(add(&bits, odd)?, 0x7ffff)?, 20)?;
    let normal = subtract(rounded, 120 << 3)?;
    let subnormal = astype(&round(multiply(&size, 512.0)?, 0)?, Dtype::Uint32)?;
    let code = where_(less(&size, 1.0 / 64.0)?, subnormal, normal)?;
    let sign = left_shift(right_shift(view(&x, Dtype::Uint32)?, 31)?, 7)?;
    astype(&bitwise_or(code, sign)?, Dtype::Uint8)
}

/// The largest 8-bit float.
const FP8_MAX: f32 = 448.0;

/// The values of 8-bit floats (e4m3) that [`to_fp8`] made: MLX's default dtype is bfloat16.
///
/// # Errors
/// Where `x` is not uint8, or the dtype is not floating.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// let x = Array::from_slice(&[0u8, 1, 56, 184], [4])?;
/// let y = ops::from_fp8(&x, Dtype::Float32)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0 / 512.0, 1.0, -1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn from_fp8(x: &Array, dtype: Dtype) -> Result<Array> {
    if x.dtype() != Dtype::Uint8 || !dtype.is_float() {
        return Err(Error::invalid(
            "from_fp8",
            format!(
                "got {} to become {dtype}, expected uint8 and floats",
                x.spec()
            ),
        ));
    }
    let values: Vec<f32> = (0..=u8::MAX).map(fp8_value).collect();
    let values = Array::from_slice(&values, [values.len()])?;
    astype(&take(&values, x, 0)?, dtype)
}

/// The value of an 8-bit float.
pub(crate) fn fp8_value(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code < 128 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    fn noise(shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
        let data: Vec<f32> = (0..shape.size()).map(number).collect();
        Array::from_slice(&data, shape).unwrap()
    }

    fn close(a: &Array, b: &Array, tolerance: f32) {
        assert_eq!(a.spec(), b.spec());
        let float = |x: &Array| astype(x, Dtype::Float32).unwrap().to_vec::<f32>().unwrap();
        for (a, b) in float(a).into_iter().zip(float(b)) {
            assert!((a - b).abs() <= tolerance, "{a} {b}");
        }
    }

    const MODES: [QuantizationMode; 4] = [
        QuantizationMode::Affine,
        QuantizationMode::Mxfp4,
        QuantizationMode::Mxfp8,
        QuantizationMode::Nvfp4,
    ];

    #[test]
    fn values_come_back_and_multiply() {
        for mode in MODES {
            let by = Quantization::of(mode);
            let w = noise([2, 5, 128]);
            let q = quantize(&w, by, None).unwrap();
            let biases = q.biases.as_ref();
            assert_eq!(biases.is_some(), mode == QuantizationMode::Affine);
            let again = dequantize(&q.w, &q.scales, biases, by, None, Dtype::Float32).unwrap();
            // Codes of 4 bits in -1..1, of floats the widest apart.
            close(&again, &w, 0.25);
            let (x, t) = (noise([1, 3, 128]), noise([2, 3, 5]));
            for (transpose, x, w) in [
                (true, x, ops::swapaxes(&again, 1, 2).unwrap()),
                (false, t, again),
            ] {
                let options = QuantizedMatmul {
                    transpose,
                    quantization: by,
                };
                let got = quantized_matmul(&x, &q.w, &q.scales, biases, options).unwrap();
                close(&got, &ops::matmul(&x, &w).unwrap(), 1e-4);
            }
        }
    }

    #[test]
    fn matrices_are_picked_by_indices() {
        let (x, w) = (noise([2, 5, 64]), noise([4, 3, 64]));
        let product = QuantizedMatmul::default();
        let q = quantize(&w, product.quantization, None).unwrap();
        let gather = |lhs: Option<&[i32]>, rhs: Option<&[i32]>| {
            let indices = |i: &[i32]| Array::from_slice(i, [i.len(), 1]).unwrap();
            let options = GatherQmm {
                lhs_indices: lhs.map(indices),
                rhs_indices: rhs.map(indices),
                product,
                sorted_indices: false,
            };
            gather_qmm(&x, &q.w, &q.scales, q.biases.as_ref(), options)
        };
        let all = |rhs: i32| {
            let of = |a: &Array| take(a, rhs, 0).unwrap();
            let biases = q.biases.as_ref().map(of);
            quantized_matmul(&x, &of(&q.w), &of(&q.scales), biases.as_ref(), product).unwrap()
        };
        // Both of x by each of two of w.
        let got = gather(None, Some(&[3, 1])).unwrap();
        assert_eq!(**got.shape(), [2, 2, 5, 3]);
        for (i, rhs) in [(0, 3), (1, 1)] {
            close(&take(&got, i, 0).unwrap(), &all(rhs), 1e-6);
        }
        let got = gather(Some(&[1, 1, 0]), Some(&[0, 2, 2])).unwrap();
        for (i, (lhs, rhs)) in [(1, 0), (1, 2), (0, 2)].into_iter().enumerate() {
            let got = take(&take(&got, i as i32, 0).unwrap(), 0, 0).unwrap();
            close(&got, &take(&all(rhs), lhs, 0).unwrap(), 1e-6);
        }
        assert!(gather(None, None).is_err());
        assert!(gather(None, Some(&[4])).unwrap().eval().is_err());
    }

    #[test]
    fn dtypes_follow_scales_and_values() {
        let w = astype(&noise([3, 64]), Dtype::Float16).unwrap();
        let by = Quantization::default();
        let q = quantize(&w, by, None).unwrap();
        let unpack = |dtype: Option<Dtype>| {
            dequantize(&q.w, &q.scales, q.biases.as_ref(), by, None, dtype).map(|w| w.dtype())
        };
        assert_eq!(unpack(None).unwrap(), Dtype::Float16);
        assert_eq!(unpack(Some(Dtype::Bfloat16)).unwrap(), Dtype::Bfloat16);
        assert!(unpack(Some(Dtype::Int32)).is_err());
        let product = |x: &Array, biases| {
            let options = QuantizedMatmul::default();
            quantized_matmul(x, &q.w, &q.scales, biases, options).map(|y| y.dtype())
        };
        let biases = q.biases.as_ref();
        assert_eq!(product(&w, biases).unwrap(), Dtype::Float16);
        assert_eq!(product(&noise([64]), biases).unwrap(), Dtype::Float32);
        assert!(product(&w, None).is_err() && product(&noise([3]), biases).is_err());
        let fp4 = Quantization::of(QuantizationMode::Mxfp4);
        let q = quantize(&w, fp4, None).unwrap();
        let unpacked = dequantize(&q.w, &q.scales, None, fp4, None, None).unwrap();
        assert_eq!(unpacked.dtype(), Dtype::Bfloat16);
        assert!(dequantize(&q.w, &q.scales, biases, fp4, None, None).is_err());
    }

    /// Results of MLX 0.32.4.
    #[test]
    fn nvfp4_takes_a_scale_of_all_values() {
        let by = Quantization::of(QuantizationMode::Nvfp4);
        let x: Vec<f32> = (0..32).map(|i| i as f32 * 0.13 - 2.0).collect();
        let x = Array::from_slice(&x, [1, 32]).unwrap();
        let scale = Array::from(4.0f32);
        let q = quantize(&x, by, Some(&scale)).unwrap();
        assert_eq!(q.scales.to_vec::<u8>().unwrap(), [118, 118]);
        let words = [0xdeee_efff, 0x09ab_bccd, 0x5544_3210, 0x7776_6665];
        assert_eq!(q.w.to_vec::<u32>().unwrap(), words);
        let again = dequantize(&q.w, &q.scales, None, by, Some(&scale), None).unwrap();
        close(&again, &x, 0.4);
        for wrong in [Array::from(4), noise([2])] {
            assert!(quantize(&x, by, Some(&wrong)).is_err());
        }
        let fp4 = Quantization::of(QuantizationMode::Mxfp4);
        assert!(quantize(&x, fp4, Some(&scale)).is_err());
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        let by = Quantization::default();
        assert!(quantize(&noise([64]), by, None).is_err());
        assert!(quantize(&noise([2, 65]), by, None).is_err());
        assert!(quantize(&noise([2, 64]), Quantization { bits: 7, ..by }, None).is_err());
        let ints = astype(&noise([2, 64]), Dtype::Int32).unwrap();
        assert!(quantize(&ints, by, None).is_err() && to_fp8(&ints).is_err());
        assert!(from_fp8(&ints, Dtype::Float32).is_err());
    }

    #[test]
    fn floats_of_eight_bits_are_the_nearest() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let codes = Array::from_slice(&codes, [256]).unwrap();
        let table = from_fp8(&codes, Dtype::Float32)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        assert!(table[127].is_nan() && table[255].is_nan());
        assert_eq!(
            (table[126], table[8], table[129]),
            (448.0, 1.0 / 64.0, -1.0 / 512.0)
        );
        let mut x = vec![500.0, f32::INFINITY, f32::NAN, 1e-9];
        let mut want = vec![126, 126, 126, 0u8];
        for code in 0..126u8 {
            let (low, high) = (table[usize::from(code)], table[usize::from(code) + 1]);
            let (quarter, half) = (low + (high - low) / 4.0, (low + high) / 2.0);
            // In the middle the even one is taken.
            x.extend([low, quarter, half, -half]);
            let even = code + code % 2;
            want.extend([code, code, even, even + 128]);
        }
        let got = to_fp8(&Array::from_slice(&x, [x.len()]).unwrap()).unwrap();
        assert_eq!(got.to_vec::<u8>().unwrap(), want);
    }
}
