//! Shapes, and how a shape lies in memory.
//!
//! A [`Spec`] is what a value is (shape and dtype); a [`Layout`] adds where its elements lie
//! (strides); views are functions from layouts to layouts and copy nothing.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// The most dimensions that an array may have.
pub const MAX_RANK: usize = 64;

/// The size of an array in each dimension; empty for a scalar.
#[derive(PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Clone for Shape {
    /// As a copy of memory: `SmallVec`'s own goes element by element, which takes longer than all
    /// else that is done for a small array.
    fn clone(&self) -> Shape {
        Shape(SmallVec::from_slice(&self.0))
    }
}

/// Steps between neighbours in each dimension, in elements.
pub type Strides = SmallVec<[isize; 6]>;

/// Dimension numbers.
pub type Axes = SmallVec<[usize; 6]>;

impl Shape {
    /// The shape with these dimensions.
    pub fn new(dims: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(dims))
    }

    /// The number of elements. Shapes are made through checks that keep this from overflowing.
    pub fn size(&self) -> usize {
        self.0.iter().product()
    }

    /// The dimensions, to change them.
    pub fn dims_mut(&mut self) -> &mut SmallVec<[usize; 6]> {
        &mut self.0
    }

    /// Whether an array of this shape and dtype can exist: rank, dimensions (32-bit, as in MLX) and
    /// total bytes are within bounds.
    pub fn check(&self, dtype: Dtype) -> Result<()> {
        if self.len() > MAX_RANK {
            return Err(Error::invalid(
                "shape",
                format!(
                    "got {} dimensions, at most {MAX_RANK} are possible",
                    self.len()
                ),
            ));
        }
        let mut bytes = dtype.size();
        let mut fits = true;
        for &dim in self.iter() {
            fits &= i32::try_from(dim).is_ok();
            // A zero dimension makes the product zero, but not the dimensions beside it legal.
            match bytes.checked_mul(dim.max(1)) {
                Some(product) if isize::try_from(product).is_ok() => bytes = product,
                _ => fits = false,
            }
        }
        if fits {
            Ok(())
        } else {
            Err(Error::invalid(
                "shape",
                format!("{self} of {dtype} has more elements than an array can have"),
            ))
        }
    }

    /// The shape that numpy broadcasting gives for two shapes.
    #[doc(alias = "broadcast_shapes")]
    pub fn broadcast(&self, other: &Shape) -> Result<Shape> {
        let rank = self.len().max(other.len());
        let mut dims: SmallVec<[usize; 6]> = SmallVec::from_elem(1, rank);
        for (i, dim) in dims.iter_mut().enumerate() {
            let from = |shape: &Shape| match (i + shape.len()).checked_sub(rank) {
                Some(j) => shape[j],
                None => 1,
            };
            *dim = match (from(self), from(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => {
                    return Err(Error::invalid(
                        "broadcast",
                        format!("shapes {self} and {other} do not broadcast together"),
                    ));
                }
            };
        }
        Ok(Shape(dims))
    }

    /// Row-major strides.
    pub fn strides(&self) -> Strides {
        let mut strides = Strides::from_elem(1, self.len());
        for i in (1..self.len()).rev() {
            strides[i - 1] = strides[i] * self[i].max(1) as isize;
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(dims: &[usize; N]) -> Shape {
        Shape::new(dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Shape {
        Shape(SmallVec::from_vec(dims))
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Shape {
        Shape(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    /// As MLX prints it: `(2,3)`, `(4)`, `()`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, dim) in self.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { "," })?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `axis` counted from the end when negative, checked against `rank`.
pub fn normalize_axis(op: &str, axis: i64, rank: usize) -> Result<usize> {
    let positive = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(positive) {
        Ok(positive) if positive < rank => Ok(positive),
        _ => Err(Error::invalid(
            op,
            format!("axis {axis} is out of range for an array of {rank} dimensions"),
        )),
    }
}

/// What a value is: shape and dtype.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The size in each dimension.
    pub shape: Shape,
    /// The type of the elements.
    pub dtype: Dtype,
}

impl Spec {
    /// A value of this shape and dtype.
    pub fn new(shape: impl Into<Shape>, dtype: Dtype) -> Spec {
        Spec {
            shape: shape.into(),
            dtype,
        }
    }

    /// The bytes that the elements take.
    pub fn bytes(&self) -> usize {
        self.shape.size() * self.dtype.size()
    }

    /// The row-major layout.
    pub fn layout(&self) -> Layout {
        Layout {
            strides: self.shape.strides(),
            shape: self.shape.clone(),
            dtype: self.dtype,
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a value lies in a buffer, from the address of its first element on.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The size in each dimension.
    pub shape: Shape,
    /// The step between neighbours in each dimension, in elements; may be zero or negative.
    pub strides: Strides,
    /// The type of the elements.
    pub dtype: Dtype,
}

impl Clone for Layout {
    /// As for [`Shape`].
    fn clone(&self) -> Layout {
        Layout {
            shape: self.shape.clone(),
            strides: Strides::from_slice(&self.strides),
            dtype: self.dtype,
        }
    }
}

impl Layout {
    /// Shape and dtype alone.
    pub fn spec(&self) -> Spec {
        Spec {
            shape: self.shape.clone(),
            dtype: self.dtype,
        }
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&dim, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if dim == 0 {
                return true;
            }
            if dim != 1 {
                if stride != expected {
                    return false;
                }
                expected *= dim as isize;
            }
        }
        true
    }

    /// The first and the last byte, as offsets from the first element, that the value covers;
    /// `None` when it has no elements or the offsets overflow.
    pub fn extent(&self) -> Option<(isize, isize)> {
        let (mut low, mut high) = (0isize, 0isize);
        for (&dim, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = isize::try_from(dim).ok()?.checked_sub(1)?;
            let step = reach.checked_mul(stride)?;
            if reach < 0 {
                return None;
            }
            low = low.checked_add(step.min(0))?;
            high = high.checked_add(step.max(0))?;
        }
        let size = self.dtype.size() as isize;
        Some((
            low.checked_mul(size)?,
            high.checked_mul(size)?.checked_add(size - 1)?,
        ))
    }

    /// The same elements in another shape without a copy, if their order in memory allows.
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        let strides = if self.is_contiguous() || self.shape.size() == 0 {
            shape.strides()
        } else {
            reshape_strides(&self.shape, &self.strides, shape)?
        };
        Some(Layout {
            shape: shape.clone(),
            strides,
            dtype: self.dtype,
        })
    }
}

/// Splits and merges dimensions where each run of merged ones is contiguous in itself.
fn reshape_strides(from: &Shape, strides: &[isize], to: &Shape) -> Option<Strides> {
    // Ones carry no information: drop them on the way in, give them any stride on the way out.
    let old: Vec<(usize, isize)> = from
        .iter()
        .copied()
        .zip(strides.iter().copied())
        .filter(|&(dim, _)| dim != 1)
        .collect();
    let mut result = Strides::from_elem(1, to.len());
    let mut i = 0;
    let mut j = 0;
    while i < old.len() {
        let start = i;
        let (mut have, mut want) = (old[i].0, 1);
        i += 1;
        let first_new = j;
        while want != have {
            if want < have {
                want *= *to.get(j)?;
                j += 1;
            } else {
                // More elements wanted than the run has: merge the next old dimension into it.
                have *= old.get(i)?.0;
                i += 1;
            }
        }
        for k in start..i - 1 {
            if old[k].1 != old[k + 1].1 * old[k + 1].0 as isize {
                return None;
            }
        }
        let mut stride = old[i - 1].1;
        for k in (first_new..j).rev() {
            result[k] = stride;
            stride *= to[k] as isize;
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_follows_numpy() {
        let ok = |a: &[usize], b: &[usize]| Shape::new(a).broadcast(&Shape::new(b)).unwrap();
        assert_eq!(&*ok(&[2, 1], &[3]), &[2, 3]);
        assert_eq!(&*ok(&[], &[4]), &[4]);
        assert_eq!(&*ok(&[0], &[1]), &[0]);
        assert!(Shape::new(&[2]).broadcast(&Shape::new(&[3])).is_err());
    }

    #[test]
    fn reshape_without_copy_only_where_memory_order_allows() {
        let spec = Spec::new([2, 3, 4], Dtype::Float32);
        let mut layout = spec.layout();
        assert!(layout.reshape(&Shape::new(&[6, 4])).is_some());
        layout.shape = Shape::new(&[3, 2, 4]);
        layout.strides = Strides::from_slice(&[4, 12, 1]);
        assert!(layout.reshape(&Shape::new(&[6, 4])).is_none());
        let split = layout.reshape(&Shape::new(&[3, 2, 2, 1, 2])).unwrap();
        assert_eq!(split.strides[..3], [4, 12, 2]);
        assert_eq!(split.strides[4], 1);
    }

    #[test]
    fn hostile_shapes_are_refused() {
        assert!(Shape::new(&[1 << 31]).check(Dtype::Bool).is_err());
        assert!(Shape::new(&[1 << 30; 3]).check(Dtype::Bool).is_err());
        assert!(
            Shape::new(&[0, 1 << 30, 1 << 30, 1 << 30])
                .check(Dtype::Bool)
                .is_err()
        );
        assert!(Shape::new(&[1; 65]).check(Dtype::Bool).is_err());
        assert!(Shape::new(&[1 << 20, 0]).check(Dtype::Float32).is_ok());
    }
}
