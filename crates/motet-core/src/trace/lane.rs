//! Where events go: what a thread has in hand, its lane in a session, and the sessions.

use std::sync::Arc;
use std::time::Instant;

use super::clock::{Scale, Ticks};
use super::timeline::{Log, Timeline, What};
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};

/// An event as it is kept: a call of a tiny model makes half a dozen, a million of them take 24 MB.
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) begun: Ticks,
    pub(super) ended: Ticks,
    pub(super) what: Number,
    /// Of a step its number, of tiles how many.
    pub(super) count: u32,
}

/// What an event was: its place among what the lane has met, which is few different things.
pub(super) type Number = u32;

/// A step of the command around it, whose label it has.
pub(super) const STEP: Number = Number::MAX;

/// What a thread has recorded and not handed on to its lane, and what it knows of that.
pub(super) struct Writer {
    /// The lane in the session that it last recorded in.
    lane: Option<Arc<Lane>>,
    /// As in the lane: to find out a number takes no lock and counts no reference.
    whats: Vec<What>,
    events: Vec<Record>,
}

/// So many events are handed on in any case.
const MOST_IN_HAND: usize = 64;

/// How many of the different things that a lane has met are compared with a further one. Those beyond
/// get a number again.
const COMPARED: usize = 256;

impl Writer {
    pub(super) const fn new() -> Writer {
        Writer {
            lane: None,
            whats: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The number of what `is` finds, else of what `make` makes, in the session that is open. `None`
    /// where none is, or it is full.
    #[inline]
    pub(super) fn number(
        &mut self,
        recorder: &Recorder,
        is: impl Fn(&What) -> bool,
        make: impl FnOnce() -> What,
    ) -> Option<Number> {
        if !self.is_open() {
            self.join(recorder);
        }
        let mut latest = self.whats.iter().enumerate().rev().take(COMPARED);
        match latest.find(|(_, what)| is(what)) {
            Some((number, _)) => Some(number as Number),
            None => self.add(make()),
        }
    }

    fn is_open(&self) -> bool {
        let open = |lane: &Arc<Lane>| !lane.session.is_closed();
        self.lane.as_ref().is_some_and(open)
    }

    #[cold]
    fn join(&mut self, recorder: &Recorder) {
        *self = Writer {
            lane: recorder.join(),
            ..Writer::new()
        };
    }

    #[cold]
    fn add(&mut self, what: What) -> Option<Number> {
        let lane = self.lane.as_ref()?;
        // So there are no more of them than of events.
        if lane.session.room.load(Ordering::Relaxed) == 0 {
            lane.session.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        lane.log.lock().whats.push(what.clone());
        self.whats.push(what);
        Some(self.whats.len() as Number - 1)
    }

    /// What has this number.
    pub(super) fn what(&self, number: Number) -> Option<&What> {
        self.whats.get(number as usize)
    }

    /// Whether what began then is an event of the session that the thread last recorded in.
    pub(super) fn knows(&self, begun: Ticks) -> bool {
        let knows = |lane: &Arc<Lane>| begun >= lane.session.start.1;
        self.lane.as_ref().is_some_and(knows)
    }

    #[inline]
    pub(super) fn push(&mut self, record: Record) {
        // What began before the session is none of its events.
        if self.knows(record.begun) {
            self.events.push(record);
            if self.events.len() >= MOST_IN_HAND {
                self.hand_on();
            }
        }
    }

    pub(super) fn hand_on(&mut self) {
        if let Some(lane) = &self.lane {
            lane.take(&self.events);
        }
        self.events.clear();
    }
}

/// What one thread recorded in one session.
struct Lane {
    session: Arc<Session>,
    name: Option<String>,
    log: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    whats: Vec<What>,
    /// Blocks of growing size: a push moves nothing that is there.
    events: Vec<Vec<Record>>,
}

pub(super) const FIRST_BLOCK: usize = 32;
const LARGEST_BLOCK: usize = 4096;

impl Lane {
    /// Keeps or counts these events, unless the session is closed.
    fn take(&self, mut events: &[Record]) {
        let mut log = self.log.lock();
        if self.session.is_closed() {
            return;
        }
        while !events.is_empty() {
            let free = |block: &Vec<Record>| block.capacity() - block.len();
            if log.events.last().is_none_or(|block| free(block) == 0) {
                let size = (FIRST_BLOCK << log.events.len().min(16)).min(LARGEST_BLOCK);
                let room = self.session.take_room(size);
                if room == 0 {
                    self.session.lost.fetch_add(events.len(), Ordering::Relaxed);
                    return;
                }
                log.events.push(Vec::with_capacity(room));
            }
            if let Some(block) = log.events.last_mut() {
                let (now, later) = events.split_at(free(block).min(events.len()));
                block.extend_from_slice(now);
                events = later;
            }
        }
    }
}

/// Where sessions start and end: one for the process, and one for each model and test.
pub(super) struct Recorder {
    current: Mutex<Option<Arc<Session>>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            current: Mutex::new(Rank::Leaf, None),
        }
    }
}

pub(super) struct Session {
    pub(super) start: (Instant, Ticks),
    /// Set before the lanes are emptied. Release and Acquire: those who see it set leave.
    closed: AtomicBool,
    /// Events that there is room for, and events that there was none for. Counters that publish
    /// nothing: Relaxed.
    room: AtomicUsize,
    lost: AtomicUsize,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

impl Recorder {
    pub(super) fn start(&self, room: usize) -> Result<Arc<Session>, Error> {
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

    pub(super) fn stop(&self, session: &Session) -> Timeline {
        let logs = self.close(session);
        let (start, first) = session.start;
        let (length, ticks) = (start.elapsed(), Ticks::now().since(first));
        let scale = Scale::new(ticks, length);
        let lost = session.lost.load(Ordering::Relaxed);
        Timeline::new(length, lost, logs, |time| scale.ns(time.since(first)))
    }

    /// Ends the session; gives what the lanes hold.
    pub(super) fn close(&self, session: &Session) -> Vec<Log> {
        // Nobody joins from here on but who has the session in hand, and finds it closed.
        drop(self.current.lock().take());
        session.closed.store(true, Ordering::Release);
        let lanes = std::mem::take(&mut *session.lanes.lock());
        let take = |lane: &Arc<Lane>| {
            let Blocks { whats, events } = std::mem::take(&mut *lane.log.lock());
            Log {
                thread: lane.name.clone(),
                whats,
                events: events.into_iter().flatten().collect(),
            }
        };
        lanes.iter().map(take).collect()
    }

    /// A lane in what is recorded now.
    fn join(&self) -> Option<Arc<Lane>> {
        let session = self.current.lock().clone()?;
        let lane = Arc::new(Lane {
            name: std::thread::current().name().map(str::to_owned),
            log: Mutex::new(Rank::Leaf, Blocks::default()),
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

    /// How many lanes are in it.
    #[cfg(test)]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.lock().len()
    }
}
