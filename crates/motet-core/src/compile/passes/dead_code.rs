//! Leaves out steps and constants that no result depends on.

use crate::compile::ir::Ir;

pub(crate) fn dead_code(mut ir: Ir) -> Ir {
    let mut live = vec![false; ir.values.len()];
    for &output in &ir.outputs {
        live[output] = true;
    }
    // Users come after what they use: one walk from the end finds everything.
    let mut kept = Vec::with_capacity(ir.steps.len());
    for step in ir.steps.into_iter().rev() {
        if step.outputs.iter().any(|&v| live[v]) {
            step.inputs.iter().for_each(|&v| live[v] = true);
            kept.push(step);
        }
    }
    kept.reverse();
    ir.steps = kept;
    ir.constants.retain(|&(v, _)| live[v]);
    ir
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{Builder, add, neg};

    #[test]
    fn only_what_results_need_remains() {
        let mut b = Builder::default();
        let x = b.input(&[2]);
        let c = b.constant(&[2], &[1.0, 2.0]);
        let unused = b.constant(&[2], &[3.0, 4.0]);
        let sum = b.elementwise(add(), &[x, c]);
        let dead = b.elementwise(add(), &[sum, unused]);
        b.elementwise(neg(), &[dead]);
        let ir = dead_code(b.finish(&[sum]));
        assert_eq!(ir.steps.len(), 1);
        assert_eq!(ir.steps[0].outputs[0], sum);
        assert_eq!(ir.constants.len(), 1);
    }
}
