//! Buffers: the memory that arrays lie in, taken from a cache where possible.
//!
//! A buffer is freed by dropping its last handle. Whatever still uses it (an array, a command in a
//! queue, a step that runs) holds a handle, so a buffer in the cache is in use by nobody, and the
//! cache's lock orders its last use before its next (the promise that reuse is safe everywhere).
//! There is no cache per thread or stream: memory does not grow with their number.
//!
//! The counters and limits are process-wide, as MLX's `get_active_memory` and its kin are.

use std::alloc::{Layout as AllocLayout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};
use crate::tuning;

/// Every buffer starts at a multiple of this: a cache line, and the widest vector.
pub const ALIGNMENT: usize = 64;

/// A piece of memory of fixed size, at a fixed address.
///
/// Who may write: only what made the buffer, and only until the value in it is published; from then
/// on it is immutable. That is why kernels may read it through shared references from any thread.
pub struct Buffer {
    address: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    /// Memory of this module, returned to the heap that it came from.
    Heap { heap: Arc<Heap>, capacity: usize },
    /// A file, mapped read-only.
    Mapped(Arc<Mmap>),
    /// Memory that something else keeps alive: a vector of the user's.
    Foreign(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Send + Sync>),
}

// SAFETY: the memory is plain bytes owned by `owner`, which is Send + Sync; shared access is
// read-only after publication, as the type's doc demands of whoever writes through `as_ptr`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Memory that `owner` keeps alive and at its address.
    ///
    /// # Safety
    /// `address..address + len` is readable, initialised, and not written while `owner` lives.
    pub unsafe fn foreign(address: NonNull<u8>, len: usize, owner: Box<dyn Send + Sync>) -> Buffer {
        Buffer {
            address,
            len,
            owner: Owner::Foreign(owner),
        }
    }

    /// A file that is mapped read-only.
    pub fn mapped(map: Arc<Mmap>) -> Buffer {
        Buffer {
            address: NonNull::from(&map[..]).cast(),
            len: map.len(),
            owner: Owner::Mapped(map),
        }
    }

    /// Tells the system that nobody needs these bytes of a mapped file for now: it takes the memory
    /// back, and reads them from the file again where somebody does. Does nothing to other memory.
    pub fn give_back(&self, bytes: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &self.owner {
            let advice = UncheckedAdvice::DontNeed;
            // SAFETY: the pages of a read-only map of a file hold what the file holds, before and
            // after.
            let advised = unsafe { map.unchecked_advise_range(advice, bytes.start, bytes.len()) };
            // Advice that is not taken costs memory, nothing else.
            drop(advised);
        }
    }

    /// The address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Heap { heap, capacity } = &self.owner {
            heap.release(self.address, *capacity);
        }
    }
}

/// Gives out buffers and keeps freed ones for reuse.
pub struct Heap {
    /// Freed blocks of each size class. Each lock is held for a push or a pop.
    classes: Vec<Mutex<Vec<Block>>>,
    active: AtomicUsize,
    peak: AtomicUsize,
    cached: AtomicUsize,
    limit: AtomicUsize,
    cache_limit: AtomicUsize,
}

struct Block(NonNull<u8>);

// SAFETY: a block in the cache is memory that nothing refers to.
unsafe impl Send for Block {}

impl Heap {
    /// A heap with nothing in it that gives out at most `limit` bytes and keeps at most
    /// `cache_limit` freed ones.
    pub fn new(limit: usize, cache_limit: usize) -> Heap {
        Heap {
            classes: (0..usize::BITS * CLASSES_PER_DOUBLING as u32)
                .map(|_| Mutex::new(Rank::Leaf, Vec::new()))
                .collect(),
            active: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            cache_limit: AtomicUsize::new(cache_limit),
        }
    }

    /// An uninitialised buffer of `len` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where the limit or the machine does not allow it.
    pub fn allocate(self: &Arc<Heap>, len: usize) -> Result<Buffer> {
        let (class, capacity) =
            size_class(len).ok_or_else(|| self.too_large(len, "no machine has so much memory"))?;
        // The counters publish nothing: Relaxed. The budget is taken before the memory is.
        let active = self.active.fetch_add(capacity, Ordering::Relaxed) + capacity;
        let refuse = |why: &str| {
            self.active.fetch_sub(capacity, Ordering::Relaxed);
            Err(self.too_large(len, why))
        };
        if active > self.limit.load(Ordering::Relaxed) {
            return refuse("that is over the limit");
        }
        let reused = class.and_then(|class| self.classes[class].lock().pop());
        let address = match reused {
            Some(Block(address)) => {
                self.cached.fetch_sub(capacity, Ordering::Relaxed);
                address
            }
            None => match system_allocate(capacity) {
                Some(address) => address,
                None => return refuse("the machine has no more"),
            },
        };
        self.peak.fetch_max(active, Ordering::Relaxed);
        Ok(Buffer {
            address,
            len,
            owner: Owner::Heap {
                heap: Arc::clone(self),
                capacity,
            },
        })
    }

    /// Refuses sizes that could not be allocated even if nothing else were in use. What is made in
    /// proportion to a shape that a file has chosen asks first.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where `len` is over the limit.
    pub fn check(&self, len: usize) -> Result<()> {
        match len <= self.limit.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(self.too_large(len, "that is over the limit")),
        }
    }

    /// Bytes in buffers that are in use.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use since the start or [`Heap::reset_peak`].
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        self.peak.store(self.active(), Ordering::Relaxed);
    }

    /// Bytes in freed buffers that are kept for reuse.
    pub fn cached(&self) -> usize {
        self.cached.load(Ordering::Relaxed)
    }

    /// Sets the most bytes that may be in use; returns what it was.
    pub fn set_limit(&self, bytes: usize) -> usize {
        self.limit.swap(bytes, Ordering::Relaxed)
    }

    /// Sets the most bytes that are kept for reuse; returns what it was.
    pub fn set_cache_limit(&self, bytes: usize) -> usize {
        let old = self.cache_limit.swap(bytes, Ordering::Relaxed);
        if self.cached() > bytes {
            self.clear_cache();
        }
        old
    }

    /// Gives freed buffers back to the system.
    pub fn clear_cache(&self) {
        for (class, blocks) in self.classes.iter().enumerate() {
            let blocks = std::mem::take(&mut *blocks.lock());
            let capacity = class_capacity(class).unwrap_or(0);
            for Block(address) in blocks {
                self.cached.fetch_sub(capacity, Ordering::Relaxed);
                system_free(address, capacity);
            }
        }
    }

    fn release(&self, address: NonNull<u8>, capacity: usize) {
        self.active.fetch_sub(capacity, Ordering::Relaxed);
        if let Some((Some(class), _)) = size_class(capacity) {
            let cached = self.cached.fetch_add(capacity, Ordering::Relaxed) + capacity;
            if cached <= self.cache_limit.load(Ordering::Relaxed) {
                self.classes[class].lock().push(Block(address));
                return;
            }
            self.cached.fetch_sub(capacity, Ordering::Relaxed);
        }
        system_free(address, capacity);
    }

    fn too_large(&self, len: usize, why: &str) -> Error {
        Error::new(
            ErrorKind::Memory,
            "memory",
            format!(
                "cannot allocate {len} bytes: {why}; in use are {} of at most {} bytes",
                self.active(),
                self.limit.load(Ordering::Relaxed)
            ),
        )
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.clear_cache();
    }
}

/// Size classes between a power of two and the next: at most a fifth of a block is waste.
const CLASSES_PER_DOUBLING: usize = 4;

/// The bytes that a block for `len` has, and its class if blocks of this size are kept for reuse.
fn size_class(len: usize) -> Option<(Option<usize>, usize)> {
    if len < tuning::CACHED_BUFFER_BYTES {
        return Some((None, len.max(1).next_multiple_of(ALIGNMENT)));
    }
    let doubling = len.ilog2() as usize;
    let mut class = doubling * CLASSES_PER_DOUBLING;
    while class_capacity(class)? < len {
        class += 1;
    }
    Some((Some(class), class_capacity(class)?))
}

/// The bytes of the blocks of a class; `None` where no machine has so many.
fn class_capacity(class: usize) -> Option<usize> {
    let (doubling, step) = (class / CLASSES_PER_DOUBLING, class % CLASSES_PER_DOUBLING);
    let base = 1usize.checked_shl(doubling as u32)?;
    let capacity = base.checked_add(base / CLASSES_PER_DOUBLING * step)?;
    isize::try_from(capacity).is_ok().then_some(capacity)
}

fn system_allocate(capacity: usize) -> Option<NonNull<u8>> {
    let layout = AllocLayout::from_size_align(capacity, ALIGNMENT).ok()?;
    // SAFETY: the capacity is at least ALIGNMENT, so not zero.
    NonNull::new(unsafe { alloc(layout) })
}

fn system_free(address: NonNull<u8>, capacity: usize) {
    let layout = AllocLayout::from_size_align(capacity, ALIGNMENT)
        .expect("it was allocated with this layout");
    // SAFETY: the block came from `system_allocate` with this capacity and nothing refers to it.
    unsafe { dealloc(address.as_ptr(), layout) }
}

/// The heap that arrays are made in.
#[cfg(not(loom))]
pub fn heap() -> &'static Arc<Heap> {
    static HEAP: std::sync::OnceLock<Arc<Heap>> = std::sync::OnceLock::new();
    HEAP.get_or_init(|| {
        let limit = machine_memory();
        Arc::new(Heap::new(limit, limit / 4))
    })
}

/// What the machine has, or a bound that never binds where it cannot be told.
#[cfg(not(loom))]
fn machine_memory() -> usize {
    let total_kib = |text: String| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(total_kib)
        .map_or(isize::MAX as usize, |kib| kib.saturating_mul(1024))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_mapped_file_is_there_again_after_it_was_given_back() {
        let path = std::env::temp_dir().join(format!("motet-map-{}", std::process::id()));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        // SAFETY: nobody else knows the file.
        let map = unsafe { Mmap::map(&std::fs::File::open(&path).unwrap()) }.unwrap();
        let buffer = Buffer::mapped(Arc::new(map));
        // SAFETY: the buffer has these bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
        assert!(bytes == content);
        buffer.give_back(5000..90_001);
        buffer.give_back(7..7);
        assert!(bytes == content);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn size_classes_waste_little_and_contain_what_was_asked() {
        for len in (0..4096).chain((1..60).map(|bit| (1 << bit) + 1)) {
            let (class, capacity) = size_class(len).unwrap();
            assert!(capacity >= len && capacity % ALIGNMENT == 0);
            assert!(capacity <= (len + len / 4).next_multiple_of(ALIGNMENT).max(ALIGNMENT));
            assert_eq!(size_class(capacity), Some((class, capacity)));
        }
        assert_eq!(size_class(usize::MAX), None);
    }

    #[test]
    fn freed_buffers_are_reused_and_counted() {
        let heap = Arc::new(Heap::new(1 << 30, 1 << 30));
        let first = heap.allocate(1 << 20).unwrap();
        let address = first.as_ptr();
        assert_eq!((heap.active(), heap.cached()), (1 << 20, 0));
        drop(first);
        assert_eq!((heap.active(), heap.cached()), (0, 1 << 20));
        let second = heap.allocate(1 << 20).unwrap();
        assert_eq!(second.as_ptr(), address);
        assert_eq!(heap.peak(), 1 << 20);
        drop(second);
        heap.clear_cache();
        assert_eq!(heap.cached(), 0);
    }

    #[test]
    fn over_the_limit_is_an_error() {
        let heap = Arc::new(Heap::new(1 << 16, 0));
        let kept = heap.allocate(1 << 15).unwrap();
        let error = heap.allocate(1 << 16).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(heap.allocate(usize::MAX).is_err());
        assert!(heap.check(1 << 16).is_ok());
        assert_eq!(
            heap.check((1 << 16) + 1).unwrap_err().kind(),
            ErrorKind::Memory
        );
        assert_eq!(heap.active(), kept.len());
    }
}
