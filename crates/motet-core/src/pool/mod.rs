//! The intra-op pool and the core budget (first version: regions run on the caller).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, Rank, thread};

/// A piece of work for the workers' list.
pub trait Task: Send + Sync {
    /// Does the work.
    fn run(self: Arc<Self>);
}

/// Workers and the core budget.
pub struct Pool {
    cores: usize,
    budget: Mutex<Budget>,
    freed: Condvar,
}

struct Budget {
    running: usize,
    queue: VecDeque<u64>,
    next: u64,
}

impl Pool {
    /// A pool for `cores` cores.
    pub fn new(cores: usize) -> Arc<Pool> {
        Arc::new(Pool {
            cores: cores.max(1),
            budget: Mutex::new(
                Rank::Leaf,
                Budget {
                    running: 0,
                    queue: VecDeque::new(),
                    next: 0,
                },
            ),
            freed: Condvar::new(),
        })
    }

    /// The pool of the process.
    #[cfg(not(loom))]
    pub fn global() -> &'static Arc<Pool> {
        static POOL: std::sync::OnceLock<Arc<Pool>> = std::sync::OnceLock::new();
        POOL.get_or_init(|| {
            let available = || thread::available_parallelism().map_or(1, |n| n.get());
            let cores = std::env::var("MOTET_NUM_THREADS")
                .ok()
                .and_then(|n| n.trim().parse().ok())
                .filter(|&n| n > 0)
                .unwrap_or_else(available);
            Pool::new(cores)
        })
    }

    /// Calls `run` with each of `0..tiles` once.
    pub fn for_each_tile(&self, tiles: usize, _tile_cost_ns: usize, run: &(dyn Fn(usize) + Sync)) {
        (0..tiles).for_each(run);
    }

    /// Gives a task to the workers.
    pub fn submit(self: &Arc<Self>, task: Arc<dyn Task>) {
        let pool = Arc::clone(self);
        thread::spawn(move || {
            let _core = pool.enter();
            task.run();
        });
    }

    /// Waits for a core.
    pub fn enter(&self) -> CorePermit<'_> {
        let mut budget = self.budget.lock();
        let ticket = budget.next;
        budget.next += 1;
        budget.queue.push_back(ticket);
        while budget.running >= self.cores || budget.queue.front() != Some(&ticket) {
            budget = budget.wait(&self.freed);
        }
        budget.queue.pop_front();
        budget.running += 1;
        self.freed.notify_all();
        CorePermit { pool: self }
    }
}

/// The right to run on a core.
pub struct CorePermit<'a> {
    pool: &'a Pool,
}

impl CorePermit<'_> {
    /// Lets who waits for a core go first.
    pub fn yield_to_waiters(&mut self) {
        if !self.pool.budget.lock().queue.is_empty() {
            let pool = self.pool;
            pool.leave();
            std::mem::forget(pool.enter());
        }
    }
}

impl Drop for CorePermit<'_> {
    fn drop(&mut self) {
        self.pool.leave();
    }
}

impl Pool {
    fn leave(&self) {
        self.budget.lock().running -= 1;
        self.freed.notify_all();
    }
}
