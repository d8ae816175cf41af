//! Evaluation: walk, admit, schedule, wait.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::array::Array;
use crate::error::{Error, Result};
use crate::future::Evaluation;
use crate::memory::Needs;
use crate::node::{Claim, Node, Scheduled, Status};
use crate::options::{CallOptions, NONE};
use crate::shape::Spec;
use crate::stream::{Fence, Stream, wait};
use crate::trace;

/// Computes these arrays and waits for them. MLX's `eval`.
///
/// # Errors
/// The first failure among them, with its cause; the others are computed all the same. Where the call
/// that an array belongs to has ended, this does not wait for it.
pub fn eval(arrays: &[Array]) -> Result<()> {
    let _evaluation = trace::evaluation();
    let mut streams = Streams::new();
    submit_all(arrays, &mut streams)?;
    // All are waited for before one is reported: a caller that sees an error has no work running.
    let mut result = Ok(());
    for array in arrays {
        if let Some(scheduled) = array.node().scheduled()
            && let Err(ended) = wait(scheduled.fence, scheduled.options.as_deref())
        {
            // It leaves commands behind.
            streams.iter().for_each(Stream::list);
            result = result.and(Err(ended));
            continue;
        }
        if let Some(error) = array.node().failure() {
            result = result.and(Err(error));
        }
    }
    result
}

/// Submits what these arrays need and returns without waiting. MLX's `async_eval`.
///
/// Where a memory limit is set, it waits for calls in flight before it submits what might be over it.
///
/// # Errors
/// A call that was cancelled or whose deadline has passed; other failures are reported by whoever
/// asks for the value.
pub fn async_eval(arrays: &[Array]) -> Result<()> {
    let mut streams = Streams::new();
    submit_all(arrays, &mut streams)?;
    streams.iter().for_each(Stream::list);
    Ok(())
}

/// The streams that an evaluation has enqueued something to: most have one.
pub(crate) type Streams = SmallVec<[Stream; 2]>;

/// Lazy nodes, inputs before users: calls of functions have one, operations with a number two.
type Tape = SmallVec<[Arc<Node>; 4]>;

/// What kept an evaluation from scheduling all that it needs.
pub(crate) enum Obstacle {
    Failed(Error),
    /// A node that an evaluation has scheduled which was called off meanwhile. At this fence it is lazy
    /// again, or done after all; then to be tried again.
    CalledOff(Fence),
    /// Calls in flight may leave no memory for it. At this fence one of them is done; then to be tried
    /// again.
    NoRoom(Fence),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Obstacle {
        Obstacle::Failed(error)
    }
}

/// Schedules what the arrays need, for an evaluation that can be called off or for one that cannot,
/// and adds the streams. What was enqueued before an obstacle stays so: the caller has to list these
/// streams, too (I3).
pub(crate) fn submit(
    arrays: &[Array],
    evaluation: Option<&Arc<Evaluation>>,
    streams: &mut Streams,
) -> Result<(), Obstacle> {
    let (tape, needs) = walk(arrays, evaluation)?;
    let admitted = needs.admit(streams, |streams| schedule(tape, evaluation, streams));
    admitted.unwrap_or_else(|fence| Err(Obstacle::NoRoom(fence)))
}

/// Schedules what the arrays need. Waits only for nodes to be given back that were called off, and for
/// memory, with nothing held. On an error all that was enqueued is listed.
fn submit_all(arrays: &[Array], streams: &mut Streams) -> Result<()> {
    loop {
        match submit(arrays, None, streams) {
            Ok(()) => return Ok(()),
            Err(Obstacle::CalledOff(fence) | Obstacle::NoRoom(fence)) => {
                let options = arrays.iter().find_map(limits);
                if let Err(ended) = wait(fence, options.as_deref()) {
                    streams.iter().for_each(Stream::list);
                    return Err(ended);
                }
            }
            Err(Obstacle::Failed(error)) => {
                streams.iter().for_each(Stream::list);
                return Err(error);
            }
        }
    }
}

/// The options of the call that a lazy array belongs to, where they may end it early.
fn limits(array: &Array) -> Option<Arc<CallOptions>> {
    match array.status() {
        Status::Lazy(_, options) => options.filter(|options| options.is_limited()),
        _ => None,
    }
}

/// Lazy nodes that the arrays need, inputs before users. Read-only: nodes are not marked, since two
/// evaluations that each claimed nodes while walking could wait for each other.
///
/// Admission begins here: the options of the calls on the way are checked, before anything is
/// scheduled and with nothing held, and the memory that they need is added up.
///
/// Evaluations that have scheduled what is needed are joined.
fn walk(arrays: &[Array], evaluation: Option<&Arc<Evaluation>>) -> Result<(Tape, Needs), Obstacle> {
    struct Visit {
        node: Arc<Node>,
        inputs: SmallVec<[Array; 2]>,
    }
    let mut tape = Tape::new();
    let mut needs = Needs::default();
    let mut seen = Seen::default();
    let mut path = SmallVec::<[Visit; 4]>::new();
    for array in arrays {
        let mut next = Some(array.clone());
        while next.is_some() || !path.is_empty() {
            if let Some(array) = next.take() {
                match array.status() {
                    Status::Lazy(inputs, options) if seen.insert(array.node()) => {
                        let options = options.as_deref().unwrap_or(&NONE);
                        options.check("eval")?;
                        let memory = options.memory.as_ref();
                        needs.add(memory, || array.node().memory_bytes());
                        path.push(Visit {
                            node: array.into_node(),
                            inputs,
                        });
                    }
                    Status::Scheduled(scheduled) => join(&scheduled, evaluation)?,
                    Status::Placeholder => return Err(traced(array.spec()).into()),
                    _ => {}
                }
            }
            if let Some(visit) = path.last_mut() {
                next = visit.inputs.pop();
                if next.is_none() {
                    tape.extend(path.pop().map(|visit| visit.node));
                }
            }
        }
    }
    Ok((tape, needs))
}

/// Nodes that were met: a few are found faster in a list than by their hashes.
#[derive(Default)]
struct Seen {
    few: SmallVec<[*const Node; 8]>,
    many: FxHashSet<*const Node>,
}

impl Seen {
    /// Whether the node is met for the first time.
    fn insert(&mut self, node: &Arc<Node>) -> bool {
        let node = Arc::as_ptr(node);
        if self.few.contains(&node) {
            return false;
        }
        if self.few.len() < self.few.inline_size() {
            self.few.push(node);
            return true;
        }
        self.many.insert(node)
    }
}

fn traced(input: &Spec) -> Error {
    Error::invalid(
        "eval",
        format!(
            "cannot evaluate inside of a traced function: the array depends on its input of \
             {input}, which has a value in calls alone; evaluate what the function returns"
        ),
    )
}

/// Enqueues each node that is still lazy and adds its stream. Inputs come before users on the tape, so
/// what a command waits for was enqueued before it (I2), by this evaluation or one that it has joined.
///
/// Takes the tape with it: who holds a node when the evaluation is done holds its result, which has been
/// announced for no longer than that.
fn schedule(
    tape: Tape,
    evaluation: Option<&Arc<Evaluation>>,
    streams: &mut Streams,
) -> Result<(), Obstacle> {
    for node in tape {
        if let Some(stream) = &node.stream {
            let mut faster = None;
            stream.enqueue(|fence| match node.claim(fence, evaluation) {
                Claim::Command(command) => Some(command),
                Claim::Scheduled(scheduled) => {
                    faster = Some(scheduled);
                    None
                }
                Claim::Done => None,
            });
            if !streams.contains(stream) {
                streams.push(stream.clone());
            }
            if let Some(scheduled) = faster {
                join(&scheduled, evaluation)?;
            }
        }
    }
    Ok(())
}

/// Makes sure that a node which is scheduled will be computed, whatever the future does that it was
/// scheduled for.
fn join(scheduled: &Scheduled, own: Option<&Arc<Evaluation>>) -> Result<(), Obstacle> {
    match &scheduled.evaluation {
        Some(evaluation)
            if !own.is_some_and(|own| Arc::ptr_eq(own, evaluation)) && !evaluation.join() =>
        {
            Err(Obstacle::CalledOff(scheduled.fence.clone()))
        }
        _ => Ok(()),
    }
}
