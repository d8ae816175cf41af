//! Indexing: MLX's `x[...]`, `x[...] = values` and `x.at[...].add(values)`.
//!
//! An index is read once into a [`Selection`]: what it takes of each dimension of the array, and in
//! which order the dimensions of the result follow. Positions, ranges and new axes become views;
//! arrays of positions become a gather, or in updates a scatter, with the dimensions that the arrays
//! broadcast to where numpy has them: in the place of the indexed dimensions if those stand together,
//! else in front.

mod item;
mod mask;
mod selection;
mod update;

use motet_core::array::apply::{apply_one, astype, broadcast_to};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::Update;
use motet_core::ops::indexing::Gather;
use motet_core::ops::shape::{ExpandDims, Squeeze, Transpose};
use motet_core::ops::slicing;
use motet_core::shape::Shape;

pub use item::{Ellipsis, IndexItem, IntoIndex, NewAxis, Position, Slice, step};
use selection::{Part, Selection, error};
pub use update::At;

/// Indexing of arrays. In the [prelude](crate::prelude).
///
/// An index is one item or a tuple of them, each for the next dimension:
///
/// | item | Python | takes |
/// |---|---|---|
/// | `2`, `-1` | `2`, `-1` | one position; the dimension goes away |
/// | `1..3`, `..-1`, `2..`, `..=4`, `..` | `1:3`, `:-1`, `2:`, `:5`, `:` | a range, cut to what is there |
/// | `step(1.., 2)`, `step(.., -1)` | `1::2`, `::-1` | every so many-th position |
/// | `NewAxis` | `None` | nothing; adds a dimension of size one |
/// | `Ellipsis` | `...` | all dimensions that the other items leave |
/// | `&indices`, `[0, 2]` | an array, a list | the positions in an integer array |
///
/// Negative positions count from the end. Several index arrays broadcast together and are taken
/// pairwise. [`index_set`](Indexing::index_set) takes an array of bools too.
///
/// Clippy takes literal ranges such as `1..-1` for empty ones: allow `clippy::reversed_empty_ranges`
/// where they are written.
///
/// Results are new arrays: motet's arrays never change. `std::ops::Index` cannot be had, since it
/// returns references to what is there.
pub trait Indexing {
    /// The part of the array at an index. MLX's `x[index]`.
    ///
    /// # Errors
    /// Where there are more items than dimensions, a position is out of range, a step is zero, or
    /// index arrays do not broadcast together or hold no integers. A position in an index array that
    /// is out of range is an error of the evaluation.
    ///
    /// ```
    /// use motet::prelude::*;
    /// let x = array!([[0, 1, 2], [10, 11, 12]]);
    /// assert_eq!(x.index((1, 2))?.item::<i32>()?, 12);
    /// assert_eq!(x.index((.., -1))?.to_vec::<i32>()?, [2, 12]);
    /// assert_eq!(x.index((.., NewAxis, 1..))?.shape()[..], [2, 1, 2]);
    /// assert_eq!(x.index((Ellipsis, step(.., -1)))?.to_vec::<i32>()?, [2, 1, 0, 12, 11, 10]);
    /// assert_eq!(x.index((&array!([1, 0]), [2, 0]))?.to_vec::<i32>()?, [12, 0]);
    /// assert!(x.index(2).is_err());
    /// # Ok::<(), motet::Error>(())
    /// ```
    fn index(&self, index: impl IntoIndex) -> Result<Array>;

    /// A copy of the array with other values at an index. MLX's `x[index] = values`.
    ///
    /// Values take on the array's dtype and broadcast to the part that the index takes. The index
    /// can be one array of bools for the first dimensions too: `values` then are for each place where
    /// it is true, or one after the other.
    ///
    /// # Errors
    /// As [`index`](Indexing::index), and where the values do not broadcast.
    ///
    /// ```
    /// use motet::prelude::*;
    /// let x = array!([[0, 1, 2], [3, 4, 5]]);
    /// assert_eq!(x.index_set((.., 1), 9)?.to_vec::<i32>()?, [0, 9, 2, 3, 9, 5]);
    /// let odd = array!([[false, true, false], [true, false, true]]);
    /// assert_eq!(x.index_set(&odd, array!([7, 8, 9]))?.to_vec::<i32>()?, [0, 7, 2, 8, 4, 9]);
    /// # Ok::<(), motet::Error>(())
    /// ```
    fn index_set(&self, index: impl IntoIndex, values: impl Into<Operand>) -> Result<Array>;

    /// The part of the array at an index, to be changed: `x.at(index).add(values)?`. MLX's
    /// `x.at[index]`.
    ///
    /// Other than with [`index_set`](Indexing::index_set), positions that an index array names
    /// several times are changed as often.
    ///
    /// ```
    /// use motet::prelude::*;
    /// let x = array!([10, 20, 30]);
    /// assert_eq!(x.at([0, 0, 2]).add(1)?.to_vec::<i32>()?, [12, 20, 31]);
    /// # Ok::<(), motet::Error>(())
    /// ```
    fn at(&self, index: impl IntoIndex) -> At;
}

impl Indexing for Array {
    fn index(&self, index: impl IntoIndex) -> Result<Array> {
        let selection = Selection::new(self.shape(), index.into_index())?;
        let windows = window(self, &selection)?;
        let part = match &selection.indices {
            Some(shape) => gather(&windows, &selection, shape)?,
            None => {
                let gone = selection.axes(0, |part| matches!(part, Part::Position(_)));
                squeeze(&windows, gone)?
            }
        };
        expand(&part, selection.new_axes())
    }

    fn index_set(&self, index: impl IntoIndex, values: impl Into<Operand>) -> Result<Array> {
        let items = index.into_index();
        let values = values.into().into_array(self.dtype())?;
        match mask::of(&items) {
            Some(mask) => mask::set(self, mask, &values),
            None => update::update(self, items, Update::Set, &values),
        }
    }

    fn at(&self, index: impl IntoIndex) -> At {
        At::new(self.clone(), index.into_index())
    }
}

/// What the ranges and positions take of `x`: a view with all of its dimensions.
fn window(x: &Array, selection: &Selection) -> Result<Array> {
    let whole = |axis: usize| {
        selection.parts[axis]
            .window(x.shape()[axis])
            .is_whole(x.shape()[axis])
    };
    if (0..x.ndim()).all(whole) {
        return Ok(x.clone());
    }
    let (start, end, strides) = bounds(x.shape(), selection);
    let primitive = slicing::Slice {
        start,
        end,
        strides,
    };
    apply_one(primitive, std::slice::from_ref(x))
}

/// Starts, ends and steps of the windows, a number per dimension each.
fn bounds(shape: &Shape, selection: &Selection) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let parts = selection.parts.iter().zip(shape.iter());
    let (mut start, mut end, mut strides) = (Vec::new(), Vec::new(), Vec::new());
    for (window, dim) in parts.map(|(part, &dim)| (part.window(dim), dim)) {
        start.push(window.first);
        end.push(window.stop(dim));
        strides.push(window.step);
    }
    (start, end, strides)
}

/// What the index arrays, which broadcast to `shape`, take of the windows.
fn gather(windows: &Array, selection: &Selection, shape: &Shape) -> Result<Array> {
    let axes = selection.axes(0, |part| matches!(part, Part::Array(_)));
    let mut slice_sizes = windows.shape().clone();
    axes.iter()
        .for_each(|&axis| slice_sizes.dims_mut()[axis as usize] = 1);
    let dtype = index_dtype(selection)?;
    let mut inputs = vec![windows.clone()];
    for part in &selection.parts {
        if let Part::Array(array) = part {
            inputs.push(broadcast_to(&astype(array, dtype)?, shape)?);
        }
    }
    let blocks = apply_one(Gather { axes, slice_sizes }, &inputs)?;
    let rank = shape.len();
    let gone = selection.axes(rank, |part| !matches!(part, Part::Window(_)));
    let part = squeeze(&blocks, gone)?;
    // The dimensions of the index arrays are in front: they have a place among the windows.
    let (before, ndim) = (selection.windows_before(), part.ndim());
    let order = (rank..rank + before)
        .chain(0..rank)
        .chain(rank + before..ndim);
    transpose(&part, order.map(|dim| dim as i32).collect())
}

/// The dtype that all index arrays can have.
fn index_dtype(selection: &Selection) -> Result<Dtype> {
    let dtypes = selection.parts.iter().filter_map(|part| match part {
        Part::Array(array) => Some(array.dtype()),
        Part::Window(_) | Part::Position(_) => None,
    });
    let dtype = dtypes.reduce(Dtype::promote).unwrap_or(Dtype::Int32);
    match dtype.is_integer() {
        true => Ok(dtype),
        false => Err(error(
            "the index arrays have no integer dtype in common; convert those of uint64 with astype",
        )),
    }
}

fn squeeze(x: &Array, axes: Vec<i32>) -> Result<Array> {
    match axes.is_empty() {
        true => Ok(x.clone()),
        false => apply_one(Squeeze { axes }, std::slice::from_ref(x)),
    }
}

fn expand(x: &Array, axes: Vec<i32>) -> Result<Array> {
    match axes.is_empty() {
        true => Ok(x.clone()),
        false => apply_one(ExpandDims { axes }, std::slice::from_ref(x)),
    }
}

fn transpose(x: &Array, permutation: Vec<i32>) -> Result<Array> {
    match permutation.is_sorted() {
        true => Ok(x.clone()),
        false => apply_one(Transpose { permutation }, std::slice::from_ref(x)),
    }
}
