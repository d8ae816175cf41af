//! Arguments of operations: arrays, and numbers that take on the dtype of what they meet.

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use crate::array::{Array, apply::astype};
use crate::dtype::Dtype;
use crate::error::Result;

/// An argument of an operation. Functions take `impl Into<Operand>`, so that arrays, references to
/// them and numbers can be passed alike.
///
/// A number has no dtype of its own: beside an array it takes on the array's, unless that cannot hold
/// numbers of its kind. So `&x + 1.5` keeps float16 what it is and makes float32 of int32, as in
/// MLX's Python interface.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Operand {
    Array(Array),
    Bool(bool),
    Int(i64),
    Float(f64),
    Complex(Complex32),
}

impl Operand {
    /// The dtype that it has beside arrays of `beside`, or with no array beside it.
    pub fn dtype(&self, beside: Option<Dtype>) -> Dtype {
        match (self, beside) {
            (Operand::Array(array), _) => array.dtype(),
            (Operand::Bool(_), beside) => beside.unwrap_or(Dtype::Bool),
            (Operand::Int(_), Some(dtype)) if dtype != Dtype::Bool => dtype,
            (Operand::Int(value), _) => match i32::try_from(*value) {
                Ok(_) => Dtype::Int32,
                Err(_) => Dtype::Int64,
            },
            (Operand::Float(_), Some(dtype)) if dtype.is_float() => dtype,
            (Operand::Float(_), _) => Dtype::Float32,
            (Operand::Complex(_), _) => Dtype::Complex64,
        }
    }

    /// The array of this dtype; of no dimensions for a number. Conversions are those of `astype`.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn into_array(self, dtype: Dtype) -> Result<Array> {
        macro_rules! real {
            ($value:ident) => {
                match dtype {
                    Dtype::Bool => Array::from($value as f64 != 0.0),
                    Dtype::Uint8 => Array::from($value as i64 as u8),
                    Dtype::Uint16 => Array::from($value as i64 as u16),
                    Dtype::Uint32 => Array::from($value as i64 as u32),
                    Dtype::Uint64 => Array::from($value as i64 as u64),
                    Dtype::Int8 => Array::from($value as i64 as i8),
                    Dtype::Int16 => Array::from($value as i64 as i16),
                    Dtype::Int32 => Array::from($value as i64 as i32),
                    Dtype::Int64 => Array::from($value as i64),
                    // In one step: rounding to float32 first would round twice.
                    Dtype::Float16 => Array::from(f16::from_f64($value as f64)),
                    Dtype::Bfloat16 => Array::from(bf16::from_f64($value as f64)),
                    Dtype::Float32 => Array::from($value as f32),
                    Dtype::Float64 => Array::from($value as f64),
                    Dtype::Complex64 => Array::from(Complex32::new($value as f32, 0.0)),
                }
            };
        }
        Ok(match self {
            Operand::Array(array) => return astype(&array, dtype),
            Operand::Bool(value) => {
                let value = i64::from(value);
                real!(value)
            }
            Operand::Int(value) => real!(value),
            Operand::Float(value) => real!(value),
            Operand::Complex(value) => return astype(&Array::from(value), dtype),
        })
    }

    /// The array: as it is, or of the dtype that the number has alone.
    ///
    /// # Errors
    /// As [`into_array`](Operand::into_array).
    pub fn into_own_array(self) -> Result<Array> {
        let dtype = self.dtype(None);
        self.into_array(dtype)
    }
}

macro_rules! from {
    ($($type:ty: |$value:ident| $operand:expr;)*) => {
        $(impl From<$type> for Operand {
            fn from($value: $type) -> Operand {
                $operand
            }
        })*
    };
}

from! {
    Array: |array| Operand::Array(array);
    &Array: |array| Operand::Array(array.clone());
    &&Array: |array| Operand::Array((*array).clone());
    bool: |value| Operand::Bool(value);
    u8: |value| Operand::Int(value.into());
    i8: |value| Operand::Int(value.into());
    u16: |value| Operand::Int(value.into());
    i16: |value| Operand::Int(value.into());
    u32: |value| Operand::Int(value.into());
    i32: |value| Operand::Int(value.into());
    i64: |value| Operand::Int(value);
    f16: |value| Operand::Float(value.into());
    bf16: |value| Operand::Float(value.into());
    f32: |value| Operand::Float(value.into());
    f64: |value| Operand::Float(value);
    Complex32: |value| Operand::Complex(value);
    Complex64: |value| Operand::Complex(Complex32::new(value.re as f32, value.im as f32));
}
