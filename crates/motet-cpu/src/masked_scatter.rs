//! Writing elements, one after the other, to where a mask is true.
//!
//! How many elements are needed is known only when the kernel runs; too few are an error.

use motet_core::backend::{Launch, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::copy::with_size;
use crate::indices::try_tiles;
use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a masked scatter.
pub(crate) fn prepare(_: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Box<dyn Step>> {
    match (inputs, outputs) {
        ([x, mask, source], [out])
            if x.spec() == out.spec()
                && mask.shape == x.shape
                && mask.dtype == Dtype::Bool
                && source.dtype == x.dtype
                && !x.shape.is_empty()
                && source.shape.first() == x.shape.first() =>
        {
            Ok(Box::new(MaskedScatterStep {
                x: x.clone(),
                mask: mask.clone(),
                source: source.clone(),
            }))
        }
        _ => Err(Error::invalid(
            "MaskedScatter",
            "got other operands than expected",
        )),
    }
}

struct MaskedScatterStep {
    x: Layout,
    mask: Layout,
    source: Layout,
}

impl Step for MaskedScatterStep {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        with_size!(self.x.dtype, T => self.run::<T>(launch))
    }
}

impl MaskedScatterStep {
    /// A batch after the other: where an element comes from depends on all before it.
    fn run<T: Element>(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let mask = input::<bool>(&launch.inputs[1], &self.mask)?;
        let source = input::<T>(&launch.inputs[2], &self.source)?;
        let out = Output::<T>::new(&launch.outputs[0], &self.x)?;
        let batches = self.x.shape[0];
        let size: usize = self.x.shape[1..].iter().product();
        let given: usize = self.source.shape[1..].iter().product();
        try_tiles(launch.pool, batches, size, &|batch| {
            let range = batch * size..(batch + 1) * size;
            let mask = &mask[range.clone()];
            let needed = mask.iter().filter(|&&masked| masked).count();
            if needed > given {
                return Err(Error::invalid(
                    "MaskedScatter",
                    format!(
                        "got {given} elements for the {needed} places where the mask is true, \
                         expected as many"
                    ),
                ));
            }
            let mut source = source[batch * given..][..given].iter();
            // SAFETY: the batch is this tile's alone.
            let out = unsafe { out.part(range.clone()) };
            for ((out, &x), &masked) in out.iter_mut().zip(&x[range]).zip(mask) {
                *out = match masked {
                    true => source.next().copied().unwrap_or(x),
                    false => x,
                };
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run, tensor, values};

    #[test]
    fn elements_go_to_the_places_in_order() {
        let x = tensor(&[2, 2, 3], &std::array::from_fn::<i16, 12, _>(|i| i as i16));
        let places = [0, 1, 5, 6, 10];
        let mask: Vec<bool> = (0..12).map(|i| places.contains(&i)).collect();
        let mask = tensor(&[2, 2, 3], &mask);
        let kernel = Kernel::MaskedScatter;
        let source = tensor(&[2, 3], &[-1i16, -2, -3, -4, -5, -6]);
        let got = run(&kernel, &[&x, &mask, &source], &[x.spec()]).unwrap();
        let expected = [-1, -2, 2, 3, 4, -3, -4, 7, 8, 9, -5, 11];
        assert_eq!(values::<i16>(&got[0]), expected);
        let short = tensor(&[2, 2], &[-1i16, -2, -3, -4]);
        let error = run(&kernel, &[&x, &mask, &short], &[x.spec()])
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(text.contains("got 2 ") && text.contains("the 3 "), "{text}");
    }
}
