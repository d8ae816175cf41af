//! Products by Hadamard matrices: sizes m * 2^k, with m 1, 12, 20 or 28.
//!
//! The matrix of a size is the Kronecker product of one of order m, which is written down here, and
//! one of order 2^k, whose product is k rounds of sums and differences. Half types are computed in
//! float32 and rounded once.

use std::marker::PhantomData;

use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::convert::Float32Like;
use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a product.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let unexpected = || Error::invalid("Hadamard", "got other operands than expected");
    let (&Kernel::Hadamard { scale }, [x], [out]) = (kernel, inputs, outputs) else {
        return Err(unexpected());
    };
    if x.spec() != out.spec() {
        return Err(unexpected());
    }
    let size = x.shape.last().copied().unwrap_or(0);
    let (rows, power) = split(size).ok_or_else(unexpected)?;
    let matrix = Matrix {
        signs: signs(rows),
        rows: rows.len(),
        power,
        scale,
    };
    Ok(match x.dtype {
        Dtype::Float32 => Box::new(HadamardStep::<f32>(matrix, x.clone(), PhantomData)),
        Dtype::Float16 => Box::new(HadamardStep::<f16>(matrix, x.clone(), PhantomData)),
        Dtype::Bfloat16 => Box::new(HadamardStep::<bf16>(matrix, x.clone(), PhantomData)),
        dtype => {
            return Err(Error::unsupported(
                "Hadamard",
                format!("no transform of {dtype}"),
            ));
        }
    })
}

/// The matrix of order m and the power of two that a size is the product of.
fn split(size: usize) -> Option<(&'static [&'static str], usize)> {
    [&ORDER_28[..], &ORDER_20, &ORDER_12, &["1"]]
        .into_iter()
        .map(|rows| (rows, size / rows.len()))
        .find(|&(rows, power)| power.is_power_of_two() && power * rows.len() == size)
}

/// 1 and -1 as written.
fn signs(rows: &[&str]) -> Vec<f32> {
    let digits = rows.iter().flat_map(|row| row.bytes());
    digits.map(|d| if d == b'1' { 1.0 } else { -1.0 }).collect()
}

/// The Kronecker product of a matrix of signs and one of order `power`, scaled.
struct Matrix {
    signs: Vec<f32>,
    rows: usize,
    power: usize,
    scale: f32,
}

impl Matrix {
    /// `x` becomes the product; `work` has its length.
    fn multiply(&self, x: &mut [f32], work: &mut [f32]) {
        let mut half = 1;
        while half < self.power {
            for pair in x.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            half *= 2;
        }
        work.fill(0.0);
        let products = work.chunks_exact_mut(self.power);
        for (to, signs) in products.zip(self.signs.chunks_exact(self.rows)) {
            for (from, &sign) in x.chunks_exact(self.power).zip(signs) {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to += sign * from;
                }
            }
        }
        for (x, &product) in x.iter_mut().zip(&*work) {
            *x = self.scale * product;
        }
    }
}

/// Elements in a tile.
const TILE: usize = 16 << 10;

struct HadamardStep<T>(Matrix, Layout, PhantomData<fn() -> T>);

impl<T: Float32Like> Step for HadamardStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let HadamardStep(matrix, layout, _) = self;
        let x = input::<T>(&launch.inputs[0], layout)?;
        let out = Output::<T>::new(&launch.outputs[0], layout)?;
        let size = matrix.rows * matrix.power;
        let vectors = x.len() / size;
        let group = (TILE / size).max(1);
        let rounds = matrix.power.ilog2() as usize + 2 * matrix.rows;
        let cost = (group * size).saturating_mul(rounds) / 4;
        launch
            .pool
            .for_each_tile(vectors.div_ceil(group), cost, &|tile| {
                let (mut values, mut work) = (vec![0.0; size], vec![0.0; size]);
                for vector in tile * group..((tile + 1) * group).min(vectors) {
                    let range = vector * size..(vector + 1) * size;
                    T::widen(&x[range.clone()], &mut values);
                    matrix.multiply(&mut values, &mut work);
                    // SAFETY: the vector is this tile's alone.
                    T::narrow(&values, unsafe { out.part(range) });
                }
            });
        Ok(())
    }
}

/// MLX's matrix of order 12: 1 for 1, 0 for -1.
const ORDER_12: [&str; 12] = [
    "101111111111",
    "001010101010",
    "111011000011",
    "100010010110",
    "111110110000",
    "101000100101",
    "110011101100",
    "100110001001",
    "110000111011",
    "100101100010",
    "111100001110",
    "101001011000",
];

/// MLX's matrix of order 20: 1 for 1, 0 for -1.
const ORDER_20: [&str; 20] = [
    "10000100001100110110",
    "01000010001110001011",
    "00100001000111010101",
    "00010000100011111010",
    "00001000011001101101",
    "01111100000100111001",
    "10111010001010011100",
    "11011001000101001110",
    "11101000100010100111",
    "11110000011001010011",
    "00110101101000001111",
    "00011010110100010111",
    "10001101010010011011",
    "11000110100001011101",
    "01100011010000111110",
    "01001001101000010000",
    "10100000110100001000",
    "01010100010010000100",
    "00101110000001000010",
    "10010011000000100001",
];

/// MLX's matrix of order 28: 1 for 1, 0 for -1.
const ORDER_28: [&str; 28] = [
    "1000000110000110100101001100",
    "0100000111000001010010100110",
    "0010000011100010101000010011",
    "0001000001110001010101001001",
    "0000100000111000101011100100",
    "0000010000011110010100110010",
    "0000001100001101001010011001",
    "0011110100000001100111010010",
    "0001111010000010110010101001",
    "1000111001000011011001010100",
    "1100011000100001101100101010",
    "1110001000010000110110010101",
    "1111000000001010011011001010",
    "0111100000000111001100100101",
    "0101101100110010000000011110",
    "1010110010011001000000001111",
    "0101011001001100100001000111",
    "1010101100100100010001100011",
    "1101010110010000001001110001",
    "0110101011001000000101111000",
    "1011010001100100000010111100",
    "0110011010110111000011000000",
    "1011001101011011100000100000",
    "1101100010101101110000010000",
    "0110110101010100111000001000",
    "0011011110101000011100000100",
    "1001101011010100001110000010",
    "1100110101101010000110000001",
];

#[cfg(test)]
mod tests {
    use motet_core::dtype::Element;

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    fn transform<T: Element>(size: usize, x: &[T]) -> Vec<T> {
        let x = tensor(&[x.len() / size, size], x);
        let scale = 1.0 / (size as f32).sqrt();
        values(&run(&Kernel::Hadamard { scale }, &[&x], &[x.spec()]).unwrap()[0])
    }

    /// The rows of the matrix by its definition.
    fn matrix(size: usize) -> Vec<Vec<f64>> {
        let (rows, power) = split(size).unwrap();
        let signs = signs(rows);
        let element = |i: usize, j: usize| {
            let sign = signs[i / power * rows.len() + j / power];
            let odd = ((i % power) & (j % power)).count_ones() % 2;
            f64::from(sign) * (1.0 - 2.0 * f64::from(odd)) / (size as f64).sqrt()
        };
        let row = |i| (0..size).map(|j| element(i, j)).collect();
        (0..size).map(row).collect()
    }

    fn dot(a: &[f64], b: impl IntoIterator<Item = f64>) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn products_agree_with_the_matrix() {
        for size in [1, 2, 16, 12, 48, 20, 40, 28, 112] {
            let x = noise(3 * size, 1);
            let halves: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
            let (got, half) = (transform(size, &x), transform(size, &halves));
            let matrix = matrix(size);
            for n in 0..3 * size {
                let (row, vector) = (&matrix[n % size], n / size * size..(n / size + 1) * size);
                let want = dot(row, x[vector.clone()].iter().map(|&x| f64::from(x)));
                assert!((f64::from(got[n]) - want).abs() < 1e-5, "{size} {n}");
                let want = dot(row, halves[vector].iter().map(|x| x.to_f64()));
                assert!((half[n].to_f64() - want).abs() < 2e-3, "{size} {n}");
            }
        }
    }

    #[test]
    fn the_matrices_are_orthogonal() {
        for size in [12, 20, 28, 56] {
            let rows = matrix(size);
            for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
                let product = dot(&rows[i], rows[j].iter().copied());
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        assert!(split(0).is_none() && split(36).is_none() && split(3).is_none());
    }
}
