//! Operations on each element: arithmetic, functions, comparisons, logic, bits.
//!
//! Operands promote to one dtype and broadcast to one shape. Functions that are not defined for
//! integers (`exp`, `divide`) make float32 of them first.

use std::f64::consts::PI;

use motet_core::array::apply::{self, apply, apply_one, astype, binary, binary_float};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::ops::Primitive;
use motet_core::ops::elementwise as primitive;
use motet_core::ops::elementwise::{BitwiseBinary, BitwiseOp, LogBase};

use super::{where_, zeros_like};

fn unary(primitive: impl Into<Primitive>, x: impl Into<Operand>) -> Result<Array> {
    apply_one(primitive, &[x.into().into_own_array()?])
}

fn unary_float(primitive: impl Into<Primitive>, x: impl Into<Operand>) -> Result<Array> {
    let x = x.into().into_own_array()?;
    apply_one(primitive, &[astype(&x, x.dtype().at_least_float())?])
}

/// Operands that promote to bool, whatever they are: nonzero is true.
fn binary_bool(
    primitive: impl Into<Primitive>,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
) -> Result<Array> {
    let primitive = primitive.into();
    let operands = apply::convert([a.into(), b.into()], Dtype::Bool)?;
    apply_one(
        primitive.clone(),
        &apply::broadcast(primitive.name(), operands)?,
    )
}

/// Functions of one array: `name = primitive, what it does to integers and bools: example => result;`
macro_rules! unary {
    ($($(#[$meta:meta])* $name:ident = $primitive:expr, $convert:ident: $x:literal => $y:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        /// Where the dtype is not one that MLX's function of this name takes.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[", stringify!($x), "f32], [1])?;\n",
            "let y = ops::", stringify!($name), "(&x)?.item::<f32>()?;\n",
            "assert!((y - ", stringify!($y), ").abs() < 1e-5);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: impl Into<Operand>) -> Result<Array> {
            $convert($primitive, x)
        }
    )*};
}

unary! {
    /// Absolute value; for complex64 the modulus, as float32.
    #[doc(alias = "absolute")]
    abs = primitive::Abs, unary: -2.5 => 2.5;
    /// Inverse cosine.
    #[doc(alias = "acos")]
    arccos = primitive::ArcCos, unary_float: 1.0 => 0.0;
    /// Inverse hyperbolic cosine.
    #[doc(alias = "acosh")]
    arccosh = primitive::ArcCosh, unary_float: 1.0 => 0.0;
    /// Inverse sine.
    #[doc(alias = "asin")]
    arcsin = primitive::ArcSin, unary_float: 1.0 => 1.570_796_3;
    /// Inverse hyperbolic sine.
    #[doc(alias = "asinh")]
    arcsinh = primitive::ArcSinh, unary_float: 0.0 => 0.0;
    /// Inverse tangent.
    #[doc(alias = "atan")]
    arctan = primitive::ArcTan, unary_float: 1.0 => 0.785_398_2;
    /// Inverse hyperbolic tangent.
    #[doc(alias = "atanh")]
    arctanh = primitive::ArcTanh, unary_float: 0.0 => 0.0;
    /// The least whole number that is not less.
    ceil = primitive::Ceil, unary: 1.25 => 2.0;
    /// Cosine.
    cos = primitive::Cos, unary_float: 0.0 => 1.0;
    /// Hyperbolic cosine.
    cosh = primitive::Cosh, unary_float: 0.0 => 1.0;
    /// Error function.
    erf = primitive::Erf, unary_float: 1.0 => 0.842_700_8;
    /// Inverse of the error function.
    erfinv = primitive::ErfInv, unary_float: 0.0 => 0.0;
    /// `e` to the power of each element.
    exp = primitive::Exp, unary_float: 1.0 => 2.718_281_7;
    /// `exp(x) - 1`, exact near zero.
    expm1 = primitive::Expm1, unary_float: 0.0 => 0.0;
    /// The greatest whole number that is not greater.
    floor = primitive::Floor, unary: -1.25 => -2.0;
    /// Natural logarithm.
    log = primitive::Log { base: LogBase::E }, unary_float: 1.0 => 0.0;
    /// Logarithm to base 10.
    log10 = primitive::Log { base: LogBase::Ten }, unary_float: 100.0 => 2.0;
    /// Natural logarithm of `1 + x`, exact near zero.
    log1p = primitive::Log1p, unary_float: 0.0 => 0.0;
    /// Logarithm to base 2.
    log2 = primitive::Log { base: LogBase::Two }, unary_float: 8.0 => 3.0;
    /// `-x`; wraps for unsigned integers.
    negative = primitive::Negative, unary: 1.5 => -1.5;
    /// `1 / sqrt(x)`.
    rsqrt = primitive::Sqrt { reciprocal: true }, unary_float: 4.0 => 0.5;
    /// `1 / (1 + exp(-x))`.
    sigmoid = primitive::Sigmoid, unary_float: 0.0 => 0.5;
    /// -1, 0 or 1; `z / |z|` for complex64.
    sign = primitive::Sign, unary: -3.5 => -1.0;
    /// Sine.
    sin = primitive::Sin, unary_float: 0.0 => 0.0;
    /// Hyperbolic sine.
    sinh = primitive::Sinh, unary_float: 0.0 => 0.0;
    /// Square root.
    sqrt = primitive::Sqrt { reciprocal: false }, unary_float: 9.0 => 3.0;
    /// `x * x`.
    square = primitive::Square, unary: -3.0 => 9.0;
    /// Tangent.
    tan = primitive::Tan, unary_float: 0.0 => 0.0;
    /// Hyperbolic tangent.
    tanh = primitive::Tanh, unary_float: 0.0 => 0.0;
}

/// Functions of two arrays: `name = primitive, conversion: a, b => result;`
macro_rules! binary {
    ($($(#[$meta:meta])* $name:ident = $primitive:expr, $convert:ident: $a:literal, $b:literal => $type:ident $c:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        /// Where the shapes do not broadcast together, or the dtype is not one that MLX's function
        /// of this name takes.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let a = Array::from(", stringify!($a), ");\n",
            "let c = ops::", stringify!($name), "(&a, ", stringify!($b), ")?;\n",
            "assert_eq!(c.item::<", stringify!($type), ">()?, ", stringify!($c), ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(a: impl Into<Operand>, b: impl Into<Operand>) -> Result<Array> {
            $convert($primitive, a, b)
        }
    )*};
}

binary! {
    /// `a + b`; `or` for bools, wraps for integers.
    add = primitive::Add, binary: 1.5f32, 2.0 => f32 3.5;
    /// The angle of the point (b, a) in radians.
    #[doc(alias = "atan2")]
    arctan2 = primitive::ArcTan2, binary_float: 0.0f32, 1.0 => f32 0.0;
    /// Bits that are set in both; `and` for bools.
    bitwise_and = bits(BitwiseOp::And), binary: 6, 3 => i32 2;
    /// Bits that are set in one or both; `or` for bools.
    bitwise_or = bits(BitwiseOp::Or), binary: 6, 3 => i32 7;
    /// Bits that are set in one but not in both.
    bitwise_xor = bits(BitwiseOp::Xor), binary: 6, 3 => i32 5;
    /// `a / b`; float32 for integers.
    divide = primitive::Divide, binary_float: 1, 4 => f32 0.25;
    /// Whether `a == b`. NaN equals nothing.
    equal = primitive::Equal { equal_nan: false }, binary: 2, 2 => bool true;
    /// `a / b` rounded toward minus infinity.
    floor_divide = primitive::FloorDivide, binary: -7, 2 => i32 -4;
    /// Whether `a > b`.
    greater = primitive::Greater, binary: 2, 2 => bool false;
    /// Whether `a >= b`.
    greater_equal = primitive::GreaterEqual, binary: 2, 2 => bool true;
    /// `a` with its bits moved to higher places; for shifts by the dtype's width or more, 0.
    #[doc(alias = "bitwise_left_shift")]
    left_shift = bits(BitwiseOp::LeftShift), binary: 3, 2 => i32 12;
    /// Whether `a < b`.
    less = primitive::Less, binary: 1, 2 => bool true;
    /// Whether `a <= b`.
    less_equal = primitive::LessEqual, binary: 3, 2 => bool false;
    /// `log(exp(a) + exp(b))` without overflow.
    logaddexp = primitive::LogAddExp, binary_float: 0.0f32, -1000.0 => f32 0.0;
    /// Whether both are nonzero.
    logical_and = primitive::LogicalAnd, binary_bool: 2, 0 => bool false;
    /// Whether one or both are nonzero.
    logical_or = primitive::LogicalOr, binary_bool: 2, 0 => bool true;
    /// The greater one; NaN if either is.
    maximum = primitive::Maximum, binary: 2, 5 => i32 5;
    /// The lesser one; NaN if either is.
    minimum = primitive::Minimum, binary: 2, 5 => i32 2;
    /// `a * b`; `and` for bools, wraps for integers.
    multiply = primitive::Multiply, binary: 3, 4 => i32 12;
    /// Whether `a != b`.
    not_equal = primitive::NotEqual, binary: 1, 2 => bool true;
    /// `a` to the power of `b`; integers wrap, and give 0 for negative exponents.
    #[doc(alias = "pow")]
    power = primitive::Power, binary: 2, 10 => i32 1024;
    /// What is left of `a / b` rounded toward minus infinity: it has the sign of `b`.
    remainder = primitive::Remainder, binary: -7, 3 => i32 2;
    /// `a` with its bits moved to lower places; signed integers keep their sign.
    #[doc(alias = "bitwise_right_shift")]
    right_shift = bits(BitwiseOp::RightShift), binary: 12, 2 => i32 3;
    /// `a - b`; wraps for integers.
    subtract = primitive::Subtract, binary: 1, 4 => i32 -3;
}

fn bits(op: BitwiseOp) -> BitwiseBinary {
    BitwiseBinary { op }
}

/// Functions that are made of others: `name = |x| what, errors: example => result;`
macro_rules! composed {
    ($($(#[$meta:meta])* $name:ident = |$x:ident| $y:expr, errors: $errors:literal, $example:literal => $type:ident $result:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        #[doc = $errors]
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from(", stringify!($example), "f32);\n",
            "assert_eq!(ops::", stringify!($name), "(&x)?.item::<", stringify!($type), ">()?, ", stringify!($result), ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: impl Into<Operand>) -> Result<Array> {
            let $x = x.into().into_own_array()?;
            $y
        }
    )*};
}

composed! {
    /// The complex conjugate; real numbers stay as they are.
    #[doc(alias = "conj")]
    conjugate = |x| match x.dtype() {
        Dtype::Complex64 => apply_one(primitive::Conjugate, &[x]),
        _ => Ok(x),
    }, errors: "None that a user can cause.", 1.5 => f32 1.5;
    /// Radians as degrees.
    degrees = |x| multiply(astype(&x, x.dtype().at_least_float())?, 180.0 / PI),
        errors: "None that a user can cause.", 0.0 => f32 0.0;
    /// The imaginary part: float32 of complex64, else zeros.
    imag = |x| match x.dtype() {
        Dtype::Complex64 => apply_one(primitive::Imag, &[x]),
        _ => zeros_like(&x, None),
    }, errors: "None that a user can cause.", 1.5 => f32 0.0;
    /// Whether each element is zero.
    logical_not = |x| apply_one(primitive::LogicalNot, &[astype(&x, Dtype::Bool)?]),
        errors: "None that a user can cause.", 0.0 => bool true;
    /// The array as it is.
    positive = |x| Ok(x), errors: "None that a user can cause.", 1.5 => f32 1.5;
    /// Degrees as radians.
    radians = |x| multiply(astype(&x, x.dtype().at_least_float())?, PI / 180.0),
        errors: "None that a user can cause.", 0.0 => f32 0.0;
    /// The real part: float32 of complex64; real numbers stay as they are.
    real = |x| match x.dtype() {
        Dtype::Complex64 => apply_one(primitive::Real, &[x]),
        _ => Ok(x),
    }, errors: "None that a user can cause.", 1.5 => f32 1.5;
    /// `1 / x`; float32 for integers.
    reciprocal = |x| divide(1.0, x), errors: "None that a user can cause.", 4.0 => f32 0.25;
    /// The whole number next to each element toward zero.
    trunc = |x| match x.dtype().is_inexact() {
        true => where_(less(&x, 0.0)?, ceil(&x)?, floor(&x)?),
        false => Ok(x),
    }, errors: "For complex64.", -1.75 => f32 -1.0;
}

/// Each element rounded to this many decimals, to the even one of two that are as near. A negative
/// number rounds to tens, hundreds and so on.
///
/// # Errors
/// None that a user can cause.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[2.5f32, -1.26], [2])?;
/// assert_eq!(ops::round(&x, 0)?.to_vec::<f32>()?, [2.0, -1.0]);
/// assert_eq!(ops::round(&x, 1)?.to_vec::<f32>()?, [2.5, -1.3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn round(x: impl Into<Operand>, decimals: i32) -> Result<Array> {
    let x = x.into().into_own_array()?;
    let dtype = x.dtype();
    if decimals == 0 || (decimals > 0 && !dtype.is_inexact()) {
        return unary(primitive::Round, x);
    }
    let scale = 10f64.powi(decimals.saturating_abs());
    let x = astype(&x, dtype.at_least_float())?;
    let rounded = match decimals > 0 {
        true => divide(unary(primitive::Round, multiply(x, scale)?)?, scale)?,
        false => multiply(unary(primitive::Round, divide(x, scale)?)?, scale)?,
    };
    astype(&rounded, dtype)
}

/// Whether one is nonzero and the other is not.
///
/// # Errors
/// Where the shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops};
/// assert!(ops::logical_xor(2, 0)?.item::<bool>()?);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn logical_xor(a: impl Into<Operand>, b: impl Into<Operand>) -> Result<Array> {
    binary_bool(bits(BitwiseOp::Xor), a, b)
}

/// [`floor_divide`] and [`remainder`] at once.
///
/// # Errors
/// Where the shapes do not broadcast together, or numbers are complex.
///
/// ```
/// # use motet::{Array, ops};
/// let (quotient, remainder) = ops::divmod(-7, 2)?;
/// assert_eq!((quotient.item::<i32>()?, remainder.item::<i32>()?), (-4, 1));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn divmod(a: impl Into<Operand>, b: impl Into<Operand>) -> Result<(Array, Array)> {
    let operands = apply::promote([a.into(), b.into()])?;
    let operands = apply::broadcast("divmod", operands)?;
    let mut both = apply(primitive::DivMod, &operands)?;
    let remainder = both.swap_remove(1);
    Ok((both.swap_remove(0), remainder))
}
