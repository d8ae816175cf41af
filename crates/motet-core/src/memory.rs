//! Buffers: the memory that arrays lie in, taken from a cache where possible.
//!
//! A buffer is freed by dropping its last handle. Whatever still uses it (an array, a command in a
//! queue, a step that runs) holds a handle, so a buffer in the cache is in use by nobody, and the
//! cache's lock orders its last use before its next (the promise that reuse is safe everywhere).
//! There is no cache per thread, stream or plan: memory does not grow with their number.
//!
//! The heap's counters and limits are those of the process, as MLX's `get_active_memory` and its kin
//! are; [`MemoryScope`] has them for a part of it.

mod admission;
mod lasting;
mod scope;

use std::alloc::{Layout as AllocLayout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};
use crate::tuning;

pub(crate) use admission::Needs;
use lasting::{Lasting, Piece};
use scope::Account;
pub(crate) use scope::run;
pub use scope::{MemoryScope, within};

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
    /// Memory of this module. The block is there until the drop.
    Heap {
        block: Option<Block>,
        charge: Charge,
    },
    /// A file, mapped read-only.
    Mapped(Arc<Mmap>),
    /// A piece of another buffer that is used in place, and counts as if it were memory of its own.
    Part {
        #[allow(dead_code, reason = "keeps the memory")]
        whole: Arc<Buffer>,
        charge: Charge,
    },
    /// Memory that something else keeps alive: a vector of the user's.
    Foreign(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Send + Sync>),
}

/// Bytes that count as active for a scope, and all above it, until they are given back.
struct Charge {
    heap: Home,
    scope: Option<MemoryScope>,
    bytes: usize,
}

/// The heap that memory came from.
enum Home {
    /// That of the process, which is there for ever: references to it would be counted by all threads
    /// at once, in one place.
    #[cfg(not(loom))]
    Process,
    Other(Arc<Heap>),
}

impl Home {
    fn of(heap: &Arc<Heap>) -> Home {
        #[cfg(not(loom))]
        if Arc::ptr_eq(heap, self::heap()) {
            return Home::Process;
        }
        Home::Other(Arc::clone(heap))
    }

    fn heap(&self) -> &Heap {
        match self {
            #[cfg(not(loom))]
            Home::Process => heap(),
            Home::Other(heap) => heap,
        }
    }
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

    fn of(block: Block, len: usize, charge: Charge) -> Buffer {
        Buffer {
            address: block.address(),
            len,
            owner: Owner::Heap {
                block: Some(block),
                charge,
            },
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

    /// Whether it is a mapped file, which counts for nobody.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
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
        match &mut self.owner {
            Owner::Heap { block, charge } => {
                charge.give_back();
                if let Some(block) = block.take() {
                    let scope = charge.scope.take();
                    charge.heap.heap().keep(block, scope);
                }
            }
            Owner::Part { charge, .. } => charge.give_back(),
            Owner::Mapped(_) | Owner::Foreign(_) => {}
        }
    }
}

impl Charge {
    fn give_back(&self) {
        let accounts = self.heap.heap().accounts(self.scope.as_ref());
        accounts.for_each(|(_, account)| account.give(self.bytes));
    }
}

/// Gives out buffers and keeps freed ones for reuse.
pub struct Heap {
    /// Freed blocks of each size class. Each lock is held for a push or a pop.
    classes: Vec<Mutex<Vec<Cached>>>,
    /// What counts for the process.
    account: Account,
    cache_limit: AtomicUsize,
    /// Locked while a piece is cut off, which plans ask for when they are made.
    lasting: Mutex<Lasting>,
}

/// A freed block, and the scope that it was freed in.
struct Cached {
    block: Block,
    scope: Option<MemoryScope>,
}

impl Heap {
    /// A heap with nothing in it that gives out at most `limit` bytes and keeps at most
    /// `cache_limit` freed ones.
    pub fn new(limit: usize, cache_limit: usize) -> Heap {
        Heap {
            classes: (0..usize::BITS * CLASSES_PER_DOUBLING as u32)
                .map(|_| Mutex::new(Rank::Leaf, Vec::new()))
                .collect(),
            account: Account::new(limit),
            cache_limit: AtomicUsize::new(cache_limit),
            lasting: Mutex::new(Rank::Leaf, Lasting::default()),
        }
    }

    /// An uninitialised buffer of `len` bytes, which counts for the calling thread's current scope.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where a limit or the machine does not allow it.
    pub fn allocate(self: &Arc<Heap>, len: usize) -> Result<Buffer> {
        let Some((class, capacity)) = size_class(len) else {
            return Err(self.too_large(len, None, "no machine has so much memory"));
        };
        let charge = self.charge(len, capacity)?;
        let reused = class.and_then(|class| self.classes[class].lock().pop());
        let reused = reused.map(|cached| self.uncached(cached));
        self.make_room(charge.scope.as_ref());
        let block = reused.or_else(|| {
            Block::new(capacity).or_else(|| {
                self.clear_cache();
                Block::new(capacity)
            })
        });
        let Some(block) = block else {
            charge.give_back();
            return Err(self.too_large(len, None, "the machine has no more"));
        };
        Ok(Buffer::of(block, len, charge))
    }

    /// As [`allocate`](Heap::allocate), for what lasts as long as a model and is read in each call: in
    /// large pages where the system has them. It is not kept for reuse.
    ///
    /// # Errors
    /// As for [`allocate`](Heap::allocate).
    pub fn allocate_lasting(self: &Arc<Heap>, len: usize) -> Result<Buffer> {
        let capacity = match Lasting::capacity(len) {
            // Elsewhere a piece could not be given back by itself.
            Some(capacity) if cfg!(target_os = "linux") && len >= tuning::LASTING_BUFFER_BYTES => {
                capacity
            }
            _ => return self.allocate(len),
        };
        let charge = self.charge(len, capacity)?;
        self.make_room(charge.scope.as_ref());
        let Some(piece) = self.lasting.lock().take(capacity) else {
            // There may be less than a whole mapping left, and enough for this.
            charge.give_back();
            return self.allocate(len);
        };
        let memory = Memory::Lasting(piece);
        Ok(Buffer::of(Block { memory, capacity }, len, charge))
    }

    /// A piece of a buffer that is used where it lies; its bytes count as if they were allocated.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where a limit does not allow it.
    ///
    /// # Panics
    /// Where the range is not within the buffer.
    pub fn part(
        self: &Arc<Heap>,
        whole: &Arc<Buffer>,
        range: std::ops::Range<usize>,
    ) -> Result<Buffer> {
        assert!(range.start <= range.end && range.end <= whole.len);
        let charge = self.charge(range.len(), range.len())?;
        self.make_room(charge.scope.as_ref());
        Ok(Buffer {
            // SAFETY: the range was found to be within the buffer.
            address: unsafe { whole.address.add(range.start) },
            len: range.len(),
            owner: Owner::Part {
                whole: Arc::clone(whole),
                charge,
            },
        })
    }

    /// Refuses sizes that could not be allocated even if nothing else were in use. What is made in
    /// proportion to a shape that a file has chosen asks first.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where `len` is over a limit.
    pub fn check(&self, len: usize) -> Result<()> {
        let scope = scope::current();
        match self
            .accounts(scope.as_ref())
            .find(|(_, account)| len > account.limit())
        {
            None => Ok(()),
            Some((scope, _)) => Err(self.over(len, scope)),
        }
    }

    /// Bytes in buffers that are in use.
    pub fn active(&self) -> usize {
        self.account.active()
    }

    /// The most bytes that were in use since the start or [`Heap::reset_peak`].
    pub fn peak(&self) -> usize {
        self.account.peak()
    }

    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        self.account.reset_peak();
    }

    /// Bytes in freed buffers that are kept for reuse.
    pub fn cached(&self) -> usize {
        self.account.cached()
    }

    /// Sets the most bytes that may be in use; returns what it was.
    pub fn set_limit(&self, bytes: usize) -> usize {
        self.account.set_limit(bytes)
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
        self.trim(None);
    }

    /// Gives freed buffers of a scope, or all, back to the system.
    pub(crate) fn trim(&self, scope: Option<&MemoryScope>) {
        for class in &self.classes {
            let goes = |cached: &mut Cached| match (scope, &cached.scope) {
                (None, _) => true,
                (Some(scope), Some(own)) => own.is_within(scope),
                (Some(_), None) => false,
            };
            // Freed after the lock is.
            let gone: Vec<Cached> = class.lock().extract_if(.., goes).collect();
            gone.into_iter()
                .for_each(|cached| drop(self.uncached(cached)));
        }
    }

    /// Counts bytes as active for the current scope and all above it. `len` is what was asked for.
    fn charge(self: &Arc<Heap>, len: usize, bytes: usize) -> Result<Charge> {
        let scope = scope::current();
        for (level, (owner, account)) in self.accounts(scope.as_ref()).enumerate() {
            if !account.take(bytes) {
                let below = self.accounts(scope.as_ref()).take(level);
                below.for_each(|(_, account)| account.give(bytes));
                return Err(self.over(len, owner));
            }
        }
        self.accounts(scope.as_ref())
            .for_each(|(_, account)| account.note_peak());
        Ok(Charge {
            heap: Home::of(self),
            scope,
            bytes,
        })
    }

    /// Frees what is cached where that and what is in use are over a limit.
    fn make_room(&self, scope: Option<&MemoryScope>) {
        for (owner, account) in self.accounts(scope) {
            if account.is_over() && account.cached() > 0 {
                self.trim(owner);
            }
        }
    }

    /// Takes a freed block if there is room for it.
    fn keep(&self, block: Block, scope: Option<MemoryScope>) {
        let bytes = block.capacity;
        let class = match (&block.memory, size_class(bytes)) {
            (Memory::Allocated(_) | Memory::Mapped(..), Some((Some(class), _))) => class,
            _ => return,
        };
        let accounts = || self.accounts(scope.as_ref());
        accounts().for_each(|(_, account)| account.cache(bytes));
        let fits = self.cached() <= self.cache_limit.load(Ordering::Relaxed)
            && !accounts().any(|(_, account)| account.is_over());
        let cached = Cached { block, scope };
        match fits {
            true => self.classes[class].lock().push(cached),
            false => drop(self.uncached(cached)),
        }
    }

    /// A block that is not in the cache any more.
    fn uncached(&self, cached: Cached) -> Block {
        let bytes = cached.block.capacity;
        self.accounts(cached.scope.as_ref())
            .for_each(|(_, account)| account.uncache(bytes));
        cached.block
    }

    /// The accounts of a scope and all above it, the process's last.
    fn accounts<'a>(
        &'a self,
        scope: Option<&'a MemoryScope>,
    ) -> impl Iterator<Item = (Option<&'a MemoryScope>, &'a Account)> {
        scope::accounts(scope).chain([(None, &self.account)])
    }

    fn over(&self, len: usize, scope: Option<&MemoryScope>) -> Error {
        match scope {
            Some(owner) => {
                let why = format!(
                    "that is over the limit of the memory scope '{}'",
                    owner.name()
                );
                self.too_large(len, scope, &why)
            }
            None => self.too_large(len, None, "that is over the limit"),
        }
    }

    fn too_large(&self, len: usize, scope: Option<&MemoryScope>, why: &str) -> Error {
        let account = scope.map_or(&self.account, MemoryScope::account);
        Error::new(
            ErrorKind::Memory,
            "memory",
            format!(
                "cannot allocate {len} bytes: {why}; in use are {} of at most {} bytes",
                account.active(),
                account.limit()
            ),
        )
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.clear_cache();
    }
}

/// Size classes between a power of two and the next: at most a ninth of a block is waste.
const CLASSES_PER_DOUBLING: usize = 8;

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

/// What every allocator aligns to at no cost.
const SCALAR_ALIGNMENT: usize = 16;

/// Memory of the system, which gets it back with the drop.
struct Block {
    memory: Memory,
    capacity: usize,
}

enum Memory {
    /// The block begins at the first multiple of [`ALIGNMENT`] in it. Allocators are slow at alignments
    /// above their own: glibc's took 570 instructions more for a kilobyte.
    Allocated(NonNull<u8>),
    /// Mapped by itself, so that the system has it back at once: an allocator might keep it.
    Mapped(
        NonNull<u8>,
        #[allow(dead_code, reason = "held for its Drop")] MmapMut,
    ),
    /// A piece of a mapping that others share.
    Lasting(Piece),
}

// SAFETY: a block is memory that nothing else refers to.
unsafe impl Send for Block {}

impl Block {
    /// `None` where the system has no more. `capacity` is that of a size class, so not zero.
    fn new(capacity: usize) -> Option<Block> {
        let memory = if capacity >= tuning::MAPPED_BUFFER_BYTES {
            let mut map = MmapMut::map_anon(capacity).ok()?;
            lasting::in_large_pages(&map);
            Memory::Mapped(NonNull::new(map.as_mut_ptr())?, map)
        } else {
            let layout = Block::layout(capacity)?;
            // SAFETY: the size is not zero.
            Memory::Allocated(NonNull::new(unsafe { alloc(layout) })?)
        };
        Some(Block { memory, capacity })
    }

    /// Room for `capacity` aligned bytes, in memory that is aligned for any scalar.
    fn layout(capacity: usize) -> Option<AllocLayout> {
        let size = capacity.checked_add(ALIGNMENT - SCALAR_ALIGNMENT)?;
        AllocLayout::from_size_align(size, SCALAR_ALIGNMENT).ok()
    }

    fn address(&self) -> NonNull<u8> {
        match self.memory {
            Memory::Allocated(start) => {
                let skipped = start.addr().get().wrapping_neg() % ALIGNMENT;
                // SAFETY: the layout has room for what is skipped.
                unsafe { start.add(skipped) }
            }
            Memory::Mapped(address, _) => address,
            Memory::Lasting(ref piece) => piece.address(),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Memory::Allocated(start) = self.memory {
            let layout = Block::layout(self.capacity).expect("it was allocated with this layout");
            // SAFETY: it was allocated with this layout, and nothing refers to it.
            unsafe { dealloc(start.as_ptr(), layout) }
        }
    }
}

/// A vector with room for `count` elements, for counts that a caller or a file chooses: a vector that
/// cannot grow ends the process.
///
/// # Errors
/// [`ErrorKind::Memory`] where a limit or the machine does not allow it.
#[cfg(not(loom))]
pub fn vector<T>(count: usize) -> Result<Vec<T>> {
    let bytes = count.saturating_mul(size_of::<T>());
    heap().check(bytes)?;
    let mut vector = Vec::new();
    let reserved = vector.try_reserve_exact(count);
    reserved.map_err(|_| heap().too_large(bytes, None, "the machine has no more"))?;
    Ok(vector)
}

/// Models choose small counts.
#[cfg(loom)]
pub fn vector<T>(count: usize) -> Result<Vec<T>> {
    Ok(Vec::with_capacity(count))
}

/// The accounts of a scope and all above it, up to that of the process.
#[cfg(not(loom))]
fn accounts(scope: Option<&MemoryScope>) -> impl Iterator<Item = (Option<&MemoryScope>, &Account)> {
    heap().accounts(scope)
}

/// Models have no process.
#[cfg(loom)]
use scope::accounts;

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
    fn what_lasts_counts_while_it_is_there_and_is_not_kept() {
        let heap = Arc::new(Heap::new(1 << 20, 1 << 20));
        let buffer = heap.allocate_lasting(100_000).unwrap();
        assert!((100_000..=104_096).contains(&heap.active()));
        assert_eq!(
            (buffer.len(), buffer.as_ptr().addr() % ALIGNMENT),
            (100_000, 0)
        );
        let error = heap.allocate_lasting(1 << 20).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Memory);
        drop(buffer);
        assert_eq!(heap.active(), 0);
        #[cfg(target_os = "linux")]
        assert_eq!(heap.cached(), 0);
    }

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
            assert!(capacity <= (len + len / 8).next_multiple_of(ALIGNMENT).max(ALIGNMENT));
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

    #[test]
    fn scopes_count_up_to_the_process_on_whatever_thread() {
        let heap = Arc::new(Heap::new(1 << 30, 1 << 30));
        let (server, other) = (MemoryScope::new("server"), MemoryScope::new("other"));
        let model = server.child("model");
        let kept = within(Some(&model), || heap.allocate(1 << 20)).unwrap();
        let second = within(Some(&other), || heap.allocate(1 << 17)).unwrap();
        drop(heap.allocate(100).unwrap());
        let active = || [&model, &server, &other].map(MemoryScope::active);
        assert_eq!(active(), [1 << 20, 1 << 20, 1 << 17]);
        assert_eq!(heap.active(), (1 << 20) + (1 << 17));
        std::thread::spawn(move || drop(kept)).join().unwrap();
        assert_eq!(active(), [0, 0, 1 << 17]);
        assert_eq!((model.peak(), server.peak()), (1 << 20, 1 << 20));
        assert_eq!((model.cached(), server.cached()), (1 << 20, 1 << 20));
        // Whoever takes a freed block takes it from the scope that has it cached.
        let reused = within(Some(&other), || heap.allocate(1 << 20)).unwrap();
        assert_eq!(active(), [0, 0, (1 << 17) + (1 << 20)]);
        assert_eq!((model.cached(), heap.cached()), (0, 0));
        drop((reused, second));
        assert_eq!(other.cached(), heap.cached());
        heap.trim(Some(&model));
        assert!(heap.cached() > 0, "nothing of it was there");
        heap.trim(Some(&other));
        assert_eq!((other.cached(), heap.cached()), (0, 0));
        server.reset_peak();
        assert_eq!(server.peak(), 0);
    }

    #[test]
    fn the_limits_of_a_scope_and_of_all_above_it_hold() {
        let heap = Arc::new(Heap::new(1 << 30, 1 << 30));
        let server = MemoryScope::new("server");
        let model = server.child("model");
        let allocate = |len: usize| within(Some(&model), || heap.allocate(len));
        assert_eq!(server.set_limit(1 << 20), usize::MAX);
        let first = allocate(1 << 19).unwrap();
        let error = allocate((1 << 19) + 1).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert_eq!(
            error.to_string(),
            "[memory] cannot allocate 524289 bytes: that is over the limit of the memory scope \
             'server'; in use are 524288 of at most 1048576 bytes"
        );
        // What was counted on the way up is taken back, and what is below the limit is there.
        assert_eq!([&model, &server].map(MemoryScope::active), [1 << 19; 2]);
        drop(allocate(1 << 19).unwrap());
        // A limit below what is in use lets that be.
        server.set_limit(1 << 10);
        assert!(allocate(64).is_err());
        assert_eq!(heap.allocate(64).unwrap().len(), 64);
        assert!(within(Some(&model), || heap.check(1 << 11)).is_err());
        drop(first);
        assert_eq!(model.active(), 0);
        // Freed blocks count: these had to go for the new one, but nobody else's.
        server.set_limit(1 << 20);
        drop(heap.allocate(1 << 18).unwrap());
        drop(allocate(1 << 19).unwrap());
        assert_eq!(
            (server.cached(), heap.cached()),
            (1 << 19, (1 << 19) + (1 << 18))
        );
        let _large = allocate(1 << 20).unwrap();
        assert_eq!((server.cached(), heap.cached()), (0, 1 << 18));
    }

    #[test]
    fn a_part_of_a_buffer_counts_and_keeps_it() {
        let heap = Arc::new(Heap::new(1 << 30, 0));
        let scope = MemoryScope::new("scope");
        // SAFETY: the vector is not written, and the buffer keeps it.
        let whole = unsafe {
            let bytes = vec![7u8; 1000];
            let address = NonNull::from(&bytes[..]).cast();
            Arc::new(Buffer::foreign(address, bytes.len(), Box::new(bytes)))
        };
        let part = within(Some(&scope), || heap.part(&whole, 10..30)).unwrap();
        assert_eq!((scope.active(), heap.active(), part.len()), (20, 20, 20));
        drop(whole);
        // SAFETY: the part has these bytes.
        let last = unsafe { part.as_ptr().add(19).read() };
        assert_eq!(last, 7);
        drop(part);
        assert_eq!((scope.active(), heap.active()), (0, 0));
        scope.set_limit(5);
        let whole = Arc::new(heap.allocate(10).unwrap());
        assert!(within(Some(&scope), || heap.part(&whole, 0..10)).is_err());
    }
}
