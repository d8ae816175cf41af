//! Matrix products. Operands have at least two dimensions and, where indices do not pick the
//! matrices, equal batch dimensions: broadcasting is a node of its own.

use std::ops::RangeInclusive;

use super::indexing::index_shape;
use super::state::operation;
use super::{Lowered, Operation, State, same_dtype, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::shape::Spec;

operation! {
    /// `a @ b`.
    Matmul;
}

operation! {
    /// `alpha * (a @ b) + beta * c`, with c in the output's shape.
    AddMM {
        /// Scale of the product.
        alpha: f32,
        /// Scale of c.
        beta: f32,
    }
}

operation! {
    /// `a[lhs] @ b[rhs]` for each pair of indices into the batches of a and b: inputs a
    /// (..., M, K), b (..., K, N), lhs and rhs, output (indices..., M, N).
    GatherMM {
        /// The indices into a are ascending, which is of no use here.
        left_sorted: bool => since (0, 25, 0) or false,
        /// The indices into b are ascending, which is of no use here.
        right_sorted: bool => since (0, 25, 0) or false,
    }
}

operation! {
    /// `a @ b`, where each square tile is multiplied by a factor or kept where a bool is true.
    /// Inputs a and b, then the factors of the result's tiles, or those of a's and of b's, or all
    /// three in this order: the batch dimensions and a number for each tile.
    BlockMaskedMM {
        /// Rows and columns of a tile: 32 or 64.
        block_size: i32,
    }
}

/// The spec of `a @ b`.
fn product<T: State>(a: &Spec, b: &Spec) -> Result<Spec> {
    let rank = a.shape.len();
    let fits = rank >= 2
        && rank == b.shape.len()
        && a.shape[..rank - 2] == b.shape[..rank - 2]
        && a.shape[rank - 1] == b.shape[rank - 2];
    match fits && a.dtype == b.dtype && a.dtype.is_inexact() {
        true => Ok(Spec::new(
            with_dim(&a.shape, rank - 1, b.shape[rank - 1]),
            a.dtype,
        )),
        false => Err(T::error(format!(
            "{a} and {b}: expected (..., M, K) and (..., K, N) of one floating dtype"
        ))),
    }
}

impl Operation for Matmul {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        Ok(vec![product::<Self>(&inputs[0], &inputs[1])?])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (alpha, beta) = (1.0, None);
        Ok(Lowered::Kernel(Kernel::Matmul { alpha, beta }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        operands()
            .into_iter()
            .map(|(a, b)| (Matmul, vec![a, b]))
            .collect()
    }
}

impl Operation for AddMM {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let product = product::<Self>(&inputs[0], &inputs[1])?;
        same_dtype(Self::NAME, inputs)?;
        // A file for any shape may have broadcast a bias to the shape of its trace.
        match inputs[2].shape == product.shape {
            true => Ok(vec![product]),
            false => Err(Self::error(format!(
                "got c of shape {}, expected {} as the product has",
                inputs[2].shape, product.shape
            ))),
        }
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (alpha, beta) = (self.alpha, Some(self.beta));
        Ok(Lowered::Kernel(Kernel::Matmul { alpha, beta }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for (a, b) in operands() {
            for (alpha, beta) in [(1.0, 1.0), (0.5, -2.0), (1.0, 0.0)] {
                let c = product::<Self>(&a, &b).into_iter();
                let inputs = c.map(|c| vec![a.clone(), b.clone(), c]);
                samples.extend(inputs.map(|inputs| (AddMM { alpha, beta }, inputs)));
            }
        }
        samples
    }
}

impl Operation for GatherMM {
    fn arity(&self) -> RangeInclusive<usize> {
        4..=4
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let indices = index_shape::<Self>(&inputs[2..])?;
        let (Some((_, &[m, k])), Some((_, &[b_k, n]))) = (
            a.shape.split_last_chunk::<2>(),
            b.shape.split_last_chunk::<2>(),
        ) else {
            return Err(Self::error(format!("{a} and {b} are not matrices")));
        };
        let matrix = [Spec::new([m, k], a.dtype), Spec::new([b_k, n], b.dtype)];
        let product = product::<Self>(&matrix[0], &matrix[1])?;
        Ok(vec![Spec::new(
            [&*indices, &*product.shape].concat(),
            product.dtype,
        )])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::GatherMatmul))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let op = GatherMM {
            left_sorted: false,
            right_sorted: true,
        };
        let sample = |a: &[usize], b: &[usize], indices: &[usize], dtype| {
            let indices = Spec::new(indices, Dtype::Uint32);
            let operands = [Spec::new(a, dtype), Spec::new(b, dtype)];
            (op.clone(), [operands, [indices.clone(), indices]].concat())
        };
        let inexact = Dtype::ALL.into_iter().filter(|dtype| dtype.is_inexact());
        let mut samples: Vec<_> = inexact
            .map(|dtype| sample(&[2, 3, 4], &[5, 4, 6], &[7], dtype))
            .collect();
        samples.push(sample(&[2, 2, 1, 9], &[3, 9, 4], &[2, 3], Dtype::Float32));
        samples.push(sample(&[3, 4], &[4, 5], &[], Dtype::Float32));
        samples.push(sample(&[2, 3, 0], &[2, 0, 5], &[4], Dtype::Float32));
        samples
    }
}

impl BlockMaskedMM {
    /// The size of a tile.
    fn tile(&self) -> Result<usize> {
        match self.block_size {
            32 | 64 => Ok(self.block_size as usize),
            size => Err(Self::error(format!(
                "got blocks of {size}, expected 32 or 64"
            ))),
        }
    }
}

impl Operation for BlockMaskedMM {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=5
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (a, b, tile) = (&inputs[0], &inputs[1], self.tile()?);
        let product = product::<Self>(a, b)?;
        // The masks of the result, of a and of b, as many as there are.
        let masked = [&product, a, b];
        let masked = if inputs.len() == 4 {
            &masked[1..]
        } else {
            &masked[..]
        };
        for (mask, masked) in inputs[2..].iter().zip(masked) {
            let mut tiles = masked.shape.clone();
            let rank = tiles.len();
            for dim in &mut tiles.dims_mut()[rank - 2..] {
                *dim = dim.div_ceil(tile);
            }
            if mask.shape != tiles || (mask.dtype != Dtype::Bool && mask.dtype != a.dtype) {
                return Err(Self::error(format!(
                    "got the mask {mask} for {masked}, expected {tiles} of bool or {}",
                    a.dtype
                )));
            }
        }
        Ok(vec![product])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let block_size = self.tile()?;
        Ok(Lowered::Kernel(Kernel::BlockMaskedMatmul { block_size }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for (block_size, batch) in [(32, &[][..]), (64, &[2])] {
                let spec =
                    |rows, columns, dtype| Spec::new([batch, &[rows, columns]].concat(), dtype);
                let tiles = |rows: usize, columns: usize, dtype| {
                    let tile = block_size as usize;
                    spec(rows.div_ceil(tile), columns.div_ceil(tile), dtype)
                };
                let (m, k, n) = (70, 40, 65);
                let operands = [spec(m, k, dtype), spec(k, n, dtype)];
                for mask in [Dtype::Bool, dtype] {
                    let out = [tiles(m, n, mask)];
                    let sides = [tiles(m, k, mask), tiles(k, n, mask)];
                    for masks in [&out[..], &sides, &[&out[..], &sides].concat()] {
                        let inputs = [&operands[..], masks].concat();
                        samples.push((BlockMaskedMM { block_size }, inputs));
                    }
                }
            }
        }
        samples
    }
}

/// Operands for samples: all dtypes, vectors, batches, empty ones, sizes beside those of tiles.
fn operands() -> Vec<(Spec, Spec)> {
    let pair = |a: &[usize], b: &[usize], dtype| (Spec::new(a, dtype), Spec::new(b, dtype));
    let inexact = Dtype::ALL.into_iter().filter(|dtype| dtype.is_inexact());
    let mut pairs: Vec<_> = inexact.map(|dtype| pair(&[3, 4], &[4, 5], dtype)).collect();
    for (a, b) in [
        (&[1, 7][..], &[7, 9][..]),
        (&[7, 9], &[9, 1]),
        (&[2, 3, 5, 4], &[2, 3, 4, 6]),
        (&[3, 0], &[0, 2]),
        (&[0, 3], &[3, 2]),
        (&[37, 65], &[65, 33]),
    ] {
        pairs.push(pair(a, b, Dtype::Float32));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_to_fit() {
        let matmul = |a: &[usize], b: &[usize]| {
            let inputs = [Spec::new(a, Dtype::Float32), Spec::new(b, Dtype::Float32)];
            let outputs = Matmul.infer(&inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(matmul(&[2, 3], &[3, 4]), Some(vec![2, 4]));
        assert_eq!(matmul(&[5, 2, 3], &[5, 3, 4]), Some(vec![5, 2, 4]));
        assert_eq!(matmul(&[5, 2, 3], &[1, 3, 4]), None);
        assert_eq!(matmul(&[2, 3], &[2, 3]), None);
        assert_eq!(matmul(&[3], &[3]), None);
        assert_eq!(matmul(&[2, 2, 3], &[3, 4]), None);
        let ints = vec![Spec::new([2, 2], Dtype::Int32); 2];
        assert!(Matmul.infer(&ints, None).is_err());
    }

    #[test]
    fn c_has_the_shape_of_the_product() {
        let addmm = AddMM {
            alpha: 1.0,
            beta: 1.0,
        };
        let square = || Spec::new([2, 2], Dtype::Float32);
        assert!(addmm.infer(&[square(), square(), square()], None).is_ok());
        for c in [
            Spec::new([2], Dtype::Float32),
            Spec::new([2, 2], Dtype::Float16),
        ] {
            assert!(addmm.infer(&[square(), square(), c], None).is_err());
        }
    }

    #[test]
    fn gathered_products_take_their_batches_from_the_indices() {
        let gather = |a: &[usize], b: &[usize], lhs: &[usize], rhs: &[usize]| {
            let op = GatherMM {
                left_sorted: false,
                right_sorted: false,
            };
            let float = |shape| Spec::new(shape, Dtype::Float32);
            let index = |shape| Spec::new(shape, Dtype::Uint32);
            let outputs = op.infer(&[float(a), float(b), index(lhs), index(rhs)], None);
            Some(outputs.ok()?[0].shape.to_vec())
        };
        let (a, b) = ([5, 2, 3], [6, 3, 4]);
        assert_eq!(gather(&a, &b, &[7, 8], &[7, 8]), Some(vec![7, 8, 2, 4]));
        assert_eq!(gather(&[2, 3], &[3, 4], &[], &[]), Some(vec![2, 4]));
        assert_eq!(gather(&a, &b, &[7], &[8]), None);
        assert_eq!(gather(&a, &a, &[7], &[7]), None);
        assert_eq!(gather(&[3], &b, &[7], &[7]), None);
    }

    #[test]
    fn masks_have_a_number_for_each_tile() {
        let masked = |block_size, masks: &[&[usize]], dtype| {
            let (a, b) = ([2, 40, 70], [2, 70, 10]);
            let operands = [a, b].map(|shape| Spec::new(shape, Dtype::Float32));
            let masks = masks.iter().map(|&shape| Spec::new(shape, dtype));
            let inputs: Vec<Spec> = operands.into_iter().chain(masks).collect();
            crate::ops::infer(&BlockMaskedMM { block_size }, &inputs, None).is_ok()
        };
        let (out, lhs, rhs) = (&[2, 2, 1][..], &[2, 2, 3][..], &[2, 3, 1][..]);
        for dtype in [Dtype::Bool, Dtype::Float32] {
            assert!(masked(32, &[out], dtype));
            assert!(masked(32, &[lhs, rhs], dtype));
            assert!(masked(32, &[out, lhs, rhs], dtype));
        }
        assert!(!masked(32, &[out, rhs, lhs], Dtype::Bool));
        assert!(!masked(32, &[rhs, lhs], Dtype::Bool));
        assert!(!masked(32, &[lhs], Dtype::Bool));
        assert!(!masked(64, &[out], Dtype::Bool));
        assert!(!masked(0, &[out], Dtype::Bool) && !masked(-32, &[out], Dtype::Bool));
        assert!(!masked(32, &[out], Dtype::Int32));
        assert!(!masked(32, &[&[2, 1]], Dtype::Bool));
    }
}
