//! Elements written at indices. Indices are integers; negative ones count from the end, and those out
//! of range are an error when the result is computed.

use motet_core::array::apply::{apply_one, astype};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Update;
use motet_core::ops::indexing as primitive;
use motet_core::ops::indexing::{AxisUpdate, ScatterAxis};

use super::gather::index_arrays;
use super::shape::{flat, reshape_to};
use super::{axis_of, broadcast_to, expand_dims, squeeze, with_dim};

macro_rules! scatters {
    ($($(#[$meta:meta])* $name:ident = $op:ident: $result:literal;)*) => {$(
        $(#[$meta])*
        /// For index arrays of shape `I`, which broadcast together, one per axis, updates have the
        /// shape `I` followed by that of a block, which has the dimensions of `x`. A block starts at
        /// the indices on the axes and at 0 on others; blocks follow in the order of the indices.
        ///
        /// # Errors
        /// Where indices are not integers or not as many as axes, an axis is out of range or named
        /// twice, or updates do not have such a shape.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2, 3], [3])?;\n",
            "let indices = Array::from_slice(&[0, 2], [2])?;\n",
            "let updates = Array::from_slice(&[2, 2], [2, 1])?;\n",
            "let y = ops::", stringify!($name), "(&x, &[indices], &updates, [0])?;\n",
            "assert_eq!(y.to_vec::<i32>()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(
            x: &Array,
            indices: &[Array],
            updates: &Array,
            axes: impl AsRef<[i32]>,
        ) -> Result<Array> {
            scatter_by(Update::$op, x, indices, updates, axes.as_ref())
        }
    )*};
}

scatters! {
    /// `x` with blocks replaced; where several overlap the last one counts.
    scatter = Set: "[2, 2, 2]";
    /// `x` with updates added to blocks.
    scatter_add = Sum: "[3, 2, 5]";
    /// `x` with blocks replaced by the greater ones of their elements and updates.
    scatter_max = Max: "[2, 2, 3]";
    /// `x` with blocks replaced by the lesser ones of their elements and updates.
    scatter_min = Min: "[1, 2, 2]";
    /// `x` with blocks multiplied by updates.
    scatter_prod = Prod: "[2, 2, 6]";
}

fn scatter_by(
    op: Update,
    x: &Array,
    indices: &[Array],
    updates: &Array,
    axes: &[i32],
) -> Result<Array> {
    let axes = axes.to_vec();
    let updates = astype(updates, x.dtype())?;
    let inputs = [vec![x.clone()], index_arrays(indices)?, vec![updates]].concat();
    apply_one(primitive::Scatter { op, axes }, &inputs)
}

macro_rules! axis_scatters {
    ($($(#[$meta:meta])* $name:ident = $op:ident: $result:literal;)*) => {$(
        $(#[$meta])*
        /// Indices and values, which are converted to the dtype of `x`, broadcast together, and to the
        /// shape of `x` in the other dimensions.
        ///
        /// # Errors
        /// Where the numbers of dimensions differ, indices are not integers, shapes do not broadcast,
        /// or the axis is out of range.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;\n",
            "let indices = Array::from_slice(&[1, 0], [2, 1])?;\n",
            "let y = ops::", stringify!($name), "(&x, &indices, 7, 1)?;\n",
            "assert_eq!(y.to_vec::<i32>()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(
            x: &Array,
            indices: &Array,
            values: impl Into<Operand>,
            axis: impl Into<Option<i32>>,
        ) -> Result<Array> {
            let values = values.into().into_array(x.dtype())?;
            scatter_axis(stringify!($name), Update::$op, x, indices, &values, axis.into())
        }
    )*};
}

axis_scatters! {
    /// `x` with `out[..., indices[..., j, ...], ...] = values[..., j, ...]` along a dimension. With
    /// `None` the arrays are taken as one dimension.
    put_along_axis = Set: "[1, 7, 7, 4]";
    /// `x` with `out[..., indices[..., j, ...], ...] += values[..., j, ...]` along a dimension. With
    /// `None` the arrays are taken as one dimension.
    scatter_add_axis = Sum: "[1, 9, 10, 4]";
}

fn scatter_axis(
    name: &str,
    op: Update,
    x: &Array,
    indices: &Array,
    values: &Array,
    axis: Option<i32>,
) -> Result<Array> {
    let got = || {
        let (x, indices, values) = (x.spec(), indices.spec(), values.spec());
        format!("got {x}, indices {indices} and values {values}")
    };
    let shared = indices.shape().broadcast(values.shape());
    let shared = shared.map_err(|error| error.context(name, got()))?;
    let Some(axis) = axis else {
        let indices = flat(&broadcast_to(indices, shared.clone())?)?;
        let values = flat(&broadcast_to(values, shared)?)?;
        let put = scatter_axis(name, op, &flat(x)?, &indices, &values, Some(0))?;
        return reshape_to(&put, x.shape());
    };
    let along = axis_of(name, axis, x)?;
    if x.shape().len() != indices.shape().len() || x.shape().len() != shared.len() {
        return Err(Error::invalid(
            name,
            got() + ", expected indices with as many dimensions, and values with no more",
        ));
    }
    let shape = with_dim(x.shape(), along, shared[along]);
    let broadcast = |array: &Array| {
        let broadcast = broadcast_to(array, shape.clone());
        broadcast.map_err(|error| error.context(name, got()))
    };
    let (indices, values) = (broadcast(indices)?, broadcast(values)?);
    let put = ScatterAxis {
        op: AxisUpdate(op),
        axis: along as i32,
    };
    apply_one(put, &[x.clone(), indices, values])
}

/// `x` with the elements at which the mask is true replaced by those of the source, one after the
/// other in row-major order. A mask of fewer dimensions is for the first ones of `x`.
///
/// # Errors
/// Where the mask is not bool or does not have the dimensions of `x`; where the source has fewer
/// elements than are to be replaced, when the result is computed.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3], [3])?;
/// let mask = Array::from_slice(&[true, false, true], [3])?;
/// let source = Array::from_slice(&[7, 8], [2])?;
/// assert_eq!(ops::masked_scatter(&x, &mask, &source)?.to_vec::<i32>()?, [7, 2, 8]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn masked_scatter(x: &Array, mask: &Array, source: &Array) -> Result<Array> {
    if !x.shape().starts_with(mask.shape()) || mask.dtype() != Dtype::Bool {
        return Err(Error::invalid(
            "masked_scatter",
            format!(
                "got the mask {} for {}, expected bool of its first dimensions",
                mask.spec(),
                x.spec()
            ),
        ));
    }
    let mut shape = mask.shape().to_vec();
    shape.resize(x.shape().len(), 1);
    let mask = broadcast_to(&reshape_to(mask, &shape)?, x.shape().clone())?;
    let source = flat(&astype(source, x.dtype())?)?;
    // The primitive has batches: this is one of them.
    let inputs = [x, &mask, &source].map(|array| expand_dims(array, 0));
    let inputs = inputs.into_iter().collect::<Result<Vec<_>>>()?;
    squeeze(&apply_one(primitive::MaskedScatter, &inputs)?, 0)
}
