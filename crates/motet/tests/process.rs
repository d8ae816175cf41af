//! Situations about threads, processes and their ends. Alone in this file: they count what the
//! whole process has.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;

use common::{Watched, model, on_both_paths};
use motet::prelude::*;

/// Tests of this file take turns: each counts the threads of the process.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Has all workers of the pool at work at once, so that none is started later.
fn start_workers() {
    let cores = thread::available_parallelism().unwrap().get();
    let together = Arc::new(Barrier::new(cores + 1));
    let waits = || {
        let together = Arc::clone(&together);
        let watched = Watched::with(move || {
            together.wait();
            Ok(())
        });
        watched.apply(&[], &motet::new_stream(Device::CPU).unwrap())
    };
    let work: Vec<_> = (0..cores).map(|_| waits()).collect();
    motet::async_eval(&work).unwrap();
    // This thread runs none of them.
    together.wait();
    motet::eval(&work).unwrap();
}

#[test]
fn s36_ten_thousand_short_threads_leave_nothing_behind() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let (model, watched) = (model("tiny", compiled), Watched::new());
        // A call, and asynchronous work on the thread's own stream.
        let work = || {
            model.check();
            motet::async_eval(&[watched.apply(&[], &motet::current_stream().unwrap())]).unwrap();
            motet::current_stream().unwrap().synchronize();
        };
        let call = || thread::scope(|s| s.spawn(work).join().unwrap());
        // The first calls make the plan.
        (0..100).for_each(|_| call());
        start_workers();
        let (threads, files) = (count("/proc/self/task"), count("/proc/self/fd"));
        let memory = motet::memory::active();
        (0..5_000).for_each(|_| call());
        assert_eq!(watched.runs(), 5_100);
        assert_eq!(count("/proc/self/task"), threads);
        assert_eq!(count("/proc/self/fd"), files);
        assert_eq!(motet::memory::active(), memory);
    });
}

/// Runs the test of this name in a process of its own, where it does what it does as a child.
fn run_child(name: &str) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("MOTET_TEST_CHILD", "1")
        .output()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os("MOTET_TEST_CHILD").is_some()
}

#[test]
fn s37_exit_while_streams_run() {
    let _alone = alone();
    if is_child() {
        let (send, started) = std::sync::mpsc::channel();
        let endless = Watched::with(move || {
            send.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        let on = motet::new_stream(Device::CPU).unwrap();
        motet::async_eval(&[endless.apply(&[], &on)]).unwrap();
        started.recv().unwrap();
        std::process::exit(17);
    }
    let output = run_child("s37_exit_while_streams_run");
    assert_eq!(output.status.code(), Some(17), "{output:?}");
}

#[test]
fn s37_panic_of_a_caller_leaves_the_rest_working() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        thread::scope(|s| {
            let panics = s.spawn(|| {
                let _lazy = model
                    .function
                    .call(std::slice::from_ref(&model.input))
                    .unwrap();
                let _context = StreamContext::new(&motet::new_stream(Device::CPU).unwrap());
                panic!("a caller's own panic");
            });
            assert!(panics.join().is_err());
        });
        assert_eq!(model.check(), alone);
    });
}

#[test]
fn s37_panic_in_a_closure_that_is_traced() {
    let _alone = alone();
    let first = std::sync::atomic::AtomicBool::new(true);
    let function = motet::compile(move |x| {
        if first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            panic!("a closure's own panic");
        }
        Ok(vec![&x[0] + 1.0])
    });
    let x = [Array::from_slice(&[1.0f32], [1]).unwrap()];
    let error = function.call(&x).unwrap_err();
    assert_eq!(error.kind(), motet::ErrorKind::Internal);
    assert!(
        error.to_string().contains("a closure's own panic"),
        "{error}"
    );
    // Neither the function nor the thread is the worse for it.
    assert_eq!(function.call(&x).unwrap()[0].item::<f32>().unwrap(), 2.0);
    on_both_paths(|compiled| drop(model("tiny", compiled).check()));
}

#[test]
fn s37_fork_after_use() {
    let _alone = alone();
    if is_child() {
        let model = model("a", true);
        let before = model.check();
        // SAFETY: the child only computes and leaves by `_exit`, as a forked child may; no thread of
        // this process holds a lock of the allocator here, since none but this one runs.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let same = model.check() == before;
            // SAFETY: ends the child at once, without running the parent's exit handlers.
            unsafe { libc::_exit(if same { 0 } else { 1 }) }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!((waited, status), (pid, 0));
        assert_eq!(model.check(), before);
        std::process::exit(0);
    }
    let output = run_child("s37_fork_after_use");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
