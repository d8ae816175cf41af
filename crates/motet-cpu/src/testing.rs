//! What the tests of the kernels share: tensors from slices, and one kernel run on them.

use motet_core::backend::{Backend, Launch, Location, Step};
use motet_core::dtype::Element;
use motet_core::error::Result;
use motet_core::kernel::Kernel;
use motet_core::memory::{Buffer, heap};
use motet_core::pool::Pool;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use crate::Cpu;
use crate::operand::{Output, Walk};

/// A row-major tensor with these elements.
pub(crate) fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    let tensor = Tensor::allocate(&Spec::new(shape, T::DTYPE), heap()).unwrap();
    assert_eq!(values.len(), tensor.layout.shape.size());
    Output::<T>::new(&location(&tensor), &tensor.layout)
        .unwrap()
        .into_slice()
        .copy_from_slice(values);
    tensor
}

/// The elements of a tensor of any layout, row-major.
pub(crate) fn values<T: Element>(tensor: &Tensor) -> Vec<T> {
    assert_eq!(tensor.layout.dtype, T::DTYPE);
    let walk = Walk::of(&tensor.layout);
    let strided = crate::operand::Strided::<T>::new(&location(tensor), &tensor.layout).unwrap();
    // SAFETY: the offsets are those of the layout's elements.
    let element = |number| unsafe { strided.get(walk.offset(number)) };
    (0..tensor.layout.shape.size()).map(element).collect()
}

/// Runs one kernel on inputs that it accepts.
pub(crate) fn run(kernel: &Kernel, inputs: &[&Tensor], outputs: &[Spec]) -> Result<Vec<Tensor>> {
    let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout.clone()).collect();
    for (index, layout) in layouts.iter().enumerate() {
        assert!(Cpu.accepts(kernel, index, layout), "{index}: {layout:?}");
    }
    let results: Vec<Layout> = outputs.iter().map(Spec::layout).collect();
    launch(
        &*Cpu.prepare(kernel, &layouts, &results, &[])?,
        inputs,
        outputs,
    )
}

/// Launches a prepared step.
pub(crate) fn launch(step: &dyn Step, inputs: &[&Tensor], outputs: &[Spec]) -> Result<Vec<Tensor>> {
    let results: Vec<Tensor> = outputs
        .iter()
        .map(|spec| Tensor::allocate(spec, heap()))
        .collect::<Result<_>>()?;
    let scratch: Buffer = heap().allocate(step.scratch_bytes())?;
    step.launch(&Launch {
        inputs: &inputs.iter().map(|t| location(t)).collect::<Vec<_>>(),
        outputs: &results.iter().map(location).collect::<Vec<_>>(),
        scratch: Location {
            buffer: &scratch,
            offset: 0,
        },
        pool: Pool::global(),
    })?;
    Ok(results)
}

/// Where a tensor lies.
pub(crate) fn location(tensor: &Tensor) -> Location<'_> {
    Location {
        buffer: &tensor.buffer,
        offset: tensor.offset,
    }
}

/// Numbers that look random and are the same every time, in -1..1.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}
