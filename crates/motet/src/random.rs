//! Random numbers: MLX's `random`.
//!
//! A key gives the same numbers everywhere, whatever the threads, and the same as in MLX: bits,
//! uniform numbers, integers and permutations to the bit, others to rounding. Keys are explicit:
//! make one of a seed with [`key`], and [`split`] it where several draws are to be independent.
//!
//! Without a key each draw takes the next one of a sequence that the whole process shares. Draws on
//! different threads never repeat each other. [`seed`] starts the sequence again, for all threads: a
//! program that draws on one thread gets the numbers that MLX gets after the same seed; with several
//! threads the keys are the same, and which thread gets which depends on who asks first. Pass keys
//! where that matters.
//!
//! A function that is traced, to be exported or compiled, draws its keys while it is traced: every
//! call of the result gets the same numbers. Make the key an input of such functions.
//!
//! Functions have MLX's order of parameters. `dtype` is float32 (int32 for [`randint`]) where it is
//! `None`.

use motet_core::array::apply::{apply, apply_one, astype, broadcast_to};
use motet_core::array::{Array, Operand};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::ops::indexing::Gather;
use motet_core::ops::linalg::SVD;
use motet_core::ops::random::RandomBits;
use motet_core::ops::reduce::{ArgReduce, ArgReduction};
use motet_core::ops::shape::{ExpandDims, Squeeze, Transpose, View};
use motet_core::ops::sort::ArgSort;
use motet_core::random::key_sequence;
use motet_core::shape::{Shape, normalize_axis};

use crate::ops;

/// The key of a seed: a uint32 array of shape (2).
///
/// # Errors
/// Where there is no memory for it.
///
/// ```
/// let key = motet::random::key(7)?;
/// assert_eq!(key.to_vec::<u32>()?, [0, 7]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn key(seed: u64) -> Result<Array> {
    Array::from_slice(&motet_core::random::key(seed), [2])
}

/// Starts the sequence of keys that draws without a key take, for all threads.
///
/// ```
/// use motet::random;
///
/// random::seed(0);
/// let first = random::uniform(0, 1, [2], None, None)?.to_vec::<f32>()?;
/// random::seed(0);
/// assert_eq!(random::uniform(0, 1, [2], None, None)?.to_vec::<f32>()?, first);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn seed(seed: u64) {
    key_sequence().seed(seed);
}

/// Random bits: an array of this shape of integers of `width` bytes (1, 2 or 4), uint8 to uint32.
///
/// # Errors
/// Where the width is another, or the key is not a uint32 array of shape (2).
///
/// ```
/// use motet::random;
///
/// let bits = random::bits([3], 4, Some(&random::key(0)?))?;
/// assert_eq!(bits.to_vec::<u32>()?, [4146024105, 1351547692, 2718843009]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn bits(shape: impl Into<Shape>, width: i32, key: Option<&Array>) -> Result<Array> {
    let key = match key {
        Some(key) => key.clone(),
        None => Array::from_slice(&key_sequence().next_key(), [2])?,
    };
    if key.dtype() != Dtype::Uint32 || **key.shape() != [2] {
        return Err(Error::invalid(
            "bits",
            format!("got {} as key, expected uint32(2); see split", key.spec()),
        ));
    }
    let shape = shape.into();
    apply_one(RandomBits { shape, width }, &[key])
}

/// Independent keys made of one: a uint32 array of shape (num, 2).
///
/// # Errors
/// Where the key is not a uint32 array of shape (2).
///
/// ```
/// use motet::random;
///
/// let keys = random::split(&random::key(0)?, 2)?;
/// assert_eq!(keys.to_vec::<u32>()?, [4146024105, 967050713, 2718843009, 1272950319]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn split(key: &Array, num: usize) -> Result<Array> {
    bits([num, 2], 4, Some(key))
}

/// Numbers drawn evenly from `low` (inclusive) to `high` (exclusive), which broadcast to the shape.
/// dtype: float32, float16 or bfloat16.
///
/// # Errors
/// Where the dtype is another, the bounds do not broadcast to the shape, or the key is none.
///
/// ```
/// use motet::{Dtype, random};
///
/// let key = random::key(0)?;
/// let x = random::uniform(-1, 1, [2, 3], Dtype::Float16.into(), Some(&key))?;
/// assert_eq!((x.dtype(), &x.shape()[..]), (Dtype::Float16, &[2, 3][..]));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn uniform(
    low: impl Into<Operand>,
    high: impl Into<Operand>,
    shape: impl Into<Shape>,
    dtype: Option<Dtype>,
    key: Option<&Array>,
) -> Result<Array> {
    let dtype = dtype.unwrap_or(Dtype::Float32);
    let below_one = match dtype {
        Dtype::Float32 => 1.0 - 2f64.powi(-24),
        Dtype::Float16 => 1.0 - 2f64.powi(-11),
        Dtype::Bfloat16 => 1.0 - 2f64.powi(-8),
        dtype => {
            return Err(Error::invalid(
                "uniform",
                format!("got {dtype}, expected float32, float16 or bfloat16"),
            ));
        }
    };
    let (low, high) = (number(low, dtype)?, number(high, dtype)?);
    let range = ops::subtract(high, &low)?;
    let shape = shape.into();
    check_shape("uniform", range.shape(), &shape)?;
    let drawn = astype(&bits(shape, 4, key)?, Dtype::Float32)?;
    let unit = ops::minimum(ops::divide(drawn, 4294967296.0)?, below_one)?;
    ops::add(ops::multiply(range, astype(&unit, dtype)?)?, low)
}

/// The bounds of a draw as MLX makes arrays of them: a number is int32 or float32 first.
fn number(x: impl Into<Operand>, dtype: Dtype) -> Result<Array> {
    astype(&x.into().into_own_array()?, dtype)
}

/// Refuses parameters that broadcast to more than what is asked for.
fn check_shape(name: &str, parameters: &Shape, shape: &Shape) -> Result<()> {
    match parameters.broadcast(shape) {
        Ok(both) if both == *shape => Ok(()),
        _ => Err(Error::invalid(
            name,
            format!("parameters of shape {parameters} do not broadcast to {shape}"),
        )),
    }
}

fn check_float(name: &str, dtype: Dtype) -> Result<()> {
    match dtype.is_float() {
        true => Ok(()),
        false => Err(Error::invalid(
            name,
            format!("got {dtype}, expected a real floating dtype"),
        )),
    }
}

/// Numbers drawn evenly from above -1 to below 1, in float32.
fn symmetric(shape: impl Into<Shape>, key: Option<&Array>) -> Result<Array> {
    let above_minus_one = 2f64.powi(-24) - 1.0;
    uniform(above_minus_one, 1.0, shape, None, key)
}

/// Numbers from the normal distribution with mean `loc` and standard deviation `scale`. Complex ones
/// have a variance of `scale` squared, half of it in each part. dtype: any floating one, or
/// complex64.
///
/// # Errors
/// Where the dtype is another, the parameters do not broadcast with the shape, or the key is none.
///
/// ```
/// use motet::random;
///
/// let x = random::normal([10_000], None, 5, 2, Some(&random::key(0)?))?;
/// let mean = x.to_vec::<f32>()?.iter().sum::<f32>() / 10_000.0;
/// assert!((mean - 5.0).abs() < 0.1);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn normal(
    shape: impl Into<Shape>,
    dtype: Option<Dtype>,
    loc: impl Into<Operand>,
    scale: impl Into<Operand>,
    key: Option<&Array>,
) -> Result<Array> {
    let (shape, dtype) = (shape.into(), dtype.unwrap_or(Dtype::Float32));
    let (loc, scale) = (loc.into(), scale.into());
    if dtype == Dtype::Complex64 {
        let rank = shape.len() as i32;
        let parts = ops::erfinv(symmetric([&*shape, &[2]].concat(), key)?)?;
        let pairs = apply_one(View { dtype }, &[parts])?;
        let standard = apply_one(Squeeze { axes: vec![rank] }, &[pairs])?;
        return placed(standard, loc, scale);
    }
    check_float("normal", dtype)?;
    let standard = astype(&ops::erfinv(symmetric(shape, key)?)?, dtype)?;
    let root = Operand::from(std::f64::consts::SQRT_2).into_array(dtype)?;
    let scale = match scale {
        scale if is(&scale, 1.0) => root,
        scale => ops::multiply(root, scale.into_array(dtype)?)?,
    };
    placed(standard, loc, scale.into())
}

/// `loc + scale * x`, both parameters in the dtype of `x`; 0 and 1 change nothing.
fn placed(x: Array, loc: Operand, scale: Operand) -> Result<Array> {
    let dtype = x.dtype();
    let scaled = match is(&scale, 1.0) {
        true => x,
        false => ops::multiply(scale.into_array(dtype)?, x)?,
    };
    match is(&loc, 0.0) {
        true => Ok(scaled),
        false => ops::add(loc.into_array(dtype)?, scaled),
    }
}

/// Whether it is this number.
fn is(operand: &Operand, number: f64) -> bool {
    match *operand {
        Operand::Int(value) => value as f64 == number,
        Operand::Float(value) => value == number,
        _ => false,
    }
}

/// Vectors from the normal distribution with mean `mean` (..., n) and covariance `cov` (..., n, n),
/// of shape `shape + (n)`, where `shape` broadcasts with the dimensions before those of `mean` and
/// `cov`. float32.
///
/// # Errors
/// Where the dtype is another, shapes do not fit, or the key is none.
///
/// ```
/// use motet::{Array, random};
///
/// let mean = Array::from_slice(&[10.0f32, -10.0], [2])?;
/// let cov = Array::from_slice(&[1.0f32, 0.5, 0.5, 1.0], [2, 2])?;
/// let x = random::multivariate_normal(&mean, &cov, [3], None, None)?;
/// assert_eq!(x.shape()[..], [3, 2]);
/// assert!(x.to_vec::<f32>()?.chunks(2).all(|pair| pair[0] > 0.0 && pair[1] < 0.0));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn multivariate_normal(
    mean: &Array,
    cov: &Array,
    shape: impl Into<Shape>,
    dtype: Option<Dtype>,
    key: Option<&Array>,
) -> Result<Array> {
    let shape = shape.into();
    let unfit = || {
        Error::invalid(
            "multivariate_normal",
            format!(
                "mean {}, cov {} and shape {shape} do not fit: expected (..., n) and (..., n, n) \
                 of float32",
                mean.spec(),
                cov.spec()
            ),
        )
    };
    let is_float32 = |dtype| dtype == Dtype::Float32;
    let (Some((&n, mean_batch)), Some((cov_batch, &[rows, columns]))) = (
        mean.shape().split_last(),
        cov.shape().split_last_chunk::<2>(),
    ) else {
        return Err(unfit());
    };
    let square = rows == n && columns == n;
    let floats =
        is_float32(mean.dtype()) && is_float32(cov.dtype()) && dtype.is_none_or(is_float32);
    if !square || !floats {
        return Err(unfit());
    }
    let batch = Shape::new(mean_batch).broadcast(&Shape::new(cov_batch));
    let batch = batch
        .and_then(|batch| batch.broadcast(&shape))
        .map_err(|_| unfit())?;
    // The symmetric root of the covariance.
    let svd = apply(SVD { compute_uv: true }, std::slice::from_ref(cov))?;
    let [u, s, vt] = &svd[..] else {
        return Err(unfit());
    };
    let root = ops::multiply(
        u,
        apply_one(ExpandDims { axes: vec![-2] }, &[ops::sqrt(s)?])?,
    )?;
    let root = ops::matmul(&root, vt)?;
    let root = broadcast_to(&root, &Shape::from([&*batch, &[n, n]].concat()))?;
    let standard = normal([&*batch, &[n]].concat(), None, 0, 1, key)?;
    let row = apply_one(ExpandDims { axes: vec![-2] }, &[standard])?;
    let product = apply_one(Squeeze { axes: vec![-2] }, &[ops::matmul(&row, &root)?])?;
    ops::add(mean, product)
}

/// Integers drawn evenly from `low` (inclusive) to `high` (exclusive), which broadcast to the shape.
/// They are made of float32 numbers: ranges of more than 2^24 have gaps. dtype: integers or bool;
/// int32 where it is `None`.
///
/// # Errors
/// Where the dtype is another, the bounds do not broadcast to the shape, or the key is none.
///
/// ```
/// use motet::random;
///
/// let dice = random::randint(1, 7, [100], None, None)?.to_vec::<i32>()?;
/// assert!(dice.iter().all(|n| (1..7).contains(n)));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn randint(
    low: impl Into<Operand>,
    high: impl Into<Operand>,
    shape: impl Into<Shape>,
    dtype: Option<Dtype>,
    key: Option<&Array>,
) -> Result<Array> {
    let dtype = dtype.unwrap_or(Dtype::Int32);
    if dtype.is_inexact() {
        return Err(Error::invalid(
            "randint",
            format!("got {dtype}, expected an integer dtype or bool"),
        ));
    }
    let (low, high) = (low.into().into_own_array()?, high.into().into_own_array()?);
    let drawn = ops::floor(uniform(&low, &high, shape, None, key)?)?;
    // Rounding may have reached the upper bound.
    let last = astype(&ops::subtract(&high, Array::from(1i32))?, dtype)?;
    let drawn = ops::minimum(astype(&drawn, dtype)?, last)?;
    ops::maximum(drawn, astype(&low, dtype)?)
}

/// Bools that are true with probability `p`, of the shape, which `p` broadcasts to; of that of `p`
/// where it is `None`.
///
/// # Errors
/// Where `p` is not floating or does not broadcast to the shape, or the key is none.
///
/// ```
/// use motet::random;
///
/// let coins = random::bernoulli(0.5, Some([1000].into()), None)?.to_vec::<bool>()?;
/// let heads = coins.iter().filter(|&&head| head).count();
/// assert!((400..600).contains(&heads));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn bernoulli(
    p: impl Into<Operand>,
    shape: Option<Shape>,
    key: Option<&Array>,
) -> Result<Array> {
    let p = p.into().into_own_array()?;
    check_float("bernoulli", p.dtype())?;
    let shape = shape.unwrap_or_else(|| p.shape().clone());
    check_shape("bernoulli", p.shape(), &shape)?;
    // The float32 above all that 32 bits become, so that a probability of one is always true.
    let above = f32::from_bits(4294967296f32.to_bits() + 1);
    let drawn = astype(&bits(shape, 4, key)?, Dtype::Float32)?;
    ops::less(drawn, ops::multiply(p, Array::from(above))?)
}

/// Numbers from the standard normal distribution that are between `lower` and `upper`, which
/// broadcast to the shape; of the shape that they broadcast to where it is `None`. dtype: float32,
/// float16 or bfloat16.
///
/// # Errors
/// Where the dtype is another, the bounds do not broadcast to the shape, or the key is none.
///
/// ```
/// use motet::random;
///
/// let x = random::truncated_normal(-2, 2, Some([100].into()), None, None)?;
/// assert!(x.to_vec::<f32>()?.iter().all(|x| x.abs() <= 2.0));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn truncated_normal(
    lower: impl Into<Operand>,
    upper: impl Into<Operand>,
    shape: Option<Shape>,
    dtype: Option<Dtype>,
    key: Option<&Array>,
) -> Result<Array> {
    let dtype = dtype.unwrap_or(Dtype::Float32);
    check_float("truncated_normal", dtype)?;
    let (lower, upper) = (number(lower, dtype)?, number(upper, dtype)?);
    let shape = match shape {
        Some(shape) => shape,
        None => lower.shape().broadcast(upper.shape())?,
    };
    let root = Operand::from(std::f64::consts::SQRT_2).into_array(dtype)?;
    let from = ops::erf(ops::divide(&lower, &root)?)?;
    let to = ops::erf(ops::divide(&upper, &root)?)?;
    let drawn = ops::erfinv(uniform(from, to, shape, Some(dtype), key)?)?;
    ops::maximum(ops::minimum(ops::multiply(root, drawn)?, upper)?, lower)
}

/// Numbers from the standard Gumbel distribution. dtype: float32, float16 or bfloat16.
///
/// # Errors
/// Where the dtype is another, or the key is none.
///
/// ```
/// use motet::random;
///
/// let x = random::gumbel([10_000], None, Some(&random::key(0)?))?.to_vec::<f32>()?;
/// let mean = x.iter().sum::<f32>() / 10_000.0;
/// assert!((mean - 0.5772).abs() < 0.05);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn gumbel(shape: impl Into<Shape>, dtype: Option<Dtype>, key: Option<&Array>) -> Result<Array> {
    let drawn = uniform(0, 1, shape, dtype, key)?;
    ops::negative(ops::log(ops::negative(ops::log(drawn)?)?)?)
}

/// What [`categorical`] draws: one index for each distribution, unless this says otherwise.
#[derive(Clone, Debug)]
pub enum Samples {
    /// So many for each distribution, in a new last dimension.
    Count(usize),
    /// Indices of this shape, which the distributions broadcast to.
    Shape(Shape),
}

/// Indices (uint32) drawn with probabilities in proportion to `exp(logits)` along an axis. The
/// result has the other dimensions of `logits`, or is as `samples` says.
///
/// # Errors
/// Where the axis is out of range, the distributions do not broadcast to the samples' shape, or the
/// key is none.
///
/// ```
/// use motet::random::{self, Samples};
/// use motet::Array;
///
/// let logits = Array::from_slice(&[0.0f32, -1e9, 0.0], [3])?;
/// let drawn = random::categorical(&logits, -1, Some(Samples::Count(50)), None)?;
/// assert!(drawn.to_vec::<u32>()?.iter().all(|&index| index != 1));
/// # Ok::<(), motet::Error>(())
/// ```
pub fn categorical(
    logits: &Array,
    axis: i32,
    samples: Option<Samples>,
    key: Option<&Array>,
) -> Result<Array> {
    let rank = logits.shape().len();
    let mut axis = normalize_axis("categorical", axis.into(), rank)?;
    let (mut logits, mut shape) = (logits.clone(), logits.shape().clone());
    match samples {
        None => {}
        Some(Samples::Count(count)) => {
            let axes = vec![rank as i32];
            logits = apply_one(ExpandDims { axes }, &[logits])?;
            shape.dims_mut().push(count);
        }
        Some(Samples::Shape(drawn)) => {
            let size = shape.dims_mut().remove(axis);
            check_shape("categorical", &shape, &drawn)?;
            axis += drawn.len() - shape.len();
            shape = drawn;
            shape.dims_mut().insert(axis, size);
        }
    }
    let noisy = ops::add(gumbel(shape, None, key)?, logits)?;
    let axis = axis as i32;
    let largest = ArgReduce {
        op: ArgReduction::Max,
        axis,
    };
    apply_one(
        Squeeze { axes: vec![axis] },
        &[apply_one(largest, &[noisy])?],
    )
}

/// Numbers from the Laplace distribution around `loc`, spread by `scale`. dtype: a floating one.
///
/// # Errors
/// Where the dtype is another, or the key is none.
///
/// ```
/// use motet::random;
///
/// let x = random::laplace([10_000], None, 3.0, 0.5, Some(&random::key(0)?))?;
/// let mean = x.to_vec::<f32>()?.iter().sum::<f32>() / 10_000.0;
/// assert!((mean - 3.0).abs() < 0.05);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn laplace(
    shape: impl Into<Shape>,
    dtype: Option<Dtype>,
    loc: f32,
    scale: f32,
    key: Option<&Array>,
) -> Result<Array> {
    let dtype = dtype.unwrap_or(Dtype::Float32);
    check_float("laplace", dtype)?;
    let drawn = symmetric(shape, key)?;
    let distance = ops::log1p(ops::negative(ops::abs(&drawn)?)?)?;
    let standard = ops::multiply(ops::sign(drawn)?, distance)?;
    placed(astype(&standard, dtype)?, loc.into(), scale.into())
}

/// The parts of `x` along an axis in random order; for a number `n` the numbers below it (uint32).
///
/// # Errors
/// Where the axis is out of range, the number negative, or the key is none.
///
/// ```
/// use motet::random;
///
/// let mut order = random::permutation(5, 0, None)?.to_vec::<u32>()?;
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn permutation(x: impl Into<Operand>, axis: i32, key: Option<&Array>) -> Result<Array> {
    let order = |count: usize| apply_one(ArgSort { axis: 0 }, &[bits([count], 4, key)?]);
    let x = match x.into() {
        Operand::Array(x) => x,
        Operand::Int(count) => {
            let count = usize::try_from(count).map_err(|_| {
                Error::invalid("permutation", format!("got {count}, expected 0 or more"))
            })?;
            return order(count);
        }
        other => {
            return Err(Error::invalid(
                "permutation",
                format!("got {other:?}, expected an array or an integer"),
            ));
        }
    };
    let rank = x.shape().len();
    let axis = normalize_axis("permutation", axis.into(), rank)?;
    let mut slice_sizes = x.shape().clone();
    slice_sizes.dims_mut()[axis] = 1;
    let order = order(x.shape()[axis])?;
    let axes = vec![axis as i32];
    let parts = apply_one(Gather { axes, slice_sizes }, &[x, order])?;
    // The first dimension tells the parts apart: it goes to where the axis was.
    let mut permutation: Vec<i32> = (1..=rank as i32).collect();
    permutation[axis] = 0;
    permutation.push(axis as i32 + 1);
    let moved = apply_one(Transpose { permutation }, &[parts])?;
    let axes = vec![rank as i32];
    apply_one(Squeeze { axes }, &[moved])
}
