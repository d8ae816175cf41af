//! Sums of products, written with a letter per dimension.
//!
//! Operands are contracted two at a time, those with the smallest result first: by a matrix product
//! where a dimension is summed over, else element by element.

use std::collections::BTreeMap;
use std::fmt;

use motet_core::array::Array;
use motet_core::array::apply::broadcast_to;
use motet_core::error::{Error, Result};
use motet_core::shape::Shape;

use super::shape::reshape_to;
use super::{diagonal, matmul, multiply, promote_all, sum, transpose};

/// A dimension: a letter of the subscripts, or one that dots stand for, by its place from the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Dots(usize),
    Letter(char),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Dots(place) => write!(f, "dimension -{} of the dots", place + 1),
            Label::Letter(letter) => write!(f, "{letter:?}"),
        }
    }
}

/// Subscripts, understood: the labels of each operand and of the result, and the size of each label.
struct Subscripts {
    operands: Vec<Vec<Label>>,
    output: Vec<Label>,
    sizes: BTreeMap<Label, usize>,
}

/// An operand with the labels of its dimensions.
#[derive(Clone)]
struct Term {
    array: Array,
    labels: Vec<Label>,
}

fn error(message: String) -> Error {
    Error::invalid("einsum", message)
}

/// The labels that a term stands for, of an array with `rank` dimensions.
fn labels(term: &str, rank: usize) -> Result<Vec<Label>> {
    let wrong = || error(format!("subscripts {term:?} are not for {rank} dimensions"));
    let letters = |part: &str| -> Result<Vec<Label>> {
        let each = part
            .chars()
            .map(|letter| match letter.is_ascii_alphabetic() {
                true => Ok(Label::Letter(letter)),
                false => Err(error(format!(
                    "got {letter:?} in {term:?}, expected letters"
                ))),
            });
        each.collect()
    };
    let (mut result, after) = match term.split_once("...") {
        Some((before, after)) => (letters(before)?, letters(after)?),
        None => {
            let result = letters(term)?;
            return match result.len() == rank {
                true => Ok(result),
                false => Err(wrong()),
            };
        }
    };
    let dots = rank
        .checked_sub(result.len() + after.len())
        .ok_or_else(wrong)?;
    result.extend((0..dots).rev().map(Label::Dots));
    result.extend(after);
    Ok(result)
}

impl Subscripts {
    fn new(subscripts: &str, operands: &[Array]) -> Result<Subscripts> {
        let compact: String = subscripts.split_whitespace().collect();
        let (inputs, output) = match compact.split_once("->") {
            Some((inputs, output)) => (inputs, Some(output)),
            None => (&compact[..], None),
        };
        let inputs: Vec<&str> = inputs.split(',').collect();
        if inputs.len() != operands.len() {
            return Err(error(format!(
                "got {} operands for the subscripts {subscripts:?}",
                operands.len()
            )));
        }
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        let mut terms = Vec::new();
        for (term, operand) in inputs.iter().zip(operands) {
            let labels = labels(term, operand.shape().len())?;
            for (&label, &dim) in labels.iter().zip(operand.shape().iter()) {
                let size = sizes.entry(label).or_insert(dim);
                match (*size, dim) {
                    (1, dim) => *size = dim,
                    (size, dim) if size == dim || dim == 1 => (),
                    (size, dim) => {
                        return Err(error(format!(
                            "{label} of {subscripts:?} has sizes {size} and {dim}"
                        )));
                    }
                }
            }
            terms.push(labels);
        }
        let output = match output {
            Some(output) => {
                let dots = sizes.keys().filter(|label| matches!(label, Label::Dots(_)));
                let letters = output.replace("...", "").chars().count();
                let rank = match output.contains("...") {
                    true => letters + dots.count(),
                    false => letters,
                };
                labels(output, rank)?
            }
            None => implied(&terms),
        };
        for (i, label) in output.iter().enumerate() {
            if output[..i].contains(label) || !sizes.contains_key(label) {
                return Err(error(format!(
                    "the result of {subscripts:?} has {label} twice, or from nowhere"
                )));
            }
        }
        Ok(Subscripts {
            operands: terms,
            output,
            sizes,
        })
    }

    /// How many elements an array with these labels has.
    fn size(&self, labels: &[Label]) -> f64 {
        labels
            .iter()
            .map(|label| self.sizes[label] as f64)
            .product()
    }

    /// The labels that the contraction of two terms has, if the others and the output remain.
    fn contracted(&self, a: &[Label], b: &[Label], others: &[&Vec<Label>]) -> Vec<Label> {
        let needed = |label: &Label| {
            self.output.contains(label) || others.iter().any(|other| other.contains(label))
        };
        let fresh = b.iter().filter(|label| !a.contains(label));
        a.iter().chain(fresh).copied().filter(needed).collect()
    }

    /// Which terms to contract, two at a time: the pair with the smallest result, which goes to the
    /// end of the list.
    fn path(&self) -> Vec<(usize, usize)> {
        let mut terms = self.operands.clone();
        let mut path = Vec::new();
        while terms.len() > 1 {
            let mut best: Option<(f64, (usize, usize), Vec<Label>)> = None;
            for i in 0..terms.len() {
                for j in i + 1..terms.len() {
                    let others = terms.iter().enumerate();
                    let others: Vec<_> = others
                        .filter(|&(k, _)| k != i && k != j)
                        .map(|(_, term)| term)
                        .collect();
                    let result = self.contracted(&terms[i], &terms[j], &others);
                    let size = self.size(&result);
                    if best.as_ref().is_none_or(|(least, ..)| size < *least) {
                        best = Some((size, (i, j), result));
                    }
                }
            }
            let Some((_, (i, j), result)) = best else {
                break;
            };
            terms.remove(j);
            terms.remove(i);
            terms.push(result);
            path.push((i, j));
        }
        path
    }
}

/// Without an arrow the result has the dimensions of the dots, then the letters that occur once.
fn implied(terms: &[Vec<Label>]) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    for &label in terms.iter().flatten() {
        *counts.entry(label).or_default() += 1;
    }
    let dots = counts
        .keys()
        .filter(|label| matches!(label, Label::Dots(_)));
    let once = counts
        .iter()
        .filter(|&(label, &count)| matches!(label, Label::Letter(_)) && count == 1);
    dots.rev()
        .chain(once.map(|(label, _)| label))
        .copied()
        .collect()
}

impl Term {
    /// An operand without repeated labels, each dimension of its label's size.
    fn new(array: &Array, labels: &[Label], sizes: &BTreeMap<Label, usize>) -> Result<Term> {
        let shape: Shape = labels.iter().map(|label| sizes[label]).collect();
        let mut term = Term {
            array: broadcast_to(array, &shape)?,
            labels: labels.to_vec(),
        };
        while let Some((first, second)) = repeated(&term.labels) {
            term.array = diagonal(&term.array, 0, first as i32, second as i32)?;
            let label = term.labels.remove(second);
            term.labels.remove(first);
            term.labels.push(label);
        }
        Ok(term)
    }

    /// The sum over those dimensions whose labels are not kept.
    fn sum_to(self, keep: impl Fn(&Label) -> bool) -> Result<Term> {
        let axes = (0..self.labels.len()).filter(|&axis| !keep(&self.labels[axis]));
        let axes: Vec<i32> = axes.map(|axis| axis as i32).collect();
        Ok(Term {
            array: sum(&self.array, axes)?,
            labels: self
                .labels
                .iter()
                .copied()
                .filter(|label| keep(label))
                .collect(),
        })
    }

    /// The array with dimensions in the order of these labels, which are all of its own; those that
    /// it does not have are one.
    fn align(&self, labels: &[Label]) -> Result<Array> {
        let place = |label: &Label| self.labels.iter().position(|own| own == label);
        let axes: Vec<i32> = labels
            .iter()
            .filter_map(place)
            .map(|axis| axis as i32)
            .collect();
        let dim = |label: &Label| place(label).map_or(1, |axis| self.array.shape()[axis]);
        let shape: Vec<usize> = labels.iter().map(dim).collect();
        reshape_to(&transpose(&self.array, axes)?, &shape)
    }
}

/// The first two places with the same label.
fn repeated(labels: &[Label]) -> Option<(usize, usize)> {
    let place = |second: usize| labels[..second].iter().position(|l| *l == labels[second]);
    (0..labels.len()).find_map(|second| place(second).map(|first| (first, second)))
}

/// Contracts two terms to one with the labels of `result`.
fn contract(a: Term, b: Term, result: &[Label], sizes: &BTreeMap<Label, usize>) -> Result<Term> {
    let kept = |other: &Term, label: &Label| other.labels.contains(label) || result.contains(label);
    let a = a.clone().sum_to(|label| kept(&b, label))?;
    let b = b.sum_to(|label| kept(&a, label))?;
    let shared = a.labels.iter().filter(|label| b.labels.contains(label));
    let (batch, summed): (Vec<Label>, Vec<Label>) =
        shared.copied().partition(|label| result.contains(label));
    let own = |term: &Term, other: &Term| -> Vec<Label> {
        let own = term
            .labels
            .iter()
            .filter(|label| !other.labels.contains(label));
        own.copied().collect()
    };
    let (rows, columns) = (own(&a, &b), own(&b, &a));
    let labels = [&batch[..], &rows, &columns].concat();
    if summed.is_empty() {
        let array = multiply(a.align(&labels)?, b.align(&labels)?)?;
        return Ok(Term { array, labels });
    }
    let sizes_of = |labels: &[Label]| labels.iter().map(|label| sizes[label]).collect::<Vec<_>>();
    let count = |labels: &[Label]| sizes_of(labels).iter().product::<usize>();
    let (k, m, n) = (count(&summed), count(&rows), count(&columns));
    let matrices = |term: &Term, order: [&[Label]; 3], last: [usize; 2]| {
        let shape = [sizes_of(&batch), last.to_vec()].concat();
        reshape_to(&term.align(&order.concat())?, &shape)
    };
    let left = matrices(&a, [&batch, &rows, &summed], [m, k])?;
    let right = matrices(&b, [&batch, &summed, &columns], [k, n])?;
    let array = reshape_to(&matmul(&left, &right)?, &sizes_of(&labels))?;
    Ok(Term { array, labels })
}

/// The sum of products that subscripts describe: a letter for each dimension of each operand, dots
/// for any number of them, and after the arrow the dimensions of the result, over all others of which
/// is summed. Without an arrow the result has the letters that occur once, in alphabetical order.
/// Dimensions of size one broadcast.
///
/// # Errors
/// Where subscripts are malformed or do not fit the operands, or integers are multiplied and summed.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
/// let product = ops::einsum("ij,jk->ik", &[x.clone(), x.clone()])?;
/// assert_eq!(product.to_vec::<f32>()?, [7.0, 10.0, 15.0, 22.0]);
/// assert_eq!(ops::einsum("ii", &[x])?.item::<f32>()?, 5.0);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn einsum(subscripts: &str, operands: &[Array]) -> Result<Array> {
    let parsed = Subscripts::new(subscripts, operands)?;
    let promoted = promote_all(operands)?;
    let pairs = promoted.iter().zip(&parsed.operands);
    let mut terms = pairs
        .map(|(array, labels)| Term::new(array, labels, &parsed.sizes))
        .collect::<Result<Vec<Term>>>()?;
    for (i, j) in parsed.path() {
        let b = terms.remove(j);
        let a = terms.remove(i);
        let others: Vec<_> = terms.iter().map(|term| &term.labels).collect();
        let result = parsed.contracted(&a.labels, &b.labels, &others);
        terms.push(contract(a, b, &result, &parsed.sizes)?);
    }
    let last = terms.swap_remove(0);
    let last = last.sum_to(|label| parsed.output.contains(label))?;
    last.align(&parsed.output)
}

/// The order in which [`einsum`] contracts its operands: pairs of places in the list of what is left,
/// from which both are removed, and to the end of which their contraction is added.
///
/// # Errors
/// Where subscripts are malformed or do not fit the operands.
///
/// ```
/// # use motet::{Array, ops};
/// let (x, y) = (ops::ones([9, 9], None)?, ops::ones([9, 1], None)?);
/// let path = ops::einsum_path("ij,jk,kl->il", &[x.clone(), x, y])?;
/// assert_eq!(path, [(1, 2), (0, 1)]);
/// # Ok::<(), motet::Error>(())
/// ```
pub fn einsum_path(subscripts: &str, operands: &[Array]) -> Result<Vec<(usize, usize)>> {
    Ok(Subscripts::new(subscripts, operands)?.path())
}
