//! Makes a program that fails smaller, while it still fails.

use super::program::{Action, How, Limit, Op, Program};

/// The smallest program that was found, and how it fails; `None` where `program` does not fail.
/// `check` says how a program fails.
pub fn shrink(
    program: &Program,
    check: impl Fn(&Program) -> Option<String>,
) -> Option<(Program, String)> {
    let mut error = check(program)?;
    let mut smallest = program.clone();
    // A failure that comes and goes might let this go on for ever.
    for _ in 0..PASSES {
        let mut helped = false;
        let mut number = 0;
        let mut candidates = steps(&smallest);
        while number < candidates.len() {
            match check(&candidates[number]) {
                Some(other) => {
                    error = other;
                    helped = true;
                    smallest = candidates.swap_remove(number);
                    // What would have been next is now at this number.
                    candidates = steps(&smallest);
                }
                None => number += 1,
            }
        }
        if !helped {
            break;
        }
    }
    Some((smallest, error))
}

const PASSES: usize = 8;

/// Programs that are a little smaller, large steps first.
fn steps(program: &Program) -> Vec<Program> {
    let mut steps = Vec::new();
    let mut step = |change: &dyn Fn(&mut Program)| steps.push(changed(program, change));
    for thread in 0..program.threads.len() {
        if program.threads.len() > 1 {
            step(&|p| drop(p.threads.remove(thread)));
        }
    }
    for (thread, actions) in program.threads.iter().enumerate() {
        let (half, all) = (actions.len() / 2, actions.len());
        if half > 1 {
            step(&|p| drop(p.threads[thread].drain(..half)));
            step(&|p| drop(p.threads[thread].drain(half..all)));
        }
    }
    for (thread, actions) in program.threads.iter().enumerate() {
        for (number, action) in actions.iter().enumerate() {
            step(&|p| drop(p.threads[thread].remove(number)));
            if let Action::Eval(ids) | Action::AsyncEval(ids) = action
                && let [first, _, ..] = ids[..]
            {
                step(&|p| p.threads[thread][number] = Action::Eval(vec![first]));
                step(&|p| p.threads[thread][number] = Action::Eval(ids[1..].to_vec()));
            }
        }
    }
    let used = program.used();
    for id in (0..program.nodes.len()).filter(|&id| used[id]) {
        steps.extend(simpler(program, id));
    }
    if program.shape != SMALLEST {
        steps.push(changed(program, |p| p.shape = SMALLEST));
    }
    steps
}

const SMALLEST: [usize; 2] = [1, 2];

/// Programs in which one node does less.
fn simpler(program: &Program, id: usize) -> Vec<Program> {
    let node = &program.nodes[id];
    let mut simpler = Vec::new();
    // The second output of a node needs that node to have one.
    let twin = |p: &Program| p.nodes.iter().any(|n| n.op == Op::Difference(id));
    if !matches!(node.op, Op::Data(_)) && !twin(program) {
        simpler.push(changed(program, |p| {
            p.nodes[id].op = Op::Data(1);
            p.nodes[id].limit = Limit::None;
            p.nodes[id].fault = None;
        }));
        for input in node.op.inputs() {
            simpler.push(changed(program, |p| bypass(p, id, input)));
        }
    }
    if let Op::Chain(x, depth) = node.op
        && depth > 1
    {
        simpler.push(changed(program, |p| {
            p.nodes[id].op = Op::Chain(x, depth / 2)
        }));
    }
    if node.limit != Limit::None {
        simpler.push(changed(program, |p| p.nodes[id].limit = Limit::None));
    }
    // What is looked for is not taken away.
    if node.fault.is_some_and(|fault| fault.how != How::Wrong) {
        simpler.push(changed(program, |p| p.nodes[id].fault = None));
    }
    if node.stream.is_some() {
        simpler.push(changed(program, |p| p.nodes[id].stream = None));
    }
    simpler
}

/// Lets whoever uses node `id` use `input` instead.
fn bypass(program: &mut Program, id: usize, input: usize) {
    let replace = |x: &mut usize| {
        if *x == id {
            *x = input;
        }
    };
    for node in &mut program.nodes {
        match &mut node.op {
            Op::Data(_) | Op::Difference(_) => {}
            Op::Unary(_, x) | Op::Transform(_, x) | Op::Chain(x, _) => replace(x),
            Op::Binary(_, x, y) | Op::Call(_, x, y) => {
                replace(x);
                replace(y);
            }
        }
    }
    for action in program.threads.iter_mut().flatten() {
        match action {
            Action::Eval(ids) | Action::AsyncEval(ids) => ids.iter_mut().for_each(replace),
            Action::Read(x) | Action::Item(x) | Action::Drop(x) | Action::Hold(x) => replace(x),
            Action::Starve(x) => replace(x),
            _ => {}
        }
    }
}

fn changed(program: &Program, change: impl FnOnce(&mut Program)) -> Program {
    let mut changed = program.clone();
    change(&mut changed);
    changed
}
