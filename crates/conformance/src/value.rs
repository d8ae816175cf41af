//! Values of the reference: elements as exact integers or in float64, whatever their dtype.

use half::{bf16, f16};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;
use num_complex::Complex64;

use crate::Verdict;

/// One element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Of an integer dtype, or 0 or 1 of bool.
    Int(i128),
    /// Of a real floating dtype.
    Float(f64),
    /// Of complex64.
    Complex(Complex64),
    /// MLX leaves open what it is.
    Any,
}

impl Scalar {
    /// The number as an element of `dtype`: wrapped for integers, `!= 0` for bool, rounded for
    /// floats, and the real part of a complex one for real dtypes.
    pub fn to(self, dtype: Dtype) -> Scalar {
        let (re, im) = match self {
            Scalar::Any => return Scalar::Any,
            Scalar::Int(int) => match dtype {
                Dtype::Bool => return Scalar::Int(i128::from(int != 0)),
                _ if dtype.is_integer() => return Scalar::Int(wrap(int, dtype)),
                _ => (int as f64, 0.0),
            },
            Scalar::Float(float) => (float, 0.0),
            Scalar::Complex(complex) => (complex.re, complex.im),
        };
        match dtype {
            Dtype::Bool => Scalar::Int(i128::from(re != 0.0 || im != 0.0)),
            Dtype::Complex64 => Scalar::Complex(Complex64::new(round(re, dtype), round(im, dtype))),
            _ if dtype.is_float() => Scalar::Float(round(re, dtype)),
            // Out of range, and negative to unsigned, processors do what they like.
            _ if wrap(re as i128, dtype) as f64 == re.trunc() => Scalar::Int(re as i128),
            _ => Scalar::Any,
        }
    }

    /// The integer.
    ///
    /// # Panics
    /// If it is none.
    pub fn int(self) -> i128 {
        match self {
            Scalar::Int(int) => int,
            other => panic!("{other:?} is no integer"),
        }
    }

    /// The number as a real one.
    ///
    /// # Panics
    /// If it is complex or open.
    pub fn real(self) -> f64 {
        match self {
            Scalar::Int(int) => int as f64,
            Scalar::Float(float) => float,
            other => panic!("{other:?} is not real"),
        }
    }

    /// The number as a complex one.
    ///
    /// # Panics
    /// If it is open.
    pub fn complex(self) -> Complex64 {
        match self {
            Scalar::Complex(complex) => complex,
            other => Complex64::new(other.real(), 0.0),
        }
    }

    /// The distance from zero.
    pub fn abs(self) -> f64 {
        match self {
            Scalar::Any => 0.0,
            other => other.complex().norm(),
        }
    }

    /// Whether it, or a part of it, is not a number.
    pub fn is_nan(self) -> bool {
        matches!(self, Scalar::Float(_) | Scalar::Complex(_)) && self.complex().is_nan()
    }
}

/// An integer modulo the numbers that a dtype has.
pub fn wrap(int: i128, dtype: Dtype) -> i128 {
    match dtype {
        Dtype::Bool => int & 1,
        Dtype::Uint8 => (int as u8).into(),
        Dtype::Uint16 => (int as u16).into(),
        Dtype::Uint32 => (int as u32).into(),
        Dtype::Uint64 => (int as u64).into(),
        Dtype::Int8 => (int as i8).into(),
        Dtype::Int16 => (int as i16).into(),
        Dtype::Int32 => (int as i32).into(),
        Dtype::Int64 => (int as i64).into(),
        _ => panic!("{dtype} has no integers"),
    }
}

/// The nearest number that a floating dtype (or each part of a complex one) has.
pub fn round(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float16 => f16::from_f64(value).to_f64(),
        Dtype::Bfloat16 => bf16::from_f64(value).to_f64(),
        Dtype::Float32 | Dtype::Complex64 => f64::from(value as f32),
        _ => value,
    }
}

/// A value: what it is, and its elements in row-major order.
#[derive(Clone, Debug)]
pub struct Value {
    /// Shape and dtype.
    pub spec: Spec,
    /// The elements.
    pub elements: Vec<Scalar>,
}

impl Value {
    /// The value of a tensor.
    pub fn of(tensor: &Tensor) -> Value {
        let spec = tensor.spec();
        let bytes = motet_io::row_major(tensor);
        let elements = bytes.chunks_exact(spec.dtype.size());
        let elements = elements.map(|bytes| scalar(bytes, spec.dtype)).collect();
        Value { spec, elements }
    }

    /// A tensor of it, row-major.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn tensor(&self) -> Result<Tensor> {
        let mut bytes = Vec::with_capacity(self.spec.bytes());
        for element in &self.elements {
            push_bytes(&mut bytes, element.to(self.spec.dtype), self.spec.dtype);
        }
        motet_io::from_row_major(&self.spec, &bytes)
    }
}

fn scalar(bytes: &[u8], dtype: Dtype) -> Scalar {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(word);
    let single = |bits: u64| f64::from(f32::from_bits(bits as u32));
    match dtype {
        Dtype::Float16 => Scalar::Float(f16::from_bits(bits as u16).to_f64()),
        Dtype::Bfloat16 => Scalar::Float(bf16::from_bits(bits as u16).to_f64()),
        Dtype::Float32 => Scalar::Float(single(bits)),
        Dtype::Float64 => Scalar::Float(f64::from_bits(bits)),
        Dtype::Complex64 => Scalar::Complex(Complex64::new(single(bits), single(bits >> 32))),
        _ => Scalar::Int(wrap(bits.into(), dtype)),
    }
}

fn push_bytes(bytes: &mut Vec<u8>, element: Scalar, dtype: Dtype) {
    let single = |value: f64| u64::from((value as f32).to_bits());
    let bits = match (element, dtype) {
        (Scalar::Int(int), _) => int as u64,
        (Scalar::Float(float), Dtype::Float16) => f16::from_f64(float).to_bits().into(),
        (Scalar::Float(float), Dtype::Bfloat16) => bf16::from_f64(float).to_bits().into(),
        (Scalar::Float(float), Dtype::Float32) => single(float),
        (Scalar::Float(float), _) => float.to_bits(),
        (Scalar::Complex(complex), _) => single(complex.re) | single(complex.im) << 32,
        (Scalar::Any, _) => 0,
    };
    bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.size()]);
}

/// What an element has to be, and how far from it a computation in its dtype may end.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The exact result.
    pub value: Scalar,
    /// The size of the numbers that were added up on the way: rounding is relative to them.
    pub scale: f64,
}

impl From<Scalar> for Expected {
    fn from(value: Scalar) -> Expected {
        let scale = value.abs();
        Expected { value, scale }
    }
}

/// The rounding that is allowed for, relative to the size of the numbers that are added: some units
/// in the last place of what the dtype is computed in, and one of its own.
pub fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float16 => 1.0 / 1024.0,
        Dtype::Bfloat16 => 1.0 / 128.0,
        Dtype::Float32 | Dtype::Complex64 => 2e-6,
        Dtype::Float64 => 2e-13,
        _ => 0.0,
    }
}

/// What is below the least normal number of the dtype may have become zero.
fn least(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float16 => 2f64.powi(-24),
        Dtype::Float64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    }
}

/// Compares a value with what its elements have to be; `Err` says where they differ.
///
/// # Errors
/// The first element that is not as expected.
pub fn compare(got: &Value, expected: &[Expected]) -> Verdict {
    let Spec { shape, dtype } = &got.spec;
    if got.elements.len() != expected.len() {
        let (got, expected) = (got.elements.len(), expected.len());
        return Err(format!("got {got} elements, expected {expected}"));
    }
    for (number, (&element, expected)) in got.elements.iter().zip(expected).enumerate() {
        if !is_close(element, expected, *dtype) {
            return Err(format!(
                "element {number} of {dtype}{shape}: got {element:?}, expected {:?} of scale {}",
                expected.value, expected.scale
            ));
        }
    }
    Ok(())
}

fn is_close(got: Scalar, expected: &Expected, dtype: Dtype) -> bool {
    let want = match expected.value {
        Scalar::Any => return true,
        want => want.to(dtype),
    };
    if let (Scalar::Int(got), Scalar::Int(want)) = (got, want) {
        return got == want;
    }
    let bound = tolerance(dtype) * expected.scale.max(want.abs()) + least(dtype);
    let close = |got: f64, want: f64| {
        got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= bound
    };
    let (got, want) = (got.complex(), want.complex());
    close(got.re, want.re) && close(got.im, want.im)
}
