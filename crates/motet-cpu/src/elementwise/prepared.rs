//! A prepared program: what is done to each tile, and where its values are.
//!
//! It runs on any [`Part`] of its elements, given the addresses of its operands and a scratch buffer:
//! the step of a program of its own runs all parts, another kernel runs the parts that it has just
//! computed.

use motet_core::backend::Location;
use motet_core::error::Result;
use motet_core::program::Program;
use motet_core::shape::Layout;
use smallvec::{SmallVec, smallvec};

use super::chain::{self, Link, MAX_LINKS, Op};
use super::run::Run;
use super::{TILE, plan};
use crate::operand::{Extent, Walk};
use crate::simd::Simd;
use crate::vector::fence;

/// Where the elements of a tile are: so many bytes behind a [`Base`] of the tile, elements of this size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) base: usize,
    pub(super) offset: usize,
    /// 0 where one element stands for all.
    pub(super) size: usize,
}

/// The bases of a tile: the scratch memory, the program's constants, and from here on the inputs, the
/// outputs, and the inputs again for those that repeat a row.
pub(super) const SCRATCH: usize = 0;
pub(super) const CONSTANTS: usize = 1;
pub(super) const INPUTS: usize = 2;

/// What the places of a tile count from. It is the same for all kinds of places, so that to find an
/// operand of few elements takes less time than what is done with it.
struct Base {
    address: *mut u8,
    /// The tile's first element, behind the address.
    start: usize,
    /// Elements from a row of the tile to the next.
    row: usize,
}

impl Place {
    /// The first element's address, and the bytes from a row to the next.
    #[inline(always)]
    fn find(self, bases: &[Base]) -> (*mut u8, usize) {
        let Place { base, offset, size } = self;
        let base = &bases[base];
        let address = base.address.wrapping_add(offset + base.start * size);
        (address, base.row * size)
    }
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
        to: Place,
    },
    /// Fills a slot with an element.
    Fill { value: [u8; 8], to: Place },
    /// Runs a loop.
    Run {
        run: Run,
        operands: [Place; 3],
        result: Place,
    },
    /// Runs a chain of float32 operations.
    Chain {
        links: Vec<PlacedLink>,
        /// A block in between.
        block: Place,
    },
}

impl Action {
    /// The bases of what it touches, in the order in which it does for each element.
    fn bases(&self) -> SmallVec<[usize; 8]> {
        match self {
            Action::Gather { input, to, .. } => smallvec![INPUTS + input, to.base],
            Action::Fill { to, .. } => smallvec![to.base],
            // It holds a tile of each as a slice, for as long as it writes.
            Action::Run {
                operands, result, ..
            } => {
                let operands = operands.iter().map(|place| place.base);
                std::iter::once(result.base).chain(operands).collect()
            }
            Action::Chain { links, .. } => links.iter().map(|link| link.place.base).collect(),
        }
    }
}

/// A program made ready for operands of certain layouts. Immutable: any number of threads run it at
/// once, each with memory of its own.
pub(crate) struct Prepared {
    /// What is the same in all tiles: constants and scalars.
    pub(super) once: Vec<Action>,
    /// What is done for each tile.
    pub(super) each: Vec<Action>,
    /// What is at [`CONSTANTS`].
    pub(super) constants: Vec<f32>,
    /// Whether outputs are written past the caches.
    pub(super) streams: bool,
    pub(super) simd: Simd,
    pub(super) scratch_bytes: usize,
    /// Inputs, whether they are in memory or not.
    pub(super) inputs: usize,
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

/// Where a launch keeps the addresses: written there once, as to move them takes longer than to find them.
#[derive(Default)]
pub(crate) struct Operands {
    inputs: SmallVec<[*const u8; 8]>,
    outputs: SmallVec<[*mut u8; 4]>,
}

impl Operands {
    /// Input 0 is given [part by part](Sums).
    pub(crate) fn leave_first(&mut self) {
        self.inputs.push(std::ptr::null());
    }

    /// The memory of a program's inputs, those that were left aside, and outputs.
    #[inline]
    pub(crate) fn find(
        &mut self,
        inputs: &[Location<'_>],
        input_extents: &[Extent],
        outputs: &[Location<'_>],
        output_extents: &[Extent],
    ) -> Result<Memory<'_>> {
        for (location, extent) in inputs.iter().zip(input_extents) {
            self.inputs.push(extent.address(location)?);
        }
        for (location, extent) in outputs.iter().zip(output_extents) {
            self.outputs.push(extent.address(location)?);
        }
        Ok(Memory {
            inputs: &self.inputs,
            outputs: &self.outputs,
        })
    }
}

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

    /// Whether an output may be where a row-major input is that has elements of the same size: tile by tile,
    /// all is read of the input before anything is written there.
    pub(crate) fn writes_over(&self, input: usize, output: usize) -> bool {
        let (read, written) = (INPUTS + input, INPUTS + self.inputs + output);
        let bases = self.each.iter().flat_map(Action::bases);
        let mut from_there_on = bases.skip_while(|&base| base != written);
        from_there_on.all(|base| base != read)
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
        self.scratch_bytes
    }

    /// Runs the program for some elements.
    ///
    /// # Safety
    /// The part's elements have numbers below `len()`. They are where `memory`, the part and the layouts
    /// say, aligned; those of the inputs are initialised. `scratch` has `scratch_bytes()` bytes, aligned
    /// to 64. Nobody else uses the scratch memory or these elements of the outputs, and no output
    /// overlaps an input, unless it is all of one that it [may be](Prepared::writes_over) over.
    pub(crate) unsafe fn run(&self, memory: &Memory<'_>, scratch: *mut u8, part: Part) {
        if !self.once.is_empty() {
            let part = Part::neighbours(0, TILE.min(self.len), None);
            let bases = self.bases(memory, scratch, &part);
            for action in &self.once {
                // SAFETY: by this function's contract; what is done once fills slots from scalars and
                // constants.
                unsafe { self.act::<true>(action, &bases, &part) }
            }
        }
        let tiles = |part: Part| {
            self.tiles(part, &|tile| {
                let bases = self.bases(memory, scratch, &tile);
                for action in &self.each {
                    // SAFETY: these are elements of the part's.
                    unsafe {
                        match tile.rows {
                            1 => self.act::<true>(action, &bases, &tile),
                            _ => self.act::<false>(action, &bases, &tile),
                        }
                    }
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
        if rows == 1 && columns <= TILE {
            return run(part);
        }
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

    /// What places count from, for the elements of a part.
    #[inline(always)]
    fn bases(&self, memory: &Memory<'_>, scratch: *mut u8, part: &Part) -> SmallVec<[Base; 8]> {
        let mut bases = SmallVec::new();
        let mut add = |address, start, row| {
            bases.push(Base {
                address,
                start,
                row,
            });
        };
        add(scratch, 0, part.columns);
        add(self.constants.as_ptr().cast_mut().cast(), 0, 0);
        for (index, &input) in memory.inputs.iter().enumerate() {
            match part.sums {
                Some(sums) if index == 0 => add(sums.address.cast_mut().cast(), 0, sums.step),
                _ => add(input.cast_mut(), part.start, part.row),
            }
        }
        for &output in memory.outputs {
            add(output, part.start, part.row);
        }
        if let Some(row) = self.row {
            for &input in memory.inputs {
                add(input.cast_mut(), part.start % row, 0);
            }
        }
        bases
    }

    /// Does one action for the elements of a part, which is one row if `ONE`: few elements take less
    /// time than to find out where further rows are.
    ///
    /// # Safety
    /// As for [`run`](Prepared::run); the part has at most [`TILE`] elements, and these are its bases.
    unsafe fn act<const ONE: bool>(&self, action: &Action, bases: &[Base], part: &Part) {
        let Part { start, columns, .. } = *part;
        let rows = if ONE { 1 } else { part.rows };
        match action {
            Action::Run {
                run,
                operands: [a, b, c],
                result,
            } => {
                let [(a, a_step), (b, b_step), (c, c_step)] =
                    [a.find(bases), b.find(bases), c.find(bases)];
                let (result, step) = result.find(bases);
                for row in 0..rows {
                    let operands = [(a, a_step), (b, b_step), (c, c_step)]
                        .map(|(first, step)| first.wrapping_add(row * step).cast_const());
                    // SAFETY: the plan chose the loop by the registers' types, defined its operands
                    // before it, and gave the result a place of its own.
                    unsafe { run(operands, result.wrapping_add(row * step), columns) }
                }
            }
            Action::Chain { links, block } => {
                let (block, _) = block.find(bases);
                let mut found = SmallVec::<[Link; MAX_LINKS]>::new();
                for link in links {
                    let (address, row_step) = link.place.find(bases);
                    // What is the same for all blocks is so for all rows.
                    let row_step = if ONE || link.step == 0 { 0 } else { row_step };
                    found.push(Link {
                        op: match link.op {
                            Op::Stream if (address.addr() | row_step) % 64 != 0 => Op::Store,
                            op => op,
                        },
                        address,
                        step: link.step,
                        row_step,
                        scalar: link.scalar,
                        block: block.cast(),
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
                to,
            } => {
                let from = bases[INPUTS + input].address.cast_const();
                let (to, step) = to.find(bases);
                for i in 0..rows {
                    let (to, start) = (to.wrapping_add(i * step), start + i * part.row);
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
            Action::Fill { value, to } => {
                let size = to.size;
                let (to, _) = to.find(bases);
                for i in 0..columns {
                    // SAFETY: the slot has room for a tile of elements of this size.
                    unsafe {
                        to.add(i * size)
                            .copy_from_nonoverlapping(value.as_ptr(), size)
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
