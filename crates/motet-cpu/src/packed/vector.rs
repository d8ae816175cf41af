//! The vectors that products are computed in, one type for each choice of instructions.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array::from_fn;

/// Floats that one instruction works on.
///
/// The methods are unsafe for what they read and write, and because a type must be used only where
/// the processor has its instructions.
pub(super) trait Vector: Copy {
    /// The floats in a vector.
    const LANES: usize;
    /// The most rows of sums that fit into the registers, two vectors to a row.
    const ROWS: usize;

    /// A vector of one value.
    unsafe fn splat(value: f32) -> Self;
    /// The floats at an address.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes to an address.
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
}

/// What every processor has: the compiler makes vectors of it where it can.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Vector for Portable {
    const LANES: usize = 8;
    // Sixteen registers of four floats, or 32 where there are fused products.
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        use crate::simd::Level;
        Portable(from_fn(|i| {
            crate::simd::Portable::mul_add(self.0[i], b.0[i], c.0[i])
        }))
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Portable(from_fn(|i| self.0[i] + b.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($name:ident, $vector:ty, $lanes:literal, $rows:literal,
     $splat:ident, $load:ident, $store:ident, $mul_add:ident, $add:ident) => {
        /// Vectors of these instructions.
        #[derive(Clone, Copy)]
        pub(super) struct $name($vector);

        impl Vector for $name {
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: by the trait's contract the processor has the instruction.
                unsafe { $name($splat(value)) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: by the trait's contract.
                unsafe { $name($load(from)) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: by the trait's contract.
                unsafe { $store(to, self.0) }
            }

            #[inline(always)]
            unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: by the trait's contract the processor has the instruction.
                unsafe { $name($mul_add(self.0, b.0, c.0)) }
            }

            #[inline(always)]
            unsafe fn add(self, b: Self) -> Self {
                // SAFETY: by the trait's contract the processor has the instruction.
                unsafe { $name($add(self.0, b.0)) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86!(
    Avx2,
    __m256,
    8,
    6,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);

#[cfg(target_arch = "x86_64")]
x86!(
    Avx512,
    __m512,
    16,
    8,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
