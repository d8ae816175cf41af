//! Arrays with other values at an index.

use motet_core::array::apply::{apply_one, astype, binary_float, broadcast_to};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::Update;
use motet_core::ops::elementwise::{Divide, Negative};
use motet_core::ops::indexing::Scatter;
use motet_core::ops::slicing::SliceUpdate;
use motet_core::shape::Shape;

use super::item::IndexItem;
use super::selection::{Part, Selection, error};
use super::{bounds, expand, index_dtype, squeeze, transpose};

/// A part of an array that is to be changed: see [`Indexing::at`](super::Indexing::at).
#[derive(Clone, Debug)]
pub struct At {
    array: Array,
    items: Vec<IndexItem>,
}

/// Methods of [`At`].
macro_rules! updates {
    ($($(#[$meta:meta])* $name:ident: $op:expr, |$values:ident| $prepare:expr, $example:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// Values take on the array's dtype and broadcast to the part.
        ///
        /// # Errors
        /// As [`Indexing::index_set`](super::Indexing::index_set); index arrays of bools are not taken.
        ///
        #[doc = concat!(
            "```\nuse motet::prelude::*;\n",
            "let x = array!([1.0, 2.0, 3.0]);\n",
            "let y = x.at(1..).", stringify!($name), "(2.0)?;\n",
            "assert_eq!(y.to_vec::<f32>()?, ", $example, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(self, values: impl Into<Operand>) -> Result<Array> {
            let $values = values.into().into_array(self.array.dtype())?;
            update(&self.array, self.items, $op, &$prepare)
        }
    )*};
}

#[allow(clippy::should_implement_trait, reason = "the names are MLX's")]
impl At {
    pub(super) fn new(array: Array, items: Vec<IndexItem>) -> At {
        At { array, items }
    }

    updates! {
        /// The array with the values added to the part.
        add: Update::Sum, |values| values, "[1.0, 4.0, 5.0]";
        /// The array with the values subtracted from the part.
        subtract: Update::Sum, |values| apply_one(Negative, &[values])?, "[1.0, 0.0, 1.0]";
        /// The array with the part multiplied by the values.
        multiply: Update::Prod, |values| values, "[1.0, 4.0, 6.0]";
        /// The array with the part divided by the values: multiplied by one over them. Not for
        /// integers, of which MLX makes zeros.
        divide: Update::Prod, |values| reciprocal(&values)?, "[1.0, 1.0, 1.5]";
        /// The array with the greater of part and values in the part.
        maximum: Update::Max, |values| values, "[1.0, 2.0, 3.0]";
        /// The array with the lesser of part and values in the part.
        minimum: Update::Min, |values| values, "[1.0, 2.0, 2.0]";
    }
}

fn reciprocal(values: &Array) -> Result<Array> {
    match values.dtype().is_inexact() {
        true => binary_float(Divide, 1.0, values),
        false => Err(error(format!(
            "got {} to divide, expected floats; convert the array with astype first",
            values.dtype()
        ))),
    }
}

/// `x` with the values, which have its dtype, combined in at an index.
pub(super) fn update(
    x: &Array,
    items: Vec<IndexItem>,
    op: Update,
    values: &Array,
) -> Result<Array> {
    let selection = Selection::new(x.shape(), items)?;
    let values = fit(values, &selection.shape())?;
    let values = squeeze(&values, selection.new_axes())?;
    match selection.indices.is_some() {
        true => scatter(x, &selection, op, &values),
        false => {
            let positions = selection.axes(0, |part| matches!(part, Part::Position(_)));
            let (start, end, strides) = bounds(x.shape(), &selection);
            let values = expand(&values, positions)?;
            let primitive = SliceUpdate {
                op,
                start,
                end,
                strides,
            };
            apply_one(primitive, &[x.clone(), values])
        }
    }
}

/// The values in the shape of the part; of leading dimensions of size one there may be more.
pub(super) fn fit(values: &Array, part: &Shape) -> Result<Array> {
    let surplus = values.ndim().saturating_sub(part.len());
    let ones = values.shape().iter().take_while(|&&dim| dim == 1).count();
    let axes = (0..surplus.min(ones) as i32).collect();
    broadcast_to(&squeeze(values, axes)?, part).map_err(|cause| {
        let message = format!("got values of shape {}, expected {part}", values.shape());
        cause.context("index", message)
    })
}

/// As [`update`] where there are index arrays. The dimensions of `values` are those of the selection
/// without new ones.
fn scatter(x: &Array, selection: &Selection, op: Update, values: &Array) -> Result<Array> {
    let whole = |axis: usize| match &selection.parts[axis] {
        Part::Window(window) => window.is_whole(x.shape()[axis]),
        Part::Position(_) | Part::Array(_) => false,
    };
    // Windows that are not whole dimensions become index arrays, each of a dimension of its own,
    // after those of the index arrays.
    let windows: Vec<usize> = (0..x.ndim())
        .filter(|&axis| matches!(selection.parts[axis], Part::Window(_)))
        .collect();
    let walked: Vec<usize> = windows
        .iter()
        .copied()
        .filter(|&axis| !whole(axis))
        .collect();
    let indexed: Vec<usize> = (0..x.ndim()).filter(|&axis| !whole(axis)).collect();
    let rank = selection.rank() + walked.len();

    let shape = selection
        .indices
        .iter()
        .flat_map(|shape| shape.iter().copied());
    let count = |&axis: &usize| selection.parts[axis].window(x.shape()[axis]).count as usize;
    let counts = walked.iter().map(count);
    let shape: Shape = shape.chain(counts).collect();
    let dtype = match index_dtype(selection)? {
        dtype if dtype.size() < 4 => Dtype::Int32,
        dtype => dtype,
    };
    let mut inputs = vec![x.clone()];
    for &axis in &indexed {
        let (index, trailing) = match &selection.parts[axis] {
            Part::Array(array) => (array.clone(), walked.len()),
            Part::Position(position) => (Array::from(*position), 0),
            Part::Window(window) => {
                let positions = (0..window.count).map(|i| window.first + i * window.step);
                let place = walked.iter().position(|&walked| walked == axis);
                let after = place.map_or(0, |place| walked.len() - 1 - place);
                (Array::try_from(positions.collect::<Vec<i32>>())?, after)
            }
        };
        let ndim = index.ndim() as i32;
        let index = expand(&index, (ndim..ndim + trailing as i32).collect())?;
        inputs.push(broadcast_to(&astype(&index, dtype)?, &shape)?);
    }

    // The dimensions of `values`, as the scatter wants them: of the index arrays, of walked windows,
    // of whole ones.
    let before = selection.windows_before();
    let dim_of = |place: usize| match place < before {
        true => place as i32,
        false => (place + selection.rank()) as i32,
    };
    let places = |walked: bool| {
        let such = windows
            .iter()
            .enumerate()
            .filter(move |(_, axis)| whole(**axis) != walked);
        such.map(|(place, _)| dim_of(place)).collect::<Vec<i32>>()
    };
    let front: Vec<i32> = (before..before + selection.rank())
        .map(|dim| dim as i32)
        .collect();
    let values = transpose(values, [front, places(true), places(false)].concat())?;
    let blocks = indexed.iter().map(|&axis| (rank + axis) as i32);
    inputs.push(expand(&values, blocks.collect())?);
    let axes = indexed.iter().map(|&axis| axis as i32).collect();
    apply_one(Scatter { op, axes }, &inputs)
}
