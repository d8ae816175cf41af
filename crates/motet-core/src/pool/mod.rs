//! The one intra-op pool, and the core budget that everything that computes goes through.
//!
//! A worker:
//!
//! ```text
//!             submit, region opened
//!   Asleep -------------------------> Looking ---- tasks on the list ----> waits for a core, then
//!     ^                                |   ^                               runs tasks until none
//!     +---- nothing to do, no core ----+   |                                 |
//!                                      |   +---------------------------------+
//!                                      |   +---- no tiles left, or wanted elsewhere ----+
//!                                      +-------- a region, and a core that is free ---> helps
//! ```
//!
//! Invariants:
//! - No caller needs a worker: the caller of a region takes tiles until none are left, and whoever
//!   waits for a stream runs it. In a forked child there are no workers, and nothing is missing.
//! - A worker waits for a core only while it holds nothing: no task, no region. It helps a region
//!   only with a core that it got without waiting.
//! - A worker that has helped looks out for a moment before it sleeps. It holds no lock and no core
//!   meanwhile, and looks at the list again after it: it might as well not have looked out.
//! - A worker looks at the list and goes to sleep under one lock, and what is added to the list
//!   under that lock is followed by a wake-up: none is lost.
//! - At most `ceil(cores / regions)` threads serve one region. Helpers beyond that leave between
//!   two tiles, and all of them do when a thread waits for a core or a task for a worker.
//! - Locks are held for a few moves, never while a tile or a task runs (I4).
//!
//! [`Pool::for_each_tile`] is for kernels, [`Pool::submit`] and [`Pool::enter`] for streams.

mod cores;
#[cfg(all(test, loom, not(shuttle)))]
mod models;
mod priority;
mod region;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

pub use cores::CorePermit;
pub use priority::Priority;

use crate::cancel::check_tile;
use crate::options::{CallOptions, NONE};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Rank, thread};
use crate::tuning;
use cores::{Cores, Nanos, Times};
use region::Region;

/// A piece of work for the workers' list.
pub trait Task: Send + Sync {
    /// Does the work, on a worker that has a core. Should not panic: what the task was to do after
    /// that is not done, though the pool is none the worse for it.
    fn run(self: Arc<Self>);

    /// Which tasks go first.
    fn priority(&self) -> Priority {
        Priority::Normal
    }
}

/// What the threads of a pool are called.
pub(crate) const WORKER_NAME: &str = "motet-worker";

/// Workers, and the budget of cores for them and for those who call.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool for so many cores (at least one). Workers are started when they are first needed and
    /// end when the pool is dropped.
    pub fn new(cores: usize) -> Arc<Pool> {
        Pool::with_times(cores, Times::NONE)
    }

    fn with_times(cores: usize, times: Times) -> Arc<Pool> {
        Arc::new(Pool {
            shared: Arc::new(Shared::new(cores.max(1), times)),
        })
    }

    /// The pool of the process: as many cores as `MOTET_NUM_THREADS` says, or as the process may
    /// use.
    #[cfg(not(loom))]
    pub fn global() -> &'static Arc<Pool> {
        static POOL: std::sync::OnceLock<Arc<Pool>> = std::sync::OnceLock::new();
        POOL.get_or_init(|| {
            let asked = std::env::var("MOTET_NUM_THREADS").ok();
            let asked = asked.and_then(|cores| cores.trim().parse().ok());
            // Affinity and cgroup quotas are in what std reports.
            let available = || thread::available_parallelism().map_or(1, |cores| cores.get());
            let cores = asked.filter(|&cores| cores > 0).unwrap_or_else(available);
            let times = Times {
                quantum: tuning::CORE_QUANTUM,
                lease: tuning::CORE_LEASE,
                short: tuning::SHORT_CALL,
                head_start: tuning::CORE_LEASE,
                absence: tuning::CORE_ABSENCE,
                lookout: tuning::WORKER_LOOKOUT,
            };
            Pool::with_times(cores, times)
        })
    }

    /// Calls `run` with each of `0..tiles` once; returns when all are done. `tile_cost_ns` is a
    /// guess at the time that one takes: the caller works alone where help would cost more than it
    /// brings, or no core is free. The tiles are the same however many threads there are.
    ///
    /// Between two tiles the caller lets those go first who wait for a core and are due earlier.
    ///
    /// A panic in a tile goes on in the caller; some other tiles are then not run. Where the call that
    /// the thread works for is cancelled or late, this unwinds before the next tile.
    pub fn for_each_tile(&self, tiles: usize, tile_cost_ns: usize, run: &(dyn Fn(usize) + Sync)) {
        let helpers = self.shared.helpers(tiles, tile_cost_ns);
        if helpers > 0 {
            let between = || self.yield_to_waiters();
            let list = |region: &Arc<Region>| self.shared.list(region, helpers);
            return Region::run(tiles, run, between, list);
        }
        let alone = |tile| {
            run(tile);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = self.for_each_in_order(tiles, alone);
    }

    /// Calls `run` with each of `0..pieces`, in order and on the calling thread, up to the first error:
    /// for long work of which no two pieces can be done at once. Between two pieces the same happens as
    /// between two [tiles](Pool::for_each_tile).
    ///
    /// # Errors
    /// That of `run`.
    pub fn for_each_in_order<E>(
        &self,
        pieces: usize,
        mut run: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for piece in 0..pieces {
            // Not within a tile of a region, as the caller of that one may wait for it, with a core:
            // who waits for a core must not be waited for by who has one.
            if piece > 0 && !region::inside() {
                self.yield_to_waiters();
            }
            check_tile();
            run(piece)?;
        }
        Ok(())
    }

    /// Puts a task on the workers' list: by priority, then first in, first out.
    ///
    /// In a forked child it is dropped, as there are no workers: streams are then run by those who
    /// wait for them.
    pub fn submit(self: &Arc<Self>, task: Arc<dyn Task>) {
        self.shared.submit(task);
    }

    /// Whether a worker is there to run what is submitted. Starts one where none is; there is none in a
    /// forked child, and where the system has no more threads.
    pub(crate) fn has_workers(&self) -> bool {
        if self.shared.cores.orphaned() {
            return false;
        }
        let mut jobs = self.shared.jobs.lock();
        if jobs.workers == 0 {
            let missing = self.shared.hire(&mut jobs, 1, 1);
            drop(jobs);
            self.shared.start(missing);
            jobs = self.shared.jobs.lock();
        }
        jobs.workers > 0
    }

    /// Takes a core for the calling thread; waits in line while `cores` threads have one. A thread
    /// that has one already gets a permit at once.
    ///
    /// Threads with work in the background never have all cores, where there are several, nor have they and
    /// their helpers: one is at once there for whoever comes with other work.
    pub fn enter(&self, priority: Priority) -> CorePermit<'_> {
        let entered = self.enter_for(priority, &NONE);
        entered.expect("a wait without options ends with a core")
    }

    /// As [`enter`](Pool::enter), unless the call of these options ends before the thread has a core.
    pub(crate) fn enter_for(
        &self,
        priority: Priority,
        options: &CallOptions,
    ) -> Option<CorePermit<'_>> {
        let Shared {
            cores, background, ..
        } = &*self.shared;
        // Who has a slot has a core or is in line for one, and gets on: so this wait ends as that does,
        // also with a turn in hand.
        let needs_slot = priority == Priority::Background && !cores.has_one();
        let slot = match needs_slot {
            true => Some(background.enter(priority, false, options)?),
            false => None,
        };
        Some(cores.enter(priority, true, options)?.with(slot))
    }

    /// As [`CorePermit::yield_to_waiters`], for the core that the calling thread has; does nothing
    /// where it has none.
    pub fn yield_to_waiters(&self) {
        self.shared.cores.yield_to_waiters();
    }

    /// Whether a thread that wants to do such work should leave it to workers: where no core is free, they
    /// go from one task to the next, while threads that took turns would have to be woken each time, and
    /// each wake-up leaves a core alone for a while. Urgent work has no time for another thread, and
    /// workers know nothing of the core that work in the background leaves to others.
    pub(crate) fn leaves_to_workers(&self, priority: Priority) -> bool {
        priority == Priority::Normal && self.shared.cores.would_wait_long()
    }

    /// Whether a task on the list should go before what the calling thread, a worker, does next.
    pub(crate) fn has_task_first(&self) -> bool {
        let due = self.shared.first_task.load(Ordering::Relaxed);
        due != Nanos::MAX && self.shared.cores.goes_first(due)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.shared.cores.orphaned() {
            self.shared.jobs.lock().stopped = true;
            self.shared.wake.notify_all();
        }
    }
}

/// What the handles to the pool and the workers share.
struct Shared {
    count: usize,
    cores: Cores,
    /// Slots that callers with work in the background take before a core: one fewer than cores.
    background: Cores,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// Mirrors of what is in `jobs`, read without the lock as hints, Relaxed: the number of regions, how
    /// many there have been, and when the first task is due (no time where there is none).
    regions: AtomicUsize,
    listed: AtomicUsize,
    first_task: AtomicU64,
    /// Workers that look out for work without sleeping. Changes under the lock of `jobs`; without it a
    /// hint, Relaxed.
    looking: AtomicUsize,
}

#[derive(Default)]
struct Jobs {
    /// By the time when they are due.
    tasks: VecDeque<Listing>,
    regions: Vec<Arc<Region>>,
    /// Workers that there are, and how many of them sleep or have been woken and not got here yet.
    workers: usize,
    asleep: usize,
    stopped: bool,
}

/// A task on the list.
struct Listing {
    due: Nanos,
    priority: Priority,
    task: Arc<dyn Task>,
}

/// What a worker found to do.
enum Job {
    /// Tasks, the first of this priority.
    Tasks(Priority),
    Help(Arc<Region>),
}

impl Shared {
    fn new(count: usize, times: Times) -> Shared {
        Shared {
            count,
            cores: Cores::new(count, times),
            background: Cores::new((count - 1).max(1), Times::NONE),
            jobs: Mutex::new(Rank::Leaf, Jobs::default()),
            wake: Condvar::new(),
            regions: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            first_task: AtomicU64::new(Nanos::MAX),
            looking: AtomicUsize::new(0),
        }
    }

    /// How many helpers a region of this size should have: 0 if it is not worth opening.
    fn helpers(&self, tiles: usize, tile_cost_ns: usize) -> usize {
        let least = match self.looking.load(Ordering::Relaxed) {
            0 => tuning::REGION_MIN_NS,
            _ => tuning::REGION_MIN_AWAKE_NS,
        };
        let small = tiles.saturating_mul(tile_cost_ns) < least;
        if tiles <= 1 || self.count == 1 || small || region::inside() || self.cores.orphaned() {
            return 0;
        }
        let share = self.helpers_each(self.regions.load(Ordering::Relaxed) + 1);
        // One core is left to others, as in `enter`.
        let left = usize::from(self.cores.in_background());
        let idle = self.cores.idle().saturating_sub(left);
        share.min(tiles - 1).min(idle)
    }

    /// How many helpers each of so many regions may have.
    fn helpers_each(&self, regions: usize) -> usize {
        self.count.div_ceil(regions.max(1)) - 1
    }

    /// Makes a region known and wakes so many workers for it.
    fn list<'a>(self: &'a Arc<Self>, region: &Arc<Region>, helpers: usize) -> Listed<'a> {
        let mut jobs = self.jobs.lock();
        jobs.regions.push(Arc::clone(region));
        self.regions.store(jobs.regions.len(), Ordering::Relaxed);
        self.listed.fetch_add(1, Ordering::Relaxed);
        let asleep = jobs.asleep;
        // Who looks out finds the region without being woken.
        let helpers = helpers.saturating_sub(self.looking.load(Ordering::Relaxed));
        let missing = helpers.saturating_sub(asleep);
        let missing = self.hire(&mut jobs, missing, (self.count - 1).max(1));
        drop(jobs);
        // From here on the region has to be taken off the list, whatever happens.
        let listed = Listed {
            shared: self,
            region: Arc::clone(region),
        };
        if asleep > helpers {
            (0..helpers).for_each(|_| self.wake.notify_one());
        } else if asleep > 0 && helpers > 0 {
            self.wake.notify_all();
        }
        self.start(missing);
        listed
    }

    fn submit(self: &Arc<Self>, task: Arc<dyn Task>) {
        if self.cores.orphaned() {
            return;
        }
        let priority = task.priority();
        let due = self.cores.due(priority);
        let mut jobs = self.jobs.lock();
        let at = jobs.tasks.partition_point(|other| other.due <= due);
        let listing = Listing {
            due,
            priority,
            task,
        };
        jobs.tasks.insert(at, listing);
        self.note_first_task(&jobs);
        let missing = jobs.tasks.len().saturating_sub(jobs.asleep).min(1);
        // The others may be in the middle of long tasks: urgent ones get workers beyond the number of
        // cores, who compete for one as all do.
        let most = match priority {
            Priority::Urgent => 2 * self.count,
            _ => self.count,
        };
        let missing = self.hire(&mut jobs, missing, most);
        drop(jobs);
        self.wake.notify_one();
        self.start(missing);
    }

    /// Counts up to `wanted` new workers, of at most so many in all, which [`Shared::start`] has to start
    /// without the lock.
    fn hire(&self, jobs: &mut Jobs, wanted: usize, most: usize) -> usize {
        let hired = wanted.min(most.saturating_sub(jobs.workers));
        jobs.workers += hired;
        hired
    }

    /// Starts workers. If the system has no more threads the callers do the work.
    fn start(self: &Arc<Self>, workers: usize) {
        for _ in 0..workers {
            let worker = Worker(Arc::clone(self));
            let named = thread::Builder::new().name(WORKER_NAME.to_owned());
            // Detached. A closure that is not run is dropped, which counts the worker off again.
            let _ = named.spawn(move || worker.work());
        }
    }

    /// Sleeps until there is something to do; `None` when the pool is gone. A worker that has just
    /// helped is `awake`: it looks out for a while first, as the next region is often near.
    fn next_job(&self, mut awake: bool) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(first) = jobs.tasks.front() {
                return Some(Job::Tasks(first.priority));
            }
            if jobs.stopped {
                return None;
            }
            if self.cores.free() > 0 {
                let limit = self.helpers_each(jobs.regions.len());
                let wanting = jobs.regions.iter().filter(|r| r.wants_help(limit));
                if let Some(region) = wanting.min_by_key(|r| r.helpers()) {
                    return Some(Job::Help(Arc::clone(region)));
                }
            }
            // Each with a core that it could get: more would keep those who compute from theirs.
            let looking = self.looking.load(Ordering::Relaxed);
            if std::mem::take(&mut awake) && looking < self.cores.free() {
                self.looking.fetch_add(1, Ordering::Relaxed);
                let listed = self.listed.load(Ordering::Relaxed);
                drop(jobs);
                self.look_out(listed);
                jobs = self.jobs.lock();
                self.looking.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            jobs.asleep += 1;
            jobs = jobs.wait(&self.wake);
            jobs.asleep -= 1;
        }
    }

    /// Waits for a moment for something to do, without sleeping: for a region after the first `listed`, as
    /// those before have no tiles left, though their callers may be at their last ones.
    fn look_out(&self, listed: usize) {
        // A model that spins has too many interleavings; without this it is as if the time was up.
        if cfg!(loom) || self.cores.times().lookout.is_zero() {
            return;
        }
        let start = std::time::Instant::now();
        while self.listed.load(Ordering::Relaxed) == listed
            && !self.has_tasks()
            && self.cores.free() > 0
            && start.elapsed() < self.cores.times().lookout
        {
            std::hint::spin_loop();
        }
    }

    fn next_task(&self) -> Option<Listing> {
        let mut jobs = self.jobs.lock();
        let first = jobs.tasks.pop_front();
        self.note_first_task(&jobs);
        first
    }

    fn note_first_task(&self, jobs: &Jobs) {
        let due = jobs.tasks.front().map_or(Nanos::MAX, |first| first.due);
        self.first_task.store(due, Ordering::Relaxed);
    }

    fn has_tasks(&self) -> bool {
        self.first_task.load(Ordering::Relaxed) != Nanos::MAX
    }

    /// How many helpers a region may have now.
    fn limit(&self) -> usize {
        self.helpers_each(self.regions.load(Ordering::Relaxed))
    }

    /// Whether a helper of `region` should rather leave it.
    fn wanted_elsewhere(&self, region: &Region) -> bool {
        self.cores.contended() || self.has_tasks() || region.helpers() > self.limit()
    }
}

/// A region on the list; dropping this takes it off.
struct Listed<'a> {
    shared: &'a Shared,
    region: Arc<Region>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs.lock();
        jobs.regions.retain(|r| !Arc::ptr_eq(r, &self.region));
        let regions = jobs.regions.len();
        self.shared.regions.store(regions, Ordering::Relaxed);
    }
}

/// A worker's place in the pool; dropping it, in whatever way the thread ends, counts it off.
struct Worker(Arc<Shared>);

impl Worker {
    fn work(&self) {
        let shared = &*self.0;
        let mut helped = false;
        while let Some(job) = shared.next_job(helped) {
            helped = matches!(job, Job::Help(_));
            match job {
                Job::Tasks(priority) => {
                    let permit = shared.cores.enter(priority, false, &NONE);
                    let mut permit = permit.expect("a wait without options ends with a core");
                    while let Some(next) = shared.next_task() {
                        permit.begin(next.priority, next.due);
                        next.task.run();
                        permit.yield_to_waiters();
                        permit.let_the_woken_run();
                    }
                }
                Job::Help(region) => {
                    if let Some(_permit) = shared.cores.try_enter() {
                        region.help(shared.limit(), || shared.wanted_elsewhere(&region));
                    }
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut jobs = self.0.jobs.lock();
        jobs.workers -= 1;
        // A task has panicked: somebody has to do the others.
        let missing = usize::from(std::thread::panicking() && !jobs.tasks.is_empty());
        let missing = self.0.hire(&mut jobs, missing, self.0.count);
        drop(jobs);
        self.0.start(missing);
    }
}
