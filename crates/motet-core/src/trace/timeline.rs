//! What was recorded, as data.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Ticks;
use super::is_worker;
use super::lane::{Record, STEP};

/// What was recorded.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Timeline {
    /// How long was recorded.
    pub length: Duration,
    /// Threads that did anything: those that call in order of appearance, then workers.
    pub threads: Vec<ThreadEvents>,
    /// Events that there was no room for: the latest ones.
    pub lost: usize,
}

/// What one thread did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ThreadEvents {
    /// The thread's name, or a number.
    pub name: String,
    /// Whether it is one of motet's.
    pub worker: bool,
    /// In order of their starts, outer ones first. Two events are one within the other or do not
    /// overlap.
    pub events: Vec<Event>,
}

/// What a thread did for a while.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Nanoseconds from the start of the recording.
    pub start: u64,
    /// As `start`.
    pub end: u64,
    /// What it did.
    pub what: What,
}

impl Event {
    /// How long it took, in nanoseconds.
    pub fn duration(&self) -> u64 {
        self.end - self.start
    }
}

/// What a thread did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// An evaluation: walking the graph, scheduling, and waiting for the results, which is mostly
    /// computing them.
    Evaluation,
    /// A command of a stream.
    Command {
        /// What it computes.
        label: Label,
        /// The number of its stream.
        stream: u64,
    },
    /// A step of a plan, within the command that runs the plan.
    Step {
        /// The function, which has the step's label.
        label: Label,
        /// The step's number.
        step: usize,
    },
    /// A part of a kernel that several threads work on at once.
    Tiles {
        /// What the command computes that the kernel belongs to.
        label: Label,
        /// The step of the plan.
        step: usize,
        /// How many tiles this thread did.
        tiles: usize,
    },
    /// The building of a plan of this function.
    Build(Arc<str>),
    /// A wait, asleep or almost.
    Wait(Cause),
}

impl What {
    /// `evaluation`, `command`, `step`, `tiles`, `build` or `wait`.
    pub fn category(&self) -> &'static str {
        match self {
            What::Evaluation => "evaluation",
            What::Command { .. } => "command",
            What::Step { .. } => "step",
            What::Tiles { .. } => "tiles",
            What::Build(_) => "build",
            What::Wait(_) => "wait",
        }
    }

    /// Whether both are the same but for the number of tiles.
    pub(super) fn same(&self, other: &What) -> bool {
        match (self, other) {
            (What::Evaluation, What::Evaluation) => true,
            (What::Command { .. }, What::Command { label, stream }) => {
                self.is_command(label, *stream)
            }
            (
                What::Tiles {
                    label: a, step: m, ..
                },
                What::Tiles {
                    label: b, step: n, ..
                },
            ) => m == n && a.same(b),
            (What::Build(a), What::Build(b)) => Arc::ptr_eq(a, b),
            (What::Wait(a), What::Wait(b)) => a == b,
            _ => false,
        }
    }

    /// Whether it is a command on this stream that computes this.
    pub(super) fn is_command(&self, computes: &Label, on: u64) -> bool {
        matches!(self, What::Command { label, stream } if *stream == on && label.same(computes))
    }
}

/// What a thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// A core: as many threads computed as there are cores.
    Core,
    /// This stream, which another thread ran.
    Turn(u64),
    /// This stream, which another thread ran, and which another stream needed a result of.
    Fence(u64),
    /// A plan that another thread was building.
    Plan,
    /// Helpers that had not finished their last tile.
    Helpers,
}

impl Cause {
    /// A word for it: `core`, `turn`, `fence`, `plan`, `helpers`.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Core => "core",
            Cause::Turn(_) => "turn",
            Cause::Fence(_) => "fence",
            Cause::Plan => "plan",
            Cause::Helpers => "helpers",
        }
    }
}

/// What a command computes. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Label {
    /// One operation.
    Operation(&'static str),
    /// A function.
    Function(Arc<FunctionLabel>),
}

impl Label {
    /// The name of the operation or function.
    pub fn name(&self) -> &str {
        match self {
            Label::Operation(name) => name,
            Label::Function(function) => &function.name,
        }
    }

    /// Whether both are of one operation, or one plan.
    fn same(&self, other: &Label) -> bool {
        match (self, other) {
            (Label::Operation(a), Label::Operation(b)) => a == b,
            (Label::Function(a), Label::Function(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// A step of the function's plan.
    pub fn step(&self, number: usize) -> Option<&StepLabel> {
        match self {
            Label::Operation(_) => None,
            Label::Function(function) => function.steps.get(number),
        }
    }
}

/// A function's name, and its plan's steps.
#[derive(Debug)]
pub struct FunctionLabel {
    /// The name.
    pub name: Arc<str>,
    /// The steps of the plan; none for what is no plan.
    pub steps: Vec<StepLabel>,
}

/// What a step of a plan does.
#[derive(Clone, Debug)]
pub struct StepLabel {
    /// The operations that it is made of.
    pub name: String,
    /// The kernel class.
    pub class: String,
    /// The shapes and dtypes that it reads and writes.
    pub signature: String,
}

impl fmt::Display for What {
    /// A few words, as on a bar of a picture.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Evaluation => f.write_str("evaluation"),
            What::Command { label, .. } => f.write_str(label.name()),
            What::Step { label, step } | What::Tiles { label, step, .. } => {
                let name = label.step(*step).map_or(label.name(), |step| &step.name);
                f.write_str(name)
            }
            What::Build(function) => write!(f, "build {function}"),
            What::Wait(Cause::Turn(stream)) => write!(f, "wait: stream {stream} is run elsewhere"),
            What::Wait(Cause::Fence(stream)) => write!(f, "wait: needs stream {stream}"),
            What::Wait(Cause::Core) => f.write_str("wait: no free core"),
            What::Wait(Cause::Plan) => f.write_str("wait: plan is being built"),
            What::Wait(Cause::Helpers) => f.write_str("wait: helpers' last tiles"),
        }
    }
}

/// What one thread recorded.
pub(super) struct Log {
    /// The thread's name.
    pub(super) thread: Option<String>,
    /// What the events' numbers mean.
    pub(super) whats: Vec<What>,
    /// In the order in which they ended.
    pub(super) events: Vec<Record>,
}

impl Timeline {
    /// `ns` gives the nanoseconds from the start of the recording.
    pub(super) fn new(
        length: Duration,
        lost: usize,
        logs: Vec<Log>,
        ns: impl Fn(Ticks) -> u64,
    ) -> Timeline {
        let (mut callers, mut workers) = (0, 0);
        let mut threads: Vec<ThreadEvents> = Vec::new();
        for log in logs {
            let worker = is_worker(log.thread.as_deref());
            let count = if worker { &mut workers } else { &mut callers };
            *count += 1;
            let name = match &log.thread {
                Some(name) if !worker => name.clone(),
                _ if worker => format!("worker {count}"),
                _ => format!("thread {count}"),
            };
            let events = resolve(log, &ns);
            if !events.is_empty() {
                threads.push(ThreadEvents {
                    name,
                    worker,
                    events,
                });
            }
        }
        threads.sort_by_key(|thread| thread.worker);
        Timeline {
            length,
            threads,
            lost,
        }
    }
}

/// The events in order, with steps knowing whose they are. A step whose command had not ended is
/// not an event.
fn resolve(log: Log, ns: impl Fn(Ticks) -> u64) -> Vec<Event> {
    let Log {
        whats, mut events, ..
    } = log;
    // Inner ones ended first; where times are equal that alone tells which is the outer one.
    events.reverse();
    events.sort_by_key(|event| (event.begun, Reverse(event.ended)));
    let mut resolved = Vec::with_capacity(events.len());
    // Commands that are open, with their ends.
    let mut commands: Vec<(Ticks, &Label)> = Vec::new();
    for event in &events {
        while commands.last().is_some_and(|(end, _)| *end < event.ended) {
            commands.pop();
        }
        let count = event.count as usize;
        let what = match (whats.get(event.what as usize), commands.last()) {
            (Some(What::Tiles { label, step, .. }), _) => What::Tiles {
                label: label.clone(),
                step: *step,
                tiles: count,
            },
            (Some(what), _) => what.clone(),
            (None, Some((_, label))) if event.what == STEP => What::Step {
                label: (*label).clone(),
                step: count,
            },
            (None, _) => continue,
        };
        if let Some(What::Command { label, .. }) = whats.get(event.what as usize) {
            commands.push((event.ended, label));
        }
        resolved.push(Event {
            start: ns(event.begun),
            end: ns(event.ended),
            what,
        });
    }
    resolved
}
