//! Linear algebra agrees with MLX: `data/linalg.npz` holds inputs and what MLX gave for them, made
//! by `tools/make_linalg_tests.py`.

use std::path::Path;

use motet::linalg::{self, Order, Triangle};
use motet::ops::{self, Axes};
use motet::prelude::*;
use motet::{ErrorKind, Result};
use num_complex::Complex32;

#[test]
fn results_are_those_of_mlx() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/linalg.npz");
    let arrays = motet_io::read(Path::new(data)).unwrap();
    let array = |name: &str| Array::from_tensor(arrays[name].clone());
    let mut compared = 0;
    for name in arrays.keys() {
        let [function, inputs, options, number] = name.split('/').collect::<Vec<_>>()[..] else {
            continue;
        };
        let inputs: Vec<Array> = inputs.split(',').map(array).collect();
        let outputs = call(function, &inputs, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_close(
            name,
            &outputs[number.parse::<usize>().unwrap()],
            &array(name),
        );
        compared += 1;
    }
    assert!(compared > 500, "{compared}");
}

fn call(function: &str, x: &[Array], options: &str) -> Result<Vec<Array>> {
    let triangle = Triangle::new(options == "upper");
    let a = &x[0];
    Ok(match function {
        "norm" => vec![norm(a, options)?],
        "qr" => <[Array; 2]>::from(linalg::qr(a)?).into(),
        "svdvals" => vec![linalg::svdvals(a)?],
        "pinv" => vec![linalg::pinv(a)?],
        "lu" => <[Array; 3]>::from(linalg::lu(a)?).into(),
        "lu_factor" => <[Array; 2]>::from(linalg::lu_factor(a)?).into(),
        "inv" => vec![linalg::inv(a)?],
        "tri_inv" => vec![linalg::tri_inv(a, triangle)?],
        "cholesky" => vec![linalg::cholesky(a, triangle)?],
        "cholesky_inv" => vec![linalg::cholesky_inv(a, triangle)?],
        "eigvalsh" => vec![linalg::eigvalsh(a, triangle)?],
        "det" => vec![linalg::det(a)?],
        "slogdet" => <[Array; 2]>::from(linalg::slogdet(a)?).into(),
        "solve" => vec![linalg::solve(a, &x[1])?],
        "solve_triangular" => vec![linalg::solve_triangular(a, &x[1], triangle)?],
        "cross" => vec![linalg::cross(a, &x[1], options.parse().ok())?],
        other => panic!("no function {other}"),
    })
}

/// Options: an order, axes and whether these stay.
fn norm(x: &Array, options: &str) -> Result<Array> {
    let [order, axes, keepdims] = options.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{options}");
    };
    let order = match order {
        "None" => None,
        "fro" => Some(Order::Fro),
        "nuc" => Some(Order::Nuc),
        p => Some(Order::P(p.parse().unwrap())),
    };
    let axes: Axes = match axes {
        "all" => (..).into(),
        axes => axes
            .split(',')
            .map(|axis| axis.parse().unwrap())
            .collect::<Vec<i32>>()
            .into(),
    };
    match keepdims {
        "True" => linalg::norm(x, order, ops::keepdims(axes)),
        _ => linalg::norm(x, order, axes),
    }
}

/// Compares to rounding, relative to the largest element.
fn assert_close(name: &str, got: &Array, expected: &Array) {
    assert_eq!(got.spec(), expected.spec(), "{name}");
    let tolerance = match got.dtype() {
        Dtype::Float16 => 4e-3,
        Dtype::Float64 => 1e-12,
        _ => 2e-5,
    };
    let wide = |x: &Array| -> Vec<[f64; 2]> {
        match x.dtype() {
            Dtype::Complex64 => {
                let pair = |x: Complex32| [x.re.into(), x.im.into()];
                x.to_vec().unwrap().into_iter().map(pair).collect()
            }
            _ => {
                let x = ops::astype(x, Dtype::Float64).unwrap();
                x.to_vec::<f64>()
                    .unwrap()
                    .into_iter()
                    .map(|x| [x, 0.0])
                    .collect()
            }
        }
    };
    let (got, expected) = (wide(got), wide(expected));
    let sizes = expected.iter().flatten().map(|x| x.abs());
    let largest = sizes.filter(|x| x.is_finite()).fold(1.0, f64::max);
    for (a, b) in got.iter().flatten().zip(expected.iter().flatten()) {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest;
        assert!(same, "{name}: {got:?} instead of {expected:?}");
    }
}

#[test]
fn determinants_have_the_precision_of_the_dtype() {
    let a = Array::from_slice(&[1.0 + 1e-12, 1.0, 1.0, 1.0], [2, 2]).unwrap();
    let determinant = linalg::det(&a).unwrap().item::<f64>().unwrap();
    assert!((determinant - 1e-12).abs() < 1e-15, "{determinant}");
    let (sign, logarithm) = linalg::slogdet(&a).unwrap();
    assert_eq!(sign.item::<f64>().unwrap(), 1.0);
    assert!((logarithm.item::<f64>().unwrap() - 1e-12f64.ln()).abs() < 1e-3);
}

#[test]
fn batches_broadcast_in_systems() {
    let a = Array::from_slice(&[2.0f32, 0.0, 0.0, 4.0], [2, 2]).unwrap();
    let b = Array::from_slice(&[2.0f32, 4.0, 6.0, 8.0, 10.0, 12.0], [3, 2, 1]).unwrap();
    let x = linalg::solve(&a, &b).unwrap();
    assert_eq!(*x.shape(), [3, 2, 1].into());
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0, 1.0, 3.0, 2.0, 5.0, 3.0]);
    let many = ops::broadcast_to(&a, [5, 2, 2]).unwrap();
    let vector = Array::from_slice(&[2.0f32, 4.0], [2]).unwrap();
    for x in [
        linalg::solve(&many, &vector).unwrap(),
        linalg::solve_triangular(&many, &vector, Triangle::Upper).unwrap(),
    ] {
        assert_eq!(*x.shape(), [5, 2].into());
        assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 10]);
    }
}

#[test]
fn empty_matrices() {
    let empty = |shape: [usize; 2]| Array::from_slice::<f32>(&[], shape).unwrap();
    let shape = |x: &Array| x.to_vec::<f32>().map(|_| x.shape().to_vec()).unwrap();
    assert_eq!(shape(&linalg::inv(&empty([0, 0])).unwrap()), [0, 0]);
    assert_eq!(shape(&linalg::pinv(&empty([0, 3])).unwrap()), [3, 0]);
    assert_eq!(
        shape(&linalg::cholesky_inv(&empty([0, 0]), Triangle::Lower).unwrap()),
        [0, 0]
    );
    assert_eq!(
        shape(&linalg::solve(empty([0, 0]), empty([0, 2])).unwrap()),
        [0, 2]
    );
    let (p, l, u) = linalg::lu(&empty([3, 0])).unwrap();
    assert_eq!(p.to_vec::<u32>().unwrap(), [0, 1, 2]);
    assert_eq!((shape(&l), shape(&u)), (vec![3, 0], vec![0, 0]));
    assert_eq!(
        linalg::det(&empty([0, 0])).unwrap().item::<f32>().unwrap(),
        1.0
    );
    let (sign, logdet) = linalg::slogdet(&empty([0, 0])).unwrap();
    assert_eq!(
        (sign.item::<f32>().unwrap(), logdet.item::<f32>().unwrap()),
        (1.0, 0.0)
    );
    assert_eq!(shape(&linalg::svd(&empty([0, 3])).unwrap().2), [3, 3]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let x = |shape: &[usize]| ops::broadcast_to(&Array::from(1.0f32), shape).unwrap();
    let refused = |result: Result<Array>, why: &str| {
        let error = result.err().unwrap_or_else(|| panic!("not refused: {why}"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
    };
    let p = |p| Some(Order::P(p));
    refused(linalg::norm(&x(&[2, 2]), p(0.0), ..), "order 0");
    refused(linalg::norm(&x(&[2, 2]), p(3.0), ..), "order 3");
    refused(
        linalg::norm(&x(&[2]), Some(Order::Fro), ..),
        "Fro is a norm of matrices",
    );
    refused(linalg::norm(&x(&[2, 2, 2]), p(2.0), ..), "got 3 axes");
    refused(linalg::norm(&x(&[2, 2, 2]), None, [0, 1, 2]), "got 3 axes");
    refused(linalg::norm(&x(&[]), p(2.0), ..), "got 0 axes");
    refused(linalg::norm(&x(&[2]), None, 1), "axis 1");
    refused(linalg::norm(&x(&[2, 2]), None, [0, -2]), "named twice");
    refused(linalg::cross(x(&[4]), x(&[4]), None), "2 or 3");
    refused(linalg::cross(x(&[3, 4]), x(&[3]), Some(0)), "2 or 3");
    refused(linalg::cross(x(&[2, 3]), x(&[4, 3]), None), "do not fit");
    refused(linalg::cross(x(&[]), 1.0, None), "axis -1");
    refused(linalg::solve(x(&[2, 3]), x(&[2])), "expected");
    refused(linalg::solve(x(&[2, 2]), x(&[3])), "expected");
    refused(linalg::solve(x(&[2, 2]), 1.0), "expected");
    refused(linalg::solve(x(&[2, 2, 2]), x(&[3, 2, 1])), "broadcast");
    refused(linalg::det(&x(&[2, 3])), "square");
    refused(
        linalg::det(&ops::astype(&x(&[2, 2]), Dtype::Complex64).unwrap()),
        "real",
    );
    refused(
        linalg::pinv(&ops::astype(&x(&[2, 2]), Dtype::Float16).unwrap()),
        "float16",
    );
    refused(linalg::pinv(&x(&[2])), "matrices");
    refused(linalg::lu(&x(&[2])).map(|lu| lu.0), "matrices");
}

#[test]
fn what_only_values_show_is_an_error_of_the_result() {
    let singular = Array::from_slice(&[1.0f32, 2.0, 2.0, 4.0], [2, 2]).unwrap();
    let right = Array::from_slice(&[1.0f32, 2.0], [2]).unwrap();
    for result in [
        linalg::inv(&singular),
        linalg::solve(&singular, &right),
        linalg::cholesky(&ops::negative(&singular).unwrap(), Triangle::Lower),
        linalg::eigvals(&ops::divide(&singular, 0.0).unwrap()),
    ] {
        let error = result.unwrap().eval().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}
