//! Vectors of float32 in registers: one trait, and a type for each choice of instructions.
//!
//! Most kernels leave vectors to the compiler ([`leveled!`](crate::simd::leveled)). It neither keeps an
//! array in registers across a `match` nor finds all sums of a product a register, so such loops are
//! written with a [`Vector`]. `f32` is the vector of one that every processor has, an array is a vector of
//! vectors, and those of x86 and ARM are their registers.
//!
//! Registers are made only where their level was found ([`Simd`](crate::simd::Simd)), so their
//! operations are safe to call; what reads or writes memory is not.

use half::{bf16, f16};

use crate::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16};
use crate::simd::{Level, Portable};

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Some neighbouring float32. What an operation does with each is what `f32` does with one, to the
/// bit, but for [`mul_add`](Vector::mul_add).
pub(crate) trait Vector: Copy {
    /// How many.
    const WIDTH: usize;

    fn splat(value: f32) -> Self;
    /// # Safety
    /// `from` is readable for `WIDTH` elements. The same holds for the other loads.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// As [`load`](Vector::load).
    unsafe fn load_f16(from: *const f16) -> Self;
    /// # Safety
    /// As [`load`](Vector::load).
    unsafe fn load_bf16(from: *const bf16) -> Self;

    /// # Safety
    /// `to` is writable for `WIDTH` elements. The same holds for the other stores.
    unsafe fn store(self, to: *mut f32);
    /// Stores past the caches, where there is such a way. Other threads see it after [`fence`].
    ///
    /// # Safety
    /// As [`store`](Vector::store); `to` is aligned to 64 bytes.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { self.store(to) }
    }
    /// # Safety
    /// As [`store`](Vector::store).
    unsafe fn store_f16(self, to: *mut f16);
    /// # Safety
    /// As [`store`](Vector::store).
    unsafe fn store_bf16(self, to: *mut bf16);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + term`, as the [`Level`] of the vector computes it.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger, `other` of equals; NaN if either is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller, `other` of equals; NaN if either is NaN.
    fn min(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
}

/// Orders what was [streamed](Vector::stream) before whatever comes next.
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of the architecture has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

impl Vector for f32 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: by this function's contract.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> f32 {
        // SAFETY: by this function's contract.
        f16_to_f32(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> f32 {
        // SAFETY: by this function's contract.
        bf16_to_f32(unsafe { *from })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by this function's contract.
        unsafe { *to = self }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        // SAFETY: by this function's contract.
        unsafe { *to = f16::from_f32(self) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: by this function's contract.
        unsafe { *to = f32_to_bf16(self) }
    }

    #[inline(always)]
    fn add(self, other: f32) -> f32 {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: f32) -> f32 {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: f32) -> f32 {
        self * other
    }
    #[inline(always)]
    fn div(self, other: f32) -> f32 {
        self / other
    }
    #[inline(always)]
    fn mul_add(self, factor: f32, term: f32) -> f32 {
        Portable::mul_add(self, factor, term)
    }
    #[inline(always)]
    fn max(self, other: f32) -> f32 {
        if (self > other) | self.is_nan() {
            self
        } else {
            other
        }
    }
    #[inline(always)]
    fn min(self, other: f32) -> f32 {
        if (self < other) | self.is_nan() {
            self
        } else {
            other
        }
    }
    #[inline(always)]
    fn neg(self) -> f32 {
        -self
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
}

/// The operations of arrays: those of each element.
macro_rules! each {
    ($($name:ident($($argument:ident),*);)*) => {$(
        #[inline(always)]
        fn $name(self $(, $argument: Self)*) -> Self {
            std::array::from_fn(|i| self[i].$name($($argument[i]),*))
        }
    )*};
}

impl<V: Vector, const N: usize> Vector for [V; N] {
    const WIDTH: usize = N * V::WIDTH;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [V::splat(value); N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by this function's contract; so below.
        std::array::from_fn(|i| unsafe { V::load(from.add(i * V::WIDTH)) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe { V::load_f16(from.add(i * V::WIDTH)) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe { V::load_bf16(from.add(i * V::WIDTH)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, vector) in self.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vector.store(to.add(i * V::WIDTH)) }
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        for (i, vector) in self.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vector.store_f16(to.add(i * V::WIDTH)) }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        for (i, vector) in self.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vector.store_bf16(to.add(i * V::WIDTH)) }
        }
    }

    each! {
        add(other);
        sub(other);
        mul(other);
        div(other);
        mul_add(factor, term);
        max(other);
        min(other);
        neg();
        abs();
        sqrt();
    }
}

/// The operations that are one intrinsic. Each is called only where its level was found.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($($name:ident($($argument:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self $(, $argument: Self)*) -> Self {
            // SAFETY: such vectors are made only where the processor has the instructions.
            unsafe { $intrinsic(self $(, $argument)*) }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use intrinsics;
