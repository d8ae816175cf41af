//! Softmax and log-sum-exp of the last axis, with the maximum subtracted first.

use super::matcher::Matcher;
use super::{Rewrite, Value};
use crate::kernel::{Kernel, Reduction};
use crate::ops::View;
use crate::program::{Binary, Unary};
use crate::shape::Spec;

/// `e / sum(e)`, where e is `exp(x - max(x))`.
pub(super) fn softmax(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let (e, sum) = matcher.binary(Binary::Div, root)?;
    let summed = matcher.reduced_rows(Reduction::Sum, matcher.unbroadcast(sum))?;
    let (x, _) = exponentials(matcher, e)?;
    (summed == e).then(|| rewrite.root("Softmax", Kernel::Softmax, &[x], root))
}

/// `log(sum(exp(x - m))) + m`, where m is `max(x)`.
pub(super) fn log_sum_exp(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    // The rows' dimension may have been dropped on the way.
    let undropped = |mut value: Value| {
        while let Some((View::Reshape, from)) = matcher.view(value) {
            value = from;
        }
        value
    };
    let mut terms = matcher.commuted(Binary::Add, root);
    let x = terms.find_map(|(log, max)| {
        let sum = undropped(matcher.unary(Unary::Log, undropped(log))?);
        let (x, subtracted) = exponentials(matcher, matcher.reduced_rows(Reduction::Sum, sum)?)?;
        (subtracted == undropped(max)).then_some(x)
    })?;
    let mut shape = matcher.shape(x).clone();
    *shape.dims_mut().last_mut()? = 1;
    let spec = Spec::new(shape, matcher.spec(x).dtype);
    rewrite.root_as("LogSumExp", Kernel::LogSumExp, &[x], spec, root);
    Some(())
}

/// x and the maximum of its rows, where the value is `exp(x - max(x))`.
fn exponentials(matcher: &Matcher<'_>, value: Value) -> Option<(Value, Value)> {
    let (x, max) = matcher.binary(Binary::Sub, matcher.unary(Unary::Exp, value)?)?;
    let max = matcher.unbroadcast(max);
    let float = matcher.spec(x).dtype.is_float();
    (float && matcher.reduced_rows(Reduction::Max, max)? == x).then_some((x, max))
}
