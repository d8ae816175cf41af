//! Arrays from Rust's values and back. Vectors and Rust arrays are adopted, and row-major values lent,
//! without a copy.

use std::borrow::Cow;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::array::Array;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Buffer, vector};
use crate::shape::{Shape, Spec};
use crate::tensor::Tensor;

impl Array {
    /// An array of this shape with a copy of `data`, which is row-major.
    ///
    /// # Errors
    /// Where `data` does not have as many elements as the shape, or no array can have so many.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], [2, 3])?;
    /// assert_eq!((x.ndim(), x.size(), x.nbytes()), (2, 6, 24));
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    #[cfg(not(loom))]
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Result<Array> {
        let spec = fitting("from_slice", data, shape.into())?;
        let tensor = Tensor::allocate(&spec, crate::memory::heap())?;
        // SAFETY: the buffer is new, so it does not overlap `data`, and it has
        // `spec.bytes() == size_of_val(data)` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr().cast::<u8>(),
                tensor.buffer.as_ptr(),
                size_of_val(data),
            );
        }
        Ok(Array::from_tensor(tensor))
    }

    /// An array of this shape in the memory of `data`, which is row-major. Nothing is copied.
    ///
    /// # Errors
    /// Where `data` does not have as many elements as the shape, or no array can have so many.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// let x = Array::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
    /// assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    pub fn from_vec<T: Element>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Array> {
        let spec = fitting("from_vec", &data, shape.into())?;
        Ok(adopt(spec, NonNull::from(&data[..]), data))
    }

    /// The elements in row-major order; computes the array where needed. Borrowed where they lie so
    /// in memory, else a copy.
    ///
    /// # Errors
    /// Where the array's dtype is not that of `T`, or its computation failed.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// let x = Array::from([[1.5f32, 2.5], [3.5, 4.5]]);
    /// assert_eq!(x.as_slice::<f32>()?.iter().sum::<f32>(), 12.0);
    /// assert!(x.as_slice::<f64>().is_err());
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    pub fn as_slice<T: Element>(&self) -> Result<Cow<'_, [T]>> {
        self.expect("as_slice", T::DTYPE)?;
        let tensor = self.tensor()?;
        let first = tensor.buffer.as_ptr().wrapping_add(tensor.offset);
        if !tensor.layout.is_contiguous() || !first.cast::<T>().is_aligned() {
            return Ok(Cow::Owned(copied(&tensor)?));
        }
        // SAFETY: the elements lie here one after the other, aligned, and are what `T`'s dtype
        // says. A value that is there is neither changed nor replaced while its node lives, and
        // `self` keeps the node: `tensor` is a second handle that may go.
        let elements =
            unsafe { std::slice::from_raw_parts(first.cast::<T>(), tensor.layout.shape.size()) };
        Ok(Cow::Borrowed(elements))
    }

    /// A copy of the elements in row-major order; computes the array where needed.
    ///
    /// # Errors
    /// Where the array's dtype is not that of `T`, or its computation failed.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// assert_eq!(Array::from([[1, 2], [3, 4]]).to_vec::<i32>()?, [1, 2, 3, 4]);
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect("to_vec", T::DTYPE)?;
        copied(&self.tensor()?)
    }

    /// The only element; computes the array where needed.
    ///
    /// # Errors
    /// Where the array has not exactly one element, its dtype is not that of `T`, or its
    /// computation failed.
    ///
    /// ```
    /// # use motet_core::array::Array;
    /// assert_eq!(Array::from([[2.5f32]]).item::<f32>()?, 2.5);
    /// # Ok::<(), motet_core::error::Error>(())
    /// ```
    pub fn item<T: Element>(&self) -> Result<T> {
        self.expect("item", T::DTYPE)?;
        if self.size() != 1 {
            let message = format!(
                "got an array of shape {}, expected one element",
                self.shape()
            );
            return Err(Error::invalid("item", message));
        }
        Ok(copied(&self.tensor()?)?[0])
    }

    fn expect(&self, name: &str, dtype: crate::dtype::Dtype) -> Result<()> {
        if self.dtype() == dtype {
            return Ok(());
        }
        let got = self.dtype();
        Err(Error::invalid(
            name,
            format!("got an array of {got}, expected {dtype}; convert it with astype first"),
        ))
    }
}

/// The spec of an array of this shape for `data`.
fn fitting<T: Element>(name: &str, data: &[T], shape: Shape) -> Result<Spec> {
    shape.check(T::DTYPE)?;
    if shape.size() == data.len() {
        return Ok(Spec::new(shape, T::DTYPE));
    }
    let (got, expected) = (data.len(), shape.size());
    Err(Error::invalid(
        name,
        format!("got {got} elements for shape {shape}, expected {expected}"),
    ))
}

/// The array of this spec in memory that `owner` keeps at its address, and that nobody else knows.
fn adopt<T: Element>(spec: Spec, data: NonNull<[T]>, owner: impl Send + Sync + 'static) -> Array {
    debug_assert_eq!(spec.shape.size(), data.len());
    // SAFETY: `owner` has the memory on the heap, where it stays when `owner` moves, initialised;
    // nobody writes to it, since nobody else has it.
    let buffer = unsafe { Buffer::foreign(data.cast(), spec.bytes(), Box::new(owner)) };
    Array::from_tensor(Tensor {
        buffer: Arc::new(buffer),
        offset: 0,
        layout: spec.layout(),
    })
}

impl<T: Element> From<T> for Array {
    /// The array of no dimensions with this element.
    fn from(element: T) -> Array {
        let held = Box::new([element]);
        adopt(
            Spec::new(Shape::default(), T::DTYPE),
            NonNull::from(&held[..]),
            held,
        )
    }
}

impl<T: Element> TryFrom<Vec<T>> for Array {
    type Error = Error;

    /// The array of one dimension in the vector's memory.
    fn try_from(data: Vec<T>) -> Result<Array> {
        let len = data.len();
        Array::from_vec(data, [len])
    }
}

#[cfg(not(loom))]
impl<T: Element> TryFrom<&[T]> for Array {
    type Error = Error;

    /// The array of one dimension with a copy of the elements.
    fn try_from(data: &[T]) -> Result<Array> {
        Array::from_slice(data, [data.len()])
    }
}

/// Rust arrays of arrays, to four dimensions.
macro_rules! nested {
    ($([$($dim:ident)*]: $type:ty, $($as_flattened:ident)*;)*) => {$(
        impl<T: Element, $(const $dim: usize),*> From<$type> for Array {
            /// The array with these elements.
            fn from(data: $type) -> Array {
                const { $(assert!($dim <= i32::MAX as usize, "dimensions have 31 bits");)* }
                let held = Box::new(data);
                let elements = NonNull::from(held.as_slice()$(.$as_flattened())*);
                adopt(Spec::new([$($dim),*], T::DTYPE), elements, held)
            }
        }
    )*};
}

nested! {
    [A]: [T; A],;
    [A B]: [[T; B]; A], as_flattened;
    [A B C]: [[[T; C]; B]; A], as_flattened as_flattened;
    [A B C D]: [[[[T; D]; C]; B]; A], as_flattened as_flattened as_flattened;
}

/// What `array!` makes of its argument: numbers without a type are float32, as MLX takes Python's.
#[doc(hidden)]
pub fn literal(values: impl Into<Array>) -> Array {
    let array = values.into();
    let float32 = array.as_slice::<f64>().and_then(|values| {
        let values = values.iter().map(|&value| value as f32).collect();
        Array::from_vec(values, array.shape().clone())
    });
    float32.unwrap_or(array)
}

/// The elements in row-major order.
fn copied<T: Element>(tensor: &Tensor) -> Result<Vec<T>> {
    let layout = &tensor.layout;
    let size = size_of::<T>() as isize;
    let mut elements = vector(layout.shape.size())?;
    let mut index = vec![0usize; layout.shape.len()];
    let mut offset = tensor.offset as isize;
    for _ in 0..layout.shape.size() {
        // SAFETY: `Tensor`s lie inside of their buffer, and `T` is what its dtype says; the address
        // may be unaligned (a mapped file).
        elements.push(unsafe {
            let address = tensor.buffer.as_ptr().offset(offset);
            address.cast::<T>().read_unaligned()
        });
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            offset += layout.strides[axis] * size;
            if index[axis] < layout.shape[axis] {
                break;
            }
            offset -= layout.strides[axis] * size * index[axis] as isize;
            index[axis] = 0;
        }
    }
    Ok(elements)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::error::ErrorKind;
    use crate::shape::{Layout, Strides};

    /// A value whose elements lie in this order in `data`.
    fn strided(data: &[i32], shape: &[usize], strides: &[isize], offset: usize) -> Array {
        let whole = Array::from_slice(data, [data.len()]).unwrap();
        let layout = Layout {
            shape: Shape::new(shape),
            strides: Strides::from_slice(strides),
            dtype: Dtype::Int32,
        };
        let tensor = whole.tensor().unwrap().view(layout, 4 * offset as isize);
        Array::from_tensor(tensor.unwrap())
    }

    #[test]
    fn row_major_values_are_lent_and_others_copied() {
        let data = [0, 1, 2, 3, 4, 5];
        let part = strided(&data, &[2, 2], &[2, 1], 1);
        assert!(matches!(
            part.as_slice::<i32>().unwrap(),
            Cow::Borrowed([1, 2, 3, 4])
        ));
        let transposed = strided(&data, &[3, 2], &[1, 3], 0);
        let copy = transposed.as_slice::<i32>().unwrap();
        assert!(matches!(&copy, Cow::Owned(copy) if *copy == [0, 3, 1, 4, 2, 5]));
        let reversed = strided(&data, &[6], &[-1], 5);
        assert_eq!(reversed.to_vec::<i32>().unwrap(), [5, 4, 3, 2, 1, 0]);
        let repeated = strided(&data, &[2, 2], &[0, 1], 4);
        assert_eq!(repeated.to_vec::<i32>().unwrap(), [4, 5, 4, 5]);
        let empty = strided(&data, &[0, 3], &[3, 1], 0);
        assert_eq!(*empty.as_slice::<i32>().unwrap(), [0i32; 0]);
    }

    #[test]
    fn a_lent_slice_lives_as_long_as_its_array_alone() {
        let first = Array::from([1u8, 2, 3]);
        let second = first.clone();
        let lent = second.as_slice::<u8>().unwrap();
        drop(first);
        assert_eq!(*lent, [1, 2, 3]);
    }

    #[test]
    fn unaligned_values_are_copied() {
        let bytes = Array::from([0u8, 1, 0, 0, 0, 2, 0, 0, 0]).tensor().unwrap();
        let layout = Spec::new([2], Dtype::Uint32).layout();
        let array = Array::from_tensor(bytes.view(layout, 1).unwrap());
        let expected = [1u32, 2].map(u32::from_le);
        assert_eq!(*array.as_slice::<u32>().unwrap(), expected);
        assert_eq!(array.to_vec::<u32>().unwrap(), expected);
    }

    #[test]
    fn broadcasts_to_more_than_there_is_are_errors_when_they_are_copied() {
        let wide = Layout {
            shape: Shape::new(&[1 << 28, 1 << 20]),
            strides: Strides::from_slice(&[0, 0]),
            dtype: Dtype::Uint8,
        };
        let one = Array::from([7u8]).tensor().unwrap();
        let tensor = one.view(wide, 0).unwrap();
        assert_eq!(tensor.contiguous().err().unwrap().kind(), ErrorKind::Memory);
        let error = Array::from_tensor(tensor).to_vec::<u8>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
    }

    #[test]
    fn vectors_and_arrays_are_adopted() {
        let data = vec![1.0f64, 2.0, 3.0, 4.0];
        let address = data.as_ptr();
        let array = Array::from_vec(data, [2, 2]).unwrap();
        assert_eq!(array.as_slice::<f64>().unwrap().as_ptr(), address);
        let nested = Array::from([[[[1i8, 2], [3, 4], [5, 6]]]; 2]);
        assert_eq!(**nested.shape(), [2, 1, 3, 2]);
        assert_eq!(nested.to_vec::<i8>().unwrap()[5..8], [6, 1, 2]);
        assert_eq!(**Array::from([[0i64; 0]; 3]).shape(), [3, 0]);
        assert_eq!(**Array::try_from(vec![true; 3]).unwrap().shape(), [3]);
        assert_eq!(**Array::try_from(&[1u16, 2][..]).unwrap().shape(), [2]);
    }

    #[test]
    fn counts_and_dtypes_have_to_fit() {
        let errors = [
            Array::from_slice(&[1, 2], [3]).err(),
            Array::from_vec(vec![1, 2], [1]).err(),
            Array::from_vec(vec![0u8; 0], [0, 1 << 40]).err(),
            Array::from(1.5f32).item::<f64>().err(),
            Array::from([1, 2]).item::<i32>().err(),
        ]
        .map(|error| error.map(|error| error.to_string()).unwrap_or_default());
        assert_eq!(
            errors[0],
            "[from_slice] got 2 elements for shape (3), expected 3"
        );
        assert_eq!(
            errors[1],
            "[from_vec] got 2 elements for shape (1), expected 1"
        );
        assert!(errors[2].contains("more elements"), "{}", errors[2]);
        assert_eq!(
            errors[3],
            "[item] got an array of float32, expected float64; convert it with astype first"
        );
        assert_eq!(
            errors[4],
            "[item] got an array of shape (2), expected one element"
        );
    }

    #[test]
    fn literals_without_a_type_are_float32() {
        assert_eq!(literal([[0.1, 2.0]]).to_vec::<f32>().unwrap(), [0.1, 2.0]);
        assert_eq!(literal([1, 2]).dtype(), Dtype::Int32);
        assert!(literal(true).item::<bool>().unwrap());
    }
}
