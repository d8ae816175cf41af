//! Random bits: the Threefry-2x32 generator, with the order of words that MLX has.
//!
//! A key and a counter give two words, each pair independent of all others. A key's output is cut
//! into tiles of counters; word `j` of the first half and its partner in the second come together.

use std::marker::PhantomData;

use motet_core::backend::{Launch, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::random::{Key, threefry};
use motet_core::shape::Layout;

use crate::operand::{Output, input};
use crate::simd::{Level, Simd, leveled};

/// Keys are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares the generator.
pub(crate) fn prepare(_: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Box<dyn Step>> {
    let ([keys], [out]) = (inputs, outputs) else {
        return Err(unexpected());
    };
    let fits = keys.dtype == Dtype::Uint32
        && keys
            .shape
            .split_last()
            .is_some_and(|(&last, keys)| last == 2 && out.shape.strip_prefix(keys).is_some());
    let (keys, out) = (keys.clone(), out.clone());
    match out.dtype {
        Dtype::Uint8 if fits => Ok(Box::new(BitsStep::<u8>(keys, out, PhantomData))),
        Dtype::Uint16 if fits => Ok(Box::new(BitsStep::<u16>(keys, out, PhantomData))),
        Dtype::Uint32 if fits => Ok(Box::new(BitsStep::<u32>(keys, out, PhantomData))),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    Error::invalid("RandomBits", "got other operands than expected")
}

/// Counters in a tile.
const TILE: usize = 4 << 10;
/// Counters that are computed side by side.
const BLOCK: usize = 64;

struct BitsStep<T>(Layout, Layout, PhantomData<fn() -> T>);

impl<T: Element + bytemuck::Pod> Step for BitsStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let BitsStep(keys, out, _) = self;
        let keys = input::<u32>(&launch.inputs[0], keys)?;
        let out = Output::<T>::new(&launch.outputs[0], out)?;
        if out.len() == 0 {
            return Ok(());
        }
        let per_key = out.len() / (keys.len() / 2);
        let words = Words {
            count: (per_key * size_of::<T>()).div_ceil(4),
            per_key,
            out: &out,
        };
        // The last counter of an odd number of words gives one.
        let counters = words.count.div_ceil(2);
        let tiles = counters.div_ceil(TILE);
        let (simd, cost) = (Simd::detect(), 3 * TILE.min(counters));
        launch
            .pool
            .for_each_tile(keys.len() / 2 * tiles, cost, &|tile| {
                let (number, first) = (tile / tiles, tile % tiles * TILE);
                let key = [keys[2 * number], keys[2 * number + 1]];
                let last = (first + TILE).min(counters);
                for first in (first..last).step_by(BLOCK) {
                    let second = counters + first;
                    let count = BLOCK.min(last - first);
                    let (mut low, mut high) = ([0; BLOCK], [0; BLOCK]);
                    for (i, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                        *low = (first + i) as u32;
                        // A word without a partner has a counter of its own.
                        *high = match second + i < words.count {
                            true => (second + i) as u32,
                            false => 0,
                        };
                    }
                    let (a, b) = (&mut low, &mut high);
                    leveled!(simd, generate(key: Key, a: &mut [u32; BLOCK], b: &mut [u32; BLOCK]));
                    let partners = count.min(words.count - second.min(words.count));
                    // SAFETY: these words of the key are this tile's alone.
                    unsafe {
                        words.store(number, first, &low[..count]);
                        words.store(number, second, &high[..partners]);
                    }
                }
            });
        Ok(())
    }
}

/// The output as words of each key, the last one cut off where elements are smaller.
struct Words<'o, 'a, T> {
    count: usize,
    /// Elements of a key.
    per_key: usize,
    out: &'o Output<'a, T>,
}

impl<T: Element + bytemuck::Pod> Words<'_, '_, T> {
    /// Stores the words of a key from `first` on.
    ///
    /// # Safety
    /// Nobody else writes these words.
    unsafe fn store(&self, key: usize, first: usize, words: &[u32]) {
        let in_word = 4 / size_of::<T>();
        let elements = &bytemuck::cast_slice::<u32, T>(words);
        let start = (first * in_word).min(self.per_key);
        let len = elements.len().min(self.per_key - start);
        let start = key * self.per_key + start;
        // SAFETY: by this function's contract.
        unsafe { self.out.part(start..start + len) }.copy_from_slice(&elements[..len]);
    }
}

/// The words of a key for pairs of counters, in their place.
#[inline(always)]
fn generate<L: Level>(key: Key, a: &mut [u32; BLOCK], b: &mut [u32; BLOCK]) {
    for (a, b) in a.iter_mut().zip(b) {
        [*a, *b] = threefry(key, [*a, *b]);
    }
}

#[cfg(test)]
mod tests {
    use motet_core::shape::Spec;

    use super::*;
    use crate::testing::{run, tensor, values};

    fn bits<T: Element>(keys: &[u32], per_key: usize) -> Vec<T> {
        let count = keys.len() / 2;
        let out = [Spec::new([count, per_key], T::DTYPE)];
        let out = run(&Kernel::RandomBits, &[&tensor(&[count, 2], keys)], &out).unwrap();
        values(&out[0])
    }

    /// Word by word, as the order is defined.
    fn reference(key: Key, words: usize) -> Vec<u32> {
        let half = words.div_ceil(2);
        let mut result = vec![0; words];
        for j in 0..half {
            let partner = half + j;
            if partner < words {
                [result[j], result[partner]] = threefry(key, [j as u32, partner as u32]);
            } else {
                result[j] = threefry(key, [j as u32, 0])[0];
            }
        }
        result
    }

    #[test]
    fn words_are_in_the_order_of_the_definition() {
        let keys = [0, 42, 7, u32::MAX];
        for words in [1, 2, 3, 4, 127, 128, 129, 20_001, 20_002] {
            let got = bits::<u32>(&keys, words);
            assert_eq!(got[..words], reference([0, 42], words));
            assert_eq!(got[words..], reference([7, u32::MAX], words));
        }
    }

    #[test]
    fn smaller_elements_are_parts_of_words() {
        for count in [1, 2, 3, 5, 8, 9, 515] {
            let bytes = bits::<u8>(&[1, 2], count);
            let halves = bits::<u16>(&[1, 2], count);
            let of = |bytes: usize| -> Vec<u8> {
                let words = reference([1, 2], bytes.div_ceil(4));
                words
                    .iter()
                    .flat_map(|w| w.to_le_bytes())
                    .take(bytes)
                    .collect()
            };
            assert_eq!(bytes, of(count));
            let halves: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
            assert_eq!(halves, of(2 * count));
        }
    }
}
