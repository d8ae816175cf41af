//! Situations about calls that end early. Each test is named after its situation; the number before
//! it is that of the list in `docs/scenarios.md`.

mod common;

use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{Watched, model, on_both_paths};
use motet::prelude::*;
use motet::{CallOptions, CancelToken, ErrorKind, Result, Shape, Spec, async_eval, new_stream};
use motet_core::cancel::submit;
use motet_core::node::Executable;
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;

fn stream() -> Stream {
    new_stream(Device::CPU).unwrap()
}

fn cancelled_by(token: &CancelToken) -> Arc<CallOptions> {
    let mut options = CallOptions::default();
    options.cancel = Some(token.clone());
    Arc::new(options)
}

fn due(deadline: Instant) -> Arc<CallOptions> {
    let mut options = CallOptions::default();
    options.deadline = Some(deadline);
    Arc::new(options)
}

/// The lazy output of an operation in a call with these options.
fn apply(
    operation: Arc<dyn Executable>,
    inputs: &[Array],
    on: &Stream,
    options: &Arc<CallOptions>,
) -> Array {
    let spec = Spec::new(Shape::default(), Dtype::Float32);
    Array::from_executable(operation, inputs, &[spec], on.clone(), Some(options)).remove(0)
}

fn kind(result: Result<impl Sized>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// An operation that tells when it begins, and ends when it is told to.
struct Gate {
    operation: Arc<Watched>,
    begun: mpsc::Receiver<()>,
    open: mpsc::Sender<()>,
}

impl Gate {
    fn new() -> Gate {
        let (begins, begun) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let opened = Mutex::new(opened);
        let operation = Watched::with(move || {
            begins.send(()).unwrap();
            opened.lock().unwrap().recv().unwrap();
            Ok(())
        });
        Gate {
            operation,
            begun,
            open,
        }
    }
}

/// A long kernel whose tiles the test watches.
struct Tiled {
    tiles: usize,
    begun: AtomicUsize,
    work: Box<dyn Fn(usize) + Send + Sync>,
}

impl Tiled {
    /// `work` gets the number of tiles that had begun before.
    fn new(tiles: usize, work: impl Fn(usize) + Send + Sync + 'static) -> Arc<Tiled> {
        Arc::new(Tiled {
            tiles,
            begun: AtomicUsize::new(0),
            work: Box::new(work),
        })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Executable for Tiled {
    fn name(&self) -> &str {
        "Tiled"
    }

    fn execute(
        &self,
        _: &[Tensor],
        _: &[Spec],
        pool: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        pool.for_each_tile(self.tiles, 1 << 20, &|_| {
            (self.work)(self.begun.fetch_add(1, Ordering::SeqCst));
        });
        Ok(vec![Array::from_slice(&[7.0f32], [])?.tensor()?])
    }
}

/// Threads that can run tiles of one kernel.
fn cores() -> usize {
    thread::available_parallelism().unwrap().get().max(2)
}

#[test]
fn s13_one_client_cancels_while_others_synchronise_clear_the_cache_and_drop_a_model() {
    on_both_paths(|compiled| {
        let on = stream();
        let kept = model("a", compiled);
        let function = kept.function.on(&on);
        let alone = kept.call(&function);
        thread::scope(|s| {
            s.spawn(|| {
                for round in 0..30 {
                    let token = CancelToken::new();
                    let request = function.cancelled_by(&token);
                    let outputs = request.call(from_ref(&kept.input)).unwrap();
                    async_eval(&outputs).unwrap();
                    (0..round * 10).for_each(|_| thread::yield_now());
                    token.cancel();
                    match outputs[0].to_vec::<f32>() {
                        Ok(values) => assert_eq!(values, alone),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
                    }
                }
            });
            s.spawn(|| (0..100).for_each(|_| on.synchronize()));
            s.spawn(|| (0..100).for_each(|_| motet::memory::clear_cache()));
            s.spawn(|| {
                for _ in 0..5 {
                    let dropped = model("tiny", compiled);
                    let input = from_ref(&dropped.input);
                    let outputs = dropped.function.on(&on).call(input).unwrap();
                    async_eval(&outputs).unwrap();
                }
            });
            (0..10).for_each(|_| assert_eq!(kept.call(&function), alone));
        });
    });
}

#[test]
fn s14_disconnect_during_a_cold_prefill_and_immediate_retry() {
    on_both_paths(|compiled| {
        let kept = model("b", compiled);
        let alone = kept.check();
        for round in 0..20 {
            let (on, token) = (stream(), CancelToken::new());
            // Cold: no plan has been made.
            let function = match compiled {
                true => kept.function.compile(),
                false => kept.function.clone(),
            };
            let function = function.on(&on);
            let start = Barrier::new(2);
            thread::scope(|s| {
                let request = s.spawn(|| {
                    let request = function.cancelled_by(&token);
                    start.wait();
                    request.call(from_ref(&kept.input))?[0].to_vec::<f32>()
                });
                start.wait();
                (0..round * round * 10).for_each(|_| thread::yield_now());
                token.cancel();
                assert_eq!(kept.call(&function), alone);
                match request.join().unwrap() {
                    Ok(values) => assert_eq!(values, alone),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
                }
            });
        }
    });
}

#[test]
fn s32_cancelled_before_it_is_evaluated() {
    let (watched, token) = (Watched::new(), CancelToken::new());
    let shared = watched.apply(&[], &stream());
    let options = cancelled_by(&token);
    let ours = apply(watched.clone(), from_ref(&shared), &stream(), &options);
    token.cancel();
    assert_eq!(kind(ours.eval()), Some(ErrorKind::Cancelled));
    // Nothing was begun for it, and what it shares is there for others.
    assert_eq!(watched.runs(), 0);
    let theirs = watched.apply(from_ref(&shared), &stream());
    assert_eq!(theirs.item::<f32>().unwrap(), 2.0);
}

#[test]
fn s32_cancelled_while_a_kernel_runs() {
    let (watched, token) = (Watched::new(), CancelToken::new());
    let shared = watched.apply(&[], &stream());
    let kernel = Tiled::new(10_000, {
        let token = token.clone();
        move |tile| {
            if tile == 5 {
                // By the thread that runs the call.
                token.cancel();
            }
        }
    });
    let on = stream();
    let options = cancelled_by(&token);
    let ours = apply(kernel.clone(), from_ref(&shared), &on, &options);
    let after = apply(watched.clone(), from_ref(&ours), &on, &options);
    let theirs = watched.apply(from_ref(&shared), &on);
    thread::scope(|s| {
        let ours = s.spawn(|| after.eval());
        let theirs = s.spawn(|| theirs.item::<f32>());
        assert_eq!(theirs.join().unwrap().unwrap(), 2.0);
        let error = ours.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    });
    // Each thread ended the tile that it had begun.
    assert!((6..6 + cores()).contains(&kernel.begun()));
    on.synchronize();
    assert_eq!(watched.runs(), 2);
    // The kernel is none the worse for it: another call of it runs all tiles.
    let again = apply(kernel.clone(), &[], &on, &Arc::default());
    let begun = kernel.begun();
    assert_eq!(again.item::<f32>().unwrap(), 7.0);
    assert_eq!(kernel.begun(), begun + 10_000);
}

#[test]
fn s32_cancelled_by_the_one_that_has_scheduled_what_others_wait_for() {
    let (gate, watched, token) = (Gate::new(), Watched::new(), CancelToken::new());
    let on = stream();
    let shared = gate.operation.apply(&[], &on);
    let ours = apply(
        watched.clone(),
        from_ref(&shared),
        &on,
        &cancelled_by(&token),
    );
    thread::scope(|s| {
        // Schedules both, and runs the shared one.
        let ours = s.spawn(|| ours.eval());
        gate.begun.recv().unwrap();
        let theirs = s.spawn(|| shared.item::<f32>());
        token.cancel();
        gate.open.send(()).unwrap();
        assert_eq!(theirs.join().unwrap().unwrap(), 1.0);
        assert_eq!(kind(ours.join().unwrap()), Some(ErrorKind::Cancelled));
    });
    on.synchronize();
    assert_eq!(watched.runs(), 0);
}

#[test]
fn s32_cancelled_after_it_is_done() {
    on_both_paths(|compiled| {
        let (kept, token) = (model("tiny", compiled), CancelToken::new());
        let request = kept.function.cancelled_by(&token);
        let outputs = request.call(from_ref(&kept.input)).unwrap();
        outputs[0].eval().unwrap();
        token.cancel();
        assert_eq!(outputs[0].to_vec::<f32>().unwrap(), kept.check());
    });
}

#[test]
fn s32_cancelled_at_any_moment_while_others_call_the_same_function() {
    on_both_paths(|compiled| {
        let kept = model("a", compiled);
        let alone = kept.check();
        thread::scope(|s| {
            let others = s.spawn(|| (0..30).for_each(|_| assert_eq!(kept.check(), alone)));
            for round in 0..60 {
                let token = CancelToken::new();
                s.spawn({
                    let token = token.clone();
                    move || {
                        (0..round * 5).for_each(|_| thread::yield_now());
                        token.cancel();
                    }
                });
                let request = kept.function.cancelled_by(&token);
                let outputs = request.call(from_ref(&kept.input)).unwrap();
                match outputs[0].to_vec::<f32>() {
                    Ok(values) => assert_eq!(values, alone),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
                }
                // The workspace that the call had is as good as new.
                assert_eq!(kept.check(), alone);
            }
            others.join().unwrap();
        });
    });
}

/// An operation of many submissions to a device, which notes those that come too late.
struct Submits {
    submitted: AtomicUsize,
    /// Whether `cancel` has returned.
    cancelled: AtomicBool,
}

impl Executable for Submits {
    fn name(&self) -> &str {
        "Submits"
    }

    fn execute(
        &self,
        _: &[Tensor],
        _: &[Spec],
        _: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        loop {
            submit(|| {
                assert!(!self.cancelled.load(Ordering::SeqCst), "submitted too late");
                self.submitted.fetch_add(1, Ordering::SeqCst);
            })?;
            between_steps()?;
        }
    }
}

#[test]
fn s33_nothing_is_submitted_after_cancel_has_returned() {
    for round in 0..200 {
        let (on, token) = (stream(), CancelToken::new());
        let device = Arc::new(Submits {
            submitted: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
        });
        let endless = apply(device.clone(), &[], &on, &cancelled_by(&token));
        thread::scope(|s| {
            let call = s.spawn(|| endless.eval());
            for _ in 0..3 {
                s.spawn(|| {
                    while device.submitted.load(Ordering::SeqCst) < round {
                        thread::yield_now();
                    }
                    token.cancel();
                    device.cancelled.store(true, Ordering::SeqCst);
                });
            }
            // A submission too late would be a panic, and its error of another kind.
            let error = call.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        });
    }
}

#[test]
fn s33_no_tile_is_taken_after_cancel_has_returned() {
    for round in 1..50 {
        let (on, token) = (stream(), CancelToken::new());
        let (arrived, late) = mpsc::channel();
        let kernel = Tiled::new(usize::MAX, move |tile| {
            if tile == round {
                arrived.send(()).unwrap();
            }
        });
        let endless = apply(kernel.clone(), &[], &on, &cancelled_by(&token));
        thread::scope(|s| {
            let call = s.spawn(|| endless.eval());
            late.recv().unwrap();
            token.cancel();
            let begun = kernel.begun();
            assert_eq!(kind(call.join().unwrap()), Some(ErrorKind::Cancelled));
            on.synchronize();
            // What a thread had taken before, it begins: one tile.
            assert!(kernel.begun() <= begun + cores());
        });
    }
}

#[test]
fn s34_a_timeout_frees_its_caller_while_the_stream_is_busy() {
    let (gate, watched, on) = (Gate::new(), Watched::new(), stream());
    let before = gate.operation.apply(&[], &on);
    thread::scope(|s| {
        let busy = s.spawn(|| before.item::<f32>());
        gate.begun.recv().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let late = apply(watched.clone(), &[], &on, &due(deadline));
        // The gate opens after this has returned.
        assert_eq!(kind(late.eval()), Some(ErrorKind::DeadlineExceeded));
        let token = CancelToken::new();
        let waits = apply(watched.clone(), &[], &on, &cancelled_by(&token));
        let waiting = s.spawn(move || waits.eval());
        token.cancel();
        let ended = waiting.join().unwrap();
        assert_eq!(kind(ended), Some(ErrorKind::Cancelled));
        gate.open.send(()).unwrap();
        assert_eq!(busy.join().unwrap().unwrap(), 1.0);
    });
    // Nobody runs what was given up.
    on.synchronize();
    assert_eq!(watched.runs(), 0);
}

#[test]
fn s34_a_timeout_ends_a_call_within_one_operation() {
    let on = stream();
    let deadline = Instant::now() + Duration::from_millis(20);
    let fast = Watched::new();
    let slow = Watched::with(move || {
        while Instant::now() < deadline {
            thread::yield_now();
        }
        Ok(())
    });
    let options = due(deadline);
    let mut chain = apply(fast.clone(), &[], &on, &options);
    chain = apply(slow, &[chain], &on, &options);
    for _ in 0..100 {
        chain = apply(fast.clone(), &[chain], &on, &options);
    }
    assert_eq!(kind(chain.eval()), Some(ErrorKind::DeadlineExceeded));
    on.synchronize();
    assert!(fast.runs() <= 1);
    // In a kernel it is the next tile.
    let deadline = Instant::now() + Duration::from_millis(20);
    let endless = Tiled::new(usize::MAX, |_| ());
    let endless = apply(endless, &[], &on, &due(deadline));
    assert_eq!(kind(endless.eval()), Some(ErrorKind::DeadlineExceeded));
}

#[test]
fn s34_a_timeout_ends_kernels_that_have_one_long_line() {
    let size = 4 << 20;
    let x = motet::random::uniform(0.0, 1.0, [size], None, None).unwrap();
    // Each takes longer than so many milliseconds, and so does its call if that is all that can end it.
    type Kernel = fn(&Array) -> Result<Array>;
    let kernels: [(u64, Kernel); 4] = [
        (5, |x| ops::sort(x, 0)),
        (5, |x| ops::argsort(x, 0)),
        (2, |x| ops::cumsum(x, 0, ops::Scan::default())),
        (2, |x| {
            let places = ops::zeros([x.size()], Dtype::Uint32)?;
            let updates = x.reshape([-1, 1])?;
            ops::scatter_add(x, &[places], &updates, [0])
        }),
    ];
    for (milliseconds, kernel) in kernels {
        let function = motet::compile(move |x: &[Array]| Ok(vec![kernel(&x[0])?]));
        // Makes the plan.
        function.call(from_ref(&x)).unwrap()[0].eval().unwrap();
        let late = function.deadline(Instant::now() + Duration::from_millis(milliseconds));
        let late = late.call(from_ref(&x)).unwrap();
        assert_eq!(kind(late[0].eval()), Some(ErrorKind::DeadlineExceeded));
    }
}

#[test]
fn s34_a_deadline_at_any_moment_leaves_the_function_as_it_was() {
    on_both_paths(|compiled| {
        let kept = model("a", compiled);
        let alone = kept.check();
        for round in 0..60 {
            let deadline = Instant::now() + Duration::from_micros(round * 50);
            let request = kept.function.deadline(deadline);
            let outputs = request.call(from_ref(&kept.input)).unwrap();
            match outputs[0].to_vec::<f32>() {
                Ok(values) => assert_eq!(values, alone),
                Err(error) => assert_eq!(error.kind(), ErrorKind::DeadlineExceeded),
            }
            assert_eq!(kept.check(), alone);
        }
    });
}
