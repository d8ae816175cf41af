//! Primitives that compute each element from the elements at its place: one [`Expr`] each.
//!
//! The expression is all there is to them: the output's dtype follows from it, as do the kernels,
//! fusion and the reference in tests. In graphs broadcasts and conversions are nodes of their own,
//! so inputs have one shape and, where not said otherwise, one dtype.

use std::ops::RangeInclusive;

use super::state::{codes, operation};
use super::{Lowered, Operation, State, View, same_dtype};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::program::expr::{binary, select, unary, x, y, z};
use crate::program::{Binary, Expr, Program, ProgramBuilder, Unary};
use crate::shape::Spec;

/// A primitive that is one expression over inputs of one dtype.
trait Elementwise: State + Clone + std::fmt::Debug {
    /// The number of inputs, at most three.
    const INPUTS: usize;

    /// Whether it is defined for inputs of this dtype.
    fn legal(&self, dtype: Dtype) -> bool;

    /// What it computes from inputs of this dtype.
    fn expr(&self, dtype: Dtype) -> Expr;

    /// The primitive with each choice of parameters.
    fn variants() -> Vec<Self>;
}

impl<T: Elementwise> Operation for T {
    fn arity(&self) -> RangeInclusive<usize> {
        T::INPUTS..=T::INPUTS
    }

    fn infer(&self, inputs: &[Spec], recorded: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(T::NAME, inputs)?;
        same_shape::<T>(inputs)?;
        let input = &inputs[0];
        if !self.legal(input.dtype) {
            return Err(T::error(format!("{} is not possible for it", input.dtype)));
        }
        let mut dtype = self.expr(input.dtype).dtype(input.dtype);
        // MLX's Abs of complex numbers is complex, followed by a conversion, or real.
        if T::NAME == Abs::NAME
            && input.dtype == Dtype::Complex64
            && matches!(recorded, Some([recorded]) if recorded.dtype == Dtype::Complex64)
        {
            dtype = Dtype::Complex64;
        }
        Ok(vec![Spec::new(input.shape.clone(), dtype)])
    }

    fn lower(&self, inputs: &[Spec], outputs: &[Spec]) -> Result<Lowered> {
        let dtype = inputs[0].dtype;
        let expr = Expr::Cast(outputs[0].dtype, Box::new(self.expr(dtype)));
        let program = Program::from_expr(&expr, &[dtype; 3][..T::INPUTS]);
        Ok(match program.outputs[..] {
            // Register 0 is input 0.
            [0] => Lowered::view(View::Identity),
            _ => Lowered::Kernel(Kernel::Elementwise(program)),
        })
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let mut samples = Vec::new();
        for op in T::variants() {
            for dtype in Dtype::ALL.into_iter().filter(|&dtype| op.legal(dtype)) {
                samples.push((op.clone(), vec![Spec::new([2, 3], dtype); T::INPUTS]));
            }
            let dtype = Dtype::ALL.into_iter().rev().find(|&dtype| op.legal(dtype));
            for shape in [vec![], vec![0, 2], vec![5, 1, 67]] {
                samples.extend(
                    dtype.map(|dtype| (op.clone(), vec![Spec::new(shape, dtype); T::INPUTS])),
                );
            }
        }
        samples
    }
}

fn same_shape<T: State>(inputs: &[Spec]) -> Result<()> {
    match inputs.iter().all(|input| input.shape == inputs[0].shape) {
        true => Ok(()),
        false => Err(T::error(format!(
            "inputs have to have one shape: got {inputs:?}; broadcast them first"
        ))),
    }
}

// The sets of dtypes that primitives are defined for.
fn any(_: Dtype) -> bool {
    true
}
fn number(dtype: Dtype) -> bool {
    dtype != Dtype::Bool
}
fn real(dtype: Dtype) -> bool {
    dtype != Dtype::Complex64
}
fn inexact(dtype: Dtype) -> bool {
    dtype.is_inexact()
}
fn float(dtype: Dtype) -> bool {
    dtype.is_float()
}
fn complex(dtype: Dtype) -> bool {
    !real(dtype)
}
fn boolean(dtype: Dtype) -> bool {
    !number(dtype)
}

/// `op` of `x`, unless all values of the dtype are whole.
fn rounding(op: Unary, dtype: Dtype) -> Expr {
    match dtype.is_inexact() {
        true => unary(op, x()),
        false => x(),
    }
}

/// Primitives without parameters: `Name(dtypes) inputs = expression;`, where the expression may
/// depend on the dtype.
macro_rules! elementwise {
    ($($(#[$meta:meta])* $name:ident($legal:ident $inputs:literal $($dtype:ident)?) = $expr:expr;)*) => {$(
        operation! {
            $(#[$meta])*
            $name;
        }

        impl Elementwise for $name {
            const INPUTS: usize = $inputs;
            fn legal(&self, dtype: Dtype) -> bool {
                $legal(dtype)
            }
            fn expr(&self, _dtype: Dtype) -> Expr {
                $(let $dtype = _dtype;)?
                $expr
            }
            fn variants() -> Vec<Self> {
                vec![$name]
            }
        }
    )*};
}

elementwise! {
    /// Absolute value; the least integer stays itself.
    Abs(any 1 dtype) = match dtype.is_unsigned() || dtype == Dtype::Bool {
        true => x(),
        false => unary(Unary::Abs, x()),
    };
    /// Sum; wraps, and is `or` for bool.
    Add(any 2) = x() + y();
    /// Inverse cosine.
    ArcCos(inexact 1) = unary(Unary::ArcCos, x());
    /// Inverse hyperbolic cosine.
    ArcCosh(inexact 1) = unary(Unary::ArcCosh, x());
    /// Inverse sine.
    ArcSin(inexact 1) = unary(Unary::ArcSin, x());
    /// Inverse hyperbolic sine.
    ArcSinh(inexact 1) = unary(Unary::ArcSinh, x());
    /// Inverse tangent.
    ArcTan(inexact 1) = unary(Unary::ArcTan, x());
    /// Angle of the point (second input, first input).
    ArcTan2(float 2) = binary(Binary::ArcTan2, x(), y());
    /// Inverse hyperbolic tangent.
    ArcTanh(inexact 1) = unary(Unary::ArcTanh, x());
    /// Least whole number that is not less.
    Ceil(real 1 dtype) = rounding(Unary::Ceil, dtype);
    /// Complex conjugate.
    Conjugate(complex 1) = unary(Unary::Conjugate, x());
    /// Cosine.
    Cos(inexact 1) = unary(Unary::Cos, x());
    /// Hyperbolic cosine.
    Cosh(inexact 1) = unary(Unary::Cosh, x());
    /// Quotient; for integers, in files before 0.32.4, truncated toward zero.
    Divide(number 2) = x() / y();
    /// Error function.
    Erf(float 1) = unary(Unary::Erf, x());
    /// Inverse of the error function.
    ErfInv(float 1) = unary(Unary::ErfInv, x());
    /// Exponential.
    Exp(inexact 1) = unary(Unary::Exp, x());
    /// `exp(x) - 1`, exact near zero.
    Expm1(float 1) = unary(Unary::Expm1, x());
    /// Greatest whole number that is not greater.
    Floor(real 1 dtype) = rounding(Unary::Floor, dtype);
    /// Quotient rounded toward minus infinity; of complex numbers it is not rounded.
    FloorDivide(any 2) = binary(Binary::FloorDiv, x(), y());
    /// Whether greater.
    Greater(any 2) = binary(Binary::Greater, x(), y());
    /// Whether greater or equal.
    GreaterEqual(any 2) = binary(Binary::GreaterEqual, x(), y());
    /// Imaginary part.
    Imag(complex 1) = unary(Unary::Imag, x());
    /// Whether less.
    Less(any 2) = binary(Binary::Less, x(), y());
    /// Whether less or equal.
    LessEqual(any 2) = binary(Binary::LessEqual, x(), y());
    /// `log(1 + x)`, exact near zero.
    Log1p(inexact 1) = unary(Unary::Log1p, x());
    /// `log(exp(x) + exp(y))`.
    LogAddExp(inexact 2) = binary(Binary::LogAddExp, x(), y());
    /// Whether both are true.
    LogicalAnd(boolean 2) = binary(Binary::LogicalAnd, x(), y());
    /// Whether zero.
    LogicalNot(any 1) = unary(Unary::LogicalNot, x());
    /// Whether one is true.
    LogicalOr(boolean 2) = binary(Binary::LogicalOr, x(), y());
    /// The greater one; NaN if either is.
    Maximum(any 2) = binary(Binary::Max, x(), y());
    /// The lesser one; NaN if either is.
    Minimum(any 2) = binary(Binary::Min, x(), y());
    /// Product; wraps, and is `and` for bool.
    Multiply(any 2) = x() * y();
    /// Negative; wraps.
    Negative(number 1) = -x();
    /// Whether unequal; NaN is unequal to itself.
    NotEqual(any 2) = binary(Binary::NotEqual, x(), y());
    /// Power; integers wrap, and give 0 for negative exponents.
    Power(any 2) = binary(Binary::Pow, x(), y());
    /// Real part.
    Real(complex 1) = unary(Unary::Real, x());
    /// Remainder with the sign of the divisor.
    Remainder(real 2) = binary(Binary::Rem, x(), y());
    /// Nearest whole number, the even one of two.
    Round(any 1 dtype) = rounding(Unary::Round, dtype);
    /// `1 / (1 + exp(-x))`.
    Sigmoid(float 1) = unary(Unary::Sigmoid, x());
    /// -1, 0 or 1; `z / |z|` for complex.
    Sign(any 1 dtype) = match dtype {
        Dtype::Bool => x(),
        _ => unary(Unary::Sign, x()),
    };
    /// Sine.
    Sin(inexact 1) = unary(Unary::Sin, x());
    /// Hyperbolic sine.
    Sinh(inexact 1) = unary(Unary::Sinh, x());
    /// `x * x`.
    Square(any 1) = x() * x();
    /// Difference; wraps, and is `xor` for bool.
    Subtract(any 2) = x() - y();
    /// Tangent.
    Tan(inexact 1) = unary(Unary::Tan, x());
    /// Hyperbolic tangent.
    Tanh(inexact 1) = unary(Unary::Tanh, x());
}

operation! {
    /// Conversion to another dtype.
    AsType {
        /// The dtype of the output.
        dtype: Dtype,
    }
}

impl Elementwise for AsType {
    const INPUTS: usize = 1;
    fn legal(&self, _: Dtype) -> bool {
        true
    }
    fn expr(&self, _: Dtype) -> Expr {
        Expr::Cast(self.dtype, Box::new(x()))
    }
    fn variants() -> Vec<Self> {
        Dtype::ALL.map(|dtype| AsType { dtype }).to_vec()
    }
}

/// What [`BitwiseBinary`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum BitwiseOp {
    And,
    Or,
    Xor,
    LeftShift,
    /// Arithmetic for signed integers.
    RightShift,
}

codes! { BitwiseOp: And Or Xor LeftShift RightShift; }

operation! {
    /// Operation on the bits of integers or bools; bools cannot be shifted.
    BitwiseBinary {
        /// Which operation.
        op: BitwiseOp,
    }
}

impl Elementwise for BitwiseBinary {
    const INPUTS: usize = 2;
    fn legal(&self, dtype: Dtype) -> bool {
        let shift = matches!(self.op, BitwiseOp::LeftShift | BitwiseOp::RightShift);
        dtype.is_integer() || (dtype == Dtype::Bool && !shift)
    }
    fn expr(&self, _: Dtype) -> Expr {
        let op = match self.op {
            BitwiseOp::And => Binary::BitwiseAnd,
            BitwiseOp::Or => Binary::BitwiseOr,
            BitwiseOp::Xor => Binary::BitwiseXor,
            BitwiseOp::LeftShift => Binary::LeftShift,
            BitwiseOp::RightShift => Binary::RightShift,
        };
        binary(op, x(), y())
    }
    fn variants() -> Vec<Self> {
        use BitwiseOp::*;
        [And, Or, Xor, LeftShift, RightShift]
            .map(|op| BitwiseBinary { op })
            .to_vec()
    }
}

operation! {
    /// Whether equal.
    Equal {
        /// Whether NaN equals NaN.
        equal_nan: bool,
    }
}

impl Elementwise for Equal {
    const INPUTS: usize = 2;
    fn legal(&self, _: Dtype) -> bool {
        true
    }
    fn expr(&self, dtype: Dtype) -> Expr {
        let op = match self.equal_nan && dtype.is_inexact() {
            true => Binary::EqualNan,
            false => Binary::Equal,
        };
        binary(op, x(), y())
    }
    fn variants() -> Vec<Self> {
        [false, true].map(|equal_nan| Equal { equal_nan }).to_vec()
    }
}

/// The base of a [`Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogBase {
    Two,
    Ten,
    E,
}

codes! { LogBase: Two Ten E; }

operation! {
    /// Logarithm.
    Log {
        /// Its base.
        base: LogBase,
    }
}

impl Elementwise for Log {
    const INPUTS: usize = 1;
    fn legal(&self, dtype: Dtype) -> bool {
        dtype.is_inexact()
    }
    fn expr(&self, _: Dtype) -> Expr {
        let op = match self.base {
            LogBase::Two => Unary::Log2,
            LogBase::Ten => Unary::Log10,
            LogBase::E => Unary::Log,
        };
        unary(op, x())
    }
    fn variants() -> Vec<Self> {
        [LogBase::Two, LogBase::Ten, LogBase::E]
            .map(|base| Log { base })
            .to_vec()
    }
}

operation! {
    /// Square root.
    Sqrt {
        /// One over it.
        reciprocal: bool,
    }
}

impl Elementwise for Sqrt {
    const INPUTS: usize = 1;
    fn legal(&self, dtype: Dtype) -> bool {
        dtype.is_inexact()
    }
    fn expr(&self, _: Dtype) -> Expr {
        let op = match self.reciprocal {
            true => Unary::Rsqrt,
            false => Unary::Sqrt,
        };
        unary(op, x())
    }
    fn variants() -> Vec<Self> {
        [false, true].map(|reciprocal| Sqrt { reciprocal }).to_vec()
    }
}

operation! {
    /// Quotient rounded toward minus infinity, and remainder.
    DivMod;
}

impl Operation for DivMod {
    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let remainder = Remainder.infer(inputs, None)?;
        Ok(vec![remainder[0].clone(); 2])
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let dtype = inputs[0].dtype;
        let mut builder = ProgramBuilder::default();
        let operands = [builder.input(dtype), builder.input(dtype)];
        let quotient = builder.expr(&FloorDivide.expr(dtype), &operands);
        let remainder = builder.expr(&Remainder.expr(dtype), &operands);
        let program = builder.finish(vec![quotient, remainder]);
        Ok(Lowered::Kernel(Kernel::Elementwise(program)))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let samples = Remainder::samples().into_iter();
        samples.map(|(_, inputs)| (DivMod, inputs)).collect()
    }
}

operation! {
    /// The second input where the first, of dtype bool, is true, else the third.
    Select;
}

impl Operation for Select {
    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        same_dtype(Self::NAME, &inputs[1..])?;
        same_shape::<Self>(inputs)?;
        match inputs[0].dtype {
            Dtype::Bool => Ok(vec![inputs[1].clone()]),
            other => Err(Self::error(format!(
                "got a condition of {other}, expected bool"
            ))),
        }
    }

    fn lower(&self, inputs: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let dtypes: Vec<Dtype> = inputs.iter().map(|input| input.dtype).collect();
        let program = Program::from_expr(&select(x(), y(), z()), &dtypes);
        Ok(Lowered::Kernel(Kernel::Elementwise(program)))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let sample = |dtype| {
            let value = Spec::new([3, 4], dtype);
            (
                Select,
                vec![Spec::new([3, 4], Dtype::Bool), value.clone(), value],
            )
        };
        Dtype::ALL.map(sample).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: Dtype) -> Spec {
        Spec::new([2], dtype)
    }

    fn dtype_of(op: impl Operation, inputs: &[Spec]) -> Option<Dtype> {
        op.infer(inputs, None).ok().map(|outputs| outputs[0].dtype)
    }

    #[test]
    fn dtypes_follow_from_the_expressions() {
        use Dtype::*;
        let two = |dtype| [spec(dtype), spec(dtype)];
        assert_eq!(dtype_of(Less, &two(Int8)), Some(Bool));
        assert_eq!(dtype_of(Add, &two(Int8)), Some(Int8));
        assert_eq!(dtype_of(Abs, &[spec(Complex64)]), Some(Float32));
        assert_eq!(dtype_of(Real, &[spec(Complex64)]), Some(Float32));
        assert_eq!(dtype_of(LogicalNot, &[spec(Float16)]), Some(Bool));
        assert_eq!(
            dtype_of(AsType { dtype: Int64 }, &[spec(Bool)]),
            Some(Int64)
        );
        assert_eq!(dtype_of(Exp, &[spec(Int32)]), None);
        assert_eq!(dtype_of(Negative, &[spec(Bool)]), None);
        assert_eq!(dtype_of(Add, &[spec(Int8), spec(Int16)]), None);
        assert_eq!(
            dtype_of(Select, &[spec(Int8), spec(Int8), spec(Int8)]),
            None
        );
        let shift = BitwiseBinary {
            op: BitwiseOp::LeftShift,
        };
        assert_eq!(dtype_of(shift, &two(Bool)), None);
    }

    #[test]
    fn recorded_dtype_decides_for_abs_of_complex() {
        let input = [spec(Dtype::Complex64)];
        let outputs = Abs.infer(&input, Some(&input)).unwrap();
        assert_eq!(outputs, input);
        let Lowered::Kernel(Kernel::Elementwise(program)) = Abs.lower(&input, &outputs).unwrap()
        else {
            panic!("not elementwise");
        };
        assert_eq!(program.output_dtype(0), Dtype::Complex64);
    }

    #[test]
    fn shapes_have_to_agree() {
        let inputs = [Spec::new([2], Dtype::Int8), Spec::new([1], Dtype::Int8)];
        let message = Add.infer(&inputs, None).unwrap_err().to_string();
        assert!(message.contains("[int8(2), int8(1)]"), "{message}");
    }

    #[test]
    fn what_changes_nothing_is_a_view() {
        let input = [spec(Dtype::Int32)];
        let identity = Lowered::view(View::Identity);
        assert_eq!(Floor.lower(&input, &input).unwrap(), identity);
        let same = AsType {
            dtype: Dtype::Int32,
        };
        assert_eq!(same.lower(&input, &input).unwrap(), identity);
        assert_ne!(Abs.lower(&input, &input).unwrap(), identity);
    }

    #[test]
    fn divmod_computes_both_from_the_same_inputs() {
        let inputs = [spec(Dtype::Int32), spec(Dtype::Int32)];
        let outputs = DivMod.infer(&inputs, None).unwrap();
        let Lowered::Kernel(Kernel::Elementwise(program)) =
            DivMod.lower(&inputs, &outputs).unwrap()
        else {
            panic!("not elementwise");
        };
        assert_eq!((program.inputs.len(), program.outputs.len()), (2, 2));
    }
}
