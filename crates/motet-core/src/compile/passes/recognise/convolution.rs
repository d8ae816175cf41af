//! Convolutions whose channels are scaled and shifted by constants, as a batch norm does outside of
//! training: the scale moves into the weights, and one sum remains.

use super::matcher::{Function, Matcher};
use super::{Rewrite, Value};
use crate::compile::passes::fold_constants::LARGEST;
use crate::dtype::Dtype;
use crate::kernel::Kernel;
use crate::ops::View;
use crate::program::{Binary, Program, Unary, expr};

pub(super) fn convolution(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    // From the last to the first; each with its constant.
    let mut changes: Vec<(Binary, Value)> = Vec::new();
    let mut value = root;
    let (kernel, x, weights) = loop {
        if value != root && !matcher.is_used_once(value) {
            return None;
        }
        if let (kernel @ Kernel::Convolution(_), &[x, weights]) = matcher.kernel(value)? {
            break (kernel, x, weights);
        }
        let Function::Binary(op, a, b) = matcher.function(value)? else {
            return None;
        };
        let (of, constant) = match (matcher.is_constant(a), matcher.is_constant(b), op) {
            (false, true, Binary::Add | Binary::Sub | Binary::Mul) => (a, b),
            (true, false, Binary::Add | Binary::Mul) => (b, a),
            _ => return None,
        };
        changes.push((op, constant));
        value = of;
    };
    let spec = matcher.spec(weights);
    let scaled = changes.iter().any(|&(op, _)| op == Binary::Mul);
    let exact = matches!(spec.dtype, Dtype::Float32 | Dtype::Float64);
    if !scaled || !exact || !matcher.is_constant(weights) || spec.bytes() > LARGEST {
        return None;
    }

    let channels = [spec.shape[0]];
    let (mut scale, mut shift): (Option<Value>, Option<Value>) = (None, None);
    for (op, constant) in changes.into_iter().rev() {
        let constant = per_channel(matcher, constant, channels[0], rewrite)?;
        let mut combine = |op, with: Option<Value>| match with {
            Some(value) => rewrite.binary(op, value, constant),
            None => constant,
        };
        match op {
            Binary::Mul => {
                scale = Some(combine(Binary::Mul, scale));
                shift = shift.map(|shift| combine(Binary::Mul, Some(shift)));
            }
            Binary::Sub if shift.is_none() => shift = Some(rewrite.unary(Unary::Neg, constant)),
            op => shift = Some(combine(op, shift)),
        }
    }
    let mut weight_channels = vec![1; spec.shape.len()];
    weight_channels[0] = channels[0];
    let scale = rewrite.reshaped(scale?, &weight_channels);
    let scale = rewrite.view(View::Broadcast, scale, spec.shape.clone());
    let weights = rewrite.binary(Binary::Mul, weights, scale);
    let (name, inputs) = ("Convolution", [x, weights]);
    match shift {
        None => rewrite.root(name, kernel.clone(), &inputs, root),
        Some(shift) => {
            let result = matcher.spec(root).clone();
            let shift = rewrite.view(View::Broadcast, shift, result.shape.clone());
            let scaled = rewrite.kernel(name, kernel.clone(), &inputs, result);
            let sum = Program::from_expr(&(expr::x() + expr::y()), &[spec.dtype; 2]);
            rewrite.root("Add", Kernel::Elementwise(sum), &[scaled, shift], root);
        }
    }
    Some(())
}

/// The constant as a vector of a number for each channel, which are the last dimension.
fn per_channel(
    matcher: &Matcher<'_>,
    value: Value,
    channels: usize,
    rewrite: &mut Rewrite,
) -> Option<Value> {
    let value = matcher.unbroadcast(value);
    let shape = matcher.shape(value);
    match shape.size() {
        1 => {
            let one = rewrite.reshaped(value, &[1]);
            Some(rewrite.view(View::Broadcast, one, [channels].into()))
        }
        size if size == channels && shape.last() == Some(&channels) => {
            Some(rewrite.reshaped(value, &[channels]))
        }
        _ => None,
    }
}
