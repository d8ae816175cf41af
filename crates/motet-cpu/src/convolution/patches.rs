//! Convolutions with any weights: the input under each output position is gathered into a row (its
//! patch), and the rows are multiplied by the weights.
//!
//! A tile is a block of output positions, so patches never take more than a tile's memory.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::Element;
use motet_core::error::Result;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use super::depthwise::{self, Depthwise, Memory};
use super::geometry::Geometry;
use crate::matmul::{Matrix, Operand, Sizes, multiply};
use crate::number::Number;
use crate::operand::{Output, input};
use crate::real::Real;
use crate::target::Summed;

/// Elements of the patches of a tile: 256 KiB of float32.
const PATCH_ELEMENTS: usize = 64 << 10;

pub(super) struct PatchesStep<T: Operand> {
    geometry: Geometry,
    x: Layout,
    w: Layout,
    out: Layout,
    taps: Vec<[usize; 3]>,
    /// What sums directly, where that is to be done.
    depthwise: Option<Depthwise<T::Sum>>,
    /// Output positions in a tile.
    block: usize,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand<Sum: Real>> PatchesStep<T> {
    /// A step for a convolution by any weights, or by `weights`.
    pub(super) fn new(
        geometry: Geometry,
        inputs: &[Layout],
        out: &Layout,
        weights: Option<&Tensor>,
    ) -> Result<PatchesStep<T>> {
        let known = match weights {
            Some(Tensor {
                buffer,
                offset,
                layout,
            }) if geometry.is_depthwise() => {
                let (buffer, offset) = (&**buffer, *offset);
                Some(input::<T>(&Location { buffer, offset }, layout)?)
            }
            _ => None,
        };
        let depthwise = geometry.is_depthwise();
        // What a position takes in a tile.
        let patch = geometry.taps()
            * match depthwise {
                true => geometry.features,
                false => geometry.channels / geometry.groups,
            };
        let least = if depthwise { 1 } else { 16 };
        Ok(PatchesStep {
            x: inputs[0].clone(),
            w: inputs[1].clone(),
            out: out.clone(),
            taps: geometry.taps_in_order(),
            depthwise: depthwise.then(|| Depthwise::new(&geometry, known)),
            block: (PATCH_ELEMENTS / patch.max(1)).clamp(least, 512),
            geometry,
            dtype: PhantomData,
        })
    }

    /// The weights as they are multiplied: widened, or for depthwise by tap rather than channel.
    fn scratch(&self) -> Layout {
        Spec::new(self.w.shape.clone(), <T::Sum as Element>::DTYPE).layout()
    }

    fn prepare_weights<'a>(&'a self, w: &'a [T], scratch: &Location<'a>) -> Result<&'a [T::Sum]> {
        let ready = match &self.depthwise {
            Some(depthwise) => depthwise.weights(),
            None => T::as_sums(w),
        };
        if let Some(ready) = ready {
            return Ok(ready);
        }
        let widened = Output::<T::Sum>::new(scratch, &self.scratch())?.into_slice();
        match self.depthwise {
            Some(_) => depthwise::order(&self.geometry, w, widened),
            None => T::load(w, widened),
        }
        Ok(widened)
    }
}

impl<T: Operand<Sum: Real>> Step for PatchesStep<T> {
    fn scratch_bytes(&self) -> usize {
        let ready = match &self.depthwise {
            Some(depthwise) => depthwise.weights().is_some(),
            None => self.w.dtype.size() == size_of::<T::Sum>(),
        };
        if ready {
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

impl<T: Operand<Sum = f32>> Summed for PatchesStep<T> {
    fn scratch_bytes(&self) -> usize {
        Step::scratch_bytes(self)
    }

    fn sums(&self, launch: &Launch<'_>, store: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<()> {
        self.run(launch, None, store)
    }
}

impl<T: Operand<Sum: Real>> PatchesStep<T> {
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
        let Some(depthwise) = &self.depthwise else {
            return self.product(block, x, w, sums);
        };
        let (geometry, mut memory) = (&self.geometry, Memory::new());
        for (position, out) in block.zip(sums.chunks_exact_mut(geometry.features.max(1))) {
            depthwise.position(geometry, geometry.place(position), x, w, out, &mut memory);
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
