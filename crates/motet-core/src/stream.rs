//! Streams: in-order queues of commands, run by whoever holds the turn.
//!
//! A stream is a strand, not a thread. Its turn has four states:
//!
//! ```text
//!            enqueue + list             taken by a worker
//!   Free ----------------------> Listed ------------------> Held
//!    |  taken by a waiter           taken by a waiter         |
//!    +-------------------------------------------------------+|
//!    ^                                                        |
//!    +---- queue empty (else -> Listed) --- turn given back --+
//!                                                             |
//!   Listed <---- the fence completes ---- Parked <--- head waits for a fence
//! ```
//!
//! Invariants kept here (numbers as in the design):
//! - I2: a command is enqueued after all that it waits for, so every fence in `Parked` points back
//!   in time, and chains of parked streams end at one that can run.
//! - I3: whoever gives a turn back while commands remain lists the stream or parks it at a fence
//!   whose completion lists it. Whoever enqueues goes on to wait (and runs it) or to list it; who comes
//!   back from waiting early, as its call has ended, lists it then.
//! - I4: the queue's lock is held for a few moves only: never while a command runs, and never
//!   together with another stream's.
//! - I5: `wait` runs the stream that it waits for whenever nobody else does, and first what that
//!   one is parked at. A waiter that sleeps, thread or task, is woken when its fence completes and
//!   whenever the turn that it found held is given back. Tasks leave the running to the workers, and so
//!   do threads for which no core is free: they list the stream.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::device::Device;
use crate::error::Result;
use crate::node::NodeCommand;
use crate::options::{CallOptions, NONE};
use crate::parker::Parker;
use crate::pool::{Pool, Priority, Task};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Guard, Mutex, Rank, assert_unlocked};
use crate::trace::{self, Cause};

/// An in-order queue of commands on one device.
///
/// Any number of threads may use one stream: what each of them submits runs in its order of
/// submission. A stream is freed with its last handle, after what it was given has run.
#[derive(Clone)]
pub struct Stream(Arc<Strand>);

impl Stream {
    /// A stream whose work is run by the threads of `pool` and by those that wait for it.
    pub fn with_pool(device: Device, pool: Arc<Pool>, priority: Priority) -> Stream {
        // Ids name streams in messages; nothing is ordered by them: Relaxed.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Stream(Arc::new(Strand {
            id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            device,
            priority,
            pool,
            queue: Mutex::new(Rank::Stream, Queue::default()),
            completed: AtomicU64::new(0),
        }))
    }

    /// The device that the stream's commands run on.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// How urgent the stream's commands are where their calls do not say it.
    pub fn priority(&self) -> Priority {
        self.0.priority
    }

    /// Waits until everything that the stream has been given so far is done, running it where
    /// nobody else does. MLX's `synchronize`.
    pub fn synchronize(&self) {
        // Without options nothing ends it early.
        let _done = wait(self.fence(), None);
    }

    /// The end of what the stream has been given so far.
    pub(crate) fn fence(&self) -> Fence {
        Fence {
            strand: Arc::clone(&self.0),
            at: self.0.queue.lock().submitted,
        }
    }

    /// Under the queue's lock, offers the fence that the next command would have; enqueues the
    /// command if `claim` gives one. The lock makes claiming a node and its place in the queue one
    /// step (I1).
    pub(crate) fn enqueue(&self, claim: impl FnOnce(Fence) -> Option<NodeCommand>) {
        let mut queue = self.0.queue.lock();
        let fence = Fence {
            strand: Arc::clone(&self.0),
            at: queue.submitted + 1,
        };
        if let Some(command) = claim(fence) {
            queue.submitted += 1;
            queue.commands.push_back(command);
        }
    }

    /// Puts the stream on the workers' list if it has commands and nobody runs it.
    pub(crate) fn list(&self) {
        let mut queue = self.0.queue.lock();
        if matches!(queue.turn, Turn::Free) && !queue.commands.is_empty() {
            queue.turn = Turn::Listed;
            drop(queue);
            self.0.pool.submit(Arc::clone(&self.0) as Arc<dyn Task>);
        }
    }

    /// A number that no other stream has or had.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether both are handles to one stream.
    pub(crate) fn same(&self, fence: &Fence) -> bool {
        Arc::ptr_eq(&self.0, &fence.strand)
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stream {}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({}, {})", self.0.device, self.0.id)
    }
}

/// A point in a stream's order: done when that many of its commands are.
#[derive(Clone)]
pub(crate) struct Fence {
    strand: Arc<Strand>,
    at: u64,
}

impl Fence {
    pub(crate) fn is_done(&self) -> bool {
        self.strand.completed.load(Ordering::Acquire) >= self.at
    }

    /// Has `parker` woken when it completes, or a turn is given back before; false if it is done.
    pub(crate) fn watch(&self, parker: &Arc<Parker>) -> bool {
        let mut queue = self.strand.queue.lock();
        if self.is_done() {
            return false;
        }
        queue.waiters.push(Waiter::Sleeper {
            at: self.at,
            parker: Arc::clone(parker),
        });
        true
    }

    /// Whether there is a worker to run the stream. If not, who needs it has to.
    pub(crate) fn has_workers(&self) -> bool {
        self.strand.pool.has_workers()
    }
}

/// Waits for a fence, helping: runs the streams that it depends on when nobody does (I5). Comes back
/// early, with the error, where a call of these options has ended: the commands that it leaves are
/// run by others, so the caller lists the streams that it has enqueued something to (I3).
pub(crate) fn wait(fence: Fence, options: Option<&CallOptions>) -> Result<()> {
    assert_unlocked();
    // Most waits run their work themselves and never sleep.
    let mut parker = None;
    let mut pending: SmallVec<[Fence; 2]> = SmallVec::new();
    let mut woken_by = None;
    pending.push(fence);
    while let Some(fence) = pending.last() {
        if let Some(options) = options
            && !fence.is_done()
        {
            options.check("eval")?;
        }
        match fence.strand.advance(fence.at, options, &mut parker) {
            Progress::Reached => {
                pending.pop();
            }
            Progress::Parked(earlier) => pending.push(earlier),
            Progress::Ended => {}
            Progress::Busy(parker) => {
                let token = options.and_then(|options| options.cancel.as_ref());
                if let Some(token) = token
                    && woken_by.is_none()
                {
                    // Looks again before it sleeps, and leaves nothing behind when it returns.
                    woken_by = Some(token.wakes(&parker));
                    continue;
                }
                let stream = fence.strand.id;
                let first = pending.len() == 1;
                let _wait = trace::wait(match first {
                    true => Cause::Turn(stream),
                    false => Cause::Fence(stream),
                });
                parker.park(options.and_then(|options| options.deadline));
            }
        }
    }
    Ok(())
}

struct Strand {
    id: u64,
    device: Device,
    priority: Priority,
    pool: Arc<Pool>,
    queue: Mutex<Queue>,
    /// Mirror of the count of completed commands, for checking a fence without the lock. Release
    /// after a command has published its results, Acquire before they are read.
    completed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<NodeCommand>,
    submitted: u64,
    turn: Turn,
    waiters: Vec<Waiter>,
}

impl Queue {
    /// Adds a waiter for `at`; gives its parker, which is made when it is first needed.
    fn sleeper(&mut self, at: u64, parker: &mut Option<Arc<Parker>>) -> Arc<Parker> {
        let parker = Arc::clone(parker.get_or_insert_default());
        self.waiters.push(Waiter::Sleeper {
            at,
            parker: Arc::clone(&parker),
        });
        parker
    }

    /// How urgent the next command is, on a stream of this priority.
    fn priority(&self, stream: Priority) -> Priority {
        let next = self.commands.front().and_then(|next| next.priority());
        next.unwrap_or(stream)
    }
}

#[derive(Default)]
enum Turn {
    #[default]
    Free,
    Listed,
    Held,
    Parked(Fence),
}

impl Turn {
    /// Parked, at a fence that is done.
    fn can_resume(&self) -> bool {
        matches!(self, Turn::Parked(fence) if fence.is_done())
    }
}

enum Waiter {
    /// A thread or a task that sleeps until `at` completes or the turn is given back.
    Sleeper { at: u64, parker: Arc<Parker> },
    /// A stream that is parked until `at` completes.
    Stream { at: u64, strand: Arc<Strand> },
}

enum Progress {
    /// The asked-for command is done.
    Reached,
    /// The head of the queue waits for this fence of another stream.
    Parked(Fence),
    /// The call that waits has ended.
    Ended,
    /// Somebody else has the turn or will take it; the parker, now registered, is where to sleep.
    Busy(Arc<Parker>),
}

impl Strand {
    /// Runs commands up to `until` if the turn can be had. The caller's parker is made when it is
    /// first needed.
    fn advance(
        self: &Arc<Strand>,
        until: u64,
        options: Option<&CallOptions>,
        parker: &mut Option<Arc<Parker>>,
    ) -> Progress {
        if self.completed.load(Ordering::Acquire) >= until {
            return Progress::Reached;
        }
        let mut queue = self.queue.lock();
        // Checked again under the lock: completion wakes waiters under it, so either this sees the
        // completion or the completion sees the parker.
        if self.completed.load(Ordering::Acquire) >= until {
            return Progress::Reached;
        }
        match &queue.turn {
            Turn::Held => return Progress::Busy(queue.sleeper(until, parker)),
            Turn::Parked(fence) if !fence.is_done() => return Progress::Parked(fence.clone()),
            // Parked at a fence that is done: whoever completed it is about to list the stream.
            // Waiting for that would be spinning.
            Turn::Parked(_) | Turn::Free | Turn::Listed => {}
        }
        let priority = queue.priority(self.priority);
        if self.pool.leaves_to_workers(priority) {
            let parker = queue.sleeper(until, parker);
            let listed = matches!(queue.turn, Turn::Listed);
            queue.turn = Turn::Listed;
            drop(queue);
            if !listed {
                self.pool.submit(Arc::clone(self) as Arc<dyn Task>);
            }
            if self.pool.has_workers() {
                return Progress::Busy(parker);
            }
            queue = self.queue.lock();
            if !matches!(queue.turn, Turn::Listed) {
                return Progress::Busy(parker);
            }
        }
        queue.turn = Turn::Held;
        drop(queue);
        self.run(until, options, priority, false)
    }

    /// Runs commands up to `until`, the queue's end, one that is blocked, or until the call that waits,
    /// of these options, has ended. Holds the turn; `priority` is that of the first command. A worker
    /// gives way to other streams between two commands.
    fn run(
        self: &Arc<Strand>,
        until: u64,
        options: Option<&CallOptions>,
        priority: Priority,
        by_worker: bool,
    ) -> Progress {
        // Sleeping for a core with the turn in hand is the one exception to I4: whoever holds a
        // core always gets on, so this ends.
        let entered = self.pool.enter_for(priority, options.unwrap_or(&NONE));
        let Some(mut permit) = entered else {
            self.give_back(self.queue.lock());
            return Progress::Ended;
        };
        loop {
            let mut queue = self.queue.lock();
            if self.completed.load(Ordering::Relaxed) >= until {
                self.give_back(queue);
                return Progress::Reached;
            }
            if options.is_some_and(|options| options.check("eval").is_err()) {
                self.give_back(queue);
                return Progress::Ended;
            }
            let Some(command) = queue.commands.pop_front() else {
                self.give_back(queue);
                return Progress::Reached;
            };
            drop(queue);
            if let Some(fence) = command.blocked_on() {
                let mut queue = self.queue.lock();
                queue.commands.push_front(command);
                queue.turn = Turn::Parked(fence.clone());
                let woken = std::mem::take(&mut queue.waiters);
                let (streams, threads) = split(woken);
                queue.waiters = streams;
                drop(queue);
                threads.iter().for_each(Waiter::wake);
                if fence.strand.notify_at(fence.at, self) {
                    return Progress::Parked(fence);
                }
                // Completed meanwhile, so nobody will list the stream: go on, unless a waiter does.
                let mut queue = self.queue.lock();
                if !queue.turn.can_resume() {
                    return Progress::Parked(fence);
                }
                queue.turn = Turn::Held;
                continue;
            }
            assert_unlocked();
            permit.set_priority(command.priority().unwrap_or(self.priority));
            command.run(&self.pool, &mut permit);
            let mut queue = self.queue.lock();
            let due = self.complete_one(&mut queue);
            if due.is_empty() && self.completed.load(Ordering::Relaxed) >= until {
                self.give_back(queue);
                return Progress::Reached;
            }
            drop(queue);
            due.iter().for_each(Waiter::wake);
            permit.yield_to_waiters();
            if by_worker && self.pool.has_task_first() {
                self.give_back(self.queue.lock());
                return Progress::Reached;
            }
        }
    }

    /// Counts a command that has run; gives those to be woken, without the lock.
    fn complete_one(&self, queue: &mut Queue) -> Vec<Waiter> {
        let completed = self.completed.load(Ordering::Relaxed) + 1;
        self.completed.store(completed, Ordering::Release);
        if queue.waiters.is_empty() {
            return Vec::new();
        }
        let (kept, due) = std::mem::take(&mut queue.waiters)
            .into_iter()
            .partition(|waiter| waiter.at() > completed);
        queue.waiters = kept;
        due
    }

    /// Ends a turn (I3, I5).
    fn give_back(self: &Arc<Strand>, mut queue: Guard<'_, Queue>) {
        if queue.commands.is_empty() {
            queue.turn = Turn::Free;
            return;
        }
        queue.turn = Turn::Listed;
        let (streams, threads) = split(std::mem::take(&mut queue.waiters));
        queue.waiters = streams;
        drop(queue);
        self.pool.submit(Arc::clone(self) as Arc<dyn Task>);
        threads.iter().for_each(Waiter::wake);
    }

    /// Arranges that `strand` is listed when `at` completes; false if it has.
    fn notify_at(&self, at: u64, strand: &Arc<Strand>) -> bool {
        let mut queue = self.queue.lock();
        if self.completed.load(Ordering::Acquire) >= at {
            return false;
        }
        queue.waiters.push(Waiter::Stream {
            at,
            strand: Arc::clone(strand),
        });
        true
    }

    /// A fence that the stream was parked at is done. A waiter may have been faster, and the stream
    /// be parked at a later fence by now.
    fn resume(self: &Arc<Strand>) {
        let mut queue = self.queue.lock();
        if queue.turn.can_resume() {
            queue.turn = Turn::Listed;
            drop(queue);
            self.pool.submit(Arc::clone(self) as Arc<dyn Task>);
        }
    }
}

impl Task for Strand {
    fn run(self: Arc<Self>) {
        // Whoever waited may have been faster: then there is nothing to do here.
        let mut queue = self.queue.lock();
        if !matches!(queue.turn, Turn::Listed) {
            return;
        }
        queue.turn = Turn::Held;
        let priority = queue.priority(self.priority);
        // What comes later is due later: it goes to the end of the list.
        let until = queue.submitted;
        drop(queue);
        Strand::run(&self, until, None, priority, true);
    }

    fn priority(&self) -> Priority {
        self.queue.lock().priority(self.priority)
    }
}

impl Waiter {
    fn at(&self) -> u64 {
        match self {
            Waiter::Sleeper { at, .. } | Waiter::Stream { at, .. } => *at,
        }
    }

    fn wake(&self) {
        match self {
            Waiter::Sleeper { parker, .. } => parker.unpark(),
            Waiter::Stream { strand, .. } => strand.resume(),
        }
    }
}

fn split(waiters: Vec<Waiter>) -> (Vec<Waiter>, Vec<Waiter>) {
    waiters
        .into_iter()
        .partition(|w| matches!(w, Waiter::Stream { .. }))
}
