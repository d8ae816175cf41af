//! One suite for every backend: each sample of each primitive, in every mode, against the naive
//! reference.

use std::fmt::Debug;

use motet::{Array, new_stream, with_stream};
use motet_core::backend::Backend;
use motet_core::error::Result;
use motet_core::ops::{Primitive, Sample};
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;

use crate::Verdict;
use crate::fill::{self, Fill};
use crate::layouts::{Arrangement, repeated};
use crate::modes::{self, failed, same};
use crate::reference;
use crate::value::Value;

/// A primitive with inputs.
#[derive(Clone)]
pub struct Trial {
    /// The primitive.
    pub primitive: Primitive,
    /// Its inputs, row-major.
    pub inputs: Vec<Tensor>,
    values: Vec<Value>,
    fill: Fill,
}

impl Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let specs: Vec<&Spec> = self.values.iter().map(|value| &value.spec).collect();
        write!(f, "{:?} of {specs:?}, {:?}", self.primitive, self.fill)
    }
}

/// The trials of all samples.
///
/// # Errors
/// A sample that its primitive refuses.
pub fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for Sample { primitive, inputs } in Primitive::samples() {
        let outputs = primitive.infer(&inputs, None)?;
        for fill in fill::fills(&primitive, &inputs, &outputs) {
            let values = fill::inputs(&primitive, &inputs, &outputs, fill);
            let tensors = values.iter().map(Value::tensor).collect::<Result<_>>()?;
            trials.push(Trial {
                primitive: primitive.clone(),
                inputs: tensors,
                values,
                fill,
            });
        }
    }
    Ok(trials)
}

impl Trial {
    /// Runs it in every mode that one thread has.
    ///
    /// # Errors
    /// The first mode that fails, differs, or is not what the reference says.
    pub fn check(&self, backend: &dyn Backend) -> Verdict {
        let stream = new_stream(backend.device()).map_err(|error| error.to_string())?;
        with_stream(&stream, || self.modes(backend)).map_err(|error| format!("{self:?}: {error}"))
    }

    /// Compares what something else made of its inputs with the reference.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, got: &[Tensor]) -> Verdict {
        self.refer(&self.values, got)
    }

    /// Compares with the reference for inputs of these values.
    fn refer(&self, inputs: &[Value], got: &[Tensor]) -> Verdict {
        let got: Vec<Value> = got.iter().map(Value::of).collect();
        match reference::check(&self.primitive, inputs, &got) {
            Some(checked) => checked,
            None if is_elsewhere(&self.primitive) => Ok(()),
            None => Err(
                "has no reference; write one in src/reference, or name what it is \
                         checked against in reference::ELSEWHERE"
                    .into(),
            ),
        }
    }

    /// Inputs of the same values that lie otherwise.
    fn arranged(
        &self,
        how: &str,
        inputs: &[Tensor],
        base: &[Tensor],
        backend: &dyn Backend,
    ) -> Verdict {
        let primitive = &self.primitive;
        // Plans have their inputs copied.
        let values: Vec<Value> = inputs.iter().map(Value::of).collect();
        self.planned_agrees(
            &format!("compiled {how}"),
            planned(primitive, inputs, false, true),
            &values,
            base,
        )?;
        self.exported(
            &format!("exported with constants {how}"),
            inputs,
            true,
            base,
        )?;
        let eager = modes::eager(primitive, inputs).map_err(|error| failed(how, &error))?;
        self.launched(&format!("launched {how}"), inputs, &eager, backend)?;
        if in_order(primitive, &eager) {
            return agree(&format!("eager {how}"), Ok(eager), base);
        }
        self.refer(&values, &eager)
            .map_err(|error| format!("eager {how}: {error}"))
    }

    fn launched(
        &self,
        how: &str,
        inputs: &[Tensor],
        base: &[Tensor],
        backend: &dyn Backend,
    ) -> Verdict {
        match modes::launched(backend, &self.primitive, inputs) {
            Ok(launches) => {
                let mut launches = launches.into_iter();
                launches.try_for_each(|result| agree(how, Ok(result), base))
            }
            Err(error) => Err(failed(how, &error)),
        }
    }

    /// As a function that was written to a file and read again.
    fn exported(&self, how: &str, inputs: &[Tensor], constants: bool, base: &[Tensor]) -> Verdict {
        let graph = modes::graph(&self.primitive, inputs, constants);
        match graph.and_then(modes::exported) {
            Ok(None) => Ok(()),
            Ok(Some(graph)) => {
                let values: Vec<Value> = inputs.iter().map(Value::of).collect();
                let inputs = if constants { &[] } else { inputs };
                let result = modes::planned(&graph, inputs, true);
                self.planned_agrees(how, result, &values, base)
            }
            Err(error) => Err(failed(how, &error)),
        }
    }

    /// Whether a plan gave the bits of the eager mode, or, where plans sum in another order, what the
    /// reference says for inputs of these values.
    fn planned_agrees(
        &self,
        mode: &str,
        result: Result<Vec<Tensor>>,
        values: &[Value],
        base: &[Tensor],
    ) -> Verdict {
        match result {
            Ok(result) if !in_order(&self.primitive, base) => self
                .refer(values, &result)
                .map_err(|error| format!("{mode}: {error}")),
            result => agree(mode, result, base),
        }
    }

    fn modes(&self, backend: &dyn Backend) -> Verdict {
        let Trial {
            primitive, inputs, ..
        } = self;
        let base = modes::eager(primitive, inputs).map_err(|error| failed("eager", &error))?;
        self.refer(&self.values, &base)?;
        for (mode, constants, fuse) in [
            ("compiled", false, true),
            ("compiled without fusion", false, false),
            ("compiled of constants", true, true),
        ] {
            let result = planned(primitive, inputs, constants, fuse);
            self.planned_agrees(mode, result, &self.values, &base)?;
        }
        self.launched("launched", inputs, &base, backend)?;
        self.exported("exported", inputs, false, &base)?;
        for arrangement in Arrangement::ALL {
            let arranged = inputs.iter().map(|input| arrangement.apply(input));
            let arranged: Vec<Tensor> = arranged
                .collect::<Result<_>>()
                .map_err(|error| failed("arranging", &error))?;
            self.arranged(&format!("of {arrangement:?}"), &arranged, &base, backend)?;
        }
        for (index, input) in inputs.iter().enumerate() {
            let repeated = repeated(input).map_err(|error| failed("repeating", &error))?;
            let Some((copy, view)) = repeated else {
                continue;
            };
            let with = |tensor: &Tensor| {
                let mut inputs = inputs.clone();
                inputs[index] = tensor.clone();
                inputs
            };
            // What the values allow: a matrix that is no longer one with an inverse has none.
            let Ok(base) = modes::eager(primitive, &with(&copy)) else {
                continue;
            };
            let inputs = with(&view);
            self.arranged(
                &format!("with input {index} broadcast"),
                &inputs,
                &base,
                backend,
            )?;
        }
        Ok(())
    }
}

/// A plan of the one primitive, called once.
fn planned(
    primitive: &Primitive,
    inputs: &[Tensor],
    constants: bool,
    fuse: bool,
) -> Result<Vec<Tensor>> {
    let graph = modes::graph(primitive, inputs, constants)?;
    modes::planned(&graph, if constants { &[] } else { inputs }, fuse)
}

/// Whether a mode gave the same bits as others did.
fn agree(mode: &str, result: Result<Vec<Tensor>>, base: &[Tensor]) -> Verdict {
    match result {
        Ok(result) if same(&result, base) => Ok(()),
        Ok(result) => Err(format!("{mode} differs: {}", difference(&result, base))),
        Err(error) => Err(failed(mode, &error)),
    }
}

/// Whether the order of its work does not depend on how its inputs lie, nor on being planned. Floats
/// that are added or multiplied are taken as they lie in memory, and plans pack constants.
fn in_order(primitive: &Primitive, outputs: &[Tensor]) -> bool {
    let adds = matches!(
        primitive,
        Primitive::AddMM(_)
            | Primitive::BlockMaskedMM(_)
            | Primitive::Convolution(_)
            | Primitive::GatherMM(_)
            | Primitive::GatherQMM(_)
            | Primitive::Matmul(_)
            | Primitive::Reduce(_)
    );
    !adds || !outputs[0].layout.dtype.is_inexact()
}

fn is_elsewhere(primitive: &Primitive) -> bool {
    reference::ELSEWHERE
        .iter()
        .any(|(name, _)| *name == primitive.name())
}

/// The first elements that differ.
fn difference(got: &[Tensor], expected: &[Tensor]) -> String {
    for (output, (got, expected)) in got.iter().zip(expected).enumerate() {
        if got.spec() != expected.spec() {
            return format!(
                "output {output} is {}, expected {}",
                got.spec(),
                expected.spec()
            );
        }
        let (got, expected) = (Value::of(got).elements, Value::of(expected).elements);
        let mut pairs = got.iter().zip(&expected).enumerate();
        if let Some((number, (got, expected))) = pairs.find(|(_, (a, b))| a != b) {
            return format!("output {output}, element {number}: {got:?}, expected {expected:?}");
        }
    }
    format!("{} outputs, expected {}", got.len(), expected.len())
}

/// Runs all trials on other threads than the one that made their arrays: on one, and on eight that
/// share every array and evaluate them in different orders.
///
/// # Errors
/// The first trial that fails or differs.
pub fn check_threads(trials: &[Trial], backend: &dyn Backend) -> Verdict {
    for threads in [1, 8] {
        let stream = new_stream(backend.device()).map_err(|error| error.to_string())?;
        let make = |trial: &Trial| {
            with_stream(&stream, || modes::lazy(&trial.primitive, &trial.inputs))
                .map_err(|error| format!("{trial:?}: {error}"))
        };
        let arrays: Vec<Vec<Array>> = trials.iter().map(make).collect::<Result<_, String>>()?;
        let evaluate = |thread: usize| {
            let start = thread * trials.len() / threads;
            for step in 0..trials.len() {
                let number = (start + step) % trials.len();
                let trial = &trials[number];
                let check = || {
                    let shared = modes::values(&arrays[number])?;
                    let own = modes::eager(&trial.primitive, &trial.inputs)?;
                    Ok(same(&shared, &own))
                };
                let agree = check().map_err(|error: motet::Error| format!("{trial:?}: {error}"))?;
                if !agree {
                    return Err(format!("{trial:?} differs on {threads} threads"));
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || evaluate(thread)))
                .collect();
            let results = handles.into_iter().map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_| Err("a thread panicked".into()))
            });
            results.collect::<Verdict>()
        })?;
    }
    Ok(())
}
