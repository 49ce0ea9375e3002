//! Clients that write, flush, trim and read at random, and keep account of it; how much of it, and from which seed.

use esker_testkit::served;

pub use served::{Load, flush, image, verify, write};

/// The seed of this run: `ESKER_SEED`, or a new one. It is printed, which is seen where a test fails.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("ESKER_SEED").ok().map(|s| s.parse().expect("ESKER_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random);
    println!("{test}: ESKER_SEED={seed}");
    seed
}

/// Rounds: those of every run, or `ESKER_CRASH_ROUNDS`.
pub fn rounds(usual: u64) -> u64 {
    let given = std::env::var("ESKER_CRASH_ROUNDS").ok();
    given.map_or(usual, |n| n.parse().expect("ESKER_CRASH_ROUNDS is a number"))
}
