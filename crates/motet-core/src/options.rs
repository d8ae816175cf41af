//! Options of a call: how a caller limits one call without touching any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::stream::Stream;

/// Options of a call.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The stream that the call runs on; by default the calling thread's default stream.
    pub stream: Option<Stream>,
    /// Ends the call when it is cancelled.
    pub cancel: Option<CancelToken>,
    /// Ends the call when this time has passed.
    pub deadline: Option<Instant>,
}

impl CallOptions {
    /// An error if the call has been cancelled or its deadline has passed.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                name,
                "the call was cancelled",
            ));
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline)
        {
            return Err(Error::new(
                ErrorKind::DeadlineExceeded,
                name,
                "the call's deadline has passed",
            ));
        }
        Ok(())
    }
}

/// Cancels the calls that it was given to; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Cancels: no call with this token starts a further step.
    pub fn cancel(&self) {
        // Release, Acquire below: who sees the cancellation sees what was done before it.
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
