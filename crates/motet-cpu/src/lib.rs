//! The CPU backend of motet: a file per kernel class.
//!
//! Linking this crate in is enough: it registers itself in
//! [`BACKENDS`]. Every kernel file offers two functions:
//! `prepare(kernel, inputs, outputs)` makes a [`Step`], and `accepts(kernel, index, layout)` says
//! which layouts it reads besides row-major ones. `operand` is how steps reach their memory.

use linkme::distributed_slice;
use motet_core::backend::{BACKENDS, Backend, Step};
use motet_core::device::Device;
use motet_core::error::Result;
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

mod attention;
mod convert;
mod convolution;
mod copy;
mod dynamic_slice;
mod elementwise;
mod fft;
mod hadamard;
mod indexing;
mod indices;
#[cfg(feature = "linalg")]
mod linalg;
mod masked_scatter;
mod math;
mod matmul;
mod norm;
mod number;
mod operand;
mod packed;
mod pool;
mod quantized;
mod random;
mod real;
mod reduce;
mod rope;
mod scratch;
mod search;
mod simd;
mod softmax;
mod sort;
mod target;
#[cfg(test)]
mod testing;
mod vector;

/// The processor that runs the program.
pub struct Cpu;

#[distributed_slice(BACKENDS)]
static CPU: &'static dyn Backend = &Cpu;

impl Backend for Cpu {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn accepts(&self, kernel: &Kernel, index: usize, layout: &Layout) -> bool {
        match kernel {
            Kernel::Fused(fused) if index < fused.inputs => {
                self.accepts(&fused.kernel, index, layout)
            }
            // Programs take any strides.
            Kernel::Fused(_) => true,
            // Joined after operands were placed: each part accepts what it reads.
            Kernel::Joined(_) => true,
            kernel => layout.is_contiguous() || (module(kernel).accepts)(kernel, index, layout),
        }
    }

    fn writes(&self, kernel: &Kernel, _: usize, layout: &Layout) -> bool {
        layout.is_contiguous() || attention::writes(kernel, layout)
    }

    fn fuses(&self, kernel: &Kernel, result: &Spec) -> bool {
        match kernel {
            Kernel::Convolution(_) => convolution::fuses(result),
            Kernel::Matmul { .. } => matmul::fuses(kernel, result),
            _ => false,
        }
    }

    fn joins(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> bool {
        matmul::joins(kernel, inputs, outputs, constants)
    }

    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> Result<Box<dyn Step>> {
        match module(kernel).prepare {
            Prepare::ByLayouts(prepare) => prepare(kernel, inputs, outputs),
            Prepare::WithConstants(prepare) => prepare(kernel, inputs, outputs, constants),
        }
    }
}

/// The stand-in where the program was built without linear algebra.
#[cfg(not(feature = "linalg"))]
mod linalg {
    use super::*;

    pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
        layout.is_contiguous()
    }

    pub(crate) fn prepare(_: &Kernel, _: &[Layout], _: &[Layout]) -> Result<Box<dyn Step>> {
        Err(motet_core::error::Error::unsupported(
            "linalg",
            "the program was built without linear algebra; turn on the feature `linalg` of motet",
        ))
    }
}

/// What a kernel file offers.
struct Module {
    prepare: Prepare,
    accepts: fn(&Kernel, usize, &Layout) -> bool,
}

enum Prepare {
    ByLayouts(fn(&Kernel, &[Layout], &[Layout]) -> Prepared),
    /// Where constants are packed.
    WithConstants(fn(&Kernel, &[Layout], &[Layout], &Constants) -> Prepared),
}

/// The inputs that are the same in all launches; may end early.
type Constants = [Option<Tensor>];

type Prepared = Result<Box<dyn Step>>;

/// The file that implements a kernel.
fn module(kernel: &Kernel) -> Module {
    macro_rules! file {
        ($name:ident) => {
            file!($name, ByLayouts)
        };
        ($name:ident, $prepare:ident) => {
            Module {
                prepare: Prepare::$prepare($name::prepare),
                accepts: $name::accepts,
            }
        };
    }
    match kernel {
        Kernel::Elementwise(_) => file!(elementwise),
        Kernel::Copy
        | Kernel::Concatenate { .. }
        | Kernel::Pad { .. }
        | Kernel::Arange { .. }
        | Kernel::SliceUpdate { .. } => file!(copy),
        Kernel::Reduce { .. } | Kernel::ArgReduce { .. } => file!(reduce),
        Kernel::Softmax | Kernel::LogSumExp => file!(softmax),
        Kernel::Scan { .. } | Kernel::Sort { .. } => file!(sort),
        Kernel::Matmul { .. }
        | Kernel::GatherMatmul
        | Kernel::BlockMaskedMatmul { .. }
        | Kernel::Joined(_) => file!(matmul, WithConstants),
        Kernel::QuantizedMatmul { .. }
        | Kernel::GatherQuantizedMatmul { .. }
        | Kernel::Quantize(_)
        | Kernel::Dequantize(_) => file!(quantized),
        Kernel::Convolution(_) => file!(convolution, WithConstants),
        Kernel::Pool { .. } => file!(pool),
        Kernel::Gather { .. }
        | Kernel::GatherAxis { .. }
        | Kernel::Scatter { .. }
        | Kernel::ScatterAxis { .. } => file!(indexing),
        Kernel::DynamicSlice { .. } | Kernel::DynamicSliceUpdate { .. } => file!(dynamic_slice),
        Kernel::MaskedScatter => file!(masked_scatter),
        Kernel::SearchSorted { .. } => file!(search),
        Kernel::Norm { .. } | Kernel::NormVjp { .. } => file!(norm),
        Kernel::Rope(_) => file!(rope),
        Kernel::Attention { .. } => file!(attention),
        Kernel::Fft { .. } => file!(fft),
        Kernel::Hadamard { .. } => file!(hadamard),
        Kernel::RandomBits => file!(random),
        Kernel::Linalg(_) => file!(linalg),
        Kernel::Fused(fused) => module(&fused.kernel),
    }
}
