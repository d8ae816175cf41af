//! Reading and writing at indices that are known only when the kernel runs.
//!
//! Every index is checked: negative ones count from the end, others outside of the dimension are
//! errors that name the index. Reads are cut into tiles; writes are done in row-major order of the
//! indices by one thread, as several may meet in one element.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Element;
use motet_core::error::{Error, Result};
use motet_core::kernel::{Kernel, Update};
use motet_core::shape::{Axes, Layout};
use smallvec::SmallVec;

use crate::indices::{Indices, try_tiles};
use crate::number::{Number, with_number};
use crate::operand::{Output, Walk, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a gather or scatter.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (Some(x), [out]) = (inputs.first(), outputs) else {
        return Err(invalid(name(kernel), "got other operands than expected"));
    };
    Ok(match kernel {
        Kernel::Gather { axes, slice_sizes } => {
            let blocks = Blocks::new("Gather", axes, slice_sizes, &inputs[1..], x)?;
            if out.shape.size() != blocks.count * blocks.walk.len() || out.dtype != x.dtype {
                return Err(invalid("Gather", "the output has another size or dtype"));
            }
            let layouts = (x.clone(), out.clone());
            with_number!(x.dtype, T => Box::new(GatherStep::<T>(blocks, layouts, PhantomData)))
        }
        Kernel::Scatter { op, axes } => {
            let (Some(updates), true) = (inputs.last(), inputs.len() >= 2) else {
                return Err(invalid("Scatter", "got no updates"));
            };
            let rank = updates.shape.len().checked_sub(x.shape.len());
            let block = rank.map(|rank| updates.shape[rank..].to_vec());
            let block = block.ok_or_else(|| invalid("Scatter", "the updates have too few axes"))?;
            let indices = &inputs[1..inputs.len() - 1];
            let blocks = Blocks::new("Scatter", axes, &block, indices, x)?;
            let fits = updates.shape.size() == blocks.count * blocks.walk.len();
            if !fits || out.spec() != x.spec() || updates.dtype != x.dtype {
                return Err(invalid(
                    "Scatter",
                    "updates, input and output do not fit together",
                ));
            }
            let layouts = (x.clone(), updates.clone());
            with_number!(x.dtype, T => Box::new(ScatterStep::<T>(blocks, *op, layouts, PhantomData)))
        }
        &Kernel::GatherAxis { axis } => {
            let along = Along::new("GatherAxis", axis, inputs)?;
            if out.spec().shape != along.indices.shape || out.dtype != x.dtype {
                return Err(invalid(
                    "GatherAxis",
                    "the output has another shape or dtype",
                ));
            }
            let layouts = (x.clone(), out.clone());
            with_number!(x.dtype, T => Box::new(GatherAxisStep::<T>(along, layouts, PhantomData)))
        }
        &Kernel::ScatterAxis { op, axis } => {
            let along = Along::new("ScatterAxis", axis, inputs)?;
            let fits = inputs.get(2).is_some_and(|updates| {
                updates.shape == along.indices.shape && updates.dtype == x.dtype
            });
            if !fits || out.spec() != x.spec() {
                return Err(invalid(
                    "ScatterAxis",
                    "updates, input and output do not fit together",
                ));
            }
            let layouts = (x.clone(), inputs[2].clone());
            with_number!(x.dtype, T =>
                Box::new(ScatterAxisStep::<T>(along, op, layouts, PhantomData)))
        }
        _ => return Err(invalid("indexing", "got another kernel")),
    })
}

fn name(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Gather { .. } => "Gather",
        Kernel::GatherAxis { .. } => "GatherAxis",
        Kernel::Scatter { .. } => "Scatter",
        _ => "ScatterAxis",
    }
}

fn invalid(op: &str, what: &str) -> Error {
    Error::invalid(op, what)
}

/// Blocks of an array, each at a tuple of indices.
struct Blocks {
    op: &'static str,
    indices: Vec<Layout>,
    /// For each index input: the axis, its size, its stride, the block's size on it.
    selected: Vec<(usize, usize, usize, usize)>,
    /// The elements of a block, from its first one on.
    walk: Walk,
    count: usize,
}

impl Blocks {
    fn new(
        op: &'static str,
        axes: &Axes,
        block: &[usize],
        indices: &[Layout],
        x: &Layout,
    ) -> Result<Blocks> {
        let fits = axes.len() == indices.len()
            && block.len() == x.shape.len()
            && block
                .iter()
                .zip(x.shape.iter())
                .all(|(block, dim)| block <= dim)
            && axes.iter().all(|&axis| axis < block.len())
            && indices
                .iter()
                .all(|i| i.dtype.is_integer() && i.shape == indices[0].shape);
        if !fits {
            return Err(Error::invalid(
                op,
                format!(
                    "got {} index arrays for axes {axes:?} and blocks of {block:?} of an array of \
                     shape {}, expected integer arrays of one shape, one for each axis",
                    indices.len(),
                    x.shape
                ),
            ));
        }
        let strides = x.shape.strides();
        Ok(Blocks {
            op,
            indices: indices.to_vec(),
            selected: axes
                .iter()
                .map(|&axis| (axis, x.shape[axis], strides[axis] as usize, block[axis]))
                .collect(),
            walk: Walk::new(block, [&strides]),
            count: indices.first().map_or(1, |indices| indices.shape.size()),
        })
    }

    /// The index inputs, which follow input 0.
    fn open<'a>(&self, launch: &Launch<'a>) -> Result<SmallVec<[Indices<'a>; 2]>> {
        let inputs = launch.inputs[1..].iter().zip(&self.indices);
        inputs
            .map(|(location, layout)| Indices::new(location, layout))
            .collect()
    }

    /// Where block `number` starts.
    fn start(&self, indices: &[Indices<'_>], number: usize) -> Result<usize> {
        let mut start = 0;
        for (indices, &(axis, dim, stride, block)) in indices.iter().zip(&self.selected) {
            start += indices.resolve(self.op, number, axis, dim, block)? * stride;
        }
        Ok(start)
    }
}

/// Elements in a tile of a gather.
const TILE: usize = 16 << 10;

struct GatherStep<T>(Blocks, (Layout, Layout), PhantomData<fn() -> T>);

impl<T: Element> Step for GatherStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let GatherStep(blocks, (x, out), _) = self;
        let x = input::<T>(&launch.inputs[0], x)?;
        let out = Output::<T>::new(&launch.outputs[0], out)?;
        let indices = blocks.open(launch)?;
        let (size, step) = (blocks.walk.len(), blocks.walk.step());
        if size == 0 {
            return Ok(());
        }
        let group = (TILE / size).max(1);
        let cost = group.saturating_mul(size / 4 + 10);
        try_tiles(launch.pool, blocks.count.div_ceil(group), cost, &|tile| {
            for number in tile * group..((tile + 1) * group).min(blocks.count) {
                let start = blocks.start(&indices, number)?;
                // SAFETY: each block of the output is written by one tile.
                let to = unsafe { out.part(number * size..(number + 1) * size) };
                blocks.walk.runs(0..size, |at, [offset], len| {
                    let from = &x[start + offset as usize..];
                    if step == 1 {
                        to[at..at + len].copy_from_slice(&from[..len]);
                    } else {
                        for (i, to) in to[at..at + len].iter_mut().enumerate() {
                            *to = from[i * step as usize];
                        }
                    }
                });
            }
            Ok(())
        })
    }
}

/// What an update makes of an element.
fn combine<T: Number>(op: Update) -> fn(T, T) -> T {
    match op {
        Update::Set => |_, new| new,
        Update::Sum => T::add,
        Update::Prod => T::mul,
        Update::Max => T::max,
        Update::Min => T::min,
    }
}

struct ScatterStep<T>(Blocks, Update, (Layout, Layout), PhantomData<fn() -> T>);

impl<T: Number> Step for ScatterStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let ScatterStep(blocks, op, (x, updates), _) = self;
        let out = Output::<T>::new(&launch.outputs[0], x)?.into_slice();
        out.copy_from_slice(input::<T>(&launch.inputs[0], x)?);
        let updates = input::<T>(&launch.inputs[launch.inputs.len() - 1], updates)?;
        let indices = blocks.open(launch)?;
        let combine = combine::<T>(*op);
        let (size, step) = (blocks.walk.len(), blocks.walk.step() as usize);
        if size == 0 {
            return Ok(());
        }
        // In order: later updates of an element come on top of earlier ones.
        let group = (TILE / size).max(1);
        let pieces = updates.chunks(group * size).enumerate();
        let mut pieces = pieces.map(|(piece, updates)| (piece * group, updates));
        launch.pool.for_each_in_order(pieces.len(), |_| {
            let (first, updates) = pieces.next().unwrap_or_default();
            for (number, updates) in updates.chunks_exact(size).enumerate() {
                let start = blocks.start(&indices, first + number)?;
                blocks.walk.runs(0..size, |at, [offset], len| {
                    for (i, &update) in updates[at..at + len].iter().enumerate() {
                        let place = &mut out[start + offset as usize + i * step];
                        *place = combine(*place, update);
                    }
                });
            }
            Ok(())
        })
    }
}

/// Indices along one axis; the other axes of the array and of the indices are the same.
struct Along {
    op: &'static str,
    indices: Layout,
    axis: usize,
    /// The array's size on the axis, and that of the indices.
    dim: usize,
    selected: usize,
    inner: usize,
}

impl Along {
    fn new(op: &'static str, axis: usize, inputs: &[Layout]) -> Result<Along> {
        let [x, indices, ..] = inputs else {
            return Err(invalid(op, "got no indices"));
        };
        let same = |(i, (a, b)): (usize, (&usize, &usize))| i == axis || a == b;
        let fits = axis < x.shape.len()
            && indices.shape.len() == x.shape.len()
            && indices.dtype.is_integer()
            && x.shape
                .iter()
                .zip(indices.shape.iter())
                .enumerate()
                .all(same);
        if !fits {
            return Err(Error::invalid(
                op,
                format!(
                    "got {} of shape {} as indices on axis {axis} of an array of shape {}, \
                     expected integers of a shape that differs on the axis alone",
                    indices.dtype, indices.shape, x.shape
                ),
            ));
        }
        Ok(Along {
            op,
            indices: indices.clone(),
            axis,
            dim: x.shape[axis],
            selected: indices.shape[axis],
            inner: x.shape[axis + 1..].iter().product(),
        })
    }

    /// The element of the array that index `number` selects.
    #[inline(always)]
    fn place(&self, indices: &Indices<'_>, number: usize) -> Result<usize> {
        let (row, column) = (number / self.inner, number % self.inner);
        let position = indices.resolve(self.op, number, self.axis, self.dim, 1)?;
        Ok((row / self.selected * self.dim + position) * self.inner + column)
    }
}

struct GatherAxisStep<T>(Along, (Layout, Layout), PhantomData<fn() -> T>);

impl<T: Element> Step for GatherAxisStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let GatherAxisStep(along, (x, out), _) = self;
        let x = input::<T>(&launch.inputs[0], x)?;
        let indices = Indices::new(&launch.inputs[1], &along.indices)?;
        let out = Output::<T>::new(&launch.outputs[0], out)?;
        try_tiles(launch.pool, out.len().div_ceil(TILE), 4 * TILE, &|tile| {
            let range = tile * TILE..((tile + 1) * TILE).min(out.len());
            // SAFETY: each part is written by one tile.
            let part = unsafe { out.part(range.clone()) };
            for (number, to) in range.zip(part) {
                *to = x[along.place(&indices, number)?];
            }
            Ok(())
        })
    }
}

struct ScatterAxisStep<T>(Along, Update, (Layout, Layout), PhantomData<fn() -> T>);

impl<T: Number> Step for ScatterAxisStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let ScatterAxisStep(along, op, (x, updates), _) = self;
        let out = Output::<T>::new(&launch.outputs[0], x)?.into_slice();
        out.copy_from_slice(input::<T>(&launch.inputs[0], x)?);
        let indices = Indices::new(&launch.inputs[1], &along.indices)?;
        let combine = combine::<T>(*op);
        let updates = input::<T>(&launch.inputs[2], updates)?;
        for (number, &update) in updates.iter().enumerate() {
            let place = &mut out[along.place(&indices, number)?];
            *place = combine(*place, update);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use motet_core::dtype::Dtype;
    use motet_core::error::ErrorKind;
    use motet_core::shape::{Shape, Spec};
    use motet_core::tensor::Tensor;

    use super::*;
    use crate::testing::{run, tensor, values};

    fn count(shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|i: usize| i as f32)
            .collect();
        tensor(shape, &values)
    }

    fn gather(axes: &[usize], slice_sizes: &[usize]) -> Kernel {
        Kernel::Gather {
            axes: axes.into(),
            slice_sizes: Shape::new(slice_sizes),
        }
    }

    #[test]
    fn gather_takes_blocks() {
        let x = count(&[4, 3, 5]);
        for (start, block) in [
            (0, [1, 3, 5]),
            (1, [1, 2, 4]),
            (2, [1, 1, 1]),
            (3, [1, 3, 1]),
        ] {
            let rows = tensor(&[2, 2], &[1i32, -1, 0, -4]);
            let columns = tensor(&[2, 2], &[0i32, 0, -5, 0]);
            let kernel = gather(&[0, 2], &block);
            let out = [Spec::new(
                [2, 2, block[0], block[1], block[2]],
                Dtype::Float32,
            )];
            let got = values::<f32>(&run(&kernel, &[&x, &rows, &columns], &out).unwrap()[0]);
            let mut expected = Vec::new();
            for row in [1, 3, 0, 0] {
                for j in 0..block[1] {
                    expected.extend((0..block[2]).map(|k| (row * 15 + j * 5 + k) as f32));
                }
            }
            assert_eq!(got, expected, "{start}");
        }
        // Many indices: several tiles. And none: one block at the origin.
        let many: Vec<u16> = (0..40_000u32).map(|i| (i * 7 % 60) as u16).collect();
        let flat = count(&[60]);
        let out = [Spec::new([40_000, 1], Dtype::Float32)];
        let got = run(
            &gather(&[0], &[1]),
            &[&flat, &tensor(&[40_000], &many)],
            &out,
        )
        .unwrap();
        assert!(
            values::<f32>(&got[0])
                .iter()
                .zip(&many)
                .all(|(&a, &b)| a == f32::from(b))
        );
        let out = [Spec::new([2, 1, 2], Dtype::Float32)];
        let got = run(&gather(&[], &[2, 1, 2]), &[&x], &out).unwrap();
        assert_eq!(values::<f32>(&got[0]), [0.0, 1.0, 15.0, 16.0]);
    }

    #[test]
    fn every_index_dtype_and_element_size_is_read() {
        fn check<I: Element, T: Element + PartialEq + std::fmt::Debug>(index: I, data: [T; 3]) {
            let (x, i) = (tensor(&[3], &data), tensor(&[1], &[index]));
            let out = [Spec::new([1, 1], T::DTYPE)];
            let got = run(&gather(&[0], &[1]), &[&x, &i], &out).unwrap();
            assert_eq!(values::<T>(&got[0]), [data[2]]);
            let got = run(
                &Kernel::GatherAxis { axis: 0 },
                &[&x, &i],
                &[Spec::new([1], T::DTYPE)],
            );
            assert_eq!(values::<T>(&got.unwrap()[0]), [data[2]]);
        }
        check(2u8, [false, false, true]);
        check(2u16, [1i16, 2, 3]);
        check(2u32, [1f64, 2.0, 3.0]);
        check(2u64, [num_complex::Complex32::new(1.0, 2.0); 3]);
        check(-1i8, [1u8, 2, 3]);
        check(-1i16, [half::f16::ONE; 3]);
        check(-1i32, [1f32, 2.0, 3.0]);
        check(-1i64, [1u64, 2, 3]);
    }

    #[test]
    fn indices_out_of_range_are_named() {
        let x = count(&[4, 3]);
        let out = [Spec::new([2, 1, 3], Dtype::Float32)];
        let fails = |kernel: &Kernel, inputs: &[&Tensor], out: &[Spec], index: &str| {
            let error = run(kernel, inputs, out).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(
                text.contains(&format!("index {index} ")) && text.contains("of 4"),
                "{text}"
            );
        };
        let rows = gather(&[0], &[1, 3]);
        fails(&rows, &[&x, &tensor(&[2], &[0i32, 4])], &out, "4");
        fails(&rows, &[&x, &tensor(&[2], &[-5i64, 9])], &out, "-5");
        fails(
            &rows,
            &[&x, &tensor(&[2], &[u64::MAX, 0])],
            &out,
            "18446744073709551615",
        );
        fails(
            &rows,
            &[&x, &tensor(&[2], &[i64::MIN, 0])],
            &out,
            "-9223372036854775808",
        );
        let wide = [Spec::new([1, 2, 3], Dtype::Float32)];
        fails(
            &gather(&[0], &[2, 3]),
            &[&x, &tensor(&[1], &[3i32])],
            &wide,
            "3",
        );
        let one = [Spec::new([1, 3], Dtype::Float32)];
        let bad = tensor(&[1, 3], &[0i32, 4, 0]);
        fails(&Kernel::GatherAxis { axis: 0 }, &[&x, &bad], &one, "4");
        let same = [Spec::new([4, 3], Dtype::Float32)];
        let scatter = Kernel::ScatterAxis {
            op: Update::Set,
            axis: 0,
        };
        fails(&scatter, &[&x, &bad, &count(&[1, 3])], &same, "4");
        let scatter = Kernel::Scatter {
            op: Update::Sum,
            axes: [0][..].into(),
        };
        let index = tensor(&[1], &[-5i32]);
        fails(&scatter, &[&x, &index, &count(&[1, 1, 3])], &same, "-5");
        // No index is right in an empty dimension.
        let none = tensor::<f32>(&[0], &[]);
        let out = [Spec::new([1, 0], Dtype::Float32)];
        let got = run(&gather(&[0], &[0]), &[&none, &tensor(&[1], &[0i32])], &out);
        assert!(got.is_ok_and(|out| values::<f32>(&out[0]).is_empty()));
        let out = [Spec::new([1, 1], Dtype::Float32)];
        assert!(run(&gather(&[0], &[1]), &[&none, &tensor(&[1], &[0i32])], &out).is_err());
    }

    #[test]
    fn axis_forms_agree_with_loops() {
        let x = count(&[2, 4, 3]);
        let picks = [3i32, -1, 0, 1, 2, -4, 0, 0, 0, 1, 1, 3];
        let indices = tensor(&[2, 2, 3], &picks);
        let place = |n: usize| {
            let (o, i) = (n / 6, n % 3);
            (o * 4 + (picks[n] + 4) as usize % 4) * 3 + i
        };
        let out = [Spec::new([2, 2, 3], Dtype::Float32)];
        let got = run(&Kernel::GatherAxis { axis: 1 }, &[&x, &indices], &out).unwrap();
        let expected: Vec<f32> = (0..12).map(|n| place(n) as f32).collect();
        assert_eq!(values::<f32>(&got[0]), expected);
        let updates: Vec<f32> = (0..12).map(|n| n as f32 * 10.0 - 55.0).collect();
        type Combine = fn(f32, f32) -> f32;
        let ops: [(Update, Combine); 5] = [
            (Update::Set, |_, b| b),
            (Update::Sum, |a, b| a + b),
            (Update::Prod, |a, b| a * b),
            (Update::Max, f32::max),
            (Update::Min, f32::min),
        ];
        for (op, reference) in ops {
            let mut expected = values::<f32>(&x);
            for (n, &update) in updates.iter().enumerate() {
                expected[place(n)] = reference(expected[place(n)], update);
            }
            let inputs = [&x, &indices, &tensor(&[2, 2, 3], &updates)];
            let kernel = Kernel::ScatterAxis { op, axis: 1 };
            let got = run(&kernel, &inputs, &[x.spec()]).unwrap();
            assert_eq!(values::<f32>(&got[0]), expected);
        }
    }

    #[test]
    fn scatter_combines_in_order() {
        let x = tensor(&[3, 2], &[1i8, 2, 3, 4, 5, 6]);
        let rows = tensor(&[3], &[0u8, 2, 0]);
        let updates = tensor(&[3, 1, 2], &[10i8, 20, 30, 40, 100, 7]);
        let scatter = |op, inputs: &[&Tensor], axes: &[usize]| {
            let out = run(
                &Kernel::Scatter {
                    op,
                    axes: axes.into(),
                },
                inputs,
                &[x.spec()],
            )
            .unwrap();
            values::<i8>(&out[0])
        };
        let inputs = [&x, &rows, &updates];
        assert_eq!(scatter(Update::Set, &inputs, &[0]), [100, 7, 3, 4, 30, 40]);
        assert_eq!(scatter(Update::Sum, &inputs, &[0]), [111, 29, 3, 4, 35, 46]);
        assert_eq!(scatter(Update::Max, &inputs, &[0]), [100, 20, 3, 4, 30, 40]);
        assert_eq!(scatter(Update::Min, &inputs, &[0]), [1, 2, 3, 4, 5, 6]);
        let wrapped = [
            1i8.wrapping_mul(10).wrapping_mul(100),
            2i8.wrapping_mul(20).wrapping_mul(7),
        ];
        assert_eq!(scatter(Update::Prod, &inputs, &[0])[..2], wrapped);
        let corner = tensor(&[2, 1], &[-1i8, -2]);
        assert_eq!(
            scatter(Update::Set, &[&x, &corner], &[]),
            [-1, 2, -2, 4, 5, 6]
        );
        let columns = tensor(&[1], &[-1i32]);
        let column = tensor(&[1, 3, 1], &[7i8, 8, 9]);
        assert_eq!(
            scatter(Update::Set, &[&x, &columns, &column], &[1]),
            [1, 7, 3, 8, 5, 9]
        );
    }
}
