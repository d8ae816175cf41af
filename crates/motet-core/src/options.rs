//! Options of a call: how a caller limits one call without touching any other.

use std::time::Instant;

use crate::cancel::{CancelToken, cancelled};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::MemoryScope;
use crate::pool::Priority;
use crate::stream::Stream;

/// Options of a call, and of all that is computed for it: of a function's call that is every
/// operation in it, but not what its inputs are still to be computed from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The stream that the call runs on; by default the calling thread's default stream.
    pub stream: Option<Stream>,
    /// Ends the call when it is cancelled: see [`CancelToken::cancel`].
    pub cancel: Option<CancelToken>,
    /// Ends the call when this time has passed, with
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded): between two steps or two tiles of a step,
    /// as a cancellation would. A thread that waits for the call returns at this time.
    pub deadline: Option<Instant>,
    /// How urgent the call is; by default as urgent as its stream.
    pub priority: Option<Priority>,
    /// What the memory of the call counts for, beside the process.
    pub memory: Option<MemoryScope>,
}

/// Those of a call that nobody said anything about.
pub static NONE: CallOptions = CallOptions {
    stream: None,
    cancel: None,
    deadline: None,
    priority: None,
    memory: None,
};

impl CallOptions {
    /// Whether something may end the call early.
    pub(crate) fn is_limited(&self) -> bool {
        self.cancel.is_some() || self.deadline.is_some()
    }

    /// An error if the call has been cancelled or its deadline has passed.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Err(cancelled(name));
        }
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            let message = "the call's deadline has passed";
            return Err(Error::new(ErrorKind::DeadlineExceeded, name, message));
        }
        Ok(())
    }
}
