//! A model of recording, run by loom: one thread records while another ends the recording.

use std::cell::RefCell;
use std::sync::Arc;

use super::clock::Ticks;
use super::{Entry, Mine, Record, Recorder, What};
use crate::sync::thread;

fn event(mine: &Mine, recorder: &Recorder) {
    let now = Ticks::now();
    let record = Record {
        begun: now,
        ended: now,
        entry: Entry::What(What::Evaluation),
    };
    mine.record(recorder, [record]);
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
                let mine = Mine(RefCell::new(None));
                event(&mine, &recorder);
                event(&mine, &recorder);
            })
        };
        let mine = Mine(RefCell::new(None));
        event(&mine, &recorder);
        let timeline = recorder.stop(&first);
        let kept: usize = timeline.threads.iter().map(|t| t.events.len()).sum();
        assert_eq!(kept, 1);
        assert!(kept + timeline.lost <= 3);
        other.join().unwrap();
        let second = recorder.start(8).unwrap();
        event(&mine, &recorder);
        let timeline = recorder.stop(&second);
        assert_eq!(timeline.threads.len(), 1);
        assert_eq!((timeline.threads[0].events.len(), timeline.lost), (1, 0));
        // What the closed sessions hold is gone but for what threads have in hand.
        assert_eq!(Arc::strong_count(&first), 1);
        assert!(first.lanes.lock().is_empty());
    });
}
