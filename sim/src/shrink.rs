//! A failing plan made smaller: whatever can be left out while it still fails is left out.

use std::time::{Duration, Instant};

use crate::plan::{Edits, Plan};
use crate::run::{Outcome, run};

/// Wall time that shrinking may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The smallest failing edit of the plan of `seed` that was found, and what came of it.
pub fn shrink(seed: u64, failed: Outcome) -> (Edits, Outcome) {
    let begun = Instant::now();
    let (mut best, mut outcome) = (Edits::default(), failed);
    let attempt = |edits: Edits, best: &mut Edits, outcome: &mut Outcome| {
        if begun.elapsed() > LIMIT || edits == *best {
            return false;
        }
        let tried = run(Plan::of(seed).edited(&edits), false);
        let fails = tried.failure.is_some();
        if fails {
            (*best, *outcome) = (edits, tried);
        }
        fails
    };
    attempt(Edits { fair: true, ..best.clone() }, &mut best, &mut outcome);
    attempt(Edits { prompt: true, ..best.clone() }, &mut best, &mut outcome);
    let events = Plan::of(seed).events.len();
    // The last ones first: what comes after the failure goes at once.
    for event in (0..events).rev() {
        let mut edits = best.clone();
        edits.without_events.push(event);
        attempt(edits, &mut best, &mut outcome);
    }
    let mut requests = Plan::of(seed).requests;
    while requests > 1 {
        let less = requests * 2 / 3;
        if !attempt(Edits { requests: Some(less), ..best.clone() }, &mut best, &mut outcome) {
            break;
        }
        requests = less;
    }
    (best, outcome)
}
