//! The product of any matrices, tile by tile, with a scale and an addend.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::error::Result;
use motet_core::shape::{Layout, Shape};

use super::{Factor, Operand, Sizes, Stack, matrix_steps, multiply, unexpected};
use crate::number::Number;
use crate::operand::{Output, Strided, Walk};
use crate::target::Summed;

pub(super) struct MatmulStep<T> {
    a: Stack,
    b: Stack,
    c: Option<(f32, Layout, Walk)>,
    out: Layout,
    alpha: f32,
    batches: usize,
    pub(super) sizes: Sizes,
    tiling: Tiling,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> MatmulStep<T> {
    pub(super) fn new(
        alpha: f32,
        a: &Layout,
        b: &Layout,
        c: Option<(f32, &Layout)>,
        out: &Layout,
    ) -> Result<MatmulStep<T>> {
        let folded = fold(a, b, c.map(|(_, c)| c), out);
        let (a, b, folded_c, out) = match &folded {
            Some((a, b, c, out)) => (a, b, c.as_ref(), out),
            None => (a, b, c.map(|(_, c)| c), out),
        };
        let (a, b) = (Stack::new(a)?, Stack::new(b)?);
        let rank = out.shape.len();
        let same_rank = a.layout.shape.len() == rank && b.layout.shape.len() == rank;
        let fits = same_rank && {
            let (batch, matrix) = out.shape.split_at(rank - 2);
            let (a, b) = (&a.layout.shape, &b.layout.shape);
            a[..rank - 2] == *batch
                && b[..rank - 2] == *batch
                && [a[rank - 2], b[rank - 1]] == *matrix
                && a[rank - 1] == b[rank - 2]
                && folded_c.is_none_or(|c| c.shape == out.shape)
        };
        if !fits {
            return Err(unexpected("shapes"));
        }
        let sizes = Sizes {
            m: out.shape[rank - 2],
            k: a.layout.shape[rank - 1],
            n: out.shape[rank - 1],
        };
        let batches = out.shape[..rank - 2].iter().product();
        Ok(MatmulStep {
            a,
            b,
            c: c.zip(folded_c)
                .map(|((beta, _), c)| (beta, c.clone(), Walk::of(c))),
            out: out.clone(),
            alpha,
            batches,
            sizes,
            tiling: Tiling::new(sizes, batches),
            dtype: PhantomData,
        })
    }
}

/// The same product with the batches as more rows of a, where all batches multiply one b.
type Folded = (Layout, Layout, Option<Layout>, Layout);

pub(super) fn fold(a: &Layout, b: &Layout, c: Option<&Layout>, out: &Layout) -> Option<Folded> {
    let batch = b.shape.len().checked_sub(2)?;
    let mut b_batches = b.shape[..batch].iter().zip(&b.strides);
    if batch == 0 || a.shape.len() != b.shape.len() || !b_batches.all(|(&d, &s)| d == 1 || s == 0) {
        return None;
    }
    let flat = |layout: &Layout| {
        let (&columns, rows) = layout.shape.split_last()?;
        layout.reshape(&Shape::new(&[rows.iter().product(), columns]))
    };
    let a = flat(a).filter(|a| matrix_steps(a).is_some())?;
    let c = match c {
        Some(c) => Some(flat(c)?),
        None => None,
    };
    let b = Layout {
        shape: Shape::new(&b.shape[batch..]),
        strides: b.strides[batch..].into(),
        dtype: b.dtype,
    };
    Some((a, b, c, flat(out)?))
}

/// How a batch of products is cut: a tile is a block of rows and columns of one product, or some
/// whole products.
struct Tiling {
    rows: usize,
    columns: usize,
    row_tiles: usize,
    column_tiles: usize,
    /// Products in a tile; more than one only where a product is one tile.
    group: usize,
}

/// Products and sums that are worth a tile: about 0.2 ms.
const TILE_WORK: usize = 8 << 20;
/// Elements of b in a tile, which is read once for at most [`TILE_ROWS`] rows: 1 MiB of float32.
pub(super) const TILE_WEIGHTS: usize = 256 << 10;
/// Enough rows that packing b for each tile is a small part of the work.
pub(super) const TILE_ROWS: usize = 256;
/// Products too small to be worth a tile each are joined to this.
const GROUP_WORK: usize = 256 << 10;

impl Tiling {
    pub(super) fn new(Sizes { m, k, n }: Sizes, batches: usize) -> Tiling {
        let rows = m.clamp(1, TILE_ROWS);
        let line = k.max(1);
        let columns = (TILE_WORK / line / rows).min(TILE_WEIGHTS / line);
        let columns = columns.max(64).next_multiple_of(64).min(n.max(1));
        let (row_tiles, column_tiles) = (m.div_ceil(rows), n.div_ceil(columns));
        let whole = row_tiles <= 1 && column_tiles <= 1;
        let work = m.saturating_mul(n).saturating_mul(line).max(1);
        Tiling {
            rows,
            columns,
            row_tiles,
            column_tiles,
            group: if whole {
                (GROUP_WORK / work).clamp(1, batches.max(1))
            } else {
                1
            },
        }
    }

    fn cost_ns(&self, k: usize) -> usize {
        // Many rows are bound by arithmetic, few by reading b.
        let products = self.rows.div_ceil(8).saturating_mul(self.columns) / 4;
        products.saturating_mul(k.max(1)).saturating_mul(self.group)
    }
}

impl<T: Operand> Step for MatmulStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        self.run(launch, Some(&out), &|start, sums: &[T::Sum]| {
            // SAFETY: each part of a row is stored by one tile.
            T::store(sums, unsafe { out.part(start..start + sums.len()) });
        })
    }
}

impl<T: Operand<Sum = f32>> Summed for MatmulStep<T> {
    fn sums(&self, launch: &Launch<'_>, store: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<()> {
        self.run(launch, None, store)
    }
}

impl<T: Operand> MatmulStep<T> {
    /// Computes tile by tile: into `out`, where that is given and holds sums as they are, else
    /// `store` gets the sums of neighbours from a row-major number on.
    fn run(
        &self,
        launch: &Launch<'_>,
        out: Option<&Output<'_, T>>,
        store: &(dyn Fn(usize, &[T::Sum]) + Sync),
    ) -> Result<()> {
        let a = Strided::<T>::at(&launch.inputs[0], &self.a.extent)?;
        let b = Strided::<T>::at(&launch.inputs[1], &self.b.extent)?;
        let c = match &self.c {
            Some((beta, layout, walk)) => {
                Some((*beta, Strided::<T>::new(&launch.inputs[2], layout)?, walk))
            }
            None => None,
        };
        if self.out.shape.size() == 0 {
            return Ok(());
        }
        let Tiling {
            row_tiles,
            column_tiles,
            group,
            ..
        } = self.tiling;
        let tiles = self.batches.div_ceil(group) * row_tiles * column_tiles;
        launch
            .pool
            .for_each_tile(tiles, self.tiling.cost_ns(self.sizes.k), &|tile| {
                let (rest, column) = (tile / column_tiles, tile % column_tiles);
                let (first, row) = (rest / row_tiles * group, rest % row_tiles);
                for batch in first..(first + group).min(self.batches) {
                    self.tile([batch, row, column], (a, b, c), out, store);
                }
            });
        Ok(())
    }

    fn tile(
        &self,
        [batch, row, column]: [usize; 3],
        (a, b, c): Operands<'_, T>,
        out: Option<&Output<'_, T>>,
        store: &(dyn Fn(usize, &[T::Sum]) + Sync),
    ) {
        let Sizes { m, k, n } = self.sizes;
        let rows = row * self.tiling.rows..((row + 1) * self.tiling.rows).min(m);
        let columns = column * self.tiling.columns..((column + 1) * self.tiling.columns).min(n);
        let start = (batch * m + rows.start) * n + columns.start;
        let width = columns.len();
        let compute = |sums: &mut [T::Sum]| {
            if let Some((beta, c, walk)) = c {
                for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                    load_scaled(beta, c, walk, start + i * n, sums);
                }
            }
            let sizes = Sizes {
                m: rows.len(),
                k,
                n: width,
            };
            self.a.with_block(a, batch, rows.clone(), 0..k, |a| {
                self.b.with_block(b, batch, 0..k, columns.clone(), |b| {
                    let alpha = T::Sum::from_f32(self.alpha);
                    multiply(sizes, alpha, a, b, c.is_some(), sums, width);
                });
            });
        };
        if let Some(out) = out
            && (width == n || rows.len() == 1)
        {
            // SAFETY: these rows, or this part of one, are this tile's alone.
            let part = unsafe { out.part(start..start + rows.len() * width) };
            if let Some(sums) = T::as_sums_mut(part) {
                return compute(sums);
            }
        }
        let mut sums = vec![T::Sum::ZERO; rows.len() * width];
        compute(&mut sums);
        // Whole rows are neighbours.
        let len = if width == n { sums.len() } else { width };
        for (i, sums) in sums.chunks_exact(len).enumerate() {
            store(start + i * n, sums);
        }
    }
}

/// a, b and, where it is added, c with its scale.
type Operands<'a, T> = (
    Strided<'a, T>,
    Strided<'a, T>,
    Option<(f32, Strided<'a, T>, &'a Walk)>,
);

/// `beta * c` for the elements from row-major number `start` on.
fn load_scaled<T: Operand>(
    beta: f32,
    c: Strided<'_, T>,
    walk: &Walk,
    start: usize,
    to: &mut [T::Sum],
) {
    let (beta, step) = (T::Sum::from_f32(beta), walk.step());
    walk.runs(start..start + to.len(), |number, [offset], len| {
        let to = &mut to[number - start..][..len];
        if step == 1 {
            // SAFETY: the walk is over the layout that c was checked for.
            T::load(unsafe { c.run(offset, len) }, to);
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                // SAFETY: as above.
                let value = unsafe { c.get(offset + i as isize * step) };
                T::load(&[value], std::slice::from_mut(to));
            }
        }
        to.iter_mut().for_each(|value| *value = value.mul(beta));
    });
}
