//! The plain forms of Quantize: packing values to words, and unpacking them.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::QuantizationMode;
use motet_core::ops::quantized::Quantize;

use crate::ops::{
    abs, add, arange, argmin, bitwise_and, clip, divide, equal, expand_dims, flatten, fp8_value,
    keepdims, left_shift, less, log2, max, multiply, power, right_shift, round, squeeze, subtract,
    sum, take, to_fp8, unflatten, view, where_,
};

/// The values of codes of 4 bits.
const FP4: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The values of codes of 8 bits.
fn fp8() -> [f32; 256] {
    std::array::from_fn(|code| fp8_value(code as u8))
}

/// The values of the codes of scales.
fn scales(mode: QuantizationMode) -> [f32; 256] {
    match mode {
        QuantizationMode::Nvfp4 => fp8(),
        // An exponent; that of subnormal numbers is one larger.
        _ => std::array::from_fn(|code| match code {
            0 => f32::MIN_POSITIVE / 2.0,
            _ => f32::from_bits((code as u32) << 23),
        }),
    }
}

fn look_up(values: &[f32], codes: &Array) -> Result<Array> {
    take(&Array::from_slice(values, [values.len()])?, codes, 0)
}

pub(super) fn unpack(
    op: &Quantize,
    w: &Array,
    scale_codes: &Array,
    biases: Option<&Array>,
) -> Result<Array> {
    let mode = op.quantization.mode;
    let [group_size, bits] = [op.quantization.group_size, op.quantization.bits].map(|n| n as i32);
    // Words to single bits, and those to codes, whatever their number of bits.
    let single = right_shift(expand_dims(w, -1)?, arange(0, 32, 1, Dtype::Uint32)?)?;
    let single = flatten(&bitwise_and(single, 1)?, -2, -1)?;
    let single = unflatten(&single, -1, [-1, bits])?;
    let codes = sum(&left_shift(single, arange(0, bits, 1, Dtype::Uint32)?)?, -1)?;
    let codes = unflatten(&codes, -1, [-1, group_size])?;
    let scale_codes = expand_dims(scale_codes, -1)?;
    let values = match biases {
        Some(biases) => {
            let scaled = multiply(astype(&codes, Dtype::Float32)?, scale_codes)?;
            add(scaled, expand_dims(biases, -1)?)?
        }
        None => {
            let values = match mode {
                QuantizationMode::Mxfp8 => look_up(&fp8(), &codes)?,
                _ => look_up(&FP4, &codes)?,
            };
            multiply(values, look_up(&scales(mode), &scale_codes)?)?
        }
    };
    flatten(&values, -2, -1)
}

pub(super) fn pack(op: &Quantize, x: &Array) -> Result<Vec<Array>> {
    let mode = op.quantization.mode;
    let groups = unflatten(x, -1, [-1, op.quantization.group_size as i32])?;
    let groups = astype(&groups, Dtype::Float32)?;
    let top = match mode {
        QuantizationMode::Mxfp8 => 448.0,
        _ => 6.0,
    };
    let scale = divide(max(&abs(&groups)?, keepdims(-1))?, top)?;
    let scale_codes = match mode {
        QuantizationMode::Nvfp4 => to_fp8(&scale)?,
        _ => {
            // The power of two that is not less.
            let exponent = round(log2(&scale)?, 0)?;
            let is_less = less(power(2.0, &exponent)?, &scale)?;
            let exponent = add(exponent, astype(&is_less, Dtype::Float32)?)?;
            let exponent = clip(&exponent, -127.0, 127.0)?;
            let exponent = where_(&equal(&scale, 0.0)?, 0.0, &exponent)?;
            astype(&add(exponent, 127.0)?, Dtype::Uint8)?
        }
    };
    let scaled = divide(groups, look_up(&scales(mode), &scale_codes)?)?;
    let words = match mode {
        QuantizationMode::Mxfp8 => view(&flatten(&to_fp8(&scaled)?, -2, -1)?, Dtype::Uint32)?,
        _ => {
            let values = Array::from_slice(&FP4, [FP4.len()])?;
            let distances = abs(&subtract(expand_dims(&scaled, -1)?, values)?)?;
            let codes = flatten(&argmin(&distances, -1)?, -2, -1)?;
            let codes = unflatten(&codes, -1, [-1, 8])?;
            sum(&left_shift(codes, arange(0, 32, 4, Dtype::Uint32)?)?, -1)?
        }
    };
    Ok(vec![words, squeeze(&scale_codes, -1)?])
}
