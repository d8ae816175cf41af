//! docs/operations.md: a table of all primitives, made from their declarations.

use std::collections::BTreeSet;
use std::fmt::Write;

use motet_core::backend::{BACKENDS, Backend};
use motet_core::compile::executor::inputs_read;
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::kernel::Kernel;
use motet_core::ops::{Lowered, Primitive, Sample};
use motet_core::shape::{Layout, Spec};

// Links the backends in, with all that they do by default.
use motet as _;

/// The page.
pub fn operations() -> String {
    let backends: Vec<&dyn Backend> = BACKENDS.iter().copied().collect();
    let devices = backends.iter().map(|backend| backend.device().to_string());
    let devices: Vec<String> = devices.collect();
    let mut page = INTRODUCTION.to_owned();
    let titles = ["primitive", "inputs", "computed by", "dtypes"].map(str::to_owned);
    let titles = [&titles[..], &devices].concat();
    let _ = writeln!(page, "| {} |", titles.join(" | "));
    let _ = writeln!(page, "|{}", "---|".repeat(titles.len()));
    let samples = Primitive::samples();
    let mut names = Primitive::NAMES.to_vec();
    names.sort_unstable();
    for name in names {
        let samples = samples
            .iter()
            .filter(|sample| sample.primitive.name() == name);
        let row = Row::new(&samples.cloned().collect::<Vec<_>>(), &backends);
        let _ = writeln!(page, "| {name} | {} |", row.cells().join(" | "));
    }
    page
}

const INTRODUCTION: &str = "\
# Operations

What a file or a program can ask for, and which backend computes it. Made from the declarations by
`cargo xtask docs`.

- *inputs*: how many; Gather and Scatter have one more for each axis that is indexed.
- *computed by*: the class of kernel that a backend has for it; a view copies nothing.
- *dtypes*: those that one of its inputs (for want of any, its output) can have.
- a column for each backend: of these dtypes, those that it computes.

";

/// What is told of a primitive.
#[derive(Default)]
struct Row {
    fewest: usize,
    most: usize,
    classes: BTreeSet<String>,
    dtypes: BTreeSet<Dtype>,
    /// For each backend.
    computed: Vec<BTreeSet<Dtype>>,
}

impl Row {
    fn new(samples: &[Sample], backends: &[&dyn Backend]) -> Row {
        let mut row = Row {
            fewest: usize::MAX,
            computed: vec![BTreeSet::new(); backends.len()],
            ..Row::default()
        };
        for sample in samples {
            let arity = sample.primitive.arity();
            row.fewest = row.fewest.min(*arity.start());
            row.most = row.most.max(*arity.end());
            for (dtype, inputs, recorded) in variants(sample) {
                let recorded = recorded.as_ref().map(std::slice::from_ref);
                let Ok((outputs, lowered)) = lower(&sample.primitive, &inputs, recorded) else {
                    continue;
                };
                row.dtypes.insert(dtype);
                row.classes.insert(class(&lowered));
                for (backend, computed) in backends.iter().zip(&mut row.computed) {
                    if computes(*backend, &lowered, &inputs, &outputs) {
                        computed.insert(dtype);
                    }
                }
            }
        }
        row
    }

    fn cells(&self) -> Vec<String> {
        let inputs = match (self.fewest, self.most) {
            (fewest, most) if fewest == most => fewest.to_string(),
            (fewest, usize::MAX) => format!("{fewest} or more"),
            (fewest, most) => format!("{fewest} to {most}"),
        };
        let classes: Vec<&str> = self.classes.iter().map(String::as_str).collect();
        let mut cells = vec![inputs, classes.join(", "), listed(&self.dtypes)];
        for computed in &self.computed {
            cells.push(match computed == &self.dtypes {
                true => "all".to_owned(),
                false => listed(computed),
            });
        }
        cells
    }
}

/// A dtype, the sample's inputs with it in place of one of theirs, and what a file would record as
/// the output of a primitive that has no inputs.
fn variants(sample: &Sample) -> Vec<(Dtype, Vec<Spec>, Option<Spec>)> {
    let present: BTreeSet<Dtype> = sample.inputs.iter().map(|input| input.dtype).collect();
    if present.is_empty() {
        let outputs = sample.primitive.infer(&[], None).unwrap_or_default();
        let with = |dtype| {
            outputs
                .first()
                .map(|output| Spec::new(output.shape.clone(), dtype))
        };
        let variants = Dtype::ALL.map(|dtype| (dtype, Vec::new(), with(dtype)));
        return variants.to_vec();
    }
    let mut variants = Vec::new();
    for old in present {
        for new in Dtype::ALL {
            let mut inputs = sample.inputs.clone();
            let same = inputs.iter_mut().filter(|input| input.dtype == old);
            same.for_each(|input| input.dtype = new);
            variants.push((new, inputs, None));
        }
    }
    variants
}

fn lower(
    primitive: &Primitive,
    inputs: &[Spec],
    recorded: Option<&[Spec]>,
) -> Result<(Vec<Spec>, Lowered)> {
    let outputs = primitive.infer(inputs, recorded)?;
    let lowered = primitive.lower(inputs, &outputs)?;
    Ok((outputs, lowered))
}

fn computes(backend: &dyn Backend, lowered: &Lowered, inputs: &[Spec], outputs: &[Spec]) -> bool {
    let Lowered::Kernel(kernel) = lowered else {
        return true;
    };
    let layouts = |specs: &[Spec]| specs.iter().map(Spec::layout).collect::<Vec<Layout>>();
    let read = inputs_read(kernel, inputs.len());
    backend
        .prepare(kernel, &layouts(&inputs[..read]), &layouts(outputs), &[])
        .is_ok()
}

/// What computes it: "view", or the kernel's name.
fn class(lowered: &Lowered) -> String {
    let kernel: &Kernel = match lowered {
        Lowered::Views(_) => return "view".to_owned(),
        Lowered::Kernel(kernel) => kernel,
    };
    let printed = format!("{kernel:?}");
    let name = printed.split(|c: char| !c.is_alphanumeric()).next();
    name.unwrap_or_default().to_owned()
}

/// The dtypes, families of them by one word.
fn listed(dtypes: &BTreeSet<Dtype>) -> String {
    if dtypes.len() == Dtype::ALL.len() {
        return "every".to_owned();
    }
    type Belongs = fn(Dtype) -> bool;
    let families: [(&str, Belongs); 5] = [
        ("integers", Dtype::is_integer),
        ("unsigned integers", Dtype::is_unsigned),
        ("signed integers", |dtype| {
            dtype.is_integer() && !dtype.is_unsigned()
        }),
        ("floats", Dtype::is_float),
        ("half floats", Dtype::is_half),
    ];
    let mut left = dtypes.clone();
    let mut words = Vec::new();
    for (word, belongs) in families {
        let members: BTreeSet<Dtype> = Dtype::ALL.into_iter().filter(|&d| belongs(d)).collect();
        if members.is_subset(&left) {
            left.retain(|dtype| !members.contains(dtype));
            words.push(word.to_owned());
        }
    }
    words.extend(left.iter().map(Dtype::to_string));
    match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_up_to_date() {
        let page = include_str!("../../../docs/operations.md");
        assert!(
            page == super::operations(),
            "docs/operations.md is not what the declarations say: run `cargo xtask docs`"
        );
    }
}
