//! A region: one parallel section of one kernel, worked on by its caller and by helpers.
//!
//! ```text
//!                  join                    close (the caller, its tiles done)
//!   Open(helpers) -----> Open(helpers+1)   Open(n) -----> Closed(n) --- n leave ---> Closed(0)
//!                 <-----                      |                                        |
//!                  leave                      +--- n = 0 ------------------------------+--> returns
//! ```
//!
//! Invariants:
//! - Each tile is taken from a counter by one atomic step, so it runs at most once; the caller
//!   takes tiles until there are none left, so each has been taken when it closes the region.
//! - The closure lives on the caller's stack. Only the caller and registered helpers touch it; a
//!   helper registers by an atomic step that fails once the region is closed, and the caller
//!   returns, or unwinds, only after closing it and after all helpers have left.
//! - The region itself is in an `Arc`: who comes late finds it closed and touches nothing else.
//! - Helpers heed the limits of the call that the caller works for; these outlive the region as the
//!   closure does.
//! - A panic in a tile ends the taking of tiles, and goes on in the caller when all have left.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::cancel::{Current, check_tile, within};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Rank, assert_unlocked};
use crate::trace::{self, Cause, Owner};

#[cfg(loom)]
use crate::sync::thread_local;

thread_local! {
    /// Whether this thread is running tiles.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static INSIDE: Cell<bool> = Cell::new(false);
}

/// Whether the calling thread is running a tile of some region.
pub(super) fn inside() -> bool {
    INSIDE.with(Cell::get)
}

type Tile = dyn Fn(usize) + Sync;

pub(super) struct Region {
    /// Valid while the caller is in [`Region::run`].
    tile: *const Tile,
    /// What may end the caller's call: valid as `tile` is.
    limits: Current,
    tiles: usize,
    next: AtomicUsize,
    /// The number of helpers, and the bit [`CLOSED`].
    state: AtomicUsize,
    /// What tiles panicked with. Its lock is also what the caller sleeps on until helpers left.
    panics: Mutex<Vec<Box<dyn Any + Send>>>,
    left: Condvar,
    /// What it is part of, for who records.
    owner: Owner,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

// SAFETY: the closure behind `tile` and the limits are Sync, and are used only while they live (see
// `work`); all else is Send + Sync by itself.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Runs `tile` for each of `0..tiles`, together with whoever [helps](Region::help) the region
    /// that `list` makes known. What `list` returns is dropped when no more help is needed. The
    /// caller calls `between` between two of its tiles.
    pub(super) fn run<L>(
        tiles: usize,
        tile: &(dyn Fn(usize) + Sync),
        between: impl Fn(),
        list: impl FnOnce(&Arc<Region>) -> L,
    ) {
        assert_unlocked();
        // SAFETY: the types differ in the lifetime alone; `work` says why it is not outlived.
        let tile = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), *const Tile>(tile) };
        let region = Arc::new(Region {
            tile,
            limits: Current::get(),
            tiles,
            next: AtomicUsize::new(0),
            state: AtomicUsize::new(0),
            panics: Mutex::new(Rank::Leaf, Vec::new()),
            left: Condvar::new(),
            owner: Owner::of_this_thread(),
        });
        // Closes also when `list` unwinds.
        let open = Open(&region);
        let listed = list(&region);
        let between = || {
            between();
            false
        };
        region.owner.tiles(|| region.work(between));
        drop(listed);
        drop(open);
        let panics = std::mem::take(&mut *region.panics.lock());
        if let Some(first) = panics.into_iter().next() {
            resume_unwind(first);
        }
    }

    /// Works on the region until no tiles are left or `leave` says so between two of them, unless
    /// it is closed or has `limit` helpers.
    pub(super) fn help(&self, limit: usize, leave: impl Fn() -> bool) {
        // Acquire pairs with nothing that the lock of the list did not order already, but makes
        // this correct however the region was made known.
        let joined = self
            .state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & CLOSED == 0 && state < limit).then(|| state + 1)
            });
        if joined.is_err() {
            return;
        }
        self.owner.tiles(|| self.work(leave));
        // Release: the tiles that ran here happened before the caller returns.
        if self.state.fetch_sub(1, Ordering::Release) == CLOSED | 1 {
            // Under the lock, so that the caller has not looked yet or is asleep already.
            let panics = self.panics.lock();
            self.left.notify_one();
            drop(panics);
        }
    }

    /// Whether a helper would find something to do: a hint, since all of it may change at once.
    pub(super) fn wants_help(&self, limit: usize) -> bool {
        self.helpers() < limit && self.next.load(Ordering::Relaxed) < self.tiles
    }

    /// How many help just now; very many if it is closed. A hint: Relaxed.
    pub(super) fn helpers(&self) -> usize {
        self.state.load(Ordering::Relaxed)
    }

    /// Takes tiles and runs them; returns how many. Only for the caller in [`Region::run`] and for helpers between
    /// joining and leaving.
    fn work(&self, leave: impl Fn() -> bool) -> usize {
        // SAFETY: the closure lives until `run` returns or unwinds, which is after this: the caller
        // is in here itself, or `Open` waits for this helper, which has registered and not left.
        let tile = unsafe { &*self.tile };
        let outer = INSIDE.with(|inside| inside.replace(true));
        let mut tiles = 0;
        let work = || {
            loop {
                check_tile();
                // Relaxed: the counter gives each tile to one thread and publishes nothing.
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.tiles {
                    return;
                }
                tile(index);
                tiles += 1;
                if leave() {
                    return;
                }
            }
        };
        // SAFETY: the limits are those of the command that the caller runs: they live as long as the
        // closure, for the same reason.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { within(self.limits, work) }));
        INSIDE.with(|inside| inside.set(outer));
        if let Err(panic) = result {
            // Whoever takes a tile after this gets none. Relaxed: it need not be seen at once.
            self.next.store(self.tiles, Ordering::Relaxed);
            self.panics.lock().push(panic);
        }
        tiles
    }

    /// Ends the joining and waits until all helpers have left.
    fn close(&self) {
        // Acquire here and below: the helpers' tiles happened before.
        if self.state.fetch_or(CLOSED, Ordering::Acquire) == 0 {
            return;
        }
        let _wait = trace::wait(Cause::Helpers);
        let left = || self.state.load(Ordering::Acquire) == CLOSED;
        // A model that spins has too many interleavings, and sleeping is what is to be checked.
        if cfg!(not(loom)) {
            let start = std::time::Instant::now();
            while start.elapsed() < crate::tuning::REGION_WAIT {
                if left() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut panics = self.panics.lock();
        while !left() {
            panics = panics.wait(&self.left);
        }
    }
}

/// An open region; dropping it closes it.
struct Open<'a>(&'a Region);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
