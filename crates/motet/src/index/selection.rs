//! What an index takes of an array of a certain shape.

use motet_core::array::Array;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::Shape;

use super::item::{IndexItem, Window};

/// An index, checked against the array that it is for.
pub(super) struct Selection {
    /// What is taken of each dimension of the array.
    pub(super) parts: Vec<Part>,
    /// The dimensions of the result, in order.
    pub(super) dims: Vec<Dimension>,
    /// The shape that the index arrays broadcast to; `None` without any.
    pub(super) indices: Option<Shape>,
}

/// What is taken of a dimension.
pub(super) enum Part {
    Window(Window),
    /// One position, which is inside.
    Position(i32),
    /// Positions that are known when they are used.
    Array(Array),
}

impl Part {
    /// What is taken of a dimension of this size before index arrays take their part.
    pub(super) fn window(&self, dim: usize) -> Window {
        match self {
            Part::Window(window) => *window,
            Part::Position(position) => Window::one(*position),
            Part::Array(_) => Window::whole(dim),
        }
    }
}

/// A dimension of the result, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    /// What a window takes: so many.
    Window(usize),
    New,
    /// All those that the index arrays broadcast to.
    Indices,
}

impl Selection {
    pub(super) fn new(shape: &Shape, items: Vec<IndexItem>) -> Result<Selection> {
        let items = spell_out(shape, items)?;
        let mut parts = Vec::with_capacity(shape.len());
        let mut dims = Vec::new();
        // Where in `dims` an item with a position or an array of them stands.
        let mut places: Vec<usize> = Vec::new();
        let mut apart = false;
        let mut arrays = Vec::new();
        for item in items {
            let axis = parts.len();
            let mut place = || {
                apart |= places.last().is_some_and(|&last| last != dims.len());
                places.push(dims.len());
            };
            match item {
                // All that there were are spelled out.
                IndexItem::NewAxis | IndexItem::Ellipsis => dims.push(Dimension::New),
                IndexItem::Slice(slice) => {
                    let window = slice.window(shape[axis]).ok_or_else(|| {
                        error(format!("the step of the range for axis {axis} is 0"))
                    })?;
                    dims.push(Dimension::Window(window.count as usize));
                    parts.push(Part::Window(window));
                }
                IndexItem::Position(position) => {
                    place();
                    parts.push(Part::Position(inside(position, axis, shape[axis])?));
                }
                IndexItem::Array(array) => {
                    place();
                    if !array.dtype().is_integer() {
                        return Err(error(no_integers(&array)));
                    }
                    arrays.push(array.shape().clone());
                    parts.push(Part::Array(array));
                }
            }
        }
        let mut arrays = arrays.into_iter();
        let indices = match arrays.next() {
            None => None,
            Some(first) => Some(arrays.try_fold(first, |shape, other| {
                let cause = |cause: Error| {
                    cause.context("index", "the index arrays do not broadcast together")
                };
                shape.broadcast(&other).map_err(cause)
            })?),
        };
        if indices.is_some() {
            let place = if apart { 0 } else { places[0] };
            dims.insert(place, Dimension::Indices);
        }
        Ok(Selection {
            parts,
            dims,
            indices,
        })
    }

    /// The shape of the result.
    pub(super) fn shape(&self) -> Shape {
        let mut shape = Vec::new();
        for dim in &self.dims {
            match dim {
                Dimension::New => shape.push(1),
                Dimension::Indices => shape.extend(self.indices.iter().flat_map(|s| s.iter())),
                Dimension::Window(count) => shape.push(*count),
            }
        }
        shape.into()
    }

    /// The dimensions of the array whose parts are such, counted from `from`.
    pub(super) fn axes(&self, from: usize, such: impl Fn(&Part) -> bool) -> Vec<i32> {
        let axes = (0..self.parts.len()).filter(|&axis| such(&self.parts[axis]));
        axes.map(|axis| (from + axis) as i32).collect()
    }

    /// The new dimensions of the result.
    pub(super) fn new_axes(&self) -> Vec<i32> {
        let mut axes = Vec::new();
        let mut next = 0;
        for dim in &self.dims {
            next += match dim {
                Dimension::Indices => self.rank() as i32,
                Dimension::Window(_) => 1,
                Dimension::New => {
                    axes.push(next);
                    1
                }
            };
        }
        axes
    }

    /// How many dimensions the index arrays broadcast to.
    pub(super) fn rank(&self) -> usize {
        self.indices.as_ref().map_or(0, |shape| shape.len())
    }

    /// How many windows' dimensions stand before those of the index arrays.
    pub(super) fn windows_before(&self) -> usize {
        let before = self
            .dims
            .iter()
            .take_while(|dim| **dim != Dimension::Indices);
        before
            .filter(|dim| matches!(dim, Dimension::Window(_)))
            .count()
    }
}

/// The items with ranges in place of the ellipsis and of what is not named at the end.
fn spell_out(shape: &Shape, mut items: Vec<IndexItem>) -> Result<Vec<IndexItem>> {
    let named = items
        .iter()
        .filter(|item| !matches!(item, IndexItem::NewAxis | IndexItem::Ellipsis));
    let Some(missing) = shape.len().checked_sub(named.count()) else {
        return Err(error(format!(
            "got more items than the array has dimensions: {items:?} for {shape}"
        )));
    };
    let is_ellipsis = |item: &IndexItem| matches!(item, IndexItem::Ellipsis);
    let place = items.iter().position(is_ellipsis);
    let place = place.map_or(items.len()..items.len(), |place| place..place + 1);
    items.splice(place, std::iter::repeat_n(IndexItem::from(..), missing));
    match items.iter().any(is_ellipsis) {
        true => Err(error("got two ellipses, expected at most one".to_owned())),
        false => Ok(items),
    }
}

fn inside(position: i64, axis: usize, dim: usize) -> Result<i32> {
    let from_start = match position < 0 {
        true => position.saturating_add(dim as i64),
        false => position,
    };
    match (0..dim as i64).contains(&from_start) {
        true => Ok(from_start as i32),
        false => Err(error(format!(
            "position {position} is out of range for axis {axis} of size {dim}"
        ))),
    }
}

fn no_integers(array: &Array) -> String {
    let hint = match array.dtype() {
        Dtype::Bool => "; index_set takes bools, as its only item",
        _ => "",
    };
    format!("got {array:?} as positions, expected integers{hint}")
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::invalid("index", message)
}
