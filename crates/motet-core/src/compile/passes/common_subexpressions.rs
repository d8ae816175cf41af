//! Computes what is computed twice once.

use std::collections::HashMap;

use crate::compile::ir::{Ir, Value};

pub(crate) fn common_subexpressions(mut ir: Ir) -> Ir {
    let mut standing: Vec<Value> = (0..ir.values.len()).collect();
    let mut seen = HashMap::new();
    let values = &ir.values;
    ir.steps.retain_mut(|step| {
        for input in &mut step.inputs {
            *input = standing[*input];
        }
        // A kind's text says all of it, to the last bit of a constant; equality of floats does not.
        let specs: Vec<_> = step.outputs.iter().map(|&v| values[v].clone()).collect();
        let key = (format!("{:?}", step.kind), step.inputs.clone(), specs);
        let first = seen.entry(key).or_insert_with(|| step.outputs.clone());
        for (&output, &same) in step.outputs.iter().zip(first.iter()) {
            standing[output] = same;
        }
        *first == step.outputs
    });
    for output in &mut ir.outputs {
        *output = standing[*output];
    }
    ir
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{Builder, add, mul, neg};

    #[test]
    fn equal_steps_are_one_and_their_users_too() {
        let mut b = Builder::default();
        let x = b.input(&[2]);
        let first = b.elementwise(neg(), &[x]);
        let second = b.elementwise(neg(), &[x]);
        let sum = b.elementwise(add(), &[first, x]);
        let same = b.elementwise(add(), &[second, x]);
        let other = b.elementwise(mul(), &[second, x]);
        let ir = common_subexpressions(b.finish(&[sum, same, other]));
        assert_eq!(ir.steps.len(), 3);
        assert_eq!(ir.outputs, [sum, sum, other]);
        assert_eq!(ir.steps[2].inputs[0], first);
    }

    #[test]
    fn views_to_different_shapes_stay_apart() {
        let mut b = Builder::default();
        let x = b.input(&[4]);
        let a = b.view(crate::ops::View::Reshape, x, &[2, 2]);
        let c = b.view(crate::ops::View::Reshape, x, &[4, 1]);
        let ir = common_subexpressions(b.finish(&[a, c]));
        assert_eq!(ir.outputs, [a, c]);
    }
}
