//! Quantised weights: packing, unpacking, and products that unpack as they go.
//!
//! Values of `bits` bits follow each other in the little-endian bytes of the words, so eight values
//! are always `bits` bytes. Few rows are multiplied by what is unpacked in registers. For many, a
//! product unpacks a block of the weights to float32, multiplies, and forgets it: the weights are
//! never in memory unpacked.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use motet_core::backend::{Location, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::{Kernel, Quantization, QuantizationMode};
use motet_core::shape::Layout;

use crate::convert::Float32Like;
use crate::operand::input;
use crate::simd::{Simd, leveled};

mod codes;
mod convert;
mod eight;
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod nibbles;
mod product;
mod unpack;

use codes::decode_scale;
use convert::{DequantizeStep, QuantizeStep};
use product::ProductStep;
use unpack::{Codes, Groups, Rows, unpack, with_codes};

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
    simd: Simd,
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
                matches!(group_size, 32 | 64 | 128) && matches!(bits, 1..=6 | 8)
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
            simd: Simd::detect(),
        })
    }

    /// The weights at these inputs.
    fn open<'a>(&self, places: &[Location<'a>]) -> Result<Weights<'a, '_>> {
        Ok(Weights {
            packed: self,
            bytes: bytemuck::cast_slice(input::<u32>(&places[0], &self.words)?),
            scales: Scales::new(&places[1], &self.scales, self.quantization.mode)?,
            biases: match &self.biases {
                Some(layout) => Some(Scales::new(&places[2], layout, self.quantization.mode)?),
                None => None,
            },
        })
    }
}

/// Scales or biases as they are stored.
enum Scales<'a> {
    Float32(&'a [f32]),
    Float16(&'a [f16]),
    Bfloat16(&'a [bf16]),
    Codes(&'a [u8], QuantizationMode),
}

impl<'a> Scales<'a> {
    fn new(place: &Location<'a>, layout: &Layout, mode: QuantizationMode) -> Result<Scales<'a>> {
        Ok(match layout.dtype {
            Dtype::Float32 => Scales::Float32(input(place, layout)?),
            Dtype::Float16 => Scales::Float16(input(place, layout)?),
            Dtype::Bfloat16 => Scales::Bfloat16(input(place, layout)?),
            _ => Scales::Codes(input(place, layout)?, mode),
        })
    }

    /// Some of them.
    fn load(&self, range: Range<usize>, to: &mut [f32]) {
        match self {
            Scales::Float32(values) => f32::widen(&values[range], to),
            Scales::Float16(values) => f16::widen(&values[range], to),
            Scales::Bfloat16(values) => bf16::widen(&values[range], to),
            Scales::Codes(values, mode) => {
                let codes = values[range].iter();
                to.iter_mut()
                    .zip(codes)
                    .for_each(|(to, &code)| *to = decode_scale(code, *mode));
            }
        }
    }
}

/// Packed weights in memory.
struct Weights<'a, 'p> {
    packed: &'p Packed,
    bytes: &'a [u8],
    scales: Scales<'a>,
    biases: Option<Scales<'a>>,
}

/// Some columns of some rows: the codes where they are, scales and biases as float32, in memory of their
/// own where they are not stored so.
struct Part<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    byte_step: usize,
    groups: usize,
    scales: Cow<'a, [f32]>,
    biases: Cow<'a, [f32]>,
}

impl<'a> Weights<'a, '_> {
    /// Columns of rows; they start and end with groups.
    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Part<'a> {
        let Quantization {
            group_size, bits, ..
        } = self.packed.quantization;
        let row_groups = self.packed.columns / group_size;
        let (first, groups) = (columns.start / group_size, columns.len() / group_size);
        let load = |scales: &Scales<'a>| {
            let neighbours = rows.start * groups..rows.end * groups;
            if let (true, Scales::Float32(values)) = (groups == row_groups, scales) {
                return Cow::Borrowed(&values[neighbours]);
            }
            let mut loaded = vec![0.0; rows.len() * groups];
            if groups == row_groups {
                scales.load(neighbours, &mut loaded);
                return Cow::Owned(loaded);
            }
            for (row, to) in rows.clone().zip(loaded.chunks_exact_mut(groups.max(1))) {
                let start = row * row_groups + first;
                scales.load(start..start + groups, to);
            }
            Cow::Owned(loaded)
        };
        let byte_step = self.packed.columns * bits / 8;
        Part {
            bytes: &self.bytes[rows.start * byte_step + columns.start * bits / 8..],
            row_bytes: columns.len() * bits / 8,
            byte_step,
            groups,
            scales: load(&self.scales),
            biases: self.biases.as_ref().map(load).unwrap_or_default(),
        }
    }

    /// Unpacks columns of rows; they start and end with groups.
    fn unpack(&self, rows: Range<usize>, columns: Range<usize>, to: &mut [f32]) {
        let (width, part) = (columns.len(), self.part(rows, columns));
        let rows = part.rows();
        with_codes!(self.packed.quantization, C => leveled!(self.packed.simd, unpack<S: Codes = C>(
            rows: Rows<'_>, width: usize, to: &mut [f32]
        )));
    }
}

impl Part<'_> {
    fn rows(&self) -> Rows<'_> {
        Rows {
            all: Groups {
                bytes: self.bytes,
                scales: &self.scales,
                biases: &self.biases,
            },
            bytes: self.row_bytes,
            byte_step: self.byte_step,
            groups: self.groups,
        }
    }
}

#[cfg(test)]
mod tests;
