//! Indices that are known only when a kernel runs, and the errors for those that are out of range.

use std::sync::Mutex;

use motet_core::backend::Location;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::pool::Pool;
use motet_core::shape::Layout;

use crate::operand::input;

/// An input of indices of any integer dtype.
pub(crate) enum Indices<'a> {
    Uint8(&'a [u8]),
    Uint16(&'a [u16]),
    Uint32(&'a [u32]),
    Uint64(&'a [u64]),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
}

impl<'a> Indices<'a> {
    /// The indices at `location`, row-major.
    pub(crate) fn new(location: &Location<'a>, layout: &Layout) -> Result<Indices<'a>> {
        Ok(match layout.dtype {
            Dtype::Uint8 => Indices::Uint8(input(location, layout)?),
            Dtype::Uint16 => Indices::Uint16(input(location, layout)?),
            Dtype::Uint32 => Indices::Uint32(input(location, layout)?),
            Dtype::Uint64 => Indices::Uint64(input(location, layout)?),
            Dtype::Int8 => Indices::Int8(input(location, layout)?),
            Dtype::Int16 => Indices::Int16(input(location, layout)?),
            Dtype::Int32 => Indices::Int32(input(location, layout)?),
            _ => Indices::Int64(input(location, layout)?),
        })
    }

    /// Index `number` as it is.
    #[inline(always)]
    pub(crate) fn get(&self, number: usize) -> i128 {
        match self {
            Indices::Uint8(values) => values[number].into(),
            Indices::Uint16(values) => values[number].into(),
            Indices::Uint32(values) => values[number].into(),
            Indices::Uint64(values) => values[number].into(),
            Indices::Int8(values) => values[number].into(),
            Indices::Int16(values) => values[number].into(),
            Indices::Int32(values) => values[number].into(),
            Indices::Int64(values) => values[number].into(),
        }
    }

    /// The position that index `number` stands for in a dimension of `dim`, with room for `block`
    /// elements from there on.
    #[inline(always)]
    pub(crate) fn resolve(
        &self,
        op: &str,
        number: usize,
        axis: usize,
        dim: usize,
        block: usize,
    ) -> Result<usize> {
        let index = self.get(number);
        let position = if index < 0 {
            index + dim as i128
        } else {
            index
        };
        match usize::try_from(position) {
            Ok(position) if position < dim && block <= dim - position => Ok(position),
            _ => Err(out_of_range(op, index, axis, dim, block)),
        }
    }
}

#[cold]
fn out_of_range(op: &str, index: i128, axis: usize, dim: usize, block: usize) -> Error {
    let room = match block {
        1 => String::new(),
        _ => format!(" for a block of {block}"),
    };
    Error::invalid(
        op,
        format!("index {index} is out of range{room}: got a dimension of {dim} on axis {axis}"),
    )
}

/// Runs tiles that can fail; the error is that of the first tile that failed.
pub(crate) fn try_tiles(
    pool: &Pool,
    tiles: usize,
    cost_ns: usize,
    run: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<()> {
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool.for_each_tile(tiles, cost_ns, &|tile| {
        if let Err(error) = run(tile) {
            // Nothing panics while it is held.
            let mut failed = failed.lock().unwrap_or_else(|poison| poison.into_inner());
            if failed.as_ref().is_none_or(|&(first, _)| tile < first) {
                *failed = Some((tile, error));
            }
        }
    });
    match failed
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
    {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Pairs of indices that pick matrices out of two batches.
pub(crate) struct Picks {
    op: &'static str,
    indices: [Layout; 2],
    batches: [usize; 2],
}

impl Picks {
    /// Picks by indices of these layouts from so many matrices each.
    pub(crate) fn new(
        op: &'static str,
        indices: [&Layout; 2],
        batches: [usize; 2],
    ) -> Result<Picks> {
        let [lhs, rhs] = indices.map(Layout::clone);
        if lhs.shape != rhs.shape || !lhs.dtype.is_integer() || !rhs.dtype.is_integer() {
            return Err(Error::invalid(
                op,
                format!(
                    "got indices {} and {}, expected integers of one shape",
                    lhs.spec(),
                    rhs.spec()
                ),
            ));
        }
        Ok(Picks {
            op,
            indices: [lhs, rhs],
            batches,
        })
    }

    /// The number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.indices[0].shape.size()
    }

    /// The pairs at these two inputs, all in range, those with one matrix of the right batch side by
    /// side: it has to be read once for all of them.
    pub(crate) fn open(&self, places: &[Location<'_>]) -> Result<Vec<Pick>> {
        let lhs = Indices::new(&places[0], &self.indices[0])?;
        let rhs = Indices::new(&places[1], &self.indices[1])?;
        let resolve = |indices: &Indices<'_>, number, batches| {
            indices.resolve(self.op, number, 0, batches, 1)
        };
        let mut picks = (0..self.len())
            .map(|number| {
                Ok(Pick {
                    left: resolve(&lhs, number, self.batches[0])?,
                    right: resolve(&rhs, number, self.batches[1])?,
                    number,
                })
            })
            .collect::<Result<Vec<Pick>>>()?;
        picks.sort_by_key(|pick| pick.right);
        Ok(picks)
    }
}

/// A pair of matrices, as their numbers in their batches, and that of their product.
#[derive(Clone, Copy)]
pub(crate) struct Pick {
    pub left: usize,
    pub right: usize,
    pub number: usize,
}

impl Pick {
    /// The product with this number, of the matrices with this number.
    pub(crate) fn own(number: usize) -> Pick {
        Pick {
            left: number,
            right: number,
            number,
        }
    }
}

/// The picks of each right matrix, at most `most` together.
pub(crate) fn groups(picks: &[Pick], most: usize) -> Vec<&[Pick]> {
    let same = picks.chunk_by(|a, b| a.right == b.right);
    same.flat_map(|picks| picks.chunks(most.max(1))).collect()
}
