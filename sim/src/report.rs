//! What is told of runs: failures, coverage, mutants.

use std::path::Path;
use std::process::Command;

use esker::probe::{Branch, Mutant};
use serde_json::json;

use crate::plan::Edits;
use crate::run::Outcome;
use crate::tally::Fault;

/// Sums over many runs.
#[derive(Default)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Attaches in them.
    pub attaches: u64,
    /// Seconds of made-up time.
    pub seconds: u64,
    faults: Vec<(u64, u64)>,
    branches: Vec<(u64, u64)>,
}

fn add(sums: &mut Vec<(u64, u64)>, counts: &[u64]) {
    sums.resize(counts.len().max(sums.len()), (0, 0));
    for (sum, n) in sums.iter_mut().zip(counts) {
        sum.0 += n;
        sum.1 += u64::from(*n > 0);
    }
}

impl Totals {
    /// Takes a run into account.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.operations += outcome.size.0 as u64;
        self.attaches += outcome.size.1 as u64;
        self.seconds += outcome.lasted.as_secs();
        add(&mut self.faults, &outcome.faults);
        add(&mut self.branches, &outcome.branches);
    }

    /// What was reached, as lines: the name, how often, in how many runs.
    pub fn coverage(&self) -> String {
        let row = |name: &str, sum: Option<&(u64, u64)>| {
            let (times, runs) = sum.copied().unwrap_or_default();
            let mark = if runs == 0 { "NEVER" } else { "" };
            format!("{name:<58} {times:>10} times {runs:>8} runs {mark}")
        };
        let faults = Fault::ALL.iter().map(|f| row(f.name(), self.faults.get(*f as usize)));
        let branches = Branch::ALL.iter().map(|b| row(b.name(), self.branches.get(*b as usize)));
        let mut lines = vec!["faults".to_string()];
        lines.extend(faults);
        lines.push("branches of the engine".into());
        lines.extend(branches);
        lines.join("\n")
    }

    /// The names of what no run reached.
    pub fn never(&self) -> Vec<&'static str> {
        let none = |sums: &[(u64, u64)], at: usize| sums.get(at).is_none_or(|s| s.1 == 0);
        let faults = Fault::ALL.iter().filter(|f| none(&self.faults, **f as usize)).map(|f| f.name());
        let branches = Branch::ALL.iter().filter(|b| none(&self.branches, **b as usize)).map(|b| b.name());
        faults.chain(branches).collect()
    }

    /// The same for a script.
    pub fn json(&self) -> serde_json::Value {
        let of = |name: &str, sum: Option<&(u64, u64)>| {
            let (times, runs) = sum.copied().unwrap_or_default();
            json!({ "name": name, "times": times, "runs": runs })
        };
        json!({
            "runs": self.runs,
            "operations": self.operations,
            "attaches": self.attaches,
            "seconds": self.seconds,
            "faults": Fault::ALL.iter().map(|f| of(f.name(), self.faults.get(*f as usize))).collect::<Vec<_>>(),
            "branches": Branch::ALL.iter().map(|b| of(b.name(), self.branches.get(*b as usize))).collect::<Vec<_>>(),
        })
    }
}

/// A failure, with all that is needed to see it again.
pub fn failure(outcome: &Outcome, edits: &Edits, mutant: Option<Mutant>) -> String {
    let planted = mutant.map_or(String::new(), |m| format!(" --mutant {}", m.name()));
    let mut lines = vec![
        format!("seed {} fails at commit {}:", outcome.plan.seed, commit()),
        format!("  {}", outcome.failure.as_deref().unwrap_or("it does not")),
        format!("again: scripts/sim --seed {}{}{planted} --trace", outcome.plan.seed, edits.options()),
        "the plan:".into(),
        outcome.plan.describe(),
        "the last of what happened:".into(),
    ];
    lines.extend(outcome.tail.iter().rev().take(60).rev().cloned());
    lines.join("\n")
}

fn commit() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = Command::new("git").arg("-C").arg(here).args(["describe", "--always", "--dirty"]).output();
    let text = asked.ok().and_then(|o| String::from_utf8(o.stdout).ok()).unwrap_or_default();
    if text.trim().is_empty() { "unknown".into() } else { text.trim().into() }
}
