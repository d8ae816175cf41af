//! Convolutions of one, two or three spatial dimensions, channels last.
//!
//! Weights that are known when a plan is made are packed (`constant`): they are multiplied by the
//! input where it lies. Otherwise the input under each output position is gathered into a row
//! (`patches`), or summed directly where each channel has kernels of its own (`depthwise`).

use motet_core::backend::Step;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use crate::target::{FusedStep, Parts, is_summed, parts};

mod constant;
mod depthwise;
mod geometry;
mod patches;
mod transform;
mod winograd;

use constant::ConstantStep;
use geometry::Geometry;
use patches::PatchesStep;
use winograd::WinogradStep;

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Whether a program can run on the sums of a convolution before they are rounded and stored.
pub(crate) fn fuses(result: &Spec) -> bool {
    is_summed(result.dtype)
}

/// Prepares a convolution, or one with a program on its result. Where the weights are a constant,
/// they are packed.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> Result<Box<dyn Step>> {
    let weights = constants.get(1).and_then(Option::as_ref);
    let is_fused = matches!(kernel, Kernel::Fused(_));
    let dtype = inputs.first().map_or(Dtype::Bool, |x| x.dtype);
    if !is_fused && !is_summed(dtype) {
        let geometry = Geometry::new(kernel, inputs, outputs)?;
        return Ok(match dtype {
            Dtype::Float64 => Box::new(PatchesStep::<f64>::new(
                geometry,
                inputs,
                &outputs[0],
                weights,
            )?),
            dtype => {
                return Err(Error::unsupported(
                    "Convolution",
                    format!("no convolutions of {dtype}"),
                ));
            }
        });
    }
    let Parts {
        kernel,
        inputs,
        result,
        target,
    } = parts(kernel, inputs, outputs)?;
    let out = result.layout();
    let geometry = Geometry::new(kernel, inputs, std::slice::from_ref(&out))?;
    if let Some(weights) = weights
        && ConstantStep::takes(&geometry)
    {
        if WinogradStep::takes(&geometry, &inputs[0], weights) && WinogradStep::pays(&geometry) {
            let step = WinogradStep::new(geometry, &inputs[0], weights, target)?;
            return Ok(Box::new(step));
        }
        let step = ConstantStep::new(geometry, &inputs[0], weights, target)?;
        return Ok(Box::new(step));
    }
    macro_rules! for_dtype {
        ($type:ty) => {{
            let patches = PatchesStep::<$type>::new(geometry, inputs, &out, weights)?;
            match is_fused {
                true => Box::new(FusedStep {
                    kernel: patches,
                    target,
                }),
                false => Box::new(patches),
            }
        }};
    }
    Ok(match out.dtype {
        Dtype::Float16 => for_dtype!(half::f16),
        Dtype::Bfloat16 => for_dtype!(half::bf16),
        _ => for_dtype!(f32),
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod winograd_tests;
