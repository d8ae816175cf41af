//! A model of recording, run by loom: one thread records while another ends the recording.

use std::sync::Arc;

use super::What;
use super::clock::Ticks;
use super::lane::{Record, Recorder, Writer};
use crate::sync::thread;

fn event(writer: &mut Writer, recorder: &Recorder) {
    let now = Ticks::now();
    let is = |what: &What| matches!(what, What::Evaluation);
    if let Some(what) = writer.number(recorder, is, || What::Evaluation) {
        writer.push(Record {
            begun: now,
            ended: now,
            what,
            count: 0,
        });
    }
    writer.hand_on();
}

/// An event is in the timeline of its session, counted as lost, or in none; what a thread recorded
/// before the end is in it or counted, and nothing is in the timeline of the next session.
#[test]
fn loom_events_are_in_the_timeline_of_their_session_or_in_none() {
    loom::model(|| {
        let recorder = Arc::new(Recorder::default());
        let first = recorder.start(1).unwrap();
        let other = {
            let recorder = Arc::clone(&recorder);
            thread::spawn(move || {
                let mut writer = Writer::new();
                event(&mut writer, &recorder);
                event(&mut writer, &recorder);
            })
        };
        let mut writer = Writer::new();
        event(&mut writer, &recorder);
        let timeline = recorder.stop(&first);
        let kept: usize = timeline.threads.iter().map(|t| t.events.len()).sum();
        assert_eq!(kept, 1);
        assert!(kept + timeline.lost <= 3);
        other.join().unwrap();
        let second = recorder.start(8).unwrap();
        event(&mut writer, &recorder);
        let timeline = recorder.stop(&second);
        assert_eq!(timeline.threads.len(), 1);
        assert_eq!((timeline.threads[0].events.len(), timeline.lost), (1, 0));
        // What the closed sessions hold is gone but for what threads have in hand.
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(first.lanes(), 0);
    });
}
