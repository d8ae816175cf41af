//! Instructions on registers of the other dtypes: bool, integers, float64 and complex64. They are
//! simple or rare, so one compilation for every processor will do.

use motet_core::dtype::Dtype;
use motet_core::program::{Binary, Unary};
use num_complex::Complex32;

use super::run::{Run, run};
use crate::math;
use crate::number::Number;

/// Functions of integers of type `T`; what differs for signed ones is given as expressions.
macro_rules! integer {
    (unary $op:ident $T:ty, $abs:expr, $sign:expr) => {
        Some(match $op {
            Unary::Abs => run!(one, $T => $T, |x| $abs(x)),
            Unary::Sign => run!(one, $T => $T, |x| $sign(x)),
            Unary::Neg => run!(one, $T => $T, |x| x.wrapping_neg()),
            Unary::Round | Unary::Floor | Unary::Ceil => run!(one, $T => $T, |x| x),
            Unary::LogicalNot => run!(one, $T => u8, |x| u8::from(x == 0)),
            Unary::BitwiseNot => run!(one, $T => $T, |x| !x),
            _ => return None,
        })
    };
    (binary $op:ident $T:ty, $floor_div:expr, $rem:expr, $negative:expr) => {
        Some(match $op {
            Binary::Add => run!(two, $T => $T, |a, b| a.wrapping_add(b)),
            Binary::Sub => run!(two, $T => $T, |a, b| a.wrapping_sub(b)),
            Binary::Mul => run!(two, $T => $T, |a, b| a.wrapping_mul(b)),
            Binary::Div => {
                run!(two, $T => $T, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) })
            }
            Binary::FloorDiv => {
                run!(two, $T => $T, |a, b| if b == 0 { 0 } else { $floor_div(a, b) })
            }
            Binary::Rem => run!(two, $T => $T, |a, b| if b == 0 { 0 } else { $rem(a, b) }),
            Binary::Pow => run!(two, $T => $T, |a, b| {
                let (mut base, mut exponent, mut power) = (a, b, <$T>::from(!$negative(b)));
                while exponent > 0 {
                    if exponent & 1 == 1 {
                        power = power.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    exponent >>= 1;
                }
                power
            }),
            Binary::Max => run!(two, $T => $T, |a, b| Ord::max(a, b)),
            Binary::Min => run!(two, $T => $T, |a, b| Ord::min(a, b)),
            Binary::BitwiseAnd => run!(two, $T => $T, |a, b| a & b),
            Binary::BitwiseOr => run!(two, $T => $T, |a, b| a | b),
            Binary::BitwiseXor => run!(two, $T => $T, |a, b| a ^ b),
            Binary::LeftShift => run!(two, $T => $T, |a, b| {
                u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0)
            }),
            Binary::RightShift => run!(two, $T => $T, |a, b| {
                let amount = u32::try_from(b).unwrap_or(u32::MAX);
                a.checked_shr(amount).unwrap_or(if $negative(a) { !0 } else { 0 })
            }),
            Binary::Equal | Binary::EqualNan => run!(two, $T => u8, |a, b| u8::from(a == b)),
            Binary::NotEqual => run!(two, $T => u8, |a, b| u8::from(a != b)),
            Binary::Less => run!(two, $T => u8, |a, b| u8::from(a < b)),
            Binary::LessEqual => run!(two, $T => u8, |a, b| u8::from(a <= b)),
            Binary::Greater => run!(two, $T => u8, |a, b| u8::from(a > b)),
            Binary::GreaterEqual => run!(two, $T => u8, |a, b| u8::from(a >= b)),
            Binary::LogicalAnd => run!(two, $T => u8, |a, b| u8::from((a != 0) & (b != 0))),
            Binary::LogicalOr => run!(two, $T => u8, |a, b| u8::from((a != 0) | (b != 0))),
            Binary::ArcTan2 | Binary::LogAddExp => return None,
        })
    };
}

macro_rules! unsigned {
    (unary $op:ident $T:ty) => {
        integer!(unary $op $T, (|x: $T| x), (|x: $T| <$T>::from(x > 0)))
    };
    (binary $op:ident $T:ty) => {
        integer!(binary $op $T, (|a: $T, b: $T| a / b), (|a: $T, b: $T| a % b), (|_: $T| false))
    };
}

macro_rules! signed {
    (unary $op:ident $T:ty) => {
        integer!(unary $op $T, (|x: $T| x.wrapping_abs()), (|x: $T| x.signum()))
    };
    (binary $op:ident $T:ty) => {
        integer!(
            binary $op $T,
            (|a: $T, b: $T| {
                let toward_zero = a.wrapping_div(b);
                let inexact = a.wrapping_rem(b) != 0;
                toward_zero.wrapping_sub(<$T>::from(inexact && (a < 0) != (b < 0)))
            }),
            (|a: $T, b: $T| {
                let r = a.wrapping_rem(b);
                if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
            }),
            (|x: $T| x < 0)
        )
    };
}

/// A function of one argument of this dtype.
pub(super) fn unary(op: Unary, dtype: Dtype) -> Option<Run> {
    match dtype {
        Dtype::Bool => match op {
            Unary::LogicalNot | Unary::BitwiseNot => Some(run!(one, u8 => u8, |x| x ^ 1)),
            op if is_identity(op) => Some(run!(one, u8 => u8, |x| x)),
            _ => None,
        },
        Dtype::Uint8 => unsigned!(unary op u8),
        Dtype::Uint16 => unsigned!(unary op u16),
        Dtype::Uint32 => unsigned!(unary op u32),
        Dtype::Uint64 => unsigned!(unary op u64),
        Dtype::Int8 => signed!(unary op i8),
        Dtype::Int16 => signed!(unary op i16),
        Dtype::Int32 => signed!(unary op i32),
        Dtype::Int64 => signed!(unary op i64),
        Dtype::Float64 => unary_f64(op),
        Dtype::Complex64 => unary_complex(op),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => None,
    }
}

/// A function of two arguments of this dtype.
pub(super) fn binary(op: Binary, dtype: Dtype) -> Option<Run> {
    match dtype {
        Dtype::Bool => binary_bool(op),
        Dtype::Uint8 => unsigned!(binary op u8),
        Dtype::Uint16 => unsigned!(binary op u16),
        Dtype::Uint32 => unsigned!(binary op u32),
        Dtype::Uint64 => unsigned!(binary op u64),
        Dtype::Int8 => signed!(binary op i8),
        Dtype::Int16 => signed!(binary op i16),
        Dtype::Int32 => signed!(binary op i32),
        Dtype::Int64 => signed!(binary op i64),
        Dtype::Float64 => binary_f64(op),
        Dtype::Complex64 => binary_complex(op),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => None,
    }
}

/// Functions that leave what cannot be negative or fractional as it is.
fn is_identity(op: Unary) -> bool {
    matches!(
        op,
        Unary::Abs | Unary::Sign | Unary::Round | Unary::Floor | Unary::Ceil
    )
}

fn binary_bool(op: Binary) -> Option<Run> {
    Some(match op {
        Binary::Add | Binary::Max | Binary::LogicalOr | Binary::BitwiseOr => {
            run!(two, u8 => u8, |a, b| a | b)
        }
        Binary::Mul | Binary::Min | Binary::FloorDiv | Binary::LogicalAnd | Binary::BitwiseAnd => {
            run!(two, u8 => u8, |a, b| a & b)
        }
        Binary::NotEqual | Binary::BitwiseXor | Binary::Sub => run!(two, u8 => u8, |a, b| a ^ b),
        Binary::Equal | Binary::EqualNan => run!(two, u8 => u8, |a, b| a ^ b ^ 1),
        Binary::Pow | Binary::GreaterEqual => run!(two, u8 => u8, |a, b| a | (b ^ 1)),
        Binary::Less => run!(two, u8 => u8, |a, b| (a ^ 1) & b),
        Binary::LessEqual => run!(two, u8 => u8, |a, b| (a ^ 1) | b),
        Binary::Greater | Binary::Rem => run!(two, u8 => u8, |a, b| a & (b ^ 1)),
        Binary::Div
        | Binary::ArcTan2
        | Binary::LogAddExp
        | Binary::LeftShift
        | Binary::RightShift => return None,
    })
}

fn unary_f64(op: Unary) -> Option<Run> {
    macro_rules! f {
        (|$x:ident| $f:expr) => { run!(one, f64 => f64, |$x| $f) };
    }
    Some(match op {
        Unary::Abs => f!(|x| x.abs()),
        Unary::Neg => f!(|x| -x),
        Unary::Sign => f!(|x| f64::from(u8::from(x > 0.0)) - f64::from(u8::from(x < 0.0))),
        Unary::Round => f!(|x| x.round_ties_even()),
        Unary::Floor => f!(|x| x.floor()),
        Unary::Ceil => f!(|x| x.ceil()),
        Unary::Exp => f!(|x| x.exp()),
        Unary::Expm1 => f!(|x| x.exp_m1()),
        Unary::Log => f!(|x| x.ln()),
        Unary::Log2 => f!(|x| x.log2()),
        Unary::Log10 => f!(|x| x.log10()),
        Unary::Log1p => f!(|x| x.ln_1p()),
        Unary::Sin => f!(|x| x.sin()),
        Unary::Cos => f!(|x| x.cos()),
        Unary::Tan => f!(|x| x.tan()),
        Unary::ArcSin => f!(|x| x.asin()),
        Unary::ArcCos => f!(|x| x.acos()),
        Unary::ArcTan => f!(|x| x.atan()),
        Unary::Sinh => f!(|x| x.sinh()),
        Unary::Cosh => f!(|x| x.cosh()),
        Unary::Tanh => f!(|x| x.tanh()),
        Unary::ArcSinh => f!(|x| x.asinh()),
        Unary::ArcCosh => f!(|x| x.acosh()),
        Unary::ArcTanh => f!(|x| math::atanh_f64(x)),
        Unary::Erf => f!(|x| math::erf_f64(x)),
        Unary::ErfInv => f!(|x| math::erf_inv_f64(x)),
        Unary::Sqrt => f!(|x| x.sqrt()),
        Unary::Rsqrt => f!(|x| 1.0 / x.sqrt()),
        Unary::Sigmoid => f!(|x| 1.0 / (1.0 + (-x).exp())),
        Unary::LogicalNot => run!(one, f64 => u8, |x| u8::from(x == 0.0)),
        Unary::BitwiseNot | Unary::Real | Unary::Imag | Unary::Conjugate => return None,
    })
}

fn binary_f64(op: Binary) -> Option<Run> {
    macro_rules! f {
        (|$a:ident, $b:ident| $f:expr) => { run!(two, f64 => f64, |$a, $b| $f) };
    }
    macro_rules! test {
        (|$a:ident, $b:ident| $f:expr) => { run!(two, f64 => u8, |$a, $b| u8::from($f)) };
    }
    Some(match op {
        Binary::Add => f!(|a, b| a + b),
        Binary::Sub => f!(|a, b| a - b),
        Binary::Mul => f!(|a, b| a * b),
        Binary::Div => f!(|a, b| a / b),
        Binary::FloorDiv => f!(|a, b| (a / b).floor()),
        Binary::Rem => f!(|a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) {
                r + b
            } else {
                r
            }
        }),
        Binary::Pow => f!(|a, b| a.powf(b)),
        Binary::Max => f!(|a, b| Number::max(a, b)),
        Binary::Min => f!(|a, b| Number::min(a, b)),
        Binary::ArcTan2 => f!(|a, b| a.atan2(b)),
        Binary::LogAddExp => f!(|a, b| {
            let (high, low) = (Number::max(a, b), Number::min(a, b));
            if high == f64::INFINITY || low == f64::NEG_INFINITY {
                high
            } else {
                high + (low - high).exp().ln_1p()
            }
        }),
        Binary::Equal => test!(|a, b| a == b),
        Binary::EqualNan => test!(|a, b| a == b || (a.is_nan() && b.is_nan())),
        Binary::NotEqual => test!(|a, b| a != b),
        Binary::Less => test!(|a, b| a < b),
        Binary::LessEqual => test!(|a, b| a <= b),
        Binary::Greater => test!(|a, b| a > b),
        Binary::GreaterEqual => test!(|a, b| a >= b),
        Binary::LogicalAnd => test!(|a, b| a != 0.0 && b != 0.0),
        Binary::LogicalOr => test!(|a, b| a != 0.0 || b != 0.0),
        Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::LeftShift
        | Binary::RightShift => return None,
    })
}

fn unary_complex(op: Unary) -> Option<Run> {
    macro_rules! f {
        (|$z:ident| $f:expr) => { run!(one, Complex32 => Complex32, |$z| $f) };
    }
    Some(match op {
        Unary::Abs => run!(one, Complex32 => f32, |z| z.norm()),
        Unary::Real => run!(one, Complex32 => f32, |z| z.re),
        Unary::Imag => run!(one, Complex32 => f32, |z| z.im),
        Unary::LogicalNot => run!(one, Complex32 => u8, |z| u8::from(z.is_zero())),
        Unary::Conjugate => f!(|z| z.conj()),
        Unary::Neg => f!(|z| -z),
        Unary::Sign => f!(|z| if z.is_zero() { z } else { z / z.norm() }),
        Unary::Round => f!(|z| { Complex32::new(z.re.round_ties_even(), z.im.round_ties_even()) }),
        Unary::Exp => f!(|z| z.exp()),
        Unary::Log => f!(|z| z.ln()),
        Unary::Log2 => f!(|z| z.ln() * std::f32::consts::LOG2_E),
        Unary::Log10 => f!(|z| z.ln() * std::f32::consts::LOG10_E),
        Unary::Log1p => f!(|z| log1p(z)),
        Unary::Sin => f!(|z| z.sin()),
        Unary::Cos => f!(|z| z.cos()),
        Unary::Tan => f!(|z| z.tan()),
        Unary::ArcSin => f!(|z| z.asin()),
        Unary::ArcCos => f!(|z| z.acos()),
        Unary::ArcTan => f!(|z| z.atan()),
        Unary::Sinh => f!(|z| z.sinh()),
        Unary::Cosh => f!(|z| z.cosh()),
        Unary::Tanh => f!(|z| z.tanh()),
        Unary::ArcSinh => f!(|z| z.asinh()),
        Unary::ArcCosh => f!(|z| z.acosh()),
        Unary::ArcTanh => f!(|z| z.atanh()),
        Unary::Sqrt => f!(|z| z.sqrt()),
        Unary::Rsqrt => f!(|z| z.sqrt().finv()),
        Unary::Floor
        | Unary::Ceil
        | Unary::Expm1
        | Unary::Erf
        | Unary::ErfInv
        | Unary::Sigmoid
        | Unary::BitwiseNot => return None,
    })
}

fn log1p(z: Complex32) -> Complex32 {
    // |1 + z|^2 - 1, without adding the one: it would hide a small z.
    let square = z.re * (2.0 + z.re) + z.im * z.im;
    Complex32::new(square.ln_1p() / 2.0, z.im.atan2(1.0 + z.re))
}

fn binary_complex(op: Binary) -> Option<Run> {
    macro_rules! f {
        (|$a:ident, $b:ident| $f:expr) => {
            run!(two, Complex32 => Complex32, |$a, $b| $f)
        };
    }
    macro_rules! test {
        (|$a:ident, $b:ident| $f:expr) => { run!(two, Complex32 => u8, |$a, $b| u8::from($f)) };
    }
    Some(match op {
        Binary::Add => f!(|a, b| a + b),
        Binary::Sub => f!(|a, b| a - b),
        Binary::Mul => f!(|a, b| a * b),
        Binary::Div | Binary::FloorDiv => f!(|a, b| a / b),
        Binary::LogAddExp => f!(|a, b| {
            let (high, low) = (a.max(b), a.min(b));
            if high.re == f32::INFINITY || low.re == f32::NEG_INFINITY {
                high
            } else {
                high + log1p((low - high).exp())
            }
        }),
        Binary::Pow => f!(|a, b| if a.is_zero() && !b.is_zero() {
            a
        } else {
            a.powc(b)
        }),
        Binary::Max => f!(|a, b| a.max(b)),
        Binary::Min => f!(|a, b| a.min(b)),
        Binary::Equal => test!(|a, b| a == b),
        Binary::EqualNan => test!(|a, b| a == b || (a.is_nan() && b.is_nan())),
        Binary::NotEqual => test!(|a, b| a != b),
        Binary::Less => test!(|a, b| a.less(b)),
        Binary::LessEqual => test!(|a, b| a.less(b) || a == b),
        Binary::Greater => test!(|a, b| b.less(a)),
        Binary::GreaterEqual => test!(|a, b| b.less(a) || a == b),
        Binary::LogicalAnd => test!(|a, b| !a.is_zero() && !b.is_zero()),
        Binary::LogicalOr => test!(|a, b| !a.is_zero() || !b.is_zero()),
        Binary::Rem
        | Binary::ArcTan2
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::LeftShift
        | Binary::RightShift => return None,
    })
}
