//! Makes a program that fails smaller, while it still fails.

use motet::Priority;

use super::program::{Action, How, Id, Limit, Op, Program, Terms};

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
            if action.nodes().len() > 1 {
                let several = |p: &mut Program, change: &dyn Fn(&mut Vec<Id>)| {
                    p.threads[thread][number].several().map(change);
                };
                step(&|p| several(p, &|ids| ids.truncate(1)));
                step(&|p| several(p, &|ids| _ = ids.remove(0)));
            }
            if let Action::Model { terms, .. } = action {
                for simpler in simpler_terms(terms) {
                    step(&|p| {
                        if let Action::Model { terms, .. } = &mut p.threads[thread][number] {
                            *terms = simpler;
                        }
                    });
                }
            }
        }
    }
    for stream in 0..program.streams.len() {
        if program.streams[stream] != Priority::Normal {
            step(&|p| p.streams[stream] = Priority::Normal);
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
            p.nodes[id].terms = Terms::default();
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
    for terms in simpler_terms(&node.terms) {
        simpler.push(changed(program, |p| p.nodes[id].terms = terms));
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

/// Terms that say one thing less.
fn simpler_terms(terms: &Terms) -> impl Iterator<Item = Terms> {
    let without = |change: fn(&mut Terms)| {
        let mut simpler = *terms;
        change(&mut simpler);
        (simpler != *terms).then_some(simpler)
    };
    let all = [
        without(|terms| terms.limit = Limit::None),
        without(|terms| terms.priority = None),
        without(|terms| terms.scope = None),
    ];
    all.into_iter().flatten()
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
        action.nodes_mut().iter_mut().for_each(replace);
    }
}

fn changed(program: &Program, change: impl FnOnce(&mut Program)) -> Program {
    let mut changed = program.clone();
    change(&mut changed);
    changed
}
