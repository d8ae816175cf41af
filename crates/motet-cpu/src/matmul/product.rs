//! One matrix product on the calling thread: what every kernel that multiplies matrices ends in.
//!
//! [`multiply`] is the `gemm` crate behind a checked interface, with loops of its own for a
//! vector times a matrix, where packing costs more than the product. [`Operand`] says in what type
//! a dtype is multiplied and summed: half types in float32.

use motet_core::dtype::Element;
use num_complex::Complex32;

use crate::convert::Float32Like;
use crate::number::Number;
use crate::simd::{Level, Simd, leveled};

/// A matrix in memory: element (i, j) is `data[i * row_step + j * column_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    /// The memory from the first element to the last.
    pub data: &'a [T],
    /// From a row to the next.
    pub row_step: usize,
    /// From a column to the next.
    pub column_step: usize,
}

/// The sizes of a product: m x k times k x n.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// `alpha * (a @ b)`, added to what `out` holds or stored over it. Row `i` of the result starts at
/// `out[i * row]`.
///
/// # Panics
/// Where a matrix is larger than its memory.
pub(crate) fn multiply<T: Factor>(
    Sizes { m, k, n }: Sizes,
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    add: bool,
    out: &mut [T],
    row: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    let reach = |rows: usize, row_step: usize, columns: usize, column_step: usize| {
        let last = (rows - 1).checked_mul(row_step)?;
        last.checked_add((columns - 1).checked_mul(column_step)?)
    };
    let inside = |last: Option<usize>, len: usize| last.is_some_and(|last| last < len);
    assert!(row >= n || m == 1);
    assert!(inside(reach(m, row, n, 1), out.len()));
    if k == 0 {
        if !add {
            out.chunks_mut(row.max(n))
                .for_each(|row| row[..n].fill(T::ZERO));
        }
        return;
    }
    assert!(inside(reach(m, a.row_step, k, a.column_step), a.data.len()));
    assert!(inside(reach(k, b.row_step, n, b.column_step), b.data.len()));
    if m == 1 && T::vector(k, n, alpha, a.data, a.column_step, b, add, out) {
        return;
    }
    if n == 1 && row == 1 {
        // A matrix times a vector is the vector times the transposed matrix.
        let matrix = Matrix {
            data: a.data,
            row_step: a.column_step,
            column_step: a.row_step,
        };
        if T::vector(k, m, alpha, b.data, b.row_step, matrix, add, out) {
            return;
        }
    }
    // SAFETY: the asserts above bound every address that these sizes and steps reach, `out` is
    // borrowed for writing, and T is one of the types that the crate supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            row as isize,
            add,
            a.data.as_ptr(),
            a.column_step as isize,
            a.row_step as isize,
            b.data.as_ptr(),
            b.column_step as isize,
            b.row_step as isize,
            T::ONE,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A type that matrices are multiplied in.
pub(crate) trait Factor: Number {
    /// The nearest to a float32.
    fn from_f32(value: f32) -> Self;

    /// A vector with neighbours `step` apart times `b`, if this type and layout has loops of its
    /// own. The sizes were checked.
    #[allow(clippy::too_many_arguments, reason = "a product has many parameters")]
    fn vector(
        _k: usize,
        _n: usize,
        _alpha: Self,
        _vector: &[Self],
        _step: usize,
        _b: Matrix<'_, Self>,
        _add: bool,
        _out: &mut [Self],
    ) -> bool {
        false
    }
}

impl Factor for f64 {
    fn from_f32(value: f32) -> f64 {
        f64::from(value)
    }
}

impl Factor for Complex32 {
    fn from_f32(value: f32) -> Complex32 {
        Complex32::new(value, 0.0)
    }
}

impl Factor for f32 {
    fn from_f32(value: f32) -> f32 {
        value
    }

    fn vector(
        k: usize,
        n: usize,
        alpha: f32,
        vector: &[f32],
        step: usize,
        b: Matrix<'_, f32>,
        add: bool,
        out: &mut [f32],
    ) -> bool {
        let columns_in_rows = b.column_step == 1 && (b.row_step != 1 || k == 1);
        if !columns_in_rows && b.row_step != 1 {
            return false;
        }
        let gathered: Vec<f32>;
        let vector = if step == 1 && alpha == 1.0 {
            &vector[..k]
        } else {
            gathered = (0..k).map(|i| vector[i * step] * alpha).collect();
            &gathered
        };
        let (simd, out) = (Simd::detect(), &mut out[..n]);
        if !add {
            out.fill(0.0);
        }
        if columns_in_rows {
            leveled!(simd, add_rows(vector: &[f32], b: Matrix<'_, f32>, out: &mut [f32]));
        } else {
            leveled!(simd, add_dots(vector: &[f32], b: Matrix<'_, f32>, out: &mut [f32]));
        }
        true
    }
}

/// Floats that a block of a result has: with four rows of the matrix it stays in the first-level
/// cache.
const ROW_BLOCK: usize = 1024;

/// `out += vector @ b` for a matrix whose rows are contiguous.
#[inline(always)]
fn add_rows<L: Level>(vector: &[f32], b: Matrix<'_, f32>, out: &mut [f32]) {
    for (block, out) in out.chunks_mut(ROW_BLOCK).enumerate() {
        let (start, len) = (block * ROW_BLOCK, out.len());
        let row = |i: usize| &b.data[i * b.row_step + start..][..len];
        let quads = vector.len() / 4 * 4;
        for i in (0..quads).step_by(4) {
            let [v0, v1, v2, v3] = [vector[i], vector[i + 1], vector[i + 2], vector[i + 3]];
            let [r0, r1, r2, r3] = [row(i), row(i + 1), row(i + 2), row(i + 3)];
            for j in 0..len {
                let low = L::mul_add(v1, r1[j], L::mul_add(v0, r0[j], out[j]));
                out[j] = L::mul_add(v3, r3[j], L::mul_add(v2, r2[j], low));
            }
        }
        for (i, &v) in vector.iter().enumerate().skip(quads) {
            for (out, &r) in out.iter_mut().zip(row(i)) {
                *out = L::mul_add(v, r, *out);
            }
        }
    }
}

/// `out += vector @ b` for a matrix whose columns are contiguous.
#[inline(always)]
fn add_dots<L: Level>(vector: &[f32], b: Matrix<'_, f32>, out: &mut [f32]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out += dot::<L>(vector, &b.data[j * b.column_step..][..vector.len()]);
    }
}

/// Sums that run side by side in [`dot`]: four vectors of eight hide the latency of a product.
const LANES: usize = 32;

#[inline(always)]
fn dot<L: Level>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let tail = rest.fold(0.0, |sum, (&a, &b)| L::mul_add(a, b, sum));
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..LANES {
            sums[i] = L::mul_add(a[i], b[i], sums[i]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + tail
}

/// A dtype that can be multiplied, and the type that it is multiplied and summed in.
pub(crate) trait Operand: Element {
    /// The type of products and sums.
    type Sum: Factor;
    /// The elements as `Sum`.
    fn load(from: &[Self], to: &mut [Self::Sum]);
    /// The elements nearest to sums.
    fn store(from: &[Self::Sum], to: &mut [Self]);
    /// The elements themselves where they are of the type of sums.
    fn as_sums(values: &[Self]) -> Option<&[Self::Sum]>;
    /// As [`as_sums`](Operand::as_sums), for writing.
    fn as_sums_mut(values: &mut [Self]) -> Option<&mut [Self::Sum]>;
}

macro_rules! summed_as_is {
    ($($type:ty),*) => {
        $(
            impl Operand for $type {
                type Sum = $type;
                fn load(from: &[$type], to: &mut [$type]) {
                    to.copy_from_slice(from);
                }
                fn store(from: &[$type], to: &mut [$type]) {
                    to.copy_from_slice(from);
                }
                fn as_sums(values: &[$type]) -> Option<&[$type]> {
                    Some(values)
                }
                fn as_sums_mut(values: &mut [$type]) -> Option<&mut [$type]> {
                    Some(values)
                }
            }
        )*
    };
}
summed_as_is!(f32, f64, Complex32);

macro_rules! summed_as_float32 {
    ($($type:ty),*) => {
        $(
            impl Operand for $type {
                type Sum = f32;
                fn load(from: &[$type], to: &mut [f32]) {
                    <$type>::widen(from, to);
                }
                fn store(from: &[f32], to: &mut [$type]) {
                    <$type>::narrow(from, to);
                }
                fn as_sums(_: &[$type]) -> Option<&[f32]> {
                    None
                }
                fn as_sums_mut(_: &mut [$type]) -> Option<&mut [f32]> {
                    None
                }
            }
        )*
    };
}
summed_as_float32!(half::f16, half::bf16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn products_of_all_layouts_agree_with_sums() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 70, 33),
            (33, 70, 1),
            (1, 5, 1100),
            (7, 9, 11),
            (3, 0, 2),
        ] {
            for (a_by_rows, b_by_rows, add) in [
                (true, true, false),
                (true, false, true),
                (false, true, true),
                (false, false, false),
            ] {
                let (a, b) = (noise(m * k, 1), noise(k * n, 2));
                let matrix = |data, rows: usize, columns: usize, by_rows| Matrix {
                    data,
                    row_step: if by_rows { columns } else { 1 },
                    column_step: if by_rows { 1 } else { rows },
                };
                let (a, b) = (matrix(&a, m, k, a_by_rows), matrix(&b, k, n, b_by_rows));
                let row = n + 2 * usize::from(n > 1);
                let mut out = noise(m * row, 3);
                let before = out.clone();
                multiply(Sizes { m, k, n }, 0.5, a, b, add, &mut out, row);
                for (i, j) in (0..m).flat_map(|i| (0..row).map(move |j| (i, j))) {
                    let old = before[i * row + j];
                    let product = |l| {
                        f64::from(a.data[i * a.row_step + l * a.column_step])
                            * f64::from(b.data[l * b.row_step + j * b.column_step])
                    };
                    let expected = match (j < n, add) {
                        (false, _) => old,
                        (true, true) => old + (0..k).map(product).sum::<f64>() as f32 * 0.5,
                        (true, false) => (0..k).map(product).sum::<f64>() as f32 * 0.5,
                    };
                    let got = out[i * row + j];
                    assert!(
                        (got - expected).abs() < 1e-5,
                        "{m} {k} {n}: {got} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn portable_loops_agree_with_those_for_this_processor() {
        let (vector, data) = (noise(77, 1), noise(77 * 50, 2));
        let rows = Matrix {
            data: &data,
            row_step: 50,
            column_step: 1,
        };
        let columns = Matrix {
            data: &data,
            row_step: 1,
            column_step: 77,
        };
        let run = |simd: Simd| {
            let (mut by_rows, mut by_columns) = (vec![0.0; 50], vec![0.0; 50]);
            let (v, r, c) = (&vector[..], &mut by_rows[..], &mut by_columns[..]);
            leveled!(simd, add_rows(v: &[f32], rows: Matrix<'_, f32>, r: &mut [f32]));
            leveled!(simd, add_dots(v: &[f32], columns: Matrix<'_, f32>, c: &mut [f32]));
            [by_rows, by_columns].concat()
        };
        for (a, b) in run(Simd::Portable).iter().zip(run(Simd::detect())) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    #[should_panic]
    fn a_matrix_that_is_too_short_is_never_read() {
        let short = Matrix {
            data: &[1.0f32; 5],
            row_step: 3,
            column_step: 1,
        };
        let b = Matrix {
            data: &[1.0; 3],
            row_step: 1,
            column_step: 1,
        };
        multiply(
            Sizes { m: 2, k: 3, n: 1 },
            1.0,
            short,
            b,
            false,
            &mut [0.0; 2],
            1,
        );
    }
}
