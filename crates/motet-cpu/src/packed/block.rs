//! The innermost loops: some rows times panels of packed columns.

use super::Run;
use crate::simd::{Level, Simd, leveled};
use crate::vector::Vector;

/// The most columns of a panel.
const MOST_COLUMNS: usize = 32;

/// The columns of a panel: two vectors.
pub(super) fn panel_columns(simd: Simd) -> usize {
    2 * simd.width()
}

/// The most rows of sums that fit into the registers, two vectors to a row: there are 16 of these, or 32
/// where vectors are as long as a line of the cache.
const fn most_rows<V: Vector>() -> usize {
    match V::WIDTH {
        // The portable products and sums need a register in between.
        4 => 4,
        8 => 6,
        _ => 8,
    }
}

/// Rows, runs and panels that are multiplied, and where the sums go.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// The address of each row's first element.
    pub rows: &'a [*const f32],
    /// The parts of each row that a panel's lines belong to, in their order.
    pub runs: &'a [Run],
    /// The lines of the first panel, one after the other.
    pub panel: *const f32,
    /// Floats from a panel to the next.
    pub panel_step: usize,
    /// The columns that are stored, those of the last panel perhaps not all.
    pub columns: usize,
    /// Where the first row of sums starts.
    pub out: *mut f32,
    /// From a row of sums to the next.
    pub out_step: usize,
    /// Whether sums are added to what is there.
    pub add: bool,
}

/// Multiplies, panel by panel in groups of as many rows as the registers hold.
///
/// # Safety
/// The processor has the instructions. Each run of each row is readable, each panel has a line of
/// [`panel_columns`] for each element of the runs, and `columns` of each row of sums can be written
/// by this thread alone (and are readable where `add`).
pub(super) unsafe fn multiply(simd: Simd, block: Block<'_>) {
    #[inline(always)]
    fn body<L: Level>(block: Block<'_>) {
        // SAFETY: by the outer function's contract.
        unsafe { panels::<L::Vector>(block) }
    }
    leveled!(simd, body(block: Block<'_>));
}

#[inline(always)]
unsafe fn panels<V: Vector>(block: Block<'_>) {
    let width = 2 * V::WIDTH;
    for (panel, first) in (0..block.columns).step_by(width).enumerate() {
        // SAFETY: the panel is one of the block's.
        unsafe {
            groups::<V>(Block {
                panel: block.panel.add(panel * block.panel_step),
                columns: width.min(block.columns - first),
                out: block.out.add(first),
                ..block
            });
        }
    }
}

/// Groups of nearly equal size: a last group of one row would be slow.
#[inline(always)]
unsafe fn groups<V: Vector>(block: Block<'_>) {
    let count = block.rows.len().div_ceil(most_rows::<V>());
    let mut start = 0;
    for group in 0..count {
        let end = block.rows.len() * (group + 1) / count;
        // SAFETY: these are rows of the block's.
        unsafe { group_of::<V>(block, start, end) };
        start = end;
    }
}

#[inline(always)]
unsafe fn group_of<V: Vector>(block: Block<'_>, start: usize, end: usize) {
    let rows = &block.rows[start..end];
    // SAFETY: the row is one of the block's.
    let out = unsafe { block.out.add(start * block.out_step) };
    macro_rules! by_rows {
        ($($rows:literal unrolled $unroll:literal),*) => {
            match rows.len() {
                // SAFETY: by the contract of `multiply`; the arms that do not fit into the
                // registers are left out by the compiler.
                $($rows if $rows <= most_rows::<V>() => unsafe {
                    sums::<V, $rows, $unroll>(block, rows, out)
                },)*
                _ => unreachable!("groups have at most as many rows as fit"),
            }
        };
    }
    by_rows!(
        1 unrolled 4, 2 unrolled 2, 3 unrolled 1, 4 unrolled 1, 5 unrolled 1, 6 unrolled 1,
        7 unrolled 1, 8 unrolled 1
    )
}

/// One group: two vectors of sums to a row, all in registers. With few rows, neighbouring lines are
/// summed apart: one chain of sums would wait for itself.
#[allow(clippy::needless_range_loop, reason = "see below")]
#[inline(always)]
unsafe fn sums<V: Vector, const ROWS: usize, const UNROLL: usize>(
    block: Block<'_>,
    rows: &[*const f32],
    out: *mut f32,
) {
    // SAFETY: by the contract of `multiply`, for all that follows.
    unsafe {
        // Indices rather than iterators: the compiler unrolls these loops early enough to keep all
        // sums in registers.
        let mut low = [[V::splat(0.0); ROWS]; UNROLL];
        let mut high = low;
        let mut line = block.panel;
        for run in block.runs {
            let row: [*const f32; ROWS] = std::array::from_fn(|i| rows[i].offset(run.offset));
            let mut k = 0;
            while k + UNROLL <= run.len {
                for u in 0..UNROLL {
                    let (b, c) = (V::load(line), V::load(line.add(V::WIDTH)));
                    for i in 0..ROWS {
                        let a = V::splat(*row[i].add(k + u));
                        low[u][i] = a.mul_add(b, low[u][i]);
                        high[u][i] = a.mul_add(c, high[u][i]);
                    }
                    line = line.add(2 * V::WIDTH);
                }
                k += UNROLL;
            }
            while UNROLL > 1 && k < run.len {
                let (b, c) = (V::load(line), V::load(line.add(V::WIDTH)));
                for i in 0..ROWS {
                    let a = V::splat(*row[i].add(k));
                    low[0][i] = a.mul_add(b, low[0][i]);
                    high[0][i] = a.mul_add(c, high[0][i]);
                }
                line = line.add(2 * V::WIDTH);
                k += 1;
            }
        }
        for u in 1..UNROLL {
            for i in 0..ROWS {
                low[0][i] = low[0][i].add(low[u][i]);
                high[0][i] = high[0][i].add(high[u][i]);
            }
        }
        if block.columns == 2 * V::WIDTH {
            if block.add {
                for i in 0..ROWS {
                    let out = out.add(i * block.out_step);
                    low[0][i] = low[0][i].add(V::load(out));
                    high[0][i] = high[0][i].add(V::load(out.add(V::WIDTH)));
                }
            }
            for i in 0..ROWS {
                let out = out.add(i * block.out_step);
                low[0][i].store(out);
                high[0][i].store(out.add(V::WIDTH));
            }
            return;
        }
        let mut lines = [[0.0f32; MOST_COLUMNS]; ROWS];
        for i in 0..ROWS {
            low[0][i].store(lines[i].as_mut_ptr());
            high[0][i].store(lines[i].as_mut_ptr().add(V::WIDTH));
        }
        store_some(block, &lines, out);
    }
}

/// Stores the first columns of lines of sums.
///
/// # Safety
/// As for [`multiply`]; there is a line for each row from `out` on.
#[inline(never)]
unsafe fn store_some(block: Block<'_>, lines: &[[f32; MOST_COLUMNS]], out: *mut f32) {
    for (i, line) in lines.iter().enumerate() {
        for (j, &sum) in line.iter().enumerate().take(block.columns) {
            // SAFETY: by this function's contract.
            unsafe {
                let out = out.add(i * block.out_step + j);
                *out = if block.add { *out + sum } else { sum };
            }
        }
    }
}
