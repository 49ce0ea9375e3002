//! Whether some order of the operations explains what is seen: a graph of what must come before what, without a cycle.
//!
//! The operations taken to have happened are the fewest that can: those promised, those seen, and whatever was completed
//! before one of them began. More of them would only add conditions. Real time enters as a chain of moments: an operation
//! comes after the moment of its beginning and before that of its end, so the chain orders all pairs that do not overlap.

use std::collections::{BTreeSet, HashMap, HashSet};

use thiserror::Error;

use super::stamp::{BLOCK, read_stamp};
use super::{Keeps, Op, State, What};

/// Something that no order of the operations explains.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// What a check that found nothing wrong has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Writes that changed the volume.
    pub applied: usize,
    /// Completed writes that are gone, as they may be where the journal was lost.
    pub lost: usize,
    /// Writes that were never answered and happened all the same.
    pub unanswered: usize,
    /// Blocks that are not zero.
    pub written_blocks: usize,
}

struct Check<'a> {
    state: &'a State,
    /// Where an id is in `state.ops`.
    at: HashMap<u64, usize>,
    /// Changes by block.
    by_block: HashMap<u64, Vec<usize>>,
}

pub(super) fn check(state: &State, image: &[u8], keeps: Keeps) -> Result<Outcome, Violation> {
    let at = state.ops.iter().enumerate().map(|(i, o)| (o.id, i)).collect();
    let mut by_block: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, op) in state.ops.iter().enumerate().filter(|(_, o)| changes(o)) {
        (op.lba..op.lba + op.blocks).for_each(|lba| by_block.entry(lba).or_default().push(i));
    }
    let check = Check { state, at, by_block };
    let seen = check.seen(image)?;
    let happened = check.happened(&seen, keeps);
    let mut graph = Graph::new(&state.ops, &happened);
    for (lba, id) in &seen {
        check.last_on_block(*lba, *id, &happened, &mut graph)?;
    }
    check.reads(&happened, &mut graph)?;
    if let Some(cycle) = graph.cycle() {
        let told: Vec<String> = cycle.iter().map(|i| tell(&state.ops[*i])).collect();
        return Err(Violation(format!("no order explains this; each must come before the next: {}", told.join("; "))));
    }
    let applied = happened.iter().filter(|i| changes(&state.ops[**i]));
    Ok(Outcome {
        applied: applied.clone().count(),
        lost: state
            .ops
            .iter()
            .enumerate()
            .filter(|(i, o)| changes(o) && o.end.is_some() && !happened.contains(i))
            .count(),
        unanswered: applied.filter(|i| state.ops[**i].end.is_none()).count(),
        written_blocks: seen.iter().filter(|(_, id)| *id != 0).count(),
    })
}

fn changes(op: &Op) -> bool {
    matches!(op.what, What::Write { .. } | What::Zero)
}

fn covers(op: &Op, lba: u64) -> bool {
    (op.lba..op.lba + op.blocks).contains(&lba)
}

fn tell(op: &Op) -> String {
    let Op { id, what, lba, blocks, begin, end, .. } = op;
    format!("{what:?} {id} of blocks {lba}+{blocks} (from {begin} to {end:?})")
}

impl Check<'_> {
    /// What each block shows.
    fn seen(&self, image: &[u8]) -> Result<Vec<(u64, u64)>, Violation> {
        let mut seen = Vec::new();
        for (lba, block) in image.chunks_exact(BLOCK).enumerate() {
            let lba = lba as u64;
            let id = read_stamp(lba, block).map_err(Violation)?;
            self.known(lba, id)?;
            seen.push((lba, id));
        }
        Ok(seen)
    }

    /// A block can only show what was written to it.
    fn known(&self, lba: u64, id: u64) -> Result<(), Violation> {
        let base = self.state.base.get(&lba).copied().unwrap_or(0);
        match self.at.get(&id).map(|i| &self.state.ops[*i]) {
            _ if id == base => Ok(()),
            Some(op) if matches!(op.what, What::Write { .. }) && covers(op, lba) => Ok(()),
            None if id == 0 && self.zeroed(lba).next().is_some() => Ok(()),
            _ => Err(Violation(format!("block {lba} shows write {id}, but showed {base} and was never given that"))),
        }
    }

    fn zeroed(&self, lba: u64) -> impl Iterator<Item = &Op> {
        let ops = self.by_block.get(&lba).into_iter().flatten().map(|i| &self.state.ops[*i]);
        ops.filter(|o| o.what == What::Zero)
    }

    /// The operations that must have happened.
    fn happened(&self, seen: &[(u64, u64)], keeps: Keeps) -> HashSet<usize> {
        let ops = &self.state.ops;
        let mut happened: HashSet<usize> = seen.iter().filter_map(|(_, id)| self.at.get(id).copied()).collect();
        match keeps {
            Keeps::Completed => happened.extend((0..ops.len()).filter(|i| changes(&ops[*i]) && ops[*i].end.is_some())),
            Keeps::Flushed => {
                let durable = ops.iter().filter(|o| o.end.is_some());
                let fua = |o: &&Op| o.what == What::Write { fua: true };
                happened.extend(durable.clone().filter(fua).map(|o| self.at[&o.id]));
                let flushes = durable.filter(|o| o.what == What::Flush || fua(o));
                let through = flushes.map(|o| o.begin).max().unwrap_or(0);
                happened.extend(self.ended_before(through));
            }
        }
        let last = happened.iter().map(|i| ops[*i].begin).max().unwrap_or(0);
        happened.extend(self.ended_before(last));
        if keeps == Keeps::Completed {
            // Reads belong to the order too. After a loss they may have seen what is lost.
            let got = |o: &Op| matches!(o.what, What::Read { saw: Some(_) });
            happened.extend((0..ops.len()).filter(|i| got(&ops[*i])));
            let read = ops.iter().filter_map(|o| if let What::Read { saw } = o.what { saw } else { None });
            happened.extend(read.filter_map(|id| self.at.get(&id).copied()).collect::<Vec<_>>());
        }
        happened
    }

    fn ended_before(&self, moment: u64) -> impl Iterator<Item = usize> {
        let ops = self.state.ops.iter().enumerate();
        ops.filter(move |(_, o)| changes(o) && o.end.is_some_and(|e| e < moment)).map(|(i, _)| i)
    }

    /// What a block shows at the end came last of all that happened to it.
    fn last_on_block(&self, lba: u64, id: u64, happened: &HashSet<usize>, graph: &mut Graph) -> Result<(), Violation> {
        let Some(all) = self.by_block.get(&lba) else { return Ok(()) };
        let ops = &self.state.ops;
        let mut on_block = all.iter().copied().filter(|i| happened.contains(i));
        match self.at.get(&id) {
            Some(shown) => on_block.filter(|i| i != shown).for_each(|i| graph.before(i, *shown)),
            None if id == 0 && self.zeroed(lba).next().is_some() => {
                // Which of the operations that zeroed it came last cannot be seen: one that may have, must be there.
                let late = |w: &Op| self.zeroed(lba).any(|z| z.bound.is_none_or(|b| b > w.begin));
                if let Some(w) = on_block.find(|i| matches!(ops[*i].what, What::Write { .. }) && !late(&ops[*i])) {
                    return Err(Violation(format!("block {lba} shows zeroes; gone is {}", tell(&ops[w]))));
                }
            }
            None => {
                if let Some(gone) = on_block.next() {
                    let gone = tell(&ops[gone]);
                    return Err(Violation(format!(
                        "block {lba} shows what it showed before all, {id}; gone is {gone}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// A read comes after what it saw; what was completed before it began came before what it saw; and a later read
    /// that saw something else saw something later.
    fn reads(&self, happened: &HashSet<usize>, graph: &mut Graph) -> Result<(), Violation> {
        let ops = &self.state.ops;
        let mut by_block: HashMap<u64, Vec<(usize, u64)>> = HashMap::new();
        for i in happened.iter().copied() {
            if let What::Read { saw: Some(saw) } = ops[i].what {
                self.known(ops[i].lba, saw)?;
                by_block.entry(ops[i].lba).or_default().push((i, saw));
            }
        }
        for (lba, reads) in by_block {
            let writes: &[usize] = self.by_block.get(&lba).map_or(&[], Vec::as_slice);
            for (read, saw) in &reads {
                let done = |u: usize| ops[u].end.is_some_and(|e| e < ops[*read].begin);
                let Some(shown) = self.at.get(saw).copied() else {
                    let missed = writes.iter().find(|u| done(**u));
                    if let (Some(u), None) = (missed, self.zeroed(lba).next()) {
                        return Err(Violation(format!("{} missed {}", tell(&ops[*read]), tell(&ops[*u]))));
                    }
                    continue;
                };
                graph.before(shown, *read);
                writes.iter().filter(|u| **u != shown && done(**u)).for_each(|u| graph.before(*u, shown));
                for (later, saw_later) in reads.iter().filter(|(l, s)| s != saw && done_before(&ops[*read], &ops[*l])) {
                    match self.at.get(saw_later) {
                        Some(then) => graph.before(shown, *then),
                        None if self.zeroed(lba).next().is_none() => {
                            let (a, b) = (tell(&ops[*read]), tell(&ops[*later]));
                            return Err(Violation(format!("what {a} saw was gone for {b}")));
                        }
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }
}

fn done_before(a: &Op, b: &Op) -> bool {
    a.end.is_some_and(|e| e < b.begin)
}

/// What must come before what: operations, and behind them the moments of real time.
struct Graph {
    ops: usize,
    after: Vec<Vec<usize>>,
}

impl Graph {
    fn new(ops: &[Op], happened: &HashSet<usize>) -> Self {
        let of = |i: &usize| [Some(ops[*i].begin), ops[*i].bound];
        let moments: BTreeSet<u64> = happened.iter().flat_map(of).flatten().collect();
        let node: HashMap<u64, usize> = moments.iter().enumerate().map(|(n, m)| (*m, ops.len() + n)).collect();
        let mut graph = Self { ops: ops.len(), after: vec![Vec::new(); ops.len() + moments.len()] };
        (ops.len() + 1..ops.len() + moments.len()).for_each(|n| graph.before(n - 1, n));
        for i in happened {
            graph.before(node[&ops[*i].begin], *i);
            if let Some(bound) = ops[*i].bound {
                graph.before(*i, node[&bound]);
            }
        }
        graph
    }

    fn before(&mut self, a: usize, b: usize) {
        self.after[a].push(b);
    }

    /// The operations on a cycle, if there is one.
    fn cycle(&self) -> Option<Vec<usize>> {
        let mut before = vec![0usize; self.after.len()];
        self.after.iter().flatten().for_each(|n| before[*n] += 1);
        let mut free: Vec<usize> = (0..before.len()).filter(|n| before[*n] == 0).collect();
        while let Some(n) = free.pop() {
            for next in &self.after[n] {
                before[*next] -= 1;
                if before[*next] == 0 {
                    free.push(*next);
                }
            }
        }
        // Whatever is left has a predecessor that is left: going backwards from any of it ends in a circle.
        let start = (0..before.len()).find(|n| before[*n] > 0)?;
        let mut from = vec![usize::MAX; before.len()];
        for (a, nexts) in self.after.iter().enumerate().filter(|(a, _)| before[*a] > 0) {
            nexts.iter().filter(|b| before[**b] > 0).for_each(|b| from[*b] = a);
        }
        let (mut path, mut at) = (vec![start], from[start]);
        while !path.contains(&at) {
            path.push(at);
            at = from[at];
        }
        let begin = path.iter().position(|n| *n == at).unwrap_or(0);
        Some(path[begin..].iter().rev().copied().filter(|n| *n < self.ops).collect())
    }
}
