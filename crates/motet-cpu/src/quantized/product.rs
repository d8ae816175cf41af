//! Products of rows and packed weights.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::{Layout, Spec};

use super::few_rows::{dots, weighted_sum};
use super::unpack::{Codes, Rows, with_codes};
use super::{Packed, Weights};
use crate::convert::Float32Like;
use crate::indices::{Pick, Picks, groups};
use crate::matmul::{Matrix, Sizes, multiply};
use crate::operand::{Output, input};
use crate::simd::leveled;
#[cfg(target_arch = "x86_64")]
use {super::nibbles, crate::simd::Simd};

pub(super) struct ProductStep<T> {
    x: Layout,
    w: Packed,
    out: Layout,
    transpose: bool,
    /// What picks x and w of each product, where it is not its own number.
    picks: Option<Picks>,
    batches: usize,
    sizes: Sizes,
    dtype: PhantomData<fn() -> T>,
}

/// Rows that are multiplied together at most where indices pick them.
const MOST_ROWS: usize = 512;

/// Rows for which each unpacks the weights anew: about 4 weights a cycle, or 7 with a table of values,
/// while unpacking to memory and packing for the matrix product take half a cycle for each weight before
/// the first row.
const FEW_ROWS: usize = 4;

/// Weights that a tile unpacks: 256 KiB of float32.
const BLOCK: usize = 64 << 10;

impl<T: Float32Like> ProductStep<T> {
    pub(super) fn new(
        x: &Layout,
        w: Packed,
        indices: Option<[&Layout; 2]>,
        transpose: bool,
        out: &Layout,
    ) -> Result<ProductStep<T>> {
        let unfit = || {
            Error::invalid(
                "QuantizedMatmul",
                format!(
                    "shapes {}, {} and {} do not fit",
                    x.shape, w.words.shape, out.shape
                ),
            )
        };
        let (Some((rows, &[k])), Some((w_batch, &[w_rows, _]))) = (
            x.shape.split_last_chunk::<1>(),
            w.words.shape.split_last_chunk::<2>(),
        ) else {
            return Err(unfit());
        };
        let (&m, x_batch) = rows.split_last().unwrap_or((&1, &[]));
        let w_count: usize = w_batch.iter().product();
        // One w is for all rows of x; otherwise each batch of x has its own, or the indices say.
        let (picks, batches, m, out_rows) = match indices {
            None if w_batch.is_empty() => (None, 1, rows.iter().product(), rows.to_vec()),
            None if w_batch == x_batch && !rows.is_empty() => (None, w_count, m, rows.to_vec()),
            None => return Err(unfit()),
            Some(indices) => {
                let counts = [x_batch.iter().product(), w_count];
                let picks = Picks::new("GatherQMM", indices, counts)?;
                let batches = picks.len();
                (
                    Some(picks),
                    batches,
                    m,
                    [&indices[0].shape, &[m][..]].concat(),
                )
            }
        };
        let (w_k, n) = if transpose {
            (w.columns, w_rows)
        } else {
            (w_rows, w.columns)
        };
        let out_fits = out.shape.split_last() == Some((&n, &out_rows[..])) && x.dtype == out.dtype;
        if w_k != k || !out_fits {
            return Err(unfit());
        }
        Ok(ProductStep {
            x: x.clone(),
            out: out.clone(),
            transpose,
            picks,
            batches,
            sizes: Sizes { m, k, n },
            dtype: PhantomData,
            w,
        })
    }

    /// Columns of the result in a tile.
    fn block(&self) -> usize {
        let block = (BLOCK / self.sizes.k.max(1)).clamp(16, 256);
        let group = self.w.quantization.group_size;
        if self.transpose {
            block
        } else {
            block.next_multiple_of(group)
        }
    }

    fn widened(&self) -> Spec {
        let same = T::DTYPE == Dtype::Float32;
        Spec::new(
            if same { [0] } else { [self.x.shape.size()] },
            Dtype::Float32,
        )
    }

    /// Columns of the products of one w.
    fn tile(
        &self,
        x: &[f32],
        w: &Weights<'_, '_>,
        picks: &[Pick],
        columns: Range<usize>,
        out: &Output<'_, T>,
    ) {
        let Sizes { m, k, n } = self.sizes;
        let (width, rows) = (columns.len(), picks.len() * m);
        let matrix = |pick: &Pick| &x[pick.left * m * k..][..m * k];
        let joined: Vec<f32>;
        let x = match picks {
            [pick] => matrix(pick),
            picks => {
                joined = picks.iter().flat_map(matrix).copied().collect();
                &joined
            }
        };
        let mut sums = vec![0.0; rows * width];
        let right = picks[0].right;
        let (w_rows, w_columns) = match self.transpose {
            true => (right * n + columns.start..right * n + columns.end, 0..k),
            false => (right * k..(right + 1) * k, columns.clone()),
        };
        if rows <= FEW_ROWS {
            self.multiply_packed(x, w, w_rows, w_columns, &mut sums);
        } else {
            self.multiply_unpacked(x, w, w_rows, w_columns, &mut sums);
        }
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            let start = (picks[row / m].number * m + row % m) * n + columns.start;
            // SAFETY: each product, and each block of its columns, is one tile's.
            T::narrow(sums, unsafe { out.part(start..start + width) });
        }
    }

    /// The rows of x times a part of w, unpacked in registers for each.
    fn multiply_packed(
        &self,
        x: &[f32],
        w: &Weights<'_, '_>,
        w_rows: Range<usize>,
        w_columns: Range<usize>,
        sums: &mut [f32],
    ) {
        let (k, simd) = (self.sizes.k, self.w.simd);
        let width = if self.transpose {
            w_rows.len()
        } else {
            w_columns.len()
        };
        let part = w.part(w_rows, w_columns);
        let rows = part.rows();
        for (x, sums) in x.chunks_exact(k.max(1)).zip(sums.chunks_exact_mut(width)) {
            #[cfg(target_arch = "x86_64")]
            if simd == Simd::Avx512 && self.transpose && self.w.quantization.bits == 4 {
                let values = nibbles::values(self.w.quantization.mode);
                // SAFETY: `Simd::Avx512` exists only where the processor was found to have it.
                unsafe { nibbles::dots(x, &values, rows, sums) };
                continue;
            }
            with_codes!(self.w.quantization, C => if self.transpose {
                leveled!(simd, dots<S: Codes = C>(x: &[f32], rows: Rows<'_>, sums: &mut [f32]));
            } else {
                leveled!(simd, weighted_sum<S: Codes = C>(
                    x: &[f32], rows: Rows<'_>, sums: &mut [f32]
                ));
            });
        }
    }

    /// The rows of x times a part of w, unpacked once for all.
    fn multiply_unpacked(
        &self,
        x: &[f32],
        w: &Weights<'_, '_>,
        w_rows: Range<usize>,
        w_columns: Range<usize>,
        sums: &mut [f32],
    ) {
        let k = self.sizes.k;
        let (n, row_step, column_step) = match self.transpose {
            true => (w_rows.len(), 1, k),
            false => (w_columns.len(), w_columns.len(), 1),
        };
        let mut block = vec![0.0; k * n];
        w.unpack(w_rows, w_columns, &mut block);
        let m = sums.len() / n;
        let a = Matrix {
            data: x,
            row_step: k,
            column_step: 1,
        };
        let b = Matrix {
            data: &block,
            row_step,
            column_step,
        };
        multiply(Sizes { m, k, n }, 1.0, a, b, false, sums, n);
    }
}

impl<T: Float32Like> Step for ProductStep<T> {
    fn scratch_bytes(&self) -> usize {
        self.widened().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = if T::DTYPE == Dtype::Float32 {
            input::<f32>(&launch.inputs[0], &self.x)?
        } else {
            let to = Output::<f32>::new(&launch.scratch, &self.widened().layout())?.into_slice();
            T::widen(input::<T>(&launch.inputs[0], &self.x)?, to);
            to
        };
        let weights = self.w.open(&launch.inputs[1..])?;
        let picks = match &self.picks {
            Some(picks) => picks.open(&launch.inputs[launch.inputs.len() - 2..])?,
            None => (0..self.batches).map(Pick::own).collect(),
        };
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let Sizes { m, k, n } = self.sizes;
        let groups = groups(&picks, MOST_ROWS / m);
        let block = self.block();
        let tiles = n.div_ceil(block);
        let rows = picks.len() / groups.len() * m;
        // About 16 weights a nanosecond.
        let cost = (k * block / 16).saturating_mul(rows);
        launch
            .pool
            .for_each_tile(groups.len() * tiles, cost, &|tile| {
                let (picks, column) = (groups[tile / tiles], tile % tiles * block);
                let columns = column..(column + block).min(n);
                self.tile(x, &weights, picks, columns, &out);
            });
        Ok(())
    }
}
