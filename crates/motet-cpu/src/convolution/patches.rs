//! Convolutions with any weights: the input under each output position is gathered into a row (its
//! patch), and the rows are multiplied by the weights.
//!
//! A tile is a block of output positions, so patches never take more than a tile's memory.
//! Depthwise convolutions, whose products would have one column, are summed directly.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::Element;
use motet_core::error::Result;
use motet_core::shape::{Layout, Spec};

use super::geometry::Geometry;
use crate::matmul::{Factor, Matrix, Operand, Sizes, multiply};
use crate::number::Number;
use crate::operand::{Output, input};
use crate::simd::{Level, Simd, leveled};
use crate::target::Target;

/// Elements of the patches of a tile: 256 KiB of float32.
const PATCH_ELEMENTS: usize = 64 << 10;

pub(super) struct PatchesStep<T> {
    geometry: Geometry,
    x: Layout,
    w: Layout,
    out: Layout,
    taps: Vec<[usize; 3]>,
    /// Output positions in a tile.
    block: usize,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> PatchesStep<T> {
    pub(super) fn new(geometry: Geometry, inputs: &[Layout], out: &Layout) -> PatchesStep<T> {
        let patch = geometry.taps() * (geometry.channels / geometry.groups);
        PatchesStep {
            x: inputs[0].clone(),
            w: inputs[1].clone(),
            out: out.clone(),
            taps: geometry.taps_in_order(),
            block: (PATCH_ELEMENTS / patch.max(1)).clamp(16, 512),
            geometry,
            dtype: PhantomData,
        }
    }

    /// The weights as they are multiplied: widened, or for depthwise by tap rather than channel.
    fn scratch(&self) -> Layout {
        Spec::new(self.w.shape.clone(), <T::Sum as Element>::DTYPE).layout()
    }

    fn prepare_weights<'a>(&self, w: &'a [T], scratch: &Location<'a>) -> Result<&'a [T::Sum]> {
        let depthwise = self.geometry.is_depthwise();
        if let (false, Some(sums)) = (depthwise, T::as_sums(w)) {
            return Ok(sums);
        }
        let widened = Output::<T::Sum>::new(scratch, &self.scratch())?.into_slice();
        if depthwise {
            let (taps, channels) = (self.geometry.taps(), self.geometry.channels);
            for (i, value) in w.iter().enumerate() {
                let to = i % taps * channels + i / taps;
                T::load(std::slice::from_ref(value), &mut widened[to..=to]);
            }
        } else {
            T::load(w, widened);
        }
        Ok(widened)
    }
}

impl<T: Operand> Step for PatchesStep<T> {
    fn scratch_bytes(&self) -> usize {
        let in_place = self.w.dtype.size() == size_of::<T::Sum>() && !self.geometry.is_depthwise();
        if in_place {
            0
        } else {
            self.scratch().spec().bytes()
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        self.run(launch, Some(&out), &|start, sums: &[T::Sum]| {
            // SAFETY: each output position is stored by one tile.
            T::store(sums, unsafe { out.part(start..start + sums.len()) });
        })
    }
}

/// A convolution with a program on its result.
pub(super) struct FusedStep<T> {
    pub patches: PatchesStep<T>,
    pub target: Target,
}

impl<T: Operand<Sum = f32>> Step for FusedStep<T> {
    fn scratch_bytes(&self) -> usize {
        self.patches.scratch_bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let target = self.target.bind(launch)?;
        self.patches.run(launch, None, &|start, sums| {
            // SAFETY: each output position is stored by one tile.
            unsafe { target.store(start, sums) }
        })
    }
}

impl<T: Operand> PatchesStep<T> {
    /// Computes tile by tile: into `out`, where that is given and holds sums as they are, else
    /// `store` gets the sums of neighbours from a row-major number on.
    fn run(
        &self,
        launch: &Launch<'_>,
        out: Option<&Output<'_, T>>,
        store: &(dyn Fn(usize, &[T::Sum]) + Sync),
    ) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let w = input::<T>(&launch.inputs[1], &self.w)?;
        if self.out.shape.size() == 0 {
            return Ok(());
        }
        let w = self.prepare_weights(w, &launch.scratch)?;
        let (positions, features) = (self.geometry.positions(), self.geometry.features);
        let cost = self.block.saturating_mul(w.len().max(1)) / 16;
        let tiles = positions.div_ceil(self.block);
        launch.pool.for_each_tile(tiles, cost, &|tile| {
            let block = tile * self.block..((tile + 1) * self.block).min(positions);
            let elements = block.start * features..block.end * features;
            // SAFETY: these output positions are this tile's alone.
            let part = out.map(|out| unsafe { out.part(elements.clone()) });
            if let Some(sums) = part.and_then(T::as_sums_mut) {
                return self.tile(block, x, w, sums);
            }
            let mut sums = vec![T::Sum::ZERO; elements.len()];
            self.tile(block, x, w, &mut sums);
            store(elements.start, &sums);
        });
        Ok(())
    }

    fn tile(&self, block: Range<usize>, x: &[T], w: &[T::Sum], sums: &mut [T::Sum]) {
        if self.geometry.is_depthwise() {
            self.depthwise(block, x, w, sums);
        } else {
            self.product(block, x, w, sums);
        }
    }

    fn depthwise(&self, block: Range<usize>, x: &[T], w: &[T::Sum], out: &mut [T::Sum]) {
        let (channels, simd) = (self.geometry.channels, Simd::detect());
        let mut widened = vec![T::Sum::ZERO; channels];
        for (position, out) in block.zip(out.chunks_exact_mut(channels)) {
            let place = self.geometry.place(position);
            out.fill(T::Sum::ZERO);
            for (&tap, w) in self.taps.iter().zip(w.chunks_exact(channels)) {
                let Some(source) = self.geometry.source(place, tap) else {
                    continue;
                };
                let x = &x[source..][..channels];
                let x = T::as_sums(x).unwrap_or_else(|| {
                    T::load(x, &mut widened);
                    &widened
                });
                leveled!(simd, add_products<S: Factor = T::Sum>(out: &mut [S], x: &[S], w: &[S]));
            }
        }
    }

    fn product(&self, block: Range<usize>, x: &[T], w: &[T::Sum], out: &mut [T::Sum]) {
        let geometry = &self.geometry;
        let (groups, taps) = (geometry.groups, self.taps.len());
        let (depth, features) = (geometry.channels / groups, geometry.features / groups);
        let patch = taps * depth;
        let sizes = Sizes {
            m: block.len(),
            k: patch,
            n: features,
        };
        let mut patches = Vec::new();
        for group in 0..groups {
            let in_place = if geometry.is_pointwise() {
                T::as_sums(&x[block.start * patch..block.end * patch])
            } else {
                None
            };
            let rows = in_place.unwrap_or_else(|| {
                patches.resize(block.len() * patch, T::Sum::ZERO);
                for (position, to) in block.clone().zip(patches.chunks_exact_mut(patch.max(1))) {
                    let place = geometry.place(position);
                    for (&tap, to) in self.taps.iter().zip(to.chunks_exact_mut(depth.max(1))) {
                        match geometry.source(place, tap) {
                            Some(source) => T::load(&x[source + group * depth..][..depth], to),
                            None => to.fill(T::Sum::ZERO),
                        }
                    }
                }
                &patches
            });
            let a = Matrix {
                data: rows,
                row_step: patch,
                column_step: 1,
            };
            let weights = &w[group * features * patch..][..features * patch];
            let b = Matrix {
                data: weights,
                row_step: 1,
                column_step: patch,
            };
            // Each group has neighbouring columns of the output.
            let out = out.get_mut(group * features..).unwrap_or_default();
            multiply(sizes, T::Sum::ONE, a, b, false, out, geometry.features);
        }
    }
}

/// `out += x * w`.
#[inline(always)]
fn add_products<L: Level, S: Factor>(out: &mut [S], x: &[S], w: &[S]) {
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
        *out = out.add(x.mul(w));
    }
}
