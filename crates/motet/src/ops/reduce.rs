//! Reductions: from many elements to one.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Reduction;
use motet_core::ops::reduce as primitive;
use motet_core::ops::reduce::{ArgReduce, ArgReduction, LogSumExp, Reduce};
use motet_core::ops::shape::Squeeze;

use super::shape::{flat, reshape_to};
use super::{
    Axes, add, divide, exp, expand_dims, flatten, keepdims, log, not_equal, other_axes, squeeze,
    subtract, transpose, with,
};

macro_rules! reductions {
    ($($(#[$meta:meta])* $name:ident = $op:ident: $type:ident $rows:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        /// Where an axis is out of range or named twice.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2, 0, 4], [2, 2])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x, -1)?.to_vec::<", stringify!($type), ">()?, ", $rows, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
            reduce(stringify!($name), Reduction::$op, x, &axes.into())
        }
    )*};
}

reductions! {
    /// Whether all elements along axes are nonzero; true where there are none.
    all = And: bool "[true, false]";
    /// Whether an element along axes is nonzero; false where there are none.
    any = Or: bool "[true, true]";
    /// The greatest element along axes; NaN where there is one. It is an error where there are none.
    max = Max: i32 "[2, 4]";
    /// The least element along axes; NaN where there is one. It is an error where there are none.
    min = Min: i32 "[1, 0]";
    /// The product over axes: of integers of up to 32 bits in int32 or uint32, and wrapping.
    prod = Prod: i32 "[2, 0]";
    /// The sum over axes: of integers of up to 32 bits in int32 or uint32, and wrapping.
    sum = Sum: i32 "[3, 4]";
}

fn reduce(name: &str, op: Reduction, x: &Array, axes: &Axes) -> Result<Array> {
    let over = axes.of(name, x.shape().len())?;
    if over.is_empty() {
        // Nothing to reduce, but to the result's dtype.
        return match op {
            Reduction::And | Reduction::Or => astype(x, Dtype::Bool),
            _ => Ok(x.clone()),
        };
    }
    let reduced = Reduce {
        op,
        axes: over.clone(),
    };
    let reduced = with(reduced, x)?;
    match axes.keepdims() {
        true => Ok(reduced),
        false => with(Squeeze { axes: over }, &reduced),
    }
}

/// The least and the greatest element along axes.
///
/// # Errors
/// As [`min`].
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[3, 1, 2], [3])?;
/// let (low, high) = ops::minmax(&x, ..)?;
/// assert_eq!((low.item::<i32>()?, high.item::<i32>()?), (1, 3));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn minmax(x: &Array, axes: impl Into<Axes>) -> Result<(Array, Array)> {
    let axes = axes.into();
    Ok((min(x, axes.clone())?, max(x, axes)?))
}

/// How many elements along axes are nonzero, int32.
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 0, 2], [3])?;
/// assert_eq!(ops::count_nonzero(&x, ..)?.item::<i32>()?, 2);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn count_nonzero(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    sum(&astype(&not_equal(x, 0)?, Dtype::Int32)?, axes)
}

macro_rules! arg_reductions {
    ($($name:ident $op:ident $which:literal $result:literal;)*) => {$(
        #[doc = concat!("The index (uint32) of the ", $which, " element along an axis, or among all elements (`..`): of")]
        /// the first one where several are, and of the first NaN where there is one.
        ///
        /// # Errors
        /// Where there are no elements, the axis is out of range, or several are named.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 7, 5, 0], [2, 2])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x, ..)?.item::<u32>()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array, axis: impl Into<Axes>) -> Result<Array> {
            arg_reduce(stringify!($name), ArgReduction::$op, x, &axis.into())
        }
    )*};
}

arg_reductions! {
    argmax Max "greatest" 1;
    argmin Min "least" 3;
}

fn arg_reduce(name: &str, op: ArgReduction, x: &Array, axis: &Axes) -> Result<Array> {
    let Some(listed) = axis.as_given() else {
        let index = with(ArgReduce { op, axis: 0 }, &flat(x)?)?;
        let kept = match axis.keepdims() {
            true => x.shape().len(),
            false => 0,
        };
        return reshape_to(&index, &vec![1; kept]);
    };
    let &[along] = &axis.of(name, x.shape().len())?[..] else {
        return Err(Error::invalid(
            name,
            format!("got axes {listed:?}, expected one or all"),
        ));
    };
    let index = with(ArgReduce { op, axis: along }, x)?;
    match axis.keepdims() {
        true => Ok(index),
        false => squeeze(&index, along),
    }
}

/// `x` with these dimensions, ascending, as one last dimension.
pub(super) fn merge(x: &Array, axes: &[i32]) -> Result<Array> {
    let rank = x.shape().len();
    let kept = other_axes(rank, axes);
    let moved = transpose(x, [&kept[..], axes].concat())?;
    match axes.len() {
        0 => expand_dims(&moved, -1),
        _ => flatten(&moved, kept.len() as i32, -1),
    }
}

/// A result of which the last dimension, made by [`merge`], has become one: without it, or with each
/// of the merged dimensions at size one.
pub(super) fn unmerge(reduced: &Array, axes: &Axes, over: &[i32]) -> Result<Array> {
    let reduced = squeeze(reduced, -1)?;
    match axes.keepdims() {
        true => expand_dims(&reduced, over),
        false => Ok(reduced),
    }
}

/// `log(sum(exp(x)))` over axes, without overflow; float32 for integers.
///
/// # Errors
/// Where there are no elements, or an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1000.0f32, 1000.0], [2])?;
/// assert!((ops::logsumexp(&x, ..)?.item::<f32>()? - 1000.6931).abs() < 1e-3);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn logsumexp(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let over = axes.of("logsumexp", x.shape().len())?;
    if x.shape().contains(&0) {
        return Err(Error::invalid(
            "logsumexp",
            format!("got {}, expected elements", x.spec()),
        ));
    }
    let x = astype(x, x.dtype().at_least_float())?;
    let merged = merge(&x, &over)?;
    let reduced = match x.dtype() {
        // There is no kernel for complex numbers.
        Dtype::Complex64 => {
            let (exps, greatest) = exponentials(&merged)?;
            add(log(sum(&exps, keepdims(-1))?)?, greatest)?
        }
        _ => with(LogSumExp, &merged)?,
    };
    unmerge(&reduced, &axes, &over)
}

/// `exp(x - max(x))` over the last dimension, and `max(x)`.
fn exponentials(x: &Array) -> Result<(Array, Array)> {
    let greatest = max(x, keepdims(-1))?;
    Ok((exp(subtract(x, &greatest)?)?, greatest))
}

/// `exp(x) / sum(exp(x))` over axes; float32 for integers. Half types are always computed in float32
/// inside, as MLX does with `precise=True`.
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[2.0f32, 2.0], [2])?;
/// assert_eq!(ops::softmax(&x, -1)?.to_vec::<f32>()?, [0.5, 0.5]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn softmax(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let rank = x.shape().len();
    let over = axes.into().of("softmax", rank)?;
    let x = astype(x, x.dtype().at_least_float())?;
    if x.shape().contains(&0) {
        return Ok(x);
    }
    let merged = merge(&x, &over)?;
    let softmax = match x.dtype() {
        // There is no kernel for complex numbers.
        Dtype::Complex64 => {
            let (exps, _) = exponentials(&merged)?;
            divide(&exps, sum(&exps, keepdims(-1))?)?
        }
        _ => with(primitive::Softmax { precise: true }, &merged)?,
    };
    let moved = [other_axes(rank, &over), over].concat();
    let shape: Vec<usize> = moved.iter().map(|&axis| x.shape()[axis as usize]).collect();
    let place = |axis| moved.iter().position(|&from| from == axis);
    let back: Vec<i32> = (0..rank as i32)
        .filter_map(|axis| place(axis).map(|place| place as i32))
        .collect();
    transpose(&reshape_to(&softmax, &shape)?, back)
}

/// Options of [`number_of_elements`].
#[derive(Clone, Copy, Debug)]
pub struct NumberOfElements {
    /// One over the number.
    pub inverted: bool,
    /// The dtype of the result.
    pub dtype: Dtype,
}

impl Default for NumberOfElements {
    fn default() -> NumberOfElements {
        NumberOfElements {
            inverted: false,
            dtype: Dtype::Int32,
        }
    }
}

/// The number of elements along axes, as an array: in a function that is exported for any shape it
/// follows the shape.
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3], None)?;
/// assert_eq!(ops::number_of_elements(&x, .., Default::default())?.item::<i32>()?, 6);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn number_of_elements(
    x: &Array,
    axes: impl Into<Axes>,
    options: NumberOfElements,
) -> Result<Array> {
    let number = primitive::NumberOfElements {
        axes: axes.into().of("number_of_elements", x.shape().len())?,
        inverted: options.inverted,
        dtype: options.dtype,
    };
    with(number, x)
}
