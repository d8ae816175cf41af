//! The primitives: what an array can be computed by. A file per family.
//!
//! A primitive is pure data, the same for every backend. Its struct, with its parameters in file
//! order, is declared by `operation!`; [`Operation`] says what it takes, what it gives, and which
//! kernel or view computes it. The list at the end of this file is the only one: reader, writer,
//! tables, the conformance suite and fuzzers follow from it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::export::codec::{Reader, Version, Writer};
use crate::kernel::Kernel;
use crate::shape::{Axes, MAX_RANK, Shape, Spec, normalize_axis};

pub mod assemble;
pub mod broadcast;
pub mod convolution;
pub mod dynamic_slice;
pub mod elementwise;
pub mod fast;
pub mod indexing;
pub mod linalg;
pub mod matmul;
pub mod quantized;
pub mod random;
pub mod reduce;
pub mod shape;
pub mod slicing;
pub mod sort;
pub mod state;
#[cfg(test)]
mod tests;
pub mod transform;
mod view;

pub use state::State;
pub use view::View;

/// What computes a primitive.
#[derive(Clone, Debug, PartialEq)]
pub enum Lowered {
    /// Nothing does: output `i` is a view of the input with this number.
    Views(SmallVec<[(usize, View); 1]>),
    /// A kernel, on all inputs in order; an elementwise program on as many as it has.
    Kernel(Kernel),
}

impl Lowered {
    /// One output that is a view of input 0.
    fn view(view: View) -> Lowered {
        Lowered::Views(SmallVec::from_iter([(0, view)]))
    }
}

/// A primitive: its rules.
pub trait Operation: State + Clone + fmt::Debug {
    /// Whether a file can hold it. The array interface needs a few that MLX cannot store: readers
    /// do not know their names, and writers refuse them.
    const STORED: bool = true;

    /// How many inputs it takes.
    fn arity(&self) -> RangeInclusive<usize>;

    /// The specs of its outputs for inputs of these specs, or what is wrong with them. As in
    /// [`Primitive::infer`], which checks arity before and compares with `recorded` after.
    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>>;

    /// What computes it; `inputs` and `outputs` as given to and returned by `infer`.
    fn lower(&self, inputs: &[Spec], outputs: &[Spec]) -> Result<Lowered>;

    /// Legal uses that together show what it does: the primitive and its inputs' specs. Integer
    /// inputs that are indices have to be filled with indices that are in range.
    fn samples() -> Vec<(Self, Vec<Spec>)>;
}

/// A legal use of a primitive, for suites that try them all.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The primitive with its parameters.
    pub primitive: Primitive,
    /// What its inputs are.
    pub inputs: Vec<Spec>,
}

/// Arity, the primitive's own rules, what can exist at all, and what the file claims.
fn infer<O: Operation>(op: &O, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
    let arity = op.arity();
    if !arity.contains(&inputs.len()) {
        let (low, high) = (arity.start(), arity.end());
        let expected = match (low, high) {
            (low, high) if low == high => format!("{low}"),
            (low, &usize::MAX) => format!("at least {low}"),
            (low, high) => format!("{low} to {high}"),
        };
        return Err(O::error(format!(
            "got {} inputs, expected {expected}",
            inputs.len()
        )));
    }
    let outputs = op.infer(inputs, recorded)?;
    for output in &outputs {
        let checked = output.shape.check(output.dtype);
        checked.map_err(|cause| cause.context(O::NAME, "the output is too large"))?;
    }
    match recorded {
        Some(recorded) if recorded != outputs => Err(O::error(format!(
            "inputs {inputs:?} give {outputs:?}, but {recorded:?} is recorded"
        ))),
        _ => Ok(outputs),
    }
}

/// `axes` counted from the start; refuses those out of range or named twice.
fn normalize_axes(op: &str, axes: &[i32], rank: usize) -> Result<Axes> {
    if rank > MAX_RANK {
        return Err(Error::invalid(
            op,
            format!("{rank} dimensions are too many, at most {MAX_RANK} are possible"),
        ));
    }
    let mut result = Axes::new();
    for &axis in axes {
        let normal = normalize_axis(op, axis.into(), rank)?;
        if result.contains(&normal) {
            return Err(Error::invalid(
                op,
                format!("axis {axis} is named twice in {axes:?}"),
            ));
        }
        result.push(normal);
    }
    Ok(result)
}

/// `shape` with another size on `axis`.
fn with_dim(shape: &Shape, axis: usize, dim: usize) -> Shape {
    let mut shape = shape.clone();
    shape.dims_mut()[axis] = dim;
    shape
}

/// Refuses inputs whose dtypes differ.
fn same_dtype(op: &str, inputs: &[Spec]) -> Result<()> {
    match inputs.iter().all(|input| input.dtype == inputs[0].dtype) {
        true => Ok(()),
        false => Err(Error::invalid(
            op,
            format!("inputs have to have one dtype: got {inputs:?}; convert them first"),
        )),
    }
}

macro_rules! primitives {
    ($($family:ident: $($name:ident)*;)*) => {
        /// One operation with its parameters. Equal primitives compute the same.
        #[derive(Clone)]
        #[allow(missing_docs, reason = "each is documented where it is declared")]
        pub enum Primitive {
            $($($name($family::$name),)*)*
        }

        impl Primitive {
            /// The names of all primitives.
            pub const NAMES: &[&str] = &[$($(stringify!($name)),*),*];

            /// The name, as in files.
            pub fn name(&self) -> &'static str {
                match self {
                    $($(Primitive::$name(_) => stringify!($name),)*)*
                }
            }

            /// Whether a file can hold it ([`Operation::STORED`]).
            pub fn is_stored(&self) -> bool {
                match self {
                    $($(Primitive::$name(_) => <$family::$name as Operation>::STORED,)*)*
                }
            }

            /// How many inputs it takes.
            pub fn arity(&self) -> RangeInclusive<usize> {
                match self {
                    $($(Primitive::$name(op) => op.arity(),)*)*
                }
            }

            /// Reads the state that follows `name` in a file of this version.
            pub fn decode(name: &str, reader: &mut Reader<'_>, version: Version) -> Result<Primitive> {
                match name {
                    $($(stringify!($name) if <$family::$name as Operation>::STORED => {
                        State::read(reader, version).map(Primitive::$name)
                    })*)*
                    // What Quantize was called before 0.29.0.
                    "AffineQuantize" => State::read(reader, version).map(Primitive::Quantize),
                    _ => Err(refusal(name, reader)),
                }
            }

            /// Appends the state in the newest layout, also of what is not stored in files.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $($(Primitive::$name(op) => op.write(&mut Writer(out)),)*)*
                }
            }

            /// The specs of the outputs for inputs of these specs; an error if inputs or parameters
            /// do not fit.
            ///
            /// `recorded` is what a file says the outputs are. It decides what parameters leave
            /// open, and has to agree in all else. Files for any shape record the shapes of their
            /// trace: pass `None` there, except for nodes without inputs (Arange), whose outputs
            /// never change.
            pub fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
                match self {
                    $($(Primitive::$name(op) => infer(op, inputs, recorded),)*)*
                }
            }

            /// What computes it, for inputs and outputs as [`infer`](Self::infer) checked them.
            pub fn lower(&self, inputs: &[Spec], outputs: &[Spec]) -> Result<Lowered> {
                match self {
                    $($(Primitive::$name(op) => op.lower(inputs, outputs),)*)*
                }
            }

            /// Legal uses of every primitive.
            pub fn samples() -> Vec<Sample> {
                let mut samples = Vec::new();
                $($(samples.extend($family::$name::samples().into_iter().map(
                    |(op, inputs)| Sample { primitive: Primitive::$name(op), inputs },
                ));)*)*
                samples
            }
        }

        impl fmt::Debug for Primitive {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($(Primitive::$name(op) => op.fmt(f),)*)*
                }
            }
        }

        $($(impl From<$family::$name> for Primitive {
            fn from(op: $family::$name) -> Primitive {
                Primitive::$name(op)
            }
        })*)*
    };
}

impl Primitive {
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }
}

impl PartialEq for Primitive {
    fn eq(&self, other: &Primitive) -> bool {
        self.name() == other.name() && self.encoded() == other.encoded()
    }
}

impl Eq for Primitive {}

impl Hash for Primitive {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
        self.encoded().hash(state);
    }
}

/// The error for a name that is not in the list.
fn refusal(name: &str, reader: &mut Reader<'_>) -> Error {
    match name {
        "CustomKernel" => {
            let kernel = reader.string().unwrap_or_default();
            Error::unsupported(
                name,
                format!("{kernel:?} is GPU source code in the file, which is never run"),
            )
        }
        _ => reader.error(format!("the primitive {name:?} is unknown")),
    }
}

primitives! {
    elementwise: Abs Add ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTan2 ArcTanh AsType BitwiseBinary
        Ceil Conjugate Cos Cosh DivMod Divide Equal Erf ErfInv Exp Expm1 Floor FloorDivide Greater
        GreaterEqual Imag Less LessEqual Log Log1p LogAddExp LogicalAnd LogicalNot LogicalOr Maximum
        Minimum Multiply Negative NotEqual Power Real Remainder Round Select Sigmoid Sign Sin Sinh
        Sqrt Square Subtract Tan Tanh;
    broadcast: Broadcast BroadcastAxes;
    shape: Copy Depends ExpandDims Flatten Full Reshape Squeeze StopGradient
        Transpose Unflatten View;
    slicing: AsStrided Slice SliceUpdate Split;
    assemble: Arange Concatenate Pad;
    reduce: ArgReduce LogSumExp NumberOfElements Reduce Scan Softmax;
    sort: ArgPartition ArgSort Partition SearchSorted Sort;
    indexing: Gather GatherAxis MaskedScatter Scatter ScatterAxis;
    dynamic_slice: DynamicSlice DynamicSliceUpdate;
    matmul: AddMM BlockMaskedMM GatherMM Matmul;
    convolution: Convolution;
    quantized: GatherQMM Quantize QuantizedMatmul;
    random: RandomBits;
    transform: FFT Hadamard;
    fast: LayerNorm LayerNormVJP RMSNorm RMSNormVJP RoPE ScaledDotProductAttention;
    linalg: Cholesky Eig Eigh Inverse LUF QRF SVD;
}
