//! Pooling of (N, spatial..., C): a reduction over windows, which are strides over memory or a split
//! of the spatial dimensions, or a chain over slices, one for each element of the windows. A border
//! of what changes no result is part of it.

use super::matcher::Matcher;
use super::{Rewrite, Value};
use crate::kernel::{Kernel, Reduction};
use crate::ops::View;
use crate::program::Binary;
use crate::shape::{Axes, Spec, Strides};

/// Chains of fewer slices are better joined with the elementwise steps around them.
const MIN_SLICES: usize = 4;
const MAX_SLICES: usize = 256;

pub(super) fn pool(matcher: &Matcher<'_>, root: Value, rewrite: &mut Rewrite) -> Option<()> {
    let windows = Windows::reduced(matcher, root).or_else(|| Windows::chained(matcher, root))?;
    let Windows {
        op,
        from,
        window,
        strides,
        result,
    } = windows;
    let spec = Spec::new(&result[..], matcher.spec(root).dtype);
    if !spec.dtype.is_float() || matcher.spec(from).dtype != spec.dtype {
        return None;
    }
    let (from, padding) = match without_border(matcher, op, from) {
        Some((inner, padding)) => (inner, padding),
        None => (from, Axes::from_elem(0, window.len())),
    };
    let kernel = Kernel::Pool {
        op,
        window,
        strides,
        padding,
    };
    rewrite.root_as("Pool", kernel, &[from], spec, root);
    Some(())
}

/// Windows of (N, spatial..., C), and how each is combined.
struct Windows {
    op: Reduction,
    from: Value,
    window: Axes,
    strides: Axes,
    /// (N, spatial..., C) of the results.
    result: Axes,
}

impl Windows {
    /// A reduction of (N, results..., window..., C) over the windows.
    fn reduced(matcher: &Matcher<'_>, root: Value) -> Option<Windows> {
        let (&Kernel::Reduce { op, ref axes }, &[windows]) = matcher.kernel(root)? else {
            return None;
        };
        let shape = matcher.shape(windows);
        let spatial = axes.len();
        let over_windows = axes.iter().copied().eq(1 + spatial..1 + 2 * spatial);
        if !over_windows || shape.len() != 2 + 2 * spatial || !combines(op) {
            return None;
        }
        let window = Axes::from_slice(&shape[1 + spatial..1 + 2 * spatial]);
        let mut result = Axes::from_slice(&shape[..=spatial]);
        result.push(shape[1 + 2 * spatial]);
        let (from, strides) = strided(matcher, windows, spatial)
            .or_else(|| split(matcher, windows, &result, &window))?;
        Some(Windows {
            op,
            from,
            window,
            strides,
            result,
        })
    }

    /// A chain over slices that start at each element of the first window.
    fn chained(matcher: &Matcher<'_>, root: Value) -> Option<Windows> {
        let (binary, op) = [
            (Binary::Max, Reduction::Max),
            (Binary::Min, Reduction::Min),
            (Binary::Add, Reduction::Sum),
        ]
        .into_iter()
        .find(|&(binary, _)| matcher.binary(binary, root).is_some())?;
        let mut starts: Vec<&[usize]> = Vec::new();
        let mut slices: Option<(Value, &Strides)> = None;
        let mut open = vec![root];
        while let Some(value) = open.pop() {
            let inner = value == root || matcher.is_used_once(value);
            if let Some((a, b)) = matcher.binary(binary, value).filter(|_| inner) {
                open.extend([a, b]);
                continue;
            }
            let (View::Slice { start, strides }, from) = matcher.view(value)? else {
                return None;
            };
            if *slices.get_or_insert((from, strides)) != (from, strides)
                || starts.len() == MAX_SLICES
            {
                return None;
            }
            starts.push(start);
        }
        let (from, strides) = slices?;
        let (result, shape) = (matcher.shape(root), matcher.shape(from));
        let rank = shape.len();
        let spatial = 1..rank.checked_sub(1).filter(|&last| last > 1)?;
        let whole = [0, rank - 1]
            .iter()
            .all(|&axis| result[axis] == shape[axis] && strides[axis] == 1);
        let window: Axes = spatial
            .clone()
            .map(|axis| starts.iter().map(|start| start[axis]).max().unwrap_or(0) + 1)
            .collect();
        // All elements of the window, each once.
        starts.sort_unstable();
        starts.dedup();
        let count = window.iter().product();
        let strides = spatial.map(|axis| usize::try_from(strides[axis]).ok().filter(|&s| s > 0));
        let strides = strides.collect::<Option<Axes>>()?;
        let complete = starts.len() == count && count >= MIN_SLICES;
        (whole && complete).then(|| Windows {
            op,
            from,
            window,
            strides,
            result: result.iter().copied().collect(),
        })
    }
}

fn combines(op: Reduction) -> bool {
    matches!(op, Reduction::Sum | Reduction::Min | Reduction::Max)
}

/// Windows that are strides over the memory of (N, spatial..., C); and their distances.
fn strided(matcher: &Matcher<'_>, windows: Value, spatial: usize) -> Option<(Value, Axes)> {
    let (View::AsStrided { strides, offset: 0 }, flat) = matcher.view(windows)? else {
        return None;
    };
    let (View::Reshape, from) = matcher.view(flat)? else {
        return None;
    };
    let (shape, steps) = (matcher.shape(from), matcher.shape(from).strides());
    let seen = matcher.shape(windows);
    if shape.len() != spatial + 2 {
        return None;
    }
    // Where there is one, no matter how far the next would be.
    let is = |axis: usize, step: isize| seen[axis] == 1 || strides[axis] == step;
    let (channels, count) = (2 * spatial + 1, *seen.last()?);
    let whole = seen[0] == shape[0] && count == shape[spatial + 1];
    if !whole || !is(0, steps[0]) || !is(channels, 1) {
        return None;
    }
    let distances = (1..=spatial).map(|axis| {
        let distance = match seen[axis] {
            1 => 1,
            _ => usize::try_from(strides[axis] / steps[axis]).ok()?,
        };
        let last = seen[axis].checked_sub(1)?.checked_mul(distance)?;
        let end = last.checked_add(seen[axis + spatial])?;
        // Windows that reach into the next row of memory are none of this one.
        let fits = distance > 0
            && is(axis, distance as isize * steps[axis])
            && is(axis + spatial, steps[axis])
            && end <= shape[axis];
        fits.then_some(distance)
    });
    Some((from, distances.collect::<Option<Axes>>()?))
}

/// Windows that follow each other without a gap; and their distances.
fn split(
    matcher: &Matcher<'_>,
    windows: Value,
    result: &[usize],
    window: &[usize],
) -> Option<(Value, Axes)> {
    let (View::Transpose(axes), split) = matcher.view(windows)? else {
        return None;
    };
    let (View::Reshape, from) = matcher.view(split)? else {
        return None;
    };
    let spatial = window.len();
    // (N, results 0, window 0, results 1, window 1, ..., C).
    let expected = [0]
        .into_iter()
        .chain((0..spatial).map(|axis| 1 + 2 * axis))
        .chain((0..spatial).map(|axis| 2 + 2 * axis))
        .chain([1 + 2 * spatial]);
    let mut shape = Axes::from_slice(result);
    let dims = shape[1..=spatial].iter_mut().zip(window);
    dims.for_each(|(dim, &size)| *dim *= size);
    let fits = axes.iter().copied().eq(expected) && **matcher.shape(from) == *shape;
    fits.then(|| (from, Axes::from_slice(window)))
}

/// What a border was put around that changes no result, and how wide it is before each spatial
/// dimension.
fn without_border(matcher: &Matcher<'_>, op: Reduction, value: Value) -> Option<(Value, Axes)> {
    let (Kernel::Pad { low }, &[inner, border]) = matcher.kernel(value)? else {
        return None;
    };
    let changes_nothing = matcher.scalar(border)?
        == match op {
            Reduction::Max => f64::NEG_INFINITY,
            Reduction::Min => f64::INFINITY,
            _ => 0.0,
        };
    let (shape, padded) = (matcher.shape(inner), matcher.shape(value));
    let whole = [shape.first(), shape.last()] == [padded.first(), padded.last()];
    let padding = Axes::from_slice(low.get(1..low.len().checked_sub(1)?)?);
    (changes_nothing && whole).then_some((inner, padding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ir::{Ir, Kind};
    use crate::compile::passes::recognise;
    use crate::compile::testing::{Builder, max};

    fn is_pool(ir: Ir) -> bool {
        let steps = recognise(ir).steps;
        let kernels = |step: &&_| {
            matches!(
                step,
                &&crate::compile::ir::Step {
                    kind: Kind::Kernel(_),
                    ..
                }
            )
        };
        let mut kernels = steps.iter().filter(kernels);
        let first = kernels.next().map(|step| &step.kind);
        matches!(first, Some(Kind::Kernel(Kernel::Pool { .. }))) && kernels.next().is_none()
    }

    /// The maximum of windows of three lines of (2, 7, 2, 4), which are `line` elements apart.
    fn windows(distance: isize, line: isize, count: usize) -> Ir {
        let mut b = Builder::default();
        let x = b.input(&[2, 7, 2, 4]);
        let flat = b.view(View::Reshape, x, &[112]);
        let strides = [56, distance * 8, 4, line, 4, 1].into_iter().collect();
        let seen = View::AsStrided { strides, offset: 0 };
        let windows = b.view(seen, flat, &[2, count, 2, 3, 1, 4]);
        let axes = Axes::from_slice(&[3, 4]);
        let op = Reduction::Max;
        let reduce = Kind::Kernel(Kernel::Reduce { op, axes });
        let most = b.step("Reduce", reduce, &[windows], &[2, count, 2, 1, 1, 4]);
        b.finish(&[most])
    }

    #[test]
    fn windows_in_memory_are_windows_of_lines() {
        assert!(is_pool(windows(2, 8, 3)));
        assert!(is_pool(windows(1, 8, 5)));
        // Into the next image; from line to line and element; no distance at all.
        assert!(!is_pool(windows(2, 8, 4)));
        assert!(!is_pool(windows(2, 4, 3)));
        assert!(!is_pool(windows(0, 8, 3)));
    }

    #[test]
    fn windows_over_three_dimensions() {
        let mut b = Builder::default();
        let inner = b.input(&[1, 4, 5, 6, 3]);
        let low = Axes::from_slice(&[0, 1, 1, 1, 0]);
        let border = b.constant(&[], &[f32::NEG_INFINITY]);
        let pad = Kind::Kernel(Kernel::Pad { low });
        let x = b.step("Pad", pad, &[inner, border], &[1, 6, 7, 8, 3]);
        let flat = b.view(View::Reshape, x, &[1008]);
        // The batch is one: its stride is anything.
        let strides = [1, 336, 48, 6, 168, 24, 3, 1].into_iter().collect();
        let seen = View::AsStrided { strides, offset: 0 };
        let windows = b.view(seen, flat, &[1, 3, 3, 4, 2, 2, 2, 3]);
        let axes = Axes::from_slice(&[4, 5, 6]);
        let op = Reduction::Max;
        let reduce = Kind::Kernel(Kernel::Reduce { op, axes });
        let most = b.step("Reduce", reduce, &[windows], &[1, 3, 3, 4, 1, 1, 1, 3]);
        assert!(is_pool(b.finish(&[most])));
    }

    #[test]
    fn slices_are_windows_where_none_is_missing() {
        for (starts, pools) in [
            (&[[0, 0], [0, 1], [1, 0], [1, 1]][..], true),
            (&[[1, 1], [0, 1], [1, 0], [0, 0]], true),
            (&[[0, 0], [0, 1], [1, 1], [1, 1]], false),
            (&[[0, 0], [0, 1], [1, 0], [2, 1]], false),
            (&[[0, 0], [0, 1]], false),
        ] {
            let mut b = Builder::default();
            let x = b.input(&[1, 6, 6, 4]);
            let mut slices = starts.iter().map(|&[row, column]| View::Slice {
                start: Axes::from_slice(&[0, row, column, 0]),
                strides: Strides::from_slice(&[1, 2, 2, 1]),
            });
            let shape = [1, 2, 2, 4];
            let mut most = b.view(slices.next().unwrap(), x, &shape);
            for slice in slices {
                let slice = b.view(slice, x, &shape);
                most = b.elementwise(max(), &[most, slice]);
            }
            assert_eq!(is_pool(b.finish(&[most])), pools, "{starts:?}");
        }
    }
}
