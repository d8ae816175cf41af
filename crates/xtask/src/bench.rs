//! `cargo xtask bench`: whole models, as JSON lines that other frameworks' drivers print too.
//!
//! A workload is a pair of models of one graph, `NAMEa.mlxfn` and `NAMEb.mlxfn`. Modes: `a`, one
//! model on one core; `b`, one model with all cores; `d`, both models at once from a thread each;
//! `e`, the same behind one mutex; `f`, eight threads over both. All are runs of `motet bench`.

use std::path::{Path, PathBuf};
use std::process::Command;

use motet::{Array, ops, random};
use serde_json::{Value, json};

/// How a mode is measured: its name, threads that call, and what `motet bench` is told.
const MODES: [(&str, u32, &[&str]); 5] = [
    ("a", 1, &["--mode", "single"]),
    ("b", 1, &["--mode", "single"]),
    ("d", 2, &["--mode", "concurrent", "--threads", "2"]),
    ("e", 2, &["--mode", "mutex", "--threads", "2"]),
    ("f", 8, &["--mode", "concurrent", "--threads", "8"]),
];

/// Rows, columns and depth of the products of the workload `w7`.
const PRODUCTS: [usize; 2] = [1024, 2048];

/// Measures a workload and prints a line for each mode.
pub fn bench(root: &Path, folder: &Path, workload: &str, seconds: f64) -> Result<(), String> {
    let motet = root.join("target/release/motet");
    if workload == "w7" {
        return PRODUCTS
            .iter()
            .try_for_each(|&size| product(root, &motet, size, seconds));
    }
    let model = |letter: &str| folder.join(format!("{workload}{letter}.mlxfn"));
    for (mode, threads, options) in MODES {
        let both = [model("a"), model("b")];
        let models = if threads == 1 { &both[..1] } else { &both };
        let measured = measure(&motet, models, options, mode == "a", seconds)?;
        let of_models = measured["models"]
            .as_array()
            .ok_or("motet bench gave no models")?;
        let figures = |name: &str| {
            of_models
                .iter()
                .filter_map(|m| m[name].as_f64())
                .collect::<Vec<_>>()
        };
        let p50 = figures("p50_us");
        println!(
            "{}",
            json!({
                "framework": "motet", "version": env!("CARGO_PKG_VERSION"), "workload": workload,
                "mode": mode, "os_threads": threads, "thr": measured["calls_per_s"],
                "p50_us": p50.iter().sum::<f64>() / p50.len() as f64,
                "p99_us": figures("p99_us").into_iter().fold(0.0, f64::max),
            })
        );
    }
    Ok(())
}

/// A plan of one product with a constant matrix.
fn product(root: &Path, motet: &Path, size: usize, seconds: f64) -> Result<(), String> {
    let path = root.join(format!("target/bench/w7-{size}.mlxfn"));
    write_product(&path, size).map_err(|e| format!("{}: {e}", path.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (mode, ..) in &MODES[..2] {
        let models = std::slice::from_ref(&path);
        let measured = measure(motet, models, &["--mode", "single"], *mode == "a", seconds)?;
        let rate = measured["calls_per_s"]
            .as_f64()
            .ok_or("motet bench gave no rate")?;
        println!(
            "{}",
            json!({
                "framework": "motet", "version": env!("CARGO_PKG_VERSION"),
                "workload": format!("w7-{size}"), "mode": mode,
                "threads": if *mode == "a" { 1 } else { cores },
                "gflops": 2.0 * (size as f64).powi(3) * rate / 1e9,
            })
        );
    }
    Ok(())
}

fn write_product(path: &Path, size: usize) -> motet::Result<()> {
    let folder = path.parent().expect("the path has a folder");
    std::fs::create_dir_all(folder)
        .map_err(|e| motet::Error::file(folder.display().to_string(), e.to_string()))?;
    let noise = |key| random::normal([size, size], None, 0.0, 1.0, Some(&random::key(key)?));
    let (x, matrix) = (noise(1)?, noise(2)?);
    // What is still lazy would be exported as the operations that make it.
    motet::eval(&[x.clone(), matrix.clone()])?;
    motet::export_function(
        path,
        |x: &[Array]| Ok(vec![ops::matmul(&x[0], &matrix)?]),
        &[x],
    )
}

/// Runs `motet bench` and reads its figures.
fn measure(
    motet: &Path,
    models: &[PathBuf],
    options: &[&str],
    one_core: bool,
    seconds: f64,
) -> Result<Value, String> {
    let figures = std::env::temp_dir().join(format!("motet-bench-{}.json", std::process::id()));
    let mut bench = Command::new(motet);
    bench.arg("bench").args(models).args(options);
    bench
        .args(["--seconds", &seconds.to_string()])
        .arg("--json")
        .arg(&figures);
    if one_core {
        bench.env("MOTET_NUM_THREADS", "1");
    }
    let output = bench
        .output()
        .map_err(|e| format!("{bench:?} does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "{bench:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let text = std::fs::read_to_string(&figures).map_err(|e| e.to_string())?;
    // Only to leave nothing behind.
    let _ = std::fs::remove_file(&figures);
    serde_json::from_str(&text).map_err(|e| e.to_string())
}
