//! Attention: `softmax(scale * q @ kᵀ + mask) @ v`, without ever writing all scores.
//!
//! A tile is a block of query rows; heads that share keys and values stand in one tile. It goes
//! over the keys in blocks of fixed size and keeps, for each row, the largest score so far, the sum
//! of exponentials and the weighted sum of values, which it scales down when a larger score comes.
//! All is summed in float32 (float64 for itself), rounded once. Blocks depend on shapes alone.
//!
//! Keys and values may come in two pieces: a cache, and what is appended to it. No block has keys of
//! both.
//!
//! Few rows are computed one after the other (`few`), many as lanes of vectors (`many`).

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;
use smallvec::SmallVec;

use crate::matmul::{Factor, Operand, Stack, matrix_steps};
use crate::number::Number;
use crate::operand::{Output, Strided, Walk, input};
use crate::real::Real;
use crate::simd::Simd;

mod few;
mod lanes;
mod many;

/// q, k and v with contiguous rows or columns; masks in any layout.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    let &Kernel::Attention { appended, mask, .. } = kernel else {
        return false;
    };
    let matrices = if appended { 5 } else { 3 };
    match index.checked_sub(matrices) {
        None => matrix_steps(layout).is_some(),
        Some(0) => mask,
        Some(_) => false,
    }
}

/// Rows of values wherever they are.
pub(crate) fn writes(kernel: &Kernel, layout: &Layout) -> bool {
    matches!(kernel, Kernel::Attention { .. }) && layout.strides.last() == Some(&1)
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
        appended,
        mask,
        sinks,
    } = kernel
    else {
        return Err(unexpected());
    };
    let ([q, k, v, more @ ..], [out]) = (inputs, outputs) else {
        return Err(unexpected());
    };
    let (further, more) = more
        .split_at_checked(2 * usize::from(appended))
        .ok_or_else(unexpected)?;
    let matrices = [q, out, k, v].into_iter().chain(further);
    let ranks = matrices
        .map(|layout| layout.shape.len())
        .all(|rank| rank == 4);
    if !ranks || more.len() != usize::from(mask) + usize::from(sinks) || k.shape[1] == 0 {
        return Err(unexpected());
    }
    let (mask, sinks) = more.split_at(usize::from(mask));
    let mut pieces = vec![Piece::new(k, v)?];
    if let [k, v] = further {
        pieces.push(Piece::new(k, v)?);
    }
    macro_rules! step {
        ($T:ty) => {
            Ok(Box::new(Attention::<$T> {
                scale,
                causal,
                group: q.shape[1] / k.shape[1],
                kv_heads: k.shape[1],
                queries: q.shape[2],
                keys: pieces.iter().map(|piece| piece.keys).sum(),
                features: q.shape[3],
                values: v.shape[3],
                q: Stack::new(q)?,
                pieces,
                mask: mask.first().map(Mask::new),
                sinks: sinks.first().cloned(),
                out: out.spec().layout(),
                rows: Walk::new(&out.shape[..3], [&out.strides[..3]]),
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

/// Rows of queries in a tile: enough that widening keys and values of half types is a small part.
const ROWS: usize = 64;
/// Keys in a block: the scores of 16 rows (16 KiB of float32) stay in the first-level cache.
const KEYS: usize = 256;
/// Rows that are computed one after the other: as lanes, they would take the time of 16.
const FEW_ROWS: usize = 4;

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
    pieces: Vec<Piece>,
    mask: Option<Mask>,
    sinks: Option<Layout>,
    /// The memory of the result: as large as if it were row-major.
    out: Layout,
    /// Where the rows of the result are in it.
    rows: Walk,
    simd: Simd,
    element: PhantomData<T>,
}

/// Keys and their values.
struct Piece {
    k: Stack,
    v: Stack,
    keys: usize,
}

impl Piece {
    fn new(k: &Layout, v: &Layout) -> Result<Piece> {
        if k.shape[2] != v.shape[2] {
            return Err(unexpected());
        }
        Ok(Piece {
            k: Stack::new(k)?,
            v: Stack::new(v)?,
            keys: k.shape[2],
        })
    }
}

/// A piece, with where it is.
struct PieceAt<'a, T> {
    piece: &'a Piece,
    k: Strided<'a, T>,
    v: Strided<'a, T>,
}

/// Some keys that are computed together.
struct KeyBlock<'p, 'a, T> {
    piece: &'p PieceAt<'a, T>,
    /// Which keys of the piece they are, and which of all.
    own: Range<usize>,
    keys: Range<usize>,
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
    pieces: SmallVec<[PieceAt<'a, T>; 2]>,
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
        // Rows are counted through all heads that share keys.
        let rows = self.group * self.queries;
        let batches = out.len() / self.values / rows;
        let row_tiles = rows.div_ceil(ROWS);
        let scores = rows.min(ROWS).saturating_mul(self.keys);
        let cost_ns = scores.saturating_mul(16 + self.features + self.values) / 40;
        launch
            .pool
            .for_each_tile(batches * row_tiles, cost_ns, &|tile| {
                let (batch, first) = (tile / row_tiles, tile % row_tiles * ROWS);
                let tile_rows = first..rows.min(first + ROWS);
                let numbers = batch * rows + first..batch * rows + tile_rows.end;
                // Found along the way: one by one they would take a division for each dimension.
                let mut starts = SmallVec::<[usize; ROWS]>::new();
                self.rows.runs(numbers, |_, [offset], len| {
                    let start = |i: isize| (offset + i * self.rows.step()).unsigned_abs();
                    starts.extend((0..len as isize).map(start));
                });
                self.tile(&operands, batch, tile_rows, &|row, sums| {
                    let start = starts[row - first];
                    // SAFETY: rows do not overlap, and each is in one tile, which stores it once.
                    T::store(sums, unsafe { out.part(start..start + self.values) });
                });
            });
        Ok(())
    }
}

impl<T: Operand<Sum: Real>> Attention<T> {
    fn operands<'a>(&'a self, launch: &Launch<'a>) -> Result<Operands<'a, T>> {
        let matrices = 1 + 2 * self.pieces.len();
        let mut pieces = SmallVec::new();
        for (piece, at) in self.pieces.iter().zip(launch.inputs[1..matrices].chunks(2)) {
            pieces.push(PieceAt {
                piece,
                k: Strided::at(&at[0], &piece.k.extent)?,
                v: Strided::at(&at[1], &piece.v.extent)?,
            });
        }
        let mask = match &self.mask {
            Some(mask) => {
                let (location, layout) = (&launch.inputs[matrices], &mask.layout);
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
                let values = input::<T>(
                    &launch.inputs[matrices + usize::from(mask.is_some())],
                    layout,
                )?;
                let mut sinks = vec![T::Sum::ZERO; values.len()];
                T::load(values, &mut sinks);
                Some(sinks)
            }
            None => None,
        };
        Ok(Operands {
            q: Strided::at(&launch.inputs[0], &self.q.extent)?,
            pieces,
            mask,
            sinks,
        })
    }

    /// Computes some of the rows that share the keys with number `batch`; `store` gets each of them.
    fn tile(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        store: &dyn Fn(usize, &[T::Sum]),
    ) {
        if rows.len() <= FEW_ROWS {
            self.few_rows(operands, batch, rows, store);
        } else {
            self.many_rows(operands, batch, rows, store);
        }
    }

    /// What is known of a row before the first key.
    fn first_seen(&self, operands: &Operands<'_, T>, batch: usize, row: usize) -> Seen<T::Sum> {
        match &operands.sinks {
            Some(sinks) => Seen {
                max: sinks[self.head(batch, row)],
                sum: T::Sum::ONE,
            },
            None => Seen {
                max: T::Sum::LOWEST,
                sum: T::Sum::ZERO,
            },
        }
    }

    /// The head, among those of the queries, that a row belongs to.
    fn head(&self, batch: usize, row: usize) -> usize {
        batch % self.kv_heads * self.group + row / self.queries
    }

    /// Calls `store(row, feature, element)` for the queries of some rows, times the scale; rows are
    /// counted from the first of these.
    fn scaled_queries(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        mut store: impl FnMut(usize, usize, T::Sum),
    ) {
        let scale = T::Sum::from_f32(self.scale);
        let mut row = rows.start;
        while row < rows.end {
            let (head, query) = (row / self.queries, row % self.queries);
            let queries = query..self.queries.min(query + rows.end - row);
            let (first, count) = (row - rows.start, queries.len());
            row += count;
            let batch = batch * self.group + head;
            self.q
                .with_block(operands.q, batch, queries, 0..self.features, |q| {
                    for row in 0..count {
                        for feature in 0..self.features {
                            let element = q.data[row * q.row_step + feature * q.column_step];
                            store(first + row, feature, element * scale);
                        }
                    }
                });
        }
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

    /// The keys before `end` in blocks.
    fn blocks<'p, 'a>(
        &self,
        operands: &'p Operands<'a, T>,
        end: usize,
    ) -> impl Iterator<Item = KeyBlock<'p, 'a, T>> {
        let mut first = 0;
        operands.pieces.iter().flat_map(move |piece| {
            let before = first;
            let len = piece.piece.keys.min(end - before);
            first += len;
            (0..len).step_by(KEYS).map(move |start| {
                let own = start..len.min(start + KEYS);
                let keys = before + own.start..before + own.end;
                KeyBlock { piece, own, keys }
            })
        })
    }

    /// Applies mask and causality to scores of these rows and keys. Those of a row are `row_step`
    /// from the next one's, those of a key `key_step`.
    fn hide(
        &self,
        operands: &Operands<'_, T>,
        batch: usize,
        rows: Range<usize>,
        keys: Range<usize>,
        scores: &mut [T::Sum],
        [row_step, key_step]: [usize; 2],
    ) {
        let n = keys.len();
        let (mut marks_of_row, mut added) = (Vec::new(), vec![T::Sum::ZERO; n]);
        for (i, row) in rows.enumerate() {
            let scores = scores[i * row_step..].iter_mut().step_by(key_step).take(n);
            let seen = self.visible(row).saturating_sub(keys.start).min(n);
            let Some((mask, marks)) = operands.mask else {
                scores.skip(seen).for_each(|score| *score = T::Sum::MIN);
                continue;
            };
            let head = self.head(batch, row);
            let place = [batch / self.kv_heads, head, row % self.queries, keys.start];
            let offset = |(&place, &stride): (&usize, &isize)| place as isize * stride;
            let first: isize = place.iter().zip(&mask.strides).map(offset).sum();
            let offsets = (0..n as isize).map(|key| first + key * mask.strides[3]);
            match marks {
                Marks::Keep(marks) => {
                    for (key, (score, offset)) in scores.zip(offsets).enumerate() {
                        // SAFETY: the mask broadcasts to the scores, so this is an element.
                        if key >= seen || !unsafe { marks.get(offset) } {
                            *score = T::Sum::MIN;
                        }
                    }
                }
                Marks::Add(marks) => {
                    marks_of_row.clear();
                    // SAFETY: as above.
                    marks_of_row.extend(offsets.map(|offset| unsafe { marks.get(offset) }));
                    T::load(&marks_of_row, &mut added);
                    for (key, (score, &mark)) in scores.zip(&added).enumerate() {
                        let marked = *score + mark;
                        *score = if key < seen { marked } else { T::Sum::MIN };
                    }
                }
            }
        }
    }
}

/// What scores are taken relative to. Where all are minus infinity, differences to that are NaN.
#[inline(always)]
fn center<S: Real>(max: S) -> S {
    if max == S::LOWEST { S::ZERO } else { max }
}

#[cfg(test)]
mod tests;
