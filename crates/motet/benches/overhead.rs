//! What motet costs beyond its kernels: calls of plans and eager operations on arrays so small that
//! their elements take no time. `cargo bench -p motet --bench overhead`.

use divan::{Bencher, black_box};
use motet::ops::{self, Scan};
use motet::prelude::*;
use motet_core::compile::plan::Plan;
use motet_core::compile::trace::{Signature, trace};
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;

fn main() {
    divan::main();
}

fn small() -> Array {
    Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [4]).unwrap()
}

/// A plan of so many steps that no pass joins, alone: without arrays and streams.
#[divan::bench(args = [1, 10, 100])]
fn plan_of_steps(bencher: Bencher, steps: usize) {
    let inputs = vec![small().spec().clone()];
    let signature = Signature {
        inputs: inputs.clone(),
        ..Signature::default()
    };
    let sums = |inputs: &[Array]| {
        let mut x = inputs[0].clone();
        for _ in 0..steps {
            x = ops::cumsum(&x, 0, Scan::default())?;
        }
        Ok(vec![x])
    };
    let plan = Plan::build(&trace(signature, sums).unwrap(), &inputs, true).unwrap();
    assert_eq!(plan.steps(), steps);
    let x: [Tensor; 1] = [small().tensor().unwrap()];
    let no_wait = &mut || Ok(());
    bencher.bench_local(|| plan.call(black_box(&x), Pool::global(), no_wait).unwrap());
}

/// A compiled function, called and evaluated.
#[divan::bench]
fn compiled_call(bencher: Bencher) {
    let f = motet::compile(|x: &[Array]| Ok(vec![&x[0] + 1.0]));
    let x = [small()];
    bencher.bench(|| {
        let y = f.call(black_box(&x)).unwrap();
        y[0].eval().unwrap();
        y
    });
}

/// `x + 1`, built and evaluated.
#[divan::bench]
fn eager_add(bencher: Bencher) {
    let x = small();
    bencher.bench(|| {
        let y = black_box(&x) + 1.0;
        y.eval().unwrap();
        y
    });
}

/// A chain of 60 operations, built and evaluated at once.
#[divan::bench]
fn eager_chain_of_60(bencher: Bencher) {
    let x = small();
    bencher.bench(|| {
        let mut y = black_box(&x).clone();
        for _ in 0..20 {
            y = ops::tanh(&(&(&y * 0.5) + &x)).unwrap();
        }
        y.eval().unwrap();
        y
    });
}
