//! A call stored in a file: the tensors `in.0`, `in.1`, ..., `in.kw.NAME`, `out.0`, ....

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use motet::{Array, Function};
use motet_core::error::{Error, Result};
use motet_core::graph::Graph;
use motet_core::memory::heap;
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;
use motet_io::Tensors;

/// The inputs of a call.
#[derive(Clone, Default)]
pub struct Inputs {
    pub positional: Vec<Array>,
    pub keywords: BTreeMap<String, Array>,
}

impl Inputs {
    /// Calls the function and computes its outputs.
    pub fn call(&self, function: &Function) -> Result<Vec<Array>> {
        let keywords: Vec<(&str, Array)> = self
            .keywords
            .iter()
            .map(|(name, array)| (name.as_str(), array.clone()))
            .collect();
        let outputs = function.call_with(&self.positional, &keywords)?;
        motet::eval(&outputs)?;
        Ok(outputs)
    }

    /// Zeros in the shapes and dtypes that a graph was exported with.
    pub fn zeros(graph: &Graph) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        for (index, &value) in graph.inputs.iter().enumerate() {
            let array = zeros(&graph.values[value])?;
            match index.checked_sub(graph.positional()) {
                None => inputs.positional.push(array),
                Some(keyword) => {
                    inputs
                        .keywords
                        .insert(graph.keywords[keyword].clone(), array);
                }
            }
        }
        Ok(inputs)
    }

    /// What this is called with, for messages.
    pub fn describe(&self) -> String {
        let positional = self.positional.iter().map(|array| array.spec().to_string());
        let keywords = &self.keywords;
        let keywords = keywords
            .iter()
            .map(|(name, array)| format!("{name}={}", array.spec()));
        positional.chain(keywords).collect::<Vec<_>>().join(", ")
    }
}

fn zeros(spec: &Spec) -> Result<Array> {
    // A shape from a file may be more than the machine has: the heap refuses, a vector aborts.
    drop(Tensor::allocate(spec, heap())?);
    let zeros = vec![0; spec.bytes()];
    Ok(Array::from_tensor(motet_io::from_row_major(spec, &zeros)?))
}

/// A call and what it returned.
pub struct Sample {
    pub inputs: Inputs,
    pub outputs: Vec<Tensor>,
}

impl Sample {
    /// Reads a call from a file. Tensors with other names are notes of whoever made the file.
    pub fn read(path: &Path) -> Result<Sample> {
        let mut tensors = motet_io::read(path)?;
        let positional = numbered(&mut tensors, "in.");
        let mut inputs = Inputs {
            positional: positional.into_iter().map(Array::from_tensor).collect(),
            keywords: BTreeMap::new(),
        };
        let outputs = numbered(&mut tensors, "out.");
        for (name, tensor) in tensors {
            if let Some(keyword) = name.strip_prefix("in.kw.") {
                let array = Array::from_tensor(tensor);
                inputs.keywords.insert(keyword.to_owned(), array);
            } else if name.starts_with("in.") || name.starts_with("out.") {
                return Err(Error::file(
                    path.display().to_string(),
                    format!("'{name}' does not continue in.0, in.1, ... or out.0, out.1, ..."),
                ));
            }
        }
        if outputs.is_empty() {
            let message = "no outputs to compare with: expected out.0, out.1, ...";
            return Err(Error::file(path.display().to_string(), message));
        }
        Ok(Sample { inputs, outputs })
    }

    /// The file of a model's first call.
    pub fn path_beside(model: &Path) -> PathBuf {
        model.with_extension("safetensors")
    }
}

fn numbered(tensors: &mut Tensors, prefix: &str) -> Vec<Tensor> {
    let next = |index: usize| tensors.remove(&format!("{prefix}{index}"));
    (0..).map_while(next).collect()
}

/// What a function can be called with: a line for each signature.
pub fn describe_signatures(signatures: &[Arc<Graph>]) -> String {
    let describe = |graph: &Arc<Graph>| {
        let inputs: Vec<String> = input_names(graph)
            .into_iter()
            .zip(&graph.inputs)
            .map(|(name, &value)| format!("{name} {}", graph.values[value]))
            .collect();
        format!("  {}", inputs.join(", "))
    };
    signatures
        .iter()
        .map(describe)
        .collect::<Vec<_>>()
        .join("\n")
}

/// `in.0`, `in.1`, ..., then `in.kw.NAME`.
pub fn input_names(graph: &Graph) -> Vec<String> {
    let positional = (0..graph.positional()).map(|index| format!("in.{index}"));
    let keywords = graph.keywords.iter().map(|name| format!("in.kw.{name}"));
    positional.chain(keywords).collect()
}
