//! Random programs of simple operations, run at every level, against a plain interpreter: the bits
//! have to be the same, however values are spread over chains, slots and outputs.

use half::{bf16, f16};
use motet_core::dtype::Dtype;
use motet_core::program::{Binary, Instruction, Program, Unary};
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use super::{Elementwise, Memory, Part, Prepared, Sums};
use crate::scratch::with_scratch;
use crate::simd::Simd;
use crate::testing::{launch, noise, tensor, values};
use crate::vector::Vector;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % sides
    }

    fn float(&mut self) -> Dtype {
        [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16][self.roll(3)]
    }
}

fn rounded(x: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => f16::from_f32(x).to_f32(),
        Dtype::Bfloat16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Four inputs, the last of one element, then constants, operations and casts; a few outputs.
fn program(dice: &mut Dice) -> Program {
    let inputs: Vec<Dtype> = (0..4).map(|_| dice.float()).collect();
    let input = |(i, &dtype): (usize, &Dtype)| (Instruction::Input(i), dtype);
    let mut code: Vec<(Instruction, Dtype)> = inputs.iter().enumerate().map(input).collect();
    code.push((Instruction::Constant(0.75), Dtype::Float32));
    for _ in 0..3 + dice.roll(30) {
        // Mostly the newest, as in a chain.
        let pick = |dice: &mut Dice| match dice.roll(3) {
            0 => dice.roll(code.len()),
            _ => code.len() - 1,
        };
        let (a, b) = (pick(dice), pick(dice));
        let dtype = code[a].1;
        let binary = [
            Binary::Add,
            Binary::Sub,
            Binary::Mul,
            Binary::Div,
            Binary::Max,
            Binary::Min,
        ];
        let instruction = match dice.roll(9) {
            // Floor is a loop of its own.
            0 => Instruction::Unary([Unary::Floor, Unary::Neg][dice.roll(2)], a),
            1 => Instruction::Unary([Unary::Abs, Unary::Sqrt][dice.roll(2)], a),
            2 => Instruction::Cast(a),
            _ => Instruction::Binary(binary[dice.roll(6)], a, b),
        };
        let dtype = match instruction {
            Instruction::Cast(_) => dice.float(),
            _ => dtype,
        };
        code.push((instruction, dtype));
    }
    let last = code.len() - 1;
    let outputs = (0..1 + dice.roll(3)).map(|_| last - dice.roll(last.min(6)));
    Program {
        outputs: outputs.collect(),
        code,
        inputs,
    }
}

/// The program for one element.
fn interpret(program: &Program, inputs: &[f32]) -> Vec<f32> {
    let mut registers: Vec<f32> = Vec::new();
    for &(instruction, dtype) in &program.code {
        let r = |register: usize| registers[register];
        registers.push(match instruction {
            Instruction::Input(i) => inputs[i],
            Instruction::Constant(value) => value as f32,
            Instruction::Unary(Unary::Floor, a) => r(a).floor(),
            Instruction::Unary(Unary::Neg, a) => -r(a),
            Instruction::Unary(Unary::Abs, a) => r(a).abs(),
            Instruction::Unary(_, a) => r(a).sqrt(),
            Instruction::Binary(Binary::Add, a, b) => r(a) + r(b),
            Instruction::Binary(Binary::Sub, a, b) => r(a) - r(b),
            Instruction::Binary(Binary::Mul, a, b) => r(a) * r(b),
            Instruction::Binary(Binary::Div, a, b) => r(a) / r(b),
            Instruction::Binary(Binary::Max, a, b) => Vector::max(r(a), r(b)),
            Instruction::Binary(_, a, b) => Vector::min(r(a), r(b)),
            Instruction::Cast(a) if program.code[a].1 == dtype => r(a),
            Instruction::Cast(a) => rounded(r(a), dtype),
            Instruction::Select(..) => unreachable!("the generator makes none"),
        });
    }
    let stored = |&register: &usize| rounded(registers[register], program.code[register].1);
    program.outputs.iter().map(stored).collect()
}

fn floats(data: &[f32], dtype: Dtype) -> Tensor {
    let shape = [data.len()];
    match dtype {
        Dtype::Float16 => {
            let data: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
            tensor(&shape, &data)
        }
        Dtype::Bfloat16 => {
            let data: Vec<bf16> = data.iter().map(|&x| bf16::from_f32(x)).collect();
            tensor(&shape, &data)
        }
        _ => tensor(&shape, data),
    }
}

fn wide(tensor: &Tensor) -> Vec<f32> {
    match tensor.layout.dtype {
        Dtype::Float16 => values::<f16>(tensor).iter().map(|x| x.to_f32()).collect(),
        Dtype::Bfloat16 => values::<bf16>(tensor).iter().map(|x| x.to_f32()).collect(),
        _ => values::<f32>(tensor),
    }
}

#[test]
fn random_programs_compute_what_an_interpreter_does() {
    let mut dice = Dice(1);
    for round in 0..400 {
        let program = program(&mut dice);
        let rows = [1, 1, 2, 23][dice.roll(4)];
        let columns = [1, 7, 65, 200, 1024, 1500][dice.roll(6)];
        let (len, shape) = (rows * columns, [rows, columns]);
        let mut inputs = Vec::new();
        for (index, &dtype) in program.inputs.iter().enumerate() {
            let mut data: Vec<f32> = noise(len, index as u64 + round);
            for special in [0.0, -0.0, f32::NAN, f32::INFINITY] {
                data[dice.roll(len)] = special;
            }
            let mut x = floats(&data, dtype);
            x.layout = Spec::new(shape, dtype).layout();
            match index {
                2 => x.layout.strides[0] = 0,
                3 => x.layout.strides = smallvec::smallvec![0, 0],
                _ => {}
            }
            inputs.push(x);
        }
        let layouts: Vec<Layout> = inputs.iter().map(|x| x.layout.clone()).collect();
        let spec = |output| Spec::new(shape, program.output_dtype(output));
        let specs: Vec<Spec> = (0..program.outputs.len()).map(spec).collect();
        let results: Vec<Layout> = specs.iter().map(Spec::layout).collect();
        let data: Vec<Vec<f32>> = inputs.iter().map(wide).collect();
        let element = |i| interpret(&program, &data.iter().map(|x| x[i]).collect::<Vec<_>>());
        let want: Vec<Vec<f32>> = (0..len).map(element).collect();
        for simd in Simd::all() {
            let check = |got: Vec<Vec<f32>>, how: &str| {
                for (i, want) in want.iter().enumerate() {
                    for (got, want) in got.iter().map(|got| got[i]).zip(want) {
                        let same =
                            got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                        assert!(
                            same,
                            "{simd:?} {how} {i} of {rows} x {columns}: {got} {want} in {program}"
                        );
                    }
                }
            };
            let prepared = Prepared::new(&program, &layouts, &results, simd).unwrap();
            let step = Elementwise::new(prepared, &layouts, &results);
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            let got = launch(&step, &inputs, &specs).unwrap();
            check(got.iter().map(wide).collect(), "whole");
            let got = in_parts(&mut dice, &program, simd, &inputs, &data[0], shape);
            check(got, "in parts");
        }
    }
}

/// The program's results, computed for some rows and columns after others, with the elements of input 0
/// side by side in float32.
fn in_parts(
    dice: &mut Dice,
    program: &Program,
    simd: Simd,
    inputs: &[&Tensor],
    first: &[f32],
    [rows, columns]: [usize; 2],
) -> Vec<Vec<f32>> {
    let mut layouts: Vec<Layout> = inputs.iter().map(|x| x.layout.clone()).collect();
    layouts[0] = Spec::new([rows, columns], Dtype::Float32).layout();
    let spec = |output| Spec::new([rows, columns], program.output_dtype(output));
    let specs: Vec<Spec> = (0..program.outputs.len()).map(spec).collect();
    let results: Vec<Layout> = specs.iter().map(Spec::layout).collect();
    let prepared = Prepared::new(program, &layouts, &results, simd).unwrap();
    let addresses: Vec<*const u8> = inputs
        .iter()
        .map(|x| x.buffer.as_ptr().cast_const())
        .collect();
    let zeros = |spec: &Spec| floats(&vec![0.0; rows * columns], spec.dtype);
    let outputs: Vec<Tensor> = specs.iter().map(zeros).collect();
    let results: Vec<*mut u8> = outputs.iter().map(|x| x.buffer.as_ptr()).collect();
    let memory = Memory {
        inputs: &addresses,
        outputs: &results,
    };
    let (tall, wide_part) = (1 + dice.roll(rows), 1 + dice.roll(columns));
    for row in (0..rows).step_by(tall) {
        for column in (0..columns).step_by(wide_part) {
            let (tall, wide) = (tall.min(rows - row), wide_part.min(columns - column));
            let sums: Vec<f32> = (row..row + tall)
                .flat_map(|row| &first[row * columns + column..][..wide])
                .copied()
                .collect();
            let part = Part {
                start: row * columns + column,
                rows: tall,
                columns: wide,
                row: columns,
                sums: Some(Sums {
                    address: sums.as_ptr(),
                    step: wide,
                }),
            };
            with_scratch(prepared.scratch_bytes(), |scratch| {
                // SAFETY: the part's elements are in the sums and the tensors, which are whole.
                unsafe { prepared.run(&memory, scratch, part) }
            });
        }
    }
    outputs.iter().map(wide).collect()
}

#[test]
fn large_outputs_are_streamed() {
    let x = tensor(&[5 << 20], &vec![1.5f32; 5 << 20]);
    let program = Program::from_expr(
        &(motet_core::program::expr::x() + motet_core::program::expr::x()),
        &[Dtype::Float32],
    );
    let layouts = [x.layout.clone()];
    let prepared = Prepared::new(&program, &layouts, &layouts, Simd::detect()).unwrap();
    assert!(prepared.streams);
    let step = Elementwise::new(prepared, &layouts, &layouts);
    let got = launch(&step, &[&x], &[x.spec()]).unwrap();
    assert!(values::<f32>(&got[0]).iter().all(|&x| x == 3.0));
}
