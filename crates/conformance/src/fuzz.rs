//! The bodies of the fuzz targets. Each takes any bytes; what it must not do is panic, hang, or take
//! much more memory than [`MEMORY`]. A kernel that panics counts, though motet makes an error of it.

use std::path::Path;
use std::sync::OnceLock;

use motet_core::backend::BACKENDS;
use motet_core::compile::executor::run_primitive;
use motet_core::compile::plan::Plan;
use motet_core::dtype::Dtype;
use motet_core::error::{ErrorKind, Result};
use motet_core::export::codec::{Reader, Version};
use motet_core::export::reader::ExportedFile;
use motet_core::graph::Graph;
use motet_core::kernel::Kernel;
use motet_core::memory::heap;
use motet_core::ops::{Lowered, Primitive, Sample};
use motet_core::pool::Pool;
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;

use crate::modes::same;
use crate::noise::Noise;
use crate::programs::eager;

/// The memory that arrays may take.
pub const MEMORY: usize = 16 << 20;

/// A body: what is run on any bytes.
pub type Body = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Body); 5] = [
    ("mlxfn", mlxfn),
    ("npy", npy),
    ("npz", npz),
    ("rules", rules),
    ("safetensors", safetensors),
];

/// Passes on what is a value or an error that says so.
///
/// # Panics
/// If a kernel panicked or motet contradicted itself.
fn sane<T>(result: Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::Internal => panic!("{error}"),
        result => result.ok(),
    }
}

/// Arrays of zeros.
fn zeros(specs: &[Spec]) -> Option<Vec<Tensor>> {
    let zero = |spec: &Spec| {
        spec.shape.check(spec.dtype).ok()?;
        (spec.bytes() <= MEMORY).then_some(())?;
        sane(motet_io::from_row_major(spec, &vec![0; spec.bytes()]))
    };
    specs.iter().map(zero).collect()
}

/// Reads a file, prints it, and calls its functions with zeros: as plans, and node by node.
pub fn mlxfn(bytes: &[u8]) {
    heap().set_limit(MEMORY);
    let Some(file) = sane(ExportedFile::parse(bytes.to_vec(), "fuzz")) else {
        return;
    };
    assert!(file.to_string().starts_with("MLX"));
    let write = |file: &ExportedFile| {
        let mut bytes = Vec::new();
        sane(file.write(&mut bytes)).map(|()| bytes)
    };
    if let Some(written) = write(&file) {
        let again =
            ExportedFile::parse(written.clone(), "written").expect("what was read is whole");
        assert_eq!(
            write(&again),
            Some(written),
            "writing what was written changes it"
        );
    }
    for graph in &file.functions {
        call(graph);
    }
}

fn call(graph: &Graph) {
    let specs: Vec<Spec> = graph
        .inputs
        .iter()
        .map(|&id| graph.values[id].clone())
        .collect();
    let fused = sane(Plan::build(graph, &specs, true));
    let plan = sane(Plan::build(graph, &specs, false));
    let Some(inputs) = zeros(&specs) else { return };
    if !is_quick(graph, &specs) {
        return;
    }
    let run = |plan: Option<Plan>| sane(plan?.call(&inputs, Pool::global(), &mut || Ok(())));
    run(fused);
    if let (Some(compiled), Some(eager)) = (run(plan), sane(eager(graph, &inputs))) {
        assert!(
            same(&compiled, &eager),
            "compiled and eager differ:\n{graph}"
        );
    }
}

/// Whether a call takes no more than a moment: work is not what is bounded here.
fn is_quick(graph: &Graph, specs: &[Spec]) -> bool {
    let Ok(values) = graph.specialize(specs) else {
        return false;
    };
    graph.nodes.iter().all(|node| {
        let mut sizes: Vec<usize> = node
            .inputs
            .iter()
            .map(|&id| values[id].shape.size())
            .collect();
        sizes.extend(node.outputs.iter().map(|&id| values[id].shape.size()));
        is_quick_work(&sizes)
    })
}

/// Products and convolutions take at most about the product of the two largest sizes.
fn is_quick_work(sizes: &[usize]) -> bool {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let largest = sizes.iter().rev().take(2);
    largest.fold(1, |work: usize, &size| work.saturating_mul(size.max(1))) < 1 << 26
}

/// A shape rule: a sample of a primitive whose parameters, inputs and recorded outputs the bytes
/// change. What is accepted is prepared, and run where it is small.
pub fn rules(bytes: &[u8]) {
    heap().set_limit(MEMORY);
    let mut choices = Choices { bytes };
    let samples = samples();
    let Sample { primitive, inputs } = &samples[choices.word() as usize % samples.len()];
    let recorded = primitive.infer(inputs, None).ok();

    let mut state = Vec::new();
    primitive.encode(&mut state);
    for _ in 0..choices.byte() % 4 {
        let at = choices.byte() as usize % state.len().max(1);
        let number = choices.number().to_le_bytes();
        let count = [1, 4, 4, 8][choices.byte() as usize % 4];
        for (to, from) in state.iter_mut().skip(at).zip(&number[..count]) {
            *to = *from;
        }
    }
    let decoded = Primitive::decode(primitive.name(), &mut Reader::new(&state), Version::NEWEST);
    let Some(primitive) = sane(decoded) else {
        return;
    };
    let mut inputs = inputs.clone();
    choices.change(&mut inputs);
    let mut outputs = recorded.unwrap_or_default();
    choices.change(&mut outputs);
    if inputs
        .iter()
        .any(|spec| spec.shape.check(spec.dtype).is_err())
    {
        return;
    }
    let recorded = (choices.byte() < 128).then_some(&outputs[..]);
    if let Some(outputs) = sane(primitive.infer(&inputs, recorded)) {
        accepted(&primitive, &inputs, &outputs, choices.byte());
    }
}

fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(Primitive::samples)
}

/// What a rule has accepted can be lowered and prepared, and run on anything.
fn accepted(primitive: &Primitive, inputs: &[Spec], outputs: &[Spec], fill: u8) {
    for output in outputs {
        assert!(
            output.shape.check(output.dtype).is_ok(),
            "{primitive:?} gives {output}"
        );
    }
    let Some(lowered) = sane(primitive.lower(inputs, outputs)) else {
        return;
    };
    if let Lowered::Views(views) = &lowered {
        for ((input, view), output) in views.iter().zip(outputs) {
            let Some((layout, offset)) = view.apply(&inputs[*input].layout(), output) else {
                panic!("{primitive:?} of {inputs:?} is no view of row-major elements");
            };
            assert_eq!(layout.spec(), *output, "{primitive:?}");
            assert_inside(&layout, offset, &inputs[*input]);
        }
    }
    if outputs.iter().any(|spec| spec.bytes() > MEMORY) {
        return;
    }
    if let Lowered::Kernel(kernel) = &lowered {
        let layouts = |specs: &[Spec]| specs.iter().map(Spec::layout).collect::<Vec<Layout>>();
        let mut inputs = layouts(inputs);
        if let Kernel::Elementwise(program) = kernel {
            inputs.truncate(program.inputs.len());
        }
        if outputs.iter().any(|spec| spec.shape.size() > 0) {
            for backend in BACKENDS {
                sane(backend.prepare(kernel, &inputs, &layouts(outputs), &[]));
            }
        }
    }
    let specs = inputs.iter().chain(outputs);
    let sizes: Vec<usize> = specs.map(|spec| spec.shape.size()).collect();
    if inputs.iter().any(|spec| spec.bytes() > MEMORY) || !is_quick_work(&sizes) {
        return;
    }
    let mut noise = Noise::new(fill.into());
    let tensors = inputs.iter().map(|spec| {
        let mut byte = || match spec.dtype {
            Dtype::Bool => noise.bits() as u8 & 1,
            _ if fill < 64 => 0,
            _ => noise.bits() as u8,
        };
        let bytes: Vec<u8> = (0..spec.bytes()).map(|_| byte()).collect();
        sane(motet_io::from_row_major(spec, &bytes))
    });
    if let Some(tensors) = tensors.collect::<Option<Vec<Tensor>>>() {
        sane(run_primitive(primitive, &tensors, outputs, Pool::global()));
    }
}

fn assert_inside(layout: &Layout, offset: isize, input: &Spec) {
    if !layout.shape.contains(&0) {
        let (low, high) = layout.extent().expect("it can exist");
        let inside = low + offset >= 0 && high + offset < input.bytes() as isize;
        assert!(inside, "{layout:?} at {offset} of {input}");
    }
}

/// Bytes as choices; zeros when they are used up.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&byte, rest)) => {
                self.bytes = rest;
                byte
            }
            None => 0,
        }
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number that is likely to be on the edge of something.
    fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=127 => small.into(),
            128..=159 => (-i64::from(self.byte())) as u64,
            160..=175 => i32::MAX as u64 - u64::from(self.byte()),
            176..=191 => i32::MIN as u32 as u64 + u64::from(self.byte()),
            192..=207 => u64::MAX >> (self.byte() % 64),
            208..=223 => 1 << (self.byte() % 64),
            _ => self.word().into(),
        }
    }

    fn dim(&mut self) -> usize {
        self.number().min(i32::MAX as u64) as usize
    }

    fn dtype(&mut self) -> Dtype {
        Dtype::ALL[self.byte() as usize % Dtype::ALL.len()]
    }

    /// Changes some of these.
    fn change(&mut self, specs: &mut Vec<Spec>) {
        for _ in 0..self.byte() % 4 {
            let index = self.byte() as usize % specs.len().max(1);
            let Some(spec) = specs.get_mut(index) else {
                specs.push(Spec::new([self.dim()], self.dtype()));
                continue;
            };
            let rank = spec.shape.len();
            let axis = self.byte() as usize % rank.max(1);
            match self.byte() % 7 {
                0 | 1 if rank > 0 => spec.shape.dims_mut()[axis] = self.dim(),
                2 if rank > 0 => {
                    spec.shape.dims_mut().remove(axis);
                }
                3 => spec.shape.dims_mut().insert(axis, self.dim()),
                4 => spec.dtype = self.dtype(),
                5 => {
                    specs.remove(index);
                }
                _ => {
                    let copy = spec.clone();
                    specs.push(copy);
                }
            }
        }
    }
}

/// Reads a safetensors file.
pub fn safetensors(bytes: &[u8]) {
    read("safetensors", bytes);
}

/// Reads a npy file.
pub fn npy(bytes: &[u8]) {
    read("npy", bytes);
}

/// Reads a npz file.
pub fn npz(bytes: &[u8]) {
    read("npz", bytes);
}

fn read(extension: &str, bytes: &[u8]) {
    heap().set_limit(MEMORY);
    let name = format!("motet-fuzz-{}.{extension}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).expect("the folder for temporary files takes one");
    if let Some(tensors) = sane(motet_io::read(&path)) {
        for tensor in tensors.values() {
            assert_eq!(motet_io::row_major(tensor).len(), tensor.spec().bytes());
        }
    }
    std::fs::remove_file(&path).expect("it was just written");
}

/// A change of `bytes`, perhaps with parts of `other`.
pub fn mutated(bytes: &[u8], other: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + noise.below(3) {
        let at = noise.below(bytes.len());
        match noise.below(8) {
            0 => bytes.truncate(at),
            1 => {
                let from = noise.below(other.len());
                let part = &other[from..(from + noise.below(64)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            2 => {
                let end = (at + noise.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 | 4 => {
                // Most fields are small numbers of four or eight bytes.
                let fields = (0..bytes.len().saturating_sub(3))
                    .filter(|&at| bytes[at + 2..at + 4] == [0, 0]);
                let fields: Vec<usize> = fields.collect();
                if !fields.is_empty() {
                    let at = *noise.pick(&fields);
                    let edges = [
                        0,
                        1,
                        2,
                        3,
                        4,
                        16,
                        64,
                        255,
                        1 << 16,
                        i32::MAX,
                        i32::MIN,
                        -1,
                        -2,
                        1 << 30,
                    ];
                    bytes[at..at + 4].copy_from_slice(&noise.pick(&edges).to_le_bytes());
                }
            }
            5 if !bytes.is_empty() => bytes[at] ^= 1 << noise.below(8),
            _ if !bytes.is_empty() => bytes[at] = noise.bits() as u8,
            _ => {}
        }
    }
    bytes
}

/// The files of a target's corpus.
///
/// # Errors
/// Where the folder cannot be read.
pub fn corpus(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    // A folder has no order.
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}
