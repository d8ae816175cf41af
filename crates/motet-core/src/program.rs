//! The expression language of elementwise operations.
//!
//! An elementwise primitive is one scalar expression ([`Expr`]). A [`Program`] is such expressions
//! flattened into instructions, each defining one register; a backend runs it for every element.
//! Fusion joins programs ([`ProgramBuilder`]), so a fused group and a single operation are the same
//! thing to a backend.

use std::fmt;

use smallvec::SmallVec;

use crate::dtype::Dtype;

/// Functions of one argument. Float functions are defined on float and complex registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the functions")]
pub enum Unary {
    /// Complex input gives float32.
    Abs,
    Neg,
    /// -1, 0 or 1; 0 for NaN; z/|z| for complex.
    Sign,
    /// Half to even.
    Round,
    Floor,
    Ceil,
    Exp,
    Expm1,
    Log,
    Log2,
    Log10,
    Log1p,
    Sin,
    Cos,
    Tan,
    ArcSin,
    ArcCos,
    ArcTan,
    Sinh,
    Cosh,
    Tanh,
    ArcSinh,
    ArcCosh,
    ArcTanh,
    Erf,
    ErfInv,
    Sqrt,
    /// 1 / sqrt(x).
    Rsqrt,
    /// Stable for large |x|.
    Sigmoid,
    /// `x == 0`, as bool.
    LogicalNot,
    BitwiseNot,
    /// complex64 to float32.
    Real,
    /// complex64 to float32.
    Imag,
    Conjugate,
}

impl Unary {
    /// The dtype of the result for an argument of this one.
    pub const fn result(self, dtype: Dtype) -> Dtype {
        match (self, dtype) {
            (Unary::LogicalNot, _) => Dtype::Bool,
            (Unary::Abs | Unary::Real | Unary::Imag, Dtype::Complex64) => Dtype::Float32,
            (_, dtype) => dtype,
        }
    }
}

/// Functions of two arguments of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the functions")]
pub enum Binary {
    /// Wraps for integers; or for bool.
    Add,
    /// Wraps for integers.
    Sub,
    /// Wraps for integers; and for bool.
    Mul,
    /// Integers truncate toward zero; a zero divisor gives 0.
    Div,
    /// Rounds toward minus infinity; an integer zero divisor gives 0.
    FloorDiv,
    /// Takes the sign of the divisor, as in Python; an integer zero divisor gives 0.
    Rem,
    /// Integers wrap; a negative exponent gives 0.
    Pow,
    /// NaN if either is NaN; complex compares lexicographically.
    Max,
    /// NaN if either is NaN; complex compares lexicographically.
    Min,
    ArcTan2,
    LogAddExp,
    Equal,
    /// Equal, and NaN equals NaN.
    EqualNan,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    LogicalAnd,
    LogicalOr,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    /// Amounts of at least the width give 0.
    LeftShift,
    /// Arithmetic for signed types; amounts of at least the width give the sign.
    RightShift,
}

impl Binary {
    /// The dtype of the result for arguments of this one.
    pub const fn result(self, dtype: Dtype) -> Dtype {
        match self.is_comparison() {
            true => Dtype::Bool,
            false => dtype,
        }
    }

    /// Whether the result is bool whatever the operands' dtype.
    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            Binary::Equal
                | Binary::EqualNan
                | Binary::NotEqual
                | Binary::Less
                | Binary::LessEqual
                | Binary::Greater
                | Binary::GreaterEqual
                | Binary::LogicalAnd
                | Binary::LogicalOr
        )
    }
}

/// A scalar expression over an operation's inputs.
#[derive(Clone, Debug)]
pub enum Expr {
    /// The element of the input with this number.
    Input(usize),
    /// A constant in the dtype of the first input.
    Constant(f64),
    /// A function of one expression.
    Unary(Unary, Box<Expr>),
    /// A function of two expressions.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `condition ? a : b`.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Conversion as by MLX's `astype`.
    Cast(Dtype, Box<Expr>),
}

impl Expr {
    /// The dtype of the result for inputs of this one.
    pub fn dtype(&self, inputs: Dtype) -> Dtype {
        match self {
            Expr::Input(_) | Expr::Constant(_) => inputs,
            Expr::Unary(op, a) => op.result(a.dtype(inputs)),
            Expr::Binary(op, a, _) => op.result(a.dtype(inputs)),
            Expr::Select(_, a, _) => a.dtype(inputs),
            Expr::Cast(dtype, _) => *dtype,
        }
    }
}

/// A value that one instruction of a [`Program`] defines: the instruction's number.
pub type Register = usize;

/// One step of a [`Program`]. Every operand is an earlier register.
#[derive(Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "as in Expr")]
pub enum Instruction {
    /// The element of the program's input with this number.
    Input(usize),
    /// A constant, exact in the register's dtype.
    Constant(f64),
    Unary(Unary, Register),
    Binary(Binary, Register, Register),
    Select(Register, Register, Register),
    /// Conversion to the register's dtype.
    Cast(Register),
}

/// What to compute for each element: straight-line code over typed registers.
///
/// Registers of half types hold float32 inside the program and are rounded where they are stored
/// and by an explicit cast.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The instructions, each with its register's dtype.
    pub code: Vec<(Instruction, Dtype)>,
    /// The dtypes of the inputs.
    pub inputs: Vec<Dtype>,
    /// The registers that are stored, in the order of the kernel's outputs.
    pub outputs: Vec<Register>,
}

impl Program {
    /// The program of one expression over inputs of these dtypes.
    pub fn from_expr(expr: &Expr, inputs: &[Dtype]) -> Program {
        let mut builder = ProgramBuilder {
            // What most have room in: growing costs more than the rest of this.
            code: Vec::with_capacity(8),
            inputs: Vec::with_capacity(inputs.len()),
        };
        let mut registers = SmallVec::<[Register; 3]>::new();
        for &dtype in inputs {
            registers.push(builder.input(dtype));
        }
        let output = builder.expr(expr, &registers);
        builder.finish(vec![output])
    }

    /// The dtype of an output.
    pub fn output_dtype(&self, output: usize) -> Dtype {
        self.code[self.outputs[output]].1
    }
}

impl fmt::Debug for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instruction::Input(i) => write!(f, "input {i}"),
            Instruction::Constant(value) => write!(f, "{value}"),
            Instruction::Unary(op, a) => write!(f, "{op:?} r{a}"),
            Instruction::Binary(op, a, b) => write!(f, "{op:?} r{a} r{b}"),
            Instruction::Select(c, a, b) => write!(f, "Select r{c} r{a} r{b}"),
            Instruction::Cast(a) => write!(f, "Cast r{a}"),
        }
    }
}

impl fmt::Display for Program {
    /// One line: `r2:float32 = Add r0 r1; ... -> r2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (register, (instruction, dtype)) in self.code.iter().enumerate() {
            write!(f, "r{register}:{dtype} = {instruction:?}; ")?;
        }
        write!(f, "->")?;
        self.outputs.iter().try_for_each(|r| write!(f, " r{r}"))
    }
}

/// Builds a [`Program`], giving equal instructions one register.
#[derive(Default)]
pub struct ProgramBuilder {
    code: Vec<(Instruction, Dtype)>,
    inputs: Vec<Dtype>,
}

impl ProgramBuilder {
    /// A new input of this dtype.
    pub fn input(&mut self, dtype: Dtype) -> Register {
        self.inputs.push(dtype);
        self.push(Instruction::Input(self.inputs.len() - 1), dtype)
    }

    /// The code of `expr` with its inputs in these registers.
    pub fn expr(&mut self, expr: &Expr, inputs: &[Register]) -> Register {
        match expr {
            Expr::Input(i) => inputs[*i],
            Expr::Constant(value) => {
                let dtype = inputs.first().map_or(Dtype::Float32, |&r| self.code[r].1);
                self.constant(*value, dtype)
            }
            Expr::Unary(op, a) => {
                let a = self.expr(a, inputs);
                self.push(Instruction::Unary(*op, a), op.result(self.code[a].1))
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.expr(a, inputs), self.expr(b, inputs));
                self.binary(*op, a, b)
            }
            Expr::Select(condition, a, b) => {
                let condition = self.expr(condition, inputs);
                let (a, b) = (self.expr(a, inputs), self.expr(b, inputs));
                let dtype = self.code[a].1;
                self.push(Instruction::Select(condition, a, b), dtype)
            }
            Expr::Cast(dtype, a) => {
                let a = self.expr(a, inputs);
                self.cast(a, *dtype)
            }
        }
    }

    /// A constant of this dtype.
    pub fn constant(&mut self, value: f64, dtype: Dtype) -> Register {
        self.push(Instruction::Constant(value), dtype)
    }

    /// A function of two registers of one dtype.
    pub fn binary(&mut self, op: Binary, a: Register, b: Register) -> Register {
        self.push(Instruction::Binary(op, a, b), op.result(self.code[a].1))
    }

    /// A conversion; none if the register has the dtype already.
    pub fn cast(&mut self, register: Register, dtype: Dtype) -> Register {
        if self.code[register].1 == dtype {
            return register;
        }
        self.push(Instruction::Cast(register), dtype)
    }

    /// The code of a whole program with its inputs in these registers; returns its outputs.
    pub fn program(&mut self, program: &Program, inputs: &[Register]) -> Vec<Register> {
        let mut map = Vec::with_capacity(program.code.len());
        for &(instruction, dtype) in &program.code {
            let register = match instruction {
                Instruction::Input(i) => inputs[i],
                Instruction::Constant(value) => self.constant(value, dtype),
                Instruction::Unary(op, a) => self.push(Instruction::Unary(op, map[a]), dtype),
                Instruction::Binary(op, a, b) => {
                    self.push(Instruction::Binary(op, map[a], map[b]), dtype)
                }
                Instruction::Select(c, a, b) => {
                    self.push(Instruction::Select(map[c], map[a], map[b]), dtype)
                }
                Instruction::Cast(a) => self.push(Instruction::Cast(map[a]), dtype),
            };
            map.push(register);
        }
        program.outputs.iter().map(|&r| map[r]).collect()
    }

    /// The number of instructions so far.
    pub fn len(&self) -> usize {
        self.code.len()
    }

    /// Whether there are no instructions yet.
    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// The program that stores these registers.
    pub fn finish(self, outputs: Vec<Register>) -> Program {
        Program {
            code: self.code,
            inputs: self.inputs,
            outputs,
        }
    }

    fn push(&mut self, instruction: Instruction, dtype: Dtype) -> Register {
        let same = |&(other, other_dtype): &(Instruction, Dtype)| {
            other_dtype == dtype && bits_equal(other, instruction)
        };
        self.code.iter().position(same).unwrap_or_else(|| {
            self.code.push((instruction, dtype));
            self.code.len() - 1
        })
    }
}

/// Equality that tells 0.0 from -0.0 and finds NaN equal to itself.
fn bits_equal(a: Instruction, b: Instruction) -> bool {
    match (a, b) {
        (Instruction::Constant(a), Instruction::Constant(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// Shorthands with which expressions are written down: `x() * x()`, `exp(x())`.
pub mod expr {
    use super::{Binary, Expr, Unary};
    use std::ops::{Add, Div, Mul, Neg, Sub};

    /// The first input.
    pub fn x() -> Expr {
        Expr::Input(0)
    }

    /// The second input.
    pub fn y() -> Expr {
        Expr::Input(1)
    }

    /// The third input.
    pub fn z() -> Expr {
        Expr::Input(2)
    }

    /// A function of one expression.
    pub fn unary(op: Unary, a: Expr) -> Expr {
        Expr::Unary(op, Box::new(a))
    }

    /// A function of two expressions.
    pub fn binary(op: Binary, a: Expr, b: Expr) -> Expr {
        Expr::Binary(op, Box::new(a), Box::new(b))
    }

    /// `condition ? a : b`.
    pub fn select(condition: Expr, a: Expr, b: Expr) -> Expr {
        Expr::Select(Box::new(condition), Box::new(a), Box::new(b))
    }

    macro_rules! operators {
        ($($trait:ident $method:ident $op:ident),*) => {
            $(impl $trait for Expr {
                type Output = Expr;
                fn $method(self, other: Expr) -> Expr {
                    binary(Binary::$op, self, other)
                }
            })*
        };
    }
    operators!(Add add Add, Sub sub Sub, Mul mul Mul, Div div Div);

    impl Neg for Expr {
        type Output = Expr;
        fn neg(self) -> Expr {
            unary(Unary::Neg, self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expr::*;
    use super::*;

    #[test]
    fn equal_instructions_share_a_register() {
        let program = Program::from_expr(&(x() * x() + x() * x()), &[Dtype::Float32]);
        assert_eq!(
            program.to_string(),
            "r0:float32 = input 0; r1:float32 = Mul r0 r0; r2:float32 = Add r1 r1; -> r2"
        );
    }

    #[test]
    fn programs_compose() {
        let square = Program::from_expr(&(x() * x()), &[Dtype::Float32]);
        let mut builder = ProgramBuilder::default();
        let a = builder.input(Dtype::Float32);
        let once = builder.program(&square, &[a])[0];
        let twice = builder.program(&square, &[once])[0];
        let program = builder.finish(vec![twice]);
        assert_eq!(program.code.len(), 3);
        assert_eq!(program.output_dtype(0), Dtype::Float32);
    }

    #[test]
    fn comparisons_are_bool() {
        let less = binary(Binary::Less, x(), y());
        let program = Program::from_expr(&less, &[Dtype::Int32, Dtype::Int32]);
        assert_eq!(program.output_dtype(0), Dtype::Bool);
    }
}
