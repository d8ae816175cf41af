//! Loom models of the pool: every interleaving of small programs on the real code.
//!
//! A lost wake-up shows as a deadlock, a closure that is touched too late as a conflict on loom's
//! `UnsafeCell`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::cores::{CorePermit, Cores, Times};
use super::region::Region;
use super::{Pool, Priority, Task};
use crate::cancel::CancelToken;
use crate::options::{CallOptions, NONE};
use crate::sync::{Condvar, Mutex, Rank};

/// A region of `tiles` whose result cell is written when it has returned: nobody may read it then.
fn check_region(tiles: usize, run: impl FnOnce(&(dyn Fn(usize) + Sync))) {
    let counts: Vec<_> = (0..tiles).map(|_| AtomicUsize::new(0)).collect();
    let cell = Shareable(UnsafeCell::new(0));
    run(&|tile| {
        // SAFETY: read only while the region is open; loom checks it.
        cell.get().with(|value| assert_eq!(unsafe { *value }, 0));
        counts[tile].fetch_add(1, Ordering::Relaxed);
    });
    // SAFETY: the region has returned; loom checks that no tile reads any more.
    cell.get().with_mut(|value| unsafe { *value = 1 });
    for mut count in counts {
        assert_eq!(count.with_mut(|count| *count), 1);
    }
}

/// Checks a model with up to so many preemptions: the small ones go deeper than what
/// `LOOM_MAX_PREEMPTIONS` says for all, as some of their faults need three or four.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

struct Shareable(UnsafeCell<u32>);

// SAFETY: loom reports accesses that conflict.
unsafe impl Sync for Shareable {}

impl Shareable {
    fn get(&self) -> &UnsafeCell<u32> {
        &self.0
    }
}

#[test]
fn loom_region_with_helpers_that_come_at_any_time() {
    model(3, || {
        let mut helpers = Vec::new();
        check_region(2, |tile| {
            Region::run(
                2,
                tile,
                || (),
                |region| {
                    for _ in 0..2 {
                        let region = Arc::clone(region);
                        helpers.push(thread::spawn(move || region.help(2, || false)));
                    }
                },
            );
        });
        helpers.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn loom_region_whose_helper_is_the_last() {
    model(5, || {
        let mut helper = None;
        check_region(2, |tile| {
            Region::run(
                2,
                tile,
                || (),
                |region| {
                    let region = Arc::clone(region);
                    helper = Some(thread::spawn(move || region.help(1, || false)));
                },
            );
        });
        helper.unwrap().join().unwrap();
    });
}

#[test]
fn loom_region_with_a_helper_that_leaves_early() {
    model(4, || {
        let mut helper = None;
        check_region(3, |tile| {
            Region::run(
                3,
                tile,
                || (),
                |region| {
                    let region = Arc::clone(region);
                    helper = Some(thread::spawn(move || region.help(1, || true)));
                },
            );
        });
        helper.unwrap().join().unwrap();
    });
}

/// The one way in which a region closes with tiles left: it must refuse who comes then. A conflict
/// in a late tile would be caught with the tile and reported to nobody, so tiles are counted too.
#[test]
fn loom_region_that_unwinds_is_closed_to_late_helpers() {
    model(4, || {
        let (cell, ran) = (Shareable(UnsafeCell::new(0)), AtomicUsize::new(0));
        let tile = |_| {
            ran.fetch_add(1, Ordering::Relaxed);
            // SAFETY: read only while the region is open; loom checks it.
            cell.get().with(|value| assert_eq!(unsafe { *value }, 0));
        };
        let mut helper = None;
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            Region::run(
                2,
                &tile,
                || (),
                |region| {
                    let region = Arc::clone(region);
                    helper = Some(thread::spawn(move || region.help(1, || false)));
                    resume_unwind(Box::new("listing failed"));
                },
            );
        }));
        assert!(unwound.is_err());
        // SAFETY: the region has unwound; loom checks that no tile reads any more.
        cell.get().with_mut(|value| unsafe { *value = 1 });
        let in_time = ran.load(Ordering::Relaxed);
        helper.unwrap().join().unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), in_time);
    });
}

#[test]
fn loom_pool_region_from_start_to_end() {
    loom::model(|| {
        let pool = Pool::new(2);
        check_region(2, |tile| pool.for_each_tile(2, usize::MAX, tile));
    });
}

#[test]
fn loom_pool_second_region_finds_a_worker_in_any_state() {
    loom::model(|| {
        let pool = Pool::new(2);
        check_region(2, |tile| pool.for_each_tile(2, usize::MAX, tile));
        check_region(2, |tile| pool.for_each_tile(2, usize::MAX, tile));
    });
}

/// A core is kept for whoever gives it back, for as long as nobody looks.
const KEPT: Times = Times {
    lease: Duration::MAX,
    short: Duration::MAX,
    ..Times::NONE
};

/// Runs `body` on `threads` threads, which share one core and a cell that only its holder touches.
fn check_cores(threads: usize, times: Times, body: fn(&Cores, &Shareable)) {
    // Three threads have too many interleavings for more.
    model(if threads > 2 { 2 } else { 4 }, move || {
        let cores = Arc::new((Cores::new(1, times), Shareable(UnsafeCell::new(0))));
        let others: Vec<_> = (1..threads)
            .map(|_| {
                let cores = Arc::clone(&cores);
                thread::spawn(move || body(&cores.0, &cores.1))
            })
            .collect();
        body(&cores.0, &cores.1);
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(cores.0.free(), 1);
    });
}

/// Not atomic: two at once, or one after the other without a happens-before, is a conflict.
fn occupy(cell: &Shareable) {
    // SAFETY: the caller holds the only core; loom checks it.
    cell.get().with_mut(|value| unsafe { *value += 1 });
}

fn enter(cores: &Cores) -> CorePermit<'_> {
    let entered = cores.enter(Priority::Normal, true, &NONE);
    entered.unwrap()
}

#[test]
fn loom_cores_are_handed_over_without_lost_wake_up() {
    check_cores(3, Times::NONE, |cores, cell| {
        let _core = enter(cores);
        occupy(cell);
    });
}

#[test]
fn loom_cores_yielded_come_back() {
    check_cores(2, Times::NONE, |cores, cell| {
        let mut core = enter(cores);
        occupy(cell);
        core.yield_to_waiters();
        occupy(cell);
    });
}

#[test]
fn loom_cores_taken_without_waiting_are_counted() {
    check_cores(3, Times::NONE, |cores, cell| {
        if let Some(_core) = cores.try_enter() {
            occupy(cell);
        }
        let _core = enter(cores);
        occupy(cell);
    });
}

/// Kept for a thread that stays away: whoever waits gets it all the same.
#[test]
fn loom_cores_that_are_kept_go_to_who_waits() {
    check_cores(3, KEPT, |cores, cell| {
        let _core = enter(cores);
        occupy(cell);
    });
}

#[test]
fn loom_cores_that_are_kept_are_there_for_who_comes_back() {
    check_cores(2, KEPT, |cores, cell| {
        for _ in 0..2 {
            let _core = enter(cores);
            occupy(cell);
        }
    });
}

#[test]
fn loom_cores_that_are_kept_are_counted_by_those_who_do_not_wait() {
    check_cores(2, KEPT, |cores, cell| {
        if let Some(_core) = cores.try_enter() {
            occupy(cell);
        }
        let _core = enter(cores);
        occupy(cell);
    });
}

/// Who leaves the line takes no core with it, nor the wake-up of who comes behind it.
fn check_leaving(times: Times) {
    model(2, move || {
        let shared = Arc::new((Cores::new(1, times), Shareable(UnsafeCell::new(0))));
        let token = CancelToken::new();
        let held = enter(&shared.0);
        let leaves = thread::spawn({
            let (shared, token) = (Arc::clone(&shared), token.clone());
            move || {
                let options = CallOptions {
                    cancel: Some(token),
                    ..CallOptions::default()
                };
                if let Some(_core) = shared.0.enter(Priority::Normal, true, &options) {
                    occupy(&shared.1);
                }
            }
        });
        let stays = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _core = enter(&shared.0);
                occupy(&shared.1);
            }
        });
        occupy(&shared.1);
        token.cancel();
        drop(held);
        leaves.join().unwrap();
        stays.join().unwrap();
        assert_eq!(shared.0.free(), 1);
    });
}

#[test]
fn loom_cores_whose_line_is_left() {
    check_leaving(Times::NONE);
}

#[test]
fn loom_cores_that_are_kept_whose_line_is_left() {
    check_leaving(KEPT);
}

/// A task that counts its runs.
struct Count {
    runs: Mutex<usize>,
    ran: Condvar,
}

impl Task for Count {
    fn run(self: Arc<Self>) {
        *self.runs.lock() += 1;
        self.ran.notify_one();
    }
}

/// Submits `times` to a pool of `cores` and waits, without helping, until all have run.
fn check_submit(cores: usize, times: usize) {
    loom::model(move || {
        let pool = Pool::new(cores);
        let task = Arc::new(Count {
            runs: Mutex::new(Rank::Node, 0),
            ran: Condvar::new(),
        });
        for _ in 0..times {
            pool.submit(Arc::clone(&task) as Arc<dyn Task>);
        }
        let mut runs = task.runs.lock();
        while *runs < times {
            runs = runs.wait(&task.ran);
        }
    });
}

#[test]
fn loom_submit_reaches_a_worker_that_goes_to_sleep() {
    check_submit(1, 2);
}

#[test]
fn loom_submit_reaches_two_workers() {
    check_submit(3, 2);
}

#[test]
fn loom_region_gives_way_to_a_task() {
    loom::model(|| {
        let pool = Pool::new(2);
        let task = Arc::new(Count {
            runs: Mutex::new(Rank::Node, 0),
            ran: Condvar::new(),
        });
        pool.submit(Arc::clone(&task) as Arc<dyn Task>);
        check_region(2, |tile| pool.for_each_tile(2, usize::MAX, tile));
        let mut runs = task.runs.lock();
        while *runs < 1 {
            runs = runs.wait(&task.ran);
        }
    });
}
