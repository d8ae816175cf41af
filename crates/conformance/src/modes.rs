//! The modes in which a primitive runs. In all of them it has to give the same bits.

use std::sync::Arc;

use motet::{Array, ops};
use motet_core::backend::{Backend, Launch, Location};
use motet_core::compile::plan::Plan;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::export::reader::ExportedFile;
use motet_core::graph::{Graph, Node};
use motet_core::memory::heap;
use motet_core::ops::{Lowered, Primitive};
use motet_core::pool::Pool;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use crate::value::Value;

/// Lazy arrays of a primitive's outputs, on the calling thread's default stream.
///
/// # Errors
/// What the primitive refuses.
pub fn lazy(primitive: &Primitive, inputs: &[Tensor]) -> Result<Vec<Array>> {
    let inputs: Vec<Array> = inputs.iter().cloned().map(Array::from_tensor).collect();
    ops::apply(primitive.clone(), &inputs)
}

/// The values of arrays.
///
/// # Errors
/// Where their computation fails.
pub fn values(arrays: &[Array]) -> Result<Vec<Tensor>> {
    arrays.iter().map(Array::tensor).collect()
}

/// The primitive as it is.
///
/// # Errors
/// What the primitive or the backend refuses.
pub fn eager(primitive: &Primitive, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    values(&lazy(primitive, inputs)?)
}

/// The primitive as a graph of one node. With `constants` the inputs are in the graph.
///
/// # Errors
/// What the primitive refuses.
pub fn graph(primitive: &Primitive, inputs: &[Tensor], constants: bool) -> Result<Graph> {
    let mut values: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
    let outputs = primitive.infer(&values, None)?;
    let ids: Vec<usize> = (0..inputs.len()).collect();
    let made: Vec<usize> = (inputs.len()..inputs.len() + outputs.len()).collect();
    values.extend(outputs);
    let node = Node {
        primitive: primitive.clone(),
        inputs: ids.clone(),
        outputs: made.clone(),
        lane: 0,
    };
    let known = ids.iter().copied().zip(inputs.iter().cloned());
    Ok(Graph {
        values,
        inputs: if constants { Vec::new() } else { ids.clone() },
        keywords: Vec::new(),
        constants: if constants {
            known.collect()
        } else {
            Vec::new()
        },
        nodes: vec![node],
        outputs: made,
        shapeless: false,
    })
}

/// A graph as a plan, called once.
///
/// # Errors
/// What the graph or the backend refuses.
pub fn planned(graph: &Graph, inputs: &[Tensor], fuse: bool) -> Result<Vec<Tensor>> {
    let specs: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
    let plan = Plan::build(graph, &specs, fuse)?;
    plan.call(inputs, Pool::global(), &mut || Ok(()))
}

/// A graph written to a file and read again; `None` where MLX cannot store a primitive of it.
///
/// # Errors
/// Where what is written cannot be read.
pub fn exported(graph: Graph) -> Result<Option<Arc<Graph>>> {
    let mut file = ExportedFile::new(graph.shapeless, "");
    file.functions.push(Arc::new(graph));
    let mut bytes = Vec::new();
    match file.write(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(None),
        written => written?,
    }
    let again = ExportedFile::parse(bytes, "exported")?;
    Ok(again.functions.into_iter().next())
}

/// The primitive's kernel launched on a backend, with inputs in the layouts that they have: into new
/// memory, and over each input that it may write over. Nothing where it is no kernel or does not accept a
/// layout.
///
/// # Errors
/// What the primitive or the backend refuses.
pub fn launched(
    backend: &dyn Backend,
    primitive: &Primitive,
    inputs: &[Tensor],
) -> Result<Vec<Vec<Tensor>>> {
    let specs: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
    let outputs = primitive.infer(&specs, None)?;
    let Lowered::Kernel(kernel) = primitive.lower(&specs, &outputs)? else {
        return Ok(Vec::new());
    };
    let inputs = match &kernel {
        motet_core::kernel::Kernel::Elementwise(program) => &inputs[..program.inputs.len()],
        _ => inputs,
    };
    let accepted = |(index, tensor): (usize, &Tensor)| {
        let address = tensor.buffer.as_ptr().addr() + tensor.offset;
        address.is_multiple_of(tensor.layout.dtype.size())
            && backend.accepts(&kernel, index, &tensor.layout)
    };
    if outputs.iter().all(|spec| spec.shape.size() == 0) || !inputs.iter().enumerate().all(accepted)
    {
        return Ok(Vec::new());
    }
    let allocate = |spec| Tensor::allocate(spec, heap());
    let results: Vec<Tensor> = outputs.iter().map(allocate).collect::<Result<_>>()?;
    let layouts = |tensors: &[Tensor]| {
        tensors
            .iter()
            .map(|t| t.layout.clone())
            .collect::<Vec<Layout>>()
    };
    let step = backend.prepare(&kernel, &layouts(inputs), &layouts(&results), &[])?;
    let scratch = heap().allocate(step.scratch_bytes())?;
    let launch = |inputs: &[Tensor], results: Vec<Tensor>| {
        step.launch(&Launch {
            inputs: &locations(inputs),
            outputs: &locations(&results),
            scratch: Location {
                buffer: &scratch,
                offset: 0,
            },
            pool: Pool::global(),
        })?;
        Ok(results)
    };
    let mut launches = vec![launch(inputs, results)?];
    for (index, input) in inputs.iter().enumerate() {
        for (number, output) in outputs.iter().enumerate() {
            let same_size = input.layout.dtype.size() == output.dtype.size()
                && input.layout.shape.size() == output.shape.size();
            if !(step.writes_over(index, number) && same_size && input.layout.is_contiguous()) {
                continue;
            }
            let copy = Value::of(input).tensor()?;
            let mut results: Vec<Tensor> = outputs.iter().map(allocate).collect::<Result<_>>()?;
            results[number].buffer = Arc::clone(&copy.buffer);
            let mut inputs = inputs.to_vec();
            inputs[index] = copy;
            launches.push(launch(&inputs, results)?);
        }
    }
    Ok(launches)
}

fn locations(tensors: &[Tensor]) -> Vec<Location<'_>> {
    let locations = tensors.iter().map(|tensor| Location {
        buffer: &tensor.buffer,
        offset: tensor.offset,
    });
    locations.collect()
}

/// Whether two results are the same to the bit; one NaN is as good as another.
pub fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    let same = |(a, b): (&Tensor, &Tensor)| {
        a.spec() == b.spec() && {
            let (x, y) = (motet_io::row_major(a), motet_io::row_major(b));
            x == y || is_floating(a.layout.dtype) && same_numbers(&Value::of(a), &Value::of(b))
        }
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

fn is_floating(dtype: Dtype) -> bool {
    dtype.is_inexact()
}

fn same_numbers(a: &Value, b: &Value) -> bool {
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    a.elements.iter().zip(&b.elements).all(|(a, b)| {
        let (a, b) = (a.complex(), b.complex());
        same(a.re, b.re) && same(a.im, b.im)
    })
}

/// What went wrong in a mode, for people.
pub(crate) fn failed(mode: &str, error: &Error) -> String {
    format!("{mode}: {error}")
}
