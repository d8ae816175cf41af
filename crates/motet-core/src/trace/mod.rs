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
//! - A lane's lock is taken by its thread, to hand on events, and by whoever ends the session: threads
//!   that record never wait for each other. The lists of lanes are locked when a lane joins and at the
//!   end.
//! - A session is closed before its lanes are emptied, and a lane looks whether it is under the lock
//!   that it is emptied under: an event is in the timeline of its session or in none.
//! - What a session holds is bounded, however many threads take part and end: lanes take room for
//!   their events from the session, and an event for which there is none is counted, not kept.
//! - Locks are held for a few moves, never together with another (I4); names are made at plan time.
//!
//! An event is in the recording if it ended before that did, and so did the evaluation and command that it
//! is part of: a thread hands on what it has in hand at their end, or when it is much.
//!
//! The crate `tracing` is not used: a call of a tiny model takes 3 us and has half a dozen events,
//! and there each costs a look-up by span and fields that a subscriber visits.

#![cfg_attr(loom, allow(dead_code, reason = "the models have no plans"))]

mod clock;
mod lane;
#[cfg(all(test, loom, not(shuttle)))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
mod timeline;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

pub use timeline::{Cause, Event, FunctionLabel, Label, StepLabel, ThreadEvents, Timeline, What};

use clock::Ticks;
use lane::{Number, Record, Recorder, STEP, Session, Writer};

use crate::error::Error;
use crate::pool;
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
    static HERE: RefCell<Here> = const {
        RefCell::new(Here {
            writer: Writer::new(),
            open: 0,
            command: None,
        })
    };
}

/// What a thread knows of what it does.
struct Here {
    writer: Writer,
    /// Spans that are open: at the end of the outermost one events are handed on.
    open: usize,
    /// The command that runs, the innermost one.
    command: Option<Command>,
}

#[derive(Clone, Copy)]
struct Command {
    what: Number,
    begun: Ticks,
    /// Its step that runs, and since when.
    step: usize,
    step_begun: Ticks,
}

/// A thread that is ending records nothing any more.
#[inline]
fn here<R>(work: impl FnOnce(&mut Here) -> R) -> Option<R> {
    HERE.try_with(|here| work(&mut here.borrow_mut())).ok()
}

impl Here {
    fn record(&mut self, begun: Ticks, ended: Ticks, what: &What, count: usize) {
        let is = |known: &What| known.same(what);
        if let Some(what) = self.writer.number(&RECORDER, is, || what.clone()) {
            self.writer.push(Record {
                begun,
                ended,
                what,
                count: count as u32,
            });
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if self.open == 0 {
            self.writer.hand_on();
        }
    }

    /// The rest of the step that runs begins here.
    fn go_on(&mut self, now: Ticks) {
        if let Some(command) = &mut self.command {
            command.step_begun = now;
        }
    }
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
        Span(on().then(|| Span::enter(what())))
    }

    #[cold]
    fn enter(what: What) -> (Ticks, What) {
        here(|here| here.open += 1);
        (Ticks::now(), what)
    }

    #[cold]
    fn leave(begun: Ticks, what: &What) {
        let ended = Ticks::now();
        here(|here| {
            here.open -= 1;
            if !matches!(what, What::Wait(Cause::Helpers)) {
                here.go_on(ended);
            }
            here.record(begun, ended, what, 0);
        });
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some((begun, what)) = self.0.take() {
            Span::leave(begun, &what);
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

/// Around a command of a stream; dropped when it has run.
#[must_use]
pub(crate) struct CommandSpan(Option<Outer>);

/// What a command runs within.
struct Outer(Option<Command>);

#[inline]
pub(crate) fn command<'a>(stream: u64, label: impl FnOnce() -> Cow<'a, Label>) -> CommandSpan {
    CommandSpan(if on() {
        CommandSpan::enter(stream, &label())
    } else {
        None
    })
}

impl CommandSpan {
    #[cold]
    fn enter(stream: u64, label: &Label) -> Option<Outer> {
        let begun = Ticks::now();
        here(|here| {
            here.open += 1;
            let is = |known: &What| known.is_command(label, stream);
            let make = || What::Command {
                label: label.clone(),
                stream,
            };
            let what = here.writer.number(&RECORDER, is, make);
            let command = what.map(|what| Command {
                what,
                begun,
                step: 0,
                step_begun: begun,
            });
            Outer(std::mem::replace(&mut here.command, command))
        })
    }

    /// The command ended with its last step, if it has any: that saves a look at the clock.
    #[cold]
    fn leave(Outer(outer): Outer) {
        here(|here| {
            here.open -= 1;
            let Some(command) = std::mem::replace(&mut here.command, outer) else {
                return;
            };
            let ended = match command.step {
                0 => Ticks::now(),
                _ => command.step_begun,
            };
            here.go_on(ended);
            here.writer.push(Record {
                begun: command.begun,
                ended,
                what: command.what,
                count: 0,
            });
            here.hand_on();
        });
    }
}

impl Drop for CommandSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(outer) = self.0.take() {
            CommandSpan::leave(outer);
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
    here(|here| {
        // Without a command a step is not an event.
        if let Some(command) = &mut here.command {
            command.step = number + 1;
            let begun = std::mem::replace(&mut command.step_begun, ended);
            here.writer.push(Record {
                begun,
                ended,
                what: STEP,
                count: number as u32,
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
        let look_up = |here: &mut Here| {
            let command = here.command?;
            // Its number says something in its own session alone.
            if !here.writer.knows(command.begun) {
                return None;
            }
            match here.writer.what(command.what)? {
                What::Command { label, .. } => Some((label.clone(), command.step)),
                _ => None,
            }
        };
        here(look_up).flatten()
    }

    /// Does work on a region, which returns how many tiles it did.
    #[inline]
    pub(crate) fn tiles(&self, work: impl FnOnce() -> usize) {
        let begun = self.0.as_ref().filter(|_| on()).map(|_| Ticks::now());
        let tiles = work();
        if let (Some(begun), Some((label, step))) = (begun, &self.0) {
            let ended = Ticks::now();
            let what = What::Tiles {
                label: label.clone(),
                step: *step,
                tiles: 0,
            };
            here(|here| here.record(begun, ended, &what, tiles));
        }
    }
}

/// Whether a thread of this name is a worker.
fn is_worker(name: Option<&str>) -> bool {
    name == Some(pool::WORKER_NAME)
}
