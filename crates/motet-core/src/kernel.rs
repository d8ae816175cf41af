//! Kernel classes: what a backend implements.
//!
//! Primitives are many, kernel classes few: each primitive lowers to one of these, with the
//! parameters that the computation needs and none of MLX's spelling.

use crate::program::Program;
use crate::shape::{Axes, Shape, Spec};

/// A computation on buffers. Inputs come in the layouts that the backend accepts
/// ([`Backend::accepts`](crate::backend::Backend::accepts)), outputs are row-major, or lie as the
/// backend can write them ([`Backend::writes`](crate::backend::Backend::writes)).
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// The program for every element; all inputs and outputs have one shape (broadcasts come as
    /// zero strides).
    Elementwise(Program),
    /// Input 0, whatever its strides, in row-major order.
    Copy,
    /// Inputs one after the other along `axis`.
    Concatenate {
        /// The axis along which the inputs follow each other.
        axis: usize,
    },
    /// Input 0 inside a block of the value of input 1 (one element), `low[i]` from the start of
    /// dimension `i`.
    Pad {
        /// Elements before the input, a number per dimension.
        low: Axes,
    },
    /// `start`, then `previous + step` each, both in the output's dtype.
    Arange {
        /// The first value.
        start: f64,
        /// The value whose difference to `start`, taken in the output's dtype, is the step.
        next: f64,
    },
    /// Reduces `axes` to size one. The output's dtype says what is accumulated.
    Reduce {
        /// What combines two elements.
        op: Reduction,
        /// The axes, ascending.
        axes: Axes,
    },
    /// Index (uint32) of the smallest or largest element along `axis`, the first on ties; NaN wins.
    ArgReduce {
        /// Largest rather than smallest.
        max: bool,
        /// The axis that becomes one.
        axis: usize,
    },
    /// Running combination along `axis`.
    Scan {
        /// What combines two elements.
        op: ScanOp,
        /// The axis.
        axis: usize,
        /// From the end.
        reverse: bool,
        /// Whether element `i` of the result covers element `i` of the input.
        inclusive: bool,
    },
    /// Ascending stable sort along `axis`, NaN last. With `indices` the output is the permutation
    /// (uint32) instead of the values.
    Sort {
        /// The axis.
        axis: usize,
        /// Whether the output is the permutation.
        indices: bool,
    },
    /// `softmax` over the last axis, in float32 inside for half types.
    Softmax,
    /// `log(sum(exp(x)))` over the last axis, which becomes one.
    LogSumExp,
    /// Rows along the last axis, moved to mean zero where `center`, divided by
    /// `sqrt(mean(x * x) + eps)`, times w and, where `center`, plus b. Inputs x, w and, where
    /// `center`, b; w and b are as long as rows, or scalars.
    Norm {
        /// Added to the mean square.
        eps: f32,
        /// Whether the mean is subtracted, and a bias added.
        center: bool,
    },
    /// Gradients of `Norm`: inputs its inputs and the gradient of its output, outputs the gradients
    /// of its inputs, zero for scalars.
    NormVjp {
        /// Added to the mean square.
        eps: f32,
        /// Whether the mean is subtracted, and a bias added.
        center: bool,
    },
    /// Rotary position embedding; inputs x (..., T, D), offsets (one, or one for each element of
    /// the first dimension) and, where there is no base, the period of each pair.
    Rope(Rope),
    /// `softmax(scale * q @ kᵀ + mask) @ v`; inputs q (B, H, L, D), k, v, then further k and v,
    /// `mask` and `sinks`, where there are such. Several heads of q may share one of k and v. The mask broadcasts to
    /// the scores: bool keeps where it is true, floats are added.
    Attention {
        /// Scale of the scores.
        scale: f32,
        /// Query i of L sees the first `i + 1 + keys - L` keys.
        causal: bool,
        /// Whether more keys and values follow the first ones, as inputs of their own.
        appended: bool,
        /// Whether there is a mask.
        mask: bool,
        /// Whether there is a score for each head of q that no value belongs to.
        sinks: bool,
    },
    /// `alpha * (a @ b) + beta * c`; inputs a, b and, where `beta` is not `None`, c in the output's
    /// shape. Batch dimensions are equal.
    Matmul {
        /// Scale of the product.
        alpha: f32,
        /// Scale of c.
        beta: Option<f32>,
    },
    /// `x @ dequantized(w)`, transposed first where `transpose`; inputs x, w, scales and, for
    /// affine, biases.
    QuantizedMatmul {
        /// How w is packed.
        quantization: Quantization,
        /// Whether w is (N, K) rather than (K, N).
        transpose: bool,
    },
    /// `a[lhs] @ b[rhs]` for each pair of indices into the batches of a and b; inputs a, b, lhs and
    /// rhs.
    GatherMatmul,
    /// `x[lhs] @ dequantized(w[rhs])` for each pair of indices into the batches of x and w; inputs
    /// as for `QuantizedMatmul`, then lhs and rhs.
    GatherQuantizedMatmul {
        /// How w is packed.
        quantization: Quantization,
        /// Whether each w is (N, K) rather than (K, N).
        transpose: bool,
    },
    /// `a @ b` with a factor (or bool) for each square tile. Inputs a and b, then the factors of
    /// the result's tiles, or those of a's and of b's, or all three in this order.
    BlockMaskedMatmul {
        /// Rows and columns of a tile.
        block_size: usize,
    },
    /// Inputs w; outputs packed, scales and, for affine, biases.
    Quantize(Quantization),
    /// Inputs packed, scales and, for affine, biases; output the values.
    Dequantize(Quantization),
    /// Convolution of (N, spatial..., C) by (O, spatial..., C / groups).
    Convolution(Convolution),
    /// Combines the windows of (N, spatial..., C). What of them is outside of the input takes no part;
    /// each parameter has a number per spatial dimension.
    Pool {
        /// What combines two elements: `Sum`, `Min` or `Max`.
        op: Reduction,
        /// The size of a window.
        window: Axes,
        /// The distance of neighbouring windows.
        strides: Axes,
        /// How much of the first window is before the input.
        padding: Axes,
    },
    /// Blocks of `slice_sizes` of input 0, at the indices that inputs 1... give for `axes`.
    /// Output: shape of the indices, then `slice_sizes`.
    Gather {
        /// The axis that each index input selects on.
        axes: Axes,
        /// The block taken for each index.
        slice_sizes: Shape,
    },
    /// `out[..., j, ...] = x[..., indices[..., j, ...], ...]` along `axis`.
    GatherAxis {
        /// The axis.
        axis: usize,
    },
    /// Copy of input 0 with the blocks of the last input combined in at the indices that the
    /// inputs between give for `axes`, in row-major order of the indices.
    Scatter {
        /// How an update combines with what is there.
        op: Update,
        /// The axis that each index input selects on.
        axes: Axes,
    },
    /// Copy of input 0 with the updates (input 2) combined in at the indices (input 1) on `axis`.
    ScatterAxis {
        /// How an update combines with what is there.
        op: Update,
        /// The axis.
        axis: usize,
    },
    /// The block of input 0, of the output's shape, that starts where input 1 says: a position for
    /// each of `axes`, 0 on others.
    DynamicSlice {
        /// The axes that input 1 gives positions for.
        axes: Axes,
    },
    /// Copy of input 0 with input 1 written to where input 2 says: a position for each of `axes`, 0
    /// on others.
    DynamicSliceUpdate {
        /// The axes that input 2 gives positions for.
        axes: Axes,
    },
    /// Copy of input 0 whose elements where input 1 is true are replaced by those of input 2, one
    /// after the other in row-major order, for each index of the first dimension.
    MaskedScatter,
    /// For each element of input 1 the number (uint32) of elements of input 0, which is sorted, that
    /// come before it.
    SearchSorted {
        /// Count equal ones too.
        right: bool,
    },
    /// Copy of input 0 with input 1 combined in at `start + i * strides`.
    SliceUpdate {
        /// How an update combines with what is there.
        op: Update,
        /// The position of the first updated element in each dimension.
        start: Axes,
        /// The distance of neighbours in each dimension.
        strides: crate::shape::Strides,
    },
    /// Discrete Fourier transform over `axes`; the dtypes of input and output tell real from complex.
    Fft {
        /// The axes in the order they are listed; a real transform is along the last listed.
        axes: Axes,
        /// Inverse, scaled by one over the number of elements.
        inverse: bool,
    },
    /// Product of the last axis, of size m * 2^k with m 1, 12, 20 or 28, by the Hadamard matrix of
    /// that size, times `scale`.
    Hadamard {
        /// What results are multiplied by.
        scale: f32,
    },
    /// Random bits (threefry) for each key of input 0, a pair of uint32 in the last axis: the same
    /// for all outputs with as many bytes per key.
    RandomBits,
    /// Linear algebra on each matrix of input 0.
    Linalg(Linalg),
    /// A kernel with one output, and a program for every element of that. Plans alone have it, made
    /// where the backend [fuses](crate::backend::Backend::fuses) the kernel.
    Fused(Box<Fused>),
    /// Kernels of which none reads what another writes, in one step: their tiles are shared out
    /// together. Inputs and outputs are those of the first, then those of the next. Plans alone have
    /// it, made where the backend [joins](crate::backend::Backend::joins) the kernels.
    Joined(Vec<Part>),
}

impl Kernel {
    /// The name of its class, `+ program` where a program runs on its result, those of its parts
    /// where several kernels are joined.
    pub fn class(&self) -> String {
        if let Kernel::Joined(parts) = self {
            let classes: Vec<String> = parts.iter().map(|part| part.kernel.class()).collect();
            return classes.join(", ");
        }
        if let Kernel::Fused(fused) = self {
            return format!("{} + program", fused.kernel.class());
        }
        // What is derived says the variant first.
        let debug = format!("{self:?}");
        let name = debug.split(|c: char| !c.is_alphanumeric()).next();
        name.unwrap_or_default().to_owned()
    }
}

/// A kernel whose result is the first input of a program before it is stored. The inputs of both
/// are the kernel's, then the program's other ones; the outputs are the program's.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// What runs first.
    pub kernel: Kernel,
    /// The number of its inputs.
    pub inputs: usize,
    /// What is computed of each element of its result.
    pub program: Program,
    /// The dtype and shape of its result, which is not stored.
    pub result: Spec,
}

/// One of several kernels that are joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What runs.
    pub kernel: Kernel,
    /// The number of its inputs.
    pub inputs: usize,
    /// The number of its outputs.
    pub outputs: usize,
}

/// The parameters of a rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of each row that are rotated; even.
    pub dims: usize,
    /// Pairs are neighbours, rather than of the first and the second half.
    pub traditional: bool,
    /// Pair i turns by `position * base^(-2i / dims)`.
    pub base: Option<f32>,
    /// Scale of positions.
    pub scale: f32,
    /// Whether pairs are turned forward.
    pub forward: bool,
}

/// What is computed of a matrix A of M rows and N columns; K is the smaller of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linalg {
    /// The triangular factor: L of `A = L L^T`, or U of `A = U^T U`. That triangle of A is read.
    Cholesky(Triangle),
    /// Eigenvalues, and where there is a second output unit eigenvectors as columns; complex.
    Eig,
    /// Ascending eigenvalues, and where there is a second output orthonormal eigenvectors as
    /// columns, of a symmetric or Hermitian A of which this triangle is read.
    Eigh(Triangle),
    /// The inverse, or that of one triangle alone.
    Inverse(Option<Triangle>),
    /// U with the multipliers of L below its diagonal (M x N), the row that each of K steps swaps
    /// with its own (uint32), and where the rows of this came from in A (M, uint32).
    Lu,
    /// Q (M x K) and R (K x N) with LAPACK's signs.
    Qr,
    /// Singular values (one output) or U, S and the conjugate transpose of V, in full size (three
    /// outputs).
    Svd,
}

/// A half of a square matrix, with its diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Triangle {
    Lower,
    Upper,
}

impl Triangle {
    /// The upper one where `upper`.
    pub fn new(upper: bool) -> Triangle {
        match upper {
            true => Triangle::Upper,
            false => Triangle::Lower,
        }
    }
}

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Reduction {
    /// All are nonzero; the output is bool.
    And,
    /// Any is nonzero; the output is bool.
    Or,
    Sum,
    Prod,
    /// NaN wins.
    Min,
    /// NaN wins.
    Max,
}

/// How a scan combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ScanOp {
    Max,
    Min,
    Sum,
    Prod,
    LogAddExp,
}

/// How an update combines with the element that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Update {
    Max,
    Min,
    Sum,
    Prod,
    /// Replaces it.
    Set,
}

/// How values are packed into 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// Values that share a scale.
    pub group_size: usize,
    /// Bits per value.
    pub bits: usize,
    /// What the codes and scales mean.
    pub mode: QuantizationMode,
}

impl Quantization {
    /// MLX's defaults for a mode.
    pub fn of(mode: QuantizationMode) -> Quantization {
        let (group_size, bits) = match mode {
            QuantizationMode::Affine => (64, 4),
            QuantizationMode::Mxfp4 => (32, 4),
            QuantizationMode::Mxfp8 => (32, 8),
            QuantizationMode::Nvfp4 => (16, 4),
        };
        Quantization {
            group_size,
            bits,
            mode,
        }
    }
}

impl Default for Quantization {
    /// Affine, 4 bits, groups of 64.
    fn default() -> Quantization {
        Quantization::of(QuantizationMode::Affine)
    }
}

/// What quantised codes and scales mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizationMode {
    /// `code * scale + bias`, of 1, 2, 3, 4, 5, 6 or 8 bits.
    Affine,
    /// 4-bit floats with a power of two for each 32.
    Mxfp4,
    /// 8-bit floats with a power of two for each 32.
    Mxfp8,
    /// 4-bit floats with an 8-bit float for each 16.
    Nvfp4,
}

/// The parameters of a convolution, a number per spatial dimension each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Steps of the kernel over the input.
    pub strides: Axes,
    /// Zeros before the input.
    pub padding_low: Axes,
    /// Zeros after the input.
    pub padding_high: Axes,
    /// Distance of the kernel's elements.
    pub kernel_dilation: Axes,
    /// Distance at which input elements are placed, zeros between them.
    pub input_dilation: Axes,
    /// Blocks of channels that are convolved separately.
    pub groups: usize,
    /// Whether the kernel is reversed in all spatial dimensions.
    pub flip: bool,
}
