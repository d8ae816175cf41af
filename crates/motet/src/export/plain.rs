//! What MLX runs on GPUs alone, as the plain operations that it writes on a CPU.
//!
//! MLX's CPU has no kernels for the primitives of `fast`, nor for most of Quantize. What motet
//! writes is for a CPU, so before that they are replaced here, by MLX's own formulas. A shapeless
//! graph keeps RoPE and attention that counts positions: plain operations would count them in shapes
//! that are only examples.

mod fast;
mod quantized;

use std::sync::Arc;

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::compile::trace::{Signature, trace};
use motet_core::device::Device;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::graph::{Graph, Node};
use motet_core::kernel::QuantizationMode;
use motet_core::ops::Primitive;
use motet_core::shape::Spec;
use motet_core::stream::Stream;

use crate::function::replay;
use crate::{new_stream, with_stream};

/// The graph without what MLX's CPU cannot run; the graph itself where there is no such thing in it.
///
/// # Errors
/// None that a graph can cause that was checked.
pub(crate) fn plain(graph: &Arc<Graph>) -> Result<Arc<Graph>> {
    let replaced = |node: &Node| is_for_gpus(&node.primitive, graph.shapeless);
    if !graph.nodes.iter().any(replaced) {
        return Ok(Arc::clone(graph));
    }
    let specs_of = |values: &[usize]| -> Vec<Spec> {
        values.iter().map(|&v| graph.values[v].clone()).collect()
    };
    let signature = Signature {
        inputs: specs_of(&graph.inputs),
        keywords: graph.keywords.clone(),
        shapeless: graph.shapeless,
    };
    let lanes = graph.nodes.iter().map(|node| node.lane + 1).max();
    let lanes: Vec<Stream> = (0..lanes.unwrap_or(0))
        .map(|_| new_stream(Device::CPU))
        .collect::<Result<_>>()?;
    let constants = graph.constants.iter();
    let constants: Vec<Array> = constants
        .map(|(_, tensor)| Array::from_tensor(tensor.clone()))
        .collect();
    let graph = trace(signature, |inputs| {
        replay(graph, inputs, &constants, |node, inputs| {
            let (outputs, stream) = (specs_of(&node.outputs), &lanes[node.lane]);
            if replaced(node) {
                return with_stream(stream, || expanded(&node.primitive, inputs, &outputs));
            }
            let primitive = Arc::new(node.primitive.clone());
            Ok(Array::from_executable(
                primitive,
                inputs,
                &outputs,
                stream.clone(),
                None,
            ))
        })
    })?;
    Ok(Arc::new(graph))
}

fn is_for_gpus(primitive: &Primitive, shapeless: bool) -> bool {
    match primitive {
        Primitive::LayerNorm(_)
        | Primitive::LayerNormVJP(_)
        | Primitive::RMSNorm(_)
        | Primitive::RMSNormVJP(_) => true,
        Primitive::RoPE(_) => !shapeless,
        Primitive::ScaledDotProductAttention(op) => !(shapeless && (op.causal || op.has_sinks)),
        Primitive::Quantize(op) => {
            op.dequantize || op.quantization.mode != QuantizationMode::Affine
        }
        _ => false,
    }
}

/// The outputs of a primitive that is for GPUs.
fn expanded(primitive: &Primitive, inputs: &[Array], outputs: &[Spec]) -> Result<Vec<Array>> {
    let arrays = match (primitive, inputs) {
        (Primitive::LayerNorm(op), [x, w, b]) => vec![fast::layer_norm(op, x, w, b)?],
        (Primitive::LayerNormVJP(op), [x, w, b, g]) => fast::layer_norm_vjp(op, x, w, b, g)?,
        (Primitive::RMSNorm(op), [x, w]) => vec![fast::rms_norm(op, x, w)?],
        (Primitive::RMSNormVJP(op), [x, w, g]) => fast::rms_norm_vjp(op, x, w, g)?,
        (Primitive::RoPE(op), [x, offset, periods @ ..]) => {
            vec![fast::rope(op, x, offset, periods.first())?]
        }
        (Primitive::ScaledDotProductAttention(op), [q, k, v, more @ ..]) => {
            vec![fast::attention(op, q, k, v, more)?]
        }
        (Primitive::Quantize(op), [x]) => quantized::pack(op, x)?,
        (Primitive::Quantize(op), [w, scales, biases @ ..]) => {
            vec![quantized::unpack(op, w, scales, biases.first())?]
        }
        _ => {
            let message = "has no plain form for these inputs";
            return Err(Error::new(ErrorKind::Internal, primitive.name(), message));
        }
    };
    let converted = arrays.iter().zip(outputs);
    converted
        .map(|(array, spec)| astype(array, spec.dtype))
        .collect()
}
