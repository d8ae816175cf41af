//! Orders: sorting, the greatest elements, the distinct ones, places in a sorted sequence.

use motet_core::array::apply::{apply_one, astype, promote};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::sort as primitive;

use super::shape::{flat, reshape_to};
use super::slice::slice_axis;
use super::{
    Scan, axis_of, concatenate, cumsum, equal, full, minimum, not_equal, ones, put_along_axis,
    scatter, scatter_add, scatter_min, take, where_, with, zeros,
};

/// `x` and a dimension of it; with `None` its elements in one dimension.
fn along(name: &str, x: &Array, axis: Option<i32>) -> Result<(Array, i32)> {
    match axis {
        Some(axis) => Ok((x.clone(), axis_of(name, axis, x)? as i32)),
        None => Ok((flat(x)?, 0)),
    }
}

macro_rules! sorts {
    ($($(#[$meta:meta])* $name:ident = $primitive:ident: $type:ident $result:literal;)*) => {$(
        $(#[$meta])*
        /// along a dimension, or of all elements (`None`) in one dimension: ascending, equal ones in
        /// the order that they have, NaN last.
        ///
        /// # Errors
        /// Where the axis is out of range.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[3, 1, 2], [3])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x, -1)?.to_vec::<", stringify!($type), ">()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array, axis: impl Into<Option<i32>>) -> Result<Array> {
            let (x, axis) = along(stringify!($name), x, axis.into())?;
            with(primitive::$primitive { axis }, &x)
        }
    )*};
}

sorts! {
    /// The indices (uint32) that sort the elements
    argsort = ArgSort: u32 "[1, 2, 0]";
    /// The elements in order
    sort = Sort: i32 "[1, 2, 3]";
}

macro_rules! partitions {
    ($($(#[$meta:meta])* $name:ident = $primitive:ident: $type:ident $result:literal;)*) => {$(
        $(#[$meta])*
        /// that put element `kth` in its place of the order along a dimension, or of all elements
        /// (`None`) in one dimension, smaller ones before it and greater ones after. A negative `kth`
        /// counts from the end.
        ///
        /// # Errors
        /// Where the axis or `kth` is out of range.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[3, 1, 2], [3])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x, 1, -1)?.to_vec::<", stringify!($type), ">()?[1], ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array, kth: i32, axis: impl Into<Option<i32>>) -> Result<Array> {
            let (x, axis) = along(stringify!($name), x, axis.into())?;
            with(primitive::$primitive { kth, axis }, &x)
        }
    )*};
}

partitions! {
    /// The indices (uint32)
    argpartition = ArgPartition: u32 "2";
    /// The elements in an order
    partition = Partition: i32 "2";
}

/// The `k` greatest elements along a dimension, or of all (`None`); in which order is not said.
///
/// # Errors
/// Where the axis is out of range, or there are fewer elements.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[3, 1, 2], [3])?;
/// let mut top = ops::topk(&x, 2, -1)?.to_vec::<i32>()?;
/// top.sort();
/// assert_eq!(top, [2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn topk(x: &Array, k: usize, axis: impl Into<Option<i32>>) -> Result<Array> {
    let (x, axis) = along("topk", x, axis.into())?;
    let size = x.shape()[axis as usize];
    let Some(first) = size.checked_sub(k) else {
        return Err(Error::invalid(
            "topk",
            format!("axis {axis} of {} has no {k} elements", x.shape()),
        ));
    };
    let parted = match k {
        0 => x,
        _ => partition(&x, first as i32, axis)?,
    };
    slice_axis(&parted, axis as usize, first, size)
}

/// Which place [`searchsorted`] gives for a value that the sequence has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// That before the first of its equals.
    #[default]
    Left,
    /// That after the last of its equals.
    Right,
}

/// The place (uint32) at which each value would have to be put into a sorted vector so that it stays
/// sorted; NaN is after all numbers.
///
/// # Errors
/// Where the sequence is not a vector.
///
/// ```
/// # use motet::{Array, ops, ops::Side};
/// let sorted = Array::from_slice(&[1, 3, 3, 5], [4])?;
/// let place = |side| ops::searchsorted(&sorted, 3, side)?.item::<u32>();
/// assert_eq!((place(Side::Left)?, place(Side::Right)?), (1, 3));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn searchsorted(
    sorted_sequence: &Array,
    values: impl Into<Operand>,
    side: Side,
) -> Result<Array> {
    let right = side == Side::Right;
    let both = promote([sorted_sequence.into(), values.into()])?;
    apply_one(primitive::SearchSorted { right }, &both)
}

/// What [`unique`] finds.
#[derive(Clone, Debug)]
pub struct Unique {
    /// The distinct elements in ascending order.
    pub values: Array,
    /// The index (uint32) of the first element of each value, in the flattened array.
    pub index: Array,
    /// The index (uint32) of each element's value, in the shape of the array.
    pub inverse: Array,
    /// How many elements (int32) have each value.
    pub counts: Array,
}

/// The first `size` distinct elements of all in ascending order. Shapes cannot depend on values:
/// where there are fewer, the fill value comes after them, or the least element if it is `None`,
/// with the index of the least element and a count of 0. Results that are not used cost nothing.
///
/// # Errors
/// Where there are no elements, `size` is not 0, and no fill value is given.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[3, 1, 3, 2], [4])?;
/// let unique = ops::unique(&x, 4, Some(0.into()))?;
/// assert_eq!(unique.values.to_vec::<i32>()?, [1, 2, 3, 0]);
/// assert_eq!(unique.index.to_vec::<u32>()?, [1, 3, 0, 1]);
/// assert_eq!(unique.inverse.to_vec::<u32>()?, [2, 0, 2, 1]);
/// assert_eq!(unique.counts.to_vec::<i32>()?, [1, 1, 2, 0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn unique(x: &Array, size: usize, fill_value: Option<Operand>) -> Result<Unique> {
    let elements = flat(x)?;
    let fill = match fill_value {
        Some(fill) => Some(reshape_to(&fill.into_array(x.dtype())?, &[])?),
        None => None,
    };
    if elements.shape()[0] == 0 || size == 0 {
        let fill = match (fill, size) {
            (Some(fill), _) => fill,
            (None, 0) => zeros([], x.dtype())?,
            (None, _) => {
                return Err(Error::invalid(
                    "unique",
                    format!(
                        "{} has no elements that could fill {size} places; give a fill value",
                        x.spec()
                    ),
                ));
            }
        };
        return Ok(Unique {
            values: full([size], fill, x.dtype())?,
            index: zeros([size], Dtype::Uint32)?,
            inverse: zeros(x.shape().clone(), Dtype::Uint32)?,
            counts: zeros([size], Dtype::Int32)?,
        });
    }
    // Equal elements are neighbours once sorted: number the groups of them from 0. Those behind
    // `size` share a place that is cut off.
    let count = elements.shape()[0];
    let order = argsort(&elements, 0)?;
    let sorted = take(&elements, &order, 0)?;
    let starts = not_equal(
        slice_axis(&sorted, 0, 1, count)?,
        slice_axis(&sorted, 0, 0, count - 1)?,
    )?;
    let starts = concatenate(&[zeros([1], Dtype::Bool)?, starts], 0)?;
    let group = cumsum(&starts, 0, Scan::default())?;
    let place = minimum(&group, size as i64)?;
    let padded = size.saturating_add(1);
    let places = std::slice::from_ref(&place);
    let cut = |x: Array| slice_axis(&x, 0, 0, size);
    let rows = |x: &Array| reshape_to(x, &[count, 1]);

    let ones = ones([count, 1], Dtype::Int32)?;
    let counts = scatter_add(&zeros([padded], Dtype::Int32)?, places, &ones, [0])?;
    let counts = cut(counts)?;
    let none = equal(&counts, 0)?;
    let least = slice_axis(&sorted, 0, 0, 1)?;
    let values = scatter(&zeros([padded], x.dtype())?, places, &rows(&sorted)?, [0])?;
    let values = where_(&none, fill.unwrap_or(least), cut(values)?)?;
    let last = full([padded], u32::MAX, Dtype::Uint32)?;
    let index = scatter_min(&last, places, &rows(&order)?, [0])?;
    let index = where_(&none, slice_axis(&order, 0, 0, 1)?, cut(index)?)?;
    let inverse = put_along_axis(
        &zeros([count], Dtype::Uint32)?,
        &order,
        astype(&minimum(group, size as i64 - 1)?, Dtype::Uint32)?,
        0,
    )?;
    Ok(Unique {
        values: astype(&values, x.dtype())?,
        index,
        inverse: reshape_to(&inverse, x.shape())?,
        counts,
    })
}
