//! Attention of many queries: blocks of 16 are the lanes of vectors.

use std::ops::Range;

use super::lanes::{LANES, Lanes, add_values, scores, weigh};
use super::{Attention, KEYS, KeyBlock, Operands, PieceAt, Seen};
use crate::matmul::{Matrix, Operand};
use crate::number::Number;
use crate::real::Real;
use crate::simd::leveled;

/// Queries that are lanes together. Lanes without a query hold zeros, which nobody reads.
struct Block<S> {
    q: Vec<Lanes<S>>,
    sums: Vec<Lanes<S>>,
    seen: Lanes<Seen<S>>,
}

impl<T: Operand<Sum: Real>> Attention<T> {
    /// Computes some of the rows that share the keys with number `batch`; `store` gets each of them.
    pub(super) fn many_rows(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        store: &dyn Fn(usize, &[T::Sum]),
    ) {
        let zero = [T::Sum::ZERO; LANES];
        let block = |first: usize| Block {
            q: vec![zero; self.features],
            sums: vec![zero; self.values],
            seen: std::array::from_fn(|lane| {
                self.first_seen(operands, batch, (first + lane).min(rows.end - 1))
            }),
        };
        let mut blocks: Vec<Block<T::Sum>> = rows.clone().step_by(LANES).map(block).collect();
        self.scaled_queries(operands, batch, rows.clone(), |row, feature, element| {
            blocks[row / LANES].q[feature][row % LANES] = element;
        });
        let mut scores = vec![zero; self.keys.min(KEYS)];
        let end = self.last_key(operands, rows.clone());
        for KeyBlock { piece, own, keys } in self.blocks(operands, end) {
            let scores = &mut scores[..keys.len()];
            let mut use_both = |k: Matrix<'_, T::Sum>, v: Matrix<'_, T::Sum>| {
                let mut memory = [Vec::new(), Vec::new()];
                let [k_memory, v_memory] = &mut memory;
                let k = row_major(k, keys.len(), self.features, k_memory);
                let v = row_major(v, keys.len(), self.values, v_memory);
                for (i, block) in blocks.iter_mut().enumerate() {
                    let first = rows.start + i * LANES;
                    let rows = first..rows.end.min(first + LANES);
                    self.block(operands, batch, rows, keys.clone(), [k, v], block, scores);
                }
            };
            let (features, values) = (0..self.features, 0..self.values);
            let PieceAt {
                piece,
                k: k_at,
                v: v_at,
            } = piece;
            piece
                .k
                .with_block(*k_at, batch, own.clone(), features, |k| {
                    piece
                        .v
                        .with_block(*v_at, batch, own.clone(), values, |v| use_both(k, v));
                });
        }
        let mut row_sums = vec![T::Sum::ZERO; self.values];
        for (number, row) in rows.enumerate() {
            let (block, lane) = (&blocks[number / LANES], number % LANES);
            let scale = T::Sum::ONE / block.seen[lane].sum;
            for (to, sums) in row_sums.iter_mut().zip(&block.sums) {
                *to = sums[lane] * scale;
            }
            store(row, &row_sums);
        }
    }

    /// Adds what a block of keys and their values bring to a block of queries.
    #[allow(clippy::too_many_arguments, reason = "the operands of a block")]
    fn block(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        keys: Range<usize>,
        [k, v]: [Matrix<'_, T::Sum>; 2],
        block: &mut Block<T::Sum>,
        weights: &mut [Lanes<T::Sum>],
    ) {
        let simd = self.simd;
        let (q, sums, seen) = (&block.q[..], &mut block.sums[..], &mut block.seen);
        leveled!(simd, scores<S: Real = T::Sum>(
            q: &[Lanes<S>], k: Matrix<'_, S>, weights: &mut [Lanes<S>]
        ));
        let flat = weights.as_flattened_mut();
        self.hide(operands, batch, rows, keys, flat, [1, LANES]);
        leveled!(simd, weigh<S: Real = T::Sum>(
            weights: &mut [Lanes<S>], sums: &mut [Lanes<S>], seen: &mut Lanes<Seen<S>>
        ));
        leveled!(simd, add_values<S: Real = T::Sum>(
            weights: &[Lanes<S>], v: Matrix<'_, S>, sums: &mut [Lanes<S>]
        ));
    }
}

/// The matrix with contiguous rows, in `memory` if it has not.
fn row_major<'a, S: Number>(
    matrix: Matrix<'a, S>,
    rows: usize,
    columns: usize,
    memory: &'a mut Vec<S>,
) -> Matrix<'a, S> {
    if matrix.column_step == 1 {
        return matrix;
    }
    for row in 0..rows {
        let element = |i| matrix.data[row * matrix.row_step + i * matrix.column_step];
        memory.extend((0..columns).map(element));
    }
    Matrix {
        data: memory,
        row_step: columns,
        column_step: 1,
    }
}
