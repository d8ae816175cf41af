//! A prepared program: what is done to each tile, and where its values are.
//!
//! It runs on any part of its elements, given the addresses of its operands and a scratch buffer:
//! the step of a program of its own runs all parts, another kernel runs the parts that it has just
//! computed.

use std::ops::Range;

use motet_core::error::Result;
use motet_core::program::Program;
use motet_core::shape::Layout;
use smallvec::SmallVec;

use super::chain::{self, Link, MAX_LINKS, Op};
use super::run::Run;
use super::{TILE, plan};
use crate::lanes::fence;
use crate::operand::Walk;
use crate::simd::Simd;

/// Where the elements of a tile are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// In an input's memory, at the tile's position; elements of this size.
    Input { index: usize, size: usize },
    /// In an output's memory, at the tile's position; elements of this size.
    Output { index: usize, size: usize },
    /// In a slot of the scratch buffer, from its start.
    Slot(usize),
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

    /// Runs the program for the elements with these row-major numbers.
    ///
    /// # Safety
    /// The range is within `len()`. Its elements are where `memory` and the layouts say, aligned;
    /// those of the inputs are initialised. `scratch` has `scratch_bytes()` bytes, aligned to 64.
    /// Nobody else uses the scratch memory or these elements of the outputs, and no output overlaps
    /// an input.
    pub(crate) unsafe fn run(&self, memory: &Memory<'_>, scratch: *mut u8, range: Range<usize>) {
        for action in &self.once {
            // SAFETY: by this function's contract; what is done once fills slots from scalars and
            // constants.
            unsafe { self.act(action, memory, scratch, 0, TILE.min(self.len)) }
        }
        let Range { start, end } = range;
        for tile in (start..end).step_by(TILE) {
            for action in &self.each {
                // SAFETY: by this function's contract.
                unsafe { self.act(action, memory, scratch, tile, TILE.min(end - tile)) }
            }
        }
        if self.streams {
            fence();
        }
    }

    /// Does one action for `len` elements from number `start` on.
    ///
    /// # Safety
    /// As for [`run`](Prepared::run); `len` is at most [`TILE`].
    unsafe fn act(
        &self,
        action: &Action,
        memory: &Memory<'_>,
        scratch: *mut u8,
        start: usize,
        len: usize,
    ) {
        let slot = |slot: usize| scratch.wrapping_add(slot * self.slot_bytes);
        let find = |place| match place {
            Place::Input { index, size } => {
                memory.inputs[index].cast_mut().wrapping_add(start * size)
            }
            Place::Output { index, size } => memory.outputs[index].wrapping_add(start * size),
            Place::Slot(number) => slot(number),
            Place::Scalar(index) => memory.inputs[index].cast_mut(),
            Place::Constant(index) => (&raw const self.constants[index]).cast_mut().cast(),
        };
        match action {
            Action::Run {
                run,
                operands,
                result,
            } => {
                let operands = operands.map(|place| find(place).cast_const());
                // SAFETY: the plan chose the loop by the registers' types, defined its operands
                // before it, and gave the result a place of its own.
                unsafe { run(operands, find(*result), len) }
            }
            Action::Chain { links, block } => {
                let block = slot(*block).cast();
                let mut found = SmallVec::<[Link; MAX_LINKS]>::new();
                for link in links {
                    let address = find(link.place);
                    found.push(Link {
                        op: match link.op {
                            Op::Stream if address.addr() % 64 != 0 => Op::Store,
                            op => op,
                        },
                        address,
                        step: link.step,
                        scalar: link.scalar,
                        block,
                    });
                }
                // SAFETY: as above; constants are one element, which the links say, and blocks are
                // in slots of their own.
                unsafe { chain::run(self.simd, &found, len) }
            }
            Action::Gather {
                input,
                size,
                walk,
                slot: to,
            } => {
                let (from, to) = (memory.inputs[*input], slot(*to));
                // SAFETY: the walk addresses elements of the input, and the slot has room for a
                // tile.
                unsafe {
                    match size {
                        1 => gather::<u8>(walk, from, to, start, len),
                        2 => gather::<u16>(walk, from, to, start, len),
                        4 => gather::<u32>(walk, from, to, start, len),
                        _ => gather::<[u32; 2]>(walk, from, to, start, len),
                    }
                }
            }
            Action::Fill {
                value,
                size,
                slot: to,
            } => {
                let to = slot(*to);
                for i in 0..len {
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
