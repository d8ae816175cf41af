//! Locks, atomics and threads for the concurrent modules: std's, or loom's when the models run
//! (`RUSTFLAGS="--cfg loom"`), or shuttle's (`RUSTFLAGS="--cfg loom --cfg shuttle"`), so that the code
//! that is checked is the code that ships. Loom looks at every interleaving of a few steps, shuttle
//! at many interleavings of many steps.
//!
//! # Lock ranks
//!
//! A thread takes locks in rising rank only, never two of one rank, and holds none while it runs a
//! kernel, runs foreign code or waits (I4). [`Mutex`] asserts this in debug builds and under shuttle.

#[cfg(all(loom, not(shuttle)))]
pub(crate) use loom::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};
#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{Condvar, MutexGuard, atomic},
    thread,
};

#[cfg(all(loom, not(shuttle)))]
use loom::sync::Mutex as RawMutex;
#[cfg(shuttle)]
use shuttle::sync::Mutex as RawMutex;
#[cfg(not(loom))]
use std::sync::Mutex as RawMutex;

/// The order in which locks may be nested: outer first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A stream's queue.
    Stream,
    /// A node's state.
    Node,
    /// Leaves: nothing is locked while one of these is held.
    Leaf,
}

/// A mutex with a rank. Poison is ignored: no code that can panic runs under a lock.
#[derive(Debug)]
pub(crate) struct Mutex<T> {
    raw: RawMutex<T>,
    rank: Rank,
}

impl<T> Mutex<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Mutex<T> {
        Mutex {
            raw: RawMutex::new(value),
            rank,
        }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let held = ranks::Held::enter(self.rank);
        Guard {
            raw: Some(self.raw.lock().unwrap_or_else(|e| e.into_inner())),
            #[cfg(loom)]
            mutex: self,
            _held: held,
        }
    }

    /// Access without locking: nobody else can have any.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.raw.get_mut().unwrap_or_else(|e| e.into_inner())
    }
}

/// Access to what a [`Mutex`] guards.
pub(crate) struct Guard<'a, T> {
    raw: Option<MutexGuard<'a, T>>,
    #[cfg(loom)]
    mutex: &'a Mutex<T>,
    _held: ranks::Held,
}

impl<'a, T> Guard<'a, T> {
    /// Waits on `condvar`, with the mutex released meanwhile.
    pub(crate) fn wait(mut self, condvar: &Condvar) -> Guard<'a, T> {
        let raw = self.raw.take().expect("a guard holds its mutex");
        self.raw = Some(condvar.wait(raw).unwrap_or_else(|e| e.into_inner()));
        self
    }

    /// Waits as [`wait`](Self::wait) does, for about so long at most.
    #[cfg(not(loom))]
    pub(crate) fn wait_for(mut self, condvar: &Condvar, time: std::time::Duration) -> Self {
        let raw = self.raw.take().expect("a guard holds its mutex");
        let woken = condvar.wait_timeout(raw, time);
        self.raw = Some(woken.unwrap_or_else(|e| e.into_inner()).0);
        self
    }

    /// Time passes at once, as loom has no clock: others run, and the wait is over.
    #[cfg(loom)]
    pub(crate) fn wait_for(mut self, _: &Condvar, _: std::time::Duration) -> Self {
        let mutex = self.mutex;
        drop(self.raw.take());
        thread::yield_now();
        self.raw = Some(mutex.raw.lock().unwrap_or_else(|e| e.into_inner()));
        self
    }
}

impl<T> std::ops::Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.raw.as_ref().expect("a guard holds its mutex")
    }
}

impl<T> std::ops::DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.raw.as_mut().expect("a guard holds its mutex")
    }
}

/// Asserts that the calling thread holds no lock: before kernels, foreign code and waits (I4).
pub(crate) fn assert_unlocked() {
    ranks::assert_none();
}

#[cfg(any(shuttle, all(debug_assertions, not(loom))))]
mod ranks {
    use super::Rank;
    #[cfg(shuttle)]
    use super::thread_local;
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Held(Rank);

    impl Held {
        pub(super) fn enter(rank: Rank) -> Held {
            HELD.with(|held| {
                let mut held = held.borrow_mut();
                if let Some(&highest) = held.iter().max() {
                    assert!(
                        highest < rank,
                        "lock of rank {rank:?} taken while one of rank {highest:?} is held"
                    );
                }
                held.push(rank);
            });
            Held(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // A thread that is ending has no list any more, and then takes no further lock.
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|&rank| rank == self.0) {
                    held.remove(at);
                }
            });
        }
    }

    pub(super) fn assert_none() {
        HELD.with(|held| {
            let held = held.borrow();
            assert!(held.is_empty(), "holds {held:?} where no lock may be");
        });
    }
}

#[cfg(not(any(shuttle, all(debug_assertions, not(loom)))))]
mod ranks {
    pub(super) struct Held;

    impl Held {
        pub(super) fn enter(_: super::Rank) -> Held {
            Held
        }
    }

    pub(super) fn assert_none() {}
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rising_ranks_nest() {
        let (outer, inner) = (Mutex::new(Rank::Stream, 1), Mutex::new(Rank::Node, 2));
        let a = outer.lock();
        assert_eq!(*a + *inner.lock(), 3);
    }

    #[test]
    #[should_panic(expected = "lock of rank Stream taken while one of rank Stream is held")]
    fn two_locks_of_one_rank_are_refused() {
        let (a, b) = (Mutex::new(Rank::Stream, ()), Mutex::new(Rank::Stream, ()));
        let _a = a.lock();
        let _b = b.lock();
    }
}
