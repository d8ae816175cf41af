//! The memory limit: whatever runs keeps to it, and is no worse for having met it. A program of its
//! own, since the limit is one for the process.

use conformance::modes::graph;
use motet::{Array, ErrorKind, memory, ops};
use motet_core::compile::plan::Plan;
use motet_core::dtype::Dtype;
use motet_core::graph::{Graph, Node};
use motet_core::ops::elementwise::Exp;
use motet_core::ops::{Primitive, matmul};
use motet_core::pool::Pool;
use motet_core::shape::Spec;

/// exp(x) @ exp(x): two temporaries beside the result.
fn squares(n: usize) -> Graph {
    let x = Spec::new([n, n], Dtype::Float32);
    let node = |primitive: Primitive, inputs: &[usize], output| Node {
        primitive,
        inputs: inputs.to_vec(),
        outputs: vec![output],
        lane: 0,
    };
    Graph {
        values: vec![x; 4],
        inputs: vec![0],
        keywords: Vec::new(),
        constants: Vec::new(),
        nodes: vec![
            node(Exp.into(), &[0], 1),
            node(matmul::Matmul.into(), &[1, 1], 2),
            node(Exp.into(), &[2], 3),
        ],
        outputs: vec![3],
        shapeless: false,
    }
}

#[test]
fn eager_calls_plans_and_builds_keep_to_the_limit() {
    const N: usize = 512;
    const BYTES: usize = N * N * 4;
    let x = Array::from_slice(&[0f32; N * N], [N, N]).unwrap();
    let input = [x.tensor().unwrap()];
    let specs = [input[0].spec()];
    let old = memory::set_limit(memory::active() + BYTES / 2);
    let kind = |error: motet::Error| {
        assert!(error.to_string().contains("limit"), "{error}");
        error.kind()
    };

    let exp = ops::apply(Exp, std::slice::from_ref(&x)).unwrap().remove(0);
    assert_eq!(exp.eval().map_err(kind), Err(ErrorKind::Memory));
    let one = graph(&Exp.into(), &input, false).unwrap();
    let build = |graph: &Graph| Plan::build(graph, &specs, true);
    assert_eq!(
        build(&one).map(|_| ()).map_err(kind),
        Ok(()),
        "one result fits into the limit"
    );
    let call = |plan: &Plan| plan.call(&input, Pool::global(), &mut || Ok(()));
    assert_eq!(
        call(&build(&one).unwrap()).map(|_| ()).map_err(kind),
        Err(ErrorKind::Memory)
    );

    // A plan whose workspace is over the limit is not even made.
    memory::set_limit(BYTES / 2);
    assert_eq!(
        build(&squares(N)).map(|_| ()).map_err(kind),
        Err(ErrorKind::Memory)
    );

    // Two results fit beside the input, the workspace does not.
    memory::set_limit(memory::active() + 2 * BYTES);
    // Fused, it would need next to none.
    let plan = Plan::build(&squares(N), &specs, false).unwrap();
    assert!(plan.workspace_bytes() > BYTES);
    memory::set_limit(memory::active() + BYTES);
    assert_eq!(
        call(&plan).map(|_| ()).map_err(kind),
        Err(ErrorKind::Memory)
    );
    let in_use = memory::active();

    // Nothing was lost, and with more memory all is well.
    memory::set_limit(old);
    assert_eq!(call(&plan).unwrap().len(), 1);
    assert_eq!(
        ops::apply(Exp, &[x]).unwrap()[0].to_vec::<f32>().unwrap(),
        [1.0; N * N]
    );
    drop(plan);
    assert_eq!(memory::active(), in_use);
}
