//! Random programs: graphs several operations deep, of random shapes, dtypes and views, with inputs
//! and what the reference makes of them.
//!
//! Numbers stay small, and what jumps (comparisons, indices, conversions to integers) is only done
//! to values that are exact, so a rounding error stays one.

use motet_core::compile::executor::run_primitive;
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::graph::{Graph, Node, ValueId};
use motet_core::kernel::{Reduction, ScanOp, Update};
use motet_core::ops::elementwise::*;
use motet_core::ops::{
    Primitive, assemble, broadcast, indexing, matmul, reduce, shape, slicing, sort,
};
use motet_core::pool::Pool;
use motet_core::shape::{Shape, Spec};
use motet_core::tensor::Tensor;

use crate::Verdict;
use crate::fill::{self, Fill};
use crate::noise::Noise;
use crate::reference;
use crate::value::{Scalar, Value, tolerance};

/// A random program.
pub struct Program {
    /// What it was made from.
    pub seed: u64,
    /// What it computes. No constants are views, so it can be exported.
    pub graph: Graph,
    /// Its inputs.
    pub inputs: Vec<Value>,
    /// What the reference makes of them, rounded to its dtype after each operation.
    pub outputs: Vec<Value>,
    /// The rounding errors that may add up in a floating output.
    pub tolerance: f64,
}

/// The dtypes of inputs, the usual one more often.
const DTYPES: [Dtype; 10] = [
    Dtype::Float32,
    Dtype::Float32,
    Dtype::Float32,
    Dtype::Float16,
    Dtype::Bfloat16,
    Dtype::Int32,
    Dtype::Uint8,
    Dtype::Int64,
    Dtype::Uint32,
    Dtype::Bool,
];

/// The largest floats that a program deals with.
const LARGEST: f64 = 20.0;

/// The most elements of a value.
const ELEMENTS: usize = 2000;

impl Program {
    /// The program of a seed.
    ///
    /// # Panics
    /// If a primitive of the generator has no reference.
    pub fn new(seed: u64) -> Program {
        let mut builder = Builder::new(seed);
        let operations = 3 + builder.noise.below(12);
        // An attempt may come to nothing.
        for _ in 0..20 * operations {
            if builder.graph.nodes.len() < operations {
                builder.operation();
            }
        }
        builder.finish(seed)
    }

    /// The tensors of the inputs.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        self.inputs.iter().map(Value::tensor).collect()
    }

    /// The outputs, node by node.
    ///
    /// # Errors
    /// What a primitive or the backend refuses.
    pub fn eager(&self) -> Result<Vec<Tensor>> {
        eager(&self.graph, &self.tensors()?)
    }

    /// Compares outputs with those of the reference.
    ///
    /// # Errors
    /// The first element that is further from the reference than rounding explains.
    pub fn compare(&self, got: &[Tensor]) -> Verdict {
        for (output, (got, expected)) in got.iter().zip(&self.outputs).enumerate() {
            let got = Value::of(got);
            if got.spec != expected.spec {
                return Err(format!(
                    "output {output} is {}, expected {}",
                    got.spec, expected.spec
                ));
            }
            let pairs = got.elements.iter().zip(&expected.elements);
            for (number, (&got, &expected)) in pairs.enumerate() {
                let close = match (got, expected) {
                    (Scalar::Float(a), Scalar::Float(b)) => (a - b).abs() <= self.tolerance,
                    (a, b) => a == b,
                };
                if !close {
                    return Err(format!(
                        "output {output}, element {number}: got {got:?}, expected {expected:?} \
                         within {}",
                        self.tolerance
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The outputs of a graph, its nodes run one after the other as they are.
///
/// # Errors
/// What a primitive or the backend refuses.
pub fn eager(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let specs: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
    let specs = graph.specialize(&specs)?;
    let mut values: Vec<Option<Tensor>> = vec![None; specs.len()];
    for (&id, input) in graph.inputs.iter().zip(inputs) {
        values[id] = Some(input.clone());
    }
    for (id, constant) in &graph.constants {
        values[*id] = Some(constant.clone());
    }
    let get = |values: &[Option<Tensor>], ids: &[ValueId]| -> Vec<Tensor> {
        let value = |&id: &ValueId| values[id].clone().expect("values come before their use");
        ids.iter().map(value).collect()
    };
    for node in &graph.nodes {
        let inputs = get(&values, &node.inputs);
        let outputs: Vec<Spec> = node.outputs.iter().map(|&id| specs[id].clone()).collect();
        let results = run_primitive(&node.primitive, &inputs, &outputs, Pool::global())?;
        for (&id, result) in node.outputs.iter().zip(results) {
            values[id] = Some(result);
        }
    }
    Ok(get(&values, &graph.outputs))
}

struct Builder {
    noise: Noise,
    graph: Graph,
    inputs: Vec<Value>,
    /// What each value of the graph is.
    values: Vec<Value>,
    /// Whether it has no rounding error.
    exact: Vec<bool>,
    used: Vec<bool>,
}

impl Builder {
    fn new(seed: u64) -> Builder {
        let mut builder = Builder {
            noise: Noise::new(seed),
            graph: Graph {
                values: Vec::new(),
                inputs: Vec::new(),
                keywords: Vec::new(),
                constants: Vec::new(),
                nodes: Vec::new(),
                outputs: Vec::new(),
                shapeless: false,
            },
            inputs: Vec::new(),
            values: Vec::new(),
            exact: Vec::new(),
            used: Vec::new(),
        };
        for _ in 0..1 + builder.noise.below(3) {
            let rank = builder.noise.below(5);
            let dims: Vec<usize> = (0..rank).map(|_| 1 + builder.noise.below(5)).collect();
            let dtype = *builder.noise.pick(&DTYPES);
            let input = builder.fill(Spec::new(dims, dtype));
            builder.inputs.push(input.clone());
            let id = builder.define(input, true);
            builder.graph.inputs.push(id);
        }
        builder
    }

    fn fill(&mut self, spec: Spec) -> Value {
        let element = |_| fill::number(&mut self.noise, spec.dtype, Fill::Plain);
        let elements = (0..spec.shape.size()).map(element).collect();
        Value { spec, elements }
    }

    fn define(&mut self, value: Value, exact: bool) -> ValueId {
        self.graph.values.push(value.spec.clone());
        self.values.push(value);
        self.exact.push(exact);
        self.used.push(false);
        self.values.len() - 1
    }

    fn constant(&mut self, value: Value) -> ValueId {
        let tensor = value.tensor().expect("constants are small");
        let id = self.define(value, true);
        self.graph.constants.push((id, tensor));
        id
    }

    fn finish(mut self, seed: u64) -> Program {
        let ends = (0..self.values.len()).filter(|&id| !self.used[id]);
        self.graph.outputs = ends.collect();
        let outputs = self
            .graph
            .outputs
            .iter()
            .map(|&id| self.values[id].clone())
            .collect();
        let made = self.graph.nodes.iter().flat_map(|node| &node.outputs);
        let rounding: f64 = made.map(|&id| tolerance(self.values[id].spec.dtype)).sum();
        Program {
            seed,
            graph: self.graph,
            inputs: self.inputs,
            outputs,
            tolerance: LARGEST * rounding,
        }
    }

    /// Adds a node if the primitive takes the inputs and the numbers stay small.
    fn push(&mut self, primitive: impl Into<Primitive>, inputs: &[ValueId]) -> Option<ValueId> {
        let primitive = primitive.into();
        let specs: Vec<Spec> = inputs
            .iter()
            .map(|&id| self.values[id].spec.clone())
            .collect();
        let outputs = primitive.infer(&specs, None).ok()?;
        if outputs.iter().any(|output| output.shape.size() > ELEMENTS) {
            return None;
        }
        let exact = inputs.iter().all(|&id| self.exact[id]);
        if !exact && jumps(&primitive) {
            return None;
        }
        let values: Vec<Value> = inputs.iter().map(|&id| self.values[id].clone()).collect();
        let expected = reference::expected(&primitive, &values, &outputs)
            .unwrap_or_else(|| panic!("{primitive:?} has no reference"));
        let mut results = Vec::new();
        for (spec, expected) in outputs.into_iter().zip(expected) {
            let elements: Vec<Scalar> = expected.iter().map(|e| e.value.to(spec.dtype)).collect();
            if elements.iter().any(|element| !is_tame(element)) {
                return None;
            }
            results.push(Value { spec, elements });
        }
        inputs.iter().for_each(|&id| self.used[id] = true);
        let rounds = |value: &Value| value.spec.dtype.is_inexact() && rounds(&primitive);
        let made: Vec<ValueId> = results
            .into_iter()
            .map(|value| {
                let exact = exact && !rounds(&value);
                self.define(value, exact)
            })
            .collect();
        let first = made.first().copied();
        self.graph.nodes.push(Node {
            primitive,
            inputs: inputs.to_vec(),
            outputs: made,
            lane: 0,
        });
        first
    }

    /// Any value, the latest more often.
    fn any(&mut self) -> ValueId {
        match self.noise.once_in(2) {
            true => self.values.len() - 1,
            false => self.noise.below(self.values.len()),
        }
    }

    fn spec(&self, id: ValueId) -> Spec {
        self.values[id].spec.clone()
    }

    /// An axis of an array that has some, from either end.
    fn axis(&mut self, rank: usize) -> Option<i32> {
        let axis = self.noise.below(rank.checked_sub(1)? + 1) as i32;
        Some(if self.noise.once_in(3) {
            axis - rank as i32
        } else {
            axis
        })
    }

    /// Tries to add one operation.
    fn operation(&mut self) {
        let x = self.any();
        let _ = match self.noise.below(12) {
            0 => self.unary(x),
            1..=3 => self.binary(x),
            4 | 5 => self.view(x),
            6 => self.slice(x),
            7 => self.assemble(x),
            8 => self.reduce(x),
            9 => self.product(x),
            10 => self.pick(x),
            _ => self.convert(x),
        };
    }

    fn unary(&mut self, x: ValueId) -> Option<ValueId> {
        let float: [Primitive; 12] = [
            Abs.into(),
            Negative.into(),
            Square.into(),
            Sin.into(),
            Cos.into(),
            Tanh.into(),
            Sigmoid.into(),
            Exp.into(),
            Erf.into(),
            ArcTan.into(),
            Floor.into(),
            Sign.into(),
        ];
        let integer: [Primitive; 5] = [
            Abs.into(),
            Negative.into(),
            Square.into(),
            Sign.into(),
            LogicalNot.into(),
        ];
        let op = match self.spec(x).dtype.is_inexact() {
            true => self.noise.pick(&float).clone(),
            false => self.noise.pick(&integer).clone(),
        };
        self.push(op, &[x])
    }

    /// Another value of the dtype that `x` broadcasts with, or a new scalar constant.
    fn partner(&mut self, x: ValueId) -> ValueId {
        let Spec { shape, dtype } = self.spec(x);
        let fits = |&id: &ValueId| {
            let spec = &self.values[id].spec;
            spec.dtype == dtype && spec.shape.broadcast(&shape).is_ok()
        };
        let partners: Vec<ValueId> = (0..self.values.len()).filter(fits).collect();
        if self.noise.once_in(3) {
            let scalar = self.fill(Spec::new([], dtype));
            return self.constant(scalar);
        }
        *self.noise.pick(&partners)
    }

    /// The values broadcast to one shape, as MLX does before operations.
    fn together(&mut self, ids: &[ValueId]) -> Option<Vec<ValueId>> {
        let shape = ids.iter().try_fold(Shape::default(), |shape, &id| {
            shape.broadcast(&self.values[id].spec.shape).ok()
        })?;
        let mut together = Vec::new();
        for &id in ids {
            together.push(match self.values[id].spec.shape == shape {
                true => id,
                false => self.push(
                    broadcast::Broadcast {
                        shape: shape.clone(),
                    },
                    &[id],
                )?,
            });
        }
        Some(together)
    }

    fn binary(&mut self, x: ValueId) -> Option<ValueId> {
        let y = self.partner(x);
        let operands = self.together(&[x, y])?;
        let bitwise = |op| Primitive::from(BitwiseBinary { op });
        let any: [Primitive; 10] = [
            Add.into(),
            Multiply.into(),
            Maximum.into(),
            Minimum.into(),
            Subtract.into(),
            Less.into(),
            GreaterEqual.into(),
            NotEqual.into(),
            Equal { equal_nan: true }.into(),
            Add.into(),
        ];
        let integer = [
            bitwise(BitwiseOp::And),
            bitwise(BitwiseOp::Or),
            bitwise(BitwiseOp::Xor),
        ];
        let dtype = self.spec(x).dtype;
        let divisible = !self.values[operands[1]]
            .elements
            .iter()
            .any(|e| e.abs() < 0.25);
        let op = match self.noise.below(5) {
            0 if divisible && dtype.is_inexact() => Divide.into(),
            0 if divisible && dtype.is_integer() => FloorDivide.into(),
            1 if divisible && dtype.is_integer() => Remainder.into(),
            2 if !dtype.is_inexact() => self.noise.pick(&integer).clone(),
            3 if dtype == Dtype::Bool => LogicalAnd.into(),
            3 => return self.select(&operands),
            _ => self.noise.pick(&any).clone(),
        };
        self.push(op, &operands)
    }

    fn select(&mut self, operands: &[ValueId]) -> Option<ValueId> {
        let (x, y) = (operands[0], operands[1]);
        let condition = match self.exact[x] && self.exact[y] {
            true => self.push(Less, operands)?,
            false => {
                let spec = Spec::new(self.spec(x).shape, Dtype::Bool);
                let condition = self.fill(spec);
                self.constant(condition)
            }
        };
        self.push(Select, &[condition, x, y])
    }

    fn view(&mut self, x: ValueId) -> Option<ValueId> {
        let Spec { shape, .. } = self.spec(x);
        let rank = shape.len();
        let ints = |dims: &[usize]| dims.iter().map(|&dim| dim as i32).collect::<Vec<i32>>();
        match self.noise.below(6) {
            0 => {
                let mut dims = shape.to_vec();
                dims.reverse();
                if self.noise.once_in(2) {
                    dims = vec![dims.iter().product()];
                }
                self.push(shape::Reshape { shape: ints(&dims) }, &[x])
            }
            1 => {
                let mut axes: Vec<usize> = (0..rank).collect();
                for at in (1..rank).rev() {
                    axes.swap(at, self.noise.below(at + 1));
                }
                self.push(
                    shape::Transpose {
                        permutation: ints(&axes),
                    },
                    &[x],
                )
            }
            2 => {
                let axes = vec![self.noise.below(rank + 1) as i32];
                self.push(shape::ExpandDims { axes }, &[x])
            }
            3 => {
                let ones = (0..rank).filter(|&axis| shape[axis] == 1);
                let axes = ints(&ones.collect::<Vec<usize>>());
                self.push(shape::Squeeze { axes }, &[x])
            }
            4 => {
                let start_axis = self.axis(rank)?.rem_euclid(rank as i32);
                self.push(
                    shape::Flatten {
                        start_axis,
                        end_axis: -1,
                    },
                    &[x],
                )
            }
            _ => {
                let mut dims = shape.to_vec();
                for dim in dims.iter_mut().filter(|dim| **dim == 1) {
                    *dim = 1 + self.noise.below(3);
                }
                dims.insert(0, 1 + self.noise.below(3));
                let shape = Shape::from(dims);
                self.push(broadcast::Broadcast { shape }, &[x])
            }
        }
    }

    fn slice(&mut self, x: ValueId) -> Option<ValueId> {
        let shape = self.spec(x).shape;
        let (mut start, mut end, mut strides) = (Vec::new(), Vec::new(), Vec::new());
        for &dim in shape.iter() {
            let (a, b) = (self.noise.below(dim) as i32, self.noise.below(dim) as i32);
            let stride = 1 + self.noise.below(2) as i32;
            let backwards = self.noise.once_in(3);
            start.push(if backwards { a.max(b) } else { a.min(b) });
            // One before the first, counted from the end.
            let before = a.min(b) - 1;
            let before = if before < 0 {
                -(dim as i32) - 1
            } else {
                before
            };
            end.push(if backwards { before } else { a.max(b) + 1 });
            strides.push(if backwards { -stride } else { stride });
        }
        if self.noise.once_in(3) {
            let axis = self.axis(shape.len())?;
            let dim = shape[axis.rem_euclid(shape.len() as i32) as usize];
            let indices = vec![self.noise.below(dim + 1) as i32];
            return self.push(slicing::Split { indices, axis }, &[x]);
        }
        let slice = self.push(
            slicing::Slice {
                start: start.clone(),
                end: end.clone(),
                strides: strides.clone(),
            },
            &[x],
        )?;
        if self.noise.once_in(2) {
            return Some(slice);
        }
        let op = Update::Set;
        self.push(
            slicing::SliceUpdate {
                op,
                start,
                end,
                strides,
            },
            &[x, slice],
        )
    }

    fn assemble(&mut self, x: ValueId) -> Option<ValueId> {
        let Spec { shape, dtype } = self.spec(x);
        let axis = self.axis(shape.len())?;
        if self.noise.once_in(2) {
            let y = self.partner(x);
            let y = if self.spec(y).shape == shape { y } else { x };
            return self.push(assemble::Concatenate { axis }, &[x, y, x]);
        }
        let value = self.fill(Spec::new([], dtype));
        let value = self.constant(value);
        let width = |noise: &mut Noise| vec![noise.below(3) as i32];
        let (low, high) = (width(&mut self.noise), width(&mut self.noise));
        // Files have them counted from the start.
        let axes = vec![axis.rem_euclid(shape.len() as i32)];
        self.push(assemble::Pad { axes, low, high }, &[x, value])
    }

    fn reduce(&mut self, x: ValueId) -> Option<ValueId> {
        let Spec { shape, dtype } = self.spec(x);
        let axis = self.axis(shape.len())?.rem_euclid(shape.len() as i32);
        let axes = vec![axis];
        use Reduction::*;
        let op = *self.noise.pick(&[Sum, Sum, Min, Max, And, Or, Prod]);
        match self.noise.below(6) {
            0 if dtype.is_inexact() => self.push(reduce::Softmax { precise: true }, &[x]),
            1 if dtype.is_inexact() => self.push(reduce::LogSumExp, &[x]),
            2 => {
                let op = *self
                    .noise
                    .pick(&[reduce::ArgReduction::Min, reduce::ArgReduction::Max]);
                self.push(reduce::ArgReduce { op, axis }, &[x])
            }
            3 if dtype != Dtype::Bool => {
                let op = *self.noise.pick(&[ScanOp::Sum, ScanOp::Max, ScanOp::Min]);
                let (reverse, inclusive) = (
                    self.noise.once_in(2),
                    op != ScanOp::Sum || self.noise.once_in(2),
                );
                self.push(
                    reduce::Scan {
                        op,
                        axis,
                        reverse,
                        inclusive,
                    },
                    &[x],
                )
            }
            _ => self.push(reduce::Reduce { op, axes }, &[x]),
        }
    }

    fn product(&mut self, x: ValueId) -> Option<ValueId> {
        let Spec { shape, dtype } = self.spec(x);
        let rank = shape.len();
        if rank < 2 || !dtype.is_inexact() {
            return None;
        }
        let mut axes: Vec<i32> = (0..rank as i32).collect();
        axes.swap(rank - 2, rank - 1);
        let y = match self.noise.once_in(2) {
            true => self.push(shape::Transpose { permutation: axes }, &[x])?,
            false => {
                let mut dims = shape.to_vec();
                dims[rank - 2] = shape[rank - 1];
                dims[rank - 1] = 1 + self.noise.below(6);
                let weight = self.fill(Spec::new(dims, dtype));
                self.constant(weight)
            }
        };
        self.push(matmul::Matmul, &[x, y])
    }

    fn pick(&mut self, x: ValueId) -> Option<ValueId> {
        let Spec { shape, .. } = self.spec(x);
        let axis = self.axis(shape.len())?.rem_euclid(shape.len() as i32);
        let dim = shape[axis as usize];
        match self.noise.below(4) {
            0 => self.push(sort::Sort { axis }, &[x]),
            1 => self.push(sort::ArgSort { axis }, &[x]),
            2 => {
                let spec = Spec::new([1 + self.noise.below(4)], Dtype::Uint32);
                let index = self.indices(spec, dim)?;
                let mut slice_sizes = shape.clone();
                slice_sizes.dims_mut()[axis as usize] = 1;
                self.push(
                    indexing::Gather {
                        axes: vec![axis],
                        slice_sizes,
                    },
                    &[x, index],
                )
            }
            _ => {
                let mut shape = shape.clone();
                shape.dims_mut()[axis as usize] = 1 + self.noise.below(4);
                let index = self.indices(Spec::new(shape, Dtype::Int32), dim)?;
                self.push(indexing::GatherAxis { axis }, &[x, index])
            }
        }
    }

    /// A constant of indices into a dimension.
    fn indices(&mut self, spec: Spec, dim: usize) -> Option<ValueId> {
        if dim == 0 {
            return None;
        }
        let element = |_| Scalar::Int(self.noise.below(dim) as i128);
        let elements = (0..spec.shape.size()).map(element).collect();
        Some(self.constant(Value { spec, elements }))
    }

    fn convert(&mut self, x: ValueId) -> Option<ValueId> {
        let dtype = *self.noise.pick(&DTYPES);
        self.push(AsType { dtype }, &[x])
    }
}

/// Floats that are small numbers, and what is defined.
fn is_tame(element: &Scalar) -> bool {
    match element {
        Scalar::Int(_) => true,
        Scalar::Float(float) => float.abs() <= LARGEST,
        Scalar::Complex(_) | Scalar::Any => false,
    }
}

/// Whether a small change of an input can be a large one of the output.
fn jumps(primitive: &Primitive) -> bool {
    matches!(
        primitive,
        Primitive::Floor(_)
            | Primitive::Sign(_)
            | Primitive::Less(_)
            | Primitive::GreaterEqual(_)
            | Primitive::Equal(_)
            | Primitive::NotEqual(_)
            | Primitive::ArgReduce(_)
            | Primitive::ArgSort(_)
    ) || matches!(primitive, Primitive::AsType(to) if !to.dtype.is_inexact())
        || matches!(primitive, Primitive::Reduce(r) if matches!(r.op, Reduction::And | Reduction::Or))
}

/// Whether a floating output is rounded.
fn rounds(primitive: &Primitive) -> bool {
    !matches!(
        primitive,
        Primitive::Abs(_)
            | Primitive::Negative(_)
            | Primitive::Floor(_)
            | Primitive::Sign(_)
            | Primitive::Maximum(_)
            | Primitive::Minimum(_)
            | Primitive::Select(_)
            | Primitive::Reshape(_)
            | Primitive::Transpose(_)
            | Primitive::ExpandDims(_)
            | Primitive::Squeeze(_)
            | Primitive::Flatten(_)
            | Primitive::Broadcast(_)
            | Primitive::Slice(_)
            | Primitive::Split(_)
            | Primitive::SliceUpdate(_)
            | Primitive::Concatenate(_)
            | Primitive::Pad(_)
            | Primitive::Sort(_)
            | Primitive::Gather(_)
            | Primitive::GatherAxis(_)
    )
}
