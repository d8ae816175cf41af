//! Products with a matrix that is known when the plan is made: packed once.

use std::sync::Arc;

use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::shape::Layout;
use motet_core::tensor::Tensor;
use smallvec::SmallVec;

use super::{Sizes, Stack, fold, matrix_steps, unexpected};
use crate::convert::Float32Like;
use crate::operand::Strided;
use crate::packed::{Form, Packed, Run};
use crate::scratch::with_floats;
use crate::target::{BoundTarget, Target};

/// `a @ b` for all batches of a as the rows of one matrix.
pub(super) struct ConstantStep {
    a: Stack,
    target: Target,
    sizes: Sizes,
    packed: Arc<Packed>,
    runs: Vec<Vec<Run>>,
    tiling: Tiling,
}

impl ConstantStep {
    /// Whether all batches of a product of these are multiplied by one matrix.
    pub(super) fn takes(a: &Layout, b: &Layout, result: &Layout) -> bool {
        b.shape.len() == 2 || fold(a, b, None, result).is_some()
    }

    /// A step for operands that it [takes](ConstantStep::takes); `value` is the matrix.
    ///
    /// # Errors
    /// Memory for the packed matrix.
    pub(super) fn new(
        a: &Layout,
        b: &Layout,
        result: &Layout,
        value: &Tensor,
        target: Target,
    ) -> Result<ConstantStep> {
        let folded = fold(a, b, None, result);
        let (a, b) = match &folded {
            Some((a, b, ..)) => (a, b),
            None => (a, b),
        };
        if a.shape.len() != 2 || b.shape.len() != 2 || a.shape[1] != b.shape[0] {
            return Err(unexpected("shapes"));
        }
        let (row_step, column_step) = matrix_steps(b).ok_or_else(|| unexpected("layout"))?;
        let sizes = Sizes {
            m: a.shape[0],
            k: b.shape[0],
            n: b.shape[1],
        };
        let value = Tensor {
            layout: b.clone(),
            ..value.clone()
        };
        let packed = Packed::new(&value, [sizes.k, sizes.n], Form::Matrix, |line, column| {
            (line * row_step + column * column_step) as isize
        })?;
        let row = Run {
            offset: 0,
            len: sizes.k,
        };
        Ok(ConstantStep {
            a: Stack::new(a)?,
            target,
            sizes,
            runs: packed.cut([row]).ok_or_else(|| unexpected("shapes"))?,
            tiling: Tiling::new(sizes, packed.panel_columns()),
            packed,
        })
    }
}

/// How the result is cut.
struct Tiling {
    rows: usize,
    /// Panels of columns.
    panels: usize,
    row_tiles: usize,
    column_tiles: usize,
    ns: usize,
}

/// Rows in a tile: enough that the matrix, which each row of tiles reads from the outer caches, is
/// read at a tenth of what they give; few enough that tiles can be wide, as programs want them.
const TILE_ROWS: usize = 48;
/// Products and sums that are worth a tile: about 40 us.
const TILE_WORK: usize = 2 << 20;
/// Elements of the matrix in a tile, which few rows are bound by reading: 0.5 MiB of float32.
const TILE_WEIGHTS: usize = 128 << 10;
/// A product is cut in so many, if they are not smaller than a quarter of the above: several
/// threads find work, and none waits long for the last.
const TILES: usize = 4;

impl Tiling {
    fn new(Sizes { m, k, n }: Sizes, width: usize) -> Tiling {
        let (rows, k) = (m.clamp(1, TILE_ROWS), k.max(1));
        let row_tiles = m.div_ceil(rows).max(1);
        let most = (TILE_WORK / k / rows).min(TILE_WEIGHTS / k);
        let fair = n.div_ceil(TILES.div_ceil(row_tiles)).max(most / 4);
        let panels = n.div_ceil(width).max(1);
        let columns = most.min(fair).max(width);
        let column_tiles = panels.div_ceil(columns.div_ceil(width));
        let panels = panels.div_ceil(column_tiles);
        // 50 products and sums a nanosecond, or five elements of the matrix.
        let elements = panels * width * k;
        Tiling {
            rows,
            panels,
            row_tiles,
            column_tiles,
            ns: (elements.saturating_mul(rows) / 50).max(elements / 5),
        }
    }
}

impl Step for ConstantStep {
    fn reads(&self, input: usize) -> bool {
        input != 1
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match self.a.layout.dtype {
            Dtype::Float16 => self.run::<f16>(launch),
            Dtype::Bfloat16 => self.run::<bf16>(launch),
            _ => self.run::<f32>(launch),
        }
    }
}

impl ConstantStep {
    fn run<T: Float32Like>(&self, launch: &Launch<'_>) -> Result<()> {
        let a = Strided::<T>::new(&launch.inputs[0], &self.a.layout)?;
        let target = self.target.bind(launch)?;
        let Tiling { column_tiles, .. } = self.tiling;
        let tiles = self.tiling.row_tiles * column_tiles;
        launch.pool.for_each_tile(tiles, self.tiling.ns, &|tile| {
            self.tile(tile / column_tiles, tile % column_tiles, a, &target);
        });
        Ok(())
    }

    fn tile<T: Float32Like>(
        &self,
        row: usize,
        column: usize,
        a: Strided<'_, T>,
        target: &BoundTarget<'_>,
    ) {
        let Sizes { m, n, .. } = self.sizes;
        let rows = row * self.tiling.rows..((row + 1) * self.tiling.rows).min(m);
        let last_panel = ((column + 1) * self.tiling.panels).min(self.packed.panels());
        let panels = column * self.tiling.panels..last_panel;
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        let width = self.packed.panel_columns();
        let columns = panels.start * width..(panels.end * width).min(n);
        let first = rows.start * n + columns.start;
        self.with_rows(a, rows.clone(), |rows| {
            let multiply = |out: *mut f32, step: usize| {
                // SAFETY: `with_rows` gave k readable floats for each row, and `out` has room for
                // all these columns of all rows, which are this tile's.
                unsafe {
                    self.packed
                        .multiply(rows, &self.runs, panels.clone(), out, step)
                }
            };
            if let Some(out) = target.in_place() {
                // SAFETY: the first of them is inside of the output, as all of them are.
                return multiply(unsafe { out.as_mut_ptr().add(first) }, n);
            }
            with_floats(rows.len() * columns.len(), |sums| {
                multiply(sums.as_mut_ptr(), columns.len());
                // Whole rows are neighbours.
                let len = if columns.len() == n {
                    sums.len()
                } else {
                    columns.len()
                };
                for (i, sums) in sums.chunks_exact(len).enumerate() {
                    // SAFETY: these elements are this tile's.
                    unsafe { target.store(first + i * n, sums) }
                }
            });
        });
    }

    /// Calls `use_it` with the addresses of rows of a as float32.
    fn with_rows<T: Float32Like>(
        &self,
        a: Strided<'_, T>,
        rows: std::ops::Range<usize>,
        use_it: impl FnOnce(&[*const f32]),
    ) {
        let k = self.sizes.k;
        let mut addresses: SmallVec<[*const f32; TILE_ROWS]> = SmallVec::new();
        if T::DTYPE == Dtype::Float32 && self.a.column_step == 1 {
            for row in rows {
                // SAFETY: a row has k neighbours that are elements of the layout.
                let row = unsafe { a.run((row * self.a.row_step) as isize, k) };
                addresses.push(row.as_ptr().cast());
            }
            return use_it(&addresses);
        }
        with_floats(rows.len() * k, |wide| {
            for (row, to) in rows.zip(wide.chunks_exact_mut(k.max(1))) {
                let first = row * self.a.row_step;
                if self.a.column_step == 1 {
                    // SAFETY: as above.
                    T::widen(unsafe { a.run(first as isize, k) }, to);
                } else {
                    for (i, to) in to.iter_mut().enumerate() {
                        let place = first + i * self.a.column_step;
                        // SAFETY: the element is one of the layout's.
                        let value = unsafe { a.get(place as isize) };
                        T::widen(&[value], std::slice::from_mut(to));
                    }
                }
                addresses.push(to.as_ptr());
            }
            use_it(&addresses);
        });
    }
}
