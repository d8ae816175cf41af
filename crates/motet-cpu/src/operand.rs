//! Operands: how kernels reach the memory of a launch.
//!
//! [`input`] gives a row-major input as a slice, [`Strided`] one of any layout, and [`Output`] an
//! output that threads write in parts. Each checks that the memory is there and aligned. [`Walk`]
//! visits a strided value in row-major order.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::Location;
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::memory::ALIGNMENT;
use motet_core::shape::Layout;
use smallvec::SmallVec;

/// The elements of a row-major input. `T` has the dtype's size; bool may be read as `u8`.
pub(crate) fn input<'a, T: Element>(location: &Location<'a>, layout: &Layout) -> Result<&'a [T]> {
    let extent = Extent::of(layout);
    if !extent.contiguous {
        return Err(internal(
            "a strided input where a row-major one was expected",
        ));
    }
    let (pointer, len) = (extent.elements::<T>(location)?, extent.len);
    // SAFETY: `elements` found `len` aligned elements inside the buffer, which nobody writes while
    // the launch borrows it, and any bytes are a valid T (bool only where the dtype is bool).
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// An input of any layout: the address of its first element.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T> {
    pointer: *const T,
    memory: PhantomData<&'a [T]>,
}

// SAFETY: it stands for shared, read-only memory.
unsafe impl<T: Sync> Send for Strided<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Strided<'_, T> {}

impl<'a, T: Element> Strided<'a, T> {
    /// The input at `location`; every element that `layout` addresses is inside the buffer.
    pub(crate) fn new(location: &Location<'a>, layout: &Layout) -> Result<Strided<'a, T>> {
        Strided::at(location, &Extent::of(layout))
    }

    /// As [`new`](Strided::new), for a layout that is known already.
    pub(crate) fn at(location: &Location<'a>, extent: &Extent) -> Result<Strided<'a, T>> {
        Ok(Strided {
            pointer: extent.elements::<T>(location)?,
            memory: PhantomData,
        })
    }

    /// The element `offset` elements from the first.
    ///
    /// # Safety
    /// `offset` is that of an element of the layout that `new` checked.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, offset: isize) -> T {
        // SAFETY: by this function's contract the address is inside the buffer.
        unsafe { *self.pointer.offset(offset) }
    }

    /// `len` neighbours in memory, the first of them `offset` elements from the first.
    ///
    /// # Safety
    /// All of them are elements of the layout that `new` checked.
    #[inline(always)]
    pub(crate) unsafe fn run(&self, offset: isize, len: usize) -> &'a [T] {
        // SAFETY: by this function's contract the addresses are inside the buffer.
        unsafe { std::slice::from_raw_parts(self.pointer.offset(offset), len) }
    }
}

/// An output, row-major, of which different threads write different parts.
pub(crate) struct Output<'a, T> {
    pointer: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever takes parts promises that they do not overlap, so threads write apart.
unsafe impl<T: Send> Send for Output<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T: Element> Output<'a, T> {
    /// The output at `location`, or scratch memory of a layout.
    pub(crate) fn new(location: &Location<'a>, layout: &Layout) -> Result<Output<'a, T>> {
        Output::at(location, &Extent::of(layout))
    }

    /// As [`new`](Output::new), for a layout that is known already.
    pub(crate) fn at(location: &Location<'a>, extent: &Extent) -> Result<Output<'a, T>> {
        if !extent.contiguous {
            return Err(internal("a strided output"));
        }
        Ok(Output {
            pointer: extent.elements::<T>(location)?.cast_mut(),
            len: extent.len,
            memory: PhantomData,
        })
    }
}

impl<'a, T> Output<'a, T> {
    /// Memory of the kernel's own.
    pub(crate) fn over(memory: &'a mut [T]) -> Output<'a, T> {
        Output {
            pointer: memory.as_mut_ptr(),
            len: memory.len(),
            memory: PhantomData,
        }
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the first element.
    pub(crate) fn as_mut_ptr(&self) -> *mut T {
        self.pointer
    }

    /// Some of the elements, for writing: they hold anything before.
    ///
    /// # Safety
    /// No two parts that exist at the same time overlap.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside the buffer, which the launch lends for writing; the caller
        // promises that nothing else refers to this part.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }

    /// Stores one element.
    ///
    /// # Safety
    /// `index < len()`, and nobody else reads or writes this element meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, index: usize, value: T) {
        debug_assert!(index < self.len);
        // SAFETY: by this function's contract.
        unsafe { *self.pointer.add(index) = value }
    }

    /// All elements, for a step that one thread writes.
    pub(crate) fn into_slice(self) -> &'a mut [T] {
        // SAFETY: `self` is the only way to this output and is used up.
        unsafe { self.part(0..self.len) }
    }
}

/// What a launch has to know of a layout to find its memory, for steps that are launched often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    dtype: Dtype,
    /// The number of elements.
    len: usize,
    contiguous: bool,
    /// From the first to the last byte, counted from the first element's first; no buffer has the last
    /// possible byte, which stands for what is too far apart.
    low: isize,
    high: isize,
    /// A power of two.
    alignment: usize,
}

impl Extent {
    /// What a layout covers.
    pub(crate) fn of(layout: &Layout) -> Extent {
        let (low, high) = layout.extent().unwrap_or((0, isize::MAX));
        Extent {
            dtype: layout.dtype,
            len: layout.shape.size(),
            contiguous: layout.is_contiguous(),
            low,
            high,
            alignment: match layout.dtype {
                Dtype::Complex64 => align_of::<f32>(),
                dtype => dtype.size(),
            },
        }
    }

    /// The dtype of the elements.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The address of the first element at a location; all elements are known to be in the buffer, and
    /// aligned.
    pub(crate) fn address(&self, location: &Location<'_>) -> Result<*mut u8> {
        if self.len == 0 {
            // Any aligned address will do for no elements.
            return Ok(std::ptr::without_provenance_mut(ALIGNMENT));
        }
        let first = location.offset.checked_add_signed(self.low);
        let last = location.offset.checked_add_signed(self.high);
        if first.is_none() || last.is_none_or(|last| last >= location.buffer.len()) {
            return Err(outside());
        }
        // SAFETY: the offset is inside the buffer.
        let pointer = unsafe { location.buffer.as_ptr().add(location.offset) };
        if pointer.addr() & (self.alignment - 1) != 0 {
            return Err(internal("an operand is not aligned to its dtype"));
        }
        Ok(pointer)
    }

    /// The address of the first element, as one of a type that the dtype can be read as; all elements
    /// are known to be in the buffer, and aligned.
    #[inline]
    fn elements<T: Element>(&self, location: &Location<'_>) -> Result<*const T> {
        let same_size = size_of::<T>() == self.dtype.size();
        if !same_size || (T::DTYPE == Dtype::Bool && self.dtype != Dtype::Bool) {
            return Err(internal(&format!("{} read as {}", self.dtype, T::DTYPE)));
        }
        let pointer = self.address(location)?.cast::<T>();
        if !pointer.is_aligned() {
            return Err(internal("an operand is not aligned to its dtype"));
        }
        Ok(pointer)
    }
}

fn outside() -> Error {
    internal("an operand reaches outside of its buffer")
}

fn internal(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "cpu", what)
}

/// A walk over `N` strided values of one shape in row-major order, run by run: a run is a row of
/// the innermost dimension after dimensions that follow each other in memory were merged.
#[derive(Clone, Debug)]
pub(crate) struct Walk<const N: usize = 1> {
    /// Outer to inner; at least one dimension. Each with the steps of the values.
    dims: SmallVec<[(usize, [isize; N]); 6]>,
}

impl Walk {
    /// The walk over a layout.
    pub(crate) fn of(layout: &Layout) -> Walk {
        Walk::new(&layout.shape, [&layout.strides])
    }

    /// The step between neighbours in a run, in elements.
    pub(crate) fn step(&self) -> isize {
        self.steps()[0]
    }

    /// The offset, in elements, of the element with this row-major number.
    pub(crate) fn offset(&self, mut number: usize) -> isize {
        let mut offset = 0;
        for &(dim, [stride]) in self.dims.iter().rev() {
            offset += (number % dim) as isize * stride;
            number /= dim;
        }
        offset
    }
}

impl<const N: usize> Walk<N> {
    /// The walk over the elements that these dimensions and strides address.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; N]) -> Walk<N> {
        let mut dims: SmallVec<[(usize, [isize; N]); 6]> = SmallVec::new();
        for (axis, &dim) in shape.iter().enumerate().filter(|&(_, &dim)| dim != 1) {
            let steps = strides.map(|strides| strides[axis]);
            match dims.last_mut() {
                Some((outer, outer_steps)) if *outer_steps == steps.map(|s| s * dim as isize) => {
                    *outer *= dim;
                    *outer_steps = steps;
                }
                _ => dims.push((dim, steps)),
            }
        }
        if dims.is_empty() {
            dims.push((1, [1; N]));
        }
        Walk { dims }
    }

    /// The dimensions, each with its steps; those that are one in memory are one here.
    pub(crate) fn dims(&self) -> &[(usize, [isize; N])] {
        &self.dims
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().map(|&(dim, _)| dim).product()
    }

    /// The steps between neighbours in a run, in elements.
    pub(crate) fn steps(&self) -> [isize; N] {
        self.dims.last().expect("a walk has a dimension").1
    }

    /// Calls `visit(number, offsets, len)` for the runs, or parts of them, that make up the
    /// elements with these row-major numbers: `len` elements from number `number`, `offsets`
    /// elements from the values' first ones and [`steps`](Walk::steps) apart.
    #[inline(always)]
    pub(crate) fn runs(
        &self,
        range: Range<usize>,
        mut visit: impl FnMut(usize, [isize; N], usize),
    ) {
        if range.is_empty() {
            return;
        }
        let add = |offsets: &mut [isize; N], times: isize, steps: &[isize; N]| {
            for (offset, step) in offsets.iter_mut().zip(steps) {
                *offset += times * step;
            }
        };
        let (inner, outer) = self.dims.split_last().expect("a walk has a dimension");
        let mut offsets = [0; N];
        let mut column = range.start % inner.0;
        let mut rest = range.start / inner.0;
        add(&mut offsets, column as isize, &inner.1);
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
        for (i, (dim, steps)) in index.iter_mut().zip(outer).rev() {
            *i = rest % dim;
            rest /= dim;
            add(&mut offsets, *i as isize, steps);
        }
        let mut number = range.start;
        loop {
            let len = (inner.0 - column).min(range.end - number);
            visit(number, offsets, len);
            number += len;
            if number == range.end {
                return;
            }
            // The run ended: back to its start, and on to the next one.
            add(&mut offsets, -(column as isize), &inner.1);
            column = 0;
            for (i, (dim, steps)) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                add(&mut offsets, 1, steps);
                if *i < *dim {
                    break;
                }
                add(&mut offsets, -(*dim as isize), steps);
                *i = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensor;

    #[test]
    fn walks_visit_row_major_from_anywhere() {
        let cases: [(&[usize], &[isize]); 5] = [
            (&[2, 3, 4], &[12, 4, 1]),
            (&[2, 3, 4], &[1, 8, 2]),
            (&[3, 2, 2, 1], &[-4, 0, 1, 7]),
            (&[], &[]),
            (&[5], &[-2]),
        ];
        for (shape, strides) in cases {
            let walk = Walk::new(shape, [strides]);
            let mut expected = vec![0isize];
            for (&dim, &stride) in shape.iter().zip(strides) {
                expected = expected
                    .iter()
                    .flat_map(|&o| (0..dim).map(move |i| o + i as isize * stride))
                    .collect();
            }
            assert_eq!(walk.len(), expected.len());
            for start in 0..expected.len() {
                let mut seen = Vec::new();
                walk.runs(start..expected.len(), |number, [offset], len| {
                    assert_eq!(number, start + seen.len());
                    seen.extend((0..len).map(|i| offset + i as isize * walk.step()));
                });
                assert_eq!(seen, expected[start..]);
                assert_eq!(walk.offset(start), expected[start]);
            }
        }
        assert_eq!(Walk::new(&[2, 3, 4], [&[12, 4, 1]]).dims.len(), 1);
    }

    #[test]
    fn operands_outside_of_their_buffer_are_refused() {
        let tensor = tensor(&[4], &[1f32, 2.0, 3.0, 4.0]);
        let at = |offset| Location {
            buffer: &tensor.buffer,
            offset,
        };
        assert!(input::<f32>(&at(0), &tensor.layout).is_ok());
        assert!(input::<f32>(&at(2), &tensor.layout).is_err());
        assert!(input::<f64>(&at(0), &tensor.layout).is_err());
        let end = tensor.buffer.len();
        assert!(input::<f32>(&at(end), &tensor.layout).is_err());
        let mut backwards = tensor.layout.clone();
        backwards.strides[0] = -1;
        assert!(Strided::<f32>::new(&at(0), &backwards).is_err());
        assert!(Strided::<f32>::new(&at(12), &backwards).is_ok());
    }
}
