//! The core budget: at most as many threads run commands as there are cores.
//!
//! What becomes of a core:
//!
//! ```text
//!            taken                        given back, nobody waits
//!   Free --------------> With a thread ------------------------------> Free
//!                         |    ^   ^ |
//!        given back,      |    |   | |  given back by a thread that is likely to be back at once
//!        somebody waits   |    |   | +---------------------------> Kept
//!                         v    |   |     it is back                 |
//!            With the first    |   +--------------------------------+
//!              in the line     +---- it stays away: with the first in the line, or with anyone
//! ```
//!
//! A thread leaves the line with a core, or without one when its call ends.
//!
//! Invariants:
//! - `state` counts free cores, kept ones, and threads in the line, in one word that changes in one
//!   step: a core is in one place, and no more threads run than there are cores.
//! - While anybody is in the line no core is free: a core is freed in a step that finds the line
//!   empty, and who joins the line does so in a step that finds no core free. So no wake-up is lost
//!   and nobody overtakes the line, but for those who come back to a core that was kept.
//! - The line's length changes under its lock alone, together with `state`.
//! - A kept core is not forgotten: the first in the line looks after it, and so does everyone who
//!   finds no core free. Which thread a kept core was kept for does not matter to any of this.
//! - A thread that has a core gets further permits for nothing: it never waits for itself.
//!
//! The line is ordered by due times: arrival plus the [patience](Priority::patience) of the
//! priority. A thread with a core has a due time, too; whoever has an earlier one gets the core at
//! the thread's next boundary, between two steps or two tiles. Others get it when the thread has had
//! it for a quantum. Threads that come from something else than a call are due a head start earlier than
//! those that call without a pause: between short calls they get in at once.
//!
//! Times decide when something happens, and no invariant depends on them. A core changes hands in
//! about 20 us, which is as much as several small calls: that is why it is kept for a thread that
//! gives it back soon after it got it, and why the first in the line has to look.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Priority;
use crate::options::{CallOptions, NONE};
use crate::parker::Parker;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Guard, Mutex, Rank, assert_unlocked, thread};
use crate::trace::{self, Cause};

#[cfg(loom)]
use crate::sync::thread_local;

thread_local! {
    /// What this thread has to do with the budget that it used last.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static SEAT: Cell<Seat> = Cell::new(Seat::default());
}

/// What a thread has to do with a budget.
#[derive(Clone, Copy, Default)]
struct Seat {
    /// The address of the budget.
    cores: usize,
    /// Whether the thread has a core.
    held: bool,
    /// Whether a core was kept when it gave its own back.
    kept: bool,
    priority: Priority,
    /// When it got a core. Who comes back at once to the one that it gave back has had it meanwhile.
    since: Nanos,
    /// When it got it for what it does now.
    entered: Nanos,
    /// What the line is ordered by.
    due: Nanos,
    /// When it gave its core back.
    left: Nanos,
}

/// Nanoseconds after the budget was made.
pub(super) type Nanos = u64;

/// Tells threads that live from each other.
fn this_thread() -> usize {
    SEAT.with(|seat| std::ptr::from_ref(seat).addr())
}

pub(super) struct Cores {
    state: AtomicU64,
    line: Mutex<VecDeque<Arc<Waiter>>>,
    /// The due time of the first in the line, and no time where it is empty. A hint: Relaxed.
    first_due: AtomicU64,
    /// The process that made this: in a forked child the threads that held cores are gone.
    process: u32,
    times: Times,
    /// Which thread gave a core back last, when, and when the last was kept. Hints: Relaxed.
    last_giver: AtomicUsize,
    last_given: AtomicU64,
    last_kept: AtomicU64,
    start: Instant,
}

/// How long cores stay where they are.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// How long a thread may compute on a core that others wait for, within one call.
    pub(super) quantum: Duration,
    /// How long it may come back to one between short calls.
    pub(super) lease: Duration,
    /// Which calls are short.
    pub(super) short: Duration,
    /// How much earlier a thread is due that has not just given a core back.
    pub(super) head_start: Duration,
    /// How long a core is left to the thread that gave it back.
    pub(super) absence: Duration,
    /// How long a worker that has helped looks out for more before it sleeps.
    pub(super) lookout: Duration,
}

impl Times {
    /// Cores go to who wants them at once; no clock is read. For models and tests.
    pub(super) const NONE: Times = Times {
        quantum: Duration::ZERO,
        lease: Duration::ZERO,
        short: Duration::ZERO,
        head_start: Duration::ZERO,
        absence: Duration::ZERO,
        lookout: Duration::ZERO,
    };
}

/// How many cores are where: [`Cores::state`] taken apart.
#[derive(Clone, Copy)]
struct State {
    free: u16,
    kept: u16,
    waiting: u32,
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.free) | u64::from(self.kept) << 16 | u64::from(self.waiting) << 32
    }

    fn unpack(word: u64) -> State {
        State {
            free: word as u16,
            kept: (word >> 16) as u16,
            waiting: (word >> 32) as u32,
        }
    }

    fn take_free(self) -> Option<State> {
        let free = self.free.checked_sub(1)?;
        Some(State { free, ..self })
    }

    fn add_free(self) -> Option<State> {
        let free = self.free.checked_add(1)?;
        Some(State { free, ..self })
    }

    fn take_kept(self) -> Option<State> {
        let kept = self.kept.checked_sub(1)?;
        Some(State { kept, ..self })
    }

    fn add_kept(self) -> Option<State> {
        let kept = self.kept.checked_add(1)?;
        Some(State { kept, ..self })
    }

    fn leave_line(self) -> Option<State> {
        let waiting = self.waiting.checked_sub(1)?;
        Some(State { waiting, ..self })
    }
}

struct Waiter {
    due: Nanos,
    /// Written and read under the line's lock.
    served: AtomicBool,
    parker: Arc<Parker>,
}

/// The right to run on a core. Dropping it gives the core back.
pub struct CorePermit<'a> {
    cores: &'a Cores,
    /// Whether it has a core of its own, or shares that of an outer one.
    owns: bool,
    /// What the thread had before.
    outer: Seat,
    /// Whether the thread may want a core again at once: not one that only helps.
    returns: bool,
    /// What it had to take before the core, given back after it.
    _slot: Option<Box<CorePermit<'a>>>,
    /// It says something about the thread that it was made on.
    not_send: PhantomData<*const ()>,
}

impl<'a> CorePermit<'a> {
    /// Keeps `slot` until the core is given back.
    pub(super) fn with(self, slot: Option<CorePermit<'a>>) -> CorePermit<'a> {
        let mut permit = self;
        permit._slot = slot.map(Box::new);
        permit
    }

    /// What the thread does next has this priority.
    pub fn set_priority(&mut self, priority: Priority) {
        let seat = seat();
        if seat.priority != priority && self.cores.seated(&seat) {
            let changed = self.cores.seat(seat.since, priority);
            let entered = seat.entered;
            SEAT.with(|cell| cell.set(Seat { entered, ..changed }));
        }
    }

    /// The thread begins something else, which has this priority and is due at this time.
    pub(super) fn begin(&mut self, priority: Priority, due: Nanos) {
        let seat = self.cores.seat(self.cores.now(), priority);
        SEAT.with(|cell| cell.set(Seat { due, ..seat }));
    }

    /// Those whom the thread has woken may be on its processor, where the system would let them wait for
    /// milliseconds. Not after a short while: to change threads takes longer then.
    pub(super) fn let_the_woken_run(&self) {
        let held = self.cores.now().saturating_sub(seat().entered);
        if held > nanos(self.cores.times.short) {
            thread::yield_now();
        }
    }

    /// Lets those who wait for a core go first, if they are due earlier or this thread has had it for
    /// long enough. Costs one load when nobody waits.
    pub fn yield_to_waiters(&mut self) {
        self.cores.yield_to_waiters();
    }
}

impl Drop for CorePermit<'_> {
    fn drop(&mut self) {
        if !self.owns {
            return;
        }
        let (cores, seat) = (self.cores, seat());
        let now = cores.now();
        let mut keep = None;
        if self.returns {
            cores.note_given(now);
            keep = cores.would_return(&seat, now).then_some(now);
        }
        let kept = cores.give(keep);
        let left = Seat {
            held: false,
            kept,
            left: now,
            ..seat
        };
        // An outer permit of another budget is what counts for the thread again.
        SEAT.with(|cell| cell.set(if self.outer.held { self.outer } else { left }));
    }
}

impl Cores {
    pub(super) fn new(count: usize, times: Times) -> Cores {
        let all_free = State {
            free: u16::try_from(count).unwrap_or(u16::MAX),
            kept: 0,
            waiting: 0,
        };
        Cores {
            state: AtomicU64::new(all_free.pack()),
            line: Mutex::new(Rank::Leaf, VecDeque::new()),
            first_due: AtomicU64::new(Nanos::MAX),
            process: std::process::id(),
            times,
            last_giver: AtomicUsize::new(0),
            last_given: AtomicU64::new(0),
            last_kept: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Takes a core, waiting in line for it if need be, unless the call of these options ends before.
    /// `returns` says that the thread is likely to want one again soon after it gave it back.
    pub(super) fn enter(
        &self,
        priority: Priority,
        returns: bool,
        options: &CallOptions,
    ) -> Option<CorePermit<'_>> {
        assert_unlocked();
        let outer = seat();
        let owns = !self.seated(&outer);
        let entered = !owns || self.take(&outer, priority, options);
        entered.then(|| CorePermit {
            cores: self,
            owns,
            outer,
            returns,
            _slot: None,
            not_send: PhantomData,
        })
    }

    /// Takes a core if one is free.
    pub(super) fn try_enter(&self) -> Option<CorePermit<'_>> {
        self.change(|state| self.unused(state)).then(|| {
            let (outer, now) = (seat(), self.now());
            SEAT.with(|cell| cell.set(self.seat(now, Priority::Background)));
            CorePermit {
                cores: self,
                owns: true,
                outer,
                returns: false,
                _slot: None,
                not_send: PhantomData,
            }
        })
    }

    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// How many cores nobody uses. A hint: Relaxed.
    pub(super) fn free(&self) -> usize {
        let state = self.load();
        let kept = if self.abandoned(state) { state.kept } else { 0 };
        match state.waiting {
            0 => usize::from(state.free) + usize::from(kept),
            _ => 0,
        }
    }

    /// How many cores nobody uses, less the one that another thread is likely to use again at once. A
    /// hint, as `free`.
    pub(super) fn idle(&self) -> usize {
        let absence = nanos(self.times.absence);
        if absence == 0 {
            return self.free();
        }
        let giver = self.last_giver.load(Ordering::Relaxed);
        let given = self.last_given.load(Ordering::Relaxed);
        let another = giver != 0 && giver != this_thread();
        let left = another && self.now().saturating_sub(given) < absence;
        self.free().saturating_sub(usize::from(left))
    }

    /// See [`CorePermit::yield_to_waiters`]; does nothing where the calling thread has no core.
    pub(super) fn yield_to_waiters(&self) {
        if self.contended() && self.goes_first(self.first_due()) {
            self.give(None);
            // Whoever is in the middle of a step has to have a core again, whatever ends meanwhile.
            self.take(&Seat::default(), seat().priority, &NONE);
        }
        if self.in_background() {
            // Where a thread that has a core of its own wakes up on the processor of this one, the
            // system would let it wait for milliseconds: it knows nothing of priorities.
            thread::yield_now();
        }
    }

    /// Whether who is due at this time goes before the calling thread, which has a core: it is due
    /// earlier, or the thread has had its core for a quantum.
    pub(super) fn goes_first(&self, due: Nanos) -> bool {
        let seat = seat();
        let quantum = nanos(self.times.quantum);
        // The head start ends leases, and no call in the middle.
        let due = due.saturating_add(nanos(self.times.head_start));
        self.seated(&seat) && (due < seat.due || self.now().saturating_sub(seat.since) >= quantum)
    }

    /// When who asks now is due.
    pub(super) fn due(&self, priority: Priority) -> Nanos {
        self.now().saturating_add(nanos(priority.patience()))
    }

    /// Whether somebody waits for a core. A hint, asked again at the next boundary: Relaxed.
    pub(super) fn contended(&self) -> bool {
        self.load().waiting > 0
    }

    /// Whether this is a copy in a forked child. The workers and whoever waits or runs are then in
    /// the parent, a lock may have been copied while held: nothing may be waited for or locked.
    pub(super) fn orphaned(&self) -> bool {
        std::process::id() != self.process
    }

    /// Whether a core is the thread's now: it is, unless the call of these options has ended before.
    fn take(&self, before: &Seat, priority: Priority, options: &CallOptions) -> bool {
        let now = self.now();
        let own = before.cores == self.address();
        let at_once = own && now.saturating_sub(before.left) < nanos(self.times.absence);
        let head_start = if at_once {
            nanos(self.times.head_start)
        } else {
            0
        };
        let patience = nanos(priority.patience()).saturating_add(head_start);
        let (mut since, mut due) = (now, now.saturating_add(patience));
        if own && before.kept && self.change(|state| state.take_kept())
            || self.change(|state| (state.waiting == 0).then_some(state)?.take_free())
        {
            if at_once && before.priority == priority {
                (since, due) = (before.since, before.due);
            }
        } else if !self.orphaned() {
            if !self.wait_in_line(due, options) {
                return false;
            }
            since = self.now();
        }
        SEAT.with(|cell| {
            cell.set(Seat {
                due,
                entered: now.max(since),
                ..self.seat(since, priority)
            })
        });
        true
    }

    /// Waits until a core is this thread's, unless there is one. False where the call of these options
    /// has ended before: the thread has left the line then.
    fn wait_in_line(&self, due: Nanos, options: &CallOptions) -> bool {
        let _wait = trace::wait(Cause::Core);
        let mut line = self.line.lock();
        let mut joined = false;
        self.change(|state| {
            let core = self.unused(state);
            joined = core.is_none();
            let waiting = state.waiting + 1;
            Some(core.unwrap_or(State { waiting, ..state }))
        });
        if !joined {
            return true;
        }
        let waiter = Arc::new(Waiter {
            due,
            served: AtomicBool::new(false),
            parker: Arc::default(),
        });
        let at = line.partition_point(|other| other.due <= due);
        line.insert(at, Arc::clone(&waiter));
        self.note_first(&line);
        drop(line);
        // From here on the parker is woken by whoever serves, by who makes it the first, and by the
        // token: what happens between a look and the sleep is not missed.
        let _woken = options.cancel.as_ref().map(|t| t.wakes(&waiter.parker));
        loop {
            let line = self.line.lock();
            if waiter.served.load(Ordering::Relaxed) {
                return true;
            }
            let first = line.front().is_some_and(|w| Arc::ptr_eq(w, &waiter));
            let looks = first && !self.times.lease.is_zero();
            if looks && self.change(|state| self.abandoned(state).then_some(state)?.take_kept()) {
                self.serve_first(line);
                return true;
            }
            if options.check("eval").is_err() {
                self.leave_line(line, &waiter);
                return false;
            }
            drop(line);
            let next_look = looks.then(|| Instant::now().checked_add(self.look_again()));
            let times = [options.deadline, next_look.flatten()];
            waiter.parker.park(times.into_iter().flatten().min());
        }
    }

    /// When the first in the line should look for kept cores again: soon where some were kept lately, as
    /// each look takes a processor from a thread that computes.
    fn look_again(&self) -> Duration {
        match self.kept_lately() {
            true => self.times.absence.saturating_mul(4),
            false => self.times.quantum,
        }
    }

    /// Whether threads come back to cores that they gave back: their calls are short then.
    fn kept_lately(&self) -> bool {
        let kept = self.last_kept.load(Ordering::Relaxed);
        self.now().saturating_sub(kept) < nanos(self.times.quantum)
    }

    /// A waiter that has not been served goes.
    fn leave_line(&self, mut line: Guard<'_, VecDeque<Arc<Waiter>>>, waiter: &Arc<Waiter>) {
        line.retain(|other| !Arc::ptr_eq(other, waiter));
        self.change(|state| state.leave_line());
        self.first_has_changed(line);
    }

    /// Gives a core back, or keeps it, since this time, for the calling thread: then true.
    fn give(&self, keep: Option<Nanos>) -> bool {
        if let Some(now) = keep {
            self.last_kept.store(now, Ordering::Relaxed);
        }
        let mut kept = false;
        let given = self.change(|state| {
            kept = state.waiting > 0 && keep.is_some();
            match state.waiting {
                0 => state.add_free(),
                _ if kept => state.add_kept(),
                _ => None,
            }
        });
        if given || self.orphaned() {
            return kept;
        }
        let line = self.line.lock();
        if line.is_empty() {
            self.change(State::add_free);
        } else {
            self.serve_first(line);
        }
        false
    }

    /// The first in the line has a core from now on.
    fn serve_first(&self, mut line: Guard<'_, VecDeque<Arc<Waiter>>>) {
        let Some(first) = line.pop_front() else {
            return;
        };
        self.change(|state| state.leave_line());
        first.served.store(true, Ordering::Relaxed);
        self.first_has_changed(line);
        first.parker.unpark();
    }

    /// Who is the first now has to look after kept cores.
    fn first_has_changed(&self, line: Guard<'_, VecDeque<Arc<Waiter>>>) {
        self.note_first(&line);
        let looks = !self.times.lease.is_zero();
        let next = line.front().filter(|_| looks).cloned();
        drop(line);
        if let Some(next) = next {
            next.parker.unpark();
        }
    }

    /// Whether a thread that gives its core back should find it again if it returns at once: within
    /// its lease, unless somebody is due earlier, and whenever it would be let in before the line.
    fn would_return(&self, seat: &Seat, now: Nanos) -> bool {
        let lease = nanos(self.times.lease);
        let short = now.saturating_sub(seat.entered) < nanos(self.times.short);
        let leased =
            short && now.saturating_sub(seat.since) < lease && self.first_due() >= seat.due;
        let ahead = || now.saturating_add(nanos(seat.priority.patience())) < self.first_due();
        lease > 0 && (leased || ahead())
    }

    fn note_given(&self, now: Nanos) {
        if !self.times.absence.is_zero() {
            self.last_given.store(now, Ordering::Relaxed);
            self.last_giver.store(this_thread(), Ordering::Relaxed);
        }
    }

    fn note_first(&self, line: &VecDeque<Arc<Waiter>>) {
        let due = line.front().map_or(Nanos::MAX, |first| first.due);
        self.first_due.store(due, Ordering::Relaxed);
    }

    fn first_due(&self) -> Nanos {
        self.first_due.load(Ordering::Relaxed)
    }

    /// The state without a core that nobody uses, where there is one and nobody waits for it.
    fn unused(&self, state: State) -> Option<State> {
        match state.waiting {
            0 if state.free == 0 && self.abandoned(state) => state.take_kept(),
            0 => state.take_free(),
            _ => None,
        }
    }

    /// Whether there are kept cores, and nobody has come back for one for a while.
    fn abandoned(&self, state: State) -> bool {
        let kept = self.last_kept.load(Ordering::Relaxed);
        state.kept > 0 && self.now().saturating_sub(kept) >= nanos(self.times.absence)
    }

    fn load(&self) -> State {
        State::unpack(self.state.load(Ordering::Relaxed))
    }

    /// Replaces the state in one step, unless `to` refuses.
    fn change(&self, mut to: impl FnMut(State) -> Option<State>) -> bool {
        // Release by who gives a core, Acquire by who takes it: what ran on it before happened
        // before. Which of the two this is, `to` knows.
        let packed = |word| to(State::unpack(word)).map(State::pack);
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        self.state.fetch_update(order.0, order.1, packed).is_ok()
    }

    fn seat(&self, since: Nanos, priority: Priority) -> Seat {
        Seat {
            cores: self.address(),
            held: true,
            kept: false,
            priority,
            since,
            entered: since,
            due: since.saturating_add(nanos(priority.patience())),
            left: 0,
        }
    }

    /// Whether the calling thread has a core of this budget.
    pub(super) fn has_one(&self) -> bool {
        self.seated(&seat())
    }

    /// Whether the calling thread has a core of this budget for work in the background.
    pub(super) fn in_background(&self) -> bool {
        let seat = seat();
        self.seated(&seat) && seat.priority == Priority::Background
    }

    /// Whether the calling thread would have to wait for a core, and those who have one have it for long.
    /// A hint: Relaxed.
    pub(super) fn would_wait_long(&self) -> bool {
        let (seat, state) = (seat(), self.load());
        let own = seat.cores == self.address();
        let comes_back = own && seat.kept && state.kept > 0;
        let free = state.free > 0 && state.waiting == 0;
        !(own && seat.held || comes_back || free || self.kept_lately())
    }

    /// Whether the thread of this seat has a core of this budget.
    fn seated(&self, seat: &Seat) -> bool {
        seat.held && seat.cores == self.address()
    }

    /// The time, where it matters.
    fn now(&self) -> Nanos {
        if self.times.quantum.is_zero() && self.times.lease.is_zero() {
            return 0;
        }
        nanos(self.start.elapsed())
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Makes this look like a copy in a forked child.
    #[cfg(all(test, not(loom)))]
    pub(super) fn orphan(&mut self) {
        self.process = self.process.wrapping_add(1);
    }

    /// How many threads are in the line.
    #[cfg(all(test, not(loom)))]
    pub(super) fn waiting(&self) -> usize {
        self.line.lock().len()
    }
}

fn seat() -> Seat {
    SEAT.with(Cell::get)
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}
