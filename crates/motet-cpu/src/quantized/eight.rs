//! Eight float32 side by side, and how packed codes come into them.
//!
//! Eight codes are whole bytes, whatever their bits. Compilers do not find the shuffles that spread them over
//! lanes, so for x86 and ARM they are written out; the portable vector is an array.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::{Level, Portable};
use crate::vector::Vector;

/// A choice of instructions with its vector of eight.
pub(super) trait Lanes: Level {
    type Eight: Eight;
}

impl Lanes for Portable {
    type Eight = [f32; 8];
}

#[cfg(target_arch = "aarch64")]
impl Lanes for crate::simd::Neon {
    type Eight = [float32x4_t; 2];
}

#[cfg(target_arch = "x86_64")]
impl Lanes for crate::simd::Avx2 {
    type Eight = __m256;
}

#[cfg(target_arch = "x86_64")]
impl Lanes for crate::simd::Avx512 {
    type Eight = __m256;
}

/// Eight float32.
pub(super) trait Eight: Vector {
    /// Eight codes, each in the low bits of its lane.
    type Codes: Copy;

    /// Eight codes of `BITS` bits that follow each other from byte `at`, of at least eight bytes.
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> Self::Codes;
    /// The codes as numbers.
    fn integers(codes: Self::Codes) -> Self;
    /// The values of 4-bit floats: a sign, 2 bits of exponent, 1 of mantissa.
    fn floats4(codes: Self::Codes) -> Self;
    /// The values of 8-bit floats: a sign, 4 bits of exponent, 3 of mantissa.
    fn floats8(codes: Self::Codes) -> Self;

    #[inline(always)]
    fn read(values: &[f32; 8]) -> Self {
        const { assert!(Self::WIDTH == 8) };
        // SAFETY: the array has as many.
        unsafe { Self::load(values.as_ptr()) }
    }
    #[inline(always)]
    fn write(self, to: &mut [f32; 8]) {
        const { assert!(Self::WIDTH == 8) };
        // SAFETY: the array has as many.
        unsafe { self.store(to.as_mut_ptr()) }
    }
    /// The sum of the lanes, halves first.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        self.write(&mut lanes);
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

impl Eight for [f32; 8] {
    type Codes = [u32; 8];

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

/// How lanes get their codes: which bytes of a word they take (one or two), and how far the code
/// is from the lowest bit then.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Spread<const BITS: usize>;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
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
impl Eight for __m256 {
    type Codes = __m256i;

    #[inline(always)]
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> __m256i {
        // SAFETY: such vectors are made only where the processor has the instructions, so below; the
        // tables are as long as the register.
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
        unsafe { _mm256_cvtepi32_ps(codes) }
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
            _mm256_or_ps(magnitude, sign)
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
            _mm256_or_ps(value, _mm256_castsi256_ps(sign))
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Eight for [float32x4_t; 2] {
    type Codes = [uint32x4_t; 2];

    #[inline(always)]
    fn codes<const BITS: usize>(bytes: &[u8], at: usize) -> [uint32x4_t; 2] {
        let (word, skip) = word(bytes, at);
        let (bytes, shifts) = (&Spread::<BITS>::BYTES[skip], &Spread::<BITS>::SHIFTS);
        // SAFETY: every processor of the architecture has the instructions, so below; each table has
        // half of its elements in each register.
        std::array::from_fn(|i| unsafe {
            let word = vreinterpretq_u8_u64(vdupq_n_u64(word));
            let lanes = vqtbl1q_u8(word, vld1q_u8(bytes[16 * i..].as_ptr()));
            let right = vnegq_s32(vreinterpretq_s32_u32(vld1q_u32(shifts[4 * i..].as_ptr())));
            let shifted = vshlq_u32(vreinterpretq_u32_u8(lanes), right);
            vandq_u32(shifted, vdupq_n_u32((1 << BITS) - 1))
        })
    }
    #[inline(always)]
    fn integers(codes: [uint32x4_t; 2]) -> Self {
        // SAFETY: as above.
        codes.map(|codes| unsafe { vcvtq_f32_u32(codes) })
    }
    #[inline(always)]
    fn floats4(codes: [uint32x4_t; 2]) -> Self {
        const TWICE: [u8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: as above; the table is as long as a register.
        codes.map(|codes| unsafe {
            let magnitude = vreinterpretq_u8_u32(vandq_u32(codes, vdupq_n_u32(7)));
            let twice = vqtbl1q_u8(vld1q_u8(TWICE.as_ptr()), magnitude);
            let value = vmulq_n_f32(vcvtq_f32_u32(vreinterpretq_u32_u8(twice)), 0.5);
            let sign = vshlq_n_u32::<28>(vandq_u32(codes, vdupq_n_u32(8)));
            vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign))
        })
    }
    #[inline(always)]
    fn floats8(codes: [uint32x4_t; 2]) -> Self {
        // SAFETY: as above.
        codes.map(|codes| unsafe {
            let magnitude = vandq_u32(codes, vdupq_n_u32(0x7f));
            let normal = vaddq_u32(vshlq_n_u32::<20>(magnitude), vdupq_n_u32(FLOAT8_BIAS));
            let subnormal = vmulq_n_f32(vcvtq_f32_u32(magnitude), FLOAT8_STEP);
            let is_subnormal = vcltq_u32(magnitude, vdupq_n_u32(FLOAT8_NORMAL));
            let is_nan = vceqq_u32(magnitude, vdupq_n_u32(FLOAT8_NAN));
            let value = vbslq_u32(is_subnormal, vreinterpretq_u32_f32(subnormal), normal);
            let sign = vshlq_n_u32::<24>(vandq_u32(codes, vdupq_n_u32(0x80)));
            // All bits set are a NaN.
            vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(value, is_nan), sign))
        })
    }
}
