//! Random programs give the same eager, compiled, fused, and by the reference.

use conformance::Verdict;
use conformance::modes::{exported, planned, same};
use conformance::programs::Program;
use motet_core::error::Result;
use motet_core::tensor::Tensor;

const PROGRAMS: u64 = 400;

/// What is wrong with a program.
fn check(program: &Program) -> Verdict {
    let run = |mode: &str, result: Result<Vec<Tensor>>| {
        let result = result.map_err(|error| format!("{mode}: {error}"))?;
        program
            .compare(&result)
            .map_err(|error| format!("{mode}: {error}"))?;
        Ok::<_, String>(result)
    };
    let inputs = program.tensors().map_err(|error| error.to_string())?;
    let eager = run("eager", program.eager())?;
    let compiled = run("compiled", planned(&program.graph, &inputs, false))?;
    let fused = run("fused", planned(&program.graph, &inputs, true))?;
    // Plans sum products with constants in another order; each result was compared with the
    // reference above.
    let mut nodes = program.graph.nodes.iter();
    let multiplies = nodes.any(|node| matches!(node.primitive.name(), "AddMM" | "Matmul"));
    if !multiplies && !same(&eager, &compiled) {
        return Err("compiled differs from eager".into());
    }
    let again = exported(Program::new(program.seed).graph).map_err(|error| error.to_string())?;
    if let Some(again) = again {
        let again = run("exported", planned(&again, &inputs, true))?;
        if !same(&again, &fused) {
            return Err("exported differs from fused".into());
        }
    }
    // Inside of a fused group halves are not rounded.
    let halves = program.graph.values.iter().any(|spec| spec.dtype.is_half());
    match halves || multiplies || same(&eager, &fused) {
        true => Ok(()),
        false => Err("fused differs from eager".into()),
    }
}

#[test]
fn random_programs_agree_in_all_modes() {
    let failures: Vec<String> = (0..PROGRAMS)
        .filter_map(|seed| {
            let program = Program::new(seed);
            let error = check(&program).err()?;
            Some(format!("program {seed}: {error}\n{}", program.graph))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn programs_are_worth_running() {
    let programs: Vec<Program> = (0..PROGRAMS).map(Program::new).collect();
    let nodes = programs.iter().flat_map(|program| &program.graph.nodes);
    let names: std::collections::BTreeSet<&str> = nodes.map(|node| node.primitive.name()).collect();
    assert!(names.len() > 40, "only {names:?}");
    assert!(
        programs
            .iter()
            .all(|program| program.graph.nodes.len() >= 3)
    );
}
