//! Keys and values that are joined only to be read by an attention are read in two pieces instead.
//!
//! A decoding step appends a row to a cache and attends to the whole: without this it would copy the
//! cache for the row. Where something else uses the joined value too, it is written once, and read
//! as a whole.

use crate::backend::Backend;
use crate::compile::place::{Place, Placed, Root};
use crate::kernel::Kernel;

/// The axis of keys in an attention's operands.
const KEYS: usize = 2;

/// Gives attentions the pieces that their keys and values are joined of.
pub(crate) fn read_in_pieces(placed: &mut Placed, backend: &dyn Backend) {
    let uses = uses(placed);
    let mut unneeded = Vec::new();
    for number in 0..placed.kernels.len() {
        let Some((kernel, inputs, joins)) = in_pieces(placed, number, &uses, backend) else {
            continue;
        };
        placed.kernels[number].kernel = kernel;
        placed.kernels[number].inputs = inputs.into_iter().collect();
        unneeded.extend(joins);
    }
    let mut number = 0;
    placed.kernels.retain(|_| {
        number += 1;
        !unneeded.contains(&(number - 1))
    });
}

/// The attention with this number over pieces, its inputs, and the numbers of the kernels that joined
/// them.
fn in_pieces(
    placed: &Placed,
    number: usize,
    uses: &[usize],
    backend: &dyn Backend,
) -> Option<(Kernel, Vec<Place>, [usize; 2])> {
    let attention = &placed.kernels[number];
    let (mut kernel, [q, k, v, rest @ ..]) = (attention.kernel.clone(), &attention.inputs[..])
    else {
        return None;
    };
    let Kernel::Attention { appended, .. } = &mut kernel else {
        return None;
    };
    if std::mem::replace(appended, true) {
        return None;
    }
    let (k_join, [k, more_k]) = joined(placed, k, uses)?;
    let (v_join, [v, more_v]) = joined(placed, v, uses)?;
    if k.layout.shape[KEYS] != v.layout.shape[KEYS] {
        return None;
    }
    let pieces = [q, k, v, more_k, more_v].into_iter();
    let inputs: Vec<Place> = pieces.chain(rest).cloned().collect();
    let mut layouts = inputs.iter().map(|place| &place.layout).enumerate();
    let accepted = layouts.all(|(index, layout)| backend.accepts(&kernel, index, layout));
    accepted.then_some((kernel, inputs, [k_join, v_join]))
}

/// The two pieces of a place that nothing else uses, and the number of the kernel that joins them.
fn joined<'a>(
    placed: &'a Placed,
    place: &Place,
    uses: &[usize],
) -> Option<(usize, [&'a Place; 2])> {
    let Root::Temporary(temporary) = place.root else {
        return None;
    };
    let writes = |output: &Place| output.root == place.root;
    let number = (placed.kernels.iter()).position(|kernel| kernel.outputs.iter().any(writes))?;
    let join = &placed.kernels[number];
    let (Kernel::Concatenate { axis: KEYS }, [first, second], [whole]) =
        (&join.kernel, &join.inputs[..], &join.outputs[..])
    else {
        return None;
    };
    let all = place.offset == whole.offset
        && place.layout.shape == whole.layout.shape
        && place.layout.is_contiguous();
    (all && uses[temporary] == 1).then_some((number, [first, second]))
}

/// How many operands and results lie in each temporary.
pub(crate) fn uses(placed: &Placed) -> Vec<usize> {
    let mut uses = vec![0; placed.temporaries.len()];
    let operands = placed.kernels.iter().flat_map(|kernel| &kernel.inputs);
    for place in operands.chain(&placed.outputs) {
        if let Root::Temporary(temporary) = place.root {
            uses[temporary] += 1;
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::{Kind, Value};
    use crate::compile::place::place;
    use crate::compile::testing::{Builder, Mock};
    use crate::ops::View;
    use crate::shape::Axes;
    use crate::tensor::Tensor;

    /// What is made of a cache and a row: what is attended to, and a further result.
    type Join = dyn Fn(&mut Builder, Value, Value) -> (Value, Option<Value>);

    fn concatenate(b: &mut Builder, inputs: &[Value], axis: usize) -> Value {
        let mut shape = b.shape(inputs[0]);
        shape[axis] = inputs.iter().map(|&v| b.shape(v)[axis]).sum();
        let kind = Kind::Kernel(Kernel::Concatenate { axis });
        b.step("Concatenate", kind, inputs, &shape)
    }

    fn attention(b: &mut Builder, q: Value, k: Value, v: Value) -> Value {
        let kernel = Kernel::Attention {
            scale: 1.0,
            causal: false,
            appended: false,
            mask: false,
            sinks: false,
        };
        b.kernel("Attention", kernel, &[q, k, v])
    }

    /// The names of the kernels of a step that attends to what `join` makes of a cache of `rows` rows
    /// and a row, for keys and for values, and how many inputs the attention has. What `join` returns
    /// second is a result too.
    fn kernels(rows: [usize; 2], join: &Join) -> (Vec<String>, usize) {
        let mut b = Builder::default();
        let q = b.input(&[1, 2, 1, 4]);
        let mut results = Vec::new();
        let [k, v] = rows.map(|rows| {
            let cache = b.input(&[1, 2, rows, 4]);
            let row = b.input(&[1, 2, 8 - rows, 4]);
            let (joined, result) = join(&mut b, cache, row);
            results.extend(result);
            joined
        });
        results.push(attention(&mut b, q, k, v));
        let pack = |tensor: &Tensor| Ok(tensor.clone());
        let mut placed = place(b.finish(&results), &Mock, &pack).unwrap();
        read_in_pieces(&mut placed, &Mock);
        let names = placed.kernels.iter().map(|kernel| kernel.name.clone());
        let last = placed.kernels.last().unwrap();
        let appended = matches!(last.kernel, Kernel::Attention { appended: true, .. });
        assert_eq!(appended, last.inputs.len() == 5);
        (names.collect(), last.inputs.len())
    }

    #[test]
    fn what_is_joined_for_attention_alone_is_not_joined() {
        let (names, inputs) = kernels([7, 7], &|b, cache, row| {
            (concatenate(b, &[cache, row], 2), None)
        });
        assert_eq!((&names[..], inputs), (&["Attention".to_owned()][..], 5));
        // Views that come to nothing.
        let (names, _) = kernels([7, 7], &|b, cache, row| {
            let joined = concatenate(b, &[cache, row], 2);
            let swap = || View::Transpose(Axes::from_slice(&[0, 1, 3, 2]));
            let there = b.view(swap(), joined, &[1, 2, 4, 8]);
            (b.view(swap(), there, &[1, 2, 8, 4]), None)
        });
        assert_eq!(names, ["Attention"]);
    }

    #[test]
    fn other_joins_stay() {
        let stays = |join: &Join| {
            let (names, inputs) = kernels([7, 7], join);
            assert_eq!(inputs, 3);
            let joins = names.iter().filter(|name| *name == "Concatenate");
            assert_eq!(joins.count(), 2);
        };
        // The joined cache is a result.
        stays(&|b, cache, row| {
            let joined = concatenate(b, &[cache, row], 2);
            (joined, Some(joined))
        });
        // Something else reads it.
        stays(&|b, cache, row| {
            let joined = concatenate(b, &[cache, row], 2);
            (joined, Some(b.softmax(joined)))
        });
        // Three pieces.
        stays(&|b, cache, row| (concatenate(b, &[cache, row, row], 2), None));
        // Features are joined, not keys.
        stays(&|b, cache, _| (concatenate(b, &[cache, cache], 3), None));
        // Not all of it is read, and not in its order.
        stays(&|b, cache, row| {
            let joined = concatenate(b, &[cache, row], 2);
            let swap = View::Transpose(Axes::from_slice(&[0, 2, 1, 3]));
            let swapped = b.view(swap, joined, &[1, 8, 2, 4]);
            (b.view(View::Reshape, swapped, &[1, 2, 8, 4]), None)
        });
    }

    #[test]
    fn keys_and_values_have_to_be_cut_alike() {
        let (names, inputs) = kernels([7, 6], &|b, cache, row| {
            (concatenate(b, &[cache, row], 2), None)
        });
        assert_eq!((names.len(), inputs), (3, 3));
    }
}
