//! Memory scopes: who uses how much memory, and how much of it they may.
//!
//! Scopes form a tree under the process. A buffer counts for the scope that was current on the thread
//! that allocated it, and for all above that, until it is freed, on whatever thread. Counting is an
//! atomic or two for each level; what runs without a scope counts for the process alone.
//!
//! How the running command tells allocations their scope: a thread-local that is set around the
//! command, and around the making of a plan, and nowhere else. Buffers are allocated in few places,
//! but below every kernel class, pass and reader; an argument would go through all of them.
//! Kernels allocate on the thread that launches them, so helpers need not know the scope.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use super::admission::InFlight;
use crate::sync::atomic::{AtomicUsize, Ordering};

#[cfg(loom)]
use crate::sync::thread_local;

/// Accounts for the memory of what it is given to, a model for instance, and limits it.
///
/// Clones are handles to one scope. Any thread may read and set it.
///
/// ```
/// # use motet_core::memory::MemoryScope;
/// let server = MemoryScope::new("server");
/// let encoder = server.child("encoder");
/// encoder.set_limit(512 << 20);
/// assert_eq!((encoder.active(), encoder.limit()), (0, 512 << 20));
/// ```
#[derive(Clone)]
pub struct MemoryScope(Arc<Scope>);

struct Scope {
    name: String,
    parent: Option<MemoryScope>,
    account: Account,
}

impl MemoryScope {
    /// A scope right under the process, without a limit of its own. The name is for messages.
    pub fn new(name: impl Into<String>) -> MemoryScope {
        MemoryScope::under(None, name.into())
    }

    /// A scope within this one: what counts for the child counts for this one, too, and both limits
    /// hold.
    pub fn child(&self, name: impl Into<String>) -> MemoryScope {
        MemoryScope::under(Some(self.clone()), name.into())
    }

    fn under(parent: Option<MemoryScope>, name: String) -> MemoryScope {
        MemoryScope(Arc::new(Scope {
            name,
            parent,
            account: Account::new(usize::MAX),
        }))
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes in use: arrays, workspaces, and weights, those that are read from a mapped file
    /// included.
    ///
    /// A weight counts once, for the scope that first needed it, as long as anything uses it: for as
    /// many bytes as it takes in the form in which it is used. The part of a mapped file that a packed
    /// copy stands for does not count, as its pages are given back.
    pub fn active(&self) -> usize {
        self.0.account.active()
    }

    /// The most bytes that were in use at once since the scope was made or
    /// [`reset_peak`](MemoryScope::reset_peak).
    pub fn peak(&self) -> usize {
        self.0.account.peak()
    }

    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        self.0.account.reset_peak();
    }

    /// Bytes in freed buffers of this scope that the process keeps for reuse, by whomever.
    pub fn cached(&self) -> usize {
        self.0.account.cached()
    }

    /// The most bytes that may be in use and kept; `usize::MAX` where nothing was set.
    pub fn limit(&self) -> usize {
        self.0.account.limit()
    }

    /// Sets the most bytes that may be in use; returns what it was. It may be less than what is in
    /// use: that stays, new work waits or fails.
    ///
    /// Work that would be over the limit first frees what the scope has in the cache, then waits for
    /// calls in flight of the scope, and then fails with
    /// [`ErrorKind::Memory`](crate::error::ErrorKind::Memory).
    pub fn set_limit(&self, bytes: usize) -> usize {
        self.0.account.set_limit(bytes)
    }

    /// Gives the freed buffers that were this scope's back to the system.
    #[cfg(not(loom))]
    pub fn clear_cache(&self) {
        super::heap().trim(Some(self));
    }

    /// Whether it is `other` or somewhere below it.
    pub(super) fn is_within(&self, other: &MemoryScope) -> bool {
        chain(Some(self)).any(|scope| scope == other)
    }

    pub(super) fn account(&self) -> &Account {
        &self.0.account
    }
}

impl PartialEq for MemoryScope {
    fn eq(&self, other: &MemoryScope) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for MemoryScope {}

impl fmt::Debug for MemoryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryScope({})", self.name())
    }
}

/// A scope and all above it, up to the process, which is none.
pub(super) fn chain(scope: Option<&MemoryScope>) -> impl Iterator<Item = &MemoryScope> {
    std::iter::successors(scope, |scope| scope.0.parent.as_ref())
}

/// The accounts of a scope and all above it, that of the process aside.
pub(super) fn accounts(
    scope: Option<&MemoryScope>,
) -> impl Iterator<Item = (Option<&MemoryScope>, &Account)> {
    chain(scope).map(|scope| (Some(scope), scope.account()))
}

/// The numbers of a scope, or of the process. They publish nothing: all Relaxed.
pub(super) struct Account {
    pub(super) in_flight: InFlight,
    /// The limit before one is set.
    most: usize,
    /// At most `limit` when bytes are added; the budget is taken before the memory is.
    active: AtomicUsize,
    peak: AtomicUsize,
    cached: AtomicUsize,
    limit: AtomicUsize,
}

impl Account {
    pub(super) fn new(limit: usize) -> Account {
        Account {
            in_flight: InFlight::default(),
            most: limit,
            active: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
        }
    }

    /// Counts bytes as active if they are within the limit.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let within = |active: usize| {
            let sum = active.checked_add(bytes)?;
            (sum <= self.limit()).then_some(sum)
        };
        let taken = self
            .active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.is_ok()
    }

    pub(super) fn give(&self, bytes: usize) {
        self.active.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn note_peak(&self) {
        let active = self.active();
        if active > self.peak() {
            self.peak.fetch_max(active, Ordering::Relaxed);
        }
    }

    pub(super) fn cache(&self, bytes: usize) {
        self.cached.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn uncache(&self, bytes: usize) {
        self.cached.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether somebody set a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit() < self.most
    }

    /// Whether what is cached has to go.
    pub(super) fn is_over(&self) -> bool {
        self.active().saturating_add(self.cached()) > self.limit()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn reset_peak(&self) {
        self.peak.store(self.active(), Ordering::Relaxed);
    }

    pub(super) fn cached(&self) -> usize {
        self.cached.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, bytes: usize) -> usize {
        self.limit.swap(bytes, Ordering::Relaxed)
    }
}

thread_local! {
    /// The scope of what this thread does now.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static CURRENT: RefCell<Option<MemoryScope>> = RefCell::new(None);

    /// Whether this thread runs a command.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static RUNNING: Cell<bool> = Cell::new(false);
}

/// The calling thread's current scope; none on a thread that is ending.
pub(super) fn current() -> Option<MemoryScope> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .unwrap_or(None)
}

/// Does `work` with this scope, or none, as the calling thread's current one.
pub fn within<T>(scope: Option<&MemoryScope>, work: impl FnOnce() -> T) -> T {
    /// Brings the outer scope back, in whatever way `work` ends.
    struct Outer(Option<MemoryScope>);
    impl Drop for Outer {
        fn drop(&mut self) {
            let outer = self.0.take();
            // The inner scope is dropped outside of the borrow.
            let _inner = CURRENT.try_with(|current| current.replace(outer));
        }
    }
    let outer = CURRENT.try_with(|current| current.replace(scope.cloned()));
    let _outer = Outer(outer.unwrap_or(None));
    work()
}

/// Runs a command, within this scope or none.
pub(crate) fn run<T>(scope: Option<&MemoryScope>, command: impl FnOnce() -> T) -> T {
    /// Says what was said before, in whatever way the command ends.
    struct Outer(bool);
    impl Drop for Outer {
        fn drop(&mut self) {
            let _ = RUNNING.try_with(|running| running.set(self.0));
        }
    }
    let outer = RUNNING.try_with(|running| running.replace(true));
    let _outer = Outer(outer.unwrap_or(false));
    within(scope, command)
}

/// Whether the calling thread runs a command, and must not wait for others.
pub(super) fn is_running() -> bool {
    RUNNING.try_with(Cell::get).unwrap_or(false)
}
