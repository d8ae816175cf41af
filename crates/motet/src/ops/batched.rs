//! Products of matrices that are picked by indices or masked by tiles, and by Hadamard matrices.

use motet_core::array::apply::{apply_one, astype, promote};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::matmul as primitive;
use motet_core::ops::transform::Hadamard;
use motet_core::shape::Shape;

use super::creation::count_to;
use super::shape::reshape_to;
use super::slice::slice_axis;
use super::{
    broadcast_arrays, broadcast_to, expand_dims, greater_equal, less, logical_and, matmul, ones,
    squeeze, where_, with,
};

/// Operands of one floating dtype and two dimensions or more. A vector becomes one row (`a`) or
/// column (`b`): the axes of the result that are to be squeezed then.
fn matrices(name: &str, a: &Array, b: &Array) -> Result<(Array, Array, Vec<i32>)> {
    let [mut a, mut b] = promote([a.into(), b.into()])?;
    if a.shape().is_empty() || b.shape().is_empty() || !a.dtype().is_float() {
        return Err(Error::invalid(
            name,
            format!(
                "got {} and {}, expected matrices of a real floating dtype",
                a.spec(),
                b.spec()
            ),
        ));
    }
    let mut squeezed = vec![];
    if a.shape().len() == 1 {
        a = expand_dims(&a, 0)?;
        squeezed.push(-2);
    }
    if b.shape().len() == 1 {
        b = expand_dims(&b, 1)?;
        squeezed.push(-1);
    }
    Ok((a, b, squeezed))
}

/// The dimensions before the last two.
fn batch(x: &Array) -> &[usize] {
    &x.shape()[..x.shape().len() - 2]
}

/// Options of [`gather_mm`].
#[derive(Clone, Debug, Default)]
pub struct GatherMM {
    /// Indices into the batches of `a`, taken as one dimension; `None` for all in order.
    pub lhs_indices: Option<Array>,
    /// Indices into the batches of `b`, taken as one dimension; `None` for all in order.
    pub rhs_indices: Option<Array>,
    /// That the indices ascend, which is of no use on CPUs.
    pub sorted_indices: bool,
}

/// The products of matrices of `a` and `b` that indices pick: for indices of shape `I`, which
/// broadcast together, `a` (..., M, K) and `b` (..., K, N) an array of shape `I + (M, N)`.
///
/// # Errors
/// Where shapes do not fit, indices are not integers, or the numbers are not real and floating; where
/// an index is out of range, when the result is computed.
///
/// ```
/// # use motet::{Array, ops, ops::GatherMM};
/// let a = Array::from_slice(&[1.0f32, 2.0], [1, 2])?;
/// let b = Array::from_slice(&[1.0f32, 1.0, 10.0, 10.0], [2, 2, 1])?;
/// let second = GatherMM { rhs_indices: Some(Array::from(1)), ..Default::default() };
/// assert_eq!(ops::gather_mm(&a, &b, second)?.to_vec::<f32>()?, [30.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gather_mm(a: &Array, b: &Array, options: GatherMM) -> Result<Array> {
    let (a, b, squeezed) = matrices("gather_mm", a, b)?;
    let indices = |given: Option<Array>, x: &Array| -> Result<Array> {
        match given {
            Some(indices) if indices.dtype().is_integer() => astype(&indices, Dtype::Uint32),
            Some(indices) => Err(Error::invalid(
                "gather_mm",
                format!("got indices {}, expected integers", indices.spec()),
            )),
            None => {
                let all = count_to(batch(x).iter().product(), Dtype::Uint32)?;
                reshape_to(&all, batch(x))
            }
        }
    };
    let sorted = options.sorted_indices;
    let gather = primitive::GatherMM {
        left_sorted: sorted && options.lhs_indices.is_some(),
        right_sorted: sorted && options.rhs_indices.is_some(),
    };
    let left = indices(options.lhs_indices, &a)?;
    let right = indices(options.rhs_indices, &b)?;
    let both = broadcast_arrays(&[left, right])?;
    let product = apply_one(gather, &[vec![a, b], both].concat())?;
    squeeze(&product, squeezed)
}

/// The products over parts of the inner dimension: for `a` (M, K), `b` (K, N) and segments (..., 2),
/// each a start and an end, the arrays `a[:, start..end] @ b[start..end, :]` of shape (..., M, N). Each
/// costs as much as the whole product.
///
/// # Errors
/// Where shapes do not fit, segments are not pairs of integers, or the numbers are not real and
/// floating.
///
/// ```
/// # use motet::{ops, prelude::*};
/// let a = array!([[1.0, 2.0, 3.0]]);
/// let b = array!([[1.0], [10.0], [100.0]]);
/// let products = ops::segmented_mm(&a, &b, array!([[0, 2], [1, 3], [3, 3]]))?;
/// assert_eq!(products.to_vec::<f32>()?, [21.0, 320.0, 0.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn segmented_mm(a: &Array, b: &Array, segments: impl Into<Operand>) -> Result<Array> {
    let segments = segments.into().into_own_array()?;
    let pairs = segments.dtype().is_integer() && segments.shape().last() == Some(&2);
    if a.shape().len() != 2 || b.shape().len() != 2 || !pairs {
        return Err(Error::invalid(
            "segmented_mm",
            format!(
                "got {}, {} and segments {}, expected two matrices and (..., 2) of integers",
                a.spec(),
                b.spec(),
                segments.spec()
            ),
        ));
    }
    let (a, b, _) = matrices("segmented_mm", a, b)?;
    let segments = astype(&segments, Dtype::Int64)?;
    let last = segments.shape().len() - 1;
    let place = count_to(a.shape()[1], Dtype::Int64)?;
    let from = greater_equal(&place, slice_axis(&segments, last, 0, 1)?)?;
    let inside = logical_and(from, less(&place, slice_axis(&segments, last, 1, 2)?)?)?;
    // Both: what is outside may be infinite or NaN.
    let a = where_(expand_dims(&inside, -2)?, &a, 0)?;
    let b = where_(expand_dims(&inside, -1)?, &b, 0)?;
    matmul(&a, &b)
}

/// Options of [`block_masked_mm`].
#[derive(Clone, Debug)]
pub struct BlockMaskedMM {
    /// Rows and columns of a tile: 32 or 64.
    pub block_size: i32,
    /// Factors of the result's tiles.
    pub mask_out: Option<Array>,
    /// Factors of the tiles of `a`.
    pub mask_lhs: Option<Array>,
    /// Factors of the tiles of `b`.
    pub mask_rhs: Option<Array>,
}

impl Default for BlockMaskedMM {
    fn default() -> BlockMaskedMM {
        BlockMaskedMM {
            block_size: 64,
            mask_out: None,
            mask_lhs: None,
            mask_rhs: None,
        }
    }
}

/// The matrix product `a @ b`, with each square tile of the operands and the result multiplied by a
/// factor, or kept where a bool is true and zero elsewhere. Masks have a number for each tile, also
/// for those that a border cuts off, and broadcast to batches.
///
/// # Errors
/// Where shapes do not fit, the size of blocks is neither 32 nor 64, or the numbers are not real and
/// floating.
///
/// ```
/// # use motet::{Array, ops, ops::BlockMaskedMM};
/// let x = ops::ones([64, 64], None)?;
/// let mask = Array::from_slice(&[true, false, false, true], [2, 2])?;
/// let options = BlockMaskedMM { block_size: 32, mask_out: Some(mask), ..Default::default() };
/// let diagonal = ops::block_masked_mm(&x, &x, options)?;
/// assert_eq!(ops::max(&diagonal, 1)?.to_vec::<f32>()?, [64.0; 64]);
/// assert_eq!(ops::min(&diagonal, 1)?.to_vec::<f32>()?, [0.0; 64]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn block_masked_mm(a: &Array, b: &Array, options: BlockMaskedMM) -> Result<Array> {
    let BlockMaskedMM {
        block_size,
        mask_out,
        mask_lhs,
        mask_rhs,
    } = options;
    let tile = match block_size {
        32 => 32,
        64 => 64,
        _ => {
            return Err(Error::invalid(
                "block_masked_mm",
                format!("got blocks of {block_size}, expected 32 or 64"),
            ));
        }
    };
    if mask_out.is_none() && mask_lhs.is_none() && mask_rhs.is_none() {
        return matmul(a, b);
    }
    let (a, b, squeezed) = matrices("block_masked_mm", a, b)?;
    let shared = Shape::new(batch(&a)).broadcast(&Shape::new(batch(&b)))?;
    let with_batch = |last: &[usize]| Shape::from([&shared[..], last].concat());
    let rows_and_columns = |x: &Array| {
        [
            x.shape()[x.shape().len() - 2],
            x.shape()[x.shape().len() - 1],
        ]
    };
    let ([m, k], [other_k, n]) = (rows_and_columns(&a), rows_and_columns(&b));
    // A mask for matrices of this size, broadcast; of ones where there is none.
    let mask = |mask: Option<Array>, size: [usize; 2]| -> Result<Array> {
        let shape = with_batch(&size.map(|dim| dim.div_ceil(tile)));
        let mask = match mask {
            Some(mask) if mask.dtype() == Dtype::Bool => mask,
            Some(mask) => astype(&mask, a.dtype())?,
            None => ones([], Dtype::Bool)?,
        };
        broadcast_to(&mask, shape.clone()).map_err(|error| {
            let mask = mask.spec();
            error.context(
                "block_masked_mm",
                format!("got the mask {mask}, expected one for {shape} tiles"),
            )
        })
    };
    let mut inputs = vec![
        broadcast_to(&a, with_batch(&[m, k]))?,
        broadcast_to(&b, with_batch(&[other_k, n]))?,
    ];
    let operands_masked = mask_lhs.is_some() || mask_rhs.is_some();
    if let Some(mask_out) = mask_out {
        inputs.push(mask(Some(mask_out), [m, n])?);
    }
    if operands_masked {
        inputs.push(mask(mask_lhs, [m, k])?);
        inputs.push(mask(mask_rhs, [other_k, n])?);
    }
    let product = apply_one(primitive::BlockMaskedMM { block_size }, &inputs)?;
    squeeze(&product, squeezed)
}

/// The last dimension multiplied by the Hadamard matrix of its size n, which is m * 2^k with m 1, 12,
/// 20 or 28, and by a scale, `1 / sqrt(n)` if `None`. float32 for integers; a scalar stays as it is.
///
/// # Errors
/// Where the size is another one, or the dtype is float64 or complex64.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// assert_eq!(ops::hadamard_transform(&x, 1.0)?.to_vec::<f32>()?, [3.0, -1.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn hadamard_transform(x: &Array, scale: impl Into<Option<f32>>) -> Result<Array> {
    let Some(&size) = x.shape().last() else {
        return Ok(x.clone());
    };
    let scale = scale.into().unwrap_or(1.0 / (size as f32).sqrt());
    with(Hadamard { scale }, &astype(x, x.dtype().at_least_float())?)
}
