//! Models of evaluation, run by loom over every interleaving (within the bound on preemptions) of
//! the real modules: `node`, `stream`, `eval`, `memory`, and under them `pool`.
//!
//! Each names the invariant that it would find broken; that it does was tried by breaking it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::array::Array;
use crate::cancel::CancelToken;
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::{async_eval, eval};
use crate::future::{EvalFuture, eval_async};
use crate::memory::{Heap, MemoryScope};
use crate::node::{Executable, Status};
use crate::options::CallOptions;
use crate::pool::{Pool, Priority};
use crate::shape::Spec;
use crate::stream::Stream;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Rank, thread};
use crate::tensor::Tensor;

/// Adds one to the sum of its inputs, and counts how often it runs.
struct Sum {
    runs: AtomicUsize,
    fails: bool,
}

impl Executable for Sum {
    fn name(&self) -> &str {
        "Sum"
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        _: &[Spec],
        _: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            return Err(Error::invalid("Sum", "made to fail"));
        }
        Ok(vec![number(1 + inputs.iter().map(value).sum::<u32>())])
    }
}

fn sum() -> Arc<Sum> {
    Arc::new(Sum {
        runs: AtomicUsize::new(0),
        fails: false,
    })
}

fn failing() -> Arc<Sum> {
    Arc::new(Sum {
        runs: AtomicUsize::new(0),
        fails: true,
    })
}

fn number(value: u32) -> Tensor {
    let spec = Spec::new([], Dtype::Uint32);
    let leaked: &'static mut u32 = Box::leak(Box::new(value));
    let address = std::ptr::NonNull::from(leaked).cast();
    // SAFETY: the number is leaked, so it lives and stays as it is for ever.
    let buffer = unsafe { crate::memory::Buffer::foreign(address, 4, Box::new(())) };
    Tensor {
        buffer: Arc::new(buffer),
        offset: 0,
        layout: spec.layout(),
    }
}

fn value(tensor: &Tensor) -> u32 {
    // SAFETY: `number` made it.
    unsafe { tensor.buffer.as_ptr().cast::<u32>().read() }
}

fn lazy(operation: &Arc<Sum>, inputs: &[Array], stream: &Stream) -> Array {
    apply(operation.clone(), inputs, stream, &Arc::default())
}

fn apply(
    operation: Arc<dyn Executable>,
    inputs: &[Array],
    stream: &Stream,
    options: &Arc<CallOptions>,
) -> Array {
    let spec = Spec::new([], Dtype::Uint32);
    Array::from_executable(operation, inputs, &[spec], stream.clone(), Some(options)).remove(0)
}

fn stream(pool: &Arc<Pool>) -> Stream {
    Stream::with_pool(Device::CPU, Arc::clone(pool), Priority::Normal)
}

fn get(array: &Array) -> Result<u32> {
    array.tensor().map(|tensor| value(&tensor))
}

fn spawn<T: 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T>
where
    T: Send,
{
    thread::spawn(work)
}

/// I1: two threads evaluate one graph; each node runs once and both see the value.
#[test]
fn loom_a_shared_node_is_scheduled_once() {
    loom::model(|| {
        let pool = Pool::new(2);
        let operation = sum();
        let s = stream(&pool);
        let x = lazy(&operation, &[], &s);
        let y = lazy(&operation, &[x], &s);
        let other = spawn({
            let y = y.clone();
            move || get(&y).unwrap()
        });
        assert_eq!(get(&y).unwrap(), 2);
        assert_eq!(other.join().unwrap(), 2);
        assert_eq!(operation.runs.load(Ordering::Relaxed), 2);
    });
}

/// Scenario 21: evaluation A needs p then y, B needs y then q; p depends on y, y on q. A walk that
/// claimed nodes would deadlock here.
#[test]
fn loom_evaluations_that_share_an_interior_node_in_both_orders() {
    loom::model(|| {
        let pool = Pool::new(2);
        let operation = sum();
        let (s, t) = (stream(&pool), stream(&pool));
        let q = lazy(&operation, &[], &s);
        let y = lazy(&operation, std::slice::from_ref(&q), &t);
        let p = lazy(&operation, std::slice::from_ref(&y), &s);
        let other = spawn({
            let (y, q) = (y.clone(), q.clone());
            move || eval(&[y, q]).unwrap()
        });
        eval(&[p.clone(), y]).unwrap();
        other.join().unwrap();
        assert_eq!(get(&p).unwrap(), 3);
        assert_eq!(operation.runs.load(Ordering::Relaxed), 3);
    });
}

/// I3 and I5: a thread that waits for a stream whose turn somebody else holds is woken, whether
/// that somebody stops before its fence or after.
#[test]
fn loom_no_wake_up_of_a_waiter_is_lost() {
    loom::model(|| {
        let pool = Pool::new(2);
        let operation = sum();
        let s = stream(&pool);
        let x = lazy(&operation, &[], &s);
        let y = lazy(&operation, &[], &s);
        let other = spawn(move || get(&x).unwrap());
        assert_eq!(get(&y).unwrap(), 1);
        assert_eq!(other.join().unwrap(), 1);
    });
}

/// I2 and I3: a command of one stream needs one of another that a second thread evaluates.
#[test]
fn loom_a_stream_waits_for_another() {
    loom::model(|| {
        let pool = Pool::new(2);
        let operation = sum();
        let (s, t) = (stream(&pool), stream(&pool));
        let x = lazy(&operation, &[], &s);
        let y = lazy(&operation, std::slice::from_ref(&x), &t);
        let other = spawn(move || get(&x).unwrap());
        assert_eq!(get(&y).unwrap(), 2);
        assert_eq!(other.join().unwrap(), 1);
    });
}

/// I3: what is submitted and not waited for is run by a worker; `synchronize` sees it done.
#[test]
fn loom_asynchronous_work_is_done_after_synchronize() {
    loom::model(|| {
        let pool = Pool::new(2);
        let operation = sum();
        let s = stream(&pool);
        let x = lazy(&operation, &[], &s);
        async_eval(std::slice::from_ref(&x)).unwrap();
        s.synchronize();
        assert_eq!(operation.runs.load(Ordering::Relaxed), 1);
        assert_eq!(get(&x).unwrap(), 1);
    });
}

/// Promise 4: a failure reaches its dependants and leaves the stream usable by others.
#[test]
fn loom_a_failure_reaches_its_dependants_alone() {
    loom::model(|| {
        let pool = Pool::new(2);
        let (good, bad) = (sum(), failing());
        let s = stream(&pool);
        let x = lazy(&bad, &[], &s);
        let y = lazy(&good, &[x], &s);
        let z = lazy(&good, &[], &s);
        let other = spawn(move || get(&z).unwrap());
        assert!(get(&y).is_err());
        assert_eq!(other.join().unwrap(), 1);
    });
}

/// Runs until it is opened, and tells that it has begun.
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn new() -> Arc<Gate> {
        Arc::new(Gate {
            state: Mutex::new(Rank::Leaf, (false, false)),
            changed: Condvar::new(),
        })
    }

    fn await_start(&self) {
        let mut state = self.state.lock();
        while !state.0 {
            state = state.wait(&self.changed);
        }
    }

    fn open(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}

impl Executable for Gate {
    fn name(&self) -> &str {
        "Gate"
    }

    fn execute(
        &self,
        _: &[Tensor],
        _: &[Spec],
        _: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let mut state = self.state.lock();
        state.0 = true;
        self.changed.notify_all();
        while !state.1 {
            state = state.wait(&self.changed);
        }
        Ok(vec![number(1)])
    }
}

/// A call that is cancelled while its caller waits for a stream that another keeps busy: the caller
/// comes back before the other is done. A wake-up that is lost is a deadlock here.
#[test]
fn loom_a_waiter_comes_back_when_its_call_is_cancelled() {
    loom::model(|| {
        let pool = Pool::new(2);
        let (gate, operation) = (Gate::new(), sum());
        let s = stream(&pool);
        let token = CancelToken::new();
        let options = CallOptions {
            cancel: Some(token.clone()),
            ..Default::default()
        };
        let x = apply(gate.clone(), &[], &s, &Arc::default());
        let y = apply(operation.clone(), &[], &s, &Arc::new(options));
        let other = spawn(move || get(&x).unwrap());
        gate.await_start();
        let canceller = spawn(move || token.cancel());
        assert_eq!(get(&y).err().unwrap().kind(), ErrorKind::Cancelled);
        gate.open();
        canceller.join().unwrap();
        assert_eq!(other.join().unwrap(), 1);
        s.synchronize();
        assert!(get(&y).is_err());
        assert_eq!(operation.runs.load(Ordering::Relaxed), 0);
    });
}

/// A call that is cancelled while its caller waits for a core: with the turn of its stream, or having
/// left that to workers. It comes back before the core is free, and who needs the stream then gets on.
fn check_cancelled_without_a_core(priority: Priority) {
    loom::model(move || {
        let pool = Pool::new(1);
        let operation = sum();
        let s = Stream::with_pool(Device::CPU, Arc::clone(&pool), priority);
        let token = CancelToken::new();
        let options = CallOptions {
            cancel: Some(token.clone()),
            ..Default::default()
        };
        let x = apply(operation.clone(), &[], &s, &Arc::new(options));
        let y = lazy(&operation, &[], &s);
        let core = pool.enter(Priority::Normal);
        let other = spawn(move || get(&x).err().unwrap().kind());
        token.cancel();
        assert_eq!(other.join().unwrap(), ErrorKind::Cancelled);
        drop(core);
        assert_eq!(get(&y).unwrap(), 1);
        assert_eq!(operation.runs.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_waiter_for_a_core_comes_back_when_its_call_is_cancelled() {
    check_cancelled_without_a_core(Priority::Urgent);
}

#[test]
fn loom_a_waiter_that_leaves_its_stream_to_workers_comes_back_when_its_call_is_cancelled() {
    check_cancelled_without_a_core(Priority::Normal);
}

/// Two threads for which no core is free leave two streams to workers, one of which needs the other.
#[test]
fn loom_streams_that_are_left_to_workers_are_run() {
    loom::model(|| {
        let pool = Pool::new(1);
        let operation = sum();
        let (s, t) = (stream(&pool), stream(&pool));
        let x = lazy(&operation, &[], &s);
        let y = lazy(&operation, &[x.clone()], &t);
        let core = pool.enter(Priority::Normal);
        let other = spawn(move || get(&y).unwrap());
        drop(core);
        assert_eq!(get(&x).unwrap(), 1);
        assert_eq!(other.join().unwrap(), 2);
    });
}

/// Drives a future as an executor does.
fn block_on(future: EvalFuture) -> Result<()> {
    struct Alarm(Mutex<bool>, Condvar);
    impl Wake for Alarm {
        fn wake(self: Arc<Self>) {
            *self.0.lock() = true;
            self.1.notify_one();
        }
    }
    let alarm = Arc::new(Alarm(Mutex::new(Rank::Leaf, false), Condvar::new()));
    let waker = Waker::from(Arc::clone(&alarm));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        let mut rung = alarm.0.lock();
        while !*rung {
            rung = rung.wait(&alarm.1);
        }
        *rung = false;
    }
}

/// A task that awaits an evaluation is woken when a worker, or another caller, has done the work.
#[test]
fn loom_a_future_is_woken() {
    loom::model(|| {
        let pool = Pool::new(1);
        let operation = sum();
        let s = stream(&pool);
        let x = lazy(&operation, &[], &s);
        block_on(x.eval_async()).unwrap();
        assert!(matches!(x.status(), Status::Done(Ok(_))));
        assert_eq!(operation.runs.load(Ordering::Relaxed), 1);
    });
}

/// A future is dropped while another thread evaluates what it evaluates: whoever is first, the other
/// thread gets its value. Broken joining shows as a missing input, or as an array that is still lazy.
#[test]
fn loom_a_future_dropped_against_an_evaluation_that_joins() {
    loom::model(|| {
        let pool = Pool::new(1);
        let operation = sum();
        let (s, t) = (stream(&pool), stream(&pool));
        let x = lazy(&operation, &[], &s);
        let y = lazy(&operation, &[x], &t);
        let future = y.eval_async();
        let other = spawn({
            let y = y.clone();
            move || get(&y).unwrap()
        });
        drop(future);
        assert_eq!(other.join().unwrap(), 2);
        // An operation runs once per evaluation.
        assert!((2..=4).contains(&operation.runs.load(Ordering::Relaxed)));
    });
}

/// What a dropped future has not begun is lazy again: computed by who asks next, and never twice by it.
#[test]
fn loom_a_future_dropped_against_the_worker_that_runs_it() {
    loom::model(|| {
        let pool = Pool::new(1);
        let operation = sum();
        let s = stream(&pool);
        let x = lazy(&operation, &[], &s);
        drop(x.eval_async());
        s.synchronize();
        let runs = operation.runs.load(Ordering::Relaxed);
        match x.status() {
            Status::Lazy(..) => assert_eq!(runs, 0),
            Status::Done(_) => assert_eq!(runs, 1),
            _ => panic!("neither lazy nor done behind its fence"),
        }
        assert_eq!(get(&x).unwrap(), 1);
        assert_eq!(operation.runs.load(Ordering::Relaxed), 1);
    });
}

/// I2: a command that was called off stands in line on `t` while its input, given back, is scheduled
/// again on `s` behind what waits for `t`. If it waited for its input, nobody could go on.
#[test]
fn loom_a_command_that_was_called_off_waits_for_nobody() {
    loom::model(|| {
        let pool = Pool::new(1);
        let operation = sum();
        let (s, t) = (stream(&pool), stream(&pool));
        let a = lazy(&operation, &[], &s);
        let b = lazy(&operation, std::slice::from_ref(&a), &t);
        let c = lazy(&operation, &[], &t);
        let d = lazy(&operation, &[c], &s);
        drop(b.eval_async());
        block_on(eval_async(&[d, a])).unwrap();
    });
}

/// Admission: calls that are together over a limit run one at a time, and who waits gets on.
#[test]
fn loom_calls_over_a_memory_limit_run_one_at_a_time() {
    struct Alone {
        inside: AtomicUsize,
    }
    impl Executable for Alone {
        fn name(&self) -> &str {
            "Alone"
        }

        fn execute(
            &self,
            _: &[Tensor],
            _: &[Spec],
            _: &Pool,
            _: &mut dyn FnMut() -> Result<()>,
        ) -> Result<Vec<Tensor>> {
            assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0);
            self.inside.fetch_sub(1, Ordering::Relaxed);
            Ok(vec![number(1)])
        }
    }
    loom::model(|| {
        let pool = Pool::new(2);
        let scope = MemoryScope::new("scope");
        scope.set_limit(1);
        let options = CallOptions {
            memory: Some(scope),
            ..Default::default()
        };
        let (options, inside) = (Arc::new(options), AtomicUsize::new(0));
        let operation: Arc<dyn Executable> = Arc::new(Alone { inside });
        let lazy = |stream: &Stream| {
            let specs = [Spec::new([], Dtype::Uint32)];
            Array::from_executable(
                Arc::clone(&operation),
                &[],
                &specs,
                stream.clone(),
                Some(&options),
            )
            .remove(0)
        };
        let (x, y) = (lazy(&stream(&pool)), lazy(&stream(&pool)));
        let other = spawn(move || get(&x).unwrap());
        assert_eq!(get(&y).unwrap(), 1);
        assert_eq!(other.join().unwrap(), 1);
    });
}

/// Memory: the last use of a buffer happens before its next, on whatever thread that is.
#[test]
fn loom_a_reused_buffer_is_nobody_elses() {
    loom::model(|| {
        const BYTES: usize = crate::tuning::CACHED_BUFFER_BYTES;
        let heap = Arc::new(Heap::new(usize::MAX / 2, usize::MAX / 2));
        // The cell stands for the memory: loom reports accesses that are not ordered.
        let cells: Arc<std::sync::Mutex<Vec<(usize, Arc<Shadow>)>>> = Arc::default();
        let use_one = move |heap: &Arc<Heap>| {
            let buffer = heap.allocate(BYTES).unwrap();
            let address = buffer.as_ptr() as usize;
            let shadow = {
                let mut cells = cells.lock().unwrap();
                match cells.iter().find(|(a, _)| *a == address) {
                    Some((_, shadow)) => Arc::clone(shadow),
                    None => {
                        cells.push((address, Arc::default()));
                        Arc::clone(&cells[cells.len() - 1].1)
                    }
                }
            };
            shadow.0.with_mut(|_| ());
            drop(shadow);
            drop(buffer);
        };
        let other = spawn({
            let (heap, use_one) = (Arc::clone(&heap), use_one.clone());
            move || use_one(&heap)
        });
        use_one(&heap);
        other.join().unwrap();
        assert_eq!(heap.active(), 0);
    });
}

struct Shadow(loom::cell::UnsafeCell<()>);

impl Default for Shadow {
    fn default() -> Shadow {
        Shadow(loom::cell::UnsafeCell::new(()))
    }
}

// SAFETY: loom's cell checks at run time what `Sync` promises: that accesses are ordered.
unsafe impl Send for Shadow {}
// SAFETY: as above.
unsafe impl Sync for Shadow {}
