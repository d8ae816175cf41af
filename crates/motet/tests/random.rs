//! Random numbers against those of MLX 0.32.4 on a CPU for the same keys and seeds.

use std::collections::HashSet;

use motet::random::{self, Samples};
use motet::{Array, Dtype, Result};
use num_complex::Complex32;

fn key() -> Array {
    random::key(7).unwrap()
}

fn floats(values: &[f32], shape: &[usize]) -> Array {
    Array::from_slice(values, shape).unwrap()
}

/// The elements as float32, of an array of this dtype and shape.
fn drawn(x: Result<Array>, dtype: Dtype, shape: &[usize]) -> Vec<f32> {
    let x = x.unwrap();
    assert_eq!((x.dtype(), &x.shape()[..]), (dtype, shape));
    motet::ops::astype(&x, Dtype::Float32)
        .unwrap()
        .to_vec()
        .unwrap()
}

#[track_caller]
fn near(got: Vec<f32>, want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let error = (got - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "{got} {want}");
    }
}

#[test]
fn keys_are_split_as_in_mlx() {
    let keys = random::split(&key(), 3).unwrap();
    assert_eq!(keys.shape()[..], [3, 2]);
    let expected = [
        276534068, 861967409, 1905761346, 1641862660, 2900896126, 1402713516,
    ];
    assert_eq!(keys.to_vec::<u32>().unwrap(), expected);
    let key = random::key((1 << 40) + 5).unwrap();
    assert_eq!(key.to_vec::<u32>().unwrap(), [256, 5]);
}

#[test]
fn bits_have_the_width_that_is_asked_for() {
    let bits = |width| random::bits([3], width, Some(&key()));
    let words = bits(4).unwrap().to_vec::<u32>().unwrap();
    // Less than a word each: the first one is that of one word alone.
    let word = random::bits([], 4, Some(&key()))
        .unwrap()
        .item::<u32>()
        .unwrap();
    let bytes = bits(1).unwrap().to_vec::<u8>().unwrap();
    assert_eq!((words.len(), &bytes[..]), (3, &word.to_le_bytes()[..3]));
    assert_eq!(bits(2).unwrap().dtype(), Dtype::Uint16);
    assert!(bits(8).is_err());
}

#[test]
fn uniform_numbers_are_those_of_mlx_to_the_bit() {
    let k = Some(&key());
    let got = drawn(random::uniform(0, 1, [5], None, k), Dtype::Float32, &[5]);
    assert_eq!(
        got,
        [0.06438561, 0.20069243, 0.65045923, 0.38227594, 0.6754175]
    );
    let (low, high) = (
        floats(&[0.0, 10.0, 20.0], &[3]),
        floats(&[1.0, 100.0], &[2, 1]),
    );
    let got = random::uniform(&low, &high, [2, 3], None, k);
    let expected = [
        0.06438561, 8.1937685, 11.569326, 38.227592, 70.787575, 46.127575,
    ];
    assert_eq!(drawn(got, Dtype::Float32, &[2, 3]), expected);
    let got = random::uniform(-1, 2, [5], Some(Dtype::Float16), k);
    let expected = [-0.8066406, -0.39794922, 0.9511719, 0.14648438, 1.0253906];
    assert_eq!(drawn(got, Dtype::Float16, &[5]), expected);
    let got = random::uniform(-1, 2, [5], Some(Dtype::Bfloat16), k);
    let expected = [-0.8046875, -0.3984375, 0.953125, 0.1484375, 1.03125];
    assert_eq!(drawn(got, Dtype::Bfloat16, &[5]), expected);
}

#[test]
fn integers_and_bools_are_those_of_mlx() {
    let k = Some(&key());
    let got = random::randint(-50, 50, [8], None, k).unwrap();
    assert_eq!(
        got.to_vec::<i32>().unwrap(),
        [-49, -13, -17, -41, 21, 49, 36, 36]
    );
    let got = random::randint(0, 256, [8], Some(Dtype::Uint8), k).unwrap();
    assert_eq!(
        got.to_vec::<u8>().unwrap(),
        [3, 97, 85, 23, 184, 255, 222, 220]
    );
    let got = random::randint(0, 2, [8], Some(Dtype::Bool), k).unwrap();
    let expected = [false, false, false, false, true, true, true, true];
    assert_eq!(got.to_vec::<bool>().unwrap(), expected);
    // Bounds in the wrong order: the lower one wins.
    let got = random::randint(5, 2, [6], None, k).unwrap();
    assert_eq!(got.to_vec::<i32>().unwrap(), [5; 6]);
    let got = random::bernoulli(0.4, Some([8].into()), k).unwrap();
    let expected = [true, true, true, true, false, false, false, false];
    assert_eq!(got.to_vec::<bool>().unwrap(), expected);
    let got = random::bernoulli(floats(&[0.1, 0.9], &[2, 1]), Some([2, 4].into()), k).unwrap();
    let expected = [true, false, false, true, true, false, true, true];
    assert_eq!(got.to_vec::<bool>().unwrap(), expected);
    let always = random::bernoulli(floats(&[1.0; 10_000], &[10_000]), None, k).unwrap();
    assert!(always.to_vec::<bool>().unwrap().iter().all(|&x| x));
}

#[test]
fn permutations_are_those_of_mlx() {
    let k = Some(&key());
    let got = random::permutation(8, 0, k).unwrap();
    assert_eq!(got.to_vec::<u32>().unwrap(), [0, 3, 2, 1, 4, 7, 6, 5]);
    let x = Array::from_slice(&std::array::from_fn::<i32, 12, _>(|i| i as i32), [3, 4]).unwrap();
    for axis in [1, -1] {
        let got = random::permutation(&x, axis, k).unwrap();
        let expected = [0, 1, 3, 2, 4, 5, 7, 6, 8, 9, 11, 10];
        assert_eq!(got.to_vec::<i32>().unwrap(), expected);
    }
    // Rows stay together.
    let other = random::key(1).unwrap();
    let got = random::permutation(&x, 0, Some(&other)).unwrap();
    let order = random::permutation(3, 0, Some(&other))
        .unwrap()
        .to_vec::<u32>()
        .unwrap();
    let expected: Vec<i32> = order
        .iter()
        .flat_map(|&row| (0..4).map(move |column| row as i32 * 4 + column))
        .collect();
    assert_eq!(got.to_vec::<i32>().unwrap(), expected);
}

#[test]
fn categories_are_those_of_mlx() {
    let k = Some(&key());
    let logits = [0.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 0.0, 0.0, 5.0, 0.0, 5.0];
    let logits = floats(&logits, &[3, 4]);
    let draw = |axis, samples| {
        let got = random::categorical(&logits, axis, samples, k).unwrap();
        (got.shape().to_vec(), got.to_vec::<u32>().unwrap())
    };
    assert_eq!(draw(-1, None), (vec![3], vec![3, 1, 1]));
    let counted = vec![1, 1, 1, 2, 2, 2, 1, 1, 0, 2, 2, 0];
    assert_eq!(draw(0, Some(Samples::Count(3))), (vec![4, 3], counted));
    let shaped = |shape: [usize; 2]| Some(Samples::Shape(shape.into()));
    assert_eq!(
        draw(-1, shaped([2, 3])),
        (vec![2, 3], vec![2, 0, 1, 2, 1, 1])
    );
    let expected = vec![0, 2, 0, 2, 1, 1, 0, 2];
    assert_eq!(draw(0, shaped([2, 4])), (vec![2, 4], expected));
}

#[test]
fn distributions_are_those_of_mlx_to_rounding() {
    let k = Some(&key());
    let (single, half) = (Dtype::Float32, Dtype::Float16);
    let got = drawn(random::normal([5], None, 0, 1, k), single, &[5]);
    near(
        got,
        &[-1.518965, -0.8391503, 0.38656068, -0.2995087, 0.45492253],
        1e-6,
    );
    let loc = floats(&[0.0, 10.0, 20.0], &[3]);
    let got = drawn(random::normal([2, 3], None, &loc, 2.0, k), single, &[2, 3]);
    let expected = [
        -3.03793, 8.321699, 19.71691, -0.5990174, 10.909845, 19.101328,
    ];
    near(got, &expected, 1e-6);
    let got = drawn(random::normal([5], Some(half), 1.0, 2.0, k), half, &[5]);
    near(
        got,
        &[-2.0371094, -0.6777344, 1.7734375, 0.4008789, 1.9101562],
        1e-3,
    );
    let double = random::normal([3], Some(Dtype::Float64), 0, 1, k).unwrap();
    let expected = [-0.7554662437553414, -0.18615793049901, -0.11654735256144719];
    for (got, want) in double.to_vec::<f64>().unwrap().iter().zip(expected) {
        assert!((got - want).abs() < 1e-6);
    }
    let got = random::normal([3], Some(Dtype::Complex64), 1.0, 2.0, k).unwrap();
    let expected = [
        Complex32::new(-1.1481409, -1.1867378),
        Complex32::new(0.7998251, -0.42356926),
        Complex32::new(1.6433576, -0.63545686),
    ];
    for (got, want) in got.to_vec::<Complex32>().unwrap().iter().zip(expected) {
        assert!((got - want).norm() < 1e-5);
    }
    let upper = floats(&[0.5, 1.0, 2.0], &[3]);
    let got = drawn(
        random::truncated_normal(-1, &upper, None, None, k),
        single,
        &[3],
    );
    near(got, &[-0.5872179, -0.12669599, 0.07521322], 1e-6);
    let got = random::truncated_normal(-1, 1, Some([4].into()), Some(half), k);
    let expected = [-0.48950195, -0.47924805, -0.079589844, -0.44848633];
    near(drawn(got, half, &[4]), &expected, 2e-3);
    let got = drawn(random::gumbel([5], None, k), single, &[5]);
    near(
        got,
        &[-1.009003, -0.4737352, 0.8437918, 0.03914363, 0.9354117],
        1e-6,
    );
    let brain = Dtype::Bfloat16;
    let got = drawn(random::gumbel([5], Some(brain), k), brain, &[5]);
    near(
        got,
        &[-1.0078125, -0.47070312, 0.84765625, 0.039794922, 0.93359375],
        1e-2,
    );
    let got = drawn(random::laplace([5], None, 1.0, 2.0, k), single, &[5]);
    near(
        got,
        &[5.0994344, 2.8256688, 0.28402406, 1.5369306, 0.13586318],
        1e-6,
    );
    let got = drawn(random::laplace([5], Some(half), 0.0, 1.0, k), half, &[5]);
    near(
        got,
        &[2.0488281, 0.91259766, -0.35791016, 0.2685547, -0.4321289],
        1e-3,
    );
}

#[test]
fn normal_vectors_have_their_covariance() {
    let k = Some(&key());
    let values = [2.0, 0.5, 0.0, 0.5, 1.0, 0.25, 0.0, 0.25, 3.0];
    let cov = floats(&values, &[3, 3]);
    let mean = floats(&[1.0, 2.0, 3.0], &[3]);
    let got = random::multivariate_normal(&mean, &cov, [2], None, k);
    let expected = [
        -1.3003054, 0.84967375, 2.6866887, 0.6800311, 2.3376443, 2.2670403,
    ];
    near(drawn(got, Dtype::Float32, &[2, 3]), &expected, 1e-5);
    let covs = [values, values.map(|x| 2.0 * x)].concat();
    let (mean, cov) = (floats(&[0.0; 6], &[2, 3]), floats(&covs, &[2, 3, 3]));
    let got = random::multivariate_normal(&mean, &cov, [2, 2], None, k);
    let expected = [
        0.19682293,
        -1.2053127,
        -1.7535521,
        -1.2743113,
        -0.06333725,
        3.7613194,
        0.9265063,
        -1.8027662,
        -3.9552183,
        -1.5677162,
        -1.745766,
        -1.8869289,
    ];
    near(drawn(got, Dtype::Float32, &[2, 2, 3]), &expected, 1e-5);
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let k = Some(&key());
    let zeros = |shape: &[usize]| floats(&vec![0.0; shape.iter().product()], shape);
    assert!(random::uniform(0, 1, [3], Some(Dtype::Int32), k).is_err());
    assert!(random::uniform(0, 1, [3], Some(Dtype::Float64), k).is_err());
    assert!(random::uniform(zeros(&[4]), 1, [3], None, k).is_err());
    assert!(random::uniform(zeros(&[2, 3]), 1, [3], None, k).is_err());
    assert!(random::uniform(0, 1, [3], None, Some(&zeros(&[2]))).is_err());
    let keys = random::split(&key(), 2).unwrap();
    assert!(random::uniform(0, 1, [3], None, Some(&keys)).is_err());
    assert!(random::normal([3], Some(Dtype::Int32), 0, 1, k).is_err());
    assert!(random::randint(0, 9, [3], Some(Dtype::Float32), k).is_err());
    assert!(random::bernoulli(1, None, k).is_err());
    assert!(random::bernoulli(zeros(&[2]), Some([3].into()), k).is_err());
    assert!(random::laplace([3], Some(Dtype::Complex64), 0.0, 1.0, k).is_err());
    assert!(random::permutation(-5, 0, k).is_err());
    assert!(random::permutation(zeros(&[2]), 1, k).is_err());
    let samples = Some(Samples::Shape([2].into()));
    assert!(random::categorical(&zeros(&[3, 4]), -1, samples, k).is_err());
    assert!(random::categorical(&zeros(&[3, 4]), 2, None, k).is_err());
    let (mean, cov) = (zeros(&[3]), zeros(&[3, 2]));
    assert!(random::multivariate_normal(&mean, &cov, [1], None, k).is_err());
}

/// Terabytes are refused before any memory is taken.
#[test]
fn more_than_the_memory_is_an_error() {
    let huge = random::uniform(0, 1, [1 << 20, 1 << 20], None, Some(&key())).unwrap();
    let error = motet::ops::sum(&huge, ..).unwrap().eval().unwrap_err();
    assert_eq!(error.kind(), motet::ErrorKind::Memory);
    assert!(random::bits([1 << 30, 1 << 30, 1 << 30], 4, Some(&key())).is_err());
}

/// One test, as the sequence of keys is the process's: nothing else here draws without a key.
#[test]
fn draws_without_a_key_follow_the_seed_and_never_repeat() {
    random::seed(42);
    let got = random::uniform(0, 1, [3], None, None).unwrap();
    assert_eq!(
        got.to_vec::<f32>().unwrap(),
        [0.28517026, 0.6119449, 0.17565258]
    );
    let got = random::randint(0, 100, [4], None, None).unwrap();
    assert_eq!(got.to_vec::<i32>().unwrap(), [75, 45, 82, 36]);
    let got = drawn(random::normal([2], None, 0, 1, None), Dtype::Float32, &[2]);
    near(got, &[0.50603443, 0.10057635], 1e-6);
    random::seed(42);
    let draw = || -> Vec<Vec<u32>> {
        let one = || random::bits([4], 4, None).unwrap().to_vec().unwrap();
        (0..50).map(|_| one()).collect()
    };
    let mut together = std::thread::scope(|s| {
        let threads = [(); 8].map(|()| s.spawn(draw));
        threads.map(|thread| thread.join().unwrap()).concat()
    });
    assert_eq!(together.iter().collect::<HashSet<_>>().len(), 400);
    random::seed(42);
    let mut alone = [(); 8].map(|()| draw()).concat();
    together.sort_unstable();
    alone.sort_unstable();
    assert_eq!(together, alone);
}
