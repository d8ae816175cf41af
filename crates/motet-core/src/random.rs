//! The generator of random bits, and the keys that are drawn where none is given.
//!
//! A key gives the same bits everywhere, always. What is drawn without one takes the next key of the
//! process's [`KeySequence`], which all threads share: no two draws have the same key, on whatever
//! threads they are.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A key of the generator.
pub type Key = [u32; 2];

/// The key of a seed.
pub fn key(seed: u64) -> Key {
    [(seed >> 32) as u32, seed as u32]
}

/// The two words that the generator, Threefry-2x32 with 20 rounds, has for a key and a counter.
#[inline(always)]
pub fn threefry([k0, k1]: Key, [mut x, mut y]: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [k0, k1, k0 ^ k1 ^ 0x1BD1_1BDA];
    x = x.wrapping_add(keys[0]);
    y = y.wrapping_add(keys[1]);
    for i in 0..5 {
        for rotation in ROTATIONS[i % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(rotation) ^ x;
        }
        x = x.wrapping_add(keys[(i + 1) % 3]);
        y = y.wrapping_add(keys[(i + 2) % 3]).wrapping_add(i as u32 + 1);
    }
    [x, y]
}

/// Keys, one after the other: each step splits a key into the one that is given and the one that
/// the sequence goes on with. The order is that of MLX's implicit keys after the same seed.
pub struct KeySequence(AtomicU64);

impl KeySequence {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> KeySequence {
        KeySequence(AtomicU64::new(seed))
    }

    /// Goes on with the sequence of this seed, in all threads.
    pub fn seed(&self, seed: u64) {
        self.0.store(seed, Ordering::Relaxed);
    }

    /// The next key. Threads that ask at the same time get different ones.
    pub fn next_key(&self) -> Key {
        let split = |state| {
            let [[next_0, given_0], [next_1, given_1]] =
                [[0, 2], [1, 3]].map(|counter| threefry(key(state), counter));
            let next = u64::from(next_0) << 32 | u64::from(next_1);
            (next, [given_0, given_1])
        };
        // The atomic guards nothing but itself: Relaxed. An update that another thread was faster
        // than is made again from what that one left.
        let update = |state| Some(split(state).0);
        let state = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        split(state.unwrap_or_else(|state| state)).1
    }
}

/// The process's sequence. Until it is seeded it starts anywhere.
pub fn key_sequence() -> &'static KeySequence {
    static SEQUENCE: LazyLock<KeySequence> =
        LazyLock::new(|| KeySequence::new(RandomState::new().hash_one(0)));
    &SEQUENCE
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_generator_has_its_known_answers() {
        // The test vectors that its authors publish: key, counter, result.
        for (key, counter, answer) in [
            ([0; 2], [0; 2], [0x6b20_0159, 0x99ba_4efe]),
            ([u32::MAX; 2], [u32::MAX; 2], [0x1cb9_96fc, 0xbb00_2be7]),
            (
                [0x1319_8a2e, 0x0370_7344],
                [0x243f_6a88, 0x85a3_08d3],
                [0xc492_3a9c, 0x483d_f7a0],
            ),
        ] {
            assert_eq!(threefry(key, counter), answer);
        }
    }

    #[test]
    fn threads_never_get_the_same_key() {
        let sequence = KeySequence::new(7);
        let draw = || (0..1000).map(|_| sequence.next_key()).collect::<Vec<Key>>();
        let mut keys = std::thread::scope(|s| {
            let threads = [(); 4].map(|()| s.spawn(draw));
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 4000);
        // Together they got the keys that one thread gets.
        sequence.seed(7);
        let mut alone: Vec<Key> = (0..4000).map(|_| sequence.next_key()).collect();
        keys.sort_unstable();
        alone.sort_unstable();
        assert_eq!(keys, alone);
    }
}
