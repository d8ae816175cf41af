//! Elementwise programs: run tile by tile within the first-level cache, one vectorised loop per
//! instruction.
//!
//! Preparing turns a program into loops and places ([`Place`]): a register lives in an input's or
//! an output's memory where that is possible, else in a slot of a scratch buffer that holds one
//! tile. Registers of half types are float32.

mod cast;
mod float32;
mod other;
mod plan;
mod run;
#[cfg(test)]
mod tests;

use motet_core::backend::{Launch, Step};
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;
use smallvec::SmallVec;

use crate::operand::{Walk, address};
use crate::simd::Simd;
use run::Run;

/// Any strides will do.
pub(crate) fn accepts(_kernel: &Kernel, _index: usize, _layout: &Layout) -> bool {
    true
}

/// A step that runs a program.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let Kernel::Elementwise(program) = kernel else {
        return Err(Error::invalid("Elementwise", "not an elementwise kernel"));
    };
    let step = plan::plan(program, inputs, outputs, Simd::detect())?;
    Ok(Box::new(step))
}

/// Elements of a tile: a few float32 registers stay within a first-level cache of 32 KiB.
const TILE: usize = 1024;

/// What a region's tile should take: much more than handing it to another thread, little enough
/// that many threads find work.
const REGION_TILE_PS: usize = 20_000_000;

/// Where the elements of a tile are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// In an input's memory, at the tile's position; elements of this size.
    Input { index: usize, size: usize },
    /// In an output's memory, at the tile's position; elements of this size.
    Output { index: usize, size: usize },
    /// In a slot of the scratch buffer, from its start.
    Slot(usize),
}

/// One action on a tile.
#[derive(Clone, Debug)]
enum Action {
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
}

/// A prepared program.
struct Elementwise {
    /// The layouts, to find the memory at a launch.
    inputs: Vec<Layout>,
    outputs: Vec<Layout>,
    /// What is the same in all tiles: constants and scalars.
    once: Vec<Action>,
    /// What is done for each tile.
    each: Vec<Action>,
    slots: usize,
    slot_bytes: usize,
    /// Elements in all.
    len: usize,
    /// Elements of a region's tile, a multiple of [`TILE`].
    region_tile: usize,
    region_tile_ns: usize,
}

impl Step for Elementwise {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let find = |(location, layout)| address(location, layout);
        let inputs = launch.inputs.iter().zip(&self.inputs).map(find);
        let outputs = launch.outputs.iter().zip(&self.outputs).map(find);
        let memory = Memory {
            inputs: inputs.collect::<Result<_>>()?,
            outputs: outputs.collect::<Result<_>>()?,
        };
        let tiles = self.len.div_ceil(self.region_tile);
        launch
            .pool
            .for_each_tile(tiles, self.region_tile_ns, &|tile| {
                let start = tile * self.region_tile;
                self.run(&memory, start, self.len.min(start + self.region_tile));
            });
        Ok(())
    }
}

/// The addresses of the operands.
struct Memory {
    inputs: SmallVec<[*mut u8; 4]>,
    outputs: SmallVec<[*mut u8; 2]>,
}

// SAFETY: inputs are only read, and each thread writes its own tiles of the outputs.
unsafe impl Sync for Memory {}

/// Memory for slots, aligned as vectors want it.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _memory: [u8; 64],
}

impl Elementwise {
    /// Runs the program for the elements `start..end`, which are inside of all operands.
    fn run(&self, memory: &Memory, start: usize, end: usize) {
        let mut scratch =
            vec![Line { _memory: [0; 64] }; self.slots * self.slot_bytes / size_of::<Line>()];
        let scratch = scratch.as_mut_ptr().cast::<u8>();
        for action in &self.once {
            // SAFETY: as below; what is done once fills slots from scalars and constants.
            unsafe { self.act(action, memory, scratch, start, TILE.min(self.len)) }
        }
        for tile in (start..end).step_by(TILE) {
            for action in &self.each {
                // SAFETY: the tile is inside of all operands, the scratch buffer has all slots,
                // and this thread alone writes it and this tile of the outputs.
                unsafe { self.act(action, memory, scratch, tile, TILE.min(end - tile)) }
            }
        }
    }

    /// Does one action for `len` elements from number `start` on.
    ///
    /// # Safety
    /// These elements are inside of all operands that the action names; `scratch` has all slots;
    /// nobody else uses it or these elements of the outputs.
    unsafe fn act(
        &self,
        action: &Action,
        memory: &Memory,
        scratch: *mut u8,
        start: usize,
        len: usize,
    ) {
        // SAFETY: by this function's contract the addresses are inside of their memory.
        let find = |place| unsafe {
            match place {
                Place::Input { index, size } => memory.inputs[index].add(start * size),
                Place::Output { index, size } => memory.outputs[index].add(start * size),
                Place::Slot(slot) => scratch.add(slot * self.slot_bytes),
            }
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
            Action::Gather {
                input,
                size,
                walk,
                slot,
            } => {
                let (from, to) = (memory.inputs[*input], find(Place::Slot(*slot)));
                // SAFETY: the walk addresses elements of the input, which `address` checked, and
                // the slot has room for a tile.
                unsafe {
                    match size {
                        1 => gather::<u8>(walk, from, to, start, len),
                        2 => gather::<u16>(walk, from, to, start, len),
                        4 => gather::<u32>(walk, from, to, start, len),
                        _ => gather::<[u32; 2]>(walk, from, to, start, len),
                    }
                }
            }
            Action::Fill { value, size, slot } => {
                let to = find(Place::Slot(*slot));
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
unsafe fn gather<T: Copy>(walk: &Walk, from: *mut u8, to: *mut u8, start: usize, len: usize) {
    let (from, to) = (from.cast::<T>(), to.cast::<T>());
    let step = walk.step();
    walk.runs(start..start + len, |number, [offset], len| {
        // SAFETY: by this function's contract; run by run the walk stays inside.
        unsafe {
            let (from, to) = (from.offset(offset), to.add(number - start));
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
