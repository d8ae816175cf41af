//! The vectors of x86: eight float32 of AVX2, and sixteen of AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Vector, intrinsics};

/// Of AVX2, with FMA and F16C.
impl Vector for __m256 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn splat(value: f32) -> __m256 {
        // SAFETY: such vectors are made only where the processor has the instructions.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { _mm256_stream_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        // SAFETY: by this function's contract.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self);
            _mm_storeu_si128(to.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: by this function's contract. As in `f32_to_bf16`.
        unsafe {
            let bits = _mm256_castps_si256(self);
            let high = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
            let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self, self));
            let chosen = _mm256_blendv_epi8(rounded, quiet, nan);
            let (low, high) = (
                _mm256_castsi256_si128(chosen),
                _mm256_extracti128_si256::<1>(chosen),
            );
            _mm_storeu_si128(to.cast(), _mm_packus_epi32(low, high));
        }
    }

    intrinsics! {
        add(other) = _mm256_add_ps;
        sub(other) = _mm256_sub_ps;
        mul(other) = _mm256_mul_ps;
        div(other) = _mm256_div_ps;
        mul_add(factor, term) = _mm256_fmadd_ps;
        sqrt() = _mm256_sqrt_ps;
    }

    #[inline(always)]
    fn max(self, other: __m256) -> __m256 {
        // SAFETY: such vectors are made only where the processor has the instructions.
        unsafe {
            // The instruction gives `other` where either is NaN.
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self);
            _mm256_blendv_ps(_mm256_max_ps(self, other), self, nan)
        }
    }
    #[inline(always)]
    fn min(self, other: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self);
            _mm256_blendv_ps(_mm256_min_ps(self, other), self, nan)
        }
    }
    #[inline(always)]
    fn neg(self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_xor_ps(self, _mm256_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn abs(self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self) }
    }
}

/// Of AVX-512, with F and DQ.
impl Vector for __m512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        // SAFETY: such vectors are made only where the processor has the instructions.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { _mm512_stream_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        // SAFETY: by this function's contract.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self);
            _mm256_storeu_si256(to.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: by this function's contract. As in `f32_to_bf16`.
        unsafe {
            let bits = _mm512_castps_si512(self);
            let high = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
            let quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            let chosen = _mm512_mask_mov_epi32(rounded, nan, quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(chosen));
        }
    }

    intrinsics! {
        add(other) = _mm512_add_ps;
        sub(other) = _mm512_sub_ps;
        mul(other) = _mm512_mul_ps;
        div(other) = _mm512_div_ps;
        mul_add(factor, term) = _mm512_fmadd_ps;
        sqrt() = _mm512_sqrt_ps;
        abs() = _mm512_abs_ps;
    }

    #[inline(always)]
    fn max(self, other: __m512) -> __m512 {
        // SAFETY: such vectors are made only where the processor has the instructions.
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            _mm512_mask_mov_ps(_mm512_max_ps(self, other), nan, self)
        }
    }
    #[inline(always)]
    fn min(self, other: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            _mm512_mask_mov_ps(_mm512_min_ps(self, other), nan, self)
        }
    }
    #[inline(always)]
    fn neg(self) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_xor_ps(self, _mm512_set1_ps(-0.0)) }
    }
}
