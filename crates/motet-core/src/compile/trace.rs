//! From a closure on arrays to a graph: it is called once, with placeholders, and the graph is what
//! its results depend on.
//!
//! Nothing but the arrays takes part: no thread and no global knows that it is traced, so any number
//! of threads trace at once, and what is traced may call traced functions. Arrays that have a value
//! become constants; lazy ones are recorded, and calls of functions with all that is in them.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::array::Array;
use crate::error::{Error, Result};
use crate::graph::{self, Graph, ValueId};
use crate::node::{Definition, Node, Recipe, Status};
use crate::ops::Primitive;
use crate::ops::broadcast::Broadcast;
use crate::shape::{Layout, Spec};
use crate::stream::Stream;
use crate::tensor::Tensor;

/// What a function is traced with.
#[derive(Clone, Debug, Default)]
pub struct Signature {
    /// Shapes and dtypes: those of positional inputs, then those of keywords.
    pub inputs: Vec<Spec>,
    /// The names of the last inputs, in ascending order.
    pub keywords: Vec<String>,
    /// Whether the graph is for inputs of any shape of the same rank.
    pub shapeless: bool,
}

/// The graph of what `function` makes of its inputs.
///
/// # Errors
/// What `function` returned; that it returned what cannot be recorded or what failed.
pub fn trace(
    signature: Signature,
    function: impl FnOnce(&[Array]) -> Result<Vec<Array>>,
) -> Result<Graph> {
    let Signature {
        inputs,
        keywords,
        shapeless,
    } = signature;
    let placeholders: Vec<Array> = inputs
        .iter()
        .map(|spec| Array::placeholder(spec.clone(), shapeless))
        .collect();
    let outputs = function(&placeholders)?;
    let mut recorder = Recorder {
        graph: Graph {
            inputs: (0..inputs.len()).collect(),
            values: inputs,
            keywords,
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            shapeless,
        },
        values: HashMap::new(),
        constants: HashMap::new(),
        lanes: Vec::new(),
        recorded: Vec::new(),
    };
    for (value, placeholder) in placeholders.iter().enumerate() {
        recorder.define(placeholder.node(), 0, value);
    }
    recorder.record(&outputs)?;
    recorder.graph.outputs = outputs
        .iter()
        .map(|output| recorder.value(output))
        .collect::<Result<_>>()?;
    Ok(recorder.graph)
}

struct Recorder {
    graph: Graph,
    /// The value of each output of each node so far.
    values: HashMap<(*const Node, usize), ValueId>,
    /// The value of each constant so far.
    constants: HashMap<(usize, usize, Layout), ValueId>,
    /// The stream of each lane.
    lanes: Vec<Stream>,
    /// Keeps the nodes alive by whose addresses values are found.
    recorded: Vec<Arc<Node>>,
}

/// A lazy node as it was found; meanwhile somebody may evaluate it.
struct Visit {
    node: Arc<Node>,
    recipe: Recipe,
    unvisited: SmallVec<[Array; 2]>,
}

impl Recorder {
    /// Records what the arrays depend on, inputs before users.
    fn record(&mut self, arrays: &[Array]) -> Result<()> {
        let mut path: Vec<Visit> = Vec::new();
        for array in arrays {
            let mut next = Some(array.clone());
            while next.is_some() || !path.is_empty() {
                if let Some(array) = next.take()
                    && !self.values.contains_key(&key(&array))
                {
                    match array.node().recipe() {
                        Some(recipe) => path.push(Visit {
                            node: Arc::clone(array.node()),
                            unvisited: recipe.inputs.iter().rev().cloned().collect(),
                            recipe,
                        }),
                        None => self.data(&array)?,
                    }
                }
                if let Some(visit) = path.last_mut() {
                    next = visit.unvisited.pop();
                    if next.is_none()
                        && let Some(visit) = path.pop()
                    {
                        self.visited(visit)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn define(&mut self, node: &Arc<Node>, output: usize, value: ValueId) {
        self.values.insert((Arc::as_ptr(node), output), value);
        self.recorded.push(Arc::clone(node));
    }

    fn value(&self, array: &Array) -> Result<ValueId> {
        let value = self.values.get(&key(array)).copied();
        value.ok_or_else(|| Error::invalid("trace", "an array is used before it is recorded"))
    }

    /// An array that is not lazy: waits for it where it is being computed.
    fn data(&mut self, array: &Array) -> Result<()> {
        if matches!(array.status(), Status::Placeholder) {
            let spec = array.spec();
            return Err(Error::invalid(
                "trace",
                format!(
                    "a result depends on an input of {spec} of another function that is being \
                     traced; pass it as an input"
                ),
            ));
        }
        let tensor = array.tensor()?;
        let value = match tensor.repeated() {
            // So files have a number, not as many as it is seen as.
            Some(number) => {
                let number = self.constant(&number);
                let shape = tensor.layout.shape.clone();
                let specs = [tensor.spec()];
                self.node(&Broadcast { shape }.into(), vec![number], &specs, 0)[0]
            }
            None => self.constant(&tensor),
        };
        self.define(array.node(), array.output(), value);
        Ok(())
    }

    fn constant(&mut self, tensor: &Tensor) -> ValueId {
        let values = &mut self.graph.values;
        let constants = &mut self.graph.constants;
        *self.constants.entry(tensor.identity()).or_insert_with(|| {
            values.push(tensor.spec());
            constants.push((values.len() - 1, tensor.clone()));
            values.len() - 1
        })
    }

    /// A node whose inputs are recorded.
    fn visited(&mut self, visit: Visit) -> Result<()> {
        let Visit { node, recipe, .. } = visit;
        let inputs = recipe.inputs.iter().map(|input| self.value(input));
        let inputs: Vec<ValueId> = inputs.collect::<Result<_>>()?;
        let lane = node.stream.as_ref().map_or(0, |stream| self.lane(stream));
        let outputs = match recipe.executable.definition() {
            Some(Definition::Primitive(primitive)) => {
                self.node(primitive, inputs, &node.outputs, lane)
            }
            Some(Definition::Function(graph)) => self.function(graph, &inputs, lane)?,
            None => {
                let name = recipe.executable.name();
                return Err(Error::unsupported(name, "this cannot be recorded"));
            }
        };
        for (output, value) in outputs.into_iter().enumerate() {
            self.define(&node, output, value);
        }
        Ok(())
    }

    fn lane(&mut self, stream: &Stream) -> usize {
        let known = self.lanes.iter().position(|lane| lane == stream);
        known.unwrap_or_else(|| {
            self.lanes.push(stream.clone());
            self.lanes.len() - 1
        })
    }

    fn node(
        &mut self,
        primitive: &Primitive,
        inputs: Vec<ValueId>,
        specs: &[Spec],
        lane: usize,
    ) -> Vec<ValueId> {
        let first = self.graph.values.len();
        self.graph.values.extend_from_slice(specs);
        let outputs: Vec<ValueId> = (first..self.graph.values.len()).collect();
        self.graph.nodes.push(graph::Node {
            primitive: primitive.clone(),
            inputs,
            outputs: outputs.clone(),
            lane,
        });
        outputs
    }

    /// A call of a function: its nodes for these inputs. Returns its outputs.
    fn function(
        &mut self,
        callee: &Graph,
        inputs: &[ValueId],
        lane: usize,
    ) -> Result<Vec<ValueId>> {
        let specs: Vec<Spec> = inputs
            .iter()
            .map(|&value| self.graph.values[value].clone())
            .collect();
        let specs = callee.specialize(&specs)?;
        let mut values: HashMap<ValueId, ValueId> = callee
            .inputs
            .iter()
            .copied()
            .zip(inputs.iter().copied())
            .collect();
        for (value, tensor) in &callee.constants {
            values.insert(*value, self.constant(tensor));
        }
        for node in &callee.nodes {
            let inputs = node.inputs.iter().map(|value| values[value]).collect();
            let outputs: Vec<Spec> = node.outputs.iter().map(|&v| specs[v].clone()).collect();
            let made = self.node(&node.primitive, inputs, &outputs, lane);
            values.extend(node.outputs.iter().copied().zip(made));
        }
        Ok(callee.outputs.iter().map(|value| values[value]).collect())
    }
}

fn key(array: &Array) -> (*const Node, usize) {
    (Arc::as_ptr(array.node()), array.output())
}
