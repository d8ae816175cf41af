//! What a recorded run was like: figures and a picture.

pub mod summary;
pub mod svg;

use motet::trace::{Event, ThreadEvents, Timeline, What};

/// A part of a thread's time, with the innermost event that it belongs to. Steps, and tiles within a
/// command, are parts of the command here.
struct Piece<'a> {
    start: u64,
    end: u64,
    event: &'a Event,
}

impl Piece<'_> {
    fn is_busy(&self) -> bool {
        let what = &self.event.what;
        matches!(
            what,
            What::Command { .. } | What::Tiles { .. } | What::Build(_)
        )
    }
}

/// A thread's time in pieces that do not overlap, in order.
fn pieces(thread: &ThreadEvents) -> Vec<Piece<'_>> {
    let mut sweep = Sweep::default();
    for event in &thread.events {
        let part_of_command = match event.what {
            What::Step { .. } => true,
            What::Tiles { .. } => sweep
                .open
                .iter()
                .any(|outer| outer.end >= event.end && matches!(outer.what, What::Command { .. })),
            _ => false,
        };
        if !part_of_command {
            sweep.go_to(event.start);
            sweep.open.push(event);
        }
    }
    sweep.go_to(u64::MAX);
    sweep.pieces
}

/// Goes through a thread's time from its start.
#[derive(Default)]
struct Sweep<'a> {
    time: u64,
    /// The events around that time, outer ones first.
    open: Vec<&'a Event>,
    pieces: Vec<Piece<'a>>,
}

impl Sweep<'_> {
    fn go_to(&mut self, time: u64) {
        while let Some(&event) = self.open.last() {
            let (start, end) = (self.time, event.end.min(time));
            if end > start {
                self.pieces.push(Piece { start, end, event });
                self.time = end;
            }
            if event.end > time {
                break;
            }
            self.open.pop();
        }
        self.time = time;
    }
}

/// Nanoseconds in which a thread computed.
fn busy(thread: &ThreadEvents) -> u64 {
    let pieces = pieces(thread);
    let busy = pieces.iter().filter(|piece| piece.is_busy());
    busy.map(|piece| piece.end - piece.start).sum()
}

/// From the first event to the last one's end.
fn span(timeline: &Timeline) -> (u64, u64) {
    let events = || timeline.threads.iter().flat_map(|t| &t.events);
    let start = events().map(|event| event.start).min().unwrap_or(0);
    (
        start,
        events().map(|event| event.end).max().unwrap_or(start),
    )
}

/// How many cores computed on average, how many there are, and for how long.
fn totals(timeline: &Timeline) -> String {
    let (start, end) = span(timeline);
    let busy: u64 = timeline.threads.iter().map(busy).sum();
    let cores = busy as f64 / (end - start).max(1) as f64;
    let events: usize = timeline.threads.iter().map(|t| t.events.len()).sum();
    let lost = match timeline.lost {
        0 => String::new(),
        lost => format!(", {lost} later ones lost"),
    };
    format!(
        "{} recorded; {cores:.2} cores computed on average; {events} events{lost}",
        time(end - start)
    )
}

/// The functions that ran, in order of appearance: names, and how long each call took, in order.
fn functions(timeline: &Timeline) -> Vec<(&str, Vec<u64>)> {
    let mut functions: Vec<(&str, Vec<u64>)> = Vec::new();
    for event in timeline.threads.iter().flat_map(|t| &t.events) {
        let What::Command { label, .. } = &event.what else {
            continue;
        };
        match functions.iter_mut().find(|(name, _)| *name == label.name()) {
            Some((_, calls)) => calls.push(event.duration()),
            None => functions.push((label.name(), vec![event.duration()])),
        }
    }
    functions
        .iter_mut()
        .for_each(|(_, calls)| calls.sort_unstable());
    functions
}

/// A time in three digits.
fn time(nanos: u64) -> String {
    let nanos = nanos as f64;
    let (value, unit) = match nanos {
        0.0..1e3 => return format!("{nanos} ns"),
        1e3..1e6 => (nanos / 1e3, "us"),
        1e6..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let nanos = [0, 999, 1000, 12_345, 123_456, 1_234_567, 98_765_432_100];
        let texts = nanos.map(time);
        let expected = [
            "0 ns", "999 ns", "1.00 us", "12.3 us", "123 us", "1.23 ms", "98.8 s",
        ];
        assert_eq!(texts, expected);
    }
}
