//! `.mlxfn` files: the bytes (`codec`) and the graphs that they make (`reader`).

pub mod codec;
pub mod reader;
