//! Arrays: handles to values that are there or will be.

#[cfg(not(loom))]
pub mod apply;
#[cfg(not(loom))]
mod operand;
#[cfg(not(loom))]
pub mod operators;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::dtype::{Dtype, Element};
use crate::error::{Error, Result};
use crate::memory::Buffer;
use crate::node::{Executable, Node, Recipe, Status};
use crate::options::CallOptions;
use crate::shape::{Shape, Spec};
use crate::stream::Stream;
use crate::tensor::Tensor;

#[cfg(not(loom))]
pub use operand::Operand;

/// An immutable n-dimensional value: shape, dtype, and data or the recipe that will make it.
///
/// Cheap to clone; any thread may use it, evaluate it and drop it.
#[derive(Clone)]
pub struct Array {
    node: Arc<Node>,
    output: usize,
}

impl Array {
    /// An array of this shape with a copy of `data`, which is row-major.
    ///
    /// # Errors
    /// Where `data` does not have as many elements as the shape.
    #[cfg(not(loom))]
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Result<Array> {
        let spec = Spec::new(shape, T::DTYPE);
        spec.shape.check(spec.dtype)?;
        if spec.shape.size() != data.len() {
            return Err(Error::invalid(
                "from_slice",
                format!(
                    "got {} elements for shape {}, expected {}",
                    data.len(),
                    spec.shape,
                    spec.shape.size()
                ),
            ));
        }
        let tensor = Tensor::allocate(&spec, crate::memory::heap())?;
        // SAFETY: the buffer is new, so it does not overlap `data`, and it has
        // `spec.bytes() == size_of_val(data)` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr().cast::<u8>(),
                tensor.buffer.as_ptr(),
                size_of_val(data),
            );
        }
        Ok(Array::from_tensor(tensor))
    }

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

    /// The lazy outputs of an operation.
    pub fn from_executable(
        executable: Arc<dyn Executable>,
        inputs: &[Array],
        outputs: &[Spec],
        stream: &Stream,
        options: &Arc<CallOptions>,
    ) -> Vec<Array> {
        let recipe = Recipe {
            executable,
            inputs: inputs.iter().cloned().collect(),
            options: Arc::clone(options),
        };
        let node = Arc::new(Node::lazy(recipe, SmallVec::from(outputs), stream.clone()));
        (0..outputs.len())
            .map(|output| Array {
                node: Arc::clone(&node),
                output,
            })
            .collect()
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

    /// A copy of the elements in row-major order; computes the array where needed.
    ///
    /// # Errors
    /// Where the array's dtype is not that of `T`, or its computation failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return Err(Error::invalid(
                "to_vec",
                format!("got an array of {}, expected {}", self.dtype(), T::DTYPE),
            ));
        }
        let tensor = self.tensor()?;
        let mut elements = Vec::with_capacity(tensor.layout.shape.size());
        for_each_offset(&tensor, |buffer, offset| {
            // SAFETY: `Tensor`s lie inside of their buffer, and `T` is what its dtype says; the
            // address may be unaligned (a mapped file).
            elements.push(unsafe { buffer.as_ptr().add(offset).cast::<T>().read_unaligned() });
        });
        Ok(elements)
    }

    /// The only element; computes the array where needed.
    ///
    /// # Errors
    /// Where the array has not exactly one element, its dtype is not that of `T`, or its
    /// computation failed.
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.to_vec::<T>()?.as_slice() {
            [item] => Ok(*item),
            _ => Err(Error::invalid(
                "item",
                format!(
                    "got an array of shape {}, expected one element",
                    self.shape()
                ),
            )),
        }
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

impl<T: Element> From<T> for Array {
    /// The array of no dimensions with this element.
    fn from(element: T) -> Array {
        let held = Box::new(element);
        let address = std::ptr::NonNull::from(&*held).cast();
        // SAFETY: the box is at this address as long as the buffer holds it, and nobody writes to it.
        let buffer = unsafe { Buffer::foreign(address, size_of::<T>(), held) };
        Array::from_tensor(Tensor {
            buffer: Arc::new(buffer),
            offset: 0,
            layout: Spec::new(Shape::default(), T::DTYPE).layout(),
        })
    }
}

impl std::fmt::Debug for Array {
    /// Shape and dtype alone: debugging must not start a computation.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({})", self.spec())
    }
}

/// Byte offsets of the elements in row-major order.
fn for_each_offset(tensor: &Tensor, mut visit: impl FnMut(&Buffer, usize)) {
    let layout = &tensor.layout;
    let size = layout.dtype.size() as isize;
    let mut index = vec![0usize; layout.shape.len()];
    let mut offset = tensor.offset as isize;
    for _ in 0..layout.shape.size() {
        visit(&tensor.buffer, offset as usize);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            offset += layout.strides[axis] * size;
            if index[axis] < layout.shape[axis] {
                break;
            }
            offset -= layout.strides[axis] * size * index[axis] as isize;
            index[axis] = 0;
        }
    }
}
