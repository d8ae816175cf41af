//! Matrices that are known when a plan is made, packed for the product with any number of rows.
//!
//! Columns are packed in panels of two vectors, and a panel's lines lie one after the other, so the
//! innermost loop reads memory as it lies. The rows that a packed matrix is multiplied with need not
//! be whole: they are runs of memory ([`Run`]), which is how a convolution multiplies its weights by
//! an image without gathering patches. Packed once, a matrix is shared by all plans that use it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use half::{bf16, f16};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::memory::{Buffer, heap};
use motet_core::shape::Layout;
use motet_core::tensor::Tensor;

use crate::convert::Float32Like;
use crate::scratch::with_floats;
use crate::simd::Simd;

mod block;
mod tiles;

use block::{Block, has_pairs, panel_columns};
pub(crate) use tiles::{TILE_ROWS, Tiling, multiply_into};

/// A part of a row: `len` neighbours, the first of them `offset` elements from the row's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub offset: isize,
    pub len: usize,
}

/// Lines of a panel that are multiplied before the next panel. Of 128, 256 and 512 the last was best by
/// a few percent; more would leave the second-level cache with wide vectors.
const LINES: usize = 512;

/// A matrix of float32 or half values in panels of columns; bfloat16 in pairs of lines where the processor
/// multiplies such. Or several of one size, one after the other.
pub(crate) struct Packed {
    simd: Simd,
    lines: usize,
    columns: usize,
    matrices: usize,
    /// The columns of a panel, and how many panels there are: dividing takes as long as a line of a panel.
    width: usize,
    panels: usize,
    dtype: Dtype,
    /// Blocks of at most [`LINES`] lines; in each the panels; in each of these the matrices, as they are
    /// multiplied one after the other; in each of these the lines.
    buffer: Buffer,
}

impl Packed {
    /// The matrix of `lines` x `columns` elements of which (line, column) is at
    /// `place(line, column)` elements from the first of `tensor`. Packed in the same way before, and
    /// still in use, it is not packed again: `form` names the way.
    ///
    /// # Errors
    /// Memory.
    pub(crate) fn new(
        tensor: &Tensor,
        [lines, columns]: [usize; 2],
        form: Form,
        place: impl Fn(usize, usize) -> isize,
    ) -> Result<Arc<Packed>> {
        let simd = Simd::detect();
        shared(tensor, form, || {
            macro_rules! pack {
                ($type:ident $($pairs:ident)?) => {{
                    let outside = || Error::new(ErrorKind::Internal, "pack", "outside of memory");
                    let whole = tensor.view(tensor.layout.clone(), 0).ok_or_else(outside)?;
                    let first = whole.buffer.as_ptr().wrapping_add(whole.offset);
                    let first = first.cast_const().cast::<$type>();
                    // SAFETY: the caller's places are those of the layout's elements, which are all
                    // inside of the buffer, though perhaps not aligned there.
                    let at = |line, column| unsafe {
                        first.offset(place(line, column)).read_unaligned()
                    };
                    pack!(@ at, $type $($pairs)?)
                }};
                (@ $at:ident, $type:ident) => {{
                    let at = |line, column| [$at(line, column)];
                    Packed::pack(simd, [lines, columns], $type::DTYPE, at)
                }};
                (@ $at:ident, bf16 pairs) => {
                    Packed::pack_pairs(simd, [lines, columns], $at)
                };
            }
            match tensor.layout.dtype {
                Dtype::Float32 => pack!(f32),
                Dtype::Float16 => pack!(f16),
                Dtype::Bfloat16 if form == Form::Matrix && has_pairs(simd) => pack!(bf16 pairs),
                Dtype::Bfloat16 => pack!(bf16),
                dtype => Err(Error::new(
                    ErrorKind::Internal,
                    "pack",
                    format!("no packed matrices of {dtype}"),
                )),
            }
        })
    }

    /// Several matrices of `lines` x `columns` elements, computed from a tensor of float32: given its elements
    /// by row-major number, `at(line, column, elements)` is what each matrix has there. Shared as those of
    /// [`new`](Packed::new) are.
    ///
    /// # Errors
    /// Memory.
    pub(crate) fn computed<const N: usize>(
        tensor: &Tensor,
        [lines, columns]: [usize; 2],
        form: Form,
        at: impl Fn(usize, usize, &dyn Fn(usize) -> f32) -> [f32; N],
    ) -> Result<Arc<Packed>> {
        shared(tensor, form, || {
            // In a file they need not be aligned.
            let bytes = tensor.row_major();
            let (elements, _) = bytes.as_chunks::<{ size_of::<f32>() }>();
            let element = |number: usize| f32::from_ne_bytes(elements[number]);
            let at = |line, column| at(line, column, &element);
            Packed::pack(Simd::detect(), [lines, columns], Dtype::Float32, at)
        })
    }

    /// Packs matrices whose elements at a place are `at(line, column)`.
    fn pack<T: Element + Default, const N: usize>(
        simd: Simd,
        [lines, columns]: [usize; 2],
        dtype: Dtype,
        at: impl Fn(usize, usize) -> [T; N],
    ) -> Result<Packed> {
        let width = panel_columns(simd);
        let padded = columns.checked_next_multiple_of(width);
        let len = padded.and_then(|padded| padded.checked_mul(lines));
        let bytes = len.and_then(|len| len.checked_mul(size_of::<T>())?.checked_mul(N));
        let bytes = bytes
            .ok_or_else(|| Error::new(ErrorKind::Memory, "pack", "the matrix is too large"))?;
        let packed = Packed {
            simd,
            lines,
            columns,
            matrices: N,
            width,
            panels: columns.div_ceil(width),
            dtype,
            buffer: heap().allocate_lasting(bytes)?,
        };
        for first in (0..lines).step_by(LINES) {
            let block = first..lines.min(first + LINES);
            for panel in 0..columns.div_ceil(width) {
                let mut panels = std::array::from_fn::<_, N, _>(|matrix| {
                    // SAFETY: the buffer was made above for all panels of all blocks of all matrices, is
                    // aligned for any element, and nobody else knows it; all of a panel is written
                    // before it is read.
                    unsafe {
                        let start = packed.panel(matrix, &block, panel).cast_mut().cast::<T>();
                        start.write_bytes(0, block.len() * width);
                        std::slice::from_raw_parts_mut(start, block.len() * width)
                    }
                });
                // Columns outside: the usual source is the transpose of a row-major matrix.
                for j in 0..width.min(columns - panel * width) {
                    for (i, line) in block.clone().enumerate() {
                        let elements = at(line, panel * width + j);
                        for (to, element) in panels.iter_mut().zip(elements) {
                            to[i * width + j] = element;
                        }
                    }
                }
            }
        }
        Ok(packed)
    }

    /// Lines of bfloat16 in pairs, the last one perhaps with zeros.
    fn pack_pairs(
        simd: Simd,
        [lines, columns]: [usize; 2],
        at: impl Fn(usize, usize) -> bf16,
    ) -> Result<Packed> {
        let bits = |line, column| match line < lines {
            true => u32::from(at(line, column).to_bits()),
            false => 0,
        };
        let pair = |line, column| [bits(2 * line, column) | bits(2 * line + 1, column) << 16];
        Packed::pack(simd, [lines.div_ceil(2), columns], Dtype::Uint32, pair)
    }

    /// Whether lines are pairs of bfloat16: two neighbours in a row then count as one float in all that
    /// follows.
    pub(crate) fn has_pairs(&self) -> bool {
        self.dtype == Dtype::Uint32
    }

    /// The columns that one panel has, the last one perhaps fewer.
    pub(crate) fn panel_columns(&self) -> usize {
        self.width
    }

    /// The number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.panels
    }

    /// The address of a panel of a block of lines of a matrix.
    fn panel(&self, matrix: usize, block: &Range<usize>, panel: usize) -> *const u8 {
        let width = self.panel_columns();
        let before = block.start * self.panels() * self.matrices;
        let lines = before + (panel * self.matrices + matrix) * block.len();
        let elements = lines * width;
        self.buffer
            .as_ptr()
            .wrapping_add(elements * self.dtype.size())
            .cast_const()
    }

    /// The runs of rows, cut at the blocks of lines; `None` where they do not have as many elements
    /// as the matrix has lines.
    pub(crate) fn cut(&self, runs: impl IntoIterator<Item = Run>) -> Option<Vec<Vec<Run>>> {
        let mut blocks: Vec<Vec<Run>> = vec![Vec::new(); self.lines.div_ceil(LINES)];
        let mut line = 0;
        for mut run in runs {
            while run.len > 0 {
                let len = run.len.min(LINES - line % LINES);
                let offset = run.offset;
                blocks.get_mut(line / LINES)?.push(Run { offset, len });
                run = Run {
                    offset: offset + len as isize,
                    len: run.len - len,
                };
                line += len;
            }
        }
        (line == self.lines).then_some(blocks)
    }

    /// Rows times the columns of some panels of a matrix; `runs` are those that [`cut`](Packed::cut) gave.
    /// Column `j` of these of row `i` is stored `i * out_step + j` floats from `out`.
    ///
    /// # Safety
    /// The runs of each row are readable. `out` can be written, by this thread alone, in all these
    /// columns of all rows.
    pub(crate) unsafe fn multiply(
        &self,
        matrix: usize,
        rows: &[*const f32],
        runs: &[Vec<Run>],
        panels: Range<usize>,
        out: *mut f32,
        out_step: usize,
    ) {
        let width = self.panel_columns();
        assert_eq!(runs.len(), self.lines.div_ceil(LINES));
        assert!(panels.end <= self.panels() && matrix < self.matrices);
        let columns = |panels: &Range<usize>| {
            let end = self.columns.min(panels.end * width);
            end.saturating_sub(panels.start * width)
        };
        // A product of nothing is zero.
        if self.lines == 0 {
            let columns = columns(&panels);
            for row in 0..rows.len() {
                // SAFETY: by this function's contract.
                unsafe { out.add(row * out_step).write_bytes(0, columns) }
            }
        }
        for (number, runs) in runs.iter().enumerate() {
            let first = number * LINES;
            let block = first..self.lines.min(first + LINES);
            let panel_len = block.len() * width;
            let panel_step = panel_len * self.matrices;
            let multiply = |panel: *const f32, some: &Range<usize>| {
                // SAFETY: by this function's contract; a panel has a line for each element of the
                // runs, as they were cut at the blocks.
                unsafe {
                    let block = Block {
                        rows,
                        runs,
                        panel,
                        panel_step,
                        columns: columns(some),
                        out: out.add((some.start - panels.start) * width),
                        out_step,
                        add: number > 0,
                    };
                    block::multiply(self.simd, self.has_pairs(), block);
                }
            };
            if self.dtype == Dtype::Float32 || self.has_pairs() {
                multiply(self.panel(matrix, &block, panels.start).cast(), &panels);
                continue;
            }
            for panel in panels.clone() {
                let data = self.panel(matrix, &block, panel);
                with_floats(panel_len, |wide| {
                    // SAFETY: the panel has these elements of the half type.
                    unsafe {
                        if self.dtype == Dtype::Float16 {
                            f16::widen(elements(data, wide.len()), wide);
                        } else {
                            bf16::widen(elements(data, wide.len()), wide);
                        }
                    }
                    multiply(wide.as_ptr(), &(panel..panel + 1));
                });
            }
        }
    }
}

/// # Safety
/// There are `len` elements at `data`, which nobody writes.
unsafe fn elements<'a, T>(data: *const u8, len: usize) -> &'a [T] {
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

/// How a constant was packed: the same form of the same constant is the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// The matrix as it is seen by a product.
    Matrix,
    /// The weights of a convolution, a column for each feature, perhaps reversed in space.
    Kernel { flip: bool },
    /// The same, transformed for products of transformed tiles.
    Winograd { flip: bool },
}

/// A constant: what it lies in, and where and how.
type Key = (usize, usize, Layout, Form);
type Known = HashMap<Key, (Weak<Buffer>, Weak<Packed>)>;

/// What is packed now. Locked while steps are prepared, never while one runs.
static SHARED: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// What somebody packed before, if it is still in use, or what `pack` makes.
fn shared(
    tensor: &Tensor,
    form: Form,
    pack: impl FnOnce() -> Result<Packed>,
) -> Result<Arc<Packed>> {
    // An address is that of one buffer alone as long as there is a handle, weak as it may be.
    let address = Arc::as_ptr(&tensor.buffer).addr();
    let key = (address, tensor.offset, tensor.layout.clone(), form);
    let find = || {
        let mut shared = SHARED.lock().unwrap_or_else(|poison| poison.into_inner());
        shared.retain(|_, (_, packed)| packed.strong_count() > 0);
        shared.get(&key).and_then(|(_, packed)| packed.upgrade())
    };
    if let Some(packed) = find() {
        return Ok(packed);
    }
    // Packed outside of the lock: two plans that are built at once may both do it, and agree here.
    let packed = Arc::new(pack()?);
    if let Some(first) = find() {
        return Ok(first);
    }
    // From now on the packed matrix is read, and the file only by who does without plans.
    if let Some((low, high)) = tensor.layout.extent() {
        let place = tensor.offset.wrapping_add_signed(low);
        tensor
            .buffer
            .give_back(place..place + high.abs_diff(low) + 1);
    }
    let entry = (Arc::downgrade(&tensor.buffer), Arc::downgrade(&packed));
    let mut shared = SHARED.lock().unwrap_or_else(|poison| poison.into_inner());
    shared.insert(key, entry);
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, tensor};

    /// Sums in float64 of rows made of runs of `memory`, times a row-major matrix.
    fn reference(memory: &[f32], starts: &[usize], runs: &[Run], b: &[f32], n: usize) -> Vec<f64> {
        let row = |start: usize| -> Vec<f32> {
            let run = |run: &Run| &memory[start + run.offset as usize..][..run.len];
            runs.iter().flat_map(run).copied().collect()
        };
        let product = |row: &[f32], j: usize| {
            let terms = row.iter().enumerate();
            terms
                .map(|(k, &a)| f64::from(a) * f64::from(b[k * n + j]))
                .sum()
        };
        let rows = starts.iter().map(|&start| row(start));
        rows.flat_map(|row| (0..n).map(|j| product(&row, j)).collect::<Vec<f64>>())
            .collect()
    }

    #[test]
    fn products_agree_with_sums_for_all_instructions_and_sizes() {
        let memory = noise(4000, 1);
        for (m, k, n) in [
            (1, 5, 7),
            (2, 300, 33),
            (6, 64, 16),
            (7, 600, 70),
            (25, 31, 130),
        ] {
            // Two runs that overlap from row to row, as those of a convolution do.
            let runs = [
                Run {
                    offset: 3,
                    len: k / 2,
                },
                Run {
                    offset: 40,
                    len: k - k / 2,
                },
            ];
            let starts: Vec<usize> = (0..m).map(|i| i * 17).collect();
            let rows: Vec<*const f32> = starts.iter().map(|&s| memory[s..].as_ptr()).collect();
            let b = noise(k * n, 2);
            let expected = reference(&memory, &starts, &runs, &b, n);
            for simd in Simd::all() {
                let at = |line: usize, column: usize| [b[line * n + column]];
                let packed = Packed::pack(simd, [k, n], Dtype::Float32, at).unwrap();
                let runs = packed.cut(runs).unwrap();
                let mut out = vec![f32::NAN; m * n];
                for panel in 0..packed.panels() {
                    let first = panel * packed.panel_columns();
                    // SAFETY: the rows' runs are inside of `memory`, the columns inside of `out`.
                    unsafe {
                        let out = out.as_mut_ptr().add(first);
                        packed.multiply(0, &rows, &runs, panel..panel + 1, out, n);
                    }
                }
                for (got, expected) in out.iter().zip(&expected) {
                    assert!(
                        (f64::from(*got) - expected).abs() < 1e-4,
                        "{simd:?} {m} {k} {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn halves_are_widened_panel_by_panel() {
        let b: Vec<f32> = noise(300 * 40, 3);
        let half: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
        let row = noise(300, 4);
        let product = |packed: &Packed| {
            let runs = packed
                .cut([Run {
                    offset: 0,
                    len: 300,
                }])
                .unwrap();
            let mut out = vec![0.0; 40];
            // SAFETY: the row has 300 elements, `out` has a place for each column.
            unsafe {
                let panels = 0..packed.panels();
                packed.multiply(0, &[row.as_ptr()], &runs, panels, out.as_mut_ptr(), 40);
            }
            out
        };
        let simd = Simd::detect();
        let at = |line: usize, column: usize| [half[line * 40 + column]];
        let halves = Packed::pack(simd, [300, 40], Dtype::Float16, at).unwrap();
        let wide = |line: usize, column: usize| at(line, column).map(f16::to_f32);
        let floats = Packed::pack(simd, [300, 40], Dtype::Float32, wide).unwrap();
        assert_eq!(product(&halves), product(&floats));
    }

    #[test]
    fn pairs_of_bfloat16_are_multiplied_and_summed_in_float32() {
        let simd = Simd::detect();
        if !has_pairs(simd) {
            return;
        }
        // One line more than blocks of pairs have, and odd rows.
        for (m, k, n) in [(1, 1, 1), (3, 2 * LINES + 1, 40), (13, 300, 33)] {
            let halves = |seed, len| -> Vec<bf16> {
                let values = noise(len, seed).into_iter();
                values.map(bf16::from_f32).collect()
            };
            let (a, b) = (halves(1, m * k), halves(2, k * n));
            let packed = Packed::pack_pairs(simd, [k, n], |line, column| b[line * n + column]);
            let packed = packed.unwrap();
            let len = k.div_ceil(2);
            let mut pairs = vec![0.0; m * len];
            for (row, to) in a.chunks_exact(k).zip(pairs.chunks_exact_mut(len)) {
                bytemuck::cast_slice_mut(to)[..k].copy_from_slice(row);
            }
            let rows: Vec<*const f32> = pairs.chunks_exact(len).map(<[f32]>::as_ptr).collect();
            let runs = packed.cut([Run { offset: 0, len }]).unwrap();
            let mut out = vec![f32::NAN; m * n];
            // SAFETY: each row has its run, `out` a place for each sum.
            unsafe { packed.multiply(0, &rows, &runs, 0..packed.panels(), out.as_mut_ptr(), n) };
            for (i, &got) in out.iter().enumerate() {
                let term = |l: usize| a[i / n * k + l].to_f64() * b[l * n + i % n].to_f64();
                let (want, size) = (0..k).map(term).fold((0.0, 0.0), |(sum, size), term| {
                    (sum + term, size + term.abs())
                });
                assert!(
                    (f64::from(got) - want).abs() <= 1e-6 * size,
                    "{m} {k} {n}: {got} {want}"
                );
            }
        }
    }

    #[test]
    fn a_constant_is_packed_once_as_long_as_it_is_used() {
        let b = tensor(&[3, 4], &noise(12, 5));
        let pack =
            |b: &Tensor| Packed::new(b, [3, 4], Form::Matrix, |i, j| (i * 4 + j) as isize).unwrap();
        let first = pack(&b);
        assert!(Arc::ptr_eq(&first, &pack(&b)));
        let other = tensor(&[3, 4], &noise(12, 6));
        assert!(!Arc::ptr_eq(&first, &pack(&other)));
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none(), "who packs does not keep it");
    }

    #[test]
    fn runs_that_are_not_as_long_as_the_matrix_are_refused() {
        let lines = LINES + 44;
        let ones = |_, _| [1.0f32];
        let packed = Packed::pack(Simd::detect(), [lines, 4], Dtype::Float32, ones).unwrap();
        let cut = |len| packed.cut([Run { offset: 7, len }]);
        assert!(cut(lines - 1).is_none() && cut(lines + 1).is_none());
        assert!(cut(5 * LINES).is_none());
        let blocks = cut(lines).unwrap();
        assert_eq!(blocks.len(), 2);
        let offset = 7 + LINES as isize;
        assert_eq!(blocks[1], [Run { offset, len: 44 }]);
    }
}
