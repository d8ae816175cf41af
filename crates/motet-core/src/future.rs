//! Evaluation as a future, and how it is called off.
//!
//! What a future has scheduled remembers its `Evaluation`:
//!
//! ```text
//!          another evaluation needs a node of it
//!   Live ----------------------------------------> Joined      all that it scheduled is computed
//!      \---- the future is dropped --------------> CalledOff   what has not run gives its recipe back
//! ```
//!
//! - The first of the two steps that is made stands: both are one atomic step on one word. So whoever
//!   has joined can rely on every node that the evaluation has scheduled.
//! - Who meets a node of an evaluation that was called off waits for the node's fence, at which the
//!   node is done or lazy again, and walks again. Nobody schedules what depends on a node before having
//!   joined its evaluation: so what depends on a node that gives its recipe back belongs to the same
//!   evaluation, and does so too.
//! - A task that waits never runs commands: by I3 the workers or other callers do. It is woken as a
//!   waiting thread would be, when its fence completes and when a turn is given back. Only where the
//!   pool can have no workers (in a forked child) the task runs them itself: then nobody else would.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::array::Array;
use crate::cancel::Sleeper;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::{Obstacle, Streams, submit};
use crate::node::Status;
use crate::options::CallOptions;
use crate::parker::Parker;
use crate::stream::{Fence, Stream, wait};
use crate::sync::atomic::{AtomicU8, Ordering};

/// Computes these arrays: the future is done when they are. The work is handed to motet's threads at
/// once, whether or not the future is polled.
///
/// Polling never computes and never waits, so one thread of an executor can await any number of
/// evaluations. Any executor will do; the future may move between threads.
///
/// Dropping the future before it is done calls the evaluation off: what only it wanted and has not
/// begun is not begun, a plan or kernel that runs for it ends at its next step or tile, and those
/// arrays are lazy again, for anyone to evaluate later. What another evaluation shares with it goes on.
///
/// Calls made by a task go to the default stream of the thread that it is on just then, where they stand
/// in line: give models that are to run at the same time streams of their own (`Function::on`).
///
/// # Errors
/// The future's result is that of [`eval`](crate::eval::eval). A cancel token wakes it; a deadline does
/// not, as no clock runs here: it ends the work, but where the work is still in line behind others, an
/// executor's own timeout is what wakes in time.
pub fn eval_async(arrays: &[Array]) -> EvalFuture {
    let mut future = EvalFuture {
        arrays: arrays.to_vec(),
        done: 0,
        evaluation: Arc::default(),
        submitted: false,
        parker: Arc::default(),
        asleep: false,
        sleeper: None,
        result: Ok(()),
    };
    // What stands in the way is met again by the first poll.
    let _obstacle = future.submit();
    future
}

impl Array {
    /// Computes the array: the future is done when it is. See
    /// [`eval_async`].
    pub fn eval_async(&self) -> EvalFuture {
        eval_async(std::slice::from_ref(self))
    }
}

/// An evaluation under way; [`eval_async`] makes it.
#[must_use = "the evaluation is called off when this is dropped"]
pub struct EvalFuture {
    arrays: Vec<Array>,
    /// How many of them have been seen done.
    done: usize,
    evaluation: Arc<Evaluation>,
    /// Whether all that the arrays need is scheduled.
    submitted: bool,
    parker: Arc<Parker>,
    /// Whether the parker is registered at a fence and has not been found woken since.
    asleep: bool,
    /// Wakes the parker when the call of the next array is cancelled.
    sleeper: Option<Sleeper>,
    result: Result<()>,
}

impl Future for EvalFuture {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        loop {
            if this.asleep && !this.parker.woken_or(context.waker()) {
                return Poll::Pending;
            }
            this.asleep = false;
            let Some(fence) = this.next_fence() else {
                return Poll::Ready(std::mem::replace(&mut this.result, Ok(())));
            };
            if fence.has_workers() {
                this.asleep = fence.watch(&this.parker);
            } else {
                // Without options nothing ends it early.
                let _done = wait(fence, None);
            }
        }
    }
}

impl EvalFuture {
    fn submit(&mut self) -> Result<(), Obstacle> {
        let mut streams = Streams::new();
        let result = submit(&self.arrays, Some(&self.evaluation), &mut streams);
        // Also where there was an obstacle: what has been enqueued before it is to run.
        streams.iter().for_each(Stream::list);
        self.submitted = result.is_ok();
        result
    }

    /// What to wait for next; nothing when all arrays are done.
    fn next_fence(&mut self) -> Option<Fence> {
        if !self.submitted {
            match self.submit() {
                Ok(()) => {}
                Err(Obstacle::CalledOff(fence) | Obstacle::NoRoom(fence)) => return Some(fence),
                Err(Obstacle::Failed(error)) => {
                    self.done = self.arrays.len();
                    self.result = Err(error);
                }
            }
        }
        while let Some(array) = self.arrays.get(self.done) {
            let result = match array.status() {
                Status::Scheduled(scheduled) => match self.ended(&scheduled.options) {
                    None => return Some(scheduled.fence),
                    Some(error) => Err(error),
                },
                Status::Done(result) => result.map(drop),
                // Nobody takes back what was joined.
                Status::Lazy(..) | Status::Placeholder => Err(Error::new(
                    ErrorKind::Internal,
                    "eval",
                    "the array is not there after its evaluation",
                )),
            };
            self.result = std::mem::replace(&mut self.result, Ok(())).and(result);
            self.done += 1;
            self.sleeper = None;
        }
        None
    }

    /// Why the call of the next array has ended, if it has; if not, its end will wake the task.
    fn ended(&mut self, options: &Option<Arc<CallOptions>>) -> Option<Error> {
        let options = options.as_ref()?;
        if self.sleeper.is_none() {
            let token = options.cancel.as_ref();
            self.sleeper = token.map(|token| token.wakes(&self.parker));
        }
        options.check("eval").err()
    }
}

impl Drop for EvalFuture {
    fn drop(&mut self) {
        self.evaluation.call_off();
        self.parker.forget_waker();
    }
}

/// One evaluation that can be called off.
#[derive(Default)]
pub(crate) struct Evaluation {
    /// Relaxed throughout: what counts is the one order of the steps on this word alone. Who sees a
    /// recipe given back, or a fence complete after that, reads the word after the one who gave it back
    /// did, by the locks in between, and so sees it called off, too.
    state: AtomicU8,
}

const LIVE: u8 = 0;
const JOINED: u8 = 1;
const CALLED_OFF: u8 = 2;

impl Evaluation {
    /// Whether all that it has scheduled will be computed, from now on whatever its future does.
    pub(crate) fn join(&self) -> bool {
        self.step_to(JOINED) == JOINED
    }

    pub(crate) fn is_called_off(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CALLED_OFF
    }

    fn call_off(&self) {
        self.step_to(CALLED_OFF);
    }

    /// Makes this step if none was made before; returns the one that stands.
    fn step_to(&self, state: u8) -> u8 {
        let relaxed = Ordering::Relaxed;
        let step = self.state.compare_exchange(LIVE, state, relaxed, relaxed);
        step.map_or_else(|standing| standing, |_| state)
    }
}
