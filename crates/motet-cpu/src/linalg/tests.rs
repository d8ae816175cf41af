//! Factors multiply to what was factored, in every dtype, and what has no answer is an error.

use motet_core::shape::Spec;
use motet_core::tensor::Tensor;
use num_complex::Complex64;

use super::*;
use crate::testing::{noise, run, tensor, values};

/// Matrices are compared as complex numbers in double precision, row-major.
type Matrix = Vec<Complex64>;

const DTYPES: [(Dtype, f64); 3] = [
    (Dtype::Float32, 2e-4),
    (Dtype::Complex64, 2e-4),
    (Dtype::Float64, 1e-11),
];

/// A tensor of noise.
fn random(dtype: Dtype, shape: &[usize], seed: u64) -> Tensor {
    let len = shape.iter().product();
    let (re, im) = (noise(len, seed), noise(len, seed + 100));
    let complex = |(re, im): (&f32, &f32)| Complex32::new(*re, *im);
    match dtype {
        Dtype::Float64 => {
            let wide: Vec<f64> = re
                .iter()
                .zip(&im)
                .map(|(&a, &b)| f64::from(a) + f64::from(b) * 1e-8)
                .collect();
            tensor(shape, &wide)
        }
        Dtype::Complex64 => tensor(shape, &re.iter().zip(&im).map(complex).collect::<Vec<_>>()),
        _ => tensor(shape, &re),
    }
}

fn wide(tensor: &Tensor) -> Matrix {
    match tensor.layout.dtype {
        Dtype::Float32 => values::<f32>(tensor)
            .iter()
            .map(|&x| f64::from(x).into())
            .collect(),
        Dtype::Float64 => values::<f64>(tensor).iter().map(|&x| x.into()).collect(),
        _ => {
            let widen = |x: &Complex32| Complex64::new(x.re.into(), x.im.into());
            values::<Complex32>(tensor).iter().map(widen).collect()
        }
    }
}

/// The outputs of one matrix of a batch.
fn part(tensor: &Tensor, batch: usize, batches: usize) -> Matrix {
    let all = wide(tensor);
    let size = all.len() / batches;
    all[batch * size..][..size].to_vec()
}

/// `a b` with `k` columns in a and `n` in b.
fn product(a: &Matrix, b: &Matrix, k: usize, n: usize) -> Matrix {
    let m = a.len().checked_div(k).unwrap_or(0);
    let element = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

fn adjoint(a: &Matrix, columns: usize) -> Matrix {
    let rows = a.len().checked_div(columns).unwrap_or(0);
    let element = |at: usize| a[at % rows * columns + at / rows].conj();
    (0..a.len()).map(element).collect()
}

/// A matrix with these values on its diagonal.
fn diagonal(values: &Matrix, rows: usize, columns: usize) -> Matrix {
    let mut matrix = vec![Complex64::ZERO; rows * columns];
    for (i, value) in values.iter().enumerate() {
        matrix[i * columns + i] = *value;
    }
    matrix
}

fn identity(n: usize) -> Matrix {
    diagonal(&vec![Complex64::ONE; n], n, n)
}

#[track_caller]
fn assert_close(a: &Matrix, b: &Matrix, tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).norm() <= tolerance, "{a} and {b}");
    }
}

fn specs(dtypes: [Dtype; 3], shapes: [&[usize]; 3]) -> Vec<Spec> {
    let specs = shapes.iter().zip(dtypes);
    specs
        .map(|(&shape, dtype)| Spec::new(shape, dtype))
        .collect()
}

fn linalg(op: Linalg, x: &Tensor, outputs: &[Spec]) -> Result<Vec<Tensor>> {
    run(&Kernel::Linalg(op), &[x], outputs)
}

/// One output of the input's own shape and dtype.
fn same(op: Linalg, x: &Tensor) -> Result<Tensor> {
    Ok(linalg(op, x, &[x.layout.spec()])?.swap_remove(0))
}

/// Batches, rows and columns; the large ones are computed in blocks.
const OBLONG: [[usize; 3]; 8] = [
    [2, 5, 3],
    [1, 4, 9],
    [3, 6, 6],
    [1, 1, 1],
    [2, 3, 0],
    [2, 0, 3],
    [0, 2, 2],
    [1, 90, 70],
];

#[test]
fn singular_values_and_vectors() {
    for ((dtype, tolerance), [batch, m, n]) in DTYPES.iter().flat_map(|&d| OBLONG.map(|s| (d, s))) {
        let k = m.min(n);
        let x = random(dtype, &[batch, m, n], 1);
        let real = if dtype == Dtype::Complex64 {
            Dtype::Float32
        } else {
            dtype
        };
        let specs = specs(
            [dtype, real, dtype],
            [&[batch, m, m], &[batch, k], &[batch, n, n]],
        );
        let out = linalg(Linalg::Svd, &x, &specs).unwrap();
        let alone = linalg(Linalg::Svd, &x, &specs[1..2]).unwrap();
        assert_close(&wide(&alone[0]), &wide(&out[1]), tolerance);
        for b in 0..batch {
            let [u, s, vt] = [0, 1, 2].map(|i| part(&out[i], b, batch));
            assert!(s.is_sorted_by(|a, b| a.re >= b.re) && s.iter().all(|s| s.re >= 0.0));
            assert_close(&product(&u, &adjoint(&u, m), m, m), &identity(m), tolerance);
            assert_close(
                &product(&vt, &adjoint(&vt, n), n, n),
                &identity(n),
                tolerance,
            );
            let us = product(&u, &diagonal(&s, m, n), m, n);
            if k > 0 {
                assert_close(&product(&us, &vt, n, n), &part(&x, b, batch), tolerance);
            }
        }
    }
}

#[test]
fn eigenvalues_and_vectors() {
    for ((dtype, tolerance), [batch, n]) in DTYPES
        .iter()
        .flat_map(|&d| [[2, 5], [1, 1], [3, 2], [1, 60], [1, 0], [0, 3]].map(|s| (d, s)))
    {
        let x = random(dtype, &[batch, n, n], 2);
        let complex = Dtype::Complex64;
        // The outputs are rounded to single precision.
        let tolerance = tolerance.max(1e-5);
        let specs = [
            Spec::new([batch, n], complex),
            Spec::new([batch, n, n], complex),
        ];
        let out = linalg(Linalg::Eig, &x, &specs).unwrap();
        let alone = linalg(Linalg::Eig, &x, &specs[..1]).unwrap();
        for b in 0..batch {
            let [w, v] = [0, 1].map(|i| part(&out[i], b, batch));
            for value in part(&alone[0], b, batch) {
                let near = w.iter().map(|w| (w - value).norm()).fold(1.0, f64::min);
                assert!(near < tolerance, "{value} in {w:?}");
            }
            let scaled = product(&v, &diagonal(&w, n, n), n, n);
            assert_close(&product(&part(&x, b, batch), &v, n, n), &scaled, tolerance);
            for j in 0..n {
                let norm: f64 = (0..n).map(|i| v[i * n + j].norm_sqr()).sum();
                assert!((norm - 1.0).abs() < 1e-5, "{norm}");
            }
        }
    }
}

#[test]
fn defective_matrices_have_eigenvectors_too() {
    let x = tensor(&[2, 2, 2], &[1.0f32, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    let complex = Dtype::Complex64;
    let specs = [Spec::new([2, 2], complex), Spec::new([2, 2, 2], complex)];
    let out = linalg(Linalg::Eig, &x, &specs).unwrap();
    let ones = [1.0, 1.0, 0.0, 0.0].map(Complex64::from);
    assert_close(&wide(&out[0]), &ones.to_vec(), 1e-6);
    let v = part(&out[1], 0, 2);
    assert_close(
        &v[..2].iter().map(|x| x.norm().into()).collect(),
        &ones[..2].to_vec(),
        1e-6,
    );
}

#[test]
fn hermitian_eigenvalues_and_vectors() {
    for ((dtype, tolerance), [batch, n]) in DTYPES
        .iter()
        .flat_map(|&d| [[2, 5], [1, 1], [3, 2], [1, 80], [1, 0], [0, 3]].map(|s| (d, s)))
    {
        let x = random(dtype, &[batch, n, n], 3);
        let real = if dtype == Dtype::Complex64 {
            Dtype::Float32
        } else {
            dtype
        };
        let specs = [Spec::new([batch, n], real), x.layout.spec()];
        for triangle in [Triangle::Lower, Triangle::Upper] {
            let out = linalg(Linalg::Eigh(triangle), &x, &specs).unwrap();
            let alone = linalg(Linalg::Eigh(triangle), &x, &specs[..1]).unwrap();
            assert_close(&wide(&alone[0]), &wide(&out[0]), tolerance);
            for b in 0..batch {
                let [w, v] = [0, 1].map(|i| part(&out[i], b, batch));
                assert!(w.is_sorted_by(|a, b| a.re <= b.re));
                assert_close(&product(&v, &adjoint(&v, n), n, n), &identity(n), tolerance);
                let scaled = product(&v, &diagonal(&w, n, n), n, n);
                let hermitian = mirrored(&part(&x, b, batch), n, triangle);
                assert_close(&product(&hermitian, &v, n, n), &scaled, tolerance);
            }
        }
    }
}

/// The Hermitian matrix of which `x` has this triangle.
fn mirrored(x: &Matrix, n: usize, triangle: Triangle) -> Matrix {
    let element = |i: usize, j: usize| match (i == j, has(triangle, i, j)) {
        (true, _) => x[i * n + i].re.into(),
        (_, true) => x[i * n + j],
        _ => x[j * n + i].conj(),
    };
    (0..n * n).map(|at| element(at / n, at % n)).collect()
}

/// R as LAPACK's unblocked Householder algorithm gives it.
fn lapack_r(mut x: Matrix, m: usize, n: usize) -> Matrix {
    for j in 0..m.min(n) {
        let norm: f64 = (j..m).map(|i| x[i * n + j].norm_sqr()).sum::<f64>().sqrt();
        if (j + 1..m).all(|i| x[i * n + j].re == 0.0) {
            continue;
        }
        let mut v: Vec<f64> = (j..m).map(|i| x[i * n + j].re).collect();
        v[0] += norm.copysign(v[0]);
        let length: f64 = v.iter().map(|v| v * v).sum();
        for column in j..n {
            let dot: f64 = (j..m).map(|i| v[i - j] * x[i * n + column].re).sum();
            for i in j..m {
                x[i * n + column] -= 2.0 * dot / length * v[i - j];
            }
        }
    }
    x.truncate(m.min(n) * n);
    x
}

#[test]
fn q_is_orthonormal_and_r_has_the_signs_of_lapack() {
    let check = |x: &Tensor, tolerance: f64| {
        let [batch, m, n] = *x.layout.shape else {
            panic!("not a batch")
        };
        let (k, dtype) = (m.min(n), x.layout.dtype);
        let specs = [
            Spec::new([batch, m, k], dtype),
            Spec::new([batch, k, n], dtype),
        ];
        let out = linalg(Linalg::Qr, x, &specs).unwrap();
        for b in (0..batch).filter(|_| k > 0) {
            let [q, r] = [0, 1].map(|i| part(&out[i], b, batch));
            let matrix = part(x, b, batch);
            assert_close(&product(&adjoint(&q, k), &q, m, k), &identity(k), tolerance);
            assert_close(&product(&q, &r, k, n), &matrix, tolerance);
            assert_close(&r, &lapack_r(matrix, m, n), tolerance);
            for i in 0..k {
                assert!(r[i * n..][..i].iter().all(|&x| x == Complex64::ZERO));
            }
        }
    };
    for (dtype, tolerance) in [DTYPES[0], DTYPES[2]] {
        for shape in OBLONG {
            check(&random(dtype, &shape, 4), tolerance);
        }
    }
    // Reflections that have nothing to do leave the sign as it is.
    let special = [
        [1.0f64, 0.0, 0.0, 1.0],
        [-1.0, 0.0, 0.0, -1.0],
        [0.0, 0.0, 0.0, 0.0],
        [3.0, 1.0, 4.0, 2.0],
        [2.0, 1.0, 0.0, -5.0],
    ];
    check(&tensor(&[5, 2, 2], &special.concat()), 1e-12);
}

#[test]
fn lu_exchanges_rows_for_the_largest() {
    for ((dtype, tolerance), [batch, m, n]) in [DTYPES[0], DTYPES[2]]
        .iter()
        .flat_map(|&d| OBLONG.map(|s| (d, s)))
    {
        let k = m.min(n);
        let x = random(dtype, &[batch, m, n], 5);
        let specs = specs(
            [dtype, Dtype::Uint32, Dtype::Uint32],
            [&[batch, m, n], &[batch, k], &[batch, m]],
        );
        let out = linalg(Linalg::Lu, &x, &specs).unwrap();
        let (exchanges, sources) = (values::<u32>(&out[1]), values::<u32>(&out[2]));
        for b in 0..batch {
            let (lu, x) = (part(&out[0], b, batch), part(&x, b, batch));
            let at = |i: usize, j: usize| lu[i * n + j];
            let mut rows: Vec<u32> = (0..m as u32).collect();
            for (i, &exchange) in exchanges[b * k..][..k].iter().enumerate() {
                assert!(exchange as usize >= i);
                rows.swap(i, exchange as usize);
            }
            assert_eq!(rows, sources[b * m..][..m]);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let lower = |l: usize| if l == i { Complex64::ONE } else { at(i, l) };
                let sum: Complex64 = (0..=i.min(j)).map(|l| lower(l) * at(l, j)).sum();
                assert!((sum - x[rows[i] as usize * n + j]).norm() < tolerance);
                assert!(j >= i || at(i, j).norm() <= 1.0 + tolerance);
            }
        }
    }
    let x = tensor(&[1, 2, 2], &[1.0f32, f32::NAN, 0.0, 1.0]);
    let uint = Dtype::Uint32;
    let specs = specs([Dtype::Float32, uint, uint], [&[1, 2, 2], &[1, 2], &[1, 2]]);
    let out = linalg(Linalg::Lu, &x, &specs).unwrap();
    assert!(values::<f32>(&out[0]).iter().any(|x| x.is_nan()));
}

#[test]
fn inverses() {
    for (dtype, tolerance) in [DTYPES[0], DTYPES[2]] {
        for [batch, n] in [[2, 4], [1, 1], [1, 0], [0, 2], [1, 40]] {
            let x = random(dtype, &[batch, n, n], 6);
            let all = same(Linalg::Inverse(None), &x).unwrap();
            for b in 0..batch {
                let unit = product(&part(&x, b, batch), &part(&all, b, batch), n, n);
                assert_close(&unit, &identity(n), tolerance * 100.0);
            }
        }
        // A large diagonal keeps the inverses of the triangles small.
        for n in [3usize, 50] {
            let mut x = noise(n * n, 7);
            x.iter_mut().step_by(n + 1).for_each(|x| *x += 10.0);
            let x: Vec<f64> = x.into_iter().map(f64::from).collect();
            let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let x = match dtype {
                Dtype::Float32 => tensor(&[1, n, n], &narrow),
                _ => tensor(&[1, n, n], &x),
            };
            for triangle in [Triangle::Lower, Triangle::Upper] {
                let half = |x: Matrix| -> Matrix {
                    let keep = |(at, x)| {
                        if has(triangle, at / n, at % n) {
                            x
                        } else {
                            Complex64::ZERO
                        }
                    };
                    x.into_iter().enumerate().map(keep).collect()
                };
                let inverse = wide(&same(Linalg::Inverse(Some(triangle)), &x).unwrap());
                assert_eq!(inverse, half(inverse.clone()));
                let unit = product(&half(wide(&x)), &inverse, n, n);
                assert_close(&unit, &identity(n), tolerance);
            }
        }
    }
}

#[test]
fn cholesky_factors() {
    for (dtype, tolerance) in [DTYPES[0], DTYPES[2]] {
        for [batch, n] in [[2, 4], [1, 1], [1, 0], [0, 2], [1, 60]] {
            let x = random(dtype, &[batch, n, n], 8);
            for triangle in [Triangle::Lower, Triangle::Upper] {
                // The diagonal dominates, and the other triangle is noise that is not read.
                let mut dominant = wide(&x);
                for (at, x) in dominant.iter_mut().enumerate() {
                    if n > 0 && at % (n * n) % (n + 1) == 0 {
                        *x = (2.0 * n as f64).into();
                    }
                }
                let real: Vec<f64> = dominant.iter().map(|x| x.re).collect();
                let narrow: Vec<f32> = real.iter().map(|&x| x as f32).collect();
                let x = match dtype {
                    Dtype::Float32 => tensor(&[batch, n, n], &narrow),
                    _ => tensor(&[batch, n, n], &real),
                };
                let out = same(Linalg::Cholesky(triangle), &x).unwrap();
                for b in 0..batch {
                    let factor = part(&out, b, batch);
                    let full = match triangle {
                        Triangle::Lower => product(&factor, &adjoint(&factor, n), n, n),
                        Triangle::Upper => product(&adjoint(&factor, n), &factor, n, n),
                    };
                    assert_close(
                        &full,
                        &mirrored(&part(&x, b, batch), n, triangle),
                        tolerance,
                    );
                    let zero =
                        |at: usize| has(triangle, at / n, at % n) || factor[at] == Complex64::ZERO;
                    assert!((0..n * n).all(zero));
                }
            }
        }
    }
}

/// The message of an error for one 2 x 2 matrix.
fn refusal(op: Linalg, x: [f32; 4]) -> String {
    let x = tensor(&[1, 2, 2], &x);
    let shape = |shape: &[usize], dtype| Spec::new(shape, dtype);
    let (float, complex) = (Dtype::Float32, Dtype::Complex64);
    let outputs = match op {
        Linalg::Eig => vec![shape(&[1, 2], complex), shape(&[1, 2, 2], complex)],
        Linalg::Eigh(_) => vec![shape(&[1, 2], float), shape(&[1, 2, 2], float)],
        Linalg::Qr => vec![shape(&[1, 2, 2], float); 2],
        Linalg::Svd => vec![shape(&[1, 2], float)],
        _ => vec![shape(&[1, 2, 2], float)],
    };
    linalg(op, &x, &outputs)
        .err()
        .map_or_else(String::new, |error| error.to_string())
}

#[test]
fn what_has_no_answer_is_an_error() {
    let (lower, upper) = (Triangle::Lower, Triangle::Upper);
    for bad in [f32::NAN, f32::INFINITY] {
        for op in [
            Linalg::Cholesky(upper),
            Linalg::Eig,
            Linalg::Eigh(upper),
            Linalg::Inverse(None),
            Linalg::Inverse(Some(upper)),
            Linalg::Qr,
            Linalg::Svd,
        ] {
            let error = refusal(op, [2.0, bad, 0.0, 1.0]);
            assert!(error.contains("element (0, 1)"), "{op:?}: {error}");
        }
        for op in [
            Linalg::Cholesky(lower),
            Linalg::Eigh(lower),
            Linalg::Inverse(Some(lower)),
        ] {
            assert_eq!(
                refusal(op, [2.0, bad, 0.0, 1.0]),
                "",
                "{op:?} does not read it"
            );
        }
    }
    for singular in [[1.0, 2.0, 2.0, 4.0], [0.0; 4]] {
        assert!(refusal(Linalg::Inverse(None), singular).contains("singular"));
    }
    assert!(refusal(Linalg::Inverse(Some(lower)), [0.0, 1.0, 1.0, 1.0]).contains("singular"));
    for indefinite in [[1.0, 2.0, 2.0, 1.0], [-1.0, 0.0, 0.0, 1.0], [0.0; 4]] {
        let error = refusal(Linalg::Cholesky(lower), indefinite);
        assert!(error.contains("not positive definite"), "{error}");
    }
}

#[test]
fn what_a_step_cannot_be_prepared_for() {
    let kernel = Kernel::Linalg(Linalg::Qr);
    let layout = |shape: &[usize], dtype| Spec::new(shape, dtype).layout();
    for dtype in [Dtype::Float16, Dtype::Complex64] {
        let x = layout(&[2, 2], dtype);
        let error = prepare(&kernel, std::slice::from_ref(&x), &[x.clone(), x.clone()])
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let vector = layout(&[2], Dtype::Float32);
    assert!(prepare(&kernel, &[vector], &[]).is_err());
    let x = tensor(&[2, 2], &[1.0f32; 4]);
    assert!(linalg(Linalg::Qr, &x, &[x.layout.spec()]).is_err());
    let small = Spec::new([1], Dtype::Float32);
    assert!(linalg(Linalg::Qr, &x, &[small.clone(), small]).is_err());
}
