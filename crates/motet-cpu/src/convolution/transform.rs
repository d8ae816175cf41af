//! The transforms of Winograd's minimal filtering: four outputs of a filter of three taps take six
//! products instead of twelve, and 4x4 outputs of one of 3x3 taps 36 instead of 144.
//!
//! In one dimension, inputs and taps are polynomials. Their values at five points, and their first
//! coefficients, which stand for a sixth point at infinity, are multiplied in pairs; what polynomial
//! has these products as values gives the outputs. In two dimensions that is done along both.
//!
//! The points decide how much rounding there is. In the root mean square, of sums over 64 to 256 channels:
//! the usual 0, ±1 and ±2 lead to 4.4 times the error of sums one by one in float32, those below to 1.9 times
//! (3.3 times that of the direct way, which sums in parts). Their powers are exact. They come in pairs of
//! opposite sign, which share even and odd parts.

use crate::simd::{Level, Simd, leveled};
use crate::vector::Vector;

/// Outputs of a tile in a dimension.
pub(super) const OUTPUTS: usize = 4;
/// Inputs that these depend on.
pub(super) const INPUTS: usize = OUTPUTS + TAPS - 1;
/// Elements of the kernel in a dimension.
pub(super) const TAPS: usize = 3;
/// The products of a tile.
pub(super) const PLACES: usize = INPUTS * INPUTS;

/// The points are 0, ±A, ±B and infinity.
const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// The transformed kernel whose element of row i and column j is `tap(i, j)`.
pub(super) fn weights(tap: impl Fn(usize, usize) -> f32) -> [f32; PLACES] {
    let mut half = [[0.0; TAPS]; INPUTS];
    for j in 0..TAPS {
        let column = taps(std::array::from_fn(|i| f64::from(tap(i, j))));
        for (half, value) in half.iter_mut().zip(column) {
            half[j] = value;
        }
    }
    let whole = half.map(taps);
    std::array::from_fn(|place| whole[place / INPUTS][place % INPUTS] as f32)
}

/// In one dimension: the values of the taps' polynomial, each divided by the product of its point's
/// distances from the others.
fn taps([t0, t1, t2]: [f64; TAPS]) -> [f64; INPUTS] {
    let [a, b] = [A, B].map(f64::from);
    let [a2, b2] = [a * a, b * b];
    let [over_a, over_b] = [2.0 * a2 * (a2 - b2), 2.0 * b2 * (b2 - a2)];
    [
        t0 / (a2 * b2),
        (t0 + a2 * t2 + a * t1) / over_a,
        (t0 + a2 * t2 - a * t1) / over_a,
        (t0 + b2 * t2 + b * t1) / over_b,
        (t0 + b2 * t2 - b * t1) / over_b,
        t2,
    ]
}

/// Transforms a tile of the input: `from` are the addresses of its places, row by row, each with so
/// many channels. Those of place p are stored from `to + p * step` on.
///
/// # Safety
/// All these channels are readable, and writable by this thread alone where they are stored.
pub(super) unsafe fn input(
    simd: Simd,
    from: &[*const f32; PLACES],
    channels: usize,
    to: *mut f32,
    step: usize,
) {
    #[inline(always)]
    fn body<L: Level>(from: &[*const f32; PLACES], channels: usize, to: *mut f32, step: usize) {
        let whole = channels - channels % L::Vector::WIDTH;
        // SAFETY: by the outer function's contract.
        unsafe {
            for channel in (0..whole).step_by(L::Vector::WIDTH) {
                input_at::<L::Vector>(from, channel, to, step);
            }
            for channel in whole..channels {
                input_at::<f32>(from, channel, to, step);
            }
        }
    }
    leveled!(simd, body(from: &[*const f32; PLACES], channels: usize, to: *mut f32, step: usize));
}

/// # Safety
/// As for [`input`], for a vector of channels.
#[allow(
    clippy::needless_range_loop,
    reason = "unrolled early, as in `packed::block`"
)]
#[inline(always)]
unsafe fn input_at<V: Vector>(
    from: &[*const f32; PLACES],
    channel: usize,
    to: *mut f32,
    step: usize,
) {
    let mut half = [[V::splat(0.0); INPUTS]; INPUTS];
    for j in 0..INPUTS {
        let mut column = [V::splat(0.0); INPUTS];
        for i in 0..INPUTS {
            // SAFETY: by this function's contract.
            column[i] = unsafe { V::load(from[i * INPUTS + j].add(channel)) };
        }
        half[j] = inputs(column);
    }
    for i in 0..INPUTS {
        let mut row = [V::splat(0.0); INPUTS];
        for j in 0..INPUTS {
            row[j] = half[j][i];
        }
        let row = inputs(row);
        for j in 0..INPUTS {
            // SAFETY: by this function's contract.
            unsafe { row[j].store(to.add((i * INPUTS + j) * step + channel)) };
        }
    }
}

/// In one dimension.
#[inline(always)]
fn inputs<V: Vector>([x0, x1, x2, x3, x4, x5]: [V; INPUTS]) -> [V; INPUTS] {
    let [a, b, a2, b2] = [V::splat(A), V::splat(B), V::splat(-A2), V::splat(-B2)];
    let (product, sum) = (V::splat(A2 * B2), V::splat(-A2 - B2));
    let (even_a, odd_a) = (x2.mul_add(b2, x4), x1.mul_add(b2, x3));
    let (even_b, odd_b) = (x2.mul_add(a2, x4), x1.mul_add(a2, x3));
    [
        x0.mul_add(product, x2.mul_add(sum, x4)),
        odd_a.mul_add(a, even_a),
        odd_a.mul_add(a.neg(), even_a),
        odd_b.mul_add(b, even_b),
        odd_b.mul_add(b.neg(), even_b),
        x1.mul_add(product, x3.mul_add(sum, x5)),
    ]
}

/// Transforms the products of a tile back, for so many features: those of place p are at
/// `from + p * steps[0]`. The outputs that are `inside`, which are so many rows and columns, are stored, that
/// of row i and column j from `to + i * steps[1] + j * features` on.
///
/// # Safety
/// All these features are readable, and writable by this thread alone where they are stored.
pub(super) unsafe fn output(
    simd: Simd,
    from: *const f32,
    to: *mut f32,
    features: usize,
    steps: [usize; 2],
    inside: [usize; 2],
) {
    #[inline(always)]
    fn body<L: Level>(
        from: *const f32,
        to: *mut f32,
        features: usize,
        steps: [usize; 2],
        inside: [usize; 2],
    ) {
        let whole = features - features % L::Vector::WIDTH;
        // SAFETY: by the outer function's contract.
        unsafe {
            for feature in (0..whole).step_by(L::Vector::WIDTH) {
                output_at::<L::Vector>(from, to, [feature, features], steps, inside);
            }
            for feature in whole..features {
                output_at::<f32>(from, to, [feature, features], steps, inside);
            }
        }
    }
    leveled!(simd, body(
        from: *const f32, to: *mut f32, features: usize, steps: [usize; 2], inside: [usize; 2]
    ));
}

/// # Safety
/// As for [`output`], for a vector of features.
#[allow(
    clippy::needless_range_loop,
    reason = "unrolled early, as in `packed::block`"
)]
#[inline(always)]
unsafe fn output_at<V: Vector>(
    from: *const f32,
    to: *mut f32,
    [feature, features]: [usize; 2],
    [step, row_step]: [usize; 2],
    [rows, columns]: [usize; 2],
) {
    let mut half = [[V::splat(0.0); OUTPUTS]; INPUTS];
    for j in 0..INPUTS {
        let mut column = [V::splat(0.0); INPUTS];
        for i in 0..INPUTS {
            // SAFETY: by this function's contract.
            column[i] = unsafe { V::load(from.add((i * INPUTS + j) * step + feature)) };
        }
        half[j] = outputs(column);
    }
    for i in 0..OUTPUTS {
        let mut row = [V::splat(0.0); INPUTS];
        for j in 0..INPUTS {
            row[j] = half[j][i];
        }
        let row = outputs(row);
        for j in 0..OUTPUTS {
            if i < rows && j < columns {
                // SAFETY: by this function's contract.
                unsafe { row[j].store(to.add(i * row_step + j * features + feature)) };
            }
        }
    }
}

/// In one dimension.
#[inline(always)]
fn outputs<V: Vector>([x0, x1, x2, x3, x4, x5]: [V; INPUTS]) -> [V; OUTPUTS] {
    let (even_a, odd_a) = (x1.add(x2), x1.sub(x2));
    let (even_b, odd_b) = (x3.add(x4), x3.sub(x4));
    [
        x0.add(even_a).add(even_b),
        odd_a.mul_add(V::splat(A), odd_b.mul(V::splat(B))),
        even_a.mul_add(V::splat(A2), even_b.mul(V::splat(B2))),
        odd_a.mul_add(V::splat(A2 * A), odd_b.mul_add(V::splat(B2 * B), x5)),
    ]
}
