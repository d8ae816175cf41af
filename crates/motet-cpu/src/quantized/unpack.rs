//! Unpacking: what packed codes are, in vectors of eight.
//!
//! [`Codes`] is a way of packing. Codes are read in units of 16 or 32, which never reach over the
//! end of a group and, but for those of single bits, are at least eight bytes.

use super::eight::{Eight, Lanes};
use crate::vector::Vector;

/// How values of one format are packed and what they are, scale and bias aside.
pub(super) trait Codes: 'static {
    /// Bits of a code.
    const BITS: usize;
    /// Codes that are read together.
    const UNIT: usize;
    /// Whether a group has a bias.
    const AFFINE: bool;
    /// Bytes of a unit.
    const UNIT_BYTES: usize = Self::UNIT * Self::BITS / 8;

    /// The values of the eight codes from byte `at` of a unit.
    fn decode<V: Eight>(unit: &[u8], at: usize) -> V;
}

/// Codes that are numbers.
pub(super) struct Integers<const BITS: usize>;

impl<const BITS: usize> Codes for Integers<BITS> {
    const BITS: usize = BITS;
    const UNIT: usize = 32;
    const AFFINE: bool = true;

    #[inline(always)]
    fn decode<V: Eight>(unit: &[u8], at: usize) -> V {
        V::integers(V::codes::<BITS>(unit, at))
    }
}

/// Codes that are 0 or 1.
pub(super) struct Bits;

impl Codes for Bits {
    const BITS: usize = 1;
    const UNIT: usize = 32;
    const AFFINE: bool = true;

    #[inline(always)]
    fn decode<V: Eight>(unit: &[u8], at: usize) -> V {
        V::integers(V::codes::<1>(&[unit[at], 0, 0, 0, 0, 0, 0, 0], 0))
    }
}

/// Codes that are 4-bit floats, in groups of at least `UNIT`.
pub(super) struct Floats4<const UNIT: usize>;

impl<const UNIT: usize> Codes for Floats4<UNIT> {
    const BITS: usize = 4;
    const UNIT: usize = UNIT;
    const AFFINE: bool = false;

    #[inline(always)]
    fn decode<V: Eight>(unit: &[u8], at: usize) -> V {
        V::floats4(V::codes::<4>(unit, at))
    }
}

/// Codes that are 8-bit floats.
pub(super) struct Floats8;

impl Codes for Floats8 {
    const BITS: usize = 8;
    const UNIT: usize = 32;
    const AFFINE: bool = false;

    #[inline(always)]
    fn decode<V: Eight>(unit: &[u8], at: usize) -> V {
        V::floats8(V::codes::<8>(unit, at))
    }
}

/// `with_codes!(quantization, C => expression)`: the expression with `C` the [`Codes`].
macro_rules! with_codes {
    ($quantization:expr, $C:ident => $body:expr) => {{
        use motet_core::kernel::QuantizationMode::*;
        use $crate::quantized::unpack::{Bits, Floats4, Floats8, Integers};
        macro_rules! with {
            ($type:ty) => {{
                type $C = $type;
                $body
            }};
        }
        match ($quantization.mode, $quantization.bits) {
            (Affine, 1) => with!(Bits),
            (Affine, 2) => with!(Integers<2>),
            (Affine, 3) => with!(Integers<3>),
            (Affine, 4) => with!(Integers<4>),
            (Affine, 5) => with!(Integers<5>),
            (Affine, 6) => with!(Integers<6>),
            (Affine, _) => with!(Integers<8>),
            (Mxfp4, _) => with!(Floats4<32>),
            (Nvfp4, _) => with!(Floats4<16>),
            (Mxfp8, _) => with!(Floats8),
        }
    }};
}
pub(super) use with_codes;

/// The values of codes `8 * index` to `8 * index + 7` of a unit.
#[inline(always)]
pub(super) fn eight<C: Codes, V: Eight>(unit: &[u8], index: usize) -> V {
    C::decode(&unit[..C::UNIT_BYTES], index * C::BITS)
}

/// Groups that follow each other in a row: their codes, and a scale and a bias for each, but no
/// biases where the format has none.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    pub bytes: &'a [u8],
    pub scales: &'a [f32],
    pub biases: &'a [f32],
}

/// The same columns of some packed rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first code to the last; the scales and biases of a row are next to the next row's.
    pub all: Groups<'a>,
    /// Bytes of these columns in a row.
    pub bytes: usize,
    /// Bytes from a row to the next.
    pub byte_step: usize,
    /// Groups of these columns in a row.
    pub groups: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Groups<'a> {
        let (start, all) = (row * self.groups, self.all);
        let biases = all.biases.get(start..start + self.groups);
        Groups {
            bytes: &all.bytes[row * self.byte_step..][..self.bytes],
            scales: &all.scales[start..][..self.groups],
            biases: biases.unwrap_or_default(),
        }
    }
}

/// The values of rows of `width`, one after the other.
#[inline(always)]
pub(super) fn unpack<L: Lanes, C: Codes>(rows: Rows<'_>, width: usize, to: &mut [f32]) {
    let group_size = width / rows.groups.max(1);
    for (i, to) in to.chunks_exact_mut(width.max(1)).enumerate() {
        let row = rows.row(i);
        let units = row.bytes.chunks_exact(C::UNIT_BYTES);
        for (i, (unit, to)) in units.zip(to.chunks_exact_mut(C::UNIT)).enumerate() {
            let group = i * C::UNIT / group_size;
            let scale = L::Eight::splat(row.scales[group]);
            let (eights, _) = to.as_chunks_mut::<8>();
            for (i, to) in eights.iter_mut().enumerate() {
                let mut values = eight::<C, L::Eight>(unit, i).mul(scale);
                if C::AFFINE {
                    values = values.add(L::Eight::splat(row.biases[group]));
                }
                values.write(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use motet_core::kernel::Quantization;

    use super::*;
    use crate::simd::{Simd, leveled};
    use crate::testing::noise;

    #[test]
    fn all_instructions_unpack_the_same_bits() {
        for q in crate::quantized::tests::all() {
            let Quantization {
                group_size, bits, ..
            } = q;
            // Every code of 8 bits and all neighbours of smaller ones occur.
            let bytes: Vec<u8> = (0..1024 * bits)
                .map(|i| ((i * 167) >> 3 ^ i) as u8)
                .collect();
            let len = bytes.len() * 8 / bits;
            let (scales, biases) = (noise(len / group_size, 1), noise(len / group_size, 2));
            let unpacked = |simd: Simd| {
                let mut to = vec![0.0; len];
                let rows = Rows {
                    all: Groups {
                        bytes: &bytes,
                        scales: &scales,
                        biases: &biases,
                    },
                    bytes: bytes.len(),
                    byte_step: bytes.len(),
                    groups: scales.len(),
                };
                let all = &mut to[..];
                with_codes!(q, C => leveled!(simd, unpack<S: Codes = C>(
                    rows: Rows<'_>, len: usize, all: &mut [f32]
                )));
                to.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let portable = unpacked(Simd::Portable);
            let others = Simd::all().into_iter().flat_map(unpacked);
            for (i, (b, &a)) in others.zip(portable.iter().cycle()).enumerate() {
                let both_nan = f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan();
                assert!(a == b || both_nan, "{q:?} {i}: {a:x} {b:x}");
            }
        }
    }
}
