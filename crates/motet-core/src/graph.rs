//! A function as a graph: what the reader makes of a file, and what plans are built from.
//!
//! A graph is a tape: nodes in execution order over numbered values, each value made once, before
//! its first use. So every pass is a loop over the nodes, and nothing recurses however long the
//! chain. Graphs are immutable and hold no state of any call: all threads share one.

use std::fmt;

use crate::error::{Error, Result};
use crate::ops::Primitive;
use crate::shape::Spec;
use crate::tensor::Tensor;

/// The number of a value: an index into [`Graph::values`].
pub type ValueId = usize;

/// A function: inputs, constants, nodes in execution order, outputs.
pub struct Graph {
    /// What each value is: inputs first, then constants and what nodes make, in the order of their
    /// definition. In a shapeless graph: what it was when the function was traced.
    pub values: Vec<Spec>,
    /// The inputs: positional ones, then keywords.
    pub inputs: Vec<ValueId>,
    /// The names of the last inputs, in ascending order.
    pub keywords: Vec<String>,
    /// The values that are the same in every call.
    pub constants: Vec<(ValueId, Tensor)>,
    /// The operations in execution order.
    pub nodes: Vec<Node>,
    /// The results: any values, also inputs and constants, also repeatedly.
    pub outputs: Vec<ValueId>,
    /// Whether inputs need match in dtype and rank only.
    pub shapeless: bool,
}

/// One operation of a graph.
pub struct Node {
    /// What it computes.
    pub primitive: Primitive,
    /// The values that it reads.
    pub inputs: Vec<ValueId>,
    /// The values that it makes, one for each output of the primitive.
    pub outputs: Vec<ValueId>,
    /// The stream slot that it was traced on, numbered from 0 in order of appearance.
    pub lane: usize,
}

impl Graph {
    /// The number of inputs that have no name.
    pub fn positional(&self) -> usize {
        self.inputs.len() - self.keywords.len()
    }

    /// Whether a call with these inputs, the last of which have these names, is for this function.
    pub fn takes(&self, inputs: &[Spec], keywords: &[&str]) -> bool {
        let fits = |(&value, spec): (&ValueId, &Spec)| {
            let own = &self.values[value];
            own.dtype == spec.dtype
                && own.shape.len() == spec.shape.len()
                && (self.shapeless || own.shape == spec.shape)
        };
        inputs.len() == self.inputs.len()
            && self.keywords.iter().eq(keywords)
            && self.inputs.iter().zip(inputs).all(fits)
    }

    /// The values that nodes read or that are outputs, with repetitions.
    pub fn used(&self) -> impl Iterator<Item = ValueId> {
        let by_nodes = self.nodes.iter().flat_map(|node| &node.inputs);
        by_nodes.chain(&self.outputs).copied()
    }

    /// What every value is when the inputs are these.
    ///
    /// # Errors
    /// The inputs do not fit the function, or, in a shapeless one, an operation does not accept
    /// the shapes that follow from them.
    pub fn specialize(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        self.check_inputs(inputs)?;
        let mut values = self.values.clone();
        for (&id, spec) in self.inputs.iter().zip(inputs) {
            values[id] = spec.clone();
        }
        if !self.shapeless {
            return Ok(values);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let specs = infer(node, &values, &self.values).map_err(|e| {
                e.context("function", format!("node {index} of {}", self.nodes.len()))
            })?;
            for (&id, spec) in node.outputs.iter().zip(specs) {
                values[id] = spec;
            }
        }
        Ok(values)
    }

    fn check_inputs(&self, inputs: &[Spec]) -> Result<()> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::invalid(
                "function",
                format!(
                    "got {} inputs, expected {}",
                    inputs.len(),
                    self.inputs.len()
                ),
            ));
        }
        for (index, (got, &id)) in inputs.iter().zip(&self.inputs).enumerate() {
            let expected = &self.values[id];
            let fits = if self.shapeless {
                got.dtype == expected.dtype && got.shape.len() == expected.shape.len()
            } else {
                got == expected
            };
            if !fits {
                let rule = if self.shapeless {
                    " in dtype and rank"
                } else {
                    ""
                };
                return Err(Error::invalid(
                    "function",
                    format!("input {index} does not fit: got {got}, expected {expected}{rule}"),
                ));
            }
            got.shape.check(got.dtype)?;
        }
        Ok(())
    }
}

/// The outputs of a node of a shapeless graph. Where its inputs are those of the trace so are its
/// outputs, which settles what inputs and parameters leave open (the dtype of an Arange, say).
fn infer(node: &Node, values: &[Spec], traced: &[Spec]) -> Result<Vec<Spec>> {
    let inputs: Vec<Spec> = node.inputs.iter().map(|&id| values[id].clone()).collect();
    let recorded: Vec<Spec> = node.outputs.iter().map(|&id| traced[id].clone()).collect();
    let unchanged = node.inputs.iter().all(|&id| values[id] == traced[id]);
    let specs = node
        .primitive
        .infer(&inputs, unchanged.then_some(&recorded[..]))?;
    if specs.len() != recorded.len() {
        return Err(Error::invalid(
            node.primitive.name(),
            format!(
                "gives {} outputs, the graph has {}",
                specs.len(),
                recorded.len()
            ),
        ));
    }
    Ok(specs)
}

/// The graph as text, a line for each input, constant, node, and the outputs.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, &id) in self.inputs.iter().enumerate() {
            let spec = &self.values[id];
            match index.checked_sub(self.positional()) {
                Some(keyword) => writeln!(f, "v{id}: {spec} = input {:?}", self.keywords[keyword])?,
                None => writeln!(f, "v{id}: {spec} = input {index}")?,
            }
        }
        for (id, _) in &self.constants {
            writeln!(f, "v{id}: {} = constant", self.values[*id])?;
        }
        for node in &self.nodes {
            for (index, &id) in node.outputs.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(f, "{comma}v{id}: {}", self.values[id])?;
            }
            write!(f, " = {:?}", node.primitive)?;
            for &id in &node.inputs {
                write!(f, " v{id}")?;
            }
            writeln!(f)?;
        }
        f.write_str("return")?;
        for &id in &self.outputs {
            write!(f, " v{id}")?;
        }
        Ok(())
    }
}
