//! `motet inspect`: what a model takes, gives, holds and does.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use motet_core::graph::Graph;
use motet_core::shape::Spec;
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output::{bytes, say};
use crate::sample::input_names;

/// Show a model's inputs, outputs, parameters, primitives and plan
#[derive(clap::Args)]
pub struct Args {
    /// The model, a .mlxfn file
    model: PathBuf,
    /// Show every step of the plan, made for the model's own shapes
    #[arg(long)]
    plan: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Prints what there is to say about the model.
pub fn inspect(args: &Args) -> Outcome {
    let function = motet::import_function(&args.model)?;
    let plan = function.compile().plan_text()?;
    let file = function.file();
    let graphs = function.signatures();
    let parameters = Parameters::of(graphs);
    if args.json {
        say(json!({
            "model": args.model.display().to_string(),
            "mlx_version": file.version,
            "shapeless": file.shapeless,
            "metadata": file.metadata,
            "parameters": {"arrays": parameters.arrays, "bytes": parameters.bytes},
            "functions": graphs.iter().map(|graph| graph_json(graph)).collect::<Vec<_>>(),
            "plan": plan,
        }));
        return Ok(());
    }
    say(format_args!("{}", args.model.display()));
    say(format_args!("  written by MLX {}", file.version));
    if !file.metadata.is_empty() {
        say(format_args!("  metadata: {}", file.metadata));
    }
    if file.shapeless {
        say("  shapeless: inputs need only agree in dtype and number of dimensions");
    }
    say(format_args!(
        "  parameters: {} arrays, {}",
        parameters.arrays,
        bytes(parameters.bytes)
    ));
    for (index, graph) in graphs.iter().enumerate() {
        say(format_args!(
            "\nsignature {} of {}",
            index + 1,
            graphs.len()
        ));
        print_graph(graph);
    }
    say("");
    // Without its steps, a plan is its first line.
    let shown = |line: &&str| args.plan || line.starts_with("plan:");
    plan.lines().filter(shown).for_each(say);
    Ok(())
}

fn print_graph(graph: &Graph) {
    for (name, spec) in input_names(graph).iter().zip(specs(graph, &graph.inputs)) {
        say(format_args!("  {name:<12} {spec}"));
    }
    for (index, spec) in specs(graph, &graph.outputs).enumerate() {
        say(format_args!("  {:<12} {spec}", format!("out.{index}")));
    }
    let counts: Vec<String> = primitive_counts(graph)
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    say(format_args!(
        "  {} nodes: {}",
        graph.nodes.len(),
        counts.join(", ")
    ));
}

fn graph_json(graph: &Graph) -> Value {
    let describe = |name: String, spec: &Spec| json!({"name": name, "shape": &spec.shape[..], "dtype": spec.dtype.name()});
    let inputs = input_names(graph)
        .into_iter()
        .zip(specs(graph, &graph.inputs));
    let outputs = specs(graph, &graph.outputs).enumerate();
    json!({
        "inputs": inputs.map(|(name, spec)| describe(name, spec)).collect::<Vec<_>>(),
        "outputs": outputs
            .map(|(index, spec)| describe(format!("out.{index}"), spec))
            .collect::<Vec<_>>(),
        "nodes": graph.nodes.len(),
        "primitives": primitive_counts(graph),
    })
}

fn specs<'a>(graph: &'a Graph, values: &'a [usize]) -> impl Iterator<Item = &'a Spec> {
    values.iter().map(|&value| &graph.values[value])
}

fn primitive_counts(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.primitive.name()).or_insert(0) += 1;
    }
    counts
}

/// The constants of a file, each counted once though several signatures share it.
struct Parameters {
    arrays: usize,
    bytes: usize,
}

impl Parameters {
    fn of(graphs: &[Arc<Graph>]) -> Parameters {
        let mut seen = HashSet::new();
        let mut total = 0;
        for (_, tensor) in graphs.iter().flat_map(|graph| &graph.constants) {
            let address = tensor.buffer.as_ptr().addr() + tensor.offset;
            if seen.insert((address, tensor.spec())) {
                total += tensor.spec().bytes();
            }
        }
        Parameters {
            arrays: seen.len(),
            bytes: total,
        }
    }
}
