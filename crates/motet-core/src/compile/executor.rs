//! Runs primitives and kernels one by one: the eager mode, and what passes compute ahead.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use smallvec::SmallVec;

use crate::backend::{self, Backend, Launch, Location};
use crate::compile::ir::{Kind, signature};
use crate::compile::{ir, place};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Kernel;
use crate::memory::heap;
use crate::node::{Definition, Executable};
use crate::ops::{Lowered, Primitive, View};
use crate::pool::Pool;
use crate::shape::{Layout, Spec};
use crate::sync::assert_unlocked;
use crate::tensor::Tensor;
use crate::trace::Label;

/// Computes one primitive now. Views share their input's memory; inputs in a layout that the
/// backend does not read are copied first.
///
/// # Errors
/// What the primitive or the backend refuses; a panic in a kernel; memory.
pub fn run_primitive(
    primitive: &Primitive,
    inputs: &[Tensor],
    outputs: &[Spec],
    pool: &Pool,
) -> Result<Vec<Tensor>> {
    let backend = backend::backend(Device::CPU)?;
    let name = primitive.name();
    let mut specs = SmallVec::<[Spec; 4]>::new();
    for input in inputs {
        specs.push(input.spec());
    }
    let run = || match primitive.lower(&specs, outputs)? {
        Lowered::Kernel(kernel) => run_kernel(backend, name, &kernel, inputs, outputs, pool),
        Lowered::Views(views) => {
            let with_spec = views.iter().zip(outputs);
            let see = |((index, view), output): (&(usize, View), &Spec)| {
                let input = inputs.get(*index).ok_or_else(|| missing(name, *index))?;
                run_view(backend, name, view, input, output, pool)
            };
            with_spec.map(see).collect()
        }
    };
    run().map_err(|error: Error| error.context(name, signature(&specs, outputs)))
}

/// A node of a primitive, executed as it is.
impl Executable for Primitive {
    fn name(&self) -> &str {
        self.name()
    }

    fn label(&self) -> Cow<'_, Label> {
        Cow::Owned(Label::Operation(self.name()))
    }

    fn definition(&self) -> Option<Definition<'_>> {
        Some(Definition::Primitive(self))
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        pool: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        run_primitive(self, inputs, outputs, pool)
    }
}

fn missing(name: &str, index: usize) -> Error {
    Error::invalid(name, format!("has no input {index}"))
}

/// Computes one step of an [`Ir`](ir::Ir) now.
pub(crate) fn run_step(
    backend: &dyn Backend,
    step: &ir::Step,
    inputs: &[Tensor],
    outputs: &[Spec],
    pool: &Pool,
) -> Result<Vec<Tensor>> {
    match (&step.kind, inputs, outputs) {
        (Kind::Kernel(kernel), ..) => {
            run_kernel(backend, &step.name, kernel, inputs, outputs, pool)
        }
        (Kind::View(view), [input], [output]) => {
            run_view(backend, &step.name, view, input, output, pool).map(|tensor| vec![tensor])
        }
        (Kind::View(_), ..) => Err(missing(&step.name, 0)),
    }
}

/// Prepares a kernel and launches it once, into new memory.
pub(crate) fn run_kernel(
    backend: &dyn Backend,
    name: &str,
    kernel: &Kernel,
    inputs: &[Tensor],
    outputs: &[Spec],
    pool: &Pool,
) -> Result<Vec<Tensor>> {
    let mut results = Vec::with_capacity(outputs.len());
    for spec in outputs {
        results.push(Tensor::allocate(spec, heap())?);
    }
    if outputs.iter().all(|spec| spec.shape.size() == 0) {
        return Ok(results);
    }
    // Loops instead of `collect`, which moves each tensor several times.
    let mut readable = SmallVec::<[Tensor; 4]>::new();
    let read = inputs.iter().take(inputs_read(kernel, inputs.len()));
    for (index, tensor) in read.enumerate() {
        let as_it_is = is_aligned(tensor) && backend.accepts(kernel, index, &tensor.layout);
        readable.push(match as_it_is {
            true => tensor.clone(),
            false => row_major(backend, tensor, pool)?,
        });
    }
    let inputs = readable;
    let layouts = |tensors: &[Tensor]| {
        let mut layouts = SmallVec::<[Layout; 4]>::new();
        for tensor in tensors {
            layouts.push(tensor.layout.clone());
        }
        layouts
    };
    let step = backend.prepare(kernel, &layouts(&inputs), &layouts(&results), &[])?;
    let scratch = match step.scratch_bytes() {
        0 => None,
        bytes => Some(heap().allocate(bytes)?),
    };
    let scratch = Location {
        // No bytes of any buffer, where the step asks for none.
        buffer: scratch.as_ref().unwrap_or(&results[0].buffer),
        offset: 0,
    };
    let (from, to) = (locations(&inputs), locations(&results));
    let once = Launch {
        inputs: &from,
        outputs: &to,
        scratch,
        pool,
    };
    launch(name, &*step, &once)?;
    drop(to);
    Ok(results)
}

/// How many of a primitive's inputs its kernel reads: the first ones.
pub fn inputs_read(kernel: &Kernel, inputs: usize) -> usize {
    match kernel {
        Kernel::Elementwise(program) => inputs.min(program.inputs.len()),
        _ => inputs,
    }
}

fn locations(tensors: &[Tensor]) -> SmallVec<[Location<'_>; 4]> {
    let mut locations = SmallVec::new();
    for tensor in tensors {
        locations.push(Location {
            buffer: &tensor.buffer,
            offset: tensor.offset,
        });
    }
    locations
}

/// Launches a step; a panic in it becomes an error.
fn launch(name: &str, step: &dyn backend::Step, launch: &Launch<'_>) -> Result<()> {
    assert_unlocked();
    // A step writes to memory that nobody reads after a failure: nothing broken is left behind.
    catch_unwind(AssertUnwindSafe(|| step.launch(launch)))
        .unwrap_or_else(|panic| Err(Error::from_panic(name, &*panic)))
}

/// Another way to see a tensor; copies it first where its layout does not allow that.
fn run_view(
    backend: &dyn Backend,
    name: &str,
    view: &View,
    input: &Tensor,
    output: &Spec,
    pool: &Pool,
) -> Result<Tensor> {
    if let Some(seen) = see(name, view, input, output)?.filter(is_aligned) {
        return Ok(seen);
    }
    let copied = row_major(backend, input, pool)?;
    see(name, view, &copied, output)?.ok_or_else(|| place::not_viewable(name))
}

/// The view without a copy, at whatever address: `None` where the layout does not allow it.
pub(crate) fn see(
    name: &str,
    view: &View,
    input: &Tensor,
    output: &Spec,
) -> Result<Option<Tensor>> {
    let Some((layout, bytes)) = view.apply(&input.layout, output) else {
        return Ok(None);
    };
    let seen = input.view(layout, bytes);
    seen.ok_or_else(|| place::outside(name)).map(Some)
}

/// The same value in row-major order, in new memory.
pub(crate) fn row_major(backend: &dyn Backend, tensor: &Tensor, pool: &Pool) -> Result<Tensor> {
    // Elements at odd addresses are copied byte by byte.
    let source = match is_aligned(tensor) {
        true => tensor.clone(),
        false => as_bytes(tensor),
    };
    let spec = source.spec();
    let copied = run_kernel(backend, "Copy", &Kernel::Copy, &[source], &[spec], pool)?;
    let layout = tensor.spec().layout();
    let as_it_was = copied.first().and_then(|copy| copy.view(layout, 0));
    as_it_was.ok_or_else(|| Error::new(ErrorKind::Internal, "Copy", "gave too little"))
}

/// The bytes of a tensor's elements as a last dimension.
fn as_bytes(tensor: &Tensor) -> Tensor {
    let size = tensor.layout.dtype.size();
    let mut layout = tensor.layout.clone();
    layout.dtype = Dtype::Uint8;
    layout.shape.dims_mut().push(size);
    layout.strides.iter_mut().for_each(|s| *s *= size as isize);
    layout.strides.push(1);
    Tensor {
        layout,
        ..tensor.clone()
    }
}

/// Whether the first element, and so every one, lies at a multiple of its size.
pub(crate) fn is_aligned(tensor: &Tensor) -> bool {
    is_aligned_to(tensor, tensor.layout.dtype.size())
}

/// Whether the first element lies at a multiple of `bytes`.
pub(crate) fn is_aligned_to(tensor: &Tensor, bytes: usize) -> bool {
    let address = tensor.buffer.as_ptr().addr().wrapping_add(tensor.offset);
    address.is_multiple_of(bytes)
}
