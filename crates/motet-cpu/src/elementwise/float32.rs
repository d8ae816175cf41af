//! Instructions on float32 registers, compiled for every level of [`Simd`].

use half::f16;
use motet_core::program::{Binary, Unary};

use super::run::{Run, one, operand, output, select, two};
use crate::convert::{bf16_to_f32, f32_to_bf16};
use crate::math;
use crate::simd::{Level, Portable, Simd};

/// `leveled!(simd, L, one f32 => f32, |x| math::exp::<L>(x))`: a [`Run`] compiled for `simd`, in
/// which `L` is the [`Level`].
macro_rules! leveled {
    ($simd:expr, $L:ident, $loop:ident $A:ty => $R:ty, $f:expr) => {
        leveled!($simd, $L, |operands, result, len| $loop::<$A, $R>(
            operands, result, len, $f
        ))
    };
    ($simd:expr, $L:ident, |$operands:ident, $result:ident, $len:ident| $body:expr) => {{
        #[inline(always)]
        unsafe fn body<$L: Level>($operands: [*const u8; 3], $result: *mut u8, $len: usize) {
            // SAFETY: the caller of a Run keeps the contract.
            unsafe { $body }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(operands: [*const u8; 3], result: *mut u8, len: usize) {
            // SAFETY: the caller of a Run keeps the contract; the features are enabled here too.
            unsafe { body::<crate::simd::Avx2>(operands, result, len) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq")]
        unsafe fn avx512(operands: [*const u8; 3], result: *mut u8, len: usize) {
            // SAFETY: the caller of a Run keeps the contract; the features are enabled here too.
            unsafe { body::<crate::simd::Avx512>(operands, result, len) }
        }
        match $simd {
            Simd::Portable => body::<Portable> as Run,
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => body::<crate::simd::Neon> as Run,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => avx2 as Run,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => avx512 as Run,
        }
    }};
}

/// A function that the vectorised loop computes up to the limit of [`math`]'s trigonometry, and
/// the standard library beyond.
macro_rules! trigonometric {
    ($simd:expr, $name:ident) => {
        leveled!($simd, L, |operands, result, len| {
            let small = |&x: &f32| (x.abs() <= math::TRIGONOMETRY_LIMIT) | x.is_nan();
            let fits = operand::<f32>(operands[0], len)
                .iter()
                .fold(true, |all, x| all & small(x));
            if fits {
                one::<f32, f32>(operands, result, len, |x| math::$name::<L>(x))
            } else {
                one::<f32, f32>(operands, result, len, |x: f32| x.$name())
            }
        })
    };
}

/// A function of one argument.
pub(super) fn unary(op: Unary, simd: Simd) -> Option<Run> {
    macro_rules! f {
        ($($f:tt)*) => { leveled!(simd, L, one f32 => f32, $($f)*) };
    }
    Some(match op {
        Unary::Abs => f!(|x| x.abs()),
        Unary::Neg => f!(|x| -x),
        Unary::Sign => f!(|x| f32::from(u8::from(x > 0.0)) - f32::from(u8::from(x < 0.0))),
        Unary::Round => f!(|x| x.round_ties_even()),
        Unary::Floor => f!(|x| x.floor()),
        Unary::Ceil => f!(|x| x.ceil()),
        Unary::Exp => f!(|x| math::exp::<L>(x)),
        Unary::Expm1 => f!(|x| math::expm1::<L>(x)),
        Unary::Log => f!(|x| math::log::<L>(x)),
        Unary::Log2 => f!(|x| math::log2::<L>(x)),
        Unary::Log10 => f!(|x| math::log10::<L>(x)),
        Unary::Log1p => f!(|x| math::log1p::<L>(x)),
        Unary::Sin => trigonometric!(simd, sin),
        Unary::Cos => trigonometric!(simd, cos),
        Unary::Tan => trigonometric!(simd, tan),
        Unary::ArcSin => f!(|x| x.asin()),
        Unary::ArcCos => f!(|x| x.acos()),
        Unary::ArcTan => f!(|x| x.atan()),
        Unary::Sinh => f!(|x| x.sinh()),
        Unary::Cosh => f!(|x| x.cosh()),
        Unary::Tanh => f!(|x| math::tanh::<L>(x)),
        Unary::ArcSinh => f!(|x| x.asinh()),
        Unary::ArcCosh => f!(|x| x.acosh()),
        Unary::ArcTanh => f!(|x| math::atanh::<L>(x)),
        Unary::Erf => f!(|x| math::erf::<L>(x)),
        Unary::ErfInv => f!(|x| math::erf_inv::<L>(x)),
        Unary::Sqrt => f!(|x| x.sqrt()),
        Unary::Rsqrt => f!(|x| 1.0 / x.sqrt()),
        Unary::Sigmoid => f!(|x| math::sigmoid::<L>(x)),
        Unary::LogicalNot => leveled!(simd, L, one f32 => u8, |x| u8::from(x == 0.0)),
        Unary::BitwiseNot | Unary::Real | Unary::Imag | Unary::Conjugate => return None,
    })
}

/// A function of two arguments.
pub(super) fn binary(op: Binary, simd: Simd) -> Option<Run> {
    macro_rules! f {
        ($($f:tt)*) => { leveled!(simd, L, two f32 => f32, $($f)*) };
    }
    macro_rules! test {
        ($($f:tt)*) => { leveled!(simd, L, two f32 => u8, $($f)*) };
    }
    Some(match op {
        Binary::Add => f!(|a, b| a + b),
        Binary::Sub => f!(|a, b| a - b),
        Binary::Mul => f!(|a, b| a * b),
        Binary::Div => f!(|a, b| a / b),
        Binary::FloorDiv => f!(|a, b| (a / b).floor()),
        Binary::Rem => f!(remainder),
        Binary::Pow => leveled!(simd, L, |operands, result, len| {
            // One small exponent for all is what squares and cubes look like.
            let exponents = operand::<f32>(operands[1], len);
            let first = exponents[0];
            let same = exponents.iter().fold(true, |all, &e| all & (e == first));
            match first {
                2.0 if same => one::<f32, f32>(operands, result, len, |x| x * x),
                3.0 if same => one::<f32, f32>(operands, result, len, |x| x * x * x),
                _ => two::<f32, f32>(operands, result, len, |a: f32, b| a.powf(b)),
            }
        }),
        Binary::Max => f!(|a, b| if (a > b) | a.is_nan() { a } else { b }),
        Binary::Min => f!(|a, b| if (a < b) | a.is_nan() { a } else { b }),
        Binary::ArcTan2 => f!(|a, b| a.atan2(b)),
        Binary::LogAddExp => f!(|a, b| math::log_add_exp::<L>(a, b)),
        Binary::Equal => test!(|a, b| u8::from(a == b)),
        Binary::EqualNan => test!(|a, b| u8::from((a == b) | (a.is_nan() & b.is_nan()))),
        Binary::NotEqual => test!(|a, b| u8::from(a != b)),
        Binary::Less => test!(|a, b| u8::from(a < b)),
        Binary::LessEqual => test!(|a, b| u8::from(a <= b)),
        Binary::Greater => test!(|a, b| u8::from(a > b)),
        Binary::GreaterEqual => test!(|a, b| u8::from(a >= b)),
        Binary::LogicalAnd => test!(|a, b| u8::from((a != 0.0) & (b != 0.0))),
        Binary::LogicalOr => test!(|a, b| u8::from((a != 0.0) | (b != 0.0))),
        Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::LeftShift
        | Binary::RightShift => return None,
    })
}

/// Floor division of half values: the quotient is rounded to the dtype before it is floored.
pub(super) fn floor_divide_half(bfloat: bool, simd: Simd) -> Run {
    if bfloat {
        leveled!(simd, L, two f32 => f32, |a, b| bf16_to_f32(f32_to_bf16(a / b)).floor())
    } else {
        leveled!(simd, L, two f32 => f32, |a, b| f16::from_f32(a / b).to_f32().floor())
    }
}

/// `condition ? a : b` for elements of four bytes.
pub(super) fn select4(simd: Simd) -> Run {
    leveled!(simd, L, |operands, result, len| select::<u32>(
        operands, result, len
    ))
}

/// Copies the bfloat16 operand into float32.
pub(super) fn widen_bf16(simd: Simd) -> Run {
    leveled!(simd, L, one half::bf16 => f32, bf16_to_f32)
}

/// Rounds the float32 operand to bfloat16.
pub(super) fn narrow_bf16(simd: Simd) -> Run {
    leveled!(simd, L, one f32 => half::bf16, f32_to_bf16)
}

/// Copies the float16 operand into float32.
///
/// # Safety
/// As for [`Run`].
pub(super) unsafe fn widen_f16(operands: [*const u8; 3], result: *mut u8, len: usize) {
    use half::slice::HalfFloatSliceExt;
    // SAFETY: the caller of a Run keeps the contract.
    let (a, result) = unsafe { (operand::<f16>(operands[0], len), output::<f32>(result, len)) };
    a.convert_to_f32_slice(result);
}

/// Rounds the float32 operand to float16.
///
/// # Safety
/// As for [`Run`].
pub(super) unsafe fn narrow_f16(operands: [*const u8; 3], result: *mut u8, len: usize) {
    use half::slice::HalfFloatSliceExt;
    // SAFETY: the caller of a Run keeps the contract.
    let (a, result) = unsafe { (operand::<f32>(operands[0], len), output::<f16>(result, len)) };
    result.convert_from_f32_slice(a);
}

/// The remainder with the divisor's sign.
#[inline(always)]
fn remainder(a: f32, b: f32) -> f32 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) {
        r + b
    } else {
        r
    }
}
