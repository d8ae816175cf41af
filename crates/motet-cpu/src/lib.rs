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
mod lanes;
#[cfg(feature = "linalg")]
mod linalg;
mod masked_scatter;
mod math;
mod matmul;
mod norm;
mod number;
mod operand;
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
#[cfg(test)]
mod testing;

/// The processor that runs the program.
pub struct Cpu;

#[distributed_slice(BACKENDS)]
static CPU: &'static dyn Backend = &Cpu;

impl Backend for Cpu {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn accepts(&self, kernel: &Kernel, index: usize, layout: &Layout) -> bool {
        layout.is_contiguous() || (module(kernel).accepts)(kernel, index, layout)
    }

    fn fuses(&self, kernel: &Kernel, result: &Spec) -> bool {
        let _ = (kernel, result);
        false
    }

    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> Result<Box<dyn Step>> {
        let _ = constants;
        (module(kernel).prepare)(kernel, inputs, outputs)
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

type Prepare = fn(&Kernel, &[Layout], &[Layout]) -> Result<Box<dyn Step>>;

/// The file that implements a kernel.
fn module(kernel: &Kernel) -> Module {
    macro_rules! file {
        ($name:ident) => {
            Module {
                prepare: $name::prepare,
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
        Kernel::Matmul { .. } | Kernel::GatherMatmul | Kernel::BlockMaskedMatmul { .. } => {
            file!(matmul)
        }
        Kernel::QuantizedMatmul { .. }
        | Kernel::GatherQuantizedMatmul { .. }
        | Kernel::Quantize(_)
        | Kernel::Dequantize(_) => file!(quantized),
        Kernel::Convolution(_) => file!(convolution),
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
