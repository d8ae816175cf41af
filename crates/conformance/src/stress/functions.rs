//! The functions that programs call: formulas, traced, or exported and imported; and the models of
//! the repository.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use motet::ops::{self, Scan, keepdims};
use motet::{Array, CallOptions, Dtype, ErrorKind, Function};
use motet_core::error::{Error, Result};

use super::interpret::weight;
use super::program::{Callee, Formula, Source, Transform};

/// Makes a function for values of this shape.
///
/// # Errors
/// What importing or exporting refuses: memory.
pub fn make(callee: Callee, [rows, columns]: [usize; 2]) -> Result<Function> {
    let formula = callee.formula;
    let f = move |x: &[Array]| outputs(formula, &x[0], &x[1]);
    if callee.source == Source::Traced {
        return Ok(motet::compile(f));
    }
    let example = Array::from_slice(&vec![0i32; rows * columns], [rows, columns])?;
    let imported = with_path("mlxfn", |path| {
        motet::export_function(path, f, &[example.clone(), example.clone()])?;
        motet::import_function(path)
    })?;
    Ok(match callee.source {
        Source::Compiled => imported.compile(),
        _ => imported,
    })
}

/// The function with calls that have these options.
pub fn with_options(mut function: Function, options: &CallOptions) -> Function {
    if let Some(stream) = &options.stream {
        function = function.on(stream);
    }
    if let Some(token) = &options.cancel {
        function = function.cancelled_by(token);
    }
    if let Some(deadline) = options.deadline {
        function = function.deadline(deadline);
    }
    if let Some(priority) = options.priority {
        function = function.priority(priority);
    }
    if let Some(scope) = &options.memory {
        function = function.memory(scope);
    }
    function
}

/// A formula, and the difference, as lazy operations.
///
/// # Errors
/// Memory, for a constant.
pub fn outputs(formula: Formula, x: &Array, y: &Array) -> Result<Vec<Array>> {
    let value = match formula {
        Formula::Polynomial => ops::subtract(ops::multiply(ops::add(x, y)?, x)?, y)?,
        Formula::Sums => ops::add(
            ops::cumsum(&ops::maximum(x, y)?, 1, Scan::default())?,
            ops::sum(x, keepdims(1))?,
        )?,
        Formula::Product => transform(Transform::Product, &ops::add(x, y)?)?,
    };
    Ok(vec![value, ops::subtract(x, y)?])
}

/// A transform as lazy operations.
///
/// # Errors
/// Memory, for a constant.
pub fn transform(transform: Transform, x: &Array) -> Result<Array> {
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    match transform {
        Transform::RowSums => ops::broadcast_to(&ops::sum(x, keepdims(1))?, [rows, columns]),
        Transform::RunningSums => ops::cumsum(x, 1, Scan::default()),
        Transform::Flip => ops::flip(x, 1),
        Transform::Turn => ops::reshape(&ops::transpose(x, ..)?, [rows as i32, columns as i32]),
        Transform::Swap => {
            let halves = ops::split(x, 2, 1)?;
            ops::concatenate(&[halves[1].clone(), halves[0].clone()], 1)
        }
        Transform::Product => {
            let places = (0..columns * columns).map(|n| (n / columns, n % columns));
            let weights: Vec<f32> = places.map(|(i, j)| weight(i, j) as f32).collect();
            let weights = Array::from_slice(&weights, [columns, columns])?;
            let bits = ops::astype(&ops::bitwise_and(x, 3)?, Dtype::Float32)?;
            ops::astype(&ops::matmul(&bits, &weights)?, Dtype::Int32)
        }
    }
}

struct Model {
    function: &'static [u8],
    values: &'static [u8],
    /// What it gives on one thread, as it is and compiled.
    alone: [OnceLock<Vec<f32>>; 2],
}

macro_rules! model {
    ($name:literal) => {
        Model {
            function: include_bytes!(concat!("../../../../models/", $name, ".mlxfn")),
            values: include_bytes!(concat!("../../../../models/", $name, ".safetensors")),
            alone: [OnceLock::new(), OnceLock::new()],
        }
    };
}

/// In the program itself, so that it runs where there is no repository.
static MODELS: [Model; 3] = [model!("tiny"), model!("a"), model!("b")];

/// The number of models.
pub const MODEL_COUNT: usize = MODELS.len();

/// Imports a model.
///
/// # Errors
/// Memory.
pub fn import_model(model: usize, compiled: bool) -> Result<Function> {
    let imported = with_file(MODELS[model].function, "mlxfn", |path| {
        motet::import_function(path)
    })?;
    Ok(if compiled {
        imported.compile()
    } else {
        imported
    })
}

/// The model's input.
///
/// # Errors
/// Memory.
pub fn model_input(model: usize) -> Result<Array> {
    let tensors = with_file(MODELS[model].values, "safetensors", |path| {
        motet_io::read(path)
    })?;
    let input = tensors.get("in.0").ok_or_else(|| wrong("no input"))?;
    Ok(Array::from_tensor(input.clone()))
}

/// What a model gives where nothing else runs. To be asked for first when that is so.
///
/// # Panics
/// If it fails.
pub fn model_alone(model: usize, compiled: bool) -> &'static [f32] {
    let alone = || -> Result<Vec<f32>> {
        let outputs = import_model(model, compiled)?.call(&[model_input(model)?])?;
        outputs[0].to_vec()
    };
    let known = &MODELS[model].alone[usize::from(compiled)];
    known.get_or_init(|| alone().expect("a model alone does not fail"))
}

fn with_file<T>(bytes: &[u8], extension: &str, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    with_path(extension, |path| {
        std::fs::write(path, bytes).map_err(|e| wrong(&e.to_string()))?;
        read(path)
    })
}

/// Calls `work` with the path of a file of its own, which is removed then: what has been mapped
/// stays readable.
fn with_path<T>(extension: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: all that matters is that no two are the same.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("motet-stress-{}-{number}.{extension}", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let result = work(&path);
    // It may not have been written.
    let _ = std::fs::remove_file(&path);
    result
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "stress", what)
}
