use motet_core::dtype::Element;
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;

use super::codes::to_e4m3;
use super::eight::float8;
use super::*;
use crate::testing::{noise, run, tensor, values};

const FLOAT_MODES: [Quantization; 3] = [
    Quantization {
        group_size: 32,
        bits: 4,
        mode: QuantizationMode::Mxfp4,
    },
    Quantization {
        group_size: 32,
        bits: 8,
        mode: QuantizationMode::Mxfp8,
    },
    Quantization {
        group_size: 16,
        bits: 4,
        mode: QuantizationMode::Nvfp4,
    },
];

fn affine(group_size: usize, bits: usize) -> Quantization {
    Quantization {
        group_size,
        bits,
        mode: QuantizationMode::Affine,
    }
}

pub(super) fn all() -> Vec<Quantization> {
    let bits = [1, 2, 3, 4, 5, 6, 8];
    let affine = bits.map(|bits| affine([32, 64, 128][bits % 3], bits));
    affine.into_iter().chain(FLOAT_MODES).collect()
}

fn packed_specs(q: Quantization, shape: &[usize], dtype: Dtype) -> Vec<Spec> {
    let (&columns, leading) = shape.split_last().unwrap();
    let with = |last| [leading, &[last]].concat();
    let groups = with(columns / q.group_size);
    let words = Spec::new(with(columns * q.bits / 32), Dtype::Uint32);
    match q.mode {
        QuantizationMode::Affine => {
            vec![
                words,
                Spec::new(&groups[..], dtype),
                Spec::new(&groups[..], dtype),
            ]
        }
        _ => vec![words, Spec::new(groups, Dtype::Uint8)],
    }
}

fn quantize<T: Element>(q: Quantization, shape: &[usize], x: &[T]) -> Vec<Tensor> {
    let specs = packed_specs(q, shape, T::DTYPE);
    run(&Kernel::Quantize(q), &[&tensor(shape, x)], &specs).unwrap()
}

/// Value `column` of `row`, bit by bit as the format says.
fn reference(q: Quantization, packed: &[Tensor], columns: usize, value: usize) -> f64 {
    let words = values::<u32>(&packed[0]);
    let row_start = value / columns * columns * q.bits;
    let bit = |k: usize| {
        let at = row_start + value % columns * q.bits + k;
        words[at / 32] >> (at % 32) & 1
    };
    let code = (0..q.bits).map(|k| bit(k) << k).sum::<u32>();
    let group = value / q.group_size;
    let half = |code: u32, exponent_bits: u32, mantissa_bits: u32, bias: i32| {
        let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
        let exponent = (code >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
        let sign = 1.0 - 2.0 * f64::from(code >> (mantissa_bits + exponent_bits));
        let one = if exponent == 0 {
            0.0
        } else {
            2f64.powi(mantissa_bits as i32)
        };
        let exponent = Ord::max(exponent, 1) - bias - mantissa_bits as i32;
        sign * (one + mantissa) * 2f64.powi(exponent)
    };
    let scale = || values::<u8>(&packed[1])[group];
    match q.mode {
        QuantizationMode::Affine => {
            let [scale, bias] = [1, 2].map(|i| match packed[i].layout.dtype {
                Dtype::Float32 => f64::from(values::<f32>(&packed[i])[group]),
                _ => values::<f16>(&packed[i])[group].to_f64(),
            });
            f64::from(code) * scale + bias
        }
        QuantizationMode::Mxfp4 => half(code, 2, 1, 1) * 2f64.powi(i32::from(scale()) - 127),
        QuantizationMode::Mxfp8 => half(code, 4, 3, 7) * 2f64.powi(i32::from(scale()) - 127),
        QuantizationMode::Nvfp4 => half(code, 2, 1, 1) * half(scale().into(), 4, 3, 7),
    }
}

#[test]
fn quantised_values_are_near_and_unpack_by_the_format() {
    let shape = [3, 256];
    let x = noise(3 * 256, 1);
    for q in all() {
        let packed = quantize(q, &shape, &x);
        let inputs: Vec<&Tensor> = packed.iter().collect();
        let out = [Spec::new(shape, Dtype::Float32)];
        let got = values::<f32>(&run(&Kernel::Dequantize(q), &inputs, &out).unwrap()[0]);
        // Making zero exact can leave a part of the range of 2 uncovered; the float formats are
        // off by half of their coarsest step.
        let error = match q.mode {
            QuantizationMode::Affine => 2.02 / (1 << q.bits) as f32,
            QuantizationMode::Mxfp8 => 0.07,
            _ => 0.26,
        };
        for (i, (&got, &x)) in got.iter().zip(&x).enumerate() {
            let want = reference(q, &packed, 256, i);
            assert!(
                (f64::from(got) - want).abs() < 1e-6,
                "{q:?} {i}: {got} {want}"
            );
            assert!((got - x).abs() <= error, "{q:?} {i}: {got} {x}");
        }
    }
}

#[test]
fn known_groups_have_known_codes() {
    let mut x = [0.0f32; 32];
    x[..6].copy_from_slice(&[6.0, -6.0, 0.25, -0.25, 2.5, -5.0]);
    let packed = quantize(FLOAT_MODES[0], &[32], &x);
    assert_eq!(values::<u8>(&packed[1]), [127]);
    // Ties go to the smaller code; a negative value that rounds to zero gets code 0.
    assert_eq!(values::<u32>(&packed[0])[0], 0x00_e4_00_f7);
    let zeros = quantize(FLOAT_MODES[0], &[32], &[0.0f32; 32]);
    assert_eq!(
        (values::<u8>(&zeros[1]), values::<u32>(&zeros[0])),
        (vec![127], vec![0; 4])
    );
    let mut x = [0.0f32; 32];
    x[1..3].copy_from_slice(&[-3.0, 12.0]);
    let packed = quantize(affine(32, 4), &[32], &x);
    assert_eq!(
        (values::<f32>(&packed[1]), values::<f32>(&packed[2])),
        (vec![-1.0], vec![12.0])
    );
    assert_eq!(values::<u32>(&packed[0])[0], 0xcccc_c0fc);
    // Codes of 8 bits go to even, and keep a zero's sign.
    let mut x = [0.0f32; 32];
    x[..4].copy_from_slice(&[448.0, -1e-9, 17.0, 19.0]);
    x[4..7].copy_from_slice(&[-17.0, -1.0 / 1024.0, 3.0 / 1024.0]);
    let packed = quantize(FLOAT_MODES[1], &[32], &x);
    assert_eq!(values::<u8>(&packed[1]), [127]);
    assert_eq!(values::<u32>(&packed[0])[..2], [0x5a58_807e, 0x0002_80d8]);
    let mut x = [0.0f32; 32];
    x[..5].copy_from_slice(&[0.25, 0.75, 0.5, 0.0, 1.0]);
    let packed = quantize(affine(32, 1), &[32], &x);
    assert_eq!(values::<u32>(&packed[0]), [0b10010]);
    assert_eq!(
        (values::<f32>(&packed[1]), values::<f32>(&packed[2])),
        (vec![1.0], vec![0.0])
    );
    assert_eq!(
        [float8(0x7e), float8(1), float8(0xb8)],
        [448.0, 2f32.powi(-9), -1.0]
    );
    assert!(float8(0x7f).is_nan() && to_e4m3(1e9) == 0x7e);
    assert_eq!(
        decode_scale(0, QuantizationMode::Mxfp4),
        2f32.powi(-126) / 2.0
    );
    assert_eq!(decode_scale(255, QuantizationMode::Mxfp4), f32::INFINITY);
}

#[test]
fn strange_values_are_quantised_without_a_panic() {
    let mut x = noise(64, 1);
    x[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]);
    x[32..].fill(f32::NAN);
    for q in all() {
        let shape = [1, q.group_size.max(64)];
        let mut x = x.clone();
        x.resize(shape[1], 0.0);
        quantize(q, &shape, &x);
    }
}

fn check_product<T: Float32Like>(from: impl Fn(f32) -> T, to: impl Fn(T) -> f32, tolerance: f64) {
    // One matrix for all rows of x, then one for each batch.
    for (x_shape, w_batch) in [
        (vec![2, 3], vec![]),
        (vec![1], vec![]),
        (vec![2, 3], vec![2]),
    ] {
        for (q, transpose) in all().into_iter().flat_map(|q| [(q, true), (q, false)]) {
            let (k, n) = (128, 256);
            let matrix = if transpose { [n, k] } else { [k, n] };
            let w_shape = [&w_batch[..], &matrix].concat();
            let make =
                |len: usize, seed| -> Vec<T> { noise(len, seed).into_iter().map(&from).collect() };
            let packed = quantize(q, &w_shape, &make(w_shape.iter().product(), 1));
            let dense: Vec<Tensor> = {
                let out = [Spec::new(&w_shape[..], Dtype::Float32)];
                run(
                    &Kernel::Dequantize(q),
                    &packed.iter().collect::<Vec<_>>(),
                    &out,
                )
                .unwrap()
            };
            let w = values::<f32>(&dense[0]);
            let rows: usize = x_shape.iter().product();
            let x = make(rows * k, 2);
            let x_tensor = tensor(&[&x_shape[..], &[k]].concat(), &x);
            let inputs: Vec<&Tensor> = std::iter::once(&x_tensor).chain(&packed).collect();
            let kernel = Kernel::QuantizedMatmul {
                quantization: q,
                transpose,
            };
            let out = [Spec::new([&x_shape[..], &[n]].concat(), T::DTYPE)];
            let got = values::<T>(&run(&kernel, &inputs, &out).unwrap()[0]);
            let batch = w.len() / (k * n);
            for (i, &got) in got.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let w = &w[row / (rows / batch) * k * n..][..k * n];
                let at = |l: usize| {
                    if transpose {
                        column * k + l
                    } else {
                        l * n + column
                    }
                };
                let want: f64 = (0..k)
                    .map(|l| f64::from(to(x[row * k + l])) * f64::from(w[at(l)]))
                    .sum();
                let error = (f64::from(to(got)) - want).abs();
                assert!(
                    error <= tolerance * (1.0 + want.abs()),
                    "{q:?} {transpose} {i}"
                );
            }
        }
    }
}

#[test]
fn products_agree_with_sums() {
    check_product::<f32>(|x| x, |x| x, 1e-5);
    check_product::<f16>(f16::from_f32, f16::to_f32, 1e-3);
    check_product::<bf16>(bf16::from_f32, bf16::to_f32, 8e-3);
}

#[test]
fn gathered_products_are_those_of_what_is_picked() {
    let (k, n) = (128, 64);
    let (lhs, rhs) = ([1u32, 0, 1], [2u32, 2, 0]);
    let x = noise(2 * 3 * k, 1);
    for (q, transpose) in all().into_iter().flat_map(|q| [(q, true), (q, false)]) {
        let n = if transpose { n } else { 2 * n };
        let matrix = if transpose { [n, k] } else { [k, n] };
        let (quantization, pick) = (q, |i: u32, len| i as usize * len..(i as usize + 1) * len);
        let w = noise(3 * k * n, 2);
        let packed = quantize(q, &[&[3], &matrix[..]].concat(), &w);
        let (x_tensor, left) = (tensor(&[2, 3, k], &x), tensor(&[3], &lhs));
        let gather = |right: &Tensor| {
            let mut inputs = vec![&x_tensor];
            inputs.extend(&packed);
            inputs.extend([&left, right]);
            let kernel = Kernel::GatherQuantizedMatmul {
                quantization,
                transpose,
            };
            run(&kernel, &inputs, &[Spec::new([3, 3, n], Dtype::Float32)])
        };
        let got = values::<f32>(&gather(&tensor(&[3], &rhs)).unwrap()[0]);
        for (i, got) in got.chunks_exact(3 * n).enumerate() {
            let x = tensor(&[3, k], &x[pick(lhs[i], 3 * k)]);
            let w = quantize(q, &matrix, &w[pick(rhs[i], k * n)]);
            let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&w).collect();
            let kernel = Kernel::QuantizedMatmul {
                quantization,
                transpose,
            };
            let out = [Spec::new([3, n], Dtype::Float32)];
            let want = values::<f32>(&run(&kernel, &inputs, &out).unwrap()[0]);
            for (got, want) in got.iter().zip(want) {
                let error = (got - want).abs();
                assert!(error <= 1e-5 * (1.0 + want.abs()), "{q:?} {transpose}");
            }
        }
        let error = gather(&tensor(&[3], &[0u32, 3, 0])).err().unwrap();
        assert!(error.to_string().contains("index 3 is out of range"));
    }
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let q = affine(32, 4);
    let layouts = |columns: usize| -> Vec<Layout> {
        packed_specs(q, &[8, columns], Dtype::Float32)
            .iter()
            .map(Spec::layout)
            .collect()
    };
    let x = Spec::new([2, 64], Dtype::Float32).layout();
    let out = Spec::new([2, 8], Dtype::Float32).layout();
    let kernel = |quantization| Kernel::QuantizedMatmul {
        quantization,
        transpose: true,
    };
    let refused = |quantization, w: &[Layout]| {
        let inputs = [std::slice::from_ref(&x), w].concat();
        prepare(&kernel(quantization), &inputs, std::slice::from_ref(&out)).is_err()
    };
    assert!(!refused(q, &layouts(64)));
    assert!(refused(q, &layouts(96)));
    assert!(refused(q, &layouts(64)[..2]));
    assert!(refused(affine(32, 7), &layouts(64)));
    assert!(refused(affine(0, 4), &layouts(64)));
    assert!(refused(affine(64, 4), &layouts(64)));
    assert!(refused(FLOAT_MODES[0], &layouts(64)));
    assert!(refused(q, &[]));
}
