//! The innermost loops: some rows times panels of packed columns.

#[cfg(target_arch = "x86_64")]
use std::{arch::x86_64::*, mem::transmute};

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

/// What an element of a row and one of a line add to a sum.
trait Terms<V> {
    fn add(a: V, b: V, sum: V) -> V;
}

/// Elements are float32.
struct Floats;

impl<V: Vector> Terms<V> for Floats {
    #[inline(always)]
    fn add(a: V, b: V, sum: V) -> V {
        a.mul_add(b, sum)
    }
}

/// Elements are pairs of bfloat16, which one instruction multiplies and adds as float32; subnormal numbers
/// are zero to it.
#[cfg(target_arch = "x86_64")]
struct Pairs;

#[cfg(target_arch = "x86_64")]
impl Terms<__m512> for Pairs {
    #[inline(always)]
    fn add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: used only where `has_pairs` says so; both types are the same bits.
        unsafe {
            let [a, b] = [a, b].map(|pairs| transmute::<__m512, __m512bh>(pairs));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

/// Whether pairs of bfloat16 can be multiplied.
pub(super) fn has_pairs(simd: Simd) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = simd == Simd::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let (has, _) = (false, simd);
    has
}

/// Multiplies, panel by panel in groups of as many rows as the registers hold. With `pairs`, what counts as an
/// element of rows and panels is two neighbours of bfloat16.
///
/// # Safety
/// The processor has the instructions. Each run of each row is readable, each panel has a line of
/// [`panel_columns`] for each element of the runs, and `columns` of each row of sums can be written
/// by this thread alone (and are readable where `add`).
pub(super) unsafe fn multiply(simd: Simd, pairs: bool, block: Block<'_>) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
    unsafe fn of_pairs(block: Block<'_>) {
        // SAFETY: by the outer function's contract.
        unsafe { panels::<__m512, Pairs>(block) }
    }
    if pairs {
        assert!(has_pairs(simd));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as just checked.
        return unsafe { of_pairs(block) };
    }
    #[inline(always)]
    fn body<L: Level>(block: Block<'_>) {
        // SAFETY: by the outer function's contract.
        unsafe { panels::<L::Vector, Floats>(block) }
    }
    leveled!(simd, body(block: Block<'_>));
}

#[inline(always)]
unsafe fn panels<V: Vector, T: Terms<V>>(block: Block<'_>) {
    let width = 2 * V::WIDTH;
    for (panel, first) in (0..block.columns).step_by(width).enumerate() {
        // SAFETY: the panel is one of the block's.
        unsafe {
            groups::<V, T>(Block {
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
unsafe fn groups<V: Vector, T: Terms<V>>(block: Block<'_>) {
    let count = block.rows.len().div_ceil(most_rows::<V>());
    let mut start = 0;
    for group in 0..count {
        // Most products of few rows are one group, and need no division.
        let end = match group + 1 {
            last if last == count => block.rows.len(),
            next => block.rows.len() * next / count,
        };
        // SAFETY: these are rows of the block's.
        unsafe { group_of::<V, T>(block, start, end) };
        start = end;
    }
}

#[inline(always)]
unsafe fn group_of<V: Vector, T: Terms<V>>(block: Block<'_>, start: usize, end: usize) {
    let rows = &block.rows[start..end];
    // SAFETY: the row is one of the block's.
    let out = unsafe { block.out.add(start * block.out_step) };
    macro_rules! by_rows {
        ($($rows:literal unrolled $unroll:literal),*) => {
            match rows.len() {
                // SAFETY: by the contract of `multiply`; the arms that do not fit into the
                // registers are left out by the compiler.
                $($rows if $rows <= most_rows::<V>() => unsafe {
                    sums::<V, T, $rows, $unroll>(block, rows, out)
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
unsafe fn sums<V: Vector, T: Terms<V>, const ROWS: usize, const UNROLL: usize>(
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
                        low[u][i] = T::add(a, b, low[u][i]);
                        high[u][i] = T::add(a, c, high[u][i]);
                    }
                    line = line.add(2 * V::WIDTH);
                }
                k += UNROLL;
            }
            while UNROLL > 1 && k < run.len {
                let (b, c) = (V::load(line), V::load(line.add(V::WIDTH)));
                for i in 0..ROWS {
                    let a = V::splat(*row[i].add(k));
                    low[0][i] = T::add(a, b, low[0][i]);
                    high[0][i] = T::add(a, c, high[0][i]);
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
