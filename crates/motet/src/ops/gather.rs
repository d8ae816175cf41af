//! Elements at indices. Indices are integers; negative ones count from the end, and those out of
//! range are an error when the result is computed.

use motet_core::array::apply::apply_one;
use motet_core::array::{Array, Operand};
use motet_core::error::{Error, Result};
use motet_core::ops::broadcast::BroadcastAxes;
use motet_core::ops::indexing as primitive;
use motet_core::shape::Shape;

use super::shape::{flat, reshape_to};
use super::{axis_of, broadcast_arrays, broadcast_to, promote_all, transpose, with_dim, zeros};

/// Blocks of `x`: for index arrays of shape `I`, which broadcast together, one per axis, an array of
/// shape `I + slice_sizes`. A block starts at the indices on the axes and at 0 on others.
///
/// # Errors
/// Where indices are not integers or not as many as axes, an axis is out of range or named twice, or
/// blocks do not fit into `x`.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], [3, 2])?;
/// let rows = ops::gather(&x, &[Array::from(2)], [0], [1, 2])?;
/// assert_eq!(rows.to_vec::<i32>()?, [5, 6]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gather(
    x: &Array,
    indices: &[Array],
    axes: impl AsRef<[i32]>,
    slice_sizes: impl Into<Shape>,
) -> Result<Array> {
    let gather = primitive::Gather {
        axes: axes.as_ref().to_vec(),
        slice_sizes: slice_sizes.into(),
    };
    let inputs = [vec![x.clone()], index_arrays(indices)?].concat();
    apply_one(gather, &inputs)
}

/// Index arrays of one dtype and shape.
pub(super) fn index_arrays(indices: &[Array]) -> Result<Vec<Array>> {
    broadcast_arrays(&promote_all(indices)?)
}

/// The parts of `x` at indices along a dimension, or its elements at indices into all of them
/// (`None`). The dimension is replaced by those of the indices.
///
/// # Errors
/// Where indices are not integers, or the axis is out of range or empty.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::take(&x, 1, 0)?.to_vec::<i32>()?, [3, 4]);
/// let indices = Array::from_slice(&[3, 0], [2])?;
/// assert_eq!(ops::take(&x, indices, None)?.to_vec::<i32>()?, [4, 1]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn take(x: &Array, indices: impl Into<Operand>, axis: impl Into<Option<i32>>) -> Result<Array> {
    let indices = indices.into().into_own_array()?;
    let (x, axis) = match axis.into() {
        Some(axis) => (x.clone(), axis_of("take", axis, x)?),
        None => (flat(x)?, 0),
    };
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    if indices.shape().contains(&0) && indices.dtype().is_integer() {
        // There is nothing to take, also from an empty dimension.
        return zeros([before, indices.shape(), after].concat(), x.dtype());
    }
    let blocks = with_dim(x.shape(), axis, 1);
    let taken = gather(&x, std::slice::from_ref(&indices), [axis as i32], blocks)?;
    let taken = reshape_to(&taken, &[&indices.shape()[..], before, after].concat())?;
    // The indices' dimensions come first: move those before the axis to the front.
    let (rank, new) = (taken.shape().len() as i32, indices.shape().len() as i32);
    let (front, end) = (new..new + axis as i32, new + axis as i32..rank);
    transpose(&taken, front.chain(0..new).chain(end).collect::<Vec<_>>())
}

/// `x` and indices of the same number of dimensions, broadcast together in all but one.
fn broadcast_beside(name: &str, x: &Array, indices: &Array, axis: usize) -> Result<[Array; 2]> {
    if x.shape().len() != indices.shape().len() {
        return Err(Error::invalid(
            name,
            format!(
                "got {} and indices {}, expected as many dimensions",
                x.spec(),
                indices.spec()
            ),
        ));
    }
    let beside = |array: &Array| with_dim(array.shape(), axis, 1);
    let shape = beside(x).broadcast(&beside(indices)).map_err(|error| {
        let (x, indices) = (x.spec(), indices.spec());
        error.context(name, format!("got {x} and indices {indices}"))
    })?;
    let dynamic = x.is_dynamic() || indices.is_dynamic();
    let broadcast = |array: &Array, other: &Array| {
        if dynamic {
            // A call broadcasts anew. Axes are counted from the end.
            let axes = vec![axis as i32 - array.shape().len() as i32];
            return apply_one(BroadcastAxes { axes }, &[array.clone(), other.clone()]);
        }
        let shape = with_dim(&shape, axis, array.shape()[axis]);
        broadcast_to(array, shape)
    };
    Ok([broadcast(x, indices)?, broadcast(indices, x)?])
}

/// `out[..., j, ...] = x[..., indices[..., j, ...], ...]` along a dimension: an index for each
/// element of the result. `x` and indices broadcast together in the other dimensions. With `None`
/// both are taken as one dimension.
///
/// # Errors
/// Where the numbers of dimensions differ, indices are not integers, or the axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// let indices = Array::from_slice(&[1, 0], [2, 1])?;
/// assert_eq!(ops::take_along_axis(&x, &indices, 1)?.to_vec::<i32>()?, [2, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn take_along_axis(x: &Array, indices: &Array, axis: impl Into<Option<i32>>) -> Result<Array> {
    let Some(axis) = axis.into() else {
        return take_along_axis(&flat(x)?, &flat(indices)?, 0);
    };
    let along = axis_of("take_along_axis", axis, x)?;
    let inputs = broadcast_beside("take_along_axis", x, indices, along)?;
    let axis = along as i32;
    apply_one(primitive::GatherAxis { axis }, &inputs)
}
