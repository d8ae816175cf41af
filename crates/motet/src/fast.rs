//! MLX's `fast`: operations of language models, each in one step.
//!
//! Left out are MLX's `metal_kernel` and `cuda_kernel`, which run GPU source code.

mod gated_delta;

use motet_core::array::apply::{apply_one, astype, broadcast_to};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::fast::{LayerNorm, RMSNorm, RoPE, ScaledDotProductAttention};
use motet_core::ops::indexing::GatherAxis;
use motet_core::ops::reduce::LogSumExp;
use motet_core::ops::shape::{ExpandDims, Squeeze};
use motet_core::shape::Shape;

use crate::ops::subtract;

pub use gated_delta::gated_delta_update;

/// `x / sqrt(mean(x²) + eps) * weight` over the last axis, in float32 inside for half types.
///
/// `x` is (..., N) of floats, `weight` (N); the result has the dtype that both promote to.
///
/// # Errors
/// Where `x` has no dimension, `weight` another shape, or the dtype is not floating.
///
/// ```
/// # use motet::{Array, fast};
/// let x = Array::from_slice(&[3.0f32, 4.0], [2])?;
/// let y = fast::rms_norm(&x, None, 0.0)?.to_vec::<f32>()?;
/// assert!((y[1] - 4.0 / 12.5f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    const NAME: &str = "rms_norm";
    let dtype = norm_dtype(NAME, x, [weight])?;
    let weight = norm_parameter(NAME, x, weight, 1.0, dtype)?;
    apply_one(RMSNorm { eps }, &[astype(x, dtype)?, weight])
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last axis, in float32 inside for
/// half types.
///
/// `x` is (..., N) of floats, `weight` and `bias` (N); the result has the dtype that all promote to.
///
/// # Errors
/// Where `x` has no dimension, `weight` or `bias` another shape, or the dtype is not floating.
///
/// ```
/// # use motet::{Array, fast};
/// let x = Array::from_slice(&[1.0f32, 3.0], [2])?;
/// let bias = Array::from_slice(&[10.0f32, 20.0], [2])?;
/// let y = fast::layer_norm(&x, None, Some(&bias), 0.0)?;
/// assert_eq!(y.to_vec::<f32>()?, [9.0, 21.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn layer_norm(
    x: &Array,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Array> {
    const NAME: &str = "layer_norm";
    let dtype = norm_dtype(NAME, x, [weight, bias])?;
    let weight = norm_parameter(NAME, x, weight, 1.0, dtype)?;
    let bias = norm_parameter(NAME, x, bias, 0.0, dtype)?;
    apply_one(LayerNorm { eps }, &[astype(x, dtype)?, weight, bias])
}

/// What x and its parameters promote to.
fn norm_dtype<'a>(
    name: &str,
    x: &Array,
    parameters: impl IntoIterator<Item = Option<&'a Array>>,
) -> Result<Dtype> {
    let parameters = parameters.into_iter().flatten();
    let dtype = parameters.fold(x.dtype(), |dtype, array| dtype.promote(array.dtype()));
    match dtype.is_float() && !x.shape().is_empty() {
        true => Ok(dtype),
        false => Err(Error::invalid(
            name,
            format!(
                "got {} and the dtype {dtype}, expected rows of floats",
                x.spec()
            ),
        )),
    }
}

/// A parameter, or the scalar that stands for an absent one.
fn norm_parameter(
    name: &str,
    x: &Array,
    parameter: Option<&Array>,
    absent: f64,
    dtype: Dtype,
) -> Result<Array> {
    let Some(parameter) = parameter else {
        return Operand::Float(absent).into_array(dtype);
    };
    let row = &x.shape()[x.shape().len() - 1..];
    match **parameter.shape() == *row {
        true => astype(parameter, dtype),
        false => Err(Error::invalid(
            name,
            format!(
                "got weights or biases of shape {}, expected {} as the rows of {} are",
                parameter.shape(),
                Shape::from(row),
                x.spec()
            ),
        )),
    }
}

/// How [`rope`] rotates.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Pairs are neighbours, rather than an element of the first and one of the second half.
    pub traditional: bool,
    /// How fast pairs rotate.
    pub frequencies: Frequencies,
    /// Scale of positions.
    pub scale: f32,
}

/// How fast the pairs of [`rope`] rotate: MLX's `base` or `freqs`.
#[derive(Clone, Debug)]
pub enum Frequencies {
    /// Pair i by `position * base^(-2i / dims)`.
    Base(f32),
    /// Pair i by `position / freqs[i]`; of shape (dims / 2).
    Freqs(Array),
}

impl Default for Rope {
    /// Pairs from both halves, base 10 000, positions as they are.
    fn default() -> Rope {
        Rope {
            traditional: false,
            frequencies: Frequencies::Base(10_000.0),
            scale: 1.0,
        }
    }
}

/// Rotary position embedding: rotates pairs of the first `dims` elements of each row by angles that
/// grow with the row's position.
///
/// `x` is (B, ..., T, D) of floats; the position of row t is t plus `offset`: an integer, or an array
/// of one or of B integers. The result is as `x`.
///
/// # Errors
/// Where `x` has less than three dimensions or is not floating, `dims` is not even, zero or larger
/// than D, or the offset or frequencies have another shape or are not integers and numbers.
///
/// ```
/// # use motet::{Array, fast};
/// let x = Array::from_slice(&[1.0f32, 0.0, 1.0, 0.0], [1, 2, 2])?;
/// let y = fast::rope(&x, 2, 0, fast::Rope::default())?.to_vec::<f32>()?;
/// assert_eq!(y[..2], [1.0, 0.0]);
/// assert!((y[2] - 1f32.cos()).abs() < 1e-6 && (y[3] - 1f32.sin()).abs() < 1e-6);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn rope(x: &Array, dims: i32, offset: impl Into<Operand>, options: Rope) -> Result<Array> {
    let offset = offset.into();
    let too_large = matches!(offset, Operand::Int(value) if i32::try_from(value).is_err());
    let offset = offset.into_own_array()?;
    if too_large || !offset.dtype().is_integer() {
        return Err(Error::invalid(
            "rope",
            format!(
                "got the offset {}, expected integers of 32 bits",
                offset.spec()
            ),
        ));
    }
    let freqs = match &options.frequencies {
        Frequencies::Base(_) => None,
        Frequencies::Freqs(freqs) => Some(astype(freqs, Dtype::Float32)?),
    };
    let op = RoPE {
        dims,
        traditional: options.traditional,
        base: match options.frequencies {
            Frequencies::Base(base) => base,
            Frequencies::Freqs(_) => 1.0,
        },
        scale: options.scale,
        forward: true,
    };
    let inputs = [x.clone(), astype(&offset, Dtype::Int32)?];
    let inputs: Vec<Array> = inputs.into_iter().chain(freqs).collect();
    apply_one(op, &inputs)
}

/// Which keys the queries of [`scaled_dot_product_attention`] see.
#[derive(Clone, Debug)]
pub enum AttentionMask {
    /// The last query sees all keys, each query before it one key less.
    Causal,
    /// Of a shape that broadcasts to (B, H, L, keys): bools keep where true, numbers are added to
    /// the scores.
    Array(Array),
}

/// `softmax(scale * queries @ keysᵀ + mask) @ values` for each head, in float32 inside for half
/// types, without storing the scores.
///
/// `queries` is (B, H, L, D), `keys` (B, G, M, D), `values` (B, G, M, E), of floats; H is a multiple
/// of G, and query head h uses key head `h / (H / G)`. `sinks`, of shape (H), are scores that no
/// value belongs to. The result is (B, H, L, E) of the dtype that queries, keys and values promote to.
/// A query that sees no key gets the mean of all values, or zero where there are sinks.
///
/// # Errors
/// Where shapes do not fit, the dtype is not floating, or mask or sinks do not promote to it.
///
/// ```
/// # use motet::{Array, fast};
/// let q = Array::from_slice(&[1.0f32, 0.0], [1, 1, 1, 2])?;
/// let k = Array::from_slice(&[0.0f32, 1.0, 0.0, -1.0], [1, 1, 2, 2])?;
/// let v = Array::from_slice(&[3.0f32, 5.0], [1, 1, 2, 1])?;
/// let y = fast::scaled_dot_product_attention(&q, &k, &v, 1.0, None, None)?;
/// assert_eq!(y.item::<f32>()?, 4.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn scaled_dot_product_attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: Option<AttentionMask>,
    sinks: Option<&Array>,
) -> Result<Array> {
    const NAME: &str = "scaled_dot_product_attention";
    let operands = [queries, keys, values];
    let dtypes = operands.map(Array::dtype);
    let dtype = dtypes.into_iter().fold(dtypes[0], Dtype::promote);
    let mut inputs = Vec::with_capacity(5);
    for operand in operands {
        inputs.push(astype(operand, dtype)?);
    }
    let converted = |what: &str, array: &Array| match array.dtype().promote(dtype) == dtype {
        true => astype(array, dtype),
        false => Err(Error::invalid(
            NAME,
            format!(
                "got {what} {}, expected what promotes to {dtype}",
                array.spec()
            ),
        )),
    };
    let causal = matches!(mask, Some(AttentionMask::Causal));
    if let Some(AttentionMask::Array(mask)) = mask {
        let mask = match mask.dtype() {
            Dtype::Bool => mask,
            _ => converted("a mask", &mask)?,
        };
        let lengths = operands.map(|operand| operand.shape().get(2).copied());
        let scores = match (&queries.shape()[..], lengths) {
            (&[batch, heads, length, _], [_, Some(keys), _]) => [batch, heads, length, keys],
            // The primitive says what is wrong.
            _ => [0; 4],
        };
        inputs.push(broadcast_to(&mask, &scores.into()).map_err(|error| {
            error.context(NAME, format!("the mask {} does not fit", mask.spec()))
        })?);
    }
    if let Some(sinks) = sinks {
        inputs.push(converted("sinks", sinks)?);
    }
    let op = ScaledDotProductAttention {
        scale,
        causal,
        has_sinks: sinks.is_some(),
        output_logsumexp: false,
        force_fused: false,
    };
    apply_one(op, &inputs)
}

/// `logsumexp(logits) - logits[target]` over the last axis: the loss of predicting classes.
///
/// `logits` is (..., N) of any real dtype, `targets` (...) of integers in 0..N; the result is float32
/// of the shape of `targets`.
///
/// # Errors
/// Where shapes do not fit or targets are not integers; when evaluated, where one is out of range.
///
/// ```
/// # use motet::{Array, fast};
/// let logits = Array::from_slice(&[0.0f32, 0.0], [1, 2])?;
/// let loss = fast::cross_entropy(&logits, &Array::from_slice(&[1], [1])?)?;
/// assert!((loss.item::<f32>()? - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    let batch = logits.shape().split_last().map(|(_, batch)| batch);
    if batch != Some(targets.shape()) || !targets.dtype().is_integer() {
        return Err(Error::invalid(
            "cross_entropy",
            format!(
                "got logits {} and targets {}, expected (..., classes) and integers of shape (...)",
                logits.spec(),
                targets.spec()
            ),
        ));
    }
    let logits = astype(logits, Dtype::Float32)?;
    let last = || vec![targets.shape().len() as i32];
    let column = apply_one(ExpandDims { axes: last() }, std::slice::from_ref(targets))?;
    let chosen = apply_one(GatherAxis { axis: last()[0] }, &[logits.clone(), column])?;
    let loss = subtract(&apply_one(LogSumExp, &[logits])?, &chosen)?;
    apply_one(Squeeze { axes: last() }, &[loss])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        let data: Vec<f32> = (0..shape.size()).map(|i| (i % 7) as f32 - 3.0).collect();
        Array::from_slice(&data, shape).unwrap()
    }

    fn message(result: Result<Array>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn norms_promote_and_check_their_parameters() {
        let x = ramp([2, 3]);
        let half = astype(&x, Dtype::Float16).unwrap();
        let w = ramp([3]);
        assert_eq!(rms_norm(&half, None, 1e-5).unwrap().dtype(), Dtype::Float16);
        assert_eq!(
            rms_norm(&half, Some(&w), 1e-5).unwrap().dtype(),
            Dtype::Float32
        );
        let ones = Array::from_slice(&[1.0f32; 3], [3]).unwrap();
        let ones = astype(&ones, Dtype::Float16).unwrap();
        let both = layer_norm(&x, Some(&ones), Some(&w), 1e-5).unwrap();
        let plain = layer_norm(&x, None, None, 1e-5)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        for (i, both) in both.to_vec::<f32>().unwrap().into_iter().enumerate() {
            assert_eq!(both, plain[i] + ((i % 3) as f32 - 3.0));
        }
        assert!(message(rms_norm(&x, Some(&ramp([2])), 1e-5)).contains("rms_norm"));
        assert!(layer_norm(&x, Some(&ramp([1, 3])), None, 1e-5).is_err());
        assert!(rms_norm(&Array::from(1.0f32), None, 1e-5).is_err());
        assert!(rms_norm(&astype(&x, Dtype::Int32).unwrap(), None, 1e-5).is_err());
    }

    /// Results of MLX 0.32.4.
    #[test]
    fn rotations_agree_with_mlx() {
        let x = Array::from_slice(&[0.0f32, 1.0, 2.0, 3.0], [1, 1, 4]).unwrap();
        let y = rope(&x, 4, 3, Rope::default()).unwrap();
        let want = [-0.28224, 0.909564, -1.97998, 3.02865];
        for (got, want) in y.to_vec::<f32>().unwrap().into_iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
        let freqs = Frequencies::Freqs(Array::from_slice(&[1.0f32, 100.0], [2]).unwrap());
        let options = Rope {
            frequencies: freqs,
            ..Rope::default()
        };
        let offset = Array::from_slice(&[3u8], [1]).unwrap();
        let again = rope(&x, 4, &offset, options)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        for (got, want) in again.into_iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }

    #[test]
    fn rotations_refuse_what_does_not_fit() {
        let x = ramp([2, 3, 4]);
        let rope = |x: &Array, dims, offset: Operand| rope(x, dims, offset, Rope::default());
        assert!(rope(&x, 4, 0.into()).is_ok());
        assert!(rope(&x, 4, 0.5.into()).is_err());
        assert!(rope(&x, 4, (1i64 << 40).into()).is_err());
        assert!(rope(&x, 4, Array::from(5i64).into()).is_ok());
        assert!(rope(&x, 4, ramp([2]).into()).is_err());
        assert!(rope(&x, 3, 0.into()).is_err());
        assert!(rope(&ramp([3, 4]), 4, 0.into()).is_err());
    }

    #[test]
    fn masks_say_the_same_as_bools_as_numbers_and_as_an_order() {
        let (q, k) = (ramp([1, 2, 3, 4]), ramp([1, 1, 5, 4]));
        let attend = |mask| {
            let out = scaled_dot_product_attention(&q, &k, &k, 0.5, mask, None).unwrap();
            assert_eq!(out.spec().to_string(), q.spec().to_string());
            out.to_vec::<f32>().unwrap()
        };
        let keep: Vec<bool> = (0..15).map(|i| i % 5 <= i / 5 + 2).collect();
        let added: Vec<f32> = keep
            .iter()
            .map(|&k| if k { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let keep = Array::from_slice(&keep, [3, 5]).unwrap();
        let added = Array::from_slice(&added, [1, 1, 3, 5]).unwrap();
        let causal = attend(Some(AttentionMask::Causal));
        assert_eq!(attend(Some(AttentionMask::Array(keep))), causal);
        assert_eq!(attend(Some(AttentionMask::Array(added))), causal);
        assert_ne!(attend(None), causal);
    }

    #[test]
    fn attention_refuses_what_does_not_fit() {
        let q = ramp([1, 2, 3, 4]);
        let half = astype(&q, Dtype::Float16).unwrap();
        let attend = |q: &Array, k: &Array, mask: Option<Array>, sinks: Option<&Array>| {
            let mask = mask.map(AttentionMask::Array);
            scaled_dot_product_attention(q, k, k, 1.0, mask, sinks)
        };
        assert_eq!(
            attend(&half, &q, None, None).unwrap().dtype(),
            Dtype::Float32
        );
        assert!(message(attend(&q, &q, Some(ramp([2])), None)).contains("mask"));
        assert!(message(attend(&half, &half, Some(ramp([3])), None)).contains("promotes"));
        assert!(attend(&q, &q, None, Some(&ramp([3]))).is_err());
        assert!(attend(&q, &q, None, Some(&ramp([2]))).is_ok());
        assert!(attend(&ramp([2, 3]), &q, Some(ramp([3])), None).is_err());
        assert!(attend(&q, &ramp([1, 3, 3, 4]), None, None).is_err());
    }

    #[test]
    fn losses_check_their_targets() {
        let logits = ramp([2, 5]);
        let loss = |targets: &[i32]| {
            let targets = Array::from_slice(targets, [targets.len()]).unwrap();
            cross_entropy(&logits, &targets).and_then(|loss| loss.to_vec::<f32>())
        };
        let rows = logits.to_vec::<f32>().unwrap();
        let got = loss(&[1, 4]).unwrap();
        for (row, (target, got)) in rows.chunks(5).zip([1, 4].into_iter().zip(got)) {
            let sum: f32 = row.iter().map(|x| x.exp()).sum();
            assert!((got - (sum.ln() - row[target])).abs() < 1e-5);
        }
        assert!(loss(&[1]).is_err() && loss(&[1, 5]).is_err());
        assert!(cross_entropy(&logits, &ramp([2])).is_err());
    }
}
