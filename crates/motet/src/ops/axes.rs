//! Which dimensions an operation runs over.

use motet_core::error::{Error, Result};
use motet_core::shape::normalize_axis;

/// The dimensions that a reduction runs over, and whether they stay with size one.
///
/// Functions take `impl Into<Axes>`: one axis (`-1`), several (`[0, 2]`), all (`..`), each inside of
/// [`keepdims`] where reduced dimensions are to stay. Negative axes count from the end.
///
/// ```
/// # use motet::{Array, ops};
/// let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
/// assert_eq!(ops::sum(&x, 0)?.to_vec::<f32>()?, [4.0, 6.0]);
/// assert_eq!(ops::sum(&x, ..)?.item::<f32>()?, 10.0);
/// assert_eq!(*ops::sum(&x, ops::keepdims(-1))?.shape(), [2, 1].into());
/// # Ok::<(), motet::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Axes {
    /// `None` for all.
    axes: Option<Vec<i32>>,
    keepdims: bool,
}

/// The same axes, with the reduced dimensions kept at size one.
pub fn keepdims(axes: impl Into<Axes>) -> Axes {
    Axes {
        keepdims: true,
        ..axes.into()
    }
}

impl Axes {
    /// The axes of an array of this rank, from 0, ascending. None may be named twice.
    pub(crate) fn of(&self, name: &str, rank: usize) -> Result<Vec<i32>> {
        let Some(mut axes) = self.listed(name, rank)? else {
            return Ok((0..rank as i32).collect());
        };
        axes.sort_unstable();
        Ok(axes)
    }

    /// The axes as they were given; `None` for all.
    pub(crate) fn as_given(&self) -> Option<&[i32]> {
        self.axes.as_deref()
    }

    /// The axes of an array of this rank in the order listed, from 0; `None` for all.
    pub(crate) fn listed(&self, name: &str, rank: usize) -> Result<Option<Vec<i32>>> {
        let Some(axes) = &self.axes else {
            return Ok(None);
        };
        let mut listed = Vec::new();
        for &axis in axes {
            let normal = normalize_axis(name, axis.into(), rank)? as i32;
            if listed.contains(&normal) {
                return Err(Error::invalid(
                    name,
                    format!("axis {axis} is named twice in {axes:?}"),
                ));
            }
            listed.push(normal);
        }
        Ok(Some(listed))
    }

    /// Whether reduced dimensions stay.
    pub(crate) fn keepdims(&self) -> bool {
        self.keepdims
    }
}

impl From<std::ops::RangeFull> for Axes {
    fn from(_: std::ops::RangeFull) -> Axes {
        Axes {
            axes: None,
            keepdims: false,
        }
    }
}

impl From<i32> for Axes {
    fn from(axis: i32) -> Axes {
        Axes::from(&[axis][..])
    }
}

impl From<&[i32]> for Axes {
    fn from(axes: &[i32]) -> Axes {
        Axes {
            axes: Some(axes.to_vec()),
            keepdims: false,
        }
    }
}

impl<const N: usize> From<[i32; N]> for Axes {
    fn from(axes: [i32; N]) -> Axes {
        Axes::from(&axes[..])
    }
}

impl From<Vec<i32>> for Axes {
    fn from(axes: Vec<i32>) -> Axes {
        Axes::from(&axes[..])
    }
}
