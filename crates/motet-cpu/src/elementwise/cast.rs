//! Conversions between registers, and constants.

use motet_core::dtype::Dtype;
use num_complex::Complex32;

use super::run::{Run, run};

/// Conversion between dtypes that registers hold as they are: halves count as float32 here, and
/// are rounded by what stores them.
pub(super) fn cast(from: Dtype, to: Dtype) -> Run {
    macro_rules! integer {
        ($from:ty) => {
            match to {
                Dtype::Bool => run!(one, $from => u8, |x| u8::from(x != 0)),
                Dtype::Uint8 => run!(one, $from => u8, |x| x as u8),
                Dtype::Uint16 => run!(one, $from => u16, |x| x as u16),
                Dtype::Uint32 => run!(one, $from => u32, |x| x as u32),
                Dtype::Uint64 => run!(one, $from => u64, |x| x as u64),
                Dtype::Int8 => run!(one, $from => i8, |x| x as i8),
                Dtype::Int16 => run!(one, $from => i16, |x| x as i16),
                Dtype::Int32 => run!(one, $from => i32, |x| x as i32),
                Dtype::Int64 => run!(one, $from => i64, |x| x as i64),
                Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => {
                    run!(one, $from => f32, |x| x as f32)
                }
                Dtype::Float64 => run!(one, $from => f64, |x| x as f64),
                Dtype::Complex64 => {
                    run!(one, $from => Complex32, |x| Complex32::new(x as f32, 0.0))
                }
            }
        };
    }
    // Negative values wrap in unsigned types, as in MLX on this kind of processor.
    macro_rules! float {
        ($from:ty, |$x:ident| $real:expr, $truth:expr, $complex:expr) => {
            match to {
                Dtype::Bool => run!(one, $from => u8, |$x| u8::from($truth)),
                Dtype::Uint8 => run!(one, $from => u8, |$x| $real as i32 as u8),
                Dtype::Uint16 => run!(one, $from => u16, |$x| $real as i32 as u16),
                Dtype::Uint32 => run!(one, $from => u32, |$x| $real as i64 as u32),
                Dtype::Uint64 => run!(one, $from => u64, |$x| {
                    if $real < 0.0 { $real as i64 as u64 } else { $real as u64 }
                }),
                Dtype::Int8 => run!(one, $from => i8, |$x| $real as i32 as i8),
                Dtype::Int16 => run!(one, $from => i16, |$x| $real as i32 as i16),
                Dtype::Int32 => run!(one, $from => i32, |$x| $real as i32),
                Dtype::Int64 => run!(one, $from => i64, |$x| $real as i64),
                Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => {
                    run!(one, $from => f32, |$x| $real as f32)
                }
                Dtype::Float64 => run!(one, $from => f64, |$x| $real as f64),
                Dtype::Complex64 => run!(one, $from => Complex32, |$x| $complex),
            }
        };
    }
    match from {
        Dtype::Bool | Dtype::Uint8 => integer!(u8),
        Dtype::Uint16 => integer!(u16),
        Dtype::Uint32 => integer!(u32),
        Dtype::Uint64 => integer!(u64),
        Dtype::Int8 => integer!(i8),
        Dtype::Int16 => integer!(i16),
        Dtype::Int32 => integer!(i32),
        Dtype::Int64 => integer!(i64),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => {
            float!(f32, |x| x, x != 0.0, Complex32::new(x, 0.0))
        }
        Dtype::Float64 => float!(f64, |x| x, x != 0.0, Complex32::new(x as f32, 0.0)),
        Dtype::Complex64 => float!(Complex32, |z| z.re, z.re != 0.0 || z.im != 0.0, z),
    }
}

/// A constant as the bytes of a register's element.
pub(super) fn constant(value: f64, dtype: Dtype) -> [u8; 8] {
    macro_rules! bytes {
        ($value:expr) => {{
            let mut bytes = [0; 8];
            let value = $value.to_ne_bytes();
            bytes[..value.len()].copy_from_slice(&value);
            bytes
        }};
    }
    match dtype {
        Dtype::Bool => bytes!(u8::from(value != 0.0)),
        Dtype::Uint8 => bytes!((value as u8)),
        Dtype::Uint16 => bytes!((value as u16)),
        Dtype::Uint32 => bytes!((value as u32)),
        Dtype::Uint64 => bytes!((value as u64)),
        Dtype::Int8 => bytes!((value as i8)),
        Dtype::Int16 => bytes!((value as i16)),
        Dtype::Int32 => bytes!((value as i32)),
        Dtype::Int64 => bytes!((value as i64)),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Complex64 => {
            bytes!((value as f32))
        }
        Dtype::Float64 => bytes!(value),
    }
}
