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
//! # A short tour
//!
//! An [`Array`] is an immutable n-dimensional value. It is made of numbers, nested arrays ([`array!`]),
//! vectors and slices; dtypes are MLX's. Operators and the functions in [`ops`] compute with them:
//! shapes broadcast, dtypes promote, and numbers take on the dtype of the array beside them.
//!
//! ```
//! use motet::prelude::*;
//! let x = array!([[1.0, 2.0], [3.0, 4.0]]);
//! let y = &x * 2 + array!([0.5, 0.25]);
//! assert_eq!(y.to_string(), "array([[2.5, 4.25],\n       [6.5, 8.25]], dtype=float32)");
//! assert_eq!(y.index((.., -1))?.to_vec::<f32>()?, [4.25, 8.25]);
//! # Ok::<(), motet::Error>(())
//! ```
//!
//! Everything is lazy: an operation checks shapes and dtypes, and returns at once. What was asked for
//! is computed when it is looked at (printing, [`to_vec`](Array::to_vec), [`item`](Array::item)), or
//! by [`eval`] and [`async_eval`]. What fails then is an error of whoever looks.
//!
//! ```
//! use motet::prelude::*;
//! let x = array!([1.0, 2.0, 3.0]);
//! let norm = ops::sqrt(ops::sum(&ops::square(&x)?, ..)?)?;
//! eval(&[norm.clone()])?;
//! assert_eq!(norm.item::<f32>()?, 14f32.sqrt());
//! assert!(ops::add(&x, array!([1, 2])).is_err());
//! # Ok::<(), motet::Error>(())
//! ```
//!
//! Tasks of an async runtime await [`eval_async`], which keeps none of its threads; dropping the future
//! calls the work off. Calls that are to end early for other reasons get a token or a deadline:
//! [`Function::cancelled_by`], [`Function::deadline`].
//!
//! ```
//! # fn main() -> motet::Result<()> {
//! # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
//! use motet::prelude::*;
//! let double = motet::compile(|x| Ok(vec![&x[0] * 2]));
//! let outputs = double.call(&[array!([1.0, 2.0])])?;
//! motet::eval_async(&outputs).await?;
//! assert_eq!(outputs[0].to_vec::<f32>()?, [2.0, 4.0]);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! Work goes to [`Stream`]s: what one is given it does in order, and different ones run at the same
//! time. Threads need not know of them: each has a default stream of its own.
//!
//! ```
//! use motet::prelude::*;
//! let stream = motet::new_stream(Device::CPU)?;
//! let x = array!([1, 2, 3]);
//! let doubled = with_stream(&stream, || &x + &x);
//! let there = std::thread::spawn(move || doubled.to_vec::<i32>());
//! assert_eq!(there.join().unwrap()?, [2, 4, 6]);
//! # Ok::<(), motet::Error>(())
//! ```
//!
//! A [`Function`] is a graph with inputs and outputs: read from a file ([`import_function`]), or traced
//! from a closure ([`compile`]). Compiled, it is planned and fused once for each signature.
//!
//! ```
//! use motet::prelude::*;
//! let f = motet::compile(|inputs| Ok(vec![ops::sigmoid(&inputs[0] * 0.5)?]));
//! assert_eq!(f.call(&[array!([0.0, 0.0])])?[0].to_vec::<f32>()?, [0.5, 0.5]);
//! # Ok::<(), motet::Error>(())
//! ```
//!
//! Arrays are kept in files of numpy and safetensors, which are mapped: [`load`], [`save`], [`savez`],
//! [`save_safetensors`].
//!
//! ```
//! use motet::prelude::*;
//! # let folder = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&folder).unwrap();
//! motet::save("weights.npy", &array!([[0.5, 1.5]]))?;
//! assert_eq!(motet::load("weights.npy")?["arr_0"].to_vec::<f32>()?, [0.5, 1.5]);
//! # Ok::<(), motet::Error>(())
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
mod index;
mod io;
pub mod linalg;
pub mod ops;
pub mod random;
pub mod trace;

pub use array_ext::ArrayExt;
pub use export::{ExportOptions, Exporter, Keywords, export_function, exporter};
pub use function::{Function, compile, import_function};
pub use index::{At, Ellipsis, IndexItem, Indexing, IntoIndex, NewAxis, Position, Slice, step};
pub use io::{
    Arrays, Metadata, load, load_safetensors, save, save_safetensors, savez, savez_compressed,
};
pub use motet_core::array::{Array, Operand};
pub use motet_core::cancel::CancelToken;
pub use motet_core::context::{
    StreamContext, current_stream, default_device, default_stream, new_stream,
    new_stream_with_priority, set_default_device, with_stream,
};
pub use motet_core::device::{Device, DeviceType};
pub use motet_core::dtype::{Dtype, Element};
pub use motet_core::error::{Error, ErrorKind, Result};
pub use motet_core::eval::{async_eval, eval};
pub use motet_core::future::{EvalFuture, eval_async};
pub use motet_core::kernel::{Quantization, QuantizationMode};
pub use motet_core::memory::MemoryScope;
pub use motet_core::options::CallOptions;
pub use motet_core::pool::Priority;
pub use motet_core::shape::{Shape, Spec};
pub use motet_core::stream::Stream;

// Links the CPU backend in: it adds itself to the list of backends.
use motet_cpu as _;

/// What most programs use.
pub mod prelude {
    pub use crate::{
        Array, ArrayExt, Device, Dtype, Ellipsis, Function, Indexing, NewAxis, Stream,
        StreamContext, array, eval, ops, random, step, with_stream,
    };
}

/// An array with these elements: a number, or nested Rust arrays of numbers, to four dimensions.
///
/// Elements keep their Rust type, but f64, which numbers with a point are when nothing else is said,
/// becomes float32, as MLX makes of Python's numbers. For float64 there is `Array::from`.
///
/// ```
/// use motet::prelude::*;
/// let x = array!([[1.0, 2.0], [3.0, 4.0]]);
/// assert_eq!(x.to_string(), "array([[1, 2],\n       [3, 4]], dtype=float32)");
/// assert_eq!(array!([1u8, 2]).dtype(), Dtype::Uint8);
/// assert_eq!(array!(2.5).item::<f32>()?, 2.5);
/// # Ok::<(), motet::Error>(())
/// ```
#[macro_export]
macro_rules! array {
    ($elements:expr) => {
        $crate::literal($elements)
    };
}

#[doc(hidden)]
pub use motet_core::array::literal;

/// Waits until everything that the stream has been given so far is done. MLX's `synchronize`.
pub fn synchronize(stream: &Stream) {
    stream.synchronize();
}

/// Memory of the process's arrays: MLX's `get_active_memory` and its kin. Any thread may ask and
/// set; all sizes are in bytes.
pub mod memory {
    use motet_core::memory::heap;

    /// Bytes in arrays and workspaces that are in use; mapped files are not counted.
    #[doc(alias = "get_active_memory")]
    pub fn active() -> usize {
        heap().active()
    }

    /// The most bytes in use at once since the start or [`reset_peak`].
    #[doc(alias = "get_peak_memory")]
    pub fn peak() -> usize {
        heap().peak()
    }

    /// Forgets the peak so far.
    #[doc(alias = "reset_peak_memory")]
    pub fn reset_peak() {
        heap().reset_peak();
    }

    /// Bytes in freed buffers that are kept for reuse.
    #[doc(alias = "get_cache_memory")]
    pub fn cached() -> usize {
        heap().cached()
    }

    /// Gives freed buffers back to the system.
    pub fn clear_cache() {
        heap().clear_cache();
    }

    /// Sets the most bytes that may be in use, beyond which work fails with
    /// [`ErrorKind::Memory`](crate::ErrorKind::Memory); returns what it was.
    #[doc(alias = "set_memory_limit")]
    pub fn set_limit(bytes: usize) -> usize {
        heap().set_limit(bytes)
    }

    /// Sets the most bytes that are kept for reuse; returns what it was.
    pub fn set_cache_limit(bytes: usize) -> usize {
        heap().set_cache_limit(bytes)
    }
}
