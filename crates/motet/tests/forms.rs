//! Chains of operations that plans recognise, as MLX exports them on a CPU: what a plan does instead,
//! and that it gives what MLX gives. `tools/make_forms.py` wrote them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use motet::{Array, ArrayExt, Dtype, import_function, load_safetensors};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/forms")
}

/// All models, by name.
fn models() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut models: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "mlxfn")
    });
    models.sort();
    models
}

#[test]
fn plans_have_a_kernel_for_each_form() {
    let mut text = String::new();
    for model in models() {
        let plan = import_function(&model).unwrap().compile().plan_text();
        writeln!(text, "{}", model.file_stem().unwrap().display()).unwrap();
        for line in plan.unwrap().lines() {
            let step = line.trim_start();
            if step.starts_with(|c: char| c.is_ascii_digit()) {
                writeln!(text, "    {step}").unwrap();
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn results_are_those_of_mlx() {
    let models = models();
    assert!(models.len() > 20);
    for model in models {
        let (mut arrays, _) = load_safetensors(model.with_extension("safetensors")).unwrap();
        let mut all = |kind: &str| -> Vec<Array> {
            let numbers = 0..;
            numbers
                .map_while(|i| arrays.remove(&format!("{kind}.{i}")))
                .collect()
        };
        let (inputs, expected) = (all("in"), all("out"));
        let function = import_function(&model).unwrap().compile();
        let outputs = function.call(&inputs).unwrap();
        assert_eq!(outputs.len(), expected.len());
        for (output, expected) in outputs.iter().zip(&expected) {
            let tolerance = match expected.dtype() {
                Dtype::Float32 => 5e-6,
                Dtype::Float16 => 4e-3,
                _ => 3e-2,
            };
            let numbers = |array: &Array| {
                let array = array.astype(Dtype::Float32).unwrap();
                array.to_vec::<f32>().unwrap()
            };
            assert_eq!(output.shape(), expected.shape(), "{}", model.display());
            for (a, b) in numbers(output).into_iter().zip(numbers(expected)) {
                let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
                assert!(close, "{}: got {a}, expected {b}", model.display());
            }
        }
    }
}
