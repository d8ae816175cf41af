//! The vector of ARM: four float32 in a register, which every processor of 64 bits has.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{Vector, intrinsics};

impl Vector for float32x4_t {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: every processor of the architecture has the instruction; so below.
        unsafe { vdupq_n_f32(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by this function's contract.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        let wide: float32x4_t;
        // The intrinsic is not stable yet.
        // SAFETY: by this function's contract; the instruction does nothing else.
        unsafe {
            asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                half = in(vreg) vld1_u16(from.cast()),
                wide = lateout(vreg) wide,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        wide
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: by this function's contract.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { vst1q_f32(to, self) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        let half: uint16x4_t;
        // SAFETY: as in `load_f16`.
        unsafe {
            asm!(
                "fcvtn {half:v}.4h, {wide:v}.4s",
                wide = in(vreg) self,
                half = lateout(vreg) half,
                options(pure, nomem, nostack, preserves_flags)
            );
            vst1_u16(to.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: by this function's contract. As in `f32_to_bf16`.
        unsafe {
            let bits = vreinterpretq_u32_f32(self);
            let high = vshrq_n_u32::<16>(bits);
            let odd = vandq_u32(high, vdupq_n_u32(1));
            let bias = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            let rounded = vshrq_n_u32::<16>(vaddq_u32(bits, bias));
            let quiet = vorrq_u32(high, vdupq_n_u32(0x40));
            let chosen = vbslq_u32(vceqq_f32(self, self), rounded, quiet);
            vst1_u16(to.cast(), vmovn_u32(chosen));
        }
    }

    intrinsics! {
        add(other) = vaddq_f32;
        sub(other) = vsubq_f32;
        mul(other) = vmulq_f32;
        div(other) = vdivq_f32;
        sqrt() = vsqrtq_f32;
        neg() = vnegq_f32;
        abs() = vabsq_f32;
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        unsafe { vfmaq_f32(term, self, factor) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let keep = vorrq_u32(vcgtq_f32(self, other), vmvnq_u32(vceqq_f32(self, self)));
            vbslq_f32(keep, self, other)
        }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let keep = vorrq_u32(vcltq_f32(self, other), vmvnq_u32(vceqq_f32(self, self)));
            vbslq_f32(keep, self, other)
        }
    }
}
