//! A cache whose entries are made once: single flight, bounded, least recently used goes first.
//!
//! A hit takes one short lock and waits for nobody. Nothing is locked while an entry is being made;
//! only those who need that entry wait for it. A failure goes to all of them, and the next caller
//! tries again; where it was memory that the maker did not have, whoever waited tries at once, as its
//! own limits may be others. An entry is for all: the end of the maker's call does not end the making.
//! The end of a waiter's call ends its wait.
//!
//! ```text
//!   absent --first caller--> Making --made--> Made --evicted--> absent
//!                                   \-failed-------------------> absent
//! ```

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::cancel::unlimited;
use crate::error::{Error, ErrorKind, Result};
use crate::options::CallOptions;
use crate::parker::Parker;
use crate::sync::{Mutex, Rank, assert_unlocked, thread};
use crate::trace::{self, Cause};

/// Values by key, each made by the first who asks for it.
pub struct PlanCache<K, V> {
    capacity: usize,
    entries: Mutex<Entries<K, V>>,
}

struct Entries<K, V> {
    by_key: FxHashMap<K, Entry<V>>,
    /// Counts uses: tells which entry was used last.
    clock: u64,
}

enum Entry<V> {
    Making(Arc<Flight<V>>),
    Made { value: Arc<V>, used: u64 },
}

/// Where those who need an entry that is being made wait.
struct Flight<V> {
    /// Who makes the entry, and would wait for itself.
    maker: thread::ThreadId,
    landing: Mutex<Landing<V>>,
}

struct Landing<V> {
    result: Option<Result<Arc<V>>>,
    /// To be woken when there is one. Who waits adds itself in the step in which it finds none, so
    /// nobody is missed.
    waiters: Vec<Arc<Parker>>,
}

/// What a caller has to do.
enum Part<V> {
    Take(Arc<V>),
    Wait(Arc<Flight<V>>),
    Make(Arc<Flight<V>>),
}

impl<K: Clone + Eq + Hash, V> PlanCache<K, V> {
    /// An empty cache that keeps at most `capacity` values (at least one).
    pub fn new(capacity: usize) -> PlanCache<K, V> {
        PlanCache {
            capacity: capacity.max(1),
            entries: Mutex::new(
                Rank::Leaf,
                Entries {
                    by_key: FxHashMap::default(),
                    clock: 0,
                },
            ),
        }
    }

    /// The value of `key`, made by `build` if nobody has made it.
    ///
    /// # Errors
    /// What `build` returned, or that it panicked; the same for all who waited for it, a lack of memory
    /// aside. Where `build` asks this cache for the same key. Where the call of these options ends
    /// while another thread makes the value.
    pub fn get_or_build(
        &self,
        key: &K,
        options: &CallOptions,
        build: impl FnOnce() -> Result<V>,
    ) -> Result<Arc<V>> {
        let flight = loop {
            match self.part(key) {
                Part::Take(value) => return Ok(value),
                Part::Make(flight) => break flight,
                Part::Wait(flight) => match flight.wait(options) {
                    // Each time round one who tried has failed and gone, so this ends.
                    Err(error) if error.kind() == ErrorKind::Memory => {}
                    result => return result,
                },
            }
        };
        assert_unlocked();
        let result = catch_unwind(AssertUnwindSafe(|| unlimited(build)))
            .unwrap_or_else(|panic| Err(Error::from_panic("compile", &*panic)))
            .map(Arc::new);
        self.keep(key, &result);
        flight.land(result.clone());
        result
    }

    /// The number of values that are kept.
    pub fn len(&self) -> usize {
        let entries = self.entries.lock();
        let made = |entry: &&Entry<V>| matches!(entry, Entry::Made { .. });
        entries.by_key.values().filter(made).count()
    }

    /// Whether no value is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn part(&self, key: &K) -> Part<V> {
        let mut entries = self.entries.lock();
        entries.clock += 1;
        let now = entries.clock;
        match entries.by_key.get_mut(key) {
            Some(Entry::Made { value, used }) => {
                *used = now;
                Part::Take(Arc::clone(value))
            }
            Some(Entry::Making(flight)) => Part::Wait(Arc::clone(flight)),
            None => {
                let flight = Arc::new(Flight {
                    maker: thread::current().id(),
                    landing: Mutex::new(
                        Rank::Leaf,
                        Landing {
                            result: None,
                            waiters: Vec::new(),
                        },
                    ),
                });
                let entry = Entry::Making(Arc::clone(&flight));
                entries.by_key.insert(key.clone(), entry);
                Part::Make(flight)
            }
        }
    }

    fn keep(&self, key: &K, result: &Result<Arc<V>>) {
        let mut entries = self.entries.lock();
        let now = entries.clock;
        let replaced = match result {
            Ok(value) => {
                let value = Arc::clone(value);
                let entry = Entry::Made { value, used: now };
                entries.by_key.insert(key.clone(), entry)
            }
            Err(_) => entries.by_key.remove(key),
        };
        let evicted = entries.evict(self.capacity, key);
        // Values are large, and dropping one runs foreign code: not under the lock.
        drop(entries);
        drop((replaced, evicted));
    }
}

impl<K: Clone + Eq + Hash, V> Entries<K, V> {
    /// Takes out what was not used for the longest time; `newest` stays.
    fn evict(&mut self, capacity: usize, newest: &K) -> Option<Entry<V>> {
        let age = |(key, entry): (&K, &Entry<V>)| match entry {
            Entry::Made { used, .. } => Some((*used, key.clone())),
            Entry::Making(_) => None,
        };
        let made = self.by_key.iter().filter_map(age);
        if made.clone().count() <= capacity {
            return None;
        }
        let others = made.filter(|(_, key)| key != newest);
        let (_, oldest) = others.min_by_key(|&(used, _)| used)?;
        self.by_key.remove(&oldest)
    }
}

impl<V> Flight<V> {
    fn land(&self, result: Result<Arc<V>>) {
        let mut landing = self.landing.lock();
        landing.result = Some(result);
        let waiters = std::mem::take(&mut landing.waiters);
        drop(landing);
        waiters.iter().for_each(|waiter| waiter.unpark());
    }

    fn wait(&self, options: &CallOptions) -> Result<Arc<V>> {
        assert_unlocked();
        if self.maker == thread::current().id() {
            let message = "the function calls itself with the inputs that it is being compiled for";
            return Err(Error::invalid("compile", message));
        }
        let _wait = trace::wait(Cause::Plan);
        let parker = Arc::<Parker>::default();
        let _woken = options.cancel.as_ref().map(|token| token.wakes(&parker));
        loop {
            let mut landing = self.landing.lock();
            if let Some(result) = &landing.result {
                return result.clone();
            }
            landing.waiters.push(Arc::clone(&parker));
            drop(landing);
            // Looks after the token knows of it, and before it sleeps. Who leaves stays listed: to be
            // woken does it no harm.
            options.check("compile")?;
            parker.park(options.deadline);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::cancel::CancelToken;
    use crate::options::NONE;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn least_recently_used_goes_first() {
        let cache = PlanCache::new(2);
        let get = |key| *cache.get_or_build(&key, &NONE, || Ok(key * 10)).unwrap();
        assert_eq!((get(1), get(2), get(1), get(3)), (10, 20, 10, 30));
        assert_eq!(cache.len(), 2);
        let kept = cache.get_or_build(&1, &NONE, || Err(Error::invalid("test", "evicted")));
        assert_eq!(*kept.unwrap(), 10);
        assert!(
            cache
                .get_or_build(&2, &NONE, || Err(Error::invalid("test", "evicted")))
                .is_err()
        );
    }

    #[test]
    fn failures_and_panics_are_reported_and_may_be_tried_again() {
        let cache: PlanCache<u8, u8> = PlanCache::new(4);
        let failed = cache.get_or_build(&0, &NONE, || Err(Error::invalid("test", "no")));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Invalid);
        let panicked = cache
            .get_or_build(&0, &NONE, || panic!("on purpose"))
            .unwrap_err();
        assert_eq!(panicked.kind(), ErrorKind::Internal);
        assert!(panicked.to_string().contains("on purpose"));
        assert_eq!(*cache.get_or_build(&0, &NONE, || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn who_has_memory_is_not_told_of_anothers_lack() {
        let cache: PlanCache<u8, u8> = PlanCache::new(4);
        let started = Barrier::new(2);
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                cache.get_or_build(&0, &NONE, || {
                    started.wait();
                    // Until the other one waits, which holds its flight.
                    let waited_for = || match cache.entries.lock().by_key.get(&0) {
                        Some(Entry::Making(flight)) => Arc::strong_count(flight) > 2,
                        _ => unreachable!("it is being made"),
                    };
                    while !waited_for() {
                        std::thread::yield_now();
                    }
                    Err(Error::new(
                        ErrorKind::Memory,
                        "test",
                        "over a limit of mine",
                    ))
                })
            });
            started.wait();
            assert_eq!(*cache.get_or_build(&0, &NONE, || Ok(7)).unwrap(), 7);
            let error = maker.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Memory);
        });
    }

    #[test]
    fn who_waits_leaves_when_its_call_ends_and_the_making_goes_on() {
        let cache: PlanCache<u8, u8> = PlanCache::new(4);
        let token = CancelToken::new();
        let options = CallOptions {
            cancel: Some(token.clone()),
            ..CallOptions::default()
        };
        let (started, finish) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                // The end of its own call does not end the making either.
                cache.get_or_build(&0, &options, || {
                    started.wait();
                    finish.wait();
                    Ok(7)
                })
            });
            started.wait();
            let waiter = scope.spawn(|| cache.get_or_build(&0, &options, || Ok(8)));
            token.cancel();
            let error = waiter.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            let late = CallOptions {
                deadline: Some(std::time::Instant::now()),
                ..CallOptions::default()
            };
            let error = cache.get_or_build(&0, &late, || Ok(9)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
            finish.wait();
            assert_eq!(*maker.join().unwrap().unwrap(), 7);
        });
    }

    #[test]
    fn a_build_that_needs_itself_fails() {
        let cache: PlanCache<u8, u8> = PlanCache::new(4);
        let build = || cache.get_or_build(&0, &NONE, || Ok(0)).map(|value| *value);
        let error = cache.get_or_build(&0, &NONE, build).unwrap_err();
        assert!(error.to_string().contains("calls itself"), "{error}");
        // Another key is no cycle.
        let build = || cache.get_or_build(&1, &NONE, || Ok(1)).map(|value| *value);
        assert_eq!(*cache.get_or_build(&0, &NONE, build).unwrap(), 1);
    }

    #[test]
    fn a_hit_does_not_wait_for_a_build_and_waiters_share_one() {
        let cache: PlanCache<u8, u8> = PlanCache::new(4);
        cache.get_or_build(&1, &NONE, || Ok(1)).unwrap();
        let (started, finish) = (Barrier::new(2), Barrier::new(2));
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cache.get_or_build(&2, &NONE, || {
                    started.wait();
                    finish.wait();
                    builds.fetch_add(1, Ordering::Relaxed);
                    panic!("on purpose")
                })
            });
            started.wait();
            // The build of 2 cannot end before this hit has.
            assert_eq!(*cache.get_or_build(&1, &NONE, || Ok(0)).unwrap(), 1);
            let waiter = scope.spawn(|| {
                cache.get_or_build(&2, &NONE, || {
                    builds.fetch_add(1, Ordering::Relaxed);
                    Ok(2)
                })
            });
            finish.wait();
            // It waited and shares the failure, or came later and made the value.
            match waiter.join().unwrap() {
                Ok(value) => assert_eq!((*value, builds.load(Ordering::Relaxed)), (2, 2)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Internal),
            }
        });
    }
}

#[cfg(all(test, loom, not(shuttle)))]
mod loom_models {
    use super::*;
    use crate::cancel::CancelToken;
    use crate::options::NONE;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    #[test]
    fn loom_plan_built_once() {
        loom::model(|| {
            let cache = Arc::new(PlanCache::new(2));
            let builds = Arc::new(AtomicUsize::new(0));
            let ask = |cache: &PlanCache<u8, usize>, builds: &AtomicUsize| {
                let build = || Ok(builds.fetch_add(1, Ordering::Relaxed) + 40);
                *cache.get_or_build(&0, &NONE, build).unwrap()
            };
            let others = [(); 2].map(|()| {
                let (cache, builds) = (Arc::clone(&cache), Arc::clone(&builds));
                thread::spawn(move || ask(&cache, &builds))
            });
            assert_eq!(ask(&cache, &builds), 40);
            for other in others {
                assert_eq!(other.join().unwrap(), 40);
            }
            assert_eq!(builds.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn loom_failed_plan_is_reported_to_waiters_and_tried_again() {
        loom::model(|| {
            let cache: Arc<PlanCache<u8, u8>> = Arc::new(PlanCache::new(1));
            let other = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    cache.get_or_build(&0, &NONE, || Err(Error::invalid("a", "no")))
                })
            };
            let mine = cache.get_or_build(&0, &NONE, || Err(Error::invalid("b", "no")));
            assert!(mine.is_err() && other.join().unwrap().is_err());
            assert_eq!(*cache.get_or_build(&0, &NONE, || Ok(3)).unwrap(), 3);
        });
    }

    #[test]
    fn loom_who_waited_in_vain_for_memory_makes_the_plan() {
        loom::model(|| {
            let cache: Arc<PlanCache<u8, u8>> = Arc::new(PlanCache::new(1));
            let poor = {
                let cache = Arc::clone(&cache);
                let refused = || Err(Error::new(ErrorKind::Memory, "a", "no"));
                thread::spawn(move || cache.get_or_build(&0, &NONE, refused).map(|value| *value))
            };
            assert_eq!(*cache.get_or_build(&0, &NONE, || Ok(3)).unwrap(), 3);
            // It has it from the other one, or was the first and failed alone.
            let poor = poor.join().unwrap().map_err(|error| error.kind());
            assert!(poor == Ok(3) || poor == Err(ErrorKind::Memory));
        });
    }

    /// One waiter goes, the other one is woken all the same.
    #[test]
    fn loom_a_waiter_whose_call_ends() {
        loom::model(|| {
            let cache: Arc<PlanCache<u8, u8>> = Arc::new(PlanCache::new(1));
            let token = CancelToken::new();
            let goes = thread::spawn({
                let options = CallOptions {
                    cancel: Some(token.clone()),
                    ..CallOptions::default()
                };
                let cache = Arc::clone(&cache);
                move || {
                    cache
                        .get_or_build(&0, &options, || Ok(3))
                        .map(|value| *value)
                }
            });
            let stays = thread::spawn({
                let cache = Arc::clone(&cache);
                move || *cache.get_or_build(&0, &NONE, || Ok(3)).unwrap()
            });
            token.cancel();
            assert_eq!(stays.join().unwrap(), 3);
            let gone = goes.join().unwrap().map_err(|error| error.kind());
            assert!(gone == Ok(3) || gone == Err(ErrorKind::Cancelled));
        });
    }

    #[test]
    fn loom_eviction_loses_no_waiter() {
        loom::model(|| {
            let cache: Arc<PlanCache<u8, u8>> = Arc::new(PlanCache::new(1));
            let other = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || *cache.get_or_build(&1, &NONE, || Ok(1)).unwrap())
            };
            assert_eq!(*cache.get_or_build(&0, &NONE, || Ok(0)).unwrap(), 0);
            assert_eq!(*cache.get_or_build(&1, &NONE, || Ok(1)).unwrap(), 1);
            assert_eq!(other.join().unwrap(), 1);
            assert_eq!(cache.len(), 1);
        });
    }
}
