//! MLX's `fast` primitives: what exports from a GPU have instead of chains of plain operations.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation, State, same_dtype, with_dim};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::{Kernel, Rope};
use crate::shape::{Shape, Spec};

operation! {
    /// Rows divided by the root of their mean square, times the weights; inputs x, w. Absent
    /// weights are a scalar one.
    RMSNorm {
        /// Added to the mean square.
        eps: f32,
    }
}

operation! {
    /// Rows moved to mean zero and scaled to variance one, times weights, plus biases; inputs x, w,
    /// b. Absent weights are a scalar one, absent biases a scalar zero.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    }
}

operation! {
    /// Gradients of [`RMSNorm`]; inputs x, w, g (that of its output), outputs those of x and w.
    RMSNormVJP {
        /// Added to the mean square.
        eps: f32,
    }
}

operation! {
    /// Gradients of [`LayerNorm`]; inputs x, w, b, g (that of its output), outputs those of x, w, b.
    LayerNormVJP {
        /// Added to the variance.
        eps: f32,
    }
}

operation! {
    /// Rotary position embedding of (..., T, D); inputs x, offsets and, where angles do not follow
    /// from a base, the period of each pair.
    RoPE {
        /// Elements of each row that are rotated; those behind them are passed on.
        dims: i32,
        /// Pairs are neighbours, rather than of the first and the second half.
        traditional: bool,
        /// What the angles are powers of.
        base: f32,
        /// Scale of positions.
        scale: f32,
        /// Rotate forward; else back.
        forward: bool,
    }
}

operation! {
    /// `softmax(scale * q @ kᵀ + mask) @ v` for each head; inputs q, k, v, then the mask and the
    /// sinks, where there are such.
    ScaledDotProductAttention {
        /// Scale of the scores.
        scale: f32,
        /// The last query sees all keys, each one before it one key less.
        causal: bool => since (0, 24, 0) or false,
        /// The last input is a score for each head that no value belongs to.
        has_sinks: bool => since (0, 29, 1) or false,
        /// There is a second output, for training.
        output_logsumexp: bool => since (0, 30, 0) or false,
        /// Which of MLX's GPU kernels is used.
        force_fused: bool => since (0, 32, 2) or false,
    }
}

/// Checks x, and that each of `parameters` is a scalar or as long as x's rows.
fn check_norm<T: State>(x: &Spec, parameters: &[Spec]) -> Result<()> {
    let Some(&row) = x.shape.last().filter(|_| x.dtype.is_float()) else {
        return Err(T::error(format!("got {x}, expected rows of floats")));
    };
    for parameter in parameters {
        let fits = parameter.shape.is_empty() || *parameter.shape == [row];
        if !fits || parameter.dtype != x.dtype {
            return Err(T::error(format!(
                "got weights or biases {parameter}, expected {} of shape ({row}) or ()",
                x.dtype
            )));
        }
    }
    Ok(())
}

/// Checks the inputs of a gradient: x, its parameters, and the gradient of the output.
fn check_norm_vjp<T: State>(inputs: &[Spec]) -> Result<Vec<Spec>> {
    let (gradient, inputs) = inputs.split_last().expect("arity was checked");
    check_norm::<T>(&inputs[0], &inputs[1..])?;
    match *gradient == inputs[0] {
        true => Ok(inputs.to_vec()),
        false => Err(T::error(format!(
            "got a gradient {gradient}, expected {} as the output is",
            inputs[0]
        ))),
    }
}

/// Inputs for samples: x, and `parameters` arrays as long as its rows or scalars.
fn norm_samples(parameters: usize) -> Vec<Vec<Spec>> {
    let mut samples = Vec::new();
    let mut add = |x: &[usize], parameter: &[usize], dtype| {
        let mut inputs = vec![Spec::new(parameter, dtype); 1 + parameters];
        inputs[0] = Spec::new(x, dtype);
        samples.push(inputs);
    };
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
        add(&[2, 3, 33], &[33], dtype);
    }
    add(&[5, 16], &[], Dtype::Float32);
    add(&[7], &[7], Dtype::Float32);
    add(&[3, 0], &[0], Dtype::Float32);
    samples
}

/// Rules of a normalisation with `$parameters` parameters, and of its gradients.
macro_rules! norms {
    ($($norm:ident $vjp:ident: $parameters:literal, center $center:literal;)*) => {$(
        impl Operation for $norm {
            fn arity(&self) -> RangeInclusive<usize> {
                1 + $parameters..=1 + $parameters
            }

            fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
                check_norm::<Self>(&inputs[0], &inputs[1..])?;
                Ok(vec![inputs[0].clone()])
            }

            fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
                let (eps, center) = (self.eps, $center);
                Ok(Lowered::Kernel(Kernel::Norm { eps, center }))
            }

            fn samples() -> Vec<(Self, Vec<Spec>)> {
                let samples = norm_samples($parameters).into_iter();
                samples.map(|inputs| ($norm { eps: 1e-5 }, inputs)).collect()
            }
        }

        impl Operation for $vjp {
            fn arity(&self) -> RangeInclusive<usize> {
                2 + $parameters..=2 + $parameters
            }

            fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
                check_norm_vjp::<Self>(inputs)
            }

            fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
                let (eps, center) = (self.eps, $center);
                Ok(Lowered::Kernel(Kernel::NormVjp { eps, center }))
            }

            fn samples() -> Vec<(Self, Vec<Spec>)> {
                let with_gradient = |mut inputs: Vec<Spec>| {
                    inputs.push(inputs[0].clone());
                    ($vjp { eps: 1e-5 }, inputs)
                };
                norm_samples($parameters).into_iter().map(with_gradient).collect()
            }
        }
    )*};
}

norms! {
    RMSNorm RMSNormVJP: 1, center false;
    LayerNorm LayerNormVJP: 2, center true;
}

impl Operation for RoPE {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (x, offset) = (&inputs[0], &inputs[1]);
        let rank = x.shape.len();
        if rank < 3 || !x.dtype.is_float() {
            return Err(Self::error(format!(
                "got {x}, expected (..., T, D) of floats, with a batch dimension before"
            )));
        }
        let dims = match usize::try_from(self.dims) {
            Ok(dims) if dims > 0 && dims % 2 == 0 && dims <= x.shape[rank - 1] => dims,
            _ => {
                return Err(Self::error(format!(
                    "{} elements of a row of {x} are to be rotated; expected an even number of those \
                     that there are",
                    self.dims
                )));
            }
        };
        let fits = offset.shape.is_empty() || *offset.shape == [1] || *offset.shape == x.shape[..1];
        if !fits || !matches!(offset.dtype, Dtype::Int32 | Dtype::Uint32) {
            return Err(Self::error(format!(
                "got offsets {offset}, expected int32 of shape () or ({})",
                x.shape[0]
            )));
        }
        match inputs.get(2) {
            Some(freqs) if *freqs != Spec::new([dims / 2], Dtype::Float32) => {
                Err(Self::error(format!(
                    "got frequencies {freqs}, expected float32 of shape ({})",
                    dims / 2
                )))
            }
            _ => Ok(vec![x.clone()]),
        }
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Rope(Rope {
            dims: self.dims as usize,
            traditional: self.traditional,
            base: (inputs.len() == 2).then_some(self.base),
            scale: self.scale,
            forward: self.forward,
        })))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |dims: i32, traditional, forward, x: Spec, offset: &[usize], freqs: bool| {
            let op = RoPE {
                dims,
                traditional,
                base: 10_000.0,
                scale: 0.5,
                forward,
            };
            let mut inputs = vec![x, Spec::new(offset, Dtype::Int32)];
            inputs.extend(freqs.then(|| Spec::new([dims as usize / 2], Dtype::Float32)));
            (op, inputs)
        };
        let x = |dtype| Spec::new([2, 3, 5, 8], dtype);
        let mut samples = Vec::new();
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            samples.push(sample(8, false, true, x(dtype), &[], false));
            samples.push(sample(6, true, false, x(dtype), &[2], true));
        }
        let long = Spec::new([1, 70, 64], Dtype::Float32);
        samples.push(sample(64, false, true, long, &[1], false));
        let empty = Spec::new([2, 0, 4], Dtype::Float32);
        samples.push(sample(4, false, true, empty, &[2], false));
        samples
    }
}

impl ScaledDotProductAttention {
    /// The inputs behind q, k and v: mask and sinks.
    fn mask_and_sinks<'a>(&self, inputs: &'a [Spec]) -> (Option<&'a Spec>, Option<&'a Spec>) {
        let (mask, sinks) = inputs[3..].split_at(inputs.len() - 3 - usize::from(self.has_sinks));
        (mask.first(), sinks.first())
    }
}

impl Operation for ScaledDotProductAttention {
    fn arity(&self) -> RangeInclusive<usize> {
        let required = 3 + usize::from(self.has_sinks);
        required..=required + 1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        if self.output_logsumexp {
            return Err(Error::unsupported(
                Self::NAME,
                "its second output, which training uses, is not implemented",
            ));
        }
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        same_dtype(Self::NAME, &inputs[..3])?;
        let [
            [qb, heads, queries, qd],
            [kb, kv_heads, keys, kd],
            [vb, vh, vl, vd],
        ] = match [&*q.shape, &*k.shape, &*v.shape].map(<[usize; 4]>::try_from) {
            [Ok(q), Ok(k), Ok(v)] if inputs[0].dtype.is_float() => [q, k, v],
            _ => {
                return Err(Self::error(format!(
                    "got {q}, {k} and {v}, expected floats of shape (batch, heads, length, \
                         features)"
                )));
            }
        };
        let fits = (qb, qd) == (kb, kd) && (kb, kv_heads, keys) == (vb, vh, vl);
        if !fits || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(Self::error(format!(
                "queries {}, keys {} and values {} do not fit: the heads of queries have to be a \
                 multiple of those of keys and values, and the features of queries and keys, and \
                 the lengths of keys and values, the same",
                q.shape, k.shape, v.shape
            )));
        }
        let (mask, sinks) = self.mask_and_sinks(inputs);
        if let Some(mask) = mask {
            let scores = Shape::from([qb, heads, queries, keys]);
            let fits = mask
                .shape
                .broadcast(&scores)
                .is_ok_and(|shape| shape == scores);
            if !fits || (mask.dtype != Dtype::Bool && mask.dtype != q.dtype) {
                return Err(Self::error(format!(
                    "got a mask {mask}, expected bool or {} that broadcasts to {scores}",
                    q.dtype
                )));
            }
        }
        match sinks {
            Some(sinks) if *sinks != Spec::new([heads], q.dtype) => Err(Self::error(format!(
                "got sinks {sinks}, expected {} of shape ({heads})",
                q.dtype
            ))),
            _ => Ok(vec![Spec::new(with_dim(&q.shape, 3, vd), q.dtype)]),
        }
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let (mask, sinks) = self.mask_and_sinks(inputs);
        Ok(Lowered::Kernel(Kernel::Attention {
            scale: self.scale,
            causal: self.causal,
            appended: false,
            mask: mask.is_some(),
            sinks: sinks.is_some(),
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |dtype, causal, mask: Option<(&[usize], Dtype)>, has_sinks: bool| {
            let op = ScaledDotProductAttention {
                scale: 0.3,
                causal,
                has_sinks,
                output_logsumexp: false,
                force_fused: false,
            };
            let shapes = [[2, 6, 5, 8], [2, 2, 9, 8], [2, 2, 9, 7]];
            let mut inputs = shapes.map(|shape| Spec::new(shape, dtype)).to_vec();
            inputs.extend(mask.map(|(shape, dtype)| Spec::new(shape, dtype)));
            inputs.extend(has_sinks.then(|| Spec::new([6], dtype)));
            (op, inputs)
        };
        let mut samples = Vec::new();
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            samples.push(sample(dtype, false, None, false));
            samples.push(sample(dtype, true, None, true));
            samples.push(sample(dtype, false, Some((&[5, 9], dtype)), false));
        }
        let bools = Some((&[2, 6, 5, 9][..], Dtype::Bool));
        samples.push(sample(Dtype::Float32, true, bools, true));
        let (long, mut inputs) = sample(Dtype::Float32, true, None, false);
        for (input, [heads, length]) in inputs.iter_mut().zip([[4, 70], [1, 600], [1, 600]]) {
            input.shape = Shape::from([1, heads, length, 16]);
        }
        samples.push((long, inputs));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::codec::{Reader, Version};

    fn float(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Float32)
    }

    #[test]
    fn parameters_of_norms_are_rows_or_scalars() {
        let norm = |x: &[usize], w: Spec, b: Spec| {
            let op = LayerNorm { eps: 1e-5 };
            op.infer(&[float(x), w, b], None).is_ok()
        };
        assert!(norm(&[2, 3], float(&[3]), float(&[])));
        assert!(!norm(&[2, 3], float(&[2]), float(&[])));
        assert!(!norm(&[2, 3], float(&[]), float(&[1, 3])));
        assert!(!norm(&[2, 3], float(&[]), Spec::new([3], Dtype::Float16)));
        assert!(!norm(&[], float(&[]), float(&[])));
        let gradient = |g: &[usize]| {
            let inputs = [float(&[2, 3]), float(&[3]), float(g)];
            RMSNormVJP { eps: 1e-5 }.infer(&inputs, None)
        };
        assert_eq!(gradient(&[2, 3]).unwrap(), [float(&[2, 3]), float(&[3])]);
        assert!(gradient(&[3]).is_err());
    }

    #[test]
    fn rotations_have_to_fit_the_rows() {
        let rope = |dims, x: &[usize], offset: Spec, freqs: Option<Spec>| {
            let op = RoPE {
                dims,
                traditional: false,
                base: 10_000.0,
                scale: 1.0,
                forward: true,
            };
            let inputs: Vec<_> = [float(x), offset].into_iter().chain(freqs).collect();
            op.infer(&inputs, None).is_ok()
        };
        let int = |shape: &[usize]| Spec::new(shape, Dtype::Int32);
        assert!(rope(4, &[2, 3, 6], int(&[2]), Some(float(&[2]))));
        for dims in [0, 3, 8, -2, i32::MIN] {
            assert!(!rope(dims, &[2, 3, 6], int(&[]), None), "{dims}");
        }
        assert!(!rope(4, &[3, 6], int(&[]), None));
        assert!(!rope(4, &[2, 3, 6], int(&[3]), None));
        assert!(!rope(4, &[2, 3, 6], float(&[]), None));
        assert!(!rope(4, &[2, 3, 6], int(&[]), Some(float(&[4]))));
    }

    #[test]
    fn attention_refuses_what_does_not_fit() {
        let check = |shapes: [[usize; 4]; 3], more: &[Spec], has_sinks, output_logsumexp| {
            let op = ScaledDotProductAttention {
                scale: 1.0,
                causal: false,
                has_sinks,
                output_logsumexp,
                force_fused: false,
            };
            let mut inputs = shapes.map(|shape| float(&shape)).to_vec();
            inputs.extend_from_slice(more);
            let outputs = crate::ops::infer(&op, &inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        let good = [[2, 4, 5, 8], [2, 2, 9, 8], [2, 2, 9, 3]];
        let result = Some(vec![2, 4, 5, 3]);
        assert_eq!(check(good, &[], false, false), result);
        assert_eq!(check(good, &[], false, true), None);
        let (mask, sinks) = (float(&[4, 1, 9]), float(&[4]));
        assert_eq!(
            check(good, std::slice::from_ref(&mask), false, false),
            result
        );
        assert_eq!(check(good, &[mask, sinks.clone()], true, false), result);
        assert_eq!(check(good, &[sinks], true, false), result);
        assert_eq!(check(good, &[], true, false), None);
        for mask in [
            float(&[4]),
            float(&[1, 1, 1, 5, 9]),
            Spec::new([], Dtype::Int32),
        ] {
            assert_eq!(check(good, &[mask], false, false), None);
        }
        for (operand, axis, dim) in [(0, 0, 1), (0, 1, 3), (1, 3, 7), (2, 2, 8), (2, 1, 1)] {
            let mut wrong = good;
            wrong[operand][axis] = dim;
            assert_eq!(check(wrong, &[], false, false), None, "{wrong:?}");
        }
        let no_heads = [[2, 4, 5, 8], [2, 0, 9, 8], [2, 0, 9, 3]];
        assert_eq!(check(no_heads, &[], false, false), None);
    }

    #[test]
    fn attention_gained_fields_over_time() {
        let scale = 0.5f32.to_le_bytes();
        for (version, flags) in [
            ((0, 23, 2), 0),
            ((0, 24, 0), 1),
            ((0, 29, 1), 2),
            ((0, 30, 0), 3),
            ((0, 32, 2), 4),
        ] {
            let bytes = [&scale[..], &[1, 1, 1, 1][..flags]].concat();
            let mut reader = Reader::new(&bytes);
            let (major, minor, patch) = version;
            let version = Version::new(major, minor, patch);
            let op = ScaledDotProductAttention::read(&mut reader, version).unwrap();
            assert_eq!(reader.remaining(), 0);
            let got = [op.causal, op.has_sinks, op.output_logsumexp, op.force_fused];
            assert_eq!(got.iter().filter(|&&flag| flag).count(), flags);
            assert_eq!(op.scale, 0.5);
        }
    }
}
