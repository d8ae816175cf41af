//! Where one waiter sleeps: a thread until it is unparked, or a task until its waker is called.
//!
//! Invariant: a wake-up that comes before the sleep is kept, so the order "register the parker, look
//! again, sleep" loses none.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Rank, assert_unlocked};

pub(crate) struct Parker {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Default for Parker {
    fn default() -> Parker {
        Parker {
            woken: Mutex::new(Rank::Leaf, false),
            condvar: Condvar::new(),
        }
    }
}

impl Parker {
    /// Sleeps until it is woken, or until `deadline`.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        assert_unlocked();
        let mut woken = self.woken.lock();
        while !*woken {
            let Some(deadline) = deadline else {
                woken = woken.wait(&self.condvar);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            woken = woken.wait_for(&self.condvar, left);
        }
        *woken = false;
    }

    pub(crate) fn unpark(&self) {
        *self.woken.lock() = true;
        self.condvar.notify_one();
    }
}
