//! The core budget: at most as many threads run commands as there are cores.
//!
//! ```text
//!              balance > 0                      given back, nobody waits
//!   outside ------------------------> running ----------------------------> outside
//!      |  balance <= 0                  ^   |  given back, somebody waits
//!      +------> waiting in line --------+   +------> its core is the first waiter's
//!                (first in, first out)
//! ```
//!
//! Invariants:
//! - `balance` is the number of free cores, less the number of threads that wait or are on the way
//!   to the line. So while anybody waits it is not positive, and nobody can overtake the line.
//! - Whoever gives a core back and finds the balance negative owes it to the line: it serves the
//!   first waiter, or leaves the core in `spare` for the one that has announced itself and not
//!   arrived yet. `spare` is zero while there are waiters in the line.
//! - A thread that has a core gets further permits for nothing: it never waits for itself.
//!
//! Two times keep cores from changing hands more often than that pays; they decide when something
//! happens, and nothing above depends on them. Whoever has a core keeps it for a quantum, though
//! others wait. And what another thread gave back a moment ago is left to it, as it is likely between
//! two calls: helpers come only when it stays away.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Rank, assert_unlocked};
use crate::trace::{self, Cause};

#[cfg(loom)]
use crate::sync::thread_local;

thread_local! {
    /// The address of the budget that this thread has a core of, 0 for none.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static HELD: Cell<usize> = Cell::new(0);
}

/// Tells threads that live from each other.
fn this_thread() -> usize {
    HELD.with(|held| std::ptr::from_ref(held).addr())
}

pub(super) struct Cores {
    balance: AtomicIsize,
    line: Mutex<Line>,
    /// The process that made this: in a forked child the threads that held cores are gone.
    process: u32,
    times: Times,
    /// Which thread gave a core back last, and when (nanoseconds after `start`). Hints: Relaxed.
    last_giver: AtomicUsize,
    last_given: AtomicU64,
    start: Instant,
}

/// How long cores stay where they are.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// How long a thread may keep a core that others wait for.
    pub(super) quantum: Duration,
    /// How long a core is left to the thread that gave it back.
    pub(super) absence: Duration,
    /// How long a worker that has helped looks out for more before it sleeps.
    pub(super) lookout: Duration,
}

impl Times {
    /// Cores go to who wants them at once; no clock is read. For models and tests.
    pub(super) const NONE: Times = Times {
        quantum: Duration::ZERO,
        absence: Duration::ZERO,
        lookout: Duration::ZERO,
    };
}

struct Line {
    waiters: VecDeque<Arc<Waiter>>,
    spare: usize,
}

struct Waiter {
    /// Written and read under the line's lock.
    served: AtomicBool,
    condvar: Condvar,
}

/// The right to run on a core. Dropping it gives the core back.
pub struct CorePermit<'a> {
    cores: &'a Cores,
    /// Whether it has a core of its own, or shares that of an outer one.
    owns: bool,
    /// What [`HELD`] was before.
    outer: usize,
    /// Whether the thread may want a core again at once: not one that only helps.
    returns: bool,
    /// When it was given.
    since: Option<Instant>,
    /// It says something about the thread that it was made on.
    not_send: PhantomData<*const ()>,
}

impl CorePermit<'_> {
    /// Lets those who wait for a core go first, if this thread has had it for long enough. Costs one
    /// load when nobody waits.
    pub fn yield_to_waiters(&mut self) {
        let quantum = self.cores.times.quantum;
        if self.cores.contended() && self.since.is_none_or(|since| since.elapsed() >= quantum) {
            self.cores.give();
            self.cores.take();
            self.since = self.cores.now();
        }
    }
}

impl Drop for CorePermit<'_> {
    fn drop(&mut self) {
        HELD.with(|held| held.set(self.outer));
        if self.owns {
            if self.returns {
                self.cores.note_given();
            }
            self.cores.give();
        }
    }
}

impl Cores {
    pub(super) fn new(count: usize, times: Times) -> Cores {
        Cores {
            balance: AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX)),
            line: Mutex::new(
                Rank::Leaf,
                Line {
                    waiters: VecDeque::new(),
                    spare: 0,
                },
            ),
            process: std::process::id(),
            times,
            last_giver: AtomicUsize::new(0),
            last_given: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Takes a core, waiting in line for it if need be.
    pub(super) fn enter(&self) -> CorePermit<'_> {
        assert_unlocked();
        let owns = HELD.with(Cell::get) != self.address();
        if owns {
            self.take();
        }
        self.permit(owns, true)
    }

    /// Takes a core if one is free.
    pub(super) fn try_enter(&self) -> Option<CorePermit<'_>> {
        // Acquire: as in `take`.
        self.balance
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |balance| {
                (balance > 0).then(|| balance - 1)
            })
            .ok()
            .map(|_| self.permit(true, false))
    }

    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// How many cores nobody uses. A hint: Relaxed.
    pub(super) fn free(&self) -> usize {
        usize::try_from(self.balance.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// How many cores nobody uses, less the one that another thread is likely to use again at once. A
    /// hint, as `free`.
    pub(super) fn idle(&self) -> usize {
        let absence = self.times.absence;
        if absence.is_zero() {
            return self.free();
        }
        let giver = self.last_giver.load(Ordering::Relaxed);
        let given = Duration::from_nanos(self.last_given.load(Ordering::Relaxed));
        let another = giver != 0 && giver != this_thread();
        let left = another && self.start.elapsed().saturating_sub(given) < absence;
        self.free().saturating_sub(usize::from(left))
    }

    fn note_given(&self) {
        if !self.times.absence.is_zero() {
            let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.last_given.store(nanos, Ordering::Relaxed);
            self.last_giver.store(this_thread(), Ordering::Relaxed);
        }
    }

    /// The time, where it matters.
    fn now(&self) -> Option<Instant> {
        (!self.times.quantum.is_zero()).then(Instant::now)
    }

    /// Whether somebody waits for a core. A hint, asked again at the next boundary: Relaxed.
    pub(super) fn contended(&self) -> bool {
        self.balance.load(Ordering::Relaxed) < 0
    }

    /// Whether this is a copy in a forked child. The workers and whoever waits or runs are then in
    /// the parent, a lock may have been copied while held: nothing may be waited for or locked.
    pub(super) fn orphaned(&self) -> bool {
        std::process::id() != self.process
    }

    fn permit(&self, owns: bool, returns: bool) -> CorePermit<'_> {
        CorePermit {
            cores: self,
            owns,
            outer: HELD.with(|held| held.replace(self.address())),
            returns,
            since: self.now(),
            not_send: PhantomData,
        }
    }

    fn take(&self) {
        // Acquire, with the Release in `give`: what ran on this core before happened before.
        if self.balance.fetch_sub(1, Ordering::Acquire) > 0 || self.orphaned() {
            return;
        }
        let _wait = trace::wait(Cause::Core);
        let mut line = self.line.lock();
        if line.spare > 0 {
            line.spare -= 1;
            return;
        }
        let waiter = Arc::new(Waiter {
            served: AtomicBool::new(false),
            condvar: Condvar::new(),
        });
        line.waiters.push_back(Arc::clone(&waiter));
        while !waiter.served.load(Ordering::Relaxed) {
            line = line.wait(&waiter.condvar);
        }
    }

    fn give(&self) {
        // Release: see `take`.
        if self.balance.fetch_add(1, Ordering::Release) >= 0 || self.orphaned() {
            return;
        }
        let mut line = self.line.lock();
        let Some(first) = line.waiters.pop_front() else {
            line.spare += 1;
            return;
        };
        first.served.store(true, Ordering::Relaxed);
        drop(line);
        first.condvar.notify_one();
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Makes this look like a copy in a forked child.
    #[cfg(all(test, not(loom)))]
    pub(super) fn orphan(&mut self) {
        self.process = self.process.wrapping_add(1);
    }

    /// How many threads sleep in the line.
    #[cfg(all(test, not(loom)))]
    pub(super) fn waiting(&self) -> usize {
        self.line.lock().waiters.len()
    }
}
