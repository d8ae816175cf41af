//! What the scenario tests share: the repository's models with MLX's outputs, and an operation that
//! the tests can watch.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use motet::{Array, Dtype, Function, Result, Shape, Spec, Stream};
use motet_core::node::Executable;
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;

/// A model that comes with the repository, an input, and what MLX gives for it.
pub struct Model {
    pub function: Function,
    pub input: Array,
    pub expected: Vec<f32>,
}

/// Loads a model, to be run as it is or compiled.
pub fn model(name: &str, compiled: bool) -> Model {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let tensors = motet_io::read(format!("{folder}/{name}.safetensors").as_ref()).unwrap();
    let tensor = |key: &str| Array::from_tensor(tensors[key].clone());
    let function = motet::import_function(format!("{folder}/{name}.mlxfn")).unwrap();
    Model {
        function: if compiled {
            function.compile()
        } else {
            function
        },
        input: tensor("in.0"),
        expected: tensor("out.0").to_vec().unwrap(),
    }
}

impl Model {
    /// Calls the model and compares with MLX.
    pub fn check(&self) -> Vec<f32> {
        let output = self.call(&self.function);
        assert_eq!(output.len(), self.expected.len());
        for (got, expected) in output.iter().zip(&self.expected) {
            assert!((got - expected).abs() <= 1e-4 + 1e-4 * expected.abs());
        }
        output
    }

    /// Calls `function` with the model's input.
    pub fn call(&self, function: &Function) -> Vec<f32> {
        let outputs = function.call(std::slice::from_ref(&self.input)).unwrap();
        outputs[0].to_vec().unwrap()
    }
}

/// Runs a test on the eager and on the compiled path.
pub fn on_both_paths(test: impl Fn(bool)) {
    test(false);
    test(true);
}

/// An operation on one element that the test watches: adds one to the sum of its inputs.
pub struct Watched {
    pub runs: AtomicUsize,
    work: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Watched {
    pub fn new() -> Arc<Watched> {
        Watched::with(|| Ok(()))
    }

    /// Does `work` before it computes.
    pub fn with(work: impl Fn() -> Result<()> + Send + Sync + 'static) -> Arc<Watched> {
        Arc::new(Watched {
            runs: AtomicUsize::new(0),
            work: Box::new(work),
        })
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// The lazy outputs, all with the same value.
    pub fn outputs(self: &Arc<Self>, count: usize, inputs: &[Array], on: &Stream) -> Vec<Array> {
        let specs = vec![Spec::new(Shape::default(), Dtype::Float32); count];
        let operation = Arc::clone(self) as Arc<dyn Executable>;
        Array::from_executable(operation, inputs, &specs, on.clone(), None)
    }

    /// The one lazy output.
    pub fn apply(self: &Arc<Self>, inputs: &[Array], on: &Stream) -> Array {
        self.outputs(1, inputs, on).remove(0)
    }
}

impl Executable for Watched {
    fn name(&self) -> &str {
        "Watched"
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        _: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        (self.work)()?;
        let mut sum = 1.0;
        for input in inputs {
            sum += Array::from_tensor(input.clone()).item::<f32>()?;
        }
        let output = Array::from_slice(&[sum], [])?.tensor()?;
        Ok(vec![output; outputs.len()])
    }
}
