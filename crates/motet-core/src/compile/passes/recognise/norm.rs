//! Layer norm and rms norm: `(x - mean) * rsqrt(variance + eps) * w + b`, and without what is
//! centred, weights or biases; as MLX's `fast` functions write them, or by hand.

use super::matcher::Matcher;
use super::{Rewrite, Value};
use crate::kernel::Kernel;
use crate::program::{Binary, ProgramBuilder, Unary};
use crate::shape::Spec;

pub(super) fn norm(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let parameter = |(rest, value)| Some((rest, Some(Parameter::new(matcher, root, value)?)));
    let biased = matcher.commuted(Binary::Add, root).filter_map(parameter);
    let biased = biased.chain([(root, None)]);
    let candidates = biased.flat_map(|(weighted, bias)| {
        let plain = matcher.commuted(Binary::Mul, weighted);
        let plain = plain.filter_map(parameter).chain([(weighted, None)]);
        plain.map(move |(plain, weight)| (plain, weight, bias))
    });
    let (rows, weight, bias) = candidates
        .into_iter()
        .find_map(|(plain, weight, bias)| Some((Rows::new(matcher, plain)?, weight, bias)))?;
    let dtype = matcher.spec(root).dtype;
    let x = match matcher.spec(rows.x).dtype == dtype {
        true => rows.x,
        false => matcher.unwidened(rows.x),
    };
    if matcher.spec(x).dtype != dtype || (bias.is_some() && !rows.center) {
        return None;
    }
    let mut inputs = vec![x];
    let mut give = |parameter: Option<Parameter>, absent| {
        inputs.push(match parameter {
            Some(Parameter {
                value,
                scalar: true,
            }) => rewrite.reshaped(value, &[]),
            Some(Parameter {
                value,
                scalar: false,
            }) => {
                let row = *matcher.shape(root).last().expect("a norm has rows");
                rewrite.reshaped(value, &[row])
            }
            None => {
                let mut program = ProgramBuilder::default();
                let result = program.constant(absent, dtype);
                let program = Kernel::Elementwise(program.finish(vec![result]));
                rewrite.kernel("Full", program, &[], Spec::new([], dtype))
            }
        });
    };
    give(weight, 1.0);
    if rows.center {
        give(bias, 0.0);
    }
    let Rows { eps, center, .. } = rows;
    let name = if center { "LayerNorm" } else { "RMSNorm" };
    rewrite.root(name, Kernel::Norm { eps, center }, &inputs, root);
    Some(())
}

/// Weights or biases.
#[derive(Clone, Copy)]
struct Parameter {
    value: Value,
    /// Whether it is one number, rather than one for each element of a row.
    scalar: bool,
}

impl Parameter {
    /// The parameter that is the same for all rows of `like`, in its dtype.
    fn new(matcher: &Matcher<'_>, like: Value, value: Value) -> Option<Parameter> {
        let like = matcher.spec(like);
        let value = matcher.unbroadcast(value);
        let spec = matcher.spec(value);
        let scalar = spec.shape.size() == 1;
        let is_row = spec.shape.last() == like.shape.last()
            && spec.shape.iter().rev().skip(1).all(|&dim| dim == 1);
        let fits = spec.dtype == like.dtype && (scalar || is_row);
        fits.then_some(Parameter { value, scalar })
    }
}

/// Rows that were normalised.
struct Rows {
    x: Value,
    eps: f32,
    center: bool,
}

impl Rows {
    /// The rows of which `value` is the normalised form.
    fn new(matcher: &Matcher<'_>, value: Value) -> Option<Rows> {
        let value = matcher.unnarrowed(value);
        let multiplied = matcher
            .commuted(Binary::Mul, value)
            .filter_map(|(c, factor)| {
                let root = matcher.unary(Unary::Rsqrt, matcher.unbroadcast(factor))?;
                Some((c, root))
            });
        let divided = matcher.binary(Binary::Div, value).and_then(|(c, divisor)| {
            let root = matcher.unary(Unary::Sqrt, matcher.unbroadcast(divisor))?;
            Some((c, root))
        });
        multiplied.chain(divided).find_map(|(c, sum)| {
            let mut terms = matcher.commuted(Binary::Add, sum);
            let (squares, eps) = terms.find_map(|(variance, eps)| {
                Some((matcher.mean_of_rows(variance)?, matcher.scalar(eps)?))
            })?;
            let same = matcher.binary(Binary::Mul, squares)? == (c, c);
            if !same || matcher.shape(c) != matcher.shape(value) || eps != f64::from(eps as f32) {
                return None;
            }
            let eps = eps as f32;
            let centred = matcher.binary(Binary::Sub, c).and_then(|(x, mean)| {
                let mean = matcher.mean_of_rows(matcher.unbroadcast(mean))?;
                (mean == x).then_some(x)
            });
            Some(match centred {
                Some(x) => Rows {
                    x,
                    eps,
                    center: true,
                },
                None => Rows {
                    x: c,
                    eps,
                    center: false,
                },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::{Ir, Kind};
    use crate::compile::passes::recognise;
    use crate::compile::testing::{Builder, add, mul};
    use crate::kernel::Reduction;
    use crate::ops::View;
    use crate::program::expr::{unary, x, y};
    use crate::shape::Axes;

    /// `x * rsqrt(sum(x * x, axis) * factor + eps) * w` of a (4, 8) and a `w` of this shape.
    fn rms_norm(axis: usize, factor: f32, eps: &[f32], w: &[usize]) -> Ir {
        let mut b = Builder::default();
        let rows = b.input(&[4, 8]);
        let weights = b.input(w);
        let mut statistic = [4, 8];
        statistic[axis] = 1;
        let squares = b.elementwise(x() * x(), &[rows]);
        let axes = Axes::from_slice(&[axis]);
        let op = Reduction::Sum;
        let sum = Kind::Kernel(Kernel::Reduce { op, axes });
        let sum = b.step("Reduce", sum, &[squares], &statistic);
        let factor = b.constant(&[], &[factor]);
        let factor = b.view(View::Broadcast, factor, &statistic);
        let eps = b.constant(&[eps.len()], eps);
        let eps = b.view(View::Broadcast, eps, &statistic);
        let mean = b.elementwise(mul(), &[sum, factor]);
        let moved = b.elementwise(add(), &[eps, mean]);
        let scale = b.elementwise(unary(Unary::Rsqrt, x()), &[moved]);
        let scale = b.view(View::Broadcast, scale, &[4, 8]);
        let weights = b.view(View::Broadcast, weights, &[4, 8]);
        let plain = b.elementwise(mul(), &[scale, rows]);
        let result = b.elementwise(x() * y(), &[weights, plain]);
        b.finish(&[result])
    }

    fn kernels(ir: Ir) -> Vec<String> {
        let steps = recognise(ir).steps.into_iter();
        let kernels = steps.filter(|step| matches!(step.kind, Kind::Kernel(_)));
        kernels.map(|step| step.name).collect()
    }

    #[test]
    fn rows_over_the_root_of_their_mean_square_are_a_norm() {
        assert_eq!(kernels(rms_norm(1, 1.0 / 8.0, &[1e-5], &[8])), ["RMSNorm"]);
        assert_eq!(kernels(rms_norm(1, 1.0 / 8.0, &[1e-5], &[1])), ["RMSNorm"]);
    }

    #[test]
    fn weights_of_each_row_are_left_to_elementwise_steps() {
        let kernels = kernels(rms_norm(1, 1.0 / 8.0, &[1e-5], &[4, 1]));
        assert_eq!(kernels, ["Full", "RMSNorm", "Map"]);
    }

    #[test]
    fn columns_and_sums_are_no_norm() {
        for other in [
            rms_norm(0, 1.0 / 8.0, &[1e-5], &[8]),
            rms_norm(1, 1.0 / 4.0, &[1e-5], &[8]),
            rms_norm(1, 1.0, &[1e-5], &[8]),
        ] {
            assert!(kernels(other).iter().all(|name| name != "RMSNorm"));
        }
    }
}
