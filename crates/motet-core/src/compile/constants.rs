//! Constants where launches read them: in place, or copied once where they lie askew.
//!
//! A file does not align its weights, and most are packed when plans are made: so a constant stays a
//! part of the mapped file, at whatever address, until somebody wants to read it as it is. Then it
//! counts for the scope of whoever comes first, and all others share that one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use crate::compile::executor::is_aligned;
use crate::error::Result;
use crate::memory::{Buffer, heap};
use crate::sync::{Mutex, Rank};
use crate::tensor::Tensor;

/// The bytes of a buffer from a place on.
type Key = (usize, usize, usize);
type Known = HashMap<Key, (Weak<Buffer>, Weak<Buffer>)>;

/// What is in use now, with what it is a part or a copy of. Locked while plans are made, for a look-up.
static READABLE: LazyLock<Mutex<Known>> = LazyLock::new(|| Mutex::new(Rank::Leaf, Known::new()));

/// The same value, of which each element is aligned, and whose memory counts. Shared by all who ask
/// for the same bytes, as long as one of them holds it.
///
/// # Errors
/// Memory.
pub fn readable(tensor: &Tensor) -> Result<Tensor> {
    let aligned = is_aligned(tensor);
    if aligned && !tensor.buffer.is_mapped() {
        return Ok(tensor.clone());
    }
    let (low, len) = match tensor.layout.extent() {
        Some((low, high)) => (low, high.abs_diff(low) + 1),
        None => (0, 0),
    };
    let start = tensor.offset.wrapping_add_signed(low);
    // An address is that of one buffer alone as long as there is a handle, weak as it may be.
    let key = (Arc::as_ptr(&tensor.buffer).addr(), start, len);
    let find = || {
        READABLE
            .lock()
            .get(&key)
            .and_then(|(_, made)| made.upgrade())
    };
    let buffer = match find() {
        Some(buffer) => buffer,
        None => {
            let made = Arc::new(match aligned {
                true => heap().part(&tensor.buffer, start..start + len)?,
                false => copied(&tensor.buffer, start, len)?,
            });
            let mut known = READABLE.lock();
            known.retain(|_, (_, made)| made.strong_count() > 0);
            let entry = known.entry(key);
            // Of two that were made at once the first stays.
            let (_, weak) =
                entry.or_insert_with(|| (Arc::downgrade(&tensor.buffer), Arc::downgrade(&made)));
            let first = weak.upgrade();
            drop(known);
            first.unwrap_or(made)
        }
    };
    Ok(Tensor {
        buffer,
        offset: low.unsigned_abs(),
        layout: tensor.layout.clone(),
    })
}

fn copied(from: &Buffer, start: usize, len: usize) -> Result<Buffer> {
    let to = heap().allocate_lasting(len)?;
    // SAFETY: a tensor lies inside of its buffer, so these bytes are there and initialised; the new
    // buffer has as many, and nobody else knows it.
    unsafe {
        to.as_ptr()
            .copy_from_nonoverlapping(from.as_ptr().add(start), len)
    };
    from.give_back(start..start + len);
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::shape::{Layout, Shape, Spec, Strides};

    fn bytes(count: u8) -> Tensor {
        let tensor = Tensor::allocate(&Spec::new([count.into()], Dtype::Uint8), heap()).unwrap();
        // SAFETY: the new buffer has these bytes.
        (0..count).for_each(|i| unsafe { tensor.buffer.as_ptr().add(i.into()).write(i) });
        tensor
    }

    #[test]
    fn what_lies_askew_is_copied_once_and_keeps_its_layout() {
        let whole = bytes(21);
        // Two by two of four bytes each, transposed and turned round, from byte 1 on.
        let layout = Layout {
            shape: Shape::new(&[2, 2]),
            strides: Strides::from_slice(&[1, -2]),
            dtype: Dtype::Uint32,
        };
        let askew = whole.view(layout, 9).unwrap();
        let first = readable(&askew).unwrap();
        assert!(is_aligned(&first) && first.layout == askew.layout);
        assert_eq!(first.row_major(), askew.row_major());
        let second = readable(&askew).unwrap();
        assert!(Arc::ptr_eq(&first.buffer, &second.buffer));
        let buffer = Arc::downgrade(&first.buffer);
        drop((first, second));
        assert!(buffer.upgrade().is_none(), "nobody keeps it in memory");
        assert_eq!(readable(&askew).unwrap().row_major(), askew.row_major());
        // What can be read as it lies is.
        assert!(Arc::ptr_eq(
            &readable(&whole).unwrap().buffer,
            &whole.buffer
        ));
    }
}
