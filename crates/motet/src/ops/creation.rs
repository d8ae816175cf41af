//! Arrays from numbers: ranges, constants, windows.

use std::f64::consts::PI;

use motet_core::array::apply::{apply_as, astype};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::Primitive;
use motet_core::ops::assemble::Arange;
use motet_core::ops::shape::Full;
use motet_core::shape::{Shape, Spec};

use super::shape::reshape_to;
use super::{abs, add, broadcast_arrays, broadcast_to, cos, divide, multiply, subtract, with};

/// A number that is no array, and the dtype that it has alone.
fn number(name: &str, operand: Operand) -> Result<(f64, Dtype)> {
    let dtype = operand.dtype(None);
    match operand {
        Operand::Int(value) => Ok((value as f64, dtype)),
        Operand::Float(value) => Ok((value, dtype)),
        other => Err(Error::invalid(
            name,
            format!("got {other:?}, expected a real number"),
        )),
    }
}

/// `start`, `start + step`, ... before `stop`: int32 where all three are whole and fit, float32
/// where one is not, unless a dtype is given.
///
/// # Errors
/// Where the step is 0, a number is not finite, there would be too many elements, or the dtype is
/// bool.
///
/// ```
/// # use motet::{Array, ops};
/// assert_eq!(ops::arange(1, 7, 2, None)?.to_vec::<i32>()?, [1, 3, 5]);
/// assert_eq!(ops::arange(1, 2, 0.5, None)?.to_vec::<f32>()?, [1.0, 1.5]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn arange(
    start: impl Into<Operand>,
    stop: impl Into<Operand>,
    step: impl Into<Operand>,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let (start, a) = number("arange", start.into())?;
    let (stop, b) = number("arange", stop.into())?;
    let (step, c) = number("arange", step.into())?;
    let dtype = dtype.into().unwrap_or(a.promote(b).promote(c));
    let arange = Primitive::from(Arange { start, stop, step });
    let shape = arange.infer(&[], None)?.swap_remove(0).shape;
    if dtype == Dtype::Bool {
        return Err(Error::invalid("arange", "got bool, expected numbers"));
    }
    Ok(apply_as(arange, &[], &[Spec::new(shape, dtype)])?.swap_remove(0))
}

/// `0`, `1`, ... before `count`.
pub(super) fn count_to(count: usize, dtype: Dtype) -> Result<Array> {
    // As a float, which is refused where it is too large.
    arange(0, count as f64, 1, dtype)
}

/// Options of [`linspace`].
#[derive(Clone, Copy, Debug)]
pub struct Linspace {
    /// Whether `stop` is the last number; else they end before it.
    pub endpoint: bool,
    /// The dtype of the numbers.
    pub dtype: Dtype,
}

impl Default for Linspace {
    fn default() -> Linspace {
        Linspace {
            endpoint: true,
            dtype: Dtype::Float32,
        }
    }
}

/// `num` numbers at equal distances from `start` to `stop`.
///
/// # Errors
/// Where there would be too many.
///
/// ```
/// # use motet::{Array, ops, ops::Linspace};
/// assert_eq!(ops::linspace(0.0, 1.0, 3, Linspace::default())?.to_vec::<f32>()?, [0.0, 0.5, 1.0]);
/// let open = Linspace { endpoint: false, ..Default::default() };
/// assert_eq!(ops::linspace(0.0, 1.0, 2, open)?.to_vec::<f32>()?, [0.0, 0.5]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn linspace(start: f64, stop: f64, num: usize, options: Linspace) -> Result<Array> {
    let inside = match options.dtype {
        Dtype::Float64 => Dtype::Float64,
        _ => Dtype::Float32,
    };
    let steps = match options.endpoint {
        true => num.saturating_sub(1),
        false => num,
    };
    let place = divide(count_to(num, inside)?, steps.max(1) as f64)?;
    let from_start = multiply(subtract(1.0, &place)?, start)?;
    let numbers = add(from_start, multiply(place, stop)?)?;
    astype(&numbers, options.dtype)
}

/// An array of this shape with these values, which broadcast to it. The dtype is that of the values,
/// unless one is given.
///
/// # Errors
/// Where the values do not broadcast to the shape, or it is too large.
///
/// ```
/// # use motet::{Array, Dtype, ops};
/// assert_eq!(ops::full([2], 7, None)?.to_vec::<i32>()?, [7, 7]);
/// assert_eq!(ops::full([2], 7, Dtype::Float32)?.to_vec::<f32>()?, [7.0, 7.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn full(
    shape: impl Into<Shape>,
    values: impl Into<Operand>,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let values = values.into();
    let dtype = dtype.into().unwrap_or(values.dtype(None));
    let values = broadcast_to(&values.into_array(dtype)?, shape)?;
    with(Full, &values)
}

/// An array of the shape of `x` with these values, and of its dtype unless one is given.
///
/// # Errors
/// Where the values do not broadcast to the shape.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// assert_eq!(ops::full_like(&x, 7, None)?.to_vec::<f32>()?, [7.0, 7.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn full_like(
    x: &Array,
    values: impl Into<Operand>,
    dtype: impl Into<Option<Dtype>>,
) -> Result<Array> {
    let dtype = dtype.into().unwrap_or(x.dtype());
    full(x.shape().clone(), values, dtype)
}

macro_rules! constants {
    ($($name:ident $like:ident = $value:literal;)*) => {$(
        #[doc = concat!("An array of this shape with ", stringify!($name), "; float32 unless a dtype is given.")]
        ///
        /// # Errors
        /// Where the shape is too large.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, Dtype, ops};\n",
            "let x = ops::", stringify!($name), "([2], Dtype::Int32)?;\n",
            "assert_eq!(x.to_vec::<i32>()?, [", $value, ", ", $value, "]);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(shape: impl Into<Shape>, dtype: impl Into<Option<Dtype>>) -> Result<Array> {
            full(shape, $value, dtype.into().unwrap_or(Dtype::Float32))
        }

        #[doc = concat!("An array of the shape of `x` with ", stringify!($name), ", and of its dtype unless one is given.")]
        ///
        /// # Errors
        /// None that a user can cause.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[3, 4], [2])?;\n",
            "assert_eq!(ops::", stringify!($like), "(&x, None)?.to_vec::<i32>()?, [", $value, ", ", $value, "]);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $like(x: &Array, dtype: impl Into<Option<Dtype>>) -> Result<Array> {
            full_like(x, $value, dtype)
        }
    )*};
}

constants! {
    zeros zeros_like = 0;
    ones ones_like = 1;
}

/// How [`meshgrid`] arranges its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Indexing {
    /// The first two dimensions are swapped: the first array is along columns.
    #[default]
    Xy,
    /// Array `i` is along dimension `i`.
    Ij,
}

/// Options of [`meshgrid`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Meshgrid {
    /// Whether results have size one in the dimensions in which they do not change.
    pub sparse: bool,
    /// Which dimension is for which array.
    pub indexing: Indexing,
}

/// The coordinates of all points of a grid, from those along each of its dimensions.
///
/// # Errors
/// Where the grid is too large.
///
/// ```
/// # use motet::{Array, ops, ops::Meshgrid};
/// let (x, y) = (ops::arange(0, 2, 1, None)?, ops::arange(5, 8, 1, None)?);
/// let grid = ops::meshgrid(&[x, y], Meshgrid::default())?;
/// assert_eq!(grid[0].to_vec::<i32>()?, [0, 1, 0, 1, 0, 1]);
/// assert_eq!(grid[1].to_vec::<i32>()?, [5, 5, 6, 6, 7, 7]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn meshgrid(arrays: &[Array], options: Meshgrid) -> Result<Vec<Array>> {
    let swap = options.indexing == Indexing::Xy && arrays.len() > 1;
    let mut grid = Vec::with_capacity(arrays.len());
    for (i, array) in arrays.iter().enumerate() {
        let mut shape = vec![1; arrays.len()];
        let axis = match i {
            0 | 1 if swap => 1 - i,
            _ => i,
        };
        shape[axis] = array.shape().size();
        grid.push(reshape_to(array, &shape)?);
    }
    match options.sparse {
        true => Ok(grid),
        false => broadcast_arrays(&grid),
    }
}

/// `0`, `step`, `2 * step`, ... up to `span`: where a window of `count` is evaluated.
fn window_places(count: usize, span: f64) -> Result<Array> {
    let places = count_to(count, Dtype::Float32)?;
    multiply(places, span / count.saturating_sub(1).max(1) as f64)
}

macro_rules! windows {
    ($($(#[$meta:meta])* $name:ident($span:expr) middle $middle:literal = |$x:ident| $window:expr;)*) => {$(
        $(#[$meta])*
        /// of `m` elements, float32.
        ///
        /// # Errors
        /// Where there would be too many.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let window = ops::", stringify!($name), "(5)?.to_vec::<f32>()?;\n",
            "assert!((window[1] - ", $middle, ").abs() < 1e-5);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(m: usize) -> Result<Array> {
            if m == 1 {
                return ones([1], None);
            }
            let $x = window_places(m, $span)?;
            $window
        }
    )*};
}

windows! {
    /// The Bartlett window (a triangle that is 0 at both ends)
    bartlett(2.0) middle "0.5" = |x| subtract(1.0, abs(subtract(x, 1.0)?)?);
    /// The Blackman window `0.42 - 0.5 cos(x) + 0.08 cos(2x)`, x from 0 to 2 pi,
    blackman(2.0 * PI) middle "0.34" = |x| {
        let first = subtract(0.42, multiply(cos(&x)?, 0.5)?)?;
        add(first, multiply(cos(multiply(x, 2.0)?)?, 0.08)?)
    };
    /// The Hamming window `0.54 - 0.46 cos(x)`, x from 0 to 2 pi,
    hamming(2.0 * PI) middle "0.54" = |x| subtract(0.54, multiply(cos(x)?, 0.46)?);
    /// The Hann window `0.5 - 0.5 cos(x)`, x from 0 to 2 pi,
    hanning(2.0 * PI) middle "0.5" = |x| subtract(0.5, multiply(cos(x)?, 0.5)?);
}
