//! Arithmetic that reductions, updates and other combining kernels share, for every dtype.

use half::{bf16, f16};
use motet_core::dtype::Element;
use num_complex::Complex32;

use crate::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16};

/// An element that can be combined with others as MLX combines them.
pub(crate) trait Number: Element {
    /// The sum of nothing.
    const ZERO: Self;
    /// The product of nothing.
    const ONE: Self;
    /// The maximum of nothing.
    const LOWEST: Self;
    /// The minimum of nothing.
    const HIGHEST: Self;
    /// Wraps for integers; or for bool.
    fn add(self, other: Self) -> Self;
    /// Wraps for integers; and for bool.
    fn mul(self, other: Self) -> Self;
    /// Whether it comes before in ascending order; complex compares lexicographically.
    fn less(self, other: Self) -> bool;
    /// Whether it, or a part of it, is not a number.
    fn is_nan(self) -> bool;
    /// Whether it counts as false.
    fn is_zero(self) -> bool;
    /// The larger; NaN if either is NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if !self.is_nan() & (self.less(other) | other.is_nan()) {
            other
        } else {
            self
        }
    }
    /// The smaller; NaN if either is NaN.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if !self.is_nan() & (other.less(self) | other.is_nan()) {
            other
        } else {
            self
        }
    }
}

macro_rules! number {
    ($type:ty, $zero:expr, $one:expr, $lowest:expr, $highest:expr, |$a:ident, $b:ident| $add:expr, $mul:expr, $less:expr, $nan:expr) => {
        impl Number for $type {
            const ZERO: Self = $zero;
            const ONE: Self = $one;
            const LOWEST: Self = $lowest;
            const HIGHEST: Self = $highest;
            #[inline(always)]
            fn add(self, $b: Self) -> Self {
                let $a = self;
                $add
            }
            #[inline(always)]
            fn mul(self, $b: Self) -> Self {
                let $a = self;
                $mul
            }
            #[inline(always)]
            fn less(self, $b: Self) -> bool {
                let $a = self;
                $less
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                let $a = self;
                $nan
            }
            #[inline(always)]
            fn is_zero(self) -> bool {
                self == Self::ZERO
            }
        }
    };
}

macro_rules! integers {
    ($($type:ty),*) => {
        $(number!($type, 0, 1, <$type>::MIN, <$type>::MAX,
            |a, b| a.wrapping_add(b), a.wrapping_mul(b), a < b, { let _ = a; false });)*
    };
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64);
number!(
    bool,
    false,
    true,
    false,
    true,
    |a, b| a | b,
    a & b,
    !a & b,
    {
        let _ = a;
        false
    }
);
number!(
    f32,
    0.0,
    1.0,
    f32::NEG_INFINITY,
    f32::INFINITY,
    |a, b| a + b,
    a * b,
    a < b,
    f32::is_nan(a)
);
number!(
    f64,
    0.0,
    1.0,
    f64::NEG_INFINITY,
    f64::INFINITY,
    |a, b| a + b,
    a * b,
    a < b,
    f64::is_nan(a)
);
number!(
    f16,
    f16::ZERO,
    f16::ONE,
    f16::NEG_INFINITY,
    f16::INFINITY,
    |a, b| f16::from_f32(f16_to_f32(a) + f16_to_f32(b)),
    f16::from_f32(f16_to_f32(a) * f16_to_f32(b)),
    f16_to_f32(a) < f16_to_f32(b),
    f16::is_nan(a)
);
number!(
    bf16,
    bf16::ZERO,
    bf16::ONE,
    bf16::NEG_INFINITY,
    bf16::INFINITY,
    |a, b| f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b)),
    f32_to_bf16(bf16_to_f32(a) * bf16_to_f32(b)),
    bf16_to_f32(a) < bf16_to_f32(b),
    bf16::is_nan(a)
);
number!(
    Complex32,
    Complex32::new(0.0, 0.0),
    Complex32::new(1.0, 0.0),
    Complex32::new(f32::NEG_INFINITY, f32::NEG_INFINITY),
    Complex32::new(f32::INFINITY, f32::INFINITY),
    |a, b| a + b,
    a * b,
    a.re < b.re || (a.re == b.re && a.im < b.im),
    a.re.is_nan() || a.im.is_nan()
);

/// `with_number!(dtype, T => expression)`: the expression with `T` the Rust type of the dtype.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            motet_core::dtype::Dtype::Bool => {
                type $T = bool;
                $body
            }
            motet_core::dtype::Dtype::Uint8 => {
                type $T = u8;
                $body
            }
            motet_core::dtype::Dtype::Uint16 => {
                type $T = u16;
                $body
            }
            motet_core::dtype::Dtype::Uint32 => {
                type $T = u32;
                $body
            }
            motet_core::dtype::Dtype::Uint64 => {
                type $T = u64;
                $body
            }
            motet_core::dtype::Dtype::Int8 => {
                type $T = i8;
                $body
            }
            motet_core::dtype::Dtype::Int16 => {
                type $T = i16;
                $body
            }
            motet_core::dtype::Dtype::Int32 => {
                type $T = i32;
                $body
            }
            motet_core::dtype::Dtype::Int64 => {
                type $T = i64;
                $body
            }
            motet_core::dtype::Dtype::Float16 => {
                type $T = half::f16;
                $body
            }
            motet_core::dtype::Dtype::Float32 => {
                type $T = f32;
                $body
            }
            motet_core::dtype::Dtype::Float64 => {
                type $T = f64;
                $body
            }
            motet_core::dtype::Dtype::Bfloat16 => {
                type $T = half::bf16;
                $body
            }
            motet_core::dtype::Dtype::Complex64 => {
                type $T = num_complex::Complex32;
                $body
            }
        }
    };
}
pub(crate) use with_number;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_propagate_nan_and_keep_identities() {
        assert!(f32::NAN.max(f32::NAN).is_nan());
        assert!(Number::max(1.0f32, f32::NAN).is_nan() && Number::max(f32::NAN, 1.0f32).is_nan());
        assert!(Number::min(1.0f64, f64::NAN).is_nan() && Number::min(f64::NAN, 1.0f64).is_nan());
        assert_eq!(Number::max(f32::LOWEST, -5.0), -5.0);
        assert_eq!(Number::min(i8::HIGHEST, -5), -5);
        assert_eq!(
            Number::max(Complex32::new(1.0, 2.0), Complex32::new(1.0, 3.0)).im,
            3.0
        );
        assert_eq!(200u8.add(100), 44);
        assert!(true.add(true) && !true.mul(false));
    }
}
