//! Which instructions the processor has, and how kernels are compiled for each choice.
//!
//! [`leveled!`] compiles one generic body twice, for every processor and for those with AVX2 and
//! FMA; [`Simd`] says at run time which of the two may be called. Tests force the portable one.

/// A choice of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simd {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Simd {
    /// The best that this processor has.
    pub(crate) fn detect() -> Simd {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            return Simd::Avx2;
        }
        Simd::Portable
    }
}

/// How a choice of instructions computes `a * b + c`.
pub(crate) trait Level: 'static {
    /// `a * b + c`, rounded once where that is one instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// [`Simd::Portable`] as a type.
pub(crate) struct Portable;

impl Level for Portable {
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

/// [`Simd::Avx2`] as a type.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Level for Avx2 {
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
        #[target_feature(enable = "avx2,fma")]
        fn avx2$(<$S: $bound>)?($($argument: $type),*) $(-> $result)? {
            $body::<$crate::simd::Avx2 $(, $S)?>($($argument),*)
        }
        match $simd {
            $crate::simd::Simd::Portable => {
                $body::<$crate::simd::Portable $(, $actual)?>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Simd::Avx2` exists only where the processor was found to have both.
            $crate::simd::Simd::Avx2 => unsafe { avx2$(::<$actual>)?($($argument),*) },
        }
    }};
}
pub(crate) use leveled;
