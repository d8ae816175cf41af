//! Default streams and the default device of a thread. Nothing here is shared by threads: changing
//! a default on one cannot be seen on another.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::backend::backend;
use crate::device::Device;
use crate::error::Result;
use crate::pool::{Pool, Priority};
use crate::stream::Stream;

thread_local! {
    static DEFAULTS: RefCell<Defaults> = const { RefCell::new(Defaults::new()) };
}

struct Defaults {
    device: Device,
    streams: Vec<Stream>,
    /// Streams set by contexts that are open, each with its context's number.
    contexts: Vec<(u64, Stream)>,
    opened: u64,
}

impl Defaults {
    const fn new() -> Defaults {
        Defaults {
            device: Device::CPU,
            streams: Vec::new(),
            contexts: Vec::new(),
            opened: 0,
        }
    }
}

/// A new stream on a device. MLX's `new_stream`.
///
/// # Errors
/// Where no backend for the device is there.
pub fn new_stream(device: Device) -> Result<Stream> {
    new_stream_with_priority(device, Priority::default())
}

/// A new stream whose work is so urgent, where its calls do not say otherwise.
///
/// # Errors
/// Where no backend for the device is there.
pub fn new_stream_with_priority(device: Device, priority: Priority) -> Result<Stream> {
    backend(device)?;
    Ok(Stream::with_pool(device, Pool::global().clone(), priority))
}

/// The calling thread's default device.
pub fn default_device() -> Device {
    DEFAULTS.with_borrow(|defaults| match defaults.contexts.last() {
        Some((_, stream)) => stream.device(),
        None => defaults.device,
    })
}

/// Sets the calling thread's default device, and no other's.
pub fn set_default_device(device: Device) {
    DEFAULTS.with_borrow_mut(|defaults| defaults.device = device);
}

/// The calling thread's default stream on a device, made when first asked for.
///
/// # Errors
/// Where no backend for the device is there.
pub fn default_stream(device: Device) -> Result<Stream> {
    let known = DEFAULTS.with_borrow(|defaults| {
        let contexts = defaults.contexts.iter().rev().map(|(_, stream)| stream);
        let mut candidates = contexts.chain(&defaults.streams);
        candidates.find(|s| s.device() == device).cloned()
    });
    if let Some(stream) = known {
        return Ok(stream);
    }
    let stream = new_stream(device)?;
    DEFAULTS.with_borrow_mut(|defaults| defaults.streams.push(stream.clone()));
    Ok(stream)
}

/// The stream that operations of the calling thread go to where none is named.
///
/// # Errors
/// Where no backend for the default device is there.
pub fn current_stream() -> Result<Stream> {
    default_stream(default_device())
}

/// While it lives, its stream is the default of the thread that made it, and its device the default
/// device. MLX's `StreamContext`. It cannot be sent to another thread.
#[must_use = "the stream is the default only while the context lives"]
pub struct StreamContext {
    number: u64,
    /// Makes it `!Send`: a context belongs to the thread whose default it changes.
    _thread: PhantomData<*const ()>,
}

impl StreamContext {
    /// Makes `stream` the calling thread's default.
    pub fn new(stream: &Stream) -> StreamContext {
        DEFAULTS.with_borrow_mut(|defaults| {
            defaults.opened += 1;
            defaults.contexts.push((defaults.opened, stream.clone()));
            StreamContext {
                number: defaults.opened,
                _thread: PhantomData,
            }
        })
    }
}

impl Drop for StreamContext {
    /// Contexts may be dropped in any order: each takes away what it set.
    fn drop(&mut self) {
        // A thread that is ending has no defaults any more.
        let _ = DEFAULTS.try_with(|defaults| {
            let mut defaults = defaults.borrow_mut();
            let number = self.number;
            if let Some(at) = defaults.contexts.iter().position(|(n, _)| *n == number) {
                defaults.contexts.remove(at);
            }
        });
    }
}

/// Runs `work` with `stream` as the calling thread's default.
pub fn with_stream<T>(stream: &Stream, work: impl FnOnce() -> T) -> T {
    let _context = StreamContext::new(stream);
    work()
}
