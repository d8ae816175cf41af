//! How a call ends early: what says so (cancel tokens, deadlines, futures dropped), and who looks.
//!
//! | who | when |
//! |---|---|
//! | a command | before it starts, and between the steps of a plan (`Limits::check`) |
//! | a kernel, on each of its threads | before every tile (`check_tile`) |
//! | what gives work to a device that runs behind its launches | as it does ([`submit`]) |
//! | a thread that waits for the call: for a stream, a core, memory, a plan | between the commands that it runs; asleep, it is woken |
//!
//! The thread that runs a command knows the command's limits by a thread-local (`Limits::within`),
//! which regions carry on to their helpers. Calls without limits cost a check for null per tile; with
//! a token or a future it is a load of a word that is written once, with a deadline a look at the
//! clock, 25 ns, where tiles take ten microseconds and more.
//!
//! # Starting against cancelling
//!
//! The CPU's tiles and steps start where the check is made: in the order of all reads and writes of
//! the token's word, each start comes before the cancellation or does not happen. More cannot be had
//! from a thread: it may have passed the check and be stopped by the system before its first
//! instruction, and [`CancelToken::cancel`] waits for no kernel. A device that runs behind its
//! launches is different: to launch is to submit, takes a moment, and must not happen late (a phone
//! ends applications that use the GPU in the background). So submissions announce themselves in the
//! token's word, if it is not cancelled, by one atomic step; cancelling sets a bit there and then
//! waits for those that had announced themselves. It waits for nothing else, and not at all where its
//! thread is submitting itself: no cycle of waits can form.

use std::cell::Cell;
use std::fmt;
use std::panic::resume_unwind;
use std::ptr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::future::Evaluation;
use crate::options::CallOptions;
use crate::parker::Parker;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::LocalKey;
use crate::sync::{Condvar, Mutex, Rank, assert_unlocked};

#[cfg(loom)]
use crate::sync::thread_local;

thread_local! {
    /// The limits of the command that this thread runs or helps; null where there are none.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static CURRENT: Cell<*const Limits<'static>> = Cell::new(ptr::null());
    /// Whether this thread is within [`submit`].
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static SUBMITTING: Cell<bool> = Cell::new(false);
}

/// Cancels the calls that it was given to; clones share one state.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Token>);

struct Token {
    /// The bit [`CANCELLED`], and the number of submissions in progress, which rises only while the
    /// bit is not set. Release, Acquire: who sees the cancellation sees what was done before it, and
    /// who has cancelled sees what was submitted.
    state: AtomicUsize,
    /// Sleeping waiters of the token's calls. Its lock is also what `cancel` sleeps on. Whoever adds
    /// itself looks at `state` after that, whoever cancels looks here after that: none is missed.
    sleepers: Mutex<Vec<Arc<Parker>>>,
    submitted: Condvar,
}

const CANCELLED: usize = 1 << (usize::BITS - 1);

impl Default for Token {
    fn default() -> Token {
        Token {
            state: AtomicUsize::new(0),
            sleepers: Mutex::new(Rank::Leaf, Vec::new()),
            submitted: Condvar::new(),
        }
    }
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Cancels the calls with this token, for good. They end with
    /// [`Cancelled`](ErrorKind::Cancelled), unless they are done already; no other call is touched,
    /// whatever it shares with them.
    ///
    /// Once this has returned, none of these calls gives any more work to a device. On the CPU, where
    /// the threads are the device, none of them takes a further step of its plan or tile of its
    /// kernel: what a thread has begun, at most a tile, it ends. A tile takes microseconds, or
    /// milliseconds where lines of many thousands of elements are sorted. What cannot be divided is the
    /// Fourier transform of one line and the factorisation of one matrix. Threads that wait for such a
    /// call return, even while other work keeps its stream busy.
    ///
    /// Any thread may call this at any time, also one that runs the call. It does not wait for
    /// kernels. In a program in which panics abort, calls end between steps, not between tiles.
    pub fn cancel(&self) {
        assert_unlocked();
        let token = &*self.0;
        token.state.fetch_or(CANCELLED, Ordering::AcqRel);
        let sleepers = std::mem::take(&mut *token.sleepers.lock());
        sleepers.iter().for_each(|parker| parker.unpark());
        if SUBMITTING.with(Cell::get) {
            return;
        }
        let mut lock = token.sleepers.lock();
        while token.state.load(Ordering::Acquire) != CANCELLED {
            lock = lock.wait(&token.submitted);
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.state.load(Ordering::Acquire) & CANCELLED != 0
    }

    /// Has `parker` woken by the cancellation, while what this returns lives. The caller looks
    /// whether the token is cancelled after this.
    pub(crate) fn wakes(&self, parker: &Arc<Parker>) -> Sleeper {
        self.0.sleepers.lock().push(Arc::clone(parker));
        Sleeper {
            token: self.clone(),
            parker: Arc::clone(parker),
        }
    }

    /// Announces a submission, unless the token is cancelled.
    fn announce(&self) -> Option<Submission<'_>> {
        let one_more = |state| (state & CANCELLED == 0).then_some(state + 1);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let announced = self.0.state.fetch_update(order.0, order.1, one_more);
        announced.is_ok().then(|| Submission(&self.0))
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelToken(cancelled: {})", self.is_cancelled())
    }
}

/// A waiter that the token wakes; dropping this ends it.
pub(crate) struct Sleeper {
    token: CancelToken,
    parker: Arc<Parker>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let mut sleepers = self.token.0.sleepers.lock();
        let at = sleepers.iter().position(|p| Arc::ptr_eq(p, &self.parker));
        let removed = at.map(|at| sleepers.swap_remove(at));
        drop(sleepers);
        drop(removed);
    }
}

/// A submission in progress.
struct Submission<'a>(&'a Token);

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        if self.0.state.fetch_sub(1, Ordering::AcqRel) == CANCELLED | 1 {
            // Under the lock, so that who cancels has not looked yet or is asleep already.
            let lock = self.0.sleepers.lock();
            self.0.submitted.notify_all();
            drop(lock);
        }
    }
}

/// For backends whose devices run behind their launches: runs `work`, which gives a device
/// something to do, unless the call that the thread works for has ended. While `work` runs,
/// [`CancelToken::cancel`] does not return. It has to be short, and must not wait for anything.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), [`DeadlineExceeded`](ErrorKind::DeadlineExceeded); `work` has
/// not been run then.
pub fn submit<R>(work: impl FnOnce() -> R) -> Result<R> {
    assert_unlocked();
    with_current(|limits| {
        let Some(limits) = limits else {
            return Ok(work());
        };
        limits.check("submit")?;
        let Some(token) = &limits.options.cancel else {
            return Ok(work());
        };
        let submission = token.announce().ok_or_else(|| cancelled("submit"))?;
        let _submitting = Restore(&SUBMITTING, SUBMITTING.with(|flag| flag.replace(true)));
        // Dropped before the flag is restored: the submission has then ended.
        let _submission = submission;
        Ok(work())
    })
}

/// What may end a computation before its end.
pub(crate) struct Limits<'a> {
    pub(crate) options: &'a CallOptions,
    pub(crate) evaluation: Option<&'a Evaluation>,
}

impl Limits<'_> {
    /// An error if the computation has to end.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.evaluation.is_some_and(Evaluation::is_called_off) {
            return Err(cancelled(name));
        }
        self.options.check(name)
    }

    /// Calls `work`, in which [`check_tile`] and [`submit`] heed these limits, and no others.
    pub(crate) fn within<R>(&self, work: impl FnOnce() -> R) -> R {
        let limits = match self.options.is_limited() || self.evaluation.is_some() {
            true => ptr::from_ref(self).cast(),
            false => ptr::null(),
        };
        // SAFETY: `self` outlives the call.
        unsafe { within(Current(limits), work) }
    }
}

/// The limits that the calling thread heeds, to be heeded by another thread as well.
#[derive(Clone, Copy)]
pub(crate) struct Current(*const Limits<'static>);

impl Current {
    /// Those of the calling thread.
    pub(crate) fn get() -> Current {
        Current(CURRENT.with(Cell::get))
    }
}

/// Calls `work`, in which nothing ends early: for what is computed on behalf of others, too.
pub(crate) fn unlimited<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: there are no limits that would have to live.
    unsafe { within(Current(ptr::null()), work) }
}

/// Calls `work` with these limits as the calling thread's.
///
/// # Safety
/// The limits live until this returns or unwinds.
pub(crate) unsafe fn within<R>(limits: Current, work: impl FnOnce() -> R) -> R {
    let outer = CURRENT.with(|current| current.replace(limits.0));
    let _restore = Restore(&CURRENT, outer);
    work()
}

/// Gives a thread-local its former value back, also when unwinding.
struct Restore<T: Copy + 'static>(&'static LocalKey<Cell<T>>, T);

impl<T: Copy + 'static> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.with(|cell| cell.set(self.1));
    }
}

fn with_current<R>(look: impl FnOnce(Option<&Limits<'_>>) -> R) -> R {
    let limits = CURRENT.with(Cell::get);
    // SAFETY: null, or set by `within`, which puts back what was there before the limits end.
    look(unsafe { limits.as_ref() })
}

/// What [`check_tile`] unwinds with; [`Error::from_panic`] gives the error back.
pub(crate) struct Interrupted(pub(crate) Error);

/// To be called between tiles: unwinds, without a panic's message, if the call that the thread works
/// for has ended. A kernel so interrupted leaves its outputs half-written, as one that panics does.
///
/// In a program in which panics abort nothing is done here: a call then ends between steps.
pub(crate) fn check_tile() {
    if cfg!(panic = "abort") {
        return;
    }
    let ended = with_current(|limits| limits.and_then(|limits| limits.check("call").err()));
    if let Some(error) = ended {
        resume_unwind(Box::new(Interrupted(error)));
    }
}

pub(crate) fn cancelled(name: &str) -> Error {
    Error::new(ErrorKind::Cancelled, name, "the call was cancelled")
}

#[cfg(all(test, loom, not(shuttle)))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::thread;

    struct Device(UnsafeCell<usize>);

    // SAFETY: loom reports accesses that conflict.
    unsafe impl Sync for Device {}
    // SAFETY: as above.
    unsafe impl Send for Device {}

    /// Whether it could be submitted.
    fn submit_to(device: &Device, token: &CancelToken) -> bool {
        let options = CallOptions {
            cancel: Some(token.clone()),
            ..Default::default()
        };
        let limits = Limits {
            options: &options,
            evaluation: None,
        };
        // SAFETY: loom checks that nobody looks meanwhile.
        let touch = || device.0.with_mut(|count| unsafe { *count += 1 });
        limits.within(|| submit(touch)).is_ok()
    }

    /// What was submitted happens before `cancel` returns, and nothing is submitted after.
    #[test]
    fn loom_nothing_is_submitted_after_cancel_has_returned() {
        loom::model(|| {
            let token = CancelToken::new();
            let device = Arc::new(Device(UnsafeCell::new(0)));
            let submitter = thread::spawn({
                let (token, device) = (token.clone(), Arc::clone(&device));
                move || {
                    let first = submit_to(&device, &token);
                    let second = submit_to(&device, &token);
                    assert!(first || !second);
                    usize::from(first) + usize::from(second)
                }
            });
            token.cancel();
            // SAFETY: loom checks that nobody submits any more.
            let count = device.0.with(|count| unsafe { *count });
            assert_eq!(submitter.join().unwrap(), count);
        });
    }

    /// Two threads that cancel what the other is submitting do not wait for each other.
    #[test]
    fn loom_cancelling_while_submitting_does_not_wait() {
        loom::model(|| {
            let tokens = [CancelToken::new(), CancelToken::new()];
            let cross = |own: CancelToken, other: CancelToken| {
                let options = CallOptions {
                    cancel: Some(own),
                    ..Default::default()
                };
                let limits = Limits {
                    options: &options,
                    evaluation: None,
                };
                let _either = limits.within(|| submit(|| other.cancel()));
            };
            let [a, b] = tokens.clone();
            let second = thread::spawn(move || cross(a, b));
            let [a, b] = tokens.clone();
            cross(b, a);
            second.join().unwrap();
            assert!(tokens.iter().any(CancelToken::is_cancelled));
        });
    }
}
