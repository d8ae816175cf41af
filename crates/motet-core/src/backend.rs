//! What executes on a device.
//!
//! A backend speaks of buffers, prepared steps and launches, never of slices: the CPU runs a step
//! where it is launched, a GPU will enqueue it. Backends are found through [`BACKENDS`], to which
//! every backend crate that is linked in adds itself; the core knows none of them.

use linkme::distributed_slice;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::memory::Buffer;
use crate::pool::Pool;
use crate::shape::{Layout, Spec};
use crate::tensor::Tensor;

/// Executes kernel classes on one kind of device.
pub trait Backend: Send + Sync + 'static {
    /// The device that it serves.
    fn device(&self) -> Device;

    /// Whether `kernel` reads input `index` in this layout; where it does not, it gets a row-major
    /// copy. Every backend accepts row-major inputs.
    fn accepts(&self, kernel: &Kernel, index: usize, layout: &Layout) -> bool;

    /// Whether `kernel` writes output `index` in this layout: row-major, or that with its axes in
    /// another order. Every backend writes row-major outputs.
    fn writes(&self, kernel: &Kernel, index: usize, layout: &Layout) -> bool;

    /// Whether steps of `kernel`, of this result, can run a program on that before they store it
    /// ([`Kernel::Fused`]).
    fn fuses(&self, kernel: &Kernel, result: &Spec) -> bool;

    /// Whether the step that [`prepare`](Backend::prepare) would make of the same can be one with
    /// others of its kind ([`Kernel::Joined`]), and gains by that.
    fn joins(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> bool;

    /// Makes everything about a launch that depends on layouts, and on inputs that are the same in
    /// all launches: `constants` has their values, by input, and may be shorter than `inputs`.
    /// Shapes and dtypes have been checked against the primitive's rules; what the backend cannot
    /// do is [`Unsupported`](crate::error::ErrorKind::Unsupported).
    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> Result<Box<dyn Step>>;
}

/// A kernel prepared for certain layouts: immutable, launched by any number of threads at once.
pub trait Step: Send + Sync {
    /// Bytes of temporary memory that a launch needs, aligned as every buffer is.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Whether launches read this input. Not, where the step keeps a form of its own of a constant.
    fn reads(&self, _input: usize) -> bool {
        true
    }

    /// Whether a launch may be given an output at the very place of an input: both row-major, with as many
    /// elements of as many bytes, and no other operand there.
    ///
    /// Who says so promises that results are then the same to the bit. All that depends on an element of
    /// the input is read before what lies over it is written, by whichever thread; and while that is
    /// written nobody holds a reference (a slice, say) to it as a part of the input, which Rust would take
    /// as a promise that it stays as it is.
    fn writes_over(&self, _input: usize, _output: usize) -> bool {
        false
    }

    /// Runs once. An `Err` (an index out of range, say) makes the outputs failed values.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;
}

/// Where a launch finds its operands.
pub struct Launch<'a> {
    /// The inputs, as many and in the layouts that were prepared for. An input that the step does
    /// not [read](Step::reads) is any place.
    pub inputs: &'a [Location<'a>],
    /// The outputs, in the layouts that were prepared for, holding anything. None overlaps an input, but for
    /// those that the step [may be given](Step::writes_over) at the place of one.
    pub outputs: &'a [Location<'a>],
    /// Temporary memory, of the size that the step asked for.
    pub scratch: Location<'a>,
    /// Where regions are opened.
    pub pool: &'a Pool,
}

/// The place of a value's first element.
#[derive(Clone, Copy)]
pub struct Location<'a> {
    /// The buffer that holds it.
    pub buffer: &'a Buffer,
    /// Bytes from the buffer's start.
    pub offset: usize,
}

/// The backends that are linked into the program.
#[distributed_slice]
pub static BACKENDS: [&'static dyn Backend];

/// The backend of a device.
pub fn backend(device: Device) -> Result<&'static dyn Backend> {
    BACKENDS
        .iter()
        .copied()
        .find(|backend| backend.device() == device)
        .ok_or_else(|| {
            Error::unsupported(
                "device",
                format!("no backend for {device} is linked into this program"),
            )
        })
}
