//! The stress test itself: that its programs are what they say, that it finds what is planted, and a
//! few programs of fixed seeds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use conformance::reference;
use conformance::stress::execute::{Stats, execute};
use conformance::stress::generate::generate;
use conformance::stress::program::{
    Action, At, Binary, Callee, Fault, Formula, How, Limit, Node, Op, Program, Source, Terms,
    Transform, Unary,
};
use conformance::stress::shrink::shrink;
use conformance::stress::{functions, interpret};
use conformance::value::{Scalar, Value};
use motet::{Array, Dtype, Priority, Result, Spec, ops};
use motet_core::compile::trace::{Signature, trace};

/// Programs set memory limits of the process and count what is in use: tests that compute take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[test]
fn programs_of_fixed_seeds_run_clean() {
    let _turn = turn();
    let mut stats = Stats::default();
    for seed in 0..150 {
        let program = generate(seed, 12);
        match execute(&program) {
            Ok(more) => stats.add(&more),
            Err(error) => panic!("{error}\nin the program\n{program}"),
        }
    }
    // All ways in which a program can end early were met.
    assert!(stats.injected > 0 && stats.cancelled > 0, "{stats}");
    assert!(stats.late > 0 && stats.refused > 0, "{stats}");
    assert!(stats.futures > 0 && stats.dropped > 0, "{stats}");
}

#[test]
fn the_generator_makes_everything_that_there_is() {
    let programs: Vec<Program> = (0..400).map(|seed| generate(seed, 64)).collect();
    let nodes: Vec<&Node> = programs.iter().flat_map(|p| &p.nodes).collect();
    let actions: Vec<&Action> = programs.iter().flat_map(Program::actions).collect();
    let node = |what: &str, test: &dyn Fn(&Node) -> bool| {
        assert!(nodes.iter().any(|node| test(node)), "no node with {what}");
    };
    for unary in [Unary::Negative, Unary::Abs, Unary::Square] {
        node(
            "unary",
            &|n| matches!(n.op, Op::Unary(op, _) if op == unary),
        );
    }
    for binary in [
        Binary::Add,
        Binary::Multiply,
        Binary::Maximum,
        Binary::Minimum,
    ] {
        node(
            "binary",
            &|n| matches!(n.op, Op::Binary(op, ..) if op == binary),
        );
    }
    for transform in Transform::ALL {
        node(
            "transform",
            &|n| matches!(n.op, Op::Transform(op, _) if op == transform),
        );
    }
    for callee in callees() {
        node("call", &|n| matches!(n.op, Op::Call(c, ..) if c == callee));
    }
    node("a second output", &|n| matches!(n.op, Op::Difference(_)));
    node("a long chain", &|n| matches!(n.op, Op::Chain(_, 2000..)));
    for at in [At::Before, At::Inside, At::After] {
        for how in [How::Error, How::Panic] {
            node("fault", &|n| n.fault == Some(Fault { at, how }));
        }
    }
    node("a token", &|n| matches!(n.terms.limit, Limit::Token(_)));
    node("a cancelled token", &|n| n.terms.limit == Limit::Cancelled);
    node("a deadline that has passed", &|n| {
        n.terms.limit == Limit::Late
    });
    node("a deadline", &|n| matches!(n.terms.limit, Limit::Soon(_)));
    node("a memory scope", &|n| n.terms.scope.is_some());
    for priority in [Priority::Background, Priority::Normal, Priority::Urgent] {
        node("a priority", &|n| n.terms.priority == Some(priority));
        assert!(programs.iter().any(|p| p.streams.contains(&priority)));
    }
    let scopes = || programs.iter().flat_map(|p| &p.scopes);
    assert!(scopes().any(|s| s.parent.is_some()) && scopes().any(|s| s.limit.is_some()));
    for program in &programs {
        let parents = program.scopes.iter().enumerate();
        for (number, scope) in parents {
            assert!(scope.parent.is_none_or(|parent| parent < number));
        }
    }
    node("a stream", &|n| n.stream.is_some());
    node("the default stream", &|n| n.stream.is_none());
    assert!(nodes.iter().all(|n| n.fault.is_none() || n.op.is_wrapped()));
    assert!(
        nodes
            .iter()
            .all(|n| n.terms == Terms::default() || n.op.takes_terms())
    );
    assert!(
        nodes
            .iter()
            .all(|n| n.fault.is_none_or(|fault| fault.how != How::Wrong))
    );

    let kinds: std::collections::HashSet<_> = actions
        .iter()
        .map(|action| std::mem::discriminant(*action))
        .collect();
    assert_eq!(kinds.len(), 24);
    let threads = |count: usize| programs.iter().any(|p| p.threads.len() == count);
    assert!(threads(1) && threads(2) && threads(64));
    for program in &programs {
        let starves = |actions: &Vec<Action>| {
            actions
                .iter()
                .any(|action| matches!(action, Action::Starve(_)))
        };
        assert!(
            !program.threads[1..].iter().any(starves),
            "two threads set limits"
        );
        assert_eq!(*program, generate(program.seed, 64));
    }
}

/// The interpreter and the reference were written apart from each other; the reference computes what
/// the runtime's operations are when traced.
#[test]
fn the_interpreter_agrees_with_the_reference() {
    let _turn = turn();
    let mut cases: Vec<(Op, Box<Traced>)> = Vec::new();
    for op in [Unary::Negative, Unary::Abs, Unary::Square] {
        cases.push((
            Op::Unary(op, 0),
            Box::new(move |x| ops::apply(op.primitive(), &x[..1])),
        ));
    }
    for op in [
        Binary::Add,
        Binary::Multiply,
        Binary::Maximum,
        Binary::Minimum,
    ] {
        let both = move |x: &[Array]| {
            let outputs = op.primitives().into_iter().map(|p| ops::apply(p, x));
            Ok(outputs.collect::<Result<Vec<_>>>()?.concat())
        };
        cases.push((Op::Binary(op, 0, 1), Box::new(both)));
    }
    for transform in Transform::ALL {
        let one = move |x: &[Array]| Ok(vec![functions::transform(transform, &x[0])?]);
        cases.push((Op::Transform(transform, 0), Box::new(one)));
    }
    for callee in callees() {
        let call = move |x: &[Array]| functions::outputs(callee.formula, &x[0], &x[1]);
        cases.push((Op::Call(callee, 0, 1), Box::new(call)));
    }
    for (x, y) in [(1, 1), (-7, 3), (i32::MIN, 5), (0x1234_5678, i32::MAX)] {
        for (op, traced) in &cases {
            for shape in [[1, 2], [3, 4], [4, 6]] {
                let mut nodes = [Op::Data(x), Op::Data(y), op.clone()].map(node).to_vec();
                if op.inputs().len() == 2 {
                    nodes.push(node(Op::Difference(2)));
                }
                let program = Program {
                    nodes,
                    shape,
                    ..generate(0, 1)
                };
                let values = interpret::values(&program);
                let inputs = values[..2].iter().map(|x| value(x, shape)).collect();
                let outputs = by_reference(&**traced, inputs);
                assert_eq!(outputs.len(), values.len() - 2);
                for (output, got) in outputs.iter().zip(&values[2..]) {
                    assert_eq!(output.elements, value(got, shape).elements, "{op:?}");
                }
            }
        }
    }
}

type Traced = dyn Fn(&[Array]) -> Result<Vec<Array>>;

/// What the reference makes of a function's operations, one after the other.
fn by_reference(function: &Traced, inputs: Vec<Value>) -> Vec<Value> {
    let signature = Signature {
        inputs: inputs.iter().map(|input| input.spec.clone()).collect(),
        ..Signature::default()
    };
    let graph = trace(signature, function).unwrap();
    let mut values: HashMap<usize, Value> = graph.inputs.iter().copied().zip(inputs).collect();
    let constants = graph.constants.iter();
    values.extend(constants.map(|(id, constant)| (*id, Value::of(constant))));
    for node in &graph.nodes {
        let inputs: Vec<Value> = node.inputs.iter().map(|id| values[id].clone()).collect();
        let specs: Vec<Spec> = node
            .outputs
            .iter()
            .map(|&id| graph.values[id].clone())
            .collect();
        let results = reference::expected(&node.primitive, &inputs, &specs).unwrap();
        for ((&id, spec), result) in node.outputs.iter().zip(specs).zip(results) {
            let elements = result.iter().map(|e| e.value.to(spec.dtype)).collect();
            values.insert(id, Value { spec, elements });
        }
    }
    graph.outputs.iter().map(|id| values[id].clone()).collect()
}

fn value(elements: &[i32], shape: [usize; 2]) -> Value {
    Value {
        spec: Spec::new(shape, Dtype::Int32),
        elements: elements.iter().map(|&x| Scalar::Int(x.into())).collect(),
    }
}

fn node(op: Op) -> Node {
    Node {
        op,
        stream: None,
        terms: Terms::default(),
        fault: None,
    }
}

/// A wrong kernel somewhere in a large program is found, and little is left of the program.
#[test]
fn a_wrong_result_is_found_and_shrunk() {
    let _turn = turn();
    let planted = (0..).find_map(|seed| {
        let mut program = generate(seed, 8);
        let used = program.used();
        let id = (10..program.nodes.len()).find(|&id| {
            let is_wrong = |p: &Program| {
                let values = interpret::values(p);
                p.nodes[id]
                    .op
                    .inputs()
                    .first()
                    .is_some_and(|&x| values[x] != values[id])
            };
            used[id] && program.nodes[id].op.is_wrapped() && is_wrong(&program)
        })?;
        program.nodes[id].terms = Terms::default();
        program.nodes[id].fault = Some(Fault {
            at: At::After,
            how: How::Wrong,
        });
        let found = program.threads.len() > 2 && execute(&program).is_err();
        found.then_some(program)
    });
    let (smallest, error) = shrink(&planted.unwrap(), |p| execute(p).err()).unwrap();
    assert!(error.contains("wrong value"), "{error}");
    let used = smallest.used().iter().filter(|used| **used).count();
    assert!(used <= 3 && smallest.actions().count() == 1, "{smallest}");
    assert!(
        smallest.to_string().contains("fault Wrong After"),
        "{smallest}"
    );
}

#[test]
fn what_does_not_fail_is_not_shrunk() {
    assert_eq!(shrink(&generate(1, 4), |_| None), None);
}

fn callees() -> impl Iterator<Item = Callee> {
    let formulas = [Formula::Polynomial, Formula::Sums, Formula::Product];
    formulas.into_iter().flat_map(|formula| {
        let sources = [Source::Traced, Source::Imported, Source::Compiled];
        sources.map(|source| Callee { formula, source })
    })
}
