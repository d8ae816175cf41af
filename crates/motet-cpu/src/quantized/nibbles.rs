//! A row of x times packed weights of four bits, where a register has sixteen lanes.
//!
//! A code chooses its value in a table of sixteen: that is one instruction for all lanes, which looks at
//! the lowest four bits alone. The codes come to the lanes by a broadcast of eight bytes, which leaves those of
//! the first four bytes to the even lanes: x is put into that order once.

use std::arch::x86_64::*;

use motet_core::kernel::QuantizationMode;

use super::codes::floats4;
use super::unpack::Rows;

/// Codes that are decoded together, and their bytes.
const UNIT: usize = 16;
const UNIT_BYTES: usize = 8;

/// How far ahead weights are asked for. From 1 KiB on it did not matter; without, those in memory came at
/// four fifths of the speed.
const AHEAD: usize = 2048;

/// The values of the codes of a format of 4 bits, scale and bias aside.
pub(super) fn values(mode: QuantizationMode) -> [f32; 16] {
    match mode {
        QuantizationMode::Affine => std::array::from_fn(|code| code as f32),
        _ => floats4(),
    }
}

/// `out[i]` is the product of `x` and row `i`, whose codes have these values.
#[target_feature(enable = "avx512f")]
pub(super) fn dots(x: &[f32], values: &[f32; 16], rows: Rows<'_>, out: &mut [f32]) {
    match x.len() / rows.groups.max(1) / UNIT {
        1 => dots_of::<1>(x, values, rows, out),
        2 => dots_of::<2>(x, values, rows, out),
        4 => dots_of::<4>(x, values, rows, out),
        _ => dots_of::<8>(x, values, rows, out),
    }
}

/// [`dots`] of groups of so many units.
#[target_feature(enable = "avx512f")]
fn dots_of<const UNITS: usize>(x: &[f32], values: &[f32; 16], rows: Rows<'_>, out: &mut [f32]) {
    let (units, _) = x.as_chunks::<UNIT>();
    let in_order = |x: &[f32; UNIT]| std::array::from_fn(|lane| x[lane % 2 * 8 + lane / 2]);
    let units: Vec<[f32; UNIT]> = units.iter().map(in_order).collect();
    let (groups, _) = units.as_chunks::<UNITS>();
    let x_sums: Vec<f32> = groups.iter().map(sum).collect();
    let shifts = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    // SAFETY: a register is as long as the array; so below.
    let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
    for (i, out) in out.iter_mut().enumerate() {
        let row = rows.row(i);
        let (bytes, _) = row.bytes.as_chunks::<UNIT_BYTES>();
        let (bytes, _) = bytes.as_chunks::<UNITS>();
        let mut total = _mm512_setzero_ps();
        for ((bytes, x), &scale) in bytes.iter().zip(groups).zip(row.scales) {
            let ahead = bytes.as_ptr().wrapping_byte_add(AHEAD);
            // SAFETY: asking for memory is no access.
            #[allow(unused_unsafe, reason = "a safe function in newer versions of Rust")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
            let mut sum = _mm512_setzero_ps();
            for (&bytes, x) in bytes.iter().zip(x) {
                let codes = _mm512_srlv_epi32(_mm512_set1_epi64(i64::from_le_bytes(bytes)), shifts);
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
                sum = _mm512_fmadd_ps(_mm512_permutexvar_ps(codes, values), x, sum);
            }
            total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), total);
        }
        // A lane for each group.
        for (biases, x_sums) in row.biases.chunks(16).zip(x_sums.chunks(16)) {
            let some = !0 >> (16 - biases.len().min(x_sums.len()));
            // SAFETY: what is read of both is there.
            total = unsafe {
                let biases = _mm512_maskz_loadu_ps(some, biases.as_ptr());
                let x_sums = _mm512_maskz_loadu_ps(some, x_sums.as_ptr());
                _mm512_fmadd_ps(biases, x_sums, total)
            };
        }
        *out = _mm512_reduce_add_ps(total);
    }
}

/// The sum of a group of x.
#[inline(always)]
fn sum<const UNITS: usize>(units: &[[f32; UNIT]; UNITS]) -> f32 {
    let mut sums = units[0];
    for unit in &units[1..] {
        for lane in 0..UNIT {
            sums[lane] += unit[lane];
        }
    }
    // Halves first.
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::unpack::Groups;
    use crate::simd::Simd;
    use crate::testing::noise;

    #[test]
    fn products_agree_with_sums_for_all_groups() {
        if Simd::detect() != Simd::Avx512 {
            return;
        }
        // As many groups as do not fill the registers.
        for (group_size, groups) in [(16, 1), (16, 33), (32, 7), (64, 19), (128, 16)] {
            let (k, n) = (group_size * groups, 5);
            let (x, values) = (noise(k, 1), noise(16, 2));
            let values: [f32; 16] = values.try_into().unwrap();
            let (scales, biases) = (noise(groups * n, 3), noise(groups * n, 4));
            let bytes: Vec<u8> = (0..k * n / 2).map(|i| ((i * 167) >> 3 ^ i) as u8).collect();
            for biases in [&biases[..], &[]] {
                let all = Groups {
                    bytes: &bytes,
                    scales: &scales,
                    biases,
                };
                let rows = Rows {
                    all,
                    bytes: k / 2,
                    byte_step: k / 2,
                    groups,
                };
                let mut out = vec![f32::NAN; n];
                // SAFETY: the processor was found to have AVX-512.
                unsafe { dots(&x, &values, rows, &mut out) };
                for (row, &got) in out.iter().enumerate() {
                    let term = |i: usize| {
                        let code = bytes[(row * k + i) / 2] >> (i % 2 * 4) & 15;
                        let group = row * groups + i / group_size;
                        let bias = biases.get(group).map_or(0.0, |&bias| f64::from(bias));
                        let w = f64::from(values[usize::from(code)]) * f64::from(scales[group]);
                        f64::from(x[i]) * (w + bias)
                    };
                    let (want, size) = (0..k).map(term).fold((0.0, 0.0), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-6 * size,
                        "{group_size} {groups} {row}: {got} {want}"
                    );
                }
            }
        }
    }
}
