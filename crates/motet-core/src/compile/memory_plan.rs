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
    // Start, end and number of those that have a place, by start.
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    for i in order {
        let request = &requests[i];
        let beside = |&&(_, _, j): &&(usize, usize, usize)| {
            requests[j].first <= request.last && request.first <= requests[j].last
        };
        let too_large = || {
            Error::new(
                ErrorKind::Memory,
                "plan",
                "the workspace would be too large",
            )
        };
        let size = request
            .bytes
            .checked_next_multiple_of(ALIGNMENT)
            .ok_or_else(too_large)?;
        let mut start = 0;
        for &(other_start, other_end, _) in placed.iter().filter(beside) {
            if other_start.saturating_sub(start) >= size && other_start >= start {
                break;
            }
            start = start.max(other_end);
        }
        let end = start.checked_add(size).ok_or_else(too_large)?;
        offsets[i] = start;
        bytes = bytes.max(end);
        let at = placed.partition_point(|&(other, _, _)| other <= start);
        placed.insert(at, (start, end, i));
    }
    Ok(MemoryPlan { offsets, bytes })
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
