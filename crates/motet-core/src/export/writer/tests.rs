//! What is written is read again as it was: every primitive, combinations of them, and MLX's files.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::dtype::Dtype;
use crate::error::ErrorKind;
use crate::memory::heap;
use crate::ops::Sample;
use crate::shape::Spec;
use crate::shape::Strides;

fn file(functions: Vec<Graph>) -> ExportedFile {
    ExportedFile {
        version: Version::NEWEST.to_string(),
        shapeless: functions.first().is_some_and(|graph| graph.shapeless),
        metadata: "a note ♪".into(),
        functions: functions.into_iter().map(Arc::new).collect(),
    }
}

fn written(file: &ExportedFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write(&mut bytes).unwrap();
    bytes
}

/// Everything that a file says, or would say when it is written.
fn text(file: &ExportedFile) -> String {
    let mut text = format!("{:?} {}\n", file.metadata, file.shapeless);
    for graph in &file.functions {
        text += &format!("{:?} {:?}\n", graph.inputs, graph.keywords);
        for (value, tensor) in &graph.constants {
            text += &format!("v{value}: {:?}\n", tensor.row_major());
        }
        for node in &graph.nodes {
            let (inputs, outputs, lane) = (&node.inputs, &node.outputs, node.lane);
            let primitive = as_mlx_runs_it(node, graph);
            text += &format!("{primitive:?} {inputs:?} -> {outputs:?} on {lane}\n");
        }
        text += &format!("{:?} of {:?}\n", graph.outputs, graph.values);
    }
    text
}

fn assert_round_trip(file: &ExportedFile, name: &str) {
    let again = ExportedFile::parse(written(file), name).unwrap();
    assert_eq!(text(&again), text(file), "{name}");
    assert_eq!(again.version, Version::NEWEST.to_string());
}

/// A tensor whose bytes count up; zeros and ones for booleans.
fn tensor(spec: &Spec) -> Tensor {
    let tensor = Tensor::allocate(spec, heap()).unwrap();
    for byte in 0..spec.bytes() {
        let value = if spec.dtype == Dtype::Bool { 1 } else { byte };
        // SAFETY: within the new buffer, which nobody else has.
        unsafe { tensor.buffer.as_ptr().add(byte).write(value as u8) };
    }
    tensor
}

/// A graph that is made node by node.
struct Builder(Graph);

impl Builder {
    fn new(inputs: &[Spec], keywords: &[&str], shapeless: bool) -> Builder {
        Builder(Graph {
            values: inputs.to_vec(),
            inputs: (0..inputs.len()).collect(),
            keywords: keywords.iter().map(|&name| name.to_owned()).collect(),
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            shapeless,
        })
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.0.values.push(tensor.spec());
        self.0.constants.push((self.0.values.len() - 1, tensor));
        self.0.values.len() - 1
    }

    fn node(&mut self, primitive: &Primitive, inputs: Vec<ValueId>, lane: usize) -> Vec<ValueId> {
        let specs: Vec<Spec> = inputs.iter().map(|&v| self.0.values[v].clone()).collect();
        let specs = primitive.infer(&specs, None).unwrap();
        let first = self.0.values.len();
        self.0.values.extend(specs);
        let outputs: Vec<ValueId> = (first..self.0.values.len()).collect();
        self.0.nodes.push(Node {
            primitive: primitive.clone(),
            inputs,
            outputs: outputs.clone(),
            lane,
        });
        outputs
    }

    fn finish(mut self, outputs: &[ValueId]) -> Graph {
        self.0.outputs = outputs.to_vec();
        self.0
    }
}

#[test]
fn every_primitive_round_trips() {
    for Sample { primitive, inputs } in Primitive::samples() {
        for shapeless in [false, true] {
            let mut graph = Builder::new(&inputs, &[], shapeless);
            let outputs = graph.node(&primitive, (0..inputs.len()).collect(), 0);
            let file = file(vec![graph.finish(&outputs)]);
            if primitive.is_stored() {
                assert_round_trip(&file, primitive.name());
            } else {
                let error = file.write(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(primitive.name()), "{error}");
            }
        }
    }
}

/// Files of several functions of random samples, whose inputs are now inputs of the function, now
/// constants that functions share, now what other nodes made.
#[test]
fn any_graph_round_trips() {
    let samples: Vec<Sample> = Primitive::samples()
        .into_iter()
        .filter(|sample| sample.primitive.is_stored())
        .collect();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..60 {
        let mut shared: Vec<Tensor> = Vec::new();
        let mut functions = Vec::new();
        for _ in 0..1 + random(3) {
            let chosen: Vec<&Sample> = (0..1 + random(5))
                .map(|_| &samples[random(samples.len())])
                .collect();
            let specs: Vec<Spec> = chosen.iter().flat_map(|s| s.inputs.clone()).collect();
            let names = ["a", "b", "k\u{e9}y"];
            let keywords = &names[..random(1 + names.len().min(specs.len()))];
            let mut graph = Builder::new(&specs, keywords, false);
            // Lanes are numbered in the order of their appearance.
            let mut lanes = 0;
            for sample in chosen {
                let mut inputs = Vec::new();
                for spec in &sample.inputs {
                    let candidates = graph.0.values.iter().enumerate();
                    let candidates: Vec<ValueId> = candidates
                        .filter(|(_, known)| *known == spec)
                        .map(|(value, _)| value)
                        .collect();
                    inputs.push(match random(3) {
                        0 => {
                            let known = shared.iter().find(|tensor| tensor.spec() == *spec);
                            let tensor = known.cloned().unwrap_or_else(|| tensor(spec));
                            shared.push(tensor.clone());
                            let id = tensor.identity();
                            let here = graph.0.constants.iter().find(|c| c.1.identity() == id);
                            match here.map(|(value, _)| *value) {
                                Some(value) => value,
                                None => graph.constant(tensor),
                            }
                        }
                        _ => candidates[random(candidates.len())],
                    });
                }
                let lane = random(lanes + 1);
                lanes = lanes.max(lane + 1);
                graph.node(&sample.primitive, inputs, lane);
            }
            let values = graph.0.values.len();
            let outputs: Vec<ValueId> = (0..1 + random(4)).map(|_| random(values)).collect();
            functions.push(graph.finish(&outputs));
        }
        assert_round_trip(&file(functions), "random");
    }
}

#[test]
fn reductions_of_nothing_are_conversions() {
    let sum = |dims: [usize; 2], shapeless| {
        let input = Spec::new(dims, Dtype::Bool);
        let sum = crate::ops::reduce::Reduce {
            op: crate::kernel::Reduction::Sum,
            axes: vec![0],
        };
        let mut graph = Builder::new(&[input], &[], shapeless);
        let outputs = graph.node(&sum.into(), vec![0], 0);
        let file = file(vec![graph.finish(&outputs)]);
        let again = ExportedFile::parse(written(&file), "test").unwrap();
        assert_eq!(again.functions[0].values, file.functions[0].values);
        again.functions[0].nodes[0].primitive.name()
    };
    assert_eq!(sum([1, 3], false), "AsType");
    assert_eq!(sum([2, 3], false), "Reduce");
    assert_eq!(sum([1, 3], true), "Reduce");
}

#[test]
fn constants_are_row_major_and_stored_once() {
    let whole = tensor(&Spec::new([100, 30], Dtype::Float32));
    let mut layout = Spec::new([30, 100], Dtype::Float32).layout();
    layout.strides = Strides::from_slice(&[1, 30]);
    let transposed = whole.view(layout, 0).unwrap();
    let function = || {
        let mut graph = Builder::new(&[], &[], false);
        let constant = graph.constant(transposed.clone());
        graph.finish(&[constant, constant])
    };
    let file = file(vec![function(), function()]);
    let bytes = written(&file);
    assert!(bytes.len() < 12_500, "stored twice: {} bytes", bytes.len());
    let again = ExportedFile::parse(bytes, "test").unwrap();
    for graph in &again.functions {
        let stored = graph.constants[0].1.row_major();
        for (number, element) in stored.chunks(4).enumerate() {
            let (row, column) = (number / 100, number % 100);
            let at = (column * 30 + row) * 4;
            assert_eq!(element, &whole.row_major()[at..at + 4]);
        }
    }
}

#[test]
fn unused_inputs_are_not_in_the_tape() {
    let x = Spec::new([2], Dtype::Float32);
    let inputs = [x.clone(), x];
    let used = |outputs: &[ValueId]| {
        let graph = Builder::new(&inputs, &[], false).finish(outputs);
        written(&file(vec![graph])).len()
    };
    // An output more is an id; an input that is used is an entry of ten bytes.
    assert_eq!(used(&[0, 0]) + 10, used(&[0, 1]));
}

#[test]
fn files_appear_whole_or_not_at_all() {
    let folder = std::env::temp_dir().join(format!("motet-writer-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("f.mlxfn");
    let x = Spec::new([2], Dtype::Float32);
    let good = file(vec![Builder::new(&[x], &[], false).finish(&[0])]);
    good.save(&path).unwrap();
    assert_eq!(text(&ExportedFile::open(&path).unwrap()), text(&good));

    // A folder cannot be replaced by a file.
    fs::create_dir(folder.join("folder")).unwrap();
    for wrong in [folder.join("folder"), folder.join("missing/f.mlxfn")] {
        let error = good.save(&wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains(wrong.to_str().unwrap()));
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                Some(left) => {
                    self.0 = left;
                    Ok(bytes.len())
                }
                None => Err(io::Error::from(io::ErrorKind::StorageFull)),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut graph = Builder::new(&[Spec::new([2], Dtype::Float32)], &["k"], false);
    let constant = graph.constant(tensor(&Spec::new([2], Dtype::Float32)));
    let add = Primitive::Add(crate::ops::elementwise::Add);
    let sum = graph.node(&add, vec![0, constant], 0);
    let file = file(vec![graph.finish(&sum)]);
    let size = written(&file).len();
    file.write(&mut Full(size)).unwrap();
    for room in 0..size {
        let error = file.write(&mut Full(room)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::File);
    }
}

#[test]
fn files_of_mlx_round_trip() {
    let folder = std::env::var_os("MOTET_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let bundled = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let entries = [folder, bundled]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    let mut files = 0;
    for entry in entries.flatten() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "mlxfn")
            && let Ok(file) = ExportedFile::open(&path)
        {
            assert_round_trip(&file, &path.display().to_string());
            files += 1;
        }
    }
    assert!(files >= 3);
}
