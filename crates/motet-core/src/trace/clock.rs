//! The clock of recordings. A call of a tiny model reads it half a dozen times, so it is the processor's
//! counter where the system itself tells the time by that, at a third of what asking the system takes.

use std::time::{Duration, Instant};

/// A point in time, in units that a [`Scale`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(u64);

impl Ticks {
    #[inline]
    pub(super) fn now() -> Ticks {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if *COUNTER {
            // SAFETY: every processor of this kind has the instruction, and the system uses it.
            #[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
            return Ticks(unsafe { std::arch::x86_64::_rdtsc() });
        }
        Ticks(START.elapsed().as_nanos() as u64)
    }

    /// The ticks between an earlier point and this one.
    pub(super) fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn after(self, ticks: i64) -> Ticks {
        Ticks(self.0.checked_add_signed(ticks).unwrap())
    }
}

/// Whether the system has found the counter to be the same on all processors and of constant speed:
/// then it is its clock.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
static COUNTER: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(clock).is_ok_and(|clock| clock.trim() == "tsc")
});

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// How long a tick takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    ns_per_tick: f64,
}

impl Scale {
    /// Such that so many ticks are this long.
    pub(super) fn new(ticks: u64, length: Duration) -> Scale {
        Scale {
            ns_per_tick: length.as_nanos() as f64 / ticks.max(1) as f64,
        }
    }

    /// The nanoseconds that some ticks take. More ticks never take less.
    pub(super) fn ns(self, ticks: u64) -> u64 {
        (ticks as f64 * self.ns_per_tick) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_in_their_order() {
        let scale = Scale::new(3_000, Duration::from_micros(1));
        assert_eq!(
            [0, 3, 1_500, 3_000].map(|ticks| scale.ns(ticks)),
            [0, 1, 500, 1_000]
        );
        assert!((0..3_000).all(|ticks| scale.ns(ticks) <= scale.ns(ticks + 1)));
        // Nothing was measured: any times will do, but they are some.
        assert_eq!(Scale::new(0, Duration::ZERO).ns(7), 0);
    }
}
