//! Convolutions by constant kernels of 3x3 elements with a quarter of the multiplications: Winograd's
//! minimal filtering, whose arithmetic is in [`transform`].
//!
//! Outputs are computed in tiles of 4x4. Each place of the transformed tiles is a matrix of tiles by
//! channels, and is multiplied by a matrix of transformed weights of its own. First all tiles of the
//! input are transformed, in scratch memory; then some tiles times a panel of features at a time are
//! multiplied and transformed back, so that the products stay in the second-level cache.
//!
//! Tiles see all of their input: an infinity or NaN there makes all outputs of the tile NaN, also those
//! that do not depend on it.

use std::ops::Range;
use std::sync::Arc;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;
use smallvec::SmallVec;

use super::geometry::{Dimension, Geometry};
use super::transform::{self, INPUTS, OUTPUTS, PLACES, TAPS};
use crate::elementwise::Operands;
use crate::matmul::Sizes;
use crate::operand::{Output, input};
use crate::packed::{Form, Packed, Run, TILE_ROWS, Tiling};
use crate::scratch::with_floats;
use crate::simd::Simd;
use crate::target::{BoundTarget, Target};

pub(super) struct WinogradStep {
    geometry: Geometry,
    x: Layout,
    target: Target,
    packed: Arc<Packed>,
    runs: Vec<Vec<Run>>,
    tiling: Tiling,
    simd: Simd,
    /// What tiles have where they reach over the input's edges.
    zeros: Vec<f32>,
}

/// The rows and columns of tiles in a plane of the output.
fn tiles_of(geometry: &Geometry) -> [usize; 2] {
    let [_, rows, columns] = geometry.dims.map(|d| d.output.div_ceil(OUTPUTS));
    [rows, columns]
}

/// All tiles.
fn all_tiles(geometry: &Geometry) -> usize {
    let planes = geometry.batch * geometry.dims[0].output;
    planes * tiles_of(geometry).iter().product::<usize>()
}

/// Whether the bytes of all transformed tiles, and of as many again for what lies between them, are a number.
fn are_few(geometry: &Geometry) -> bool {
    let [rows, columns] = tiles_of(geometry);
    let of_place = [
        rows,
        columns,
        geometry.channels.max(GAP),
        2 * size_of::<f32>(),
    ];
    let mut sizes = [geometry.batch, geometry.dims[0].output, PLACES]
        .into_iter()
        .chain(of_place);
    sizes.try_fold(1, usize::checked_mul).is_some()
}

/// Floats between the places of transformed tiles: a line of the cache. Otherwise 36 stores whose addresses
/// differ by a power of two would be to the same few lines of it.
const GAP: usize = 16;

impl WinogradStep {
    /// Whether the kernel has 3x3 elements, which move by one over neighbours, and all is of float32.
    pub(super) fn takes(geometry: &Geometry, x: &Layout, weights: &Tensor) -> bool {
        let is_plain = |d: &Dimension, kernel: usize| {
            (d.kernel, d.stride, d.kernel_dilation, d.input_dilation) == (kernel, 1, 1, 1)
        };
        let [d0, d1, d2] = &geometry.dims;
        geometry.groups == 1
            && [x.dtype, weights.layout.dtype] == [Dtype::Float32; 2]
            && is_plain(d0, 1)
            && (d0.padding, d0.input) == (0, d0.output)
            && is_plain(d1, TAPS)
            && is_plain(d2, TAPS)
            && are_few(geometry)
    }

    /// Whether that is faster than the direct way, and worth the memory: transformed weights are four times
    /// as large.
    ///
    /// On one core with AVX-512, by `benches/winograd.rs`: of 64 channels and features, 1 tile 1.1 times as
    /// fast, 4 tiles 1.9, 9 and more 1.7 to 2.8; of 16 channels, 9 and more 1.5 to 2.0; of 256, 1 tile 0.6, 4
    /// tiles 1.7, 9 and more 2.5 and more. Few tiles are those of the last layers of a network, which have most
    /// of its weights: what they would gain is not worth that.
    pub(super) fn pays(geometry: &Geometry) -> bool {
        all_tiles(geometry) >= 9 && geometry.channels >= 16 && geometry.features >= 16
    }

    /// A step for what it [takes](WinogradStep::takes).
    ///
    /// # Errors
    /// Memory for the packed weights, or too much of it for the tiles.
    pub(super) fn new(
        geometry: Geometry,
        x: &Layout,
        weights: &Tensor,
        target: Target,
    ) -> Result<WinogradStep> {
        let (channels, features, flip) = (geometry.channels, geometry.features, geometry.flip);
        let form = Form::Winograd { flip };
        let at = |channel: usize, feature: usize, weight: &dyn Fn(usize) -> f32| {
            transform::weights(|i, j| {
                let tap = i * TAPS + j;
                let tap = if flip { TAPS * TAPS - 1 - tap } else { tap };
                weight((feature * TAPS * TAPS + tap) * channels + channel)
            })
        };
        let packed = Packed::computed(weights, [channels, features], form, at)?;
        let row = Run {
            offset: 0,
            len: channels,
        };
        let runs = packed.cut([row]);
        let sizes = Sizes {
            m: all_tiles(&geometry),
            k: PLACES * channels,
            n: features,
        };
        Ok(WinogradStep {
            x: x.clone(),
            target,
            runs: runs.ok_or_else(|| Error::new(ErrorKind::Internal, "Convolution", "runs"))?,
            tiling: Tiling::new(sizes, packed.panel_columns()),
            packed,
            simd: Simd::detect(),
            zeros: vec![0.0; channels],
            geometry,
        })
    }

    /// From a place of all transformed tiles to the next.
    fn place_step(&self) -> usize {
        all_tiles(&self.geometry) * self.geometry.channels + GAP
    }

    fn transformed_layout(&self) -> Layout {
        Spec::new([PLACES, self.place_step()], Dtype::Float32).layout()
    }

    /// The addresses of a tile's inputs.
    fn tile_inputs(&self, x: &[f32], tile: usize) -> [*const f32; PLACES] {
        let [_, d1, d2] = &self.geometry.dims;
        let [rows, columns] = tiles_of(&self.geometry);
        let (line, column) = (tile / columns, tile % columns);
        let (plane, row) = (line / rows, line % rows);
        let inside = |d: &Dimension, tile: usize, i: usize| {
            let place = (tile * OUTPUTS + i).checked_sub(d.padding);
            place.filter(|&place| place < d.input)
        };
        let rows: [_; INPUTS] = std::array::from_fn(|i| inside(d1, row, i));
        let columns: [_; INPUTS] = std::array::from_fn(|j| inside(d2, column, j));
        std::array::from_fn(
            |place| match (rows[place / INPUTS], columns[place % INPUTS]) {
                (Some(row), Some(column)) => {
                    let number = (plane * d1.input + row) * d2.input + column;
                    x[number * self.geometry.channels..].as_ptr()
                }
                _ => self.zeros.as_ptr(),
            },
        )
    }

    /// Computes a tile of the products: some tiles of the output, in some panels of features.
    fn products(&self, transformed: &[f32], number: usize, target: &BoundTarget<'_>) {
        let (channels, features) = (self.geometry.channels, self.geometry.features);
        let (tiles, panels) = self.tiling.tile(number);
        let width = self.packed.panel_columns();
        let first = panels.start * width;
        let columns = features.min(panels.end * width).saturating_sub(first);
        let step = tiles.len() * columns;
        with_floats((PLACES + OUTPUTS * OUTPUTS) * step, |floats| {
            let (sums, outputs) = floats.split_at_mut(PLACES * step);
            for place in 0..PLACES {
                let of_place = &transformed[place * self.place_step()..];
                let mut rows: SmallVec<[*const f32; TILE_ROWS]> = SmallVec::new();
                rows.extend(
                    tiles
                        .clone()
                        .map(|tile| of_place[tile * channels..].as_ptr()),
                );
                let sums = sums[place * step..][..step].as_mut_ptr();
                // SAFETY: each row has all channels of a tile; there is a place for each sum.
                unsafe {
                    let (packed, runs) = (&self.packed, &self.runs);
                    packed.multiply(place, &rows, runs, panels.clone(), sums, columns);
                }
            }
            let [_, in_line] = tiles_of(&self.geometry);
            let mut next = tiles.start;
            while next < tiles.end {
                let end = tiles.end.min((next / in_line + 1) * in_line);
                let sums = &sums[(next - tiles.start) * columns..];
                let line = Line {
                    tiles: next..end,
                    features: first..first + columns,
                };
                self.store(line, sums, step, outputs, target);
                next = end;
            }
        });
    }

    /// Transforms products back and stores the outputs. Those of a place are `step` from those of the one
    /// before; `outputs` is memory for the result.
    fn store(
        &self,
        Line { tiles, features }: Line,
        products: &[f32],
        step: usize,
        outputs: &mut [f32],
        target: &BoundTarget<'_>,
    ) {
        let [_, d1, d2] = &self.geometry.dims;
        let [lines, in_line] = tiles_of(&self.geometry);
        let (line, column) = (tiles.start / in_line, tiles.start % in_line * OUTPUTS);
        let (plane, row) = (line / lines, line % lines * OUTPUTS);
        let rows = OUTPUTS.min(d1.output - row);
        let positions = (tiles.len() * OUTPUTS).min(d2.output - column);
        let row_step = positions * features.len();
        assert!(outputs.len() >= rows * row_step);
        for i in 0..tiles.len() {
            let from = products[i * features.len()..].as_ptr();
            let to = outputs[i * OUTPUTS * features.len()..].as_mut_ptr();
            let inside = [rows, OUTPUTS.min(positions - i * OUTPUTS)];
            // SAFETY: there is a product for each place, and memory for the rows and columns inside.
            unsafe {
                transform::output(
                    self.simd,
                    from,
                    to,
                    features.len(),
                    [step, row_step],
                    inside,
                );
            }
        }
        for i in 0..rows {
            let position = (plane * d1.output + row + i) * d2.output + column;
            let n = self.geometry.features;
            let sums = &outputs[i * row_step..][..row_step];
            // SAFETY: each element of the result is in one tile.
            unsafe { target.store_rows(position * n + features.start, n, sums, features.len()) }
        }
    }
}

/// Neighbouring tiles of one line, and some features.
struct Line {
    tiles: Range<usize>,
    features: Range<usize>,
}

/// Numbers of transformed tiles that are worth a tile of the region: some microseconds.
const TRANSFORMED: usize = 16 << 10;

impl Step for WinogradStep {
    fn reads(&self, input: usize) -> bool {
        input != 1
    }

    fn writes_over(&self, input: usize, output: usize) -> bool {
        self.target.writes_over(input, output)
    }

    fn scratch_bytes(&self) -> usize {
        self.transformed_layout().spec().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut operands = Operands::default();
        let target = self.target.bind(launch, &mut operands)?;
        let x = input::<f32>(&launch.inputs[0], &self.x)?;
        let transformed = Output::<f32>::new(&launch.scratch, &self.transformed_layout())?;
        let (tiles, channels) = (all_tiles(&self.geometry), self.geometry.channels);
        let group = (TRANSFORMED / PLACES / channels.max(1)).max(1);
        // Ten numbers in a nanosecond.
        let ns = group * channels * PLACES / 10;
        launch
            .pool
            .for_each_tile(tiles.div_ceil(group), ns, &|number| {
                for tile in number * group..tiles.min((number + 1) * group) {
                    let from = self.tile_inputs(x, tile);
                    // SAFETY: each address is that of all channels of a position, or of as many zeros; each
                    // tile is transformed once, to a place of its own for each of its places.
                    unsafe {
                        let to = transformed.as_mut_ptr().add(tile * channels);
                        transform::input(self.simd, &from, channels, to, self.place_step());
                    }
                }
            });
        let transformed = &*transformed.into_slice();
        let Tiling { ns, .. } = self.tiling;
        launch
            .pool
            .for_each_tile(self.tiling.tiles(), ns, &|number| {
                self.products(transformed, number, &target);
            });
        Ok(())
    }
}
