//! The plain forms of the primitives of `fast`.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, astype};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::ops::fast::{
    LayerNorm, LayerNormVJP, RMSNorm, RMSNormVJP, RoPE, ScaledDotProductAttention,
};
use motet_core::ops::reduce::Softmax;

use crate::ops::{
    add, arange, broadcast_to, concatenate, cos, divide, exp, expand_dims, flatten, greater_equal,
    keepdims, matmul, mean, multiply, negative, reshape, rsqrt, sin, slice, square, subtract, sum,
    swapaxes, unflatten, where_, zeros_like,
};

/// Rows that are normalised, in float32 where they are of a half type.
struct Rows {
    /// The rows, moved to mean zero where that is part of it.
    x: Array,
    /// One over the root of their mean square.
    scale: Array,
    center: bool,
}

impl Rows {
    fn new(x: &Array, eps: f32, center: bool) -> Result<Rows> {
        let mut x = astype(x, x.dtype().promote(Dtype::Float32))?;
        if center {
            x = subtract(&x, mean(&x, keepdims(-1))?)?;
        }
        let scale = rsqrt(add(mean(&square(&x)?, keepdims(-1))?, eps)?)?;
        Ok(Rows { x, scale, center })
    }

    fn normal(&self) -> Result<Array> {
        multiply(&self.x, &self.scale)
    }

    /// The gradient of the rows for that of the output.
    fn gradient(&self, w: &Array, g: &Array) -> Result<Array> {
        let mut g = multiply(astype(g, self.x.dtype())?, w)?;
        let along = mean(&multiply(&g, &self.x)?, keepdims(-1))?;
        let along = multiply(along, multiply(square(&self.scale)?, &self.scale)?)?;
        if self.center {
            g = subtract(&g, mean(&g, keepdims(-1))?)?;
        }
        subtract(multiply(g, &self.scale)?, multiply(&self.x, along)?)
    }

    fn weight_gradient(&self, w: &Array, g: &Array) -> Result<Array> {
        over_rows(&multiply(self.normal()?, g)?, w)
    }
}

/// The gradient of a parameter from those of each row; zero for a scalar, which stands for an
/// absent one.
fn over_rows(g: &Array, parameter: &Array) -> Result<Array> {
    if parameter.ndim() == 0 {
        return zeros_like(parameter, None);
    }
    let rows: Vec<i32> = (0..g.ndim() as i32 - 1).collect();
    sum(&astype(g, g.dtype().promote(Dtype::Float32))?, rows)
}

pub(super) fn rms_norm(op: &RMSNorm, x: &Array, w: &Array) -> Result<Array> {
    let normal = Rows::new(x, op.eps, false)?.normal()?;
    multiply(astype(&normal, x.dtype())?, w)
}

pub(super) fn layer_norm(op: &LayerNorm, x: &Array, w: &Array, b: &Array) -> Result<Array> {
    let normal = Rows::new(x, op.eps, true)?.normal()?;
    add(multiply(astype(&normal, x.dtype())?, w)?, b)
}

pub(super) fn rms_norm_vjp(op: &RMSNormVJP, x: &Array, w: &Array, g: &Array) -> Result<Vec<Array>> {
    let rows = Rows::new(x, op.eps, false)?;
    Ok(vec![rows.gradient(w, g)?, rows.weight_gradient(w, g)?])
}

pub(super) fn layer_norm_vjp(
    op: &LayerNormVJP,
    x: &Array,
    w: &Array,
    b: &Array,
    g: &Array,
) -> Result<Vec<Array>> {
    let rows = Rows::new(x, op.eps, true)?;
    let (dx, dw) = (rows.gradient(w, g)?, rows.weight_gradient(w, g)?);
    Ok(vec![dx, dw, over_rows(g, b)?])
}

pub(super) fn rope(op: &RoPE, x: &Array, offset: &Array, periods: Option<&Array>) -> Result<Array> {
    let half = op.dims / 2;
    let length = x.shape()[x.ndim() - 2] as i64;
    let offset = match offset.size() {
        1 => reshape(offset, [])?,
        // Those of batches, before what is between batches and rows.
        batches => reshape(
            offset,
            [&[batches as i32][..], &vec![1; x.ndim() - 2]].concat(),
        )?,
    };
    let positions = arange(0, length, 1, Dtype::Float32)?;
    let positions = multiply(add(positions, astype(&offset, Dtype::Float32)?)?, op.scale)?;
    let speeds = match periods {
        Some(periods) => divide(1.0, periods)?,
        None => {
            let step = op.base.ln() / half as f32;
            exp(multiply(arange(0, -half, -1, Dtype::Float32)?, step)?)?
        }
    };
    let angles = multiply(expand_dims(&positions, -1)?, speeds)?;
    let cosines = astype(&cos(&angles)?, x.dtype())?;
    let sines = astype(&sin(&angles)?, x.dtype())?;
    let sines = if op.forward { sines } else { negative(sines)? };

    let [a, b] = match op.traditional {
        true => [elements(x, 0, op.dims, 2)?, elements(x, 1, op.dims, 2)?],
        false => [elements(x, 0, half, 1)?, elements(x, half, op.dims, 1)?],
    };
    let turned = [
        subtract(multiply(&a, &cosines)?, multiply(&b, &sines)?)?,
        add(multiply(&a, &sines)?, multiply(&b, &cosines)?)?,
    ];
    let mut parts = match op.traditional {
        true => {
            let [a, b] = turned.each_ref().map(|part| expand_dims(part, -1));
            vec![flatten(&concatenate(&[a?, b?], -1)?, -2, -1)?]
        }
        false => turned.to_vec(),
    };
    let end = x.shape()[x.ndim() - 1] as i32;
    if end > op.dims {
        parts.push(elements(x, op.dims, end, 1)?);
    }
    concatenate(&parts, -1)
}

/// Elements of each row.
fn elements(x: &Array, start: i32, stop: i32, stride: i32) -> Result<Array> {
    let mut stops: Vec<i32> = x.shape().iter().map(|&dim| dim as i32).collect();
    let (mut starts, mut strides) = (vec![0; x.ndim()], vec![1; x.ndim()]);
    let last = x.ndim() - 1;
    (starts[last], stops[last], strides[last]) = (start, stop, stride);
    slice(x, starts, stops, strides)
}

/// `more` are the mask and the sinks, where there are such.
pub(super) fn attention(
    op: &ScaledDotProductAttention,
    q: &Array,
    k: &Array,
    v: &Array,
    more: &[Array],
) -> Result<Array> {
    let (mask, sinks) = more.split_at(more.len() - usize::from(op.has_sinks));
    let [queries, keys] = [q, k].map(|x| x.shape()[2] as i64);
    // Where several heads of queries share one of keys they get a dimension of their own.
    let heads = [k.shape()[1] as i32, (q.shape()[1] / k.shape()[1]) as i32];
    let apart = |x: &Array, axis: i32| match (heads[1], x.shape()[axis as usize]) {
        (1, _) => Ok(x.clone()),
        (_, 1) => expand_dims(x, axis),
        _ => unflatten(x, axis, heads),
    };
    let shared = |x: &Array| match heads[1] {
        1 => Ok(x.clone()),
        _ => expand_dims(x, 2),
    };
    let q = apart(&multiply(q, op.scale)?, 1)?;
    let mut scores = matmul(&q, &swapaxes(&shared(k)?, -1, -2)?)?;
    let unseen = lowest(scores.dtype());
    if op.causal {
        let last = arange(keys - queries, keys, 1, Dtype::Int32)?;
        let seen = greater_equal(expand_dims(&last, 1)?, arange(0, keys, 1, Dtype::Int32)?)?;
        scores = where_(&seen, &scores, unseen)?;
    }
    if let [mask] = mask {
        let mask = match mask.ndim() as i32 - 3 {
            axis if axis >= 0 => apart(mask, axis)?,
            _ => mask.clone(),
        };
        scores = match mask.dtype() {
            Dtype::Bool => where_(&mask, &scores, unseen)?,
            _ => add(&scores, &mask)?,
        };
    }
    let softmax = |scores: Array| apply_one(Softmax { precise: true }, &[scores]);
    let weights = match sinks {
        [sinks] => {
            let sinks = apart(&expand_dims(sinks, [0, 2, 3])?, 1)?;
            let mut shape = scores.shape().clone();
            shape.dims_mut()[scores.ndim() - 1] = 1;
            let sinks = broadcast_to(&sinks, shape)?;
            let weights = softmax(concatenate(&[sinks, scores], -1)?)?;
            elements(&weights, 1, keys as i32 + 1, 1)?
        }
        _ => softmax(scores)?,
    };
    let y = matmul(&weights, &shared(v)?)?;
    match heads[1] {
        1 => Ok(y),
        _ => flatten(&y, 1, 2),
    }
}

/// The least finite number: the score of what is not seen.
fn lowest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float16 => half::f16::MIN.to_f64(),
        Dtype::Bfloat16 => half::bf16::MIN.to_f64(),
        Dtype::Float32 => f32::MIN.into(),
        _ => f64::MIN,
    }
}
