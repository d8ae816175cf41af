//! What samples are tried on: deterministic inputs, indices in range.

use motet_core::dtype::Dtype;
use motet_core::kernel::{Kernel, Linalg, QuantizationMode};
use motet_core::ops::{Lowered, Primitive};
use motet_core::program::{Binary, Instruction, Program};
use motet_core::shape::{Shape, Spec};
use num_complex::Complex64;

use crate::noise::Noise;
use crate::value::{Scalar, Value, wrap};

/// How inputs are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Small numbers.
    Plain,
    /// Zeros of both signs, infinities, NaN, equal elements, and the ends of integers among them.
    Edges,
}

/// The ways to fill the inputs of a primitive: edges only where they do not drown all the rest.
pub fn fills(primitive: &Primitive, inputs: &[Spec], outputs: &[Spec]) -> Vec<Fill> {
    let edges = match primitive.lower(inputs, outputs) {
        Ok(Lowered::Views(_)) => true,
        Ok(Lowered::Kernel(kernel)) => match kernel {
            Kernel::Elementwise(program) => !computes_complex(&program),
            Kernel::Copy
            | Kernel::Concatenate { .. }
            | Kernel::Pad { .. }
            | Kernel::ArgReduce { .. }
            | Kernel::Sort { .. } => true,
            Kernel::Reduce { op, .. } => {
                use motet_core::kernel::Reduction::*;
                let exact = !inputs[0].dtype.is_inexact();
                exact
                    || matches!(op, And | Or)
                    || (matches!(op, Min | Max) && !is_complex(&inputs[0]))
            }
            Kernel::Scan { .. } => !inputs[0].dtype.is_inexact(),
            _ => false,
        },
        Err(_) => false,
    };
    if edges {
        vec![Fill::Plain, Fill::Edges]
    } else {
        vec![Fill::Plain]
    }
}

fn is_complex(spec: &Spec) -> bool {
    spec.dtype == Dtype::Complex64
}

/// Whether complex numbers go into anything but comparisons: infinities and NaN of theirs have no
/// one right result.
fn computes_complex(program: &Program) -> bool {
    let mut code = program.code.iter();
    code.any(|&(instruction, _)| match instruction {
        Instruction::Unary(_, a) => program.code[a].1 == Dtype::Complex64,
        Instruction::Binary(op, a, _) => {
            !op.is_comparison() && program.code[a].1 == Dtype::Complex64
        }
        _ => false,
    })
}

/// Inputs for a primitive.
pub fn inputs(primitive: &Primitive, specs: &[Spec], outputs: &[Spec], fill: Fill) -> Vec<Value> {
    let kernel = match primitive.lower(specs, outputs) {
        Ok(Lowered::Kernel(kernel)) => Some(kernel),
        _ => None,
    };
    let mut noise = Noise::new(specs.len() as u64 + 1);
    let input = |(index, spec): (usize, &Spec)| {
        let role = kernel.as_ref().map_or(Role::Number, |kernel| {
            role(kernel, index, specs, &outputs[0].shape)
        });
        let element = |at: usize| match &role {
            Role::Number => number(&mut noise, spec.dtype, fill),
            &Role::Index { dim, block, .. } => {
                let index = noise.below(dim + 1 - block) as i128;
                let negative = block == 1 && !spec.dtype.is_unsigned() && noise.once_in(3);
                Scalar::Int(if negative { index - dim as i128 } else { index })
            }
            Role::Bits => Scalar::Int(noise.bits().into()).to(spec.dtype),
            Role::Exponent => Scalar::Int(120 + noise.below(16) as i128),
            Role::Eighth => Scalar::Int(noise.below(0x7F) as i128),
            Role::Starts(room) => Scalar::Int(noise.below(room[at] + 1) as i128),
            Role::Ascending => Scalar::Int(at as i128 / 2).to(spec.dtype),
            &Role::Dominant { n } => {
                let number = number(&mut noise, spec.dtype, fill);
                match at / n % n == at % n {
                    true => Scalar::Complex(number.complex() + 4.0 * n as f64 + 3.0).to(spec.dtype),
                    false => number,
                }
            }
            Role::Positive => Scalar::Float(1.5 + noise.unit()),
            Role::Amount => {
                let bits = 8 * spec.dtype.size() as i128;
                let amount = noise.below(bits as usize + 3) as i128 - 1;
                Scalar::Int(wrap(amount, spec.dtype))
            }
        };
        let elements = (0..spec.shape.size()).map(element).collect();
        Value {
            spec: spec.clone(),
            elements,
        }
    };
    specs.iter().enumerate().map(input).collect()
}

/// What an input means to a kernel.
enum Role {
    Number,
    /// Where a block starts in a dimension.
    Index {
        dim: usize,
        block: usize,
    },
    /// Packed codes.
    Bits,
    /// A scale that is a power of two.
    Exponent,
    /// A scale that is an 8-bit float.
    Eighth,
    /// Square matrices of this size that have an inverse, and are positive definite where
    /// symmetric.
    Dominant {
        n: usize,
    },
    /// A positive number.
    Positive,
    /// Where a block starts, for each axis up to here.
    Starts(Vec<usize>),
    /// Numbers in ascending order.
    Ascending,
    /// How far to shift.
    Amount,
}

fn role(kernel: &Kernel, index: usize, specs: &[Spec], block: &Shape) -> Role {
    let packed = |mode: &QuantizationMode, array: usize| match (array, mode) {
        (0, _) => Role::Bits,
        (1, QuantizationMode::Affine) | (2, _) => Role::Number,
        (_, QuantizationMode::Nvfp4) => Role::Eighth,
        _ => Role::Exponent,
    };
    let x = &specs.first().map(|spec| &spec.shape);
    match (kernel, x) {
        (Kernel::Gather { axes, slice_sizes }, Some(x)) if index > 0 => {
            let axis = axes[index - 1];
            Role::Index {
                dim: x[axis],
                block: slice_sizes[axis],
            }
        }
        (Kernel::Scatter { axes, .. }, Some(x)) if (1..=axes.len()).contains(&index) => {
            let axis = axes[index - 1];
            let updates = &specs[specs.len() - 1].shape;
            let block = updates[updates.len() - x.len() + axis];
            Role::Index {
                dim: x[axis],
                block,
            }
        }
        (Kernel::GatherAxis { axis } | Kernel::ScatterAxis { axis, .. }, Some(x)) if index == 1 => {
            Role::Index {
                dim: x[*axis],
                block: 1,
            }
        }
        (Kernel::GatherMatmul, Some(_)) if index > 1 => Role::Index {
            dim: batch(&specs[index - 2]),
            block: 1,
        },
        (Kernel::GatherQuantizedMatmul { .. }, _) if index + 2 >= specs.len() => {
            let operand = &specs[index + 2 - specs.len()];
            Role::Index {
                dim: batch(operand),
                block: 1,
            }
        }
        (Kernel::GatherQuantizedMatmul { quantization, .. }, _) if index > 0 => {
            packed(&quantization.mode, index - 1)
        }
        (Kernel::DynamicSlice { axes }, Some(x)) if index == 1 => {
            Role::Starts(room(x, block, axes))
        }
        (Kernel::DynamicSliceUpdate { axes }, Some(x)) if index == 2 => {
            Role::Starts(room(x, &specs[1].shape, axes))
        }
        (Kernel::RandomBits, _) => Role::Bits,
        (Kernel::SearchSorted { .. }, _) if index == 0 => Role::Ascending,
        (Kernel::Linalg(Linalg::Cholesky(_) | Linalg::Inverse(_)), Some(x)) => {
            Role::Dominant { n: x[x.len() - 1] }
        }
        (Kernel::Rope(_), _) if index == 2 => Role::Positive,
        (Kernel::Dequantize(q), _) => packed(&q.mode, index),
        (Kernel::QuantizedMatmul { quantization, .. }, _) if index > 0 => {
            packed(&quantization.mode, index - 1)
        }
        (Kernel::Elementwise(program), _) if index == 1 && shifts(program) => Role::Amount,
        _ => Role::Number,
    }
}

/// The number of matrices of an input.
fn batch(spec: &Spec) -> usize {
    spec.shape.iter().rev().skip(2).product()
}

/// How far blocks can start from the origin, for each axis.
fn room(x: &Shape, block: &Shape, axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&axis| x[axis] - block[axis]).collect()
}

fn shifts(program: &Program) -> bool {
    let shift = |op| matches!(op, Binary::LeftShift | Binary::RightShift);
    let mut code = program.code.iter();
    code.any(|(instruction, _)| matches!(instruction, Instruction::Binary(op, ..) if shift(*op)))
}

/// A number of the dtype.
pub fn number(noise: &mut Noise, dtype: Dtype, fill: Fill) -> Scalar {
    let edge = fill == Fill::Edges && noise.once_in(2);
    if dtype == Dtype::Bool {
        return Scalar::Int(noise.below(2) as i128);
    }
    if !dtype.is_inexact() {
        let ends = [
            i128::MIN,
            -1,
            0,
            1,
            i128::MAX,
            i128::MAX >> 1,
            1 << 31,
            1 << 63,
            (1 << 63) - 1,
        ];
        let small = noise.below(19) as i128 - if dtype.is_unsigned() { 0 } else { 9 };
        return Scalar::Int(wrap(if edge { *noise.pick(&ends) } else { small }, dtype));
    }
    let mut part = || {
        let ends = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            2.5,
            -3.5,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        if edge {
            *noise.pick(&ends)
        } else {
            3.0 * noise.unit()
        }
    };
    match dtype {
        Dtype::Complex64 => Scalar::Complex(Complex64::new(part(), part())).to(dtype),
        _ => Scalar::Float(part()).to(dtype),
    }
}
