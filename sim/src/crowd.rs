//! Many runs side by side, one thread each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::probe::{self, Mutant};
use parking_lot::Mutex;

use crate::plan::{Edits, Plan};
use crate::report::Totals;
use crate::run::{Outcome, run};

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// At most so many runs.
    pub runs: u64,
    /// At most so long, on the wall clock.
    pub time: Duration,
    /// Go on until so many have failed.
    pub failures: usize,
}

/// What a search found.
pub struct Found {
    /// All runs together.
    pub totals: Totals,
    /// The first one that failed.
    pub failed: Option<Outcome>,
    /// Seeds that failed, and how.
    pub failures: Vec<(u64, String)>,
}

/// Runs `seeds` (each asked for by its place) on `jobs` threads until one fails or the budget is spent.
pub fn search(
    seeds: impl Fn(u64) -> Option<u64> + Sync,
    edits: &Edits,
    mutant: Option<Mutant>,
    budget: Budget,
    jobs: usize,
    progress: impl Fn(u64) + Sync,
) -> Found {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(Found { totals: Totals::default(), failed: None, failures: Vec::new() });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                probe::plant(mutant);
                while !stop.load(Ordering::SeqCst) && begun.elapsed() < budget.time {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    let Some(seed) = (place < budget.runs).then(|| seeds(place)).flatten() else { break };
                    let outcome = run(Plan::of(seed).edited(edits), false);
                    let mut found = found.lock();
                    found.totals.add(&outcome);
                    progress(found.totals.runs);
                    if let Some(why) = &outcome.failure {
                        let failure = (seed, why.clone());
                        found.failures.push(failure);
                        if found.failures.len() >= budget.failures {
                            stop.store(true, Ordering::SeqCst);
                        }
                        found.failed.get_or_insert(outcome);
                    }
                }
            });
        }
    });
    found.into_inner()
}
