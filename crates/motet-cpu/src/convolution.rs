//! Convolutions of one, two or three spatial dimensions, channels last.
//!
//! The input under each output position is gathered into a row (its patch), and the rows are
//! multiplied by the weights. A tile is a block of output positions, so patches never take more
//! than a tile's memory. Depthwise convolutions, whose products would have one column, are summed
//! directly.

use std::marker::PhantomData;
use std::ops::Range;

use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::{Layout, Spec};

use crate::matmul::{Matrix, Operand, Sizes, multiply};
use crate::number::Number;
use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a convolution.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let geometry = Geometry::new(kernel, inputs, outputs)?;
    Ok(match outputs[0].dtype {
        Dtype::Float32 => Box::new(ConvolutionStep::<f32>::new(geometry, inputs, outputs)),
        Dtype::Float64 => Box::new(ConvolutionStep::<f64>::new(geometry, inputs, outputs)),
        Dtype::Float16 => Box::new(ConvolutionStep::<half::f16>::new(geometry, inputs, outputs)),
        Dtype::Bfloat16 => Box::new(ConvolutionStep::<half::bf16>::new(
            geometry, inputs, outputs,
        )),
        dtype => {
            return Err(Error::unsupported(
                "Convolution",
                format!("no convolutions of {dtype}"),
            ));
        }
    })
}

/// One spatial dimension.
#[derive(Clone, Copy)]
struct Dimension {
    input: usize,
    kernel: usize,
    output: usize,
    stride: usize,
    padding: usize,
    kernel_dilation: usize,
    input_dilation: usize,
}

impl Dimension {
    /// A dimension that a convolution does not have.
    const ABSENT: Dimension = Dimension {
        input: 1,
        kernel: 1,
        output: 1,
        stride: 1,
        padding: 0,
        kernel_dilation: 1,
        input_dilation: 1,
    };

    /// The input position under kernel element `tap` at output position `position`; `None` in
    /// padding and between dilated elements.
    #[inline(always)]
    fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let padded = position * self.stride + tap * self.kernel_dilation;
        let dilated = padded.checked_sub(self.padding)?;
        let source = dilated / self.input_dilation;
        (source * self.input_dilation == dilated && source < self.input).then_some(source)
    }
}

/// The sizes of a convolution, always with three spatial dimensions.
struct Geometry {
    batch: usize,
    dims: [Dimension; 3],
    channels: usize,
    features: usize,
    groups: usize,
    flip: bool,
}

impl Geometry {
    fn new(kernel: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Geometry> {
        let invalid = |what: String| Error::invalid("Convolution", what);
        let (Kernel::Convolution(parameters), [x, w], [out]) = (kernel, inputs, outputs) else {
            return Err(invalid(
                "got other operands than an input and weights".into(),
            ));
        };
        let spatial = x.shape.len().saturating_sub(2);
        let lists = [
            &parameters.strides,
            &parameters.padding_low,
            &parameters.padding_high,
            &parameters.kernel_dilation,
            &parameters.input_dilation,
        ];
        if !(1..=3).contains(&spatial)
            || [w, out].iter().any(|l| l.shape.len() != spatial + 2)
            || lists.iter().any(|list| list.len() != spatial)
        {
            return Err(invalid(format!(
                "got {} and {} with {} strides, expected one to three spatial dimensions in each",
                x.shape,
                w.shape,
                parameters.strides.len()
            )));
        }
        let mut dims = [Dimension::ABSENT; 3];
        for (i, dim) in dims[3 - spatial..].iter_mut().enumerate() {
            *dim = Dimension {
                input: x.shape[i + 1],
                kernel: w.shape[i + 1],
                output: out.shape[i + 1],
                stride: parameters.strides[i],
                padding: parameters.padding_low[i],
                kernel_dilation: parameters.kernel_dilation[i],
                input_dilation: parameters.input_dilation[i],
            };
            // The last position that `source` computes must not overflow.
            let last = dim.output.checked_mul(dim.stride).and_then(|position| {
                position.checked_add(dim.kernel.checked_mul(dim.kernel_dilation)?)
            });
            if dim.stride == 0
                || dim.kernel_dilation == 0
                || dim.input_dilation == 0
                || last.is_none()
            {
                return Err(invalid(format!(
                    "strides and dilations must be positive and small, got strides {:?}, kernel \
                     dilation {:?}, input dilation {:?}",
                    parameters.strides, parameters.kernel_dilation, parameters.input_dilation
                )));
            }
        }
        let geometry = Geometry {
            batch: x.shape[0],
            dims,
            channels: x.shape[spatial + 1],
            features: w.shape[0],
            groups: parameters.groups,
            flip: parameters.flip,
        };
        let groups = parameters.groups;
        let fits = groups > 0
            && geometry.channels.is_multiple_of(groups)
            && geometry.features.is_multiple_of(groups)
            && w.shape[spatial + 1] == geometry.channels / groups
            && out.shape[0] == geometry.batch
            && out.shape[spatial + 1] == geometry.features;
        if !fits {
            return Err(invalid(format!(
                "input {}, weights {} and {groups} groups do not fit together",
                x.shape, w.shape
            )));
        }
        Ok(geometry)
    }

    fn taps(&self) -> usize {
        self.dims.iter().map(|d| d.kernel).product()
    }

    fn positions(&self) -> usize {
        self.batch * self.dims.iter().map(|d| d.output).product::<usize>()
    }

    /// Where the channels under `tap` at an output position start in the input.
    #[inline(always)]
    fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let [d0, d1, d2] = &self.dims;
        let (row, p2) = (position / d2.output, position % d2.output);
        let (plane, p1) = (row / d1.output, row % d1.output);
        let (batch, p0) = (plane / d0.output, plane % d0.output);
        let tap = if self.flip {
            self.taps() - 1 - tap
        } else {
            tap
        };
        let (row, t2) = (tap / d2.kernel, tap % d2.kernel);
        let (t0, t1) = (row / d1.kernel, row % d1.kernel);
        let plane = batch * d0.input + d0.source(p0, t0)?;
        let row = plane * d1.input + d1.source(p1, t1)?;
        Some((row * d2.input + d2.source(p2, t2)?) * self.channels)
    }

    /// Whether each channel is convolved with one kernel of its own.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.channels && self.groups == self.features
    }

    /// Whether the patches are the input as it lies.
    fn is_pointwise(&self) -> bool {
        self.groups == 1
            && self.dims.iter().all(|d| {
                (d.kernel, d.stride, d.padding, d.input_dilation) == (1, 1, 0, 1)
                    && d.input == d.output
            })
    }
}

/// Elements of the patches of a tile: 256 KiB of float32.
const PATCH_ELEMENTS: usize = 64 << 10;

struct ConvolutionStep<T> {
    geometry: Geometry,
    x: Layout,
    w: Layout,
    out: Layout,
    /// Output positions in a tile.
    block: usize,
    dtype: PhantomData<fn() -> T>,
}

impl<T: Operand> ConvolutionStep<T> {
    fn new(geometry: Geometry, inputs: &[Layout], outputs: &[Layout]) -> ConvolutionStep<T> {
        let patch = geometry.taps() * (geometry.channels / geometry.groups);
        ConvolutionStep {
            x: inputs[0].clone(),
            w: inputs[1].clone(),
            out: outputs[0].clone(),
            block: (PATCH_ELEMENTS / patch.max(1)).clamp(16, 512),
            geometry,
            dtype: PhantomData,
        }
    }

    /// The weights as they are multiplied: widened, or for depthwise by tap rather than channel.
    fn scratch(&self) -> Layout {
        Spec::new(
            self.w.shape.clone(),
            <T::Sum as motet_core::dtype::Element>::DTYPE,
        )
        .layout()
    }

    fn prepare_weights<'a>(&self, w: &'a [T], scratch: &Location<'a>) -> Result<&'a [T::Sum]> {
        let depthwise = self.geometry.is_depthwise();
        if let (false, Some(sums)) = (depthwise, T::as_sums(w)) {
            return Ok(sums);
        }
        let widened = Output::<T::Sum>::new(scratch, &self.scratch())?.into_slice();
        if depthwise {
            let (taps, channels) = (self.geometry.taps(), self.geometry.channels);
            for (i, value) in w.iter().enumerate() {
                let to = i % taps * channels + i / taps;
                T::load(std::slice::from_ref(value), &mut widened[to..=to]);
            }
        } else {
            T::load(w, widened);
        }
        Ok(widened)
    }
}

impl<T: Operand> Step for ConvolutionStep<T> {
    fn scratch_bytes(&self) -> usize {
        let in_place = self.w.dtype.size() == size_of::<T::Sum>() && !self.geometry.is_depthwise();
        if in_place {
            0
        } else {
            self.scratch().spec().bytes()
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let w = input::<T>(&launch.inputs[1], &self.w)?;
        let out = Output::<T>::new(&launch.outputs[0], &self.out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let w = self.prepare_weights(w, &launch.scratch)?;
        let geometry = &self.geometry;
        let (positions, features) = (geometry.positions(), geometry.features);
        let cost = self.block.saturating_mul(w.len().max(1)) / 16;
        launch
            .pool
            .for_each_tile(positions.div_ceil(self.block), cost, &|tile| {
                let block = tile * self.block..((tile + 1) * self.block).min(positions);
                // SAFETY: these output positions are this tile's alone.
                let part = unsafe { out.part(block.start * features..block.end * features) };
                let compute = |sums: &mut [T::Sum]| {
                    if geometry.is_depthwise() {
                        self.depthwise(block, x, w, sums);
                    } else {
                        self.product(block, x, w, sums);
                    }
                };
                if let Some(sums) = T::as_sums_mut(part) {
                    compute(sums);
                } else {
                    let mut sums = vec![T::Sum::ZERO; part.len()];
                    compute(&mut sums);
                    T::store(&sums, part);
                }
            });
        Ok(())
    }
}

impl<T: Operand> ConvolutionStep<T> {
    fn depthwise(&self, block: Range<usize>, x: &[T], w: &[T::Sum], out: &mut [T::Sum]) {
        let channels = self.geometry.channels;
        let mut widened = vec![T::Sum::ZERO; channels];
        for (position, out) in block.zip(out.chunks_exact_mut(channels)) {
            out.fill(T::Sum::ZERO);
            for (tap, w) in w.chunks_exact(channels).enumerate() {
                let Some(source) = self.geometry.source(position, tap) else {
                    continue;
                };
                let x = &x[source..][..channels];
                let x = T::as_sums(x).unwrap_or_else(|| {
                    T::load(x, &mut widened);
                    &widened
                });
                for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
                    *out = out.add(x.mul(w));
                }
            }
        }
    }

    fn product(&self, block: Range<usize>, x: &[T], w: &[T::Sum], out: &mut [T::Sum]) {
        let geometry = &self.geometry;
        let (groups, taps) = (geometry.groups, geometry.taps());
        let (depth, features) = (geometry.channels / groups, geometry.features / groups);
        let patch = taps * depth;
        let sizes = Sizes {
            m: block.len(),
            k: patch,
            n: features,
        };
        let mut patches = Vec::new();
        for group in 0..groups {
            let in_place = if geometry.is_pointwise() {
                T::as_sums(&x[block.start * patch..block.end * patch])
            } else {
                None
            };
            let rows = in_place.unwrap_or_else(|| {
                patches.resize(block.len() * patch, T::Sum::ZERO);
                for (i, to) in patches.chunks_exact_mut(depth.max(1)).enumerate() {
                    match geometry.source(block.start + i / taps, i % taps) {
                        Some(source) => T::load(&x[source + group * depth..][..depth], to),
                        None => to.fill(T::Sum::ZERO),
                    }
                }
                &patches
            });
            let a = Matrix {
                data: rows,
                row_step: patch,
                column_step: 1,
            };
            let weights = &w[group * features * patch..][..features * patch];
            let b = Matrix {
                data: weights,
                row_step: 1,
                column_step: patch,
            };
            // Each group has neighbouring columns of the output.
            let out = out.get_mut(group * features..).unwrap_or_default();
            multiply(sizes, T::Sum::ONE, a, b, false, out, geometry.features);
        }
    }
}

#[cfg(test)]
mod tests {
    use motet_core::kernel::Convolution;
    use motet_core::shape::{Axes, Shape};

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    /// All the numbers of a case; the reference is written out for three spatial dimensions.
    #[derive(Clone, Debug)]
    struct Case {
        x: Vec<usize>,
        w: Vec<usize>,
        parameters: Convolution,
    }

    impl Case {
        fn out(&self) -> Vec<usize> {
            let p = &self.parameters;
            let mut out = vec![self.x[0]];
            for i in 0..p.strides.len() {
                let padded = (self.x[i + 1] - 1) * p.input_dilation[i] + 1;
                let padded = padded + p.padding_low[i] + p.padding_high[i];
                let kernel = (self.w[i + 1] - 1) * p.kernel_dilation[i] + 1;
                out.push((padded - kernel) / p.strides[i] + 1);
            }
            out.push(self.w[0]);
            out
        }

        /// Scatters each input element to the outputs that it reaches: the other way round than
        /// the kernel works.
        fn reference(&self, x: &[f32], w: &[f32]) -> Vec<f64> {
            let p = &self.parameters;
            let (xs, ws, os) = (
                Shape::new(&self.x),
                Shape::new(&self.w),
                Shape::new(&self.out()),
            );
            let spatial = p.strides.len();
            let index = |shape: &Shape, mut number: usize| -> Vec<usize> {
                let mut index = vec![0; shape.len()];
                for (i, &dim) in index.iter_mut().zip(shape.iter()).rev() {
                    *i = number % dim;
                    number /= dim;
                }
                index
            };
            let mut out = vec![0.0; os.size()];
            let depth = self.w[spatial + 1];
            for (xi, &xv) in x.iter().enumerate() {
                let at = index(&xs, xi);
                for (wi, &wv) in w.iter().enumerate() {
                    let tap = index(&ws, wi);
                    let group = tap[0] / (self.w[0] / p.groups);
                    if at[spatial + 1] != group * depth + tap[spatial + 1] {
                        continue;
                    }
                    let mut place = vec![at[0]];
                    for d in 0..spatial {
                        let t = if p.flip {
                            self.w[d + 1] - 1 - tap[d + 1]
                        } else {
                            tap[d + 1]
                        };
                        let from = at[d + 1] * p.input_dilation[d] + p.padding_low[d];
                        let Some(from) = from.checked_sub(t * p.kernel_dilation[d]) else {
                            break;
                        };
                        if from % p.strides[d] != 0 || from / p.strides[d] >= os[d + 1] {
                            break;
                        }
                        place.push(from / p.strides[d]);
                    }
                    if place.len() == spatial + 1 {
                        place.push(tap[0]);
                        let number = place.iter().zip(os.iter()).fold(0, |n, (i, d)| n * d + i);
                        out[number] += f64::from(xv) * f64::from(wv);
                    }
                }
            }
            out
        }
    }

    fn cases() -> Vec<Case> {
        let one = |n: usize| Axes::from_elem(1, n);
        let plain = |n: usize| Convolution {
            strides: one(n),
            padding_low: Axes::from_elem(0, n),
            padding_high: Axes::from_elem(0, n),
            kernel_dilation: one(n),
            input_dilation: one(n),
            groups: 1,
            flip: false,
        };
        let case = |x: &[usize], w: &[usize], change: &dyn Fn(&mut Convolution)| {
            let mut parameters = plain(x.len() - 2);
            change(&mut parameters);
            Case {
                x: x.to_vec(),
                w: w.to_vec(),
                parameters,
            }
        };
        vec![
            case(&[2, 9, 3], &[4, 3, 3], &|_| {}),
            case(&[1, 700, 2], &[3, 5, 2], &|p| p.padding_low[0] = 2),
            case(&[2, 5, 6, 4], &[3, 1, 1, 4], &|_| {}),
            case(&[2, 7, 6, 4], &[6, 3, 2, 2], &|p| {
                p.groups = 2;
                p.strides = Axes::from_slice(&[2, 1]);
                p.padding_low = Axes::from_slice(&[1, 0]);
                p.padding_high = Axes::from_slice(&[2, 1]);
                p.flip = true;
            }),
            case(&[2, 8, 8, 5], &[5, 3, 3, 1], &|p| {
                p.groups = 5;
                p.padding_low = one(2);
                p.padding_high = one(2);
            }),
            case(&[1, 4, 5, 2], &[3, 3, 3, 2], &|p| {
                p.input_dilation = Axes::from_slice(&[2, 3]);
                p.kernel_dilation = Axes::from_slice(&[1, 2]);
                p.padding_low = Axes::from_slice(&[2, 2]);
                p.padding_high = Axes::from_slice(&[2, 3]);
            }),
            case(&[2, 3, 4, 5, 2], &[3, 2, 2, 3, 2], &|p| {
                p.strides = Axes::from_slice(&[1, 2, 2]);
                p.padding_low = one(3);
                p.flip = true;
            }),
        ]
    }

    fn check<T: Operand>(from: impl Fn(f32) -> T, to: impl Fn(T) -> f32, tolerance: f64) {
        for case in cases() {
            let make = |shape: &[usize], seed| -> Vec<T> {
                noise(shape.iter().product(), seed)
                    .into_iter()
                    .map(&from)
                    .collect()
            };
            let (x, w) = (make(&case.x, 1), make(&case.w, 2));
            let widened = |values: &[T]| -> Vec<f32> { values.iter().map(|&v| to(v)).collect() };
            let expected = case.reference(&widened(&x), &widened(&w));
            let kernel = Kernel::Convolution(case.parameters.clone());
            let out = [Spec::new(case.out(), T::DTYPE)];
            let out = run(&kernel, &[&tensor(&case.x, &x), &tensor(&case.w, &w)], &out).unwrap();
            for (got, want) in values::<T>(&out[0]).into_iter().zip(expected) {
                let error = (f64::from(to(got)) - want).abs();
                assert!(error <= tolerance * (1.0 + want.abs()), "{case:?}: {want}");
            }
        }
    }

    #[test]
    fn convolutions_agree_with_sums() {
        check::<f32>(|x| x, |x| x, 1e-5);
        check::<f64>(f64::from, |x| x as f32, 1e-6);
        check::<half::f16>(half::f16::from_f32, half::f16::to_f32, 1e-3);
        check::<half::bf16>(half::bf16::from_f32, half::bf16::to_f32, 8e-3);
    }

    #[test]
    fn impossible_parameters_are_refused() {
        let base = cases().remove(0);
        let refused = |change: &dyn Fn(&mut Convolution)| {
            let mut parameters = base.parameters.clone();
            change(&mut parameters);
            let layout = |shape: &[usize]| Spec::new(shape, Dtype::Float32).layout();
            let inputs = [layout(&base.x), layout(&base.w)];
            prepare(
                &Kernel::Convolution(parameters),
                &inputs,
                &[layout(&base.out())],
            )
            .is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|p| p.groups = 0));
        assert!(refused(&|p| p.groups = 2));
        assert!(refused(&|p| p.strides[0] = 0));
        assert!(refused(&|p| p.input_dilation[0] = 0));
        assert!(refused(&|p| p.kernel_dilation[0] = usize::MAX));
        assert!(refused(&|p| p.strides.clear()));
    }
}
