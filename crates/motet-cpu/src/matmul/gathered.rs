//! Products of matrices that pairs of indices pick.
//!
//! Pairs with one matrix of b, as tokens with one expert, are rows of one product: b is read once
//! for all of them.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::error::Result;
use motet_core::shape::Layout;

use super::general::{TILE_ROWS, TILE_WEIGHTS};
use super::product::{Matrix, Operand, Sizes, multiply};
use super::{Stack, unexpected};
use crate::indices::{Pick, Picks, groups};
use crate::number::Number;
use crate::operand::{Output, Strided};

pub(super) struct GatheredStep<T> {
    a: Stack,
    b: Stack,
    picks: Picks,
    out: Layout,
    sizes: Sizes,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> GatheredStep<T> {
    pub(super) fn new(
        a: &Layout,
        b: &Layout,
        indices: [&Layout; 2],
        out: &Layout,
    ) -> Result<GatheredStep<T>> {
        let (a, b) = (Stack::new(a)?, Stack::new(b)?);
        let (Some((a_batch, &[m, k])), Some((b_batch, &[b_k, n]))) = (
            a.layout.shape.split_last_chunk::<2>(),
            b.layout.shape.split_last_chunk::<2>(),
        ) else {
            return Err(unexpected("shapes"));
        };
        let fits = out.shape.split_last_chunk::<2>() == Some((&indices[0].shape, &[m, n]));
        if !fits || k != b_k {
            return Err(unexpected("shapes"));
        }
        let counts = [a_batch, b_batch].map(|batch| batch.iter().product());
        Ok(GatheredStep {
            picks: Picks::new("GatherMM", indices, counts)?,
            a,
            b,
            out: out.clone(),
            sizes: Sizes { m, k, n },
            dtype: PhantomData,
        })
    }

    /// The rows of a that some picks multiply, one after the other.
    fn rows(&self, a: Strided<'_, T>, picks: &[Pick]) -> Vec<T::Sum> {
        let Sizes { m, k, .. } = self.sizes;
        let mut rows = Vec::with_capacity(picks.len() * m * k);
        for pick in picks {
            self.a.with_block(a, pick.left, 0..m, 0..k, |block| {
                for start in (0..m).map(|i| i * block.row_step) {
                    rows.extend((0..k).map(|j| block.data[start + j * block.column_step]));
                }
            });
        }
        rows
    }
}

impl<T: Operand> Step for GatheredStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let a = Strided::<T>::at(&launch.inputs[0], &self.a.extent)?;
        let b = Strided::<T>::at(&launch.inputs[1], &self.b.extent)?;
        let picks = self.picks.open(&launch.inputs[2..])?;
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let Sizes { m, k, n } = self.sizes;
        let groups = groups(&picks, TILE_ROWS / m);
        let block = (TILE_WEIGHTS / k.max(1)).max(64).min(n);
        let tiles = n.div_ceil(block);
        let rows = (picks.len() / groups.len() * m).div_ceil(8);
        let cost = rows.saturating_mul(block * k.max(1)) / 4;
        launch
            .pool
            .for_each_tile(groups.len() * tiles, cost, &|tile| {
                let (picks, first) = (groups[tile / tiles], tile % tiles * block);
                let columns = first..(first + block).min(n);
                let (rows, width) = (picks.len() * m, columns.len());
                let left = self.rows(a, picks);
                let left = Matrix {
                    data: &left,
                    row_step: k,
                    column_step: 1,
                };
                let sizes = Sizes {
                    m: rows,
                    k,
                    n: width,
                };
                let mut sums = vec![T::Sum::ZERO; rows * width];
                self.b
                    .with_block(b, picks[0].right, 0..k, columns, |right| {
                        multiply(sizes, T::Sum::ONE, left, right, false, &mut sums, width);
                    });
                for (row, sums) in sums.chunks_exact(width).enumerate() {
                    let start = (picks[row / m].number * m + row % m) * n + first;
                    // SAFETY: each product, and each block of its columns, is one tile's.
                    T::store(sums, unsafe { out.part(start..start + width) });
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use motet_core::dtype::Dtype;
    use motet_core::kernel::Kernel;
    use motet_core::shape::Spec;

    use crate::testing::{noise, run, tensor, values};

    /// `picks` matrices out of batches of 4 and 6, some of b many times.
    fn check(picks: usize, m: usize, k: usize, n: usize) {
        let (a, b) = (noise(4 * m * k, 1), noise(6 * k * n, 2));
        let lhs: Vec<u32> = (0..picks as u32).map(|i| i * 7 % 4).collect();
        let rhs: Vec<u32> = (0..picks as u32).map(|i| i * i % 5).collect();
        let (at, bt) = (tensor(&[2, 2, m, k], &a), tensor(&[6, k, n], &b));
        let inputs = [&at, &bt, &tensor(&[picks], &lhs), &tensor(&[picks], &rhs)];
        let out = [Spec::new([picks, m, n], Dtype::Float32)];
        let got = values::<f32>(&run(&Kernel::GatherMatmul, &inputs, &out).unwrap()[0]);
        for (at, got) in got.iter().enumerate() {
            let (pick, i, j) = (at / n / m, at / n % m, at % n);
            let (left, right) = (lhs[pick] as usize, rhs[pick] as usize);
            let term = |l: usize| {
                let (left, right) = (a[(left * m + i) * k + l], b[(right * k + l) * n + j]);
                f64::from(left) * f64::from(right)
            };
            let want: f64 = (0..k).map(term).sum();
            assert!((f64::from(*got) - want).abs() < 1e-4, "{at}: {got} {want}");
        }
    }

    #[test]
    fn indices_pick_the_matrices() {
        check(6, 3, 8, 5);
        check(1, 1, 1, 1);
        check(50, 1, 40, 33);
        // More rows for one matrix of b than a tile has, and more columns.
        check(9, 300, 4, 3);
        check(2, 1, 5000, 130);
        check(3, 2, 0, 4);
    }

    #[test]
    fn indices_out_of_range_are_named() {
        let (a, b) = (
            tensor(&[4, 1, 2], &[1f32; 8]),
            tensor(&[6, 2, 1], &[1f32; 12]),
        );
        let (fine, wrong) = (tensor(&[2], &[3u32, 0]), tensor(&[2], &[0u32, 6]));
        let out = [Spec::new([2, 1, 1], Dtype::Float32)];
        for indices in [[&fine, &wrong], [&wrong, &fine]] {
            let inputs = [&a, &b, indices[0], indices[1]];
            let error = run(&Kernel::GatherMatmul, &inputs, &out).err().unwrap();
            assert!(error.to_string().contains("index 6 is out of range"));
        }
    }
}
