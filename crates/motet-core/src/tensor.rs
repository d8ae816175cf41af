//! A value in memory: a buffer, and where and how the elements lie in it.

use std::sync::Arc;

use crate::error::Result;
use crate::memory::{Buffer, Heap};
use crate::shape::{Layout, Spec};

/// A value in memory. Cheap to clone; its elements never change.
#[derive(Clone)]
pub struct Tensor {
    /// The memory.
    pub buffer: Arc<Buffer>,
    /// Bytes from the buffer's start to the first element.
    pub offset: usize,
    /// How the elements lie from there.
    pub layout: Layout,
}

impl Tensor {
    /// Uninitialised row-major memory for a value, for a kernel to write.
    pub fn allocate(spec: &Spec, heap: &Arc<Heap>) -> Result<Tensor> {
        spec.shape.check(spec.dtype)?;
        Ok(Tensor {
            buffer: Arc::new(heap.allocate(spec.bytes())?),
            offset: 0,
            layout: spec.layout(),
        })
    }

    /// Shape and dtype.
    pub fn spec(&self) -> Spec {
        self.layout.spec()
    }

    /// Another view of the same memory, `bytes` from this one's first element; `None` where it
    /// would reach outside of the buffer.
    pub fn view(&self, layout: Layout, bytes: isize) -> Option<Tensor> {
        let offset = self.offset.checked_add_signed(bytes)?;
        if layout.shape.size() > 0 {
            let (low, high) = layout.extent()?;
            offset.checked_add_signed(low)?;
            if offset.checked_add_signed(high)? >= self.buffer.len() {
                return None;
            }
        }
        Some(Tensor {
            buffer: Arc::clone(&self.buffer),
            offset,
            layout,
        })
    }
}
