//! Rotary position embedding: pairs of a row's elements are turned by angles that grow with the
//! row's position.
//!
//! A first region makes the sines and cosines for each position once, in float32; a second one
//! turns the rows of all heads with them, half types in float32 as well.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::{Kernel, Rope};
use motet_core::shape::{Layout, Spec};

use crate::math;
use crate::matmul::Operand;
use crate::number::Number;
use crate::operand::{Output, Strided, Walk, input};
use crate::real::Real;
use crate::simd::{Level, Simd, leveled};

/// x may have its rows anywhere, each of them contiguous.
pub(crate) fn accepts(_: &Kernel, index: usize, layout: &Layout) -> bool {
    index == 0 && (layout.shape.last() == Some(&1) || layout.strides.last() == Some(&1))
}

/// A step for a rotation.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (Kernel::Rope(rope), [x, offsets, periods @ ..], [out]) = (kernel, inputs, outputs) else {
        return Err(unexpected());
    };
    let rank = x.shape.len();
    if rank < 3 || rope.base.is_some() != periods.is_empty() || rope.dims > x.shape[rank - 1] {
        return Err(unexpected());
    }
    if x.spec().bytes() > MAX_BYTES {
        return Err(Error::invalid("RoPE", "the input is too large"));
    }
    macro_rules! step {
        ($T:ty) => {
            Ok(Box::new(Turns::<$T> {
                rope: rope.clone(),
                walk: Walk::new(&x.shape[..rank - 1], [&x.strides[..rank - 1]]),
                x: x.clone(),
                offsets: offsets.clone(),
                periods: periods.first().cloned(),
                out: out.clone(),
                simd: Simd::detect(),
                element: PhantomData,
            }))
        };
    }
    match x.dtype {
        Dtype::Float16 => step!(half::f16),
        Dtype::Bfloat16 => step!(half::bf16),
        Dtype::Float32 => step!(f32),
        Dtype::Float64 => step!(f64),
        dtype => Err(Error::unsupported(
            "RoPE",
            format!("not defined for {dtype}"),
        )),
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "RoPE", "unexpected operands")
}

/// Inputs of so many bytes cannot exist, but be planned for: the table is at most twice as large,
/// which has to be a number.
const MAX_BYTES: usize = isize::MAX as usize / 8;

/// Elements of a region's tile: about 10 us.
const TILE: usize = 1 << 14;

struct Turns<T> {
    rope: Rope,
    x: Layout,
    /// Over the rows of x.
    walk: Walk,
    offsets: Layout,
    periods: Option<Layout>,
    out: Layout,
    simd: Simd,
    element: PhantomData<T>,
}

impl<T> Turns<T> {
    /// The length of x's last two dimensions.
    fn matrix(&self) -> [usize; 2] {
        let rank = self.x.shape.len();
        [self.x.shape[rank - 2], self.x.shape[rank - 1]]
    }

    /// For each offset and position the cosines, then the sines of the pairs.
    fn table(&self) -> Spec {
        let positions = match self.x.shape.size() {
            0 => 0,
            _ => self.offsets.shape.size() * self.matrix()[0],
        };
        Spec::new([positions, self.rope.dims], Dtype::Float32)
    }

    /// How fast each pair turns.
    fn speeds(&self, launch: &Launch<'_>) -> Result<Vec<f32>> {
        let pairs = self.rope.dims / 2;
        match (&self.periods, self.rope.base) {
            (Some(layout), _) => {
                let periods = input::<f32>(&launch.inputs[2], layout)?;
                Ok(periods.iter().map(|period| 1.0 / period).collect())
            }
            (None, Some(base)) => {
                let power = |pair: usize| f64::from(base).powf(-(pair as f64) / pairs as f64);
                Ok((0..pairs).map(|pair| power(pair) as f32).collect())
            }
            (None, None) => Err(unexpected()),
        }
    }

    /// The offsets, of either dtype.
    fn offsets(&self, launch: &Launch<'_>) -> Result<Vec<f32>> {
        let location = &launch.inputs[1];
        Ok(match self.offsets.dtype {
            Dtype::Int32 => {
                let offsets = input::<i32>(location, &self.offsets)?;
                offsets.iter().map(|&offset| offset as f32).collect()
            }
            Dtype::Uint32 => {
                let offsets = input::<u32>(location, &self.offsets)?;
                offsets.iter().map(|&offset| offset as f32).collect()
            }
            _ => return Err(unexpected()),
        })
    }

    /// Fills the table.
    fn angles(&self, launch: &Launch<'_>, table: &Output<'_, f32>) -> Result<()> {
        let (speeds, offsets) = (&self.speeds(launch)?[..], self.offsets(launch)?);
        let Rope {
            dims,
            scale,
            forward,
            ..
        } = self.rope;
        let ([length, _], simd) = (self.matrix(), self.simd);
        let direction = if forward { 1.0 } else { -1.0 };
        let group = (TILE / 8 / dims).max(1);
        let positions = table.len() / dims;
        launch
            .pool
            .for_each_tile(positions.div_ceil(group), group * dims * 4, &|tile| {
                for number in tile * group..positions.min((tile + 1) * group) {
                    let position = ((number % length) as f32 + offsets[number / length]) * scale;
                    let turn = position * direction;
                    // SAFETY: rows do not overlap, and each is written once.
                    let row = unsafe { table.part(number * dims..(number + 1) * dims) };
                    leveled!(simd, sines(turn: f32, speeds: &[f32], row: &mut [f32]));
                }
            });
        Ok(())
    }
}

/// The cosines, then the sines of `turn * speeds`.
#[inline(always)]
fn sines<L: Level>(turn: f32, speeds: &[f32], row: &mut [f32]) {
    let (cosines, sines) = row.split_at_mut(speeds.len());
    let angles = speeds.iter().map(|speed| turn * speed);
    let targets = cosines.iter_mut().zip(sines).zip(angles.clone());
    if angles
        .into_iter()
        .all(|angle| angle.abs() <= math::TRIGONOMETRY_LIMIT)
    {
        for ((cos, sin), angle) in targets {
            (*cos, *sin) = (math::cos::<L>(angle), math::sin::<L>(angle));
        }
    } else {
        for ((cos, sin), angle) in targets {
            (*cos, *sin) = (angle.cos(), angle.sin());
        }
    }
}

impl<T: Operand<Sum: Real>> Step for Turns<T> {
    fn writes_over(&self, input: usize, _: usize) -> bool {
        input == 0
    }

    fn scratch_bytes(&self) -> usize {
        self.table().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = Strided::<T>::new(&launch.inputs[0], &self.x)?;
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let Rope {
            dims, traditional, ..
        } = self.rope;
        let ([length, row], simd) = (self.matrix(), self.simd);
        let table = Output::<f32>::new(&launch.scratch, &self.table().layout())?;
        self.angles(launch, &table)?;
        let table = &*table.into_slice();
        let rows = out.len() / row;
        // Rows that have one offset: all, or those of an element of the first dimension.
        let shared = rows / self.offsets.shape.size();
        let group = (TILE / row).max(1);
        launch.pool.for_each_tile(rows.div_ceil(group), group * row, &|tile| {
            let mut work = vec![T::Sum::ZERO; row];
            for number in tile * group..rows.min((tile + 1) * group) {
                // SAFETY: the elements of one row, which are contiguous and not written yet.
                let from = unsafe { x.run(self.walk.offset(number), row) };
                T::load(from, &mut work);
                // SAFETY: rows do not overlap, and each is written once; where it lies over one of x,
                // that has just been read for the last time.
                let to = unsafe { out.part(number * row..(number + 1) * row) };
                let position = number / shared * length + number % length;
                let (x, turns) = (&mut work[..dims], &table[position * dims..(position + 1) * dims]);
                leveled!(simd, turn<S: Real = T::Sum>(x: &mut [S], turns: &[f32], traditional: bool));
                T::store(&work, to);
            }
        });
        Ok(())
    }
}

/// Turns the pairs of a row in place.
#[inline(always)]
fn turn<L: Level, S: Real>(x: &mut [S], turns: &[f32], traditional: bool) {
    let pairs = x.len() / 2;
    let (cosines, sines) = turns.split_at(pairs);
    let turned = |a: S, b: S, cos: f32, sin: f32| {
        let (cos, sin) = (S::from_f32(cos), S::from_f32(sin));
        (a * cos - b * sin, a * sin + b * cos)
    };
    let turns = cosines.iter().zip(sines);
    if traditional {
        for ([a, b], (&cos, &sin)) in x.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            (*a, *b) = turned(*a, *b, cos, sin);
        }
    } else {
        let (first, second) = x.split_at_mut(pairs);
        for ((a, b), (&cos, &sin)) in first.iter_mut().zip(second).zip(turns) {
            (*a, *b) = turned(*a, *b, cos, sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, run, tensor, values};
    use half::f16;

    fn rope(dims: usize, traditional: bool, forward: bool, base: Option<f32>) -> Rope {
        Rope {
            dims,
            traditional,
            base,
            scale: 0.5,
            forward,
        }
    }

    /// The definition, for x of (batch, heads, length, row), in float64.
    fn reference(
        rope: &Rope,
        shape: [usize; 4],
        x: &[f32],
        offsets: &[i32],
        periods: &[f32],
    ) -> Vec<f64> {
        let [_, heads, length, row] = shape;
        let half = rope.dims / 2;
        let mut result: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for (number, row) in result.chunks_mut(row).enumerate() {
            let (batch, t) = (number / length / heads, number % length);
            let offset = offsets[batch % offsets.len()];
            let position = (t as f64 + f64::from(offset)) * f64::from(rope.scale);
            let angle = |i: usize| match rope.base {
                Some(base) => position * f64::from(base).powf(-(i as f64) / half as f64),
                None => position / f64::from(periods[i]),
            };
            for i in 0..half {
                let angle = angle(i);
                let (sin, cos) = if rope.forward { angle } else { -angle }.sin_cos();
                let (a, b) = if rope.traditional {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + half)
                };
                (row[a], row[b]) = (row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos);
            }
        }
        result
    }

    #[test]
    fn rows_turn_as_defined() {
        let shape = [2, 3, 70, 24];
        let x = noise(shape.iter().product(), 1);
        let periods: Vec<f32> = noise(10, 2).iter().map(|x| x + 2.0).collect();
        for (dims, traditional, forward, base, offsets) in [
            (24, false, true, Some(10_000.0), &[3][..]),
            (24, true, false, Some(500.0), &[0, 40]),
            (20, false, false, None, &[7, -2]),
            (20, true, true, None, &[0]),
        ] {
            let rope = rope(dims, traditional, forward, base);
            let want = reference(&rope, shape, &x, offsets, &periods);
            let (x, offsets) = (tensor(&shape, &x), tensor(&[offsets.len()], offsets));
            let periods = tensor(&[10], &periods);
            let mut inputs = vec![&x, &offsets];
            inputs.extend(base.is_none().then_some(&periods));
            let got = run(&Kernel::Rope(rope), &inputs, &[x.layout.spec()]).unwrap();
            for (got, want) in values::<f32>(&got[0]).iter().zip(want) {
                // Angles up to 60 are rounded to float32.
                assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    #[test]
    fn turning_forth_and_back_gives_the_input() {
        let x = tensor(&[1, 40, 16], &noise(640, 1));
        let offset = tensor(&[], &[1 << 22]);
        let mut turned = x.clone();
        for forward in [true, false] {
            let kernel = Kernel::Rope(rope(16, false, forward, Some(10_000.0)));
            turned = run(&kernel, &[&turned, &offset], &[x.layout.spec()])
                .unwrap()
                .remove(0);
        }
        for (got, want) in values::<f32>(&turned).iter().zip(values::<f32>(&x)) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn strided_heads_and_halves() {
        // (batch, length, heads, row) seen as (batch, heads, length, row).
        let (shape, data) = ([2, 3, 5, 8], noise(240, 1));
        let halves: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
        let mut x = tensor(&[2, 5, 3, 8], &halves);
        x.layout.shape = shape.into();
        x.layout.strides = [120, 8, 24, 1][..].into();
        let seen: Vec<f32> = values::<f16>(&x).into_iter().map(f16::to_f32).collect();
        let rope = rope(8, false, true, Some(100.0));
        let want = reference(&rope, shape, &seen, &[9], &[]);
        let offset = tensor(&[1], &[9u32]);
        let out = [Spec::new(shape, Dtype::Float16)];
        let got = run(&Kernel::Rope(rope), &[&x, &offset], &out).unwrap();
        for (got, want) in values::<f16>(&got[0]).iter().zip(want) {
            assert!((got.to_f64() - want).abs() < 1e-3);
        }
    }

    #[test]
    fn what_is_too_large_to_exist_is_refused() {
        let all = |shape: &[usize], strides: &[isize], dtype| Layout {
            shape: shape.into(),
            strides: strides.into(),
            dtype,
        };
        let x = all(&[1 << 30, 1 << 30, 2], &[0, 0, 1], Dtype::Float16);
        let offset = all(&[], &[], Dtype::Int32);
        let kernel = Kernel::Rope(rope(2, false, true, Some(10.0)));
        assert!(prepare(&kernel, &[x.clone(), offset], &[x]).is_err());
    }

    #[test]
    fn nothing_turns_to_nothing() {
        let x = tensor::<f32>(&[0, 3, 2], &[]);
        let offsets = tensor::<i32>(&[0], &[]);
        let kernel = Kernel::Rope(rope(2, false, true, Some(10.0)));
        assert!(run(&kernel, &[&x, &offsets], &[x.layout.spec()]).is_ok());
    }
}
