//! The element types of arrays: MLX's fourteen, with their codes in `.mlxfn` files.

use half::{bf16, f16};
use num_complex::Complex32;

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float16,
    Float32,
    Float64,
    Bfloat16,
    Complex64,
}

impl Dtype {
    /// All dtypes, in the order of their codes in `.mlxfn` files.
    pub const ALL: [Dtype; 14] = [
        Dtype::Bool,
        Dtype::Uint8,
        Dtype::Uint16,
        Dtype::Uint32,
        Dtype::Uint64,
        Dtype::Int8,
        Dtype::Int16,
        Dtype::Int32,
        Dtype::Int64,
        Dtype::Float16,
        Dtype::Float32,
        Dtype::Float64,
        Dtype::Bfloat16,
        Dtype::Complex64,
    ];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
            Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
            Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
        }
    }

    /// MLX's name, for instance `float32`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "bool",
            Dtype::Uint8 => "uint8",
            Dtype::Uint16 => "uint16",
            Dtype::Uint32 => "uint32",
            Dtype::Uint64 => "uint64",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Float16 => "float16",
            Dtype::Float32 => "float32",
            Dtype::Float64 => "float64",
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Complex64 => "complex64",
        }
    }

    /// The dtype with this code in a `.mlxfn` file.
    pub fn from_code(code: i32) -> Option<Dtype> {
        usize::try_from(code)
            .ok()
            .and_then(|code| Dtype::ALL.get(code).copied())
    }

    /// The dtype's code in a `.mlxfn` file.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// float16 or bfloat16.
    pub const fn is_half(self) -> bool {
        matches!(self, Dtype::Float16 | Dtype::Bfloat16)
    }

    /// A real floating type.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64
        )
    }

    /// A real or complex floating type: MLX's `inexact`.
    pub const fn is_inexact(self) -> bool {
        self.is_float() || matches!(self, Dtype::Complex64)
    }

    /// A signed or unsigned integer; not bool.
    pub const fn is_integer(self) -> bool {
        !self.is_inexact() && !matches!(self, Dtype::Bool)
    }

    /// The dtype that both convert to where they meet in one operation: MLX's `result_type`.
    ///
    /// ```
    /// # use motet_core::dtype::Dtype;
    /// assert_eq!(Dtype::Float16.promote(Dtype::Bfloat16), Dtype::Float32);
    /// assert_eq!(Dtype::Uint8.promote(Dtype::Int8), Dtype::Int16);
    /// ```
    #[doc(alias = "result_type")]
    pub fn promote(self, other: Dtype) -> Dtype {
        use Dtype::*;
        match (self, other) {
            (a, b) if a == b => a,
            (Bool, other) | (other, Bool) => other,
            (Complex64, _) | (_, Complex64) => Complex64,
            (Float64, _) | (_, Float64) => Float64,
            (a, b) if a.is_float() && b.is_float() => Float32,
            (float, _) | (_, float) if float.is_float() => float,
            (a, b) if a.is_unsigned() == b.is_unsigned() => match a.size() < b.size() {
                true => b,
                false => a,
            },
            (unsigned, signed) | (signed, unsigned) if unsigned.is_unsigned() => {
                match (unsigned, signed) {
                    (Uint64, _) => Float32,
                    (a, b) if a.size() < b.size() => b,
                    (Uint8, _) => Int16,
                    (Uint16, _) => Int32,
                    _ => Int64,
                }
            }
            (a, _) => a,
        }
    }

    /// Itself if inexact, else float32: what integers become in operations whose results are not
    /// whole.
    pub const fn at_least_float(self) -> Dtype {
        match self.is_inexact() {
            true => self,
            false => Dtype::Float32,
        }
    }

    /// An unsigned integer.
    pub const fn is_unsigned(self) -> bool {
        matches!(
            self,
            Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32 | Dtype::Uint64
        )
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A Rust type that array elements can have.
///
/// # Safety
/// `DTYPE.size() == size_of::<Self>()`, and every byte pattern that an array of this dtype holds is
/// a valid `Self` (arrays of dtype bool hold 0 and 1 only).
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The dtype with this Rust type as its elements.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(
            // SAFETY: the type has the size and the representation that its dtype is defined by.
            unsafe impl Element for $rust {
                const DTYPE: Dtype = Dtype::$dtype;
            }
        )*
    };
}

elements! {
    bool => Bool, u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f16 => Float16, f32 => Float32, f64 => Float64, bf16 => Bfloat16, Complex32 => Complex64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_sizes_round_trip() {
        for (code, dtype) in Dtype::ALL.into_iter().enumerate() {
            assert_eq!(dtype.code(), code as i32);
            assert_eq!(Dtype::from_code(code as i32), Some(dtype));
        }
        assert_eq!(Dtype::from_code(14), None);
        assert_eq!(Dtype::from_code(-1), None);
        assert_eq!(Complex32::DTYPE.size(), size_of::<Complex32>());
    }

    #[test]
    fn dtypes_promote_as_in_mlx() {
        use Dtype::*;
        // What MLX's `result_type` gives for each dtype (rows) with each (columns).
        let h = Float16;
        let (f, d, g, c) = (Float32, Float64, Bfloat16, Complex64);
        let (u1, u2, u4, u8) = (Uint8, Uint16, Uint32, Uint64);
        let (i1, i2, i4, i8) = (Int8, Int16, Int32, Int64);
        let table = [
            [Bool, u1, u2, u4, u8, i1, i2, i4, i8, h, f, d, g, c],
            [u1, u1, u2, u4, u8, i2, i2, i4, i8, h, f, d, g, c],
            [u2, u2, u2, u4, u8, i4, i4, i4, i8, h, f, d, g, c],
            [u4, u4, u4, u4, u8, i8, i8, i8, i8, h, f, d, g, c],
            [u8, u8, u8, u8, u8, f, f, f, f, h, f, d, g, c],
            [i1, i2, i4, i8, f, i1, i2, i4, i8, h, f, d, g, c],
            [i2, i2, i4, i8, f, i2, i2, i4, i8, h, f, d, g, c],
            [i4, i4, i4, i8, f, i4, i4, i4, i8, h, f, d, g, c],
            [i8, i8, i8, i8, f, i8, i8, i8, i8, h, f, d, g, c],
            [h, h, h, h, h, h, h, h, h, h, f, d, f, c],
            [f, f, f, f, f, f, f, f, f, f, f, d, f, c],
            [d, d, d, d, d, d, d, d, d, d, d, d, d, c],
            [g, g, g, g, g, g, g, g, g, f, f, d, g, c],
            [c, c, c, c, c, c, c, c, c, c, c, c, c, c],
        ];
        for (a, row) in Dtype::ALL.into_iter().zip(table) {
            for (b, expected) in Dtype::ALL.into_iter().zip(row) {
                assert_eq!(a.promote(b), expected, "{a} with {b}");
            }
        }
    }
}
