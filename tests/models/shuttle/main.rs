//! The journal and the engine under shuttle: their sources, compiled over shuttle's locks and atomics, on schedules that
//! it chooses. scripts/concurrency runs more of them.
#![allow(dead_code, unused_imports, missing_docs, clippy::duplicate_mod, clippy::unwrap_used)]

#[path = "../harness.rs"]
mod harness;
#[path = "../weak.rs"]
mod weak;

mod sync;

// What is explored: the product's sources.
#[path = "../../../src/compact/mod.rs"]
mod compact;
#[path = "../../../src/journal/mod.rs"]
mod journal;
#[path = "../../../src/map/mod.rs"]
mod map;
#[path = "../../../src/volume/mod.rs"]
mod volume;

// What they stand on: the product itself.
use esker::{cache, env, pool, probe, segment, store, wire};

mod engine;
mod ring;
mod small;

use std::process::ExitCode;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use harness::Model;

fn main() -> ExitCode {
    harness::run(&[small::MODELS, ring::MODELS, engine::MODELS].concat())
}

/// Explores schedules of `model`: as many drawn step by step, and as many with few changes of priority (which find what
/// needs one thread to be held up for long).
fn explore(drawn: usize, held_up: usize, model: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    config.silence_warnings = true;
    // The same schedules each time; SHUTTLE_RANDOM_SEED asks for others.
    let seed = 4;
    let model = move || {
        harness::schedule();
        model();
    };
    Runner::new(RandomScheduler::new_from_seed(seed, drawn), config.clone()).run(model);
    Runner::new(PctScheduler::new_from_seed(seed, 3, held_up), config).run(model);
}
