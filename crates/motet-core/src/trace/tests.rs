//! The recorder by itself: bounds, order, nesting. What whole evaluations record is tested in the
//! crate `motet`.

use std::time::Duration;

use super::clock::Ticks;
use super::lane::{FIRST_BLOCK, Record, Recorder, STEP, Writer};
use super::{Cause, Label, Timeline, What};

fn now(writer: &mut Writer, recorder: &Recorder) {
    let now = Ticks::now();
    put(writer, recorder, now, now, What::Evaluation);
    writer.hand_on();
}

fn put(writer: &mut Writer, recorder: &Recorder, begun: Ticks, ended: Ticks, what: What) {
    if let Some(what) = writer.number(recorder, |known| known.same(&what), || what.clone()) {
        writer.push(Record {
            begun,
            ended,
            what,
            count: 0,
        });
    }
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
                    let mut writer = Writer::new();
                    (0..100).for_each(|_| now(&mut writer, &recorder));
                });
            }
        });
    }
    let lanes = session.lanes();
    assert!(lanes <= 1000 / FIRST_BLOCK + 8, "{lanes} lanes");
    let timeline = recorder.stop(&session);
    assert_eq!(count(&timeline) + timeline.lost, 8000);
    assert!(count(&timeline) > 0 && count(&timeline) <= 1000);
}

#[test]
fn a_long_log_is_kept_in_full() {
    let recorder = Recorder::default();
    let session = recorder.start(usize::MAX).unwrap();
    let mut writer = Writer::new();
    (0..20_000).for_each(|_| now(&mut writer, &recorder));
    let timeline = recorder.stop(&session);
    assert_eq!((count(&timeline), timeline.lost), (20_000, 0));
    // Nothing is recorded after the end, and the thread takes part in the next one.
    now(&mut writer, &recorder);
    let session = recorder.start(8).unwrap();
    now(&mut writer, &recorder);
    assert_eq!(count(&recorder.stop(&session)), 1);
}

#[test]
fn outer_events_come_first_and_steps_know_whose_they_are() {
    let recorder = Recorder::default();
    let session = recorder.start(100).unwrap();
    let mut writer = Writer::new();
    let (_, start) = session.start;
    let at = |ticks| start.after(ticks);
    let command = |name| {
        let label = Label::Operation(name);
        What::Command { label, stream: 7 }
    };
    let step = |number, begun, ended| Record {
        begun: at(begun),
        ended: at(ended),
        what: STEP,
        count: number,
    };
    // Began before the recording.
    put(&mut writer, &recorder, at(-1), at(5), What::Evaluation);
    writer.push(step(0, 10, 20));
    writer.push(step(1, 20, 30));
    put(&mut writer, &recorder, at(10), at(30), command("outer"));
    put(&mut writer, &recorder, at(10), at(30), What::Evaluation);
    let wait = What::Wait(Cause::Core);
    put(&mut writer, &recorder, at(40), at(41), wait);
    // Its command does not end.
    writer.push(step(0, 41, 50));
    writer.hand_on();
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
