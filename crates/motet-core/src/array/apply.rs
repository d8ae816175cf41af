//! Primitives applied to arrays: what every function of the array interface is made of.
//!
//! Nothing is computed here. [`apply`] checks shapes and dtypes and gives lazy arrays on the calling
//! thread's default stream; the others put MLX's conversions before it: promotion to one dtype,
//! broadcasting to one shape.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::array::{Array, Operand};
use crate::compile::executor::is_aligned;
use crate::context::current_stream;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::node::Status;
use crate::ops::Primitive;
use crate::ops::broadcast::Broadcast;
use crate::ops::elementwise::AsType;
use crate::shape::{Layout, Shape, Spec, Strides};
use crate::tensor::Tensor;

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
    let mut specs = SmallVec::<[Spec; 4]>::new();
    for input in inputs {
        specs.push(input.spec().clone());
    }
    let outputs = primitive.infer(&specs, recorded).map_err(|error| {
        match error.origin() == primitive.name() {
            true => error.with_origin(function_name(primitive.name())),
            false => error,
        }
    })?;
    let stream = current_stream()?;
    Ok(Array::from_executable(
        Arc::new(primitive),
        inputs,
        &outputs,
        stream,
        None,
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
    if let Some(repeated) = repeated_number(x, shape) {
        return Ok(Array::from_tensor(repeated));
    }
    let shape = shape.clone();
    apply_one(Broadcast { shape }, std::slice::from_ref(x))
}

/// One number that is there is there in any shape: operators have it as an operand more often than
/// not, and a command for it would take as long as the operation. Tracing records it as a broadcast.
fn repeated_number(x: &Array, shape: &Shape) -> Option<Tensor> {
    if x.size() != 1 || x.ndim() > shape.len() || shape.check(x.dtype()).is_err() {
        return None;
    }
    let Status::Done(Ok(number)) = x.status() else {
        return None;
    };
    let layout = Layout {
        shape: shape.clone(),
        strides: Strides::from_elem(0, shape.len()),
        dtype: x.dtype(),
    };
    number.view(layout, 0).filter(is_aligned)
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
            let message = format!("the operands do not fit: got {specs:?}");
            error.context(function_name(name), message)
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
    mut convert: impl FnMut(A) -> Result<B>,
) -> Result<[B; N]> {
    let mut first = None;
    let converted = values.map(|value| match convert(value) {
        Ok(value) => Some(value),
        Err(error) => {
            first.get_or_insert(error);
            None
        }
    });
    match first {
        Some(error) => Err(error),
        None => Ok(converted.map(|value| value.expect("no conversion failed"))),
    }
}

/// How functions are called that apply a primitive of this name, which is what errors of their use
/// should speak of: `ExpandDims` is `expand_dims`.
fn function_name(primitive: &str) -> String {
    // Of several words, but written as one.
    const ONE_WORD: [&str; 8] = [
        "AddMM",
        "AsType",
        "DivMod",
        "ErfInv",
        "LogAddExp",
        "LogSumExp",
        "RoPE",
        "SearchSorted",
    ];
    let starts = ["Arc", "Arg"]
        .iter()
        .any(|start| primitive.starts_with(start));
    if starts || ONE_WORD.contains(&primitive) {
        return primitive.to_lowercase();
    }
    let letters = primitive.as_bytes();
    let mut name = String::new();
    for (i, letter) in primitive.char_indices() {
        // A word starts behind a small letter, and with the last of several capitals.
        let small = |at: usize| letters.get(at).is_some_and(u8::is_ascii_lowercase);
        if i > 0 && letter.is_uppercase() && (small(i - 1) || small(i + 1)) {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_called_as_by_mlx() {
        for (primitive, function) in [
            ("Add", "add"),
            ("AddMM", "addmm"),
            ("ArcTan2", "arctan2"),
            ("ArgSort", "argsort"),
            ("BlockMaskedMM", "block_masked_mm"),
            ("ExpandDims", "expand_dims"),
            ("GatherQMM", "gather_qmm"),
            ("RMSNorm", "rms_norm"),
            ("RoPE", "rope"),
            ("SVD", "svd"),
            ("where_", "where_"),
        ] {
            assert_eq!(function_name(primitive), function);
        }
    }

    #[test]
    fn errors_speak_of_the_function() {
        let [a, b] = [2, 3].map(|n| Array::from_slice(&vec![1.0f32; n], [n]).unwrap());
        let wrong = crate::ops::shape::ExpandDims { axes: vec![5] };
        let error = apply_one(wrong, std::slice::from_ref(&a)).unwrap_err();
        assert!(error.to_string().starts_with("[expand_dims]"), "{error}");
        let error = binary(crate::ops::elementwise::Add, &a, &b).unwrap_err();
        assert!(error.to_string().starts_with("[add]"), "{error}");
    }
}
