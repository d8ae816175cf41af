//! A primitive's parameters as a file stores them.
//!
//! [`operation!`](crate::ops) declares a primitive's struct with its fields once, in file order;
//! reading, writing and printing follow from the fields. Where an older MLX stored a state without
//! a field, the field says `=> since (0, 32, 4) or VALUE`.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::export::codec::{Reader, Version, Writer};
use crate::kernel::{
    Convolution, Quantization, QuantizationMode, Reduction, ScanOp, Triangle, Update,
};
use crate::shape::{Axes, Shape};

/// The parameters of a primitive, all together: what follows its name in a file.
pub trait State: Sized {
    /// The name in files.
    const NAME: &'static str;

    /// Reads what an MLX of this version wrote.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self>;

    /// Appends the newest layout.
    fn write(&self, writer: &mut Writer<'_>);

    /// An error of this primitive: an argument or parameter that does not fit.
    fn error(message: impl Into<String>) -> Error {
        Error::invalid(Self::NAME, message)
    }
}

/// One parameter.
pub trait Field: Sized {
    /// Reads what an MLX of this version wrote.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self>;

    /// Appends the newest layout.
    fn write(&self, writer: &mut Writer<'_>);
}

/// Declares the struct of a primitive and its [`State`].
macro_rules! operation {
    ($(#[$meta:meta])* $name:ident;) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl $crate::ops::state::State for $name {
            const NAME: &'static str = stringify!($name);
            fn read(
                _: &mut $crate::export::codec::Reader<'_>,
                _: $crate::export::codec::Version,
            ) -> $crate::error::Result<Self> {
                Ok($name)
            }
            fn write(&self, _: &mut $crate::export::codec::Writer<'_>) {}
        }
    };
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty $(=> since $since:tt or $before:expr)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::ops::state::State for $name {
            const NAME: &'static str = stringify!($name);
            fn read(
                reader: &mut $crate::export::codec::Reader<'_>,
                version: $crate::export::codec::Version,
            ) -> $crate::error::Result<Self> {
                Ok($name {
                    $($field: {
                        $(if version < $crate::export::codec::Version::new $since {
                            $before
                        } else)?
                        { $crate::ops::state::Field::read(reader, version)? }
                    },)*
                })
            }
            fn write(&self, writer: &mut $crate::export::codec::Writer<'_>) {
                $($crate::ops::state::Field::write(&self.$field, writer);)*
            }
        }
    };
}
pub(crate) use operation;

macro_rules! fields {
    ($($type:ty: $name:ident, |$value:ident| $argument:expr;)*) => {
        $(impl Field for $type {
            fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self> {
                reader.$name()
            }
            fn write(&self, writer: &mut Writer<'_>) {
                let $value = self;
                writer.$name($argument);
            }
        })*
    };
}

fields! {
    bool: bool, |value| *value;
    i32: i32, |value| *value;
    u64: u64, |value| *value;
    f32: f32, |value| *value;
    f64: f64, |value| *value;
    Dtype: dtype, |value| *value;
    Shape: shape, |value| value;
    Vec<i32>: vec_i32, |value| value;
    Vec<i64>: vec_i64, |value| value;
    Vec<u64>: vec_u64, |value| value;
}

/// Enums: the code in files is the place in the list.
macro_rules! codes {
    ($($type:ident: $($variant:ident)*;)*) => {
        $(impl $crate::ops::state::Field for $type {
            fn read(
                reader: &mut $crate::export::codec::Reader<'_>,
                _: $crate::export::codec::Version,
            ) -> $crate::error::Result<Self> {
                let all = [$($type::$variant),*];
                let code = reader.i32()?;
                usize::try_from(code)
                    .ok()
                    .and_then(|code| all.get(code).copied())
                    .ok_or_else(|| {
                        let name = stringify!($type);
                        reader.error(format!("got {code} for {name}, expected 0 to {}", all.len() - 1))
                    })
            }
            fn write(&self, writer: &mut $crate::export::codec::Writer<'_>) {
                let all = [$($type::$variant),*];
                let code = all.iter().position(|variant| variant == self);
                writer.i32(code.map_or(-1, |code| code as i32));
            }
        })*
    };
}
pub(crate) use codes;

codes! {
    Reduction: And Or Sum Prod Min Max;
    ScanOp: Max Min Sum Prod LogAddExp;
    Update: Max Min Sum Prod Set;
    QuantizationMode: Affine Mxfp4 Mxfp8 Nvfp4;
}

impl<T: Field> Field for Box<T> {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self> {
        T::read(reader, version).map(Box::new)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        T::write(self, writer);
    }
}

/// LAPACK's `uplo`.
impl Field for Triangle {
    fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self> {
        match reader.string()?.as_str() {
            "L" => Ok(Triangle::Lower),
            "U" => Ok(Triangle::Upper),
            other => Err(reader.error(format!(
                "got {other:?} for the triangle, expected \"L\" or \"U\""
            ))),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.string(match self {
            Triangle::Lower => "L",
            Triangle::Upper => "U",
        });
    }
}

/// A number that cannot be negative.
fn natural(reader: &Reader<'_>, value: i32) -> Result<usize> {
    usize::try_from(value).map_err(|_| reader.error(format!("got {value}, expected 0 or more")))
}

impl Field for Quantization {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self> {
        let (group_size, bits) = (reader.i32()?, reader.i32()?);
        Ok(Quantization {
            group_size: natural(reader, group_size)?,
            bits: natural(reader, bits)?,
            mode: match version < Version::new(0, 29, 0) {
                true => QuantizationMode::Affine,
                false => Field::read(reader, version)?,
            },
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.i32(self.group_size as i32);
        writer.i32(self.bits as i32);
        Field::write(&self.mode, writer);
    }
}

impl Field for Convolution {
    /// Padding was one vector at first, and then stood before the strides for a while.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self> {
        let mut axes = || -> Result<Axes> {
            let values = reader.vec_i32()?;
            values.into_iter().map(|v| natural(reader, v)).collect()
        };
        let (strides, padding_low, padding_high) = if version >= Version::new(0, 26, 2) {
            (axes()?, axes()?, axes()?)
        } else {
            let low = axes()?;
            let high = match version >= Version::new(0, 25, 2) {
                true => axes()?,
                false => low.clone(),
            };
            (axes()?, low, high)
        };
        let (kernel_dilation, input_dilation) = (axes()?, axes()?);
        let groups = reader.i32()?;
        Ok(Convolution {
            strides,
            padding_low,
            padding_high,
            kernel_dilation,
            input_dilation,
            groups: natural(reader, groups)?,
            flip: reader.bool()?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        for axes in [
            &self.strides,
            &self.padding_low,
            &self.padding_high,
            &self.kernel_dilation,
            &self.input_dilation,
        ] {
            writer.shape(&Shape::new(axes));
        }
        writer.i32(self.groups as i32);
        writer.bool(self.flip);
    }
}
