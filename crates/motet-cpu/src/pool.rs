//! Pooling: the sum, minimum or maximum of windows over the spatial dimensions of (N, spatial..., C).
//!
//! A tile is a row of results along the last spatial dimension. Channels are neighbours in memory:
//! each element of a window is combined into all channels at once. Half types are combined in
//! float32 and rounded once.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::{Kernel, Reduction};
use motet_core::shape::{Axes, Layout};

use crate::matmul::Operand;
use crate::number::Number;
use crate::operand::{Output, Strided};
use crate::real::Real;
use crate::simd::{Level, Simd, leveled};

/// Inputs whose channels are neighbours.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.shape.last() == Some(&1) || layout.strides.last() == Some(&1)
}

/// A step for a pooling.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let unexpected = || Error::new(ErrorKind::Internal, "pool", "unexpected operands");
    let (
        Kernel::Pool {
            op,
            window,
            strides,
            padding,
        },
        [from],
        [to],
    ) = (kernel, inputs, outputs)
    else {
        return Err(unexpected());
    };
    let spatial = [window.len(), strides.len(), padding.len()];
    let ranks = [from.shape.len(), to.shape.len()];
    if spatial != [window.len(); 3] || ranks != [window.len() + 2; 2] || window.is_empty() {
        return Err(unexpected());
    }
    macro_rules! step {
        ($T:ty) => {
            Ok(Box::new(Windows::<$T> {
                op: *op,
                window: window.clone(),
                strides: strides.clone(),
                padding: padding.clone(),
                from: from.clone(),
                to: to.clone(),
                simd: Simd::detect(),
                element: PhantomData,
            }))
        };
    }
    match from.dtype {
        Dtype::Float16 => step!(half::f16),
        Dtype::Bfloat16 => step!(half::bf16),
        Dtype::Float32 => step!(f32),
        Dtype::Float64 => step!(f64),
        dtype => Err(Error::unsupported(
            "pool",
            format!("not defined for {dtype}"),
        )),
    }
}

struct Windows<T> {
    op: Reduction,
    window: Axes,
    strides: Axes,
    padding: Axes,
    from: Layout,
    to: Layout,
    simd: Simd,
    element: PhantomData<T>,
}

impl<T: Operand<Sum: Real>> Step for Windows<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let from = Strided::<T>::new(&launch.inputs[0], &self.from)?;
        let to = Output::<T>::new(&launch.outputs[0], &self.to)?;
        if to.len() == 0 {
            return Ok(());
        }
        let (last, channels) = (self.window.len(), self.channels());
        let row = self.to.shape[last] * channels;
        let covered: usize = self.window.iter().product();
        let cost_ns = row.saturating_mul(covered) / 8;
        launch.pool.for_each_tile(to.len() / row, cost_ns, &|tile| {
            // SAFETY: rows do not overlap, and each is written once.
            let results = unsafe { to.part(tile * row..(tile + 1) * row) };
            let mut sums = vec![T::Sum::ZERO; channels];
            let mut loaded = sums.clone();
            let mut place = self.place(tile);
            for (column, result) in results.chunks_mut(channels).enumerate() {
                place[last] = column;
                self.combine(from, &place, &mut sums, &mut loaded);
                T::store(&sums, result);
            }
        });
        Ok(())
    }
}

impl<T: Operand<Sum: Real>> Windows<T> {
    fn channels(&self) -> usize {
        self.from.shape[self.window.len() + 1]
    }

    /// The place, but for the last spatial dimension and the channels, of a row of results.
    fn place(&self, mut row: usize) -> Axes {
        let outer = &self.to.shape[..=self.window.len()];
        let mut place = Axes::from_elem(0, outer.len());
        for (at, &dim) in place.iter_mut().zip(&outer[..outer.len() - 1]).rev() {
            *at = row % dim;
            row /= dim;
        }
        place
    }

    /// Combines the window of the result at `place` for all channels.
    fn combine(
        &self,
        from: Strided<'_, T>,
        place: &[usize],
        sums: &mut [T::Sum],
        loaded: &mut [T::Sum],
    ) {
        sums.fill(match self.op {
            Reduction::Max => T::Sum::LOWEST,
            Reduction::Min => T::Sum::HIGHEST,
            _ => T::Sum::ZERO,
        });
        // The part of the window that is inside, for each spatial dimension: its first element's
        // place, and how many there are.
        let inside = |axis: usize| {
            let first = place[axis + 1] * self.strides[axis];
            let dim = self.from.shape[axis + 1];
            let low = first.saturating_sub(self.padding[axis]);
            let end = (first + self.window[axis]).saturating_sub(self.padding[axis]);
            (low, end.min(dim).saturating_sub(low))
        };
        let parts: Vec<(usize, usize)> = (0..self.window.len()).map(inside).collect();
        let count: usize = parts.iter().map(|&(_, len)| len).product();
        let batch = place[0] as isize * self.from.strides[0];
        for mut number in 0..count {
            let mut offset = batch;
            for (axis, &(low, len)) in parts.iter().enumerate().rev() {
                offset += (low + number % len) as isize * self.from.strides[axis + 1];
                number /= len;
            }
            // SAFETY: the place is inside of the input, whose channels are neighbours.
            let channels = unsafe { from.run(offset, sums.len()) };
            T::load(channels, loaded);
            let (op, loaded) = (self.op, &loaded[..]);
            leveled!(self.simd, add<S: Real = T::Sum>(
                op: Reduction, sums: &mut [S], loaded: &[S]
            ));
        }
    }
}

/// Combines an element of the window into the sums of all channels.
#[inline(always)]
fn add<L: Level, S: Real>(op: Reduction, sums: &mut [S], loaded: &[S]) {
    let pairs = sums.iter_mut().zip(loaded);
    match op {
        Reduction::Max => pairs.for_each(|(sum, &x)| *sum = sum.max(x)),
        Reduction::Min => pairs.for_each(|(sum, &x)| *sum = sum.min(x)),
        _ => pairs.for_each(|(sum, &x)| *sum += x),
    }
}

#[cfg(test)]
mod tests {
    use motet_core::kernel::{Kernel, Reduction};
    use motet_core::shape::{Axes, Spec};
    use motet_core::tensor::Tensor;

    use crate::testing::{noise, run, tensor, values};

    fn pool(op: Reduction, x: &Tensor, parameters: [&[usize]; 3], out: &[usize]) -> Tensor {
        let [window, strides, padding] = parameters.map(Axes::from_slice);
        let kernel = Kernel::Pool {
            op,
            window,
            strides,
            padding,
        };
        let out = Spec::new(out, x.layout.dtype);
        run(&kernel, &[x], &[out]).unwrap().remove(0)
    }

    #[test]
    fn windows_are_combined_where_they_are_inside() {
        let (shape, out) = ([2, 5, 4, 3], [2, 3, 4, 3]);
        let data = noise(2 * 5 * 4 * 3, 3);
        let x = tensor(&shape, &data);
        let at = |n: usize, i: usize, j: usize, c: usize| data[((n * 5 + i) * 4 + j) * 3 + c];
        for (op, first) in [
            (Reduction::Sum, 0.0),
            (Reduction::Min, f32::INFINITY),
            (Reduction::Max, f32::NEG_INFINITY),
        ] {
            let fold = |a: f32, b: f32| match op {
                Reduction::Min => a.min(b),
                Reduction::Max => a.max(b),
                _ => a + b,
            };
            let got = pool(op, &x, [&[3, 2], &[2, 1], &[1, 1]], &out);
            let mut expected = Vec::new();
            for (n, i, j, c) in (0..2 * 3 * 4 * 3).map(|e| (e / 36, e / 12 % 3, e / 3 % 4, e % 3)) {
                let rows =
                    (0..3usize).filter_map(|di| (2 * i + di).checked_sub(1).filter(|&r| r < 5));
                let window = rows.flat_map(|r| {
                    let columns = (0..2usize).filter_map(|dj| (j + dj).checked_sub(1));
                    columns.filter(|&s| s < 4).map(move |s| (r, s))
                });
                expected.push(window.fold(first, |sum, (r, s)| fold(sum, at(n, r, s, c))));
            }
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6;
            assert!(
                values::<f32>(&got).iter().zip(&expected).all(close),
                "{op:?}"
            );
        }
    }

    #[test]
    fn a_window_outside_of_the_input_is_neutral_and_nan_wins() {
        let x = tensor(&[1, 2, 1], &[f32::NAN, 2.0]);
        let max = pool(Reduction::Max, &x, [&[1], &[1], &[1]], &[1, 4, 1]);
        let max = values::<f32>(&max);
        assert_eq!((max[0], max[2]), (f32::NEG_INFINITY, 2.0));
        assert!(max[1].is_nan() && max[3] == f32::NEG_INFINITY);
    }

    #[test]
    fn half_types_round_once_and_channels_alone_are_neighbours() {
        let data: Vec<half::f16> = noise(4 * 6, 5)
            .into_iter()
            .map(half::f16::from_f32)
            .collect();
        let mut x = tensor(&[1, 4, 6], &data);
        // Every second position.
        x.layout.shape.dims_mut()[1] = 2;
        x.layout.strides[1] = 12;
        let got = values::<half::f16>(&pool(Reduction::Sum, &x, [&[2], &[1], &[0]], &[1, 1, 6]));
        for (c, got) in got.into_iter().enumerate() {
            let sum = data[c].to_f32() + data[12 + c].to_f32();
            assert_eq!(got, half::f16::from_f32(sum));
        }
    }
}
