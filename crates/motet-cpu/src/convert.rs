//! Conversions between half types and float32, without branches so that loops vectorise.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The float32 of a float16.
#[inline(always)]
pub(crate) fn f16_to_f32(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // Moving the exponent is a product by 2^112, which normalises subnormals too; infinity and
    // NaN keep their exponent of ones.
    let finite = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = magnitude >= 0x0f80_0000;
    let finite = if special {
        magnitude | 0x7f80_0000
    } else {
        finite.to_bits()
    };
    f32::from_bits(finite | (bits & 0x8000) << 16)
}

/// The float32 of a bfloat16.
#[inline(always)]
pub(crate) fn bf16_to_f32(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// The nearest bfloat16, to even on ties.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    bf16::from_bits(if value.is_nan() { quiet_nan } else { rounded } as u16)
}

/// A type that is computed in float32.
pub(crate) trait Float32Like: motet_core::dtype::Element {
    /// The elements as float32.
    fn widen(from: &[Self], to: &mut [f32]);
    /// The elements nearest to float32 values.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Float32Like for f32 {
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Float32Like for f16 {
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Float32Like for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        to.iter_mut()
            .zip(from)
            .for_each(|(to, &from)| *to = bf16_to_f32(from));
    }
    fn narrow(from: &[f32], to: &mut [bf16]) {
        to.iter_mut()
            .zip(from)
            .for_each(|(to, &from)| *to = f32_to_bf16(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (a, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
            assert!(same(f16_to_f32(a), a.to_f32()), "{bits:x}");
            assert!(same(bf16_to_f32(b), b.to_f32()), "{bits:x}");
        }
    }

    #[test]
    fn bfloat16_rounds_to_even() {
        for i in 0..1u32 << 20 {
            let value = f32::from_bits(i << 12 | (i & 0xfff));
            let (ours, theirs) = (f32_to_bf16(value), bf16::from_f32(value));
            assert!(
                ours == theirs || (ours.is_nan() && theirs.is_nan()),
                "{value}"
            );
        }
    }
}
