//! What holds motet to its promises. Not published.
//!
//! - [`suite`]: every sample of every primitive, in every [mode](modes), against a naive
//!   [reference](mod@reference). A primitive is in it by being declared.
//! - [`programs`]: random programs, eager, compiled and by the reference.
//! - [`fuzz`]: any bytes as files, any parameters for shape rules.
//! - [`stress`]: random programs run by many threads at once, with failures of all kinds.

pub mod allocation;
pub mod fill;
pub mod fuzz;
pub mod layouts;
pub mod modes;
pub mod noise;
pub mod programs;
pub mod reference;
pub mod stress;
pub mod suite;
pub mod value;

/// Nothing, or what is wrong.
pub type Verdict = Result<(), String>;
