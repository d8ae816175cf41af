//! Convolutions against sums in float64.

use motet_core::kernel::{Convolution, Fused};
use motet_core::program::{Program, expr};
use motet_core::shape::{Axes, Shape};

use super::*;
use crate::matmul::Operand;
use crate::testing::{launch, noise, tensor, values};

/// All the numbers of a case; the reference is written out for three spatial dimensions.
#[derive(Clone, Debug)]
struct Case {
    x: Vec<usize>,
    w: Vec<usize>,
    parameters: Convolution,
}

impl Case {
    fn out(&self) -> Vec<usize> {
        let p = &self.parameters;
        let mut out = vec![self.x[0]];
        for i in 0..p.strides.len() {
            let padded = (self.x[i + 1] - 1) * p.input_dilation[i] + 1;
            let padded = padded + p.padding_low[i] + p.padding_high[i];
            let kernel = (self.w[i + 1] - 1) * p.kernel_dilation[i] + 1;
            out.push((padded - kernel) / p.strides[i] + 1);
        }
        out.push(self.w[0]);
        out
    }

    /// Scatters each input element to the outputs that it reaches: the other way round than
    /// the kernel works.
    fn reference(&self, x: &[f32], w: &[f32]) -> Vec<f64> {
        let p = &self.parameters;
        let (xs, ws, os) = (
            Shape::new(&self.x),
            Shape::new(&self.w),
            Shape::new(&self.out()),
        );
        let spatial = p.strides.len();
        let index = |shape: &Shape, mut number: usize| -> Vec<usize> {
            let mut index = vec![0; shape.len()];
            for (i, &dim) in index.iter_mut().zip(shape.iter()).rev() {
                *i = number % dim;
                number /= dim;
            }
            index
        };
        let mut out = vec![0.0; os.size()];
        let depth = self.w[spatial + 1];
        for (xi, &xv) in x.iter().enumerate() {
            let at = index(&xs, xi);
            for (wi, &wv) in w.iter().enumerate() {
                let tap = index(&ws, wi);
                let group = tap[0] / (self.w[0] / p.groups);
                if at[spatial + 1] != group * depth + tap[spatial + 1] {
                    continue;
                }
                let mut place = vec![at[0]];
                for d in 0..spatial {
                    let t = if p.flip {
                        self.w[d + 1] - 1 - tap[d + 1]
                    } else {
                        tap[d + 1]
                    };
                    let from = at[d + 1] * p.input_dilation[d] + p.padding_low[d];
                    let Some(from) = from.checked_sub(t * p.kernel_dilation[d]) else {
                        break;
                    };
                    if from % p.strides[d] != 0 || from / p.strides[d] >= os[d + 1] {
                        break;
                    }
                    place.push(from / p.strides[d]);
                }
                if place.len() == spatial + 1 {
                    place.push(tap[0]);
                    let number = place.iter().zip(os.iter()).fold(0, |n, (i, d)| n * d + i);
                    out[number] += f64::from(xv) * f64::from(wv);
                }
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let one = |n: usize| Axes::from_elem(1, n);
    let plain = |n: usize| Convolution {
        strides: one(n),
        padding_low: Axes::from_elem(0, n),
        padding_high: Axes::from_elem(0, n),
        kernel_dilation: one(n),
        input_dilation: one(n),
        groups: 1,
        flip: false,
    };
    let case = |x: &[usize], w: &[usize], change: &dyn Fn(&mut Convolution)| {
        let mut parameters = plain(x.len() - 2);
        change(&mut parameters);
        Case {
            x: x.to_vec(),
            w: w.to_vec(),
            parameters,
        }
    };
    vec![
        case(&[2, 9, 3], &[4, 3, 3], &|_| {}),
        case(&[1, 700, 2], &[3, 5, 2], &|p| p.padding_low[0] = 2),
        case(&[2, 5, 6, 4], &[3, 1, 1, 4], &|_| {}),
        case(&[2, 7, 6, 4], &[6, 3, 2, 2], &|p| {
            p.groups = 2;
            p.strides = Axes::from_slice(&[2, 1]);
            p.padding_low = Axes::from_slice(&[1, 0]);
            p.padding_high = Axes::from_slice(&[2, 1]);
            p.flip = true;
        }),
        case(&[2, 8, 8, 5], &[5, 3, 3, 1], &|p| {
            p.groups = 5;
            p.padding_low = one(2);
            p.padding_high = one(2);
        }),
        // Channels with kernels of their own: blocks of channels and what is left of them.
        case(&[2, 9, 75], &[75, 4, 1], &|p| {
            p.groups = 75;
            p.strides[0] = 2;
            p.padding_low[0] = 3;
            p.flip = true;
        }),
        case(&[1, 6, 7, 36], &[72, 3, 2, 1], &|p| {
            p.groups = 36;
            p.kernel_dilation = Axes::from_slice(&[2, 3]);
            p.padding_high = Axes::from_slice(&[1, 2]);
        }),
        case(&[2, 4, 5, 6, 9], &[27, 3, 2, 3, 1], &|p| {
            p.groups = 9;
            p.strides = Axes::from_slice(&[1, 2, 1]);
            p.padding_low = Axes::from_slice(&[2, 1, 0]);
            p.input_dilation = Axes::from_slice(&[1, 1, 2]);
        }),
        case(&[1, 4, 5, 2], &[3, 3, 3, 2], &|p| {
            p.input_dilation = Axes::from_slice(&[2, 3]);
            p.kernel_dilation = Axes::from_slice(&[1, 2]);
            p.padding_low = Axes::from_slice(&[2, 2]);
            p.padding_high = Axes::from_slice(&[2, 3]);
        }),
        case(&[2, 3, 4, 5, 2], &[3, 2, 2, 3, 2], &|p| {
            p.strides = Axes::from_slice(&[1, 2, 2]);
            p.padding_low = one(3);
            p.flip = true;
        }),
    ]
}

fn check<T: Operand>(from: impl Fn(f32) -> T, to: impl Fn(T) -> f32, tolerance: f64) {
    for case in cases() {
        let make = |shape: &[usize], seed| -> Vec<T> {
            noise(shape.iter().product(), seed)
                .into_iter()
                .map(&from)
                .collect()
        };
        let (x, w) = (make(&case.x, 1), make(&case.w, 2));
        let widened = |values: &[T]| -> Vec<f32> { values.iter().map(|&v| to(v)).collect() };
        let expected = case.reference(&widened(&x), &widened(&w));
        let kernel = Kernel::Convolution(case.parameters.clone());
        let out = [Spec::new(case.out(), T::DTYPE)];
        let inputs = [tensor(&case.x, &x), tensor(&case.w, &w)];
        let inputs = inputs.each_ref();
        for constants in [vec![], vec![None, Some(inputs[1].clone())]] {
            let got = run_with(&kernel, &inputs, &out, &constants);
            for (got, want) in values::<T>(&got).into_iter().zip(&expected) {
                let error = (f64::from(to(got)) - want).abs();
                assert!(error <= tolerance * (1.0 + want.abs()), "{case:?}: {want}");
            }
        }
    }
}

/// Runs a kernel some of whose inputs are known when it is prepared.
fn run_with(
    kernel: &Kernel,
    inputs: &[&Tensor],
    out: &[Spec; 1],
    constants: &[Option<Tensor>],
) -> Tensor {
    let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout.clone()).collect();
    let step = prepare(kernel, &layouts, &[out[0].layout()], constants).unwrap();
    launch(&*step, inputs, out).unwrap().remove(0)
}

#[test]
fn programs_run_on_the_sums() {
    for case in cases() {
        let make = |shape: &[usize], seed| tensor(shape, &noise(shape.iter().product(), seed));
        let (x, w) = (make(&case.x, 1), make(&case.w, 2));
        let (out, other) = (
            [Spec::new(case.out(), Dtype::Float32)],
            make(&case.out(), 3),
        );
        let kernel = Kernel::Convolution(case.parameters.clone());
        let fused = Kernel::Fused(Box::new(Fused {
            kernel: kernel.clone(),
            inputs: 2,
            program: Program::from_expr(&(expr::x() - expr::y()), &[Dtype::Float32; 2]),
            result: out[0].clone(),
        }));
        for constants in [vec![], vec![None, Some(w.clone())]] {
            let plain = values::<f32>(&run_with(&kernel, &[&x, &w], &out, &constants));
            let got = run_with(&fused, &[&x, &w, &other], &out, &constants);
            let others = values::<f32>(&other);
            for ((got, plain), other) in values::<f32>(&got).iter().zip(plain).zip(others) {
                assert_eq!(*got, plain - other);
            }
        }
    }
}

#[test]
fn convolutions_agree_with_sums() {
    check::<f32>(|x| x, |x| x, 1e-5);
    check::<f64>(f64::from, |x| x as f32, 1e-6);
    check::<half::f16>(half::f16::from_f32, half::f16::to_f32, 1e-3);
    check::<half::bf16>(half::bf16::from_f32, half::bf16::to_f32, 8e-3);
}

#[test]
fn impossible_parameters_are_refused() {
    let base = cases().remove(0);
    let refused = |change: &dyn Fn(&mut Convolution)| {
        let mut parameters = base.parameters.clone();
        change(&mut parameters);
        let layout = |shape: &[usize]| Spec::new(shape, Dtype::Float32).layout();
        let inputs = [layout(&base.x), layout(&base.w)];
        prepare(
            &Kernel::Convolution(parameters),
            &inputs,
            &[layout(&base.out())],
            &[],
        )
        .is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|p| p.groups = 0));
    assert!(refused(&|p| p.groups = 2));
    assert!(refused(&|p| p.strides[0] = 0));
    assert!(refused(&|p| p.input_dilation[0] = 0));
    assert!(refused(&|p| p.kernel_dilation[0] = usize::MAX));
    assert!(refused(&|p| p.strides.clear()));
}
