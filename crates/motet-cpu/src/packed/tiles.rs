//! How products with a packed matrix are cut into tiles, and where the sums of a tile go.

use std::ops::Range;

use super::{Packed, Run};
use crate::matmul::Sizes;
use crate::scratch::with_scratch;
use crate::target::BoundTarget;

/// How a result is cut: into blocks of rows, and these into blocks of panels.
pub(crate) struct Tiling {
    rows: usize,
    all_rows: usize,
    /// Panels of columns.
    panels: usize,
    all_panels: usize,
    row_tiles: usize,
    column_tiles: usize,
    /// Nanoseconds that a tile takes, about.
    pub(crate) ns: usize,
}

/// Rows in a tile: enough that the matrix, which each row of tiles reads from the outer caches, is
/// read at a tenth of what they give; few enough that tiles can be wide, as programs want them.
pub(crate) const TILE_ROWS: usize = 48;
/// The most rows that are multiplied together.
const ROW_GROUP: usize = 8;
/// Products and sums that are worth a tile: about 40 us.
const TILE_WORK: usize = 2 << 20;
/// Elements of the matrix in a tile, which few rows are bound by reading: 0.5 MiB of float32.
const TILE_WEIGHTS: usize = 128 << 10;
/// A product is cut in so many, if they are not smaller than a quarter of the above: several
/// threads find work, and none waits long for the last.
const TILES: usize = 4;

impl Tiling {
    /// Tiles of a product with a matrix in panels of so many columns.
    pub(crate) fn new(Sizes { m: all_rows, k, n }: Sizes, width: usize) -> Tiling {
        let (m, k) = (all_rows.max(1), k.max(1));
        // Nearly equal tiles of whole groups of rows: a last tile of one row would take as long as
        // one of many.
        let rows = m.div_ceil(m.div_ceil(TILE_ROWS));
        let rows = rows.next_multiple_of(ROW_GROUP).min(m);
        let row_tiles = m.div_ceil(rows);
        let most = (TILE_WORK / k / rows).min(TILE_WEIGHTS / k);
        let fair = n.div_ceil(TILES.div_ceil(row_tiles)).max(most / 4);
        let all_panels = n.div_ceil(width);
        let columns = most.min(fair).max(width);
        let column_tiles = all_panels.max(1).div_ceil(columns.div_ceil(width));
        let panels = all_panels.div_ceil(column_tiles);
        // 50 products and sums a nanosecond, or five elements of the matrix.
        let elements = panels * width * k;
        Tiling {
            rows,
            all_rows,
            panels,
            all_panels,
            row_tiles,
            column_tiles,
            ns: (elements.saturating_mul(rows) / 50).max(elements / 5),
        }
    }

    /// The number of tiles.
    pub(crate) fn tiles(&self) -> usize {
        self.row_tiles * self.column_tiles
    }

    /// The rows and panels of a tile. All rows come before the next panels, which are then read from the
    /// outer caches once.
    pub(crate) fn tile(&self, number: usize) -> (Range<usize>, Range<usize>) {
        let (row, column) = (number % self.row_tiles, number / self.row_tiles);
        let part = |number: usize, len: usize, all: usize| {
            (number * len).min(all)..((number + 1) * len).min(all)
        };
        (
            part(row, self.rows, self.all_rows),
            part(column, self.panels, self.all_panels),
        )
    }
}

/// Multiplies rows by some panels; the first of the rows is row `first` of the result.
///
/// # Safety
/// The runs of each row are readable, and no other thread stores these elements of the result.
pub(crate) unsafe fn multiply_into(
    target: &BoundTarget<'_>,
    packed: &Packed,
    rows: &[*const f32],
    runs: &[Vec<Run>],
    first: usize,
    panels: Range<usize>,
) {
    if rows.is_empty() || panels.is_empty() {
        return;
    }
    let (n, width) = (packed.columns, packed.panel_columns());
    let columns = panels.start * width..(panels.end * width).min(n);
    let first = first * n + columns.start;
    let multiply = |out: *mut f32, step: usize| {
        // SAFETY: by this function's contract; `out` has room for all these columns of all rows.
        unsafe { packed.multiply(0, rows, runs, panels.clone(), out, step) }
    };
    if let Some(out) = target.in_place() {
        // SAFETY: the first of them is inside of the output, as all of them are.
        return multiply(unsafe { out.as_mut_ptr().add(first) }, n);
    }
    let len = rows.len() * columns.len();
    with_scratch(len * size_of::<f32>(), |memory| {
        let sums = memory.cast::<f32>();
        multiply(sums, columns.len());
        // SAFETY: these are the sums that were just stored, and these elements are this tile's.
        unsafe {
            let sums = std::slice::from_raw_parts(sums, len);
            target.store_rows(first, n, sums, columns.len());
        }
    });
}
