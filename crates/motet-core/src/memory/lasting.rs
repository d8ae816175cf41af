//! Memory of what lasts as long as a model: packed weights, side by side in large pages.
//!
//! Who reads tens of megabytes once in a call waits for the translation of addresses more than for the
//! bytes: a product of one row with 44 MB of weights took 1.8 to 2.3 times as long in pages of 4 KiB as
//! in those of 2 MiB. Matrices are smaller than these, so several lie in one mapping. What is freed goes
//! back to the system at once, though its addresses do not until the whole mapping is free.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapMut;
#[cfg(target_os = "linux")]
use memmap2::{Advice, UncheckedAdvice};

/// Addresses that are taken at a time. Those without content cost nothing.
const MAPPING: usize = 64 << 20;
/// A large page.
const LARGE_PAGE: usize = 2 << 20;
/// What the system gives and takes back.
const PAGE: usize = 4 << 10;

/// The mapping that pieces are cut from, and how much of it has been.
#[derive(Default)]
pub(super) struct Lasting(Option<(Mapping, usize)>);

/// A mapping, and the address that it begins at.
struct Mapping(NonNull<u8>, Arc<MmapMut>);

/// A piece of a mapping.
pub(super) struct Piece {
    address: NonNull<u8>,
    mapping: Arc<MmapMut>,
    range: Range<usize>,
}

// SAFETY: the address is that of the mapping, which may be used from any thread.
unsafe impl Send for Lasting {}

/// Asks for large pages where several fit.
pub(super) fn in_large_pages(map: &MmapMut) {
    // Advice that is not taken costs time, nothing else.
    #[cfg(target_os = "linux")]
    if map.len() >= 2 * LARGE_PAGE {
        drop(map.advise(Advice::HugePage));
    }
}

impl Lasting {
    /// The bytes that a piece for `len` takes.
    pub(super) fn capacity(len: usize) -> Option<usize> {
        len.checked_next_multiple_of(PAGE)
    }

    /// A piece of so many bytes; `None` where the system has no more.
    pub(super) fn take(&mut self, capacity: usize) -> Option<Piece> {
        if capacity > MAPPING / 2 {
            let mapping = Mapping::new(capacity.checked_next_multiple_of(LARGE_PAGE)?)?;
            return Some(mapping.piece(0..capacity));
        }
        if let Some((Mapping(_, mapping), used)) = &mut self.0
            && Arc::get_mut(mapping).is_some()
        {
            // All pieces are gone.
            *used = 0;
        }
        let fits = |(_, used): &(Mapping, usize)| used + capacity <= MAPPING;
        if !self.0.as_ref().is_some_and(fits) {
            self.0 = Some((Mapping::new(MAPPING)?, 0));
        }
        let (mapping, used) = self.0.as_mut()?;
        *used += capacity;
        Some(mapping.piece(*used - capacity..*used))
    }
}

impl Mapping {
    fn new(bytes: usize) -> Option<Mapping> {
        let mut map = MmapMut::map_anon(bytes).ok()?;
        in_large_pages(&map);
        Some(Mapping(NonNull::new(map.as_mut_ptr())?, Arc::new(map)))
    }

    fn piece(&self, range: Range<usize>) -> Piece {
        assert!(range.end <= self.1.len());
        Piece {
            // SAFETY: the range is within the mapping.
            address: unsafe { self.0.add(range.start) },
            mapping: Arc::clone(&self.1),
            range,
        }
    }
}

impl Piece {
    /// Where it starts.
    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        {
            let Range { start, end } = self.range;
            // SAFETY: these whole pages were this piece's alone, and nobody refers to them any more:
            // that they read as zeros from now on is seen by nobody.
            let advised = unsafe {
                let advice = UncheckedAdvice::DontNeed;
                self.mapping
                    .unchecked_advise_range(advice, start, end - start)
            };
            // As above.
            drop(advised);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_and_their_memory_is_used_again() {
        let mut lasting = Lasting::default();
        let mut take = |len: usize| {
            let capacity = Lasting::capacity(len).unwrap();
            let piece = lasting.take(capacity).unwrap();
            let start = piece.address().as_ptr();
            // SAFETY: the piece has so many bytes, and nobody else knows them.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
            (bytes, piece)
        };
        let (a, first) = take(10_000);
        let (b, second) = take(300_000);
        a.fill(1);
        b.fill(2);
        assert!(a.iter().all(|&x| x == 1));
        let start = a.as_ptr();
        drop(first);
        assert!(b.iter().all(|&x| x == 2), "others are left alone");
        let (c, third) = take(MAPPING);
        c.fill(3);
        assert!(b.iter().all(|&x| x == 2));
        drop((second, third));
        let (d, _fourth) = take(1);
        assert_eq!(d.as_ptr(), start, "all pieces were gone");
        #[cfg(target_os = "linux")]
        assert_eq!(d[0], 0, "the system had this memory back");
    }

    #[test]
    fn a_full_mapping_is_followed_by_another() {
        let mut lasting = Lasting::default();
        let third = Lasting::capacity(MAPPING / 3 + 1).unwrap();
        let pieces: Vec<_> = (0..4).map(|_| lasting.take(third).unwrap()).collect();
        let mut places: Vec<usize> = pieces.iter().map(|p| p.address().addr().get()).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= third));
    }
}
