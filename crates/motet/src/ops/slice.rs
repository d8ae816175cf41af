//! Regular parts of arrays, read and written.

use motet_core::array::apply::apply_one;
use motet_core::array::{Array, Operand};
use motet_core::error::Result;
use motet_core::kernel::Update;
use motet_core::ops::Primitive;
use motet_core::ops::dynamic_slice::{DynamicSlice, DynamicSliceUpdate};
use motet_core::ops::slicing as primitive;
use motet_core::shape::Shape;

use super::shape::reshape_to;
use super::{broadcast_to, dims, with};

/// The elements from `start` on, every `strides`-th, before `stop`, in each dimension. As in Python
/// negative positions count from the end, those beyond the array are taken as its border, and strides
/// may be negative.
///
/// # Errors
/// Where there is not a number for each dimension, or a stride is 0.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 6, 1, None)?;
/// assert_eq!(ops::slice(&x, [1], [-1], [2])?.to_vec::<i32>()?, [1, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn slice(
    x: &Array,
    start: impl AsRef<[i32]>,
    stop: impl AsRef<[i32]>,
    strides: impl AsRef<[i32]>,
) -> Result<Array> {
    let slice = primitive::Slice {
        start: start.as_ref().to_vec(),
        end: stop.as_ref().to_vec(),
        strides: strides.as_ref().to_vec(),
    };
    with(slice, x)
}

/// The elements from `start` to before `end` along a dimension.
pub(super) fn slice_axis(x: &Array, axis: usize, start: usize, end: usize) -> Result<Array> {
    if (start, end) == (0, x.shape()[axis]) {
        return Ok(x.clone());
    }
    let rank = x.shape().len();
    let mut slice = primitive::Slice {
        start: vec![0; rank],
        end: dims(x.shape()),
        strides: vec![1; rank],
    };
    // Inside of a dimension, which is 32-bit.
    (slice.start[axis], slice.end[axis]) = (start as i32, end as i32);
    with(slice, x)
}

macro_rules! updates {
    ($($(#[$meta:meta])* $name:ident = $op:ident: $result:literal;)*) => {$(
        $(#[$meta])*
        /// the update, which is converted to the dtype of `x` and broadcast to the slice. Start, stop
        /// and strides are as in [`slice`](fn@slice).
        ///
        /// # Errors
        /// As [`slice`](fn@slice), and where the update does not broadcast to the slice.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops};\n",
            "let x = Array::from_slice(&[1, 2, 3], [3])?;\n",
            "let y = ops::", stringify!($name), "(&x, 5, [0], [2], [1])?;\n",
            "assert_eq!(y.to_vec::<i32>()?, ", $result, ");\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(
            x: &Array,
            update: impl Into<Operand>,
            start: impl AsRef<[i32]>,
            stop: impl AsRef<[i32]>,
            strides: impl AsRef<[i32]>,
        ) -> Result<Array> {
            let bounds = [start.as_ref(), stop.as_ref(), strides.as_ref()];
            update_slice(Update::$op, x, update.into(), bounds)
        }
    )*};
}

updates! {
    /// `x` with the elements of a slice replaced by
    slice_update = Set: "[5, 5, 3]";
    /// `x` with the elements of a slice increased by
    slice_update_add = Sum: "[6, 7, 3]";
    /// `x` with the elements of a slice replaced by the greater one of them and
    slice_update_max = Max: "[5, 5, 3]";
    /// `x` with the elements of a slice replaced by the lesser one of them and
    slice_update_min = Min: "[1, 2, 3]";
    /// `x` with the elements of a slice multiplied by
    slice_update_prod = Prod: "[5, 10, 3]";
}

fn update_slice(op: Update, x: &Array, update: Operand, bounds: [&[i32]; 3]) -> Result<Array> {
    let [start, end, strides] = bounds.map(<[i32]>::to_vec);
    let slice = Primitive::from(primitive::Slice {
        start: start.clone(),
        end: end.clone(),
        strides: strides.clone(),
    });
    let part = slice.infer(&[x.spec().clone()], None)?.swap_remove(0);
    let update = broadcast_to(&update.into_array(x.dtype())?, part.shape)?;
    let update_slice = primitive::SliceUpdate {
        op,
        start,
        end,
        strides,
    };
    apply_one(update_slice, &[x.clone(), update])
}

/// The block of this shape that starts at `start` on `axes`, and at 0 on others. `start` is an array
/// of integers, one per axis, and may be computed; MLX's `slice` with an array.
///
/// # Errors
/// Where start and axes are not as many, or the block is larger than `x`; where it does not lie in
/// `x`, when the result is computed.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 6, 1, None)?;
/// let start = Array::from_slice(&[2], [1])?;
/// assert_eq!(ops::dynamic_slice(&x, &start, [0], [3])?.to_vec::<i32>()?, [2, 3, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn dynamic_slice(
    x: &Array,
    start: &Array,
    axes: impl AsRef<[i32]>,
    slice_sizes: impl Into<Shape>,
) -> Result<Array> {
    let slice = DynamicSlice {
        axes: axes.as_ref().to_vec(),
        slice_sizes: slice_sizes.into(),
    };
    apply_one(slice, &[x.clone(), start.clone()])
}

/// `x` with a block replaced by the update, which is converted to the dtype of `x` and gets leading
/// dimensions of size one where it has fewer. Start and axes are as in [`dynamic_slice`]; MLX's
/// `slice_update` with an array.
///
/// # Errors
/// As [`dynamic_slice`].
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::arange(0, 4, 1, None)?;
/// let (update, start) = (Array::from_slice(&[8, 9], [2])?, Array::from(1));
/// let y = ops::dynamic_slice_update(&x, &update, &start, [0])?;
/// assert_eq!(y.to_vec::<i32>()?, [0, 8, 9, 3]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn dynamic_slice_update(
    x: &Array,
    update: impl Into<Operand>,
    start: &Array,
    axes: impl AsRef<[i32]>,
) -> Result<Array> {
    let update = update.into().into_array(x.dtype())?;
    let missing = x.shape().len().saturating_sub(update.shape().len());
    let shape = [&vec![1; missing][..], update.shape()].concat();
    let axes = axes.as_ref().to_vec();
    let update = reshape_to(&update, &shape)?;
    apply_one(
        DynamicSliceUpdate { axes },
        &[x.clone(), update, start.clone()],
    )
}
