//! From a program to loops and places.

use std::ops::Range;

use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::program::{Binary, Instruction, Program, Register, Unary};
use motet_core::shape::Layout;
use smallvec::{SmallVec, smallvec};

use super::link::Open;
use super::prepared::{Action, CONSTANTS, INPUTS, Place, Prepared, SCRATCH};
use super::run::{Run, run, select};
use super::{STREAM_BYTES, TILE, cast, float32, other};
use crate::operand::Walk;
use crate::simd::Simd;

/// Loops and places for a program over these layouts.
pub(super) fn plan(
    program: &Program,
    inputs: &[Layout],
    outputs: &[Layout],
    simd: Simd,
) -> Result<Prepared> {
    if inputs.len() != program.inputs.len() || outputs.len() != program.outputs.len() {
        return Err(Error::invalid(
            "Elementwise",
            format!(
                "got {} inputs and {} outputs, expected {} and {}",
                inputs.len(),
                outputs.len(),
                program.inputs.len(),
                program.outputs.len()
            ),
        ));
    }
    let len = outputs.first().map_or(0, |output| output.shape.size());
    if inputs
        .iter()
        .chain(outputs)
        .any(|layout| layout.shape.size() != len)
    {
        return Err(Error::invalid("Elementwise", "the operands' shapes differ"));
    }
    let fits = |(layout, &dtype): (&Layout, &Dtype)| {
        layout.dtype == dtype || (layout.dtype == held(dtype) && dtype.is_half())
    };
    let stored = |(output, layout): (usize, &Layout)| program.output_dtype(output) == layout.dtype;
    if !inputs.iter().zip(&program.inputs).all(fits) || !outputs.iter().enumerate().all(stored) {
        return Err(Error::invalid(
            "Elementwise",
            "the operands' dtypes are not the program's",
        ));
    }
    let widest = program
        .code
        .iter()
        .map(|&(_, dtype)| register_size(dtype))
        .max();
    let tile_bytes = TILE.min(len) * widest.unwrap_or(1);
    // One more line, so that slots do not compete for the same sets of the cache.
    let slots = Slots::new(tile_bytes.next_multiple_of(64) + 64);
    let mut planner = Planner::new(program, inputs, slots, simd);
    for register in 0..program.code.len() {
        planner.instruction(register)?;
    }
    planner.store_the_rest();
    let bytes: usize = outputs.iter().map(|output| output.spec().bytes()).sum();
    let streams = bytes >= STREAM_BYTES && planner.stream();
    Ok(Prepared {
        once: planner.once,
        each: planner.each,
        constants: planner.constants,
        streams,
        simd,
        scratch_bytes: planner.slots.all,
        inputs: inputs.len(),
        len,
        row: planner.row,
        cost_ps: planner.cost_ps,
    })
}

/// The bytes of a register's element: halves are float32.
fn register_size(dtype: Dtype) -> usize {
    if dtype.is_half() { 4 } else { dtype.size() }
}

/// The dtype as which a register is held.
pub(super) fn held(dtype: Dtype) -> Dtype {
    if dtype.is_half() {
        Dtype::Float32
    } else {
        dtype
    }
}

/// Slots of the scratch memory, each for a tile: free ones are used again.
pub(super) struct Slots {
    free: Vec<usize>,
    /// The bytes of one, and of all so far.
    bytes: usize,
    all: usize,
}

impl Slots {
    fn new(bytes: usize) -> Slots {
        Slots {
            free: Vec::new(),
            bytes,
            all: 0,
        }
    }

    /// A slot for elements of this size.
    pub(super) fn take(&mut self, size: usize) -> Place {
        match self.free.pop() {
            Some(offset) => Place {
                base: SCRATCH,
                offset,
                size,
            },
            None => self.take_forever(size),
        }
    }

    /// A slot that was not used before, for what is written once before all tiles.
    pub(super) fn take_forever(&mut self, size: usize) -> Place {
        let offset = self.all;
        self.all += self.bytes;
        Place {
            base: SCRATCH,
            offset,
            size,
        }
    }
}

/// Something for each register, input or output: a program of one operation has a few.
type Short<T> = SmallVec<[T; 8]>;

pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    pub(super) inputs: &'a [Layout],
    /// Whether each input has one value for all elements.
    scalars: Short<bool>,
    /// The elements of the row that inputs repeat.
    row: Option<usize>,
    simd: Simd,
    /// For each register the one that holds its value: another where a cast changes nothing.
    pub(super) root: Short<Register>,
    /// For each root the last instruction that reads it; `usize::MAX` where the end does.
    pub(super) last_use: Short<usize>,
    pub(super) places: Short<Option<Place>>,
    /// Whether each output has been written in place.
    pub(super) stored: Short<bool>,
    pub(super) slots: Slots,
    once: Vec<Action>,
    pub(super) each: Vec<Action>,
    /// The chain that is open.
    pub(super) open: Option<Open>,
    /// The slot that chains convert in.
    pub(super) block: Option<Place>,
    constants: Vec<f32>,
    pub(super) cost_ps: usize,
}

impl<'a> Planner<'a> {
    fn new(program: &'a Program, inputs: &'a [Layout], slots: Slots, simd: Simd) -> Planner<'a> {
        let code = &program.code;
        let mut read: Short<bool> = smallvec![false; code.len()];
        for &(instruction, _) in code {
            for operand in operands(instruction) {
                read[operand] = true;
            }
        }
        let mut root: Short<Register> = (0..code.len()).collect();
        for (register, &(instruction, dtype)) in code.iter().enumerate() {
            if let Instruction::Cast(a) = instruction {
                // A rounding that only a store reads is done by the store.
                let same = held(dtype) == held(code[a].1);
                let rounds = dtype.is_half() && code[a].1 != dtype;
                if same && !(rounds && read[register]) {
                    root[register] = root[a];
                }
            }
        }
        let mut last_use: Short<usize> = smallvec![0; code.len()];
        for (register, &(instruction, _)) in code.iter().enumerate() {
            if root[register] == register {
                for operand in operands(instruction) {
                    last_use[root[operand]] = register;
                }
            }
        }
        for &output in &program.outputs {
            last_use[root[output]] = usize::MAX;
        }
        let is_scalar = |layout: &Layout| {
            let moves = |(&dim, &stride): (&usize, &isize)| dim != 1 && stride != 0;
            layout.shape.size() > 1 && !layout.shape.iter().zip(&layout.strides).any(moves)
        };
        Planner {
            program,
            inputs,
            scalars: inputs.iter().map(is_scalar).collect(),
            row: inputs.iter().find_map(repeated_row),
            simd,
            root,
            last_use,
            places: smallvec![None; code.len()],
            stored: smallvec![false; program.outputs.len()],
            slots,
            once: Vec::new(),
            each: Vec::new(),
            open: None,
            block: None,
            constants: Vec::new(),
            cost_ps: 100,
        }
    }

    fn instruction(&mut self, register: Register) -> Result<()> {
        let (instruction, dtype) = self.program.code[register];
        if self.root[register] != register {
            return Ok(());
        }
        // Inputs and constants are loaded where they are first read.
        if matches!(
            instruction,
            Instruction::Input(_) | Instruction::Constant(_)
        ) || self.chain(register)
        {
            return Ok(());
        }
        self.close();
        match instruction {
            Instruction::Input(_) | Instruction::Constant(_) => {}
            Instruction::Cast(a) => {
                let from = self.program.code[a].1;
                let operand = self.place(a);
                let result = self.result(register);
                if dtype.is_half() {
                    // Through the half type, to round.
                    let half = self.slots.take(2);
                    self.run(cast::cast(from, dtype), [operand; 3], result, 200);
                    self.run(narrow(dtype, self.simd), [result; 3], half, 200);
                    self.run(widen(dtype, self.simd), [half; 3], result, 200);
                    self.free(half);
                } else {
                    self.run(cast::cast(from, dtype), [operand; 3], result, 200);
                }
            }
            Instruction::Unary(op, a) => {
                let from = self.program.code[a].1;
                let run = match held(from) {
                    Dtype::Float32 => float32::unary(op, self.simd),
                    from => other::unary(op, from),
                };
                let run = run.ok_or_else(|| unsupported(format!("{op:?}"), from))?;
                let operand = self.place(a);
                let result = self.result(register);
                self.run(run, [operand; 3], result, unary_cost_ps(op, from));
            }
            Instruction::Binary(op, a, b) => {
                let from = self.program.code[a].1;
                let run = match (op, held(from)) {
                    (Binary::FloorDiv, Dtype::Float32) if from.is_half() => {
                        let bfloat = from == Dtype::Bfloat16;
                        Some(float32::floor_divide_half(bfloat, self.simd))
                    }
                    (_, Dtype::Float32) => float32::binary(op, self.simd),
                    (_, from) => other::binary(op, from),
                };
                let run = run.ok_or_else(|| unsupported(format!("{op:?}"), from))?;
                let (a, b) = (self.place(a), self.place(b));
                let result = self.result(register);
                self.run(run, [a, b, b], result, binary_cost_ps(op, from));
            }
            Instruction::Select(condition, a, b) => {
                let run: Run = match register_size(dtype) {
                    1 => select::<u8>,
                    2 => select::<u16>,
                    4 => float32::select4(self.simd),
                    _ => select::<[u32; 2]>,
                };
                let operands = [condition, a, b].map(|operand| self.place(operand));
                let result = self.result(register);
                self.run(run, operands, result, 200);
            }
        }
        for operand in operands(instruction) {
            let operand = self.root[operand];
            // Operands may be the same register: the first frees its place.
            if self.last_use[operand] == register
                && let Some(place) = self.places[operand].take()
                && !self.is_constant(operand)
            {
                self.free(place);
            }
        }
        Ok(())
    }

    /// Writes the outputs that are not in place yet, from wherever their registers are.
    fn store_the_rest(&mut self) {
        for output in 0..self.stored.len() {
            if self.stored[output] {
                continue;
            }
            let register = self.program.outputs[output];
            let dtype = self.program.code[register].1;
            if held(dtype) == Dtype::Float32 {
                self.store(output);
                continue;
            }
            let from = self.place(register);
            let to = self.output(output, dtype.size());
            let run = match dtype.size() {
                1 => run!(one, u8 => u8, |x| x),
                2 => run!(one, u16 => u16, |x| x),
                4 => run!(one, u32 => u32, |x| x),
                _ => run!(one, [u32; 2] => [u32; 2], |x| x),
            };
            self.run(run, [from; 3], to, 150);
        }
        self.close();
    }

    /// Where a register's value is; loads inputs and constants.
    pub(super) fn place(&mut self, register: Register) -> Place {
        let register = self.root[register];
        if let Some(place) = self.places[register] {
            return place;
        }
        let (instruction, dtype) = self.program.code[register];
        let place = match instruction {
            Instruction::Input(index) => self.load(index, self.is_constant(register)),
            Instruction::Constant(value) => {
                let to = self.slots.take_forever(register_size(dtype));
                self.once.push(Action::Fill {
                    value: cast::constant(value, dtype),
                    to,
                });
                to
            }
            _ => unreachable!("operands are earlier registers, and those were computed"),
        };
        self.places[register] = Some(place);
        place
    }

    /// Whether a register has one value in all tiles.
    pub(super) fn is_constant(&self, register: Register) -> bool {
        match self.program.code[register].0 {
            Instruction::Constant(_) => true,
            Instruction::Input(index) => self.scalars[index],
            _ => false,
        }
    }

    /// Loads an input as a register.
    fn load(&mut self, index: usize, constant: bool) -> Place {
        let layout = &self.inputs[index];
        let size = layout.dtype.size();
        let memory = if !constant && let Some(place) = self.in_memory(index) {
            place
        } else {
            let to = self.new_slot(constant, size);
            let walk = Walk::of(layout);
            self.cost_ps += if walk.step().abs() > 1 { 1000 } else { 100 };
            self.actions(constant).push(Action::Gather {
                input: index,
                size,
                walk,
                to,
            });
            to
        };
        if !layout.dtype.is_half() {
            return memory;
        }
        let wide = self.new_slot(constant, 4);
        let run = widen(layout.dtype, self.simd);
        self.actions(constant).push(Action::Run {
            run,
            operands: [memory; 3],
            result: wide,
        });
        self.cost_ps += 100;
        if !constant {
            self.free(memory);
        }
        wide
    }

    /// Where an input's elements are as a program wants them: neighbours, at least within a row.
    pub(super) fn in_memory(&self, index: usize) -> Option<Place> {
        let layout = &self.inputs[index];
        let size = layout.dtype.size();
        if layout.is_contiguous() {
            return Some(operand(index, size));
        }
        let rows = self.inputs.len() + self.stored.len();
        (self.row.is_some() && repeated_row(layout) == self.row)
            .then(|| operand(rows + index, size))
    }

    /// In an output's memory; elements of this size.
    pub(super) fn output(&self, index: usize, size: usize) -> Place {
        operand(self.inputs.len() + index, size)
    }

    /// The bases of places in outputs' memory.
    pub(super) fn outputs(&self) -> Range<usize> {
        let first = INPUTS + self.inputs.len();
        first..first + self.stored.len()
    }

    /// A float32 constant of the program.
    pub(super) fn constant(&mut self, value: f32) -> Place {
        self.constants.push(value);
        Place {
            base: CONSTANTS,
            offset: (self.constants.len() - 1) * size_of::<f32>(),
            size: 0,
        }
    }

    fn new_slot(&mut self, constant: bool, size: usize) -> Place {
        if constant {
            self.slots.take_forever(size)
        } else {
            self.slots.take(size)
        }
    }

    fn actions(&mut self, constant: bool) -> &mut Vec<Action> {
        if constant {
            &mut self.once
        } else {
            &mut self.each
        }
    }

    /// A place for a new register: an output that stores it as it is, or a slot.
    pub(super) fn result(&mut self, register: Register) -> Place {
        let dtype = self.program.code[register].1;
        let stores = |&output: &usize| {
            let stored = self.program.outputs[output];
            self.root[stored] == register
                && !dtype.is_half()
                && !self.program.code[stored].1.is_half()
        };
        let place = match (0..self.stored.len()).find(stores) {
            Some(index) => {
                self.stored[index] = true;
                self.output(index, dtype.size())
            }
            None => self.slots.take(register_size(dtype)),
        };
        self.places[register] = Some(place);
        place
    }

    pub(super) fn free(&mut self, place: Place) {
        if place.base == SCRATCH {
            self.slots.free.push(place.offset);
        }
    }

    fn run(&mut self, run: Run, operands: [Place; 3], result: Place, cost_ps: usize) {
        self.cost_ps += cost_ps;
        self.each.push(Action::Run {
            run,
            operands,
            result,
        });
    }
}

/// The one float32 of an input that has it for all elements.
pub(super) fn scalar(index: usize) -> Place {
    operand(index, 0)
}

/// In memory that a launch gives, where the tile is; elements of this size.
fn operand(number: usize, size: usize) -> Place {
    Place {
        base: INPUTS + number,
        offset: 0,
        size,
    }
}

/// The fewest elements of a row that are worth a loop of their own: shorter ones are put side by side.
const SHORT_ROW: usize = 64;

/// The elements of the row that is all that an input has, again and again.
fn repeated_row(layout: &Layout) -> Option<usize> {
    match Walk::of(layout).dims() {
        &[(_, [0]), (row, [1])] if row >= SHORT_ROW => Some(row),
        _ => None,
    }
}

/// The registers that an instruction reads.
pub(super) fn operands(instruction: Instruction) -> impl Iterator<Item = Register> {
    let operands = match instruction {
        Instruction::Input(_) | Instruction::Constant(_) => [None; 3],
        Instruction::Unary(_, a) | Instruction::Cast(a) => [Some(a), None, None],
        Instruction::Binary(_, a, b) => [Some(a), Some(b), None],
        Instruction::Select(c, a, b) => [Some(c), Some(a), Some(b)],
    };
    operands.into_iter().flatten()
}

fn widen(dtype: Dtype, simd: Simd) -> Run {
    match dtype {
        Dtype::Bfloat16 => float32::widen_bf16(simd),
        _ => float32::widen_f16,
    }
}

fn narrow(dtype: Dtype, simd: Simd) -> Run {
    match dtype {
        Dtype::Bfloat16 => float32::narrow_bf16(simd),
        _ => float32::narrow_f16,
    }
}

fn unsupported(op: String, dtype: Dtype) -> Error {
    Error::unsupported(op, format!("not defined for {dtype}"))
}

/// Roughly what one element takes, to decide how many threads are worth it.
fn unary_cost_ps(op: Unary, dtype: Dtype) -> usize {
    use Unary as U;
    match op {
        U::Abs | U::Neg | U::Sign | U::Round | U::Floor | U::Ceil | U::LogicalNot => 100,
        U::BitwiseNot | U::Real | U::Imag | U::Conjugate => 100,
        U::Sqrt | U::Rsqrt => 400,
        U::Exp
        | U::Expm1
        | U::Log
        | U::Log2
        | U::Log10
        | U::Log1p
        | U::Sigmoid
        | U::Tanh
        | U::Erf
        | U::ErfInv
        | U::Sin
        | U::Cos
        | U::Tan
            if held(dtype) == Dtype::Float32 =>
        {
            800
        }
        _ => 10_000,
    }
}

/// As [`unary_cost_ps`].
fn binary_cost_ps(op: Binary, dtype: Dtype) -> usize {
    match op {
        Binary::Pow | Binary::Rem | Binary::ArcTan2 => 10_000,
        Binary::LogAddExp if held(dtype) == Dtype::Float32 => 2_000,
        Binary::LogAddExp => 20_000,
        Binary::Div | Binary::FloorDiv => 500,
        _ => 100,
    }
}
