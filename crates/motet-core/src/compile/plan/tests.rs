use super::*;
use crate::compile::testing::{Builder, Mock, add, exp, max, mul, neg, read, tensor};
use crate::dtype::Dtype;
use crate::error::ErrorKind;
use crate::memory::{MemoryScope, within};
use crate::ops::View;

fn build(ir: Ir, fuse: bool) -> Plan {
    Plan::from_ir(ir, fuse, &Mock, &Pool::new(1)).unwrap()
}

fn call(plan: &Plan, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    plan.call(inputs, &Pool::new(1), &mut || Ok(()))
}

/// Runs the steps one by one, as the eager mode does.
fn step_by_step(ir: &Ir, inputs: &[Tensor]) -> Vec<Tensor> {
    let pool = Pool::new(1);
    let mut values: Vec<Option<Tensor>> = vec![None; ir.values.len()];
    let given = ir.inputs.iter().copied().zip(inputs.iter().cloned());
    for (value, tensor) in given.chain(ir.constants.iter().cloned()) {
        values[value] = Some(tensor);
    }
    for step in &ir.steps {
        let inputs: Vec<Tensor> = step
            .inputs
            .iter()
            .map(|&v| values[v].clone().unwrap())
            .collect();
        let specs: Vec<Spec> = step.outputs.iter().map(|&v| ir.values[v].clone()).collect();
        let results = executor::run_step(&Mock, step, &inputs, &specs, &pool).unwrap();
        for (&value, tensor) in step.outputs.iter().zip(results) {
            values[value] = Some(tensor);
        }
    }
    ir.outputs
        .iter()
        .map(|&v| values[v].clone().unwrap())
        .collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| self.below(1000) as f32 / 500.0 - 1.0)
            .collect()
    }
}

/// A graph of elementwise steps, views and softmaxes on values of shape (3,4), (4,3) and (12).
fn random_graph(random: &mut Random) -> Ir {
    let mut b = Builder::default();
    let mut values = vec![b.input(&[3, 4]), b.input(&[4, 3])];
    values.push(b.constant(&[3, 4], &random.floats(12)));
    let scalar = b.constant(&[1], &random.floats(1));
    values.push(b.view(View::Broadcast, scalar, &[4, 3]));
    for _ in 0..random.below(30) {
        let a = values[random.below(values.len())];
        let same: Vec<_> = values
            .iter()
            .copied()
            .filter(|&v| b.shape(v) == b.shape(a))
            .collect();
        let other = same[random.below(same.len())];
        let value = match random.below(9) {
            0 | 1 => b.elementwise(add(), &[a, other]),
            2 => b.elementwise(mul(), &[a, other]),
            3 => b.elementwise(max(), &[a, other]),
            4 => b.elementwise(neg(), &[a]),
            // Softmax first, so that values stay small.
            5 => {
                let soft = b.softmax(a);
                b.elementwise(exp(), &[soft])
            }
            6 => b.transpose(a),
            7 => b.softmax(a),
            _ => b.view(View::Reshape, a, &[[3, 4], [4, 3]][random.below(2)]),
        };
        values.push(value);
    }
    let outputs: Vec<_> = (0..3).map(|_| values[random.below(values.len())]).collect();
    b.finish(&outputs)
}

#[test]
fn plans_give_what_the_steps_give_one_by_one() {
    for seed in 0..300 {
        let inputs = {
            let mut random = Random(seed);
            let (a, b) = (random.floats(12), random.floats(12));
            [tensor(&[3, 4], &a), tensor(&[4, 3], &b)]
        };
        let graph = || random_graph(&mut Random(seed));
        let bits = |tensors: Vec<Tensor>| -> Vec<Vec<u32>> {
            let bits = |t: &Tensor| read(t).into_iter().map(f32::to_bits).collect();
            tensors.iter().map(bits).collect()
        };
        let expected = bits(step_by_step(&graph(), &inputs));
        for fuse in [false, true] {
            let plan = build(graph(), fuse);
            for _ in 0..2 {
                assert_eq!(
                    bits(call(&plan, &inputs).unwrap()),
                    expected,
                    "seed {seed}\n{plan}"
                );
            }
        }
    }
}

#[test]
fn a_fused_chain_is_one_step_and_needs_no_workspace() {
    let chain = || {
        let mut b = Builder::default();
        let x = b.input(&[8]);
        let mut value = x;
        for _ in 0..5 {
            value = b.elementwise(add(), &[value, x]);
        }
        b.finish(&[value])
    };
    let (fused, plain) = (build(chain(), true), build(chain(), false));
    assert_eq!((fused.steps(), fused.workspace_bytes()), (1, 0));
    assert_eq!((plain.steps(), plain.workspace_bytes()), (5, 64));
    let text = fused.to_string();
    assert!(text.contains("1 steps, 0 bytes of workspace"), "{text}");
    assert!(text.contains("Map+Map"), "{text}");
}

#[test]
fn weights_are_packed_at_build_and_results_may_be_views() {
    let mut b = Builder::default();
    let x = b.input(&[2, 3]);
    let c = b.constant(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let weight = b.transpose(c);
    let soft = b.kernel("Softmax", Kernel::Softmax, &[weight]);
    let sum = b.elementwise(add(), &[x, soft]);
    let turned = b.transpose(sum);
    let seen = b.transpose(x);
    let plan = build(b.finish(&[sum, turned, seen, weight]), true);
    assert_eq!(plan.steps(), 1, "{plan}");
    let input = tensor(&[2, 3], &[0.0; 6]);
    let results = call(&plan, std::slice::from_ref(&input)).unwrap();
    assert!(Arc::ptr_eq(&results[0].buffer, &results[1].buffer));
    assert!(Arc::ptr_eq(&results[2].buffer, &input.buffer));
    assert_eq!(read(&results[3]), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
}

#[test]
fn results_outlive_the_workspace_which_goes_back() {
    for len in [16, 2048] {
        let mut b = Builder::default();
        let x = b.input(&[len]);
        let soft = b.softmax(x);
        let minus = b.elementwise(neg(), &[soft]);
        let again = b.softmax(minus);
        let plan = build(b.finish(&[again]), true);
        let scope = MemoryScope::new("plan");
        let numbers: Vec<f32> = (0..len).map(|i| (i % 4) as f32).collect();
        let (numbers, zeros) = (tensor(&[len], &numbers), tensor(&[len], &vec![0.0; len]));
        let first = within(Some(&scope), || call(&plan, &[numbers])).unwrap();
        let before = read(&first[0]);
        within(Some(&scope), || call(&plan, &[zeros])).unwrap();
        assert_eq!(read(&first[0]), before);
        let result = 4 * len;
        // A small workspace is on the stack.
        let workspace = plan.call_bytes() - result;
        assert_eq!(
            workspace,
            if len == 16 { 0 } else { plan.workspace_bytes() }
        );
        assert!(plan.workspace_bytes() > 0 && scope.peak() >= 2 * result + workspace);
        assert_eq!(scope.active(), result, "the first result alone");
    }
}

#[test]
fn strided_and_misaligned_inputs_are_copied_first() {
    let mut b = Builder::default();
    let x = b.input(&[2, 2]);
    let soft = b.softmax(x);
    let ir = b.finish(&[soft, x]);
    let plan = build(ir, true);
    let plain = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let turned = tensor(&[2, 2], &[1.0, 3.0, 2.0, 4.0]);
    let mut layout = turned.layout.clone();
    layout.strides.reverse();
    let turned = turned.view(layout, 0).unwrap();
    // The same bytes, one byte further on in a longer buffer.
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let storage = Tensor::allocate(&Spec::new([17], Dtype::Uint8), heap()).unwrap();
    for (at, byte) in bytes.into_iter().enumerate() {
        // SAFETY: 16 bytes from 1 on fit into the 17, which nobody else knows yet.
        unsafe { storage.buffer.as_ptr().add(at + 1).write(byte) };
    }
    let shifted = Tensor {
        offset: 1,
        layout: plain.layout.clone(),
        ..storage
    };
    let expected: Vec<_> = call(&plan, &[plain]).unwrap().iter().map(read).collect();
    for input in [turned, shifted] {
        let got: Vec<_> = call(&plan, &[input]).unwrap().iter().map(read).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn failures_are_errors_that_name_the_step_and_leave_the_plan_usable() {
    let one = |kernel: Kernel| {
        let mut b = Builder::default();
        let x = b.input(&[2]);
        let y = b.kernel("Victim", kernel, &[x]);
        let z = b.elementwise(neg(), &[y]);
        b.finish(&[z])
    };
    let input = [tensor(&[2], &[1.0, 2.0])];
    let sort = Kernel::Sort {
        axis: 0,
        indices: false,
    };
    for (kernel, kind, text) in [
        (
            sort,
            ErrorKind::Internal,
            "[Victim] panicked: the mock cannot sort",
        ),
        (
            Kernel::LogSumExp,
            ErrorKind::Invalid,
            "[Victim] float32(2) -> float32(2): [mock] out of range",
        ),
    ] {
        let plan = build(one(kernel), true);
        let scope = MemoryScope::new("plan");
        for _ in 0..2 {
            let error = within(Some(&scope), || call(&plan, &input)).err().unwrap();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!(scope.active(), 0, "the workspace came back");
    }
    let missing = Plan::from_ir(
        one(Kernel::Concatenate { axis: 0 }),
        true,
        &Mock,
        &Pool::new(1),
    );
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::Unsupported);
    let plan = build(one(Kernel::Softmax), false);
    assert_eq!(
        call(&plan, &[tensor(&[3], &[0.0; 3])])
            .err()
            .unwrap()
            .kind(),
        ErrorKind::Invalid
    );
    assert!(call(&plan, &[]).is_err());
    let mut steps = 0;
    let cancelled = plan.call(&input, &Pool::new(1), &mut || {
        steps += 1;
        Err(Error::new(ErrorKind::Cancelled, "test", "cancelled"))
    });
    assert_eq!(cancelled.err().unwrap().kind(), ErrorKind::Cancelled);
    assert_eq!(steps, 1);
    assert!(call(&plan, &input).is_ok());
}

#[test]
fn empty_values_launch_nothing() {
    let mut b = Builder::default();
    let x = b.input(&[0, 3]);
    let y = b.kernel(
        "Sort",
        Kernel::Sort {
            axis: 1,
            indices: false,
        },
        &[x],
    );
    let plan = build(b.finish(&[y]), true);
    assert_eq!(plan.steps(), 0);
    let result = call(&plan, &[tensor(&[0, 3], &[])]).unwrap();
    assert_eq!(result[0].spec(), Spec::new([0, 3], Dtype::Float32));
}

#[test]
fn threads_share_a_plan() {
    const fn shared<T: Send + Sync>() {}
    shared::<Plan>();
    let plan = build(random_graph(&mut Random(29)), true);
    let inputs = |scale: f32| {
        let data: Vec<f32> = (0..12).map(|i| i as f32 * scale).collect();
        [tensor(&[3, 4], &data), tensor(&[4, 3], &data)]
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (plan, inputs) = (&plan, &inputs);
            scope.spawn(move || {
                let inputs = inputs(thread as f32 / 50.0);
                let run = || {
                    call(plan, &inputs)
                        .unwrap()
                        .iter()
                        .map(read)
                        .collect::<Vec<_>>()
                };
                let expected = run();
                for _ in 0..50 {
                    assert_eq!(run(), expected);
                }
            });
        }
    });
}

#[test]
fn a_view_outside_of_its_array_is_refused() {
    for (stride, offset, fits) in [(2, 1, true), (2, 2, false), (-1, 0, false)] {
        let of = |temporary: bool| {
            let mut b = Builder::default();
            let x = b.input(&[6]);
            let y = if temporary { b.softmax(x) } else { x };
            let strides = [stride].into_iter().collect();
            let seen = b.view(View::AsStrided { strides, offset }, y, &[3]);
            b.finish(&[seen])
        };
        for ir in [of(true), of(false)] {
            let plan = Plan::from_ir(ir, true, &Mock, &Pool::new(1));
            assert_eq!(plan.is_ok(), fits, "stride {stride} from {offset}");
        }
    }
}
