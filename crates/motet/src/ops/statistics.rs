//! Mean, variance and median.

use motet_core::array::apply::astype;
use motet_core::array::{Array, Operand};
use motet_core::error::{Error, Result};

use super::reduce::{merge, unmerge};
use super::slice::slice_axis;
use super::{
    Axes, NumberOfElements, abs, add, divide, keepdims, maximum, multiply, not_equal,
    number_of_elements, sort, sqrt, square, subtract, sum, where_,
};

/// How many elements are along these axes, or one over that: an array where the shape is an example.
fn count(x: &Array, axes: &[i32], inverted: bool) -> Result<Operand> {
    if x.is_dynamic() {
        let dtype = x.dtype();
        let options = NumberOfElements { inverted, dtype };
        return Ok(number_of_elements(x, axes, options)?.into());
    }
    let sizes = axes.iter().map(|&axis| x.shape()[axis as usize]);
    let count = sizes.product::<usize>() as f64;
    Ok(if inverted { 1.0 / count } else { count }.into())
}

/// The mean over axes; float32 for integers, NaN where there are no elements.
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::mean(&x, 0)?.to_vec::<f32>()?, [2.0, 3.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn mean(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let over = axes.of("mean", x.shape().len())?;
    let x = astype(x, x.dtype().at_least_float())?;
    let share = count(&x, &over, true)?;
    multiply(sum(&x, axes)?, share)
}

/// The variance over axes: the sum of squared distances from the mean, divided by the number of
/// elements less `ddof`. float32 for integers and complex numbers.
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 3], [2])?;
/// assert_eq!(ops::var(&x, .., 0)?.item::<f32>()?, 1.0);
/// assert_eq!(ops::var(&x, .., 1)?.item::<f32>()?, 2.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn var(x: &Array, axes: impl Into<Axes>, ddof: usize) -> Result<Array> {
    let axes = axes.into();
    let over = axes.of("var", x.shape().len())?;
    let x = astype(x, x.dtype().at_least_float())?;
    let distance = abs(subtract(&x, mean(&x, keepdims(&over[..]))?)?)?;
    let degrees = match count(&distance, &over, false)? {
        Operand::Float(count) => Operand::from((count - ddof as f64).max(0.0)),
        count => maximum(subtract(count, ddof as f64)?, 0.0)?.into(),
    };
    divide(sum(&square(distance)?, axes)?, degrees)
}

/// The square root of [`var`].
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 5], [2])?;
/// assert_eq!(ops::std(&x, .., 0)?.item::<f32>()?, 2.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn std(x: &Array, axes: impl Into<Axes>, ddof: usize) -> Result<Array> {
    sqrt(var(x, axes, ddof)?)
}

/// The median over axes: the element in the middle of the order, or the mean of the two in the
/// middle; NaN where there is one. float32 for integers.
///
/// # Errors
/// Where there are no elements, or an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[5, 1, 2, 9], [4])?;
/// assert_eq!(ops::median(&x, ..)?.item::<f32>()?, 3.5);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn median(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let over = axes.of("median", x.shape().len())?;
    let merged = merge(&astype(x, x.dtype().at_least_float())?, &over)?;
    let last = merged.shape().len() - 1;
    let size = merged.shape()[last];
    if size == 0 {
        return Err(Error::invalid(
            "median",
            format!("got {}, expected elements", x.spec()),
        ));
    }
    let sorted = sort(&merged, -1)?;
    let at = |place: usize| slice_axis(&sorted, last, place, place + 1);
    let middle = match size % 2 {
        1 => at(size / 2)?,
        _ => multiply(add(at(size / 2 - 1)?, at(size / 2)?)?, 0.5)?,
    };
    // NaN is sorted to the end.
    let greatest = at(size - 1)?;
    let median = where_(not_equal(&greatest, &greatest)?, &greatest, middle)?;
    unmerge(&median, &axes, &over)
}
