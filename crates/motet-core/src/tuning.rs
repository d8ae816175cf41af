//! Constants that were chosen by measurement, each with the measurement.

/// Buffers from this size on are kept for reuse. Smaller ones the system's allocator serves from
/// its own lists in about 20 ns; larger ones it maps and unmaps, at about 250 ns a page touched.
pub const CACHED_BUFFER_BYTES: usize = 64 << 10;

/// A kernel with less work than this (in nanoseconds) runs on its caller alone. A hand-over to
/// another thread was measured at 17 us: less work than that is done before help arrives. Where
/// exactly a region starts to pay has not been measured yet; that takes an idle machine.
pub const REGION_MIN_NS: usize = 20_000;

/// How often the caller of a region looks whether its helpers have left before it sleeps. 200 looks
/// take about 10 us (measured), less than the hand-over that sleeping costs. Other counts have not
/// been compared yet.
pub const REGION_SPINS: usize = 200;
