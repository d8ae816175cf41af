//! Writes constants of one element into the programs that use them, instead of broadcasting them, and
//! makes products of squares and cubes.

use std::collections::HashMap;

use crate::compile::ir::{Ir, Kind, Value};
use crate::dtype::Dtype;
use crate::kernel::Kernel;
use crate::ops::View;
use crate::program::{Binary, Instruction, Program, ProgramBuilder, expr};
use crate::tensor::Tensor;

pub(crate) fn inline_scalars(mut ir: Ir) -> Ir {
    let mut scalars: HashMap<Value, f64> = HashMap::new();
    for (value, tensor) in &ir.constants {
        scalars.extend(only_number(tensor).map(|number| (*value, number)));
    }
    for step in &mut ir.steps {
        match &mut step.kind {
            Kind::View(View::Broadcast | View::Reshape) => {
                if let Some(&number) = scalars.get(&step.inputs[0]) {
                    scalars.insert(step.outputs[0], number);
                }
            }
            Kind::Kernel(Kernel::Elementwise(program)) => {
                let numbers = step.inputs.iter().map(|v| scalars.get(v).copied());
                let numbers: Vec<Option<f64>> = numbers.collect();
                // Without any input left it would be a constant that was too large to be folded.
                if numbers.iter().any(Option::is_some) && numbers.iter().any(Option::is_none) {
                    *program = product(program, &numbers)
                        .unwrap_or_else(|| with_constants(program, &numbers));
                    let mut number = numbers.iter();
                    step.inputs
                        .retain(|_| number.next().is_some_and(Option::is_none));
                }
            }
            _ => {}
        }
    }
    ir
}

/// The program with numbers in place of some of its inputs.
fn with_constants(program: &Program, numbers: &[Option<f64>]) -> Program {
    let mut builder = ProgramBuilder::default();
    let inputs = program.inputs.iter().zip(numbers);
    let registers: Vec<_> = inputs
        .map(|(&dtype, number)| match number {
            Some(number) => builder.constant(*number, dtype),
            None => builder.input(dtype),
        })
        .collect();
    let outputs = builder.program(program, &registers);
    builder.finish(outputs)
}

/// `x ** 2` and `x ** 3` as products, where the program is a power of floats.
fn product(program: &Program, numbers: &[Option<f64>]) -> Option<Program> {
    let &[(_, dtype), _, (Instruction::Binary(Binary::Pow, 0, 1), _)] = &program.code[..] else {
        return None;
    };
    let square = || expr::x() * expr::x();
    let product = match (numbers, dtype.is_float()) {
        ([None, Some(2.0)], true) => square(),
        ([None, Some(3.0)], true) => square() * expr::x(),
        _ => return None,
    };
    Some(Program::from_expr(&product, &[dtype]))
}

/// The number that all elements of a tensor are, where it has one in memory and a float64 can be it.
pub(crate) fn only_number(tensor: &Tensor) -> Option<f64> {
    use half::{bf16, f16};
    let layout = &tensor.layout;
    let mut dims = layout.shape.iter().zip(&layout.strides);
    if layout.shape.size() == 0 || !dims.all(|(&dim, &stride)| dim == 1 || stride == 0) {
        return None;
    }
    let mut one = tensor.clone();
    one.layout.shape.dims_mut().clear();
    one.layout.strides.clear();
    let bytes = one.row_major();
    macro_rules! number {
        ($T:ty) => {
            f64::from(<$T>::from_ne_bytes(bytes[..].try_into().ok()?))
        };
    }
    Some(match layout.dtype {
        Dtype::Bool => f64::from(bytes[0]),
        Dtype::Uint8 => number!(u8),
        Dtype::Uint16 => number!(u16),
        Dtype::Uint32 => number!(u32),
        Dtype::Int8 => number!(i8),
        Dtype::Int16 => number!(i16),
        Dtype::Int32 => number!(i32),
        Dtype::Float16 => number!(f16),
        Dtype::Bfloat16 => number!(bf16),
        Dtype::Float32 => number!(f32),
        Dtype::Float64 => number!(f64),
        Dtype::Uint64 | Dtype::Int64 | Dtype::Complex64 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{Builder, add, mul, tensor};

    #[test]
    fn a_broadcast_number_becomes_part_of_the_program() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let two = b.constant(&[1], &[2.0]);
        let wide = b.view(View::Broadcast, two, &[2, 3]);
        let row = b.constant(&[3], &[1.0, 2.0, 3.0]);
        let rows = b.view(View::Broadcast, row, &[2, 3]);
        let product = b.elementwise(mul(), &[wide, x]);
        let sum = b.elementwise(add(), &[rows, product]);
        let ir = inline_scalars(b.finish(&[sum]));
        let step = |value| ir.steps.iter().find(|s| s.outputs[0] == value).unwrap();
        assert_eq!(step(product).inputs[..], [x]);
        assert_eq!(step(sum).inputs[..], [rows, product]);
        let Kind::Kernel(Kernel::Elementwise(program)) = &step(product).kind else {
            panic!("the product is elementwise");
        };
        let text = "r0:float32 = 2; r1:float32 = input 0; r2:float32 = Mul r0 r1; -> r2";
        assert_eq!(program.to_string(), text);
    }

    #[test]
    fn a_cube_is_a_product() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let three = b.constant(&[], &[3.0]);
        let wide = b.view(View::Broadcast, three, &[2, 3]);
        let power = expr::binary(Binary::Pow, expr::x(), expr::y());
        let cube = b.elementwise(power, &[x, wide]);
        let ir = inline_scalars(b.finish(&[cube]));
        let Kind::Kernel(Kernel::Elementwise(program)) = &ir.steps[1].kind else {
            panic!("the cube is elementwise");
        };
        let text = "r0:float32 = input 0; r1:float32 = Mul r0 r0; r2:float32 = Mul r1 r0; -> r2";
        assert_eq!(program.to_string(), text);
        assert_eq!(ir.steps[1].inputs[..], [x]);
    }

    #[test]
    fn numbers_are_read_whatever_their_layout() {
        let number = tensor(&[], &[-1.5]);
        assert_eq!(only_number(&number), Some(-1.5));
        let mut wide = number.clone();
        wide.layout.shape.dims_mut().extend([4, 1]);
        wide.layout.strides.extend([0, 7]);
        assert_eq!(only_number(&wide), Some(-1.5));
        assert_eq!(only_number(&tensor(&[2], &[1.0, 1.0])), None);
    }
}
