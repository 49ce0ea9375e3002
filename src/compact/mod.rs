//! What compaction does next: which segments are worth rewriting, and which pieces of an extent become one.
//!
//! | file | what |
//! | --- | --- |
//! | `choose` | segments by cost and benefit; tiny ones by number |
//! | `gather` | which pieces of an extent a merge takes along |
//!
//! Pure: the accounts in, a choice out. Reading, writing and deleting is the engine's.

mod choose;
mod gather;

pub use choose::{Chosen, Policy, Pressure, Why, choose, pressure};
pub use gather::{Reach, gather, is_scattered, ranges};
