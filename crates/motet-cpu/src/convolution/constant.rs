//! Convolutions with weights that are known when the plan is made: packed once, and multiplied by
//! the input where it lies.
//!
//! Channels are last, so the input under one row of the kernel is one run of memory. What an output
//! position is multiplied with is a few runs, the same from position to position but for where they
//! start. Where there is padding, or the input is of a half type, it is copied to an image of
//! float32 with the zeros around it first.

use std::sync::Arc;

use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;
use smallvec::SmallVec;

use super::geometry::{Dimension, Geometry};
use crate::convert::Float32Like;
use crate::elementwise::Operands;
use crate::matmul::Sizes;
use crate::operand::{Output, input};
use crate::packed::{Form, Packed, Run, TILE_ROWS, Tiling, multiply_into};
use crate::target::Target;

pub(super) struct ConstantStep {
    geometry: Geometry,
    x: Layout,
    target: Target,
    /// The image's size in each spatial dimension; the input's where that is read in place.
    image: [usize; 3],
    in_place: bool,
    packed: Arc<Packed>,
    runs: Vec<Vec<Run>>,
    tiling: Tiling,
}

/// How much larger than the input an image may be, in elements more and as a factor.
const MOST_PADDING: (usize, usize) = (1 << 16, 4);

impl ConstantStep {
    /// Whether the positions are runs of an image that is not much larger than the input.
    pub(super) fn takes(geometry: &Geometry) -> bool {
        let size = |dims: [usize; 3]| {
            let outer = [geometry.batch, geometry.channels];
            let mut all = outer.iter().chain(&dims);
            all.try_fold(1usize, |size, &dim| size.checked_mul(dim))
        };
        let (Some(image), Some(input)) = (
            size(image_of(geometry)),
            size(geometry.dims.map(|d| d.input)),
        ) else {
            return false;
        };
        let (more, factor) = MOST_PADDING;
        geometry.groups == 1
            && geometry.taps() > 0
            && geometry.dims.iter().all(|d| d.input_dilation == 1)
            && image <= input.saturating_mul(factor).saturating_add(more)
    }

    /// A step for what it [takes](ConstantStep::takes).
    ///
    /// # Errors
    /// Memory for the packed weights.
    pub(super) fn new(
        geometry: Geometry,
        x: &Layout,
        weights: &Tensor,
        target: Target,
    ) -> Result<ConstantStep> {
        let in_place = x.dtype == Dtype::Float32 && is_inside(&geometry);
        let image = match in_place {
            true => geometry.dims.map(|d| d.input),
            false => image_of(&geometry),
        };
        let (taps, channels) = (geometry.taps(), geometry.channels);
        let sizes = Sizes {
            m: geometry.positions(),
            k: taps * channels,
            n: geometry.features,
        };
        let form = Form::Kernel {
            flip: geometry.flip,
        };
        // Lines are in the order of the image, which that of flipped weights is not.
        let packed = Packed::new(weights, [sizes.k, sizes.n], form, |line, column| {
            let (tap, channel) = (line / channels, line % channels);
            let tap = if geometry.flip { taps - 1 - tap } else { tap };
            ((column * taps + tap) * channels + channel) as isize
        })?;
        let cut = packed.cut(runs(&geometry, image));
        Ok(ConstantStep {
            x: x.clone(),
            target,
            image,
            in_place,
            runs: cut.ok_or_else(|| Error::new(ErrorKind::Internal, "Convolution", "runs"))?,
            tiling: Tiling::new(sizes, packed.panel_columns()),
            packed,
            geometry,
        })
    }

    fn image_layout(&self) -> Layout {
        let [d0, d1, d2] = self.image;
        let shape = [self.geometry.batch, d0, d1, d2, self.geometry.channels];
        Spec::new(shape, Dtype::Float32).layout()
    }

    /// Copies the input to the image.
    fn fill<T: Float32Like>(&self, launch: &Launch<'_>, image: &Output<'_, f32>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let ([d0, d1, d2], channels) = (&self.geometry.dims, self.geometry.channels);
        let line = self.image[2] * channels;
        let lines = self.geometry.batch * self.image[0] * self.image[1];
        let group = (FILL_ELEMENTS / line.max(1)).max(1);
        let tiles = lines.div_ceil(group);
        launch.pool.for_each_tile(tiles, group * line / 4, &|tile| {
            for number in tile * group..((tile + 1) * group).min(lines) {
                // SAFETY: each line is written by one tile.
                let to = unsafe { image.part(number * line..(number + 1) * line) };
                let (plane, i1) = (number / self.image[1], number % self.image[1]);
                let (batch, i0) = (plane / self.image[0], plane % self.image[0]);
                let inside = |d: &Dimension, place: usize| {
                    let place = place.checked_sub(d.padding);
                    place.filter(|&place| place < d.input)
                };
                let source = (inside(d0, i0), inside(d1, i1));
                let (Some(i0), Some(i1)) = source else {
                    to.fill(0.0);
                    continue;
                };
                let from = ((batch * d0.input + i0) * d1.input + i1) * d2.input * channels;
                let (before, rest) = to.split_at_mut(line.min(d2.padding.saturating_mul(channels)));
                let (inside, after) = rest.split_at_mut(rest.len().min(d2.input * channels));
                before.fill(0.0);
                T::widen(&x[from..][..inside.len()], inside);
                after.fill(0.0);
            }
        });
        Ok(())
    }
}

/// Elements of the image in a tile of copying.
const FILL_ELEMENTS: usize = 1 << 13;

/// The sizes of the part of the padded input that the kernel reaches.
fn image_of(geometry: &Geometry) -> [usize; 3] {
    geometry.dims.map(|d| match d.output {
        0 => 0,
        output => (output - 1) * d.stride + (d.kernel.max(1) - 1) * d.kernel_dilation + 1,
    })
}

/// Whether the kernel reaches no padding.
fn is_inside(geometry: &Geometry) -> bool {
    let image = image_of(geometry);
    let mut dims = geometry.dims.iter().zip(image);
    dims.all(|(d, reach)| d.padding == 0 && reach <= d.input)
}

/// The runs of an output position, in an image of this size.
fn runs(geometry: &Geometry, [_, rows, columns]: [usize; 3]) -> Vec<Run> {
    let ([d0, d1, d2], channels) = (&geometry.dims, geometry.channels);
    // Neighbours under the kernel are neighbours in memory.
    let (count, len) = match d2.kernel_dilation {
        1 => (1, d2.kernel * channels),
        _ => (d2.kernel, channels),
    };
    let mut runs = Vec::new();
    for (t0, t1) in (0..d0.kernel).flat_map(|t0| (0..d1.kernel).map(move |t1| (t0, t1))) {
        let row = t0 * d0.kernel_dilation * rows + t1 * d1.kernel_dilation;
        for t2 in 0..count {
            let place = row * columns + t2 * d2.kernel_dilation;
            runs.push(Run {
                offset: (place * channels) as isize,
                len,
            });
        }
    }
    runs
}

impl Step for ConstantStep {
    fn reads(&self, input: usize) -> bool {
        input != 1
    }

    fn writes_over(&self, input: usize, output: usize) -> bool {
        self.target.writes_over(input, output)
    }

    fn scratch_bytes(&self) -> usize {
        match self.in_place {
            true => 0,
            false => self.image_layout().spec().bytes(),
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut operands = Operands::default();
        let target = self.target.bind(launch, &mut operands)?;
        let image: &[f32] = if self.in_place {
            input(&launch.inputs[0], &self.x)?
        } else {
            let image = Output::<f32>::new(&launch.scratch, &self.image_layout())?;
            match self.x.dtype {
                Dtype::Float16 => self.fill::<f16>(launch, &image)?,
                Dtype::Bfloat16 => self.fill::<bf16>(launch, &image)?,
                _ => self.fill::<f32>(launch, &image)?,
            }
            image.into_slice()
        };
        let tiling = &self.tiling;
        launch
            .pool
            .for_each_tile(tiling.tiles(), tiling.ns, &|tile| {
                let (positions, panels) = tiling.tile(tile);
                let mut rows: SmallVec<[*const f32; TILE_ROWS]> = SmallVec::new();
                rows.extend(positions.clone().map(|position| {
                    let [mut row, places @ ..] = self.geometry.place(position);
                    for (d, dim) in self.geometry.dims.iter().enumerate() {
                        row = row * self.image[d] + places[d] * dim.stride;
                    }
                    image[row * self.geometry.channels..].as_ptr()
                }));
                // SAFETY: the runs of each position are inside of the image, as that reaches as far as
                // the kernel does; each element of the result is in one tile.
                unsafe {
                    multiply_into(
                        &target,
                        &self.packed,
                        &rows,
                        &self.runs,
                        positions.start,
                        panels,
                    )
                }
            });
        Ok(())
    }
}
