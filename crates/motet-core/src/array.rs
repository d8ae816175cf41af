//! Arrays: handles to values that are there or will be.

#[cfg(not(loom))]
pub mod apply;
mod convert;
mod display;
#[cfg(feature = "ndarray")]
mod ndarray;
#[cfg(not(loom))]
mod operand;
#[cfg(not(loom))]
pub mod operators;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::node::{Executable, Node, Recipe, Status};
use crate::options::CallOptions;
use crate::shape::{Shape, Spec};
use crate::stream::Stream;
use crate::tensor::Tensor;

#[doc(hidden)]
pub use convert::literal;
#[cfg(not(loom))]
pub use operand::Operand;

/// An immutable n-dimensional value: shape, dtype, and data or the recipe that will make it.
///
/// Cheap to clone; any thread may use it, evaluate it and drop it.
///
/// `{}` prints what MLX prints, and computes the array for it; `{:?}` says shape and dtype and
/// computes nothing. There is no `==`: it would have to be either a comparison of each element, which
/// is an array and not a `bool`, or a hidden evaluation. `equal` and `array_equal` say which.
#[derive(Clone)]
pub struct Array {
    node: Arc<Node>,
    output: usize,
}

impl Array {
    /// An array of data that is in memory already.
    pub fn from_tensor(tensor: Tensor) -> Array {
        Array {
            node: Arc::new(Node::ready(tensor)),
            output: 0,
        }
    }

    /// An input of a function that is being traced: it has no value, and evaluating what depends
    /// on it is an error. `dynamic` where its shape is an example.
    pub fn placeholder(spec: Spec, dynamic: bool) -> Array {
        Array {
            node: Arc::new(Node::placeholder(spec, dynamic)),
            output: 0,
        }
    }

    /// The lazy outputs of an operation; `options` are those of the call that it belongs to.
    pub fn from_executable(
        executable: Arc<dyn Executable>,
        inputs: &[Array],
        outputs: &[Spec],
        stream: Stream,
        options: Option<&Arc<CallOptions>>,
    ) -> Vec<Array> {
        let recipe = Recipe {
            executable,
            inputs: SmallVec::from(inputs),
            options: options.cloned(),
        };
        let node = Node::lazy(recipe, SmallVec::from(outputs), stream);
        let one = Array {
            node: Arc::new(node),
            output: 0,
        };
        let mut arrays = Vec::with_capacity(outputs.len().max(1));
        arrays.push(one);
        for output in 1..outputs.len() {
            let other = Array {
                output,
                ..arrays[0].clone()
            };
            arrays.push(other);
        }
        arrays.truncate(outputs.len());
        arrays
    }

    /// Shape and dtype.
    pub fn spec(&self) -> &Spec {
        &self.node.outputs[self.output]
    }

    /// The size in each dimension.
    pub fn shape(&self) -> &Shape {
        &self.spec().shape
    }

    /// Whether its shape is an example: it depends on an input of a function that is being traced
    /// for any shapes. What is then taken from its shape should be taken by a primitive.
    pub fn is_dynamic(&self) -> bool {
        self.node.dynamic
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.spec().dtype
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        self.shape().size()
    }

    /// The number of dimensions.
    pub fn ndim(&self) -> usize {
        self.shape().len()
    }

    /// Bytes per element.
    pub fn itemsize(&self) -> usize {
        self.dtype().size()
    }

    /// The bytes that the elements take.
    pub fn nbytes(&self) -> usize {
        self.spec().bytes()
    }

    /// Computes the array and waits for it.
    ///
    /// # Errors
    /// Where its computation failed.
    pub fn eval(&self) -> Result<()> {
        crate::eval::eval(std::slice::from_ref(self))
    }

    /// The array's value in memory; computes it where needed.
    ///
    /// # Errors
    /// Where its computation failed.
    pub fn tensor(&self) -> Result<Tensor> {
        if let Status::Done(result) = self.status() {
            return result;
        }
        self.eval()?;
        match self.status() {
            Status::Done(result) => result,
            _ => Err(Error::new(
                crate::error::ErrorKind::Internal,
                "eval",
                "the array is not there after its evaluation",
            )),
        }
    }

    pub(crate) fn into_node(self) -> Arc<Node> {
        self.node
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Which of its node's outputs the array is.
    #[cfg(not(loom))]
    pub(crate) fn output(&self) -> usize {
        self.output
    }

    pub(crate) fn status(&self) -> Status {
        self.node.status(self.output)
    }

    /// The node, if this was the last handle to it.
    pub(crate) fn into_unshared_node(self) -> Option<Node> {
        Arc::into_inner(self.node)
    }
}

impl std::fmt::Debug for Array {
    /// Shape and dtype alone: debugging must not start a computation.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({})", self.spec())
    }
}
