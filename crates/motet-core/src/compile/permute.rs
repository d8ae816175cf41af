//! A kernel whose result is only copied, with its axes in another order, writes that order itself.
//!
//! Attention gives heads one after the other, and what comes next usually wants those of a position
//! side by side.

use crate::backend::Backend;
use crate::compile::pieces::uses;
use crate::compile::place::{Place, Placed, PlacedKernel, Root};
use crate::kernel::Kernel;
use crate::shape::{Layout, Strides};

/// Leaves out copies of results that the kernels before them can write as the copy would be.
pub(crate) fn write_permuted(placed: &mut Placed, backend: &dyn Backend) {
    let uses = uses(placed);
    let mut writer = vec![None; placed.temporaries.len()];
    let mut needed = vec![true; placed.kernels.len()];
    for (number, needed) in needed.iter_mut().enumerate() {
        if let Some((by, output, place)) = permuted(placed, number, &uses, &writer, backend) {
            placed.kernels[by].outputs[output] = place;
            *needed = false;
            continue;
        }
        for (output, place) in placed.kernels[number].outputs.iter().enumerate() {
            if let Root::Temporary(temporary) = place.root {
                writer[temporary] = Some((number, output));
            }
        }
    }
    let mut needed = needed.into_iter();
    placed.kernels.retain(|_| needed.next().unwrap_or(true));
}

/// Where the kernel with this number is such a copy: which output of which kernel can be written in its
/// place, and how.
fn permuted(
    placed: &Placed,
    number: usize,
    uses: &[usize],
    writer: &[Option<(usize, usize)>],
    backend: &dyn Backend,
) -> Option<(usize, usize, Place)> {
    let PlacedKernel {
        kernel: Kernel::Copy,
        inputs,
        outputs,
        ..
    } = &placed.kernels[number]
    else {
        return None;
    };
    let ([read], [copy]) = (&inputs[..], &outputs[..]) else {
        return None;
    };
    let Root::Temporary(temporary) = read.root else {
        return None;
    };
    let (by, output) = writer[temporary]?;
    let written = &placed.kernels[by].outputs[output];
    if uses[temporary] != 1 || read.offset != written.offset {
        return None;
    }
    let layout = as_copied(&written.layout, &read.layout, &copy.layout)?;
    let writes = backend.writes(&placed.kernels[by].kernel, output, &layout);
    let place = Place {
        layout,
        ..copy.clone()
    };
    writes.then_some((by, output, place))
}

/// How a value lies after it was read with its axes in another order and copied: `None` where that is
/// not what `read` does.
fn as_copied(written: &Layout, read: &Layout, copy: &Layout) -> Option<Layout> {
    if !written.is_contiguous() || written.dtype != read.dtype {
        return None;
    }
    let axes = |layout: &Layout| -> Vec<(usize, isize)> {
        let axes = layout
            .shape
            .iter()
            .copied()
            .zip(layout.strides.iter().copied());
        axes.filter(|&(dim, _)| dim != 1).collect()
    };
    let read = axes(read);
    let mut copied: Vec<_> = read.into_iter().zip(axes(copy)).collect();
    let mut strides = Strides::new();
    for (&dim, &stride) in written.shape.iter().zip(&written.strides) {
        if dim == 1 {
            strides.push(1);
            continue;
        }
        let axis = copied.iter().position(|&(read, _)| read == (dim, stride))?;
        strides.push(copied.swap_remove(axis).1.1);
    }
    copied.is_empty().then(|| Layout {
        strides,
        ..written.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::Value;
    use crate::compile::place::place;
    use crate::compile::testing::{Builder, Mock, neg};
    use crate::ops::View;
    use crate::shape::Axes;
    use crate::tensor::Tensor;

    /// The names of the kernels that give a view of a softmax, and whether the softmax is a result too;
    /// where the softmax is written.
    fn kernels(
        shape: &[usize],
        see: &dyn Fn(&mut Builder, Value) -> Value,
        shared: bool,
    ) -> (Vec<String>, Layout) {
        let mut b = Builder::default();
        let x = b.input(shape);
        let soft = b.softmax(x);
        let seen = see(&mut b, soft);
        // It reads row-major values alone.
        let last = b.softmax(seen);
        let mut results = vec![last];
        results.extend(shared.then_some(soft));
        let pack = |tensor: &Tensor| Ok(tensor.clone());
        let mut placed = place(b.finish(&results), &Mock, &pack).unwrap();
        write_permuted(&mut placed, &Mock);
        let names = placed.kernels.iter().map(|k| k.name.clone()).collect();
        (names, placed.kernels[0].outputs[0].layout.clone())
    }

    fn swapped(b: &mut Builder, value: Value) -> Value {
        let shape = b.shape(value);
        let [batch, heads, length, features] = shape[..] else {
            panic!("four axes");
        };
        let view = View::Transpose(Axes::from_slice(&[0, 2, 1, 3]));
        b.view(view, value, &[batch, length, heads, features])
    }

    #[test]
    fn axes_in_another_order_are_written_so() {
        let (names, layout) = kernels(&[2, 3, 5, 4], &swapped, false);
        assert_eq!(names, ["Softmax", "Softmax"]);
        assert_eq!(layout.shape[..], [2, 3, 5, 4]);
        assert_eq!(layout.strides[..], [60, 4, 12, 1]);
        // As rows of features.
        let flat = |b: &mut Builder, value| {
            let swapped = swapped(b, value);
            b.view(View::Reshape, swapped, &[5, 12])
        };
        let (names, layout) = kernels(&[1, 3, 5, 4], &flat, false);
        assert_eq!(names, ["Softmax", "Softmax"]);
        assert_eq!(layout.strides[1..], [4, 12, 1]);
    }

    #[test]
    fn other_copies_stay() {
        // Something else reads the result.
        assert_eq!(kernels(&[2, 3, 5, 4], &swapped, true).0.len(), 3);
        // A part of it is read.
        let part = |b: &mut Builder, value| {
            let start = Axes::from_slice(&[0, 0, 0, 1]);
            let strides = Strides::from_slice(&[1, 1, 1, 1]);
            b.view(View::Slice { start, strides }, value, &[2, 3, 5, 2])
        };
        assert_eq!(kernels(&[2, 3, 5, 4], &part, false).0.len(), 3);
        // It is read several times.
        let wide = |b: &mut Builder, value| b.view(View::Broadcast, value, &[7, 3, 5, 4]);
        assert_eq!(kernels(&[1, 3, 5, 4], &wide, false).0.len(), 3);
        // A kernel that writes rows alone.
        let negative = |b: &mut Builder, value| {
            let value = b.elementwise(neg(), &[value]);
            swapped(b, value)
        };
        assert_eq!(kernels(&[2, 3, 5, 4], &negative, false).0.len(), 4);
    }
}
