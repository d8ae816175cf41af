//! What a recording of whole evaluations says. A recording is of the whole process, so one test
//! runs at a time.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;

use common::{Model, Watched, model};
use motet::prelude::*;
use motet::trace::{self, Cause, Event, ThreadEvents, Timeline, What};
use motet_core::node::Executable;
use motet_core::pool::{Pool, Priority};
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

fn commands<'a>(thread: &'a ThreadEvents, name: &'a str) -> impl Iterator<Item = &'a Event> {
    let is = move |event: &&Event| match &event.what {
        What::Command { label, .. } => label.name() == name,
        _ => false,
    };
    thread.events.iter().filter(is)
}

fn waits(timeline: &Timeline, cause: fn(&Cause) -> bool) -> usize {
    let events = timeline.threads.iter().flat_map(|t| &t.events);
    let is = |event: &&Event| matches!(&event.what, What::Wait(c) if cause(c));
    events.filter(is).count()
}

/// Asserts that two events of a thread nest or do not overlap, and that they are in order.
fn check_nesting(timeline: &Timeline) {
    for thread in &timeline.threads {
        let mut open: Vec<&Event> = Vec::new();
        let mut last = 0;
        for event in &thread.events {
            assert!(last <= event.start && event.start <= event.end);
            last = event.start;
            while open.last().is_some_and(|outer| outer.end <= event.start) {
                open.pop();
            }
            if let Some(outer) = open.last() {
                assert!(event.end <= outer.end, "{event:?} sticks out of {outer:?}");
            }
            open.push(event);
        }
    }
}

/// Names threads `one`, `two`, ... and calls the models from them, so many times each.
fn run(models: &[Model], threads: usize, calls: usize) {
    thread::scope(|s| {
        for number in 0..threads {
            let model = &models[number % models.len()];
            let named = thread::Builder::new().name(format!("caller {number}"));
            let work = move || (0..calls).for_each(|_| drop(model.check()));
            named.spawn_scoped(s, work).unwrap();
        }
    });
}

#[test]
fn two_models_on_two_threads() {
    let _turn = one_at_a_time();
    let models = [model("a", true), model("b", true)];
    let recording = trace::start().unwrap();
    run(&models, 2, 5);
    let timeline = recording.stop();
    check_nesting(&timeline);
    assert_eq!(timeline.lost, 0);
    for (thread, (own, other)) in timeline.threads.iter().zip([("a", "b"), ("b", "a")]) {
        let swapped =
            thread.name == "caller 1" && own == "a" || thread.name == "caller 0" && own == "b";
        let (own, other) = if swapped { (other, own) } else { (own, other) };
        assert_eq!(commands(thread, own).count(), 5, "{own} on {}", thread.name);
        assert_eq!(
            commands(thread, other).count(),
            0,
            "{other} on {}",
            thread.name
        );
        // The plan is built by the first call, on its thread.
        let builds = thread.events.iter().filter_map(|event| match &event.what {
            What::Build(name) => Some(&**name),
            _ => None,
        });
        assert_eq!(builds.collect::<Vec<_>>(), [own]);
        let mut steps: HashMap<usize, usize> = HashMap::new();
        for event in &thread.events {
            if let What::Step { label, step } = &event.what {
                assert_eq!(label.name(), own);
                let about = label.step(*step).unwrap();
                assert!(!about.class.is_empty() && about.signature.contains("float32"));
                *steps.entry(*step).or_default() += 1;
            }
        }
        assert!(steps.len() > 3 && steps.values().all(|&count| count == 5));
        // Steps fill their command but for what comes before the first and after the last.
        for command in commands(thread, own) {
            let within = |e: &&Event| e.start >= command.start && e.end <= command.end;
            let steps = thread.events.iter().filter(within);
            let steps = steps.filter(|e| matches!(e.what, What::Step { .. }));
            assert!(steps.map(Event::duration).sum::<u64>() <= command.duration());
        }
    }
}

#[test]
fn nothing_is_recorded_before_and_after() {
    let _turn = one_at_a_time();
    let models = [model("tiny", true)];
    run(&models, 2, 3);
    let timeline = trace::start().unwrap().stop();
    assert!(timeline.threads.is_empty());
    run(&models, 2, 3);
    let recording = trace::start().unwrap();
    let error = trace::start().err().unwrap();
    assert!(error.to_string().starts_with("[trace]"), "{error}");
    assert!(recording.stop().threads.is_empty());
    // One that is dropped ends, too.
    drop(trace::start().unwrap());
    assert!(trace::start().is_ok());
}

#[test]
fn eight_threads_lose_nothing() {
    let _turn = one_at_a_time();
    let models = [model("tiny", true), model("tiny", false)];
    let recording = trace::start().unwrap();
    run(&models, 8, 200);
    let timeline = recording.stop();
    check_nesting(&timeline);
    assert_eq!(timeline.lost, 0);
    let callers = || timeline.threads.iter().filter(|t| !t.worker);
    assert_eq!(callers().count(), 8);
    let compiled = callers()
        .map(|t| commands(t, "tiny").count())
        .filter(|&n| n > 0);
    assert_eq!(compiled.collect::<Vec<_>>(), [200; 4]);
    // Not compiled, each operation is a command.
    let eager = callers().filter(|t| commands(t, "tiny").count() == 0);
    assert!(eager.map(|t| t.events.len()).all(|events| events > 400));
}

#[test]
fn recordings_come_and_go_while_threads_compute() {
    let _turn = one_at_a_time();
    let models = [model("tiny", true)];
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    models[0].check();
                }
            });
        }
        let mut events = 0;
        while events < 1000 {
            let recording = trace::start().unwrap();
            models[0].check();
            let timeline = s.spawn(|| recording.stop()).join().unwrap();
            check_nesting(&timeline);
            let last = timeline.length.as_nanos() as u64;
            for event in timeline.threads.iter().flat_map(|t| &t.events) {
                assert!(event.end <= last);
                events += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Gives the core to who waits for it until that one is done.
struct Yields(AtomicBool);

impl Executable for Yields {
    fn name(&self) -> &str {
        "Yields"
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        _: &[Spec],
        _: &Pool,
        between_steps: &mut dyn FnMut() -> motet::Result<()>,
    ) -> motet::Result<Vec<Tensor>> {
        while !self.0.load(Ordering::Acquire) {
            between_steps()?;
        }
        Ok(inputs.to_vec())
    }
}

#[test]
fn a_wait_for_a_core_is_recorded() {
    let _turn = one_at_a_time();
    let pool = Pool::new(1);
    let on = || Stream::with_pool(Device::CPU, Arc::clone(&pool), Priority::Normal);
    let x = Array::from_slice(&[1.0f32], []).unwrap();
    let yields = Arc::new(Yields(AtomicBool::new(false)));
    let recording = trace::start().unwrap();
    let (started, wait) = mpsc::channel();
    thread::scope(|s| {
        let (x, yields, slow) = (&x, &yields, on());
        s.spawn(move || {
            // On its stream before `Yields`, and so after the core has been taken.
            let says = move || {
                started.send(()).unwrap();
                Ok(())
            };
            let note = Watched::with(says).apply(&[], &slow);
            let operation = Arc::clone(yields) as Arc<dyn Executable>;
            let specs = [x.spec().clone()];
            let inputs = [x.clone()];
            let last = Array::from_executable(operation, &inputs, &specs, slow.clone(), None);
            eval(&[note, last[0].clone()]).unwrap();
        });
        wait.recv().unwrap();
        Watched::new().apply(&[], &on()).eval().unwrap();
        yields.0.store(true, Ordering::Release);
    });
    let timeline = recording.stop();
    check_nesting(&timeline);
    assert!(waits(&timeline, |cause| *cause == Cause::Core) >= 1);
}

#[test]
fn a_wait_for_a_stream_that_another_thread_runs_is_recorded() {
    let _turn = one_at_a_time();
    let mut seen = 0;
    // The other thread is likely to come while the first runs, but nothing makes it.
    for _ in 0..1000 {
        let on = motet::new_stream(Device::CPU).unwrap();
        let recording = trace::start().unwrap();
        let (started, wait) = mpsc::channel();
        thread::scope(|s| {
            let on = &on;
            s.spawn(move || {
                let slow = Watched::with(move || {
                    started.send(()).unwrap();
                    (0..1000).for_each(|_| thread::yield_now());
                    Ok(())
                });
                slow.apply(&[], on).eval().unwrap();
            });
            wait.recv().unwrap();
            Watched::new().apply(&[], on).eval().unwrap();
        });
        let timeline = recording.stop();
        check_nesting(&timeline);
        seen += waits(&timeline, |cause| matches!(cause, Cause::Turn(_)));
        if seen > 0 {
            let mut json = Vec::new();
            trace::write_chrome_json(&timeline, &mut json).unwrap();
            let json = String::from_utf8(json).unwrap();
            // The arrow to the wait.
            assert!(json.contains("\"ph\":\"s\"") && json.contains("\"ph\":\"f\""));
            return;
        }
    }
    panic!("no wait in 1000 attempts");
}

#[test]
fn the_json_has_the_events() {
    let _turn = one_at_a_time();
    let models = [
        model("a", true).function.named("first \"a\""),
        model("b", true).function,
    ];
    let inputs = [model("a", true).input, model("b", true).input];
    let recording = trace::start().unwrap();
    for (function, input) in models.iter().zip(&inputs) {
        eval(&function.call(std::slice::from_ref(input)).unwrap()).unwrap();
    }
    let timeline = recording.stop();
    let mut json = Vec::new();
    trace::write_chrome_json(&timeline, &mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let complete: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
    let expected: usize = timeline.threads.iter().map(|t| t.events.len()).sum();
    assert_eq!(complete.len(), expected);
    for name in ["first \"a\"", "b"] {
        let is = |e: &&&serde_json::Value| e["cat"] == "command" && e["name"] == name;
        assert_eq!(complete.iter().filter(is).count(), 1, "{name}");
        let is = |e: &&&serde_json::Value| e["cat"] == "step" && e["args"]["function"] == name;
        assert!(complete.iter().filter(is).count() > 3, "{name}");
    }
    assert!(
        complete
            .iter()
            .all(|e| e["ts"].is_f64() && e["dur"].is_f64())
    );
}

#[test]
fn errors_say_the_functions_name() {
    // It imports, which may wait for a core, and then is in the recording of others.
    let _turn = one_at_a_time();
    let x = Array::from_slice(&[1.0f32; 3], [3]).unwrap();
    let imported = model("tiny", true).function;
    let error = imported.call(std::slice::from_ref(&x)).unwrap_err();
    assert!(
        error.to_string().starts_with("[tiny] no signature"),
        "{error}"
    );
    let squares = motet::compile(|inputs| Ok(vec![ops::square(&inputs[0])?]));
    assert_eq!(squares.name(), "compiled");
    assert_eq!(squares.named("squares").name(), "squares");
    let error = squares.named("squares").call_with(&[], &[("x", x)]);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("[squares] no signature"), "{error}");
}
