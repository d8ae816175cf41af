//! Quantised weights: packing, unpacking, and products that unpack as they go.
//!
//! Values of `bits` bits follow each other in the little-endian bytes of the words, so eight values
//! are always `bits` bytes. A product unpacks a block of the weights to float32, multiplies, and
//! forgets it: the weights are never in memory unpacked.

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, Result};
use motet_core::kernel::{Kernel, Quantization, QuantizationMode};
use motet_core::shape::{Layout, Spec};

use crate::convert::Float32Like;
use crate::indices::{Pick, Picks, groups};
use crate::matmul::{Matrix, Sizes, multiply};
use crate::number::Number;
use crate::operand::{Output, input};

mod codes;

use codes::{decode_scale, pack_bits, quantize_affine, quantize_float, unpack_bits};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a kernel on quantised weights.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    macro_rules! for_float {
        ($op:expr, $dtype:expr, $step:ident, $($argument:expr),*) => {
            match $dtype {
                Dtype::Float32 => Box::new($step::<f32>::new($($argument),*)?) as Box<dyn Step>,
                Dtype::Float16 => Box::new($step::<f16>::new($($argument),*)?),
                Dtype::Bfloat16 => Box::new($step::<bf16>::new($($argument),*)?),
                dtype => return Err(Error::unsupported($op, format!("no quantisation of {dtype}"))),
            }
        };
    }
    Ok(match (kernel, inputs, outputs) {
        (
            &Kernel::QuantizedMatmul {
                quantization,
                transpose,
            },
            [x, w @ ..],
            [out],
        ) => {
            let op = "QuantizedMatmul";
            let w = Packed::new(op, quantization, w)?;
            for_float!(op, out.dtype, ProductStep, x, w, None, transpose, out)
        }
        (
            &Kernel::GatherQuantizedMatmul {
                quantization,
                transpose,
            },
            [x, w @ .., lhs, rhs],
            [out],
        ) => {
            let op = "GatherQMM";
            let (w, picks) = (Packed::new(op, quantization, w)?, Some([lhs, rhs]));
            for_float!(op, out.dtype, ProductStep, x, w, picks, transpose, out)
        }
        (&Kernel::Dequantize(quantization), w, [out]) => {
            let w = Packed::new("Dequantize", quantization, w)?;
            for_float!("Dequantize", out.dtype, DequantizeStep, w, out)
        }
        (&Kernel::Quantize(quantization), [x], packed) => {
            let w = Packed::new("Quantize", quantization, packed)?;
            for_float!("Quantize", x.dtype, QuantizeStep, x, w)
        }
        _ => {
            return Err(Error::invalid(
                "quantized",
                "got other operands than expected",
            ));
        }
    })
}

/// The layouts of packed weights, checked against each other.
struct Packed {
    quantization: Quantization,
    words: Layout,
    scales: Layout,
    biases: Option<Layout>,
    rows: usize,
    /// Values in a row.
    columns: usize,
}

impl Packed {
    fn new(op: &str, quantization: Quantization, layouts: &[Layout]) -> Result<Packed> {
        let Quantization {
            group_size,
            bits,
            mode,
        } = quantization;
        let known = match mode {
            QuantizationMode::Affine => {
                matches!(group_size, 32 | 64 | 128) && matches!(bits, 2..=6 | 8)
            }
            QuantizationMode::Mxfp4 => (group_size, bits) == (32, 4),
            QuantizationMode::Mxfp8 => (group_size, bits) == (32, 8),
            QuantizationMode::Nvfp4 => (group_size, bits) == (16, 4),
        };
        if !known {
            return Err(Error::unsupported(
                op,
                format!("no mode {mode:?} with groups of {group_size} and {bits} bits"),
            ));
        }
        let affine = mode == QuantizationMode::Affine;
        let (words, scales, biases) = match (layouts, affine) {
            ([words, scales, biases], true) => (words, scales, Some(biases)),
            ([words, scales], false) => (words, scales, None),
            _ => {
                return Err(Error::invalid(
                    op,
                    format!(
                        "mode {mode:?} has other arrays than the {} given",
                        layouts.len()
                    ),
                ));
            }
        };
        let columns = words.shape.last().map_or(0, |&words| words * 32 / bits);
        let good_scales = match affine {
            true => matches!(
                scales.dtype,
                Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16
            ),
            false => scales.dtype == Dtype::Uint8,
        };
        let fits = !words.shape.is_empty()
            && words.dtype == Dtype::Uint32
            && good_scales
            && columns * bits == words.shape[words.shape.len() - 1] * 32
            && columns % group_size == 0
            && scales.shape.split_last()
                == Some((
                    &(columns / group_size),
                    &words.shape[..words.shape.len() - 1],
                ))
            && biases.is_none_or(|biases| biases.spec() == scales.spec());
        if !fits {
            return Err(Error::invalid(
                op,
                format!(
                    "packed weights {} {} and scales {} {} do not fit groups of {group_size} \
                     values of {bits} bits",
                    words.dtype, words.shape, scales.dtype, scales.shape
                ),
            ));
        }
        Ok(Packed {
            quantization,
            words: words.clone(),
            scales: scales.clone(),
            biases: biases.cloned(),
            rows: words.shape[..words.shape.len() - 1].iter().product(),
            columns,
        })
    }

    /// The weights at these inputs.
    fn open<'a>(&self, places: &[Location<'a>]) -> Result<Weights<'a, '_>> {
        Ok(Weights {
            packed: self,
            bytes: bytemuck::cast_slice(input::<u32>(&places[0], &self.words)?),
            scales: Scales::new(&places[1], &self.scales)?,
            biases: match &self.biases {
                Some(layout) => Some(Scales::new(&places[2], layout)?),
                None => None,
            },
            codes: codes::codes(self.quantization.mode),
        })
    }
}

/// Scales or biases as they are stored.
enum Scales<'a> {
    Float32(&'a [f32]),
    Float16(&'a [f16]),
    Bfloat16(&'a [bf16]),
    Codes(&'a [u8]),
}

impl<'a> Scales<'a> {
    fn new(place: &Location<'a>, layout: &Layout) -> Result<Scales<'a>> {
        Ok(match layout.dtype {
            Dtype::Float32 => Scales::Float32(input(place, layout)?),
            Dtype::Float16 => Scales::Float16(input(place, layout)?),
            Dtype::Bfloat16 => Scales::Bfloat16(input(place, layout)?),
            _ => Scales::Codes(input(place, layout)?),
        })
    }

    #[inline(always)]
    fn get(&self, number: usize, mode: QuantizationMode) -> f32 {
        match self {
            Scales::Float32(values) => values[number],
            Scales::Float16(values) => values[number].to_f32(),
            Scales::Bfloat16(values) => values[number].to_f32(),
            Scales::Codes(values) => decode_scale(values[number], mode),
        }
    }
}

/// Packed weights in memory.
struct Weights<'a, 'p> {
    packed: &'p Packed,
    bytes: &'a [u8],
    scales: Scales<'a>,
    biases: Option<Scales<'a>>,
    codes: Vec<f32>,
}

impl Weights<'_, '_> {
    /// Unpacks columns of a row; they start and end with groups.
    fn unpack(&self, row: usize, columns: Range<usize>, to: &mut [f32]) {
        let Quantization {
            group_size,
            bits,
            mode,
        } = self.packed.quantization;
        for (i, to) in to.chunks_exact_mut(group_size).enumerate() {
            let value = row * self.packed.columns + columns.start + i * group_size;
            let bytes = &self.bytes[value * bits / 8..][..group_size * bits / 8];
            let scale = self.scales.get(value / group_size, mode);
            match &self.biases {
                Some(biases) => {
                    let bias = biases.get(value / group_size, mode);
                    unpack_bits(bits, bytes, to, |code| code as f32 * scale + bias);
                }
                None => unpack_bits(bits, bytes, to, |code| self.codes[code as usize] * scale),
            }
        }
    }
}

/// Elements in a tile of packing or unpacking.
const TILE: usize = 16 << 10;

struct DequantizeStep<T>(Packed, Layout, PhantomData<fn() -> T>);

impl<T: Float32Like> DequantizeStep<T> {
    fn new(packed: Packed, out: &Layout) -> Result<DequantizeStep<T>> {
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
            .for_each_tile(packed.rows.div_ceil(group), group * columns, &|tile| {
                let mut values = vec![0.0; columns];
                for row in tile * group..((tile + 1) * group).min(packed.rows) {
                    weights.unpack(row, 0..columns, &mut values);
                    // SAFETY: the row is this tile's alone.
                    T::narrow(&values, unsafe {
                        out.part(row * columns..(row + 1) * columns)
                    });
                }
            });
        Ok(())
    }
}

struct ProductStep<T> {
    x: Layout,
    w: Packed,
    out: Layout,
    transpose: bool,
    /// What picks x and w of each product, where it is not its own number.
    picks: Option<Picks>,
    batches: usize,
    sizes: Sizes,
    dtype: PhantomData<fn() -> T>,
}

/// Rows that are multiplied together at most where indices pick them.
const MOST_ROWS: usize = 512;

/// Weights that a tile unpacks: 256 KiB of float32.
const BLOCK: usize = 64 << 10;

impl<T: Float32Like> ProductStep<T> {
    fn new(
        x: &Layout,
        w: Packed,
        indices: Option<[&Layout; 2]>,
        transpose: bool,
        out: &Layout,
    ) -> Result<ProductStep<T>> {
        let unfit = || {
            Error::invalid(
                "QuantizedMatmul",
                format!(
                    "shapes {}, {} and {} do not fit",
                    x.shape, w.words.shape, out.shape
                ),
            )
        };
        let (Some((rows, &[k])), Some((w_batch, &[w_rows, _]))) = (
            x.shape.split_last_chunk::<1>(),
            w.words.shape.split_last_chunk::<2>(),
        ) else {
            return Err(unfit());
        };
        let (&m, x_batch) = rows.split_last().unwrap_or((&1, &[]));
        let w_count: usize = w_batch.iter().product();
        // One w is for all rows of x; otherwise each batch of x has its own, or the indices say.
        let (picks, batches, m, out_rows) = match indices {
            None if w_batch.is_empty() => (None, 1, rows.iter().product(), rows.to_vec()),
            None if w_batch == x_batch && !rows.is_empty() => (None, w_count, m, rows.to_vec()),
            None => return Err(unfit()),
            Some(indices) => {
                let counts = [x_batch.iter().product(), w_count];
                let picks = Picks::new("GatherQMM", indices, counts)?;
                let batches = picks.len();
                (
                    Some(picks),
                    batches,
                    m,
                    [&indices[0].shape, &[m][..]].concat(),
                )
            }
        };
        let (w_k, n) = if transpose {
            (w.columns, w_rows)
        } else {
            (w_rows, w.columns)
        };
        let out_fits = out.shape.split_last() == Some((&n, &out_rows[..])) && x.dtype == out.dtype;
        if w_k != k || !out_fits {
            return Err(unfit());
        }
        Ok(ProductStep {
            x: x.clone(),
            out: out.clone(),
            transpose,
            picks,
            batches,
            sizes: Sizes { m, k, n },
            dtype: PhantomData,
            w,
        })
    }

    /// Columns of the result in a tile.
    fn block(&self) -> usize {
        let block = (BLOCK / self.sizes.k.max(1)).clamp(16, 256);
        let group = self.w.quantization.group_size;
        if self.transpose {
            block
        } else {
            block.next_multiple_of(group)
        }
    }

    fn widened(&self) -> Spec {
        let same = T::DTYPE == Dtype::Float32;
        Spec::new(
            if same { [0] } else { [self.x.shape.size()] },
            Dtype::Float32,
        )
    }

    /// Columns of the products of one w.
    fn tile(
        &self,
        x: &[f32],
        w: &Weights<'_, '_>,
        picks: &[Pick],
        columns: Range<usize>,
        out: &Output<'_, T>,
    ) {
        let Sizes { m, k, n } = self.sizes;
        let (right, width, rows) = (picks[0].right, columns.len(), picks.len() * m);
        let mut block = vec![0.0; k * width];
        let steps = if self.transpose {
            for (row, to) in columns.clone().zip(block.chunks_exact_mut(k.max(1))) {
                w.unpack(right * n + row, 0..k, to);
            }
            (1, k)
        } else {
            for (row, to) in block.chunks_exact_mut(width).enumerate() {
                w.unpack(right * k + row, columns.clone(), to);
            }
            (width, 1)
        };
        let matrix = |pick: &Pick| &x[pick.left * m * k..][..m * k];
        let joined: Vec<f32>;
        let a = Matrix {
            data: match picks {
                [pick] => matrix(pick),
                picks => {
                    joined = picks.iter().flat_map(matrix).copied().collect();
                    &joined
                }
            },
            row_step: k,
            column_step: 1,
        };
        let b = Matrix {
            data: &block,
            row_step: steps.0,
            column_step: steps.1,
        };
        let (sizes, mut sums) = (
            Sizes {
                m: rows,
                k,
                n: width,
            },
            vec![0.0; rows * width],
        );
        multiply(sizes, 1.0, a, b, false, &mut sums, width);
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            let start = (picks[row / m].number * m + row % m) * n + columns.start;
            // SAFETY: each product, and each block of its columns, is one tile's.
            T::narrow(sums, unsafe { out.part(start..start + width) });
        }
    }
}

impl<T: Float32Like> Step for ProductStep<T> {
    fn scratch_bytes(&self) -> usize {
        self.widened().bytes()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = if T::DTYPE == Dtype::Float32 {
            input::<f32>(&launch.inputs[0], &self.x)?
        } else {
            let to = Output::<f32>::new(&launch.scratch, &self.widened().layout())?.into_slice();
            T::widen(input::<T>(&launch.inputs[0], &self.x)?, to);
            to
        };
        let weights = self.w.open(&launch.inputs[1..])?;
        let picks = match &self.picks {
            Some(picks) => picks.open(&launch.inputs[launch.inputs.len() - 2..])?,
            None => (0..self.batches).map(Pick::own).collect(),
        };
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let Sizes { m, k, n } = self.sizes;
        let groups = groups(&picks, MOST_ROWS / m);
        let block = self.block();
        let tiles = n.div_ceil(block);
        let rows = picks.len() / groups.len() * m;
        let cost = (k * block).saturating_mul(rows / 16 + 1);
        launch
            .pool
            .for_each_tile(groups.len() * tiles, cost, &|tile| {
                let (picks, column) = (groups[tile / tiles], tile % tiles * block);
                let columns = column..(column + block).min(n);
                self.tile(x, &weights, picks, columns, &out);
            });
        Ok(())
    }
}

struct QuantizeStep<T>(Layout, Packed, PhantomData<fn() -> T>);

impl<T: Float32Like> QuantizeStep<T> {
    fn new(x: &Layout, packed: Packed) -> Result<QuantizeStep<T>> {
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
        let cost = columns.saturating_mul(if bits == 8 { 100 } else { 10 });
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
            let table = codes::codes(mode);
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

#[cfg(test)]
mod tests {
    use motet_core::tensor::Tensor;

    use super::codes::{e4m3, nearest_positive_e4m3};
    use super::*;
    use crate::testing::{noise, run, tensor, values};

    const FLOAT_MODES: [Quantization; 3] = [
        Quantization {
            group_size: 32,
            bits: 4,
            mode: QuantizationMode::Mxfp4,
        },
        Quantization {
            group_size: 32,
            bits: 8,
            mode: QuantizationMode::Mxfp8,
        },
        Quantization {
            group_size: 16,
            bits: 4,
            mode: QuantizationMode::Nvfp4,
        },
    ];

    fn affine(group_size: usize, bits: usize) -> Quantization {
        Quantization {
            group_size,
            bits,
            mode: QuantizationMode::Affine,
        }
    }

    fn all() -> Vec<Quantization> {
        let bits = [2, 3, 4, 5, 6, 8];
        let affine = bits.map(|bits| affine([32, 64, 128][bits % 3], bits));
        affine.into_iter().chain(FLOAT_MODES).collect()
    }

    fn packed_specs(q: Quantization, shape: &[usize], dtype: Dtype) -> Vec<Spec> {
        let (&columns, leading) = shape.split_last().unwrap();
        let with = |last| [leading, &[last]].concat();
        let groups = with(columns / q.group_size);
        let words = Spec::new(with(columns * q.bits / 32), Dtype::Uint32);
        match q.mode {
            QuantizationMode::Affine => {
                vec![
                    words,
                    Spec::new(&groups[..], dtype),
                    Spec::new(&groups[..], dtype),
                ]
            }
            _ => vec![words, Spec::new(groups, Dtype::Uint8)],
        }
    }

    fn quantize<T: Element>(q: Quantization, shape: &[usize], x: &[T]) -> Vec<Tensor> {
        let specs = packed_specs(q, shape, T::DTYPE);
        run(&Kernel::Quantize(q), &[&tensor(shape, x)], &specs).unwrap()
    }

    /// Value `column` of `row`, bit by bit as the format says.
    fn reference(q: Quantization, packed: &[Tensor], columns: usize, value: usize) -> f64 {
        let words = values::<u32>(&packed[0]);
        let row_start = value / columns * columns * q.bits;
        let bit = |k: usize| {
            let at = row_start + value % columns * q.bits + k;
            words[at / 32] >> (at % 32) & 1
        };
        let code = (0..q.bits).map(|k| bit(k) << k).sum::<u32>();
        let group = value / q.group_size;
        let half = |code: u32, exponent_bits: u32, mantissa_bits: u32, bias: i32| {
            let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
            let exponent = (code >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
            let sign = 1.0 - 2.0 * f64::from(code >> (mantissa_bits + exponent_bits));
            let one = if exponent == 0 {
                0.0
            } else {
                2f64.powi(mantissa_bits as i32)
            };
            let exponent = Ord::max(exponent, 1) - bias - mantissa_bits as i32;
            sign * (one + mantissa) * 2f64.powi(exponent)
        };
        let scale = || values::<u8>(&packed[1])[group];
        match q.mode {
            QuantizationMode::Affine => {
                let [scale, bias] = [1, 2].map(|i| match packed[i].layout.dtype {
                    Dtype::Float32 => f64::from(values::<f32>(&packed[i])[group]),
                    _ => values::<f16>(&packed[i])[group].to_f64(),
                });
                f64::from(code) * scale + bias
            }
            QuantizationMode::Mxfp4 => half(code, 2, 1, 1) * 2f64.powi(i32::from(scale()) - 127),
            QuantizationMode::Mxfp8 => half(code, 4, 3, 7) * 2f64.powi(i32::from(scale()) - 127),
            QuantizationMode::Nvfp4 => half(code, 2, 1, 1) * half(scale().into(), 4, 3, 7),
        }
    }

    #[test]
    fn quantised_values_are_near_and_unpack_by_the_format() {
        let shape = [3, 256];
        let x = noise(3 * 256, 1);
        for q in all() {
            let packed = quantize(q, &shape, &x);
            let inputs: Vec<&Tensor> = packed.iter().collect();
            let out = [Spec::new(shape, Dtype::Float32)];
            let got = values::<f32>(&run(&Kernel::Dequantize(q), &inputs, &out).unwrap()[0]);
            // Making zero exact can leave a part of the range of 2 uncovered; the float formats are
            // off by half of their coarsest step.
            let error = match q.mode {
                QuantizationMode::Affine => 2.02 / (1 << q.bits) as f32,
                QuantizationMode::Mxfp8 => 0.07,
                _ => 0.26,
            };
            for (i, (&got, &x)) in got.iter().zip(&x).enumerate() {
                let want = reference(q, &packed, 256, i);
                assert!(
                    (f64::from(got) - want).abs() < 1e-6,
                    "{q:?} {i}: {got} {want}"
                );
                assert!((got - x).abs() <= error, "{q:?} {i}: {got} {x}");
            }
        }
    }

    #[test]
    fn known_groups_have_known_codes() {
        let mut x = [0.0f32; 32];
        x[..6].copy_from_slice(&[6.0, -6.0, 0.25, -0.25, 2.5, -5.0]);
        let packed = quantize(FLOAT_MODES[0], &[32], &x);
        assert_eq!(values::<u8>(&packed[1]), [127]);
        // Ties go to the smaller code; a negative value that rounds to zero gets code 0.
        assert_eq!(values::<u32>(&packed[0])[0], 0x00_e4_00_f7);
        let zeros = quantize(FLOAT_MODES[0], &[32], &[0.0f32; 32]);
        assert_eq!(
            (values::<u8>(&zeros[1]), values::<u32>(&zeros[0])),
            (vec![127], vec![0; 4])
        );
        let mut x = [0.0f32; 32];
        x[1..3].copy_from_slice(&[-3.0, 12.0]);
        let packed = quantize(affine(32, 4), &[32], &x);
        assert_eq!(
            (values::<f32>(&packed[1]), values::<f32>(&packed[2])),
            (vec![-1.0], vec![12.0])
        );
        assert_eq!(values::<u32>(&packed[0])[0], 0xcccc_c0fc);
        assert_eq!(
            [e4m3(0x7e), e4m3(1), e4m3(0xb8)],
            [448.0, 2f32.powi(-9), -1.0]
        );
        assert!(e4m3(0x7f).is_nan() && nearest_positive_e4m3(1e9) == 0x7e);
        assert_eq!(
            decode_scale(0, QuantizationMode::Mxfp4),
            2f32.powi(-126) / 2.0
        );
        assert_eq!(decode_scale(255, QuantizationMode::Mxfp4), f32::INFINITY);
    }

    #[test]
    fn strange_values_are_quantised_without_a_panic() {
        let mut x = noise(64, 1);
        x[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]);
        x[32..].fill(f32::NAN);
        for q in all() {
            let shape = [1, q.group_size.max(64)];
            let mut x = x.clone();
            x.resize(shape[1], 0.0);
            quantize(q, &shape, &x);
        }
    }

    fn check_product<T: Float32Like>(
        from: impl Fn(f32) -> T,
        to: impl Fn(T) -> f32,
        tolerance: f64,
    ) {
        // One matrix for all rows of x, then one for each batch.
        for (x_shape, w_batch) in [
            (vec![2, 3], vec![]),
            (vec![1], vec![]),
            (vec![2, 3], vec![2]),
        ] {
            for (q, transpose) in all().into_iter().flat_map(|q| [(q, true), (q, false)]) {
                let (k, n) = (128, 256);
                let matrix = if transpose { [n, k] } else { [k, n] };
                let w_shape = [&w_batch[..], &matrix].concat();
                let make = |len: usize, seed| -> Vec<T> {
                    noise(len, seed).into_iter().map(&from).collect()
                };
                let packed = quantize(q, &w_shape, &make(w_shape.iter().product(), 1));
                let dense: Vec<Tensor> = {
                    let out = [Spec::new(&w_shape[..], Dtype::Float32)];
                    run(
                        &Kernel::Dequantize(q),
                        &packed.iter().collect::<Vec<_>>(),
                        &out,
                    )
                    .unwrap()
                };
                let w = values::<f32>(&dense[0]);
                let rows: usize = x_shape.iter().product();
                let x = make(rows * k, 2);
                let x_tensor = tensor(&[&x_shape[..], &[k]].concat(), &x);
                let inputs: Vec<&Tensor> = std::iter::once(&x_tensor).chain(&packed).collect();
                let kernel = Kernel::QuantizedMatmul {
                    quantization: q,
                    transpose,
                };
                let out = [Spec::new([&x_shape[..], &[n]].concat(), T::DTYPE)];
                let got = values::<T>(&run(&kernel, &inputs, &out).unwrap()[0]);
                let batch = w.len() / (k * n);
                for (i, &got) in got.iter().enumerate() {
                    let (row, column) = (i / n, i % n);
                    let w = &w[row / (rows / batch) * k * n..][..k * n];
                    let at = |l: usize| {
                        if transpose {
                            column * k + l
                        } else {
                            l * n + column
                        }
                    };
                    let want: f64 = (0..k)
                        .map(|l| f64::from(to(x[row * k + l])) * f64::from(w[at(l)]))
                        .sum();
                    let error = (f64::from(to(got)) - want).abs();
                    assert!(
                        error <= tolerance * (1.0 + want.abs()),
                        "{q:?} {transpose} {i}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_agree_with_sums() {
        check_product::<f32>(|x| x, |x| x, 1e-5);
        check_product::<f16>(f16::from_f32, f16::to_f32, 1e-3);
        check_product::<bf16>(bf16::from_f32, bf16::to_f32, 8e-3);
    }

    #[test]
    fn gathered_products_are_those_of_what_is_picked() {
        let (k, n) = (128, 64);
        let (lhs, rhs) = ([1u32, 0, 1], [2u32, 2, 0]);
        let x = noise(2 * 3 * k, 1);
        for (q, transpose) in all().into_iter().flat_map(|q| [(q, true), (q, false)]) {
            let n = if transpose { n } else { 2 * n };
            let matrix = if transpose { [n, k] } else { [k, n] };
            let (quantization, pick) = (q, |i: u32, len| i as usize * len..(i as usize + 1) * len);
            let w = noise(3 * k * n, 2);
            let packed = quantize(q, &[&[3], &matrix[..]].concat(), &w);
            let (x_tensor, left) = (tensor(&[2, 3, k], &x), tensor(&[3], &lhs));
            let gather = |right: &Tensor| {
                let mut inputs = vec![&x_tensor];
                inputs.extend(&packed);
                inputs.extend([&left, right]);
                let kernel = Kernel::GatherQuantizedMatmul {
                    quantization,
                    transpose,
                };
                run(&kernel, &inputs, &[Spec::new([3, 3, n], Dtype::Float32)])
            };
            let got = values::<f32>(&gather(&tensor(&[3], &rhs)).unwrap()[0]);
            for (i, got) in got.chunks_exact(3 * n).enumerate() {
                let x = tensor(&[3, k], &x[pick(lhs[i], 3 * k)]);
                let w = quantize(q, &matrix, &w[pick(rhs[i], k * n)]);
                let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&w).collect();
                let kernel = Kernel::QuantizedMatmul {
                    quantization,
                    transpose,
                };
                let out = [Spec::new([3, n], Dtype::Float32)];
                let want = values::<f32>(&run(&kernel, &inputs, &out).unwrap()[0]);
                for (got, want) in got.iter().zip(want) {
                    let error = (got - want).abs();
                    assert!(error <= 1e-5 * (1.0 + want.abs()), "{q:?} {transpose}");
                }
            }
            let error = gather(&tensor(&[3], &[0u32, 3, 0])).err().unwrap();
            assert!(error.to_string().contains("index 3 is out of range"));
        }
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused() {
        let q = affine(32, 4);
        let layouts = |columns: usize| -> Vec<Layout> {
            packed_specs(q, &[8, columns], Dtype::Float32)
                .iter()
                .map(Spec::layout)
                .collect()
        };
        let x = Spec::new([2, 64], Dtype::Float32).layout();
        let out = Spec::new([2, 8], Dtype::Float32).layout();
        let kernel = |quantization| Kernel::QuantizedMatmul {
            quantization,
            transpose: true,
        };
        let refused = |quantization, w: &[Layout]| {
            let inputs = [std::slice::from_ref(&x), w].concat();
            prepare(&kernel(quantization), &inputs, std::slice::from_ref(&out)).is_err()
        };
        assert!(!refused(q, &layouts(64)));
        assert!(refused(q, &layouts(96)));
        assert!(refused(q, &layouts(64)[..2]));
        assert!(refused(affine(32, 7), &layouts(64)));
        assert!(refused(affine(0, 4), &layouts(64)));
        assert!(refused(affine(64, 4), &layouts(64)));
        assert!(refused(FLOAT_MODES[0], &layouts(64)));
        assert!(refused(q, &[]));
    }
}
