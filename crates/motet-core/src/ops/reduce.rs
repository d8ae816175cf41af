//! Reductions, scans, and what is computed along the last dimension.

use std::ops::RangeInclusive;

use half::{bf16, f16};

use super::state::operation;
use super::{Lowered, Operation, State, normalize_axes, with_dim};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::{Kernel, Reduction, ScanOp};
use crate::program::ProgramBuilder;
use crate::shape::{Shape, Spec, normalize_axis};

operation! {
    /// Combines all elements along some dimensions, which become one.
    Reduce {
        /// What combines two elements.
        op: Reduction,
        /// The dimensions.
        axes: Vec<i32>,
    }
}

/// Sums and products of small integers are 32-bit; a file may have recorded another integer.
fn accumulated(input: Dtype, recorded: Option<&[Spec]>) -> Dtype {
    match recorded {
        Some([Spec { dtype, .. }]) if !input.is_inexact() && dtype.is_integer() => *dtype,
        _ if input.is_inexact() || input.size() == 8 => input,
        _ if input.is_unsigned() => Dtype::Uint32,
        _ => Dtype::Int32,
    }
}

impl Operation for Reduce {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let input = &inputs[0];
        let axes = normalize_axes(Self::NAME, &self.axes, input.shape.len())?;
        let shape = axes.iter().fold(input.shape.clone(), |shape, &axis| {
            with_dim(&shape, axis, 1)
        });
        let dtype = match self.op {
            Reduction::And | Reduction::Or => Dtype::Bool,
            Reduction::Sum | Reduction::Prod => accumulated(input.dtype, recorded),
            Reduction::Min | Reduction::Max if input.shape.contains(&0) && !shape.contains(&0) => {
                return Err(Self::error(format!(
                    "{input} has no {:?}: it is empty",
                    self.op
                )));
            }
            Reduction::Min | Reduction::Max => input.dtype,
        };
        Ok(vec![Spec { shape, dtype }])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let mut axes = normalize_axes(Self::NAME, &self.axes, inputs[0].shape.len())?;
        axes.sort_unstable();
        Ok(Lowered::Kernel(Kernel::Reduce { op: self.op, axes }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        use Reduction::*;
        let mut samples = Vec::new();
        for op in [And, Or, Sum, Prod, Min, Max] {
            let mut sample = |axes: &[i32], shape: &[usize], dtype| {
                samples.push((
                    Reduce {
                        op,
                        axes: axes.to_vec(),
                    },
                    vec![Spec::new(shape, dtype)],
                ));
            };
            for dtype in Dtype::ALL {
                sample(&[1], &[3, 4], dtype);
            }
            sample(&[2, 0], &[3, 2, 5], Dtype::Float32);
            sample(&[0, 1], &[7, 33], Dtype::Float32);
            sample(&[0], &[1, 6], Dtype::Float32);
        }
        samples
    }
}

operation! {
    /// Index of the smallest or largest element along a dimension, the first one on ties.
    ArgReduce {
        /// Which one.
        op: ArgReduction,
        /// The dimension, which becomes one.
        axis: i32,
    }
}

/// What an [`ArgReduce`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ArgReduction {
    Min,
    Max,
}

super::state::codes! { ArgReduction: Min Max; }

impl Operation for ArgReduce {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let shape = &inputs[0].shape;
        let axis = normalize_axis(Self::NAME, self.axis.into(), shape.len())?;
        let output = with_dim(shape, axis, 1);
        if shape[axis] == 0 && !output.contains(&0) {
            return Err(Self::error(format!("axis {axis} of {shape} is empty")));
        }
        Ok(vec![Spec::new(output, Dtype::Uint32)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let axis = normalize_axis(Self::NAME, self.axis.into(), inputs[0].shape.len())?;
        let max = self.op == ArgReduction::Max;
        Ok(Lowered::Kernel(Kernel::ArgReduce { max, axis }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for op in [ArgReduction::Min, ArgReduction::Max] {
            for dtype in Dtype::ALL {
                samples.push((ArgReduce { op, axis: -1 }, vec![Spec::new([3, 5], dtype)]));
            }
            for shape in [[4, 2], [1, 3]] {
                let inputs = vec![Spec::new(shape, Dtype::Float32)];
                samples.push((ArgReduce { op, axis: 0 }, inputs));
            }
        }
        samples
    }
}

operation! {
    /// Running combination along a dimension.
    Scan {
        /// What combines two elements.
        op: ScanOp,
        /// The dimension.
        axis: i32,
        /// From the end.
        reverse: bool,
        /// Whether element `i` of the output covers element `i` of the input.
        inclusive: bool,
    }
}

impl Operation for Scan {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = &inputs[0];
        normalize_axis(Self::NAME, self.axis.into(), shape.len())?;
        let dtype = match self.op {
            ScanOp::LogAddExp if !dtype.is_inexact() => {
                return Err(Self::error(format!(
                    "LogAddExp is not possible for {dtype}"
                )));
            }
            ScanOp::Sum if *dtype == Dtype::Bool => accumulated(*dtype, recorded),
            _ => *dtype,
        };
        Ok(vec![Spec::new(shape.clone(), dtype)])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Scan {
            op: self.op,
            axis: normalize_axis(Self::NAME, self.axis.into(), inputs[0].shape.len())?,
            reverse: self.reverse,
            inclusive: self.inclusive,
        }))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        use ScanOp::*;
        let mut samples = Vec::new();
        for op in [Max, Min, Sum, Prod, LogAddExp] {
            let legal = |dtype: &Dtype| op != LogAddExp || dtype.is_float();
            for dtype in Dtype::ALL.into_iter().filter(legal) {
                for (reverse, inclusive) in
                    [(false, true), (false, false), (true, true), (true, false)]
                {
                    let scan = Scan {
                        op,
                        axis: 0,
                        reverse,
                        inclusive,
                    };
                    samples.push((scan, vec![Spec::new([4, 3], dtype)]));
                }
            }
        }
        samples
    }
}

/// Refuses what has no last dimension or not a real floating dtype.
fn floats_in_last_dimension<T: State>(input: &Spec) -> Result<()> {
    match input.dtype.is_float() && !input.shape.is_empty() {
        true => Ok(()),
        false => Err(T::error(format!(
            "got {input}, expected a real floating dtype and at least one dimension"
        ))),
    }
}

operation! {
    /// `exp(x) / sum(exp(x))` over the last dimension.
    Softmax {
        /// Whether MLX computes half types in float32 inside, as is always done here.
        precise: bool,
    }
}

impl Operation for Softmax {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        floats_in_last_dimension::<Self>(&inputs[0])?;
        Ok(inputs.to_vec())
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::Softmax))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for precise in [false, true] {
                samples.push((Softmax { precise }, vec![Spec::new([3, 17], dtype)]));
            }
        }
        samples
    }
}

operation! {
    /// `log(sum(exp(x)))` over the last dimension, which becomes one.
    LogSumExp;
}

impl Operation for LogSumExp {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let input = &inputs[0];
        floats_in_last_dimension::<Self>(input)?;
        let shape = with_dim(&input.shape, input.shape.len() - 1, 1);
        Ok(vec![Spec::new(shape, input.dtype)])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        Ok(Lowered::Kernel(Kernel::LogSumExp))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let floats = Dtype::ALL.into_iter().filter(|dtype| dtype.is_float());
        floats
            .map(|dtype| (LogSumExp, vec![Spec::new([3, 17], dtype)]))
            .collect()
    }
}

operation! {
    /// The number of elements along some dimensions of the input, as a scalar.
    NumberOfElements {
        /// The dimensions.
        axes: Vec<i32>,
        /// One over it.
        inverted: bool,
        /// The dtype of the output.
        dtype: Dtype,
    }
}

impl Operation for NumberOfElements {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        normalize_axes(Self::NAME, &self.axes, inputs[0].shape.len())?;
        Ok(vec![Spec::new(Shape::default(), self.dtype)])
    }

    /// A program without inputs: the shape is all that is looked at.
    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let shape = &inputs[0].shape;
        let axes = normalize_axes(Self::NAME, &self.axes, shape.len())?;
        let count: usize = axes.iter().map(|&axis| shape[axis]).product();
        let value = match self.inverted {
            true => 1.0 / count as f64,
            false => count as f64,
        };
        let mut builder = ProgramBuilder::default();
        let constant = builder.constant(converted(value, self.dtype), self.dtype);
        Ok(Lowered::Kernel(Kernel::Elementwise(
            builder.finish(vec![constant]),
        )))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for dtype in Dtype::ALL {
            for inverted in [false, true] {
                let op = NumberOfElements {
                    axes: vec![0, -1],
                    inverted,
                    dtype,
                };
                samples.push((op, vec![Spec::new([3, 4, 5], Dtype::Float32)]));
            }
        }
        samples
    }
}

/// `value`, which is not negative, as an element of `dtype` holds it: rounded, cut off or wrapped.
fn converted(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bool => f64::from(value != 0.0),
        Dtype::Float16 => f16::from_f64(value).to_f64(),
        Dtype::Bfloat16 => bf16::from_f64(value).to_f64(),
        Dtype::Float32 | Dtype::Complex64 => f64::from(value as f32),
        Dtype::Float64 => value,
        Dtype::Uint8 => f64::from(value as u64 as u8),
        Dtype::Uint16 => f64::from(value as u64 as u16),
        Dtype::Uint32 => f64::from(value as u64 as u32),
        Dtype::Int8 => f64::from(value as u64 as i8),
        Dtype::Int16 => f64::from(value as u64 as i16),
        Dtype::Int32 => f64::from(value as u64 as i32),
        Dtype::Uint64 | Dtype::Int64 => value.trunc(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Instruction;

    fn reduce(op: Reduction, axes: &[i32], input: &Spec, recorded: Option<Dtype>) -> Option<Spec> {
        let op = Reduce {
            op,
            axes: axes.to_vec(),
        };
        let recorded = recorded.map(|dtype| [Spec::new([], dtype)]);
        let outputs = op.infer(
            std::slice::from_ref(input),
            recorded.as_ref().map(|r| &r[..]),
        );
        outputs.ok().map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn sums_of_small_integers_are_32_bit() {
        use Dtype::*;
        use Reduction::*;
        for (op, input, output) in [
            (Sum, Bool, Int32),
            (Sum, Int16, Int32),
            (Prod, Uint8, Uint32),
            (Sum, Int64, Int64),
            (Sum, Uint64, Uint64),
            (Sum, Float16, Float16),
            (Max, Int8, Int8),
            (And, Float32, Bool),
        ] {
            let spec = Spec::new([2], input);
            let reduced = reduce(op, &[0], &spec, None).unwrap();
            assert_eq!(reduced, Spec::new([1], output), "{op:?} {input}");
        }
        let bytes = Spec::new([2], Int8);
        assert_eq!(reduce(Sum, &[0], &bytes, Some(Int64)).unwrap().dtype, Int64);
        assert_eq!(
            reduce(Sum, &[0], &bytes, Some(Float32)).unwrap().dtype,
            Int32
        );
    }

    #[test]
    fn axes_are_checked_and_sorted() {
        let cube = Spec::new([2, 3, 4], Dtype::Float32);
        let shape =
            |axes| reduce(Reduction::Sum, axes, &cube, None).map(|spec| spec.shape.to_vec());
        assert_eq!(shape(&[-1, 0]), Some(vec![1, 3, 1]));
        assert_eq!(shape(&[3]), None);
        assert_eq!(shape(&[2, -1]), None);
        let op = Reduce {
            op: Reduction::Sum,
            axes: vec![-1, 0],
        };
        let Lowered::Kernel(Kernel::Reduce { axes, .. }) = op.lower(&[cube], &[]).unwrap() else {
            panic!("not a reduction");
        };
        assert_eq!(axes[..], [0, 2]);
    }

    #[test]
    fn nothing_has_no_maximum_but_a_sum() {
        let empty = Spec::new([0, 2], Dtype::Float32);
        assert!(reduce(Reduction::Sum, &[0], &empty, None).is_some());
        assert!(reduce(Reduction::Max, &[0], &empty, None).is_none());
        assert!(reduce(Reduction::Max, &[1], &empty, None).is_some());
        let argmax = |axis| {
            ArgReduce {
                op: ArgReduction::Max,
                axis,
            }
            .infer(std::slice::from_ref(&empty), None)
        };
        assert!(argmax(0).is_err());
        assert!(argmax(1).is_ok());
    }

    #[test]
    fn scans_keep_the_dtype_except_sums_of_bools() {
        let scan = |op, dtype| {
            let scan = Scan {
                op,
                axis: -1,
                reverse: false,
                inclusive: true,
            };
            scan.infer(&[Spec::new([2], dtype)], None)
                .ok()
                .map(|outputs| outputs[0].dtype)
        };
        assert_eq!(scan(ScanOp::Sum, Dtype::Bool), Some(Dtype::Int32));
        assert_eq!(scan(ScanOp::Prod, Dtype::Bool), Some(Dtype::Bool));
        assert_eq!(scan(ScanOp::Sum, Dtype::Int8), Some(Dtype::Int8));
        assert_eq!(scan(ScanOp::LogAddExp, Dtype::Int8), None);
    }

    #[test]
    fn softmax_needs_a_last_dimension_of_floats() {
        let softmax = |spec| Softmax { precise: true }.infer(&[spec], None).is_ok();
        assert!(softmax(Spec::new([2], Dtype::Float16)));
        assert!(!softmax(Spec::new([], Dtype::Float16)));
        assert!(!softmax(Spec::new([2], Dtype::Int32)));
    }

    #[test]
    fn counts_are_constants_of_the_dtype() {
        let count = |inverted, dtype| {
            let op = NumberOfElements {
                axes: vec![0, 1],
                inverted,
                dtype,
            };
            match op
                .lower(&[Spec::new([20, 15, 7], Dtype::Float32)], &[])
                .unwrap()
            {
                Lowered::Kernel(Kernel::Elementwise(program)) => program.code[0],
                other => panic!("{other:?}"),
            }
        };
        let constant = |value, dtype| (Instruction::Constant(value), dtype);
        assert!(count(false, Dtype::Float32) == constant(300.0, Dtype::Float32));
        assert!(count(true, Dtype::Float32) == constant(f64::from(1f32 / 300.0), Dtype::Float32));
        assert!(count(false, Dtype::Uint8) == constant(44.0, Dtype::Uint8));
        assert!(count(true, Dtype::Int32) == constant(0.0, Dtype::Int32));
    }
}
