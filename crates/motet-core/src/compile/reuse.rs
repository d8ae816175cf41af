//! Which memory of the workspace each temporary has, and for how long: that of an input which nobody reads
//! any more, where the step that writes it can write over that; else memory of its own.

use crate::backend::Step;
use crate::compile::memory_plan::Request;
use crate::compile::place::{Place, Placed, PlacedKernel, Root};

/// The memory that temporaries need, but for those that escape.
pub(crate) struct Memory {
    /// A request for each temporary, of nothing for those that lie in another one's memory.
    pub(crate) requests: Vec<Request>,
    /// The number of the request in whose memory each temporary lies.
    pub(crate) of: Vec<usize>,
}

/// The memory of the temporaries of these kernels, which were prepared as `steps`.
pub(crate) fn memory(
    placed: &Placed,
    steps: &[Box<dyn Step>],
    escapes: &[Option<usize>],
) -> Memory {
    let mut requests = lifetimes(placed, escapes);
    let mut of: Vec<usize> = (0..requests.len()).collect();
    // The last step that reads each, which is earlier than its memory is free where that was given on.
    let last: Vec<usize> = requests.iter().map(|request| request.last).collect();
    for (number, (kernel, step)) in placed.kernels.iter().zip(steps).enumerate() {
        let mut taken = Vec::new();
        for (index, output) in kernel.outputs.iter().enumerate() {
            let Some(written) = whole(placed, output) else {
                continue;
            };
            let over = kernel.inputs.iter().enumerate().find_map(|(input, place)| {
                let read = whole(placed, place)?;
                let fits = placed.temporaries[read] == placed.temporaries[written]
                    && place.layout.dtype.size() == output.layout.dtype.size();
                let dies = last[read] == number && !taken.contains(&read);
                let stay = escapes[read].or(escapes[written]).is_some();
                (fits
                    && dies
                    && !stay
                    && is_read_once(kernel, read)
                    && step.writes_over(input, index))
                .then_some(read)
            });
            if let Some(read) = over {
                taken.push(read);
                let first = of[read];
                of[written] = first;
                requests[first].last = last[written];
                requests[written].bytes = 0;
            }
        }
    }
    Memory { requests, of }
}

/// The temporary that a place is all of, row-major.
fn whole(placed: &Placed, place: &Place) -> Option<usize> {
    let Root::Temporary(temporary) = place.root else {
        return None;
    };
    let all = place.offset == 0
        && place.layout.is_contiguous()
        && place.layout.spec().bytes() == placed.temporaries[temporary];
    all.then_some(temporary)
}

/// Whether one input of a kernel alone lies in a temporary.
fn is_read_once(kernel: &PlacedKernel, temporary: usize) -> bool {
    let inputs = kernel.inputs.iter();
    let reads = inputs.filter(|place| place.root == Root::Temporary(temporary));
    reads.count() == 1
}

/// From the step that writes each temporary to the last that reads it; nothing for those that
/// escape.
fn lifetimes(placed: &Placed, escapes: &[Option<usize>]) -> Vec<Request> {
    let mut requests = vec![
        Request {
            bytes: 0,
            first: 0,
            last: 0
        };
        escapes.len()
    ];
    for (step, kernel) in placed.kernels.iter().enumerate() {
        for output in &kernel.outputs {
            if let Root::Temporary(t) = output.root
                && escapes[t].is_none()
            {
                requests[t].bytes = placed.temporaries[t];
                requests[t].first = step;
                requests[t].last = step;
            }
        }
        for input in &kernel.inputs {
            if let Root::Temporary(t) = input.root {
                requests[t].last = step;
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use crate::compile::ir::{Kind, Value};
    use crate::compile::plan::Plan;
    use crate::compile::testing::{Builder, Mock, add, exp, neg, read, tensor};
    use crate::dtype::Dtype;
    use crate::kernel::Kernel;
    use crate::memory::ALIGNMENT;
    use crate::ops::View;
    use crate::pool::Pool;
    use crate::program::Program;
    use crate::shape::{Axes, Spec, Strides};

    const SHAPE: [usize; 2] = [4, 16];
    const BYTES: usize = 4 * 64;

    /// The plan of softmaxes of what `make` makes of a softmax: neither that nor what it makes is an input
    /// or a result of the call. The mock does not write a softmax over its input.
    fn plan(make: impl Fn(&mut Builder, Value) -> Vec<Value>) -> Plan {
        let mut b = Builder::default();
        let x = b.input(&SHAPE);
        let soft = b.softmax(x);
        let made = make(&mut b, soft);
        let results: Vec<Value> = made.into_iter().map(|value| b.softmax(value)).collect();
        Plan::from_ir(b.finish(&results), false, &Mock, &Pool::new(1)).unwrap()
    }

    /// How many values are written over others.
    fn written_over(plan: &Plan) -> usize {
        plan.to_string().matches("over input").count()
    }

    /// As [`written_over`], in the plan of what `make` makes.
    fn count(make: impl Fn(&mut Builder, Value) -> Vec<Value>) -> usize {
        written_over(&plan(make))
    }

    #[test]
    fn a_value_is_written_over_one_that_nobody_reads_any_more() {
        let chain = |b: &mut Builder, soft| {
            let value = b.elementwise(neg(), &[soft]);
            vec![b.elementwise(exp(), &[value])]
        };
        let plan = plan(chain);
        let text = plan.to_string();
        assert_eq!(text.matches("output 0 over input 0").count(), 2, "{text}");
        // And a line for the softmax.
        assert_eq!(plan.workspace_bytes(), BYTES + ALIGNMENT);
        let input: Vec<f32> = (0..64).map(|i| i as f32 / 32.0).collect();
        let call = || plan.call(&[tensor(&SHAPE, &input)], &Pool::new(1), &mut || Ok(()));
        let softmax = |row: &[f32]| -> Vec<f32> {
            let sum: f32 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(|x| x.exp() / sum).collect()
        };
        let rows = input.chunks(16).map(|row| {
            let row: Vec<f32> = softmax(row).iter().map(|x| (-x).exp()).collect();
            softmax(&row)
        });
        assert_eq!(
            read(&call().unwrap()[0]),
            rows.flatten().collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_is_read_later_stays() {
        assert_eq!(
            count(|b, soft| {
                let value = b.elementwise(neg(), &[soft]);
                vec![value, soft]
            }),
            0
        );
        // Through another way to see it.
        assert_eq!(
            count(|b, soft| {
                let flat = b.view(View::Reshape, soft, &[64]);
                vec![b.elementwise(neg(), &[soft]), flat]
            }),
            0
        );
        // A result.
        let mut b = Builder::default();
        let x = b.input(&SHAPE);
        let soft = b.softmax(x);
        let value = b.elementwise(neg(), &[soft]);
        let again = b.softmax(value);
        let ir = b.finish(&[soft, again]);
        let plan = Plan::from_ir(ir, false, &Mock, &Pool::new(1)).unwrap();
        assert_eq!(written_over(&plan), 0);
    }

    #[test]
    fn one_output_takes_one_input_that_is_read_once() {
        // Both inputs of the step are the same value.
        assert_eq!(
            count(|b, soft| vec![b.elementwise(add(), &[soft, soft])]),
            0
        );
        // Two outputs, of two inputs of which one or both die.
        for dying in [1, 2] {
            let plan = plan(|b, soft| {
                let other = match dying {
                    1 => b.input(&SHAPE),
                    _ => b.softmax(soft),
                };
                let mut program = Program::from_expr(&add(), &[Dtype::Float32; 2]);
                program.outputs.push(program.outputs[0]);
                let first = b.kernel("Two", Kernel::Elementwise(program), &[soft, other]);
                vec![first, b.output(&SHAPE)]
            });
            let text = plan.to_string();
            assert!(text.contains("output 0 over input 0"), "{text}");
            assert_eq!(text.contains("output 1 over input 1"), dying == 2, "{text}");
            assert_eq!(text.matches("over input").count(), dying, "{text}");
        }
    }

    #[test]
    fn the_input_has_to_lie_as_the_output_will() {
        // In another order.
        assert_eq!(
            count(|b, soft| {
                let turned = b.transpose(soft);
                vec![b.elementwise(neg(), &[turned])]
            }),
            0
        );
        // In another shape.
        assert_eq!(
            count(|b, soft| {
                let flat = b.view(View::Reshape, soft, &[64]);
                vec![b.elementwise(neg(), &[flat])]
            }),
            1
        );
        // A part of it, at its start or further on.
        for row in [0, 2] {
            let part = count(|b, soft| {
                let (start, strides) = (Axes::from_slice(&[row, 0]), Strides::from_elem(1, 2));
                let rows = b.view(View::Slice { start, strides }, soft, &[2, 16]);
                vec![b.elementwise(neg(), &[rows])]
            });
            assert_eq!(part, 0);
        }
        // Elements of another size.
        assert_eq!(
            count(|b, soft| {
                let half = b.view(View::Reshape, soft, &[64]);
                let program = Program::from_expr(&neg(), &[Dtype::Float32]);
                let kind = Kind::Kernel(Kernel::Elementwise(program));
                let spec = Spec::new([64], Dtype::Float16);
                vec![b.step_of("Half", kind, &[half], spec)]
            }),
            0
        );
    }

    #[test]
    fn inputs_of_the_call_and_constants_stay() {
        let mut b = Builder::default();
        let x = b.input(&SHAPE);
        let c = b.constant(&SHAPE, &[1.0; 64]);
        let value = b.elementwise(add(), &[x, c]);
        let soft = b.softmax(value);
        let plan = Plan::from_ir(b.finish(&[soft]), false, &Mock, &Pool::new(1)).unwrap();
        assert_eq!(written_over(&plan), 0);
    }

    #[test]
    fn a_backend_that_does_not_write_over_inputs_is_not_made_to() {
        // The mock's softmax does not.
        assert_eq!(count(|b, soft| vec![b.softmax(soft)]), 0);
    }
}
