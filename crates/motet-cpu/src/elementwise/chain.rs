//! Chains: simple operations on float32, each on the result of the one before, as one loop that keeps
//! that result in registers.
//!
//! A block of some vectors goes through all links, so that finding out what a link is costs little
//! beside what it does, and memory sees only the operands and what is stored.

use half::{bf16, f16};

use crate::simd::{Level, Simd, leveled};
use crate::vector::Vector;

/// The most links of a chain.
pub(super) const MAX_LINKS: usize = 24;

/// The most elements of a block.
pub(super) const BLOCK: usize = 128;

/// What a link does with the value in registers and its operand in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    /// The operand becomes the value.
    Load,
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// As those above, of operand and value in this order.
    SubFrom,
    DivFrom,
    MaxFrom,
    MinFrom,
    /// Of the value alone.
    Square,
    Neg,
    Abs,
    Sqrt,
    /// The value is written to the operand.
    Store,
    /// The same past the caches.
    Stream,
    /// The operand, of a half type, is written to [`Link::block`] as float32.
    WidenF16,
    WidenBf16,
    /// What is in [`Link::block`] is rounded to the operand, of a half type.
    NarrowF16,
    NarrowBf16,
}

/// A link, with where its operand is.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) op: Op,
    /// The first element.
    pub(super) address: *mut u8,
    /// Bytes from an element to the next: 0 for what is the same for all blocks.
    pub(super) step: usize,
    /// Bytes from a row to the next.
    pub(super) row_step: usize,
    /// Whether one element stands for all.
    pub(super) scalar: bool,
    /// A block of float32 in between, for conversions.
    pub(super) block: *mut f32,
}

/// Runs a chain for `len` elements of each of some rows. The addresses are moved from row to row.
///
/// # Safety
/// Addresses are valid for `len` elements of each row (one, where that stands for all; [`BLOCK`], where
/// the step is 0 otherwise), for reading or, where the link stores, for writing; what is read was
/// initialised, by an earlier link if not before. Those of `Stream` are aligned to 64. No element is
/// stored where another one is read, nor where a later link reads what was there before.
pub(super) unsafe fn run(simd: Simd, links: &mut [Link], rows: usize, len: usize) {
    #[inline(always)]
    fn body<L: Level>(links: &mut [Link], rows: usize, len: usize) {
        // SAFETY: the contract is the outer function's.
        unsafe { all::<L::Vector>(links, rows, len) }
    }
    leveled!(simd, body(links: &mut [Link], rows: usize, len: usize));
}

/// Vectors of a block: half of the registers, or a quarter.
const VECTORS: usize = 8;

/// In each row blocks of vectors, then single vectors, then single elements.
///
/// # Safety
/// As for [`run`], on a processor that has `V`.
#[inline(always)]
unsafe fn all<V: Vector>(links: &mut [Link], rows: usize, len: usize) {
    const { assert!(VECTORS * V::WIDTH <= BLOCK) };
    for row in 0..rows {
        if row > 0 {
            for link in &mut *links {
                link.address = link.address.wrapping_add(link.row_step);
            }
        }
        let mut at = 0;
        // SAFETY: by this function's contract, for elements up to `len`.
        unsafe {
            while len - at >= VECTORS * V::WIDTH {
                block::<V, VECTORS>(links, at);
                at += VECTORS * V::WIDTH;
            }
            while len - at >= V::WIDTH {
                block::<V, 1>(links, at);
                at += V::WIDTH;
            }
            while at < len {
                block::<f32, 1>(links, at);
                at += 1;
            }
        }
    }
}

/// Takes `N` vectors, from element `at` of the row on, through all links.
///
/// # Safety
/// As for [`all`]; the elements are there.
#[inline(always)]
unsafe fn block<V: Vector, const N: usize>(links: &[Link], at: usize) {
    let mut value = [V::splat(0.0); N];
    for link in links {
        // SAFETY: by this function's contract the operand has an element of this number.
        let address = unsafe { link.address.add(at * link.step) };
        macro_rules! each {
            (|$x:ident| $result:expr) => {
                value.iter_mut().for_each(|value| {
                    let $x = *value;
                    *value = $result;
                })
            };
            (|$x:ident, $y:ident| $result:expr) => {
                if link.scalar {
                    // SAFETY: by this function's contract.
                    let $y = V::splat(unsafe { *address.cast::<f32>() });
                    each!(|$x| $result);
                } else {
                    for (i, value) in value.iter_mut().enumerate() {
                        // SAFETY: by this function's contract the operand has so many elements.
                        let operand = unsafe { V::load(address.cast::<f32>().add(i * V::WIDTH)) };
                        let ($x, $y) = (*value, operand);
                        *value = $result;
                    }
                }
            };
            // A conversion between the operand and the block, which leaves the value alone.
            ($half:ty, |$half_at:ident, $wide_at:ident| $move:expr) => {
                for i in 0..N {
                    // SAFETY: as above; the block has room for one.
                    unsafe {
                        let $half_at = address.cast::<$half>().add(i * V::WIDTH);
                        let $wide_at = link.block.add(i * V::WIDTH);
                        $move
                    }
                }
            };
        }
        match link.op {
            Op::Load => each!(|_x, y| y),
            Op::Add => each!(|x, y| x.add(y)),
            Op::Sub => each!(|x, y| x.sub(y)),
            Op::Mul => each!(|x, y| x.mul(y)),
            Op::Div => each!(|x, y| x.div(y)),
            Op::Max => each!(|x, y| x.max(y)),
            Op::Min => each!(|x, y| x.min(y)),
            Op::SubFrom => each!(|x, y| y.sub(x)),
            Op::DivFrom => each!(|x, y| y.div(x)),
            Op::MaxFrom => each!(|x, y| y.max(x)),
            Op::MinFrom => each!(|x, y| y.min(x)),
            Op::Square => each!(|x| x.mul(x)),
            Op::Neg => each!(|x| x.neg()),
            Op::Abs => each!(|x| x.abs()),
            Op::Sqrt => each!(|x| x.sqrt()),
            Op::Store => {
                for (i, x) in value.into_iter().enumerate() {
                    // SAFETY: as above, for writing.
                    unsafe { x.store(address.cast::<f32>().add(i * V::WIDTH)) }
                }
            }
            Op::Stream => {
                for (i, x) in value.into_iter().enumerate() {
                    // SAFETY: as above; the contract has the alignment.
                    unsafe { x.stream(address.cast::<f32>().add(i * V::WIDTH)) }
                }
            }
            Op::WidenF16 => each!(f16, |half, wide| V::load_f16(half).store(wide)),
            Op::WidenBf16 => each!(bf16, |half, wide| V::load_bf16(half).store(wide)),
            Op::NarrowF16 => each!(f16, |half, wide| V::load(wide).store_f16(half)),
            Op::NarrowBf16 => each!(bf16, |half, wide| V::load(wide).store_bf16(half)),
        }
    }
}
