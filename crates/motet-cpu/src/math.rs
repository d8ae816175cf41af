//! Elementary functions in float32, without branches so that loops over them vectorise.
//!
//! Polynomials were fitted for the least largest relative error on the interval that the range
//! reduction leaves. Relative errors are about 2e-7; the tests state each.

use std::f32::consts::{LN_2, LOG2_E, LOG10_E};

use crate::simd::Level;

/// ln 2 in two parts, the first with few enough bits that small multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Adding and subtracting 1.5 * 2^23 rounds to an integer, whose bits are then the low ones.
const ROUNDER: f32 = 12_582_912.0;

/// The polynomial with these coefficients, highest power first.
#[inline(always)]
fn polynomial<L: Level, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = L::mul_add(sum, x, c);
    }
    sum
}

/// `exp(r) - 1` for |r| <= 0.36.
#[inline(always)]
fn expm1_near_zero<L: Level>(r: f32) -> f32 {
    let p = polynomial::<L, 5>(
        r,
        [
            1.395_099_1e-3,
            8.369_208e-3,
            4.166_622e-2,
            0.166_665_23,
            0.5,
        ],
    );
    L::mul_add(r * r, p, r)
}

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// e to the power x.
#[inline(always)]
pub(crate) fn exp<L: Level>(x: f32) -> f32 {
    // Outside of these bounds the result is zero or infinite anyway; NaN passes through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = L::mul_add(x, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = L::mul_add(n, -LN_2_LOW, L::mul_add(n, -LN_2_HIGH, x));
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    // In two steps, as 2^128 and subnormal powers are no factors.
    let half = n >> 1;
    let rest = n.wrapping_sub(half);
    (1.0 + expm1_near_zero::<L>(r)) * power_of_two(half) * power_of_two(rest)
}

/// `exp(x) - 1`.
#[inline(always)]
pub(crate) fn expm1<L: Level>(x: f32) -> f32 {
    let far = exp::<L>(x) - 1.0;
    if x.abs() < 0.35 {
        expm1_near_zero::<L>(x)
    } else {
        far
    }
}

/// The natural logarithm as `exponent * ln 2 + mantissa`, for positive finite x.
#[inline(always)]
fn log_parts<L: Level>(x: f32) -> (f32, f32) {
    let tiny = x < f32::MIN_POSITIVE;
    let normal = if tiny { x * 8_388_608.0 } else { x };
    // Counted from sqrt(1/2), the mantissa is in sqrt(1/2)..sqrt(2).
    let start = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    let bits = normal.to_bits().wrapping_sub(start);
    let exponent = ((bits as i32) >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let f = f32::from_bits((bits & 0x007f_ffff).wrapping_add(start)) - 1.0;
    let p = polynomial::<L, 8>(
        f,
        [
            -7.646_038e-2,
            0.127_790_88,
            -0.131_641_99,
            0.141_997,
            -0.166_227_64,
            0.200_012_92,
            -0.250_008_38,
            0.333_333_3,
        ],
    );
    let square = f * f;
    (
        exponent,
        L::mul_add(square * f, p, L::mul_add(square, -0.5, f)),
    )
}

/// What logarithms of zero, negative numbers, infinity and NaN are; `finite` for others.
#[inline(always)]
fn log_edges(x: f32, finite: f32) -> f32 {
    let result = if x < f32::INFINITY { finite } else { x };
    let result = if x < 0.0 { f32::NAN } else { result };
    if x == 0.0 { f32::NEG_INFINITY } else { result }
}

/// The natural logarithm.
#[inline(always)]
pub(crate) fn log<L: Level>(x: f32) -> f32 {
    let (n, m) = log_parts::<L>(x);
    log_edges(x, L::mul_add(n, LN_2_HIGH, L::mul_add(n, LN_2_LOW, m)))
}

/// The logarithm to base 2; exact for powers of two.
#[inline(always)]
pub(crate) fn log2<L: Level>(x: f32) -> f32 {
    let (n, m) = log_parts::<L>(x);
    log_edges(x, L::mul_add(m, LOG2_E, n))
}

/// The logarithm to base 10.
#[inline(always)]
pub(crate) fn log10<L: Level>(x: f32) -> f32 {
    // log10(2) in two parts, as for ln 2.
    const HIGH: f32 = 0.300_781_25;
    const LOW: f32 = 2.487_456_6e-4;
    let (n, m) = log_parts::<L>(x);
    log_edges(x, L::mul_add(n, HIGH, L::mul_add(n, LOW, m * LOG10_E)))
}

/// `log(1 + x)`.
#[inline(always)]
pub(crate) fn log1p<L: Level>(x: f32) -> f32 {
    let u = 1.0 + x;
    // What rounding u lost, seen through the derivative of log.
    let lost = (x - (u - 1.0)) / u;
    let result = log::<L>(u);
    let result = if u > 0.0 && u < f32::INFINITY {
        result + lost
    } else {
        result
    };
    if u == 1.0 { x } else { result }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid<L: Level>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<L>(-x))
}

/// `exp(x) - 1` for |x| <= 80. One formula for small and large x: `2^n * (exp(r) - 1) + (2^n - 1)`.
#[inline(always)]
fn expm1_moderate<L: Level>(x: f32) -> f32 {
    let shifted = L::mul_add(x, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = L::mul_add(n, -LN_2_LOW, L::mul_add(n, -LN_2_HIGH, x));
    let power = power_of_two(shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32);
    L::mul_add(power, expm1_near_zero::<L>(r), power - 1.0)
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<L: Level>(x: f32) -> f32 {
    // From 9.1 on the result is 1; NaN passes through.
    let a = x.abs();
    let a = if a > 9.1 { 9.1 } else { a };
    // a = n * ln 2 / 2 + r: the first part's tangent is (1 - 2^-n) / (1 + 2^-n), the second one's a
    // polynomial, and the sum's a quotient of both.
    let shifted = L::mul_add(a, 2.0 * LOG2_E, ROUNDER);
    let r = L::mul_add(shifted - ROUNDER, -0.5 * LN_2, a);
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let power = power_of_two(n.wrapping_neg());
    let square = r * r;
    let p = polynomial::<L, 2>(square, [0.131_102_34, -0.333_312_66]);
    let t = L::mul_add(square * r, p, r);
    let (less, more) = (1.0 - power, 1.0 + power);
    (L::mul_add(t, more, less) / L::mul_add(t, less, more)).copysign(x)
}

/// The inverse of the hyperbolic tangent.
#[inline(always)]
pub(crate) fn atanh<L: Level>(x: f32) -> f32 {
    // The standard library's loses digits for negative x.
    let a = x.abs();
    (0.5 * log1p::<L>(2.0 * a / (1.0 - a))).copysign(x)
}

/// The inverse of the hyperbolic tangent in float64.
pub(crate) fn atanh_f64(x: f64) -> f64 {
    let a = x.abs();
    (0.5 * (2.0 * a / (1.0 - a)).ln_1p()).copysign(x)
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<L: Level>(x: f32) -> f32 {
    // 1 - exp(-q(x)), with a polynomial q; 4 is as good as infinity, and NaN passes through.
    let a = x.abs();
    let a = if a > 4.0 { 4.0 } else { a };
    let q = polynomial::<L, 9>(
        a,
        [
            -9.256_311e-6,
            1.176_416_6e-4,
            -6.328_382e-4,
            1.667_029_7e-3,
            -1.603_981_5e-4,
            -1.915_306_2e-2,
            0.102_777_83,
            0.636_619_4,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    (-expm1_moderate::<L>(-q * a)).copysign(x)
}

/// The inverse of the error function; infinite at 1 and -1, NaN outside.
#[inline(always)]
pub(crate) fn erf_inv<L: Level>(x: f32) -> f32 {
    let w = -log::<L>((1.0 - x) * (1.0 + x));
    let central = polynomial::<L, 9>(
        w - 2.5,
        [
            2.853_479e-8,
            3.437_270_7e-7,
            -3.528_859_5e-6,
            -4.396_781_4e-6,
            2.186_022e-4,
            -1.253_707_5e-3,
            -4.177_707_7e-3,
            0.246_640_73,
            1.501_409_4,
        ],
    );
    let tail = polynomial::<L, 9>(
        w.sqrt() - 3.0,
        [
            -1.275_135e-4,
            5.679_888e-5,
            1.247_408_2e-3,
            -3.629_363_5e-3,
            5.786_861_5e-3,
            -7.633_944_7e-3,
            9.431_544e-3,
            1.001_674_7,
            2.832_977,
        ],
    );
    let inside = x * if w < 5.0 { central } else { tail };
    if x.abs() == 1.0 {
        x * f32::INFINITY
    } else {
        inside
    }
}

/// Up to this size [`sin`], [`cos`] and [`tan`] reduce their argument exactly enough; beyond, the
/// caller takes the standard library's.
pub(crate) const TRIGONOMETRY_LIMIT: f32 = 1e6;

/// The distance to the nearest multiple of pi/2, and the number of that multiple modulo 2^32.
#[inline(always)]
fn reduce_quadrant(x: f32) -> (f32, i32) {
    // pi/2 in two parts: products of the first, of 33 bits, with small integers are exact.
    const HIGH: f64 = 1.570_796_326_734_125_6;
    const LOW: f64 = 6.077_100_506_506_192e-11;
    // 1.5 * 2^52, as ROUNDER in float64.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUNDER;
    let n = shifted - ROUNDER;
    (((x - n * HIGH) - n * LOW) as f32, shifted.to_bits() as i32)
}

/// Sine and cosine for |r| <= pi/4.
#[inline(always)]
fn sin_cos_near_zero<L: Level>(r: f32) -> (f32, f32) {
    let square = r * r;
    let s = polynomial::<L, 3>(square, [-1.951_665_5e-4, 8.332_173e-3, -0.166_666_55]);
    let c = polynomial::<L, 3>(square, [2.443_241e-5, -1.388_731e-3, 4.166_664_6e-2]);
    let sin = L::mul_add(square * r, s, r);
    let cos = L::mul_add(square * square, c, L::mul_add(square, -0.5, 1.0));
    (sin, cos)
}

#[inline(always)]
fn negate_if(negate: bool, x: f32) -> f32 {
    f32::from_bits(x.to_bits() ^ u32::from(negate) << 31)
}

/// The sine, up to [`TRIGONOMETRY_LIMIT`].
#[inline(always)]
pub(crate) fn sin<L: Level>(x: f32) -> f32 {
    let (r, n) = reduce_quadrant(x);
    let (sin, cos) = sin_cos_near_zero::<L>(r);
    let result = negate_if(n & 2 != 0, if n & 1 != 0 { cos } else { sin });
    // Keeps the sign of zero.
    if x == 0.0 { x } else { result }
}

/// The cosine, up to [`TRIGONOMETRY_LIMIT`].
#[inline(always)]
pub(crate) fn cos<L: Level>(x: f32) -> f32 {
    let (r, n) = reduce_quadrant(x);
    let (sin, cos) = sin_cos_near_zero::<L>(r);
    let n = n.wrapping_add(1);
    negate_if(n & 2 != 0, if n & 1 != 0 { cos } else { sin })
}

/// The tangent, up to [`TRIGONOMETRY_LIMIT`].
#[inline(always)]
pub(crate) fn tan<L: Level>(x: f32) -> f32 {
    let (r, n) = reduce_quadrant(x);
    let (sin, cos) = sin_cos_near_zero::<L>(r);
    let odd = n & 1 != 0;
    let result = if odd { -cos } else { sin } / if odd { sin } else { cos };
    if x == 0.0 { x } else { result }
}

/// The error function in float64.
pub(crate) fn erf_f64(x: f64) -> f64 {
    let square = x * x;
    if x.is_nan() {
        x
    } else if x.abs() < 2.5 {
        // 2/sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)): all positive.
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > sum.abs() * 1e-17 {
            n += 1.0;
            term *= 2.0 * square / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
    } else {
        // The continued fraction of erfc, from its end; 60 levels are enough from 2.5 on.
        let a = x.abs();
        let fraction = (1..=60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        let erfc = (-square).exp() / (fraction * std::f64::consts::PI.sqrt());
        (1.0 - erfc).copysign(x)
    }
}

/// The inverse of the error function in float64.
pub(crate) fn erf_inv_f64(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= 1.0 {
        return if x.abs() == 1.0 {
            x * f64::INFINITY
        } else {
            f64::NAN
        };
    }
    // Newton's steps with Halley's correction from a rough start.
    let w = -((1.0 - x) * (1.0 + x)).ln();
    let b = 2.0 / (std::f64::consts::PI * 0.147) - w / 2.0;
    let mut y = ((b * b + w / 0.147).sqrt() - b).max(0.0).sqrt().copysign(x);
    for _ in 0..3 {
        let error = (erf_f64(y) - x) / (std::f64::consts::FRAC_2_SQRT_PI * (-y * y).exp());
        y -= error / (1.0 + y * error);
    }
    y
}

/// `log(exp(a) + exp(b))`.
#[inline(always)]
pub(crate) fn log_add_exp<L: Level>(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    let sum = high + log1p::<L>(exp::<L>(low - high));
    let sum = if high == f32::INFINITY || low == f32::NEG_INFINITY {
        high
    } else {
        sum
    };
    // Comparisons put a NaN on either side; the sum of both has it.
    let both = a + b;
    if a.is_nan() | b.is_nan() { both } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Portable, Simd, leveled};

    /// The largest relative error over x, with subnormal results compared absolutely.
    fn worst(low: f32, high: f32, f: fn(f32) -> f32, reference: fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        let at = |i| low + (high - low) * (i as f32 / steps as f32);
        (0..=steps).map(at).fold(0.0, |worst: f64, x| {
            let (got, want) = (f64::from(f(x)), reference(f64::from(x)));
            let error = (got - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE));
            if got == want { worst } else { worst.max(error) }
        })
    }

    #[inline(always)]
    fn check<L: Level>() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        type Case = (&'static str, f32, f32, fn(f32) -> f32, fn(f64) -> f64, f64);
        let cases: [Case; 21] = [
            ("exp", -87.0, 88.7, exp::<L>, f64::exp, 1.5e-7),
            ("exp", -1.0, 1.0, exp::<L>, f64::exp, 1.5e-7),
            ("expm1", -2.0, 2.0, expm1::<L>, f64::exp_m1, 2.5e-7),
            ("expm1", -20.0, 88.0, expm1::<L>, f64::exp_m1, 2.5e-7),
            ("log", 1e-30, 4.0, log::<L>, f64::ln, 2e-7),
            ("log", 1.0, 1e30, log::<L>, f64::ln, 1.5e-7),
            ("log2", 1e-3, 9.0, log2::<L>, f64::log2, 2e-7),
            ("log10", 1e-3, 1e3, log10::<L>, f64::log10, 2.5e-7),
            ("log1p", -0.9, 3.0, log1p::<L>, f64::ln_1p, 2.5e-7),
            ("log1p", -1e-3, 1e-3, log1p::<L>, f64::ln_1p, 2e-7),
            ("sigmoid", -85.0, 30.0, sigmoid::<L>, sigmoid64, 2.5e-7),
            ("tanh", -10.0, 10.0, tanh::<L>, f64::tanh, 2.2e-7),
            ("tanh", -0.7, 0.7, tanh::<L>, f64::tanh, 2.2e-7),
            ("atanh", -0.999, 0.999, atanh::<L>, atanh_f64, 3e-7),
            ("erf", -5.0, 5.0, erf::<L>, erf_f64, 2e-7),
            ("erf", -0.1, 0.1, erf::<L>, erf_f64, 2e-7),
            ("erf_inv", -0.9999, 0.9999, erf_inv::<L>, erf_inv_f64, 6e-7),
            ("sin", -50.0, 50.0, sin::<L>, f64::sin, 2e-7),
            ("sin", 9e5, 1e6, sin::<L>, f64::sin, 2e-7),
            ("cos", -1e5, 1e5, cos::<L>, f64::cos, 2e-7),
            ("tan", -50.0, 50.0, tan::<L>, f64::tan, 3e-7),
        ];
        let mut failures = Vec::new();
        for (name, low, high, f, reference, bound) in cases {
            let error = worst(low, high, f, reference);
            if error > bound {
                failures.push(format!("{name} on {low}..{high}: {error:e}"));
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn errors_are_as_small_as_promised() {
        for simd in Simd::all() {
            leveled!(simd, check());
        }
    }

    #[test]
    fn edges_are_as_ieee_has_them() {
        type L = Portable;
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases: [(f32, f32); 32] = [
            (exp::<L>(88.8), inf),
            (exp::<L>(inf), inf),
            (exp::<L>(-inf), 0.0),
            (exp::<L>(-200.0), 0.0),
            (exp::<L>(0.0), 1.0),
            (exp::<L>(nan), nan),
            (expm1::<L>(-inf), -1.0),
            (expm1::<L>(inf), inf),
            (log::<L>(0.0), -inf),
            (log::<L>(-1.0), nan),
            (log::<L>(inf), inf),
            (log::<L>(nan), nan),
            (log::<L>(1.0), 0.0),
            (log2::<L>(f32::from_bits(1)), -149.0),
            (log2::<L>(1024.0), 10.0),
            (log1p::<L>(-1.0), -inf),
            (log1p::<L>(-2.0), nan),
            (log1p::<L>(inf), inf),
            (log1p::<L>(nan), nan),
            (sigmoid::<L>(-inf), 0.0),
            (sigmoid::<L>(inf), 1.0),
            (tanh::<L>(inf), 1.0),
            (tanh::<L>(-inf), -1.0),
            (tanh::<L>(nan), nan),
            (erf::<L>(-inf), -1.0),
            (erf::<L>(nan), nan),
            (erf_inv::<L>(1.0), inf),
            (erf_inv::<L>(-1.0), -inf),
            (erf_inv::<L>(1.5), nan),
            (log_add_exp::<L>(-inf, -inf), -inf),
            (log_add_exp::<L>(inf, 1.0), inf),
            (log_add_exp::<L>(1.0, nan), nan),
        ];
        for (i, (got, want)) in cases.into_iter().enumerate() {
            assert!(
                got == want || (got.is_nan() && want.is_nan()),
                "{i}: {got} {want}"
            );
        }
        assert!(log1p::<L>(-0.0).is_sign_negative() && sin::<L>(-0.0).is_sign_negative());
        assert!(tanh::<L>(-0.0).is_sign_negative() && erf::<L>(-0.0).is_sign_negative());
        assert!(exp::<L>(-100.0) > 0.0 && exp::<L>(-100.0) < f32::MIN_POSITIVE);
    }

    #[test]
    fn float64_error_function_is_exact() {
        // From tables of erf.
        for (x, want) in [
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.6, 0.999_763_965_583_470_7),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!(
                (erf_f64(x) - want).abs() < 3e-16 && erf_f64(-x) == -erf_f64(x),
                "{x}"
            );
            assert!(
                (erf_inv_f64(erf_f64(x)) - x).abs() < 1e-15 * (x * x).exp(),
                "{x}"
            );
        }
    }
}
