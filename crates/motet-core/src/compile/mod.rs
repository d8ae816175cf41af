//! From graphs to plans, and the execution of both.
//!
//! ```text
//! closure --trace--> Graph
//! Graph --ir::lower--> Ir --passes--> Ir --place--> kernels on places --plan--> Plan
//! ```
//!
//! Each arrow is a pure function in a file of its own. [`executor`] runs single primitives (the eager
//! mode) and launches the steps of plans; [`cache`] keeps plans by signature.

pub mod cache;
#[cfg(not(loom))]
pub mod constants;
#[cfg(not(loom))]
pub mod executor;
#[cfg(not(loom))]
mod ir;
#[cfg(not(loom))]
mod join;
#[cfg(not(loom))]
mod memory_plan;
#[cfg(not(loom))]
mod passes;
#[cfg(not(loom))]
mod permute;
#[cfg(not(loom))]
mod pieces;
#[cfg(not(loom))]
mod place;
#[cfg(not(loom))]
pub mod plan;
#[cfg(not(loom))]
mod reuse;
#[cfg(all(test, not(loom)))]
mod testing;
#[cfg(not(loom))]
pub mod trace;
