//! From simple float32 instructions to chains.
//!
//! The planner comes by instruction by instruction. A chain stays open as long as each one can go on
//! with the value of the one before; what other instructions need of it is stored on the way. What a
//! chain reads keeps its slot until the chain has been closed, as it runs only then.

use motet_core::dtype::Dtype;
use motet_core::program::{Binary, Instruction, Register, Unary};

use super::chain::{MAX_LINKS, Op};
use super::plan::{Planner, held, operands, scalar};
use super::prepared::{Action, Place, PlacedLink, SCRATCH};

/// A chain that instructions are being added to.
pub(super) struct Open {
    links: Vec<PlacedLink>,
    /// The register that the last link computes.
    value: Register,
    /// Places that are free when the chain has run.
    free: Vec<Place>,
}

/// The most links that an instruction and the stores before it take.
const LINKS_OF_ONE: usize = 6;

/// The operand of an operation that has none.
const NOWHERE: Place = Place {
    base: SCRATCH,
    offset: 0,
    size: 0,
};

/// The most links of a chain that is memory's to wait for, not the processor's.
const FEW_LINKS: usize = 6;

impl Planner<'_> {
    /// Adds an instruction to a chain; false if it is not of that kind.
    pub(super) fn chain(&mut self, register: Register) -> bool {
        let (instruction, dtype) = self.program.code[register];
        let float32 = |register: Register| held(self.program.code[register].1) == Dtype::Float32;
        if !float32(register) || !operands(instruction).all(float32) {
            return false;
        }
        match instruction {
            Instruction::Unary(op, a) => {
                let op = match op {
                    Unary::Neg => Op::Neg,
                    Unary::Abs => Op::Abs,
                    Unary::Sqrt => Op::Sqrt,
                    _ => return false,
                };
                self.take_up(a, register);
                self.link(op, NOWHERE, 0);
            }
            Instruction::Binary(op, a, b) => {
                let Some((forward, backward)) = links_of(op) else {
                    return false;
                };
                let value = self.open.as_ref().map(|open| open.value);
                let is_value = |register: Register| value == Some(self.root[register]);
                // The value in registers goes on; else better with what is not the same for all.
                let swap = !is_value(a) && (is_value(b) || self.is_constant(self.root[a]));
                let (first, second) = if swap { (b, a) } else { (a, b) };
                self.take_up(first, register);
                if self.root[a] == self.root[b] && op == Binary::Mul {
                    self.link(Op::Square, NOWHERE, 0);
                } else {
                    self.operand_link(if swap { backward } else { forward }, second);
                }
            }
            // Rounds to the half type.
            Instruction::Cast(a) if dtype.is_half() => {
                self.take_up(a, register);
                let (narrow, widen) = conversions(dtype);
                let half = self.slots.take(2);
                let block = self.block();
                self.link(Op::Store, block, 0);
                self.link(narrow, half, 0);
                self.link(widen, half, 0);
                self.link(Op::Load, block, 0);
                self.open_chain().free.push(half);
            }
            _ => return false,
        }
        self.cost_ps += 50;
        self.open_chain().value = register;
        for operand in operands(instruction) {
            let operand = self.root[operand];
            if self.last_use[operand] == register
                && !self.is_constant(operand)
                && let Some(place) = self.places[operand].take()
            {
                self.open_chain().free.push(place);
            }
        }
        true
    }

    /// Closes the chain that is open, so that its value is in memory.
    pub(super) fn close(&mut self) {
        let Some(value) = self.open.as_ref().map(|open| open.value) else {
            return;
        };
        if self.last_use[value] > value {
            self.keep(value);
        }
        if let Some(open) = self.open.take() {
            let block = self.block.unwrap_or(NOWHERE);
            self.each.push(Action::Chain {
                links: open.links,
                block,
            });
            open.free.into_iter().for_each(|place| self.free(place));
        }
    }

    /// Writes an output that is not in place yet, of a float32 register.
    pub(super) fn store(&mut self, output: usize) {
        let register = self.program.outputs[output];
        let dtype = self.program.code[register].1;
        let register = self.root[register];
        if self.open.as_ref().is_none_or(|open| open.value != register) {
            self.begin(register);
        }
        let size = dtype.size();
        let to = self.output(output, size);
        if dtype.is_half() {
            let block = self.block();
            self.link(Op::Store, block, 0);
            self.link(conversions(dtype).0, to, size);
        } else {
            self.link(Op::Store, to, size);
        }
        self.stored[output] = true;
        let outputs = self.program.outputs.iter().zip(&self.stored);
        let mut waiting = outputs.filter(|&(_, stored)| !stored);
        if waiting.all(|(&other, _)| self.root[other] != register) {
            // Nobody needs it in memory any more.
            self.last_use[register] = 0;
        }
    }

    /// Lets the stores of a program that is one short chain go past the caches.
    pub(super) fn stream(&mut self) -> bool {
        let outputs = self.outputs();
        let [Action::Chain { links, .. }] = &mut self.each[..] else {
            return false;
        };
        let mut streams = false;
        if links.len() <= FEW_LINKS {
            for link in links {
                if link.op == Op::Store && outputs.contains(&link.place.base) {
                    link.op = Op::Stream;
                    streams = true;
                }
            }
        }
        streams
    }

    /// Makes a register's value the one that the chain goes on with, for an instruction that
    /// replaces it.
    fn take_up(&mut self, register: Register, by: Register) {
        let register = self.root[register];
        match &self.open {
            Some(open) if open.value == register && open.links.len() + LINKS_OF_ONE < MAX_LINKS => {
                if self.last_use[register] > by {
                    self.keep(register);
                }
            }
            _ => self.begin(register),
        }
    }

    /// Opens a chain that starts with a register's value.
    fn begin(&mut self, register: Register) {
        self.close();
        self.open = Some(Open {
            links: Vec::new(),
            value: register,
            free: Vec::new(),
        });
        self.operand_link(Op::Load, register);
    }

    /// Stores the chain's value, unless it is in memory.
    fn keep(&mut self, value: Register) {
        if self.places[value].is_none() {
            let place = self.result(value);
            self.link(Op::Store, place, 4);
        }
    }

    /// A link with a register as its operand.
    fn operand_link(&mut self, op: Op, register: Register) {
        let register = self.root[register];
        let constant = self.is_constant(register);
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.value == register)
            && !self.is_loaded(register)
        {
            self.keep(register);
        }
        let (place, step) = match self.program.code[register] {
            (Instruction::Constant(value), _) => (self.constant(value as f32), 0),
            (Instruction::Input(index), _) => {
                let dtype = self.inputs[index].dtype;
                if constant && !dtype.is_half() {
                    (scalar(index), 0)
                } else if constant {
                    (self.place(register), 0)
                } else if dtype.is_half()
                    && let Some(place) = self.in_memory(index)
                {
                    self.link(conversions(dtype).1, place, dtype.size());
                    (self.block(), 0)
                } else {
                    (self.place(register), 4)
                }
            }
            _ => (self.place(register), 4),
        };
        let scalar = constant;
        let open = self.open_chain();
        open.links.push(PlacedLink {
            op,
            place,
            step,
            scalar,
        });
    }

    /// Whether a register is an input or a constant, which need not be computed.
    fn is_loaded(&self, register: Register) -> bool {
        matches!(
            self.program.code[register].0,
            Instruction::Input(_) | Instruction::Constant(_)
        )
    }

    fn link(&mut self, op: Op, place: Place, step: usize) {
        let scalar = false;
        self.open_chain().links.push(PlacedLink {
            op,
            place,
            step,
            scalar,
        });
    }

    /// The slot of the block in between.
    fn block(&mut self) -> Place {
        let slots = &mut self.slots;
        *self.block.get_or_insert_with(|| slots.take_forever(4))
    }

    fn open_chain(&mut self) -> &mut Open {
        self.open.as_mut().expect("an instruction has opened it")
    }
}

/// The links of an operation, with the value as its first and as its second operand.
fn links_of(op: Binary) -> Option<(Op, Op)> {
    Some(match op {
        Binary::Add => (Op::Add, Op::Add),
        Binary::Sub => (Op::Sub, Op::SubFrom),
        Binary::Mul => (Op::Mul, Op::Mul),
        Binary::Div => (Op::Div, Op::DivFrom),
        Binary::Max => (Op::Max, Op::MaxFrom),
        Binary::Min => (Op::Min, Op::MinFrom),
        _ => return None,
    })
}

/// To a half type, and from it.
fn conversions(dtype: Dtype) -> (Op, Op) {
    match dtype {
        Dtype::Bfloat16 => (Op::NarrowBf16, Op::WidenBf16),
        _ => (Op::NarrowF16, Op::WidenF16),
    }
}
