//! Primitives applied to arrays: what every function of the array interface is made of.
//!
//! Nothing is computed here. [`apply`] checks shapes and dtypes and gives lazy arrays on the calling
//! thread's default stream; the others put MLX's conversions before it: promotion to one dtype,
//! broadcasting to one shape.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::array::{Array, Operand};
use crate::context::current_stream;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ops::Primitive;
use crate::ops::broadcast::Broadcast;
use crate::ops::elementwise::AsType;
use crate::shape::{Shape, Spec};

/// The lazy outputs of a primitive on the calling thread's default stream. Inputs are taken as they
/// are: see [`promote`] and [`broadcast`].
///
/// # Errors
/// Where the primitive does not take these inputs.
pub fn apply(primitive: impl Into<Primitive>, inputs: &[Array]) -> Result<Vec<Array>> {
    apply_recorded(primitive.into(), inputs, None)
}

/// As [`apply`], with the outputs' specs for a primitive whose parameters leave them open.
///
/// # Errors
/// Where the primitive does not take these inputs, or gives other outputs.
pub fn apply_as(
    primitive: impl Into<Primitive>,
    inputs: &[Array],
    outputs: &[Spec],
) -> Result<Vec<Array>> {
    apply_recorded(primitive.into(), inputs, Some(outputs))
}

fn apply_recorded(
    primitive: Primitive,
    inputs: &[Array],
    recorded: Option<&[Spec]>,
) -> Result<Vec<Array>> {
    let specs: SmallVec<[Spec; 4]> = inputs.iter().map(|input| input.spec().clone()).collect();
    let outputs = primitive.infer(&specs, recorded)?;
    let stream = current_stream()?;
    Ok(Array::from_executable(
        Arc::new(primitive),
        inputs,
        &outputs,
        &stream,
        &Arc::default(),
    ))
}

/// The lazy output of a primitive that has one.
///
/// # Errors
/// As [`apply`].
pub fn apply_one(primitive: impl Into<Primitive>, inputs: &[Array]) -> Result<Array> {
    Ok(apply(primitive, inputs)?.swap_remove(0))
}

/// `x` with its elements converted; `x` itself where they need not be.
///
/// # Errors
/// None that a user can cause.
pub fn astype(x: &Array, dtype: Dtype) -> Result<Array> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    apply_one(AsType { dtype }, std::slice::from_ref(x))
}

/// `x` repeated along dimensions of size one, and new leading ones, to this shape.
///
/// # Errors
/// Where the shape is not one that `x` broadcasts to.
pub fn broadcast_to(x: &Array, shape: &Shape) -> Result<Array> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    let shape = shape.clone();
    apply_one(Broadcast { shape }, std::slice::from_ref(x))
}

/// The operands as arrays of one dtype: the one that MLX promotes theirs to. Numbers count for less
/// than arrays: they take on an array's dtype where it can hold numbers of their kind.
///
/// # Errors
/// As [`Operand::into_array`].
pub fn promote<const N: usize>(operands: [Operand; N]) -> Result<[Array; N]> {
    let arrays = operands.iter().filter_map(|operand| match operand {
        Operand::Array(array) => Some(array.dtype()),
        _ => None,
    });
    let beside = arrays.reduce(Dtype::promote);
    let dtype = operands
        .iter()
        .map(|operand| operand.dtype(beside))
        .reduce(Dtype::promote)
        .unwrap_or(Dtype::Float32);
    convert(operands, dtype)
}

/// The operands as arrays of this dtype.
///
/// # Errors
/// As [`Operand::into_array`].
pub fn convert<const N: usize>(operands: [Operand; N], dtype: Dtype) -> Result<[Array; N]> {
    each(operands, |operand| operand.into_array(dtype))
}

/// The arrays broadcast to one shape as in numpy. `name` is the operation that errors speak of.
///
/// Where a shape is an example (see [`Array::is_dynamic`]), each gets all of them as inputs, from which
/// a call infers the shape anew.
///
/// # Errors
/// Where the shapes do not broadcast together.
pub fn broadcast<const N: usize>(name: &str, arrays: [Array; N]) -> Result<[Array; N]> {
    let Some((first, others)) = arrays.split_first() else {
        return Ok(arrays);
    };
    let dynamic = arrays.iter().any(Array::is_dynamic);
    if !dynamic && others.iter().all(|other| other.shape() == first.shape()) {
        return Ok(arrays);
    }
    let mut shape = first.shape().clone();
    for other in others {
        shape = shape.broadcast(other.shape()).map_err(|error| {
            let specs: Vec<&Spec> = arrays.iter().map(Array::spec).collect();
            error.context(name, format!("the operands do not fit: got {specs:?}"))
        })?;
    }
    if dynamic {
        let mut inputs = arrays.clone();
        let mut number = 0;
        return each(arrays, |_| {
            // Each in turn comes first, and the others behind it.
            inputs.swap(0, number);
            number += 1;
            let shape = shape.clone();
            apply_one(Broadcast { shape }, &inputs)
        });
    }
    each(arrays, |array| broadcast_to(&array, &shape))
}

/// A primitive of two inputs that are promoted to one dtype and broadcast to one shape.
///
/// # Errors
/// Where shapes do not broadcast together, or the primitive is not defined for the dtype.
pub fn binary(
    primitive: impl Into<Primitive>,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
) -> Result<Array> {
    let primitive = primitive.into();
    let operands = promote([a.into(), b.into()])?;
    let operands = broadcast(primitive.name(), operands)?;
    apply_one(primitive, &operands)
}

/// As [`binary`], with the dtype that integers and bools have no quotient or root in: float32 for
/// them, else as it is.
///
/// # Errors
/// As [`binary`].
pub fn binary_float(
    primitive: impl Into<Primitive>,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
) -> Result<Array> {
    let primitive = primitive.into();
    let operands = promote([a.into(), b.into()])?;
    let dtype = operands[0].dtype().at_least_float();
    let operands = each(operands, |operand| astype(&operand, dtype))?;
    apply_one(primitive.clone(), &broadcast(primitive.name(), operands)?)
}

/// Converts each of some values, all or none.
fn each<A, B, const N: usize>(
    values: [A; N],
    convert: impl FnMut(A) -> Result<B>,
) -> Result<[B; N]> {
    let converted = values.into_iter().map(convert);
    let converted = converted.collect::<Result<SmallVec<[B; 4]>>>()?.into_vec();
    let wrong = |_| {
        Error::new(
            crate::error::ErrorKind::Internal,
            "apply",
            "lost an operand",
        )
    };
    converted.try_into().map_err(wrong)
}
