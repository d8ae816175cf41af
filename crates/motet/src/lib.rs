//! motet runs several independent models at the same time, each from a thread of its own.
//!
//! Models are functions exported by Apple's MLX (`mx.export_function`, files ending in `.mlxfn`).
//! They are loaded once, compiled, and called from any number of threads, with no lock in common:
//!
//! ```
//! # fn main() -> motet::Result<()> {
//! # let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
//! use motet::prelude::*;
//!
//! let detector = motet::import_function(format!("{models}/a.mlxfn"))?.compile();
//! let tiny = motet::import_function(format!("{models}/tiny.mlxfn"))?.compile();
//! let image = Array::from_slice(&[0.5f32; 32 * 32 * 3], [1, 32, 32, 3])?;
//! let features = Array::from_slice(&[1.0f32; 16], [1, 16])?;
//!
//! std::thread::scope(|s| {
//!     let classes = s.spawn(|| detector.call(&[image])?[0].to_vec::<f32>());
//!     let scores = s.spawn(|| tiny.call(&[features])?[0].to_vec::<f32>());
//!     assert_eq!(classes.join().unwrap()?.len(), 10);
//!     assert_eq!(scores.join().unwrap()?.len(), 4);
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # What is promised to threads
//!
//! - Every type is `Send + Sync`, [`StreamContext`] aside, which belongs to its thread.
//! - No call must be made on a particular thread: arrays may be made on one, evaluated on another,
//!   read on a third. Two threads may evaluate one lazy graph; each operation of it runs once.
//! - Each thread has default streams of its own. [`StreamContext`] and [`with_stream`] change the
//!   calling thread's alone. Streams may be shared: what each thread submits runs in its order.
//! - A failure reaches those whose results depend on it, and no one else.
//! - Results are the same to the bit whatever the number of threads.

#![deny(missing_docs)]

mod array_ext;
mod export;
pub mod fast;
pub mod fft;
mod function;
pub mod linalg;
pub mod ops;
pub mod random;

pub use array_ext::ArrayExt;
pub use export::{ExportOptions, Exporter, Keywords, export_function, exporter};
pub use function::{Function, compile, import_function};
pub use motet_core::array::{Array, Operand};
pub use motet_core::context::{
    StreamContext, current_stream, default_device, default_stream, new_stream, set_default_device,
    with_stream,
};
pub use motet_core::device::{Device, DeviceType};
pub use motet_core::dtype::{Dtype, Element};
pub use motet_core::error::{Error, ErrorKind, Result};
pub use motet_core::eval::{async_eval, eval};
pub use motet_core::kernel::{Quantization, QuantizationMode};
pub use motet_core::options::{CallOptions, CancelToken};
pub use motet_core::shape::{Shape, Spec};
pub use motet_core::stream::Stream;

// Links the CPU backend in: it adds itself to the list of backends.
use motet_cpu as _;

/// What most programs use.
pub mod prelude {
    pub use crate::{
        Array, ArrayExt, Device, Dtype, Function, Stream, StreamContext, eval, ops, random,
        with_stream,
    };
}

/// Waits until everything that the stream has been given so far is done. MLX's `synchronize`.
pub fn synchronize(stream: &Stream) {
    stream.synchronize();
}

/// Memory of the process's arrays: MLX's `get_active_memory` and its kin. Any thread may ask and
/// set; all sizes are in bytes.
pub mod memory {
    use motet_core::memory::heap;

    /// Bytes in arrays and workspaces that are in use; mapped files are not counted.
    pub fn active() -> usize {
        heap().active()
    }

    /// The most bytes in use at once since the start or [`reset_peak`].
    pub fn peak() -> usize {
        heap().peak()
    }

    /// Forgets the peak so far.
    pub fn reset_peak() {
        heap().reset_peak();
    }

    /// Bytes in freed buffers that are kept for reuse.
    pub fn cached() -> usize {
        heap().cached()
    }

    /// Gives freed buffers back to the system.
    pub fn clear_cache() {
        heap().clear_cache();
    }

    /// Sets the most bytes that may be in use, beyond which work fails with
    /// [`ErrorKind::Memory`](crate::ErrorKind::Memory); returns what it was.
    pub fn set_limit(bytes: usize) -> usize {
        heap().set_limit(bytes)
    }

    /// Sets the most bytes that are kept for reuse; returns what it was.
    pub fn set_cache_limit(bytes: usize) -> usize {
        heap().set_cache_limit(bytes)
    }
}
