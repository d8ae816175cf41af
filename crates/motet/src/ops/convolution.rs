//! Convolutions, channels last: (N, spatial..., C) by (O, spatial..., C / groups).

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, promote};
use motet_core::error::{Error, Result};
use motet_core::kernel;
use motet_core::ops::convolution as primitive;

use super::reshape;
use super::slice::slice_axis;

/// Options of a convolution over `N` spatial dimensions, with a number for each.
#[derive(Clone, Copy, Debug)]
pub struct Conv<const N: usize> {
    /// Steps of the kernel over the input.
    pub stride: [usize; N],
    /// Zeros before and after the input; negative ones take elements away.
    pub padding: [i32; N],
    /// Distance of the kernel's elements.
    pub dilation: [usize; N],
    /// Blocks of channels that are convolved separately.
    pub groups: usize,
}

/// Options of [`conv1d`].
pub type Conv1d = Conv<1>;
/// Options of [`conv2d`].
pub type Conv2d = Conv<2>;
/// Options of [`conv3d`].
pub type Conv3d = Conv<3>;

impl<const N: usize> Default for Conv<N> {
    fn default() -> Conv<N> {
        Conv {
            stride: [1; N],
            padding: [0; N],
            dilation: [1; N],
            groups: 1,
        }
    }
}

/// Options of a transposed convolution over `N` spatial dimensions, with a number for each.
#[derive(Clone, Copy, Debug)]
pub struct ConvTranspose<const N: usize> {
    /// Distance at which the kernel's copies are placed.
    pub stride: [usize; N],
    /// Elements taken away on both sides of the result.
    pub padding: [i32; N],
    /// Distance of the kernel's elements.
    pub dilation: [usize; N],
    /// Elements added at the end of the result.
    pub output_padding: [i32; N],
    /// Blocks of channels that are convolved separately.
    pub groups: usize,
}

/// Options of [`conv_transpose1d`].
pub type ConvTranspose1d = ConvTranspose<1>;
/// Options of [`conv_transpose2d`].
pub type ConvTranspose2d = ConvTranspose<2>;
/// Options of [`conv_transpose3d`].
pub type ConvTranspose3d = ConvTranspose<3>;

impl<const N: usize> Default for ConvTranspose<N> {
    fn default() -> ConvTranspose<N> {
        ConvTranspose {
            stride: [1; N],
            padding: [0; N],
            dilation: [1; N],
            output_padding: [0; N],
            groups: 1,
        }
    }
}

/// Options of [`conv_general`]: a number for each spatial dimension, or none for the default.
#[derive(Clone, Debug)]
pub struct ConvGeneral {
    /// Steps of the kernel over the input; 1 by default.
    pub stride: Vec<usize>,
    /// Zeros before the input; 0 by default, negative ones take elements away.
    pub padding_low: Vec<i32>,
    /// Zeros after the input; 0 by default, negative ones take elements away.
    pub padding_high: Vec<i32>,
    /// Distance of the kernel's elements; 1 by default.
    pub kernel_dilation: Vec<usize>,
    /// Distance at which the input's elements are placed, zeros between them; 1 by default.
    pub input_dilation: Vec<usize>,
    /// Blocks of channels that are convolved separately.
    pub groups: usize,
    /// Whether the kernel is reversed in all spatial dimensions.
    pub flip: bool,
}

impl Default for ConvGeneral {
    fn default() -> ConvGeneral {
        ConvGeneral {
            stride: vec![],
            padding_low: vec![],
            padding_high: vec![],
            kernel_dilation: vec![],
            input_dilation: vec![],
            groups: 1,
            flip: false,
        }
    }
}

/// The numbers for each of the spatial dimensions.
fn spatial<T: Copy>(name: &str, numbers: &[T], default: T, count: usize) -> Result<Vec<T>> {
    match numbers.len() {
        0 => Ok(vec![default; count]),
        len if len == count => Ok(numbers.to_vec()),
        len => Err(Error::invalid(
            "conv",
            format!("got {len} numbers as {name}, expected {count}"),
        )),
    }
}

/// The convolution of an input (N, spatial..., C) by a weight (O, spatial..., C / groups), which
/// gives (N, spatial..., O). Both promote to one dtype.
///
/// # Errors
/// Where shapes or groups do not fit, the kernel is larger than the padded input, a stride or
/// dilation is 0, or the numbers are integers.
///
/// ```
/// # use motet::{Array, ops, ops::ConvGeneral};
/// let x = Array::from_slice(&[1.0f32, 2.0, 3.0], [1, 3, 1])?;
/// let w = Array::from_slice(&[1.0f32, 10.0], [1, 2, 1])?;
/// let flipped = ConvGeneral { flip: true, ..Default::default() };
/// assert_eq!(ops::conv_general(&x, &w, &flipped)?.to_vec::<f32>()?, [12.0, 23.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn conv_general(input: &Array, weight: &Array, options: &ConvGeneral) -> Result<Array> {
    let [mut x, w] = promote([input.into(), weight.into()])?;
    let count = x.shape().len().saturating_sub(2);
    let ones = |name, numbers: &[usize]| spatial(name, numbers, 1, count);
    let zeros = |name, numbers: &[i32]| spatial(name, numbers, 0, count);
    let input_dilation = ones("input_dilation", &options.input_dilation)?;
    let mut padding = [
        zeros("padding_low", &options.padding_low)?,
        zeros("padding_high", &options.padding_high)?,
    ];
    for (i, &dilation) in input_dilation.iter().enumerate() {
        let [low, high] = [padding[0][i], padding[1][i]].map(|padding| crop(padding, dilation));
        let (axis, size) = (i + 1, x.shape()[i + 1]);
        match size.checked_sub(low.0.saturating_add(high.0)) {
            Some(_) => x = slice_axis(&x, axis, low.0, size - high.0)?,
            None => {
                return Err(Error::invalid(
                    "conv",
                    format!(
                        "nothing is left of axis {axis} of {} with the padding {}, {}",
                        input.spec(),
                        padding[0][i],
                        padding[1][i]
                    ),
                ));
            }
        }
        (padding[0][i], padding[1][i]) = (low.1, high.1);
    }
    let sizes = |padding: &[i32]| padding.iter().map(|&size| size as usize).collect();
    let parameters = Box::new(kernel::Convolution {
        strides: ones("stride", &options.stride)?.into(),
        padding_low: sizes(&padding[0]),
        padding_high: sizes(&padding[1]),
        kernel_dilation: ones("kernel_dilation", &options.kernel_dilation)?.into(),
        input_dilation: input_dilation.into(),
        groups: options.groups,
        flip: options.flip,
    });
    apply_one(primitive::Convolution { parameters }, &[x, w])
}

/// How many elements a negative padding takes away from an input whose elements are `dilation`
/// apart, and how much padding is left then: it may end between two elements.
fn crop(padding: i32, dilation: usize) -> (usize, i32) {
    match usize::try_from(padding) {
        Ok(_) => (0, padding),
        Err(_) => {
            let cut = padding.unsigned_abs() as usize;
            let elements = cut.div_ceil(dilation.max(1));
            (elements, (elements * dilation.max(1) - cut) as i32)
        }
    }
}

macro_rules! convolutions {
    ($($name:ident $transposed:ident $options:ident $transposed_options:ident
       $count:literal: $input:literal $weight:literal;)*) => {$(
        #[doc = concat!("Convolution over ", $count, ": see [`conv_general`].")]
        ///
        /// # Errors
        /// As [`conv_general`], and where there is another number of spatial dimensions.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops, ops::", stringify!($options), "};\n",
            "let x = ops::ones(", $input, ", None)?;\n",
            "let w = ops::ones(", $weight, ", None)?;\n",
            "let y = ops::", stringify!($name), "(&x, &w, ", stringify!($options), "::default())?;\n",
            "assert_eq!(y.shape().last(), Some(&3));\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $name(input: &Array, weight: &Array, options: $options) -> Result<Array> {
            convolve_spatial(stringify!($name), input, weight, options)
        }

        #[doc = concat!("Transposed convolution over ", $count, ": each element of the input, times the")]
        /// kernel, is added to the result at the element's place times the stride. Input
        /// (N, spatial..., C), weight (O, spatial..., C / groups), result (N, spatial..., O).
        ///
        /// # Errors
        /// As [`conv_general`], and where there is another number of spatial dimensions.
        ///
        #[doc = concat!(
            "```\n# use motet::{Array, ops, ops::", stringify!($transposed_options), "};\n",
            "let x = ops::ones(", $input, ", None)?;\n",
            "let w = ops::ones(", $weight, ", None)?;\n",
            "let y = ops::", stringify!($transposed), "(&x, &w, ", stringify!($transposed_options), "::default())?;\n",
            "assert_eq!(y.shape()[1], 6);\n",
            "# Ok::<(), motet::Error>(())\n```"
        )]
        pub fn $transposed(
            input: &Array,
            weight: &Array,
            options: $transposed_options,
        ) -> Result<Array> {
            convolve_transposed(stringify!($transposed), input, weight, options)
        }
    )*};
}

convolutions! {
    conv1d conv_transpose1d Conv1d ConvTranspose1d "one spatial dimension": "[1, 5, 2]" "[3, 2, 2]";
    conv2d conv_transpose2d Conv2d ConvTranspose2d "two spatial dimensions":
        "[1, 5, 5, 2]" "[3, 2, 2, 2]";
    conv3d conv_transpose3d Conv3d ConvTranspose3d "three spatial dimensions":
        "[1, 5, 5, 5, 2]" "[3, 2, 2, 2, 2]";
}

fn check_spatial(name: &str, input: &Array, weight: &Array, count: usize) -> Result<()> {
    let expected = count + 2;
    match input.shape().len() == expected && weight.shape().len() == expected {
        true => Ok(()),
        false => Err(Error::invalid(
            name,
            format!(
                "got {} and a weight {}, expected {count} spatial dimensions between the first and \
                 the last one",
                input.spec(),
                weight.spec()
            ),
        )),
    }
}

fn convolve_spatial<const N: usize>(
    name: &str,
    input: &Array,
    weight: &Array,
    options: Conv<N>,
) -> Result<Array> {
    check_spatial(name, input, weight, N)?;
    let options = ConvGeneral {
        stride: options.stride.to_vec(),
        padding_low: options.padding.to_vec(),
        padding_high: options.padding.to_vec(),
        kernel_dilation: options.dilation.to_vec(),
        input_dilation: vec![],
        groups: options.groups,
        flip: false,
    };
    conv_general(input, weight, &options)
}

fn convolve_transposed<const N: usize>(
    name: &str,
    input: &Array,
    weight: &Array,
    options: ConvTranspose<N>,
) -> Result<Array> {
    check_spatial(name, input, weight, N)?;
    let mut padding_low = vec![];
    let mut padding_high = vec![];
    for i in 0..N {
        // As far as the kernel reaches beyond its first element.
        let reach = (weight.shape()[i + 1] as i128 - 1) * options.dilation[i] as i128;
        let low = reach - i128::from(options.padding[i]);
        let high = low + i128::from(options.output_padding[i]);
        match (i32::try_from(low), i32::try_from(high)) {
            (Ok(low), Ok(high)) => {
                padding_low.push(low);
                padding_high.push(high);
            }
            _ => {
                return Err(Error::invalid(
                    name,
                    format!("{options:?} is too large for a weight {}", weight.spec()),
                ));
            }
        }
    }
    let options = ConvGeneral {
        stride: vec![],
        padding_low,
        padding_high,
        kernel_dilation: options.dilation.to_vec(),
        input_dilation: options.stride.to_vec(),
        groups: options.groups,
        flip: true,
    };
    conv_general(input, weight, &options)
}

/// Which part of the result [`convolve`] gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvolveMode {
    /// All places where the two overlap.
    #[default]
    Full,
    /// As many elements as the longer one has.
    Same,
    /// The places where the shorter one lies inside of the longer one.
    Valid,
}

/// The convolution of two vectors, one of them reversed.
///
/// # Errors
/// Where they are not vectors, have no elements, or hold integers.
///
/// ```
/// # use motet::{Array, ops, ops::ConvolveMode};
/// let x = Array::from_slice(&[1.0f32, 2.0, 3.0], [3])?;
/// let v = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// assert_eq!(ops::convolve(&x, &v, ConvolveMode::Full)?.to_vec::<f32>()?, [1.0, 4.0, 7.0, 6.0]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn convolve(a: &Array, v: &Array, mode: ConvolveMode) -> Result<Array> {
    let ([n], [m]) = (&a.shape()[..], &v.shape()[..]) else {
        return Err(Error::invalid(
            "convolve",
            format!("got {} and {}, expected vectors", a.spec(), v.spec()),
        ));
    };
    if *n == 0 || *m == 0 {
        return Err(Error::invalid("convolve", "got a vector without elements"));
    }
    let (long, short, size) = if n < m { (v, a, *n) } else { (a, v, *m) };
    // Sizes are 32-bit.
    let reach = size as i32 - 1;
    let (low, high) = match mode {
        ConvolveMode::Full => (reach, reach),
        ConvolveMode::Same => (size as i32 / 2, reach - size as i32 / 2),
        ConvolveMode::Valid => (0, 0),
    };
    let options = ConvGeneral {
        padding_low: vec![low],
        padding_high: vec![high],
        flip: true,
        ..Default::default()
    };
    let convolved = conv_general(
        &reshape(long, [1, -1, 1])?,
        &reshape(short, [1, -1, 1])?,
        &options,
    )?;
    reshape(&convolved, [-1])
}
