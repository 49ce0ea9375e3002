//! The promises of docs/semantics.md against the built binary: killed, stopped, raced, fenced and cut off from its store
//! while clients write over NBD and keep account.
//!
//! `ESKER_SEED` repeats the choices of a failed run, which prints its seed; `ESKER_CRASH_ROUNDS` makes more rounds.
#![allow(clippy::unwrap_used)]

mod fencing;
mod kill;
mod load;
mod order;
mod recovery;
mod store;
mod takeover;
mod world;
