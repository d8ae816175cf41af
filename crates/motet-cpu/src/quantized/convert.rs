//! Packing arrays, and unpacking them as arrays.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::Element;
use motet_core::error::{Error, Result};
use motet_core::kernel::{Quantization, QuantizationMode};
use motet_core::shape::Layout;

use super::Packed;
use super::codes::{floats4, pack_bits, quantize_affine, quantize_float};
use crate::convert::Float32Like;
use crate::number::Number;
use crate::operand::{Output, input};

/// Elements in a tile of packing or unpacking.
const TILE: usize = 16 << 10;

pub(super) struct DequantizeStep<T>(Packed, Layout, PhantomData<fn() -> T>);

impl<T: Float32Like> DequantizeStep<T> {
    pub(super) fn new(packed: Packed, out: &Layout) -> Result<DequantizeStep<T>> {
        let leading = &packed.words.shape[..packed.words.shape.len() - 1];
        if out.shape.split_last() != Some((&packed.columns, leading)) {
            return Err(Error::invalid(
                "Dequantize",
                format!("weights {} do not make {}", packed.words.shape, out.shape),
            ));
        }
        Ok(DequantizeStep(packed, out.clone(), PhantomData))
    }
}

impl<T: Float32Like> Step for DequantizeStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let DequantizeStep(packed, out, _) = self;
        let weights = packed.open(launch.inputs)?;
        let out = Output::<T>::new(&launch.outputs[0], out)?;
        let columns = packed.columns;
        let group = (TILE / columns.max(1)).max(1);
        launch
            .pool
            .for_each_tile(packed.rows.div_ceil(group), group * columns / 4, &|tile| {
                let rows = tile * group..((tile + 1) * group).min(packed.rows);
                // SAFETY: the rows are this tile's alone.
                let to = unsafe { out.part(rows.start * columns..rows.end * columns) };
                let mut values = vec![0.0; to.len()];
                weights.unpack(rows, 0..columns, &mut values);
                T::narrow(&values, to);
            });
        Ok(())
    }
}

pub(super) struct QuantizeStep<T>(Layout, Packed, PhantomData<fn() -> T>);

impl<T: Float32Like> QuantizeStep<T> {
    pub(super) fn new(x: &Layout, packed: Packed) -> Result<QuantizeStep<T>> {
        let leading = &packed.words.shape[..packed.words.shape.len() - 1];
        let good_scales = packed.biases.is_none() || packed.scales.dtype == x.dtype;
        if x.shape.split_last() != Some((&packed.columns, leading)) || !good_scales {
            return Err(Error::invalid(
                "Quantize",
                format!(
                    "{} of {} does not make {}",
                    x.shape, x.dtype, packed.words.shape
                ),
            ));
        }
        Ok(QuantizeStep(x.clone(), packed, PhantomData))
    }

    /// Quantises all rows; `encode` makes the codes, the scale and the bias of a group.
    fn run<S: Element>(
        &self,
        launch: &Launch<'_>,
        encode: impl Fn(&[f32], &mut [u8]) -> (S, Option<S>) + Sync,
    ) -> Result<()> {
        let QuantizeStep(x, packed, _) = self;
        let Quantization {
            group_size, bits, ..
        } = packed.quantization;
        let x = input::<T>(&launch.inputs[0], x)?;
        let words = Output::<u32>::new(&launch.outputs[0], &packed.words)?;
        let scales = Output::<S>::new(&launch.outputs[1], &packed.scales)?;
        let biases = match &packed.biases {
            Some(layout) => Some(Output::<S>::new(&launch.outputs[2], layout)?),
            None => None,
        };
        // A row is whole words, a group perhaps not.
        let columns = packed.columns;
        let row_words = columns * bits / 32;
        let cost = columns.saturating_mul(10);
        launch.pool.for_each_tile(packed.rows, cost, &|row| {
            let (mut values, mut codes) = (vec![0.0; columns], vec![0; columns]);
            T::widen(&x[row * columns..][..columns], &mut values);
            let groups = values
                .chunks_exact(group_size)
                .zip(codes.chunks_exact_mut(group_size));
            for (i, (values, codes)) in groups.enumerate() {
                let (scale, bias) = encode(values, codes);
                let group = row * (columns / group_size) + i;
                // SAFETY: the group is inside the output, and its row is this tile's alone.
                unsafe { scales.set(group, scale) };
                if let (Some(biases), Some(bias)) = (&biases, bias) {
                    // SAFETY: as above.
                    unsafe { biases.set(group, bias) };
                }
            }
            // SAFETY: the row is this tile's alone.
            let words = unsafe { words.part(row * row_words..(row + 1) * row_words) };
            pack_bits(bits, &codes, bytemuck::cast_slice_mut(words));
        });
        Ok(())
    }
}

impl<T: Float32Like + Number> Step for QuantizeStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Quantization { bits, mode, .. } = self.1.quantization;
        if mode == QuantizationMode::Affine {
            self.run::<T>(launch, |values, codes| {
                let (scale, bias) = quantize_affine(bits, values, codes);
                (rounded(scale), Some(rounded(bias)))
            })
        } else {
            let table = floats4();
            self.run::<u8>(launch, |values, codes| {
                (quantize_float(mode, &table, values, codes), None)
            })
        }
    }
}

fn rounded<T: Float32Like + Number>(value: f32) -> T {
    let mut rounded = T::ZERO;
    T::narrow(&[value], std::slice::from_mut(&mut rounded));
    rounded
}
