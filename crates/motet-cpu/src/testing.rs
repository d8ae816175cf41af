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

/// Launches a prepared step, and again over each input that it may write over, which gives the same.
pub(crate) fn launch(step: &dyn Step, inputs: &[&Tensor], outputs: &[Spec]) -> Result<Vec<Tensor>> {
    let allocate = || -> Result<Vec<Tensor>> {
        let outputs = outputs.iter();
        outputs.map(|spec| Tensor::allocate(spec, heap())).collect()
    };
    let results = allocate()?;
    launch_into(step, inputs, &results)?;
    for (index, &input) in inputs.iter().enumerate() {
        for (number, output) in outputs.iter().enumerate() {
            let same_size = input.layout.dtype.size() == output.dtype.size()
                && input.layout.shape.size() == output.shape.size();
            if !(step.writes_over(index, number) && same_size && input.layout.is_contiguous()) {
                continue;
            }
            let over = allocate()?;
            let bytes = input.row_major();
            // SAFETY: the new buffer has room for as many elements of the same size.
            unsafe {
                let to = over[number].buffer.as_ptr();
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            let copy = Tensor {
                layout: input.layout.clone(),
                ..over[number].clone()
            };
            let mut inputs = inputs.to_vec();
            inputs[index] = &copy;
            launch_into(step, &inputs, &over)?;
            for (over, result) in over.iter().zip(&results) {
                let same = over.row_major() == result.row_major();
                assert!(same, "output {number} over input {index}");
            }
        }
    }
    Ok(results)
}

fn launch_into(step: &dyn Step, inputs: &[&Tensor], results: &[Tensor]) -> Result<()> {
    let scratch: Buffer = heap().allocate(step.scratch_bytes())?;
    step.launch(&Launch {
        inputs: &inputs.iter().map(|t| location(t)).collect::<Vec<_>>(),
        outputs: &results.iter().map(location).collect::<Vec<_>>(),
        scratch: Location {
            buffer: &scratch,
            offset: 0,
        },
        pool: Pool::global(),
    })
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
