//! Kernels that read the same input, and none the other's result, become one step.
//!
//! The projections of queries, keys and values are the usual case. As steps of their own each ends with
//! threads that wait for the last tile; as one, there is one such moment, and more tiles to share out.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use crate::backend::Backend;
use crate::compile::place::{Place, Placed, PlacedKernel, Root};
use crate::kernel::{Kernel, Part};

/// The most kernels that are joined.
const MOST: usize = 8;
/// How many steps earlier a kernel may come than it was written: its result takes memory from then on.
const REACH: usize = 16;

/// Joins each kernel with the first that reads the same, where that is near and what it reads is there.
pub(crate) fn join_neighbours(placed: &mut Placed, backend: &dyn Backend) {
    // The number of the kernel after which each temporary is there.
    let mut written = vec![0; placed.temporaries.len()];
    let mut first_to_read: HashMap<&Place, usize> = HashMap::new();
    // For each kernel those that join it.
    let mut joining: Vec<Vec<usize>> = vec![Vec::new(); placed.kernels.len()];
    let mut joins = vec![false; placed.kernels.len()];
    for (number, kernel) in placed.kernels.iter().enumerate() {
        for output in &kernel.outputs {
            if let Root::Temporary(temporary) = output.root {
                written[temporary] = number + 1;
            }
        }
        let Some(read) = kernel.inputs.first().filter(|_| {
            let layouts = |places: &[Place]| -> Vec<_> {
                places.iter().map(|place| place.layout.clone()).collect()
            };
            let constants: Vec<_> = kernel.inputs.iter().map(|p| placed.shown(p)).collect();
            let (inputs, outputs) = (layouts(&kernel.inputs), layouts(&kernel.outputs));
            backend.joins(&kernel.kernel, &inputs, &outputs, &constants)
        }) else {
            continue;
        };
        let ready = kernel.inputs.iter().map(|place| match place.root {
            Root::Temporary(temporary) => written[temporary],
            _ => 0,
        });
        let ready = ready.max().unwrap_or(0);
        let fits = |first: usize| {
            ready <= first && number - first <= REACH && joining[first].len() + 1 < MOST
        };
        match first_to_read.get(read) {
            Some(&first) if fits(first) => {
                joining[first].push(number);
                joins[number] = true;
            }
            _ => {
                first_to_read.insert(read, number);
            }
        }
    }
    if !joins.contains(&true) {
        return;
    }
    let mut kernels: Vec<Option<PlacedKernel>> = placed.kernels.drain(..).map(Some).collect();
    for (first, others) in joining.into_iter().enumerate() {
        let members = [&[first][..], &others].concat();
        // Those that joined an earlier one are gone.
        let members: Vec<_> = members.iter().filter_map(|&m| kernels[m].take()).collect();
        if !members.is_empty() {
            placed.kernels.push(joined(members));
        }
    }
}

/// One kernel that does what several do.
fn joined(mut members: Vec<PlacedKernel>) -> PlacedKernel {
    if members.len() == 1 {
        return members.remove(0);
    }
    let mut names = Vec::new();
    let mut parts = Vec::new();
    let mut inputs: SmallVec<[Place; 4]> = smallvec![];
    let mut outputs: SmallVec<[Place; 1]> = smallvec![];
    for member in members {
        names.push(member.name);
        parts.push(Part {
            kernel: member.kernel,
            inputs: member.inputs.len(),
            outputs: member.outputs.len(),
        });
        inputs.extend(member.inputs);
        outputs.extend(member.outputs);
    }
    PlacedKernel {
        name: names.join(" | "),
        kernel: Kernel::Joined(parts),
        inputs,
        outputs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::Value;
    use crate::compile::place::place;
    use crate::compile::testing::{Builder, Mock, neg};
    use crate::tensor::Tensor;

    /// The classes of the kernels that compute these values, joined where that can be.
    fn kernels(b: Builder, results: &[Value]) -> Vec<String> {
        let pack = |tensor: &Tensor| Ok(tensor.clone());
        let mut placed = place(b.finish(results), &Mock, &pack).unwrap();
        join_neighbours(&mut placed, &Mock);
        // Each reads what is written before it.
        let mut written = vec![false; placed.temporaries.len()];
        for kernel in &placed.kernels {
            for input in &kernel.inputs {
                assert!(!matches!(input.root, Root::Temporary(t) if !written[t]));
            }
            for output in &kernel.outputs {
                assert!(matches!(output.root, Root::Temporary(t) if !written[t]));
                let Root::Temporary(temporary) = output.root else {
                    continue;
                };
                written[temporary] = true;
            }
        }
        assert!(written.iter().all(|&written| written));
        placed.kernels.iter().map(|k| k.kernel.class()).collect()
    }

    #[test]
    fn kernels_that_read_the_same_are_one() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let soft = b.softmax(x);
        let a = b.elementwise(neg(), &[soft]);
        let a = b.kernel("Sort", sort(), &[a]);
        let c = b.softmax(soft);
        let d = b.elementwise(neg(), &[x]);
        let names = kernels(b, &[a, c, d]);
        assert_eq!(
            names,
            ["Softmax, Elementwise", "Elementwise, Softmax", "Sort"]
        );
    }

    fn sort() -> Kernel {
        Kernel::Sort {
            axis: 0,
            indices: false,
        }
    }

    #[test]
    fn what_reads_the_others_result_comes_after_it() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let soft = b.softmax(x);
        let sum = b.elementwise(crate::compile::testing::add(), &[x, soft]);
        let again = b.softmax(sum);
        assert_eq!(kernels(b, &[again]).len(), 3);
    }

    #[test]
    fn no_more_than_some_and_no_further_than_some_are_joined() {
        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let many: Vec<_> = (0..MOST + 2).map(|_| b.softmax(x)).collect();
        assert_eq!(kernels(b, &many).len(), 2);

        let mut b = Builder::default();
        let x = b.input(&[2, 3]);
        let near = b.softmax(x);
        let mut far = near;
        for _ in 0..=REACH {
            far = b.kernel("Sort", sort(), &[far]);
        }
        let late = b.softmax(x);
        assert_eq!(kernels(b, &[far, late]).len(), REACH + 3);
    }
}
