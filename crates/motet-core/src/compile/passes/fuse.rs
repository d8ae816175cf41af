//! Joins elementwise steps of one shape into one program each.
//!
//! Steps start as units of one. Two units are joined along an edge between them, unless there is
//! another way from the one to the other: then the joined unit would have to run before and after
//! what lies on that way. What the outside uses of a unit becomes an output of its program.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use smallvec::SmallVec;

use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::kernel::Kernel;
use crate::program::{Program, ProgramBuilder, Register};
use crate::shape::Shape;

/// Bounds on a program: its registers, a tile each, should stay in the first-level cache.
const MAX_INSTRUCTIONS: usize = 64;
const MAX_INPUTS: usize = 16;
const MAX_OUTPUTS: usize = 8;

pub(crate) fn fuse(ir: Ir) -> Ir {
    let mut units = Units::new(&ir);
    for (step, body) in ir.steps.iter().enumerate() {
        for &input in &body.inputs {
            if let Some(producer) = units.producer[input] {
                units.join(units.unit_of[producer], units.unit_of[step]);
            }
        }
    }
    let order = units.order();
    let fused: Vec<Option<Step>> = order.iter().map(|&unit| units.fused(unit)).collect();
    let firsts: Vec<usize> = order.iter().map(|&unit| units.members[unit][0]).collect();
    let mut steps: Vec<Option<Step>> = ir.steps.into_iter().map(Some).collect();
    let alone = |first: usize| steps[first].take().expect("a step is in one unit");
    let steps = fused.into_iter().zip(firsts.into_iter().map(alone));
    Ir {
        steps: steps.map(|(fused, alone)| fused.unwrap_or(alone)).collect(),
        ..ir
    }
}

struct Units<'a> {
    ir: &'a Ir,
    /// The step that makes each value.
    producer: Vec<Option<usize>>,
    /// The steps that use each value.
    users: Vec<Vec<usize>>,
    is_result: Vec<bool>,
    /// The unit of each step: the number of one of its steps.
    unit_of: Vec<usize>,
    /// The steps of each unit, ascending.
    members: Vec<Vec<usize>>,
}

impl<'a> Units<'a> {
    fn new(ir: &'a Ir) -> Units<'a> {
        let mut units = Units {
            ir,
            producer: vec![None; ir.values.len()],
            users: vec![Vec::new(); ir.values.len()],
            is_result: vec![false; ir.values.len()],
            unit_of: (0..ir.steps.len()).collect(),
            members: (0..ir.steps.len()).map(|step| vec![step]).collect(),
        };
        for (number, step) in ir.steps.iter().enumerate() {
            step.inputs
                .iter()
                .for_each(|&v| units.users[v].push(number));
            step.outputs
                .iter()
                .for_each(|&v| units.producer[v] = Some(number));
        }
        ir.outputs.iter().for_each(|&v| units.is_result[v] = true);
        units
    }

    /// The program and shape of a step that is elementwise.
    fn elementwise(&self, step: usize) -> Option<(&'a Program, &'a Shape)> {
        let step = &self.ir.steps[step];
        match &step.kind {
            Kind::Kernel(Kernel::Elementwise(program)) => {
                Some((program, &self.ir.values[*step.outputs.first()?].shape))
            }
            _ => None,
        }
    }

    /// Joins the unit `from` and the unit `to`, which uses it, where that is right and fits.
    fn join(&mut self, from: usize, to: usize) {
        let shape = |unit: usize| self.elementwise(unit).map(|(_, shape)| shape);
        if from == to || shape(from).is_none() || shape(from) != shape(to) {
            return;
        }
        let mut steps = [&self.members[from][..], &self.members[to]].concat();
        steps.sort_unstable();
        let code = |&step: &usize| self.elementwise(step).map_or(0, |(p, _)| p.code.len());
        let (inputs, outputs) = self.boundary(&steps);
        if steps.iter().map(code).sum::<usize>() > MAX_INSTRUCTIONS
            || inputs.len() > MAX_INPUTS
            || outputs.len() > MAX_OUTPUTS
            || self.has_detour(from, to)
        {
            return;
        }
        for &step in &self.members[to] {
            self.unit_of[step] = from;
        }
        self.members[to].clear();
        self.members[from] = steps;
    }

    /// The values that these steps take from outside and those that they give to it.
    fn boundary(&self, steps: &[usize]) -> (Vec<Value>, Vec<Value>) {
        let inside = |step: &usize| steps.binary_search(step).is_ok();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for &step in steps {
            let step = &self.ir.steps[step];
            for &input in &step.inputs {
                let local = self.producer[input].is_some_and(|step| inside(&step));
                if !local && !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
            let leaves = |&v: &Value| self.is_result[v] || !self.users[v].iter().all(inside);
            outputs.extend(step.outputs.iter().copied().filter(leaves));
        }
        (inputs, outputs)
    }

    /// The units that a unit uses.
    fn uses(&self, unit: usize) -> impl Iterator<Item = usize> + '_ {
        let steps = self.members[unit].iter();
        steps
            .flat_map(|&step| &self.ir.steps[step].inputs)
            .filter_map(|&input| self.producer[input].map(|step| self.unit_of[step]))
            .filter(move |&used| used != unit)
    }

    /// Whether `to` depends on `from` through a third unit.
    fn has_detour(&self, from: usize, to: usize) -> bool {
        let mut open: Vec<usize> = self.uses(to).filter(|&unit| unit != from).collect();
        let mut seen = vec![false; self.members.len()];
        while let Some(unit) = open.pop() {
            if unit == from {
                return true;
            }
            if !std::mem::replace(&mut seen[unit], true) {
                open.extend(self.uses(unit));
            }
        }
        false
    }

    /// The units, each after those that it uses, else as the steps were.
    fn order(&self) -> Vec<usize> {
        let mut waits_for = vec![0; self.members.len()];
        let mut users = vec![Vec::new(); self.members.len()];
        let mut ready = BinaryHeap::new();
        let last = |unit: usize| self.members[unit].last().copied();
        for (unit, waits_for) in waits_for.iter_mut().enumerate() {
            let used: BTreeSet<usize> = self.uses(unit).collect();
            *waits_for = used.len();
            used.iter().for_each(|&u| users[u].push(unit));
            if used.is_empty() && !self.members[unit].is_empty() {
                ready.push(Reverse((last(unit), unit)));
            }
        }
        let mut order = Vec::new();
        while let Some(Reverse((_, unit))) = ready.pop() {
            order.push(unit);
            for &user in &users[unit] {
                waits_for[user] -= 1;
                if waits_for[user] == 0 {
                    ready.push(Reverse((last(user), user)));
                }
            }
        }
        order
    }

    /// The one step that does what a unit of several does.
    fn fused(&self, unit: usize) -> Option<Step> {
        let steps = &self.members[unit];
        if steps.len() < 2 {
            return None;
        }
        let (inputs, outputs) = self.boundary(steps);
        let mut builder = ProgramBuilder::default();
        let mut registers: Vec<Option<Register>> = vec![None; self.ir.values.len()];
        for &input in &inputs {
            registers[input] = Some(builder.input(self.ir.values[input].dtype));
        }
        let mut names: Vec<&str> = Vec::new();
        for &step in steps {
            let (program, _) = self.elementwise(step)?;
            let step = &self.ir.steps[step];
            let arguments = step.inputs.iter().map(|&v| registers[v]);
            let results = builder.program(program, &arguments.collect::<Option<Vec<_>>>()?);
            for (&output, result) in step.outputs.iter().zip(results) {
                registers[output] = Some(result);
            }
            names.push(&step.name);
        }
        let stored = outputs
            .iter()
            .map(|&v| registers[v])
            .collect::<Option<_>>()?;
        Some(Step {
            name: names.join("+"),
            kind: Kind::Kernel(Kernel::Elementwise(builder.finish(stored))),
            inputs: SmallVec::from_vec(inputs),
            outputs: SmallVec::from_vec(outputs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{Builder, add, mul, neg};
    use crate::ops::View;

    #[test]
    fn a_chain_becomes_one_program_with_what_escapes_as_outputs() {
        let mut b = Builder::default();
        let (x, y) = (b.input(&[2, 3]), b.input(&[2, 3]));
        let sum = b.elementwise(add(), &[x, y]);
        let product = b.elementwise(mul(), &[sum, x]);
        let minus = b.elementwise(neg(), &[product]);
        let ir = fuse(b.finish(&[minus, sum]));
        assert_eq!(ir.steps.len(), 1);
        assert_eq!(ir.steps[0].outputs[..], [sum, minus]);
        assert_eq!(ir.steps[0].inputs[..], [x, y]);
    }

    #[test]
    fn a_detour_keeps_units_apart() {
        let mut b = Builder::default();
        let x = b.input(&[2, 2]);
        let minus = b.elementwise(neg(), &[x]);
        let soft = b.softmax(minus);
        let sum = b.elementwise(add(), &[minus, soft]);
        let ir = fuse(b.finish(&[sum]));
        assert_eq!(ir.steps.len(), 3);
    }

    #[test]
    fn a_detour_through_a_joined_unit_is_seen() {
        // {a, d} would use {b, c} through the softmax and be used by it.
        let mut b = Builder::default();
        let x = b.input(&[2, 2]);
        let a = b.elementwise(neg(), &[x]);
        let first = b.elementwise(neg(), &[a]);
        let soft = b.softmax(first);
        let c = b.elementwise(neg(), &[soft]);
        let d = b.elementwise(add(), &[a, c]);
        let ir = fuse(b.finish(&[d]));
        let mut made = vec![x];
        for step in &ir.steps {
            assert!(
                step.inputs.iter().all(|v| made.contains(v)),
                "inputs come first"
            );
            made.extend(&step.outputs);
        }
        assert!(made.contains(&d));
    }

    #[test]
    fn other_shapes_and_long_programs_are_not_joined() {
        let mut b = Builder::default();
        let x = b.input(&[4]);
        let small = b.elementwise(neg(), &[x]);
        let wide = b.view(View::Broadcast, small, &[3, 4]);
        let mut value = wide;
        for _ in 0..200 {
            value = b.elementwise(add(), &[value, wide]);
        }
        let ir = fuse(b.finish(&[value]));
        assert!(ir.steps.len() >= 2 + 200 / MAX_INSTRUCTIONS);
        assert!(ir.steps.len() < 20);
    }
}
