//! Elementwise programs: run tile by tile within the first-level cache, one vectorised loop per
//! function, and one per chain of simple float32 operations.
//!
//! Preparing turns a program into loops and places ([`Prepared`]): a register lives in an input's or
//! an output's memory where that is possible, else in a slot of a scratch buffer that holds one
//! tile. Registers of half types are float32.

mod cast;
mod chain;
#[cfg(test)]
mod chain_tests;
mod float32;
mod link;
mod other;
mod plan;
mod prepared;
mod run;
#[cfg(test)]
mod tests;

use motet_core::backend::{Launch, Step};
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::operand::Extent;
use crate::scratch::with_scratch;
use crate::simd::Simd;
pub(crate) use prepared::{Memory, Operands, Part, Prepared, Sums};

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
    let prepared = Prepared::new(program, inputs, outputs, Simd::detect())?;
    Ok(Box::new(Elementwise::new(prepared, inputs, outputs)))
}

/// Elements of a tile: a few float32 registers stay within a first-level cache of 32 KiB.
const TILE: usize = 1024;

/// What a region's tile should take: much more than handing it to another thread, little enough
/// that many threads find work.
const REGION_TILE_PS: usize = 20_000_000;

/// Outputs of so many bytes are written past the caches where little is computed: a store that
/// reads its cache line first takes twice as long (measured with copies of 16 MiB, 0.85 and 1.7 ms),
/// and what comes next would find little of it in a last-level cache. Chains of ten operations leave
/// the stores time enough, and got slower.
const STREAM_BYTES: usize = 16 << 20;

/// A step that runs a program.
struct Elementwise {
    prepared: Prepared,
    /// Where operands reach, to find the memory at a launch.
    inputs: Vec<Extent>,
    outputs: Vec<Extent>,
    /// Elements of a region's tile, a multiple of [`TILE`].
    region_tile: usize,
    region_tile_ns: usize,
}

impl Elementwise {
    fn new(prepared: Prepared, inputs: &[Layout], outputs: &[Layout]) -> Elementwise {
        let cost_ps = prepared.cost_ps().max(1);
        let region_tile = (REGION_TILE_PS / cost_ps / TILE).clamp(1, 256) * TILE;
        Elementwise {
            prepared,
            inputs: inputs.iter().map(Extent::of).collect(),
            outputs: outputs.iter().map(Extent::of).collect(),
            region_tile,
            region_tile_ns: region_tile * cost_ps / 1000,
        }
    }
}

impl Step for Elementwise {
    fn writes_over(&self, input: usize, output: usize) -> bool {
        self.prepared.writes_over(input, output)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let len = self.prepared.len();
        if len == 0 {
            return Ok(());
        }
        let mut operands = Operands::default();
        let memory = operands.find(launch.inputs, &self.inputs, launch.outputs, &self.outputs)?;
        let tiles = len.div_ceil(self.region_tile);
        launch
            .pool
            .for_each_tile(tiles, self.region_tile_ns, &|tile| {
                let start = tile * self.region_tile;
                let part = Part::neighbours(start, self.region_tile.min(len - start), None);
                with_scratch(self.prepared.scratch_bytes(), |scratch| {
                    // SAFETY: `address` found all elements inside of their buffers, the outputs
                    // overlap no input but where the program may be over it, and this thread alone
                    // writes this tile of them, and reads what they are over.
                    unsafe { self.prepared.run(&memory, scratch, part) }
                });
            });
        Ok(())
    }
}
