//! Programs against references in float64 and in plain Rust, in all layouts, fast and portable.

use half::{bf16, f16};
use motet_core::dtype::{Dtype, Element};
use motet_core::program::expr::{binary, select, unary, x, y, z};
use motet_core::program::{Binary, Expr, Instruction, Program, ProgramBuilder, Unary};
use motet_core::shape::{Layout, Spec};
use motet_core::tensor::Tensor;
use num_complex::Complex32;

use super::plan::plan;
use super::{Elementwise, Memory, Part, Prepared, Sums};
use crate::scratch::with_scratch;
use crate::simd::Simd;
use crate::testing::{launch, noise, tensor, values};

/// Runs a program with the best instructions; the portable ones must agree nearly.
fn run(program: &Program, inputs: &[&Tensor], shape: &[usize]) -> Vec<Tensor> {
    let outputs: Vec<Spec> = (0..program.outputs.len())
        .map(|output| Spec::new(shape, program.output_dtype(output)))
        .collect();
    let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout.clone()).collect();
    let results: Vec<Layout> = outputs.iter().map(Spec::layout).collect();
    let run = |simd| {
        let prepared = plan(program, &layouts, &results, simd).unwrap();
        let step = Elementwise::new(prepared, &layouts, &results);
        launch(&step, inputs, &outputs).unwrap()
    };
    let (fast, portable) = (run(Simd::detect()), run(Simd::Portable));
    for (fast, portable) in fast.iter().zip(&portable) {
        if fast.layout.dtype == Dtype::Float32 {
            for (a, b) in values::<f32>(fast).into_iter().zip(values::<f32>(portable)) {
                let close = (a - b).abs() <= 1e-6 * a.abs().max(1e-30);
                assert!(
                    a == b || close || (a.is_nan() && b.is_nan()),
                    "{program}: {a} {b}"
                );
            }
        }
    }
    fast
}

fn apply<T: Element, R: Element>(expr: &Expr, inputs: &[&[T]]) -> Vec<R> {
    let shape = [inputs[0].len()];
    let program = Program::from_expr(expr, &vec![T::DTYPE; inputs.len()]);
    let tensors: Vec<Tensor> = inputs.iter().map(|values| tensor(&shape, values)).collect();
    values(&run(&program, &tensors.iter().collect::<Vec<_>>(), &shape)[0])
}

fn one<T: Element, R: Element>(op: Unary, a: &[T]) -> Vec<R> {
    apply(&unary(op, x()), &[a])
}

fn two<T: Element, R: Element>(op: Binary, a: &[T], b: &[T]) -> Vec<R> {
    apply(&binary(op, x(), y()), &[a, b])
}

/// Equal, with NaN equal to NaN and zeros told apart.
fn assert_same(got: &[f32], want: &[f32]) {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(same),
        "{got:?} {want:?}"
    );
}

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

#[test]
fn float_functions_agree_with_the_standard_library() {
    let data: Vec<f32> = noise(2500, 1).iter().map(|x| x * 0.99).collect();
    type Case = (Unary, fn(f64) -> f64, f64);
    let cases: [Case; 24] = [
        (Unary::Abs, f64::abs, 0.0),
        (Unary::Exp, f64::exp, 2e-7),
        (Unary::Expm1, f64::exp_m1, 3e-7),
        (Unary::Log1p, f64::ln_1p, 3e-7),
        (Unary::Sin, f64::sin, 3e-7),
        (Unary::Cos, f64::cos, 3e-7),
        (Unary::Tan, f64::tan, 3e-7),
        (Unary::ArcSin, f64::asin, 3e-7),
        (Unary::ArcCos, f64::acos, 3e-7),
        (Unary::ArcTan, f64::atan, 3e-7),
        (Unary::Sinh, f64::sinh, 3e-7),
        (Unary::Cosh, f64::cosh, 3e-7),
        (Unary::Tanh, f64::tanh, 3e-7),
        (Unary::ArcSinh, f64::asinh, 3e-7),
        (Unary::ArcTanh, crate::math::atanh_f64, 3e-7),
        (Unary::Erf, crate::math::erf_f64, 3e-7),
        (Unary::ErfInv, crate::math::erf_inv_f64, 6e-7),
        (Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3e-7),
        (Unary::Floor, f64::floor, 0.0),
        (Unary::Ceil, f64::ceil, 0.0),
        (Unary::Round, f64::round_ties_even, 0.0),
        (Unary::Neg, |x| -x, 0.0),
        (Unary::Sqrt, f64::sqrt, 1e-7),
        (Unary::Log, f64::ln, 3e-7),
    ];
    let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
    for (op, reference, bound) in cases {
        let exact = one::<f64, f64>(op, &wide);
        for ((got, exact), &x) in one::<f32, f32>(op, &data).iter().zip(exact).zip(&wide) {
            let want = reference(x);
            let error = (f64::from(*got) - want).abs();
            let both_nan = want.is_nan() && got.is_nan();
            assert!(
                both_nan || error <= bound * want.abs(),
                "{op:?} {x}: {got} {want}"
            );
            assert!(exact == want || (exact - want).abs() < 1e-15 * want.abs() || want.is_nan());
        }
    }
    let large = [1e7f32, -3e9, 1e30, INF];
    assert_same(&one::<f32, f32>(Unary::Sin, &large), &large.map(f32::sin));
    let above: Vec<f32> = data.iter().map(|x| x.abs() + 1.0).collect();
    assert_same(
        &one::<f32, f32>(Unary::ArcCosh, &above),
        &above.iter().map(|x| x.acosh()).collect::<Vec<_>>(),
    );
}

#[test]
fn edges_of_float_functions() {
    assert_same(
        &one(Unary::Round, &[0.5f32, 1.5, 2.5, -0.5, NAN]),
        &[0.0, 2.0, 2.0, -0.0, NAN],
    );
    assert_same(
        &one(Unary::Sign, &[NAN, -0.0, -3.0, INF]),
        &[0.0, 0.0, -1.0, 1.0],
    );
    assert_same(&one(Unary::Rsqrt, &[0.0f32, 4.0, -1.0]), &[INF, 0.5, NAN]);
    assert_same(&one(Unary::Log, &[-1.0f32, 0.0, INF]), &[NAN, -INF, INF]);
    assert_eq!(
        one::<f32, bool>(Unary::LogicalNot, &[0.0, -0.0, NAN]),
        [true, true, false]
    );
    assert_same(
        &two(
            Binary::Rem,
            &[5.0f32, -5.0, 1.0, -0.0, -5.0, 5.5],
            &[INF, INF, 0.0, 3.0, 3.0, -2.0],
        ),
        &[5.0, INF, NAN, -0.0, 1.0, -0.5],
    );
    assert_same(
        &two(
            Binary::FloorDiv,
            &[1.0f32, 0.0, INF, -7.0],
            &[0.0, 0.0, 2.0, 2.0],
        ),
        &[INF, NAN, INF, -4.0],
    );
    let (a, b) = ([NAN, 1.0, 2.0, -INF], [1.0, NAN, 1.0, -INF]);
    assert_same(&two(Binary::Max, &a, &b), &[NAN, NAN, 2.0, -INF]);
    assert_same(&two(Binary::Min, &a, &b), &[NAN, NAN, 1.0, -INF]);
    assert_same(
        &two(Binary::LogAddExp, &[INF, -INF, 0.0], &[1.0, -INF, -INF]),
        &[INF, -INF, 0.0],
    );
    assert_eq!(
        two::<f32, bool>(Binary::EqualNan, &[NAN, 1.0], &[NAN, NAN]),
        [true, false]
    );
    assert_eq!(
        two::<f32, bool>(Binary::NotEqual, &[NAN, 1.0], &[NAN, 1.0]),
        [true, false]
    );
    assert_same(&two(Binary::Pow, &[3.0f32, -2.0], &[2.0, 2.0]), &[9.0, 4.0]);
    assert_same(
        &two(Binary::Pow, &[3.0f32, -8.0, 0.0], &[3.0, 0.5, 0.0]),
        &[27.0, NAN, 1.0],
    );
}

#[test]
fn integers_wrap_and_never_trap() {
    let (a, b) = ([-7i32, 7, i32::MIN, 5, -7], [2, -2, -1, 0, -2]);
    assert_eq!(
        two::<i32, i32>(Binary::Div, &a, &b),
        [-3, -3, i32::MIN, 0, 3]
    );
    assert_eq!(
        two::<i32, i32>(Binary::FloorDiv, &a, &b),
        [-4, -4, i32::MIN, 0, 3]
    );
    assert_eq!(two::<i32, i32>(Binary::Rem, &a, &b), [1, -1, 0, 0, -1]);
    assert_eq!(two::<u8, u8>(Binary::Add, &[200, 1], &[100, 1]), [44, 2]);
    assert_eq!(two::<i64, i64>(Binary::Mul, &[i64::MAX], &[2]), [-2]);
    assert_eq!(
        two::<i32, i32>(Binary::Pow, &[3, 0, 2, -2], &[5, 0, -1, 3]),
        [243, 1, 0, -8]
    );
    assert_eq!(
        two::<i8, i8>(Binary::LeftShift, &[1, 1, 1], &[3, 8, -1]),
        [8, 0, 0]
    );
    assert_eq!(
        two::<i8, i8>(Binary::RightShift, &[-8, -8, 8], &[1, 9, 9]),
        [-4, -1, 0]
    );
    assert_eq!(two::<u16, u16>(Binary::RightShift, &[0x8000], &[15]), [1]);
    assert_eq!(one::<i8, i8>(Unary::Abs, &[-128, -1]), [-128, 1]);
    assert_eq!(one::<u8, u8>(Unary::Neg, &[1]), [255]);
    assert_eq!(one::<u32, u32>(Unary::Sign, &[0, 9]), [0, 1]);
    assert_eq!(one::<i16, i16>(Unary::BitwiseNot, &[5]), [-6]);
    assert_eq!(
        two::<u64, bool>(Binary::Less, &[1, 2], &[2, 1]),
        [true, false]
    );
    assert_eq!(
        two::<bool, bool>(Binary::Add, &[true, false], &[true, false]),
        [true, false]
    );
    assert_eq!(
        two::<bool, bool>(Binary::Pow, &[false, false], &[true, false]),
        [false, true]
    );
}

#[test]
fn complex_functions() {
    let c = Complex32::new;
    assert_eq!(one::<Complex32, f32>(Unary::Abs, &[c(3.0, -4.0)]), [5.0]);
    assert_eq!(one::<Complex32, f32>(Unary::Imag, &[c(3.0, -4.0)]), [-4.0]);
    assert_eq!(
        one::<Complex32, Complex32>(Unary::Sign, &[c(0.0, 2.0)]),
        [c(0.0, 1.0)]
    );
    assert_eq!(
        two::<Complex32, Complex32>(Binary::Max, &[c(1.0, 2.0)], &[c(1.0, 3.0)])[0].im,
        3.0
    );
    let root = one::<Complex32, Complex32>(Unary::Sqrt, &[c(-4.0, 0.0)])[0];
    assert!((root - c(0.0, 2.0)).norm() < 1e-6);
    let small = one::<Complex32, Complex32>(Unary::Log1p, &[c(1e-6, 2e-6)])[0];
    assert!((small - c(1e-6, 2e-6)).norm() < 1e-11);
    let power =
        two::<Complex32, Complex32>(Binary::Pow, &[c(0.0, 1.0), c(0.0, 0.0)], &[c(2.0, 0.0); 2]);
    assert!((power[0] - c(-1.0, 0.0)).norm() < 1e-6 && power[1] == c(0.0, 0.0));
}

#[test]
fn casts_convert_as_astype() {
    let cast = |dtype| Expr::Cast(dtype, Box::new(x()));
    assert_eq!(
        apply::<f32, i32>(&cast(Dtype::Int32), &[&[-1.9, 1.9]]),
        [-1, 1]
    );
    assert_eq!(
        apply::<f32, u8>(&cast(Dtype::Uint8), &[&[-1.0, 255.0]]),
        [255, 255]
    );
    assert_eq!(
        apply::<i32, i8>(&cast(Dtype::Int8), &[&[300, -129]]),
        [44, 127]
    );
    assert_eq!(
        apply::<f32, bool>(&cast(Dtype::Bool), &[&[NAN, 0.0, -0.0]]),
        [true, false, false]
    );
    assert_eq!(
        apply::<f32, f16>(&cast(Dtype::Float16), &[&[1e6, 2049.0]]),
        [f16::INFINITY, f16::from_f32(2048.0)]
    );
    assert_eq!(
        apply::<i32, bf16>(&cast(Dtype::Bfloat16), &[&[257]]),
        [bf16::from_f32(256.0)]
    );
    assert_eq!(
        apply::<f16, f32>(&cast(Dtype::Float32), &[&[f16::from_f32(0.5)]]),
        [0.5]
    );
    assert_eq!(
        apply::<Complex32, f64>(&cast(Dtype::Float64), &[&[Complex32::new(2.0, 3.0)]]),
        [2.0]
    );
    assert_eq!(
        apply::<bool, Complex32>(&cast(Dtype::Complex64), &[&[true]]),
        [Complex32::new(1.0, 0.0)]
    );
    assert_eq!(apply::<u64, i64>(&cast(Dtype::Int64), &[&[u64::MAX]]), [-1]);
    // A rounding in the middle of a program is not lost, and one that is only stored is done once.
    let through = Expr::Cast(Dtype::Float32, Box::new(cast(Dtype::Bfloat16)));
    assert_eq!(apply::<f32, f32>(&through, &[&[257.0, 1.0]]), [256.0, 1.0]);
}

#[test]
fn half_types_compute_in_float32_and_round_once() {
    let h = f16::from_f32;
    let sum = (x() + y()) + z();
    // 2048 + 1 is no float16; the sum with another 1 is.
    let got = apply::<f16, f16>(&sum, &[&[h(2048.0)], &[h(1.0)], &[h(1.0)]]);
    assert_eq!(got, [h(2050.0)]);
    // The quotients are just below 3, but 3 when rounded to the dtype, as is done before flooring.
    assert_eq!(
        two::<f16, f16>(Binary::FloorDiv, &[h(3070.0)], &[h(1023.5)]),
        [h(3.0)]
    );
    let b = bf16::from_f32;
    assert_eq!(
        two::<bf16, bf16>(Binary::FloorDiv, &[b(382.0)], &[b(127.5)]),
        [b(3.0)]
    );
    assert_eq!(
        two::<bf16, bf16>(Binary::FloorDiv, &[b(255.0)], &[b(128.0)]),
        [b(1.0)]
    );
}

/// `x` (given shape), the same transposed in memory, and a scalar and a row that broadcast.
#[test]
fn every_layout_gives_the_same_values() {
    let (rows, columns) = (70, 53);
    let data = noise(rows * columns, 2);
    let plain = tensor(&[rows, columns], &data);
    let mut turned = vec![0.0; data.len()];
    for (i, &value) in data.iter().enumerate() {
        turned[i % columns * rows + i / columns] = value;
    }
    let turned = tensor(&[columns, rows], &turned);
    let strided = |tensor: &Tensor, strides: [isize; 2], offset| {
        let mut layout = Spec::new([rows, columns], tensor.layout.dtype).layout();
        layout.strides = strides.into_iter().collect();
        tensor.view(layout, offset).unwrap()
    };
    let turned = strided(&turned, [1, rows as isize], 0);
    let row = strided(&plain, [0, 1], 4);
    let column = strided(&plain, [columns as isize, 0], 0);
    let scalar = strided(&plain, [0, 0], 8);
    let program = Program::from_expr(&(x() * y() + z()), &[Dtype::Float32; 3]);
    for first in [&plain, &turned, &row, &scalar] {
        for second in [&plain, &column, &scalar] {
            let third = &row;
            let out = run(&program, &[first, second, third], &[rows, columns]);
            let parts = [first, second, third].map(values::<f32>);
            for (i, got) in values::<f32>(&out[0]).into_iter().enumerate() {
                assert_eq!(got, parts[0][i] * parts[1][i] + parts[2][i]);
            }
        }
    }
    let half: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
    let half = tensor(&[columns, rows], &half);
    let half = strided(&half, [1, rows as isize], 0);
    let one = strided(&half, [0, 0], 6);
    let program = Program::from_expr(&(x() + y()), &[Dtype::Float16; 2]);
    let out = run(&program, &[&half, &one], &[rows, columns]);
    let (a, b) = (values::<f16>(&half), values::<f16>(&one));
    for (i, got) in values::<f16>(&out[0]).into_iter().enumerate() {
        assert_eq!(got, f16::from_f32(a[i].to_f32() + b[i].to_f32()));
    }
}

#[test]
fn many_registers_outputs_and_dtypes_share_slots_safely() {
    // Thirty steps that all stay alive to the end, an input as an output, a constant as an output.
    let mut builder = ProgramBuilder::default();
    let (a, mask) = (builder.input(Dtype::Float32), builder.input(Dtype::Bool));
    let mut steps = vec![a];
    for i in 0..30 {
        let c = builder.constant(f64::from(i), Dtype::Float32);
        let sum = Program::from_expr(&(x() * y() + x()), &[Dtype::Float32; 2]);
        let next = builder.program(&sum, &[a, c])[0];
        steps.push(next);
    }
    let add = Program::from_expr(&(x() + y()), &[Dtype::Float32; 2]);
    let mut total = steps[0];
    for &step in &steps[1..] {
        total = builder.program(&add, &[step, total])[0];
    }
    let choose = select(x(), y(), z());
    let choose = Program::from_expr(&choose, &[Dtype::Bool, Dtype::Float32, Dtype::Float32]);
    let chosen = builder.program(&choose, &[mask, total, a])[0];
    let seven = builder.constant(7.0, Dtype::Int64);
    let half = builder.cast(chosen, Dtype::Float16);
    let program = builder.finish(vec![chosen, a, seven, half, chosen]);
    let len = 3000;
    let data = noise(len, 4);
    let bits: Vec<bool> = data.iter().map(|x| *x > 0.3).collect();
    let out = run(
        &program,
        &[&tensor(&[len], &data), &tensor(&[len], &bits)],
        &[len],
    );
    let want: Vec<f32> = data
        .iter()
        .map(|&a| {
            let total = (0..30).fold(a, |t, i| (a * i as f32 + a) + t);
            if a > 0.3 { total } else { a }
        })
        .collect();
    let close = |got: &Tensor| {
        let got = values::<f32>(got);
        got.iter()
            .zip(&want)
            .for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * b.abs()));
        got
    };
    let got = close(&out[0]);
    close(&out[4]);
    assert_eq!(values::<f32>(&out[1]), data);
    assert_eq!(values::<i64>(&out[2]), vec![7; len]);
    let halves: Vec<f16> = got.into_iter().map(f16::from_f32).collect();
    assert_eq!(values::<f16>(&out[3]), halves);
}

/// The inputs that a program of float32 may be written over, each with the outputs that may be there.
fn over(program: &Program) -> Vec<(usize, usize)> {
    let layout = Spec::new([2000], Dtype::Float32).layout();
    let [inputs, outputs] = [program.inputs.len(), program.outputs.len()];
    let layouts = |len| vec![layout.clone(); len];
    let prepared = plan(program, &layouts(inputs), &layouts(outputs), Simd::detect()).unwrap();
    let pairs = (0..inputs).flat_map(|input| (0..outputs).map(move |output| (input, output)));
    let may = |&(input, output): &(usize, usize)| prepared.writes_over(input, output);
    pairs.filter(may).collect()
}

#[test]
fn outputs_may_be_over_inputs_that_are_read_before() {
    let program = |expr: Expr, inputs| Program::from_expr(&expr, &vec![Dtype::Float32; inputs]);
    let exp = || unary(Unary::Exp, x());
    assert_eq!(over(&program(x() + y(), 2)), [(0, 0), (1, 0)]);
    // One loop would hold both as slices; here it is the next one that stores.
    assert_eq!(over(&program(exp(), 1)), []);
    assert_eq!(over(&program(exp() * y(), 2)), [(0, 0), (1, 0)]);
    // The sum is stored before x is read again.
    let mut two = program((x() + y()) * x(), 2);
    let is_sum =
        |code: &(Instruction, Dtype)| matches!(code.0, Instruction::Binary(Binary::Add, ..));
    two.outputs.extend(two.code.iter().position(is_sum));
    assert_eq!(over(&two), [(0, 0), (1, 0), (1, 1)]);
}

#[test]
fn empty_scalar_and_large_values_work() {
    let double = Program::from_expr(&(x() + x()), &[Dtype::Float32]);
    assert!(values::<f32>(&run(&double, &[&tensor::<f32>(&[0, 3], &[])], &[0, 3])[0]).is_empty());
    assert_eq!(
        values::<f32>(&run(&double, &[&tensor(&[], &[2.0f32])], &[])[0]),
        [4.0]
    );
    let large = noise(1_000_003, 9);
    let out = run(&double, &[&tensor(&[1_000_003], &large)], &[1_000_003]);
    assert!(
        values::<f32>(&out[0])
            .iter()
            .zip(&large)
            .all(|(a, b)| *a == 2.0 * b)
    );
}

#[test]
fn what_is_not_defined_is_refused() {
    let spec = |dtype| Spec::new([2], dtype).layout();
    for (op, dtype) in [
        (Unary::Exp, Dtype::Int32),
        (Unary::Erf, Dtype::Complex64),
        (Unary::Neg, Dtype::Bool),
    ] {
        let program = Program::from_expr(&unary(op, x()), &[dtype]);
        assert!(
            plan(&program, &[spec(dtype)], &[spec(dtype)], Simd::Portable).is_err(),
            "{op:?}"
        );
    }
    let program = Program::from_expr(&(x() + y()), &[Dtype::Int32; 2]);
    let (a, b) = (spec(Dtype::Int32), spec(Dtype::Int64));
    let outputs = std::slice::from_ref(&a);
    assert!(plan(&program, &[a.clone(), b], outputs, Simd::Portable).is_err());
    assert!(plan(&program, outputs, outputs, Simd::Portable).is_err());
}

#[test]
fn parts_run_on_what_another_kernel_has_just_computed() {
    // Some rows and columns of float32 at a time stand for the float16 input 0; input 1 is a bias for
    // each row.
    let (rows, columns) = (7, 300);
    let program = Program::from_expr(&(x() * x() + y()), &[Dtype::Float16; 2]);
    let computed = noise(rows * columns, 2);
    let bias: Vec<f16> = noise(columns, 3)
        .iter()
        .map(|&x| f16::from_f32(x))
        .collect();
    let mut layouts = [
        Spec::new([rows, columns], Dtype::Float32).layout(),
        Spec::new([rows, columns], Dtype::Float16).layout(),
    ];
    layouts[1].strides[0] = 0;
    let result = Spec::new([rows, columns], Dtype::Float16).layout();
    let prepared = Prepared::new(&program, &layouts, &[result], Simd::detect()).unwrap();
    let mut got = vec![f16::ZERO; rows * columns];
    for (rows, columns) in [
        (0..1, 0..300),
        (1..6, 0..130),
        (1..6, 130..300),
        (6..7, 0..300),
    ] {
        let row = |row: usize| &computed[row * 300..][columns.clone()];
        let sums: Vec<f32> = rows.clone().flat_map(row).copied().collect();
        let memory = Memory {
            inputs: &[std::ptr::null(), bias.as_ptr().cast()],
            outputs: &[got.as_mut_ptr().cast()],
        };
        let part = Part {
            start: rows.start * 300 + columns.start,
            rows: rows.len(),
            columns: columns.len(),
            row: 300,
            sums: Some(Sums {
                address: sums.as_ptr(),
                step: columns.len(),
            }),
        };
        with_scratch(prepared.scratch_bytes(), |scratch| {
            // SAFETY: the part's elements are in the sums, the bias and the result.
            unsafe { prepared.run(&memory, scratch, part) }
        });
    }
    for (number, got) in got.into_iter().enumerate() {
        let x = computed[number];
        assert_eq!(got, f16::from_f32(x * x + bias[number % columns].to_f32()));
    }
}
