//! Arrays with a border.

use motet_core::array::apply::{apply_one, astype};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::assemble::Pad;
use motet_core::shape::Shape;

use super::shape::reshape_to;
use super::{arange, clip, minimum, remainder, subtract, take};

/// How many elements [`pad`] adds before and after the array's, along each dimension: one number for
/// all (`1`), before and after for all (`(1, 2)`), or before and after for each (`[(1, 2), (0, 0)]`).
#[derive(Clone, Debug)]
pub enum PadWidth {
    /// The same along all dimensions.
    All(usize, usize),
    /// Those of each dimension.
    Each(Vec<(usize, usize)>),
}

impl From<usize> for PadWidth {
    fn from(width: usize) -> PadWidth {
        PadWidth::All(width, width)
    }
}

impl From<(usize, usize)> for PadWidth {
    fn from((low, high): (usize, usize)) -> PadWidth {
        PadWidth::All(low, high)
    }
}

impl<const N: usize> From<[(usize, usize); N]> for PadWidth {
    fn from(widths: [(usize, usize); N]) -> PadWidth {
        PadWidth::Each(widths.to_vec())
    }
}

impl From<&[(usize, usize)]> for PadWidth {
    fn from(widths: &[(usize, usize)]) -> PadWidth {
        PadWidth::Each(widths.to_vec())
    }
}

/// What [`pad`] adds.
#[derive(Clone, Debug)]
pub enum PadMode {
    /// This number or array of one element, converted to the array's dtype.
    Constant(Operand),
    /// The element at the border.
    Edge,
    /// The array mirrored at its last element, which is not repeated.
    Reflect,
    /// The array mirrored behind its last element, which is repeated.
    Symmetric,
}

impl Default for PadMode {
    fn default() -> PadMode {
        PadMode::Constant(Operand::Int(0))
    }
}

/// `x` with elements added before and after it along each dimension.
///
/// # Errors
/// Where widths are not as many as dimensions, the constant has not one element, or a dimension that
/// is to be repeated or mirrored is empty.
///
/// ```
/// # use motet::{Array, ops, ops::PadMode};
/// let x = Array::from_slice(&[1, 2, 3], [3])?;
/// assert_eq!(ops::pad(&x, (1, 0), PadMode::default())?.to_vec::<i32>()?, [0, 1, 2, 3]);
/// assert_eq!(ops::pad(&x, (2, 1), PadMode::Reflect)?.to_vec::<i32>()?, [3, 2, 1, 2, 3, 2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn pad(x: &Array, pad_width: impl Into<PadWidth>, mode: PadMode) -> Result<Array> {
    let rank = x.shape().len();
    let widths = match pad_width.into() {
        PadWidth::All(low, high) => vec![(low, high); rank],
        PadWidth::Each(widths) if widths.len() == rank => widths,
        PadWidth::Each(widths) => {
            return Err(Error::invalid(
                "pad",
                format!("got widths {widths:?} for an array of shape {}", x.shape()),
            ));
        }
    };
    let widths = checked(x.shape(), &widths)?;
    match mode {
        PadMode::Constant(value) => {
            let value = value.into_own_array()?;
            let pad = Pad {
                axes: (0..rank as i32).collect(),
                low: widths.iter().map(|&(low, _)| low).collect(),
                high: widths.iter().map(|&(_, high)| high).collect(),
            };
            let value = match value.shape().size() {
                1 => reshape_to(&astype(&value, x.dtype())?, &[])?,
                _ => value,
            };
            apply_one(pad, &[x.clone(), value])
        }
        mode => {
            let mut padded = x.clone();
            for (axis, width) in widths.into_iter().enumerate() {
                if width != (0, 0) {
                    let size = padded.shape()[axis] as i64;
                    padded = take(&padded, places(&mode, size, width)?, axis as i32)?;
                }
            }
            Ok(padded)
        }
    }
}

/// The widths as 32-bit numbers, as dimensions of arrays are.
fn checked(shape: &Shape, widths: &[(usize, usize)]) -> Result<Vec<(i32, i32)>> {
    let pairs = shape.iter().zip(widths);
    let checked = pairs.map(|(&dim, &(low, high))| {
        let sum = low.checked_add(high)?.checked_add(dim)?;
        i32::try_from(sum).ok()?;
        Some((low as i32, high as i32))
    });
    let checked: Option<Vec<_>> = checked.collect();
    checked.ok_or_else(|| {
        Error::invalid(
            "pad",
            format!("{shape} with {widths:?} around it is too large"),
        )
    })
}

/// Which element of a dimension of this size is at each place of the padded one.
fn places(mode: &PadMode, size: i64, (low, high): (i32, i32)) -> Result<Array> {
    if size == 0 {
        return Err(Error::invalid(
            "pad",
            format!("an empty dimension cannot be padded by {mode:?}"),
        ));
    }
    let places = arange(-i64::from(low), size + i64::from(high), 1, Dtype::Int64)?;
    let mirrored = |period: i64, last: i64| {
        let place = remainder(&places, period)?;
        minimum(subtract(last, &place)?, place)
    };
    match mode {
        PadMode::Reflect => mirrored((2 * size - 2).max(1), 2 * size - 2),
        PadMode::Symmetric => mirrored(2 * size, 2 * size - 1),
        _ => clip(&places, 0, size - 1),
    }
}
