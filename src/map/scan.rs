//! Questions about ranges: which nodes a read lacks, and where nothing is stored.

use super::base::Located;
use super::geometry::{FAN_BITS, FANOUT, leaves_of, slot};
use super::overlay::Overlay;
use super::piece::{NodeLoad, Run};
use super::{Map, State};

/// The most nodes that one call of [`Map::loads_for`] names.
const MAX_LOADS: usize = 256;
/// The most leaves that one call of [`Map::loads_for`] looks at.
const MAX_LEAVES: usize = 4096;
/// The most subtrees that one call of [`Map::hole_run`] steps over.
const MAX_STEPS: usize = 256;

impl Map {
    /// All nodes that a read of the extents `first..=last` still lacks, as far as is known: loading them may show that
    /// nodes below them are needed. At most 256, and of the first 4,096 leaves (64 GiB) that exist; empty when nothing
    /// is lacking.
    pub fn loads_for(&self, first_extent: u64, last_extent: u64) -> Vec<NodeLoad> {
        let mut loads: Vec<NodeLoad> = Vec::new();
        let mut leaf = first_extent >> FAN_BITS;
        let last = last_extent >> FAN_BITS;
        for _ in 0..MAX_LEAVES {
            if leaf > last || loads.len() == MAX_LOADS {
                break;
            }
            let from = if leaf == first_extent >> FAN_BITS { slot(first_extent) } else { 0 };
            let to = if leaf == last { slot(last_extent) } else { FANOUT as u16 - 1 };
            let (load, open) = {
                let state = self.shared.state.read();
                let load = match state.base.locate(0, leaf) {
                    Located::Absent(end) => {
                        leaf = end;
                        continue;
                    }
                    Located::At(record) => NodeLoad { level: 0, index: leaf, record },
                    Located::Load(load) => load,
                };
                (load, state.scan(leaf).1)
            };
            let needed = open[usize::from(from)..=usize::from(to)].iter().any(|&o| o != 0);
            leaf += 1;
            if needed && !(load.level == 0 && self.shared.leaves.has(load.index, &load.record)) {
                loads.push(load);
                // One load tells of all that lies below the node.
                leaf = leaves_of(load.level, load.index).end;
            }
        }
        loads
    }

    /// How the extents from `first_extent` on are stored: a run of at most `max_extents` (at least 1 is looked at).
    /// Steps over large empty subtrees at once.
    pub fn hole_run(&self, first_extent: u64, max_extents: u64) -> Run {
        let max = max_extents.max(1);
        let end = first_extent.saturating_add(max);
        let mut leaf = first_extent >> FAN_BITS;
        {
            let state = self.shared.state.read();
            for _ in 0..MAX_STEPS {
                match state.empty_until(leaf) {
                    Some(next) if next < end.div_ceil(FANOUT as u64) => leaf = next,
                    Some(_) => return Run::Hole(max),
                    None => break,
                }
            }
        }
        let ahead = leaf << FAN_BITS;
        if ahead > first_extent {
            return Run::Hole(ahead - first_extent);
        }
        self.run_in_leaf(leaf, slot(first_extent), max)
    }

    fn run_in_leaf(&self, leaf: u64, from: u16, max: u64) -> Run {
        let state = self.shared.state.read();
        let (mut mapped, mut open) = state.scan(leaf);
        let mut load = None;
        if open.iter().any(|&o| o != 0) {
            match state.base.locate(0, leaf) {
                Located::Absent(_) => open = [0; FANOUT],
                Located::Load(l) => load = Some(l),
                Located::At(record) => {
                    drop(state);
                    let found = self.shared.leaves.with(leaf, &record, |node| {
                        for p in node.pieces.iter() {
                            let at = usize::from(p.extent);
                            mapped[at] |= p.visible & open[at];
                        }
                        open = [0; FANOUT];
                    });
                    if found.is_none() {
                        load = Some(NodeLoad { level: 0, index: leaf, record });
                    }
                }
            }
        }
        let from = usize::from(from);
        if open[from] != 0
            && let Some(load) = load
        {
            return Run::Load(load);
        }
        let kind = mapped[from];
        let limit = (FANOUT - from).min(usize::try_from(max).unwrap_or(FANOUT));
        let same = (from..from + limit).take_while(|&i| mapped[i] == kind && open[i] == 0).count() as u64;
        match kind {
            0 => Run::Hole(same),
            0xff => Run::Mapped(same),
            some => Run::Mixed(some),
        }
    }
}

impl State {
    /// What the upper layers say of a leaf: blocks mapped there, blocks left to the base.
    fn scan(&self, leaf: u64) -> ([u8; FANOUT], [u8; FANOUT]) {
        let (mut mapped, mut open) = ([0; FANOUT], [0xff; FANOUT]);
        self.delta.scan(leaf, &mut mapped, &mut open);
        // Moves change where a block is, not whether it is stored.
        if let Some(frozen) = &self.frozen {
            if leaf >= self.adopted {
                frozen.scan(leaf, &mut mapped, &mut open);
            } else if frozen.cuts().holds(leaf) {
                open = [0; FANOUT];
            }
        }
        (mapped, open)
    }

    /// If `leaf` is surely empty: a later leaf, up to which all are.
    fn empty_until(&self, leaf: u64) -> Option<u64> {
        let next_of = |layer: &Overlay| layer.next_leaf(leaf).unwrap_or(u64::MAX);
        let mut until = next_of(&self.delta);
        if until > leaf {
            match (self.delta.cuts().end_at(leaf), &self.frozen) {
                (Some(end), _) => until = until.min(end),
                (None, None) => until = until.min(self.absent_until(leaf)),
                (None, Some(frozen)) => {
                    let below = frozen.cuts().end_at(leaf).unwrap_or_else(|| self.absent_until(leaf));
                    until = until.min(next_of(frozen)).min(below);
                }
            }
        }
        (until > leaf).then_some(until)
    }

    fn absent_until(&self, leaf: u64) -> u64 {
        match self.base.locate(0, leaf) {
            Located::Absent(end) => end,
            _ => leaf,
        }
    }
}
