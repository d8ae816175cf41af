//! Attention: `softmax(scale * q @ kᵀ + mask) @ v`, with a mask that is added, or that selects
//! between the scores and the lowest number, or that lets each query see what comes before it.
//!
//! Heads of queries that share keys and values are a dimension of their own, over which those are
//! broadcast. Nothing else may use the scores, or they would be computed twice.

use super::matcher::{Function, Matcher};
use super::{Rewrite, Value};
use crate::dtype::Dtype;
use crate::kernel::Kernel;
use crate::ops::View;
use crate::program::Binary;
use crate::shape::{Axes, Shape, Spec};

/// What is added to a score, or put in its place, to hide it is at most this: the weight that is
/// left is zero.
const HIDDEN: f64 = -1e9;

pub(super) fn attention(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let Scores {
        q,
        k,
        v,
        scale,
        mask,
    } = Scores::new(matcher, root)?;
    let dtype = matcher.spec(root).dtype;
    let (batch, [keys, values]) = matrix(matcher.shape(v))?;
    let features = *matcher.shape(k).iter().nth_back(1)?;
    let queries = *matcher.shape(root).iter().nth_back(1)?;
    if [q, k, v]
        .iter()
        .any(|&x| matcher.spec(x).dtype != dtype || matcher.shape(x).size() == 0)
    {
        return None;
    }
    // The batch of the kernel, and the axis over which keys and values may be shared.
    let (batches, heads, sharing) = match *batch {
        [] => (1, 1, None),
        [heads] => (1, heads, None),
        [batches, heads] => (batches, heads, Some(1)),
        [batches, kv_heads, group] => (batches, kv_heads * group, Some(2)),
        _ => return None,
    };
    let shared = sharing.map(|axis| [k, v].map(|x| before_sharing(matcher, x, axis)));
    let (k, v, kv_heads) = match shared {
        Some([Some(k), Some(v)]) => (k, v, heads / batch.last()?),
        _ => (k, v, heads),
    };
    let q = rewrite.reshaped(q, &[batches, heads, queries, features]);
    let k = rewrite.reshaped(k, &[batches, kv_heads, features, keys]);
    let k = rewrite.view(
        View::Transpose(Axes::from_slice(&[0, 1, 3, 2])),
        k,
        Shape::from([batches, kv_heads, keys, features]),
    );
    let v = rewrite.reshaped(v, &[batches, kv_heads, keys, values]);
    let mut inputs = vec![q, k, v];
    let causal = mask
        .as_ref()
        .is_some_and(|mask| mask.is_causal(matcher, queries, keys));
    if let Some(mask) = mask.filter(|_| !causal) {
        let mask = match mask {
            Mask::Added(mask) if matcher.spec(mask).dtype == dtype => mask,
            Mask::Kept { keep, hidden } if hidden.is_finite() => keep,
            // A row of which all is hidden by infinity has no weights.
            _ => return None,
        };
        inputs.push(rewrite.reshaped(mask, &[batches, heads, queries, keys]));
    }
    let kernel = Kernel::Attention {
        scale,
        causal,
        appended: false,
        mask: inputs.len() > 3,
        sinks: false,
    };
    let spec = Spec::new([batches, heads, queries, values], dtype);
    rewrite.root_as("ScaledDotProductAttention", kernel, &inputs, spec, root);
    Some(())
}

/// The operands of an attention, as the products have them.
struct Scores {
    q: Value,
    /// Transposed.
    k: Value,
    v: Value,
    scale: f32,
    mask: Option<Mask>,
}

/// What hides scores; all of it has their shape.
enum Mask {
    /// It is added.
    Added(Value),
    /// Scores where `keep` is false are replaced by a number.
    Kept { keep: Value, hidden: f64 },
}

impl Scores {
    fn new(matcher: &Matcher<'_>, root: Value) -> Option<Scores> {
        let (weights, v) = product(matcher, root)?;
        let softmax = matcher.unnarrowed(weights);
        let (Kernel::Softmax, &[input]) = matcher.kernel(softmax)? else {
            return None;
        };
        let hidden = matcher.unwidened(input);
        let masks = [None].into_iter().chain(masks(matcher, hidden).map(Some));
        masks.into_iter().find_map(|mask| {
            let (scaled, mask) = mask.map_or((hidden, None), |(scaled, mask)| (scaled, Some(mask)));
            let (scores, after) = matcher.scaled(scaled);
            let (q, k) = product(matcher, scores)?;
            let chain = [weights, softmax, input, hidden, scaled, scores];
            let once = |&value: &Value| matcher.is_used_once(value);
            // Before it was split into groups of heads.
            let whole = matcher.unreshaped(q);
            let (unscaled, before) = matcher.scaled(whole);
            let scale = after * before;
            let exact = f64::from(scale as f32) == scale || matcher.spec(q).dtype != Dtype::Float64;
            (chain.iter().all(once) && exact).then_some(Scores {
                q: if unscaled == whole { q } else { unscaled },
                k,
                v,
                scale: scale as f32,
                mask,
            })
        })
    }
}

/// The ways to see a value as scores and a mask.
fn masks(matcher: &Matcher<'_>, value: Value) -> impl Iterator<Item = (Value, Mask)> {
    let added = matcher.commuted(Binary::Add, value);
    let kept = match matcher.function(value) {
        Some(Function::Select(keep, scores, hidden)) => {
            let hidden = matcher
                .scalar(hidden)
                .filter(|&hidden| hides(matcher, value, hidden));
            hidden.map(|hidden| (scores, Mask::Kept { keep, hidden }))
        }
        _ => None,
    };
    let added = added.map(|(scores, mask)| (scores, Mask::Added(mask)));
    added.chain(kept)
}

/// Whether a score of this dtype that is so low, or has so much added to it, has no weight.
fn hides(matcher: &Matcher<'_>, like: Value, number: f64) -> bool {
    number <= HIDDEN || (matcher.spec(like).dtype == Dtype::Float16 && number <= -65504.0)
}

impl Mask {
    /// Whether query i of L sees the first `i + 1 + keys - L` keys.
    fn is_causal(&self, matcher: &Matcher<'_>, queries: usize, keys: usize) -> bool {
        let first = keys as f64 - queries as f64;
        let positions = match *self {
            Mask::Kept { keep, hidden } if hidden.is_finite() || first >= 0.0 => {
                matcher.binary(Binary::GreaterEqual, matcher.unbroadcast(keep))
            }
            Mask::Kept { .. } => None,
            Mask::Added(mask) => {
                let mut factors = matcher.commuted(Binary::Mul, matcher.unbroadcast(mask));
                factors.find_map(|(later, number)| {
                    let number = matcher.scalar(number)?;
                    let Function::Cast(later) = matcher.function(later)? else {
                        return None;
                    };
                    let hidden = number.is_finite() && hides(matcher, mask, number);
                    hidden.then(|| matcher.binary(Binary::Less, later))?
                })
            }
        };
        positions.is_some_and(|(query, key)| {
            is_ramp(matcher, query, 1, first) && is_ramp(matcher, key, 0, 0.0)
        })
    }
}

/// Whether the value counts up from `first` along the axis that is followed by `inner` others.
fn is_ramp(matcher: &Matcher<'_>, value: Value, inner: usize, first: f64) -> bool {
    let value = matcher.unbroadcast(value);
    let mut others = matcher.shape(value).iter().rev().enumerate();
    if others.any(|(axis, &dim)| axis != inner && dim != 1) {
        return false;
    }
    let mut source = value;
    while let Some((View::Reshape, from)) = matcher.view(source) {
        source = from;
    }
    matches!(
        matcher.kernel(source),
        Some((&Kernel::Arange { start, next }, _)) if start == first && next == first + 1.0
    )
}

/// The factors of a plain product of matrices.
fn product(matcher: &Matcher<'_>, value: Value) -> Option<(Value, Value)> {
    match matcher.kernel(value)? {
        (
            Kernel::Matmul {
                alpha: 1.0,
                beta: None,
            },
            &[a, b],
        ) => Some((a, b)),
        _ => None,
    }
}

/// The dimensions of a batch, and those of its matrices.
fn matrix(shape: &[usize]) -> Option<(&[usize], [usize; 2])> {
    let (batch, matrix) = shape.split_last_chunk()?;
    Some((batch, *matrix))
}

/// What was broadcast along `axis` alone.
fn before_sharing(matcher: &Matcher<'_>, value: Value, axis: usize) -> Option<Value> {
    let Some((View::Broadcast, from)) = matcher.view(value) else {
        return None;
    };
    let mut shared = matcher.shape(value).clone();
    shared.dims_mut()[axis] = 1;
    (shared == *matcher.shape(from)).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::Kind;
    use crate::compile::passes::recognise;
    use crate::compile::testing::{Builder, add};
    use crate::program::expr::{binary, select, x, y, z};

    /// The attention that a softmax of products is taken for, where `hide` changes the scores.
    fn found(hide: impl Fn(&mut Builder, Value) -> Value) -> Option<Kernel> {
        let mut b = Builder::default();
        let [q, k, v] = [[2, 3, 8], [2, 8, 5], [2, 5, 4]].map(|shape| b.input(&shape));
        let product = || {
            Kind::Kernel(Kernel::Matmul {
                alpha: 1.0,
                beta: None,
            })
        };
        let scores = b.step("Matmul", product(), &[q, k], &[2, 3, 5]);
        let hidden = hide(&mut b, scores);
        let weights = b.softmax(hidden);
        let result = b.step("Matmul", product(), &[weights, v], &[2, 3, 4]);
        let steps = recognise(b.finish(&[result])).steps;
        steps.into_iter().find_map(|step| match step.kind {
            Kind::Kernel(kernel @ Kernel::Attention { .. }) => Some(kernel),
            _ => None,
        })
    }

    fn kernel(causal: bool, mask: bool) -> Option<Kernel> {
        Some(Kernel::Attention {
            scale: 1.0,
            causal,
            appended: false,
            mask,
            sinks: false,
        })
    }

    /// Scores where `first + row` is at least the column, else this number.
    fn kept(first: f64, number: f32) -> impl Fn(&mut Builder, Value) -> Value {
        move |b, scores| {
            let mut positions = |start: f64, shape: [usize; 2]| {
                let count = shape[0] * shape[1];
                let next = start + 1.0;
                let arange = Kind::Kernel(Kernel::Arange { start, next });
                let line = b.step("Arange", arange, &[], &[count]);
                let line = b.view(View::Reshape, line, &shape);
                b.view(View::Broadcast, line, &[3, 5])
            };
            let (query, key) = (positions(first, [3, 1]), positions(0.0, [1, 5]));
            let keep = b.elementwise(binary(Binary::GreaterEqual, x(), y()), &[query, key]);
            let keep = b.view(View::Broadcast, keep, &[2, 3, 5]);
            let number = b.constant(&[], &[number]);
            let number = b.view(View::Broadcast, number, &[2, 3, 5]);
            b.elementwise(select(x(), y(), z()), &[keep, scores, number])
        }
    }

    #[test]
    fn masks_hide_what_they_hide_in_the_kernel() {
        assert_eq!(found(|_, scores| scores), kernel(false, false));
        let added = found(|b, scores| {
            let mask = b.input(&[2, 3, 5]);
            b.elementwise(add(), &[mask, scores])
        });
        assert_eq!(added, kernel(false, true));
        assert_eq!(found(kept(2.0, f32::MIN)), kernel(true, false));
        assert_eq!(found(kept(2.0, f32::NEG_INFINITY)), kernel(true, false));
        // Not aligned at the end.
        assert_eq!(found(kept(0.0, f32::MIN)), kernel(false, true));
    }

    #[test]
    fn what_the_kernel_would_hide_otherwise_is_left() {
        // A number that scores may have, and one that leaves no weights.
        assert_eq!(found(kept(0.0, -10.0)), None);
        assert_eq!(found(kept(-1.0, f32::NEG_INFINITY)), None);
    }
}
