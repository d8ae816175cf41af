//! Situations about memory: who has how much, what limits do, what comes back. Alone in this file, and
//! where resident memory is measured in a process of their own.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use common::{model, on_both_paths};
use motet::prelude::*;
use motet::{
    CallOptions, CancelToken, ErrorKind, MemoryScope, Shape, Spec, async_eval, memory, new_stream,
};
use motet_core::compile::plan::Plan;
use motet_core::node::Executable;
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;

/// Tests of this file take turns: they look at the memory of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    // SAFETY: asks for a number.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize
}

/// Runs the test of this name again, for each path in a process of its own, where it does `work`.
fn in_processes_of_their_own(name: &str, work: impl Fn(bool)) {
    let _alone = alone();
    if let Some(path) = std::env::var_os("MOTET_TEST_CHILD") {
        return work(path == "compiled");
    }
    for path in ["eager", "compiled"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("MOTET_TEST_CHILD", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
    }
}

const ROWS: usize = 8;
const WIDTH: usize = 1024;
/// The bytes of the weights of [`large`].
const WEIGHTS: usize = (2 * 4 * WIDTH * WIDTH + ROWS * WIDTH) * 4;

/// A model of two products, whose matrices plans pack, and a sum with a constant, which they read where
/// it lies.
fn large(folder: &Path, compiled: bool) -> Function {
    let path = folder.join("large.mlxfn");
    if !path.exists() {
        let shapes = [[WIDTH, 4 * WIDTH], [4 * WIDTH, WIDTH], [ROWS, WIDTH]];
        let [up, down, table] = shapes.map(|shape| {
            let weight = random::normal(shape, None, 0, 0.03, None).unwrap();
            weight.eval().unwrap();
            weight
        });
        let f = |x: &[Array]| {
            let hidden = ops::tanh(&ops::matmul(&x[0], &up)?)?;
            Ok(vec![ops::add(&ops::matmul(&hidden, &down)?, &table)?])
        };
        motet::export_function(&path, f, &[input()]).unwrap();
    }
    let function = motet::import_function(path).unwrap();
    match compiled {
        true => function.compile(),
        false => function,
    }
}

fn input() -> Array {
    let data: Vec<f32> = (0..ROWS * WIDTH).map(|i| (i % 97) as f32 / 97.0).collect();
    Array::from_vec(data, [ROWS, WIDTH]).unwrap()
}

fn call(function: &Function) -> motet::Result<Vec<f32>> {
    function.call(&[input()])?[0].to_vec()
}

/// The most bytes that a call takes beside the weights.
fn call_bytes(function: &Function, compiled: bool) -> usize {
    let plan = Plan::build(
        &function.signatures()[0],
        &[input().spec().clone()],
        compiled,
    );
    plan.unwrap().call_bytes()
}

#[test]
fn s19_memory_limit_hit_while_work_is_queued() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let model = model("b", compiled);
        let expected = model.check();
        let scope = MemoryScope::new("limited");
        let function = model.function.memory(&scope);
        model.call(&function);
        let (in_use, most) = (scope.active(), scope.peak());
        let shared = new_stream(Device::CPU).unwrap();
        // What the threads hold of results while others compute.
        let results = 6 * (4 * expected.len()).next_multiple_of(1024);
        // From nothing at all to enough for a few calls at once.
        for room in 0..8 {
            let results = if room > 0 { results } else { 0 };
            scope.set_limit(in_use + (most - in_use) * room / 2 + results);
            let (done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|s| {
                for thread in 0..6 {
                    let (done, failed, model, expected) = (&done, &failed, &model, &expected);
                    let function = match thread % 2 {
                        0 => function.on(&shared),
                        _ => function.clone(),
                    };
                    s.spawn(move || {
                        for turn in 0..6 {
                            let output = function.call(std::slice::from_ref(&model.input));
                            let output = output.unwrap().remove(0);
                            if turn % 2 == 0 {
                                async_eval(std::slice::from_ref(&output)).unwrap();
                            }
                            match output.to_vec::<f32>() {
                                Ok(values) => {
                                    assert_eq!(&values, expected);
                                    done.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(error) => {
                                    assert_eq!(error.kind(), ErrorKind::Memory);
                                    let text = error.to_string();
                                    assert!(text.contains("memory scope 'limited'"), "{text}");
                                    failed.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
            });
            let counts = (done.into_inner(), failed.into_inner());
            match room {
                0 => assert_eq!(counts, (0, 36)),
                // What fits alone waits for the others and never fails.
                2.. => assert_eq!(counts, (36, 0)),
                _ => assert_eq!(counts.0 + counts.1, 36),
            }
        }
        // Nothing was lost: all is as before, and others were not touched.
        scope.set_limit(usize::MAX);
        assert_eq!(scope.active(), in_use);
        assert_eq!(model.call(&function), expected);
    });
}

#[test]
fn s19_the_limit_of_the_process_hit_while_work_is_queued() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let model = model("b", compiled);
        let expected = model.check();
        memory::reset_peak();
        let in_use = memory::active();
        model.check();
        let old = memory::set_limit(memory::peak() + (memory::peak() - in_use) / 2);
        thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| (0..6).for_each(|_| assert_eq!(model.check(), expected)));
            }
        });
        memory::set_limit(in_use);
        let error = model.function.call(std::slice::from_ref(&model.input));
        let error = error.unwrap()[0].eval().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
        memory::set_limit(old);
        assert_eq!(model.check(), expected);
    });
}

/// An operation that says that it needs all there may be, and allocates nothing.
struct Needy {
    runs: AtomicUsize,
    work: Box<dyn Fn() + Send + Sync>,
    result: Tensor,
}

impl Needy {
    fn new(work: impl Fn() + Send + Sync + 'static) -> Arc<Needy> {
        Arc::new(Needy {
            runs: AtomicUsize::new(0),
            work: Box::new(work),
            result: Array::from(1.0f32).tensor().unwrap(),
        })
    }

    /// Its one lazy output.
    fn call(self: &Arc<Self>, on: &Stream, options: &Arc<CallOptions>) -> Array {
        let operation = Arc::clone(self) as Arc<dyn Executable>;
        let specs = [Spec::new(Shape::default(), Dtype::Float32)];
        Array::from_executable(operation, &[], &specs, on.clone(), Some(options)).remove(0)
    }
}

impl Executable for Needy {
    fn name(&self) -> &str {
        "Needy"
    }

    fn memory_bytes(&self, _: &[Spec]) -> usize {
        1 << 20
    }

    fn execute(
        &self,
        _: &[Tensor],
        _: &[Spec],
        _: &Pool,
        _: &mut dyn FnMut() -> motet::Result<()>,
    ) -> motet::Result<Vec<Tensor>> {
        self.runs.fetch_add(1, Ordering::Release);
        (self.work)();
        Ok(vec![self.result.clone()])
    }
}

#[test]
fn s19_calls_that_are_together_over_a_limit_wait_for_each_other() {
    let _alone = alone();
    let scope = MemoryScope::new("one at a time");
    scope.set_limit(1 << 20);
    let inside = AtomicUsize::new(0);
    let operation = Needy::new(move || {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "not alone");
        thread::yield_now();
        inside.fetch_sub(1, Ordering::SeqCst);
    });
    let mut options = CallOptions::default();
    options.memory = Some(scope.clone());
    let options = Arc::new(options);
    let on: Vec<Stream> = (0..4).map(|_| new_stream(Device::CPU).unwrap()).collect();
    thread::scope(|s| {
        for on in &on {
            let (operation, options) = (&operation, &options);
            s.spawn(move || {
                for turn in 0..50 {
                    let array = operation.call(on, options);
                    match turn % 2 {
                        0 => assert_eq!(array.item::<f32>().unwrap(), 1.0),
                        _ => async_eval(&[array]).unwrap(),
                    }
                }
            });
        }
    });
    on.iter().for_each(Stream::synchronize);
    assert_eq!(operation.runs.load(Ordering::Relaxed), 200);
}

#[test]
fn a_call_that_waits_for_memory_comes_back_when_it_is_late_or_cancelled() {
    let _alone = alone();
    let scope = MemoryScope::new("full");
    scope.set_limit(1 << 20);
    let (opener, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let held = Needy::new(move || gate.lock().unwrap().recv().unwrap());
    let on = || new_stream(Device::CPU).unwrap();
    let call = |set: &dyn Fn(&mut CallOptions)| {
        let mut options = CallOptions::default();
        options.memory = Some(scope.clone());
        set(&mut options);
        held.call(&on(), &Arc::new(options))
    };
    let first = call(&|_| ());
    async_eval(std::slice::from_ref(&first)).unwrap();
    while held.runs.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(30);
    let late = call(&|options| options.deadline = Some(soon)).eval();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    let token = CancelToken::new();
    let cancelled = call(&|options| options.cancel = Some(token.clone()));
    thread::scope(|s| {
        let waiting = s.spawn(|| cancelled.eval());
        token.cancel();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
    opener.send(()).unwrap();
    assert_eq!(first.item::<f32>().unwrap(), 1.0);
}

#[test]
fn s42_many_threads_share_one_set_of_weights() {
    let name = "s42_many_threads_share_one_set_of_weights";
    in_processes_of_their_own(name, |compiled| {
        const THREADS: usize = 16;
        let folder = tempfile::tempdir().unwrap();
        let function = large(folder.path(), compiled);
        let planned = call_bytes(&function, compiled);
        memory::clear_cache();
        memory::reset_peak();
        let (before, active) = (resident(), memory::active());
        let expected = call(&function).unwrap();
        thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| (0..3).for_each(|_| assert_eq!(call(&function).unwrap(), expected)));
            }
        });
        let weights = memory::active() - active;
        assert!(
            weights.abs_diff(WEIGHTS) < WEIGHTS / 50,
            "{weights} of {WEIGHTS}"
        );
        let beyond = memory::peak() - active - weights;
        let allowed = THREADS * planned + THREADS * planned / 10;
        assert!(beyond <= allowed, "{beyond} of {allowed}");
        // The file's pages are not there beside the weights as they are used.
        let more = resident().saturating_sub(before);
        assert!(more < WEIGHTS + WEIGHTS / 2, "{more} for {WEIGHTS}");
    });
}

#[test]
fn s43_a_model_gives_back_its_memory_when_it_is_unloaded() {
    let name = "s43_a_model_gives_back_its_memory_when_it_is_unloaded";
    in_processes_of_their_own(name, |compiled| {
        let folder = tempfile::tempdir().unwrap();
        // What stays for good (threads, their stacks, code that was read) is there before.
        let small = model("b", compiled);
        small.check();
        drop(large(folder.path(), compiled));
        memory::clear_cache();
        let (before, active) = (resident(), memory::active());
        for _ in 0..3 {
            let scope = MemoryScope::new("large");
            let function = large(folder.path(), compiled).memory(&scope);
            let result = function.call(&[input()]).unwrap().remove(0);
            result.eval().unwrap();
            call(&function).unwrap();
            assert!(scope.active() >= WEIGHTS && memory::active() - active >= WEIGHTS);
            assert!(resident() - before > WEIGHTS / 2);
            drop(function);
            // The result needs its own memory and no more.
            assert_eq!(scope.active(), ROWS * WIDTH * 4);
            memory::clear_cache();
            assert_eq!(scope.cached(), 0);
            let more = resident().saturating_sub(before);
            assert!(more < WEIGHTS / 8, "{more} are left of {WEIGHTS}");
            assert_eq!(result.to_vec::<f32>().unwrap().len(), ROWS * WIDTH);
            drop(result);
            assert_eq!((scope.active(), memory::active()), (0, active));
        }
        small.check();
    });
}

#[test]
fn a_weight_that_one_step_packs_and_reads_is_there() {
    let _alone = alone();
    let weight: Vec<f32> = (0..64 * 64).map(|i| (i % 13) as f32 / 13.0).collect();
    let weight = Array::from_vec(weight, [64, 64]).unwrap();
    let f = move |x: &[Array]| Ok(vec![ops::add(&ops::matmul(&x[0], &weight)?, &weight)?]);
    let x = Array::from_vec(vec![0.5f32; 64 * 64], [64, 64]).unwrap();
    let expected = f(std::slice::from_ref(&x)).unwrap()[0]
        .to_vec::<f32>()
        .unwrap();
    let got = motet::compile(f).call(&[x]).unwrap()[0]
        .to_vec::<f32>()
        .unwrap();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    assert!(got.iter().zip(&expected).all(close));
}

#[test]
fn s43_each_model_has_an_account_and_a_limit() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let server = MemoryScope::new("server");
        let [a, b] = ["a", "b"].map(|name| (model(name, compiled), server.child(name)));
        let functions = [&a, &b].map(|(model, scope)| model.function.memory(scope));
        let call = |number: usize| {
            let (model, _) = [&a, &b][number];
            let outputs = functions[number].call(std::slice::from_ref(&model.input));
            outputs?[0].to_vec::<f32>()
        };
        a.1.set_limit(1000);
        let error = call(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(error.to_string().contains("memory scope 'a'"), "{error}");
        // One over its limit is nothing to the other.
        let alone = call(1).unwrap();
        assert_eq!(b.0.check(), alone);
        a.1.set_limit(usize::MAX);
        assert_eq!(call(0).unwrap(), a.0.check());
        let active = [&a.1, &b.1].map(MemoryScope::active);
        assert!(active.iter().all(|&bytes| bytes > 300_000), "{active:?}");
        assert_eq!(server.active(), active[0] + active[1]);
        assert!(server.peak() >= server.active());
        // The server's limit holds for both, and lowering it below what is in use takes nothing away.
        server.set_limit(server.active());
        for number in [0, 1] {
            let error = call(number).unwrap_err();
            assert!(
                error.to_string().contains("memory scope 'server'"),
                "{error}"
            );
        }
        server.set_limit(usize::MAX);
        assert_eq!(call(1).unwrap(), alone);
        server.clear_cache();
        assert_eq!((server.cached(), a.1.cached()), (0, 0));
        let scopes = [server, a.1.clone(), b.1.clone()];
        drop((functions, a, b));
        assert!(scopes.iter().all(|scope| scope.active() == 0));
    });
}

#[test]
fn s44_memory_does_not_grow_with_the_threads_that_used_a_model() {
    let name = "s44_memory_does_not_grow_with_the_threads_that_used_a_model";
    in_processes_of_their_own(name, |compiled| {
        let folder = tempfile::tempdir().unwrap();
        let function = large(folder.path(), compiled);
        let expected = call(&function).unwrap();
        let use_it = || {
            // On the thread's own stream, which lives as long as the thread.
            let call = || assert_eq!(call(&function).unwrap(), expected);
            thread::scope(|s| s.spawn(call).join().unwrap());
        };
        (0..10).for_each(|_| use_it());
        let before = (memory::active(), memory::cached());
        let in_memory = resident();
        (0..200).for_each(|_| use_it());
        assert_eq!((memory::active(), memory::cached()), before);
        let more = resident().saturating_sub(in_memory);
        assert!(more < WEIGHTS / 8, "{more} after 200 threads");
    });
}

#[test]
fn caches_are_cleared_and_limited_while_others_compute() {
    let _alone = alone();
    on_both_paths(|compiled| {
        let model = model("b", compiled);
        let scope = MemoryScope::new("busy");
        let function = model.function.memory(&scope);
        let expected = model.check();
        let done = AtomicBool::new(false);
        let old = memory::set_cache_limit(1 << 20);
        memory::set_cache_limit(old);
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    memory::clear_cache();
                    scope.clear_cache();
                    memory::set_cache_limit(0);
                    scope.set_limit(scope.active() + (64 << 20));
                    memory::set_cache_limit(old);
                    scope.reset_peak();
                }
            });
            let calls = [(); 2].map(|()| {
                s.spawn(|| (0..100).for_each(|_| assert_eq!(model.call(&function), expected)))
            });
            let results = calls.map(|call| call.join());
            done.store(true, Ordering::Relaxed);
            results.into_iter().for_each(|result| result.unwrap());
        });
        memory::set_cache_limit(old);
        drop((model, function));
        memory::clear_cache();
        assert_eq!((scope.active(), scope.cached()), (0, 0));
    });
}
