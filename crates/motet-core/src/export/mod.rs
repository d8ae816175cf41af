//! `.mlxfn` files: the bytes (`codec`) and the graphs that they make
//! (`reader`, `writer`).

pub mod codec;
pub mod reader;
mod writer;
