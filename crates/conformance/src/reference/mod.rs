//! The naive reference: what kernel classes and views have to give, in direct loops over exact
//! numbers. Written for being right at a glance, not for speed.

use motet_core::kernel::Kernel;
use motet_core::ops::{Lowered, Primitive};
use motet_core::shape::Spec;

use crate::Verdict;
use crate::value::{Expected, Value, compare};

mod elementwise;
mod fast;
mod indexing;
mod linalg;
mod matmul;
mod quantized;
mod reduce;
mod transform;
mod view;

/// Primitives that the reference leaves out, each with what it is checked against instead.
pub const ELSEWHERE: &[(&str, &str)] = &[];

/// What is wrong with the outputs that a primitive gave for inputs; `None` where the reference does
/// not know the primitive.
pub fn check(primitive: &Primitive, inputs: &[Value], got: &[Value]) -> Option<Verdict> {
    Some(match outcome(primitive, inputs, &specs(got))? {
        Outcome::Elements(expected) => compare_all(got, &expected),
        Outcome::Property(check) => check(got),
    })
}

/// The elements of a primitive's outputs; `None` where the reference does not know the primitive,
/// or many outputs are right.
pub fn expected(
    primitive: &Primitive,
    inputs: &[Value],
    outputs: &[Spec],
) -> Option<Vec<Vec<Expected>>> {
    match outcome(primitive, inputs, outputs)? {
        Outcome::Elements(expected) => Some(expected),
        Outcome::Property(_) => None,
    }
}

fn specs(values: &[Value]) -> Vec<Spec> {
    values.iter().map(|value| value.spec.clone()).collect()
}

fn outcome<'a>(
    primitive: &Primitive,
    inputs: &'a [Value],
    outputs: &[Spec],
) -> Option<Outcome<'a>> {
    match primitive.lower(&specs(inputs), outputs).ok()? {
        Lowered::Views(views) => {
            let of = |((input, view), output): (&(usize, _), _)| {
                view::look(view, &inputs[*input], output)
            };
            Some(Outcome::Elements(
                views.iter().zip(outputs).map(of).collect(),
            ))
        }
        Lowered::Kernel(kernel) => kernel_class(&kernel, inputs, outputs),
    }
}

/// Compares all outputs.
///
/// # Errors
/// The first element that is not as expected.
pub fn compare_all(got: &[Value], expected: &[Vec<Expected>]) -> Verdict {
    if got.len() != expected.len() {
        return Err(format!(
            "got {} outputs, expected {}",
            got.len(),
            expected.len()
        ));
    }
    let mut outputs = got.iter().zip(expected).enumerate();
    outputs.try_for_each(|(number, (got, expected))| {
        compare(got, expected).map_err(|error| format!("output {number}, {error}"))
    })
}

/// What is wrong with outputs.
type Property<'a> = Box<dyn Fn(&[Value]) -> Verdict + 'a>;

/// What the reference knows of an outcome.
enum Outcome<'a> {
    /// The elements of each output.
    Elements(Vec<Vec<Expected>>),
    /// What the outputs have to fulfil, where many are right.
    Property(Property<'a>),
}

fn kernel_class<'a>(kernel: &Kernel, inputs: &'a [Value], outputs: &[Spec]) -> Option<Outcome<'a>> {
    let output = &outputs[0];
    let elements = match kernel {
        Kernel::Elementwise(program) => {
            let elements = elementwise::run(program, inputs, output.shape.size());
            return Some(Outcome::Elements(elements));
        }
        Kernel::Copy => inputs[0].elements.iter().map(|&e| e.into()).collect(),
        Kernel::Concatenate { axis } => indexing::concatenate(inputs, output, *axis),
        Kernel::Pad { low } => indexing::pad(inputs, output, low),
        Kernel::Arange { start, next } => transform::arange(output, *start, *next),
        Kernel::Reduce { op, axes } => reduce::reduce(&inputs[0], output, *op, axes),
        Kernel::ArgReduce { max, axis } => reduce::arg_reduce(&inputs[0], output, *max, *axis),
        Kernel::Scan {
            op,
            axis,
            reverse,
            inclusive,
        } => reduce::scan(&inputs[0], output, *op, *axis, (*reverse, *inclusive)),
        Kernel::Sort { axis, indices } => reduce::sort(&inputs[0], output, *axis, *indices),
        Kernel::Softmax => reduce::softmax(&inputs[0]),
        Kernel::LogSumExp => reduce::log_sum_exp(&inputs[0]),
        Kernel::Norm { eps, center } => fast::norm(inputs, *eps, *center),
        Kernel::NormVjp { eps, center } => {
            return Some(Outcome::Elements(fast::norm_vjp(inputs, *eps, *center)));
        }
        Kernel::Rope(rope) => fast::rope(inputs, output, rope),
        &Kernel::Attention {
            scale,
            causal,
            appended: false,
            mask,
            sinks,
        } => {
            let attention = fast::Attention {
                scale,
                causal,
                mask,
                sinks,
            };
            fast::attention(inputs, output, &attention)
        }
        // Plans alone have these: what they are made of has its own samples.
        Kernel::Fused(_) | Kernel::Joined(_) | Kernel::Pool { .. } | Kernel::Attention { .. } => {
            return None;
        }
        Kernel::Matmul { alpha, beta } => matmul::matmul(inputs, output, *alpha, *beta),
        Kernel::QuantizedMatmul {
            quantization,
            transpose,
        } => quantized::matmul(inputs, output, *quantization, *transpose),
        Kernel::Quantize(quantization) => {
            let elements = quantized::quantize(&inputs[0], outputs, *quantization);
            return Some(Outcome::Elements(elements));
        }
        Kernel::Dequantize(quantization) => quantized::dequantize(inputs, *quantization),
        Kernel::Convolution(parameters) => transform::convolution(inputs, output, parameters),
        Kernel::GatherMatmul => matmul::gathered(inputs, output),
        Kernel::GatherQuantizedMatmul {
            quantization,
            transpose,
        } => quantized::gathered(inputs, output, *quantization, *transpose),
        Kernel::BlockMaskedMatmul { block_size } => {
            matmul::block_masked(inputs, output, *block_size)
        }
        Kernel::DynamicSlice { axes } => indexing::dynamic_slice(inputs, output, axes),
        Kernel::DynamicSliceUpdate { axes } => indexing::dynamic_slice_update(inputs, axes),
        Kernel::MaskedScatter => indexing::masked_scatter(inputs),
        Kernel::SearchSorted { right } => reduce::search_sorted(inputs, *right),
        Kernel::Hadamard { scale } => {
            return Some(transform::hadamard(&inputs[0], *scale));
        }
        Kernel::RandomBits => transform::random_bits(&inputs[0], output),
        Kernel::Gather { axes, slice_sizes } => indexing::gather(inputs, output, axes, slice_sizes),
        Kernel::GatherAxis { axis } => indexing::gather_axis(inputs, output, *axis),
        Kernel::Scatter { op, axes } => indexing::scatter(inputs, *op, axes),
        Kernel::ScatterAxis { op, axis } => indexing::scatter_axis(inputs, *op, *axis),
        Kernel::SliceUpdate { op, start, strides } => {
            indexing::slice_update(inputs, *op, start, strides)
        }
        Kernel::Fft { axes, inverse } => transform::fft(&inputs[0], output, axes, *inverse),
        &Kernel::Linalg(op) => {
            return Some(Outcome::Property(Box::new(move |got| {
                linalg::check(op, &inputs[0], got)
            })));
        }
    };
    Some(Outcome::Elements(vec![elements]))
}

/// The place of the element with this row-major number.
fn place(shape: &[usize], mut number: usize) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (at, &dim) in place.iter_mut().zip(shape).rev() {
        *at = number % dim;
        number /= dim;
    }
    place
}

/// The row-major number of the element at a place.
fn number(shape: &[usize], place: &[usize]) -> usize {
    let dims = shape.iter().zip(place);
    dims.fold(0, |number, (&dim, &at)| number * dim + at)
}

/// The places of all elements in row-major order.
fn places(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let size: usize = shape.iter().product();
    (0..size).map(move |number| place(shape, number))
}
