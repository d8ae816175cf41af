//! Rotary embedding by halves: `x * cos + concatenate(-x2, x1) * sin`, where x1 and x2 are the halves of
//! each row of x, as models write it that keep tables of cosines and sines.
//!
//! Seen as pairs of halves, the joined value is x with its halves exchanged, which is a view, and its
//! signs can as well be those of the sines. So all of it is one program.

use super::matcher::Matcher;
use super::{Rewrite, Value};
use crate::kernel::Kernel;
use crate::ops::View;
use crate::program::{Binary, Unary};
use crate::shape::{Axes, Shape, Spec, Strides};

pub(super) fn rotate(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let spec = matcher.spec(root);
    let products = |value| matcher.commuted(Binary::Mul, value);
    let mut sums = matcher.commuted(Binary::Add, root);
    let (x, cos, sin) = sums.find_map(|(plain, turned)| {
        let (x, sin) =
            products(turned).find_map(|(joined, sin)| Some((exchanged(matcher, joined)?, sin)))?;
        let cos = products(plain).find_map(|(same, cos)| (same == x).then_some(cos))?;
        Some((x, cos, sin))
    })?;
    if matcher.spec(x) != spec || !spec.dtype.is_float() || spec.shape.size() == 0 {
        return None;
    }
    let halves = |shape: &Shape| {
        let (&row, outer) = shape.split_last()?;
        (row == *spec.shape.last()?).then(|| Shape::new(&[outer, &[2, row / 2]].concat()))
    };
    let shape = halves(&spec.shape)?;
    // The table itself, if there is one, gets the signs once for all that use it.
    let table = matcher.unbroadcast(sin);
    let (table, own) = match halves(matcher.shape(table)) {
        Some(own) => (table, own),
        None => (sin, shape.clone()),
    };
    let table = rewrite.reshaped(table, &own);
    let signs = Kernel::Arange {
        start: -1.0,
        next: 1.0,
    };
    let signs = rewrite.kernel("Arange", signs, &[], Spec::new([2], spec.dtype));
    let signs = rewrite.reshaped(signs, &[2, 1]);
    let signs = rewrite.view(View::Broadcast, signs, own);
    let signed = rewrite.binary(Binary::Mul, table, signs);
    let sin = rewrite.view(View::Broadcast, signed, shape.clone());
    let cos = rewrite.reshaped(cos, &shape);
    let x = rewrite.reshaped(x, &shape);
    let (mut start, mut strides) = (
        Axes::from_elem(0, shape.len()),
        Strides::from_elem(1, shape.len()),
    );
    let axis = shape.len() - 2;
    (start[axis], strides[axis]) = (1, -1);
    let other = rewrite.view(View::Slice { start, strides }, x, shape.clone());
    let plain = rewrite.binary(Binary::Mul, x, cos);
    let turned = rewrite.binary(Binary::Mul, other, sin);
    let sum = rewrite.binary(Binary::Add, plain, turned);
    rewrite.step("View", super::Kind::View(View::Reshape), &[sum], root);
    Some(())
}

/// The value of which the halves of each row were joined the other way round, the second negated.
fn exchanged(matcher: &Matcher<'_>, joined: Value) -> Option<Value> {
    let (&Kernel::Concatenate { axis }, &[second, first]) = matcher.kernel(joined)? else {
        return None;
    };
    let rows = matcher.shape(joined);
    let second = matcher.unary(Unary::Neg, second)?;
    let (x, low, step) = matcher.row_slice(first)?;
    let half = rows.last()? / 2;
    let fits = axis + 1 == rows.len()
        && (low, step) == (0, 1)
        && matcher.row_slice(second)? == (x, half, 1)
        && matcher.shape(first) == matcher.shape(second)
        && matcher.shape(x) == rows;
    fits.then_some(x)
}

#[cfg(test)]
mod tests {
    use crate::compile::ir::{Ir, Kind, Value};
    use crate::compile::passes::{common_subexpressions, fuse, recognise};
    use crate::compile::plan::Plan;
    use crate::compile::testing::{Builder, Mock, add, mul, neg, read, tensor};
    use crate::kernel::Kernel;
    use crate::ops::View;
    use crate::pool::Pool;
    use crate::shape::{Axes, Strides};

    fn slice(b: &mut Builder, x: Value, low: usize, len: usize) -> Value {
        let mut shape = b.shape(x);
        let mut start = Axes::from_elem(0, shape.len());
        start[shape.len() - 1] = low;
        let strides = Strides::from_elem(1, shape.len());
        *shape.last_mut().unwrap() = len;
        b.view(View::Slice { start, strides }, x, &shape)
    }

    /// `x * cos + concatenate(-x[cut..], x[..cut]) * sin` of rows of six, with tables of one row.
    fn graph(cut: usize, sign: bool) -> Ir {
        let mut b = Builder::default();
        let x = b.input(&[2, 3, 6]);
        let tables = [b.input(&[6]), b.input(&[6])];
        let [cos, sin] = tables.map(|table| b.view(View::Broadcast, table, &[2, 3, 6]));
        let mut second = slice(&mut b, x, cut, 6 - cut);
        if sign {
            second = b.elementwise(neg(), &[second]);
        }
        let first = slice(&mut b, x, 0, cut);
        let join = Kind::Kernel(Kernel::Concatenate { axis: 2 });
        let joined = b.step("Concatenate", join, &[second, first], &[2, 3, 6]);
        let plain = b.elementwise(mul(), &[cos, x]);
        let turned = b.elementwise(mul(), &[joined, sin]);
        let sum = b.elementwise(add(), &[turned, plain]);
        b.finish(&[sum])
    }

    #[test]
    fn it_is_one_program_with_the_values_of_the_chain() {
        let x: Vec<f32> = (0..36).map(|i| (i * 7 % 11) as f32 - 4.5).collect();
        let cos = [1.0, 0.5, -0.25, 0.75, 2.0, 0.125];
        let sin = [0.5, 3.0, 0.25, -1.0, 0.375, 1.5];
        let plan = Plan::from_ir(graph(3, true), true, &Mock, &Pool::new(1)).unwrap();
        // The signs of the table, and the rest.
        assert_eq!(plan.steps(), 2, "{plan}");
        let inputs = [
            tensor(&[2, 3, 6], &x),
            tensor(&[6], &cos),
            tensor(&[6], &sin),
        ];
        let results = plan.call(&inputs, &Pool::new(1), &mut || Ok(())).unwrap();
        let expected = (0..36).map(|i| {
            let (row, i) = (i / 6 * 6, i % 6);
            let turned = if i < 3 {
                -x[row + i + 3]
            } else {
                x[row + i - 3]
            };
            x[row + i] * cos[i] + turned * sin[i]
        });
        assert_eq!(read(&results[0]), expected.collect::<Vec<_>>());
    }

    #[test]
    fn tables_get_their_signs_once() {
        let mut b = Builder::default();
        let tables = [b.input(&[4]), b.input(&[4])];
        let [cos, sin] = tables.map(|table| b.view(View::Broadcast, table, &[3, 4]));
        let results: Vec<_> = (0..5)
            .map(|_| {
                let x = b.input(&[3, 4]);
                let second = slice(&mut b, x, 2, 2);
                let second = b.elementwise(neg(), &[second]);
                let first = slice(&mut b, x, 0, 2);
                let join = Kind::Kernel(Kernel::Concatenate { axis: 1 });
                let joined = b.step("Concatenate", join, &[second, first], &[3, 4]);
                let plain = b.elementwise(mul(), &[x, cos]);
                let turned = b.elementwise(mul(), &[joined, sin]);
                b.elementwise(add(), &[plain, turned])
            })
            .collect();
        let ir = fuse(common_subexpressions(recognise(b.finish(&results))));
        let programs = ir
            .steps
            .iter()
            .filter(|step| matches!(step.kind, Kind::Kernel(Kernel::Elementwise(_))));
        assert_eq!(programs.count(), 6);
    }

    #[test]
    fn other_halves_stay() {
        let joins = |ir: Ir| {
            let ir = recognise(ir);
            let join = Kind::Kernel(Kernel::Concatenate { axis: 2 });
            let same = |kind: &Kind| format!("{kind:?}") == format!("{join:?}");
            ir.steps.iter().any(|step| same(&step.kind))
        };
        assert!(!joins(graph(3, true)));
        // Not cut in the middle, and not negated.
        assert!(joins(graph(2, true)));
        assert!(joins(graph(3, false)));
    }
}
