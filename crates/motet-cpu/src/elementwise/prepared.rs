//! A prepared program: what is done to each tile, and where its values are.
//!
//! It runs on any [`Part`] of its elements, given the addresses of its operands and a scratch buffer:
//! the step of a program of its own runs all parts, another kernel runs the parts that it has just
//! computed.

use motet_core::error::Result;
use motet_core::program::Program;
use motet_core::shape::Layout;
use smallvec::SmallVec;

use super::chain::{self, Link, MAX_LINKS, Op};
use super::run::Run;
use super::{TILE, plan};
use crate::operand::Walk;
use crate::simd::Simd;
use crate::vector::fence;

/// Where the elements of a tile are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// In an input's memory, at the tile's position; elements of this size.
    Input { index: usize, size: usize },
    /// In an output's memory, at the tile's position; elements of this size.
    Output { index: usize, size: usize },
    /// In a row that an input repeats, at the tile's column; elements of this size.
    Row { index: usize, size: usize },
    /// In a slot of the scratch buffer, from its start; elements of this size.
    Slot { number: usize, size: usize },
    /// The one float32 of an input that has it for all elements.
    Scalar(usize),
    /// One of the program's float32 constants.
    Constant(usize),
}

/// A link of a chain, with its operand's place instead of its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedLink {
    pub(super) op: Op,
    pub(super) place: Place,
    pub(super) step: usize,
    pub(super) scalar: bool,
}

/// One action on a tile.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Collects the elements of a strided input in a slot.
    Gather {
        input: usize,
        size: usize,
        walk: Walk,
        slot: usize,
    },
    /// Fills a slot with an element.
    Fill {
        value: [u8; 8],
        size: usize,
        slot: usize,
    },
    /// Runs a loop.
    Run {
        run: Run,
        operands: [Place; 3],
        result: Place,
    },
    /// Runs a chain of float32 operations.
    Chain {
        links: Vec<PlacedLink>,
        /// The slot of a block in between.
        block: usize,
    },
}

/// A program made ready for operands of certain layouts. Immutable: any number of threads run it at
/// once, each with memory of its own.
pub(crate) struct Prepared {
    /// What is the same in all tiles: constants and scalars.
    pub(super) once: Vec<Action>,
    /// What is done for each tile.
    pub(super) each: Vec<Action>,
    /// What [`Place::Constant`] is.
    pub(super) constants: Vec<f32>,
    /// Whether outputs are written past the caches.
    pub(super) streams: bool,
    pub(super) simd: Simd,
    pub(super) slots: usize,
    pub(super) slot_bytes: usize,
    /// Elements in all.
    pub(super) len: usize,
    /// The elements of a row, if inputs repeat one.
    pub(super) row: Option<usize>,
    pub(super) cost_ps: usize,
}

/// The addresses of the operands' first elements, by number.
///
/// An address may be outside of what memory there is, where only later elements are there and only
/// they are asked for.
pub(crate) struct Memory<'a> {
    pub(crate) inputs: &'a [*const u8],
    pub(crate) outputs: &'a [*mut u8],
}

// SAFETY: inputs are only read, and each thread writes its own tiles of the outputs.
unsafe impl Sync for Memory<'_> {}

/// Elements to run a program for: `columns` neighbours of each of some rows. Element (i, j) has the
/// row-major number `start + i * row + j`. Several rows are rows of the result or parts of such: they do
/// not reach over the end of one.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) start: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row: usize,
    /// Where input 0 is, if it is not in memory as a whole.
    pub(crate) sums: Option<Sums>,
}

/// The elements of a part that another kernel has just computed.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    /// The first element.
    pub(crate) address: *const f32,
    /// From a row to the next.
    pub(crate) step: usize,
}

impl Part {
    /// Elements that follow each other.
    pub(crate) fn neighbours(start: usize, len: usize, sums: Option<*const f32>) -> Part {
        Part {
            start,
            rows: 1,
            columns: len,
            row: len,
            sums: sums.map(|address| Sums { address, step: len }),
        }
    }

    /// Some rows and columns of these.
    fn within(self, row: usize, rows: usize, column: usize, columns: usize) -> Part {
        let sums = |Sums { address, step }| Sums {
            address: address.wrapping_add(row * step + column),
            step,
        };
        Part {
            start: self.start + row * self.row + column,
            rows,
            columns,
            sums: self.sums.map(sums),
            ..self
        }
    }

    /// `rows` rows of this length instead of a single one, from a column on.
    fn folded(self, row: usize, rows: usize, column: usize) -> Part {
        let sums = |sums| Sums { step: row, ..sums };
        let part = self.within(0, 1, column, row);
        Part {
            rows,
            row,
            sums: part.sums.map(sums),
            ..part
        }
    }
}

impl Prepared {
    /// Makes a program ready for inputs and outputs of these layouts, the outputs row-major. An input
    /// that the program has in a half type may come as float32.
    ///
    /// # Errors
    /// Layouts that are not of one shape or not of the program's dtypes; functions that are not
    /// defined for their dtype.
    pub(crate) fn new(
        program: &Program,
        inputs: &[Layout],
        outputs: &[Layout],
        simd: Simd,
    ) -> Result<Prepared> {
        plan::plan(program, inputs, outputs, simd)
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Roughly what one element takes, in picoseconds.
    pub(crate) fn cost_ps(&self) -> usize {
        self.cost_ps
    }

    /// The bytes of scratch memory that [`run`](Prepared::run) needs.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.slots * self.slot_bytes
    }

    /// Runs the program for some elements.
    ///
    /// # Safety
    /// The part's elements have numbers below `len()`. They are where `memory`, the part and the layouts
    /// say, aligned; those of the inputs are initialised. `scratch` has `scratch_bytes()` bytes, aligned
    /// to 64. Nobody else uses the scratch memory or these elements of the outputs, and no output
    /// overlaps an input.
    pub(crate) unsafe fn run(&self, memory: &Memory<'_>, scratch: *mut u8, part: Part) {
        for action in &self.once {
            let part = Part::neighbours(0, TILE.min(self.len), None);
            // SAFETY: by this function's contract; what is done once fills slots from scalars and
            // constants.
            unsafe { self.act(action, memory, scratch, &part) }
        }
        let tiles = |part: Part| {
            // SAFETY: these are elements of the part's.
            self.tiles(part, &|tile| unsafe {
                for action in &self.each {
                    self.act(action, memory, scratch, &tile);
                }
            });
        };
        match self.row {
            Some(row) if part.rows == 1 || part.row != row => {
                for number in 0..part.rows {
                    in_rows(part.within(number, 1, 0, part.columns), row, tiles);
                }
            }
            _ => tiles(part),
        }
        if self.streams {
            fence();
        }
    }

    /// Cuts a part into tiles of at most [`TILE`] elements.
    #[inline(always)]
    fn tiles(&self, part: Part, run: &impl Fn(Part)) {
        let Part { rows, columns, .. } = part;
        let gap = part.row != columns || part.sums.is_some_and(|sums| sums.step != columns);
        if rows > 1 && !gap && self.row.is_none() {
            return self.tiles(
                Part::neighbours(
                    part.start,
                    rows * columns,
                    part.sums.map(|sums| sums.address),
                ),
                run,
            );
        }
        let (tall, wide) = ((TILE / columns.max(1)).max(1), columns.min(TILE));
        for row in (0..rows).step_by(tall) {
            for column in (0..columns).step_by(wide.max(1)) {
                let (rows, columns) = (tall.min(rows - row), wide.min(columns - column));
                run(part.within(row, rows, column, columns));
            }
        }
    }

    /// Does one action for the elements of a part.
    ///
    /// # Safety
    /// As for [`run`](Prepared::run); the part has at most [`TILE`] elements.
    unsafe fn act(&self, action: &Action, memory: &Memory<'_>, scratch: *mut u8, part: &Part) {
        let Part {
            start,
            rows,
            columns,
            row,
            sums,
        } = *part;
        let slot = |number: usize| scratch.wrapping_add(number * self.slot_bytes);
        // The first element's address, and the bytes from a row to the next.
        let find = |place| match (place, sums) {
            (Place::Input { index: 0, size }, Some(sums)) => {
                (sums.address.cast_mut().cast(), sums.step * size)
            }
            (Place::Input { index, size }, _) => {
                let first = memory.inputs[index].cast_mut();
                (first.wrapping_add(start * size), row * size)
            }
            (Place::Output { index, size }, _) => {
                (memory.outputs[index].wrapping_add(start * size), row * size)
            }
            (Place::Row { index, size }, _) => {
                let column = start % self.row.unwrap_or(1);
                let first = memory.inputs[index].cast_mut();
                (first.wrapping_add(column * size), 0)
            }
            (Place::Slot { number, size }, _) => (slot(number), columns * size),
            (Place::Scalar(index), _) => (memory.inputs[index].cast_mut(), 0),
            (Place::Constant(index), _) => {
                ((&raw const self.constants[index]).cast_mut().cast(), 0)
            }
        };
        match action {
            Action::Run {
                run,
                operands,
                result,
            } => {
                let [(a, a_step), (b, b_step), (c, c_step)] =
                    [find(operands[0]), find(operands[1]), find(operands[2])];
                let (result, step) = find(*result);
                for row in 0..rows {
                    let operands = [(a, a_step), (b, b_step), (c, c_step)]
                        .map(|(first, step)| first.wrapping_add(row * step).cast_const());
                    // SAFETY: the plan chose the loop by the registers' types, defined its operands
                    // before it, and gave the result a place of its own.
                    unsafe { run(operands, result.wrapping_add(row * step), columns) }
                }
            }
            Action::Chain { links, block } => {
                let block = slot(*block).cast();
                let mut found = SmallVec::<[Link; MAX_LINKS]>::new();
                for link in links {
                    let (address, row_step) = find(link.place);
                    found.push(Link {
                        op: match link.op {
                            Op::Stream if (address.addr() | row_step) % 64 != 0 => Op::Store,
                            op => op,
                        },
                        address,
                        step: link.step,
                        // What is the same for all blocks is so for all rows.
                        row_step: if link.step == 0 { 0 } else { row_step },
                        scalar: link.scalar,
                        block,
                    });
                }
                // SAFETY: as above; constants are one element, which the links say, and blocks are
                // in slots of their own.
                unsafe { chain::run(self.simd, &mut found, rows, columns) }
            }
            Action::Gather {
                input,
                size,
                walk,
                slot: to,
            } => {
                for i in 0..rows {
                    let (from, to) = (
                        memory.inputs[*input],
                        slot(*to).wrapping_add(i * columns * size),
                    );
                    let start = start + i * row;
                    // SAFETY: the walk addresses elements of the input, and the slot has room for a
                    // tile.
                    unsafe {
                        match size {
                            1 => gather::<u8>(walk, from, to, start, columns),
                            2 => gather::<u16>(walk, from, to, start, columns),
                            4 => gather::<u32>(walk, from, to, start, columns),
                            _ => gather::<[u32; 2]>(walk, from, to, start, columns),
                        }
                    }
                }
            }
            Action::Fill {
                value,
                size,
                slot: to,
            } => {
                let to = slot(*to);
                for i in 0..columns {
                    // SAFETY: the slot has room for a tile of elements of this size.
                    unsafe {
                        to.add(i * size)
                            .copy_from_nonoverlapping(value.as_ptr(), *size)
                    }
                }
            }
        }
    }
}

/// Takes neighbours apart at the ends of rows: the rest of a row, whole rows, the start of a row.
#[inline(always)]
fn in_rows(part: Part, row: usize, run: impl Fn(Part)) {
    let mut done = 0;
    while done < part.columns {
        let column = (part.start + done) % row;
        let left = part.columns - done;
        let part = if column == 0 && left >= row {
            part.folded(row, left / row, done)
        } else {
            part.within(0, 1, done, left.min(row - column))
        };
        run(part);
        done += part.rows * part.columns;
    }
}

/// Copies the elements `start..start + len` of a walk over `from` to `to`.
///
/// # Safety
/// The walk's elements are readable from `from`, `to` has room for `len`, both are aligned.
unsafe fn gather<T: Copy>(walk: &Walk, from: *const u8, to: *mut u8, start: usize, len: usize) {
    let (from, to) = (from.cast::<T>(), to.cast::<T>());
    let step = walk.step();
    walk.runs(start..start + len, |number, [offset], len| {
        // SAFETY: by this function's contract; run by run the walk stays inside.
        unsafe {
            let (from, to) = (from.wrapping_offset(offset), to.add(number - start));
            match step {
                1 => to.copy_from_nonoverlapping(from, len),
                0 => {
                    let value = *from;
                    (0..len).for_each(|i| *to.add(i) = value);
                }
                _ => (0..len).for_each(|i| *to.add(i) = *from.offset(i as isize * step)),
            }
        }
    });
}
