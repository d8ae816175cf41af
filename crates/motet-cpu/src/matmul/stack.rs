//! The matrices of an input, and how each is read.

use std::ops::Range;

use motet_core::error::Result;
use motet_core::shape::Layout;

use super::{Matrix, Operand, unexpected};
use crate::number::Number;
use crate::operand::{Extent, Strided, Walk};

/// Row and column step of a layout's matrices, if rows or columns are contiguous. A dimension of
/// one has step one, as it is never taken.
pub(crate) fn matrix_steps(layout: &Layout) -> Option<(usize, usize)> {
    let rank = layout.shape.len();
    if rank < 2 {
        return None;
    }
    // Without elements no stride is taken, whatever it is.
    if layout.shape.contains(&0) {
        return Some((1, 1));
    }
    let step = |axis: usize| match layout.shape[axis] {
        1 => Some(1),
        _ => usize::try_from(layout.strides[axis]).ok(),
    };
    let (row, column) = (step(rank - 2)?, step(rank - 1)?);
    (row == 1 || column == 1).then_some((row, column))
}

/// An input: its matrices and where they are.
pub(crate) struct Stack {
    pub(crate) layout: Layout,
    pub(crate) extent: Extent,
    pub(super) batches: Walk,
    pub(super) row_step: usize,
    pub(super) column_step: usize,
}

impl Stack {
    pub(crate) fn new(layout: &Layout) -> Result<Stack> {
        let (row_step, column_step) =
            matrix_steps(layout).ok_or_else(|| unexpected("layout of a matrix"))?;
        let batch = layout.shape.len() - 2;
        Ok(Stack {
            layout: layout.clone(),
            extent: Extent::of(layout),
            batches: Walk::new(&layout.shape[..batch], [&layout.strides[..batch]]),
            row_step,
            column_step,
        })
    }

    /// Calls `use_it` with a block of matrix `batch`, in the type of sums.
    pub(crate) fn with_block<T: Operand, R>(
        &self,
        input: Strided<'_, T>,
        batch: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        use_it: impl FnOnce(Matrix<'_, T::Sum>) -> R,
    ) -> R {
        let first = rows.start * self.row_step + columns.start * self.column_step;
        let first = self.batches.offset(batch) + first as isize;
        let (rows, columns) = (rows.len(), columns.len());
        let run = |skip: usize, len: usize| {
            // SAFETY: from the block's first element to its last, all inside the layout's extent:
            // steps are not negative and the ranges are within the matrix.
            unsafe { input.run(first + skip as isize, len) }
        };
        if rows == 0 || columns == 0 {
            return use_it(Matrix {
                data: &[],
                row_step: 1,
                column_step: 1,
            });
        }
        let reach = (rows - 1) * self.row_step + (columns - 1) * self.column_step + 1;
        let data;
        let matrix = if let Some(data) = T::as_sums(run(0, reach)) {
            Matrix {
                data,
                row_step: self.row_step,
                column_step: self.column_step,
            }
        } else {
            let by_rows = self.column_step == 1 && (self.row_step != 1 || rows == 1);
            let (lines, len, step) = match by_rows {
                true => (rows, columns, self.row_step),
                false => (columns, rows, self.column_step),
            };
            let mut widened = vec![T::Sum::ZERO; lines * len];
            for (line, to) in widened.chunks_exact_mut(len).enumerate() {
                T::load(run(line * step, len), to);
            }
            data = widened;
            let (row_step, column_step) = if by_rows { (len, 1) } else { (1, len) };
            Matrix {
                data: &data,
                row_step,
                column_step,
            }
        };
        use_it(matrix)
    }
}
