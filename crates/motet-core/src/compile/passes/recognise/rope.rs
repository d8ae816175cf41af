//! Rotary position embedding as MLX's `fast.rope` writes it: pairs of elements, of the halves of a
//! row or neighbours, are turned by `scale * (position + offset) * frequency`.

use super::matcher::{Function, Matcher};
use super::{Rewrite, Value};
use crate::dtype::Dtype;
use crate::kernel::{self, Kernel};
use crate::ops::View;
use crate::program::expr::x;
use crate::program::{Binary, Expr, Program, Unary};

pub(super) fn rope(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let spec = matcher.spec(root);
    let turned = Turned::new(matcher, root)?;
    let rows = &spec.shape[..];
    if matcher.spec(turned.x) != spec || !spec.dtype.is_float() || spec.shape.size() == 0 {
        return None;
    }
    let angles = Angles::new(matcher, turned.angles, rows)?;
    let offset = match matcher.shape(angles.offset).size() {
        1 => rewrite.reshaped(angles.offset, &[]),
        batch => rewrite.reshaped(angles.offset, &[batch]),
    };
    let pairs = [turned.dims / 2];
    let periods = match angles.speed {
        Speed::Period(periods) => rewrite.reshaped(periods, &pairs),
        Speed::Frequency(frequencies) => {
            let frequencies = rewrite.reshaped(frequencies, &pairs);
            let periods = Program::from_expr(&(Expr::Constant(1.0) / x()), &[Dtype::Float32]);
            let spec = rewrite.spec(frequencies).clone();
            rewrite.kernel("Divide", Kernel::Elementwise(periods), &[frequencies], spec)
        }
    };
    let kernel = Kernel::Rope(kernel::Rope {
        dims: turned.dims,
        traditional: turned.traditional,
        base: None,
        scale: angles.scale,
        forward: turned.forward,
    });
    rewrite.root("RoPE", kernel, &[turned.x, offset, periods], root);
    Some(())
}

/// Rows of x whose first `dims` elements were turned in pairs.
struct Turned {
    x: Value,
    dims: usize,
    traditional: bool,
    forward: bool,
    /// An angle for each pair of each row.
    angles: Value,
}

impl Turned {
    fn new(matcher: &Matcher<'_>, root: Value) -> Option<Turned> {
        if let Some((View::Reshape, joined)) = matcher.view(root) {
            return Turned::neighbours(matcher, joined);
        }
        match *concatenated(matcher, root)? {
            [first, second] => Turned::halves(matcher, first, second)
                .or_else(|| Turned::in_front(matcher, first, second)),
            [first, second, rest] => {
                let turned = Turned::halves(matcher, first, second)?;
                turned.followed_by(matcher, rest)
            }
            _ => None,
        }
    }

    /// Neighbours that were turned, with others behind them.
    fn in_front(matcher: &Matcher<'_>, front: Value, rest: Value) -> Option<Turned> {
        let (View::Reshape, joined) = matcher.view(front)? else {
            return None;
        };
        Turned::neighbours(matcher, joined)?.followed_by(matcher, rest)
    }

    /// The first and the second elements of neighbours, joined along a new last axis.
    fn neighbours(matcher: &Matcher<'_>, joined: Value) -> Option<Turned> {
        let &[first, second] = concatenated(matcher, joined)? else {
            return None;
        };
        let without_axis = |value| match matcher.view(value)? {
            (View::Reshape, from)
                if matcher.shape(value).split_last()?.1 == &**matcher.shape(from) =>
            {
                Some(from)
            }
            _ => None,
        };
        let turned = Turned::pairs(matcher, without_axis(first)?, without_axis(second)?)?;
        turned.traditional.then_some(turned)
    }

    fn halves(matcher: &Matcher<'_>, first: Value, second: Value) -> Option<Turned> {
        let turned = Turned::pairs(matcher, first, second)?;
        (!turned.traditional).then_some(turned)
    }

    /// `a * cos - b * sin` and `a * sin + b * cos`; backward with the signs exchanged.
    fn pairs(matcher: &Matcher<'_>, first: Value, second: Value) -> Option<Turned> {
        let (difference, sum, forward) = match matcher.binary(Binary::Sub, first) {
            Some(difference) => (difference, second, true),
            None => (matcher.binary(Binary::Sub, second)?, first, false),
        };
        let product = |value| {
            let mut factors = matcher.commuted(Binary::Mul, value);
            factors.find_map(|(x, turn)| Some((x, Turn::new(matcher, turn)?)))
        };
        let ((a, cos), (b, sin)) = (product(difference.0)?, product(difference.1)?);
        let mut products = matcher.commuted(Binary::Add, sum);
        let fits =
            products.any(|(p, q)| product(p) == Some((a, sin)) && product(q) == Some((b, cos)));
        let (Turn::Cos(angles), Turn::Sin(of_sine)) = (cos, sin) else {
            return None;
        };
        let (a, b) = if forward { (a, b) } else { (b, a) };
        let [(x, low, step), (same, high, same_step)] =
            [matcher.row_slice(a)?, matcher.row_slice(b)?];
        let pairs = *matcher.shape(a).last()?;
        let traditional = (low, high, step) == (0, 1, 2);
        let halves = (low, high, step) == (0, pairs, 1);
        let fits = fits
            && (x, step, angles) == (same, same_step, of_sine)
            && matcher.shape(a) == matcher.shape(b)
            && (traditional || halves);
        fits.then_some(Turned {
            x,
            dims: 2 * pairs,
            traditional,
            forward,
            angles,
        })
    }

    /// The same, where `rest` is what is behind the turned elements.
    fn followed_by(self, matcher: &Matcher<'_>, rest: Value) -> Option<Turned> {
        (matcher.row_slice(rest)? == (self.x, self.dims, 1)).then_some(self)
    }
}

/// A function of an angle.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Cos(Value),
    Sin(Value),
}

impl Turn {
    fn new(matcher: &Matcher<'_>, value: Value) -> Option<Turn> {
        match matcher.function(matcher.unnarrowed(matcher.unbroadcast(value)))? {
            Function::Unary(Unary::Cos, angle) => Some(Turn::Cos(angle)),
            Function::Unary(Unary::Sin, angle) => Some(Turn::Sin(angle)),
            _ => None,
        }
    }
}

/// What is joined along the last axis.
fn concatenated<'a>(matcher: &Matcher<'a>, value: Value) -> Option<&'a [Value]> {
    match matcher.kernel(value)? {
        (Kernel::Concatenate { axis }, parts) if axis + 1 == matcher.shape(value).len() => {
            Some(parts)
        }
        _ => None,
    }
}

/// `scale * (position + offset) * frequency`.
struct Angles {
    offset: Value,
    scale: f32,
    speed: Speed,
}

/// How fast pairs turn.
enum Speed {
    Frequency(Value),
    Period(Value),
}

impl Angles {
    /// The angles for rows of this shape.
    fn new(matcher: &Matcher<'_>, angles: Value, rows: &[usize]) -> Option<Angles> {
        let (&[batch, .., length, _], &pairs) = (rows, matcher.shape(angles).last()?) else {
            return None;
        };
        let is_row = |value| {
            let shape = matcher.shape(value);
            shape.size() == pairs && shape.last() == Some(&pairs)
        };
        let mut factors = matcher.commuted(Binary::Mul, angles);
        factors.find_map(|(turns, frequency)| {
            let frequency = matcher.unbroadcast(frequency);
            // (T, 1), or (B, 1, T, 1) where each of the batch has an offset.
            let column = matcher.unbroadcast(turns);
            let (before, [positions, 1]) = matcher.shape(column).split_last_chunk()? else {
                return None;
            };
            let own = rows.len() == before.len() + 2 && before[0] == batch;
            let others = before.get(1..).unwrap_or_default();
            let (View::Reshape, turns) = matcher.view(column)? else {
                return None;
            };
            let (sum, scale) = matcher.scaled(turns);
            let mut terms = matcher.commuted(Binary::Add, sum);
            let offset = terms.find_map(|(position, offset)| {
                let (kernel, _) = matcher.kernel(matcher.unbroadcast(position))?;
                let counted = *kernel
                    == Kernel::Arange {
                        start: 0.0,
                        next: 1.0,
                    };
                match matcher.function(matcher.unbroadcast(offset))? {
                    Function::Cast(offset) if counted => Some(offset),
                    _ => None,
                }
            })?;
            let shape = matcher.shape(offset);
            let one_for_all = shape.size() == 1;
            let one_for_each = own
                && shape.size() == batch
                && shape.first() == Some(&batch)
                && shape.len() == matcher.shape(sum).len();
            let integers = matches!(matcher.spec(offset).dtype, Dtype::Int32 | Dtype::Uint32);
            let fits = *positions == length
                && is_row(frequency)
                && integers
                && f64::from(scale as f32) == scale
                && others.iter().all(|&dim| dim == 1)
                && (one_for_all || one_for_each);
            let period = matcher
                .binary(Binary::Div, frequency)
                .filter(|&(one, period)| {
                    matcher.scalar(one) == Some(1.0) && matcher.spec(period).dtype == Dtype::Float32
                });
            fits.then_some(Angles {
                offset,
                scale: scale as f32,
                speed: period.map_or(Speed::Frequency(frequency), |(_, p)| Speed::Period(p)),
            })
        })
    }
}
