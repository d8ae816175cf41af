//! What stands between the brackets: positions, ranges, new axes, an ellipsis, arrays of positions.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use motet_core::array::Array;

/// One part of an index. Made by `From` of what [`Indexing`](super::Indexing) lists.
#[derive(Clone, Debug)]
pub enum IndexItem {
    /// One position of a dimension, which goes away. Negative ones count from the end.
    Position(i64),
    /// Some positions of a dimension.
    Slice(Slice),
    /// A new dimension of size one.
    NewAxis,
    /// All of the dimensions that the other items leave.
    Ellipsis,
    /// The positions in an array of integers, or where an array of bools is true.
    Array(Array),
}

/// A new dimension of size one. Python's `None`.
#[derive(Clone, Copy, Debug)]
pub struct NewAxis;

/// All of the dimensions that the other items of an index leave. Python's `...`.
#[derive(Clone, Copy, Debug)]
pub struct Ellipsis;

/// Positions from a start towards an end. Made by `From` of a Rust range, or by [`step`].
///
/// Ends are as in Python: negative ones count from the end, and those outside of the dimension mean
/// the nearest that is inside.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    inclusive: bool,
    step: i64,
}

/// Every `by`-th position of a range; negative steps walk from the start down to the end, as Python's
/// `start:end:step`. `step(.., -1)` reverses.
///
/// ```
/// use motet::prelude::*;
/// let x = array!([0, 1, 2, 3, 4, 5]);
/// assert_eq!(x.index(step(1.., 2))?.to_vec::<i32>()?, [1, 3, 5]);
/// assert_eq!(x.index(step(4..1, -2))?.to_vec::<i32>()?, [4, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn step(range: impl Into<Slice>, by: i64) -> Slice {
    Slice {
        step: by,
        ..range.into()
    }
}

/// The positions `first + i * step` for `i` below `count`, all of them inside of the dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: i32,
    pub(super) step: i32,
    pub(super) count: i32,
}

impl Window {
    /// Where [`Slice`](motet_core::ops::slicing::Slice) is to stop: below zero it counts from the
    /// end, so that "before the first" is one less than the start of a dimension of this size.
    pub(super) fn stop(&self, dim: usize) -> i32 {
        let stop = i64::from(self.first) + i64::from(self.step) * i64::from(self.count);
        // It may lie as far as a step outside, where the nearest end means the same.
        match i32::try_from(stop.min(dim as i64)) {
            Ok(stop) if stop >= 0 => stop,
            _ => -1 - dim as i32,
        }
    }

    /// Whether it is the whole of a dimension, in order.
    pub(super) fn is_whole(&self, dim: usize) -> bool {
        self.first == 0 && self.step == 1 && self.count as usize == dim
    }

    pub(super) fn whole(dim: usize) -> Window {
        Window {
            first: 0,
            step: 1,
            count: dim as i32,
        }
    }

    pub(super) fn one(position: i32) -> Window {
        Window {
            first: position,
            step: 1,
            count: 1,
        }
    }
}

impl Slice {
    /// Its positions in a dimension of this size (of 31 bits, as every array's); `None` where the
    /// step is zero.
    pub(super) fn window(&self, dim: usize) -> Option<Window> {
        let dim = dim as i64;
        // The ends that can be told apart: walking up from 0 to `dim`, down from `dim - 1` to -1.
        let (low, high) = match self.step {
            0 => return None,
            1.. => (0, dim),
            _ => (-1, dim - 1),
        };
        let (before, after) = if self.step > 0 {
            (low, high)
        } else {
            (high, low)
        };
        let from_end = |position: i64| position + if position < 0 { dim } else { 0 };
        let past = |end: i64| match self.inclusive {
            true => end.saturating_add(self.step.signum()),
            false => end,
        };
        let bound = |position: i64| position.clamp(low, high);
        let first = self.start.map_or(before, |start| bound(from_end(start)));
        let end = self.end.map_or(after, |end| bound(past(from_end(end))));
        let distance = (end - first) * self.step.signum();
        let count = match distance {
            1.. => (distance - 1) / self.step.saturating_abs() + 1,
            _ => 0,
        };
        // Nothing is stepped over in short ones: any step will do.
        Some(Window {
            first: if count > 0 { first as i32 } else { 0 },
            step: if count > 1 { self.step as i32 } else { 1 },
            count: count as i32,
        })
    }
}

/// A Rust integer that can be a position.
pub trait Position: Copy {
    /// The position; those that no array has stay so.
    fn position(self) -> i64;
}

macro_rules! positions {
    ($($type:ty)*) => {$(
        impl Position for $type {
            fn position(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }
        }

        impl From<$type> for IndexItem {
            fn from(position: $type) -> IndexItem {
                IndexItem::Position(position.position())
            }
        }
    )*};
}

positions! { i32 i64 u32 usize }

macro_rules! ranges {
    ($($type:ty: |$range:ident| $start:expr, $end:expr, $inclusive:literal;)*) => {$(
        impl<T: Position> From<$type> for Slice {
            fn from($range: $type) -> Slice {
                Slice {
                    start: $start,
                    end: $end,
                    inclusive: $inclusive,
                    step: 1,
                }
            }
        }

        impl<T: Position> From<$type> for IndexItem {
            fn from(range: $type) -> IndexItem {
                IndexItem::Slice(range.into())
            }
        }
    )*};
}

ranges! {
    Range<T>: |range| Some(range.start.position()), Some(range.end.position()), false;
    RangeFrom<T>: |range| Some(range.start.position()), None, false;
    RangeTo<T>: |range| None, Some(range.end.position()), false;
    RangeInclusive<T>: |range| Some(range.start().position()), Some(range.end().position()), true;
    RangeToInclusive<T>: |range| None, Some(range.end.position()), true;
}

impl From<RangeFull> for Slice {
    fn from(_: RangeFull) -> Slice {
        Slice {
            start: None,
            end: None,
            inclusive: false,
            step: 1,
        }
    }
}

macro_rules! items {
    ($($type:ty: |$value:pat_param| $item:expr;)*) => {$(
        impl From<$type> for IndexItem {
            fn from($value: $type) -> IndexItem {
                $item
            }
        }
    )*};
}

items! {
    RangeFull: |all| IndexItem::Slice(all.into());
    Slice: |slice| IndexItem::Slice(slice);
    NewAxis: |_| IndexItem::NewAxis;
    Ellipsis: |_| IndexItem::Ellipsis;
    Array: |array| IndexItem::Array(array);
    &Array: |array| IndexItem::Array(array.clone());
}

impl<const N: usize> From<[i32; N]> for IndexItem {
    /// These positions.
    fn from(positions: [i32; N]) -> IndexItem {
        IndexItem::Array(Array::from(positions))
    }
}

/// What can stand between the brackets: one item, or a tuple or vector of them.
pub trait IntoIndex {
    /// The items.
    fn into_index(self) -> Vec<IndexItem>;
}

impl<T: Into<IndexItem>> IntoIndex for T {
    fn into_index(self) -> Vec<IndexItem> {
        vec![self.into()]
    }
}

impl IntoIndex for Vec<IndexItem> {
    fn into_index(self) -> Vec<IndexItem> {
        self
    }
}

macro_rules! tuples {
    ($(($($item:ident)*))*) => {$(
        impl<$($item: Into<IndexItem>),*> IntoIndex for ($($item,)*) {
            #[allow(non_snake_case, reason = "items are named as their types")]
            fn into_index(self) -> Vec<IndexItem> {
                let ($($item,)*) = self;
                vec![$($item.into()),*]
            }
        }
    )*};
}

tuples! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's `range(dim)[start:end:step]`, by walking.
    fn walked(start: Option<i64>, end: Option<i64>, step: i64, dim: i64) -> Vec<i64> {
        let from_end = |p: i64| if p < 0 { p + dim } else { p };
        let mut at = start.map_or(if step > 0 { 0 } else { dim - 1 }, from_end);
        // Positions outside of the dimension mean its nearest end.
        at = if step > 0 { at.max(0) } else { at.min(dim - 1) };
        let end = end.map_or(if step > 0 { dim } else { -1 }, |end| from_end(end).max(-1));
        let mut positions = Vec::new();
        while (step > 0 && at < end.min(dim)) || (step < 0 && at > end) {
            positions.push(at);
            at += step;
        }
        positions
    }

    fn positions(slice: Slice, dim: usize) -> Vec<i64> {
        let Window { first, step, count } = slice.window(dim).unwrap();
        let position = |i| i64::from(first) + i64::from(i) * i64::from(step);
        (0..count).map(position).collect()
    }

    #[test]
    fn slices_follow_python() {
        let ends = || {
            (-6..=6)
                .map(Some)
                .chain([None, Some(i64::MIN), Some(i64::MAX)])
        };
        for dim in 0..5 {
            for (start, end) in ends().flat_map(|start| ends().map(move |end| (start, end))) {
                for step in [-7, -3, -2, -1, 1, 2, 3, 7] {
                    let slice = Slice {
                        start,
                        end,
                        inclusive: false,
                        step,
                    };
                    let expected = walked(start, end, step, dim);
                    assert_eq!(
                        positions(slice, dim as usize),
                        expected,
                        "{slice:?} of {dim}"
                    );
                }
            }
        }
        assert_eq!(step(.., 0).window(3), None);
        assert_eq!(positions(step(.., i64::MIN), 3), [2]);
    }

    #[test]
    #[allow(
        clippy::reversed_empty_ranges,
        reason = "they count from the end, or walk down"
    )]
    fn inclusive_ends_are_in() {
        assert_eq!(positions((1..=2).into(), 5), [1, 2]);
        assert_eq!(positions((1..=-1).into(), 5), [1, 2, 3, 4]);
        assert_eq!(positions((..=-2).into(), 5), [0, 1, 2, 3]);
        assert_eq!(positions((..=usize::MAX).into(), 2), [0, 1]);
        assert_eq!(positions(step(3..=0, -1), 5), [3, 2, 1, 0]);
        assert_eq!(positions(step(3..=-4, -1), 5), [3, 2, 1]);
    }
}
