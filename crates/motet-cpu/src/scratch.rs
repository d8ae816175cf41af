//! Temporary memory of a thread, for kernels whose threads each need some. It is kept for the next
//! use, so that a launch allocates nothing.

use std::cell::RefCell;

thread_local! {
    /// A memory for each use that is within another one.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A cache line, as which vectors want their memory aligned.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}

/// A memory of more lines than these 4 MiB is not kept: a thread that calls once would hold it until
/// it ends.
const KEPT_LINES: usize = (4 << 20) / size_of::<Line>();

/// Calls `work` with the address of at least so many bytes that nobody else uses meanwhile. They
/// hold anything, and are aligned to 64 bytes.
pub(crate) fn with_scratch<R>(bytes: usize, work: impl FnOnce(*mut u8) -> R) -> R {
    let kept = FREE.with_borrow_mut(Vec::pop);
    let mut lines = kept.unwrap_or_default();
    let wanted = bytes.div_ceil(size_of::<Line>());
    if lines.len() < wanted {
        lines.resize(wanted, Line { _bytes: [0; 64] });
    }
    let result = work(lines.as_mut_ptr().cast());
    if lines.len() <= KEPT_LINES {
        FREE.with_borrow_mut(|free| free.push(lines));
    }
    result
}

/// As [`with_scratch`], for so many floats, which hold anything.
pub(crate) fn with_floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    with_scratch(len * size_of::<f32>(), |memory| {
        // SAFETY: the memory has room for the floats, is aligned and initialised (lines start as
        // zeros), and nobody else uses it.
        work(unsafe { std::slice::from_raw_parts_mut(memory.cast(), len) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_kept_aligned_and_apart() {
        let outer = with_scratch(1000, |outer| {
            assert_eq!(outer.addr() % 64, 0);
            let inner = with_scratch(100, |inner| inner.addr());
            assert!(!(outer.addr()..outer.addr() + 1000).contains(&inner));
            // SAFETY: the memory has 1000 bytes.
            unsafe { outer.write_bytes(7, 1000) };
            outer.addr()
        });
        assert_eq!(with_scratch(1000, |again| again.addr()), outer);
    }

    #[test]
    fn only_small_memories_are_kept() {
        let kept = || FREE.with_borrow(|free| free.iter().map(Vec::len).sum::<usize>());
        with_scratch(KEPT_LINES * size_of::<Line>() + 1, |_| ());
        assert_eq!(kept(), 0);
        with_floats(100, |floats| floats.fill(1.0));
        assert_eq!(kept(), 400usize.div_ceil(size_of::<Line>()));
    }
}
