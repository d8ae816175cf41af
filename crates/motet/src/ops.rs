//! Operations on arrays, under MLX's names. Lazy: they check shapes and dtypes and return at once.
//!
//! Operands have one dtype; shapes broadcast as in numpy.

use std::sync::Arc;

use motet_core::array::Array;
use motet_core::compile::executor::run_primitive;
use motet_core::context::current_stream;
use motet_core::error::Result;
use motet_core::node::Executable;
use motet_core::ops::Primitive;
use motet_core::ops::broadcast::Broadcast;
use motet_core::ops::elementwise::{Add, Divide, Exp, Multiply, Subtract};
use motet_core::ops::matmul::Matmul;
use motet_core::pool::Pool;
use motet_core::shape::{Shape, Spec};
use motet_core::tensor::Tensor;

/// `a + b`. Both of one dtype; shapes broadcast.
///
/// # Errors
/// Where dtypes differ or shapes do not broadcast.
///
/// ```
/// # use motet::{Array, ops};
/// let a = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// let b = Array::from_slice(&[10.0f32], [1])?;
/// assert_eq!(ops::add(&a, &b)?.to_vec::<f32>()?, [11.0, 12.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    binary(Primitive::Add(Add), a, b)
}

/// `a - b`. Both of one dtype; shapes broadcast.
///
/// # Errors
/// Where dtypes differ or shapes do not broadcast.
pub fn subtract(a: &Array, b: &Array) -> Result<Array> {
    binary(Primitive::Subtract(Subtract), a, b)
}

/// `a * b`. Both of one dtype; shapes broadcast.
///
/// # Errors
/// Where dtypes differ or shapes do not broadcast.
pub fn multiply(a: &Array, b: &Array) -> Result<Array> {
    binary(Primitive::Multiply(Multiply), a, b)
}

/// `a / b` of floats. Both of one dtype; shapes broadcast.
///
/// # Errors
/// Where dtypes differ or shapes do not broadcast.
pub fn divide(a: &Array, b: &Array) -> Result<Array> {
    binary(Primitive::Divide(Divide), a, b)
}

/// `e` to the power of each element; floats and complex.
///
/// # Errors
/// Where the dtype is not inexact.
pub fn exp(x: &Array) -> Result<Array> {
    single(Primitive::Exp(Exp), &[x])
}

/// The matrix product of the last two dimensions, (..., M, K) by (..., K, N); the dimensions before
/// are equal.
///
/// # Errors
/// Where dtypes differ or are not inexact, or shapes do not fit.
pub fn matmul(a: &Array, b: &Array) -> Result<Array> {
    single(Primitive::Matmul(Matmul), &[a, b])
}

/// `x` repeated along dimensions of size one, and new leading ones, to this shape.
///
/// # Errors
/// Where the shape is not one that `x` broadcasts to.
pub fn broadcast_to(x: &Array, shape: impl Into<Shape>) -> Result<Array> {
    let shape = shape.into();
    if *x.shape() == shape {
        return Ok(x.clone());
    }
    single(Primitive::Broadcast(Broadcast { shape }), &[x])
}

/// The lazy outputs of any primitive, on the calling thread's default stream.
///
/// # Errors
/// Where the primitive does not take these inputs.
pub fn apply(primitive: Primitive, inputs: &[Array]) -> Result<Vec<Array>> {
    let specs: Vec<Spec> = inputs.iter().map(|input| input.spec().clone()).collect();
    let outputs = primitive.infer(&specs, None)?;
    let operation = Arc::new(Operation(primitive));
    let stream = current_stream()?;
    Ok(Array::from_executable(
        operation,
        inputs,
        &outputs,
        &stream,
        &Arc::default(),
    ))
}

fn binary(primitive: Primitive, a: &Array, b: &Array) -> Result<Array> {
    let broadcast = a.shape().broadcast(b.shape());
    let shape = broadcast.map_err(|e| e.context(primitive.name(), "the operands do not fit"))?;
    let (a, b) = (broadcast_to(a, shape.clone())?, broadcast_to(b, shape)?);
    single(primitive, &[&a, &b])
}

fn single(primitive: Primitive, inputs: &[&Array]) -> Result<Array> {
    let inputs: Vec<Array> = inputs.iter().map(|&input| input.clone()).collect();
    Ok(apply(primitive, &inputs)?.swap_remove(0))
}

/// A primitive, executed as it is.
struct Operation(Primitive);

impl Executable for Operation {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        pool: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        run_primitive(&self.0, inputs, outputs, pool)
    }
}
