//! Matrix products: `alpha * (a @ b) + beta * c`, batched, or of matrices that indices pick.
//!
//! a and b are read in place when each of their matrices has contiguous rows or columns, whatever
//! the batch strides; c in any layout. Work is cut into tiles by the shapes alone, so results are
//! bit-identical however many threads there are. Half types are widened tile by tile, summed in
//! float32 and rounded once.

use motet_core::backend::Step;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use crate::target::{FusedStep, Parts, is_summed, parts};

mod constant;
mod gathered;
mod general;
mod joined;
mod masked;
mod product;
mod stack;

use constant::ConstantStep;
use gathered::GatheredStep;
use general::MatmulStep;
use joined::JoinedStep;
use masked::MaskedStep;
pub(crate) use product::{Factor, Matrix, Operand, Sizes, multiply};
pub(crate) use stack::{Stack, matrix_steps};

/// Whether a matrix is read in this layout. c may have any, indices and masks are row-major.
pub(crate) fn accepts(kernel: &Kernel, index: usize, layout: &Layout) -> bool {
    match index {
        0 | 1 => matrix_steps(layout).is_some(),
        _ => matches!(kernel, Kernel::Matmul { .. }) || layout.is_contiguous(),
    }
}

/// Whether a program can run on the sums of a product before they are rounded and stored.
pub(crate) fn fuses(kernel: &Kernel, result: &Spec) -> bool {
    matches!(kernel, Kernel::Matmul { beta: None, .. }) && is_summed(result.dtype)
}

/// Whether a product, or one with a program on its result, can be joined with others: where b is a
/// constant, unless the product has so many tiles that all threads are busy with it alone.
pub(crate) fn joins(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> bool {
    let (Ok((product, result)), [a, b, ..]) = (product_of(kernel, outputs), inputs) else {
        return false;
    };
    let out = result.layout();
    known_matrix(product, [a, b], &out, constants).is_some()
        && ConstantStep::tiles(a, &out) <= JOINED_TILES
}

/// A product with more tiles gains nothing by company.
const JOINED_TILES: usize = 64;

/// The product of a kernel, and its result.
fn product_of<'a>(kernel: &'a Kernel, outputs: &[Layout]) -> Result<(&'a Kernel, Spec)> {
    if let Kernel::Fused(fused) = kernel {
        return Ok((&fused.kernel, fused.result.clone()));
    }
    let out = outputs.first().ok_or_else(|| unexpected("operands"))?;
    Ok((kernel, out.spec()))
}

/// The matrix b of a product, if it is a constant that can be packed.
fn known_matrix<'a>(
    product: &Kernel,
    [a, b]: [&Layout; 2],
    result: &Layout,
    constants: &'a [Option<Tensor>],
) -> Option<&'a Tensor> {
    let unscaled = matches!(product, Kernel::Matmul { alpha: 1.0, .. });
    let known = constants.get(1)?.as_ref()?;
    let takes = fuses(product, &result.spec()) && ConstantStep::takes(a, b, result);
    (unscaled && takes).then_some(known)
}

/// The step of a product, or of one with a program on its result, where b is packed.
fn constant_step(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> Result<Option<ConstantStep>> {
    let (product, result) = product_of(kernel, outputs)?;
    let [a, b, ..] = inputs else {
        return Err(unexpected("operands"));
    };
    let out = result.layout();
    let Some(value) = known_matrix(product, [a, b], &out, constants) else {
        return Ok(None);
    };
    let target = parts(kernel, inputs, outputs)?.target;
    ConstantStep::new(a, b, &out, value, target).map(Some)
}

/// Prepares a product, or one with a program on its result. Where b is a constant, it is packed.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
    constants: &[Option<Tensor>],
) -> Result<Box<dyn Step>> {
    if let Kernel::Joined(parts) = kernel {
        let step = JoinedStep::new(parts, inputs, outputs, constants)?;
        return Ok(Box::new(step));
    }
    if let Some(step) = constant_step(kernel, inputs, outputs, constants)? {
        return Ok(Box::new(step));
    }
    let (product, result) = product_of(kernel, outputs)?;
    if !fuses(product, &result) {
        return prepare_plain(kernel, inputs, outputs);
    }
    let kernel_is_fused = matches!(kernel, Kernel::Fused(_));
    let Parts {
        kernel,
        inputs,
        result,
        target,
    } = parts(kernel, inputs, outputs)?;
    let (&Kernel::Matmul { alpha, beta: None }, [a, b]) = (kernel, inputs) else {
        return Err(unexpected("operands"));
    };
    let out = result.layout();
    macro_rules! for_dtype {
        ($type:ty) => {{
            let product = MatmulStep::<$type>::new(alpha, a, b, None, &out)?;
            match kernel_is_fused {
                true => Box::new(FusedStep {
                    kernel: product,
                    target,
                }),
                false => Box::new(product),
            }
        }};
    }
    Ok(match out.dtype {
        Dtype::Float16 => for_dtype!(half::f16),
        Dtype::Bfloat16 => for_dtype!(half::bf16),
        _ => for_dtype!(f32),
    })
}

fn prepare_plain(kernel: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Box<dyn Step>> {
    let ([a, b, others @ ..], [out]) = (inputs, outputs) else {
        return Err(unexpected("operands"));
    };
    macro_rules! for_dtype {
        ($step:ident::$new:ident($($argument:expr),*)) => {
            match out.dtype {
                Dtype::Float32 => Box::new($step::<f32>::$new($($argument),*)?),
                Dtype::Float64 => Box::new($step::<f64>::$new($($argument),*)?),
                Dtype::Float16 => Box::new($step::<half::f16>::$new($($argument),*)?),
                Dtype::Bfloat16 => Box::new($step::<half::bf16>::$new($($argument),*)?),
                Dtype::Complex64 => {
                    Box::new($step::<num_complex::Complex32>::$new($($argument),*)?)
                }
                dtype => {
                    return Err(Error::unsupported("Matmul", format!("no products of {dtype}")));
                }
            }
        };
    }
    Ok(match (kernel, others) {
        (&Kernel::Matmul { alpha, beta: None }, []) => {
            for_dtype!(MatmulStep::new(alpha, a, b, None, out))
        }
        (
            &Kernel::Matmul {
                alpha,
                beta: Some(beta),
            },
            [c],
        ) => {
            for_dtype!(MatmulStep::new(alpha, a, b, Some((beta, c)), out))
        }
        (Kernel::GatherMatmul, [lhs, rhs]) => {
            for_dtype!(GatheredStep::new(a, b, [lhs, rhs], out))
        }
        (&Kernel::BlockMaskedMatmul { block_size }, masks) => {
            for_dtype!(MaskedStep::new(block_size, a, b, masks, out))
        }
        _ => return Err(unexpected("operands")),
    })
}

fn unexpected(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "Matmul", format!("unexpected {what}"))
}

#[cfg(test)]
mod tests;
