//! Admission by memory: evaluations that may be over a limit wait for calls in flight.
//!
//! An evaluation announces what it will need to each limited account that it counts for, before
//! anything of it is scheduled, and the announcement holds until what was scheduled is done. Where the
//! announcements and what is in use are over the limit, and some calls are in flight, it waits for
//! those first. Alone it goes on in any case: an announcement is an upper bound, as it takes no account
//! of what is freed on the way, and whether there is enough memory is for allocations to say.
//!
//! ```text
//!   walk --> announce --------------------> schedule --> fences are known --> done
//!     ^         | no room: all taken back
//!     +-- wait -+ for a fence in flight, or for a call that is about to be scheduled
//! ```
//!
//! Who waits cannot be waited for by whom it waits for: it has announced nothing, what it scheduled
//! before (it meets obstacles, and tries again) runs without it, as whoever waits helps; it holds
//! no lock, turn or core (inside of a command nobody waits here), and so no command depends on it. It
//! waits for fences, as every evaluation does, helping; or for a thread between its announcement and
//! its schedule, which waits for nothing there. Accounts are asked in one order, so that two
//! evaluations do not take turns in being in each other's way.
//!
//! Where no limit was set this costs a load for each evaluation.

use smallvec::SmallVec;

use super::scope::{Account, is_running};
use super::{MemoryScope, accounts};
use crate::eval::Streams;
use crate::stream::{Fence, Stream};
use crate::sync::{Condvar, Mutex, Rank};

/// What an account's calls in flight will need.
pub(super) struct InFlight {
    /// Announced and scheduled calls; the lock is held for a few moves, and for as many fences as
    /// there are.
    calls: Mutex<Calls>,
    /// Signalled whenever an announcement becomes a scheduled call, or is taken back.
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    /// The bytes of all, those that are about to be scheduled included.
    announced: usize,
    /// The calls that are scheduled, with fences at their ends.
    scheduled: Vec<(usize, SmallVec<[Fence; 1]>)>,
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight {
            calls: Mutex::new(Rank::Leaf, Calls::default()),
            changed: Condvar::new(),
        }
    }
}

/// What an evaluation needs: bytes by scope, for those for which it matters.
#[derive(Default)]
pub(crate) struct Needs(SmallVec<[(Option<MemoryScope>, usize); 1]>);

impl Needs {
    /// Adds what a call with this scope needs.
    pub(crate) fn add(&mut self, scope: Option<&MemoryScope>, bytes: impl FnOnce() -> usize) {
        if !accounts(scope).any(|(_, account)| account.is_limited()) {
            return;
        }
        let same = self.0.iter_mut().find(|(own, _)| own.as_ref() == scope);
        match same {
            Some((_, sum)) => *sum = sum.saturating_add(bytes()),
            None => self.0.push((scope.cloned(), bytes())),
        }
    }

    /// The limited accounts, each with its bytes, in the order of their addresses.
    fn by_account(&self) -> SmallVec<[(&Account, usize); 2]> {
        let mut levels: SmallVec<[(&Account, usize); 2]> = SmallVec::new();
        for (scope, bytes) in &self.0 {
            for (_, account) in accounts(scope.as_ref()).filter(|(_, a)| a.is_limited()) {
                match levels.iter_mut().find(|(a, _)| std::ptr::eq(*a, account)) {
                    Some((_, sum)) => *sum = sum.saturating_add(*bytes),
                    None => levels.push((account, *bytes)),
                }
            }
        }
        levels.sort_unstable_by_key(|(account, _)| std::ptr::from_ref(*account).addr());
        levels
    }

    /// Lets `schedule` schedule the evaluation and add the streams that it is on, if there is room. If
    /// not, gives a fence at which there may be: what is needed has to be looked at anew then.
    pub(crate) fn admit<R>(
        &self,
        streams: &mut Streams,
        schedule: impl FnOnce(&mut Streams) -> R,
    ) -> Result<R, Fence> {
        if self.0.is_empty() {
            return Ok(schedule(streams));
        }
        let levels = self.by_account();
        let mut announced = 0;
        while let Some((account, bytes)) = levels.get(announced) {
            if account.in_flight.announce(account, *bytes) {
                announced += 1;
                continue;
            }
            for (account, bytes) in &levels[..std::mem::take(&mut announced)] {
                account.in_flight.settle(*bytes, None);
            }
            if let Some(fence) = account.in_flight.next() {
                return Err(fence);
            }
        }
        let result = schedule(streams);
        let fences: SmallVec<[Fence; 1]> = streams.iter().map(Stream::fence).collect();
        for (account, bytes) in &levels {
            account.in_flight.settle(*bytes, Some(fences.clone()));
        }
        Ok(result)
    }
}

impl InFlight {
    /// Announces bytes if there is room for them, or nothing to wait for.
    fn announce(&self, account: &Account, bytes: usize) -> bool {
        let mut calls = self.calls.lock();
        let done =
            |(_, fences): &mut (usize, SmallVec<[Fence; 1]>)| fences.iter().all(Fence::is_done);
        let gone: Vec<_> = calls.scheduled.extract_if(.., done).collect();
        let given_back: usize = gone.iter().map(|(bytes, _)| bytes).sum();
        calls.announced -= given_back;
        let sum = account.active().saturating_add(calls.announced);
        let fits = sum.saturating_add(bytes) <= account.limit();
        let admitted = fits || calls.announced == 0 || is_running();
        if admitted {
            calls.announced = calls.announced.saturating_add(bytes);
        }
        // With the last handle to a stream other things may go that take locks.
        drop(calls);
        drop(gone);
        admitted
    }

    /// What was announced is scheduled, and done with these fences; or will not be.
    fn settle(&self, bytes: usize, fences: Option<SmallVec<[Fence; 1]>>) {
        let mut calls = self.calls.lock();
        match fences {
            Some(fences) => calls.scheduled.push((bytes, fences)),
            None => calls.announced -= bytes,
        }
        drop(calls);
        self.changed.notify_all();
    }

    /// Where the first of the calls is done, if any is scheduled. If one is about to be, comes back
    /// when it is: its thread does nothing else between, so this is no longer than for a lock.
    fn next(&self) -> Option<Fence> {
        let calls = self.calls.lock();
        match calls.scheduled.first() {
            Some((_, fences)) => fences.iter().find(|fence| !fence.is_done()).cloned(),
            None => {
                if calls.announced > 0 {
                    drop(calls.wait(&self.changed));
                }
                None
            }
        }
    }
}
