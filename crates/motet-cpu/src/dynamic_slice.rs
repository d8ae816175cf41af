//! Blocks at positions that are known only when the kernel runs: taken out of an array, or written
//! into a copy of it.
//!
//! MLX reads and writes wherever the position points. Here a block that does not lie inside of the
//! array is an error that names the position.

use motet_core::backend::{Launch, Location, Step};
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Axes, Layout, Shape};

use crate::copy::{Block, with_size};
use crate::indices::Indices;
use crate::operand::Output;

/// Any strides will do, but positions are read row-major.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    let start = match kernel {
        Kernel::DynamicSlice { .. } => 1,
        _ => 2,
    };
    index != start || layout.is_contiguous()
}

/// Prepares a step that moves a block.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    match (kernel, inputs, outputs) {
        (Kernel::DynamicSlice { axes }, [x, start], [out]) => Ok(Box::new(SliceStep {
            place: Place::new("DynamicSlice", axes, x, &out.shape, start)?,
            x: x.clone(),
            out: out.clone(),
        })),
        (Kernel::DynamicSliceUpdate { axes }, [x, update, start], [out])
            if x.spec() == out.spec() && update.dtype == x.dtype =>
        {
            Ok(Box::new(UpdateStep {
                place: Place::new("DynamicSliceUpdate", axes, x, &update.shape, start)?,
                x: x.clone(),
                update: update.clone(),
                out: out.clone(),
            }))
        }
        _ => Err(Error::invalid(
            "DynamicSlice",
            "got other operands than expected",
        )),
    }
}

/// Where a block may lie.
struct Place {
    op: &'static str,
    start: Layout,
    /// For each position its axis and the largest value that leaves the block inside.
    bounds: Vec<(usize, usize)>,
    rank: usize,
}

impl Place {
    fn new(
        op: &'static str,
        axes: &Axes,
        x: &Layout,
        block: &Shape,
        start: &Layout,
    ) -> Result<Place> {
        let rank = x.shape.len();
        let room = |axis: usize| x.shape.get(axis)?.checked_sub(*block.get(axis)?);
        let bounds: Option<Vec<(usize, usize)>> =
            axes.iter().map(|&axis| Some((axis, room(axis)?))).collect();
        let fits = block.len() == rank && (0..rank).all(|axis| room(axis).is_some());
        match bounds {
            Some(bounds)
                if fits && start.dtype.is_integer() && start.shape.size() == axes.len() =>
            {
                Ok(Place {
                    op,
                    start: start.clone(),
                    bounds,
                    rank,
                })
            }
            _ => Err(Error::invalid(
                op,
                format!(
                    "a block of shape {block} and positions {} for axes {axes:?} do not fit {}",
                    start.spec(),
                    x.spec()
                ),
            )),
        }
    }

    /// The position of the block's first element on each axis.
    fn read(&self, location: &Location<'_>) -> Result<Axes> {
        let indices = Indices::new(location, &self.start)?;
        let mut start = Axes::from_elem(0, self.rank);
        for (number, &(axis, last)) in self.bounds.iter().enumerate() {
            let index = indices.get(number);
            match usize::try_from(index) {
                Ok(position) if position <= last => start[axis] = position,
                _ => {
                    return Err(Error::invalid(
                        self.op,
                        format!(
                            "start {index} is out of range on axis {axis}: the block fits from 0 \
                             to {last}"
                        ),
                    ));
                }
            }
        }
        Ok(start)
    }
}

struct SliceStep {
    place: Place,
    x: Layout,
    out: Layout,
}

impl Step for SliceStep {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let SliceStep { place, x, out } = self;
        let start = place.read(&launch.inputs[1])?;
        let skipped: isize = start
            .iter()
            .zip(&x.strides)
            .map(|(&position, stride)| position as isize * stride)
            .sum();
        let bytes = skipped * x.dtype.size() as isize;
        let first = Location {
            offset: launch.inputs[0].offset.wrapping_add_signed(bytes),
            ..launch.inputs[0]
        };
        let slice = Layout {
            shape: out.shape.clone(),
            ..x.clone()
        };
        let (zeros, ones) = (vec![0; place.rank], vec![1; place.rank]);
        let block = Block::new(0, &slice, out, &zeros, &ones)?;
        let launch = Launch {
            inputs: &[first],
            ..*launch
        };
        with_size!(out.dtype, T => {
            block.copy::<T>(&launch, &Output::new(&launch.outputs[0], out)?)
        })
    }
}

struct UpdateStep {
    place: Place,
    x: Layout,
    update: Layout,
    out: Layout,
}

impl Step for UpdateStep {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let UpdateStep {
            place,
            x,
            update,
            out,
        } = self;
        let start = place.read(&launch.inputs[2])?;
        let (zeros, ones) = (vec![0; place.rank], vec![1; place.rank]);
        let before = Block::new(0, x, out, &zeros, &ones)?;
        let update = Block::new(1, update, out, &start, &ones)?;
        with_size!(out.dtype, T => {
            let out = Output::<T>::new(&launch.outputs[0], out)?;
            before.copy(launch, &out)?;
            update.copy(launch, &out)
        })
    }
}

#[cfg(test)]
mod tests {
    use motet_core::dtype::Element;
    use motet_core::shape::Spec;
    use motet_core::tensor::Tensor;
    use num_complex::Complex32;

    use super::*;
    use crate::testing::{run, tensor, values};

    fn counted(shape: &[usize]) -> Tensor {
        let size = shape.iter().product::<usize>();
        tensor(shape, &(0..size as i32).collect::<Vec<_>>())
    }

    /// The tensor with its axes in reverse order, and what its elements are then.
    fn reversed(x: &Tensor) -> Tensor {
        let mut layout = x.layout.clone();
        layout.shape.dims_mut().reverse();
        layout.strides.reverse();
        x.view(layout, 0).unwrap()
    }

    fn slice<T: Element>(
        axes: &[usize],
        x: &Tensor,
        start: &Tensor,
        shape: &[usize],
    ) -> Result<Vec<T>> {
        let axes = axes.into();
        let out = [Spec::new(shape, T::DTYPE)];
        let got = run(&Kernel::DynamicSlice { axes }, &[x, start], &out)?;
        Ok(values(&got[0]))
    }

    fn update<T: Element>(
        axes: &[usize],
        x: &Tensor,
        update: &Tensor,
        start: &Tensor,
    ) -> Result<Vec<T>> {
        let axes = axes.into();
        let kernel = Kernel::DynamicSliceUpdate { axes };
        Ok(values(&run(&kernel, &[x, update, start], &[x.spec()])?[0]))
    }

    #[test]
    fn blocks_are_taken_and_written_where_the_position_says() {
        let shape = [4, 5, 6];
        let block = [2, 3, 6];
        for x in [counted(&shape), reversed(&counted(&[6, 5, 4]))] {
            let elements = values::<i32>(&x);
            let new = reversed(&counted(&[6, 3, 2]));
            let new_elements = values::<i32>(&new);
            for (i, j) in (0..=2).flat_map(|i| (0..=2).map(move |j| (i, j))) {
                let start = tensor(&[2], &[j as u8, i as u8]);
                let mut taken = Vec::new();
                let mut written = elements.clone();
                for (n, &new) in new_elements.iter().enumerate() {
                    let at = ((i + n / 18) * 5 + j + n / 6 % 3) * 6 + n % 6;
                    taken.push(elements[at]);
                    written[at] = new;
                }
                assert_eq!(slice::<i32>(&[1, 0], &x, &start, &block).unwrap(), taken);
                let got = update::<i32>(&[1, 0], &x, &new, &start).unwrap();
                assert_eq!(got, written);
            }
        }
    }

    #[test]
    fn every_element_size_is_moved() {
        fn check<T: Element + PartialEq + std::fmt::Debug>(x: [T; 3]) {
            let (at, new) = (tensor(&[], &[1i64]), tensor(&[1], &[x[0]]));
            let x_tensor = tensor(&[3], &x);
            let got = slice::<T>(&[0], &x_tensor, &at, &[2]).unwrap();
            assert_eq!(got, x[1..]);
            let got = update::<T>(&[0], &x_tensor, &new, &at).unwrap();
            assert_eq!(got, [x[0], x[0], x[2]]);
        }
        check([true, false, true]);
        check([1u16, 2, 3]);
        check([1f32, 2.0, 3.0]);
        check([1f64, 2.0, 3.0]);
        check([1.0, 2.0, 3.0].map(|re| Complex32::new(re, -re)));
    }

    #[test]
    fn positions_outside_are_named() {
        let x = counted(&[4, 5]);
        let fails = |start: &Tensor, named: &str| {
            for error in [
                slice::<i32>(&[1], &x, start, &[4, 3]).unwrap_err(),
                update::<i32>(&[1], &x, &counted(&[4, 3]), start).unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(text.contains(named) && text.contains("0 to 2"), "{text}");
            }
        };
        fails(&tensor(&[1], &[3i32]), "start 3 ");
        fails(&tensor(&[1], &[-1i8]), "start -1 ");
        fails(&tensor(&[1], &[u64::MAX]), "start 18446744073709551615 ");
        fails(&tensor(&[1], &[i64::MIN]), "start -9223372036854775808 ");
        // Nothing may lie at the end, but not behind it.
        let at = |position: i32| slice::<i32>(&[1], &x, &tensor(&[1], &[position]), &[4, 0]);
        assert!(at(5).is_ok_and(|none| none.is_empty()) && at(6).is_err());
    }
}
