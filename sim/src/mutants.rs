//! The simulator on trial: it must find every bug that is planted.

use std::time::{Duration, Instant};

use esker::probe::{self, Mutant};

use crate::crowd::{self, Budget, Found};
use crate::plan::{Edits, Plan};
use crate::run::run;

/// The bug of that name.
///
/// # Errors
/// There is none.
pub fn parse(name: &str) -> Result<Mutant, String> {
    let known = || Mutant::ALL.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
    Mutant::ALL.iter().find(|m| m.name() == name).copied().ok_or_else(|| format!("known are: {}", known()))
}

/// Plants each of `chosen` (all, if none) and looks for a seed that fails, for at most `time` each: first the ones of
/// `known` with its name, then from `from` on.
///
/// # Errors
/// Names those that were not found, or only by a seed that fails without them, too.
pub fn all(chosen: &[Mutant], known: &[(u64, String)], from: u64, time: Duration, jobs: usize) -> Result<(), String> {
    let chosen = if chosen.is_empty() { Mutant::ALL } else { chosen };
    let mut escaped = Vec::new();
    println!("{:<28} {:>6} {:>7}  found as", "planted", "runs", "seconds");
    for mutant in chosen {
        let begun = Instant::now();
        let before: Vec<u64> = known.iter().filter(|(_, name)| name == mutant.name()).map(|(seed, _)| *seed).collect();
        let first = search(|place| before.get(place as usize).copied(), mutant, time, 1);
        let found = match first.failed {
            Some(_) => first,
            None => search(|place| Some(from.wrapping_add(place)), mutant, time.saturating_sub(begun.elapsed()), jobs),
        };
        let took = begun.elapsed().as_secs_f64();
        let what = match &found.failed {
            Some(outcome) if sound(outcome.plan.seed) => {
                let why = outcome.failure.as_deref().unwrap_or_default();
                format!("seed {}: {}", outcome.plan.seed, shortened(why))
            }
            Some(outcome) => {
                escaped.push(mutant.name());
                format!("NOT FOUND: seed {} fails without it, too", outcome.plan.seed)
            }
            None => {
                escaped.push(mutant.name());
                "NOT FOUND".into()
            }
        };
        println!("{:<28} {:>6} {took:>7.1}  {what}", mutant.name(), found.totals.runs);
    }
    println!("{} of {} planted bugs found", chosen.len() - escaped.len(), chosen.len());
    if escaped.is_empty() { Ok(()) } else { Err(format!("not found: {}", escaped.join(", "))) }
}

/// The first of `seeds` that fails with `mutant` planted.
fn search(seeds: impl Fn(u64) -> Option<u64> + Sync, mutant: &Mutant, time: Duration, jobs: usize) -> Found {
    let budget = Budget { runs: u64::MAX, time, failures: 1 };
    crowd::search(seeds, &Edits::default(), Some(*mutant), budget, jobs, |_| {})
}

/// Whether the seed that found a planted bug passes without it: else it found something else.
fn sound(seed: u64) -> bool {
    probe::plant(None);
    run(Plan::of(seed), false).failure.is_none()
}

fn shortened(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    match line.char_indices().nth(140) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line.into(),
    }
}
