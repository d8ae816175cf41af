//! Products with a matrix that is known when the plan is made: packed once.

use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::shape::Layout;
use motet_core::tensor::Tensor;
use smallvec::SmallVec;

use super::general::fold;
use super::{Sizes, Stack, matrix_steps, unexpected};
use crate::convert::Float32Like;
use crate::elementwise::Operands;
use crate::operand::Strided;
use crate::packed::{Form, Packed, Run, TILE_ROWS, Tiling, multiply_into};
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
        let len = match packed.has_pairs() {
            true => sizes.k.div_ceil(2),
            false => sizes.k,
        };
        let row = Run { offset: 0, len };
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

impl Step for ConstantStep {
    fn reads(&self, input: usize) -> bool {
        input != 1
    }

    fn writes_over(&self, input: usize, output: usize) -> bool {
        self.target.writes_over(input, output)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut operands = Operands::default();
        let product = self.bind(launch, &mut operands)?;
        let Tiling { ns, .. } = self.tiling;
        launch
            .pool
            .for_each_tile(self.tiling.tiles(), ns, &|tile| product.tile(tile));
        Ok(())
    }
}

/// A step with its operands in one launch, used by all threads of a region.
pub(super) struct Product<'a> {
    step: &'a ConstantStep,
    rows: Rows<'a>,
    target: BoundTarget<'a>,
}

/// The matrix a.
enum Rows<'a> {
    Float32(Strided<'a, f32>),
    Float16(Strided<'a, f16>),
    Bfloat16(Strided<'a, bf16>),
}

impl Product<'_> {
    /// Computes a tile of the result.
    pub(super) fn tile(&self, number: usize) {
        let (rows, panels) = self.step.tiling.tile(number);
        let first = rows.start;
        let multiply = |addresses: &[*const f32]| {
            let (packed, runs) = (&self.step.packed, &self.step.runs);
            // SAFETY: `with_rows` gives k readable floats for each row; each element of the result is
            // in one tile.
            unsafe { multiply_into(&self.target, packed, addresses, runs, first, panels) }
        };
        match self.rows {
            Rows::Float32(a) => self.step.with_rows(a, rows, multiply),
            Rows::Float16(a) => self.step.with_rows(a, rows, multiply),
            Rows::Bfloat16(a) => self.step.with_rows(a, rows, multiply),
        }
    }
}

impl ConstantStep {
    /// About how many tiles such a product has.
    pub(super) fn tiles(a: &Layout, result: &Layout) -> usize {
        let columns = |layout: &Layout| layout.shape.last().copied().unwrap_or(1);
        let (k, n) = (columns(a), columns(result));
        let m = result.shape.size() / n.max(1);
        Tiling::new(Sizes { m, k, n }, 1).tiles()
    }

    /// How the result is cut.
    pub(super) fn tiling(&self) -> &Tiling {
        &self.tiling
    }

    /// Finds the operands of a launch; `operands` keeps some of them.
    pub(super) fn bind<'a>(
        &'a self,
        launch: &Launch<'a>,
        operands: &'a mut Operands,
    ) -> Result<Product<'a>> {
        let (place, extent) = (&launch.inputs[0], &self.a.extent);
        Ok(Product {
            step: self,
            rows: match self.a.layout.dtype {
                Dtype::Float16 => Rows::Float16(Strided::at(place, extent)?),
                Dtype::Bfloat16 => Rows::Bfloat16(Strided::at(place, extent)?),
                _ => Rows::Float32(Strided::at(place, extent)?),
            },
            target: self.target.bind(launch, operands)?,
        })
    }

    /// Calls `use_it` with the addresses of rows of a as float32, or as pairs.
    fn with_rows<T: Float32Like + Pod>(
        &self,
        a: Strided<'_, T>,
        rows: std::ops::Range<usize>,
        use_it: impl FnOnce(&[*const f32]),
    ) {
        let (k, step) = (self.sizes.k, self.a.column_step);
        let mut addresses: SmallVec<[*const f32; TILE_ROWS]> = SmallVec::new();
        if T::DTYPE == Dtype::Float32 && step == 1 {
            for row in rows {
                // SAFETY: a row has k neighbours that are elements of the layout.
                let row = unsafe { a.run((row * self.a.row_step) as isize, k) };
                addresses.push(row.as_ptr().cast());
            }
            return use_it(&addresses);
        }
        let pairs = self.packed.has_pairs();
        let len = if pairs { k.div_ceil(2) } else { k };
        with_floats(rows.len() * len, |floats| {
            for (i, row) in rows.enumerate() {
                let (first, to) = (row * self.a.row_step, &mut floats[i * len..][..len]);
                // SAFETY: the element is one of the layout's.
                let get = |i: usize| unsafe { a.get((first + i * step) as isize) };
                // SAFETY: as above.
                let run = || unsafe { a.run(first as isize, k) };
                if pairs {
                    // Of an odd row's last pair there is but one.
                    to[len.saturating_sub(1)..].fill(0.0);
                    let to = &mut bytemuck::cast_slice_mut::<f32, T>(to)[..k];
                    match step {
                        1 => to.copy_from_slice(run()),
                        _ => to.iter_mut().enumerate().for_each(|(i, to)| *to = get(i)),
                    }
                } else if step == 1 {
                    T::widen(run(), to);
                } else {
                    for (i, to) in to.iter_mut().enumerate() {
                        T::widen(&[get(i)], std::slice::from_mut(to));
                    }
                }
                addresses.push(to.as_ptr());
            }
            use_it(&addresses);
        });
    }
}
