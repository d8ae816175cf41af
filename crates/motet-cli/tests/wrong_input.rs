//! Whatever is wrong with what the command is given, it says so in one message on stderr, with the
//! documented exit code, and never panics.

mod common;

use std::fs;
use std::path::Path;

use common::{BAD_FILE, CHECK_FAILED, USAGE, fails, models, motet, succeeds};
use motet_core::dtype::Dtype;
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;
use motet_io::{NPY_NAME, Tensors};
use tempfile::TempDir;

/// A folder with a copy of the model `tiny` (float32 (1,16) to 4 values) and its sample.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for file in ["tiny.mlxfn", "tiny.safetensors"] {
            fs::copy(models().join(file), folder.0.path().join(file)).unwrap();
        }
        folder
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).to_str().unwrap().to_owned()
    }

    fn tiny(&self) -> String {
        self.path("tiny.mlxfn")
    }

    fn truncate(&self, file: &str) {
        let whole = fs::read(self.path(file)).unwrap();
        fs::write(self.path(file), &whole[..whole.len() / 2]).unwrap();
    }

    /// Writes one tensor of ones to a .npy file.
    fn npy(&self, file: &str, shape: &[usize], dtype: Dtype) -> String {
        let path = self.path(file);
        let tensors = Tensors::from([(NPY_NAME.to_owned(), ones(shape, dtype))]);
        motet_io::write(Path::new(&path), &tensors).unwrap();
        path
    }

    /// Changes the sample beside the model.
    fn edit_sample(&self, edit: impl FnOnce(&mut Tensors)) {
        let path = self.path("tiny.safetensors");
        // A copy: the file is written over while it is mapped otherwise.
        let mut tensors = Tensors::new();
        for (name, tensor) in motet_io::read(Path::new(&path)).unwrap() {
            let bytes = motet_io::row_major(&tensor).into_owned();
            let copy = motet_io::from_row_major(&tensor.spec(), &bytes).unwrap();
            tensors.insert(name, copy);
        }
        edit(&mut tensors);
        fs::remove_file(&path).unwrap();
        motet_io::write(Path::new(&path), &tensors).unwrap();
    }
}

fn ones(shape: &[usize], dtype: Dtype) -> Tensor {
    let spec = Spec::new(shape, dtype);
    motet_io::from_row_major(&spec, &vec![1; spec.bytes()]).unwrap()
}

#[test]
fn usage() {
    fails(&["sing"], USAGE, "sing");
    fails(&["inspect"], USAGE, "MODEL");
    fails(&["check"], USAGE, "PATHS");
    fails(&["check", "x", "--threads", "0"], USAGE, "--threads");
    fails(&["bench", "x", "--mode", "fast"], USAGE, "concurrent");
    fails(&["bench", "x", "--seconds", "NaN"], USAGE, "seconds");
    fails(
        &["run", "x", "--device", "tpu"],
        USAGE,
        "expected cpu or gpu",
    );
    fails(&["completions", "klingon"], USAGE, "klingon");
    assert!(succeeds(&["completions", "bash"]).contains("motet"));
}

#[test]
fn missing_and_truncated_models() {
    let folder = Folder::new();
    for command in ["inspect", "run", "bench", "check"] {
        fails(&[command, "nowhere.mlxfn"], BAD_FILE, "nowhere.mlxfn");
    }
    folder.truncate("tiny.mlxfn");
    for command in ["inspect", "run", "bench"] {
        fails(&[command, &folder.tiny()], BAD_FILE, "tiny.mlxfn");
    }
    let output = motet(["check", &folder.tiny()]);
    assert_eq!(output.status.code(), Some(BAD_FILE));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("FAIL") && stdout.contains("0 passed, 1 failed, 0 skipped"));
}

#[test]
fn run_calls_a_model_with_files() {
    let folder = Folder::new();
    let (tiny, sample) = (folder.tiny(), folder.path("tiny.safetensors"));
    assert!(succeeds(&["run", &tiny, "--inputs", &sample]).starts_with("out.0 float32(1,4): "));
    let x = folder.npy("x.npy", &[1, 16], Dtype::Float32);
    let y = folder.path("y.npz");
    let printed = succeeds(&["run", &tiny, "--input", &format!("0={x}"), "--output", &y]);
    assert_eq!(printed, "");
    let written = motet_io::read(Path::new(&y)).unwrap();
    assert_eq!(written["out.0"].spec(), Spec::new([1, 4], Dtype::Float32));
    let repeated = succeeds(&["run", &tiny, "--inputs", &x, "--repeat", "3"]);
    assert!(repeated.contains("3 calls"));
}

#[test]
fn run_with_wrong_inputs() {
    let folder = Folder::new();
    let tiny = folder.tiny();
    let run =
        |input: &str, code: i32, part: &str| fails(&["run", &tiny, "--input", input], code, part);
    fails(&["run", &tiny], USAGE, "in.0 float32(1,16)");
    run("0", USAGE, "NAME=FILE");
    run("0=nowhere.npy", BAD_FILE, "nowhere.npy");
    let good = folder.npy("good.npy", &[1, 16], Dtype::Float32);
    run(&format!("1={good}"), USAGE, "input 0 is missing");
    run(&format!("image={good}"), USAGE, "do not fit the model");
    let (first, second) = (format!("0={good}"), format!("1={good}"));
    fails(
        &["run", &tiny, "--input", &first, "--input", &second],
        USAGE,
        "do not fit the model",
    );
    fails(
        &["run", &tiny, "--input", &first, "--input", &first],
        USAGE,
        "given twice",
    );
    let shape = folder.npy("shape.npy", &[2, 16], Dtype::Float32);
    run(&format!("0={shape}"), BAD_FILE, "(2,16)");
    let dtype = folder.npy("dtype.npy", &[1, 16], Dtype::Int32);
    run(&format!("0={dtype}"), BAD_FILE, "int32");
    folder.truncate("good.npy");
    run(&first, BAD_FILE, "good.npy");
    folder.truncate("tiny.safetensors");
    let sample = folder.path("tiny.safetensors");
    fails(
        &["run", &tiny, "--inputs", &sample],
        BAD_FILE,
        "tiny.safetensors",
    );
}

#[test]
fn export_writes_a_model_again_also_where_it_is() {
    let folder = Folder::new();
    let (tiny, copy) = (folder.tiny(), folder.path("copy.mlxfn"));
    succeeds(&["export", &tiny, "--output", &copy]);
    succeeds(&["export", &tiny, "-o", &tiny]);
    assert_eq!(fs::read(&tiny).unwrap(), fs::read(&copy).unwrap());
    let checked = succeeds(&["check", &tiny]);
    assert!(checked.contains("1 passed, 0 failed, 0 skipped"));
    fails(&["export", &tiny], USAGE, "--output");
    let missing = folder.path("missing/copy.mlxfn");
    fails(&["export", &tiny, "-o", &missing], BAD_FILE, "missing");
    folder.truncate("copy.mlxfn");
    fails(&["export", &copy, "-o", &tiny], BAD_FILE, "copy.mlxfn");
    succeeds(&["check", &tiny]);
}

#[test]
fn run_cannot_write() {
    let folder = Folder::new();
    let (tiny, sample) = (folder.tiny(), folder.path("tiny.safetensors"));
    for name in [
        "y.txt",
        "missing/y.npz",
        "missing/y.npy",
        "missing/y.safetensors",
    ] {
        let path = folder.path(name);
        fails(
            &["run", &tiny, "--inputs", &sample, "--output", &path],
            BAD_FILE,
            name,
        );
    }
}

#[test]
fn run_on_a_device_that_is_not_there() {
    let folder = Folder::new();
    let sample = folder.path("tiny.safetensors");
    fails(
        &[
            "run",
            &folder.tiny(),
            "--inputs",
            &sample,
            "--device",
            "gpu:7",
        ],
        4,
        "gpu:7",
    );
}

/// Checks the folder's model: the exit code, and a part of its line.
#[track_caller]
fn check_says(folder: &Folder, code: i32, part: &str) {
    for arguments in [vec![], vec!["--eager", "--threads", "3", "--repeat", "2"]] {
        let tiny = folder.tiny();
        let output = motet(["check", &tiny].into_iter().chain(arguments));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stdout}");
        assert!(stdout.contains(part), "{stdout}");
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
    }
}

#[test]
fn check_finds_what_is_wrong_with_a_sample() {
    let x = |shape: &[usize], dtype| ones(shape, dtype);
    check_says(&Folder::new(), 0, "1 passed, 0 failed, 0 skipped");
    let edited = |edit: &dyn Fn(&mut Tensors)| {
        let folder = Folder::new();
        folder.edit_sample(edit);
        folder
    };
    let value = edited(&|t| _ = t.insert("out.0".into(), x(&[1, 4], Dtype::Float32)));
    check_says(&value, CHECK_FAILED, "out.0: 4 of 4 elements differ");
    let shape = edited(&|t| _ = t.insert("in.0".into(), x(&[3, 16], Dtype::Float32)));
    check_says(&shape, CHECK_FAILED, "(3,16)");
    let dtype = edited(&|t| _ = t.insert("in.0".into(), x(&[1, 16], Dtype::Int32)));
    check_says(&dtype, CHECK_FAILED, "int32");
    let count = edited(&|t| _ = t.insert("in.1".into(), x(&[1], Dtype::Int32)));
    check_says(&count, CHECK_FAILED, "tiny.safetensors");
    let name = edited(&|t| _ = t.insert("in.kw.mask".into(), x(&[1], Dtype::Int32)));
    check_says(&name, CHECK_FAILED, "mask");
    let outputs = edited(&|t| _ = t.insert("out.1".into(), x(&[1], Dtype::Int32)));
    check_says(&outputs, CHECK_FAILED, "got 1 outputs, expected 2");
    let gap = edited(&|t| _ = t.insert("in.2".into(), x(&[1], Dtype::Int32)));
    check_says(&gap, BAD_FILE, "'in.2' does not continue");
    let none = edited(&|t| t.retain(|name, _| name.starts_with("in.")));
    check_says(&none, BAD_FILE, "no outputs to compare with");

    let truncated = Folder::new();
    truncated.truncate("tiny.safetensors");
    check_says(&truncated, BAD_FILE, "tiny.safetensors");
    let missing = Folder::new();
    fs::remove_file(missing.path("tiny.safetensors")).unwrap();
    check_says(&missing, BAD_FILE, "tiny.safetensors");
}

#[test]
fn check_follows_the_manifest() {
    let folder = Folder::new();
    let manifest = |entry: &str| {
        let text = format!(r#"{{"fixtures": [{{"file": "tiny.mlxfn", {entry}}}]}}"#);
        fs::write(folder.path("manifest.json"), text).unwrap();
    };
    // A good model that must be refused is a failure; a damaged one is not.
    manifest(r#""group": "reject""#);
    check_says(&folder, CHECK_FAILED, "must be refused");
    let broken = Folder::new();
    broken.truncate("tiny.mlxfn");
    fs::copy(folder.path("manifest.json"), broken.path("manifest.json")).unwrap();
    check_says(&broken, 0, "1 passed");

    manifest(r#""calls": ["tiny.safetensors", "tiny.call1.safetensors"]"#);
    check_says(&folder, BAD_FILE, "tiny.call1.safetensors");
    folder.edit_sample(|tensors| _ = tensors.insert("out.0".into(), ones(&[1, 4], Dtype::Float32)));
    manifest(r#""calls": ["tiny.safetensors"], "tol": {"float32": [0, 1e9]}"#);
    check_says(&folder, 0, "1 passed");
    fs::write(folder.path("manifest.json"), "{").unwrap();
    fails(&["check", &folder.tiny()], BAD_FILE, "manifest.json");
}

#[test]
fn check_folders() {
    let empty = tempfile::tempdir().unwrap();
    fails(
        &["check", empty.path().to_str().unwrap()],
        BAD_FILE,
        "no .mlxfn files",
    );
    let json = empty.path().join("results.json");
    let (folder, json) = (models(), json.to_str().unwrap().to_owned());
    let arguments = [
        "check",
        folder.to_str().unwrap(),
        "--threads",
        "2",
        "--json",
        &json,
    ];
    assert!(succeeds(&arguments).contains("3 passed, 0 failed, 0 skipped"));
    assert!(
        fs::read_to_string(&json)
            .unwrap()
            .contains(r#""passed": 3"#)
    );
    let arguments = [
        "check",
        folder.to_str().unwrap(),
        "--json",
        "nowhere/x.json",
    ];
    fails(&arguments, BAD_FILE, "nowhere/x.json");
}

#[test]
fn inspect_shows_the_model() {
    let folder = Folder::new();
    let text = succeeds(&["inspect", &folder.tiny()]);
    assert!(text.contains("in.0") && text.contains("AddMM") && text.contains("float32(1,16)"));
    assert!(text.contains("\nplan: ") && !text.contains("0 AddMM+"));
    assert!(succeeds(&["inspect", &folder.tiny(), "--plan"]).contains("0 AddMM+"));
    assert!(succeeds(&["inspect", &folder.tiny(), "--json"]).contains(r#""primitives":"#));
}

#[test]
fn bench_checks_what_it_measures() {
    let folder = Folder::new();
    let tiny = folder.tiny();
    let json = folder.path("bench.json");
    let arguments = [
        "bench",
        &tiny,
        "--threads",
        "2",
        "--seconds",
        "0.2",
        "--json",
        &json,
    ];
    let printed = succeeds(&arguments);
    assert!(
        printed.contains("1 of 1 models agree with the sample"),
        "{printed}"
    );
    assert!(printed.contains("speed-up"), "{printed}");
    for key in [
        "mode",
        "threads",
        "calls_per_s",
        "ratio_to_alone",
        "models",
        "p999_us",
        "memory",
    ] {
        assert!(fs::read_to_string(&json).unwrap().contains(key));
    }
    let two = ["bench", &tiny, &tiny, "--threads", "1"];
    fails(&two, USAGE, "at least as many");
    folder.edit_sample(|tensors| _ = tensors.insert("out.0".into(), ones(&[1, 4], Dtype::Float32)));
    fails(
        &["bench", &tiny, "--seconds", "0.1"],
        CHECK_FAILED,
        "4 of 4 elements differ",
    );
    folder.truncate("tiny.safetensors");
    fails(
        &["bench", &tiny, "--seconds", "0.1"],
        BAD_FILE,
        "tiny.safetensors",
    );
    fs::remove_file(folder.path("tiny.safetensors")).unwrap();
    let printed = succeeds(&["bench", &tiny, "--seconds", "0.1", "--mode", "mutex"]);
    assert!(printed.contains("0 of 1 models agree") && !printed.contains("concurrent:"));
}
