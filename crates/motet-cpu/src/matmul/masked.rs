//! Products with a factor for each square tile of the result or of the operands: what is masked out
//! is neither read nor computed.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::shape::Layout;

use super::product::{Operand, Sizes, multiply};
use super::{Stack, unexpected};
use crate::number::Number;
use crate::operand::{Output, Strided, input};

pub(super) struct MaskedStep<T> {
    block: usize,
    a: Stack,
    b: Stack,
    /// The masks of the result, of a and of b, each with the input that it is.
    masks: [Option<(usize, Layout)>; 3],
    out: Layout,
    batches: usize,
    sizes: Sizes,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> MaskedStep<T> {
    pub(super) fn new(
        block: usize,
        a: &Layout,
        b: &Layout,
        masks: &[Layout],
        out: &Layout,
    ) -> Result<MaskedStep<T>> {
        let (a, b) = (Stack::new(a)?, Stack::new(b)?);
        let (Some((batch, &[m, k])), Some((b_batch, &[b_k, n]))) = (
            a.layout.shape.split_last_chunk::<2>(),
            b.layout.shape.split_last_chunk::<2>(),
        ) else {
            return Err(unexpected("shapes"));
        };
        let fits = out.shape.split_last_chunk::<2>() == Some((batch, &[m, n]));
        if !fits || batch != b_batch || k != b_k || block == 0 {
            return Err(unexpected("shapes"));
        }
        let mask = |index: usize, [rows, columns]: [usize; 2]| {
            let layout: &Layout = &masks[index];
            let tiles = [rows.div_ceil(block), columns.div_ceil(block)];
            let fits = layout.shape.split_last_chunk::<2>() == Some((batch, &tiles))
                && (layout.dtype == Dtype::Bool || layout.dtype == T::DTYPE);
            match fits {
                true => Ok(Some((2 + index, layout.clone()))),
                false => Err(unexpected("mask")),
            }
        };
        let masks = match masks.len() {
            1 => [mask(0, [m, n])?, None, None],
            2 => [None, mask(0, [m, k])?, mask(1, [k, n])?],
            3 => [mask(0, [m, n])?, mask(1, [m, k])?, mask(2, [k, n])?],
            _ => return Err(unexpected("masks")),
        };
        Ok(MaskedStep {
            block,
            batches: batch.iter().product(),
            a,
            b,
            masks,
            out: out.clone(),
            sizes: Sizes { m, k, n },
            dtype: PhantomData,
        })
    }
}

/// The factors of tiles.
enum Mask<'a, T> {
    /// All are one.
    None,
    Keep(&'a [bool]),
    Scale(&'a [T]),
}

impl<'a, T: Operand> Mask<'a, T> {
    fn open(mask: &Option<(usize, Layout)>, inputs: &[Location<'a>]) -> Result<Mask<'a, T>> {
        Ok(match mask {
            None => Mask::None,
            Some((index, layout)) if layout.dtype == Dtype::Bool => {
                Mask::Keep(input(&inputs[*index], layout)?)
            }
            Some((index, layout)) => Mask::Scale(input(&inputs[*index], layout)?),
        })
    }

    /// The factor of a tile; `None` where it is masked out.
    fn factor(&self, tile: usize) -> Option<T::Sum> {
        match self {
            Mask::None => Some(T::Sum::ONE),
            Mask::Keep(keep) => keep[tile].then_some(T::Sum::ONE),
            Mask::Scale(factors) => {
                let mut factor = T::Sum::ZERO;
                T::load(&[factors[tile]], std::slice::from_mut(&mut factor));
                Some(factor)
            }
        }
    }
}

impl<T: Operand> Step for MaskedStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let a = Strided::<T>::at(&launch.inputs[0], &self.a.extent)?;
        let b = Strided::<T>::at(&launch.inputs[1], &self.b.extent)?;
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        let [result, left, right] = &self.masks;
        let result = Mask::<T>::open(result, launch.inputs)?;
        let left = Mask::<T>::open(left, launch.inputs)?;
        let right = Mask::<T>::open(right, launch.inputs)?;
        let (Sizes { m, k, n }, block) = (self.sizes, self.block);
        let [rows, inner, columns] = [m, k, n].map(|size| size.div_ceil(block));
        let cost = (block * block).saturating_mul(k) / 16;
        let tiles = self.batches * rows * columns;
        let span = |tile: usize, size: usize| -> Range<usize> {
            tile * block..((tile + 1) * block).min(size)
        };
        launch.pool.for_each_tile(tiles, cost, &|tile| {
            let (batch, row, column) =
                (tile / columns / rows, tile / columns % rows, tile % columns);
            let (i, j) = (span(row, m), span(column, n));
            let mut sums = vec![T::Sum::ZERO; i.len() * j.len()];
            let scale = result.factor(tile);
            for l in (0..inner).filter(|_| scale.is_some()) {
                let of_a = left.factor((batch * rows + row) * inner + l);
                let of_b = right.factor((batch * inner + l) * columns + column);
                let (Some(of_a), Some(of_b)) = (of_a, of_b) else {
                    continue;
                };
                let sizes = Sizes {
                    m: i.len(),
                    k: span(l, k).len(),
                    n: j.len(),
                };
                self.a.with_block(a, batch, i.clone(), span(l, k), |a| {
                    self.b.with_block(b, batch, span(l, k), j.clone(), |b| {
                        multiply(sizes, of_a.mul(of_b), a, b, true, &mut sums, j.len());
                    });
                });
            }
            if let Some(scale) = scale {
                sums.iter_mut().for_each(|sum| *sum = sum.mul(scale));
            }
            for (i, sums) in i.zip(sums.chunks_exact(j.len())) {
                let start = (batch * m + i) * n + j.start;
                // SAFETY: this part of the row is this tile's alone.
                T::store(sums, unsafe { out.part(start..start + j.len()) });
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use motet_core::kernel::Kernel;
    use motet_core::shape::Spec;
    use motet_core::tensor::Tensor;

    use crate::testing::{noise, run, tensor, values};

    const BLOCK: usize = 32;
    const BATCH: usize = 2;

    /// Noise in the tiles of a batch of matrices, and every element's factor.
    fn mask([rows, columns]: [usize; 2], bools: bool, seed: u64) -> (Tensor, Vec<f64>) {
        let tiles = [BATCH, rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)];
        let factors = noise(tiles.iter().product(), seed);
        let keep: Vec<bool> = factors.iter().map(|&x| x > 0.0).collect();
        let factor = |tile: usize| match bools {
            true => f64::from(u8::from(keep[tile])),
            false => f64::from(factors[tile]),
        };
        let expanded = (0..BATCH * rows * columns)
            .map(|n| {
                let (batch, i, j) = (n / columns / rows, n / columns % rows, n % columns);
                factor((batch * tiles[1] + i / BLOCK) * tiles[2] + j / BLOCK)
            })
            .collect();
        let mask = match bools {
            true => tensor(&tiles, &keep),
            false => tensor(&tiles, &factors),
        };
        (mask, expanded)
    }

    #[test]
    fn products_agree_with_masked_operands() {
        let (m, k, n) = (70, 40, 33);
        let (a, b) = (noise(BATCH * m * k, 1), noise(BATCH * k * n, 2));
        let (at, bt) = (tensor(&[BATCH, m, k], &a), tensor(&[BATCH, k, n], &b));
        for bools in [true, false] {
            let (out_mask, out_factors) = mask([m, n], bools, 3);
            let (a_mask, a_factors) = mask([m, k], bools, 4);
            let (b_mask, b_factors) = mask([k, n], bools, 5);
            for (with_out, with_sides) in [(true, false), (false, true), (true, true)] {
                let mut inputs = vec![&at, &bt];
                inputs.extend(with_out.then_some(&out_mask));
                inputs.extend(
                    with_sides
                        .then_some([&a_mask, &b_mask])
                        .into_iter()
                        .flatten(),
                );
                let kernel = Kernel::BlockMaskedMatmul { block_size: BLOCK };
                let out = [Spec::new([BATCH, m, n], at.layout.dtype)];
                let got = values::<f32>(&run(&kernel, &inputs, &out).unwrap()[0]);
                for (at, got) in got.iter().enumerate() {
                    let (batch, i, j) = (at / n / m, at / n % m, at % n);
                    let side = |factors: &[f64], at: usize| match with_sides {
                        true => factors[at],
                        false => 1.0,
                    };
                    let sum: f64 = (0..k)
                        .map(|l| {
                            let (p, q) = ((batch * m + i) * k + l, (batch * k + l) * n + j);
                            let left = f64::from(a[p]) * side(&a_factors, p);
                            left * f64::from(b[q]) * side(&b_factors, q)
                        })
                        .sum();
                    let want = sum * if with_out { out_factors[at] } else { 1.0 };
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{at}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn what_is_masked_out_is_not_read() {
        let x = tensor(&[1, 1], &[f32::NAN]);
        let (no, yes) = (tensor(&[1, 1], &[false]), tensor(&[1, 1], &[true]));
        let kernel = Kernel::BlockMaskedMatmul { block_size: BLOCK };
        for masks in [vec![&no], vec![&no, &yes], vec![&yes, &yes, &no]] {
            let inputs = [vec![&x, &x], masks].concat();
            let got = run(&kernel, &inputs, &[x.spec()]).unwrap();
            assert_eq!(values::<f32>(&got[0]), [0.0]);
        }
    }
}
