//! Offsets in one workspace for values that live for a while.

use crate::error::{Error, ErrorKind, Result};
use crate::memory::ALIGNMENT;

/// A piece of memory that is needed from step `first` to step `last`, both included.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// Where each request lies, and the bytes of all together.
#[derive(Debug)]
pub(crate) struct MemoryPlan {
    pub(crate) offsets: Vec<usize>,
    pub(crate) bytes: usize,
}

/// Places large requests first, each in the lowest gap between those it lives beside. Two requests
/// share memory only if no step needs both.
pub(crate) fn plan_memory(requests: &[Request]) -> Result<MemoryPlan> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(requests[i].bytes), requests[i].first));
    let mut offsets = vec![0; requests.len()];
    let mut bytes = 0;
    let mut placed = Placed::new(requests);
    // Start and end of those that have a place and live beside the next one.
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for i in order {
        let too_large = || {
            Error::new(
                ErrorKind::Memory,
                "plan",
                "the workspace would be too large",
            )
        };
        let size = requests[i]
            .bytes
            .checked_next_multiple_of(ALIGNMENT)
            .ok_or_else(too_large)?;
        if size == 0 {
            continue;
        }
        taken.clear();
        placed.beside(&requests[i], |place| taken.push(place));
        taken.sort_unstable();
        let mut start = 0;
        for &(other_start, other_end) in &taken {
            if other_start.saturating_sub(start) >= size {
                break;
            }
            start = start.max(other_end);
        }
        let end = start.checked_add(size).ok_or_else(too_large)?;
        offsets[i] = start;
        bytes = bytes.max(end);
        placed.insert(&requests[i], (start, end));
    }
    Ok(MemoryPlan { offsets, bytes })
}

/// Pieces of memory, found by the steps that need them.
struct Placed {
    /// The pieces that are needed from each step on.
    from: Vec<Vec<(usize, usize)>>,
    /// A tree over the steps, its leaves in the second half: each piece is kept by the few nodes that
    /// together cover its steps.
    covering: Vec<Vec<(usize, usize)>>,
}

impl Placed {
    fn new(requests: &[Request]) -> Placed {
        let steps = requests.iter().map(|request| request.last + 1).max();
        let steps = steps.unwrap_or(0);
        Placed {
            from: vec![Vec::new(); steps],
            covering: vec![Vec::new(); 2 * steps],
        }
    }

    fn insert(&mut self, request: &Request, place: (usize, usize)) {
        self.from[request.first].push(place);
        let steps = self.from.len();
        let (mut low, mut end) = (request.first + steps, request.last + 1 + steps);
        while low < end {
            if low % 2 == 1 {
                self.covering[low].push(place);
                low += 1;
            }
            if end % 2 == 1 {
                end -= 1;
                self.covering[end].push(place);
            }
            low /= 2;
            end /= 2;
        }
    }

    /// Visits the pieces that a step of the request's needs: those that its first step needs, and
    /// those that are needed from a later one on.
    fn beside(&self, request: &Request, mut visit: impl FnMut((usize, usize))) {
        let mut node = request.first + self.from.len();
        while node > 0 {
            self.covering[node].iter().copied().for_each(&mut visit);
            node /= 2;
        }
        let later = &self.from[request.first + 1..=request.last];
        later.iter().flatten().copied().for_each(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: usize, first: usize, last: usize) -> Request {
        Request { bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<_> = (0..50).map(|step| request(1000, step, step + 1)).collect();
        assert_eq!(plan_memory(&chain).unwrap().bytes, 2 * 1024);
    }

    #[test]
    fn what_lives_together_lies_apart_and_aligned() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) % below) as usize
        };
        for _ in 0..200 {
            let requests: Vec<_> = (0..random(40))
                .map(|_| {
                    let first = random(30);
                    request(random(500), first, first + random(8))
                })
                .collect();
            let plan = plan_memory(&requests).unwrap();
            for (i, a) in requests.iter().enumerate() {
                let (low, high) = (plan.offsets[i], plan.offsets[i] + a.bytes);
                assert!(low % ALIGNMENT == 0 && high <= plan.bytes);
                for (j, b) in requests.iter().enumerate().take(i) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = high <= plan.offsets[j] || plan.offsets[j] + b.bytes <= low;
                    assert!(!together || apart || a.bytes == 0 || b.bytes == 0);
                }
            }
        }
    }

    #[test]
    fn long_plans_are_planned_in_time() {
        // Comparing each with each would take minutes.
        let mut requests: Vec<_> = (0..200_000)
            .map(|step| request(100 + step % 7, step, step + 1 + step % 3))
            .collect();
        requests.push(request(10_000, 0, 200_000));
        let plan = plan_memory(&requests).unwrap();
        assert!(plan.bytes <= 10_000 + 240 + 5 * 128);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(plan_memory(&[request(usize::MAX, 0, 0)]).is_err());
        let half = usize::MAX / 2;
        assert!(
            plan_memory(&[
                request(half, 0, 0),
                request(half, 0, 0),
                request(half, 0, 0)
            ])
            .is_err()
        );
    }
}
