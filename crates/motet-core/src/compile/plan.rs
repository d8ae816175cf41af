//! Plans: a graph made ready for inputs of certain shapes, run by any number of threads at once.
//!
//! A plan is immutable. A call takes a workspace and memory for its outputs from the heap, and launches
//! the steps in order; where each argument lies was decided when the plan was built.

use std::fmt;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::backend::{self, Backend, Launch, Location};
use crate::compile::constants::readable;
use crate::compile::ir::{self, Ir, Kind, signature};
use crate::compile::join::join_neighbours;
use crate::compile::memory_plan::{Request, plan_memory};
use crate::compile::permute::write_permuted;
use crate::compile::pieces::read_in_pieces;
use crate::compile::place::{Place, Placed, PlacedKernel, Root, place};
use crate::compile::reuse::{Memory, memory};
use crate::compile::{executor, passes};
use crate::device::Device;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::Graph;
use crate::kernel::Kernel;
use crate::memory::{ALIGNMENT, Buffer, heap};
use crate::pool::Pool;
use crate::shape::{Layout, Spec};
use crate::sync::assert_unlocked;
use crate::tensor::Tensor;
use crate::trace::{self, StepLabel};

/// A graph compiled for inputs of certain specs.
pub struct Plan {
    inputs: Vec<Spec>,
    /// The alignment that the plan needs of each input.
    alignments: Vec<usize>,
    outputs: Vec<Spec>,
    results: Vec<(Argument, Layout)>,
    steps: Vec<PlanStep>,
    /// The bytes of each allocation that leaves a call with its results.
    escaping: Vec<usize>,
    workspace_bytes: usize,
    backend: &'static dyn Backend,
}

struct PlanStep {
    name: String,
    signature: String,
    kernel: Kernel,
    prepared: Box<dyn backend::Step>,
    /// The inputs, and behind them the outputs.
    operands: SmallVec<[Argument; 4]>,
    inputs: usize,
    /// The scratch memory's offset in the workspace.
    scratch: usize,
}

/// Where a call finds a value's first element.
struct Argument {
    source: Source,
    offset: usize,
}

enum Source {
    /// The offset is from the input tensor's first element.
    Input(usize),
    Constant(Arc<Buffer>),
    Workspace,
    Escaping(usize),
}

impl Plan {
    /// Compiles `graph` for inputs of these specs. `fuse` joins elementwise operations, which rounds
    /// half types less often.
    ///
    /// # Errors
    /// Inputs that the graph does not take; operations that the backend does not have.
    pub fn build(graph: &Graph, inputs: &[Spec], fuse: bool) -> Result<Plan> {
        let backend = backend::backend(Device::CPU)?;
        Plan::from_ir(ir::lower(graph, inputs)?, fuse, backend, Pool::global())
    }

    pub(crate) fn from_ir(
        ir: Ir,
        fuse: bool,
        backend: &'static dyn Backend,
        pool: &Pool,
    ) -> Result<Plan> {
        let outputs = ir.outputs.iter().map(|&v| ir.values[v].clone()).collect();
        let run = |step: &ir::Step, inputs: &[Tensor], outputs: &[Spec]| match &step.kind {
            Kind::View(view) => {
                let seen = executor::see(&step.name, view, inputs.first()?, outputs.first()?);
                seen.ok()?.map(|tensor| vec![tensor])
            }
            Kind::Kernel(_) => {
                pool.yield_to_waiters();
                executor::run_step(backend, step, inputs, outputs, pool).ok()
            }
        };
        let mut ir = passes::common_subexpressions(passes::dead_code(ir));
        if fuse {
            // Forms may share what they make of the same value.
            ir = passes::common_subexpressions(passes::recognise(ir));
        }
        ir = passes::fold_constants(ir, &run);
        if fuse {
            let fuses = |kernel: &Kernel, result: &Spec| backend.fuses(kernel, result);
            ir = passes::inline_scalars(ir);
            ir = passes::open_epilogues(ir, &fuses);
            ir = passes::fuse(passes::lift_reshapes(ir));
            ir = passes::fuse_epilogues(ir, &fuses);
        }
        let pack = |tensor: &Tensor| executor::row_major(backend, tensor, pool);
        let mut placed = place(passes::dead_code(ir), backend, &pack)?;
        if fuse {
            read_in_pieces(&mut placed, backend);
            write_permuted(&mut placed, backend);
            join_neighbours(&mut placed, backend);
        }
        Plan::from_placed(placed, outputs, backend, pool)
    }

    fn from_placed(
        mut placed: Placed,
        outputs: Vec<Spec>,
        backend: &'static dyn Backend,
        pool: &Pool,
    ) -> Result<Plan> {
        // A kernel that writes no elements has nothing to do.
        let writes =
            |kernel: &PlacedKernel| kernel.outputs.iter().any(|p| p.layout.shape.size() > 0);
        placed.kernels.retain(writes);
        let fits = |bytes: usize| {
            let checked = heap().check(bytes);
            checked.map_err(|error| error.context("plan", "the plan needs too much memory"))
        };
        placed
            .temporaries
            .iter()
            .try_for_each(|&bytes| fits(bytes))?;
        let mut constants = Constants::new(&mut placed);
        let prepared: Vec<Box<dyn backend::Step>> = placed
            .kernels
            .iter()
            .enumerate()
            .map(|(number, kernel)| {
                // Preparing packs weights, which takes long.
                pool.yield_to_waiters();
                constants.prepare(number, kernel, backend)
            })
            .collect::<Result<_>>()?;

        // Temporaries that results lie in are allocations of their own; the others, and the scratch
        // memory of each step, share the workspace.
        let mut escaping = Vec::new();
        let mut escapes = vec![None; placed.temporaries.len()];
        for output in &placed.outputs {
            if let Root::Temporary(t) = output.root
                && escapes[t].is_none()
            {
                escapes[t] = Some(escaping.len());
                escaping.push(placed.temporaries[t]);
            }
        }
        let Memory { mut requests, of } = memory(&placed, &prepared, &escapes);
        requests.extend(prepared.iter().enumerate().map(|(step, prepared)| Request {
            bytes: prepared.scratch_bytes(),
            first: step,
            last: step,
        }));
        let workspace = plan_memory(&requests)?;
        fits(workspace.bytes)?;
        let (temporaries, scratch) = workspace.offsets.split_at(placed.temporaries.len());

        let argument = |place: &Place| -> Result<Argument> {
            let (source, base) = match place.root {
                Root::Input(index) => (Source::Input(index), 0),
                Root::Constant(index) => {
                    let tensor = readable(constants.get(index)?)?;
                    (Source::Constant(tensor.buffer), tensor.offset)
                }
                Root::Temporary(t) => match escapes[t] {
                    Some(index) => (Source::Escaping(index), 0),
                    None => (Source::Workspace, temporaries[of[t]]),
                },
            };
            Ok(Argument {
                source,
                offset: base + place.offset,
            })
        };
        let results = placed
            .outputs
            .iter()
            .map(|p| Ok((argument(p)?, p.layout.clone())))
            .collect::<Result<_>>()?;
        let with_scratch = placed.kernels.iter().zip(prepared).zip(scratch);
        // The plan must not keep a constant in memory that no launch reads.
        let input = |prepared: &dyn backend::Step, (index, place): (usize, &Place)| {
            if prepared.reads(index) {
                argument(place)
            } else {
                Ok(Argument {
                    source: Source::Workspace,
                    offset: 0,
                })
            }
        };
        let steps = with_scratch.map(|((kernel, prepared), &scratch)| {
            let inputs = kernel.inputs.iter().enumerate();
            let inputs = inputs.map(|place| input(&*prepared, place));
            let outputs = kernel.outputs.iter().map(argument);
            Ok(PlanStep {
                name: kernel.name.clone(),
                signature: kernel_signature(kernel),
                kernel: kernel.kernel.clone(),
                operands: inputs.chain(outputs).collect::<Result<_>>()?,
                inputs: kernel.inputs.len(),
                prepared,
                scratch,
            })
        });
        Ok(Plan {
            steps: steps.collect::<Result<_>>()?,
            results,
            outputs,
            escaping,
            workspace_bytes: workspace.bytes,
            backend,
            inputs: placed.inputs,
            alignments: placed.alignments,
        })
    }

    /// Runs the plan. `between_steps` is called between steps; its error ends the call.
    ///
    /// # Errors
    /// Inputs of other specs than the plan was built for; what a kernel or `between_steps` reports;
    /// a panic in a kernel; memory.
    pub fn call(
        &self,
        inputs: &[Tensor],
        pool: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        self.check(inputs)?;
        let plain = |(input, &alignment): (&Tensor, &usize)| {
            input.layout.is_contiguous() && executor::is_aligned_to(input, alignment)
        };
        let copied;
        let inputs = if inputs.iter().zip(&self.alignments).all(plain) {
            inputs
        } else {
            copied = inputs
                .iter()
                .zip(&self.alignments)
                .map(|(input, alignment)| match plain((input, alignment)) {
                    true => Ok(input.clone()),
                    false => executor::row_major(self.backend, input, pool),
                })
                .collect::<Result<Vec<Tensor>>>()?;
            &copied[..]
        };
        // Loops instead of `collect`, which costs as much as small steps do.
        let mut escaping = SmallVec::<[Arc<Buffer>; 4]>::new();
        for &bytes in &self.escaping {
            escaping.push(Arc::new(heap().allocate(bytes)?));
        }
        let mut small = SmallWorkspace::new();
        let workspace = match self.workspace_bytes <= SmallWorkspace::BYTES {
            // SAFETY: the buffer is dropped before the memory is, at the end of this call, and no other
            // buffer is made of it. Helpers of a step have left when its launch ends.
            true => unsafe { small.buffer() },
            false => heap().allocate(self.workspace_bytes)?,
        };
        let memory = CallMemory {
            inputs,
            workspace: &workspace,
            escaping: &escaping,
        };
        let mut running = 0;
        let run = || self.run_steps(&memory, pool, between_steps, &mut running);
        // A step writes to memory that nobody reads after a failure: nothing broken is left behind.
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            trace::step(running);
            let step = &self.steps[running];
            Err(step.failed(Error::from_panic(&step.name, &*panic)))
        })?;
        let mut results = Vec::with_capacity(self.results.len());
        for (argument, layout) in &self.results {
            let (buffer, base) = match &argument.source {
                Source::Input(index) => (&inputs[*index].buffer, inputs[*index].offset),
                Source::Constant(buffer) => (buffer, 0),
                // Whatever a result lies in escapes.
                Source::Workspace => unreachable!("a result lies in the workspace"),
                Source::Escaping(index) => (&escaping[*index], 0),
            };
            results.push(Tensor {
                buffer: Arc::clone(buffer),
                offset: base + argument.offset,
                layout: layout.clone(),
            });
        }
        Ok(results)
    }

    /// Launches the steps in order; `running` is the one that is at work.
    fn run_steps(
        &self,
        memory: &CallMemory<'_>,
        pool: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
        running: &mut usize,
    ) -> Result<()> {
        let mut operands = SmallVec::<[Location<'_>; 8]>::new();
        for (number, step) in self.steps.iter().enumerate() {
            if number > 0 {
                between_steps()?;
            }
            *running = number;
            operands.clear();
            for argument in &step.operands {
                operands.push(memory.locate(argument));
            }
            let (inputs, outputs) = operands.split_at(step.inputs);
            let launch = Launch {
                inputs,
                outputs,
                scratch: Location {
                    buffer: memory.workspace,
                    offset: step.scratch,
                },
                pool,
            };
            assert_unlocked();
            let launched = step.prepared.launch(&launch);
            trace::step(number);
            launched.map_err(|error| step.failed(error))?;
        }
        Ok(())
    }

    /// What the plan was built for.
    pub fn inputs(&self) -> &[Spec] {
        &self.inputs
    }

    /// What a call gives.
    pub fn outputs(&self) -> &[Spec] {
        &self.outputs
    }

    /// The number of kernels that a call launches.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// What each step does, in order.
    pub fn step_labels(&self) -> Vec<StepLabel> {
        let label = |step: &PlanStep| StepLabel {
            name: step.name.clone(),
            class: step.kernel.class(),
            signature: step.signature.clone(),
        };
        self.steps.iter().map(label).collect()
    }

    /// The bytes that a call takes from the heap: those of its workspace, if that is not small, and of
    /// its outputs.
    pub fn call_bytes(&self) -> usize {
        let workspace = match self.workspace_bytes <= SmallWorkspace::BYTES {
            true => 0,
            false => self.workspace_bytes,
        };
        let outputs = self.escaping.iter().copied();
        outputs.fold(workspace, usize::saturating_add)
    }

    /// The bytes that a call in flight needs beside its inputs and outputs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    fn check(&self, inputs: &[Tensor]) -> Result<()> {
        let fits = |(input, spec): (&Tensor, &Spec)| {
            input.layout.shape == spec.shape && input.layout.dtype == spec.dtype
        };
        if inputs.len() == self.inputs.len() && inputs.iter().zip(&self.inputs).all(fits) {
            return Ok(());
        }
        let got: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
        let message = format!(
            "inputs do not fit the plan: got {got:?}, expected {:?}",
            self.inputs
        );
        Err(Error::invalid("plan", message))
    }
}

/// The constants while steps are prepared. Each goes as soon as no launch and no later step needs it:
/// what is packed was perhaps computed, and the two together would be the peak of the model's memory.
struct Constants {
    tensors: Vec<Option<Tensor>>,
    /// The last kernel that takes each; beyond the last kernel for results.
    last: Vec<usize>,
}

impl Constants {
    fn new(placed: &mut Placed) -> Constants {
        let tensors = std::mem::take(&mut placed.constants);
        let mut last = vec![None; tensors.len()];
        let results = placed.kernels.len();
        let places = placed.kernels.iter().enumerate();
        let places =
            places.flat_map(|(number, kernel)| kernel.inputs.iter().map(move |p| (number, p)));
        for (number, place) in places.chain(placed.outputs.iter().map(|p| (results, p))) {
            if let Root::Constant(index) = place.root {
                last[index] = Some(number);
            }
        }
        let used = tensors.into_iter().zip(&last);
        Constants {
            tensors: used.map(|(tensor, last)| last.map(|_| tensor)).collect(),
            last: last.into_iter().map(Option::unwrap_or_default).collect(),
        }
    }

    fn get(&self, index: usize) -> Result<&Tensor> {
        let message = "a constant was dropped that is needed";
        let gone = || Error::new(ErrorKind::Internal, "plan", message);
        self.tensors[index].as_ref().ok_or_else(gone)
    }

    /// Prepares the kernel of this number.
    fn prepare(
        &mut self,
        number: usize,
        kernel: &PlacedKernel,
        backend: &dyn Backend,
    ) -> Result<Box<dyn backend::Step>> {
        let layouts =
            |places: &[Place]| places.iter().map(|p| p.layout.clone()).collect::<Vec<_>>();
        let constant = |place: &Place| match place.root {
            Root::Constant(index) => {
                let tensor = self.tensors[index].as_ref()?;
                tensor.view(place.layout.clone(), place.offset as isize)
            }
            _ => None,
        };
        let step = backend
            .prepare(
                &kernel.kernel,
                &layouts(&kernel.inputs),
                &layouts(&kernel.outputs),
                &kernel.inputs.iter().map(constant).collect::<Vec<_>>(),
            )
            .map_err(|error| error.context(&kernel.name, kernel_signature(kernel)))?;
        let constants = || {
            let inputs = kernel.inputs.iter().enumerate();
            inputs.filter_map(|(input, place)| match place.root {
                Root::Constant(index) => Some((input, index)),
                _ => None,
            })
        };
        // One step may have packed what it reads as well.
        for (_, index) in constants().filter(|&(input, _)| step.reads(input)) {
            self.last[index] = usize::MAX;
        }
        for (_, index) in constants().filter(|&(_, index)| self.last[index] == number) {
            self.tensors[index] = None;
        }
        Ok(step)
    }
}

fn kernel_signature(kernel: &PlacedKernel) -> String {
    let specs = |places: &[Place]| places.iter().map(|p| p.layout.spec()).collect::<Vec<_>>();
    signature(&specs(&kernel.inputs), &specs(&kernel.outputs))
}

impl PlanStep {
    /// An error of this step, which says what it was at work on.
    fn failed(&self, error: Error) -> Error {
        error.context(&self.name, &self.signature)
    }

    /// The outputs that lie where an input does, each with that input.
    fn written_over(&self) -> Vec<(usize, usize)> {
        let (inputs, outputs) = self.operands.split_at(self.inputs);
        let in_workspace = |argument: &Argument| matches!(argument.source, Source::Workspace);
        let mut pairs = Vec::new();
        for (number, output) in outputs.iter().enumerate() {
            pairs.extend(inputs.iter().enumerate().filter_map(|(index, input)| {
                let same =
                    in_workspace(input) && in_workspace(output) && input.offset == output.offset;
                (same && self.prepared.writes_over(index, number)).then_some((number, index))
            }));
        }
        pairs
    }
}

/// A workspace that is so small that it lies on the stack: taking it from the heap takes as long as a
/// small step.
#[repr(align(64))]
struct SmallWorkspace(MaybeUninit<[u8; SmallWorkspace::BYTES]>);

impl SmallWorkspace {
    const BYTES: usize = 4096;

    fn new() -> SmallWorkspace {
        SmallWorkspace(MaybeUninit::uninit())
    }

    /// The memory as a buffer, for kernels to write.
    ///
    /// # Safety
    /// While the buffer lives, nobody else uses the memory.
    unsafe fn buffer(&mut self) -> Buffer {
        const { assert!(align_of::<SmallWorkspace>() == ALIGNMENT) };
        let address = NonNull::from(&mut self.0).cast();
        // SAFETY: by this function's contract; kernels write a workspace before they read it, as they
        // do one from the heap.
        unsafe { Buffer::foreign(address, SmallWorkspace::BYTES, Box::new(())) }
    }
}

/// The memory of one call.
struct CallMemory<'a> {
    inputs: &'a [Tensor],
    workspace: &'a Buffer,
    escaping: &'a [Arc<Buffer>],
}

impl<'a> CallMemory<'a> {
    fn locate(&self, argument: &'a Argument) -> Location<'a> {
        let (buffer, base) = match &argument.source {
            Source::Input(index) => (&*self.inputs[*index].buffer, self.inputs[*index].offset),
            Source::Constant(buffer) => (&**buffer, 0),
            Source::Workspace => (self.workspace, 0),
            Source::Escaping(index) => (&*self.escaping[*index], 0),
        };
        Location {
            buffer,
            offset: base + argument.offset,
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Input(index) => write!(f, "input {index}")?,
            Source::Constant(_) => write!(f, "constant")?,
            Source::Workspace => write!(f, "workspace")?,
            Source::Escaping(index) => write!(f, "result {index}")?,
        }
        write!(f, "+{}", self.offset)
    }
}

impl fmt::Display for Plan {
    /// A line for each step, with where its operands lie.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan: {} -> {}; {} steps, {} bytes of workspace",
            join(&self.inputs),
            join(&self.outputs),
            self.steps.len(),
            self.workspace_bytes
        )?;
        for (number, step) in self.steps.iter().enumerate() {
            let (inputs, outputs) = step.operands.split_at(step.inputs);
            let (inputs, outputs) = (join(inputs), join(outputs));
            writeln!(f, "{number:5} {}: {}", step.name, step.signature)?;
            writeln!(f, "      at {inputs} -> {outputs}")?;
            for (output, input) in step.written_over() {
                writeln!(f, "      output {output} over input {input}")?;
            }
            let scratch = step.prepared.scratch_bytes();
            if scratch > 0 {
                writeln!(
                    f,
                    "      scratch {scratch} bytes at workspace+{}",
                    step.scratch
                )?;
            }
            if let Kernel::Elementwise(program) = &step.kernel {
                writeln!(f, "      {program}")?;
            }
        }
        for (number, (argument, layout)) in self.results.iter().enumerate() {
            writeln!(f, "output {number}: {} at {argument}", layout.spec())?;
        }
        Ok(())
    }
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
