//! Depthwise convolutions: each channel is convolved with kernels of its own, so that products of
//! patches would have a column or two.
//!
//! Channels are neighbours in memory: a block of them is summed over all of the kernel's elements in
//! registers. The weights are brought into the order of these sums first; once, where they are a
//! constant.

use super::geometry::Geometry;
use crate::matmul::Operand;
use crate::number::Number;
use crate::real::Real;
use crate::simd::{Level, Simd, leveled};

/// Sums that are in registers together: four of AVX2, so that none waits for the one before.
const BLOCK: usize = 32;

/// An element of the kernel.
struct Tap {
    place: [usize; 3],
    /// How far what is under it is from what is under the kernel's first element, where the input has
    /// all of that.
    ahead: usize,
}

pub(super) struct Depthwise<S> {
    taps: Vec<Tap>,
    /// By tap and feature, where they are a constant.
    weights: Option<Vec<S>>,
    simd: Simd,
}

/// What computing positions needs, used again for each.
pub(super) struct Memory<S> {
    /// Where the input and the weights of each tap start.
    sources: Vec<[usize; 2]>,
    /// The input under the kernel, by tap and feature, where that is not how it lies.
    under: Vec<S>,
    channels: Vec<S>,
}

impl<S> Memory<S> {
    pub(super) fn new() -> Memory<S> {
        Memory {
            sources: Vec::new(),
            under: Vec::new(),
            channels: Vec::new(),
        }
    }
}

impl<S: Real> Depthwise<S> {
    pub(super) fn new<T: Operand<Sum = S>>(
        geometry: &Geometry,
        weights: Option<&[T]>,
    ) -> Depthwise<S> {
        let ahead = |place: [usize; 3]| {
            let dims = place.iter().zip(&geometry.dims);
            // It is used only where it is inside of the input.
            let row = dims.fold(0usize, |row, (&at, dim)| {
                let step = at.wrapping_mul(dim.kernel_dilation);
                row.wrapping_mul(dim.input).wrapping_add(step)
            });
            row.wrapping_mul(geometry.channels)
        };
        let taps = geometry.taps_in_order().into_iter();
        Depthwise {
            taps: taps
                .map(|place| Tap {
                    place,
                    ahead: ahead(place),
                })
                .collect(),
            weights: weights.map(|weights| {
                let mut ordered = vec![S::ZERO; weights.len()];
                order(geometry, weights, &mut ordered);
                ordered
            }),
            simd: Simd::detect(),
        }
    }

    /// The weights by tap and feature, where they are known.
    pub(super) fn weights(&self) -> Option<&[S]> {
        self.weights.as_deref()
    }

    /// Computes the features at a place of the output.
    pub(super) fn position<T: Operand<Sum = S>>(
        &self,
        geometry: &Geometry,
        place: [usize; 4],
        x: &[T],
        w: &[S],
        out: &mut [S],
        memory: &mut Memory<S>,
    ) {
        let (channels, features) = (geometry.channels, geometry.features);
        let Memory {
            sources,
            under,
            channels: loaded,
        } = memory;
        sources.clear();
        let inside = geometry.first_source(place);
        for (number, tap) in self.taps.iter().enumerate() {
            let source = match inside {
                Some(first) => Some(first + tap.ahead),
                None => geometry.source(place, tap.place),
            };
            sources.extend(source.map(|source| [source, number * features]));
        }
        let x = match T::as_sums(x) {
            Some(x) if channels == features => x,
            _ => {
                under.resize(self.taps.len() * features, S::ZERO);
                loaded.resize(channels, S::ZERO);
                for ([source, _], under) in sources.iter_mut().zip(under.chunks_exact_mut(features))
                {
                    T::load(&x[*source..][..channels], loaded);
                    let each = under.chunks_exact_mut(features / channels);
                    each.zip(&*loaded).for_each(|(to, &x)| to.fill(x));
                }
                for (number, [source, _]) in sources.iter_mut().enumerate() {
                    *source = number * features;
                }
                under
            }
        };
        leveled!(self.simd, sum<S: Real = S>(
            x: &[S], w: &[S], sources: &[[usize; 2]], out: &mut [S]
        ));
    }
}

/// Brings weights from the order of features and taps to that of taps and features.
pub(super) fn order<T: Operand>(geometry: &Geometry, weights: &[T], to: &mut [T::Sum]) {
    let (taps, features) = (geometry.taps(), geometry.features);
    let mut of_feature = vec![T::Sum::ZERO; taps];
    for (feature, weights) in weights.chunks_exact(taps.max(1)).enumerate() {
        T::load(weights, &mut of_feature);
        for (tap, &weight) in of_feature.iter().enumerate() {
            to[tap * features + feature] = weight;
        }
    }
}

/// `out[i]` is the sum of `x[source + i] * w[start + i]` over all sources.
#[inline(always)]
fn sum<L: Level, S: Real>(x: &[S], w: &[S], sources: &[[usize; 2]], out: &mut [S]) {
    let mut at = 0;
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for block in blocks {
        *block = sum_block::<L, S, BLOCK>(x, w, sources, at);
        at += BLOCK;
    }
    let (vectors, rest) = rest.as_chunks_mut::<8>();
    for vector in vectors {
        *vector = sum_block::<L, S, 8>(x, w, sources, at);
        at += 8;
    }
    for one in rest {
        [*one] = sum_block::<L, S, 1>(x, w, sources, at);
        at += 1;
    }
}

#[inline(always)]
fn sum_block<L: Level, S: Real, const N: usize>(
    x: &[S],
    w: &[S],
    sources: &[[usize; 2]],
    at: usize,
) -> [S; N] {
    let mut sums = [S::ZERO; N];
    for &[source, start] in sources {
        let (x, w) = (&x[source + at..][..N], &w[start + at..][..N]);
        for ((sum, &x), &w) in sums.iter_mut().zip(x).zip(w) {
            *sum = x.mul_add::<L>(w, *sum);
        }
    }
    sums
}
