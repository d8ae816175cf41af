//! Quantised weights: the chain of operations that unpacks them in an export on a CPU, and products
//! with unpacked weights, which are products with the packed ones.

use super::matcher::{Function, Matcher};
use super::{Rewrite, Value};
use crate::dtype::Dtype;
use crate::kernel::{Kernel, Quantization, QuantizationMode, Reduction};
use crate::ops::View;
use crate::program::Binary;
use crate::shape::Spec;

/// The bits of a word.
const WORD: usize = 32;

/// `codes * scales + biases`, with codes that are taken out of words.
pub(super) fn dequantize(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let dtype = matcher.spec(root).dtype;
    let (group_size, groups) = matcher.shape(root).split_last()?;
    let per_group = |value: Value| {
        let value = matcher.unbroadcast(value);
        let (one, all) = matcher.shape(value).split_last()?;
        (*one == 1 && all == groups).then_some(value)
    };
    let (codes, scales, biases) =
        matcher
            .commuted(Binary::Add, root)
            .find_map(|(scaled, biases)| {
                let biases = per_group(biases)?;
                let mut factors = matcher.commuted(Binary::Mul, scaled);
                factors.find_map(|(codes, scales)| Some((codes, per_group(scales)?, biases)))
            })?;
    let Function::Cast(codes) = matcher.function(codes)? else {
        return None;
    };
    let (words, bits) = shifted_out(matcher, codes).or_else(|| gathered_bits(matcher, codes))?;
    let words_spec = matcher.spec(words);
    let (&words_each, rows) = words_spec.shape.split_last()?;
    let (&groups_each, group_rows) = groups.split_last()?;
    let fits = words_spec.dtype == Dtype::Uint32
        && rows == group_rows
        && words_each * WORD == groups_each * group_size * bits
        && matches!(group_size, 32 | 64 | 128)
        && matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !fits {
        return None;
    }
    let scales = rewrite.reshaped(scales, groups);
    let biases = rewrite.reshaped(biases, groups);
    let kernel = Kernel::Dequantize(Quantization {
        group_size: *group_size,
        bits,
        mode: QuantizationMode::Affine,
    });
    let values = [rows, &[groups_each * group_size]].concat();
    let spec = Spec::new(values, dtype);
    rewrite.root_as("Dequantize", kernel, &[words, scales, biases], spec, root);
    Some(())
}

/// The words, and the bits of a code, where each code is shifted to the upper end of its word and back
/// down, and the codes of a word stand beside each other.
fn shifted_out(matcher: &Matcher<'_>, codes: Value) -> Option<(Value, usize)> {
    let joined = matcher.unreshaped(codes);
    let (&Kernel::Concatenate { axis }, parts) = matcher.kernel(joined)? else {
        return None;
    };
    let last = matcher.shape(joined).len().checked_sub(1)?;
    if axis != last || !matches!(parts.len(), 4 | 8 | 16) {
        return None;
    }
    let bits = WORD / parts.len();
    let shift = |op, value, by: usize| {
        let (from, amount) = matcher.binary(op, value)?;
        (matcher.scalar(amount)? == by as f64).then_some(from)
    };
    let mut words = None;
    for (number, &part) in parts.iter().enumerate() {
        let down = matcher.unreshaped(part);
        let up = shift(Binary::RightShift, down, WORD - bits)?;
        let word = shift(Binary::LeftShift, up, WORD - bits * (number + 1))?;
        // One after the other: a part has one code of each word.
        let each = matcher.shape(part).split_last() == Some((&1, &matcher.shape(word)[..]));
        if !each || *words.get_or_insert(word) != word {
            return None;
        }
    }
    Some((words?, bits))
}

/// The same where words are taken apart into bits, of which codes are put together again.
fn gathered_bits(matcher: &Matcher<'_>, codes: Value) -> Option<(Value, usize)> {
    let (Kernel::Reduce { op, axes }, &[placed]) = matcher.kernel(matcher.unreshaped(codes))?
    else {
        return None;
    };
    let (&bits, of_codes) = matcher.shape(placed).split_last()?;
    if *op != Reduction::Sum || axes[..] != [of_codes.len()] || !matches!(bits, 3 | 5 | 6) {
        return None;
    }
    let counted = |value: Value, count: usize| {
        let numbers = matcher.unreshaped(matcher.unbroadcast(value));
        let counts = match matcher.kernel(numbers)? {
            (&Kernel::Arange { start, next }, []) => start == 0.0 && next == 1.0,
            _ => false,
        };
        // They count along the last dimension.
        let (&last, others) = matcher.shape(matcher.unbroadcast(value)).split_last()?;
        (counts && last == count && others.iter().all(|&dim| dim == 1)).then_some(())
    };
    let (single, places) = matcher.binary(Binary::LeftShift, placed)?;
    counted(places, bits)?;
    let mut masked = matcher.commuted(Binary::BitwiseAnd, matcher.unreshaped(single));
    let shifted = masked.find_map(|(x, mask)| (matcher.scalar(mask)? == 1.0).then_some(x))?;
    let (repeated, places) = matcher.binary(Binary::RightShift, shifted)?;
    counted(places, WORD)?;
    let words = matcher.unbroadcast(repeated);
    // Each word is repeated for its bits, which stand beside each other.
    let (one, words_shape) = matcher.shape(words).split_last()?;
    let whole = matcher.unreshaped(words);
    let fits = *one == 1 && matcher.shape(whole)[..] == *words_shape;
    fits.then_some((whole, bits))
}

/// A product with unpacked weights, transposed or not.
pub(super) fn product(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let (
        &Kernel::Matmul {
            alpha: 1.0,
            beta: None,
        },
        &[x, factor],
    ) = matcher.kernel(root)?
    else {
        return None;
    };
    let shared = matcher.unbroadcast(factor);
    let (weights, transpose) = match matcher.view(shared) {
        Some((View::Transpose(axes), from)) if swaps_last_two(axes) => (from, true),
        _ => (shared, false),
    };
    let unpacked = matcher.unreshaped(weights);
    let (&Kernel::Dequantize(quantization), packed) = matcher.kernel(unpacked)? else {
        return None;
    };
    let spec = matcher.spec(root);
    // One matrix for all rows, or one for each product.
    let batched = matcher.shape(shared).len() > 2;
    let fits = matcher.spec(unpacked) == matcher.spec(weights)
        && matcher.spec(unpacked).dtype == spec.dtype
        && !(batched && shared != factor);
    if !fits {
        return None;
    }
    let inputs = [&[x], packed].concat();
    let kernel = Kernel::QuantizedMatmul {
        quantization,
        transpose,
    };
    rewrite.root("QuantizedMatmul", kernel, &inputs, root);
    Some(())
}

fn swaps_last_two(axes: &[usize]) -> bool {
    let rank = axes.len();
    let swapped = |(i, &axis): (usize, &usize)| match rank - i {
        1 => axis + 1 == i,
        2 => axis == i + 1,
        _ => axis == i,
    };
    rank >= 2 && axes.iter().enumerate().all(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::{Ir, Kind};
    use crate::compile::passes::recognise::{recognise, with};
    use crate::compile::testing::Builder;
    use crate::program::expr::{binary, x, y};
    use crate::program::{Expr, Program, ProgramBuilder};
    use crate::shape::Axes;

    const AFFINE: Quantization = Quantization {
        group_size: 32,
        bits: 4,
        mode: QuantizationMode::Affine,
    };

    /// A step of one function, with a result of this spec.
    fn map(b: &mut Builder, expr: Expr, inputs: &[Value], spec: &Spec) -> Value {
        let dtypes: Vec<Dtype> = inputs.iter().map(|&v| b.spec(v).dtype).collect();
        let kind = Kind::Kernel(Kernel::Elementwise(Program::from_expr(&expr, &dtypes)));
        b.step_of("Map", kind, inputs, spec.clone())
    }

    fn number(b: &mut Builder, value: f64, spec: &Spec) -> Value {
        let mut program = ProgramBuilder::default();
        let constant = program.constant(value, spec.dtype);
        let kernel = Kernel::Elementwise(program.finish(vec![constant]));
        b.step_of("Number", Kind::Kernel(kernel), &[], spec.clone())
    }

    fn reshape(b: &mut Builder, value: Value, shape: &[usize]) -> Value {
        let spec = Spec::new(shape, b.spec(value).dtype);
        b.step_of("Reshape", Kind::View(View::Reshape), &[value], spec)
    }

    fn broadcast(b: &mut Builder, value: Value, shape: &[usize]) -> Value {
        let spec = Spec::new(shape, b.spec(value).dtype);
        b.step_of("Broadcast", Kind::View(View::Broadcast), &[value], spec)
    }

    /// `codes * scales + biases` for (6, 64) codes in groups of 32, and the inputs' specs.
    fn scaled(b: &mut Builder, codes: Value, dtype: Dtype) -> Value {
        let groups = Spec::new([6, 2, 32], dtype);
        let codes = reshape(b, codes, &[6, 2, 32]);
        let codes = map(b, Expr::Cast(dtype, Box::new(x())), &[codes], &groups);
        let [scales, biases] = [0, 1].map(|_| {
            let each = b.input_of(Spec::new([6, 2], dtype));
            let each = reshape(b, each, &[6, 2, 1]);
            broadcast(b, each, &[6, 2, 32])
        });
        let scaled = map(b, binary(Binary::Mul, x(), y()), &[codes, scales], &groups);
        let values = map(b, binary(Binary::Add, x(), y()), &[scaled, biases], &groups);
        reshape(b, values, &[6, 64])
    }

    /// The chain for 4 bits. `shift` gives how far code `i` is shifted up.
    fn unpacked(shift: impl Fn(usize) -> usize, dtype: Dtype) -> Ir {
        let mut b = Builder::default();
        let spec = Spec::new([6, 8], Dtype::Uint32);
        let words = b.input_of(spec.clone());
        let parts: Vec<Value> = (0..8)
            .map(|i| {
                let amount = number(&mut b, shift(i) as f64, &spec);
                let up = binary(Binary::LeftShift, x(), y());
                let up = map(&mut b, up, &[words, amount], &spec);
                let amount = number(&mut b, 28.0, &spec);
                let down = binary(Binary::RightShift, x(), y());
                let down = map(&mut b, down, &[up, amount], &spec);
                reshape(&mut b, down, &[6, 8, 1])
            })
            .collect();
        let joined = Spec::new([6, 8, 8], Dtype::Uint32);
        let join = Kind::Kernel(Kernel::Concatenate { axis: 2 });
        let codes = b.step_of("Concatenate", join, &parts, joined);
        let values = scaled(&mut b, codes, dtype);
        b.finish(&[values])
    }

    /// The kernels of what is made of a graph.
    fn kernels(ir: Ir) -> Vec<Kernel> {
        let steps = recognise(ir).steps.into_iter();
        let kernels = steps.filter_map(|step| match step.kind {
            Kind::Kernel(kernel) => Some(kernel),
            Kind::View(_) => None,
        });
        kernels.collect()
    }

    #[test]
    fn chains_that_unpack_are_one_kernel() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let found = kernels(unpacked(|i| 28 - 4 * i, dtype));
            assert_eq!(found, [Kernel::Dequantize(AFFINE)]);
        }
        // Codes in another order.
        assert!(kernels(unpacked(|i| 4 * i, Dtype::Float32)).len() > 1);
        assert!(kernels(unpacked(|_| 28, Dtype::Float32)).len() > 1);
    }

    /// The chain for codes of 3 bits in words of 32, with this step from bit to bit.
    fn three_bits(next: f64) -> Ir {
        let mut b = Builder::default();
        let words = b.input_of(Spec::new([6, 6], Dtype::Uint32));
        let repeated = reshape(&mut b, words, &[6, 6, 1]);
        let repeated = broadcast(&mut b, repeated, &[6, 6, 32]);
        let count = |b: &mut Builder, to: usize, shape: &[usize]| {
            let arange = Kind::Kernel(Kernel::Arange { start: 0.0, next });
            let numbers = b.step_of("Arange", arange, &[], Spec::new([to], Dtype::Uint32));
            broadcast(b, numbers, shape)
        };
        let [bit, code] = [[6, 6, 32], [6, 64, 3]].map(|s| Spec::new(s, Dtype::Uint32));
        let places = count(&mut b, 32, &[6, 6, 32]);
        let down = binary(Binary::RightShift, x(), y());
        let bits = map(&mut b, down, &[repeated, places], &bit);
        let one = number(&mut b, 1.0, &bit);
        let bits = map(
            &mut b,
            binary(Binary::BitwiseAnd, x(), y()),
            &[bits, one],
            &bit,
        );
        let bits = reshape(&mut b, bits, &[6, 64, 3]);
        let places = count(&mut b, 3, &[6, 64, 3]);
        let placed = map(
            &mut b,
            binary(Binary::LeftShift, x(), y()),
            &[bits, places],
            &code,
        );
        let sum = Kernel::Reduce {
            op: Reduction::Sum,
            axes: Axes::from_slice(&[2]),
        };
        let sums = Spec::new([6, 64, 1], Dtype::Uint32);
        let codes = b.step_of("Reduce", Kind::Kernel(sum), &[placed], sums);
        let values = scaled(&mut b, codes, Dtype::Float32);
        b.finish(&[values])
    }

    #[test]
    fn codes_that_do_not_divide_a_word_are_put_together_from_bits() {
        let three = Quantization { bits: 3, ..AFFINE };
        assert_eq!(kernels(three_bits(1.0)), [Kernel::Dequantize(three)]);
        assert!(kernels(three_bits(2.0)).len() > 1);
    }

    /// A product of x and what `see` makes of unpacked weights (batch..., 6, 64).
    fn multiplied(
        batch: &[usize],
        x: &[usize],
        out: &[usize],
        dtypes: [Dtype; 2],
        alpha: f32,
        see: impl Fn(&mut Builder, Value) -> Value,
    ) -> Vec<Kernel> {
        let mut b = Builder::default();
        let x = b.input_of(Spec::new(x, dtypes[0]));
        let of = |last: &[usize]| [batch, last].concat();
        let words = b.input_of(Spec::new(of(&[6, 8]), Dtype::Uint32));
        let [scales, biases] = [0, 1].map(|_| b.input_of(Spec::new(of(&[6, 2]), dtypes[1])));
        let unpack = Kind::Kernel(Kernel::Dequantize(AFFINE));
        let values = Spec::new(of(&[6, 64]), dtypes[1]);
        let weights = b.step_of("Quantize", unpack, &[words, scales, biases], values);
        let weights = see(&mut b, weights);
        let product = Kind::Kernel(Kernel::Matmul { alpha, beta: None });
        let out = Spec::new(out, dtypes[0]);
        let result = b.step_of("Matmul", product, &[x, weights], out);
        let ir = with(b.finish(&[result]), super::product);
        let kernels = ir.steps.into_iter().filter_map(|step| match step.kind {
            Kind::Kernel(kernel) => Some(kernel),
            Kind::View(_) => None,
        });
        kernels.collect()
    }

    fn transposed(b: &mut Builder, value: Value, axes: &[usize]) -> Value {
        let shape: Vec<usize> = axes.iter().map(|&axis| b.shape(value)[axis]).collect();
        let spec = Spec::new(shape, b.spec(value).dtype);
        let view = Kind::View(View::Transpose(Axes::from_slice(axes)));
        b.step_of("Transpose", view, &[value], spec)
    }

    #[test]
    fn products_with_unpacked_weights_unpack_as_they_go() {
        let product = |transpose| {
            vec![Kernel::QuantizedMatmul {
                quantization: AFFINE,
                transpose,
            }]
        };
        let as_it_is = |_: &mut Builder, w| w;
        let swapped = |b: &mut Builder, w| transposed(b, w, &[1, 0]);
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let of = [dtype; 2];
            let found = multiplied(&[], &[3, 6], &[3, 64], of, 1.0, as_it_is);
            assert_eq!(found, product(false));
            let found = multiplied(&[], &[3, 64], &[3, 6], of, 1.0, swapped);
            assert_eq!(found, product(true));
        }
        let of = [Dtype::Float32; 2];
        // One matrix for all batches of x, and one for each.
        let shared = |b: &mut Builder, w| {
            let w = transposed(b, w, &[1, 0]);
            broadcast(b, w, &[2, 64, 6])
        };
        let found = multiplied(&[], &[2, 3, 64], &[2, 3, 6], of, 1.0, shared);
        assert_eq!(found, product(true));
        let each = |b: &mut Builder, w| transposed(b, w, &[0, 2, 1]);
        let found = multiplied(&[2], &[2, 3, 64], &[2, 3, 6], of, 1.0, each);
        assert_eq!(found, product(true));
    }

    #[test]
    fn other_products_stay() {
        let as_it_is = |_: &mut Builder, w| w;
        let of = [Dtype::Float32; 2];
        // A multiple of the product.
        assert_eq!(
            multiplied(&[], &[3, 6], &[3, 64], of, 2.0, as_it_is).len(),
            2
        );
        // Weights in another shape, or with other dimensions swapped.
        let reshaped = |b: &mut Builder, w| reshape(b, w, &[64, 6]);
        assert_eq!(
            multiplied(&[], &[3, 64], &[3, 6], of, 1.0, reshaped).len(),
            2
        );
        let swapped = |b: &mut Builder, w| transposed(b, w, &[1, 0, 2]);
        let found = multiplied(&[2], &[6, 3, 2], &[6, 3, 64], of, 1.0, swapped);
        assert_eq!(found.len(), 2);
        // Some matrices, each of them for several of x.
        let repeated = |b: &mut Builder, w| broadcast(b, w, &[2, 6, 64]);
        let found = multiplied(&[1], &[2, 3, 6], &[2, 3, 64], of, 1.0, repeated);
        assert_eq!(found.len(), 2);
        // Converted on the way.
        let dtypes = [Dtype::Float32, Dtype::Float16];
        let cast = |b: &mut Builder, w| {
            let spec = Spec::new([6, 64], Dtype::Float32);
            map(b, Expr::Cast(Dtype::Float32, Box::new(x())), &[w], &spec)
        };
        assert_eq!(
            multiplied(&[], &[3, 6], &[3, 64], dtypes, 1.0, cast).len(),
            3
        );
    }
}
