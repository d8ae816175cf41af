//! Functions: imported or traced graphs that any thread calls.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use motet_core::array::Array;
use motet_core::cancel::CancelToken;
use motet_core::compile::cache::PlanCache;
use motet_core::compile::constants::readable;
use motet_core::compile::plan::Plan;
use motet_core::compile::trace::{Signature, trace};
use motet_core::context::current_stream;
use motet_core::error::{Error, Result};
use motet_core::export::reader::ExportedFile;
use motet_core::graph::{Graph, Node};
use motet_core::memory::{MemoryScope, within};
use motet_core::node::{Definition, Executable};
use motet_core::options::{CallOptions, NONE};
use motet_core::pool::{Pool, Priority};
use motet_core::shape::Spec;
use motet_core::stream::Stream;
use motet_core::tensor::Tensor;
use motet_core::trace::{FunctionLabel, Label, build};
use smallvec::SmallVec;

use crate::export::save;

/// Reads the functions of a `.mlxfn` file. MLX's `import_function`.
///
/// The file is mapped into memory: it must not be changed while the function lives.
///
/// # Errors
/// Where the file cannot be read, is damaged, or contains an operation that motet does not have.
pub fn import_function(path: impl AsRef<Path>) -> Result<Function> {
    let path = path.as_ref();
    let stem = path.file_stem().unwrap_or_default();
    // On a core that nobody else wants: models are loaded beside others that serve.
    let _core = Pool::global().enter(Priority::Background);
    Ok(Function {
        name: stem.to_string_lossy().into(),
        file: Arc::new(ExportedFile::open(path)?),
        closure: None,
        constants: Arc::new(PlanCache::new(usize::MAX)),
        plans: None,
        options: None,
    })
}

/// The function that `f` computes, as plans: `f` is called once for each signature, with
/// placeholders, and what it does with them is recorded, fused and planned. MLX's `compile`.
///
/// While it is traced, `f` cannot evaluate what depends on its inputs, and what else it does
/// happens once per signature, not once per call. Arrays that it captures are constants.
///
/// ```
/// # use motet::{Array, ops};
/// let softplus = motet::compile(|x: &[Array]| {
///     let one = Array::from_slice(&[1.0f32], [])?;
///     Ok(vec![ops::add(&ops::exp(&x[0])?, &one)?])
/// });
/// let y = softplus.call(&[Array::from_slice(&[0.0f32], [1])?])?;
/// assert_eq!(y[0].item::<f32>()?, 2.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn compile(f: impl Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync + 'static) -> Function {
    Function {
        name: "compiled".into(),
        file: Arc::new(ExportedFile::new(false, "")),
        closure: Some(Arc::new(f)),
        constants: Arc::new(PlanCache::new(usize::MAX)),
        plans: Some(Arc::new(PlanCache::new(PLANS))),
        options: None,
    }
}

/// A function: graphs with named inputs and outputs, one per signature, from a file
/// ([`import_function`]) or traced from a closure ([`compile`]).
///
/// Cheap to clone, and shared by threads by cloning or by reference: calls never wait for each
/// other. [`compile`](Function::compile) makes it fast.
#[derive(Clone)]
pub struct Function {
    /// What errors and timelines call it.
    name: Arc<str>,
    /// The graphs; none where there is a closure.
    file: Arc<ExportedFile>,
    /// Traced for each signature that it is called with; always compiled.
    closure: Option<Arc<Closure>>,
    plans: Option<Arc<PlanCache<PlanKey, CompiledCall>>>,
    /// The constants of each graph as operations read them, for calls without a plan.
    constants: Arc<PlanCache<usize, Vec<Array>>>,
    options: Option<Arc<CallOptions>>,
}

type Closure = dyn Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync;

/// What a plan is made for: which graph of the file, and the inputs' shapes and dtypes.
type PlanKey = (usize, Specs);

/// Inputs' shapes and dtypes.
type Specs = SmallVec<[Spec; 4]>;

/// The most signatures that plans are kept for; a plan beyond that replaces the one whose use is
/// longest ago.
const PLANS: usize = 64;

impl Function {
    /// The function with its calls executed as plans, fused and planned once per signature and
    /// shared by all threads and clones. MLX's `compile`. Plans are made when first needed.
    pub fn compile(&self) -> Function {
        Function {
            plans: Some(Arc::new(PlanCache::new(PLANS))),
            constants: Arc::new(PlanCache::new(usize::MAX)),
            ..self.clone()
        }
    }

    /// The function with this name in errors and [timelines](crate::trace), instead of the file's or,
    /// for a closure, `compiled`. It shares no plans with what it is made from.
    pub fn named(&self, name: &str) -> Function {
        Function {
            name: name.into(),
            plans: self.plans.as_ref().map(|_| Arc::new(PlanCache::new(PLANS))),
            ..self.clone()
        }
    }

    /// The name that errors and timelines use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The function with its calls on `stream` instead of the calling thread's default stream.
    pub fn on(&self, stream: &Stream) -> Function {
        self.with_options(|options| options.stream = Some(stream.clone()))
    }

    /// The function with calls that end with
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where they are not done by then, also
    /// in the middle of a step.
    pub fn deadline(&self, deadline: Instant) -> Function {
        self.with_options(|options| options.deadline = Some(deadline))
    }

    /// The function with calls that end with [`Cancelled`](crate::ErrorKind::Cancelled) when the
    /// token is cancelled, also in the middle of a step: see [`CancelToken::cancel`].
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny.mlxfn");
    /// use motet::prelude::*;
    /// use motet::{CancelToken, ErrorKind};
    ///
    /// let function = motet::import_function(path)?.compile();
    /// let input = ops::zeros([1, 16], Dtype::Float32)?;
    /// let token = CancelToken::new();
    /// let outputs = function.cancelled_by(&token).call(&[input.clone()])?;
    /// token.cancel();
    /// assert_eq!(outputs[0].eval().unwrap_err().kind(), ErrorKind::Cancelled);
    /// // Other calls of the function are as they were.
    /// function.call(&[input])?[0].eval()?;
    /// # Ok::<(), motet::Error>(())
    /// ```
    pub fn cancelled_by(&self, token: &CancelToken) -> Function {
        self.with_options(|options| options.cancel = Some(token.clone()))
    }

    /// The function with calls that are so urgent, whatever stream they run on: where threads wait
    /// for cores, urgent calls are let in first, and between two steps or tiles of others.
    pub fn priority(&self, priority: Priority) -> Function {
        self.with_options(|options| options.priority = Some(priority))
    }

    /// The function with its memory accounted for by `scope`, which can also limit it: results,
    /// workspaces, and the weights, if this function is the first to use them.
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny.mlxfn");
    /// # use motet::{Array, MemoryScope};
    /// let scope = MemoryScope::new("tiny");
    /// let function = motet::import_function(path)?.compile().memory(&scope);
    /// let y = function.call(&[Array::from_slice(&[1.0f32; 16], [1, 16])?])?;
    /// y[0].eval()?;
    /// assert!(scope.active() > 0 && scope.peak() >= scope.active());
    /// drop((function, y));
    /// assert_eq!(scope.active(), 0);
    /// # Ok::<(), motet::Error>(())
    /// ```
    pub fn memory(&self, scope: &MemoryScope) -> Function {
        self.with_options(|options| options.memory = Some(scope.clone()))
    }

    /// Calls with positional inputs. The outputs are lazy.
    ///
    /// # Errors
    /// Where no signature of the file matches the inputs, or the plan for them cannot be made.
    pub fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        self.call_with(inputs, &[])
    }

    /// Calls with positional and keyword inputs. The outputs are lazy.
    ///
    /// # Errors
    /// As [`call`](Function::call).
    pub fn call_with(&self, inputs: &[Array], keywords: &[(&str, Array)]) -> Result<Vec<Array>> {
        let mut keywords: SmallVec<[&(&str, Array); 4]> = keywords.iter().collect();
        keywords.sort_by_key(|(name, _)| *name);
        let joined: Vec<Array>;
        let arguments = match keywords.is_empty() {
            true => inputs,
            false => {
                let named = keywords.iter().map(|(_, array)| array);
                joined = inputs.iter().chain(named).cloned().collect();
                &joined
            }
        };
        // Filled where it is: it is large.
        let mut key: PlanKey = (0, Specs::new());
        let (index, specs) = &mut key;
        for argument in arguments {
            specs.push(argument.spec().clone());
        }
        let names: SmallVec<[&str; 4]> = keywords.iter().map(|(name, _)| *name).collect();
        *index = self.select(specs, &names)?;
        let stream = self.options().stream.as_ref();
        let stream = stream.cloned().map_or_else(current_stream, Ok)?;
        match &self.plans {
            Some(plans) => self.call_plan(plans, &key, arguments, stream),
            None => self.call_graph(key.0, &key.1, arguments, &stream),
        }
    }

    /// The graphs, one per exported signature; none for a closure.
    pub fn signatures(&self) -> &[Arc<Graph>] {
        &self.file.functions
    }

    /// The file as it was read; an empty one for a closure.
    pub fn file(&self) -> &ExportedFile {
        &self.file
    }

    /// Writes an imported function to a file, in the newest layout that is known.
    ///
    /// # Errors
    /// For a closure, which [`export_function`](crate::export_function) writes; where the file
    /// cannot be written.
    pub fn export(&self, path: impl AsRef<Path>) -> Result<()> {
        match self.closure {
            None => save(&self.file, path.as_ref()),
            Some(_) => Err(Error::invalid(
                "export",
                "a compiled closure has no signature of its own; pass the closure to \
                 export_function with example inputs",
            )),
        }
    }

    /// The plan of each exported signature as text.
    ///
    /// # Errors
    /// Where a plan cannot be made.
    pub fn plan_text(&self) -> Result<String> {
        let plans = self.file.functions.iter().map(|graph| {
            let inputs: Vec<Spec> = graph
                .inputs
                .iter()
                .map(|&v| graph.values[v].clone())
                .collect();
            Plan::build(graph, &inputs, true).map(|plan| plan.to_string())
        });
        plans.collect()
    }

    /// The calls' options.
    fn options(&self) -> &CallOptions {
        self.options.as_deref().unwrap_or(&NONE)
    }

    fn with_options(&self, set: impl FnOnce(&mut CallOptions)) -> Function {
        let mut options = self.options.as_deref().cloned().unwrap_or_default();
        set(&mut options);
        Function {
            options: Some(Arc::new(options)),
            ..self.clone()
        }
    }

    /// The first graph in the file's order that takes these inputs; a closure takes all that have
    /// no names.
    fn select(&self, specs: &[Spec], keywords: &[&str]) -> Result<usize> {
        let graphs = &self.file.functions;
        let found = match self.closure {
            Some(_) => keywords.is_empty().then_some(0),
            None => graphs.iter().position(|graph| graph.takes(specs, keywords)),
        };
        found.ok_or_else(|| {
            let first_keyword = specs.len() - keywords.len();
            let got =
                specs
                    .iter()
                    .enumerate()
                    .map(|(i, spec)| match i.checked_sub(first_keyword) {
                        Some(keyword) => format!("{}={spec}", keywords[keyword]),
                        None => spec.to_string(),
                    });
            let stored: Vec<String> = graphs.iter().map(|graph| describe_inputs(graph)).collect();
            let expected = match self.closure {
                Some(_) => "inputs without names".to_owned(),
                None => stored.join(" or "),
            };
            Error::invalid(
                &*self.name,
                format!(
                    "no signature of the function takes these inputs: got ({}), expected {expected}",
                    got.collect::<Vec<_>>().join(", "),
                ),
            )
        })
    }

    fn call_plan(
        &self,
        plans: &PlanCache<PlanKey, CompiledCall>,
        key: &PlanKey,
        arguments: &[Array],
        stream: Stream,
    ) -> Result<Vec<Array>> {
        let scope = self.options().memory.as_ref();
        let make = || {
            let _build = build(&self.name);
            let (index, specs) = key;
            let graph = match &self.closure {
                Some(f) => {
                    let signature = Signature {
                        inputs: specs.to_vec(),
                        ..Signature::default()
                    };
                    Arc::new(trace(signature, &**f)?)
                }
                None => Arc::clone(&self.file.functions[*index]),
            };
            // As in `import_function`; not while a closure is traced, which may wait for anything.
            let priority = self.options().priority.unwrap_or(Priority::Background);
            let _core = Pool::global().enter(priority);
            let plan = Plan::build(&graph, specs, true)?;
            let label = Label::Function(Arc::new(FunctionLabel {
                name: Arc::clone(&self.name),
                steps: plan.step_labels(),
            }));
            Ok(CompiledCall { graph, plan, label })
        };
        let call = plans.get_or_build(key, self.options(), || within(scope, make))?;
        Ok(Array::from_executable(
            Arc::clone(&call) as Arc<dyn Executable>,
            arguments,
            call.plan.outputs(),
            stream,
            self.options.as_ref(),
        ))
    }

    /// A lazy operation for each node of the graph. The streams that the file names are lanes, and
    /// all are bound to the stream of the call.
    fn call_graph(
        &self,
        index: usize,
        specs: &[Spec],
        arguments: &[Array],
        stream: &Stream,
    ) -> Result<Vec<Array>> {
        let graph = &self.file.functions[index];
        let specs = graph.specialize(specs)?;
        let constants = self.constants.get_or_build(&index, self.options(), || {
            let readable = |(_, tensor): &(_, Tensor)| readable(tensor).map(Array::from_tensor);
            within(self.options().memory.as_ref(), || {
                graph.constants.iter().map(readable).collect()
            })
        })?;
        replay(graph, arguments, &constants, |node, inputs| {
            let outputs: Vec<Spec> = node.outputs.iter().map(|&v| specs[v].clone()).collect();
            let primitive = Arc::new(node.primitive.clone());
            let options = self.options.as_ref();
            let arrays =
                Array::from_executable(primitive, inputs, &outputs, stream.clone(), options);
            Ok(arrays)
        })
    }
}

/// What a graph makes of these inputs and constants, where `make` says what a node makes of its own.
pub(crate) fn replay(
    graph: &Graph,
    inputs: &[Array],
    constants: &[Array],
    mut make: impl FnMut(&Node, &[Array]) -> Result<Vec<Array>>,
) -> Result<Vec<Array>> {
    let mut values: Vec<Option<Array>> = vec![None; graph.values.len()];
    for (&value, input) in graph.inputs.iter().zip(inputs) {
        values[value] = Some(input.clone());
    }
    for ((value, _), constant) in graph.constants.iter().zip(constants) {
        values[*value] = Some(constant.clone());
    }
    let known = |values: &[Option<Array>], ids: &[usize]| -> Result<Vec<Array>> {
        let get = |&id: &usize| values[id].clone();
        ids.iter()
            .map(get)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::file("call", "the graph uses a value before it is defined"))
    };
    for node in &graph.nodes {
        let arrays = make(node, &known(&values, &node.inputs)?)?;
        for (&value, array) in node.outputs.iter().zip(arrays) {
            values[value] = Some(array);
        }
    }
    known(&values, &graph.outputs)
}

/// One call of a plan: one command of its stream.
struct CompiledCall {
    graph: Arc<Graph>,
    plan: Plan,
    label: Label,
}

impl Executable for CompiledCall {
    fn name(&self) -> &str {
        self.label.name()
    }

    fn label(&self) -> Cow<'_, Label> {
        Cow::Borrowed(&self.label)
    }

    fn definition(&self) -> Option<Definition<'_>> {
        Some(Definition::Function(&self.graph))
    }

    fn memory_bytes(&self, _: &[Spec]) -> usize {
        self.plan.call_bytes()
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        _: &[Spec],
        pool: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        self.plan.call(inputs, pool, between_steps)
    }
}

fn describe_inputs(graph: &Graph) -> String {
    let positional = graph.positional();
    let inputs = graph.inputs.iter().enumerate().map(|(i, &value)| {
        let stored = &graph.values[value];
        let spec = if graph.shapeless {
            format!("{} of {} dimensions", stored.dtype, stored.shape.len())
        } else {
            stored.to_string()
        };
        match i.checked_sub(positional) {
            Some(keyword) => format!("{}={spec}", graph.keywords[keyword]),
            None => spec,
        }
    });
    format!("({})", inputs.collect::<Vec<_>>().join(", "))
}
