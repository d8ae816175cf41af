//! Nodes: the values of a graph, and how far each is on its way from recipe to result.
//!
//! ```text
//!   Lazy(recipe) ----> Scheduled(fence) ----> Ready(tensors)
//!       ^                   |          \----> Failed(error)
//!       +-- called off -----+
//!   Placeholder
//! ```
//!
//! - I1: `Lazy -> Scheduled` happens once per evaluation, in `Node::claim`, under the lock of the node's
//!   stream's queue; the recipe moves into the command.
//! - `Scheduled -> Ready | Failed` happens once, when that command has run. Where the evaluation that
//!   scheduled the node has been called off before another has joined it (`future`), the command gives
//!   the recipe back instead, before its fence completes: the node has then not run, and is lazy
//!   again. Evaluations that cannot be called off, those of `eval` and `async_eval`, never do this.
//! - All outputs of one operation share one node.
//! - A placeholder, the input of a function that is being traced, never has a value.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::array::Array;
use crate::cancel::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::future::Evaluation;
#[cfg(not(loom))]
use crate::graph::Graph;
use crate::memory::run;
#[cfg(not(loom))]
use crate::ops::Primitive;
use crate::options::{CallOptions, NONE};
use crate::pool::{CorePermit, Pool, Priority};
use crate::shape::Spec;
use crate::stream::{Fence, Stream};
use crate::sync::{Guard, Mutex, Rank};
use crate::tensor::Tensor;
use crate::trace::{self, FunctionLabel, Label};

/// What computes the outputs of a node: a primitive, or a plan.
pub trait Executable: Send + Sync {
    /// What errors call it.
    fn name(&self) -> &str;

    /// What timelines call it.
    fn label(&self) -> Cow<'_, Label> {
        Cow::Owned(Label::Function(Arc::new(FunctionLabel {
            name: self.name().into(),
            steps: Vec::new(),
        })))
    }

    /// What it computes, for whoever records it; `None` where no graph can say it.
    #[cfg(not(loom))]
    fn definition(&self) -> Option<Definition<'_>> {
        None
    }

    /// The most bytes that the computation of these outputs takes from the heap.
    fn memory_bytes(&self, outputs: &[Spec]) -> usize {
        outputs
            .iter()
            .map(Spec::bytes)
            .fold(0, usize::saturating_add)
    }

    /// Computes the outputs. `between_steps` is to be called between the steps of a long
    /// computation; its error ends it.
    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        pool: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>>;
}

/// What an [`Executable`] computes.
#[cfg(not(loom))]
pub enum Definition<'a> {
    /// One operation.
    Primitive(&'a Primitive),
    /// A whole function.
    Function(&'a Graph),
}

/// What makes a node's outputs.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) executable: Arc<dyn Executable>,
    pub(crate) inputs: SmallVec<[Array; 2]>,
    /// Those of the call that it belongs to, if that has any.
    pub(crate) options: Option<Arc<CallOptions>>,
}

impl Recipe {
    fn options(&self) -> &CallOptions {
        self.options.as_deref().unwrap_or(&NONE)
    }
}

pub(crate) struct Node {
    pub(crate) outputs: SmallVec<[Spec; 1]>,
    /// `None` for data.
    pub(crate) stream: Option<Stream>,
    /// See [`Array::is_dynamic`].
    pub(crate) dynamic: bool,
    value: Value,
}

enum Value {
    /// Was there from the start.
    Data(Tensor),
    Computed(Mutex<State>),
    /// An input of a function that is being traced.
    Placeholder,
}

/// How far a value is that is computed.
enum State {
    Lazy(Recipe),
    Scheduled(Scheduled),
    Ready(Vec<Tensor>),
    Failed(Error),
}

/// What others see of a node's state.
pub(crate) enum Status {
    /// The inputs that are not data, and the options of the call that made the node.
    Lazy(SmallVec<[Array; 2]>, Option<Arc<CallOptions>>),
    Scheduled(Scheduled),
    Done(Result<Tensor>),
    Placeholder,
}

/// A node in the queue of its stream.
#[derive(Clone)]
pub(crate) struct Scheduled {
    pub(crate) fence: Fence,
    /// Those of the call that it belongs to, where they may end it early.
    pub(crate) options: Option<Arc<CallOptions>>,
    /// The evaluation that scheduled it, where that can be called off.
    pub(crate) evaluation: Option<Arc<Evaluation>>,
}

/// What [`Node::claim`] found.
pub(crate) enum Claim {
    /// The node was lazy: what computes it.
    Command(NodeCommand),
    /// Another evaluation has scheduled it.
    Scheduled(Scheduled),
    /// There is nothing to do.
    Done,
}

impl Node {
    pub(crate) fn lazy(recipe: Recipe, outputs: SmallVec<[Spec; 1]>, stream: Stream) -> Node {
        Node {
            outputs,
            stream: Some(stream),
            dynamic: recipe.inputs.iter().any(Array::is_dynamic),
            value: Value::Computed(Mutex::new(Rank::Node, State::Lazy(recipe))),
        }
    }

    pub(crate) fn ready(tensor: Tensor) -> Node {
        let mut outputs = SmallVec::new();
        outputs.push(tensor.spec());
        Node {
            outputs,
            stream: None,
            dynamic: false,
            value: Value::Data(tensor),
        }
    }

    pub(crate) fn placeholder(spec: Spec, dynamic: bool) -> Node {
        Node {
            outputs: SmallVec::from_iter([spec]),
            stream: None,
            dynamic,
            value: Value::Placeholder,
        }
    }

    /// How far a node is that is not there from the start.
    fn state(&self) -> Option<Guard<'_, State>> {
        match &self.value {
            Value::Computed(state) => Some(state.lock()),
            Value::Data(_) | Value::Placeholder => None,
        }
    }

    fn is_data(&self) -> bool {
        matches!(self.value, Value::Data(_))
    }

    /// What makes the node, as long as it is lazy.
    #[cfg(not(loom))]
    pub(crate) fn recipe(&self) -> Option<Recipe> {
        match &*self.state()? {
            State::Lazy(recipe) => Some(recipe.clone()),
            _ => None,
        }
    }

    /// What a scheduled node waits for.
    pub(crate) fn scheduled(&self) -> Option<Scheduled> {
        match &*self.state()? {
            State::Scheduled(scheduled) => Some(scheduled.clone()),
            _ => None,
        }
    }

    /// Why the node failed, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        match &*self.state()? {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// How far the node is, and for a finished one the value of `output`.
    pub(crate) fn status(&self, output: usize) -> Status {
        let state = match &self.value {
            Value::Data(tensor) => return Status::Done(Ok(tensor.clone())),
            Value::Placeholder => return Status::Placeholder,
            Value::Computed(state) => state,
        };
        match &*state.lock() {
            State::Lazy(recipe) => {
                let inputs = recipe.inputs.iter().filter(|input| !input.node().is_data());
                Status::Lazy(inputs.cloned().collect(), recipe.options.clone())
            }
            State::Scheduled(scheduled) => Status::Scheduled(scheduled.clone()),
            State::Ready(tensors) => Status::Done(Ok(tensors[output].clone())),
            State::Failed(error) => Status::Done(Err(error.clone())),
        }
    }

    /// The most bytes that computing the node takes, as long as it is lazy.
    pub(crate) fn memory_bytes(&self) -> usize {
        let executable = match self.state().as_deref() {
            Some(State::Lazy(recipe)) => Arc::clone(&recipe.executable),
            _ => return 0,
        };
        executable.memory_bytes(&self.outputs)
    }

    /// Takes the recipe if nobody has, leaving `fence` and the evaluation. Called under the lock of the
    /// stream's queue (I1).
    pub(crate) fn claim(
        self: &Arc<Node>,
        fence: Fence,
        evaluation: Option<&Arc<Evaluation>>,
    ) -> Claim {
        let Some(mut state) = self.state() else {
            return Claim::Done;
        };
        let recipe = match &*state {
            State::Lazy(recipe) => recipe,
            State::Scheduled(scheduled) => return Claim::Scheduled(scheduled.clone()),
            _ => return Claim::Done,
        };
        let options = recipe.options.as_ref().filter(|o| o.is_limited()).cloned();
        let scheduled = State::Scheduled(Scheduled {
            fence,
            options,
            evaluation: evaluation.cloned(),
        });
        match std::mem::replace(&mut *state, scheduled) {
            State::Lazy(recipe) => Claim::Command(NodeCommand {
                node: Arc::clone(self),
                recipe,
                evaluation: evaluation.cloned(),
            }),
            _ => Claim::Done,
        }
    }

    fn publish(&self, result: Result<Vec<Tensor>>) {
        let new = match result {
            Ok(tensors) => State::Ready(tensors),
            Err(error) => State::Failed(error),
        };
        self.change(new);
    }

    fn change(&self, new: State) {
        // The old state (a fence) is dropped after the lock is.
        let _old = self
            .state()
            .map(|mut state| std::mem::replace(&mut *state, new));
    }

    /// The inputs of a node that nobody else holds, which is about to be dropped.
    fn take_inputs(&mut self) -> SmallVec<[Array; 2]> {
        if let Value::Computed(state) = &mut self.value
            && let State::Lazy(recipe) = state.get_mut()
        {
            return std::mem::take(&mut recipe.inputs);
        }
        SmallVec::new()
    }
}

impl Drop for Node {
    /// Iterative: a chain of a million lazy nodes must not overflow the stack.
    fn drop(&mut self) {
        let mut doomed = self.take_inputs();
        while let Some(array) = doomed.pop() {
            if let Some(mut node) = array.into_unshared_node() {
                doomed.extend(node.take_inputs());
            }
        }
    }
}

/// The command that computes a node: what streams are made of.
pub(crate) struct NodeCommand {
    node: Arc<Node>,
    recipe: Recipe,
    evaluation: Option<Arc<Evaluation>>,
}

impl NodeCommand {
    /// A fence of another stream that has to complete first.
    pub(crate) fn blocked_on(&self) -> Option<Fence> {
        let own = self.node.stream.as_ref()?;
        let fence = self.recipe.inputs.iter().find_map(|input| {
            let other = input.node().scheduled()?.fence;
            // What is before it on its own stream has run.
            (!own.same(&other)).then_some(other)
        });
        // Of an evaluation that was called off an input may have been given back, and scheduled again
        // behind this command: to wait for that would not point back in time (I2). Looked at after the
        // input, so that it is seen then.
        fence.filter(|_| !is_called_off(&self.evaluation))
    }

    /// How urgent its call is; `None` leaves that to the stream.
    pub(crate) fn priority(&self) -> Option<Priority> {
        self.recipe.options().priority
    }

    /// Does the work and publishes its results. Does not panic.
    pub(crate) fn run(self, pool: &Pool, permit: &mut CorePermit<'_>) {
        let NodeCommand {
            node,
            recipe,
            evaluation,
        } = self;
        match compute(&node, &recipe, evaluation.as_deref(), pool, permit) {
            // Nobody asks for the value any more, or why it is not there.
            Err(_) if is_called_off(&evaluation) => node.change(State::Lazy(recipe)),
            result => node.publish(result),
        }
    }
}

fn is_called_off(evaluation: &Option<Arc<Evaluation>>) -> bool {
    evaluation.as_ref().is_some_and(|e| e.is_called_off())
}

fn compute(
    node: &Node,
    recipe: &Recipe,
    evaluation: Option<&Evaluation>,
    pool: &Pool,
    permit: &mut CorePermit<'_>,
) -> Result<Vec<Tensor>> {
    let name = recipe.executable.name();
    let stream = node.stream.as_ref().map_or(0, Stream::id);
    let _command = trace::command(stream, || recipe.executable.label());
    let limits = Limits {
        options: recipe.options(),
        evaluation,
    };
    limits.check(name)?;
    let mut inputs = SmallVec::<[Tensor; 4]>::new();
    for input in &recipe.inputs {
        let Status::Done(tensor) = input.status() else {
            let message = "an input is not there though the command runs";
            return Err(Error::new(ErrorKind::Internal, name, message));
        };
        inputs.push(tensor?);
    }
    let mut between_steps = || {
        permit.yield_to_waiters();
        limits.check(name)
    };
    // A kernel only writes to buffers that nobody else has seen: nothing broken is left behind.
    let execute = || {
        let executable = &recipe.executable;
        executable.execute(&inputs, &node.outputs, pool, &mut between_steps)
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        run(limits.options.memory.as_ref(), || limits.within(execute))
    }));
    result.unwrap_or_else(|panic| Err(Error::from_panic(name, &*panic)))
}
