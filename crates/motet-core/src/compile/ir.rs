//! What the passes work on: a graph lowered to kernels and views.

use smallvec::{SmallVec, smallvec};

use crate::compile::executor::inputs_read;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::Graph;
use crate::kernel::Kernel;
use crate::ops::{Lowered, View};
use crate::shape::Spec;
use crate::tensor::Tensor;

/// The number of a value of an [`Ir`].
pub(crate) type Value = usize;

/// Straight-line code: each step comes after those that make its inputs, and each value is made
/// once (by a step, or by being an input or a constant).
pub(crate) struct Ir {
    pub(crate) values: Vec<Spec>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) constants: Vec<(Value, Tensor)>,
    pub(crate) steps: Vec<Step>,
    pub(crate) outputs: Vec<Value>,
}

/// One computation of an [`Ir`].
pub(crate) struct Step {
    /// The primitives that it is made of, for people.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) inputs: SmallVec<[Value; 4]>,
    pub(crate) outputs: SmallVec<[Value; 1]>,
}

/// What a [`Step`] does.
#[derive(Debug)]
pub(crate) enum Kind {
    Kernel(Kernel),
    /// One output, another way to see the one input.
    View(View),
}

/// The graph for inputs of these specs, with views that change nothing left out.
pub(crate) fn lower(graph: &Graph, inputs: &[Spec]) -> Result<Ir> {
    let values = graph.specialize(inputs)?;
    let mut steps = Vec::with_capacity(graph.nodes.len());
    // The value that stands for each value: itself, or what it is merely another name of.
    let mut standing: Vec<Value> = (0..values.len()).collect();
    for node in &graph.nodes {
        let name = node.primitive.name();
        let specs_of = |ids: &[Value]| ids.iter().map(|&v| values[v].clone()).collect::<Vec<_>>();
        let (from, to) = (specs_of(&node.inputs), specs_of(&node.outputs));
        let lowered = node
            .primitive
            .lower(&from, &to)
            .map_err(|error| error.context(name, signature(&from, &to)))?;
        let mut inputs: SmallVec<[Value; 4]> = node.inputs.iter().map(|&v| standing[v]).collect();
        match lowered {
            Lowered::Kernel(kernel) => {
                inputs.truncate(inputs_read(&kernel, inputs.len()));
                steps.push(Step {
                    name: name.to_owned(),
                    kind: Kind::Kernel(kernel),
                    inputs,
                    outputs: node.outputs.iter().copied().collect(),
                });
            }
            Lowered::Views(views) => {
                for (&output, (index, view)) in node.outputs.iter().zip(views) {
                    let &input = inputs.get(index).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Internal,
                            name,
                            format!("no input {index} to view"),
                        )
                    })?;
                    let changes = values[input] != values[output]
                        || !matches!(view, View::Identity | View::Reshape | View::Broadcast);
                    if changes {
                        steps.push(Step {
                            name: name.to_owned(),
                            kind: Kind::View(view),
                            inputs: smallvec![input],
                            outputs: smallvec![output],
                        });
                    } else {
                        standing[output] = input;
                    }
                }
            }
        }
    }
    Ok(Ir {
        inputs: graph.inputs.clone(),
        constants: graph.constants.clone(),
        steps,
        outputs: graph.outputs.iter().map(|&v| standing[v]).collect(),
        values,
    })
}

/// `float32(2,3), float32(3) -> float32(2,3)`.
pub(crate) fn signature(inputs: &[Spec], outputs: &[Spec]) -> String {
    let list = |specs: &[Spec]| {
        let names: Vec<String> = specs.iter().map(Spec::to_string).collect();
        names.join(", ")
    };
    format!("{} -> {}", list(inputs), list(outputs))
}
