//! How arrays print: as MLX prints them, to the letter.
//!
//! Of dimensions with more than six elements the first and last three are shown. Numbers have six
//! significant digits, as C's `%g` writes them.

use std::fmt;

use half::{bf16, f16};
use num_complex::Complex32;

use crate::array::Array;
use crate::dtype::{Dtype, Element};
use crate::tensor::Tensor;

/// Dimensions that are longer are cut to [`EDGE`] elements at each end.
const SHOWN: usize = 6;
const EDGE: usize = 3;

/// Digits of floats that are shown.
const DIGITS: usize = 6;

impl fmt::Display for Array {
    /// As MLX prints it. Computes the array where needed; where that fails, the error is printed in
    /// place of the elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("array(")?;
        match self.tensor() {
            Ok(tensor) => write_part(f, &tensor, 0, tensor.offset as isize)?,
            Err(error) => write!(f, "error: {error}")?,
        }
        write!(f, ", dtype={})", self.dtype())
    }
}

/// The part of a tensor that the indices of the first `axis` dimensions select, whose first element
/// is at `offset`.
fn write_part(
    f: &mut fmt::Formatter<'_>,
    tensor: &Tensor,
    axis: usize,
    offset: isize,
) -> fmt::Result {
    let layout = &tensor.layout;
    let Some(&dim) = layout.shape.get(axis) else {
        return write_element(f, tensor, offset);
    };
    let separator = match axis + 1 == layout.shape.len() {
        true => ", ".to_owned(),
        false => format!(",\n{:1$}", "", "array([".len() + axis),
    };
    f.write_str("[")?;
    let mut index = 0;
    while index < dim {
        if index > 0 {
            f.write_str(&separator)?;
        }
        if dim > SHOWN && index == EDGE {
            write!(f, "...{separator}")?;
            index = dim - EDGE;
        }
        let step = layout.strides[axis] * layout.dtype.size() as isize;
        write_part(f, tensor, axis + 1, offset + index as isize * step)?;
        index += 1;
    }
    f.write_str("]")
}

fn write_element(f: &mut fmt::Formatter<'_>, tensor: &Tensor, offset: isize) -> fmt::Result {
    fn read<T: Element>(tensor: &Tensor, offset: isize) -> T {
        debug_assert_eq!(T::DTYPE, tensor.layout.dtype);
        // SAFETY: `offset` is that of an element, which lies inside of the buffer, and `T` is what
        // the dtype says; the address may be unaligned (a mapped file).
        unsafe {
            let address = tensor.buffer.as_ptr().offset(offset);
            address.cast::<T>().read_unaligned()
        }
    }
    macro_rules! value {
        ($type:ty) => {
            read::<$type>(tensor, offset)
        };
    }
    match tensor.layout.dtype {
        Dtype::Bool => f.write_str(if value!(bool) { "True" } else { "False" }),
        Dtype::Uint8 => write!(f, "{}", value!(u8)),
        Dtype::Uint16 => write!(f, "{}", value!(u16)),
        Dtype::Uint32 => write!(f, "{}", value!(u32)),
        Dtype::Uint64 => write!(f, "{}", value!(u64)),
        Dtype::Int8 => write!(f, "{}", value!(i8)),
        Dtype::Int16 => write!(f, "{}", value!(i16)),
        Dtype::Int32 => write!(f, "{}", value!(i32)),
        Dtype::Int64 => write!(f, "{}", value!(i64)),
        Dtype::Float16 => write_float(f, value!(f16).into()),
        Dtype::Float32 => write_float(f, value!(f32).into()),
        Dtype::Float64 => write_float(f, value!(f64)),
        Dtype::Bfloat16 => write_float(f, value!(bf16).into()),
        Dtype::Complex64 => {
            let Complex32 { re, im } = value!(Complex32);
            write_float(f, re.into())?;
            // Negative zero and NaN bring their own sign: `0+-0j`.
            f.write_str(if im < 0.0 { "" } else { "+" })?;
            write_float(f, im.into())?;
            f.write_str("j")
        }
    }
}

/// C's `%g`.
fn write_float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    if !value.is_finite() {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        return write!(f, "{sign}{}", if value.is_nan() { "nan" } else { "inf" });
    }
    let scientific = format!("{value:.0$e}", DIGITS - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
    let trimmed = |digits: &str| match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    };
    match usize::try_from(DIGITS as i32 - 1 - exponent) {
        Ok(decimals) if exponent >= -4 => f.write_str(&trimmed(&format!("{value:.decimals$}"))),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(f, "{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
        }
    }
}
