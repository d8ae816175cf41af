//! Whether a result is what was expected.
//!
//! `|got - expected| <= absolute + relative * |expected|` for floats and, with moduli, for complex
//! numbers; NaN equals NaN; infinities, integers and bools must be equal. Half types are compared
//! as the float32 that they are.
//!
//! Nothing is exempt. The singular vectors of an SVD have no determined sign, but none of the
//! bundled samples outputs them: they output singular values or the product, which have one.

use half::{bf16, f16};
use motet_core::dtype::Dtype;
use motet_core::tensor::Tensor;
use motet_io::row_major;

/// How far a result may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

impl Tolerance {
    /// What is asked where nobody said more: about what the dtype's precision leaves after the sums
    /// of a small model.
    pub fn default_for(dtype: Dtype) -> Tolerance {
        let both = match dtype {
            Dtype::Float16 => 1e-2,
            Dtype::Bfloat16 => 5e-2,
            Dtype::Float32 | Dtype::Complex64 => 1e-4,
            Dtype::Float64 => 1e-9,
            _ => 0.0,
        };
        Tolerance {
            relative: both,
            absolute: both,
        }
    }

    fn allows(self, error: f64, expected: f64) -> bool {
        error <= self.absolute + self.relative * expected
    }
}

/// Whether `got` is `expected` within `tolerance`; if not, where and by how much it is off.
pub fn compare(got: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<(), String> {
    let (spec, wanted) = (got.spec(), expected.spec());
    if spec != wanted {
        return Err(format!("got {spec}, expected {wanted}"));
    }
    let size = spec.dtype.size();
    let (got, expected) = (row_major(got), row_major(expected));
    if got == expected {
        return Ok(());
    }
    let pairs = got.chunks_exact(size).zip(expected.chunks_exact(size));
    let mut wrong = pairs.enumerate().filter(|(_, (got, expected))| {
        got != expected && !close(spec.dtype, got, expected, tolerance)
    });
    let Some((at, (got, expected))) = wrong.next() else {
        return Ok(());
    };
    let count = 1 + wrong.count();
    Err(format!(
        "{count} of {} elements differ, the first at index {}: got {}, expected {} \
         (tolerance: relative {:e}, absolute {:e})",
        spec.shape.size(),
        unravel(at, &spec.shape),
        show(spec.dtype, got),
        show(spec.dtype, expected),
        tolerance.relative,
        tolerance.absolute,
    ))
}

/// Whether two tensors are the same to the bit.
pub fn identical(a: &Tensor, b: &Tensor) -> bool {
    a.spec() == b.spec() && row_major(a) == row_major(b)
}

/// An element for people.
pub fn show(dtype: Dtype, bytes: &[u8]) -> String {
    macro_rules! number {
        ($type:ty) => {
            <$type>::from_ne_bytes(bytes.try_into().expect("an element has its dtype's size"))
        };
    }
    match dtype {
        Dtype::Bool => (bytes[0] != 0).to_string(),
        Dtype::Uint8 => bytes[0].to_string(),
        Dtype::Uint16 => number!(u16).to_string(),
        Dtype::Uint32 => number!(u32).to_string(),
        Dtype::Uint64 => number!(u64).to_string(),
        Dtype::Int8 => number!(i8).to_string(),
        Dtype::Int16 => number!(i16).to_string(),
        Dtype::Int32 => number!(i32).to_string(),
        Dtype::Int64 => number!(i64).to_string(),
        Dtype::Float32 => number!(f32).to_string(),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64 => float(dtype, bytes).to_string(),
        Dtype::Complex64 => {
            let (re, im) = complex(bytes);
            format!("{re}{im:+}j")
        }
    }
}

fn close(dtype: Dtype, got: &[u8], expected: &[u8], tolerance: Tolerance) -> bool {
    if dtype == Dtype::Complex64 {
        let ((a, b), (c, d)) = (complex(got), complex(expected));
        if [a, b, c, d].iter().all(|part| part.is_finite()) {
            return tolerance.allows((a - c).hypot(b - d), c.hypot(d));
        }
        return floats_close(a, c, tolerance) && floats_close(b, d, tolerance);
    }
    // Integers and bools that differ in a bit differ.
    dtype.is_float() && floats_close(float(dtype, got), float(dtype, expected), tolerance)
}

fn floats_close(got: f64, expected: f64, tolerance: Tolerance) -> bool {
    if got.is_finite() && expected.is_finite() {
        tolerance.allows((got - expected).abs(), expected.abs())
    } else {
        got == expected || (got.is_nan() && expected.is_nan())
    }
}

fn float(dtype: Dtype, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (Dtype::Float16, &[a, b]) => f16::from_ne_bytes([a, b]).to_f32().into(),
        (Dtype::Bfloat16, &[a, b]) => bf16::from_ne_bytes([a, b]).to_f32().into(),
        (_, &[a, b, c, d]) => f32::from_ne_bytes([a, b, c, d]).into(),
        _ => f64::from_ne_bytes(bytes.try_into().expect("a float64 has 8 bytes")),
    }
}

fn complex(bytes: &[u8]) -> (f64, f64) {
    let (re, im) = bytes.split_at(size_of::<f32>());
    (float(Dtype::Float32, re), float(Dtype::Float32, im))
}

fn unravel(mut at: usize, shape: &[usize]) -> String {
    let mut index: Vec<String> = Vec::new();
    for &dim in shape.iter().rev() {
        index.push((at % dim).to_string());
        at /= dim;
    }
    index.reverse();
    format!("({})", index.join(","))
}

#[cfg(test)]
mod tests {
    use motet_core::shape::Spec;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        relative: 1e-2,
        absolute: 1e-3,
    };

    fn tensor(dtype: Dtype, bytes: &[u8]) -> Tensor {
        let spec = Spec::new([bytes.len() / dtype.size()], dtype);
        motet_io::from_row_major(&spec, bytes).unwrap()
    }

    fn floats(values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();
        tensor(Dtype::Float32, &bytes)
    }

    fn agree(got: f32, expected: f32) -> bool {
        compare(&floats(&[got]), &floats(&[expected]), TOLERANCE).is_ok()
    }

    #[test]
    fn floats_agree_within_the_tolerance_alone() {
        assert!(agree(100.9, 100.0) && !agree(101.2, 100.0));
        assert!(agree(0.0009, 0.0) && !agree(0.0011, 0.0));
        assert!(agree(0.0, -0.0));
        assert!(agree(f32::NAN, -f32::NAN) && !agree(f32::NAN, 1.0) && !agree(1.0, f32::NAN));
        assert!(agree(f32::INFINITY, f32::INFINITY) && !agree(1.0, f32::INFINITY));
        assert!(!agree(f32::INFINITY, f32::NEG_INFINITY) && !agree(f32::INFINITY, f32::MAX));
    }

    #[test]
    fn other_dtypes() {
        let agree = |dtype, a: &[u8], b: &[u8]| {
            compare(&tensor(dtype, a), &tensor(dtype, b), TOLERANCE).is_ok()
        };
        let half = |value: f32| f16::from_f32(value).to_ne_bytes();
        assert!(agree(Dtype::Float16, &half(1.005), &half(1.0)));
        assert!(!agree(Dtype::Float16, &half(1.02), &half(1.0)));
        let brain = |value: f32| bf16::from_f32(value).to_ne_bytes();
        assert!(agree(Dtype::Bfloat16, &brain(1.008), &brain(1.0)));
        assert!(!agree(Dtype::Bfloat16, &brain(1.03), &brain(1.0)));
        assert!(agree(
            Dtype::Float64,
            &1.005f64.to_ne_bytes(),
            &1f64.to_ne_bytes()
        ));
        assert!(!agree(
            Dtype::Int32,
            &1_000_001i32.to_ne_bytes(),
            &1_000_000i32.to_ne_bytes()
        ));
        assert!(!agree(Dtype::Bool, &[1], &[0]));
        let pair = |re: f32, im: f32| [re.to_ne_bytes(), im.to_ne_bytes()].concat();
        // The error is measured against the modulus, so a small part may be off by more.
        assert!(agree(
            Dtype::Complex64,
            &pair(100.0, 0.5),
            &pair(100.0, 0.0)
        ));
        assert!(!agree(
            Dtype::Complex64,
            &pair(100.0, 2.0),
            &pair(100.0, 0.0)
        ));
        assert!(!agree(
            Dtype::Complex64,
            &pair(f32::NAN, 2.0),
            &pair(f32::NAN, 1.0)
        ));
    }

    #[test]
    fn the_message_says_where_and_how_many() {
        let message = compare(
            &floats(&[1.0, 2.0, 9.0]),
            &floats(&[1.0, 3.0, 4.0]),
            TOLERANCE,
        );
        let message = message.unwrap_err();
        assert!(message.starts_with("2 of 3 elements differ, the first at index (1): got 2, "));
        assert!(compare(&floats(&[1.0]), &floats(&[1.0, 1.0]), TOLERANCE).is_err());
    }
}
