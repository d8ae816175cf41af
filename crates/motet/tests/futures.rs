//! Evaluation as a future, under tokio: tasks that hop between threads, await, are dropped.

mod common;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{Watched, model, on_both_paths};
use motet::prelude::*;
use motet::{CancelToken, ErrorKind, EvalFuture, eval_async, new_stream};
use motet_core::node::Executable;
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;
use tokio::runtime::{Builder, Runtime};

fn stream() -> Stream {
    new_stream(Device::CPU).unwrap()
}

fn scalar(value: f32) -> Array {
    Array::from_slice(&[value], []).unwrap()
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_time();
    builder.build().unwrap()
}

/// An operation that tells when it begins and ends when it is told to.
fn gate() -> (Arc<Watched>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begins, begun) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let opened = Mutex::new(opened);
    let operation = Watched::with(move || {
        begins.send(()).unwrap();
        opened.lock().unwrap().recv().unwrap();
        Ok(())
    });
    (operation, begun, open)
}

/// Polls once, as an executor that then does something else.
fn poll_once(future: &mut EvalFuture) -> Poll<motet::Result<()>> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_future_can_be_sent_and_kept() {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<EvalFuture>();
}

#[test]
fn s35_one_executor_thread_awaits_what_another_of_its_tasks_has_to_allow() {
    let (operation, begun, open) = gate();
    let waiting = operation.apply(&[], &stream());
    runtime(1).block_on(async {
        let awaits = tokio::spawn(async move {
            waiting.eval_async().await?;
            waiting.item::<f32>()
        });
        // Runs on the one thread, while the task above awaits.
        let allows = tokio::spawn(async move {
            while begun.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            open.send(()).unwrap();
        });
        allows.await.unwrap();
        assert_eq!(awaits.await.unwrap().unwrap(), 1.0);
    });
}

#[test]
fn s35_many_more_tasks_than_threads() {
    on_both_paths(|compiled| {
        let kept = Arc::new(model("tiny", compiled));
        let alone = kept.check();
        for threads in [1, 4] {
            runtime(threads).block_on(async {
                let tasks: Vec<_> = (0..200)
                    .map(|_| {
                        let kept = Arc::clone(&kept);
                        tokio::spawn(async move {
                            let outputs = kept.function.call(std::slice::from_ref(&kept.input))?;
                            eval_async(&outputs).await?;
                            outputs[0].to_vec::<f32>()
                        })
                    })
                    .collect();
                for task in tasks {
                    assert_eq!(task.await.unwrap().unwrap(), alone);
                }
            });
        }
    });
}

#[test]
fn s09_tasks_that_hop_between_threads() {
    runtime(4).block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                tokio::spawn(async move {
                    let mut state = scalar(task as f32);
                    for step in 0..50 {
                        // The default stream of whatever thread this is.
                        state = ops::add(&state, scalar(step as f32)).unwrap();
                        match step % 3 {
                            0 => state.eval_async().await.unwrap(),
                            1 => motet::async_eval(std::slice::from_ref(&state)).unwrap(),
                            _ => {}
                        }
                        tokio::task::yield_now().await;
                    }
                    state.eval_async().await.unwrap();
                    assert_eq!(state.item::<f32>().unwrap(), task as f32 + 1225.0);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_failure_is_the_result() {
    let fails = Watched::with(|| Err(motet::Error::invalid("Watched", "made to fail")));
    let (failed, fine) = (fails.apply(&[], &stream()), Watched::new());
    let fine = fine.apply(&[], &stream());
    let result = runtime(1).block_on(eval_async(&[failed, fine.clone()]));
    assert!(result.unwrap_err().to_string().contains("made to fail"));
    assert_eq!(fine.item::<f32>().unwrap(), 1.0);
}

#[test]
fn nothing_is_begun_for_a_future_that_was_dropped() {
    let (operation, begun, open) = gate();
    let (watched, on) = (Watched::new(), stream());
    let busy = operation.apply(&[], &on);
    motet::async_eval(std::slice::from_ref(&busy)).unwrap();
    begun.recv().unwrap();
    let first = watched.apply(&[], &on);
    let wanted = watched.apply(&[first], &on);
    let mut future = wanted.eval_async();
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    open.send(()).unwrap();
    on.synchronize();
    assert_eq!(watched.runs(), 0);
    // It is as lazy as it was.
    assert_eq!(wanted.item::<f32>().unwrap(), 2.0);
    assert_eq!(watched.runs(), 2);
}

#[test]
fn what_another_evaluation_has_joined_goes_on() {
    let (operation, begun, open) = gate();
    let (watched, on, other) = (Watched::new(), stream(), stream());
    let busy = operation.apply(&[], &on);
    motet::async_eval(std::slice::from_ref(&busy)).unwrap();
    begun.recv().unwrap();
    let shared = watched.apply(&[], &on);
    let future = watched
        .apply(std::slice::from_ref(&shared), &on)
        .eval_async();
    let joins = watched.apply(std::slice::from_ref(&shared), &other);
    let joined = joins.eval_async();
    drop(future);
    open.send(()).unwrap();
    runtime(1).block_on(joined).unwrap();
    assert_eq!(joins.item::<f32>().unwrap(), 2.0);
    on.synchronize();
    assert_eq!(watched.runs(), 3);
}

#[test]
fn what_was_called_off_can_be_awaited_again_before_it_is_given_back() {
    let (operation, begun, open) = gate();
    let (watched, on) = (Watched::new(), stream());
    let busy = operation.apply(&[], &on);
    motet::async_eval(std::slice::from_ref(&busy)).unwrap();
    begun.recv().unwrap();
    let wanted = watched.apply(&[], &on);
    drop(wanted.eval_async());
    // The stream has not come to it yet.
    let mut again = wanted.eval_async();
    assert!(poll_once(&mut again).is_pending());
    let above = watched.apply(std::slice::from_ref(&wanted), &on);
    let blocking = std::thread::spawn(move || above.item::<f32>());
    open.send(()).unwrap();
    runtime(1).block_on(again).unwrap();
    assert_eq!(blocking.join().unwrap().unwrap(), 2.0);
    assert_eq!(watched.runs(), 2);
}

/// A kernel of many tiles, the fourth of which says so and waits.
struct Tiled {
    tiles: AtomicUsize,
    begun: mpsc::Sender<()>,
    opened: Mutex<mpsc::Receiver<()>>,
}

impl Executable for Tiled {
    fn name(&self) -> &str {
        "Tiled"
    }

    fn execute(
        &self,
        _: &[Tensor],
        _: &[motet::Spec],
        pool: &Pool,
        _: &mut dyn FnMut() -> motet::Result<()>,
    ) -> motet::Result<Vec<Tensor>> {
        pool.for_each_tile(1000, 1, &|_| {
            if self.tiles.fetch_add(1, Ordering::SeqCst) == 3 {
                self.begun.send(()).unwrap();
                self.opened.lock().unwrap().recv().unwrap();
            }
        });
        Ok(vec![scalar(7.0).tensor()?])
    }
}

#[test]
fn dropping_a_future_ends_the_kernel_that_runs_for_it() {
    let (begins, begun) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let kernel = Arc::new(Tiled {
        tiles: AtomicUsize::new(0),
        begun: begins,
        opened: Mutex::new(opened),
    });
    let spec = motet::Spec::new(motet::Shape::default(), Dtype::Float32);
    let on = stream();
    let operation = Arc::clone(&kernel) as Arc<dyn Executable>;
    let array = Array::from_executable(operation, &[], &[spec], on.clone(), None).remove(0);
    let future = array.eval_async();
    begun.recv().unwrap();
    drop(future);
    open.send(()).unwrap();
    on.synchronize();
    assert_eq!(kernel.tiles.load(Ordering::SeqCst), 4);
    // Anyone may evaluate it later, from the start.
    assert_eq!(array.item::<f32>().unwrap(), 7.0);
    assert_eq!(kernel.tiles.load(Ordering::SeqCst), 1004);
}

#[test]
fn a_token_wakes_the_task_that_awaits_its_call() {
    let (operation, begun, open) = gate();
    let on = stream();
    let busy = operation.apply(&[], &on);
    motet::async_eval(std::slice::from_ref(&busy)).unwrap();
    begun.recv().unwrap();
    let (kept, token) = (model("tiny", true), CancelToken::new());
    let request = kept.function.on(&on).cancelled_by(&token);
    let outputs = request.call(std::slice::from_ref(&kept.input)).unwrap();
    runtime(1).block_on(async {
        let awaits = tokio::spawn(eval_async(&outputs));
        tokio::task::yield_now().await;
        token.cancel();
        // The gate is still closed.
        let error = awaits.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
    open.send(()).unwrap();
    kept.check();
}

#[test]
fn futures_dropped_at_any_moment() {
    on_both_paths(|compiled| {
        let kept = Arc::new(model("a", compiled));
        let alone = Arc::new(kept.check());
        runtime(3).block_on(async {
            let tasks: Vec<_> = (0..12u64)
                .map(|task| {
                    let (kept, alone) = (Arc::clone(&kept), Arc::clone(&alone));
                    tokio::spawn(async move {
                        for round in 0..6 {
                            let input = std::slice::from_ref(&kept.input);
                            let outputs = kept.function.call(input).unwrap();
                            let time = Duration::from_micros((task * 7 + round * 13) % 40 * 100);
                            tokio::select! {
                                done = eval_async(&outputs) => done.unwrap(),
                                () = tokio::time::sleep(time / 2) => {}
                            }
                            // Given up above or not, half done or not: it is there when asked for.
                            let late = tokio::time::timeout(time, eval_async(&outputs)).await;
                            if let Ok(done) = late {
                                done.unwrap();
                            }
                            eval_async(&outputs).await.unwrap();
                            assert_eq!(outputs[0].to_vec::<f32>().unwrap(), *alone);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn a_waker_that_panics_harms_its_own_task_alone() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker's own panic");
        }
    }
    let (operation, begun, open) = gate();
    let on = stream();
    let array = operation.apply(&[], &on);
    let mut future = array.eval_async();
    begun.recv().unwrap();
    let waker = Waker::from(Arc::new(Panics));
    let pinned = std::pin::Pin::new(&mut future);
    assert!(pinned.poll(&mut Context::from_waker(&waker)).is_pending());
    open.send(()).unwrap();
    on.synchronize();
    assert_eq!(array.item::<f32>().unwrap(), 1.0);
    assert!(poll_once(&mut future).is_ready());
}

#[test]
#[cfg(target_os = "linux")]
fn s37_a_forked_child_awaits_though_it_has_no_workers() {
    const NAME: &str = "s37_a_forked_child_awaits_though_it_has_no_workers";
    if std::env::var_os("MOTET_TEST_CHILD").is_some() {
        let (watched, on) = (Watched::new(), stream());
        // The parent's worker has run.
        motet::async_eval(&[watched.apply(&[], &on)]).unwrap();
        on.synchronize();
        // SAFETY: the child only computes and leaves by `_exit`; the C library sees to it that a forked
        // child can allocate.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let array = watched.apply(&[], &on);
            let done = matches!(poll_once(&mut array.eval_async()), Poll::Ready(Ok(())));
            // SAFETY: ends the child at once, without running the parent's exit handlers.
            unsafe { libc::_exit(if done { 0 } else { 1 }) }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!((waited, status), (pid, 0));
        std::process::exit(0);
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("MOTET_TEST_CHILD", "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(0), "{child:?}");
}
