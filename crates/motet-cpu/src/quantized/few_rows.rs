//! A row of x times packed weights, unpacked in registers: for so few rows that reading the weights
//! is the work.
//!
//! A scale is applied to what a group sums up to, and a bias to the sum of the group's x.

use super::unpack::{Codes, Groups, Rows, eight};
use super::vector::{Lanes, Vector};
use crate::number::Number;

/// Rows of weights that share what is loaded of x, or rows of weights that are added to a result
/// together.
const TOGETHER: usize = 4;

/// `out[i]` is the product of `x` and row `i`.
#[inline(always)]
pub(super) fn dots<L: Lanes, C: Codes>(x: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let group_size = x.len() / rows.groups.max(1);
    let x_sums: Vec<[f32; 8]> = match C::AFFINE {
        true => x.chunks_exact(group_size).map(sum_of_eights).collect(),
        false => Vec::new(),
    };
    let blocks = out.len() / TOGETHER * TOGETHER;
    let (block_outs, rest) = out.split_at_mut(blocks);
    for (block, out) in block_outs.chunks_exact_mut(TOGETHER).enumerate() {
        let rows = std::array::from_fn(|i| rows.row(block * TOGETHER + i));
        out.copy_from_slice(&dots_of::<L, C, TOGETHER>(x, &x_sums, group_size, rows));
    }
    for (i, out) in rest.iter_mut().enumerate() {
        [*out] = dots_of::<L, C, 1>(x, &x_sums, group_size, [rows.row(blocks + i)]);
    }
}

/// The sum of vectors of eight.
#[inline(always)]
fn sum_of_eights(x: &[f32]) -> [f32; 8] {
    let (eights, _) = x.as_chunks::<8>();
    let add = |sum: [f32; 8], x: &[f32; 8]| std::array::from_fn(|i| sum[i] + x[i]);
    eights.iter().fold([0.0; 8], add)
}

#[inline(always)]
fn dots_of<L: Lanes, C: Codes, const R: usize>(
    x: &[f32],
    x_sums: &[[f32; 8]],
    group_size: usize,
    rows: [Groups<'_>; R],
) -> [f32; R] {
    let zero = L::Vector::splat(0.0);
    let group_bytes = group_size * C::BITS / 8;
    let mut totals = [zero; R];
    for (group, x) in x.chunks_exact(group_size).enumerate() {
        let bytes = rows.map(|row| &row.bytes[group * group_bytes..][..group_bytes]);
        let mut sums = [zero; R];
        for (i, x) in x.chunks_exact(C::UNIT).enumerate() {
            let units = bytes.map(|bytes| &bytes[i * C::UNIT_BYTES..][..C::UNIT_BYTES]);
            let (eights, _) = x.as_chunks::<8>();
            for (i, x) in eights.iter().enumerate() {
                let x = L::Vector::load(x);
                for (sum, unit) in sums.iter_mut().zip(units) {
                    *sum = eight::<C, L::Vector>(unit, i).mul_add::<L>(x, *sum);
                }
            }
        }
        for ((total, sum), row) in totals.iter_mut().zip(sums).zip(&rows) {
            let scale = L::Vector::splat(row.scales[group]);
            *total = sum.mul_add::<L>(scale, *total);
            if C::AFFINE {
                let bias = L::Vector::splat(row.biases[group]);
                *total = L::Vector::load(&x_sums[group]).mul_add::<L>(bias, *total);
            }
        }
    }
    totals.map(Vector::sum)
}

/// `out` is the sum of the rows, each times its element of `x`.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes, C: Codes>(x: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let group_size = out.len() / rows.groups.max(1);
    out.fill(0.0);
    let mut biases = vec![0.0; if C::AFFINE { rows.groups } else { 0 }];
    let blocks = x.len() / TOGETHER * TOGETHER;
    let (block_xs, rest) = x.split_at(blocks);
    let (many, _) = block_xs.as_chunks::<TOGETHER>();
    for (block, &x) in many.iter().enumerate() {
        let rows = std::array::from_fn(|i| rows.row(block * TOGETHER + i));
        add_rows::<L, C, TOGETHER>(x, rows, group_size, out, &mut biases);
    }
    for (i, &x) in rest.iter().enumerate() {
        add_rows::<L, C, 1>([x], [rows.row(blocks + i)], group_size, out, &mut biases);
    }
    for (out, bias) in out.chunks_exact_mut(group_size).zip(biases) {
        out.iter_mut().for_each(|out| *out = out.add(bias));
    }
}

#[inline(always)]
fn add_rows<L: Lanes, C: Codes, const R: usize>(
    x: [f32; R],
    rows: [Groups<'_>; R],
    group_size: usize,
    out: &mut [f32],
    biases: &mut [f32],
) {
    for (group, bias) in biases.iter_mut().enumerate() {
        for (x, row) in x.iter().zip(&rows) {
            *bias = L::mul_add(*x, row.biases[group], *bias);
        }
    }
    let group_bytes = group_size * C::BITS / 8;
    for (group, out) in out.chunks_exact_mut(group_size).enumerate() {
        let bytes = rows.map(|row| &row.bytes[group * group_bytes..][..group_bytes]);
        let factors: [L::Vector; R] =
            std::array::from_fn(|i| L::Vector::splat(x[i] * rows[i].scales[group]));
        for (i, out) in out.chunks_exact_mut(C::UNIT).enumerate() {
            let units = bytes.map(|bytes| &bytes[i * C::UNIT_BYTES..][..C::UNIT_BYTES]);
            let (eights, _) = out.as_chunks_mut::<8>();
            for (i, out) in eights.iter_mut().enumerate() {
                let mut sum = L::Vector::load(out);
                for (factor, unit) in factors.iter().zip(units) {
                    sum = eight::<C, L::Vector>(unit, i).mul_add::<L>(*factor, sum);
                }
                sum.store(out);
            }
        }
    }
}
