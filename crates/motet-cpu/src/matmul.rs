//! Matrix products: `alpha * (a @ b) + beta * c`, batched, or of matrices that indices pick.
//!
//! a and b are read in place when each of their matrices has contiguous rows or columns, whatever
//! the batch strides; c in any layout. Work is cut into tiles by the shapes alone, so results are
//! bit-identical however many threads there are. Half types are widened tile by tile, summed in
//! float32 and rounded once.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Shape, Spec};
use motet_core::tensor::Tensor;

use crate::number::Number;
use crate::operand::{Extent, Output, Strided, Walk};
use crate::target::{FusedStep, Parts, Summed, is_summed, parts};

mod constant;
mod gathered;
mod joined;
mod masked;
mod product;

use constant::ConstantStep;
use gathered::GatheredStep;
use joined::JoinedStep;
use masked::MaskedStep;
pub(crate) use product::{Factor, Matrix, Operand, Sizes, multiply};

/// Whether a matrix is read in this layout. c may have any, indices and masks are row-major.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    match index {
        0 | 1 => matrix_steps(layout).is_some(),
        _ => matches!(kernel, Kernel::Matmul { .. }) || layout.is_contiguous(),
    }
}

/// Whether a program can run on the sums of a product before they are rounded and stored.
pub(crate) fn fuses(kernel: &Kernel, result: &Spec) -> bool {
    matches!(kernel, Kernel::Matmul { beta: None, .. }) && is_summed(result.dtype)
}

/// Whether a product, or one with a program on its result, can be joined with others: where b is a
/// constant, unless the product has so many tiles that all threads are busy with it alone.
pub(crate) fn joins(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> bool {
    let (Ok((product, result)), [a, b, ..]) = (product_of(kernel, outputs), inputs) else {
        return false;
    };
    let out = result.layout();
    known_matrix(product, [a, b], &out, constants).is_some()
        && ConstantStep::tiles(a, &out) <= JOINED_TILES
}

/// A product with more tiles gains nothing by company.
const JOINED_TILES: usize = 64;

/// The product of a kernel, and its result.
fn product_of<'a>(kernel: &'a Kernel, outputs: &[Layout]) -> Result<(&'a Kernel, Spec)> {
    if let Kernel::Fused(fused) = kernel {
        return Ok((&fused.kernel, fused.result.clone()));
    }
    let out = outputs.first().ok_or_else(|| unexpected("operands"))?;
    Ok((kernel, out.spec()))
}

/// The matrix b of a product, if it is a constant that can be packed.
fn known_matrix<'a>(
    product: &Kernel,
    [a, b]: [&Layout; 2],
    result: &Layout,
    constants: &'a [Option<Tensor>],
) -> Option<&'a Tensor> {
    let unscaled = matches!(product, Kernel::Matmul { alpha: 1.0, .. });
    let known = constants.get(1)?.as_ref()?;
    let takes = fuses(product, &result.spec()) && ConstantStep::takes(a, b, result);
    (unscaled && takes).then_some(known)
}

/// The step of a product, or of one with a program on its result, where b is packed.
fn constant_step(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> Result<Option<ConstantStep>> {
    let (product, result) = product_of(kernel, outputs)?;
    let [a, b, ..] = inputs else {
        return Err(unexpected("operands"));
    };
    let out = result.layout();
    let Some(value) = known_matrix(product, [a, b], &out, constants) else {
        return Ok(None);
    };
    let target = parts(kernel, inputs, outputs)?.target;
    ConstantStep::new(a, b, &out, value, target).map(Some)
}

/// Prepares a product, or one with a program on its result. Where b is a constant, it is packed.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> Result<Box<dyn Step>> {
    if let Kernel::Joined(parts) = kernel {
        let step = JoinedStep::new(parts, inputs, outputs, constants)?;
        return Ok(Box::new(step));
    }
    if let Some(step) = constant_step(kernel, inputs, outputs, constants)? {
        return Ok(Box::new(step));
    }
    let (product, result) = product_of(kernel, outputs)?;
    if !fuses(product, &result) {
        return prepare_plain(kernel, inputs, outputs);
    }
    let kernel_is_fused = matches!(kernel, Kernel::Fused(_));
    let Parts {
        kernel,
        inputs,
        result,
        target,
    } = parts(kernel, inputs, outputs)?;
    let (&Kernel::Matmul { alpha, beta: None }, [a, b]) = (kernel, inputs) else {
        return Err(unexpected("operands"));
    };
    let out = result.layout();
    macro_rules! for_dtype {
        ($type:ty) => {{
            let product = MatmulStep::<$type>::new(alpha, a, b, None, &out)?;
            match kernel_is_fused {
                true => Box::new(FusedStep {
                    kernel: product,
                    target,
                }),
                false => Box::new(product),
            }
        }};
    }
    Ok(match out.dtype {
        Dtype::Float16 => for_dtype!(half::f16),
        Dtype::Bfloat16 => for_dtype!(half::bf16),
        _ => for_dtype!(f32),
    })
}

fn prepare_plain(kernel: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Box<dyn Step>> {
    let ([a, b, others @ ..], [out]) = (inputs, outputs) else {
        return Err(unexpected("operands"));
    };
    macro_rules! for_dtype {
        ($step:ident::$new:ident($($argument:expr),*)) => {
            match out.dtype {
                Dtype::Float32 => Box::new($step::<f32>::$new($($argument),*)?),
                Dtype::Float64 => Box::new($step::<f64>::$new($($argument),*)?),
                Dtype::Float16 => Box::new($step::<half::f16>::$new($($argument),*)?),
                Dtype::Bfloat16 => Box::new($step::<half::bf16>::$new($($argument),*)?),
                Dtype::Complex64 => {
                    Box::new($step::<num_complex::Complex32>::$new($($argument),*)?)
                }
                dtype => {
                    return Err(Error::unsupported("Matmul", format!("no products of {dtype}")));
                }
            }
        };
    }
    Ok(match (kernel, others) {
        (&Kernel::Matmul { alpha, beta: None }, []) => {
            for_dtype!(MatmulStep::new(alpha, a, b, None, out))
        }
        (
            &Kernel::Matmul {
                alpha,
                beta: Some(beta),
            },
            [c],
        ) => {
            for_dtype!(MatmulStep::new(alpha, a, b, Some((beta, c)), out))
        }
        (Kernel::GatherMatmul, [lhs, rhs]) => {
            for_dtype!(GatheredStep::new(a, b, [lhs, rhs], out))
        }
        (&Kernel::BlockMaskedMatmul { block_size }, masks) => {
            for_dtype!(MaskedStep::new(block_size, a, b, masks, out))
        }
        _ => return Err(unexpected("operands")),
    })
}

fn unexpected(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "Matmul", format!("unexpected {what}"))
}

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
    batches: Walk,
    row_step: usize,
    column_step: usize,
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

struct MatmulStep<T> {
    a: Stack,
    b: Stack,
    c: Option<(f32, Layout, Walk)>,
    out: Layout,
    alpha: f32,
    batches: usize,
    sizes: Sizes,
    tiling: Tiling,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> MatmulStep<T> {
    fn new(
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

fn fold(a: &Layout, b: &Layout, c: Option<&Layout>, out: &Layout) -> Option<Folded> {
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
const TILE_WEIGHTS: usize = 256 << 10;
/// Enough rows that packing b for each tile is a small part of the work.
const TILE_ROWS: usize = 256;
/// Products too small to be worth a tile each are joined to this.
const GROUP_WORK: usize = 256 << 10;

impl Tiling {
    fn new(Sizes { m, k, n }: Sizes, batches: usize) -> Tiling {
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

#[cfg(test)]
mod tests {
    use motet_core::backend::{Backend, Location};
    use motet_core::dtype::Element;
    use motet_core::kernel::{Fused, Part};
    use motet_core::memory::heap;
    use motet_core::pool::Pool;
    use motet_core::program::{Binary, ProgramBuilder};
    use motet_core::shape::Spec;
    use motet_core::tensor::Tensor;
    use num_complex::Complex32;

    use super::*;
    use crate::Cpu;
    use crate::testing::{launch, noise, run, tensor, values};

    /// The tensor with two axes exchanged: another layout of the same memory.
    fn transposed(tensor: &Tensor) -> Tensor {
        let mut layout = tensor.layout.clone();
        let rank = layout.shape.len();
        layout.shape.dims_mut().swap(rank - 2, rank - 1);
        layout.strides.swap(rank - 2, rank - 1);
        tensor.view(layout, 0).unwrap()
    }

    /// One matrix as `batch` of them.
    fn repeated(tensor: &Tensor, batch: usize) -> Tensor {
        let mut layout = tensor.layout.clone();
        layout.shape.dims_mut().insert(0, batch);
        layout.strides.insert(0, 0);
        tensor.view(layout, 0).unwrap()
    }

    fn reference(a: &[f32], b: &[f32], batch: usize, Sizes { m, k, n }: Sizes) -> Vec<f64> {
        let at = |s: &[f32], i: usize| f64::from(s[i]);
        (0..batch * m * n)
            .map(|i| {
                let (t, r, c) = (i / (m * n), i / n % m, i % n);
                (0..k)
                    .map(|l| at(a, (t * m + r) * k + l) * at(b, (t * k + l) * n + c))
                    .sum()
            })
            .collect()
    }

    /// Both layouts of a and b, with and without c, against the reference.
    fn check<T: Operand>(
        batch: usize,
        sizes: Sizes,
        from: impl Fn(f32) -> T,
        to: impl Fn(T) -> f32,
        tolerance: f64,
    ) {
        let Sizes { m, k, n } = sizes;
        let make = |len, seed| -> Vec<T> { noise(len, seed).into_iter().map(&from).collect() };
        let [a, b, c] = [
            make(batch * m * k, 1),
            make(batch * k * n, 2),
            make(batch * m * n, 3),
        ];
        let widened = |values: &[T]| -> Vec<f32> { values.iter().map(|&x| to(x)).collect() };
        let expected = reference(&widened(&a), &widened(&b), batch, sizes);
        let flip = |values: &[T], rows: usize, columns: usize| {
            let matrix = rows * columns;
            let flipped: Vec<T> = (0..values.len())
                .map(|i| values[i / matrix * matrix + i % rows * columns + i % matrix / rows])
                .collect();
            transposed(&tensor(&[batch, columns, rows], &flipped))
        };
        let (a_rows, b_rows) = (tensor(&[batch, m, k], &a), tensor(&[batch, k, n], &b));
        let (a_columns, b_columns) = (flip(&a, m, k), flip(&b, k, n));
        let out = [Spec::new([batch, m, n], T::DTYPE)];
        let ct = tensor(&[batch, m, n], &c);
        for (a, b) in [
            (&a_rows, &b_rows),
            (&a_rows, &b_columns),
            (&a_columns, &b_rows),
        ] {
            let plain = Kernel::Matmul {
                alpha: 1.0,
                beta: None,
            };
            let scaled = Kernel::Matmul {
                alpha: 0.5,
                beta: Some(2.0),
            };
            let plain = values::<T>(&run(&plain, &[a, b], &out).unwrap()[0]);
            let scaled = values::<T>(&run(&scaled, &[a, b, &ct], &out).unwrap()[0]);
            for i in 0..expected.len() {
                let near = |got: T, want: f64| {
                    let error = (f64::from(to(got)) - want).abs();
                    assert!(
                        error <= tolerance * (1.0 + want.abs()),
                        "{sizes:?} {i}: {want}"
                    );
                };
                near(plain[i], expected[i]);
                near(scaled[i], 0.5 * expected[i] + 2.0 * f64::from(to(c[i])));
            }
        }
    }

    #[test]
    fn products_agree_with_sums() {
        let all = [
            (1, 1, 1, 1),
            (2, 3, 4, 5),
            (3, 1, 64, 40),
            (1, 300, 70, 130),
            (2, 5, 7, 1),
        ];
        for (batch, m, k, n) in all {
            let sizes = Sizes { m, k, n };
            check::<f32>(batch, sizes, |x| x, |x| x, 2e-5);
            check::<f64>(batch, sizes, f64::from, |x| x as f32, 1e-6);
            check::<half::f16>(batch, sizes, half::f16::from_f32, half::f16::to_f32, 1e-3);
            check::<half::bf16>(batch, sizes, half::bf16::from_f32, half::bf16::to_f32, 8e-3);
            let (from, to) = (|x| Complex32::new(x, 0.0), |x: Complex32| x.re);
            check::<Complex32>(batch, sizes, from, to, 2e-5);
        }
        // Several tiles of columns.
        check::<f32>(
            1,
            Sizes {
                m: 1,
                k: 5000,
                n: 200,
            },
            |x| x,
            |x| x,
            1e-4,
        );
        check::<f32>(
            1,
            Sizes {
                m: 9,
                k: 5000,
                n: 200,
            },
            |x| x,
            |x| x,
            1e-4,
        );
        check::<half::bf16>(
            1,
            Sizes {
                m: 2,
                k: 5000,
                n: 90,
            },
            half::bf16::from_f32,
            half::bf16::to_f32,
            8e-3,
        );
    }

    #[test]
    fn complex_products_multiply_imaginary_parts() {
        let a = tensor(
            &[1, 2],
            &[Complex32::new(1.0, 2.0), Complex32::new(0.0, 1.0)],
        );
        let b = tensor(
            &[2, 1],
            &[Complex32::new(3.0, -1.0), Complex32::new(2.0, 2.0)],
        );
        let kernel = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let out = run(&kernel, &[&a, &b], &[Spec::new([1, 1], Dtype::Complex64)]).unwrap();
        assert_eq!(values::<Complex32>(&out[0]), [Complex32::new(3.0, 7.0)]);
    }

    #[test]
    fn broadcast_weights_are_one_product() {
        let (a, b, bias) = (noise(4 * 3 * 8, 1), noise(8 * 5, 2), noise(5, 3));
        let at = tensor(&[4, 3, 8], &a);
        let bt = repeated(&tensor(&[8, 5], &b), 4);
        let bias_everywhere = repeated(&repeated(&tensor(&[5], &bias), 3), 4);
        let kernel = Kernel::Matmul {
            alpha: 1.0,
            beta: Some(1.0),
        };
        let out = [Spec::new([4, 3, 5], Dtype::Float32)];
        let got = values::<f32>(&run(&kernel, &[&at, &bt, &bias_everywhere], &out).unwrap()[0]);
        let expected = reference(&a, &b.repeat(4), 4, Sizes { m: 3, k: 8, n: 5 });
        for (i, (got, want)) in got.iter().zip(expected).enumerate() {
            assert!((f64::from(*got) - want - f64::from(bias[i % 5])).abs() < 1e-5);
        }
        let layouts = [at.layout.clone(), bt.layout.clone()];
        let step = MatmulStep::<f32>::new(1.0, &layouts[0], &layouts[1], None, &out[0].layout());
        assert_eq!(step.unwrap().sizes.m, 12);
    }

    #[test]
    fn nothing_to_sum_gives_zeros_or_c() {
        let a = tensor::<f32>(&[2, 0], &[]);
        let b = tensor::<f32>(&[0, 2], &[]);
        let c = tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let out = [Spec::new([2, 2], f32::DTYPE)];
        let plain = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let scaled = Kernel::Matmul {
            alpha: 1.0,
            beta: Some(2.0),
        };
        assert_eq!(
            values::<f32>(&run(&plain, &[&a, &b], &out).unwrap()[0]),
            [0.0; 4]
        );
        let got = values::<f32>(&run(&scaled, &[&a, &b, &c], &out).unwrap()[0]);
        assert_eq!(got, [2.0, 4.0, 6.0, 8.0]);
        let none = [Spec::new([0, 2], f32::DTYPE)];
        let a = tensor::<f32>(&[0, 3], &[]);
        let b = tensor::<f32>(&[3, 2], &[1.0; 6]);
        assert!(values::<f32>(&run(&plain, &[&a, &b], &none).unwrap()[0]).is_empty());
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (a, b) = (
            tensor(&[600, 90], &noise(600 * 90, 1)),
            tensor(&[90, 700], &noise(63_000, 2)),
        );
        let spec = Spec::new([600, 700], Dtype::Float32);
        let kernel = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let layouts = [a.layout.clone(), b.layout.clone()];
        let prepare = |constants: &[Option<Tensor>]| {
            prepare(&kernel, &layouts, &[spec.layout()], constants).unwrap()
        };
        let product = |step: &dyn Step, threads: usize| {
            let out = Tensor::allocate(&spec, heap()).unwrap();
            fn place(tensor: &Tensor) -> Location<'_> {
                Location {
                    buffer: &tensor.buffer,
                    offset: tensor.offset,
                }
            }
            let launch = Launch {
                inputs: &[place(&a), place(&b)],
                outputs: &[place(&out)],
                scratch: place(&out),
                pool: &Pool::new(threads),
            };
            step.launch(&launch).unwrap();
            values::<f32>(&out)
                .into_iter()
                .map(f32::to_bits)
                .collect::<Vec<u32>>()
        };
        for step in [prepare(&[]), prepare(&[None, Some(b.clone())])] {
            let alone = product(&*step, 1);
            assert!(alone == product(&*step, 2) && alone == product(&*step, 7));
        }
    }

    /// `a @ b`, then of the product `p` both `p * p + c` and `p` itself, in one step.
    fn fused(result: &Spec) -> Kernel {
        let mut builder = ProgramBuilder::default();
        let [p, c] = [result.dtype, Dtype::Float32].map(|dtype| builder.input(dtype));
        let p = builder.cast(p, Dtype::Float32);
        let square = builder.binary(Binary::Mul, p, p);
        let sum = builder.binary(Binary::Add, square, c);
        Kernel::Fused(Box::new(Fused {
            kernel: Kernel::Matmul {
                alpha: 1.0,
                beta: None,
            },
            inputs: 2,
            program: builder.finish(vec![sum, p]),
            result: result.clone(),
        }))
    }

    #[test]
    fn programs_run_on_sums_before_they_are_rounded() {
        for (m, k, n) in [(1, 70, 33), (9, 600, 40), (200, 64, 130)] {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let c = tensor(&[n], &noise(n, 3));
            let mut wide = c.layout.clone();
            (wide.shape, wide.strides) = (Shape::new(&[m, n]), [0, 1][..].into());
            let c = c.view(wide, 0).unwrap();
            let check = |a: Tensor, b: Tensor, dtype: Dtype| {
                let kernel = fused(&Spec::new([m, n], dtype));
                let outs = [(); 2].map(|()| Spec::new([m, n], Dtype::Float32));
                let inputs = [&a, &b, &c];
                let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout.clone()).collect();
                let prepare = |constants: &[Option<Tensor>]| {
                    let outs = [outs[0].layout(), outs[1].layout()];
                    Cpu.prepare(&kernel, &layouts, &outs, constants).unwrap()
                };
                let (free, packed) = (prepare(&[]), prepare(&[None, Some(b.clone())]));
                assert!(free.reads(1) && !packed.reads(1) && packed.reads(2));
                let floats = |t: &Tensor| match dtype {
                    Dtype::Float32 => values::<f32>(t),
                    _ => values::<half::f16>(t).iter().map(|x| x.to_f32()).collect(),
                };
                let expected = reference(&floats(&a), &floats(&b), 1, Sizes { m, k, n });
                for step in [free, packed] {
                    let got = launch(&*step, &inputs, &outs).unwrap();
                    let got = got.iter().map(values::<f32>).collect::<Vec<_>>();
                    for (i, p) in expected.iter().enumerate() {
                        let sum = p * p + f64::from(values::<f32>(&c)[i]);
                        let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-3;
                        assert!(close(got[0][i], sum), "{} {sum}", got[0][i]);
                        assert!(close(got[1][i], *p), "{} {p}", got[1][i]);
                    }
                }
            };
            let half = |values: &[f32]| -> Vec<half::f16> {
                values.iter().map(|&x| half::f16::from_f32(x)).collect()
            };
            check(tensor(&[m, k], &a), tensor(&[k, n], &b), Dtype::Float32);
            check(
                tensor(&[m, k], &half(&a)),
                tensor(&[k, n], &half(&b)),
                Dtype::Float16,
            );
            // The matrix as the transpose of what lies in memory, and rows that are columns.
            let (a, b) = (tensor(&[k, m], &a), tensor(&[n, k], &b));
            check(transposed(&a), transposed(&b), Dtype::Float32);
        }
    }

    #[test]
    fn joined_products_are_those_that_each_would_be() {
        for (m, k, dtype) in [
            (1, 70, Dtype::Float32),
            (100, 600, Dtype::Float32),
            (9, 64, Dtype::Float16),
        ] {
            let of_dtype = |shape: &[usize], seed| {
                let numbers = noise(shape.iter().product(), seed);
                match dtype {
                    Dtype::Float32 => tensor(shape, &numbers),
                    _ => tensor(
                        shape,
                        &numbers
                            .iter()
                            .map(|&x| half::f16::from_f32(x))
                            .collect::<Vec<_>>(),
                    ),
                }
            };
            let a = of_dtype(&[m, k], 1);
            // Columns of the three are not alike, and the second has a program on its result.
            let columns = [33, 130, 16];
            let weights = columns.map(|n| of_dtype(&[k, n], n as u64));
            let c = tensor(&[m, columns[1]], &noise(m * columns[1], 4));
            let plain = Kernel::Matmul {
                alpha: 1.0,
                beta: None,
            };
            let results = columns.map(|n| Spec::new([m, n], dtype));
            let part = |kernel, inputs, outputs| Part {
                kernel,
                inputs,
                outputs,
            };
            let parts = [
                part(plain.clone(), 2, 1),
                part(fused(&results[1]), 3, 2),
                part(plain, 2, 1),
            ];
            let [w0, w1, w2] = &weights;
            let inputs = [&a, w0, &a, w1, &c, &a, w2];
            let wide = Spec::new([m, columns[1]], Dtype::Float32);
            let outputs = [results[0].clone(), wide.clone(), wide, results[2].clone()];
            let constants = [None, Some(w0), None, Some(w1), None, None, Some(w2)];
            let constants = constants.map(|w| w.cloned());
            let layouts = inputs.map(|t| t.layout.clone());
            let specs = |specs: &[Spec]| specs.iter().map(Spec::layout).collect::<Vec<_>>();
            let joined = Kernel::Joined(parts.to_vec());
            let step = Cpu.prepare(&joined, &layouts, &specs(&outputs), &constants);
            let step = step.unwrap();
            let reads: Vec<bool> = (0..7).map(|input| step.reads(input)).collect();
            assert_eq!(reads, [true, false, true, false, true, true, false]);
            let got = launch(&*step, &inputs, &outputs).unwrap();
            let (mut input, mut output) = (0, 0);
            for part in parts {
                let inputs_of = input..input + part.inputs;
                let outputs_of = output..output + part.outputs;
                (input, output) = (inputs_of.end, outputs_of.end);
                let (inputs, layouts) = (&inputs[inputs_of.clone()], &layouts[inputs_of.clone()]);
                let (outputs, constants) = (&outputs[outputs_of.clone()], &constants[inputs_of]);
                assert!(Cpu.joins(&part.kernel, layouts, &specs(outputs), constants));
                assert!(!Cpu.joins(&part.kernel, layouts, &specs(outputs), &[]));
                let step = Cpu.prepare(&part.kernel, layouts, &specs(outputs), constants);
                let alone = launch(&*step.unwrap(), inputs, outputs).unwrap();
                for (alone, got) in alone.iter().zip(&got[outputs_of]) {
                    assert_eq!(alone.row_major(), got.row_major());
                }
            }
        }
    }

    #[test]
    fn only_contiguous_rows_or_columns_are_read_in_place() {
        let kernel = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let layout = |shape: [usize; 3], strides: [isize; 3]| Layout {
            shape: Shape::new(&shape),
            strides: strides[..].into(),
            dtype: Dtype::Float32,
        };
        let reads = |strides| accepts(&kernel, 0, &layout([2, 3, 4], strides));
        assert!(reads([12, 4, 1]) && reads([0, 1, 3]) && reads([-12, 9, 1]) && reads([4, 8, 1]));
        assert!(!reads([12, 4, 2]) && !reads([12, -4, 1]) && !reads([24, 8, 2]));
    }
}
