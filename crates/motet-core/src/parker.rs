//! Where one waiter sleeps: a thread until it is unparked, or a task until its waker is called.
//!
//! Invariant: a wake-up that comes before the sleep is kept, so the order "register the parker, look
//! again, sleep" loses none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Rank, assert_unlocked};

pub(crate) struct Parker {
    state: Mutex<State>,
    condvar: Condvar,
}

#[derive(Default)]
struct State {
    woken: bool,
    waker: Option<Waker>,
}

impl Default for Parker {
    fn default() -> Parker {
        Parker {
            state: Mutex::new(Rank::Leaf, State::default()),
            condvar: Condvar::new(),
        }
    }
}

impl Parker {
    /// Sleeps until it is woken, or until `deadline`.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        assert_unlocked();
        let mut state = self.state.lock();
        while !state.woken {
            let Some(deadline) = deadline else {
                state = state.wait(&self.condvar);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            state = state.wait_for(&self.condvar, left);
            if left == Duration::ZERO {
                break;
            }
        }
        state.woken = false;
    }

    /// Whether it has been woken since this was last true; if not, `waker` will be called.
    pub(crate) fn woken_or(&self, waker: &Waker) -> bool {
        // Cloned without the lock, like everything that others wrote.
        let mut waker = Some(waker.clone());
        let mut state = self.state.lock();
        let woken = std::mem::take(&mut state.woken);
        if !woken {
            std::mem::swap(&mut state.waker, &mut waker);
        }
        drop(state);
        woken
    }

    /// Has no waker called any more.
    pub(crate) fn forget_waker(&self) {
        let waker = self.state.lock().waker.take();
        drop(waker);
    }

    pub(crate) fn unpark(&self) {
        let mut state = self.state.lock();
        state.woken = true;
        let waker = state.waker.take();
        drop(state);
        self.condvar.notify_one();
        if let Some(waker) = waker {
            assert_unlocked();
            // An executor's mistakes must not end the turn that this thread may have.
            let _panic = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}
