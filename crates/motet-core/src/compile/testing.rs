//! For the tests of this module: graphs written down by hand, and a small slow backend.

use smallvec::{SmallVec, smallvec};

use crate::backend::{Backend, Launch, Location, Step};
use crate::compile::ir::{self, Ir, Kind, Value};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::memory::heap;
use crate::ops::View;
use crate::program::expr::{binary, unary, x, y};
use crate::program::{Binary, Expr, Instruction, Program, Unary};
use crate::shape::{Layout, Spec};
use crate::tensor::Tensor;

pub(crate) fn add() -> Expr {
    x() + y()
}

pub(crate) fn mul() -> Expr {
    x() * y()
}

pub(crate) fn max() -> Expr {
    binary(Binary::Max, x(), y())
}

pub(crate) fn neg() -> Expr {
    -x()
}

pub(crate) fn exp() -> Expr {
    unary(Unary::Exp, x())
}

/// Writes down an [`Ir`] of float32 values.
pub(crate) struct Builder(Ir);

impl Default for Builder {
    fn default() -> Builder {
        Builder(Ir {
            values: Vec::new(),
            inputs: Vec::new(),
            constants: Vec::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
        })
    }
}

impl Builder {
    fn value(&mut self, shape: &[usize]) -> Value {
        self.0.values.push(Spec::new(shape, Dtype::Float32));
        self.0.values.len() - 1
    }

    pub(crate) fn input_of(&mut self, spec: Spec) -> Value {
        let value = self.input(&spec.shape);
        self.0.values[value] = spec;
        value
    }

    pub(crate) fn spec(&self, value: Value) -> &Spec {
        &self.0.values[value]
    }

    pub(crate) fn shape(&self, value: Value) -> Vec<usize> {
        self.0.values[value].shape.to_vec()
    }

    pub(crate) fn input(&mut self, shape: &[usize]) -> Value {
        let value = self.value(shape);
        self.0.inputs.push(value);
        value
    }

    pub(crate) fn constant(&mut self, shape: &[usize], data: &[f32]) -> Value {
        let value = self.value(shape);
        self.0.constants.push((value, tensor(shape, data)));
        value
    }

    pub(crate) fn kernel(&mut self, name: &str, kernel: Kernel, inputs: &[Value]) -> Value {
        let shape = self.shape(inputs[0]);
        self.step(name, Kind::Kernel(kernel), inputs, &shape)
    }

    pub(crate) fn elementwise(&mut self, expr: Expr, inputs: &[Value]) -> Value {
        let program = Program::from_expr(&expr, &vec![Dtype::Float32; inputs.len()]);
        self.kernel("Map", Kernel::Elementwise(program), inputs)
    }

    pub(crate) fn softmax(&mut self, input: Value) -> Value {
        self.kernel("Softmax", Kernel::Softmax, &[input])
    }

    pub(crate) fn view(&mut self, view: View, input: Value, shape: &[usize]) -> Value {
        self.step("View", Kind::View(view), &[input], shape)
    }

    pub(crate) fn transpose(&mut self, input: Value) -> Value {
        let shape: Vec<usize> = self.shape(input).into_iter().rev().collect();
        let axes = (0..shape.len()).rev().collect();
        self.view(View::Transpose(axes), input, &shape)
    }

    /// A step whose result has another shape than its first input.
    pub(crate) fn step(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: &[Value],
        shape: &[usize],
    ) -> Value {
        let output = self.value(shape);
        self.0.steps.push(ir::Step {
            name: name.to_owned(),
            kind,
            inputs: SmallVec::from_slice(inputs),
            outputs: smallvec![output],
        });
        output
    }

    /// Another output of the step that was written down last.
    pub(crate) fn output(&mut self, shape: &[usize]) -> Value {
        let output = self.value(shape);
        self.0.steps.last_mut().unwrap().outputs.push(output);
        output
    }

    /// A step whose result is of another dtype than float32 too.
    pub(crate) fn step_of(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: &[Value],
        spec: Spec,
    ) -> Value {
        let output = self.step(name, kind, inputs, &spec.shape);
        self.0.values[output] = spec;
        output
    }

    pub(crate) fn finish(self, outputs: &[Value]) -> Ir {
        Ir {
            outputs: outputs.to_vec(),
            ..self.0
        }
    }
}

/// A row-major float32 tensor.
pub(crate) fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
    let tensor = Tensor::allocate(&Spec::new(shape, Dtype::Float32), heap()).unwrap();
    assert_eq!(tensor.layout.shape.size(), data.len());
    for (at, &value) in data.iter().enumerate() {
        write(location(&tensor), at as isize, value);
    }
    tensor
}

/// The elements of a float32 tensor in row-major order.
pub(crate) fn read(tensor: &Tensor) -> Vec<f32> {
    let from = location(tensor);
    positions(&tensor.layout)
        .map(|at| read_at(from, at))
        .collect()
}

fn location(tensor: &Tensor) -> Location<'_> {
    Location {
        buffer: &tensor.buffer,
        offset: tensor.offset,
    }
}

/// The distance of each element from the first, in elements, in row-major order.
fn positions(layout: &Layout) -> impl Iterator<Item = isize> + '_ {
    (0..layout.shape.size()).map(|mut number| {
        let mut at = 0;
        for (&dim, &stride) in layout.shape.iter().zip(&layout.strides).rev() {
            at += (number % dim) as isize * stride;
            number /= dim;
        }
        at
    })
}

fn byte_at(from: Location<'_>, at: isize, size: usize) -> *mut u8 {
    let byte = from.offset.checked_add_signed(at * size as isize).unwrap();
    assert!(byte + size <= from.buffer.len(), "outside of the buffer");
    from.buffer.as_ptr().wrapping_add(byte)
}

fn read_at(from: Location<'_>, at: isize) -> f32 {
    let address = byte_at(from, at, 4).cast::<f32>();
    assert!(address.is_aligned());
    // SAFETY: within the buffer (checked by byte_at), aligned, and written before.
    unsafe { address.read() }
}

fn write(to: Location<'_>, at: isize, value: f32) {
    // SAFETY: within the buffer (checked by byte_at), which only this step writes to.
    unsafe { byte_at(to, at, 4).cast::<f32>().write_unaligned(value) }
}

/// A backend for float32: elementwise, copy (of all dtypes), softmax of row-major inputs alone, written
/// in any order, and arange; joins elementwise kernels and softmaxes. Sort panics; the singular value decomposition fails.
pub(crate) struct Mock;

struct MockStep {
    kernel: Kernel,
    inputs: Vec<Layout>,
    outputs: Vec<Layout>,
}

impl Backend for Mock {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn accepts(&self, kernel: &Kernel, _: usize, layout: &Layout) -> bool {
        matches!(kernel, Kernel::Elementwise(_) | Kernel::Copy) || layout.is_contiguous()
    }

    fn fuses(&self, kernel: &Kernel, _: &Spec) -> bool {
        *kernel == Kernel::Softmax
    }

    fn writes(&self, kernel: &Kernel, _: usize, layout: &Layout) -> bool {
        *kernel == Kernel::Softmax || layout.is_contiguous()
    }

    fn joins(&self, kernel: &Kernel, _: &[Layout], _: &[Layout], _: &[Option<Tensor>]) -> bool {
        matches!(kernel, Kernel::Elementwise(_) | Kernel::Softmax)
    }

    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Layout],
        outputs: &[Layout],
        _: &[Option<Tensor>],
    ) -> Result<Box<dyn Step>> {
        if matches!(kernel, Kernel::Concatenate { .. }) {
            return Err(Error::unsupported("Concatenate", "the mock has none"));
        }
        let mut places = outputs.iter().enumerate();
        assert!(places.all(|(index, layout)| match kernel {
            Kernel::Joined(_) => true,
            kernel => self.writes(kernel, index, layout),
        }));
        Ok(Box::new(MockStep {
            kernel: kernel.clone(),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
        }))
    }
}

impl Step for MockStep {
    fn scratch_bytes(&self) -> usize {
        match self.kernel {
            Kernel::Softmax | Kernel::Fused(_) | Kernel::Joined(_) => 4,
            _ => 0,
        }
    }

    fn writes_over(&self, input: usize, _: usize) -> bool {
        // Programs run element by element.
        match &self.kernel {
            Kernel::Elementwise(_) => true,
            Kernel::Fused(fused) => input >= fused.inputs,
            _ => false,
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let output = launch.outputs[0];
        match &self.kernel {
            Kernel::Copy => {
                let size = self.inputs[0].dtype.size();
                for (number, at) in positions(&self.inputs[0]).enumerate() {
                    let from = byte_at(launch.inputs[0], at, size);
                    let to = byte_at(output, number as isize, size);
                    // SAFETY: both are within their buffers (checked by byte_at), which differ.
                    unsafe { std::ptr::copy_nonoverlapping(from, to, size) };
                }
            }
            Kernel::Softmax => {
                let row = self.outputs[0].shape.last().copied().unwrap_or(1);
                let places: Vec<isize> = positions(&self.outputs[0]).collect();
                for (number, places) in places.chunks(row.max(1)).enumerate() {
                    write(launch.scratch, 0, 0.0);
                    for (column, &place) in places.iter().enumerate() {
                        let sum = read_at(launch.scratch, 0);
                        let from = (number * row + column) as isize;
                        let e = read_at(launch.inputs[0], from).exp();
                        write(launch.scratch, 0, sum + e);
                        write(output, place, e);
                    }
                    let sum = read_at(launch.scratch, 0);
                    let divide = |&at: &isize| write(output, at, read_at(output, at) / sum);
                    places.iter().for_each(divide);
                }
            }
            Kernel::Elementwise(program) => self.map(program, launch),
            Kernel::Fused(fused) => {
                let result = Tensor::allocate(&fused.result, heap())?;
                let place = Location {
                    buffer: &result.buffer,
                    offset: 0,
                };
                let (head, others) = launch.inputs.split_at(fused.inputs);
                let step = |kernel: &Kernel, inputs: Vec<Layout>, output: Layout| MockStep {
                    kernel: kernel.clone(),
                    inputs,
                    outputs: vec![output],
                };
                let (from, rest) = self.inputs.split_at(fused.inputs);
                step(&fused.kernel, from.to_vec(), result.layout.clone()).launch(&Launch {
                    inputs: head,
                    outputs: &[place],
                    ..*launch
                })?;
                // The program may see the result in another shape.
                let seen = fused.result.dtype.size();
                assert_eq!(seen, self.outputs[0].dtype.size());
                let rest = [&[self.outputs[0].clone()], rest].concat();
                let map = step(&self.kernel, rest, self.outputs[0].clone());
                let inputs = [&[place], others].concat();
                map.map(
                    &fused.program,
                    &Launch {
                        inputs: &inputs,
                        ..*launch
                    },
                );
            }
            Kernel::Joined(parts) => {
                let (mut input, mut output) = (0, 0);
                for part in parts {
                    let inputs = input..input + part.inputs;
                    let outputs = output..output + part.outputs;
                    (input, output) = (inputs.end, outputs.end);
                    let step = MockStep {
                        kernel: part.kernel.clone(),
                        inputs: self.inputs[inputs.clone()].to_vec(),
                        outputs: self.outputs[outputs.clone()].to_vec(),
                    };
                    step.launch(&Launch {
                        inputs: &launch.inputs[inputs],
                        outputs: &launch.outputs[outputs],
                        ..*launch
                    })?;
                }
            }
            Kernel::Arange { start, next } => {
                for (number, at) in positions(&self.outputs[0]).enumerate() {
                    write(output, at, (start + number as f64 * (next - start)) as f32);
                }
            }
            Kernel::Sort { .. } => panic!("the mock cannot sort"),
            _ => return Err(Error::invalid("mock", "out of range")),
        }
        Ok(())
    }
}

impl MockStep {
    fn map(&self, program: &Program, launch: &Launch<'_>) {
        let at: Vec<Vec<isize>> = self.inputs.iter().map(|l| positions(l).collect()).collect();
        for to in positions(&self.outputs[0]) {
            let mut registers: Vec<f32> = Vec::new();
            for (instruction, _) in &program.code {
                let r = |register: usize| registers[register];
                let value = match *instruction {
                    Instruction::Input(i) => read_at(launch.inputs[i], at[i][to as usize]),
                    Instruction::Constant(value) => value as f32,
                    Instruction::Unary(Unary::Neg, a) => -r(a),
                    Instruction::Unary(Unary::Exp, a) => r(a).exp(),
                    Instruction::Binary(Binary::Add, a, b) => r(a) + r(b),
                    Instruction::Binary(Binary::Mul, a, b) => r(a) * r(b),
                    Instruction::Binary(Binary::Max, a, b) => r(a).max(r(b)),
                    other => panic!("the mock has no {other:?}"),
                };
                registers.push(value);
            }
            for (location, &register) in launch.outputs.iter().zip(&program.outputs) {
                write(*location, to, registers[register]);
            }
        }
    }
}
