//! The arithmetic of attention where each lane of a vector is a query.
//!
//! Keys and values are read where they are, an element for all lanes at once, and softmax is taken
//! lane by lane: nothing is packed, and nothing is summed across lanes.

use super::{Seen, center};
use crate::matmul::Matrix;
use crate::real::Real;
use crate::simd::Level;

/// Queries side by side.
pub(super) const LANES: usize = 16;

/// A number for each query.
pub(super) type Lanes<S> = [S; LANES];

/// Rows of keys, or columns of values, whose sums stay in registers together: six of two AVX2
/// registers each leave room for what is multiplied.
const TOGETHER: usize = 6;

/// Calls `$body::<L, S, N>(arguments)` for blocks of at most [`TOGETHER`] of `$count`, `N` of them
/// from `$start` on.
macro_rules! in_blocks {
    ($start:ident in $count:expr => $body:ident($($argument:expr),*)) => {
        let count = $count;
        let mut $start = 0;
        while $start < count {
            match count - $start {
                1 => $body::<L, S, 1>($($argument),*),
                2 => $body::<L, S, 2>($($argument),*),
                3 => $body::<L, S, 3>($($argument),*),
                4 => $body::<L, S, 4>($($argument),*),
                5 => $body::<L, S, 5>($($argument),*),
                _ => $body::<L, S, TOGETHER>($($argument),*),
            }
            $start += TOGETHER;
        }
    };
}

/// Products of the queries and each key.
#[inline(always)]
pub(super) fn scores<L: Level, S: Real>(q: &[Lanes<S>], keys: Matrix<'_, S>, to: &mut [Lanes<S>]) {
    if q.is_empty() {
        return to.fill([S::ZERO; LANES]);
    }
    in_blocks!(key in to.len() => scores_of(q, keys, key, to));
}

#[inline(always)]
fn scores_of<L: Level, S: Real, const N: usize>(
    q: &[Lanes<S>],
    keys: Matrix<'_, S>,
    first: usize,
    to: &mut [Lanes<S>],
) {
    let mut rows: [&[S]; N] = [&[]; N];
    for (n, row) in rows.iter_mut().enumerate() {
        *row = &keys.data[(first + n) * keys.row_step..][..q.len()];
    }
    let mut sums = [[S::ZERO; LANES]; N];
    for f in 0..q.len() {
        for n in 0..N {
            let key = rows[n][f];
            for i in 0..LANES {
                sums[n][i] = key.mul_add::<L>(q[f][i], sums[n][i]);
            }
        }
    }
    to[first..first + N].copy_from_slice(&sums);
}

/// Makes scores the weights of their values, relative to the largest score so far, and scales what
/// was summed before down to that.
#[inline(always)]
pub(super) fn weigh<L: Level, S: Real>(
    scores: &mut [Lanes<S>],
    sums: &mut [Lanes<S>],
    seen: &mut Lanes<Seen<S>>,
) {
    let mut max = seen.map(|seen| seen.max);
    for scores in scores.iter() {
        for i in 0..LANES {
            max[i] = if scores[i] > max[i] {
                scores[i]
            } else {
                max[i]
            };
        }
    }
    let centers = max.map(center);
    let mut added = [S::ZERO; LANES];
    for scores in scores.iter_mut() {
        for i in 0..LANES {
            scores[i] = (scores[i] - centers[i]).exp::<L>();
            added[i] += scores[i];
        }
    }
    let mut scales = [S::ONE; LANES];
    for i in 0..LANES {
        if seen[i].max != max[i] {
            scales[i] = (seen[i].max - max[i]).exp::<L>();
        }
        seen[i] = Seen {
            max: max[i],
            sum: seen[i].sum * scales[i] + added[i],
        };
    }
    if scales != [S::ONE; LANES] {
        for sums in sums {
            for i in 0..LANES {
                // What a hidden key left must not survive, even where it is too large to be scaled.
                let scaled = sums[i] * scales[i];
                sums[i] = if scales[i] == S::ZERO {
                    S::ZERO
                } else {
                    scaled
                };
            }
        }
    }
}

/// Adds the values, each times its weights.
#[inline(always)]
pub(super) fn add_values<L: Level, S: Real>(
    weights: &[Lanes<S>],
    values: Matrix<'_, S>,
    sums: &mut [Lanes<S>],
) {
    in_blocks!(column in sums.len() => add_values_of(weights, values, column, sums));
}

#[inline(always)]
fn add_values_of<L: Level, S: Real, const N: usize>(
    weights: &[Lanes<S>],
    values: Matrix<'_, S>,
    first: usize,
    sums: &mut [Lanes<S>],
) {
    let sums = &mut sums[first..first + N];
    let mut kept = [[S::ZERO; LANES]; N];
    kept.copy_from_slice(sums);
    for (key, weights) in weights.iter().enumerate() {
        let values = &values.data[key * values.row_step + first..][..N];
        for n in 0..N {
            for i in 0..LANES {
                kept[n][i] = values[n].mul_add::<L>(weights[i], kept[n][i]);
            }
        }
    }
    sums.copy_from_slice(&kept);
}
