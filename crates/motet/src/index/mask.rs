//! Setting values where an array of bools is true.

use motet_core::array::Array;
use motet_core::array::apply::{apply_one, broadcast_to};
use motet_core::dtype::Dtype;
use motet_core::error::Result;
use motet_core::ops::elementwise::Select;
use motet_core::ops::indexing::MaskedScatter;
use motet_core::ops::shape::Reshape;
use motet_core::shape::Shape;

use super::item::IndexItem;
use super::selection::error;
use super::{expand, squeeze, update};

/// The array of bools that is the whole index.
pub(super) fn of(items: &[IndexItem]) -> Option<&Array> {
    match items {
        [IndexItem::Array(mask)] if mask.dtype() == Dtype::Bool => Some(mask),
        _ => None,
    }
}

/// `x` with values, which have its dtype, where the mask is true. The mask is for the first
/// dimensions. Values have the shape of the others, or are a list of such in the order of the places
/// where the mask is true.
pub(super) fn set(x: &Array, mask: &Array, values: &Array) -> Result<Array> {
    let Some(rest) = x.shape().strip_prefix(&mask.shape()[..]) else {
        return Err(error(format!(
            "got bools of shape {}, expected the first dimensions of {}",
            mask.shape(),
            x.shape()
        )));
    };
    let new = (mask.ndim()..x.ndim()).map(|axis| axis as i32).collect();
    let mask = broadcast_to(&expand(mask, new)?, x.shape())?;
    let ones = values.shape().iter().take_while(|&&dim| dim == 1).count();
    let values = squeeze(values, (0..ones as i32).collect())?;
    if values.ndim() <= rest.len() {
        let values = update::fit(&values, x.shape())?;
        return apply_one(Select, &[mask, values, x.clone()]);
    }
    let list: Shape = values.shape()[..1].iter().chain(rest).copied().collect();
    let values = update::fit(&values, &list)?;
    let one_row = |array: &Array| reshape(array, vec![1, -1]);
    let inputs = [one_row(x)?, one_row(&mask)?, one_row(&values)?];
    let shape = x.shape().iter().map(|&dim| dim as i32).collect();
    reshape(&apply_one(MaskedScatter, &inputs)?, shape)
}

fn reshape(x: &Array, shape: Vec<i32>) -> Result<Array> {
    apply_one(Reshape { shape }, std::slice::from_ref(x))
}
