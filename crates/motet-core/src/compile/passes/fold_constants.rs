//! Computes at build time what depends on constants alone.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::shape::Spec;
use crate::tensor::Tensor;

/// The largest result that is computed ahead, and the most elements that are read for one.
pub(super) const LARGEST: usize = 16 << 20;
/// How much larger than what it is made of a result may be: a plan must not blow up a file.
const GROWTH: usize = 4;
/// Results that are computed ahead whatever they are made of.
const SMALL: usize = 4 << 10;

/// Executes one step; `None` leaves it to the plan, which reports the error if it is ever called.
type Run<'a> = &'a dyn Fn(&Step, &[Tensor], &[Spec]) -> Option<Vec<Tensor>>;

pub(crate) fn fold_constants(mut ir: Ir, run: Run<'_>) -> Ir {
    let mut known: HashMap<Value, Tensor> = ir.constants.iter().cloned().collect();
    let values = &ir.values;
    let constants = &mut ir.constants;
    ir.steps.retain(|step| {
        let inputs = step.inputs.iter().map(|v| known.get(v).cloned());
        let Some(inputs) = inputs.collect::<Option<SmallVec<[Tensor; 4]>>>() else {
            return true;
        };
        let specs: SmallVec<[Spec; 1]> = step.outputs.iter().map(|&v| values[v].clone()).collect();
        if matches!(step.kind, Kind::Kernel(_)) && !pays(&inputs, &specs) {
            return true;
        }
        let Some(results) = run(step, &inputs, &specs) else {
            return true;
        };
        for (&value, tensor) in step.outputs.iter().zip(results) {
            known.insert(value, tensor.clone());
            constants.push((value, tensor));
        }
        false
    });
    ir
}

fn pays(inputs: &[Tensor], outputs: &[Spec]) -> bool {
    let result: usize = outputs
        .iter()
        .map(Spec::bytes)
        .fold(0, usize::saturating_add);
    // What a broadcast covers in memory counts, not what it stands for.
    let source = inputs.iter().map(footprint).fold(0, usize::saturating_add);
    // A sum of what a broadcast stands for would keep a small file busy for hours.
    let read = inputs.iter().map(|input| input.layout.shape.size());
    let read = read.fold(0, usize::saturating_add);
    read <= LARGEST && result <= LARGEST && result <= source.saturating_mul(GROWTH).max(SMALL)
}

fn footprint(tensor: &Tensor) -> usize {
    let extent = tensor.layout.extent();
    extent.map_or(0, |(low, high)| high.abs_diff(low) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{Builder, Mock, add, neg, read};
    use crate::compile::{executor, passes};
    use crate::ops::View;
    use crate::pool::Pool;

    #[test]
    fn chains_of_constants_are_folded_within_bounds() {
        let mut b = Builder::default();
        let x = b.input(&[2]);
        let c = b.constant(&[1], &[3.0]);
        let minus = b.elementwise(neg(), &[c]);
        let wide = b.view(View::Broadcast, minus, &[2]);
        let sum = b.elementwise(add(), &[x, wide]);
        let huge = b.view(View::Broadcast, minus, &[1 << 20]);
        let large = b.elementwise(neg(), &[huge]);
        let pool = Pool::new(1);
        let ir = fold_constants(b.finish(&[sum, large]), &|step, inputs, outputs| {
            executor::run_step(&Mock, step, inputs, outputs, &pool).ok()
        });
        let names: Vec<_> = ir.steps.iter().map(|s| s.outputs[0]).collect();
        assert_eq!(names, [sum, large], "the large one would grow the plan");
        let ir = passes::dead_code(ir);
        let (_, folded) = ir.constants.iter().find(|&&(v, _)| v == wide).unwrap();
        assert_eq!(read(folded), [-3.0, -3.0]);
    }
}
