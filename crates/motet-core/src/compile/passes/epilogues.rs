//! Epilogues: elementwise programs that run on a kernel's result before it is stored.
//!
//! [`open_epilogues`] comes before elementwise steps are joined: it takes what a product adds out of
//! the product, so that the sum becomes part of the program that follows. [`fuse_epilogues`] comes
//! after: it makes one step of a kernel and the program that alone uses its result.

use smallvec::SmallVec;

use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::kernel::{Fused, Kernel};
use crate::ops::View;
use crate::program::{Binary, Program, ProgramBuilder, Register};
use crate::shape::Spec;

/// Whether the backend runs a program on the result of a kernel.
type Fuses<'a> = &'a dyn Fn(&Kernel, &Spec) -> bool;

/// `alpha * (a @ b) + beta * c` as a product and a sum.
pub(crate) fn open_epilogues(mut ir: Ir, fuses: Fuses<'_>) -> Ir {
    let mut steps = Vec::with_capacity(ir.steps.len());
    for mut step in ir.steps {
        let Kind::Kernel(Kernel::Matmul {
            alpha,
            beta: Some(beta),
        }) = step.kind
        else {
            steps.push(step);
            continue;
        };
        let product = Kernel::Matmul { alpha, beta: None };
        let spec = ir.values[step.outputs[0]].clone();
        if !fuses(&product, &spec) {
            steps.push(step);
            continue;
        }
        let c = step
            .inputs
            .pop()
            .expect("a product with c has three inputs");
        let sum = step.outputs[0];
        let bare = ir.values.len();
        ir.values.push(spec.clone());
        let mut builder = ProgramBuilder::default();
        let inputs = [spec.dtype; 2].map(|dtype| builder.input(dtype));
        let scaled = match beta {
            1.0 => inputs[1],
            beta => {
                let beta = builder.constant(beta.into(), spec.dtype);
                builder.binary(Binary::Mul, inputs[1], beta)
            }
        };
        let result = builder.binary(Binary::Add, inputs[0], scaled);
        let program = builder.finish(vec![result]);
        steps.push(Step {
            name: step.name.clone(),
            kind: Kind::Kernel(product),
            inputs: step.inputs,
            outputs: SmallVec::from_slice(&[bare]),
        });
        steps.push(Step {
            name: "Add".to_owned(),
            kind: Kind::Kernel(Kernel::Elementwise(program)),
            inputs: SmallVec::from_slice(&[bare, c]),
            outputs: SmallVec::from_slice(&[sum]),
        });
    }
    Ir { steps, ..ir }
}

/// Joins each elementwise step with the last kernel before it that it alone uses the result of.
pub(crate) fn fuse_epilogues(mut ir: Ir, fuses: Fuses<'_>) -> Ir {
    let mut producer = vec![None; ir.values.len()];
    let mut uses = vec![0usize; ir.values.len()];
    for (number, step) in ir.steps.iter().enumerate() {
        let mut inputs = step.inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.iter().for_each(|&v| uses[v] += 1);
        step.outputs
            .iter()
            .for_each(|&v| producer[v] = Some(number));
    }
    ir.outputs.iter().for_each(|&v| uses[v] += 1);

    // The kernel whose row-major result a value is, seen through reshapes that nobody else uses.
    let head = |ir: &Ir, steps: &[Option<Step>], mut value: Value| loop {
        if uses[value] != 1 {
            return None;
        }
        let number = producer[value]?;
        let step = steps[number].as_ref()?;
        match &step.kind {
            Kind::View(View::Reshape) => value = step.inputs[0],
            Kind::Kernel(kernel) if fuses(kernel, &ir.values[value]) => {
                return (step.outputs.len() == 1).then_some(number);
            }
            _ => return None,
        }
    };
    let mut steps: Vec<Option<Step>> = std::mem::take(&mut ir.steps)
        .into_iter()
        .map(Some)
        .collect();
    for number in 0..steps.len() {
        let Some(Kind::Kernel(Kernel::Elementwise(program))) =
            steps[number].as_ref().map(|step| &step.kind)
        else {
            continue;
        };
        let step = steps[number].as_ref().expect("it was there a line ago");
        let heads = step
            .inputs
            .iter()
            .filter_map(|&v| Some((head(&ir, &steps, v)?, v)));
        let Some((first, value)) = heads.max() else {
            continue;
        };
        let mut others: SmallVec<[Value; 4]> = SmallVec::new();
        for &input in &step.inputs {
            if input != value && !others.contains(&input) {
                others.push(input);
            }
        }
        let order = |v: Value| match v == value {
            true => 0,
            false => {
                1 + others
                    .iter()
                    .position(|&o| o == v)
                    .expect("it is another one")
            }
        };
        let program = reordered(
            program,
            &step.inputs.iter().map(|&v| order(v)).collect::<Vec<_>>(),
        );
        let (outputs, tail) = (step.outputs.clone(), step.name.clone());
        let first = steps[first].take().expect("a head is taken once");
        let Kind::Kernel(kernel) = first.kind else {
            unreachable!("a head is a kernel")
        };
        let fused = Fused {
            inputs: first.inputs.len(),
            result: ir.values[first.outputs[0]].clone(),
            kernel,
            program,
        };
        steps[number] = Some(Step {
            name: format!("{}+{tail}", first.name),
            kind: Kind::Kernel(Kernel::Fused(Box::new(fused))),
            inputs: first.inputs.into_iter().chain(others).collect(),
            outputs,
        });
    }
    ir.steps = steps.into_iter().flatten().collect();
    ir
}

/// The program with input `i` as input `order[i]`; inputs of one number are one.
fn reordered(program: &Program, order: &[usize]) -> Program {
    let mut builder = ProgramBuilder::default();
    let count = order.iter().max().map_or(0, |&last| last + 1);
    let registers: Vec<Register> = (0..count)
        .map(|number| {
            let input = order
                .iter()
                .position(|&o| o == number)
                .expect("each number is used");
            builder.input(program.inputs[input])
        })
        .collect();
    let inputs: Vec<Register> = order.iter().map(|&number| registers[number]).collect();
    let outputs = builder.program(program, &inputs);
    builder.finish(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::passes::{dead_code, fuse};
    use crate::compile::testing::{Builder, add, mul, neg};

    fn all(ir: Ir) -> Ir {
        let fuses: Fuses<'_> =
            &|kernel, _| matches!(kernel, Kernel::Softmax | Kernel::Matmul { beta: None, .. });
        dead_code(fuse_epilogues(fuse(open_epilogues(ir, fuses)), fuses))
    }

    fn fused(ir: &Ir, step: usize) -> &Fused {
        match &ir.steps[step].kind {
            Kind::Kernel(Kernel::Fused(fused)) => fused,
            other => panic!("not fused: {other:?}"),
        }
    }

    #[test]
    fn a_program_joins_the_last_kernel_that_it_alone_uses() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let first = b.softmax(x);
        let second = b.softmax(first);
        let third = b.softmax(second);
        let sum = b.elementwise(add(), &[x, third]);
        let product = b.elementwise(mul(), &[sum, second]);
        let ir = all(b.finish(&[product]));
        assert_eq!(ir.steps.len(), 3);
        assert_eq!(ir.steps[2].inputs[..], [second, x, second]);
        let fused = fused(&ir, 2);
        assert_eq!((&fused.kernel, fused.inputs), (&Kernel::Softmax, 1));
        assert_eq!(
            fused.program.to_string(),
            "r0:float32 = input 0; r1:float32 = input 1; r2:float32 = input 2; \
             r3:float32 = Add r1 r0; r4:float32 = Mul r3 r2; -> r4"
        );
    }

    #[test]
    fn a_result_that_others_use_is_stored() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let shares = b.softmax(x);
        let minus = b.elementwise(neg(), &[shares]);
        let ir = all(b.finish(&[minus, shares]));
        assert_eq!(ir.steps.len(), 2);
    }

    #[test]
    fn reshapes_are_seen_through_and_squares_are_of_one_input() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let shares = b.softmax(x);
        let flat = b.view(View::Reshape, shares, &[6]);
        let square = b.elementwise(mul(), &[flat, flat]);
        let ir = all(b.finish(&[square]));
        assert_eq!(ir.steps.len(), 1);
        assert_eq!(fused(&ir, 0).result.shape[..], [2, 3]);
        assert_eq!(fused(&ir, 0).program.inputs.len(), 1);
    }

    #[test]
    fn what_a_product_adds_joins_the_program_that_follows() {
        let mut b = Builder::default();
        let (x, c) = (b.input(&[2, 2]), b.input(&[2, 2]));
        let beta = Some(2.0);
        let product = b.kernel("AddMM", Kernel::Matmul { alpha: 3.0, beta }, &[x, x, c]);
        let minus = b.elementwise(neg(), &[product]);
        let ir = all(b.finish(&[minus]));
        assert_eq!(ir.steps.len(), 1);
        let fused = fused(&ir, 0);
        let bare = Kernel::Matmul {
            alpha: 3.0,
            beta: None,
        };
        assert_eq!((&fused.kernel, fused.inputs), (&bare, 2));
        assert_eq!(ir.steps[0].inputs[..], [x, x, c]);
        assert_eq!(
            fused.program.to_string(),
            "r0:float32 = input 0; r1:float32 = input 1; r2:float32 = 2; \
             r3:float32 = Mul r1 r2; r4:float32 = Add r0 r3; r5:float32 = Neg r4; -> r5"
        );
    }
}
