//! Arrays put together and taken apart: along a dimension, repeated, reversed, rotated.

use motet_core::array::Array;
use motet_core::array::apply::apply_one;
use motet_core::error::{Error, Result};
use motet_core::ops::assemble::Concatenate;
use motet_core::ops::slicing::Slice;

use super::shape::{flat, reshape_to};
use super::slice::slice_axis;
use super::{Axes, axis_of, broadcast_to, dims, expand_dims, promote_all, squeeze, with};

/// The arrays, promoted to one dtype, one after the other along a dimension; with `None` all their
/// elements in one dimension.
///
/// # Errors
/// Where there are no arrays, or they differ in another dimension.
///
/// ```
/// # use motet::{Array, ops};
/// let (a, b) = (Array::from_slice(&[1, 2], [2])?, Array::from_slice(&[3], [1])?);
/// assert_eq!(ops::concatenate(&[a, b], 0)?.to_vec::<i32>()?, [1, 2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
#[doc(alias = "concat")]
pub fn concatenate(arrays: &[Array], axis: impl Into<Option<i32>>) -> Result<Array> {
    let (arrays, axis) = match axis.into() {
        Some(axis) => (arrays.to_vec(), axis),
        None => (arrays.iter().map(flat).collect::<Result<_>>()?, 0),
    };
    let Some(first) = arrays.first() else {
        return Err(Error::invalid("concatenate", "got no arrays"));
    };
    let axis = axis_of("concatenate", axis, first)? as i32;
    match arrays.len() {
        1 => Ok(first.clone()),
        _ => apply_one(Concatenate { axis }, &promote_all(&arrays)?),
    }
}

/// The arrays, promoted to one dtype, one after the other along a new dimension.
///
/// # Errors
/// Where there are no arrays, or their shapes differ.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::stack(&[x.clone(), x], 1)?.to_vec::<i32>()?, [1, 1, 2, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn stack(arrays: &[Array], axis: i32) -> Result<Array> {
    let Some(first) = arrays.first() else {
        return Err(Error::invalid("stack", "got no arrays"));
    };
    if arrays.iter().any(|array| array.shape() != first.shape()) {
        let specs: Vec<_> = arrays.iter().map(Array::spec).collect();
        return Err(Error::invalid(
            "stack",
            format!("got {specs:?}, expected arrays of one shape"),
        ));
    }
    let expanded = arrays.iter().map(|array| expand_dims(array, axis));
    concatenate(&expanded.collect::<Result<Vec<_>>>()?, axis)
}

/// The parts along a dimension, without it.
///
/// # Errors
/// Where the axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// let columns = ops::unstack(&x, 1)?;
/// assert_eq!(columns[0].to_vec::<i32>()?, [1, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn unstack(x: &Array, axis: i32) -> Result<Vec<Array>> {
    let axis = axis_of("unstack", axis, x)?;
    let parts = 0..x.shape()[axis];
    parts
        .map(|i| squeeze(&slice_axis(x, axis, i, i + 1)?, axis as i32))
        .collect()
}

/// Where [`split`] splits: into equal parts (a number), or before indices (several).
#[derive(Clone, Debug)]
pub enum Sections {
    /// This many parts of equal size.
    Equal(i32),
    /// Part `i` ends, and part `i + 1` begins, at index `i`; negative ones count from the end.
    At(Vec<i32>),
}

impl From<i32> for Sections {
    fn from(parts: i32) -> Sections {
        Sections::Equal(parts)
    }
}

impl<const N: usize> From<[i32; N]> for Sections {
    fn from(indices: [i32; N]) -> Sections {
        Sections::At(indices.to_vec())
    }
}

impl From<&[i32]> for Sections {
    fn from(indices: &[i32]) -> Sections {
        Sections::At(indices.to_vec())
    }
}

/// Parts of a dimension, one after the other.
///
/// # Errors
/// Where the axis is out of range, or its size is not a multiple of the number of parts.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 6, 1, None)?;
/// assert_eq!(ops::split(&x, 3, 0)?[1].to_vec::<i32>()?, [2, 3]);
/// assert_eq!(ops::split(&x, [1, 5], 0)?[1].to_vec::<i32>()?, [1, 2, 3, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn split(x: &Array, indices_or_sections: impl Into<Sections>, axis: i32) -> Result<Vec<Array>> {
    let axis = axis_of("split", axis, x)?;
    let size = x.shape()[axis];
    let ends: Vec<usize> = match indices_or_sections.into() {
        Sections::Equal(parts) => {
            let count = usize::try_from(parts).ok();
            match count.filter(|&count| count > 0 && size.is_multiple_of(count)) {
                Some(count) => (1..=count).map(|part| part * (size / count)).collect(),
                None => {
                    return Err(Error::invalid(
                        "split",
                        format!("axis {axis} of {} has not {parts} equal parts", x.shape()),
                    ));
                }
            }
        }
        Sections::At(indices) => {
            let from_end = |i: i32| i64::from(i) + if i < 0 { size as i64 } else { 0 };
            let inside = |i: i32| from_end(i).clamp(0, size as i64) as usize;
            indices.into_iter().map(inside).chain([size]).collect()
        }
    };
    let starts = [0].into_iter().chain(ends.iter().copied());
    let bounds = starts.zip(&ends);
    bounds
        .map(|(start, &end)| slice_axis(x, axis, start, end.max(start)))
        .collect()
}

/// Each element along a dimension several times; with `None` each of all elements, in one dimension.
///
/// # Errors
/// Where the axis is out of range, or the result is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::repeat(&x, 2, 0)?.to_vec::<i32>()?, [1, 1, 2, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn repeat(x: &Array, repeats: usize, axis: impl Into<Option<i32>>) -> Result<Array> {
    let (x, axis) = match axis.into() {
        Some(axis) => (x.clone(), axis),
        None => (flat(x)?, 0),
    };
    let axis = axis_of("repeat", axis, &x)?;
    let mut shape = x.shape().to_vec();
    shape.insert(axis + 1, repeats);
    let repeated = broadcast_to(&expand_dims(&x, axis as i32 + 1)?, shape.clone())?;
    shape.remove(axis + 1);
    shape[axis] *= repeats;
    reshape_to(&repeated, &shape)
}

/// One number or several: `2`, `[1, 2]`.
#[derive(Clone, Debug)]
pub struct Ints(Vec<i32>);

impl From<i32> for Ints {
    fn from(number: i32) -> Ints {
        Ints(vec![number])
    }
}

impl<const N: usize> From<[i32; N]> for Ints {
    fn from(numbers: [i32; N]) -> Ints {
        Ints(numbers.to_vec())
    }
}

impl From<&[i32]> for Ints {
    fn from(numbers: &[i32]) -> Ints {
        Ints(numbers.to_vec())
    }
}

/// The array side by side with itself: `reps` times along each of the last dimensions, or along new
/// leading ones where there are more numbers than dimensions.
///
/// # Errors
/// Where a number is negative, or the result is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::tile(&x, 2)?.to_vec::<i32>()?, [1, 2, 1, 2]);
/// assert_eq!(*ops::tile(&x, [3, 1])?.shape(), [3, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn tile(x: &Array, reps: impl Into<Ints>) -> Result<Array> {
    let Ints(reps) = reps.into();
    let rank = reps.len().max(x.shape().len());
    let mut repeated = vec![];
    let mut single = vec![];
    let mut merged = vec![];
    for i in 0..rank {
        let times = match (i + reps.len()).checked_sub(rank) {
            Some(j) => usize::try_from(reps[j]).map_err(|_| {
                Error::invalid(
                    "tile",
                    format!("got {reps:?}, expected no negative numbers"),
                )
            })?,
            None => 1,
        };
        let dim = (i + x.shape().len())
            .checked_sub(rank)
            .map_or(1, |j| x.shape()[j]);
        single.extend([1, dim]);
        repeated.extend([times, dim]);
        merged.push(times.saturating_mul(dim));
    }
    let tiled = broadcast_to(&reshape_to(x, &single)?, repeated)?;
    reshape_to(&tiled, &merged)
}

/// The elements in reverse order along these axes, or all (`..`).
///
/// # Errors
/// Where an axis is out of range or named twice.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::flip(&x, 1)?.to_vec::<i32>()?, [2, 1, 4, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn flip(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into().of("flip", x.shape().len())?;
    let end = dims(x.shape());
    let mut slice = Slice {
        start: vec![0; end.len()],
        strides: vec![1; end.len()],
        end,
    };
    for axis in axes.into_iter().map(|axis| axis as usize) {
        let dim = slice.end[axis];
        // The end is before the first element, and not counted from the last one.
        (slice.start[axis], slice.end[axis], slice.strides[axis]) = (dim - 1, -dim - 1, -1);
    }
    with(slice, x)
}

/// The elements moved on along axes; those that leave at the end come in at the start. One shift is
/// for all of the axes, several are for one axis each, and all axes (`..`) are taken as one
/// dimension, along which elements move by the sum of the shifts.
///
/// # Errors
/// Where an axis is out of range, or shifts are not as many as axes.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::roll(&x, 1, ..)?.to_vec::<i32>()?, [4, 1, 2, 3]);
/// assert_eq!(ops::roll(&x, -1, 0)?.to_vec::<i32>()?, [3, 4, 1, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn roll(x: &Array, shift: impl Into<Ints>, axes: impl Into<Axes>) -> Result<Array> {
    let (Ints(shifts), axes) = (shift.into(), axes.into());
    let sum = shifts.iter().map(|&shift| i64::from(shift)).sum();
    match axes.as_given() {
        None => reshape_to(&roll_axis(&flat(x)?, sum, 0)?, x.shape()),
        Some(&[axis]) => roll_axis(x, sum, axis),
        Some(axes) => {
            let shift = |i: usize| match shifts[..] {
                [shift] => Some(shift),
                _ => shifts.get(i).copied(),
            };
            if shifts.len() != 1 && shifts.len() != axes.len() {
                return Err(Error::invalid(
                    "roll",
                    format!("got shifts {shifts:?} for axes {axes:?}, expected one for each"),
                ));
            }
            let mut rolled = x.clone();
            for (i, &axis) in axes.iter().enumerate() {
                rolled = roll_axis(&rolled, shift(i).map_or(0, i64::from), axis)?;
            }
            Ok(rolled)
        }
    }
}

fn roll_axis(x: &Array, shift: i64, axis: i32) -> Result<Array> {
    let axis = axis_of("roll", axis, x)?;
    let size = x.shape()[axis];
    let at = match size {
        0 => 0,
        _ => (-shift).rem_euclid(size as i64) as usize,
    };
    match at {
        0 => Ok(x.clone()),
        _ => concatenate(
            &[slice_axis(x, axis, at, size)?, slice_axis(x, axis, 0, at)?],
            axis as i32,
        ),
    }
}
