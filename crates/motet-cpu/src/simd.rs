//! Which instructions the processor has, and how kernels are compiled for each choice.
//!
//! [`leveled!`] compiles one generic body for each level: for every processor, for those with AVX2,
//! FMA and F16C, and for those with AVX-512; on ARM for NEON. [`Simd`] says at run time which of them may be
//! called. Tests go through [`Simd::all`].

use crate::vector::Vector;

/// A choice of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simd {
    /// What the compiler makes of loops for every processor of the architecture.
    #[cfg_attr(
        target_arch = "aarch64",
        allow(dead_code, reason = "for tests, as all have NEON")
    )]
    Portable,
    /// NEON, which every processor of the architecture has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What [`Simd::Avx2`] has, and AVX-512 with its F, VL, BW and DQ parts.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// The best that this processor has.
    pub(crate) fn detect() -> Simd {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                let wide = has!("avx512f") && has!("avx512vl");
                let wide = wide && has!("avx512bw") && has!("avx512dq");
                return if wide { Simd::Avx512 } else { Simd::Avx2 };
            }
        }
        #[cfg(target_arch = "aarch64")]
        let least = Simd::Neon;
        #[cfg(not(target_arch = "aarch64"))]
        let least = Simd::Portable;
        least
    }

    /// How many float32 its vectors have.
    pub(crate) fn width(self) -> usize {
        #[inline(always)]
        fn body<L: Level>() -> usize {
            L::Vector::WIDTH
        }
        leveled!(self, body() -> usize)
    }

    /// All that this processor has, the best last.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Simd> {
        match Simd::detect() {
            Simd::Portable => vec![Simd::Portable],
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => vec![Simd::Portable, Simd::Neon],
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => vec![Simd::Portable, Simd::Avx2],
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => vec![Simd::Portable, Simd::Avx2, Simd::Avx512],
        }
    }
}

/// A choice of instructions: its vector, and how it computes `a * b + c`.
pub(crate) trait Level: 'static {
    type Vector: Vector;
    /// `a * b + c`, rounded once where that is one instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// [`Simd::Portable`] as a type.
pub(crate) struct Portable;

impl Level for Portable {
    type Vector = [f32; 4];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            a.mul_add(b, c)
        } else {
            // The library's fused product is a slow call where the instruction is missing.
            a * b + c
        }
    }
}

/// [`Simd::Neon`] as a type.
#[cfg(target_arch = "aarch64")]
pub(crate) struct Neon;

#[cfg(target_arch = "aarch64")]
impl Level for Neon {
    // Of the 32 registers a product then needs as many as of the 16 that AVX2 has.
    type Vector = [std::arch::aarch64::float32x4_t; 2];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// [`Simd::Avx2`] as a type.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Level for Avx2 {
    type Vector = std::arch::x86_64::__m256;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// [`Simd::Avx512`] as a type.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Level for Avx512 {
    type Vector = std::arch::x86_64::__m512;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// `leveled!(simd, body(x: X, y: Y) -> R)` calls `body::<L>(x, y)`, compiled for `simd`, with `L`
/// the [`Level`]. `body` must be `#[inline(always)]` and safe to call. Where it is generic over a
/// second type, that follows its name: `leveled!(simd, body<S: Bound = f32>(x: S))`.
macro_rules! leveled {
    (
        $simd:expr, $body:ident $(<$S:ident: $bound:path = $actual:ty>)?
        ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
    ) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2$(<$S: $bound>)?($($argument: $type),*) $(-> $result)? {
            $body::<$crate::simd::Avx2 $(, $S)?>($($argument),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq")]
        fn avx512$(<$S: $bound>)?($($argument: $type),*) $(-> $result)? {
            $body::<$crate::simd::Avx512 $(, $S)?>($($argument),*)
        }
        #[cfg(target_arch = "aarch64")]
        fn neon$(<$S: $bound>)?($($argument: $type),*) $(-> $result)? {
            $body::<$crate::simd::Neon $(, $S)?>($($argument),*)
        }
        match $simd {
            $crate::simd::Simd::Portable => {
                $body::<$crate::simd::Portable $(, $actual)?>($($argument),*)
            }
            #[cfg(target_arch = "aarch64")]
            $crate::simd::Simd::Neon => neon$(::<$actual>)?($($argument),*),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Simd::Avx2` exists only where the processor was found to have all.
            $crate::simd::Simd::Avx2 => unsafe { avx2$(::<$actual>)?($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Simd::Avx512` exists only where the processor was found to have all.
            $crate::simd::Simd::Avx512 => unsafe { avx512$(::<$actual>)?($($argument),*) },
        }
    }};
}
pub(crate) use leveled;
