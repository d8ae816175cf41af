//! The gated delta rule: a linear attention that forgets.

use motet_core::array::Array;
use motet_core::array::apply::astype;
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::shape::Shape;

use crate::ops::{add, expand_dims, multiply, repeat, stack, subtract, sum, take, where_, zeros};

/// The gated delta rule over the steps of a sequence: a state, (Dv, Dk) for each head, forgets by
/// the gate, learns what it got wrong of the value that belongs to the key, and answers the query.
///
/// For each step, in float32: `state *= gate`, `state += (value - state @ key) * beta` (an outer
/// product with the key), `output = state @ query`.
///
/// `queries` and `keys` are (B, T, Hk, Dk), `values` (B, T, Hv, Dv), `gates` and `beta` (B, T, Hv), of
/// floats; Hv is a multiple of Hk, and head h of the values uses head `h / (Hv / Hk)` of keys and
/// queries. The state before the first step is `initial_state`, (B, Hv, Dv, Dk), or zero. A step that
/// `mask`, (B, T) of bools, leaves out does not change the state, and its output is zero.
///
/// The results are the outputs, (B, T, Hv, Dv) of the dtype of the queries, and the state after the
/// last step in float32.
///
/// # Errors
/// Where shapes do not fit, or there is no step.
///
/// ```
/// # use motet::{Array, fast};
/// let key = Array::from_slice(&[1.0f32, 0.0], [1, 1, 1, 2])?;
/// let value = Array::from_slice(&[3.0f32], [1, 1, 1, 1])?;
/// let one = Array::from_slice(&[1.0f32], [1, 1, 1])?;
/// let [y, state] = fast::gated_delta_update(&key, &key, &value, &one, &one, None, None)?;
/// assert_eq!(y.item::<f32>()?, 3.0);
/// assert_eq!(state.to_vec::<f32>()?, [3.0, 0.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gated_delta_update(
    queries: &Array,
    keys: &Array,
    values: &Array,
    gates: &Array,
    beta: &Array,
    initial_state: Option<&Array>,
    mask: Option<&Array>,
) -> Result<[Array; 2]> {
    check(queries, keys, values, gates, beta, initial_state, mask)?;
    let [steps, key_heads, key_dims] = [1, 2, 3].map(|axis| keys.shape()[axis]);
    let [batch, heads, value_dims] = [0, 2, 3].map(|axis| values.shape()[axis]);
    let shared = heads / key_heads;
    // Gates are rounded to the dtype of the queries, as by MLX.
    let [gates, beta] = [gates, beta].map(|x| astype(x, queries.dtype()));
    let (gates, beta) = (gates?, beta?);
    let mut state = match initial_state {
        Some(state) => astype(state, Dtype::Float32)?,
        None => zeros([batch, heads, value_dims, key_dims], None)?,
    };
    let mut outputs = Vec::with_capacity(steps);
    for step in 0..steps as i64 {
        let at = |x: &Array| take(x, step, 1);
        let float = |x: &Array| astype(&at(x)?, Dtype::Float32);
        // (B, Hv, 1, Dk)
        let of_heads = |x: &Array| expand_dims(&repeat(&float(x)?, shared, 1)?, 2);
        let (query, key) = (of_heads(queries)?, of_heads(keys)?);
        let faded = multiply(&state, expand_dims(&float(&gates)?, [2, 3])?)?;
        let known = sum(&multiply(&faded, &key)?, -1)?;
        let wrong = multiply(
            subtract(float(values)?, known)?,
            expand_dims(&float(&beta)?, 2)?,
        )?;
        let learnt = add(faded, multiply(expand_dims(&wrong, 3)?, key)?)?;
        let kept = mask.map(at).transpose()?;
        state = match &kept {
            Some(kept) => where_(&expand_dims(kept, [1, 2, 3])?, learnt, &state)?,
            None => learnt,
        };
        let output = sum(&multiply(&state, query)?, -1)?;
        outputs.push(match &kept {
            Some(kept) => where_(&expand_dims(kept, [1, 2])?, output, 0.0)?,
            None => output,
        });
    }
    let outputs = stack(&outputs, 1)?;
    Ok([astype(&outputs, queries.dtype())?, state])
}

fn check(
    queries: &Array,
    keys: &Array,
    values: &Array,
    gates: &Array,
    beta: &Array,
    initial_state: Option<&Array>,
    mask: Option<&Array>,
) -> Result<()> {
    let fits = match [keys, values].map(|x| <[usize; 4]>::try_from(&x.shape()[..])) {
        [
            Ok([batch, steps, key_heads, key_dims]),
            Ok([b, t, heads, value_dims]),
        ] => {
            let state = Shape::from([batch, heads, value_dims, key_dims]);
            (b, t) == (batch, steps)
                && steps > 0
                && key_heads > 0
                && heads % key_heads == 0
                && queries.shape() == keys.shape()
                && [gates, beta]
                    .iter()
                    .all(|x| **x.shape() == [batch, steps, heads])
                && initial_state.is_none_or(|x| *x.shape() == state)
                && mask.is_none_or(|x| **x.shape() == [batch, steps] && x.dtype() == Dtype::Bool)
        }
        _ => false,
    };
    match fits && queries.dtype().is_float() {
        true => Ok(()),
        false => {
            let inputs = [
                Some(queries),
                Some(keys),
                Some(values),
                Some(gates),
                Some(beta),
            ];
            let inputs = inputs.into_iter().chain([initial_state, mask]).flatten();
            let inputs: Vec<String> = inputs.map(|x| x.spec().to_string()).collect();
            Err(Error::invalid(
                "gated_delta_update",
                format!(
                    "got {}, expected queries and keys (B, T, Hk, Dk), values (B, T, Hv, Dv), gates \
                     and beta (B, T, Hv), a state (B, Hv, Dv, Dk) and a mask bool(B, T)",
                    inputs.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp<const N: usize>(shape: [usize; N], first: usize) -> Array {
        let number = |i: usize| (((i + first) * 7) % 11) as f32 / 8.0 - 0.5;
        let data: Vec<f32> = (0..shape.iter().product()).map(number).collect();
        Array::from_slice(&data, shape).unwrap()
    }

    fn inputs(steps: usize) -> [Array; 5] {
        [
            ramp([2, steps, 2, 4], 0),
            ramp([2, steps, 2, 4], 3),
            ramp([2, steps, 4, 3], 5),
            ramp([2, steps, 4], 1),
            ramp([2, steps, 4], 2),
        ]
    }

    /// Outputs and state, step by step and head by head.
    fn reference(inputs: &[Array; 5], mask: &[bool]) -> [Vec<f32>; 2] {
        let [q, k, v, gates, beta] = inputs.each_ref().map(|x| x.to_vec::<f32>().unwrap());
        let steps = inputs[0].shape()[1];
        let mut outputs = vec![0.0; 2 * steps * 4 * 3];
        let mut state = vec![0.0; 2 * 4 * 3 * 4];
        for (row, state) in state.chunks_mut(4).enumerate() {
            let (batch, head, dim) = (row / 12, row / 3 % 4, row % 3);
            for step in (0..steps).filter(|step| mask[batch * steps + step]) {
                let at = (batch * steps + step) * 4 + head;
                let keys = ((batch * steps + step) * 2 + head / 2) * 4;
                state.iter_mut().for_each(|s| *s *= gates[at]);
                let known: f32 = state.iter().zip(&k[keys..]).map(|(s, k)| s * k).sum();
                let wrong = (v[at * 3 + dim] - known) * beta[at];
                state
                    .iter_mut()
                    .zip(&k[keys..])
                    .for_each(|(s, k)| *s += wrong * k);
                outputs[at * 3 + dim] = state.iter().zip(&q[keys..]).map(|(s, q)| s * q).sum();
            }
        }
        [outputs, state]
    }

    fn close(got: [Array; 2], want: [Vec<f32>; 2]) {
        for (got, want) in got.into_iter().zip(want) {
            let got = got.to_vec::<f32>().unwrap();
            assert_eq!(got.len(), want.len());
            for (got, want) in got.into_iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    #[test]
    fn states_fade_and_learn() {
        let inputs = inputs(3);
        let [q, k, v, gates, beta] = &inputs;
        let run = |mask| gated_delta_update(q, k, v, gates, beta, None, mask).unwrap();
        close(run(None), reference(&inputs, &[true; 6]));
        let mask = [true, false, true, true, true, false];
        let array = Array::from_slice(&mask, [2, 3]).unwrap();
        close(run(Some(&array)), reference(&inputs, &mask));
    }

    #[test]
    fn a_sequence_may_come_in_parts() {
        let inputs = inputs(3);
        let part = |from: i64, to: i64| {
            let steps = crate::ops::arange(from, to, 1, None).unwrap();
            inputs.each_ref().map(|x| take(x, &steps, 1).unwrap())
        };
        let run = |[q, k, v, gates, beta]: &[Array; 5], state: Option<&Array>| {
            gated_delta_update(q, k, v, gates, beta, state, None).unwrap()
        };
        let [_, whole] = run(&inputs, None);
        let [_, first] = run(&part(0, 1), None);
        let [_, both] = run(&part(1, 3), Some(&first));
        assert_eq!(
            both.to_vec::<f32>().unwrap(),
            whole.to_vec::<f32>().unwrap()
        );
    }

    #[test]
    fn half_types_are_answered_in_their_dtype() {
        let [q, k, v, gates, beta] = inputs(2).map(|x| astype(&x, Dtype::Float16).unwrap());
        let [y, state] = gated_delta_update(&q, &k, &v, &gates, &beta, None, None).unwrap();
        assert_eq!([y.dtype(), state.dtype()], [Dtype::Float16, Dtype::Float32]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = inputs(2);
        for wrong in 0..5 {
            let mut inputs = good.clone();
            inputs[wrong] = ramp([2, 1, 3], 0);
            let [q, k, v, gates, beta] = &inputs;
            assert!(gated_delta_update(q, k, v, gates, beta, None, None).is_err());
        }
        let [q, k, v, gates, beta] = &good;
        let (state, mask) = (ramp([2, 4, 4, 3], 0), ramp([2, 2], 0));
        let run = |state, mask| gated_delta_update(q, k, v, gates, beta, state, mask);
        assert!(run(Some(&state), None).is_err() && run(None, Some(&mask)).is_err());
        let [q, k, v, gates, beta] = &inputs(0);
        assert!(gated_delta_update(q, k, v, gates, beta, None, None).is_err());
    }
}
