//! Temporary memory of a thread, for kernels whose threads each need some. It is kept for the next
//! use, so that a launch allocates nothing.

use std::cell::RefCell;
use std::mem::MaybeUninit;

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
    if bytes <= FEW_LINES * size_of::<Line>() {
        let mut lines = MaybeUninit::<[Line; FEW_LINES]>::uninit();
        return work(lines.as_mut_ptr().cast());
    }
    with_kept(bytes, work)
}

/// As many lines as lie on the stack: to look for kept ones takes as long as a small tile.
const FEW_LINES: usize = 16;

fn with_kept<R>(bytes: usize, work: impl FnOnce(*mut u8) -> R) -> R {
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
    let bytes = len * size_of::<f32>();
    with_scratch(bytes, |memory| {
        if bytes <= FEW_LINES * size_of::<Line>() {
            // SAFETY: the memory has room for these bytes.
            unsafe { memory.write_bytes(0, bytes) }
        }
        // SAFETY: the memory has room for the floats, is aligned and initialised (kept lines start as
        // zeros), and nobody else uses it.
        work(unsafe { std::slice::from_raw_parts_mut(memory.cast(), len) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_kept_aligned_and_apart() {
        for bytes in [1000, 2000] {
            let outer = with_scratch(bytes, |outer| {
                assert_eq!(outer.addr() % 64, 0);
                let inner = with_scratch(100, |inner| inner.addr());
                assert!(!(outer.addr()..outer.addr() + bytes).contains(&inner));
                // SAFETY: the memory has these bytes.
                unsafe { outer.write_bytes(7, bytes) };
                outer.addr()
            });
            let kept = bytes > FEW_LINES * size_of::<Line>();
            assert!(!kept || with_scratch(bytes, |again| again.addr()) == outer);
        }
    }

    #[test]
    fn only_small_memories_are_kept() {
        let kept = || FREE.with_borrow(|free| free.iter().map(Vec::len).sum::<usize>());
        with_scratch(KEPT_LINES * size_of::<Line>() + 1, |_| ());
        assert_eq!(kept(), 0);
        with_floats(100, |floats| floats.fill(1.0));
        assert_eq!(kept(), 0);
        with_floats(1000, |floats| floats.fill(1.0));
        assert_eq!(kept(), 4000usize.div_ceil(size_of::<Line>()));
    }
}
