//! Programs, interpreted one element at a time in float64 or in exact integers.

use motet_core::dtype::Dtype;
use motet_core::program::{Binary, Instruction, Program, Unary};
use num_complex::Complex64;

use crate::value::{Expected, Scalar, Value, round, wrap};

/// The outputs of a program.
pub(super) fn run(program: &Program, inputs: &[Value], elements: usize) -> Vec<Vec<Expected>> {
    let mut outputs = vec![Vec::with_capacity(elements); program.outputs.len()];
    for number in 0..elements {
        let mut registers: Vec<Expected> = Vec::with_capacity(program.code.len());
        for &(instruction, dtype) in &program.code {
            let of = |register: usize| (registers[register].value, program.code[register].1);
            let value = match instruction {
                Instruction::Input(input) => inputs[input].elements[number],
                Instruction::Constant(value) => Scalar::Float(value).to(dtype),
                Instruction::Unary(op, a) => unary(op, of(a)),
                Instruction::Binary(op, a, b) => binary(op, of(a), of(b).0),
                Instruction::Select(condition, a, b) => match of(condition).0.int() {
                    0 => of(b).0,
                    _ => of(a).0,
                },
                Instruction::Cast(a) => of(a).0.to(dtype),
            };
            // An integer has as many bits as its dtype.
            let value = match value {
                Scalar::Int(int) => Scalar::Int(wrap(int, dtype)),
                other => other,
            };
            // A sum is as exact as what was added.
            let scale = match instruction {
                // Near a pole the cosine's error is that of the result.
                Instruction::Unary(Unary::Tan, _) => value.abs() * (1.0 + value.abs()),
                Instruction::Binary(_, a, b) if dtype.is_inexact() => registers[a]
                    .scale
                    .max(registers[b].scale)
                    .min(1e3 * value.abs()),
                _ => value.abs(),
            };
            registers.push(Expected { value, scale });
        }
        for (output, &register) in outputs.iter_mut().zip(&program.outputs) {
            output.push(registers[register]);
        }
    }
    outputs
}

fn truth(holds: bool) -> Scalar {
    Scalar::Int(i128::from(holds))
}

fn unary(op: Unary, (a, dtype): (Scalar, Dtype)) -> Scalar {
    match (op, a) {
        (_, Scalar::Any) => Scalar::Any,
        (Unary::LogicalNot, a) => truth(a.to(Dtype::Bool) == Scalar::Int(0)),
        (_, Scalar::Int(a)) => Scalar::Int(match op {
            Unary::Abs => a.abs(),
            Unary::Neg => -a,
            Unary::Sign => a.signum(),
            Unary::BitwiseNot => !a,
            _ => panic!("{op:?} of {dtype}"),
        }),
        (_, Scalar::Float(a)) => Scalar::Float(real(op, a)),
        (Unary::Abs, Scalar::Complex(a)) => Scalar::Float(a.norm()),
        (Unary::Real, Scalar::Complex(a)) => Scalar::Float(a.re),
        (Unary::Imag, Scalar::Complex(a)) => Scalar::Float(a.im),
        (_, Scalar::Complex(a)) => Scalar::Complex(complex(op, a)),
    }
}

fn real(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Abs => x.abs(),
        Unary::Neg => -x,
        Unary::Sign if x.is_nan() || x == 0.0 => 0.0,
        Unary::Sign => x.signum(),
        Unary::Round => x.round_ties_even(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Log => x.ln(),
        Unary::Log2 => x.log2(),
        Unary::Log10 => x.log10(),
        Unary::Log1p => x.ln_1p(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::ArcSin => x.asin(),
        Unary::ArcCos => x.acos(),
        Unary::ArcTan => x.atan(),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Tanh => x.tanh(),
        Unary::ArcSinh => x.asinh(),
        Unary::ArcCosh => x.acosh(),
        // The library's loses digits near zero.
        Unary::ArcTanh => (x.ln_1p() - (-x).ln_1p()) / 2.0,
        Unary::Erf => erf(x),
        Unary::ErfInv => erf_inverse(x),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::LogicalNot | Unary::BitwiseNot | Unary::Real | Unary::Imag | Unary::Conjugate => {
            panic!("{op:?} of a real number")
        }
    }
}

/// The error function, by a series without cancellation.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// Where the error function is `y`, by bisection.
fn erf_inverse(y: f64) -> f64 {
    if y.is_nan() || y.abs() >= 1.0 {
        let beyond = if y.abs() == 1.0 {
            f64::INFINITY
        } else {
            f64::NAN
        };
        return beyond * y.signum();
    }
    let (mut low, mut high) = (0.0, 6.0);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if erf(middle) < y.abs() {
            low = middle;
        } else {
            high = middle;
        }
    }
    low * y.signum()
}

fn complex(op: Unary, z: Complex64) -> Complex64 {
    match op {
        Unary::Neg => -z,
        Unary::Sign if z == Complex64::ZERO => z,
        Unary::Sign => z / z.norm(),
        Unary::Round => Complex64::new(z.re.round_ties_even(), z.im.round_ties_even()),
        Unary::Exp => z.exp(),
        Unary::Log => z.ln(),
        Unary::Log2 => z.ln() / std::f64::consts::LN_2,
        Unary::Log10 => z.ln() / std::f64::consts::LN_10,
        Unary::Log1p => (z + 1.0).ln(),
        Unary::Sin => z.sin(),
        Unary::Cos => z.cos(),
        Unary::Tan => z.tan(),
        Unary::ArcSin => z.asin(),
        Unary::ArcCos => z.acos(),
        Unary::ArcTan => z.atan(),
        Unary::Sinh => z.sinh(),
        Unary::Cosh => z.cosh(),
        Unary::Tanh => z.tanh(),
        Unary::ArcSinh => z.asinh(),
        Unary::ArcCosh => z.acosh(),
        Unary::ArcTanh => z.atanh(),
        Unary::Sqrt => z.sqrt(),
        Unary::Rsqrt => z.sqrt().inv(),
        Unary::Conjugate => z.conj(),
        _ => panic!("{op:?} of a complex number"),
    }
}

fn binary(op: Binary, (a, dtype): (Scalar, Dtype), b: Scalar) -> Scalar {
    if matches!((a, b), (Scalar::Any, _) | (_, Scalar::Any)) {
        return Scalar::Any;
    }
    if op.is_comparison() {
        return truth(holds(op, a, b));
    }
    match (op, a, b) {
        (Binary::Max, ..) if a.is_nan() || less(b, a) => a,
        (Binary::Min, ..) if a.is_nan() || less(a, b) => a,
        (Binary::Max | Binary::Min, ..) => b,
        (_, Scalar::Int(a), Scalar::Int(b)) => Scalar::Int(integer(op, dtype, a, b)),
        (_, Scalar::Float(a), Scalar::Float(b)) => Scalar::Float(float(op, dtype, a, b)),
        _ => complex_pair(op, a.complex(), b.complex()),
    }
}

/// Ascending order: complex numbers lexicographically.
pub(super) fn less(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => a < b,
        _ => {
            let (a, b) = (a.complex(), b.complex());
            a.re < b.re || (a.re == b.re && a.im < b.im)
        }
    }
}

fn holds(op: Binary, a: Scalar, b: Scalar) -> bool {
    let equal = a == b;
    let (a_holds, b_holds) = (a.to(Dtype::Bool).int() != 0, b.to(Dtype::Bool).int() != 0);
    match op {
        Binary::Equal => equal,
        Binary::EqualNan => equal || (a.is_nan() && b.is_nan()),
        Binary::NotEqual => !equal,
        Binary::Less => less(a, b),
        Binary::LessEqual => equal || less(a, b),
        Binary::Greater => less(b, a),
        Binary::GreaterEqual => equal || less(b, a),
        Binary::LogicalAnd => a_holds && b_holds,
        Binary::LogicalOr => a_holds || b_holds,
        _ => panic!("{op:?} is no comparison"),
    }
}

fn integer(op: Binary, dtype: Dtype, a: i128, b: i128) -> i128 {
    let width = 8 * dtype.size() as i128;
    match op {
        Binary::Add if dtype == Dtype::Bool => a | b,
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a.wrapping_mul(b),
        // What MLX makes of true % false.
        Binary::Rem if dtype == Dtype::Bool && b == 0 => a,
        Binary::Div | Binary::FloorDiv | Binary::Rem if b == 0 => 0,
        Binary::Div => a / b,
        Binary::FloorDiv => (a - a.rem_euclid(b)) / b - i128::from(b < 0 && a.rem_euclid(b) != 0),
        Binary::Rem if a % b != 0 && (a < 0) != (b < 0) => a % b + b,
        Binary::Rem => a % b,
        Binary::Pow if b < 0 => 0,
        Binary::Pow => power(a, b, dtype),
        Binary::BitwiseAnd => a & b,
        Binary::BitwiseOr => a | b,
        Binary::BitwiseXor => a ^ b,
        Binary::LeftShift if !(0..width).contains(&b) => 0,
        Binary::LeftShift => a << b,
        Binary::RightShift if !(0..width).contains(&b) => -i128::from(a < 0),
        Binary::RightShift => a >> b,
        _ => panic!("{op:?} of {dtype}"),
    }
}

fn power(base: i128, exponent: i128, dtype: Dtype) -> i128 {
    let (mut result, mut square) = (1, base);
    for bit in 0..64 {
        if exponent >> bit & 1 == 1 {
            result = wrap(result * square, dtype);
        }
        square = wrap(square.wrapping_mul(square), dtype);
    }
    result
}

fn float(op: Binary, dtype: Dtype, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        // The quotient is a number of the dtype before it is cut.
        Binary::FloorDiv => round(a / b, dtype).floor(),
        Binary::Rem if a % b != 0.0 && (a % b < 0.0) != (b < 0.0) => a % b + b,
        Binary::Rem => a % b,
        Binary::Pow => a.powf(b),
        Binary::ArcTan2 => a.atan2(b),
        Binary::LogAddExp => log_add_exp(a, b),
        _ => panic!("{op:?} of {dtype}"),
    }
}

pub(super) fn log_add_exp(a: f64, b: f64) -> f64 {
    let (high, low) = (a.max(b), a.min(b));
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if high == f64::INFINITY || low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

fn complex_pair(op: Binary, a: Complex64, b: Complex64) -> Scalar {
    Scalar::Complex(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        // MLX has no floor of a complex number.
        Binary::Div | Binary::FloorDiv => a / b,
        // Powers of zero MLX makes from its logarithm.
        Binary::Pow if a == Complex64::ZERO => return Scalar::Any,
        Binary::Pow => a.powc(b),
        Binary::LogAddExp => {
            let swapped = less(Scalar::Complex(a), Scalar::Complex(b));
            let (high, low) = if swapped { (b, a) } else { (a, b) };
            high + ((low - high).exp() + 1.0).ln()
        }
        _ => panic!("{op:?} of complex numbers"),
    })
}
