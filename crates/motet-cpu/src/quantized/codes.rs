//! Codes: how they are packed, what they mean, and how a group of numbers becomes codes.

use motet_core::kernel::QuantizationMode;

use super::eight::{float4, float8};

/// Packs codes of `bits` bits.
pub(super) fn pack_bits(bits: usize, codes: &[u8], bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(8).zip(bytes.chunks_exact_mut(bits)) {
        let word = codes
            .iter()
            .rev()
            .fold(0u64, |word, &code| word << bits | u64::from(code));
        bytes.copy_from_slice(&word.to_le_bytes()[..bits]);
    }
}

/// The values of codes of 4 bits.
pub(super) fn floats4() -> [f32; 16] {
    std::array::from_fn(|code| float4(code as u32))
}

pub(super) fn decode_scale(code: u8, mode: QuantizationMode) -> f32 {
    match (mode, code) {
        (QuantizationMode::Nvfp4, _) => float8(code.into()),
        // 2^-127 is subnormal.
        (_, 0) => f32::from_bits(1 << 22),
        (_, code) => f32::from_bits(u32::from(code) << 23),
    }
}

/// Codes of a group, its scale and its bias.
pub(super) fn quantize_affine(bits: usize, values: &[f32], codes: &mut [u8]) -> (f32, f32) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let last = ((1u32 << bits) - 1) as f32;
    let mut scale = ((high - low) / last).max(1e-7);
    if bits == 1 {
        // Both edges are represented exactly.
        encode(values, scale, low, last, codes);
        return (scale, low);
    }
    // The edge that is further from zero is represented exactly, and so is zero.
    let edge = if low.abs() > high.abs() {
        low
    } else {
        scale = -scale;
        high
    };
    let steps = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if steps != 0.0 {
        scale = edge / steps;
        bias = edge;
    }
    encode(values, scale, bias, last, codes);
    (scale, bias)
}

fn encode(values: &[f32], scale: f32, bias: f32, last: f32, codes: &mut [u8]) {
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((value - bias) / scale).round_ties_even().clamp(0.0, last) as u8;
    }
}

/// Codes of a group and the code of its scale.
pub(super) fn quantize_float(
    mode: QuantizationMode,
    table: &[f32],
    values: &[f32],
    codes: &mut [u8],
) -> u8 {
    let largest = values.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    let scale = largest
        / if mode == QuantizationMode::Mxfp8 {
            448.0
        } else {
            6.0
        };
    let scale_code = match mode {
        QuantizationMode::Nvfp4 => to_e4m3(scale),
        _ if scale == 0.0 => 127,
        _ => {
            let exponent = scale.log2().round();
            let exponent = if exponent.exp2() < scale {
                exponent + 1.0
            } else {
                exponent
            };
            (exponent.clamp(-127.0, 127.0) + 127.0) as u8
        }
    };
    let scale = decode_scale(scale_code, mode);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = match mode {
            QuantizationMode::Mxfp8 => to_e4m3(value / scale),
            _ => nearest(table, value / scale),
        };
    }
    scale_code
}

/// The first code whose value is nearest; 0 for what is near none.
fn nearest(table: &[f32], value: f32) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (code, &candidate) in table.iter().enumerate() {
        let distance = (value - candidate).abs();
        if distance < best.0 {
            best = (distance, code as u8);
        }
    }
    best.1
}

/// The nearest 8-bit float: the even code on ties, the largest beyond it.
pub(super) fn to_e4m3(value: f32) -> u8 {
    let size = value.abs().min(448.0);
    let code = if size < 1.0 / 64.0 {
        (size * 512.0).round_ties_even() as u32
    } else {
        // Of a float32's mantissa 20 bits are dropped; its exponent is 120 larger.
        let bits = size.to_bits();
        ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3)
    };
    code as u8 | u8::from(value.is_sign_negative()) << 7
}
