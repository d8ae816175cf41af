//! The passes: pure functions from [`Ir`](super::ir::Ir) to `Ir`.

mod common_subexpressions;
mod dead_code;
mod epilogues;
mod fold_constants;
mod fuse;
mod inline_scalars;
mod lift_reshapes;
mod recognise;

pub(crate) use common_subexpressions::common_subexpressions;
pub(crate) use dead_code::dead_code;
pub(crate) use epilogues::{fuse_epilogues, open_epilogues};
pub(crate) use fold_constants::fold_constants;
pub(crate) use fuse::fuse;
pub(crate) use inline_scalars::inline_scalars;
pub(crate) use lift_reshapes::lift_reshapes;
pub(crate) use recognise::recognise;
