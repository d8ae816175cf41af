//! Arrays, graphs, streams, plans and the `.mlxfn` codec of motet. Knows no kernel.
//!
//! Users depend on the crate `motet`, which promises stability; this one does not.

pub mod array;
pub mod backend;
pub mod cancel;
pub mod compile;
#[cfg(not(loom))]
pub mod context;
pub mod device;
pub mod dtype;
pub mod error;
pub mod eval;
#[cfg(not(loom))]
pub mod export;
pub mod future;
#[cfg(not(loom))]
pub mod graph;
pub mod kernel;
pub mod memory;
#[cfg(all(test, loom, not(shuttle)))]
mod models;
pub mod node;
#[cfg(not(loom))]
pub mod ops;
pub mod options;
mod parker;
pub mod pool;
pub mod program;
#[cfg(not(loom))]
pub mod random;
pub mod shape;
#[cfg(all(test, shuttle))]
mod shuttled;
pub mod stream;
mod sync;
pub mod tensor;
pub mod trace;
pub mod tuning;
