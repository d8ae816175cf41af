//! Arithmetic of kernels that compute rows of floats: in float32 for that and half types, in
//! float64 for that.

use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub};

use crate::math;
use crate::matmul::Factor;
use crate::simd::Level;

/// float32 or float64.
pub(crate) trait Real:
    Factor
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + MulAssign
{
    /// The smallest that is finite.
    const MIN: Self;
    /// The nearest to a count.
    fn from_count(count: usize) -> Self;
    fn is_finite(self) -> bool;
    fn sqrt(self) -> Self;
    /// `self * factor + term`, rounded once where float32 has an instruction for that.
    fn mul_add<L: Level>(self, factor: Self, term: Self) -> Self;
    fn exp<L: Level>(self) -> Self;
    fn log<L: Level>(self) -> Self;
}

macro_rules! real {
    ($type:ident, $mul_add:expr, $exp:expr, $log:expr) => {
        impl Real for $type {
            const MIN: Self = $type::MIN;
            #[inline(always)]
            fn from_count(count: usize) -> Self {
                count as $type
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $type::is_finite(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            #[inline(always)]
            fn mul_add<L: Level>(self, factor: Self, term: Self) -> Self {
                $mul_add(self, factor, term)
            }
            #[inline(always)]
            fn exp<L: Level>(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn log<L: Level>(self) -> Self {
                $log(self)
            }
        }
    };
}
real!(f32, L::mul_add, math::exp::<L>, math::log::<L>);
real!(f64, |a: f64, b, c| a * b + c, f64::exp, f64::ln);

/// Independent accumulators: vectors of them hide the latency of an operation.
const LANES: usize = 16;

/// The sum of `term` over pairs of elements of two rows of one length.
#[inline(always)]
pub(crate) fn sum_of<S: Real>(a: &[S], b: &[S], term: impl Fn(S, S) -> S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += term(a[i], b[i]);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += term(a, b);
    }
    lanes.into_iter().fold(S::ZERO, |sum, lane| sum + lane)
}

/// The largest element that is a number.
#[inline(always)]
pub(crate) fn maximum<S: Real>(row: &[S]) -> S {
    let larger = |a: S, b: S| if b > a { b } else { a };
    let mut lanes = [S::LOWEST; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(S::LOWEST, |a, &b| larger(a, b))
}

/// Replaces each element by `exp(x - center)`; returns their sum.
#[inline(always)]
pub(crate) fn exp_minus<L: Level, S: Real>(row: &mut [S], center: S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = (*x - center).exp::<L>();
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = (*x - center).exp::<L>();
        *lane += *x;
    }
    lanes.into_iter().fold(S::ZERO, |sum, lane| sum + lane)
}
