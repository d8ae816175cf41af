//! The recorder by itself: bounds, order, nesting. What whole evaluations record is tested in the
//! crate `motet`.

use std::cell::RefCell;
use std::time::Duration;

use super::clock::Ticks;
use super::{Cause, Entry, Label, Mine, Record, Recorder, Timeline, What};

fn mine() -> Mine {
    Mine(RefCell::new(None))
}

fn now(mine: &Mine, recorder: &Recorder) {
    let now = Ticks::now();
    put(mine, recorder, now, now, Entry::What(What::Evaluation));
}

fn put(mine: &Mine, recorder: &Recorder, begun: Ticks, ended: Ticks, entry: Entry) {
    mine.record(
        recorder,
        [Record {
            begun,
            ended,
            entry,
        }],
    );
}

fn count(timeline: &Timeline) -> usize {
    timeline.threads.iter().map(|t| t.events.len()).sum()
}

#[test]
fn only_one_recording_at_a_time() {
    let recorder = Recorder::default();
    let first = recorder.start(8).unwrap();
    let error = recorder.start(8).err().unwrap();
    assert!(error.to_string().contains("already"), "{error}");
    recorder.stop(&first);
    assert!(recorder.start(8).is_ok());
}

#[test]
fn what_there_is_no_room_for_is_counted_whatever_the_number_of_threads() {
    let recorder = Recorder::default();
    let session = recorder.start(1000).unwrap();
    for _ in 0..10 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mine = mine();
                    (0..100).for_each(|_| now(&mine, &recorder));
                });
            }
        });
    }
    let lanes = session.lanes.lock().len();
    assert!(lanes <= 1000 / super::FIRST_BLOCK + 8, "{lanes} lanes");
    let timeline = recorder.stop(&session);
    assert_eq!(count(&timeline) + timeline.lost, 8000);
    assert!(count(&timeline) > 0 && count(&timeline) <= 1000);
}

#[test]
fn a_long_log_is_kept_in_full() {
    let recorder = Recorder::default();
    let session = recorder.start(usize::MAX).unwrap();
    let mine = mine();
    (0..20_000).for_each(|_| now(&mine, &recorder));
    let timeline = recorder.stop(&session);
    assert_eq!((count(&timeline), timeline.lost), (20_000, 0));
    // Nothing is recorded after the end, and the thread takes part in the next one.
    now(&mine, &recorder);
    let session = recorder.start(8).unwrap();
    now(&mine, &recorder);
    assert_eq!(count(&recorder.stop(&session)), 1);
}

#[test]
fn outer_events_come_first_and_steps_know_whose_they_are() {
    let recorder = Recorder::default();
    let session = recorder.start(100).unwrap();
    let mine = mine();
    let (_, start) = session.start;
    let at = |ticks| start.after(ticks);
    let put = |begun, ended, entry| put(&mine, &recorder, at(begun), at(ended), entry);
    let command = |name| {
        let label = Label::Operation(name);
        Entry::What(What::Command { label, stream: 7 })
    };
    put(10, 20, Entry::Step(0));
    put(20, 30, Entry::Step(1));
    put(10, 30, command("outer"));
    put(10, 30, Entry::What(What::Evaluation));
    put(40, 41, Entry::What(What::Wait(Cause::Core)));
    // Its command does not end.
    put(41, 50, Entry::Step(0));
    // Began before the recording.
    put(-1, 5, Entry::What(What::Evaluation));
    let logs = recorder.close(&session);
    let timeline = Timeline::new(Duration::ZERO, 0, logs, |time| time.since(start));
    let seen: Vec<(u64, u64, String)> = timeline.threads[0]
        .events
        .iter()
        .map(|e| (e.start, e.end, e.what.to_string()))
        .collect();
    let expected = [
        (10, 30, "evaluation"),
        (10, 30, "outer"),
        (10, 20, "outer"),
        (20, 30, "outer"),
        (40, 41, "wait: no free core"),
    ];
    let expected = expected.map(|(start, end, name)| (start, end, name.to_owned()));
    assert_eq!(seen, expected);
}
