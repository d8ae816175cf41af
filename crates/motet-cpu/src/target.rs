//! Where the float32 sums of a kernel go: into its output, or through the program of a fused kernel
//! into the outputs of that. [`FusedStep`] is the step of a kernel that leaves it to that.

use half::{bf16, f16};
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::{Fused, Kernel};
use motet_core::shape::{Layout, Spec};

use crate::convert::Float32Like;
use crate::elementwise::{Memory, Operands, Part, Prepared, Sums};
use crate::operand::{Extent, Output};
use crate::scratch::with_scratch;
use crate::simd::Simd;

/// A kernel, or that inside of a fused one, with its operands and where its sums go.
pub(crate) struct Parts<'a> {
    pub kernel: &'a Kernel,
    pub inputs: &'a [Layout],
    /// The result of the kernel itself.
    pub result: Spec,
    pub target: Target,
}

/// Takes a fused kernel apart.
///
/// # Errors
/// A result that is not of float32 or half; a program that there are no loops for.
pub(crate) fn parts<'a>(
    kernel: &'a Kernel,
    inputs: &'a [Layout],
    outputs: &[Layout],
) -> Result<Parts<'a>> {
    let unexpected = |what| Error::new(ErrorKind::Internal, "cpu", what);
    let (kernel, inputs, result, way) = match kernel {
        Kernel::Fused(fused) => {
            let Fused {
                kernel,
                inputs: count,
                program,
                result,
            } = &**fused;
            let (own, others) = inputs
                .split_at_checked(*count)
                .ok_or_else(|| unexpected("too few inputs of a fused kernel"))?;
            // The program sees the sums in the shape of its outputs, and not rounded.
            let seen = outputs.first().ok_or_else(|| unexpected("no outputs"))?;
            let sums = Spec::new(seen.shape.clone(), Dtype::Float32).layout();
            let operands = [&[sums], others].concat();
            let program = Prepared::new(program, &operands, outputs, Simd::detect())?;
            (
                kernel,
                own,
                result.clone(),
                Way::Program(Epilogue {
                    program,
                    first: *count,
                    inputs: others.iter().map(Extent::of).collect(),
                    outputs: outputs.iter().map(Extent::of).collect(),
                }),
            )
        }
        kernel => {
            let [out] = outputs else {
                return Err(unexpected("several outputs"));
            };
            (kernel, inputs, out.spec(), Way::Store(Extent::of(out)))
        }
    };
    if !is_summed(result.dtype) {
        return Err(unexpected("a result that is not float32 or half"));
    }
    Ok(Parts {
        kernel,
        inputs,
        result,
        target: Target(way),
    })
}

/// Whether results of a dtype are summed in float32, so that a [`Target`] takes them.
pub(crate) fn is_summed(dtype: Dtype) -> bool {
    dtype == Dtype::Float32 || dtype.is_half()
}

/// Where the sums of a kernel go.
pub(crate) struct Target(Way);

enum Way {
    Store(Extent),
    Program(Epilogue),
}

/// A program that sums go through.
struct Epilogue {
    program: Prepared,
    /// The program's first input but the sums among those of the launch.
    first: usize,
    /// The inputs from there on.
    inputs: Vec<Extent>,
    outputs: Vec<Extent>,
}

impl Target {
    /// Whether an output may lie where the kernel's input with this number does: one of the program's, of
    /// which it reads what it then writes over.
    pub(crate) fn writes_over(&self, input: usize, output: usize) -> bool {
        match &self.0 {
            Way::Store(_) => false,
            Way::Program(Epilogue { program, first, .. }) => {
                // The sums are the program's first input.
                let number = input.checked_sub(*first).map(|number| number + 1);
                number.is_some_and(|number| program.writes_over(number, output))
            }
        }
    }

    /// The target's memory in one launch, which is kept in `operands`.
    #[inline]
    pub(crate) fn bind<'a>(
        &'a self,
        launch: &Launch<'a>,
        operands: &'a mut Operands,
    ) -> Result<BoundTarget<'a>> {
        Ok(match &self.0 {
            Way::Store(out) => {
                let [place] = launch.outputs else {
                    return Err(Error::new(ErrorKind::Internal, "cpu", "several outputs"));
                };
                match out.dtype() {
                    Dtype::Float16 => BoundTarget::Float16(Output::at(place, out)?),
                    Dtype::Bfloat16 => BoundTarget::Bfloat16(Output::at(place, out)?),
                    _ => BoundTarget::Float32(Output::at(place, out)?),
                }
            }
            Way::Program(epilogue) => {
                // The sums take the first place, part by part.
                operands.leave_first();
                BoundTarget::Program(BoundEpilogue {
                    program: &epilogue.program,
                    memory: operands.find(
                        &launch.inputs[epilogue.first..],
                        &epilogue.inputs,
                        launch.outputs,
                        &epilogue.outputs,
                    )?,
                })
            }
        })
    }
}

/// A kernel whose sums a program can run on.
pub(crate) trait Summed: Send + Sync {
    /// As [`Step::scratch_bytes`].
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Computes tile by tile: `store` gets the sums of neighbours from a row-major number on, and
    /// those of each element once.
    fn sums(&self, launch: &Launch<'_>, store: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<()>;
}

/// A kernel with a program on its result.
pub(crate) struct FusedStep<S> {
    pub kernel: S,
    pub target: Target,
}

impl<S: Summed> Step for FusedStep<S> {
    fn scratch_bytes(&self) -> usize {
        self.kernel.scratch_bytes()
    }

    fn writes_over(&self, input: usize, output: usize) -> bool {
        self.target.writes_over(input, output)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut operands = Operands::default();
        let target = self.target.bind(launch, &mut operands)?;
        self.kernel.sums(launch, &|start, sums| {
            // SAFETY: the sums of an element are stored once.
            unsafe { target.store(start, sums) }
        })
    }
}

/// A [`Target`] in one launch, used by all threads of a region.
pub(crate) enum BoundTarget<'a> {
    Float32(Output<'a, f32>),
    Float16(Output<'a, f16>),
    Bfloat16(Output<'a, bf16>),
    Program(BoundEpilogue<'a>),
}

/// An [`Epilogue`] in one launch.
pub(crate) struct BoundEpilogue<'a> {
    program: &'a Prepared,
    memory: Memory<'a>,
}

impl BoundEpilogue<'_> {
    /// Runs the program on the sums of some elements.
    ///
    /// # Safety
    /// The part's sums are those of its elements, which no other thread stores.
    unsafe fn run(&self, part: Part) {
        let last = part.start + part.rows.saturating_sub(1) * part.row + part.columns;
        assert!(last <= self.program.len());
        // SAFETY: `bind` found all elements of the operands, and by this function's contract the sums
        // are there and nobody else stores the results.
        let run = |scratch| unsafe { self.program.run(&self.memory, scratch, part) };
        match self.program.scratch_bytes() {
            0 => run(std::ptr::null_mut()),
            bytes => with_scratch(bytes, run),
        }
    }
}

impl BoundTarget<'_> {
    /// The output itself, where sums are stored as they are: then there is no need to store them
    /// again.
    pub(crate) fn in_place(&self) -> Option<&Output<'_, f32>> {
        match self {
            BoundTarget::Float32(out) => Some(out),
            _ => None,
        }
    }

    /// Stores the sums of the elements of the result from row-major number `start` on.
    ///
    /// # Safety
    /// No other thread stores any of these elements.
    pub(crate) unsafe fn store(&self, start: usize, sums: &[f32]) {
        let range = start..start + sums.len();
        // SAFETY: by this function's contract.
        unsafe {
            match self {
                BoundTarget::Float32(out) => out.part(range).copy_from_slice(sums),
                BoundTarget::Float16(out) => f16::narrow(sums, out.part(range)),
                BoundTarget::Bfloat16(out) => bf16::narrow(sums, out.part(range)),
                BoundTarget::Program(program) => {
                    program.run(Part::neighbours(start, sums.len(), Some(sums.as_ptr())))
                }
            }
        }
    }

    /// Stores the sums of `columns` neighbours of some rows of a result with rows of `n` elements, one
    /// row of sums after the other; the first one is the element with the row-major number `start`.
    ///
    /// # Safety
    /// No other thread stores any of these elements.
    pub(crate) unsafe fn store_rows(&self, start: usize, n: usize, sums: &[f32], columns: usize) {
        // SAFETY: by this function's contract.
        unsafe {
            if let BoundTarget::Program(program) = self {
                program.run(Part {
                    start,
                    rows: sums.len() / columns,
                    columns,
                    row: n,
                    sums: Some(Sums {
                        address: sums.as_ptr(),
                        step: columns,
                    }),
                });
            } else if columns == n {
                self.store(start, sums);
            } else {
                for (i, sums) in sums.chunks_exact(columns).enumerate() {
                    self.store(start + i * n, sums);
                }
            }
        }
    }
}
