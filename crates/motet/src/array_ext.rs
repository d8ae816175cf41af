//! Functions of [`ops`](crate::ops) as methods, as MLX's Python arrays have them.

use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::Result;

use crate::ops::{self, Axes, Scan, Sections};

/// Declares each method once: it calls the function of its name.
macro_rules! methods {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $output:ty)?;)*) => {
        /// Functions of [`ops`](crate::ops) as methods, so that `x.reshape([2, -1])?.sum(-1)?` reads
        /// from left to right. In the [`prelude`](crate::prelude).
        ///
        /// ```
        /// use motet::prelude::*;
        ///
        /// let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [4])?;
        /// let y = x.reshape([2, -1])?.sum(-1)?;
        /// assert_eq!(y.to_vec::<f32>()?, [3.0, 7.0]);
        /// # Ok::<(), motet::Error>(())
        /// ```
        pub trait ArrayExt {
            /// The number of dimensions.
            fn ndim(&self) -> usize;

            /// The number of elements.
            fn size(&self) -> usize;

            /// The bytes of an element.
            fn itemsize(&self) -> usize;

            /// The bytes of all elements.
            fn nbytes(&self) -> usize;

            /// The array with its dimensions in reverse order: MLX's `T`.
            ///
            /// # Errors
            /// None that a user can cause.
            fn t(&self) -> Result<Array>;

            $(
                #[doc = concat!("[`ops::", stringify!($name), "`](crate::ops::", stringify!($name), ") of the array.")]
                ///
                /// # Errors
                /// As the function.
                fn $name(&self, $($argument: $type),*) -> methods!(output $($output)?);
            )*
        }

        impl ArrayExt for Array {
            fn ndim(&self) -> usize {
                self.shape().len()
            }

            fn size(&self) -> usize {
                self.shape().size()
            }

            fn itemsize(&self) -> usize {
                self.dtype().size()
            }

            fn nbytes(&self) -> usize {
                self.spec().bytes()
            }

            fn t(&self) -> Result<Array> {
                ops::transpose(self, ..)
            }

            $(
                fn $name(&self, $($argument: $type),*) -> methods!(output $($output)?) {
                    ops::$name(self, $($argument),*)
                }
            )*
        }
    };
    (output) => { Result<Array> };
    (output $output:ty) => { $output };
}

methods! {
    abs();
    all(axes: impl Into<Axes>);
    any(axes: impl Into<Axes>);
    argmax(axis: impl Into<Axes>);
    argmin(axis: impl Into<Axes>);
    argsort(axis: impl Into<Option<i32>>);
    astype(dtype: Dtype);
    broadcast_to(shape: impl Into<crate::Shape>);
    conjugate();
    cos();
    cummax(axis: impl Into<Option<i32>>, options: Scan);
    cummin(axis: impl Into<Option<i32>>, options: Scan);
    cumprod(axis: impl Into<Option<i32>>, options: Scan);
    cumsum(axis: impl Into<Option<i32>>, options: Scan);
    diag(k: i32);
    diagonal(offset: i32, axis1: i32, axis2: i32);
    exp();
    expand_dims(axes: impl Into<Axes>);
    flatten(start_axis: i32, end_axis: i32);
    imag();
    log();
    log10();
    log1p();
    log2();
    logcumsumexp(axis: impl Into<Option<i32>>, options: Scan);
    logsumexp(axes: impl Into<Axes>);
    matmul(other: &Array);
    matrix_transpose();
    max(axes: impl Into<Axes>);
    maximum(other: impl Into<Operand>);
    mean(axes: impl Into<Axes>);
    min(axes: impl Into<Axes>);
    minimum(other: impl Into<Operand>);
    moveaxis(source: i32, destination: i32);
    power(exponent: impl Into<Operand>);
    prod(axes: impl Into<Axes>);
    real();
    reciprocal();
    reshape(shape: impl AsRef<[i32]>);
    round(decimals: i32);
    rsqrt();
    sigmoid();
    sin();
    softmax(axes: impl Into<Axes>);
    sort(axis: impl Into<Option<i32>>);
    split(indices_or_sections: impl Into<Sections>, axis: i32) -> Result<Vec<Array>>;
    sqrt();
    square();
    squeeze(axes: impl Into<Axes>);
    std(axes: impl Into<Axes>, ddof: usize);
    sum(axes: impl Into<Axes>);
    swapaxes(axis1: i32, axis2: i32);
    take(indices: impl Into<Operand>, axis: impl Into<Option<i32>>);
    tanh();
    transpose(axes: impl Into<Axes>);
    unflatten(axis: i32, shape: impl AsRef<[i32]>);
    var(axes: impl Into<Axes>, ddof: usize);
    view(dtype: Dtype);
}
