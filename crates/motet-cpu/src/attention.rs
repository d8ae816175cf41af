//! Attention: `softmax(scale * q @ kᵀ + mask) @ v`, without ever writing all scores.
//!
//! A tile is a block of query rows; heads that share keys and values stand in one tile. It goes
//! over the keys in blocks of fixed size and keeps, for each row, the largest score so far, the sum
//! of exponentials and the weighted sum of values, which it scales down when a larger score comes.
//! All is summed in float32 (float64 for itself), rounded once. Blocks depend on shapes alone.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::matmul::{Factor, Matrix, Operand, Sizes, Stack, matrix_steps, multiply};
use crate::number::Number;
use crate::operand::{Output, Strided, input};
use crate::real::{Real, exp_minus, maximum};
use crate::simd::{Level, Simd, leveled};

/// q, k and v with contiguous rows or columns; masks in any layout.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    match (index, kernel) {
        (0..3, _) => matrix_steps(layout).is_some(),
        (3, Kernel::Attention { mask, .. }) => *mask,
        _ => false,
    }
}

/// A step for an attention.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let &Kernel::Attention {
        scale,
        causal,
        mask,
        sinks,
    } = kernel
    else {
        return Err(unexpected());
    };
    let ([q, k, v, more @ ..], [out]) = (inputs, outputs) else {
        return Err(unexpected());
    };
    let ranks = [q, k, v, out].map(|layout| layout.shape.len());
    if ranks != [4; 4] || more.len() != usize::from(mask) + usize::from(sinks) || k.shape[1] == 0 {
        return Err(unexpected());
    }
    let (mask, sinks) = more.split_at(usize::from(mask));
    macro_rules! step {
        ($T:ty) => {
            Ok(Box::new(Attention::<$T> {
                scale,
                causal,
                group: q.shape[1] / k.shape[1],
                kv_heads: k.shape[1],
                queries: q.shape[2],
                keys: k.shape[2],
                features: q.shape[3],
                values: v.shape[3],
                q: Stack::new(q)?,
                k: Stack::new(k)?,
                v: Stack::new(v)?,
                mask: mask.first().map(Mask::new),
                sinks: sinks.first().cloned(),
                out: out.clone(),
                simd: Simd::detect(),
                element: PhantomData,
            }))
        };
    }
    match q.dtype {
        Dtype::Float16 => step!(half::f16),
        Dtype::Bfloat16 => step!(half::bf16),
        Dtype::Float32 => step!(f32),
        Dtype::Float64 => step!(f64),
        dtype => Err(Error::unsupported(
            "attention",
            format!("not defined for {dtype}"),
        )),
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "attention", "unexpected operands")
}

/// Rows of queries in a tile: enough that packing keys and values for them is a small part.
const ROWS: usize = 64;
/// Keys in a block: its scores (64 KiB of float32 for 64 rows) stay in the second-level cache.
const KEYS: usize = 256;

struct Attention<T> {
    scale: f32,
    causal: bool,
    /// Heads of queries that share one of keys and values.
    group: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    /// Features of queries and keys, and of values.
    features: usize,
    values: usize,
    q: Stack,
    k: Stack,
    v: Stack,
    mask: Option<Mask>,
    sinks: Option<Layout>,
    out: Layout,
    simd: Simd,
    element: PhantomData<T>,
}

/// How a mask broadcasts to the scores.
struct Mask {
    layout: Layout,
    /// For each dimension of the scores.
    strides: [isize; 4],
}

impl Mask {
    fn new(layout: &Layout) -> Mask {
        let mut strides = [0; 4];
        let dims = layout.shape.iter().zip(&layout.strides).rev();
        for (to, (&dim, &stride)) in strides.iter_mut().rev().zip(dims) {
            *to = if dim == 1 { 0 } else { stride };
        }
        Mask {
            layout: layout.clone(),
            strides,
        }
    }
}

/// The elements of a mask.
#[derive(Clone, Copy)]
enum Marks<'a, T> {
    Keep(Strided<'a, bool>),
    Add(Strided<'a, T>),
}

/// The operands of a launch.
struct Operands<'a, T: Operand> {
    q: Strided<'a, T>,
    k: Strided<'a, T>,
    v: Strided<'a, T>,
    mask: Option<(&'a Mask, Marks<'a, T>)>,
    sinks: Option<Vec<T::Sum>>,
}

/// What is known of a row after some keys: its largest score and the sum of exponentials.
#[derive(Clone, Copy)]
struct Seen<S> {
    max: S,
    sum: S,
}

impl<T: Operand<Sum: Real>> Step for Attention<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        if self.keys == 0 {
            T::store(&vec![T::Sum::ZERO; out.len()], out.into_slice());
            return Ok(());
        }
        let operands = self.operands(launch)?;
        // The rows of all heads that share keys follow each other in the output.
        let rows = self.group * self.queries;
        let batches = out.len() / self.values / rows;
        let row_tiles = rows.div_ceil(ROWS);
        let scores = rows.min(ROWS).saturating_mul(self.keys);
        let cost_ns = scores.saturating_mul(8 + self.features + self.values) / 16;
        launch
            .pool
            .for_each_tile(batches * row_tiles, cost_ns, &|tile| {
                let (batch, first) = (tile / row_tiles, tile % row_tiles * ROWS);
                let tile_rows = first..rows.min(first + ROWS);
                let start = (batch * rows + first) * self.values;
                // SAFETY: tiles do not overlap, and each is written once.
                let to = unsafe { out.part(start..start + tile_rows.len() * self.values) };
                self.tile(&operands, batch, tile_rows, to);
            });
        Ok(())
    }
}

impl<T: Operand<Sum: Real>> Attention<T> {
    fn operands<'a>(&'a self, launch: &Launch<'a>) -> Result<Operands<'a, T>> {
        let mask = match &self.mask {
            Some(mask) => {
                let (location, layout) = (&launch.inputs[3], &mask.layout);
                let marks = match layout.dtype {
                    Dtype::Bool => Marks::Keep(Strided::new(location, layout)?),
                    _ => Marks::Add(Strided::new(location, layout)?),
                };
                Some((mask, marks))
            }
            None => None,
        };
        let sinks = match &self.sinks {
            Some(layout) => {
                let values = input::<T>(&launch.inputs[3 + usize::from(mask.is_some())], layout)?;
                let mut sinks = vec![T::Sum::ZERO; values.len()];
                T::load(values, &mut sinks);
                Some(sinks)
            }
            None => None,
        };
        Ok(Operands {
            q: Strided::new(&launch.inputs[0], &self.q.layout)?,
            k: Strided::new(&launch.inputs[1], &self.k.layout)?,
            v: Strided::new(&launch.inputs[2], &self.v.layout)?,
            mask,
            sinks,
        })
    }

    /// Computes some of the rows that share the keys with number `batch`.
    fn tile(&self, operands: &Operands<'_, T>, batch: usize, rows: Range<usize>, to: &mut [T]) {
        let (m, simd, one) = (rows.len(), self.simd, T::Sum::ONE);
        let q = self.scaled_queries(operands, batch, rows.clone());
        let mut scores = vec![T::Sum::ZERO; m * self.keys.min(KEYS)];
        let mut sums = vec![T::Sum::ZERO; m * self.values];
        let first = |row: usize| match &operands.sinks {
            Some(sinks) => Seen {
                max: sinks[self.head(batch, row)],
                sum: one,
            },
            None => Seen {
                max: T::Sum::LOWEST,
                sum: T::Sum::ZERO,
            },
        };
        let mut seen: Vec<Seen<T::Sum>> = rows.clone().map(first).collect();
        let end = self.last_key(operands, rows.clone());
        for start in (0..end).step_by(KEYS) {
            let keys = start..end.min(start + KEYS);
            let n = keys.len();
            let scores = &mut scores[..m * n];
            let by_rows = |data, row_step| Matrix {
                data,
                row_step,
                column_step: 1,
            };
            let (k, features) = (self.features, 0..self.features);
            let use_keys = |keys: Matrix<'_, T::Sum>| {
                let transposed = Matrix {
                    data: keys.data,
                    row_step: keys.column_step,
                    column_step: keys.row_step,
                };
                let q = by_rows(&q, k);
                multiply(Sizes { m, k, n }, one, q, transposed, false, scores, n);
            };
            self.k
                .with_block(operands.k, batch, keys.clone(), features, use_keys);
            self.hide(operands, batch, rows.clone(), keys.clone(), scores);
            let lines = scores.chunks_mut(n).zip(sums.chunks_mut(self.values));
            for ((scores, sums), seen) in lines.zip(&mut seen) {
                leveled!(simd, weigh<S: Real = T::Sum>(
                    scores: &mut [S], sums: &mut [S], seen: &mut Seen<S>
                ));
            }
            let sizes = Sizes {
                m,
                k: n,
                n: self.values,
            };
            let use_values = |values: Matrix<'_, T::Sum>| {
                multiply(
                    sizes,
                    one,
                    by_rows(scores, n),
                    values,
                    true,
                    &mut sums,
                    self.values,
                );
            };
            self.v
                .with_block(operands.v, batch, keys, 0..self.values, use_values);
        }
        for (sums, seen) in sums.chunks_mut(self.values).zip(seen) {
            let scale = one / seen.sum;
            sums.iter_mut().for_each(|sum| *sum *= scale);
        }
        T::store(&sums, to);
    }

    /// The head, among those of the queries, that a row belongs to.
    fn head(&self, batch: usize, row: usize) -> usize {
        batch % self.kv_heads * self.group + row / self.queries
    }

    /// The queries of some rows, row-major, times the scale.
    fn scaled_queries(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
    ) -> Vec<T::Sum> {
        let mut scaled = Vec::with_capacity(rows.len() * self.features);
        let scale = T::Sum::from_f32(self.scale);
        let mut row = rows.start;
        while row < rows.end {
            let (head, query) = (row / self.queries, row % self.queries);
            let queries = query..self.queries.min(query + rows.end - row);
            row += queries.len();
            let (batch, count) = (batch * self.group + head, queries.len());
            self.q
                .with_block(operands.q, batch, queries, 0..self.features, |q| {
                    for row in 0..count {
                        let element = |i: usize| q.data[row * q.row_step + i * q.column_step];
                        scaled.extend((0..self.features).map(|i| element(i) * scale));
                    }
                });
        }
        scaled
    }

    /// How many keys the query of a row sees, if the order of both decides.
    fn visible(&self, row: usize) -> usize {
        match self.causal {
            true => (row % self.queries + 1 + self.keys).saturating_sub(self.queries),
            false => self.keys,
        }
    }

    /// The end of the keys that matter to some of the rows. A row that sees no key at all is the
    /// mean of all values, as in MLX.
    fn last_key(&self, operands: &Operands<'_, T>, rows: Range<usize>) -> usize {
        let visible = rows.map(|row| self.visible(row));
        if operands.mask.is_some() || visible.clone().any(|keys| keys == 0) {
            return self.keys;
        }
        visible.max().unwrap_or(0)
    }

    /// Applies mask and causality to scores of these rows and keys.
    fn hide(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        keys: Range<usize>,
        scores: &mut [T::Sum],
    ) {
        let n = keys.len();
        let (mut marks_of_row, mut added) = (Vec::new(), vec![T::Sum::ZERO; n]);
        for (row, scores) in rows.zip(scores.chunks_mut(n)) {
            if let Some((mask, marks)) = operands.mask {
                let head = self.head(batch, row);
                let place = [batch / self.kv_heads, head, row % self.queries, keys.start];
                let offset = |(&place, &stride): (&usize, &isize)| place as isize * stride;
                let first: isize = place.iter().zip(&mask.strides).map(offset).sum();
                let offsets = (0..n as isize).map(|key| first + key * mask.strides[3]);
                match marks {
                    Marks::Keep(marks) => {
                        for (score, offset) in scores.iter_mut().zip(offsets) {
                            // SAFETY: the mask broadcasts to the scores, so this is an element.
                            if !unsafe { marks.get(offset) } {
                                *score = T::Sum::MIN;
                            }
                        }
                    }
                    Marks::Add(marks) => {
                        marks_of_row.clear();
                        // SAFETY: as above.
                        marks_of_row.extend(offsets.map(|offset| unsafe { marks.get(offset) }));
                        T::load(&marks_of_row, &mut added);
                        let pairs = scores.iter_mut().zip(&added);
                        pairs.for_each(|(score, &mark)| *score += mark);
                    }
                }
            }
            let hidden = self.visible(row).saturating_sub(keys.start).min(n);
            scores[hidden..].fill(T::Sum::MIN);
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
    // Where all is minus infinity so far, differences to it are NaN.
    let center = if max == S::LOWEST { S::ZERO } else { max };
    let sum = exp_minus::<L, S>(scores, center);
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

#[cfg(test)]
mod tests;
