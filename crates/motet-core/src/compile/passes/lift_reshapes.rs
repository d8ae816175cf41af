//! Reshapes before elementwise steps instead of after them: what comes next is then of the same shape,
//! so that it can be joined.
//!
//! A layer that takes rows of features gets its input flattened and its result given back the batch's
//! dimensions: `reshape(a @ b + bias)` is followed by an activation or a residual of another shape.

use smallvec::{SmallVec, smallvec};

use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::kernel::Kernel;
use crate::ops::View;
use crate::shape::{Layout, Spec};

/// Moves each reshape that alone uses an elementwise step, and is used by one, before that: where all
/// inputs can be seen in the new shape.
pub(crate) fn lift_reshapes(mut ir: Ir) -> Ir {
    let layouts = layouts(&ir);
    let mut users = vec![0usize; ir.values.len()];
    let mut is_elementwise = vec![false; ir.values.len()];
    let mut reshaped_from = vec![None; ir.values.len()];
    for step in &ir.steps {
        for (i, &input) in step.inputs.iter().enumerate() {
            users[input] += usize::from(!step.inputs[..i].contains(&input));
            is_elementwise[input] |= elementwise(step);
        }
        if matches!(step.kind, Kind::View(View::Reshape)) {
            reshaped_from[step.outputs[0]] = Some(step.inputs[0]);
        }
    }
    ir.outputs.iter().for_each(|&v| users[v] += 1);

    // From the end, so that a chain of elementwise steps follows its reshape one by one.
    let mut steps = Vec::with_capacity(ir.steps.len());
    // The reshape that alone uses a value, and where its step is.
    let mut reshape_of: Vec<Option<(Value, usize)>> = vec![None; ir.values.len()];
    for mut step in std::mem::take(&mut ir.steps).into_iter().rev() {
        if let (true, [output]) = (elementwise(&step), &step.outputs[..])
            && let Some((reshaped, place)) = reshape_of[*output]
        {
            let shape = ir.values[reshaped].shape.clone();
            let fits = |&v: &Value| layouts[v].reshape(&shape).is_some();
            if step.inputs.iter().all(fits) {
                steps[place] = None;
                step.outputs = smallvec![reshaped];
                let mut before: SmallVec<[(Value, Value); 4]> = SmallVec::new();
                let mut views = Vec::new();
                for input in &mut step.inputs {
                    let known = before.iter().find(|(from, _)| from == input);
                    if let Some(&(_, to)) = known {
                        *input = to;
                        continue;
                    }
                    let from = *input;
                    *input = match reshaped_from[from] {
                        // There and back.
                        Some(source) if ir.values[source].shape == shape => source,
                        _ => {
                            ir.values
                                .push(Spec::new(shape.clone(), ir.values[from].dtype));
                            reshape_of.push(None);
                            views.push(Step {
                                name: "Reshape".to_owned(),
                                kind: Kind::View(View::Reshape),
                                inputs: smallvec![from],
                                outputs: smallvec![ir.values.len() - 1],
                            });
                            ir.values.len() - 1
                        }
                    };
                    before.push((from, *input));
                }
                steps.push(Some(step));
                for view in views {
                    let from = view.inputs[0];
                    if users[from] == 1 {
                        reshape_of[from] = Some((view.outputs[0], steps.len()));
                    }
                    steps.push(Some(view));
                }
                continue;
            }
        }
        if let (Kind::View(View::Reshape), &[from]) = (&step.kind, &step.inputs[..])
            && users[from] == 1
            && is_elementwise[step.outputs[0]]
        {
            reshape_of[from] = Some((step.outputs[0], steps.len()));
        }
        steps.push(Some(step));
    }
    ir.steps = steps.into_iter().rev().flatten().collect();
    ir
}

fn elementwise(step: &Step) -> bool {
    matches!(step.kind, Kind::Kernel(Kernel::Elementwise(_)))
}

/// How each value lies in memory: row-major, but for views.
fn layouts(ir: &Ir) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = ir.values.iter().map(Spec::layout).collect();
    for (value, tensor) in &ir.constants {
        layouts[*value] = tensor.layout.clone();
    }
    for step in &ir.steps {
        if let Kind::View(view) = &step.kind {
            let output = step.outputs[0];
            if let Some((layout, _)) = view.apply(&layouts[step.inputs[0]], &ir.values[output]) {
                layouts[output] = layout;
            }
        }
    }
    layouts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::passes::{dead_code, fuse};
    use crate::compile::testing::{Builder, add, exp, mul, neg};

    fn all(ir: Ir) -> Ir {
        dead_code(fuse(lift_reshapes(ir)))
    }

    fn kernels(ir: &Ir) -> Vec<&Step> {
        let is_kernel = |step: &&Step| matches!(step.kind, Kind::Kernel(_));
        ir.steps.iter().filter(is_kernel).collect()
    }

    #[test]
    fn a_chain_is_joined_across_its_reshape() {
        let mut b = Builder::default();
        let (x, row) = (b.input(&[6, 4]), b.input(&[4]));
        let bias = b.view(View::Broadcast, row, &[6, 4]);
        let minus = b.elementwise(neg(), &[x]);
        let sum = b.elementwise(add(), &[minus, bias]);
        let batch = b.view(View::Reshape, sum, &[2, 3, 4]);
        let activated = b.elementwise(exp(), &[batch]);
        let ir = all(b.finish(&[activated]));
        let kernels = kernels(&ir);
        assert_eq!(kernels.len(), 1, "one program of three operations");
        assert_eq!(kernels[0].outputs[..], [activated]);
        assert!(ir.values[kernels[0].inputs[0]].shape[..] == [2, 3, 4]);
    }

    #[test]
    fn there_and_back_is_nothing() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let flat = b.view(View::Reshape, x, &[6]);
        let square = b.elementwise(mul(), &[flat, flat]);
        let back = b.view(View::Reshape, square, &[2, 3]);
        let minus = b.elementwise(neg(), &[back]);
        let ir = all(b.finish(&[minus]));
        assert_eq!(ir.steps.len(), 1);
        assert_eq!(ir.steps[0].inputs[..], [x]);
    }

    #[test]
    fn what_cannot_be_seen_in_the_new_shape_or_is_used_otherwise_stays() {
        // The transpose of a matrix has no flat view.
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let turned = b.transpose(x);
        let minus = b.elementwise(neg(), &[turned]);
        let flat = b.view(View::Reshape, minus, &[6]);
        let result = b.elementwise(exp(), &[flat]);
        assert_eq!(kernels(&all(b.finish(&[result]))).len(), 2);

        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let minus = b.elementwise(neg(), &[x]);
        let flat = b.view(View::Reshape, minus, &[6]);
        let result = b.elementwise(exp(), &[flat]);
        let ir = all(b.finish(&[result, minus]));
        assert_eq!(kernels(&ir).len(), 2);
        assert_eq!(kernels(&ir)[0].outputs[..], [minus]);
    }
}
