//! What the values of an [`Ir`] are made of.

use std::collections::HashMap;

use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::compile::passes::inline_scalars::only_number;
use crate::dtype::Dtype;
use crate::kernel::{Kernel, Reduction};
use crate::ops::View;
use crate::program::{Binary, Instruction, Unary};
use crate::shape::{Shape, Spec};
use crate::tensor::Tensor;

/// The one function that an elementwise step applies to its inputs.
pub(crate) enum Function {
    Unary(Unary, Value),
    Binary(Binary, Value, Value),
    Select(Value, Value, Value),
    Cast(Value),
}

/// Answers questions about an [`Ir`].
pub(crate) struct Matcher<'a> {
    ir: &'a Ir,
    /// The step that makes each value.
    producer: Vec<Option<usize>>,
    /// How many steps and results use each value.
    uses: Vec<usize>,
    constants: HashMap<Value, &'a Tensor>,
    /// Whether each value depends on constants alone.
    is_constant: Vec<bool>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(ir: &'a Ir) -> Matcher<'a> {
        let mut matcher = Matcher {
            ir,
            producer: vec![None; ir.values.len()],
            uses: vec![0; ir.values.len()],
            constants: ir
                .constants
                .iter()
                .map(|(v, tensor)| (*v, tensor))
                .collect(),
            is_constant: vec![false; ir.values.len()],
        };
        let constants = ir.constants.iter();
        constants.for_each(|&(v, _)| matcher.is_constant[v] = true);
        for (number, step) in ir.steps.iter().enumerate() {
            step.inputs.iter().for_each(|&v| matcher.uses[v] += 1);
            let constant = step.inputs.iter().all(|&v| matcher.is_constant[v]);
            for &output in &step.outputs {
                matcher.producer[output] = Some(number);
                matcher.is_constant[output] = constant;
            }
        }
        ir.outputs.iter().for_each(|&v| matcher.uses[v] += 1);
        matcher
    }

    pub(crate) fn spec(&self, value: Value) -> &'a Spec {
        &self.ir.values[value]
    }

    pub(crate) fn shape(&self, value: Value) -> &'a Shape {
        &self.spec(value).shape
    }

    /// Whether nothing but one step uses the value.
    pub(crate) fn is_used_once(&self, value: Value) -> bool {
        self.uses[value] == 1
    }

    /// Whether the value depends on constants alone.
    pub(crate) fn is_constant(&self, value: Value) -> bool {
        self.is_constant[value]
    }

    fn step(&self, value: Value) -> Option<&'a Step> {
        self.producer[value].map(|step| &self.ir.steps[step])
    }

    /// The kernel that makes the value as its only output, and what it takes.
    pub(crate) fn kernel(&self, value: Value) -> Option<(&'a Kernel, &'a [Value])> {
        match self.step(value)? {
            Step {
                kind: Kind::Kernel(kernel),
                inputs,
                outputs,
                ..
            } if outputs.len() == 1 => Some((kernel, inputs)),
            _ => None,
        }
    }

    /// The view that the value is, and of what.
    pub(crate) fn view(&self, value: Value) -> Option<(&'a View, Value)> {
        match self.step(value)? {
            Step {
                kind: Kind::View(view),
                inputs,
                ..
            } => Some((view, *inputs.first()?)),
            _ => None,
        }
    }

    /// The function of other values that the value is.
    pub(crate) fn function(&self, value: Value) -> Option<Function> {
        let (Kernel::Elementwise(program), inputs) = self.kernel(value)? else {
            return None;
        };
        let &[result] = &program.outputs[..] else {
            return None;
        };
        let input = |register: usize| match program.code[register].0 {
            Instruction::Input(i) => inputs.get(i).copied(),
            _ => None,
        };
        Some(match program.code[result].0 {
            Instruction::Unary(op, a) => Function::Unary(op, input(a)?),
            Instruction::Binary(op, a, b) => Function::Binary(op, input(a)?, input(b)?),
            Instruction::Select(c, a, b) => Function::Select(input(c)?, input(a)?, input(b)?),
            Instruction::Cast(a) => Function::Cast(input(a)?),
            Instruction::Input(_) | Instruction::Constant(_) => return None,
        })
    }

    /// The argument, where the value is this function of one.
    pub(crate) fn unary(&self, op: Unary, value: Value) -> Option<Value> {
        match self.function(value)? {
            Function::Unary(found, a) if found == op => Some(a),
            _ => None,
        }
    }

    /// The arguments, where the value is this function of two.
    pub(crate) fn binary(&self, op: Binary, value: Value) -> Option<(Value, Value)> {
        match self.function(value)? {
            Function::Binary(found, a, b) if found == op => Some((a, b)),
            _ => None,
        }
    }

    /// The arguments of a function that commutes, in both orders.
    pub(crate) fn commuted(
        &self,
        op: Binary,
        value: Value,
    ) -> impl Iterator<Item = (Value, Value)> + use<> {
        let found = self.binary(op, value);
        found.into_iter().flat_map(|(a, b)| [(a, b), (b, a)])
    }

    /// What the value was before it was converted from a half type to float32.
    pub(crate) fn unwidened(&self, value: Value) -> Value {
        match self.function(value) {
            Some(Function::Cast(from))
                if self.spec(value).dtype == Dtype::Float32
                    && matches!(self.spec(from).dtype, Dtype::Float16 | Dtype::Bfloat16) =>
            {
                from
            }
            _ => value,
        }
    }

    /// What the value was before it was converted from float32 to a half type.
    pub(crate) fn unnarrowed(&self, value: Value) -> Value {
        match self.function(value) {
            Some(Function::Cast(from))
                if self.spec(from).dtype == Dtype::Float32
                    && matches!(self.spec(value).dtype, Dtype::Float16 | Dtype::Bfloat16) =>
            {
                from
            }
            _ => value,
        }
    }

    /// What the value was before it got its shape.
    pub(crate) fn unreshaped(&self, mut value: Value) -> Value {
        while let Some((View::Reshape, from)) = self.view(value) {
            value = from;
        }
        value
    }

    /// What the value was before it was broadcast.
    pub(crate) fn unbroadcast(&self, mut value: Value) -> Value {
        while let Some((View::Broadcast, from)) = self.view(value) {
            value = from;
        }
        value
    }

    /// The number that every element of the value is.
    pub(crate) fn scalar(&self, mut value: Value) -> Option<f64> {
        while let Some((View::Broadcast | View::Reshape, from)) = self.view(value) {
            value = from;
        }
        if let Some((Kernel::Elementwise(program), [])) = self.kernel(value) {
            return match (&program.code[..], &program.outputs[..]) {
                (&[(Instruction::Constant(number), _)], [_]) => Some(number),
                _ => None,
            };
        }
        only_number(self.constants.get(&value)?)
    }

    /// What the value is a multiple of, and how many times it is that.
    pub(crate) fn scaled(&self, value: Value) -> (Value, f64) {
        let scaled = self.commuted(Binary::Mul, value);
        let mut scaled = scaled.filter_map(|(from, scale)| Some((from, self.scalar(scale)?)));
        let divided = || {
            let (from, divisor) = self.binary(Binary::Div, value)?;
            Some((from, 1.0 / self.scalar(divisor)?))
        };
        scaled.next().or_else(divided).unwrap_or((value, 1.0))
    }

    /// What a slice of every row is of, the number of its first element, and the distance of the others.
    pub(crate) fn row_slice(&self, value: Value) -> Option<(Value, usize, isize)> {
        let (View::Slice { start, strides }, from) = self.view(value)? else {
            return None;
        };
        let (&low, outer) = start.split_last()?;
        let (&step, others) = strides.split_last()?;
        let rows = outer.iter().all(|&first| first == 0) && others.iter().all(|&step| step == 1);
        let same_rows = self.shape(value).split_last()?.1 == self.shape(from).split_last()?.1;
        (rows && same_rows).then_some((from, low, step))
    }

    /// What is summed, or else reduced, along the last axis, which becomes one.
    pub(crate) fn reduced_rows(&self, op: Reduction, value: Value) -> Option<Value> {
        match self.kernel(value)? {
            (Kernel::Reduce { op: found, axes }, &[from])
                if *found == op && axes[..] == [self.shape(from).len().checked_sub(1)?] =>
            {
                Some(from)
            }
            _ => None,
        }
    }

    /// What this is the mean of, along the last axis, which becomes one.
    pub(crate) fn mean_of_rows(&self, value: Value) -> Option<Value> {
        let (sum, scale) = self.scaled(value);
        let rows = self.reduced_rows(Reduction::Sum, sum)?;
        let length = *self.shape(rows).last()? as f64;
        // The factor was rounded to the dtype.
        let precision = match self.spec(value).dtype {
            Dtype::Float16 | Dtype::Bfloat16 => 1e-2,
            _ => 1e-6,
        };
        ((scale * length - 1.0).abs() < precision).then_some(rows)
    }
}
