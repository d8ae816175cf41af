//! Constants that were chosen by measurement, each with the measurement.

use std::time::Duration;

/// Buffers from this size on are kept for reuse. Smaller ones the system's allocator serves from
/// its own lists in about 20 ns; larger ones it maps and unmaps, at about 250 ns a page touched.
pub const CACHED_BUFFER_BYTES: usize = 64 << 10;

/// Buffers from this size on are mapped by themselves, and so given back to the system when they are
/// freed: glibc's allocator kept up to 32 MiB of such, and whatever lay below one that was in use.
/// Smaller ones would be more mappings than a process may have (65530).
pub const MAPPED_BUFFER_BYTES: usize = 1 << 20;

/// Buffers of weights from this size on lie side by side in large pages; smaller ones fit into the
/// caches, and into the pages that these know.
pub const LASTING_BUFFER_BYTES: usize = 64 << 10;

/// A kernel with less work than this (in nanoseconds) runs on its caller alone, where workers sleep. A
/// hand-over to another thread was measured at 17 us: less work than that is done before help arrives.
pub const REGION_MIN_NS: usize = 20_000;

/// The same where a worker looks out for work: it begins 0.3 us after the caller, and to open and close
/// the region takes 1.5 us in all.
pub const REGION_MIN_AWAKE_NS: usize = 6_000;

/// How long the caller of a region looks whether its helpers have left before it sleeps. They are at
/// their last tile, of which few take longer, and to be woken up takes about 20 us: with looks for 4 us
/// the caller slept at the end of every second step of a convolutional network with tiles of 30 us.
pub const REGION_WAIT: Duration = Duration::from_micros(100);

/// How long a thread may compute on a core that others wait for, within one call. A hand-over takes
/// about 20 us of two cores, and who comes back finds its caches cold: of 8 threads on 2 cores that
/// call a transformer of 31 ms or a pass over 16 MB, those with a quantum of 1 ms did 11 and 22 %
/// less than those with 8 ms. It is also how long a thread may have to wait for each of those before
/// it.
pub const CORE_QUANTUM: Duration = Duration::from_millis(8);

/// How long a thread may come back to a core that others wait for, between short calls, which would
/// otherwise take as long as a hand-over each. Of 8 threads on 2 cores with calls of 3 us one in a hundred
/// waits with 0.5 ms, one in five hundred with 2 ms, and these do 5 % more. It is also how much earlier
/// those are due who have not just given a core back: beside threads that call without a pause, calls of
/// 3 us with pauses of 0.5 ms take 16 us instead of 0.5 ms where those are as short, and 27 us instead of
/// 1.3 ms where those take 0.7 ms, while the others do as much as before.
pub const CORE_LEASE: Duration = Duration::from_millis(2);

/// Which calls are short: a hand-over after each would cost more than a twentieth.
pub const SHORT_CALL: Duration = Duration::from_micros(500);

/// How long a core is left to the thread that gave it back, rather than to others or to helpers.
/// Between two calls a thread needs a few microseconds; a helper that took its core then makes it
/// wait for a tile and a wake-up, which cost two threads on two cores a tenth of their time.
pub const CORE_ABSENCE: Duration = Duration::from_micros(100);

/// How much longer than urgent work work of normal priority waits for a core where both want it:
/// several quanta, as that is how long a thread may be in line.
pub const NORMAL_PATIENCE: Duration = Duration::from_millis(50);

/// The same for work in the background. It is also what bounds how long that may wait.
pub const BACKGROUND_PATIENCE: Duration = Duration::from_millis(200);

/// How long a worker that has helped a region looks out for the next before it sleeps. Waking it
/// takes about 20 us, and the steps of a plan follow each other within a few: with a sleep between
/// them a second core gained nothing on steps below 0.1 ms. It is short, so that who computes now
/// and then pays for little.
pub const WORKER_LOOKOUT: Duration = Duration::from_micros(50);

/// The most events that a recording keeps: 24 MB. A call of a model of a few microseconds makes
/// five, so that two threads fill it in half a second; a transformer's call of 30 ms makes a hundred.
pub const TRACE_EVENTS: usize = 1 << 20;
