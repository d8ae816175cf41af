//! Files built by hand, byte by byte, right and wrong; and those that MLX wrote.

use std::path::PathBuf;

use super::*;
use crate::compile::constants::readable;
use crate::dtype::Dtype::{Bool, Complex64, Float32, Int32, Uint8};
use crate::error::ErrorKind;
use crate::export::codec::Writer;

/// A file under construction.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn file(version: &str, functions: i32, shapeless: bool) -> Bytes {
        let mut file = Bytes(Vec::new());
        file.w().string(version);
        file.w().i32(functions);
        file.w().bool(shapeless);
        if Version::parse(version).unwrap() >= METADATA {
            file.w().string("a note");
        }
        file
    }

    /// A current file with one function from `x` (id 1, float32 of 2 x 3) to the value `output`.
    fn one(output: u64, entries: u64) -> Bytes {
        Bytes::file("0.32.4", 1, false).function(&[], &[(1, f32s(&[2, 3]))], &[output], entries)
    }

    fn w(&mut self) -> Writer<'_> {
        Writer(&mut self.0)
    }

    fn function(
        mut self,
        keywords: &[&str],
        inputs: &[(u64, Spec)],
        outputs: &[u64],
        entries: u64,
    ) -> Bytes {
        self.w().u64(keywords.len() as u64);
        keywords.iter().for_each(|name| self.w().string(name));
        self.w()
            .vec_u64(&inputs.iter().map(|input| input.0).collect::<Vec<_>>());
        self.w().u64(inputs.len() as u64);
        inputs.iter().for_each(|input| self.w().spec(&input.1));
        self.w().vec_u64(outputs);
        self.w().u64(entries);
        self
    }

    fn input(mut self, id: u64) -> Bytes {
        self.w().u64(id);
        self.w().bool(false);
        self.w().bool(false);
        self
    }

    /// A constant entry; without spec and data one that was stored before.
    fn constant(mut self, id: u64, stored: Option<(Spec, &[u8])>) -> Bytes {
        self.w().u64(id);
        self.w().bool(false);
        self.w().bool(true);
        if let Some((spec, data)) = stored {
            self.w().spec(&spec);
            self.0.extend_from_slice(data);
        }
        self
    }

    /// A node up to and without its sibling count.
    fn node_head(mut self, id: u64, name: &str, inputs: &[u64], stream: [i32; 3]) -> Bytes {
        self.w().u64(id);
        self.w().bool(true);
        self.w().vec_u64(inputs);
        stream.iter().for_each(|&number| self.w().i32(number));
        self.w().string(name);
        self
    }

    fn node(self, id: u64, name: &str, inputs: &[u64], output: Spec) -> Bytes {
        let mut file = self.node_head(id, name, inputs, [0, 0, 0]);
        file.w().u64(0);
        file.w().spec(&output);
        file
    }

    fn siblings(mut self, count: u64, ids: &[u64], outputs: &[Spec]) -> Bytes {
        self.w().u64(count);
        self.w().vec_u64(ids);
        self.w().u64(outputs.len() as u64);
        outputs
            .iter()
            .for_each(|output| self.w().shape(&output.shape));
        self.w().u64(outputs.len() as u64);
        outputs
            .iter()
            .for_each(|output| self.w().dtype(output.dtype));
        self
    }

    fn parse(&self) -> Result<ExportedFile> {
        ExportedFile::parse(self.0.clone(), "test.mlxfn")
    }

    /// The message of the error that the file must give.
    fn refused(&self, says: &str) {
        let error = self
            .parse()
            .err()
            .unwrap_or_else(|| panic!("must be refused: {says}"));
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::File, "{text}");
        assert!(text.starts_with("[test.mlxfn] "), "{text}");
        assert!(
            text.contains(says) && text.contains("byte"),
            "{text}, expected: {says}"
        );
    }
}

fn f32s(dims: &[usize]) -> Spec {
    Spec::new(dims, Float32)
}

fn bytes_of(tensor: &Tensor) -> &[u8] {
    let all = tensor.buffer.as_ptr().cast_const();
    let (start, len) = (tensor.offset, tensor.spec().bytes());
    assert!(start + len <= tensor.buffer.len());
    // SAFETY: within the buffer, and constants are initialised and immutable.
    unsafe { std::slice::from_raw_parts(all.add(start), len) }
}

/// Two functions that share a constant, with keywords, siblings, a repeated output and an unused
/// input.
fn rich() -> Bytes {
    let x = f32s(&[2]);
    let data = [1.5f32, -2.0].map(f32::to_le_bytes).concat();
    Bytes::file("0.32.4", 2, false)
        .function(
            &["a", "b"],
            &[(1, x.clone()), (2, x.clone()), (3, x.clone())],
            &[12, 10, 10, 1, 20],
            6,
        )
        .input(1)
        .constant(20, Some((x.clone(), &data)))
        .input(3)
        .node(10, "Add", &[1, 20], x.clone())
        .node_head(12, "DivMod", &[10, 3], [7, 1, 0])
        .siblings(1, &[11, 12], &[x.clone(), x.clone()])
        .node(13, "Exp", &[11], x.clone())
        .function(&[], &[(10, x.clone())], &[1], 3)
        .input(10)
        .constant(20, None)
        .node(1, "Multiply", &[10, 20], x)
}

#[test]
fn layout_is_understood() {
    let mut bytes = rich();
    bytes.0.extend_from_slice(b"trailing");
    let file = bytes.parse().unwrap();
    assert_eq!(
        (&*file.version, &*file.metadata, file.shapeless),
        ("0.32.4", "a note", false)
    );
    let [first, second] = &file.functions[..] else {
        panic!("two functions")
    };
    assert_eq!(
        (first.positional(), &first.keywords[..]),
        (1, &["a".into(), "b".into()][..])
    );
    assert_eq!(first.inputs, [0, 1, 2]);
    assert_eq!(first.outputs, [6, 4, 4, 0, 3]);
    assert_eq!(
        (
            first.nodes[0].lane,
            first.nodes[1].lane,
            first.nodes[2].lane
        ),
        (0, 1, 0)
    );
    assert_eq!(
        (&first.nodes[1].inputs[..], &first.nodes[1].outputs[..]),
        (&[4, 2][..], &[5, 6][..])
    );
    assert_eq!((second.positional(), &second.outputs[..]), (1, &[2][..]));
    let (a, b) = (&first.constants[0].1, &second.constants[0].1);
    assert_eq!(
        (bytes_of(a), a.buffer.as_ptr()),
        (bytes_of(b), b.buffer.as_ptr())
    );
    assert_eq!(bytes_of(a), [1.5f32, -2.0].map(f32::to_le_bytes).concat());
    assert_eq!(
        second.to_string(),
        "v0: float32(2) = input 0\nv1: float32(2) = constant\n\
         v2: float32(2) = Multiply v0 v1\nreturn v2"
    );
    assert!(first.to_string().contains("v2: float32(2) = input \"b\"\n"));
    assert!(
        first
            .to_string()
            .contains("v5: float32(2), v6: float32(2) = DivMod v4 v2\n")
    );
}

#[test]
fn inputs_must_fit() {
    let graph = &rich().parse().unwrap().functions[1];
    assert_eq!(graph.specialize(&[f32s(&[2])]).unwrap(), graph.values);
    for wrong in [
        &[][..],
        &[f32s(&[3])],
        &[Spec::new([2], Int32)],
        &[f32s(&[2]), f32s(&[2])],
    ] {
        assert_eq!(
            graph.specialize(wrong).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
}

#[test]
fn shapeless_graphs_infer_again() {
    let x = f32s(&[2, 3]);
    let file = Bytes::file("0.32.4", 1, true)
        .function(&[], &[(1, x.clone()), (2, x.clone())], &[4], 2)
        .node(3, "Add", &[1, 2], x.clone())
        .node(4, "Exp", &[3], x.clone());
    let graph = &file.parse().unwrap().functions[0];
    let y = f32s(&[5, 7]);
    assert_eq!(
        graph.specialize(&[y.clone(), y.clone()]).unwrap(),
        [&y; 4].map(Spec::clone)
    );
    assert!(graph.specialize(&[y.clone(), f32s(&[4, 9])]).is_err());
    assert!(graph.specialize(&[f32s(&[5]), f32s(&[5])]).is_err());
    assert!(
        graph
            .specialize(&[y.clone(), Spec::new([5, 7], Int32)])
            .is_err()
    );
}

#[test]
fn a_node_with_outputs_that_it_does_not_have_is_refused() {
    let x = f32s(&[2, 3]);
    let exp = |shapeless| {
        Bytes::file("0.32.4", 1, shapeless)
            .function(&[], &[(1, x.clone())], &[2], 1)
            .node_head(2, "Exp", &[1], [0; 3])
            .siblings(1, &[2, 3], &[x.clone(), x.clone()])
    };
    exp(false).refused("tape entry 0");
    let graph = &exp(true).parse().unwrap().functions[0];
    assert!(graph.specialize(std::slice::from_ref(&x)).is_err());
    assert!(graph.specialize(&[f32s(&[4, 4])]).is_err());
}

#[test]
fn constants_stay_in_the_file_and_bools_are_bools() {
    let odd = [0u8, 1, 2, 255, 7];
    let complex: Vec<u8> = (0..16).collect();
    for padding in 0..8 {
        let file = Bytes::file("0.32.4", 1, false)
            .function(&[], &[], &[2, 3, 4, 5], 4)
            .constant(2, Some((Spec::new([padding], Uint8), &[9; 8][..padding])))
            .constant(3, Some((Spec::new([2], Complex64), &complex)))
            .constant(4, Some((Spec::new([5], Bool), &odd)))
            .constant(5, Some((Spec::new([0, 9], Int32), &[])));
        let file = file.parse().unwrap();
        let constants = &file.functions[0].constants;
        let in_place = |i: usize| Arc::ptr_eq(&constants[i].1.buffer, &constants[0].1.buffer);
        assert!(in_place(1) && !in_place(2));
        for (_, tensor) in constants {
            let readable = readable(tensor).unwrap();
            let address = readable.buffer.as_ptr().addr() + readable.offset;
            assert!(address.is_multiple_of(tensor.layout.dtype.size()));
            assert_eq!(bytes_of(&readable), bytes_of(tensor));
        }
        assert_eq!(bytes_of(&constants[1].1), complex);
        assert_eq!(bytes_of(&constants[2].1), [0, 1, 1, 1, 1]);
        assert!(bytes_of(&constants[3].1).is_empty());
    }
}

#[test]
fn first_definition_of_an_id_holds() {
    let (x, y) = (f32s(&[2, 3]), f32s(&[4]));
    let data = [0; 16];
    let file = Bytes::one(1, 3)
        .constant(1, Some((y, &data)))
        .node(2, "Exp", &[1], x.clone())
        .node(1, "Abs", &[2], x);
    let graph = &file.parse().unwrap().functions[0];
    assert_eq!((&graph.outputs[..], graph.constants.len()), (&[0][..], 0));
    assert_eq!(
        (&graph.nodes[1].inputs[..], &graph.nodes[1].outputs[..]),
        (&[1][..], &[2][..])
    );
}

#[test]
fn older_and_development_layouts() {
    let x = f32s(&[2]);
    let body = |file: Bytes| {
        file.function(&[], &[(1, x.clone())], &[2], 1)
            .node(2, "Exp", &[1], x.clone())
    };
    // With metadata from 0.32.1 on; builds of 0.32.1.dev may be older than that.
    for version in [
        "0.22.0",
        "0.32.0",
        "0.32.1",
        "0.32.4",
        "0.33.0",
        "0.32.1.dev20260101+ab",
    ] {
        let file = body(Bytes::file(version, 1, false)).parse().unwrap();
        assert_eq!((&*file.version, file.functions.len()), (version, 1));
    }
    let mut old = Bytes(Vec::new());
    old.w().string("0.32.1.dev20250101+ab");
    old.w().i32(1);
    old.w().bool(false);
    let old = body(old);
    assert_eq!(old.parse().unwrap().metadata, "");
    Bytes::file("0.21.9", 1, false).refused("0.22.0");
    let mut unknown = Bytes::file("0.40.0", 1, false);
    unknown.0.pop();
    unknown.refused("files up to MLX 0.32.4 are known");
    assert_eq!(before(Version::new(0, 32, 4)), Version::new(0, 32, 3));
    assert!(before(Version::new(1, 0, 0)) > Version::new(0, 32, 4));
    assert!(before(Version::new(0, 32, 0)) > Version::new(0, 31, 9));
}

#[test]
fn each_guard_refuses() {
    let x = f32s(&[2, 3]);
    // Header and signature.
    Bytes(Vec::new()).refused("header");
    Bytes::file("0.32.4", -1, false).refused("got -1 functions");
    Bytes::file("0.32.4", i32::MAX, false).refused("functions, there is room for 0");
    let named = |keywords: &[&str]| {
        let inputs = [(1, x.clone()), (2, x.clone())];
        Bytes::file("0.32.4", 1, false).function(keywords, &inputs, &[1], 0)
    };
    named(&["b", "a"]).refused("ascending");
    named(&["a", "a"]).refused("ascending");
    named(&["a", "b", "c"]).refused("3 keywords for 2 inputs");
    Bytes::one(1, u64::MAX).refused("count of");
    let mut uneven = Bytes::file("0.32.4", 1, false);
    uneven.w().u64(0);
    uneven.w().vec_u64(&[1, 2]);
    uneven.w().u64(1);
    uneven.w().spec(&x);
    uneven.0.extend_from_slice(&[0; 64]);
    uneven.refused("2 input ids for 1 inputs");
    // Ids.
    Bytes::one(9, 0).refused("output 0 has id 0x9");
    Bytes::one(1, 1)
        .input(9)
        .refused("function 0, tape entry 0");
    Bytes::one(1, 2)
        .node(2, "Exp", &[1], x.clone())
        .input(2)
        .refused("tape entry 1");
    Bytes::one(2, 2)
        .node(2, "Exp", &[3], x.clone())
        .node(3, "Exp", &[1], x.clone())
        .refused("input 0 has id 0x3");
    Bytes::one(2, 1).constant(2, None).refused("tape entry 0");
    let other = Bytes::file("0.32.4", 2, false)
        .function(&[], &[(1, x.clone())], &[2], 1)
        .node(2, "Exp", &[1], x.clone())
        .function(&[], &[], &[2], 0);
    other.refused("function 1, which ends");
    // Nodes.
    Bytes::one(2, 1)
        .node(2, "Xyz", &[1], x.clone())
        .refused("Xyz");
    Bytes::one(2, 1)
        .node(2, "Exp", &[1], f32s(&[3, 3]))
        .refused("Exp");
    Bytes::one(2, 1)
        .node(2, "Exp", &[1], Spec::new([2, 3], Int32))
        .refused("Exp");
    Bytes::one(2, 1)
        .node(2, "Add", &[1], x.clone())
        .refused("Add");
    Bytes::one(2, 1)
        .node_head(2, "Exp", &[1], [0, 5, 0])
        .refused("device type 5");
    let divmod = |count, ids: &[u64], outputs: &[Spec]| {
        Bytes::one(2, 1)
            .node_head(2, "DivMod", &[1, 1], [0; 3])
            .siblings(count, ids, outputs)
    };
    let two = [x.clone(), x.clone()];
    assert!(divmod(1, &[2, 3], &two).parse().is_ok());
    divmod(1, &[4, 3], &two).refused("not among the outputs");
    divmod(1, &[2], &two).refused("1 ids, 2 shapes");
    divmod(2, &[2, 3], &two).refused("with 2 siblings");
    divmod(u64::MAX, &[2, 3], &two).refused("siblings");
    divmod(2, &[2, 3, 4], &[x.clone(), x.clone(), x.clone()]).refused("DivMod");
    let huge = f32s(&[1 << 30; 4]);
    divmod(1, &[2, 3], &[x.clone(), huge.clone()]).refused("tape entry 0");
    // Constants.
    Bytes::one(2, 1)
        .constant(2, Some((f32s(&[1 << 30]), &[0; 16])))
        .refused("the file ends early");
    Bytes::one(2, 1)
        .constant(2, Some((huge, &[0; 16])))
        .refused("elements");
}

#[test]
fn unsupported_is_not_damaged() {
    let name = "CustomKernel";
    let error = Bytes::one(2, 1)
        .node(2, name, &[1], f32s(&[2, 3]))
        .parse()
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains(name) && error.to_string().contains("tape entry 0"));
}

#[test]
fn no_cut_or_changed_byte_panics() {
    let whole = rich();
    for end in 0..whole.0.len() {
        let cut = Bytes(whole.0[..end].to_vec());
        assert_eq!(
            cut.parse().err().map(|e| e.kind()),
            Some(ErrorKind::File),
            "cut at {end}"
        );
        for value in [0, 1, 2, 0x7F, 0x80, 0xFF] {
            let mut changed = whole.clone();
            changed.0[end] = value;
            if let Ok(file) = changed.parse() {
                assert!(file.to_string().starts_with("MLX"));
            }
        }
    }
}

#[test]
fn long_chains_take_no_stack() {
    let (x, length) = (f32s(&[2, 3]), 100_000);
    let mut file = Bytes::file("0.32.4", 1, true);
    file = file.function(&[], &[(1, x.clone())], &[length + 1], length);
    for id in 1..=length {
        file = file.node(id + 1, "Exp", &[id], x.clone());
    }
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || {
            let file = file.parse().unwrap();
            let values = file.functions[0].specialize(&[f32s(&[1, 1])]).unwrap();
            assert_eq!(values.last(), Some(&f32s(&[1, 1])));
            assert_eq!(
                file.functions[0].to_string().lines().count(),
                length as usize + 2
            );
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn files_are_opened() {
    let path = std::env::temp_dir().join(format!("motet-reader-{}.mlxfn", std::process::id()));
    std::fs::write(&path, &rich().0).unwrap();
    let file = ExportedFile::open(&path).unwrap();
    // The map outlives the file's name and the description of the file.
    std::fs::write(path.with_extension("empty"), []).unwrap();
    let empty = ExportedFile::open(&path.with_extension("empty"))
        .err()
        .unwrap();
    std::fs::remove_file(path.with_extension("empty")).unwrap();
    std::fs::remove_file(&path).unwrap();
    let constant = file.functions[1].constants[0].1.clone();
    drop(file);
    assert_eq!(
        bytes_of(&constant),
        [1.5f32, -2.0].map(f32::to_le_bytes).concat()
    );
    assert!(empty.to_string().contains("ends early"), "{empty}");
    for missing in [path.as_path(), &std::env::temp_dir()] {
        let error = ExportedFile::open(missing).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}

/// The text that `key` has in a JSON object.
fn field<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let rest = &object[object.find(&format!("\"{key}\""))? + key.len() + 2..];
    rest.split('"').nth(1)
}

#[test]
fn fixtures_of_mlx_open() {
    let folder = std::env::var_os("MOTET_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(manifest) = std::fs::read_to_string(folder.join("manifest.json")) else {
        println!(
            "skipped: no fixtures in {}; set MOTET_FIXTURES",
            folder.display()
        );
        return;
    };
    let (mut opened, mut refused, mut unsupported) = (0, Vec::new(), Vec::new());
    let mut wrong = Vec::new();
    for object in manifest.split("\"name\"").skip(1) {
        let name = object.split('"').nth(1).unwrap();
        let group = field(object, "group").unwrap();
        let result = ExportedFile::open(&folder.join(format!("{name}.mlxfn")));
        match (group, result) {
            ("reject", Ok(_)) => wrong.push(format!("{name} must be refused")),
            ("reject", Err(e)) => {
                let source_code = name == "reject_custom_kernel";
                if (e.kind() == ErrorKind::Unsupported) != source_code {
                    wrong.push(format!("{name}: {e:?}"));
                }
                refused.push(e.to_string());
            }
            (_, Ok(file)) => {
                for graph in &file.functions {
                    let inputs: Vec<Spec> = graph
                        .inputs
                        .iter()
                        .map(|&id| graph.values[id].clone())
                        .collect();
                    match graph.specialize(&inputs) {
                        Ok(values) if values == graph.values => {}
                        Ok(_) => wrong.push(format!("{name}: other shapes than in the trace")),
                        Err(e) => wrong.push(format!("{name}: {e}")),
                    }
                }
                opened += 1;
            }
            ("op" | "quant" | "random" | "synthetic", Err(e))
                if e.kind() == ErrorKind::Unsupported =>
            {
                unsupported.push(name);
            }
            (_, Err(e)) => wrong.push(e.to_string()),
        }
    }
    println!("{opened} opened, unsupported {unsupported:?}, refused {refused:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(opened > 0);
}
