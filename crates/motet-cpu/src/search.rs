//! Searching a sorted vector: how many of its elements come before each value.

use std::cmp::Ordering;
use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::number::{Number, with_number};
use crate::operand::{Output, input};
use crate::sort::compare;

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a search.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    match (kernel, inputs, outputs) {
        (&Kernel::SearchSorted { right }, [sorted, values], [out])
            if sorted.dtype == values.dtype
                && values.shape == out.shape
                && out.dtype == Dtype::Uint32 =>
        {
            let layouts = [sorted.clone(), values.clone(), out.clone()];
            Ok(
                with_number!(sorted.dtype, T => Box::new(SearchStep::<T>(layouts, right, PhantomData))),
            )
        }
        _ => Err(Error::invalid(
            "SearchSorted",
            "got other operands than expected",
        )),
    }
}

/// Values in a tile.
const TILE: usize = 4 << 10;

struct SearchStep<T>([Layout; 3], bool, PhantomData<fn() -> T>);

impl<T: Number> Step for SearchStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let SearchStep([sorted, values, out], right, _) = self;
        let sorted = input::<T>(&launch.inputs[0], sorted)?;
        let values = input::<T>(&launch.inputs[1], values)?;
        let out = Output::<u32>::new(&launch.outputs[0], out)?;
        let before = |element: &T, value: &T| match compare(element, value) {
            Ordering::Less => true,
            Ordering::Equal => *right,
            Ordering::Greater => false,
        };
        let cost = TILE * (sorted.len().max(1).ilog2() as usize + 1) * 5;
        launch
            .pool
            .for_each_tile(values.len().div_ceil(TILE), cost, &|tile| {
                let range = tile * TILE..((tile + 1) * TILE).min(values.len());
                // SAFETY: each part is written by one tile.
                let counts = unsafe { out.part(range.clone()) };
                for (count, value) in counts.iter_mut().zip(&values[range]) {
                    *count = sorted.partition_point(|element| before(element, value)) as u32;
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use motet_core::dtype::Element;
    use motet_core::shape::Spec;
    use num_complex::Complex32;

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    fn search<T: Element>(right: bool, sorted: &[T], x: &[T]) -> Vec<u32> {
        let inputs = [&tensor(&[sorted.len()], sorted), &tensor(&[x.len()], x)];
        let out = [Spec::new([x.len()], Dtype::Uint32)];
        values(&run(&Kernel::SearchSorted { right }, &inputs, &out).unwrap()[0])
    }

    #[test]
    fn counts_are_those_of_a_scan() {
        let coarse = |x: &f32| (x * 50.0) as i16;
        let mut sorted: Vec<i16> = noise(300, 1).iter().map(coarse).collect();
        sorted.sort_unstable();
        let x: Vec<i16> = noise(10_000, 2).iter().map(coarse).collect();
        for right in [false, true] {
            let got = search(right, &sorted, &x);
            for (got, x) in got.iter().zip(&x) {
                let before = sorted.iter().filter(|s| *s < x || right && *s == x);
                assert_eq!(*got as usize, before.count());
            }
        }
        assert_eq!(search(true, &[], &[1.0f32]), [0]);
    }

    #[test]
    fn nan_is_last_and_complex_is_lexicographic() {
        let (sorted, x) = ([0.0, 1.0, f32::NAN], [f32::NAN, 5.0, -0.0]);
        assert_eq!(search(false, &sorted, &x), [2, 2, 0]);
        assert_eq!(search(true, &sorted, &x), [3, 2, 1]);
        let c = Complex32::new;
        let sorted = [c(1.0, -1.0), c(1.0, 2.0), c(2.0, 0.0)];
        assert_eq!(search(false, &sorted, &[c(1.0, 0.0), c(2.0, 0.0)]), [1, 2]);
        assert_eq!(search(true, &[false, true], &[false, true]), [1, 2]);
    }
}
