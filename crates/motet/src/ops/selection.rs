//! Choices between elements, and questions about them.

use motet_core::array::apply::{apply_one, astype, binary, broadcast, promote};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::elementwise::{Equal, Select};

use super::{
    abs, add, all, equal, full, imag, less_equal, logical_and, logical_not, logical_or, maximum,
    minimum, multiply, not_equal, real, subtract,
};

/// `x` where the condition is nonzero, else `y`. MLX's `where`; all three broadcast to one shape.
///
/// # Errors
/// Where the shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops};
/// let condition = Array::from_slice(&[true, false], [2])?;
/// assert_eq!(ops::where_(condition, 1, 2)?.to_vec::<i32>()?, [1, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
#[doc(alias = "where")]
pub fn where_(
    condition: impl Into<Operand>,
    x: impl Into<Operand>,
    y: impl Into<Operand>,
) -> Result<Array> {
    let condition = condition.into().into_array(Dtype::Bool)?;
    let [x, y] = promote([x.into(), y.into()])?;
    apply_one(Select, &broadcast("where_", [condition, x, y])?)
}

/// A bound of [`clip`]: a number, an array, or `None`.
#[derive(Clone, Debug)]
pub struct Bound(Option<Operand>);

impl From<Option<Operand>> for Bound {
    fn from(bound: Option<Operand>) -> Bound {
        Bound(bound)
    }
}

macro_rules! bounds {
    ($($type:ty)*) => {
        $(impl From<$type> for Bound {
            fn from(bound: $type) -> Bound {
                Bound(Some(bound.into()))
            }
        })*
    };
}

bounds! { Operand Array &Array i32 i64 f32 f64 }

/// `x` with what is less than `a_min` replaced by it, then what is greater than `a_max` by that.
///
/// # Errors
/// Where both bounds are `None`, or shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3], [3])?;
/// assert_eq!(ops::clip(&x, 2, None)?.to_vec::<i32>()?, [2, 2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn clip(
    x: impl Into<Operand>,
    a_min: impl Into<Bound>,
    a_max: impl Into<Bound>,
) -> Result<Array> {
    match (a_min.into(), a_max.into()) {
        (Bound(None), Bound(None)) => Err(Error::invalid("clip", "got no bounds")),
        (Bound(Some(low)), Bound(None)) => maximum(x, low),
        (Bound(None), Bound(Some(high))) => minimum(x, high),
        (Bound(Some(low)), Bound(Some(high))) => minimum(maximum(x, low)?, high),
    }
}

/// Options of [`nan_to_num`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NanToNum {
    /// What replaces NaN.
    pub nan: f64,
    /// What replaces infinity; the greatest finite number if `None`.
    pub posinf: Option<f64>,
    /// What replaces minus infinity; the least finite number if `None`.
    pub neginf: Option<f64>,
}

/// `x` with NaN and infinities replaced by finite numbers. Integers stay as they are.
///
/// # Errors
/// For complex64.
///
/// ```
/// # use motet::{Array, ops, ops::NanToNum};
/// let x = Array::from_slice(&[f32::NAN, f32::INFINITY], [2])?;
/// let options = NanToNum { posinf: Some(9.0), ..Default::default() };
/// assert_eq!(ops::nan_to_num(&x, options)?.to_vec::<f32>()?, [0.0, 9.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn nan_to_num(x: impl Into<Operand>, options: NanToNum) -> Result<Array> {
    let x = x.into().into_own_array()?;
    let greatest = match x.dtype() {
        Dtype::Float16 => half::f16::MAX.to_f64(),
        Dtype::Bfloat16 => half::bf16::MAX.to_f64(),
        Dtype::Float32 => f64::from(f32::MAX),
        Dtype::Float64 => f64::MAX,
        Dtype::Complex64 => {
            return Err(Error::invalid(
                "nan_to_num",
                "got complex64, expected real numbers",
            ));
        }
        _ => return Ok(x),
    };
    let y = where_(isnan(&x)?, options.nan, &x)?;
    let y = where_(isposinf(&x)?, options.posinf.unwrap_or(greatest), y)?;
    where_(isneginf(&x)?, options.neginf.unwrap_or(-greatest), y)
}

macro_rules! questions {
    ($($(#[$meta:meta])* $name:ident = |$x:ident| $answer:expr, integers: $integers:literal, example: $result:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        /// None that a user can cause.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1.0f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY], [4])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x)?.to_vec::<bool>()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: impl Into<Operand>) -> Result<Array> {
            let $x = x.into().into_own_array()?;
            match $x.dtype().is_inexact() {
                true => $answer,
                false => full($x.shape().clone(), $integers, None),
            }
        }
    )*};
}

questions! {
    /// Whether each element is neither infinite nor NaN.
    isfinite = |x| logical_not(logical_or(isinf(&x)?, isnan(&x)?)?),
        integers: true, example: "[true, false, false, false]";
    /// Whether each element is infinite; of a complex number, whether one of its parts is.
    isinf = |x| match x.dtype() {
        Dtype::Complex64 => logical_or(isinf(real(&x)?)?, isinf(imag(&x)?)?),
        _ => equal(abs(x)?, f64::INFINITY),
    }, integers: false, example: "[false, false, true, true]";
    /// Whether each element is NaN; of a complex number, whether one of its parts is.
    isnan = |x| not_equal(&x, &x), integers: false, example: "[false, true, false, false]";
    /// Whether each element is minus infinity.
    isneginf = |x| equal(x, f64::NEG_INFINITY), integers: false, example: "[false, false, false, true]";
    /// Whether each element is infinity.
    isposinf = |x| equal(x, f64::INFINITY), integers: false, example: "[false, false, true, false]";
}

/// Options of [`isclose`] and [`allclose`].
#[derive(Clone, Copy, Debug)]
pub struct IsClose {
    /// How far apart numbers may be, relative to the second one.
    pub rtol: f64,
    /// How far apart numbers may be, besides.
    pub atol: f64,
    /// Whether NaN is close to NaN.
    pub equal_nan: bool,
}

impl Default for IsClose {
    fn default() -> IsClose {
        IsClose {
            rtol: 1e-5,
            atol: 1e-8,
            equal_nan: false,
        }
    }
}

/// Whether `|a - b| <= atol + rtol * |b|`. Infinities are close to themselves alone.
///
/// # Errors
/// Where shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops, ops::IsClose};
/// let x = Array::from_slice(&[1.0f32, 1.1], [2])?;
/// assert_eq!(ops::isclose(&x, 1.0, IsClose::default())?.to_vec::<bool>()?, [true, false]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn isclose(a: impl Into<Operand>, b: impl Into<Operand>, options: IsClose) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    let dtype = a.dtype().at_least_float();
    let (a, b) = (astype(&a, dtype)?, astype(&b, dtype)?);
    let limit = add(multiply(abs(&b)?, options.rtol)?, options.atol)?;
    let near = less_equal(abs(subtract(&a, &b)?)?, limit)?;
    let infinite = logical_or(isinf(&a)?, isinf(&b)?)?;
    let close = where_(infinite, equal(&a, &b)?, near)?;
    match options.equal_nan {
        true => logical_or(close, logical_and(isnan(a)?, isnan(b)?)?),
        false => Ok(close),
    }
}

/// Whether all elements are close, as in [`isclose`].
///
/// # Errors
/// Where shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops, ops::IsClose};
/// let x = Array::from_slice(&[1.0f32, 1.0], [2])?;
/// assert!(ops::allclose(&x, 1.0, IsClose::default())?.item::<bool>()?);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn allclose(a: impl Into<Operand>, b: impl Into<Operand>, options: IsClose) -> Result<Array> {
    all(&isclose(a, b, options)?, ..)
}

/// Options of [`array_equal`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrayEqual {
    /// Whether NaN equals NaN.
    pub equal_nan: bool,
}

/// Whether two arrays have the same shape and equal elements.
///
/// # Errors
/// None that a user can cause.
///
/// ```
/// # use motet::{Array, ops, ops::ArrayEqual};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// let y = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// assert!(ops::array_equal(x, y, ArrayEqual::default())?.item::<bool>()?);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn array_equal(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    options: ArrayEqual,
) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    match a.shape() == b.shape() {
        true => {
            let equal_nan = options.equal_nan;
            all(&binary(Equal { equal_nan }, a, b)?, ..)
        }
        false => Ok(Array::from(false)),
    }
}
