//! The sizes of a convolution.

use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

/// One spatial dimension.
#[derive(Clone, Copy)]
pub(super) struct Dimension {
    pub input: usize,
    pub kernel: usize,
    pub output: usize,
    pub stride: usize,
    pub padding: usize,
    pub kernel_dilation: usize,
    pub input_dilation: usize,
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
        if self.input_dilation == 1 {
            return (dilated < self.input).then_some(dilated);
        }
        let source = dilated / self.input_dilation;
        (source * self.input_dilation == dilated && source < self.input).then_some(source)
    }
}

/// The sizes of a convolution, always with three spatial dimensions.
pub(super) struct Geometry {
    pub batch: usize,
    pub dims: [Dimension; 3],
    pub channels: usize,
    pub features: usize,
    pub groups: usize,
    pub flip: bool,
}

impl Geometry {
    pub(super) fn new(kernel: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Geometry> {
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

    pub(super) fn taps(&self) -> usize {
        self.dims.iter().map(|d| d.kernel).product()
    }

    pub(super) fn positions(&self) -> usize {
        self.batch * self.dims.iter().map(|d| d.output).product::<usize>()
    }

    /// The place of an output position: in the batch, then in each dimension.
    pub(super) fn place(&self, position: usize) -> [usize; 4] {
        let [d0, d1, d2] = &self.dims;
        let (row, p2) = (position / d2.output, position % d2.output);
        let (plane, p1) = (row / d1.output, row % d1.output);
        [plane / d0.output, plane % d0.output, p1, p2]
    }

    /// The kernel's elements, in the order of the weights, each as its place in the input's order.
    pub(super) fn taps_in_order(&self) -> Vec<[usize; 3]> {
        let [_, k1, k2] = self.dims.map(|d| d.kernel);
        let tap = |number: usize| [number / k2 / k1, number / k2 % k1, number % k2];
        let taps = (0..self.taps()).map(tap);
        match self.flip {
            true => taps.rev().collect(),
            false => taps.collect(),
        }
    }

    /// Where the channels under a kernel's element at an output's place start in the input.
    #[inline(always)]
    pub(super) fn source(
        &self,
        [batch, places @ ..]: [usize; 4],
        tap: [usize; 3],
    ) -> Option<usize> {
        let mut row = batch;
        for (d, dim) in self.dims.iter().enumerate() {
            row = row * dim.input + dim.source(places[d], tap[d])?;
        }
        Some(row * self.channels)
    }

    /// Where the channels under the kernel's first element start, where all elements are inside of
    /// an input that is not dilated.
    #[inline(always)]
    pub(super) fn first_source(&self, [batch, places @ ..]: [usize; 4]) -> Option<usize> {
        let mut row = batch;
        for (dim, place) in self.dims.iter().zip(places) {
            let first = (place * dim.stride).checked_sub(dim.padding)?;
            let last = first + (dim.kernel - 1) * dim.kernel_dilation;
            if dim.input_dilation != 1 || last >= dim.input {
                return None;
            }
            row = row * dim.input + first;
        }
        Some(row * self.channels)
    }

    /// Whether each channel is convolved with kernels of its own.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.channels && self.taps() > 0
    }

    /// Whether the patches are the input as it lies.
    pub(super) fn is_pointwise(&self) -> bool {
        self.groups == 1
            && self.dims.iter().all(|d| {
                (d.kernel, d.stride, d.padding, d.input_dilation) == (1, 1, 0, 1)
                    && d.input == d.output
            })
    }
}
