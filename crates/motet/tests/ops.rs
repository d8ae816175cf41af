//! The functions of `motet::ops` give what MLX's give: shapes, dtypes, values and refusals.
//!
//! `data/ops_cases.json` is what MLX gave, recorded by `tools/make_ops_cases.py`.

use half::{bf16, f16};
use motet::ops::{self, Axes, keepdims};
use motet::{Array, Dtype, Operand, Result, Spec};
use num_complex::Complex32;
use serde_json::Value;

type Unary = fn(&Array) -> Result<Array>;
type Binary = fn(Operand, Operand) -> Result<Array>;
type Reduction = fn(&Array, Axes) -> Result<Array>;
type Scan = fn(&Array, Option<i32>, ops::Scan) -> Result<Array>;
type Scatter = fn(&Array, &[Array], &Array, &[i32]) -> Result<Array>;
type Update = fn(&Array, Operand, &[i32], &[i32], &[i32]) -> Result<Array>;

/// Functions by their names.
macro_rules! functions {
    ($arguments:tt: $($name:ident)*) => {
        &[$((stringify!($name), functions!(call $name $arguments))),*]
    };
    (call $name:ident ($($argument:ident),*)) => {
        |$($argument),*| ops::$name($($argument),*)
    };
}

const UNARY: &[(&str, Unary)] = functions!((x):
    abs arccos arccosh arcsin arcsinh arctan arctanh atleast_1d atleast_2d atleast_3d bitwise_invert
    ceil conjugate contiguous cos cosh degrees erf erfinv exp expm1 floor imag isfinite isinf isnan
    isneginf isposinf log log10 log1p log2 logical_not matrix_transpose negative positive radians real
    reciprocal rsqrt sigmoid sign sin sinh sqrt square stop_gradient tan tanh trunc);

const BINARY: &[(&str, Binary)] = functions!((a, b):
    add arctan2 bitwise_and bitwise_or bitwise_xor divide equal floor_divide greater greater_equal
    left_shift less less_equal logaddexp logical_and logical_or logical_xor maximum minimum multiply
    not_equal power remainder right_shift subtract);

const REDUCTIONS: &[(&str, Reduction)] = functions!((x, axes):
    all any argmax argmin count_nonzero flip logsumexp max mean median min prod softmax squeeze sum);

const SCANS: &[(&str, Scan)] = functions!((x, axis, options):
    cummax cummin cumprod cumsum logcumsumexp);

const SCATTERS: &[(&str, Scatter)] = functions!((x, indices, updates, axes):
    scatter scatter_add scatter_max scatter_min scatter_prod);

const UPDATES: &[(&str, Update)] = functions!((x, update, start, stop, strides):
    slice_update slice_update_add slice_update_max slice_update_min slice_update_prod);

fn find<T: Copy>(functions: &[(&str, T)], name: &str) -> Option<T> {
    let found = functions.iter().find(|(known, _)| *known == name);
    found.map(|&(_, function)| function)
}

/// A recorded call.
struct Case<'a>(&'a Value);

impl Case<'_> {
    fn keyword(&self, name: &str) -> &Value {
        &self.0["kw"][name]
    }

    fn operand(&self, i: usize) -> Operand {
        operand(&self.0["in"][i])
    }

    fn array(&self, i: usize) -> Array {
        self.operand(i).into_own_array().unwrap()
    }

    fn arrays(&self) -> Vec<Array> {
        let count = self.0["in"].as_array().unwrap().len();
        (0..count).map(|i| self.array(i)).collect()
    }

    fn option(&self, name: &str) -> Option<i32> {
        self.keyword(name).as_i64().map(|value| value as i32)
    }

    fn int(&self, name: &str) -> i32 {
        self.option(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn size(&self, name: &str) -> usize {
        self.int(name) as usize
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        ints(self.keyword(name))
    }

    fn sizes(&self, name: &str) -> Vec<usize> {
        self.ints(name)
            .into_iter()
            .map(|value| value as usize)
            .collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.keyword(name).as_bool().unwrap_or_default()
    }

    fn float(&self, name: &str) -> Option<f64> {
        self.keyword(name).as_f64()
    }

    fn text(&self, name: &str) -> &str {
        self.keyword(name).as_str().unwrap()
    }

    fn dtype(&self) -> Option<Dtype> {
        self.keyword("dtype").as_str().map(dtype)
    }

    fn axes(&self) -> Axes {
        let axes = match self.keyword("axis") {
            Value::Null => Axes::from(..),
            axis => Axes::from(ints(axis)),
        };
        match self.flag("keepdims") {
            true => keepdims(axes),
            false => axes,
        }
    }

    /// The numbers for each spatial dimension; one number is for all of them.
    fn spatial<T: TryFrom<i32> + Copy, const N: usize>(&self, name: &str, default: T) -> [T; N] {
        let numbers = self.ints(name).into_iter();
        let numbers: Vec<T> = numbers.map(|n| T::try_from(n).ok().unwrap()).collect();
        match numbers[..] {
            [] => [default; N],
            [one] => [one; N],
            _ => numbers.try_into().ok().unwrap(),
        }
    }

    fn convolution<const N: usize>(&self) -> ops::Conv<N> {
        ops::Conv {
            stride: self.spatial("stride", 1),
            padding: self.spatial("padding", 0),
            dilation: self.spatial("dilation", 1),
            groups: self.option("groups").unwrap_or(1) as usize,
        }
    }

    fn transposed<const N: usize>(&self) -> ops::ConvTranspose<N> {
        ops::ConvTranspose {
            stride: self.spatial("stride", 1),
            padding: self.spatial("padding", 0),
            dilation: self.spatial("dilation", 1),
            output_padding: self.spatial("output_padding", 0),
            groups: self.option("groups").unwrap_or(1) as usize,
        }
    }

    fn is_close(&self) -> ops::IsClose {
        let default = ops::IsClose::default();
        ops::IsClose {
            rtol: self.float("rtol").unwrap_or(default.rtol),
            atol: self.float("atol").unwrap_or(default.atol),
            equal_nan: self.flag("equal_nan"),
        }
    }

    /// Calls the function.
    fn call(&self) -> Result<Vec<Array>> {
        let name = self.0["f"].as_str().unwrap();
        if let Some(function) = find(UNARY, name) {
            return Ok(vec![function(&self.array(0))?]);
        }
        if let Some(function) = find(BINARY, name) {
            return Ok(vec![function(self.operand(0), self.operand(1))?]);
        }
        if let Some(function) = find(REDUCTIONS, name) {
            return Ok(vec![function(&self.array(0), self.axes())?]);
        }
        if let Some(function) = find(SCANS, name) {
            let options = ops::Scan {
                reverse: self.flag("reverse"),
                inclusive: self.keyword("inclusive").as_bool().unwrap_or(true),
                dtype: self.dtype(),
            };
            return Ok(vec![function(
                &self.array(0),
                self.option("axis"),
                options,
            )?]);
        }
        if let Some(function) = find(SCATTERS, name) {
            let (mut arrays, axes) = (self.arrays(), self.ints("axes"));
            let (x, updates) = (arrays.remove(0), arrays.pop().unwrap());
            return Ok(vec![function(&x, &arrays, &updates, &axes)?]);
        }
        if let Some(function) = find(UPDATES, name) {
            let [start, stop, strides] = ["start", "stop", "strides"].map(|name| self.ints(name));
            let (x, update) = (self.array(0), self.operand(1));
            return Ok(vec![function(&x, update, &start, &stop, &strides)?]);
        }
        self.call_other(name)
    }

    fn call_other(&self, name: &str) -> Result<Vec<Array>> {
        let x = || self.array(0);
        let y = || self.array(1);
        let axis = || self.option("axis");
        let one = match name {
            "addmm" => {
                let [alpha, beta] = ["alpha", "beta"].map(|name| self.float(name).unwrap() as f32);
                ops::addmm(&x(), &y(), &self.array(2), alpha, beta)
            }
            "allclose" => ops::allclose(x(), y(), self.is_close()),
            "arange" => {
                let [start, stop, step] = [0, 1, 2].map(|i| self.operand(i));
                ops::arange(start, stop, step, self.dtype())
            }
            "argpartition" => {
                let indices = ops::argpartition(&x(), self.int("kth"), axis())?;
                let x = if axis().is_none() {
                    ops::flatten(&x(), 0, -1)?
                } else {
                    x()
                };
                let axis = axis().unwrap_or(0);
                self.kth(&ops::take_along_axis(&x, &indices, axis)?, axis)
            }
            "argsort" => ops::argsort(&x(), axis()),
            "array_equal" => {
                let equal_nan = self.flag("equal_nan");
                ops::array_equal(self.operand(0), y(), ops::ArrayEqual { equal_nan })
            }
            "as_strided" => {
                let strides: Vec<i64> = self.ints("strides").into_iter().map(i64::from).collect();
                ops::as_strided(&x(), self.sizes("shape"), strides, self.size("offset"))
            }
            "block_masked_mm" => {
                let masks = self.keyword("masks");
                let [mask_out, mask_lhs, mask_rhs] = [0, 1, 2].map(|i| array(&masks[i]));
                let options = ops::BlockMaskedMM {
                    block_size: self.int("block_size"),
                    mask_out,
                    mask_lhs,
                    mask_rhs,
                };
                let product = ops::block_masked_mm(&x(), &y(), options)?;
                let at = |row, column| {
                    let index = Array::from(row * product.shape()[1] as i32 + column);
                    ops::take(&product, index, None)
                };
                let (rows, columns) = (product.shape()[0] as i32, product.shape()[1] as i32);
                let sum = ops::sum(&product, ..)?;
                let last = at(rows - 1, columns - 1)?;
                ops::stack(&[sum, at(0, 0)?, last, at(31, 33)?, at(32, 30)?], 0)
            }
            "bartlett" => ops::bartlett(self.size("m")),
            "blackman" => ops::blackman(self.size("m")),
            "broadcast_arrays" => return ops::broadcast_arrays(&self.arrays()),
            "broadcast_to" => ops::broadcast_to(&x(), self.sizes("shape")),
            "clip" => {
                let bound = |name| match self.keyword(name) {
                    Value::Null => None,
                    bound => Some(operand(bound)),
                };
                ops::clip(x(), bound("low"), bound("high"))
            }
            "concatenate" => ops::concatenate(&self.arrays(), axis()),
            "conv1d" => ops::conv1d(&x(), &y(), self.convolution()),
            "conv2d" => ops::conv2d(&x(), &y(), self.convolution()),
            "conv3d" => ops::conv3d(&x(), &y(), self.convolution()),
            "conv_transpose1d" => ops::conv_transpose1d(&x(), &y(), self.transposed()),
            "conv_transpose2d" => ops::conv_transpose2d(&x(), &y(), self.transposed()),
            "conv_transpose3d" => ops::conv_transpose3d(&x(), &y(), self.transposed()),
            "conv_general" => {
                let options = ops::ConvGeneral {
                    stride: self.sizes("stride"),
                    padding_low: self.ints("low"),
                    padding_high: self.ints("high"),
                    kernel_dilation: self.sizes("kernel_dilation"),
                    input_dilation: self.sizes("input_dilation"),
                    groups: self.option("groups").unwrap_or(1) as usize,
                    flip: self.flag("flip"),
                };
                ops::conv_general(&x(), &y(), &options)
            }
            "convolve" => {
                let mode = match self.text("mode") {
                    "full" => ops::ConvolveMode::Full,
                    "same" => ops::ConvolveMode::Same,
                    _ => ops::ConvolveMode::Valid,
                };
                ops::convolve(&x(), &y(), mode)
            }
            "diag" => ops::diag(&x(), self.int("k")),
            "diagonal" => {
                let [offset, axis1, axis2] =
                    ["offset", "axis1", "axis2"].map(|name| self.int(name));
                ops::diagonal(&x(), offset, axis1, axis2)
            }
            "diff" => ops::diff(&x(), self.size("n"), self.int("axis")),
            "divmod" => {
                let (quotient, remainder) = ops::divmod(x(), self.operand(1))?;
                return Ok(vec![quotient, remainder]);
            }
            "dynamic_slice" => {
                let sizes = self.sizes("slice_size");
                ops::dynamic_slice(&x(), &y(), self.ints("axes"), sizes)
            }
            "dynamic_slice_update" => {
                ops::dynamic_slice_update(&x(), y(), &self.array(2), self.ints("axes"))
            }
            "einsum" => ops::einsum(self.text("subscripts"), &self.arrays()),
            "expand_dims" => ops::expand_dims(&x(), self.axes()),
            "eye" => ops::eye(self.size("n"), self.size("m"), self.int("k"), self.dtype()),
            "flatten" => ops::flatten(&x(), self.int("start_axis"), self.int("end_axis")),
            "full" => ops::full(self.sizes("shape"), self.operand(0), self.dtype()),
            "full_like" => ops::full_like(&x(), self.operand(1), self.dtype()),
            "gather_mm" => {
                let options = ops::GatherMM {
                    lhs_indices: array(self.keyword("left")),
                    rhs_indices: array(self.keyword("right")),
                    sorted_indices: false,
                };
                ops::gather_mm(&x(), &y(), options)
            }
            "hadamard_transform" => {
                let scale = self.float("scale").map(|scale| scale as f32);
                ops::hadamard_transform(&x(), scale)
            }
            "hamming" => ops::hamming(self.size("m")),
            "hanning" => ops::hanning(self.size("m")),
            "identity" => ops::identity(self.size("n"), self.dtype()),
            "inner" => ops::inner(&x(), &y()),
            "isclose" => ops::isclose(x(), y(), self.is_close()),
            "kron" => ops::kron(&x(), &y()),
            "linspace" => {
                let [start, stop] = [0, 1].map(|i| self.0["in"][i].as_f64().unwrap());
                let options = ops::Linspace {
                    endpoint: self.flag("endpoint"),
                    dtype: self.dtype().unwrap(),
                };
                ops::linspace(start, stop, self.size("num"), options)
            }
            "masked_scatter" => ops::masked_scatter(&x(), &y(), &self.array(2)),
            "matmul" => ops::matmul(&x(), &y()),
            "meshgrid" => {
                let options = ops::Meshgrid {
                    sparse: self.flag("sparse"),
                    indexing: match self.text("indexing") {
                        "xy" => ops::Indexing::Xy,
                        _ => ops::Indexing::Ij,
                    },
                };
                return ops::meshgrid(&self.arrays(), options);
            }
            "minmax" => {
                let (low, high) = ops::minmax(&x(), self.axes())?;
                return Ok(vec![low, high]);
            }
            "moveaxis" => ops::moveaxis(&x(), self.int("source"), self.int("destination")),
            "nan_to_num" => {
                let options = ops::NanToNum {
                    nan: self.float("nan").unwrap_or(0.0),
                    posinf: self.float("posinf"),
                    neginf: self.float("neginf"),
                };
                ops::nan_to_num(x(), options)
            }
            "ones" => ops::ones(self.sizes("shape"), self.dtype()),
            "ones_like" => ops::ones_like(&x(), self.dtype()),
            "outer" => ops::outer(&x(), &y()),
            "pad" => {
                let widths = self.keyword("width").as_array().unwrap().iter();
                let pair = |width: &Value| (ints(width)[0] as usize, ints(width)[1] as usize);
                let mode = match self.text("mode") {
                    "constant" if self.arrays().len() == 1 => ops::PadMode::default(),
                    "constant" => ops::PadMode::Constant(self.operand(1)),
                    "edge" => ops::PadMode::Edge,
                    "reflect" => ops::PadMode::Reflect,
                    _ => ops::PadMode::Symmetric,
                };
                ops::pad(&x(), &widths.map(pair).collect::<Vec<_>>()[..], mode)
            }
            "partition" => {
                let parted = ops::partition(&x(), self.int("kth"), axis())?;
                self.kth(&parted, axis().unwrap_or(0))
            }
            "put_along_axis" => ops::put_along_axis(&x(), &y(), self.operand(2), axis()),
            "repeat" => ops::repeat(&x(), self.size("repeats"), axis()),
            "reshape" => ops::reshape(&x(), self.ints("shape")),
            "roll" => ops::roll(&x(), &self.ints("shift")[..], self.axes()),
            "round" => ops::round(x(), self.int("decimals")),
            "searchsorted" => {
                let side = match self.text("side") {
                    "left" => ops::Side::Left,
                    _ => ops::Side::Right,
                };
                ops::searchsorted(&x(), y(), side)
            }
            "slice" => {
                let [start, stop, strides] =
                    ["start", "stop", "strides"].map(|name| self.ints(name));
                ops::slice(&x(), start, stop, strides)
            }
            "sort" => ops::sort(&x(), axis()),
            "split" => {
                let at = match self.keyword("at") {
                    Value::Array(_) => ops::Sections::At(self.ints("at")),
                    _ => ops::Sections::Equal(self.int("at")),
                };
                return ops::split(&x(), at, self.int("axis"));
            }
            "stack" => ops::stack(&self.arrays(), self.int("axis")),
            "std" => ops::std(&x(), self.axes(), self.size("ddof")),
            "swapaxes" => ops::swapaxes(&x(), self.int("axis1"), self.int("axis2")),
            "take" => ops::take(&x(), self.operand(1), axis()),
            "take_along_axis" => ops::take_along_axis(&x(), &y(), axis()),
            "tensordot" => {
                let axes = match self.keyword("axes") {
                    Value::Array(both) => ops::Contracted::Axes(ints(&both[0]), ints(&both[1])),
                    _ => ops::Contracted::Dims(self.size("axes")),
                };
                ops::tensordot(&x(), &y(), axes)
            }
            "tile" => ops::tile(&x(), &self.ints("reps")[..]),
            // In an order that is not said.
            "topk" => ops::sort(
                &ops::topk(&x(), self.size("k"), axis())?,
                axis().unwrap_or(0),
            ),
            "trace" => {
                let [offset, axis1, axis2] =
                    ["offset", "axis1", "axis2"].map(|name| self.int(name));
                ops::trace(&x(), offset, axis1, axis2, self.dtype())
            }
            "transpose" => match self.keyword("axes") {
                Value::Null => ops::transpose(&x(), ..),
                axes => ops::transpose(&x(), ints(axes)),
            },
            "tri" => ops::tri(self.size("n"), self.size("m"), self.int("k"), self.dtype()),
            "tril" => ops::tril(&x(), self.int("k")),
            "triu" => ops::triu(&x(), self.int("k")),
            "unflatten" => ops::unflatten(&x(), self.int("axis"), self.ints("shape")),
            "unique" => {
                let fill = self.option("fill_value").map(Operand::from);
                let unique = ops::unique(&x(), self.size("size"), fill)?;
                return Ok(vec![
                    unique.values,
                    unique.index,
                    unique.inverse,
                    unique.counts,
                ]);
            }
            "unstack" => return ops::unstack(&x(), self.int("axis")),
            "var" => ops::var(&x(), self.axes(), self.size("ddof")),
            "vecdot" => ops::vecdot(&x(), &y(), self.int("axis")),
            "view" => ops::view(&x(), self.dtype().unwrap()),
            "where" => {
                let [condition, x, y] = [0, 1, 2].map(|i| self.operand(i));
                ops::where_(condition, x, y)
            }
            "zeros" => ops::zeros(self.sizes("shape"), self.dtype()),
            "zeros_like" => ops::zeros_like(&x(), self.dtype()),
            _ => panic!("no function {name}"),
        };
        Ok(vec![one?])
    }

    /// The element whose place a partition promises.
    fn kth(&self, parted: &Array, axis: i32) -> Result<Array> {
        ops::take(parted, self.int("kth"), axis)
    }
}

fn ints(value: &Value) -> Vec<i32> {
    match value {
        Value::Array(values) => values.iter().flat_map(ints).collect(),
        value => value
            .as_i64()
            .map(|value| value as i32)
            .into_iter()
            .collect(),
    }
}

fn dtype(name: &str) -> Dtype {
    let found = Dtype::ALL.into_iter().find(|dtype| dtype.name() == name);
    found.unwrap_or_else(|| panic!("no dtype {name}"))
}

fn float(value: &Value) -> f64 {
    match value {
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::String(text) => text.parse().unwrap(),
        value => value.as_f64().unwrap(),
    }
}

fn elements(array: &Value) -> Vec<f64> {
    array["v"].as_array().unwrap().iter().map(float).collect()
}

/// The shape and dtype of a recorded array: a float32 vector where they are not said.
fn spec(array: &Value) -> Spec {
    let dtype = array["t"].as_str().map_or(Dtype::Float32, dtype);
    match &array["s"] {
        Value::Null => Spec::new([elements(array).len() / parts(dtype)], dtype),
        dims => Spec::new(
            ints(dims)
                .iter()
                .map(|&dim| dim as usize)
                .collect::<Vec<_>>(),
            dtype,
        ),
    }
}

/// How many recorded numbers make an element.
fn parts(dtype: Dtype) -> usize {
    if dtype == Dtype::Complex64 { 2 } else { 1 }
}

fn operand(value: &Value) -> Operand {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(value) => value.into(),
            None => float(value).into(),
        },
        Value::String(_) => float(value).into(),
        array => {
            let (Spec { shape, dtype }, elements) = (spec(array), elements(array));
            let array = match dtype {
                Dtype::Complex64 => {
                    let parts = elements.chunks(2);
                    let numbers: Vec<_> = parts
                        .map(|z| Complex32::new(z[0] as f32, z[1] as f32))
                        .collect();
                    Array::from_slice(&numbers, shape)
                }
                _ => Array::from_slice(&elements, shape),
            };
            ops::astype(&array.unwrap(), dtype).unwrap().into()
        }
    }
}

/// An array that may be missing.
fn array(value: &Value) -> Option<Array> {
    match value {
        Value::Null => None,
        array => operand(array).into_own_array().ok(),
    }
}

/// The elements as they are in the recorded cases.
fn values(array: &Array) -> Result<Vec<f64>> {
    match array.dtype() {
        Dtype::Complex64 => {
            let numbers = array.to_vec::<Complex32>()?;
            let parts = numbers.iter().flat_map(|z| [z.re.into(), z.im.into()]);
            Ok(parts.collect())
        }
        _ => ops::astype(array, Dtype::Float64)?.to_vec(),
    }
}

/// How far results may be from MLX's: a few roundings of the dtype.
fn tolerance(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::Float16 => (4.0 * f16::EPSILON.to_f64(), 1e-3),
        Dtype::Bfloat16 => (4.0 * bf16::EPSILON.to_f64(), 1e-2),
        dtype if dtype.is_inexact() => (1e-5, 2e-6),
        _ => (0.0, 0.0),
    }
}

/// What is wrong with the results, if anything.
fn difference(got: &[Array], expected: &Value) -> Option<String> {
    let expected = expected.as_array().unwrap();
    if got.len() != expected.len() {
        return Some(format!(
            "{} results, expected {}",
            got.len(),
            expected.len()
        ));
    }
    for (got, expected) in got.iter().zip(expected) {
        let wanted = spec(expected);
        if *got.spec() != wanted {
            return Some(format!("{}, expected {wanted}", got.spec()));
        }
        let values = match values(got) {
            Ok(values) => values,
            Err(error) => return Some(error.to_string()),
        };
        let (relative, absolute) = tolerance(got.dtype());
        let near = |(&a, &b): (&f64, &f64)| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= absolute + relative * b.abs()
        };
        let wanted = elements(expected);
        if !values.iter().zip(&wanted).all(near) {
            return Some(format!("{values:?}, expected {wanted:?}"));
        }
    }
    None
}

#[test]
fn functions_give_what_mlx_gives() {
    let cases: Value = serde_json::from_str(include_str!("data/ops_cases.json")).unwrap();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let result = Case(case).call();
        let problem = match (&case["out"], result) {
            (Value::Null, Ok(results)) => {
                let failed = results.iter().any(|result| result.eval().is_err());
                (!failed).then(|| format!("{results:?}, expected an error"))
            }
            (Value::Null, Err(_)) => None,
            (_, Err(error)) => Some(error.to_string()),
            (expected, Ok(results)) => difference(&results, expected),
        };
        wrong.extend(problem.map(|problem| format!("{case}\n    {problem}")));
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn errors_name_the_function_and_what_it_got() {
    let x = ops::zeros([2, 3], None).unwrap();
    let y = ops::zeros([4, 5], None).unwrap();
    let index = Array::from_slice(&[0], [1]).unwrap();
    for (result, parts) in [
        (ops::matmul(&x, &y), ["matmul", "(2,3)", "(4,5)"]),
        (
            ops::addmm(&y, &x, &x, 1.0, 1.0),
            ["addmm", "(2,3)", "(2,3)"],
        ),
        (ops::sum(&x, 2), ["sum", "2", "2 dimensions"]),
        (ops::mean(&x, [0, 0]), ["mean", "twice", "[0, 0]"]),
        (
            ops::concatenate(&[x.clone(), y.clone()], 0),
            ["[concatenate]", "(2,3)", "(4,5)"],
        ),
        (
            ops::stack(&[x.clone(), y.clone()], 0),
            ["stack", "(2,3)", "(4,5)"],
        ),
        (ops::tensordot(&x, &y, 1), ["tensordot", "(2,3)", "(4,5)"]),
        (
            ops::einsum("ij,jk->ik", &[x.clone(), y.clone()]),
            ["einsum", "3", "4"],
        ),
        (ops::where_(true, &x, &y), ["where_", "(2,3)", "(4,5)"]),
        (
            ops::take_along_axis(&x, &index, 0),
            ["take_along_axis", "(2,3)", "(1)"],
        ),
        (ops::reshape(&x, [4, -1]), ["[reshape]", "6", "[4, -1]"]),
    ] {
        let message = result.unwrap_err().to_string();
        let all = parts.iter().all(|part| message.contains(part));
        assert!(all, "{message} does not say {parts:?}");
    }
}

#[test]
fn sizes_that_callers_choose_are_bounded() {
    let x = ops::zeros([2, 3], None).unwrap();
    let huge = usize::MAX;
    let results = [
        ops::eye(huge, None, 0, None),
        ops::tri(2, huge, i32::MIN, None),
        ops::full([huge, huge], 1, None),
        ops::linspace(0.0, 1.0, huge, Default::default()),
        ops::hanning(huge),
        ops::arange(0, f64::MAX, f64::MIN_POSITIVE, None),
        ops::pad(&x, huge, Default::default()),
        ops::pad(&x, (huge, 1), ops::PadMode::Edge),
        ops::repeat(&x, huge, 0),
        ops::tile(&x, [i32::MAX; 9]),
        ops::diag(&ops::zeros([2], None).unwrap(), i32::MIN),
        ops::topk(&x, huge, 0),
        ops::as_strided(&x, [huge, 2], [i64::MAX, i64::MIN], huge),
        ops::unique(&x, huge, None).map(|unique| unique.values),
        ops::slice(&x, [i32::MIN; 3], [i32::MAX; 3], [1; 3]),
    ];
    for (i, result) in results.into_iter().enumerate() {
        let failed = result.and_then(|array| array.eval()).is_err();
        assert!(failed, "result {i} is no error");
    }
    // In bounds, however far the numbers are out of them.
    assert_eq!(
        ops::diagonal(&x, i32::MIN, 0, 1).unwrap().shape().to_vec(),
        [0]
    );
    assert!(ops::tril(&x, i32::MIN).unwrap().eval().is_ok());
    assert!(ops::triu(&x, i32::MAX).unwrap().eval().is_ok());
    assert!(ops::roll(&x, i32::MIN, ..).unwrap().eval().is_ok());
    assert!(ops::round(&x, i32::MIN).unwrap().eval().is_ok());
    assert!(ops::diff(&x, huge, 0).unwrap().eval().is_ok());
}

/// Padding beyond the kernel's reach takes elements away, and zeros between them: MLX takes the
/// elements of the input instead, as many as zeros were to go.
#[test]
fn padding_of_transposed_convolutions_cuts_the_result() {
    let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0], [1, 5, 1]).unwrap();
    let w = Array::from_slice(&[1.0f32, -10.0, 100.0, 3.0], [2, 2, 1]).unwrap();
    for stride in [1, 2, 3] {
        let convolve = |padding| {
            let options = ops::ConvTranspose1d {
                stride: [stride],
                padding: [padding],
                ..Default::default()
            };
            ops::conv_transpose1d(&x, &w, options).unwrap()
        };
        let whole = convolve(0);
        let size = whole.shape()[1] as i32;
        for padding in 1..=(size - 2) / 2 {
            let cut = ops::slice(&whole, [0, padding, 0], [1, size - padding, 2], [1; 3]).unwrap();
            let padded = convolve(padding);
            assert_eq!(padded.shape(), cut.shape(), "{stride} {padding}");
            let values = |x: &Array| x.to_vec::<f32>().unwrap();
            assert_eq!(values(&padded), values(&cut), "{stride} {padding}");
        }
    }
}

#[test]
fn segments_of_products_ignore_what_is_outside() {
    let (m, k, n) = (3, 5, 2);
    let mut a: Vec<f32> = (0..m * k).map(|i| i as f32 - 4.0).collect();
    let mut b: Vec<f32> = (0..k * n).map(|i| 2.5 - i as f32).collect();
    // Only the last segment sees these.
    a[4] = f32::INFINITY;
    b[4 * n] = f32::NAN;
    let segments = [[0, 2], [1, 4], [3, 3], [2, 5]];
    let product = |[start, end]: [usize; 2], row: usize, column: usize| -> f32 {
        (start..end)
            .map(|i| a[row * k + i] * b[i * n + column])
            .sum()
    };
    let mut expected = Vec::new();
    for segment in segments {
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            expected.push(product(segment, row, column));
        }
    }
    let pairs = segments
        .concat()
        .iter()
        .map(|&i| i as u32)
        .collect::<Vec<u32>>();
    let pairs = Array::from_slice(&pairs, [4, 2]).unwrap();
    let (a, b) = (
        Array::from_slice(&a, [m, k]).unwrap(),
        Array::from_slice(&b, [k, n]).unwrap(),
    );
    let got = ops::segmented_mm(&a, &b, &pairs).unwrap();
    assert_eq!(**got.shape(), [4, m, n]);
    for (got, expected) in got.to_vec::<f32>().unwrap().iter().zip(&expected) {
        assert!(
            got == expected || got.is_nan() && expected.is_nan(),
            "{got} {expected}"
        );
    }
    assert!(ops::segmented_mm(&a, &a, &pairs).is_err());
    assert!(ops::segmented_mm(&a, &b, Array::from_slice(&[0u32], [1]).unwrap()).is_err());
}
