//! A small executor: futures that all threads of a program share, polled by whichever comes by.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use motet::EvalFuture;
use motet_core::error::Result;

use super::execute::lock;
use super::program::Id;

/// What the threads of a program have spawned.
#[derive(Default)]
pub(super) struct Executor {
    /// In the order in which they were spawned, those that are done included.
    spawned: Mutex<VecDeque<Arc<Task>>>,
    ready: Arc<Ready>,
}

/// The tasks that were woken, in that order, and not polled since.
#[derive(Default)]
struct Ready {
    tasks: Mutex<VecDeque<Arc<Task>>>,
    woken: Condvar,
}

struct Task {
    ids: Vec<Id>,
    /// Nothing when it is done or was dropped. The lock is held while it is polled.
    future: Mutex<Option<EvalFuture>>,
    ready: Arc<Ready>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let ready = Arc::clone(&self.ready);
        lock(&ready.tasks).push_back(self);
        ready.woken.notify_one();
    }
}

impl Executor {
    /// Takes an evaluation of these nodes over, as ready to be polled.
    pub(super) fn spawn(&self, ids: &[Id], future: EvalFuture) {
        let task = Arc::new(Task {
            ids: ids.to_vec(),
            future: Mutex::new(Some(future)),
            ready: Arc::clone(&self.ready),
        });
        lock(&self.spawned).push_back(Arc::clone(&task));
        task.wake();
    }

    /// Polls what is ready, until nothing is. `done` is told how the evaluation of these nodes ended.
    pub(super) fn run(&self, done: &dyn Fn(&[Id], Result<()>)) {
        loop {
            let Some(task) = lock(&self.ready.tasks).pop_front() else {
                return;
            };
            let waker = Waker::from(Arc::clone(&task));
            let mut slot = lock(&task.future);
            let polled = slot.as_mut().map(|future| poll(future, &waker));
            if let Some(Poll::Ready(result)) = polled {
                let future = slot.take();
                drop(slot);
                drop(future);
                done(&task.ids, result);
            }
        }
    }

    /// Drops the future that was spawned first; returns whether it was not done.
    pub(super) fn kill(&self) -> bool {
        let Some(task) = lock(&self.spawned).pop_front() else {
            return false;
        };
        let future = lock(&task.future).take();
        future.is_some()
    }

    /// Polls until all are done. One that is never woken makes this wait for ever.
    pub(super) fn finish(&self, done: &dyn Fn(&[Id], Result<()>)) {
        loop {
            self.run(done);
            let mut spawned = lock(&self.spawned);
            spawned.retain(|task| lock(&task.future).is_some());
            if spawned.is_empty() {
                return;
            }
            drop(spawned);
            let ready = lock(&self.ready.tasks);
            let woken = self.ready.woken.wait_while(ready, |ready| ready.is_empty());
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Waits for a future on the calling thread.
pub(super) fn block_on(mut future: EvalFuture) -> Result<()> {
    let waker = this_thread();
    loop {
        match poll(&mut future, &waker) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls a future so many times, and drops it; how it ended if it was done by then.
pub(super) fn abandon(mut future: EvalFuture, polls: usize) -> Option<Result<()>> {
    let waker = this_thread();
    for _ in 0..polls {
        if let Poll::Ready(result) = poll(&mut future, &waker) {
            return Some(result);
        }
        thread::yield_now();
    }
    None
}

fn poll(future: &mut EvalFuture, waker: &Waker) -> Poll<Result<()>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn this_thread() -> Waker {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Waker::from(Arc::new(Unpark(thread::current())))
}
