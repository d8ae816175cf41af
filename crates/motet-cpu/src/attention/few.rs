//! Attention of few queries, one row of scores after the other: it is bound by reading keys and
//! values, and each row of them is read once for all queries.

use std::ops::Range;

use super::{Attention, KEYS, KeyBlock, Operands, PieceAt, Seen, center};
use crate::matmul::{Matrix, Operand, Sizes, multiply};
use crate::number::Number;
use crate::real::{Real, exp_minus, maximum};
use crate::simd::{Level, leveled};

/// Row `row` of a row-major matrix, as a matrix.
fn row_of<S>(data: &[S], row: usize, len: usize) -> Matrix<'_, S> {
    Matrix {
        data: &data[row * len..][..len],
        row_step: len,
        column_step: 1,
    }
}

impl<T: Operand<Sum: Real>> Attention<T> {
    /// Computes some of the rows that share the keys with number `batch`; `store` gets each of them.
    pub(super) fn few_rows(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        store: &dyn Fn(usize, &[T::Sum]),
    ) {
        let (features, values, simd, one) = (self.features, self.values, self.simd, T::Sum::ONE);
        let mut q = vec![T::Sum::ZERO; rows.len() * features];
        self.scaled_queries(operands, batch, rows.clone(), |row, feature, element| {
            q[row * features + feature] = element;
        });
        let mut scores = vec![T::Sum::ZERO; rows.len() * self.keys.min(KEYS)];
        let mut sums = vec![T::Sum::ZERO; rows.len() * values];
        let first = |row| self.first_seen(operands, batch, row);
        let mut seen: Vec<Seen<T::Sum>> = rows.clone().map(first).collect();
        let end = self.last_key(operands, rows.clone());
        for KeyBlock { piece, own, keys } in self.blocks(operands, end) {
            let n = keys.len();
            let scores = &mut scores[..rows.len() * n];
            let use_keys = |keys: Matrix<'_, T::Sum>| {
                let transposed = Matrix {
                    data: keys.data,
                    row_step: keys.column_step,
                    column_step: keys.row_step,
                };
                let sizes = Sizes {
                    m: 1,
                    k: features,
                    n,
                };
                for (row, scores) in scores.chunks_mut(n).enumerate() {
                    let q = row_of(&q, row, features);
                    multiply(sizes, one, q, transposed, false, scores, n);
                }
            };
            let PieceAt { piece, k, v } = piece;
            piece
                .k
                .with_block(*k, batch, own.clone(), 0..features, use_keys);
            self.hide(operands, batch, rows.clone(), keys, scores, [n, 1]);
            let lines = scores.chunks_mut(n).zip(sums.chunks_mut(values));
            for ((scores, sums), seen) in lines.zip(&mut seen) {
                leveled!(simd, weigh<S: Real = T::Sum>(
                    scores: &mut [S], sums: &mut [S], seen: &mut Seen<S>
                ));
            }
            let use_values = |rows: Matrix<'_, T::Sum>| {
                let sizes = Sizes {
                    m: 1,
                    k: n,
                    n: values,
                };
                for (row, sums) in sums.chunks_mut(values).enumerate() {
                    let weights = row_of(scores, row, n);
                    multiply(sizes, one, weights, rows, true, sums, values);
                }
            };
            piece.v.with_block(*v, batch, own, 0..values, use_values);
        }
        for ((row, sums), seen) in rows.zip(sums.chunks_mut(values)).zip(seen) {
            let scale = one / seen.sum;
            sums.iter_mut().for_each(|sum| *sum *= scale);
            store(row, sums);
        }
    }
}

/// Makes scores the weights of their values, relative to the largest score so far, and scales what
/// was summed before down to that.
#[inline(always)]
fn weigh<L: Level, S: Real>(scores: &mut [S], sums: &mut [S], seen: &mut Seen<S>) {
    let largest = maximum(scores);
    let max = if largest > seen.max {
        largest
    } else {
        seen.max
    };
    let sum = exp_minus::<L, S>(scores, center(max));
    if seen.max != max {
        let scale = (seen.max - max).exp::<L>();
        seen.sum *= scale;
        // What a hidden key left must not survive, even where it is too large to be scaled.
        let scaled = |x: S| if scale == S::ZERO { S::ZERO } else { x * scale };
        sums.iter_mut().for_each(|x| *x = scaled(*x));
    }
    *seen = Seen {
        max,
        sum: seen.sum + sum,
    };
}
