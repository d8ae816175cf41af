//! Quantisation: values packed into 32-bit words, with a scale for each group.

use std::ops::RangeInclusive;

use super::indexing::index_shape;
use super::state::operation;
use super::{Lowered, Operation, State, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::{Kernel, Quantization, QuantizationMode};
use crate::shape::{Shape, Spec};

impl Quantization {
    /// Whether MLX defines it.
    fn exists(&self) -> bool {
        match self.mode {
            QuantizationMode::Affine => {
                matches!(self.group_size, 32 | 64 | 128) && matches!(self.bits, 1..=6 | 8)
            }
            QuantizationMode::Mxfp4 => (self.group_size, self.bits) == (32, 4),
            QuantizationMode::Mxfp8 => (self.group_size, self.bits) == (32, 8),
            QuantizationMode::Nvfp4 => (self.group_size, self.bits) == (16, 4),
        }
    }

    fn is_affine(&self) -> bool {
        self.mode == QuantizationMode::Affine
    }

    /// Packed words, scales and, for affine, biases.
    fn arrays(&self) -> usize {
        if self.is_affine() { 3 } else { 2 }
    }

    /// The dtype of the scales of `values`.
    fn scale_dtype(&self, values: Dtype) -> Dtype {
        if self.is_affine() {
            values
        } else {
            Dtype::Uint8
        }
    }

    fn check<T: State>(&self) -> Result<()> {
        match self.exists() {
            true => Ok(()),
            false => Err(T::error(format!("MLX has no {self:?}"))),
        }
    }

    /// Packed words, scales and biases of values of this spec, if there are such.
    fn packed(&self, values: &Spec) -> Option<Vec<Spec>> {
        let last = values.shape.len().checked_sub(1)?;
        let count = values.shape[last];
        let legal = matches!(
            values.dtype,
            Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32
        );
        if !legal || !count.is_multiple_of(self.group_size) {
            return None;
        }
        // A group fills whole words: 16 values of 4 bits are two, 32 of any bits are `bits`.
        let words = count / self.group_size * (self.group_size * self.bits / 32);
        let scales = with_dim(&values.shape, last, count / self.group_size);
        let mut arrays = vec![Spec::new(
            with_dim(&values.shape, last, words),
            Dtype::Uint32,
        )];
        arrays.resize(
            self.arrays(),
            Spec::new(scales, self.scale_dtype(values.dtype)),
        );
        Some(arrays)
    }

    /// The shape of the values that `arrays` (words, scales, biases) hold as `dtype`.
    fn unpacked<T: State>(&self, arrays: &[Spec], dtype: Dtype) -> Result<Shape> {
        self.check::<T>()?;
        let shape = &arrays[0].shape;
        let values = shape.last().and_then(|words| {
            let count = words.checked_mul(32)? / self.bits;
            Some(Spec::new(with_dim(shape, shape.len() - 1, count), dtype))
        });
        match values {
            Some(values) if self.packed(&values).is_some_and(|packed| packed == arrays) => {
                Ok(values.shape)
            }
            _ => Err(T::error(format!(
                "{arrays:?} do not hold {dtype} values of {self:?}"
            ))),
        }
    }
}

operation! {
    /// Packs values, or unpacks them.
    Quantize {
        /// How values are packed.
        quantization: Quantization,
        /// Unpack.
        dequantize: bool,
    }
}

impl Operation for Quantize {
    fn arity(&self) -> RangeInclusive<usize> {
        let inputs = if self.dequantize {
            self.quantization.arrays()
        } else {
            1
        };
        inputs..=inputs
    }

    /// What unpacked values are, where scales do not say it, is what is recorded.
    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let q = &self.quantization;
        q.check::<Self>()?;
        if !self.dequantize {
            return q.packed(&inputs[0]).ok_or_else(|| {
                Self::error(format!(
                    "got {}, expected groups of {} floats in the last dimension",
                    inputs[0], q.group_size
                ))
            });
        }
        let dtype = match recorded {
            Some([recorded]) if recorded.dtype.is_float() => recorded.dtype,
            _ if q.is_affine() => inputs[1].dtype,
            _ => Dtype::Float32,
        };
        let inside = if q.is_affine() {
            inputs[1].dtype
        } else {
            Dtype::Float32
        };
        let shape = q.unpacked::<Self>(inputs, inside)?;
        Ok(vec![Spec::new(shape, dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(match self.dequantize {
            true => Kernel::Dequantize(self.quantization),
            false => Kernel::Quantize(self.quantization),
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for quantization in quantizations() {
            for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
                let values = Spec::new([3, 256], dtype);
                let packed = quantization.packed(&values);
                samples.push((
                    Quantize {
                        quantization,
                        dequantize: false,
                    },
                    vec![values],
                ));
                let unpack = Quantize {
                    quantization,
                    dequantize: true,
                };
                samples.extend(packed.map(|packed| (unpack, packed)));
            }
        }
        samples
    }
}

operation! {
    /// `x @ dequantized(w)`, or its transpose; inputs x, w, scales and, for affine, biases.
    QuantizedMatmul {
        /// How w is packed.
        quantization: Quantization,
        /// Whether w is (N, K) rather than (K, N).
        transpose: bool,
    }
}

impl Operation for QuantizedMatmul {
    fn arity(&self) -> RangeInclusive<usize> {
        let inputs = 1 + self.quantization.arrays();
        inputs..=inputs
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = &inputs[0];
        let w = self.quantization.unpacked::<Self>(&inputs[1..], x.dtype)?;
        let (rank, last) = (w.len(), x.shape.len().wrapping_sub(1));
        let fits = rank >= 2
            && !x.shape.is_empty()
            && (rank == 2 || (rank == x.shape.len() && w[..rank - 2] == x.shape[..rank - 2]));
        if fits {
            let (n, k) = (w[rank - 2], w[rank - 1]);
            let (k, n) = if self.transpose { (k, n) } else { (n, k) };
            if x.shape[last] == k {
                return Ok(vec![Spec::new(with_dim(&x.shape, last, n), x.dtype)]);
            }
        }
        Err(Self::error(format!(
            "x {x} and w, which holds values of shape {w}{}",
            if self.transpose { ", transposed" } else { "" }
        )))
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::QuantizedMatmul {
            quantization: self.quantization,
            transpose: self.transpose,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for quantization in quantizations() {
            for dtype in [Dtype::Float32, Dtype::Bfloat16] {
                for (transpose, x, w) in [
                    (true, &[5, 256][..], &[7, 256][..]),
                    (false, &[1, 7], &[7, 256]),
                    (true, &[2, 3, 128], &[2, 4, 128]),
                ] {
                    let packed = quantization.packed(&Spec::new(w, dtype)).into_iter();
                    let op = QuantizedMatmul {
                        quantization,
                        transpose,
                    };
                    samples.extend(
                        packed.map(|packed| {
                            (op.clone(), [vec![Spec::new(x, dtype)], packed].concat())
                        }),
                    );
                }
            }
        }
        samples
    }
}

operation! {
    /// `x[lhs] @ dequantized(w[rhs])`, or its transpose, for each pair of indices into the batches
    /// of x and w: inputs x, w, scales, for affine biases, lhs and rhs, output (indices..., M, N).
    GatherQMM {
        /// How w is packed.
        quantization: Quantization,
        /// Whether each w is (N, K) rather than (K, N).
        transpose: bool,
        /// The indices into x are ascending, which is of no use here.
        left_sorted: bool => since (0, 25, 0) or false,
        /// The indices into w are ascending, which is of no use here.
        right_sorted: bool => since (0, 25, 0) or false,
    }
}

impl Operation for GatherQMM {
    fn arity(&self) -> RangeInclusive<usize> {
        let inputs = 3 + self.quantization.arrays();
        inputs..=inputs
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let (packed, indices) = inputs[1..].split_at(self.quantization.arrays());
        let x = &inputs[0];
        let indices = index_shape::<Self>(indices)?;
        let w = self.quantization.unpacked::<Self>(packed, x.dtype)?;
        if let (Some((_, &[m, x_k])), Some((_, &[rows, columns]))) =
            (x.shape.split_last_chunk::<2>(), w.split_last_chunk::<2>())
        {
            let (k, n) = if self.transpose {
                (columns, rows)
            } else {
                (rows, columns)
            };
            if x_k == k {
                return Ok(vec![Spec::new([&*indices, &[m, n]].concat(), x.dtype)]);
            }
        }
        Err(Self::error(format!(
            "x {x} and w, which holds values of shape {w}{}",
            if self.transpose { ", transposed" } else { "" }
        )))
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::GatherQuantizedMatmul {
            quantization: self.quantization,
            transpose: self.transpose,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for quantization in quantizations() {
            for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
                for (transpose, x, w, indices) in [
                    (true, &[2, 3, 128][..], &[4, 5, 128][..], &[6][..]),
                    (false, &[2, 2, 1, 7], &[3, 7, 128], &[2, 3]),
                ] {
                    let op = GatherQMM {
                        quantization,
                        transpose,
                        left_sorted: false,
                        right_sorted: false,
                    };
                    let indices = vec![Spec::new(indices, Dtype::Uint32); 2];
                    let packed = quantization.packed(&Spec::new(w, dtype)).into_iter();
                    samples.extend(packed.map(|packed| {
                        let inputs = [vec![Spec::new(x, dtype)], packed, indices.clone()].concat();
                        (op.clone(), inputs)
                    }));
                }
            }
        }
        samples
    }
}

/// All that MLX defines.
fn quantizations() -> Vec<Quantization> {
    use QuantizationMode::*;
    let mut all = Vec::new();
    for mode in [Affine, Mxfp4, Mxfp8, Nvfp4] {
        for group_size in [16, 32, 64, 128] {
            all.extend((1..=8).map(|bits| Quantization {
                group_size,
                bits,
                mode,
            }));
        }
    }
    all.retain(Quantization::exists);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q4: Quantization = Quantization {
        group_size: 64,
        bits: 4,
        mode: QuantizationMode::Affine,
    };

    fn float(shape: &[usize]) -> Spec {
        Spec::new(shape, Dtype::Float32)
    }

    #[test]
    fn packing_follows_bits_and_groups() {
        let pack = |quantization, shape: &[usize]| {
            let op = Quantize {
                quantization,
                dequantize: false,
            };
            op.infer(&[float(shape)], None).ok()
        };
        let scales = float(&[3, 2]);
        let words = Spec::new([3, 16], Dtype::Uint32);
        assert_eq!(
            pack(Q4, &[3, 128]),
            Some(vec![words, scales.clone(), scales])
        );
        assert_eq!(pack(Q4, &[3, 100]), None);
        assert_eq!(pack(Q4, &[]), None);
        let six = Quantization { bits: 6, ..Q4 };
        assert_eq!(pack(six, &[64]).unwrap()[0], Spec::new([12], Dtype::Uint32));
        for (bits, group_size) in [(7, 64), (4, 0), (0, 64), (4, 16)] {
            assert_eq!(
                pack(
                    Quantization {
                        bits,
                        group_size,
                        ..Q4
                    },
                    &[3, 128]
                ),
                None
            );
        }
        let nvfp4 = Quantization {
            group_size: 16,
            bits: 4,
            mode: QuantizationMode::Nvfp4,
        };
        let packed = pack(nvfp4, &[16]).unwrap();
        assert_eq!(
            packed,
            [Spec::new([2], Dtype::Uint32), Spec::new([1], Dtype::Uint8)]
        );
    }

    #[test]
    fn unpacking_checks_all_arrays() {
        let unpack = |arrays: &[Spec]| {
            let op = Quantize {
                quantization: Q4,
                dequantize: true,
            };
            crate::ops::infer(&op, arrays, None).ok()
        };
        let packed = Q4.packed(&float(&[3, 128])).unwrap();
        assert_eq!(unpack(&packed), Some(vec![float(&[3, 128])]));
        for (i, wrong) in [
            (0, float(&[3, 16])),
            (1, float(&[3, 1])),
            (2, float(&[1, 2])),
        ] {
            let mut arrays = packed.clone();
            arrays[i] = wrong;
            assert_eq!(unpack(&arrays), None);
        }
        assert_eq!(unpack(&packed[..2]), None);
    }

    #[test]
    fn products_check_both_sides() {
        let multiply = |transpose, x: &[usize], w: &[usize]| {
            let op = QuantizedMatmul {
                quantization: Q4,
                transpose,
            };
            let inputs = [vec![float(x)], Q4.packed(&float(w)).unwrap()].concat();
            let outputs = crate::ops::infer(&op, &inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        assert_eq!(multiply(true, &[2, 5, 128], &[7, 128]), Some(vec![2, 5, 7]));
        assert_eq!(multiply(false, &[5, 7], &[7, 128]), Some(vec![5, 128]));
        assert_eq!(multiply(true, &[5, 7], &[7, 128]), None);
        assert_eq!(multiply(true, &[3, 5, 128], &[2, 7, 128]), None);
        assert_eq!(multiply(true, &[], &[7, 128]), None);
        assert_eq!(multiply(true, &[128], &[128]), None);
    }

    #[test]
    fn gathered_products_take_their_batches_from_the_indices() {
        let gather = |transpose, x: &[usize], w: &[usize], indices: [&[usize]; 2]| {
            let op = GatherQMM {
                quantization: Q4,
                transpose,
                left_sorted: false,
                right_sorted: false,
            };
            let indices = indices.map(|shape| Spec::new(shape, Dtype::Uint32));
            let packed = Q4.packed(&float(w)).unwrap();
            let inputs = [vec![float(x)], packed, indices.to_vec()].concat();
            let outputs = crate::ops::infer(&op, &inputs, None).ok()?;
            Some(outputs[0].shape.to_vec())
        };
        let (x, w) = (&[2, 5, 128][..], &[3, 7, 128][..]);
        assert_eq!(gather(true, x, w, [&[4], &[4]]), Some(vec![4, 5, 7]));
        assert_eq!(
            gather(false, &[5, 7], w, [&[2, 2], &[2, 2]]),
            Some(vec![2, 2, 5, 128])
        );
        assert_eq!(gather(false, x, w, [&[4], &[4]]), None);
        assert_eq!(gather(true, x, w, [&[4], &[1]]), None);
        assert_eq!(gather(true, &[128], w, [&[4], &[4]]), None);
    }
}
