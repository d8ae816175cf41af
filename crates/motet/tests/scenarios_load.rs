//! Situations in which more is asked for than the machine can do at once: models that are loaded
//! beside one that serves, more threads than cores, urgent work beside large one. What is tested is
//! that results stay right and that everyone gets on; how long that takes, `cargo xtask neighbours`
//! measures.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Watched, model, on_both_paths};
use motet::prelude::*;
use motet::{Priority, new_stream, new_stream_with_priority};

fn cores() -> usize {
    let asked = std::env::var("MOTET_NUM_THREADS").ok();
    let asked = asked.and_then(|cores| cores.parse().ok());
    asked.unwrap_or_else(|| thread::available_parallelism().unwrap().get())
}

#[test]
fn s40_models_come_and_go_beside_one_that_serves() {
    on_both_paths(|compiled| {
        let serving = model("a", compiled);
        let alone = serving.check();
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            let loaders: Vec<_> = ["b", "tiny", "b"]
                .map(|name| {
                    s.spawn(move || (0..5).for_each(|_| drop(model(name, compiled).check())))
                })
                .into();
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(serving.check(), alone);
                }
            });
            loaders
                .into_iter()
                .for_each(|loader| loader.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn s41_many_models_on_many_threads_never_run_on_more_cores_than_there_are() {
    let (running, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let watched = Watched::with(move || {
        seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    on_both_paths(|compiled| {
        thread::scope(|s| {
            for number in 0..16 {
                let watched = &watched;
                s.spawn(move || {
                    let model = model(["a", "b"][number % 2], compiled);
                    let alone = model.check();
                    let on = new_stream(Device::CPU).unwrap();
                    for _ in 0..10 {
                        assert_eq!(model.check(), alone);
                        assert_eq!(watched.apply(&[], &on).item::<f32>().unwrap(), 1.0);
                    }
                });
            }
        });
    });
    let most = most.load(Ordering::SeqCst);
    assert!((1..=cores()).contains(&most), "{most} at once");
}

#[test]
fn s45_background_work_gets_on_beside_urgent_work_that_never_ends() {
    on_both_paths(|compiled| {
        let (small, large) = (model("tiny", compiled), model("a", compiled));
        let urgent = small.function.priority(Priority::Urgent);
        let background = large.function.priority(Priority::Background);
        let (alone, expected) = (small.check(), large.check());
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            // More of them than cores, and never idle: they could keep all cores for themselves.
            for _ in 0..cores() + 2 {
                s.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(small.call(&urgent), alone);
                    }
                });
            }
            s.spawn(|| {
                (0..3).for_each(|_| assert_eq!(large.call(&background), expected));
                done.store(true, Ordering::Relaxed);
            });
        });
    });
}

/// A stream that is given more all the time must not keep the workers from another one.
#[test]
fn s45_a_stream_that_never_runs_dry_leaves_workers_to_others() {
    for priority in [Priority::Background, Priority::Normal, Priority::Urgent] {
        let busy = new_stream(Device::CPU).unwrap();
        let other = new_stream_with_priority(Device::CPU, priority).unwrap();
        assert_eq!(other.priority(), priority);
        let (tick, last) = (Watched::new(), Watched::new());
        let submitted = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !(submitted.load(Ordering::Relaxed) && last.runs() == 1) {
                    motet::async_eval(&[tick.apply(&[], &busy)]).unwrap();
                    thread::yield_now();
                }
            });
            while tick.runs() == 0 {
                thread::yield_now();
            }
            // Nobody waits for it: a worker has to run it.
            motet::async_eval(&[last.apply(&[], &other)]).unwrap();
            submitted.store(true, Ordering::Relaxed);
        });
        busy.synchronize();
    }
}
