//! To and from the arrays of the crate `ndarray`. Behind the feature `ndarray`.

use std::borrow::Cow;

use ndarray::{ArrayD, ArrayViewD, CowArray, Dimension, IxDyn, ShapeError};

use crate::array::Array;
use crate::dtype::Element;
use crate::error::{Error, ErrorKind, Result};
use crate::shape::{Layout, Shape, Spec, Strides};

impl<T: Element, D: Dimension> TryFrom<ndarray::Array<T, D>> for Array {
    type Error = Error;

    /// The same elements in the same memory, in whatever order they lie there.
    fn try_from(array: ndarray::Array<T, D>) -> Result<Array> {
        let spec = Spec::new(Shape::new(array.shape()), T::DTYPE);
        spec.shape.check(spec.dtype)?;
        let strides = match spec.shape.size() {
            0 => spec.shape.strides(),
            _ => Strides::from_slice(array.strides()),
        };
        let layout = Layout {
            strides,
            ..spec.layout()
        };
        let (data, first) = array.into_raw_vec_and_offset();
        let bytes = first.unwrap_or(0) * size_of::<T>();
        let elements = data.len();
        let memory = Array::from_vec(data, [elements])?.tensor()?;
        let tensor = memory.view(layout, bytes as isize);
        Ok(Array::from_tensor(tensor.ok_or_else(|| {
            broken("its elements are outside of its memory")
        })?))
    }
}

impl Array {
    /// The elements as an array of the crate `ndarray`; computes the array where needed. Borrowed
    /// where they lie in row-major order, else a copy.
    ///
    /// # Errors
    /// Where the array's dtype is not that of `T`, or its computation failed.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// let x = Array::from([[1, 2], [3, 4]]);
    /// assert_eq!(x.as_ndarray::<i32>()?[[1, 0]], 3);
    /// let y = Array::try_from(x.as_ndarray::<i32>()?.reversed_axes().into_owned())?;
    /// assert_eq!(y.to_vec::<i32>()?, [1, 3, 2, 4]);
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    pub fn as_ndarray<T: Element>(&self) -> Result<CowArray<'_, T, IxDyn>> {
        let shape = IxDyn(self.shape());
        let array = match self.as_slice::<T>()? {
            Cow::Borrowed(elements) => ArrayViewD::from_shape(shape, elements).map(CowArray::from),
            Cow::Owned(elements) => ArrayD::from_shape_vec(shape, elements).map(CowArray::from),
        };
        array.map_err(|error: ShapeError| broken(&error.to_string()))
    }
}

fn broken(message: &str) -> Error {
    Error::new(ErrorKind::Internal, "ndarray", message)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use ndarray::{Axis, array, s};

    use super::*;

    #[test]
    fn memory_is_shared_in_both_directions() {
        let there = array![[1.0f32, 2.0], [3.0, 4.0]];
        let address = there.as_ptr();
        let here = Array::try_from(there).unwrap();
        assert_eq!(
            here.to_string(),
            "array([[1, 2],\n       [3, 4]], dtype=float32)"
        );
        assert_eq!(here.as_ndarray::<f32>().unwrap().as_ptr(), address);
    }

    #[test]
    fn any_order_in_memory_is_taken_as_it_is() {
        let rows = ndarray::Array::from_iter(0..24)
            .into_shape_with_order((2, 3, 4))
            .unwrap();
        let mut reversed = rows.clone();
        reversed.invert_axis(Axis(1));
        let part = rows.clone().slice_move(s![1.., ..;2, 1..3]);
        let columns = rows.clone().reversed_axes();
        let empty = rows.clone().slice_move(s![.., 3.., ..]);
        for array in [rows, reversed, part, columns, empty] {
            let expected: Vec<i32> = array.iter().copied().collect();
            let here = Array::try_from(array.clone()).unwrap();
            assert_eq!(here.shape()[..], *array.shape());
            assert_eq!(here.to_vec::<i32>().unwrap(), expected);
            assert_eq!(here.as_ndarray::<i32>().unwrap(), array.into_dyn());
        }
    }
}
