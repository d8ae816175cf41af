//! Products of all layouts, dtypes and sizes against sums.

use motet_core::backend::{Backend, Launch, Location};
use motet_core::dtype::Element;
use motet_core::kernel::{Fused, Part};
use motet_core::memory::heap;
use motet_core::pool::Pool;
use motet_core::program::{Binary, ProgramBuilder};
use motet_core::shape::{Shape, Spec};
use motet_core::tensor::Tensor;
use num_complex::Complex32;

use super::*;
use crate::Cpu;
use crate::testing::{launch, noise, run, tensor, values};

/// The tensor with two axes exchanged: another layout of the same memory.
fn transposed(tensor: &Tensor) -> Tensor {
    let mut layout = tensor.layout.clone();
    let rank = layout.shape.len();
    layout.shape.dims_mut().swap(rank - 2, rank - 1);
    layout.strides.swap(rank - 2, rank - 1);
    tensor.view(layout, 0).unwrap()
}

/// One matrix as `batch` of them.
fn repeated(tensor: &Tensor, batch: usize) -> Tensor {
    let mut layout = tensor.layout.clone();
    layout.shape.dims_mut().insert(0, batch);
    layout.strides.insert(0, 0);
    tensor.view(layout, 0).unwrap()
}

fn reference(a: &[f32], b: &[f32], batch: usize, Sizes { m, k, n }: Sizes) -> Vec<f64> {
    let at = |s: &[f32], i: usize| f64::from(s[i]);
    (0..batch * m * n)
        .map(|i| {
            let (t, r, c) = (i / (m * n), i / n % m, i % n);
            (0..k)
                .map(|l| at(a, (t * m + r) * k + l) * at(b, (t * k + l) * n + c))
                .sum()
        })
        .collect()
}

/// Both layouts of a and b, with and without c, against the reference.
fn check<T: Operand>(
    batch: usize,
    sizes: Sizes,
    from: impl Fn(f32) -> T,
    to: impl Fn(T) -> f32,
    tolerance: f64,
) {
    let Sizes { m, k, n } = sizes;
    let make = |len, seed| -> Vec<T> { noise(len, seed).into_iter().map(&from).collect() };
    let [a, b, c] = [
        make(batch * m * k, 1),
        make(batch * k * n, 2),
        make(batch * m * n, 3),
    ];
    let widened = |values: &[T]| -> Vec<f32> { values.iter().map(|&x| to(x)).collect() };
    let expected = reference(&widened(&a), &widened(&b), batch, sizes);
    let flip = |values: &[T], rows: usize, columns: usize| {
        let matrix = rows * columns;
        let flipped: Vec<T> = (0..values.len())
            .map(|i| values[i / matrix * matrix + i % rows * columns + i % matrix / rows])
            .collect();
        transposed(&tensor(&[batch, columns, rows], &flipped))
    };
    let (a_rows, b_rows) = (tensor(&[batch, m, k], &a), tensor(&[batch, k, n], &b));
    let (a_columns, b_columns) = (flip(&a, m, k), flip(&b, k, n));
    let out = [Spec::new([batch, m, n], T::DTYPE)];
    let ct = tensor(&[batch, m, n], &c);
    for (a, b) in [
        (&a_rows, &b_rows),
        (&a_rows, &b_columns),
        (&a_columns, &b_rows),
    ] {
        let plain = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let scaled = Kernel::Matmul {
            alpha: 0.5,
            beta: Some(2.0),
        };
        let plain = values::<T>(&run(&plain, &[a, b], &out).unwrap()[0]);
        let scaled = values::<T>(&run(&scaled, &[a, b, &ct], &out).unwrap()[0]);
        for i in 0..expected.len() {
            let near = |got: T, want: f64| {
                let error = (f64::from(to(got)) - want).abs();
                assert!(
                    error <= tolerance * (1.0 + want.abs()),
                    "{sizes:?} {i}: {want}"
                );
            };
            near(plain[i], expected[i]);
            near(scaled[i], 0.5 * expected[i] + 2.0 * f64::from(to(c[i])));
        }
    }
}

#[test]
fn products_agree_with_sums() {
    let all = [
        (1, 1, 1, 1),
        (2, 3, 4, 5),
        (3, 1, 64, 40),
        (1, 300, 70, 130),
        (2, 5, 7, 1),
    ];
    for (batch, m, k, n) in all {
        let sizes = Sizes { m, k, n };
        check::<f32>(batch, sizes, |x| x, |x| x, 2e-5);
        check::<f64>(batch, sizes, f64::from, |x| x as f32, 1e-6);
        check::<half::f16>(batch, sizes, half::f16::from_f32, half::f16::to_f32, 1e-3);
        check::<half::bf16>(batch, sizes, half::bf16::from_f32, half::bf16::to_f32, 8e-3);
        let (from, to) = (|x| Complex32::new(x, 0.0), |x: Complex32| x.re);
        check::<Complex32>(batch, sizes, from, to, 2e-5);
    }
    // Several tiles of columns.
    check::<f32>(
        1,
        Sizes {
            m: 1,
            k: 5000,
            n: 200,
        },
        |x| x,
        |x| x,
        1e-4,
    );
    check::<f32>(
        1,
        Sizes {
            m: 9,
            k: 5000,
            n: 200,
        },
        |x| x,
        |x| x,
        1e-4,
    );
    check::<half::bf16>(
        1,
        Sizes {
            m: 2,
            k: 5000,
            n: 90,
        },
        half::bf16::from_f32,
        half::bf16::to_f32,
        8e-3,
    );
}

#[test]
fn complex_products_multiply_imaginary_parts() {
    let a = tensor(
        &[1, 2],
        &[Complex32::new(1.0, 2.0), Complex32::new(0.0, 1.0)],
    );
    let b = tensor(
        &[2, 1],
        &[Complex32::new(3.0, -1.0), Complex32::new(2.0, 2.0)],
    );
    let kernel = Kernel::Matmul {
        alpha: 1.0,
        beta: None,
    };
    let out = run(&kernel, &[&a, &b], &[Spec::new([1, 1], Dtype::Complex64)]).unwrap();
    assert_eq!(values::<Complex32>(&out[0]), [Complex32::new(3.0, 7.0)]);
}

#[test]
fn broadcast_weights_are_one_product() {
    let (a, b, bias) = (noise(4 * 3 * 8, 1), noise(8 * 5, 2), noise(5, 3));
    let at = tensor(&[4, 3, 8], &a);
    let bt = repeated(&tensor(&[8, 5], &b), 4);
    let bias_everywhere = repeated(&repeated(&tensor(&[5], &bias), 3), 4);
    let kernel = Kernel::Matmul {
        alpha: 1.0,
        beta: Some(1.0),
    };
    let out = [Spec::new([4, 3, 5], Dtype::Float32)];
    let got = values::<f32>(&run(&kernel, &[&at, &bt, &bias_everywhere], &out).unwrap()[0]);
    let expected = reference(&a, &b.repeat(4), 4, Sizes { m: 3, k: 8, n: 5 });
    for (i, (got, want)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*got) - want - f64::from(bias[i % 5])).abs() < 1e-5);
    }
    let layouts = [at.layout.clone(), bt.layout.clone()];
    let step = MatmulStep::<f32>::new(1.0, &layouts[0], &layouts[1], None, &out[0].layout());
    assert_eq!(step.unwrap().sizes.m, 12);
}

#[test]
fn nothing_to_sum_gives_zeros_or_c() {
    let a = tensor::<f32>(&[2, 0], &[]);
    let b = tensor::<f32>(&[0, 2], &[]);
    let c = tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
    let out = [Spec::new([2, 2], f32::DTYPE)];
    let plain = Kernel::Matmul {
        alpha: 1.0,
        beta: None,
    };
    let scaled = Kernel::Matmul {
        alpha: 1.0,
        beta: Some(2.0),
    };
    assert_eq!(
        values::<f32>(&run(&plain, &[&a, &b], &out).unwrap()[0]),
        [0.0; 4]
    );
    let got = values::<f32>(&run(&scaled, &[&a, &b, &c], &out).unwrap()[0]);
    assert_eq!(got, [2.0, 4.0, 6.0, 8.0]);
    let none = [Spec::new([0, 2], f32::DTYPE)];
    let a = tensor::<f32>(&[0, 3], &[]);
    let b = tensor::<f32>(&[3, 2], &[1.0; 6]);
    assert!(values::<f32>(&run(&plain, &[&a, &b], &none).unwrap()[0]).is_empty());
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (a, b) = (
        tensor(&[600, 90], &noise(600 * 90, 1)),
        tensor(&[90, 700], &noise(63_000, 2)),
    );
    let spec = Spec::new([600, 700], Dtype::Float32);
    let kernel = Kernel::Matmul {
        alpha: 1.0,
        beta: None,
    };
    let layouts = [a.layout.clone(), b.layout.clone()];
    let prepare = |constants: &[Option<Tensor>]| {
        prepare(&kernel, &layouts, &[spec.layout()], constants).unwrap()
    };
    let product = |step: &dyn Step, threads: usize| {
        let out = Tensor::allocate(&spec, heap()).unwrap();
        fn place(tensor: &Tensor) -> Location<'_> {
            Location {
                buffer: &tensor.buffer,
                offset: tensor.offset,
            }
        }
        let launch = Launch {
            inputs: &[place(&a), place(&b)],
            outputs: &[place(&out)],
            scratch: place(&out),
            pool: &Pool::new(threads),
        };
        step.launch(&launch).unwrap();
        values::<f32>(&out)
            .into_iter()
            .map(f32::to_bits)
            .collect::<Vec<u32>>()
    };
    for step in [prepare(&[]), prepare(&[None, Some(b.clone())])] {
        let alone = product(&*step, 1);
        assert!(alone == product(&*step, 2) && alone == product(&*step, 7));
    }
}

/// `a @ b`, then of the product `p` both `p * p + c` and `p` itself, in one step.
fn fused(result: &Spec) -> Kernel {
    let mut builder = ProgramBuilder::default();
    let [p, c] = [result.dtype, Dtype::Float32].map(|dtype| builder.input(dtype));
    let p = builder.cast(p, Dtype::Float32);
    let square = builder.binary(Binary::Mul, p, p);
    let sum = builder.binary(Binary::Add, square, c);
    Kernel::Fused(Box::new(Fused {
        kernel: Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        },
        inputs: 2,
        program: builder.finish(vec![sum, p]),
        result: result.clone(),
    }))
}

#[test]
fn programs_run_on_sums_before_they_are_rounded() {
    for (m, k, n) in [(1, 70, 33), (9, 600, 40), (200, 64, 130)] {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let c = tensor(&[n], &noise(n, 3));
        let mut wide = c.layout.clone();
        (wide.shape, wide.strides) = (Shape::new(&[m, n]), [0, 1][..].into());
        let c = c.view(wide, 0).unwrap();
        let check = |a: Tensor, b: Tensor, dtype: Dtype| {
            let kernel = fused(&Spec::new([m, n], dtype));
            let outs = [(); 2].map(|()| Spec::new([m, n], Dtype::Float32));
            let inputs = [&a, &b, &c];
            let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout.clone()).collect();
            let prepare = |constants: &[Option<Tensor>]| {
                let outs = [outs[0].layout(), outs[1].layout()];
                Cpu.prepare(&kernel, &layouts, &outs, constants).unwrap()
            };
            let (free, packed) = (prepare(&[]), prepare(&[None, Some(b.clone())]));
            assert!(free.reads(1) && !packed.reads(1) && packed.reads(2));
            let floats = |t: &Tensor| match dtype {
                Dtype::Float32 => values::<f32>(t),
                _ => values::<half::f16>(t).iter().map(|x| x.to_f32()).collect(),
            };
            let expected = reference(&floats(&a), &floats(&b), 1, Sizes { m, k, n });
            for step in [free, packed] {
                let got = launch(&*step, &inputs, &outs).unwrap();
                let got = got.iter().map(values::<f32>).collect::<Vec<_>>();
                for (i, p) in expected.iter().enumerate() {
                    let sum = p * p + f64::from(values::<f32>(&c)[i]);
                    let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-3;
                    assert!(close(got[0][i], sum), "{} {sum}", got[0][i]);
                    assert!(close(got[1][i], *p), "{} {p}", got[1][i]);
                }
            }
        };
        let half = |values: &[f32]| -> Vec<half::f16> {
            values.iter().map(|&x| half::f16::from_f32(x)).collect()
        };
        check(tensor(&[m, k], &a), tensor(&[k, n], &b), Dtype::Float32);
        check(
            tensor(&[m, k], &half(&a)),
            tensor(&[k, n], &half(&b)),
            Dtype::Float16,
        );
        // The matrix as the transpose of what lies in memory, and rows that are columns.
        let (a, b) = (tensor(&[k, m], &a), tensor(&[n, k], &b));
        check(transposed(&a), transposed(&b), Dtype::Float32);
    }
}

#[test]
fn joined_products_are_those_that_each_would_be() {
    for (m, k, dtype) in [
        (1, 70, Dtype::Float32),
        (100, 600, Dtype::Float32),
        (9, 64, Dtype::Float16),
    ] {
        let of_dtype = |shape: &[usize], seed| {
            let numbers = noise(shape.iter().product(), seed);
            match dtype {
                Dtype::Float32 => tensor(shape, &numbers),
                _ => tensor(
                    shape,
                    &numbers
                        .iter()
                        .map(|&x| half::f16::from_f32(x))
                        .collect::<Vec<_>>(),
                ),
            }
        };
        let a = of_dtype(&[m, k], 1);
        // Columns of the three are not alike, and the second has a program on its result.
        let columns = [33, 130, 16];
        let weights = columns.map(|n| of_dtype(&[k, n], n as u64));
        let c = tensor(&[m, columns[1]], &noise(m * columns[1], 4));
        let plain = Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        };
        let results = columns.map(|n| Spec::new([m, n], dtype));
        let part = |kernel, inputs, outputs| Part {
            kernel,
            inputs,
            outputs,
        };
        let parts = [
            part(plain.clone(), 2, 1),
            part(fused(&results[1]), 3, 2),
            part(plain, 2, 1),
        ];
        let [w0, w1, w2] = &weights;
        let inputs = [&a, w0, &a, w1, &c, &a, w2];
        let wide = Spec::new([m, columns[1]], Dtype::Float32);
        let outputs = [results[0].clone(), wide.clone(), wide, results[2].clone()];
        let constants = [None, Some(w0), None, Some(w1), None, None, Some(w2)];
        let constants = constants.map(|w| w.cloned());
        let layouts = inputs.map(|t| t.layout.clone());
        let specs = |specs: &[Spec]| specs.iter().map(Spec::layout).collect::<Vec<_>>();
        let joined = Kernel::Joined(parts.to_vec());
        let step = Cpu.prepare(&joined, &layouts, &specs(&outputs), &constants);
        let step = step.unwrap();
        let reads: Vec<bool> = (0..7).map(|input| step.reads(input)).collect();
        assert_eq!(reads, [true, false, true, false, true, true, false]);
        let got = launch(&*step, &inputs, &outputs).unwrap();
        let (mut input, mut output) = (0, 0);
        for part in parts {
            let inputs_of = input..input + part.inputs;
            let outputs_of = output..output + part.outputs;
            (input, output) = (inputs_of.end, outputs_of.end);
            let (inputs, layouts) = (&inputs[inputs_of.clone()], &layouts[inputs_of.clone()]);
            let (outputs, constants) = (&outputs[outputs_of.clone()], &constants[inputs_of]);
            assert!(Cpu.joins(&part.kernel, layouts, &specs(outputs), constants));
            assert!(!Cpu.joins(&part.kernel, layouts, &specs(outputs), &[]));
            let step = Cpu.prepare(&part.kernel, layouts, &specs(outputs), constants);
            let alone = launch(&*step.unwrap(), inputs, outputs).unwrap();
            for (alone, got) in alone.iter().zip(&got[outputs_of]) {
                assert_eq!(alone.row_major(), got.row_major());
            }
        }
    }
}

#[test]
fn only_contiguous_rows_or_columns_are_read_in_place() {
    let kernel = Kernel::Matmul {
        alpha: 1.0,
        beta: None,
    };
    let layout = |shape: [usize; 3], strides: [isize; 3]| Layout {
        shape: Shape::new(&shape),
        strides: strides[..].into(),
        dtype: Dtype::Float32,
    };
    let reads = |strides| accepts(&kernel, 0, &layout([2, 3, 4], strides));
    assert!(reads([12, 4, 1]) && reads([0, 1, 3]) && reads([-12, 9, 1]) && reads([4, 8, 1]));
    assert!(!reads([12, 4, 2]) && !reads([12, -4, 1]) && !reads([24, 8, 2]));
}
