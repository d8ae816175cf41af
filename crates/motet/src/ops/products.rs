//! Products of matrices, vectors, and arrays of any number of dimensions.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, broadcast_to, promote};
use motet_core::error::{Error, Result};
use motet_core::ops::broadcast::BroadcastAxes;
use motet_core::ops::matmul as primitive;
use motet_core::shape::{Shape, normalize_axis};

use super::shape::{flat, reshape_to};
use super::{add, conjugate, expand_dims, multiply, other_axes, squeeze, sum, transpose};

/// The operands of a matrix product as the primitives take them, and the shapes of its result there
/// and for the caller.
struct Product {
    a: Array,
    b: Array,
    inner: Shape,
    outer: Shape,
    /// The axes that vectors got, where the result's shape is not to be that of the example.
    added: Option<Vec<i32>>,
}

impl Product {
    /// Vectors become matrices of one row or column; batches broadcast together, or become more rows
    /// where `b` is one matrix. Where a shape is an example, a call broadcasts batches anew.
    fn new(name: &str, a: &Array, b: &Array) -> Result<Product> {
        let fail = || {
            Error::invalid(
                name,
                format!(
                    "{} and {} do not fit: expected (..., M, K) and (..., K, N), vectors of K, and a \
                     floating dtype",
                    a.spec(),
                    b.spec()
                ),
            )
        };
        let (row, column) = (a.shape().len() == 1, b.shape().len() == 1);
        if a.shape().is_empty() || b.shape().is_empty() || !a.dtype().is_inexact() {
            return Err(fail());
        }
        let a = if row { expand_dims(a, 0)? } else { a.clone() };
        let b = if column {
            expand_dims(b, 1)?
        } else {
            b.clone()
        };
        let (m, k) = last_two(&a);
        let (other_k, n) = last_two(&b);
        if k != other_k {
            return Err(fail());
        }
        let batch = |x: &Array| Shape::new(&x.shape()[..x.shape().len() - 2]);
        let shared = batch(&a).broadcast(&batch(&b)).map_err(|_| fail())?;
        let mut outer = shared.to_vec();
        outer.extend((!row).then_some(m));
        outer.extend((!column).then_some(n));
        let outer = Shape::from(outer);
        let with_batch = |last: [usize; 2]| Shape::from([&shared[..], &last].concat());
        if a.is_dynamic() || b.is_dynamic() {
            return Ok(Product {
                inner: with_batch([m, n]),
                outer,
                a: broadcast_batch(&a, &b)?,
                b: broadcast_batch(&b, &a)?,
                added: Some(
                    [row.then_some(-2), column.then_some(-1)]
                        .into_iter()
                        .flatten()
                        .collect(),
                ),
            });
        }
        if b.shape().len() == 2 {
            let rows = a.shape()[..a.shape().len() - 1].iter().product();
            return Ok(Product {
                a: reshape_to(&a, &[rows, k])?,
                b,
                inner: Shape::new(&[rows, n]),
                outer,
                added: None,
            });
        }
        Ok(Product {
            a: broadcast_to(&a, &with_batch([m, k]))?,
            b: broadcast_to(&b, &with_batch([k, n]))?,
            inner: with_batch([m, n]),
            outer,
            added: None,
        })
    }

    /// The product as the caller sees it.
    fn multiply(self) -> Result<Array> {
        let product = apply_one(primitive::Matmul, &[self.a, self.b])?;
        match self.added {
            Some(added) if added.is_empty() => Ok(product),
            Some(added) => squeeze(&product, added),
            None => reshape_to(&product, &self.outer),
        }
    }
}

/// `x` with the dimensions before the last two broadcast to those of `other`, in each call anew.
fn broadcast_batch(x: &Array, other: &Array) -> Result<Array> {
    let axes = vec![-2, -1];
    apply_one(BroadcastAxes { axes }, &[x.clone(), other.clone()])
}

fn last_two(x: &Array) -> (usize, usize) {
    let rank = x.shape().len();
    (x.shape()[rank - 2], x.shape()[rank - 1])
}

/// The matrix product of the last two dimensions, (..., M, K) by (..., K, N). Dimensions before them
/// broadcast; a vector is taken as one row (`a`) or column (`b`), which the result does not have.
///
/// # Errors
/// Where shapes do not fit, or the numbers are integers.
///
/// ```
/// # use motet::{Array, ops};
/// let a = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
/// let b = Array::from_slice(&[1.0f32, 10.0], [2])?;
/// assert_eq!(ops::matmul(&a, &b)?.to_vec::<f32>()?, [21.0, 43.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn matmul(a: &Array, b: &Array) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    Product::new("matmul", &a, &b)?.multiply()
}

/// `alpha * (a @ b) + beta * c`, where `a @ b` is [`matmul`] and `c` broadcasts to its shape.
///
/// # Errors
/// As [`matmul`], and where `c` does not broadcast to the result.
///
/// ```
/// # use motet::{Array, ops};
/// let a = Array::from_slice(&[1.0f32, 2.0], [1, 2])?;
/// let b = Array::from_slice(&[3.0f32, 4.0], [2, 1])?;
/// let c = Array::from(10.0f32);
/// assert_eq!(ops::addmm(&c, &a, &b, 2.0, 1.0)?.to_vec::<f32>()?, [32.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Result<Array> {
    let [c, a, b] = promote([c.into(), a.into(), b.into()])?;
    let product = Product::new("addmm", &a, &b)?;
    if product.added.is_some() || c.is_dynamic() {
        // What is added would be broadcast to the example's shape.
        return add(multiply(product.multiply()?, alpha)?, multiply(c, beta)?);
    }
    let c = broadcast_to(&c, &product.outer).map_err(|error| {
        let (c, outer) = (c.spec(), &product.outer);
        error.context("addmm", format!("got c {c} for a result of shape {outer}"))
    })?;
    let c = reshape_to(&c, &product.inner)?;
    let result = apply_one(primitive::AddMM { alpha, beta }, &[product.a, product.b, c])?;
    reshape_to(&result, &product.outer)
}

/// The products of the elements in the last dimensions, summed up; of a number and an array, their
/// product.
///
/// # Errors
/// Where the last dimensions differ, or the numbers are integers.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// assert_eq!(ops::inner(&x, &x)?.item::<f32>()?, 5.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn inner(a: &Array, b: &Array) -> Result<Array> {
    match a.shape().is_empty() || b.shape().is_empty() {
        true => multiply(a, b),
        false => contract("inner", a, b, &[-1], &[-1]),
    }
}

/// The product of each element of one array with each of another, as a matrix.
///
/// # Errors
/// Where the matrix is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2], [2])?;
/// assert_eq!(ops::outer(&x, &x)?.to_vec::<i32>()?, [1, 2, 2, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn outer(a: &Array, b: &Array) -> Result<Array> {
    multiply(expand_dims(&flat(a)?, 1)?, flat(b)?)
}

/// The sum of products along a dimension, the elements of `a` conjugated. Other dimensions broadcast.
///
/// # Errors
/// Where an axis is out of range, its sizes differ, or an axis from the start does not mean the same
/// dimension of both.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1, 2, 3, 4], [2, 2])?;
/// assert_eq!(ops::vecdot(&x, &x, -1)?.to_vec::<i32>()?, [5, 25]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn vecdot(a: &Array, b: &Array, axis: i32) -> Result<Array> {
    let size = |x: &Array| {
        let rank = x.shape().len();
        normalize_axis("vecdot", axis.into(), rank).map(|axis| x.shape()[axis])
    };
    let same_place = axis < 0 || a.shape().len() == b.shape().len();
    if size(a)? != size(b)? || !same_place {
        return Err(Error::invalid(
            "vecdot",
            format!(
                "got {} and {}, expected as many elements along axis {axis}",
                a.spec(),
                b.spec()
            ),
        ));
    }
    sum(&multiply(conjugate(a)?, b)?, axis)
}

/// What [`tensordot`] sums over: the last dimensions of `a` and the first ones of `b` (a number), or
/// dimensions of both (`[[1, 2], [0, 1]]`).
#[derive(Clone, Debug)]
pub enum Contracted {
    /// So many of the last dimensions of `a`, and of the first of `b`.
    Dims(usize),
    /// These dimensions of `a`, with these of `b`.
    Axes(Vec<i32>, Vec<i32>),
}

impl From<usize> for Contracted {
    fn from(dims: usize) -> Contracted {
        Contracted::Dims(dims)
    }
}

impl<const N: usize> From<[[i32; N]; 2]> for Contracted {
    fn from([a, b]: [[i32; N]; 2]) -> Contracted {
        Contracted::Axes(a.to_vec(), b.to_vec())
    }
}

impl From<(Vec<i32>, Vec<i32>)> for Contracted {
    fn from((a, b): (Vec<i32>, Vec<i32>)) -> Contracted {
        Contracted::Axes(a, b)
    }
}

/// The sum of products over some dimensions; the result has the other dimensions of `a`, then those
/// of `b`.
///
/// # Errors
/// Where axes are out of range, named twice, not as many, or of different sizes, or the numbers are
/// integers.
///
/// ```
/// # use motet::{Array, ops};
/// let x = ops::ones([2, 3, 4], None)?;
/// assert_eq!(*ops::tensordot(&x, &x, [[1, 2], [1, 2]])?.shape(), [2, 2].into());
/// assert_eq!(*ops::tensordot(&x, &x, 0)?.shape(), [2, 3, 4, 2, 3, 4].into());
/// # Ok::<(), motet::Error>(())
/// ```
pub fn tensordot(a: &Array, b: &Array, axes: impl Into<Contracted>) -> Result<Array> {
    match axes.into() {
        Contracted::Axes(left, right) => contract("tensordot", a, b, &left, &right),
        Contracted::Dims(count) if count <= a.shape().len().min(b.shape().len()) => {
            let (rank, count) = (a.shape().len() as i32, count as i32);
            let left: Vec<i32> = (rank - count..rank).collect();
            let right: Vec<i32> = (0..count).collect();
            contract("tensordot", a, b, &left, &right)
        }
        Contracted::Dims(count) => Err(Error::invalid(
            "tensordot",
            format!(
                "{} and {} have not both {count} dimensions",
                a.spec(),
                b.spec()
            ),
        )),
    }
}

/// Sums the products over dimensions of `a` and `b` that are paired.
fn contract(name: &str, a: &Array, b: &Array, left: &[i32], right: &[i32]) -> Result<Array> {
    let [a, b] = promote([a.into(), b.into()])?;
    let normal = |x: &Array, axes: &[i32]| {
        let listed = super::Axes::from(axes).listed(name, x.shape().len());
        listed.map(Option::unwrap_or_default)
    };
    let (left, right) = (normal(&a, left)?, normal(&b, right)?);
    let sizes = |x: &Array, axes: &[i32]| -> Vec<usize> {
        axes.iter().map(|&axis| x.shape()[axis as usize]).collect()
    };
    let summed = sizes(&a, &left);
    if summed != sizes(&b, &right) {
        return Err(Error::invalid(
            name,
            format!(
                "{} and {} differ in the dimensions to sum over, {left:?} and {right:?}",
                a.spec(),
                b.spec()
            ),
        ));
    }
    let rows = other_axes(a.shape().len(), &left);
    let columns = other_axes(b.shape().len(), &right);
    let shape = [sizes(&a, &rows), sizes(&b, &columns)].concat();
    let count = |sizes: &[usize]| sizes.iter().product::<usize>();
    let (m, k, n) = (
        count(&sizes(&a, &rows)),
        count(&summed),
        count(&sizes(&b, &columns)),
    );
    let a = reshape_to(&transpose(&a, [rows, left].concat())?, &[m, k])?;
    let b = reshape_to(&transpose(&b, [right, columns].concat())?, &[k, n])?;
    let Product { a, b, .. } = Product::new(name, &a, &b)?;
    reshape_to(&apply_one(primitive::Matmul, &[a, b])?, &shape)
}

/// The Kronecker product: each element of `a`, replaced by its product with `b`.
///
/// # Errors
/// Where the result is too large.
///
/// ```
/// # use motet::{Array, ops};
/// let (a, b) = (Array::from_slice(&[1, 2], [2])?, Array::from_slice(&[1, 10], [2])?);
/// assert_eq!(ops::kron(&a, &b)?.to_vec::<i32>()?, [1, 10, 2, 20]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn kron(a: &Array, b: &Array) -> Result<Array> {
    let rank = a.shape().len().max(b.shape().len());
    let padded = |x: &Array| [&vec![1; rank - x.shape().len()][..], x.shape()].concat();
    let (left, right) = (padded(a), padded(b));
    // Every dimension of a is followed by one of b.
    let spread: Vec<usize> = left.iter().flat_map(|&dim| [dim, 1]).collect();
    let between: Vec<usize> = right.iter().flat_map(|&dim| [1, dim]).collect();
    let products = multiply(reshape_to(a, &spread)?, reshape_to(b, &between)?)?;
    let sizes = left.iter().zip(&right);
    let shape: Vec<usize> = sizes.map(|(a, b)| a * b).collect();
    reshape_to(&products, &shape)
}
