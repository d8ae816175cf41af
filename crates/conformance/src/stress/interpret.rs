//! The interpreter: what the values of a program are, computed on one thread in direct loops, with
//! nothing of the runtime; and which errors may be seen in their place.

use std::collections::BTreeSet;

use super::program::{
    Action, Binary, Formula, How, Id, Limit, Op, Program, Terms, Transform, Unary,
};

/// The elements of every node's value, row-major.
pub fn values(program: &Program) -> Vec<Vec<i32>> {
    let mut values: Vec<Vec<i32>> = Vec::new();
    for node in &program.nodes {
        let of = |id: Id| values[id].as_slice();
        let value = match node.op {
            Op::Data(step) => data(program.shape, step),
            Op::Unary(op, x) => of(x).iter().map(|&x| unary(op, x)).collect(),
            Op::Binary(op, x, y) => pairs(of(x), of(y), |x, y| binary(op, x, y)),
            Op::Difference(node) => match program.nodes[node].op {
                Op::Binary(_, x, y) | Op::Call(_, x, y) => pairs(of(x), of(y), i32::wrapping_sub),
                ref other => panic!("{other:?} has one output"),
            },
            Op::Transform(op, x) => transform(op, program.shape, of(x)),
            Op::Chain(x, depth) => of(x).iter().map(|x| x.wrapping_add(depth as i32)).collect(),
            Op::Call(callee, x, y) => formula(callee.formula, program.shape, of(x), of(y)),
        };
        values.push(value);
    }
    values
}

/// Multiples of a number.
pub fn data([rows, columns]: [usize; 2], step: i32) -> Vec<i32> {
    let numbers = 1..=(rows * columns) as i32;
    numbers.map(|number| number.wrapping_mul(step)).collect()
}

fn pairs(x: &[i32], y: &[i32], op: impl Fn(i32, i32) -> i32) -> Vec<i32> {
    x.iter().zip(y).map(|(&x, &y)| op(x, y)).collect()
}

fn unary(op: Unary, x: i32) -> i32 {
    match op {
        Unary::Negative => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Square => x.wrapping_mul(x),
    }
}

fn binary(op: Binary, x: i32, y: i32) -> i32 {
    match op {
        Binary::Add => x.wrapping_add(y),
        Binary::Multiply => x.wrapping_mul(y),
        Binary::Maximum => x.max(y),
        Binary::Minimum => x.min(y),
    }
}

fn transform(op: Transform, [rows, columns]: [usize; 2], x: &[i32]) -> Vec<i32> {
    let at = |row: usize, column: usize| x[row * columns + column];
    let sum = |row: usize, columns: std::ops::Range<usize>| {
        let elements = columns.map(|column| at(row, column));
        elements.fold(0i32, i32::wrapping_add)
    };
    let element = |row: usize, column: usize| match op {
        Transform::RowSums => sum(row, 0..columns),
        Transform::RunningSums => sum(row, 0..column + 1),
        Transform::Flip => at(row, columns - 1 - column),
        Transform::Turn => {
            let number = row * columns + column;
            at(number % rows, number / rows)
        }
        Transform::Swap => at(row, (column + columns / 2) % columns),
        Transform::Product => (0..columns)
            .map(|inner| (at(row, inner) & 3) * weight(inner, column))
            .sum(),
    };
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    places.map(|(row, column)| element(row, column)).collect()
}

/// The matrix of [`Transform::Product`].
pub fn weight(row: usize, column: usize) -> i32 {
    ((row * 7 + column * 3) % 5) as i32
}

fn formula(formula: Formula, shape: [usize; 2], x: &[i32], y: &[i32]) -> Vec<i32> {
    let sum = || pairs(x, y, i32::wrapping_add);
    match formula {
        Formula::Polynomial => pairs(&pairs(&sum(), x, i32::wrapping_mul), y, i32::wrapping_sub),
        Formula::Sums => pairs(
            &transform(Transform::RunningSums, shape, &pairs(x, y, i32::max)),
            &transform(Transform::RowSums, shape, x),
            i32::wrapping_add,
        ),
        Formula::Product => transform(Transform::Product, shape, &sum()),
    }
}

/// The errors that a node's value may be replaced by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors {
    /// Whether there has to be one.
    pub certain: bool,
    /// Nodes whose injected failure it may be.
    pub faults: BTreeSet<Id>,
    /// Whether it may have been cancelled.
    pub cancelled: bool,
    /// Whether a deadline may have passed.
    pub late: bool,
    /// Whether a memory scope may have refused it memory.
    pub refused: bool,
}

impl Errors {
    /// Those of a call with these terms.
    pub fn of(program: &Program, terms: &Terms) -> Errors {
        let mut errors = Errors::default();
        match terms.limit {
            Limit::None => {}
            Limit::Cancelled => (errors.certain, errors.cancelled) = (true, true),
            Limit::Late => (errors.certain, errors.late) = (true, true),
            Limit::Soon(_) => errors.late = true,
            Limit::Token(token) => {
                let cancels = |action: &Action| *action == Action::Cancel(token);
                errors.cancelled = program.actions().any(cancels);
            }
        }
        let mut scopes = program.scopes_of(terms.scope);
        errors.refused = scopes.any(|scope| program.is_limited(scope));
        errors
    }

    /// Adds those of another value.
    pub fn extend(&mut self, other: &Errors) {
        self.certain |= other.certain;
        self.faults.extend(&other.faults);
        self.cancelled |= other.cancelled;
        self.late |= other.late;
        self.refused |= other.refused;
    }
}

/// The errors of every node. Where the program limits the memory of the process, every node may also
/// be refused memory.
pub fn errors(program: &Program) -> Vec<Errors> {
    let mut all: Vec<Errors> = Vec::new();
    for (id, node) in program.nodes.iter().enumerate() {
        let mut errors = Errors::of(program, &node.terms);
        for input in node.op.inputs() {
            errors.extend(&all[input]);
        }
        if node.fault.is_some_and(|fault| fault.how != How::Wrong) {
            errors.certain = true;
            errors.faults.insert(id);
        }
        all.push(errors);
    }
    all
}
