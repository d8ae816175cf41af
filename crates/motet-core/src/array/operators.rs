//! Operators on arrays: `&a + &b`, `1.0 - &a`, `-a`, `a += 2`.
//!
//! They do what the functions of that meaning do, dtype promotion and broadcasting included. Where
//! those return an error operators panic with the same message, at the caller's line: an operator
//! cannot return a `Result`.

use std::ops;

use crate::array::apply::{apply_one, binary, binary_float};
use crate::array::{Array, Operand};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::ops::elementwise::{
    Add, BitwiseBinary, BitwiseOp, Divide, LogicalNot, Multiply, Negative, Remainder, Subtract,
};

/// Bitwise complement; `not` for bool. MLX's `bitwise_invert`.
///
/// # Errors
/// Where the array holds neither integers nor bools.
pub fn bitwise_invert(x: &Array) -> Result<Array> {
    match x.dtype() {
        Dtype::Bool => apply_one(LogicalNot, std::slice::from_ref(x)),
        _ => binary(bitwise(BitwiseOp::Xor), x, -1),
    }
}

fn bitwise(op: BitwiseOp) -> BitwiseBinary {
    BitwiseBinary { op }
}

#[track_caller]
fn must(result: Result<Array>) -> Array {
    result.unwrap_or_else(|error| panic!("{error}"))
}

macro_rules! operators {
    ($($trait:ident $method:ident, $assign_trait:ident $assign:ident: $function:ident($primitive:expr);)*) => {$(
        impl<T: Into<Operand>> ops::$trait<T> for &Array {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: T) -> Array {
                must($function($primitive, self, other))
            }
        }

        impl<T: Into<Operand>> ops::$trait<T> for Array {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: T) -> Array {
                must($function($primitive, self, other))
            }
        }

        impl<T: Into<Operand>> ops::$assign_trait<T> for Array {
            #[track_caller]
            fn $assign(&mut self, other: T) {
                *self = must($function($primitive, &*self, other));
            }
        }

        operators! { number $trait $method $function($primitive): bool i32 i64 f32 f64 }
    )*};
    (number $trait:ident $method:ident $function:ident($primitive:expr): $($number:ident)*) => {$(
        impl ops::$trait<&Array> for $number {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: &Array) -> Array {
                must($function($primitive, self, other))
            }
        }

        impl ops::$trait<Array> for $number {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: Array) -> Array {
                must($function($primitive, self, other))
            }
        }
    )*};
}

operators! {
    Add add, AddAssign add_assign: binary(Add);
    Sub sub, SubAssign sub_assign: binary(Subtract);
    Mul mul, MulAssign mul_assign: binary(Multiply);
    Div div, DivAssign div_assign: binary_float(Divide);
    Rem rem, RemAssign rem_assign: binary(Remainder);
    BitAnd bitand, BitAndAssign bitand_assign: binary(bitwise(BitwiseOp::And));
    BitOr bitor, BitOrAssign bitor_assign: binary(bitwise(BitwiseOp::Or));
    BitXor bitxor, BitXorAssign bitxor_assign: binary(bitwise(BitwiseOp::Xor));
    Shl shl, ShlAssign shl_assign: binary(bitwise(BitwiseOp::LeftShift));
    Shr shr, ShrAssign shr_assign: binary(bitwise(BitwiseOp::RightShift));
}

impl ops::Neg for &Array {
    type Output = Array;
    #[track_caller]
    fn neg(self) -> Array {
        must(apply_one(Negative, std::slice::from_ref(self)))
    }
}

impl ops::Neg for Array {
    type Output = Array;
    #[track_caller]
    fn neg(self) -> Array {
        -&self
    }
}

impl ops::Not for &Array {
    type Output = Array;
    #[track_caller]
    fn not(self) -> Array {
        must(bitwise_invert(self))
    }
}

impl ops::Not for Array {
    type Output = Array;
    #[track_caller]
    fn not(self) -> Array {
        !&self
    }
}
