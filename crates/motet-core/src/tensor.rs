//! A value in memory: a buffer, and where and how the elements lie in it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::Result;
#[cfg(not(loom))]
use crate::memory::heap;
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

    /// The elements in row-major order; a copy only where they do not lie so in memory.
    pub fn row_major(&self) -> Cow<'_, [u8]> {
        let layout = &self.layout;
        let (size, count) = (layout.dtype.size(), layout.shape.size());
        // SAFETY: a tensor lies inside of its buffer, which is initialised and immutable once the
        // tensor is published, and lives as long as the borrow of the tensor.
        let at = |offset: isize, len: usize| unsafe {
            let first = self.buffer.as_ptr().add(self.offset);
            std::slice::from_raw_parts(first.offset(offset), len)
        };
        if count == 0 {
            return Cow::Borrowed(&[]);
        }
        if layout.is_contiguous() {
            return Cow::Borrowed(at(0, count * size));
        }
        let mut bytes = Vec::with_capacity(count * size);
        self.each_element(|element| bytes.extend_from_slice(at(element, size)));
        Cow::Owned(bytes)
    }

    /// The same value in row-major order: itself where it lies so, else a copy in the heap. What may
    /// be a broadcast of a few bytes to more than there is memory is copied by this.
    ///
    /// # Errors
    /// Memory.
    #[cfg(not(loom))]
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.layout.is_contiguous() {
            return Ok(self.clone());
        }
        let copy = Tensor::allocate(&self.spec(), heap())?;
        let size = self.layout.dtype.size();
        let mut to = copy.buffer.as_ptr();
        // SAFETY: a tensor lies inside of its buffer, and there are as many elements as the new
        // buffer, which nobody else knows, has places.
        self.each_element(|element| unsafe {
            let from = self.buffer.as_ptr().add(self.offset).offset(element);
            to.copy_from_nonoverlapping(from, size);
            to = to.add(size);
        });
        Ok(copy)
    }

    /// Calls `use_it` with the offset in bytes of each element from the first, in row-major order.
    fn each_element(&self, mut use_it: impl FnMut(isize)) {
        let layout = &self.layout;
        let size = layout.dtype.size() as isize;
        let mut index = vec![0; layout.shape.len()];
        let mut offset = 0;
        for _ in 0..layout.shape.size() {
            use_it(offset * size);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                offset += layout.strides[axis];
                if index[axis] < layout.shape[axis] {
                    break;
                }
                offset -= layout.strides[axis] * index[axis] as isize;
                index[axis] = 0;
            }
        }
    }

    /// The number that is seen as all the elements, where they are several and that is how they lie.
    #[cfg(not(loom))]
    pub(crate) fn repeated(&self) -> Option<Tensor> {
        let Layout {
            shape,
            strides,
            dtype,
        } = &self.layout;
        let repeated = shape.size() > 1 && strides.iter().all(|&stride| stride == 0);
        let number = || Spec::new([], *dtype).layout();
        repeated.then(|| self.view(number(), 0)).flatten()
    }

    /// The same for tensors that are the same elements in the same memory.
    pub fn identity(&self) -> (usize, usize, Layout) {
        let address = Arc::as_ptr(&self.buffer).addr();
        (address, self.offset, self.layout.clone())
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
