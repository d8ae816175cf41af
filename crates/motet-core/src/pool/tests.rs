//! Tests of the pool with real threads; the interleavings are in `models`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::cores::Times;
use super::{Pool, Priority, Shared, Task};
use crate::array::Array;
use crate::cancel::{CancelToken, Limits, unlimited};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::heap;
use crate::node::Executable;
use crate::options::{CallOptions, NONE};
use crate::shape::Spec;
use crate::stream::Stream;
use crate::tensor::Tensor;
use crate::tuning;

/// A cost that always makes a region.
const COSTLY: usize = 1 << 30;

fn runs_each_once(pool: &Pool, tiles: usize) {
    let counts: Vec<_> = (0..tiles).map(|_| AtomicUsize::new(0)).collect();
    pool.for_each_tile(tiles, COSTLY, &|tile| {
        counts[tile].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
}

#[test]
fn every_tile_runs_once() {
    for cores in [0, 1, 2, 5, 16] {
        let pool = Pool::new(cores);
        for tiles in [0, 1, 2, 3, 100, 1000] {
            runs_each_once(&pool, tiles);
        }
    }
}

#[test]
fn workers_help() {
    let pool = Pool::new(3);
    // Each tile ends when all three run at once, which takes three threads.
    let together = Barrier::new(3);
    pool.for_each_tile(3, COSTLY, &|_| {
        together.wait();
    });
}

#[test]
fn a_helper_that_is_done_before_the_caller_looks_out_for_the_next_region_which_may_be_smaller() {
    let times = Times {
        lookout: Duration::MAX,
        ..Times::NONE
    };
    let pool = Pool::with_times(2, times);
    let caller = thread::current().id();
    let looks = || pool.shared.looking.load(Ordering::Relaxed) == 1;
    for cost in [COSTLY, tuning::REGION_MIN_AWAKE_NS / 2] {
        let (helped, start) = (AtomicBool::new(false), Instant::now());
        pool.for_each_tile(2, cost, &|_| {
            if thread::current().id() != caller {
                return helped.store(true, Ordering::Relaxed);
            }
            while !(helped.load(Ordering::Relaxed) && looks()) {
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "nobody looks out"
                );
                thread::yield_now();
            }
            for _ in 0..1000 {
                thread::yield_now();
                assert!(looks(), "the region that it has helped is still there");
            }
        });
    }
    // It ends as soon as there is no core for it.
    let _core = pool.shared.cores.try_enter();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _core = pool.shared.cores.try_enter();
            while looks() {
                thread::yield_now();
            }
        });
    });
}

#[test]
fn small_work_stays_with_the_caller() {
    let pool = Pool::new(4);
    let caller = thread::current().id();
    pool.for_each_tile(1000, 1, &|_| assert_eq!(thread::current().id(), caller));
    assert_eq!(pool.shared.jobs.lock().workers, 0);
}

#[test]
fn no_region_without_a_free_core() {
    let pool = Pool::new(2);
    let _cores: Vec<_> = (0..2).map(|_| pool.shared.cores.try_enter()).collect();
    let caller = thread::current().id();
    pool.for_each_tile(100, COSTLY, &|_| assert_eq!(thread::current().id(), caller));
}

#[test]
fn nested_regions_run_inline() {
    let pool = Pool::new(4);
    let count = AtomicUsize::new(0);
    pool.for_each_tile(8, COSTLY, &|_| {
        let outer = thread::current().id();
        pool.for_each_tile(8, COSTLY, &|_| {
            assert_eq!(thread::current().id(), outer);
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 64);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(4);
    for at in [0, 7, 99] {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each_tile(100, COSTLY, &|tile| assert_ne!(tile, at, "tile of doom"));
        }));
        let message = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("tile of doom"), "{message}");
        assert!(pool.shared.jobs.lock().regions.is_empty());
        runs_each_once(&pool, 100);
    }
}

#[test]
fn sixty_four_callers_never_run_on_more_cores_than_there_are() {
    let pool = Pool::new(4);
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut core = pool.enter(Priority::Normal);
                    pool.for_each_tile(16, COSTLY, &|_| {
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 4);
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                    core.yield_to_waiters();
                    runs_each_once(&pool, 10);
                }
            });
        }
    });
    assert!(pool.shared.jobs.lock().workers <= 3);
}

#[test]
fn cores_are_given_in_order_of_arrival() {
    let pool = Pool::new(1);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let core = pool.enter(Priority::Normal);
        for number in 0..8 {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let _core = pool.enter(Priority::Normal);
                order.lock().unwrap().push(number);
            });
            while pool.shared.cores.waiting() <= number {
                thread::yield_now();
            }
        }
        drop(core);
    });
    assert_eq!(order.into_inner().unwrap(), Vec::from_iter(0..8));
}

#[test]
fn a_core_is_left_for_a_while_to_the_thread_that_gave_it_back() {
    let long = Times {
        quantum: Duration::MAX,
        absence: Duration::MAX,
        ..Times::NONE
    };
    // With more cores, the others help.
    for (cores, left) in [(2, 0), (4, 2)] {
        let pool = Pool::with_times(cores, long);
        let elsewhere = |work: fn(&Pool)| {
            thread::scope(|scope| scope.spawn(|| work(&pool)).join().unwrap());
        };
        let helpers = || pool.shared.helpers(100, COSTLY);
        drop(pool.enter(Priority::Normal));
        let _own = pool.enter(Priority::Normal);
        assert_eq!(helpers(), cores - 1, "the last one was this thread's own");
        elsewhere(|pool| drop(pool.shared.cores.try_enter()));
        assert_eq!(helpers(), cores - 1, "helpers do not come back");
        elsewhere(|pool| drop(pool.enter(Priority::Normal)));
        assert_eq!(helpers(), left);
    }
}

#[test]
fn a_core_is_kept_for_its_quantum() {
    for (quantum, kept) in [(Duration::MAX, true), (Duration::from_nanos(1), false)] {
        let times = Times {
            quantum,
            ..Times::NONE
        };
        let pool = Pool::with_times(1, times);
        let ran = AtomicUsize::new(0);
        thread::scope(|scope| {
            let mut core = pool.enter(Priority::Normal);
            scope.spawn(|| {
                let _core = pool.enter(Priority::Normal);
                ran.store(1, Ordering::SeqCst);
            });
            while pool.shared.cores.waiting() == 0 {
                thread::yield_now();
            }
            core.yield_to_waiters();
            assert_eq!(ran.load(Ordering::SeqCst) == 0, kept);
        });
    }
}

#[test]
fn a_thread_with_a_core_never_waits_for_itself() {
    let pool = Pool::new(1);
    let outer = pool.enter(Priority::Normal);
    let mut inner = pool.enter(Priority::Normal);
    inner.yield_to_waiters();
    drop(inner);
    assert_eq!(pool.shared.cores.free(), 0);
    drop(outer);
    assert_eq!(pool.shared.cores.free(), 1);
}

/// Sends its number when it runs; number 0 panics.
struct Send(usize, mpsc::Sender<usize>, Arc<Pool>);

impl Task for Send {
    fn run(self: Arc<Self>) {
        assert_ne!(self.0, 0, "a task that panics");
        let _core = self.2.enter(Priority::Normal);
        self.1.send(self.0).unwrap();
    }
}

#[test]
fn tasks_run_in_order_even_after_one_that_panics() {
    let pool = Pool::new(1);
    let (sender, receiver) = mpsc::channel();
    for number in [1, 2, 0, 3, 4] {
        pool.submit(Arc::new(Send(number, sender.clone(), Arc::clone(&pool))));
    }
    assert_eq!(Vec::from_iter(receiver.iter().take(4)), [1, 2, 3, 4]);
}

#[test]
fn workers_end_with_the_pool() {
    let pool = Pool::new(4);
    let together = Barrier::new(4);
    pool.for_each_tile(4, COSTLY, &|_| {
        together.wait();
    });
    let shared = Arc::downgrade(&pool.shared);
    drop(pool);
    while shared.strong_count() > 0 {
        thread::yield_now();
    }
}

#[test]
fn callers_complete_alone_in_a_forked_child() {
    let mut shared = Shared::new(2, Times::NONE);
    shared.cores.orphan();
    let pool = Arc::new(Pool {
        shared: Arc::new(shared),
    });
    // Held in the parent for ever, as far as this process can tell.
    let lost = [pool.shared.cores.try_enter(), pool.shared.cores.try_enter()];
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut core = pool.enter(Priority::Normal);
                runs_each_once(&pool, 100);
                core.yield_to_waiters();
            });
        }
    });
    let (sender, _receiver) = mpsc::channel();
    pool.submit(Arc::new(Send(1, sender, Arc::clone(&pool))));
    assert_eq!(pool.shared.jobs.lock().workers, 0);
    drop(lost);
}

/// Runs many tiles, of which the fifth ends the call, and gives the number of those that ran.
fn interrupted(pool: &Pool, options: &CallOptions, end: &(dyn Fn() + Sync)) -> usize {
    let ran = AtomicUsize::new(0);
    let tile = |_| {
        if ran.fetch_add(1, Ordering::Relaxed) == 4 {
            end();
        }
    };
    let limits = Limits {
        options,
        evaluation: None,
    };
    let caught = catch_unwind(AssertUnwindSafe(|| {
        limits.within(|| pool.for_each_tile(1000, COSTLY, &tile));
    }));
    let error = Error::from_panic("test", &*caught.unwrap_err());
    assert_eq!(error.kind(), limits.check("test").unwrap_err().kind());
    assert!(pool.shared.jobs.lock().regions.is_empty());
    // Nothing of it is left in the thread or the pool.
    runs_each_once(pool, 1000);
    ran.into_inner()
}

#[test]
fn tiles_end_with_their_call() {
    // One core runs them in a loop, more in a region.
    for cores in [1, 2, 5] {
        let pool = Pool::new(cores);
        let token = CancelToken::new();
        let options = CallOptions {
            cancel: Some(token.clone()),
            ..Default::default()
        };
        let ran = interrupted(&pool, &options, &|| token.cancel());
        // Each thread ends the tile that it has begun.
        assert!((5..5 + cores).contains(&ran), "{ran} of {cores}");

        let now = std::time::Instant::now();
        let options = CallOptions {
            deadline: Some(now),
            ..Default::default()
        };
        assert_eq!(interrupted(&pool, &options, &|| ()), 0);
    }
}

#[test]
fn what_is_made_for_others_does_not_end_with_the_call_that_makes_it() {
    let pool = Pool::new(3);
    let options = CallOptions {
        deadline: Some(std::time::Instant::now()),
        ..Default::default()
    };
    let limits = Limits {
        options: &options,
        evaluation: None,
    };
    limits.within(|| unlimited(|| runs_each_once(&pool, 100)));
}

/// Times with which cores change hands only where a test says so.
const STILL: Times = Times {
    quantum: Duration::MAX,
    lease: Duration::MAX,
    short: Duration::MAX,
    head_start: Duration::ZERO,
    absence: Duration::MAX,
    lookout: Duration::ZERO,
};

/// Spawns a thread that enters, runs `then` and goes for good; returns when it waits in the line.
fn wait_behind<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pool: &'scope Pool,
    priority: Priority,
    then: impl FnOnce() + std::marker::Send + 'scope,
) {
    let before = pool.shared.cores.waiting();
    scope.spawn(move || {
        let _core = pool.shared.cores.enter(priority, false, &NONE);
        then();
    });
    while pool.shared.cores.waiting() == before {
        thread::yield_now();
    }
}

#[test]
fn a_call_that_ends_does_not_wait_for_a_core() {
    let pool = Pool::new(1);
    let token = CancelToken::new();
    let cancelled = CallOptions {
        cancel: Some(token.clone()),
        ..CallOptions::default()
    };
    let late = CallOptions {
        deadline: Some(Instant::now()),
        ..CallOptions::default()
    };
    thread::scope(|scope| {
        // Never given back while the others wait.
        let core = pool.enter(Priority::Normal);
        let leaves = scope.spawn(|| pool.enter_for(Priority::Normal, &cancelled).is_none());
        while pool.shared.cores.waiting() == 0 {
            thread::yield_now();
        }
        wait_behind(scope, &pool, Priority::Normal, || ());
        token.cancel();
        assert!(leaves.join().unwrap());
        assert!(
            scope
                .spawn(|| pool.enter_for(Priority::Background, &late).is_none())
                .join()
                .unwrap()
        );
        assert_eq!(pool.shared.cores.waiting(), 1);
        drop(core);
    });
    assert_eq!(pool.shared.cores.free(), 1);
}

#[test]
fn cores_are_given_by_priority_then_in_order_of_arrival() {
    use Priority::{Background, Normal, Urgent};
    let pool = Pool::new(1);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let core = pool.enter(Normal);
        let arrivals = [Background, Normal, Urgent, Background, Urgent, Normal];
        for (number, priority) in arrivals.into_iter().enumerate() {
            let order = &order;
            wait_behind(scope, &pool, priority, move || {
                order.lock().unwrap().push(number)
            });
        }
        drop(core);
    });
    assert_eq!(order.into_inner().unwrap(), [2, 4, 1, 5, 0, 3]);
}

#[test]
fn who_has_waited_for_longer_than_patience_goes_before_the_urgent() {
    let times = Times {
        quantum: Duration::MAX,
        ..Times::NONE
    };
    let pool = Pool::with_times(1, times);
    let order = Mutex::new(Vec::new());
    let push = |what| order.lock().unwrap().push(what);
    thread::scope(|scope| {
        let core = pool.enter(Priority::Normal);
        wait_behind(scope, &pool, Priority::Background, || push("background"));
        let arrived = std::time::Instant::now();
        while arrived.elapsed() <= Priority::Background.patience() {
            thread::yield_now();
        }
        wait_behind(scope, &pool, Priority::Urgent, || push("urgent"));
        drop(core);
    });
    assert_eq!(order.into_inner().unwrap(), ["background", "urgent"]);
}

/// Times with which threads that come from a pause are due before all others.
const PAUSES_COUNT: Times = Times {
    head_start: Duration::from_secs(3600),
    ..STILL
};

#[test]
fn who_comes_from_a_pause_goes_before_those_who_call_without_one() {
    let times = Times {
        lease: Duration::ZERO,
        ..PAUSES_COUNT
    };
    let pool = Pool::with_times(1, times);
    let order = Mutex::new(Vec::new());
    let turns = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(pool.enter(Priority::Normal));
            turns.wait();
            turns.wait();
            let _core = pool.enter(Priority::Normal);
            order.lock().unwrap().push("calls on");
        });
        turns.wait();
        let core = pool.enter(Priority::Normal);
        turns.wait();
        while pool.shared.cores.waiting() == 0 {
            thread::yield_now();
        }
        wait_behind(scope, &pool, Priority::Normal, || {
            order.lock().unwrap().push("comes from a pause")
        });
        drop(core);
    });
    let order = order.into_inner().unwrap();
    assert_eq!(order, ["comes from a pause", "calls on"]);
}

#[test]
fn no_core_is_kept_where_somebody_waits_who_comes_from_a_pause() {
    for (times, first) in [(PAUSES_COUNT, "waits"), (STILL, "calls on")] {
        let times = Times {
            quantum: Duration::ZERO,
            ..times
        };
        let pool = Pool::with_times(1, times);
        let order = Mutex::new(Vec::new());
        let push = |what| order.lock().unwrap().push(what);
        thread::scope(|scope| {
            drop(pool.enter(Priority::Urgent));
            // Of another priority: it has just given a core back, and this is not the same lease.
            let core = pool.enter(Priority::Normal);
            wait_behind(scope, &pool, Priority::Normal, || push("waits"));
            drop(core);
            let mut core = pool.enter(Priority::Normal);
            push("calls on");
            core.yield_to_waiters();
        });
        assert_eq!(order.into_inner().unwrap()[0], first);
    }
}

#[test]
fn between_two_tiles_the_urgent_go_first_and_equals_do_not() {
    for (priority, goes_first) in [(Priority::Urgent, true), (Priority::Normal, false)] {
        let times = Times {
            quantum: Duration::MAX,
            ..Times::NONE
        };
        let pool = Pool::with_times(1, times);
        let went = AtomicUsize::new(0);
        thread::scope(|scope| {
            let _core = pool.enter(Priority::Normal);
            pool.for_each_tile(2, COSTLY, &|tile| match tile {
                0 => wait_behind(scope, &pool, priority, || went.store(1, Ordering::SeqCst)),
                _ => assert_eq!(went.load(Ordering::SeqCst) == 1, goes_first),
            });
        });
    }
}

#[test]
fn work_in_the_background_leaves_a_core_to_others() {
    let pool = Pool::new(2);
    let Shared {
        cores, background, ..
    } = &*pool.shared;
    thread::scope(|scope| {
        let first = pool.enter(Priority::Background);
        drop(pool.enter(Priority::Background));
        scope.spawn(|| drop(pool.enter(Priority::Background)));
        while background.waiting() == 0 {
            thread::yield_now();
        }
        assert_eq!(cores.free(), 1);
        drop(pool.enter(Priority::Urgent));
        scope
            .spawn(|| drop(pool.enter(Priority::Normal)))
            .join()
            .unwrap();
        drop(first);
    });
    assert_eq!((cores.free(), background.free()), (2, 1));
}

#[test]
fn helpers_of_work_in_the_background_leave_a_core_to_others() {
    for (priority, helpers) in [(Priority::Background, [0, 2]), (Priority::Normal, [1, 3])] {
        for (cores, helpers) in [2, 4].into_iter().zip(helpers) {
            let pool = Pool::new(cores);
            let _core = pool.enter(priority);
            assert_eq!(pool.shared.helpers(4, COSTLY), helpers, "{priority:?}");
        }
    }
}

#[test]
fn a_core_is_kept_for_a_thread_that_comes_back() {
    let times = Times {
        quantum: Duration::ZERO,
        ..STILL
    };
    let pool = Pool::with_times(1, times);
    let went = AtomicUsize::new(0);
    thread::scope(|scope| {
        drop(pool.enter(Priority::Normal));
        let mut core = pool.enter(Priority::Normal);
        wait_behind(scope, &pool, Priority::Normal, || {
            went.store(1, Ordering::SeqCst)
        });
        for _ in 0..100 {
            drop(core);
            core = pool.enter(Priority::Normal);
            assert_eq!(went.load(Ordering::SeqCst), 0);
        }
        core.yield_to_waiters();
        assert_eq!(went.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_kept_core_is_not_kept_from_the_more_urgent_or_for_ever() {
    // With any absence, a core that was kept for nobody would be waited for in vain.
    for (priority, absence) in [
        (Priority::Urgent, Duration::MAX),
        (Priority::Normal, Duration::from_nanos(1)),
    ] {
        let pool = Pool::with_times(1, Times { absence, ..STILL });
        thread::scope(|scope| {
            let core = pool.enter(Priority::Normal);
            wait_behind(scope, &pool, priority, || ());
            drop(core);
        });
        assert!(pool.shared.cores.try_enter().is_some());
    }
}

/// Notes which thread ran it.
#[derive(Default)]
struct Noted(Mutex<Option<thread::ThreadId>>);

impl Executable for Noted {
    fn name(&self) -> &str {
        "Noted"
    }

    fn execute(
        &self,
        _: &[Tensor],
        outputs: &[Spec],
        _: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        *self.0.lock().unwrap() = Some(thread::current().id());
        Ok(vec![Tensor::allocate(&outputs[0], heap())?])
    }
}

/// Whether a thread that evaluates something of this priority while no core is free computes it itself.
fn computes_itself(priority: Priority) -> bool {
    let pool = Pool::new(1);
    let on = Stream::with_pool(Device::CPU, Arc::clone(&pool), priority);
    let noted = Arc::new(Noted::default());
    let spec = Spec::new([], Dtype::Float32);
    let lazy = Array::from_executable(noted.clone(), &[], &[spec], on, None);
    let core = pool.enter(Priority::Normal);
    let waits = |pool: &Pool| {
        let tasks = pool.shared.jobs.lock().tasks.len();
        tasks > 0 || pool.shared.cores.waiting() > 0
    };
    let caller = thread::scope(|scope| {
        let caller = scope.spawn(|| lazy[0].eval().unwrap());
        while !waits(&pool) {
            thread::yield_now();
        }
        drop(core);
        caller.thread().id()
    });
    let ran = noted.0.lock().unwrap().take();
    ran == Some(caller)
}

#[test]
fn where_no_core_is_free_calls_are_left_to_workers_unless_they_are_urgent() {
    assert!(!computes_itself(Priority::Normal));
    assert!(computes_itself(Priority::Urgent));
}

#[test]
fn urgent_tasks_go_first() {
    let pool = Pool::new(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (opener, gate) = mpsc::channel();
    let push = |priority, gate| {
        let order = Arc::clone(&order);
        let push = Push {
            priority,
            order,
            gate: Mutex::new(gate),
        };
        pool.submit(Arc::new(push));
    };
    push(Priority::Normal, Some(gate));
    while pool.shared.has_tasks() {
        thread::yield_now();
    }
    for priority in [Priority::Background, Priority::Normal, Priority::Urgent] {
        push(priority, None);
    }
    opener.send(()).unwrap();
    while order.lock().unwrap().len() < 4 {
        thread::yield_now();
    }
    use Priority::{Background, Normal, Urgent};
    assert_eq!(*order.lock().unwrap(), [Normal, Urgent, Normal, Background]);
}

/// Waits for the gate if there is one, then notes its priority.
struct Push {
    priority: Priority,
    order: Arc<Mutex<Vec<Priority>>>,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Task for Push {
    fn run(self: Arc<Self>) {
        if let Some(gate) = self.gate.lock().unwrap().take() {
            gate.recv().unwrap();
        }
        self.order.lock().unwrap().push(self.priority);
    }

    fn priority(&self) -> Priority {
        self.priority
    }
}
