//! A row of x times packed weights, unpacked in registers: for so few rows that reading the weights
//! is the work.
//!
//! A scale is applied to what a group sums up to, and a bias to the sum of the group's x.

use super::eight::{Eight, Lanes};
use super::unpack::{Codes, Rows, eight};
use crate::vector::Vector;

/// `out[i]` is the product of `x` and row `i`.
#[inline(always)]
pub(super) fn dots<L: Lanes, C: Codes>(x: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    match x.len() / rows.groups.max(1) / C::UNIT {
        1 => dots_of::<L, C, 1>(x, rows, out),
        2 => dots_of::<L, C, 2>(x, rows, out),
        _ => dots_of::<L, C, 4>(x, rows, out),
    }
}

/// [`dots`] of groups of so many units.
#[inline(always)]
fn dots_of<L: Lanes, C: Codes, const UNITS: usize>(x: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let zero = L::Eight::splat(0.0);
    let x_groups = || x.chunks_exact(UNITS * C::UNIT);
    let x_sums: Vec<[f32; 8]> = x_groups().map(sum_of_eights).collect();
    for (i, out) in out.iter_mut().enumerate() {
        let row = rows.row(i);
        let (mut total, mut bias_total) = (zero, zero);
        let groups = row
            .bytes
            .chunks_exact(UNITS * C::UNIT_BYTES)
            .zip(x_groups());
        for ((bytes, x), &scale) in groups.zip(row.scales) {
            let mut sums = [zero; 2];
            for unit in 0..UNITS {
                for i in 0..C::UNIT / 8 {
                    let x = L::Eight::read(&x[unit * C::UNIT..].as_chunks::<8>().0[i]);
                    let codes = &bytes[unit * C::UNIT_BYTES..];
                    sums[i % 2] = eight::<C, L::Eight>(codes, i).mul_add(x, sums[i % 2]);
                }
            }
            total = sums[0].add(sums[1]).mul_add(L::Eight::splat(scale), total);
        }
        if C::AFFINE {
            for (&bias, x_sum) in row.biases.iter().zip(&x_sums) {
                let bias = L::Eight::splat(bias);
                bias_total = L::Eight::read(x_sum).mul_add(bias, bias_total);
            }
        }
        *out = total.add(bias_total).sum();
    }
}

/// The sum of vectors of eight.
#[inline(always)]
fn sum_of_eights(x: &[f32]) -> [f32; 8] {
    let mut sum = [0.0; 8];
    for x in x.as_chunks::<8>().0 {
        for i in 0..8 {
            sum[i] += x[i];
        }
    }
    sum
}

/// `out` is the sum of the rows, each times its element of `x`.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes, C: Codes>(x: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let group_size = out.len() / rows.groups.max(1);
    let group_bytes = group_size * C::BITS / 8;
    let mut biases = vec![0.0; rows.groups];
    out.fill(0.0);
    for (i, &x) in x.iter().enumerate() {
        let row = rows.row(i);
        let bytes = row.bytes.chunks_exact(group_bytes);
        let groups = bytes.zip(out.chunks_exact_mut(group_size)).zip(row.scales);
        for ((bytes, out), &scale) in groups {
            let factor = L::Eight::splat(x * scale);
            let units = bytes.chunks_exact(C::UNIT_BYTES);
            for (unit, out) in units.zip(out.chunks_exact_mut(C::UNIT)) {
                for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let values = eight::<C, L::Eight>(unit, i);
                    values.mul_add(factor, L::Eight::read(out)).write(out);
                }
            }
        }
        for (sum, &bias) in biases.iter_mut().zip(row.biases) {
            *sum = L::mul_add(x, bias, *sum);
        }
    }
    for (out, bias) in out.chunks_exact_mut(group_size).zip(biases) {
        out.iter_mut().for_each(|out| *out += bias);
    }
}
