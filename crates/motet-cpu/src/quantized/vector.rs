//! Eight float32 side by side, and how packed codes come into them.
//!
//! [`Lanes`] gives the vector of each choice of instructions. Compilers do not find the shuffles
//! that spread codes over lanes, so for x86 they are written out; the portable vector is an array.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::{Level, Portable};

/// A choice of instructions with its vector.
pub(super) trait Lanes: Level {
    type Vector: Vector;
}

impl Lanes for Portable {
    type Vector = [f32; 8];
}

#[cfg(target_arch = "x86_64")]
impl Lanes for crate::simd::Avx2 {
    type Vector = Avx;
}

#[cfg(target_arch = "x86_64")]
impl Lanes for crate::simd::Avx512 {
    type Vector = Avx;
}

/// Eight float32.
pub(super) trait Vector: Copy {
    /// Eight codes, each in the low bits of its lane.
    type Codes: Copy;

    fn splat(value: f32) -> Self;
    fn load(values: &[f32; 8]) -> Self;
    fn store(self, to: &mut [f32; 8]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + term`.
    fn mul_add<L: Level>(self, factor: Self, term: Self) -> Self;

    /// Eight codes of `BITS` bits that follow each other from byte `at`, of at least eight bytes.
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> Self::Codes;
    /// The codes as numbers.
    fn integers(codes: Self::Codes) -> Self;
    /// The values of 4-bit floats: a sign, 2 bits of exponent, 1 of mantissa.
    fn floats4(codes: Self::Codes) -> Self;
    /// The values of 8-bit floats: a sign, 4 bits of exponent, 3 of mantissa.
    fn floats8(codes: Self::Codes) -> Self;

    /// The sum of the lanes, halves first.
    fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        let quarters: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
        (quarters[0] + quarters[2]) + (quarters[1] + quarters[3])
    }
}

/// Twice the magnitudes of 4-bit floats, 4 bits each.
const TWICE_FLOATS4: u32 = 0xc864_3210;
/// Makes the exponent of an 8-bit float that of a float32.
const FLOAT8_BIAS: u32 = 120 << 23;
/// Codes below this are subnormal: multiples of [`FLOAT8_STEP`].
const FLOAT8_NORMAL: u32 = 8;
const FLOAT8_STEP: f32 = 1.0 / 512.0;
const FLOAT8_NAN: u32 = 0x7f;

/// The value of a 4-bit float.
#[inline(always)]
pub(super) fn float4(code: u32) -> f32 {
    let twice = TWICE_FLOATS4 >> ((code & 7) * 4) & 15;
    f32::from_bits((twice as i32 as f32 * 0.5).to_bits() | (code & 8) << 28)
}

/// The value of an 8-bit float.
#[inline(always)]
pub(super) fn float8(code: u32) -> f32 {
    let magnitude = code & 0x7f;
    let normal = f32::from_bits((magnitude << 20) + FLOAT8_BIAS);
    let subnormal = magnitude as i32 as f32 * FLOAT8_STEP;
    let value = if magnitude < FLOAT8_NORMAL {
        subnormal
    } else {
        normal
    };
    let value = if magnitude == FLOAT8_NAN {
        f32::NAN
    } else {
        value
    };
    f32::from_bits(value.to_bits() | (code & 0x80) << 24)
}

/// Eight bytes with as many from `at` on as there are, and how many of the eight are before `at`.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> (u64, usize) {
    let start = at.min(bytes.len() - 8);
    let word = bytes[start..start + 8].try_into().expect("eight bytes");
    (u64::from_le_bytes(word), at - start)
}

impl Vector for [f32; 8] {
    type Codes = [u32; 8];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 8]
    }
    #[inline(always)]
    fn load(values: &[f32; 8]) -> Self {
        *values
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 8]) {
        *to = self;
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }
    #[inline(always)]
    fn mul_add<L: Level>(self, factor: Self, term: Self) -> Self {
        std::array::from_fn(|i| L::mul_add(self[i], factor[i], term[i]))
    }
    #[inline(always)]
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> [u32; 8] {
        let (word, skip) = word(bytes, at);
        let word = word >> (8 * skip);
        std::array::from_fn(|i| (word >> (i * BITS)) as u32 & ((1 << BITS) - 1))
    }
    #[inline(always)]
    fn integers(codes: [u32; 8]) -> Self {
        codes.map(|code| code as i32 as f32)
    }
    #[inline(always)]
    fn floats4(codes: [u32; 8]) -> Self {
        codes.map(float4)
    }
    #[inline(always)]
    fn floats8(codes: [u32; 8]) -> Self {
        codes.map(float8)
    }
}

/// Eight float32 in a register, where the processor has AVX2 and FMA: nothing else makes one than
/// code that [`leveled!`](crate::simd::leveled) compiled for them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx(__m256);

/// How lanes get their codes: which bytes of a word they take (one or two), and how far the code
/// is from the lowest bit then.
#[cfg(target_arch = "x86_64")]
struct Spread<const BITS: usize>;

#[cfg(target_arch = "x86_64")]
impl<const BITS: usize> Spread<BITS> {
    /// For each number of bytes that are skipped, the bytes of each lane; 0x80 makes a zero.
    const BYTES: [[u8; 32]; 8] = {
        let mut tables = [[0x80; 32]; 8];
        let mut entry = 0;
        while entry < 64 {
            let (skip, lane) = (entry / 8, entry % 8);
            let first = skip + lane * BITS / 8;
            tables[skip][4 * lane] = first as u8;
            if first < 7 {
                tables[skip][4 * lane + 1] = first as u8 + 1;
            }
            entry += 1;
        }
        tables
    };
    const SHIFTS: [u32; 8] = {
        let mut shifts = [0; 8];
        let mut lane = 0;
        while lane < 8 {
            shifts[lane] = (lane * BITS % 8) as u32;
            lane += 1;
        }
        shifts
    };
}

#[cfg(target_arch = "x86_64")]
impl Vector for Avx {
    type Codes = __m256i;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: an `Avx` is used only where the processor has these instructions; so below.
        Avx(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32; 8]) -> Self {
        // SAFETY: as above; the array is as long as the register.
        Avx(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 8]) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add<L: Level>(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> __m256i {
        // SAFETY: as above; the tables are as long as the register.
        unsafe {
            let mask = _mm256_set1_epi32((1 << BITS) - 1);
            let shifted = if BITS == 4 {
                let word = bytes[at..at + 4].try_into().expect("four bytes");
                let lanes = _mm256_set1_epi32(i32::from_le_bytes(word));
                _mm256_srlv_epi32(lanes, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28))
            } else {
                let (word, skip) = word(bytes, at);
                let bytes = _mm256_loadu_si256(Spread::<BITS>::BYTES[skip].as_ptr().cast());
                let lanes = _mm256_shuffle_epi8(_mm256_set1_epi64x(word as i64), bytes);
                let shifts = _mm256_loadu_si256(Spread::<BITS>::SHIFTS.as_ptr().cast());
                _mm256_srlv_epi32(lanes, shifts)
            };
            _mm256_and_si256(shifted, mask)
        }
    }
    #[inline(always)]
    fn integers(codes: __m256i) -> Self {
        // SAFETY: as above.
        Avx(unsafe { _mm256_cvtepi32_ps(codes) })
    }
    #[inline(always)]
    fn floats4(codes: __m256i) -> Self {
        // SAFETY: as above.
        unsafe {
            let table = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
            // The lowest three bits of the codes choose.
            let magnitude = _mm256_permutevar8x32_ps(table, codes);
            let sign = _mm256_slli_epi32::<28>(codes);
            let sign = _mm256_and_ps(_mm256_castsi256_ps(sign), _mm256_set1_ps(-0.0));
            Avx(_mm256_or_ps(magnitude, sign))
        }
    }
    #[inline(always)]
    fn floats8(codes: __m256i) -> Self {
        let all = |bits: u32| {
            // SAFETY: as above.
            unsafe { _mm256_set1_epi32(bits as i32) }
        };
        // SAFETY: as above.
        unsafe {
            let magnitude = _mm256_and_si256(codes, all(0x7f));
            let normal = _mm256_add_epi32(_mm256_slli_epi32::<20>(magnitude), all(FLOAT8_BIAS));
            let steps = _mm256_cvtepi32_ps(magnitude);
            let subnormal = _mm256_mul_ps(steps, _mm256_set1_ps(FLOAT8_STEP));
            let is_subnormal = _mm256_cmpgt_epi32(all(FLOAT8_NORMAL), magnitude);
            let is_nan = _mm256_cmpeq_epi32(magnitude, all(FLOAT8_NAN));
            let value = _mm256_blendv_ps(
                _mm256_castsi256_ps(normal),
                subnormal,
                _mm256_castsi256_ps(is_subnormal),
            );
            // All bits set are a NaN.
            let value = _mm256_or_ps(value, _mm256_castsi256_ps(is_nan));
            let sign = _mm256_slli_epi32::<24>(_mm256_andnot_si256(all(0x7f), codes));
            Avx(_mm256_or_ps(value, _mm256_castsi256_ps(sign)))
        }
    }
}
