//! Recording what runs on which thread when, and what threads wait for.
//!
//! Nothing is recorded until [`start`]. The hooks in the other modules then cost one relaxed load
//! each, of which there are a few per command and one per step of a plan, none per tile. While
//! something is recorded, each thread writes to a lane of its own:
//!
//! ```text
//!   start -----> Session(open) ---- stop ----> Session(closed) ---> Timeline
//!                  ^ lanes join it at a          lanes find it closed, and
//!                  | thread's first event        join the next one, if there is one
//! ```
//!
//! Invariants:
//! - A lane's lock is taken by its thread, for a push, and by whoever ends the session: threads that
//!   record never wait for each other. The lists of lanes are locked when a lane joins and at the end.
//! - A session is closed before its lanes are emptied, and a lane looks whether it is under the lock
//!   that it is emptied under: an event is in the timeline of its session or in none.
//! - What a session holds is bounded, however many threads take part and end: lanes take room for
//!   their events from the session, and an event for which there is none is counted, not kept.
//! - Locks are held for a push, never together with another (I4); names are made at plan time.
//!
//! An event is recorded when it ends, a step when its command does. What has not ended when the
//! recording does is not in it.
//!
//! The crate `tracing` is not used: a call of a tiny model takes 3.4 us and has half a dozen events,
//! and there each costs a look-up by span and fields that a subscriber visits.

#![cfg_attr(loom, allow(dead_code, reason = "the models have no plans"))]

mod clock;
#[cfg(all(test, loom, not(shuttle)))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
mod timeline;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

pub use timeline::{Cause, Event, FunctionLabel, Label, StepLabel, ThreadEvents, Timeline, What};

use clock::{Scale, Ticks};

use crate::error::Error;
use crate::pool;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};
use crate::tuning::TRACE_EVENTS;

/// Starts to record what all threads of the process do.
///
/// Any thread may start and stop, while others compute.
///
/// # Errors
/// Where something is being recorded already: a recording is of the whole process.
pub fn start() -> Result<Recording, Error> {
    let session = RECORDER.start(TRACE_EVENTS)?;
    ON.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(Recording(Some(session)))
}

/// What is being recorded, from [`start`] until this is stopped. Dropping it forgets the events.
pub struct Recording(Option<Arc<Session>>);

impl Recording {
    /// Ends the recording and gives what was recorded.
    pub fn stop(mut self) -> Timeline {
        self.0.take().map(end).unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.0.take().map(end));
    }
}

fn end(session: Arc<Session>) -> Timeline {
    ON.store(false, std::sync::atomic::Ordering::Relaxed);
    RECORDER.stop(&session)
}

/// Whether something is recorded. A hint, so that nothing else is touched when nothing is: Relaxed.
/// A thread that sees it late misses an event at the start, or finds its lane's session closed.
static ON: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

static RECORDER: LazyLock<Recorder> = LazyLock::new(Recorder::default);

thread_local! {
    static HERE: Here = const {
        Here {
            lane: Mine(RefCell::new(None)),
            label: RefCell::new(None),
            step: Cell::new(0),
            step_begun: Cell::new(None),
            steps: RefCell::new(Vec::new()),
        }
    };
}

/// What a thread knows of what it does.
struct Here {
    lane: Mine,
    /// What the command that runs computes.
    label: RefCell<Option<Label>>,
    /// Its step that runs, and since when.
    step: Cell<usize>,
    step_begun: Cell<Option<Ticks>>,
    /// Its steps so far, and those of commands around it: they go into the lane with the command's end,
    /// all at once.
    steps: RefCell<Vec<Record>>,
}

#[inline]
fn on() -> bool {
    // Models of other modules do without; the recorder has one of its own.
    !cfg!(loom) && ON.load(std::sync::atomic::Ordering::Relaxed)
}

/// A stretch of time that becomes an event when this is dropped.
#[must_use]
pub struct Span(Option<(Ticks, What)>);

impl Span {
    #[inline]
    fn begin(what: impl FnOnce() -> What) -> Span {
        Span(on().then(|| (Ticks::now(), what())))
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some((begun, what)) = self.0.take() {
            record(begun, what);
        }
    }
}

/// Around an evaluation.
#[inline]
pub(crate) fn evaluation() -> Span {
    Span::begin(|| What::Evaluation)
}

/// Around the building of a plan of this function.
#[inline]
pub fn build(function: &Arc<str>) -> Span {
    Span::begin(|| What::Build(Arc::clone(function)))
}

/// Around a wait. Dropped where no lock is held.
#[inline]
pub(crate) fn wait(cause: Cause) -> Span {
    Span::begin(|| What::Wait(cause))
}

#[cold]
fn record(begun: Ticks, what: What) {
    let ended = Ticks::now();
    // A thread that is ending records nothing any more.
    let _ = HERE.try_with(|here| {
        if !matches!(what, What::Wait(Cause::Helpers) | What::Tiles { .. }) {
            here.step_begun.set(Some(ended));
        }
        here.lane.record(
            &RECORDER,
            [Record {
                begun,
                ended,
                entry: Entry::What(what),
            }],
        );
    });
}

/// Around a command of a stream; dropped when it has run.
#[must_use]
pub(crate) struct CommandSpan(Option<OpenCommand>);

struct OpenCommand {
    begun: Ticks,
    stream: u64,
    /// What ran outside of it.
    outer: (Option<Label>, usize),
}

#[inline]
pub(crate) fn command(stream: u64, label: impl FnOnce() -> Label) -> CommandSpan {
    CommandSpan(on().then(|| OpenCommand::begin(stream, label())))
}

impl OpenCommand {
    #[cold]
    fn begin(stream: u64, label: Label) -> OpenCommand {
        let begun = Ticks::now();
        let enter = |here: &Here| {
            here.step_begun.set(Some(begun));
            (here.label.replace(Some(label)), here.step.replace(0))
        };
        let outer = HERE.try_with(enter).unwrap_or_default();
        OpenCommand {
            begun,
            stream,
            outer,
        }
    }
}

impl OpenCommand {
    /// The command ended with its last step, if it has any: that saves a look at the clock.
    #[cold]
    fn end(self) {
        let OpenCommand {
            begun,
            stream,
            outer,
        } = self;
        let _ = HERE.try_with(|here| {
            let steps = here.step.replace(outer.1);
            let last = here.step_begun.get().filter(|_| steps > 0);
            let ended = last.unwrap_or_else(Ticks::now);
            here.step_begun.set(Some(ended));
            let Some(label) = here.label.replace(outer.0) else {
                return;
            };
            let entry = Entry::What(What::Command { label, stream });
            let mut records = here.steps.borrow_mut();
            records.push(Record {
                begun,
                ended,
                entry,
            });
            here.lane.record(&RECORDER, records.drain(..));
        });
    }
}

impl Drop for CommandSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(command) = self.0.take() {
            command.end();
        }
    }
}

/// After a step of the plan that runs. It began where the step before it ended, or the command
/// began, or a wait between the two was over: that saves a look at the clock.
#[inline]
pub(crate) fn step(number: usize) {
    if on() {
        record_step(number);
    }
}

#[cold]
fn record_step(number: usize) {
    let ended = Ticks::now();
    let _ = HERE.try_with(|here| {
        here.step.set(number + 1);
        let begun = here.step_begun.replace(Some(ended));
        // Without a command a step is not an event.
        if let (Some(begun), true) = (begun, here.label.borrow().is_some()) {
            let entry = Entry::Step(number);
            here.steps.borrow_mut().push(Record {
                begun,
                ended,
                entry,
            });
        }
    });
}

/// What a region belongs to; nothing when nothing is recorded.
#[derive(Clone)]
pub(crate) struct Owner(Option<(Label, usize)>);

impl Owner {
    /// What the calling thread runs.
    #[inline]
    pub(crate) fn of_this_thread() -> Owner {
        Owner(if on() { Owner::look_up() } else { None })
    }

    #[cold]
    fn look_up() -> Option<(Label, usize)> {
        let label = |here: &Here| {
            here.label
                .borrow()
                .clone()
                .map(|label| (label, here.step.get()))
        };
        HERE.try_with(label).ok().flatten()
    }

    /// Does work on a region, which returns how many tiles it did.
    #[inline]
    pub(crate) fn tiles(&self, work: impl FnOnce() -> usize) {
        let begun = self.0.as_ref().filter(|_| on()).map(|_| Ticks::now());
        let tiles = work();
        if let (Some(begun), Some((label, step))) = (begun, &self.0) {
            let (label, step) = (label.clone(), *step);
            record(begun, What::Tiles { label, step, tiles });
        }
    }
}

/// What a lane keeps of an event.
enum Entry {
    /// A step of the command around it. Its label is that command's, so that threads that run one
    /// plan do not all count references to it at every step.
    Step(usize),
    What(What),
}

struct Record {
    begun: Ticks,
    ended: Ticks,
    entry: Entry,
}

/// Where sessions start and end: one for the process, and one for each model and test.
struct Recorder {
    current: Mutex<Option<Arc<Session>>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            current: Mutex::new(Rank::Leaf, None),
        }
    }
}

struct Session {
    start: (Instant, Ticks),
    /// Set before the lanes are emptied. Release and Acquire: those who see it set leave.
    closed: AtomicBool,
    /// Events that there is room for, and events that there was none for. Counters that publish
    /// nothing: Relaxed.
    room: AtomicUsize,
    lost: AtomicUsize,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

/// What one thread recorded in one session.
struct Lane {
    session: Arc<Session>,
    name: Option<String>,
    /// Blocks of growing size: a push moves nothing that is there.
    log: Mutex<Vec<Vec<Record>>>,
}

const FIRST_BLOCK: usize = 32;
const LARGEST_BLOCK: usize = 4096;

impl Recorder {
    fn start(&self, room: usize) -> Result<Arc<Session>, Error> {
        let session = Arc::new(Session {
            start: (Instant::now(), Ticks::now()),
            closed: AtomicBool::new(false),
            room: AtomicUsize::new(room),
            lost: AtomicUsize::new(0),
            lanes: Mutex::new(Rank::Leaf, Vec::new()),
        });
        let mut current = self.current.lock();
        if current.is_some() {
            let message = "something is being recorded already: a recording is of the whole \
                           process; stop the other one first";
            return Err(Error::invalid("trace", message));
        }
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    fn stop(&self, session: &Session) -> Timeline {
        let logs = self.close(session);
        let (start, first) = session.start;
        let (length, ticks) = (start.elapsed(), Ticks::now().since(first));
        let scale = Scale::new(ticks, length);
        let lost = session.lost.load(Ordering::Relaxed);
        Timeline::new(length, lost, logs, |time| scale.ns(time.since(first)))
    }

    /// Ends the session; gives what the lanes hold.
    fn close(&self, session: &Session) -> Vec<timeline::Log> {
        // Nobody joins from here on but who has the session in hand, and finds it closed.
        drop(self.current.lock().take());
        session.closed.store(true, Ordering::Release);
        let lanes = std::mem::take(&mut *session.lanes.lock());
        let take = |lane: &Arc<Lane>| {
            let blocks = std::mem::take(&mut *lane.log.lock());
            (lane.name.clone(), blocks.into_iter().flatten().collect())
        };
        lanes.iter().map(take).collect()
    }

    /// A lane in what is recorded now.
    fn join(&self) -> Option<Arc<Lane>> {
        let session = self.current.lock().clone()?;
        let lane = Arc::new(Lane {
            name: std::thread::current().name().map(str::to_owned),
            log: Mutex::new(Rank::Leaf, Vec::new()),
            session,
        });
        let mut lanes = lane.session.lanes.lock();
        // A full session needs no further lanes: this one counts what it loses.
        if !lane.session.is_closed() && lane.session.room.load(Ordering::Relaxed) > 0 {
            lanes.push(Arc::clone(&lane));
        }
        drop(lanes);
        Some(lane)
    }
}

impl Session {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes room for up to `most` events.
    fn take_room(&self, most: usize) -> usize {
        let take = |room: usize| (room > 0).then(|| room.saturating_sub(most));
        let before = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, |room| room.min(most))
    }
}

impl Lane {
    /// Keeps or counts events of this session; gives them back if that is closed.
    fn push<I: Iterator<Item = Record>>(&self, records: I) -> Result<(), I> {
        let mut log = self.log.lock();
        if self.session.is_closed() {
            return Err(records);
        }
        let (_, start) = self.session.start;
        // What began before the session is none of its events.
        for record in records.filter(|record| record.begun >= start) {
            if log
                .last()
                .is_none_or(|block| block.len() == block.capacity())
            {
                let size = (FIRST_BLOCK << log.len().min(16)).min(LARGEST_BLOCK);
                let room = self.session.take_room(size);
                if room == 0 {
                    self.session.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                log.push(Vec::with_capacity(room));
            }
            if let Some(block) = log.last_mut() {
                block.push(record);
            }
        }
        Ok(())
    }
}

/// A thread's lane in the session that it last recorded in.
struct Mine(RefCell<Option<Arc<Lane>>>);

impl Mine {
    fn record(&self, recorder: &Recorder, records: impl IntoIterator<Item = Record>) {
        let records = records.into_iter();
        let mut lane = self.0.borrow_mut();
        let refused = match &*lane {
            Some(lane) => lane.push(records),
            None => Err(records),
        };
        if let Err(records) = refused {
            *lane = recorder.join();
            if let Some(lane) = &*lane {
                // Where that is closed again already, the events are in no session.
                drop(lane.push(records));
            }
        }
    }
}

/// Whether a thread of this name is a worker.
fn is_worker(name: Option<&str>) -> bool {
    name == Some(pool::WORKER_NAME)
}
