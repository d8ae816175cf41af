//! The same elements in another shape. None of these copies, unless the memory order requires it.

use motet_core::array::Array;
use motet_core::array::apply;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::shape as primitive;
use motet_core::ops::slicing::AsStrided;
use motet_core::shape::Shape;

use super::{Axes, at_least_matrix, axis_of, dims, with};

/// `x` repeated along dimensions of size one, and new leading ones, to this shape.
///
/// # Errors
/// Where the shape is not one that `x` broadcasts to.
///
/// ```
/// # use motet::{Array, ops};
/// let row = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::broadcast_to(&row, [2, 2])?.to_vec::<i32>()?, [1, 2, 1, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn broadcast_to(x: &Array, shape: impl Into<Shape>) -> Result<Array> {
    apply::broadcast_to(x, &shape.into())
}

/// The arrays broadcast to one shape, each of its own dtype.
///
/// # Errors
/// Where the shapes do not broadcast together.
///
/// ```
/// # use motet::{Array, ops};
/// let row = Array::from_slice(&[1, 2], [2])?;
/// let both = ops::broadcast_arrays(&[row, Array::from(0.5f32)])?;
/// assert_eq!(both[1].to_vec::<f32>()?, [0.5, 0.5]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn broadcast_arrays(arrays: &[Array]) -> Result<Vec<Array>> {
    let mut shape = Shape::default();
    for array in arrays {
        shape = shape.broadcast(array.shape()).map_err(|error| {
            let specs: Vec<_> = arrays.iter().map(Array::spec).collect();
            error.context("broadcast_arrays", format!("got {specs:?}"))
        })?;
    }
    let each = arrays.iter();
    each.map(|array| apply::broadcast_to(array, &shape))
        .collect()
}

/// The elements, in row-major order, in another shape. One dimension may be -1: it follows from the
/// others.
///
/// # Errors
/// Where the shape has another number of elements.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 6, 1, None)?;
/// assert_eq!(*ops::reshape(&x, [2, -1])?.shape(), [2, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn reshape(x: &Array, shape: impl AsRef<[i32]>) -> Result<Array> {
    let shape = shape.as_ref().to_vec();
    with(primitive::Reshape { shape }, x)
}

/// As [`reshape`], to a shape without -1.
pub(super) fn reshape_to(x: &Array, shape: &[usize]) -> Result<Array> {
    match x.shape()[..] == *shape {
        true => Ok(x.clone()),
        false => reshape(x, dims(shape)),
    }
}

/// Merges the dimensions from `start_axis` to `end_axis` into one; a scalar gets one dimension. Axes
/// beyond the array's are taken as its first or last one.
///
/// # Errors
/// Where `start_axis` comes after `end_axis`.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3, 4], None)?;
/// assert_eq!(*ops::flatten(&x, 0, -1)?.shape(), [24].into());
/// assert_eq!(*ops::flatten(&x, 1, -1)?.shape(), [2, 12].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn flatten(x: &Array, start_axis: i32, end_axis: i32) -> Result<Array> {
    let rank = x.shape().len() as i32;
    if rank == 0 {
        return reshape(x, [1]);
    }
    let from_end = |axis: i32| if axis < 0 { axis + rank } else { axis };
    let start = from_end(start_axis).max(0);
    let end = from_end(end_axis).min(rank - 1);
    match start.cmp(&end) {
        std::cmp::Ordering::Less => with(
            primitive::Flatten {
                start_axis: start,
                end_axis: end,
            },
            x,
        ),
        std::cmp::Ordering::Equal => Ok(x.clone()),
        std::cmp::Ordering::Greater => Err(Error::invalid(
            "flatten",
            format!(
                "axes {start_axis} to {end_axis} of {} are not a range",
                x.shape()
            ),
        )),
    }
}

/// All elements in one dimension.
pub(super) fn flat(x: &Array) -> Result<Array> {
    flatten(x, 0, -1)
}

/// Splits one dimension into several, of which one may be -1.
///
/// # Errors
/// Where the axis is out of range, or the shape is empty or has another number of elements.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 6], None)?;
/// assert_eq!(*ops::unflatten(&x, -1, [3, -1])?.shape(), [2, 3, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn unflatten(x: &Array, axis: i32, shape: impl AsRef<[i32]>) -> Result<Array> {
    let shape = shape.as_ref().to_vec();
    if shape.is_empty() {
        return Err(Error::invalid("unflatten", "got an empty shape"));
    }
    let axis = axis_of("unflatten", axis, x)? as i32;
    with(primitive::Unflatten { axis, shape }, x)
}

/// Removes dimensions of size one: these, or all of them (`..`).
///
/// # Errors
/// Where an axis is out of range or has another size.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([1, 3, 1], None)?;
/// assert_eq!(*ops::squeeze(&x, ..)?.shape(), [3].into());
/// assert_eq!(*ops::squeeze(&x, 0)?.shape(), [3, 1].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn squeeze(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let axes = match axes.as_given() {
        Some(_) => axes.of("squeeze", x.shape().len())?,
        None => {
            let ones = x.shape().iter().enumerate().filter(|&(_, &dim)| dim == 1);
            ones.map(|(axis, _)| axis as i32).collect()
        }
    };
    match axes.is_empty() {
        true => Ok(x.clone()),
        false => with(primitive::Squeeze { axes }, x),
    }
}

/// Adds dimensions of size one; the axes are numbers of the result's dimensions.
///
/// # Errors
/// Where an axis is out of range or named twice, or no axes are named (`..`).
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([3], None)?;
/// assert_eq!(*ops::expand_dims(&x, [0, -1])?.shape(), [1, 3, 1].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn expand_dims(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let Some(listed) = axes.as_given() else {
        return Err(Error::invalid(
            "expand_dims",
            "got all axes, expected the numbers of new ones",
        ));
    };
    let axes = axes.of("expand_dims", x.shape().len() + listed.len())?;
    match axes.is_empty() {
        true => Ok(x.clone()),
        false => with(primitive::ExpandDims { axes }, x),
    }
}

/// Permutes dimensions: dimension `i` of the result is dimension `axes[i]` of `x`. With `..` their
/// order is reversed.
///
/// # Errors
/// Where the axes are not a permutation.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3, 4], None)?;
/// assert_eq!(*ops::transpose(&x, ..)?.shape(), [4, 3, 2].into());
/// assert_eq!(*ops::transpose(&x, [0, 2, 1])?.shape(), [2, 4, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
#[doc(alias = "permute_dims")]
pub fn transpose(x: &Array, axes: impl Into<Axes>) -> Result<Array> {
    let axes = axes.into();
    let permutation = match axes.as_given() {
        Some(listed) => listed.to_vec(),
        None => (0..x.shape().len() as i32).rev().collect(),
    };
    match permutation.iter().copied().eq(0..x.shape().len() as i32) {
        true => Ok(x.clone()),
        false => with(primitive::Transpose { permutation }, x),
    }
}

/// Transposes the last two dimensions.
///
/// # Errors
/// Where there are fewer than two.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3, 4], None)?;
/// assert_eq!(*ops::matrix_transpose(&x)?.shape(), [2, 4, 3].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn matrix_transpose(x: &Array) -> Result<Array> {
    at_least_matrix("matrix_transpose", x)?;
    swapaxes(x, -1, -2)
}

/// Exchanges two dimensions.
///
/// # Errors
/// Where an axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3, 4], None)?;
/// assert_eq!(*ops::swapaxes(&x, 0, -1)?.shape(), [4, 3, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn swapaxes(x: &Array, axis1: i32, axis2: i32) -> Result<Array> {
    let (a, b) = (
        axis_of("swapaxes", axis1, x)?,
        axis_of("swapaxes", axis2, x)?,
    );
    let mut axes: Vec<i32> = (0..x.shape().len() as i32).collect();
    axes.swap(a, b);
    transpose(x, axes)
}

/// Moves a dimension to another place; the others keep their order.
///
/// # Errors
/// Where an axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::zeros([2, 3, 4], None)?;
/// assert_eq!(*ops::moveaxis(&x, 0, -1)?.shape(), [3, 4, 2].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn moveaxis(x: &Array, source: i32, destination: i32) -> Result<Array> {
    let from = axis_of("moveaxis", source, x)?;
    let to = axis_of("moveaxis", destination, x)?;
    let mut axes: Vec<i32> = (0..x.shape().len() as i32).collect();
    let moved = axes.remove(from);
    axes.insert(to, moved);
    transpose(x, axes)
}

macro_rules! at_least {
    ($($name:ident $rank:literal $shape:literal: |$dims:ident| $new:expr;)*) => {$(
        #[doc = concat!("`x` with ", $rank, " dimensions or more: scalars and vectors get new ones of size one.")]
        ///
        /// # Errors
        /// None that a user can cause.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2, 3], [3])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x)?.shape().to_vec(), ", $shape, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array) -> Result<Array> {
            let $dims = x.shape();
            reshape_to(x, &$new)
        }
    )*};
}

at_least! {
    atleast_1d "one" "[3]": |dims| match dims[..] {
        [] => vec![1],
        _ => dims.to_vec(),
    };
    atleast_2d "two" "[1, 3]": |dims| match dims[..] {
        [] => vec![1, 1],
        [n] => vec![1, n],
        _ => dims.to_vec(),
    };
    atleast_3d "three" "[1, 3, 1]": |dims| match dims[..] {
        [] => vec![1, 1, 1],
        [n] => vec![1, n, 1],
        [n, m] => vec![n, m, 1],
        _ => dims.to_vec(),
    };
}

/// The bytes of the elements as another dtype. The last dimension grows or shrinks by the ratio of
/// their sizes.
///
/// # Errors
/// Where the last dimension does not have a whole number of the new elements.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// let x = Array::from_slice(&[1.0f32], [1])?;
/// assert_eq!(ops::view(&x, Dtype::Uint32)?.to_vec::<u32>()?, [0x3f80_0000]);
/// assert_eq!(ops::view(&x, Dtype::Uint8)?.to_vec::<u8>()?, [0, 0, 0x80, 0x3f]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn view(x: &Array, dtype: Dtype) -> Result<Array> {
    match x.dtype() == dtype {
        true => Ok(x.clone()),
        false => with(primitive::View { dtype }, x),
    }
}

/// Any strides over the elements in row-major order: element `i` of the result is element
/// `offset + sum(i * strides)`. Strides may be zero or negative.
///
/// # Errors
/// Where there is not a stride per dimension, or elements beyond the array's would be read.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 4, 1, None)?;
/// let windows = ops::as_strided(&x, [3, 2], [1, 1], 0)?;
/// assert_eq!(windows.to_vec::<i32>()?, [0, 1, 1, 2, 2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn as_strided(
    x: &Array,
    shape: impl Into<Shape>,
    strides: impl AsRef<[i64]>,
    offset: usize,
) -> Result<Array> {
    let strided = AsStrided {
        shape: shape.into(),
        strides: strides.as_ref().to_vec(),
        offset: offset as u64,
    };
    with(strided, &flat(x)?)
}

macro_rules! identities {
    ($($(#[$meta:meta])* $name:ident = $primitive:expr;)*) => {$(
        $(#[$meta])*
        ///
        /// # Errors
        /// None that a user can cause.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2], [2])?;\n",
            "assert_eq!(ops::", stringify!($name), "(&x)?.to_vec::<i32>()?, [1, 2]);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array) -> Result<Array> {
            with($primitive, x)
        }
    )*};
}

identities! {
    /// The same elements. Arrays are immutable, so nothing is copied: `x.clone()` does as well.
    copy = primitive::Copy;
    /// The same elements. How they lie in memory cannot be seen, so nothing is copied: operations
    /// that need them in row-major order see to it themselves.
    contiguous = primitive::Copy;
    /// `x`, through which no gradient flows.
    stop_gradient = primitive::StopGradient;
}

/// The inputs, which are not computed before the dependencies have been.
///
/// # Errors
/// Where there are no inputs.
///
/// ```
/// # use motet::{Array, ops};
/// let (first, second) = (Array::from(1), Array::from(2));
/// let first = ops::depends(&[first], &[second])?;
/// assert_eq!(first[0].item::<i32>()?, 1);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn depends(inputs: &[Array], dependencies: &[Array]) -> Result<Vec<Array>> {
    let outputs: Vec<_> = inputs.iter().map(|input| input.spec().clone()).collect();
    apply::apply_as(
        primitive::Depends,
        &[inputs, dependencies].concat(),
        &outputs,
    )
}
