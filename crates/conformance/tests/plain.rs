//! What MLX cannot run on a CPU is written as plain operations, which compute the same.

use conformance::{modes, suite};
use motet_core::array::Array;
use motet_core::error::Result;
use motet_core::export::reader::ExportedFile;
use motet_core::tensor::Tensor;

/// The primitive as motet writes it for MLX: read again, and called.
fn exported(trial: &suite::Trial, path: &std::path::Path) -> Result<(Vec<String>, Vec<Tensor>)> {
    let mut file = ExportedFile::new(false, "");
    let graph = modes::graph(&trial.primitive, &trial.inputs, false)?;
    file.functions.push(graph.into());
    file.save(path)?;
    motet::import_function(path)?.export(path)?;
    let function = motet::import_function(path)?;
    let nodes = &function.signatures()[0].nodes;
    let names = nodes.iter().map(|node| node.primitive.name().to_owned());
    let inputs: Vec<Array> = trial
        .inputs
        .iter()
        .cloned()
        .map(Array::from_tensor)
        .collect();
    Ok((names.collect(), modes::values(&function.call(&inputs)?)?))
}

#[test]
fn plain_forms_compute_the_same() {
    let path = std::env::temp_dir().join(format!("motet-plain-{}.mlxfn", std::process::id()));
    let (mut replaced, mut failures) = (0, Vec::new());
    for trial in suite::trials().unwrap() {
        let name = trial.primitive.name();
        let (names, results) = match exported(&trial, &path) {
            Ok(made) => made,
            // MLX's files cannot hold it.
            Err(_) if !trial.primitive.is_stored() => continue,
            Err(error) => panic!("{trial:?}: {error}"),
        };
        if names == [name] {
            continue;
        }
        replaced += 1;
        if names.iter().any(|other| other == name) {
            failures.push(format!("{trial:?} has {names:?}"));
        }
        if let Err(error) = trial.compare(&results) {
            failures.push(format!("{trial:?}: {error}"));
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(replaced > 100, "{replaced} were replaced");
    assert!(
        failures.is_empty(),
        "{} of {replaced}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
