//! Constants that were chosen by measurement, each with the measurement.

/// Buffers from this size on are kept for reuse. Smaller ones the system's allocator serves from
/// its own lists in about 20 ns; larger ones it maps and unmaps, at about 250 ns a page touched.
pub const CACHED_BUFFER_BYTES: usize = 64 << 10;
