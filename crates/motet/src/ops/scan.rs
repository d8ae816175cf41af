//! Running combinations along a dimension, and differences.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::ScanOp;
use motet_core::ops::reduce as primitive;

use super::shape::flat;
use super::slice::slice_axis;
use super::{axis_of, not_equal, subtract, with};

/// Options of [`cumsum`] and the like.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Whether to run from the end.
    pub reverse: bool,
    /// Whether element `i` of the result covers element `i` of the array.
    pub inclusive: bool,
    /// The dtype that the array is converted to first.
    pub dtype: Option<Dtype>,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            reverse: false,
            inclusive: true,
            dtype: None,
        }
    }
}

macro_rules! scans {
    ($($(#[$meta:meta])* $name:ident = $op:ident($convert:expr): $result:literal;)*) => {$(
        $(#[$meta])*
        /// of the elements along a dimension, or of all elements (`None`) in one dimension.
        ///
        /// # Errors
        /// Where the axis is out of range.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops, ops::Scan};\n",
            "let x = Array::from_slice(&[2.0f32, 3.0, 1.0], [3])?;\n",
            "let y = ops::", stringify!($name), "(&x, 0, Scan::default())?;\n",
            "for (y, expected) in y.to_vec::<f32>()?.into_iter().zip(", $result, ") {\n",
            "    assert!((y - expected).abs() < 1e-5);\n}\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(x: &Array, axis: impl Into<Option<i32>>, options: Scan) -> Result<Array> {
            let convert: fn(Dtype) -> Dtype = $convert;
            let x = astype(x, options.dtype.unwrap_or(convert(x.dtype())))?;
            let (x, axis) = match axis.into() {
                Some(axis) => (x, axis),
                None => (flat(&x)?, 0),
            };
            let scan = primitive::Scan {
                op: ScanOp::$op,
                axis: axis_of(stringify!($name), axis, &x)? as i32,
                reverse: options.reverse,
                inclusive: options.inclusive,
            };
            with(scan, &x)
        }
    )*};
}

scans! {
    /// The greatest so far
    cummax = Max(|dtype| dtype): "[2.0, 3.0, 3.0]";
    /// The least so far
    cummin = Min(|dtype| dtype): "[2.0, 2.0, 1.0]";
    /// The products so far
    #[doc(alias = "cumulative_prod")]
    cumprod = Prod(|dtype| dtype): "[2.0, 6.0, 6.0]";
    /// The sums so far (int32 for bools)
    #[doc(alias = "cumulative_sum")]
    cumsum = Sum(|dtype| dtype): "[2.0, 5.0, 6.0]";
    /// `log(sum(exp(x)))` so far (float32 for integers)
    logcumsumexp = LogAddExp(Dtype::at_least_float): "[2.0, 3.3132617, 3.407606]";
}

/// The differences of neighbours along a dimension, `n` times over; for bools whether they differ.
///
/// # Errors
/// Where the axis is out of range.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 4, 9], [3])?;
/// assert_eq!(ops::diff(&x, 1, -1)?.to_vec::<i32>()?, [3, 5]);
/// assert_eq!(ops::diff(&x, 2, -1)?.to_vec::<i32>()?, [2]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn diff(x: &Array, n: usize, axis: i32) -> Result<Array> {
    let axis = axis_of("diff", axis, x)?;
    let mut x = x.clone();
    for _ in 0..n.min(x.shape()[axis]) {
        let size = x.shape()[axis];
        let (after, before) = (
            slice_axis(&x, axis, 1, size)?,
            slice_axis(&x, axis, 0, size - 1)?,
        );
        x = match x.dtype() {
            Dtype::Bool => not_equal(after, before)?,
            _ => subtract(after, before)?,
        };
    }
    Ok(x)
}
