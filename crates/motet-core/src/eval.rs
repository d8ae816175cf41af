//! Evaluation: walk, admit, schedule, wait.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::array::Array;
use crate::error::{Error, Result};
use crate::node::{Node, Status};
use crate::shape::Spec;
use crate::stream::{Stream, wait};
use crate::trace;

/// Computes these arrays and waits for them. MLX's `eval`.
///
/// # Errors
/// The first failure among them, with its cause; the others are computed all the same. Where the call
/// that an array belongs to has ended, this does not wait for it.
pub fn eval(arrays: &[Array]) -> Result<()> {
    let _evaluation = trace::evaluation();
    let streams = schedule(&walk(arrays)?);
    // All are waited for before one is reported: a caller that sees an error has no work running.
    let mut result = Ok(());
    for array in arrays {
        if let Status::Scheduled(scheduled) = array.status()
            && let Err(ended) = wait(scheduled.fence, scheduled.options.as_deref())
        {
            // It leaves commands behind.
            streams.iter().for_each(Stream::list);
            result = result.and(Err(ended));
            continue;
        }
        if let Status::Done(Err(error)) = array.status() {
            result = result.and(Err(error));
        }
    }
    result
}

/// Submits what these arrays need and returns without waiting. MLX's `async_eval`.
///
/// # Errors
/// A call that was cancelled or whose deadline has passed; other failures are reported by whoever
/// asks for the value.
pub fn async_eval(arrays: &[Array]) -> Result<()> {
    for stream in schedule(&walk(arrays)?) {
        stream.list();
    }
    Ok(())
}

/// Lazy nodes that the arrays need, inputs before users. Read-only: nodes are not marked, since two
/// evaluations that each claimed nodes while walking could wait for each other.
///
/// Admission is here too: the options of the calls on the way are checked, before anything is
/// scheduled and with nothing held.
fn walk(arrays: &[Array]) -> Result<Vec<Arc<Node>>> {
    struct Visit {
        node: Arc<Node>,
        inputs: SmallVec<[Array; 2]>,
    }
    let mut tape = Vec::new();
    let mut seen: HashSet<*const Node, BuildHasherDefault<Addresses>> = HashSet::default();
    let mut path: Vec<Visit> = Vec::new();
    for array in arrays {
        let mut next = Some(array.clone());
        while next.is_some() || !path.is_empty() {
            if let Some(array) = next.take() {
                match array.status() {
                    Status::Lazy(inputs, options) if seen.insert(Arc::as_ptr(array.node())) => {
                        options.check("eval")?;
                        path.push(Visit {
                            node: Arc::clone(array.node()),
                            inputs,
                        });
                    }
                    Status::Placeholder => return Err(traced(array.spec())),
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
    Ok(tape)
}

/// Hashes addresses, which nobody chooses: by a product whose high bits all bits have a part in.
#[derive(Default)]
struct Addresses(u64);

impl Hasher for Addresses {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(byte.into()));
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
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

/// Enqueues each node that is still lazy; returns the streams of the tape. Inputs come before users
/// on the tape, so what a command waits for was enqueued before it (I2).
fn schedule(tape: &[Arc<Node>]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for node in tape {
        if let Some(stream) = &node.stream {
            stream.enqueue(|fence| node.claim(fence));
            if !streams.contains(stream) {
                streams.push(stream.clone());
            }
        }
    }
    streams
}
