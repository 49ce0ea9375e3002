//! Writing the frozen layer into the tree: which nodes, bottom up, with what content.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::Shared;
use super::base::{Located, Replaced};
use super::error::MapError;
use super::fold::{Built, NodeToWrite, What, Work};
use super::geometry::{FAN_BITS, FANOUT, leaves_of, slot, span};
use super::node::{Inner, Leaf, MAX_NUMBER, NumberTooHigh};
use super::overlay::Overlay;
use super::piece::NodeLoad;
use super::usage::UsageChange;
use crate::probe::{Mutant, planted};
use crate::segment::{RecordRef, RootRef};

/// What a checkpoint needs next.
#[derive(Debug)]
pub enum Step {
    /// Load these nodes ([`super::Map::loaded`]), then ask again.
    Load(Vec<NodeLoad>),
    /// Encode and place all of these, then ask again.
    Write(Vec<NodeToWrite>),
    /// Every node is placed: [`Checkpoint::root`] holds.
    Done,
}

/// A checkpoint being made. Dropped without [`Checkpoint::commit`], its changes are dirty again.
#[derive(Debug)]
pub struct Checkpoint {
    shared: Arc<Shared>,
    frozen: Arc<Overlay>,
    /// Nodes to be written anew, by level and index.
    rewrites: BTreeSet<(u8, u64)>,
    old_root: Option<RootRef>,
    levels: u8,
    /// For each level from 1 on the indices of the inner nodes on the way to a change, ascending.
    touched: Vec<Vec<u64>>,
    phase: Phase,
    /// Nodes given out by `next` and not placed.
    outstanding: usize,
    /// Of the level last worked on: what became of changed nodes. Those not in it are as before.
    outcome: BTreeMap<u64, Option<RecordRef>>,
    /// The same of the level below it, while an inner level is worked on.
    below: BTreeMap<u64, Option<RecordRef>>,
    replaced: Vec<Replaced>,
    /// New leaves for the cache, as many as half of it holds.
    fresh: Vec<(u64, RecordRef, Leaf)>,
    fresh_bytes: usize,
    change: UsageChange,
    committed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Inner nodes are loaded from the top down; `at` is the place in `touched` of the level.
    Load {
        level: u8,
        at: usize,
    },
    /// The next leaf to look at, if any.
    Leaves(Option<u64>),
    Inner {
        level: u8,
        at: usize,
    },
    Done,
}

impl Checkpoint {
    pub(super) fn begin(shared: Arc<Shared>) -> Self {
        let (frozen, mut rewrites, old_root, levels) = {
            let mut state = shared.state.write();
            assert!(state.frozen.is_none(), "one checkpoint at a time");
            let frozen = Arc::new(mem::take(&mut state.delta));
            state.frozen = Some(frozen.clone());
            (frozen, mem::take(&mut state.rewrites), state.base.root(), state.base.levels())
        };
        rewrites.retain(|&(level, index)| level <= levels && index < span(levels - level));
        let touched = touched(&frozen, &rewrites, old_root, levels);
        Self {
            shared,
            frozen,
            rewrites,
            old_root,
            levels,
            touched,
            phase: Phase::Load { level: levels, at: 0 },
            outstanding: 0,
            outcome: BTreeMap::new(),
            below: BTreeMap::new(),
            replaced: Vec::new(),
            fresh: Vec::new(),
            fresh_bytes: 0,
            change: UsageChange::default(),
            committed: false,
        }
    }

    /// What to do next, at most `max` nodes of it. All nodes of the last step must be placed.
    ///
    /// # Panics
    /// If nodes of the last step are not placed.
    pub fn next(&mut self, max: usize) -> Step {
        assert!(self.outstanding == 0, "all nodes of a step are placed before the next");
        let max = max.max(1);
        loop {
            match self.phase {
                Phase::Load { level, at } => {
                    let loads = self.missing(level, at, max);
                    if !loads.is_empty() {
                        return Step::Load(loads);
                    }
                    self.phase = match level {
                        1 => Phase::Leaves(self.next_leaf(0)),
                        _ => Phase::Load { level: level - 1, at: 0 },
                    };
                }
                Phase::Leaves(from) => match self.leaves(from, max) {
                    Ok(nodes) if nodes.is_empty() => self.start_level(1),
                    Ok(nodes) => return self.hand_out(nodes),
                    Err(load) => return Step::Load(vec![load]),
                },
                Phase::Inner { level, at } => {
                    let nodes = match self.inners(level, at, max) {
                        Ok(nodes) => nodes,
                        Err(load) => return Step::Load(vec![load]),
                    };
                    if !nodes.is_empty() {
                        return self.hand_out(nodes);
                    }
                    if level == self.levels {
                        self.phase = Phase::Done;
                    } else {
                        self.start_level(level + 1);
                    }
                }
                Phase::Done => return Step::Done,
            }
        }
    }

    fn start_level(&mut self, level: u8) {
        self.below = mem::take(&mut self.outcome);
        self.phase = Phase::Inner { level, at: 0 };
    }

    fn hand_out(&mut self, nodes: Vec<NodeToWrite>) -> Step {
        self.outstanding = nodes.len();
        Step::Write(nodes)
    }

    fn touched(&self, level: u8) -> &[u64] {
        &self.touched[usize::from(level) - 1]
    }

    /// Inner nodes of a level that the merge needs and that are not in memory.
    fn missing(&mut self, level: u8, from: usize, max: usize) -> Vec<NodeLoad> {
        let mut loads: Vec<NodeLoad> = Vec::new();
        let mut first_missing = None;
        for (at, &index) in self.touched(level).iter().enumerate().skip(from) {
            if loads.len() == max {
                break;
            }
            if self.frozen.cuts().covers(&leaves_of(level, index)) {
                continue;
            }
            let state = self.shared.state.read();
            if state.base.inner(level, index).is_some() {
                continue;
            }
            let load = match state.base.locate(level, index) {
                Located::Absent(_) => continue,
                Located::At(record) => NodeLoad { level, index, record },
                Located::Load(load) => load,
            };
            first_missing = first_missing.or(Some(at));
            if loads.last() != Some(&load) {
                loads.push(load);
            }
        }
        if let Some(at) = first_missing {
            self.phase = Phase::Load { level, at };
        }
        loads
    }

    /// The first leaf at or after `leaf` that is changed or to be written anew.
    fn next_leaf(&self, leaf: u64) -> Option<u64> {
        let rewrite = self.rewrites.range((0, leaf)..=(0, u64::MAX)).next().map(|(_, index)| *index);
        self.frozen.next_leaf(leaf).into_iter().chain(rewrite).min()
    }

    /// The next leaves to work on.
    fn leaves(&mut self, mut from: Option<u64>, max: usize) -> Result<Vec<NodeToWrite>, NodeLoad> {
        let mut nodes = Vec::new();
        while let Some(leaf) = from {
            if nodes.len() == max {
                break;
            }
            let record = match self.base_of(leaf) {
                Ok(record) => record,
                Err(load) if nodes.is_empty() => return Err(load),
                Err(_) => break,
            };
            nodes.extend(self.leaf(leaf, record));
            from = leaf.checked_add(1).and_then(|next| self.next_leaf(next));
            self.phase = Phase::Leaves(from);
        }
        Ok(nodes)
    }

    /// The work on one leaf. One that only loses what a missing base never held is settled here.
    fn leaf(&mut self, leaf: u64, record: Option<RecordRef>) -> Option<NodeToWrite> {
        let delta = self.frozen.leaf(leaf);
        let decides_all = delta.is_some_and(|d| d.decides_all());
        let cached = record.and_then(|r| self.shared.leaves.get(leaf, &r));
        let load = |record| NodeLoad { level: 0, index: leaf, record };
        let mut unread = record.filter(|_| cached.is_none()).map(load);
        let mut replaces = record;
        if decides_all {
            // Nobody needs what is below: whoever walks the free list reads it, for the accounts.
            replaces = replaces.filter(|_| cached.is_some());
            self.change.dropped.extend(unread.take());
        }
        if replaces.is_none() && delta.is_none_or(|d| d.pieces().is_empty()) {
            self.outcome.insert(leaf, None);
            return None;
        }
        let anew = self.rewrites.contains(&(0, leaf));
        let work = Work::Leaf { frozen: self.frozen.clone(), base: cached, anew };
        Some(NodeToWrite { level: 0, index: leaf, base: unread, replaces, work, built: OnceLock::new() })
    }

    /// The durable leaf that lies below a changed one, unless it was cut.
    fn base_of(&self, leaf: u64) -> Result<Option<RecordRef>, NodeLoad> {
        if self.frozen.cuts().holds(leaf) {
            return Ok(None);
        }
        match self.shared.state.read().base.locate(0, leaf) {
            Located::Absent(_) => Ok(None),
            Located::At(record) => Ok(Some(record)),
            Located::Load(load) => Err(load),
        }
    }

    /// The next inner nodes of a level that differ from the base.
    fn inners(&mut self, level: u8, mut at: usize, max: usize) -> Result<Vec<NodeToWrite>, NodeLoad> {
        let mut nodes = Vec::new();
        while nodes.len() < max
            && let Some(&index) = self.touched(level).get(at)
        {
            let before = match self.durable(level, index) {
                Ok(before) => before,
                Err(load) if nodes.is_empty() => return Err(load),
                Err(_) => break,
            };
            let replaces = before.as_ref().map(|(record, _)| *record);
            let before = before.map(|(_, inner)| inner);
            let children = self.children(level, index, before.as_deref());
            let same = before.as_ref().is_some_and(|b| b.children().eq(children.iter().copied()));
            if children.is_empty() {
                self.outcome.insert(index, None);
                self.replaced.push((level, index, None));
                replaces.iter().for_each(|record| self.change.count_node(record, -1));
            } else if !same || self.rewrites.contains(&(level, index)) {
                let work = match Inner::new(&children) {
                    Ok(inner) => Work::Inner(Arc::new(inner)),
                    Err(NumberTooHigh(n)) => unreachable!("record number {n} was refused when the child was placed"),
                };
                nodes.push(NodeToWrite { level, index, base: None, replaces, work, built: OnceLock::new() });
            }
            at += 1;
            self.phase = Phase::Inner { level, at };
        }
        Ok(nodes)
    }

    /// The node as the base has it, unless it was cut.
    fn durable(&self, level: u8, index: u64) -> Result<Option<(RecordRef, Arc<Inner>)>, NodeLoad> {
        if self.frozen.cuts().covers(&leaves_of(level, index)) {
            return Ok(None);
        }
        let state = self.shared.state.read();
        match state.base.locate(level, index) {
            Located::Absent(_) => Ok(None),
            Located::Load(load) => Err(load),
            Located::At(record) => match state.base.inner(level, index) {
                Some(inner) => Ok(Some((record, inner.clone()))),
                None => Err(NodeLoad { level, index, record }),
            },
        }
    }

    /// The children that a node has after this checkpoint. Those that were cut are dropped, each by the one node above
    /// it that was not cut itself: the subtrees leave the tree unread.
    fn children(&mut self, level: u8, index: u64, before: Option<&Inner>) -> Vec<(u16, RecordRef)> {
        let first = index << FAN_BITS;
        let mut slots: Box<[Option<RecordRef>; FANOUT]> = Box::new([None; FANOUT]);
        match (before, self.old_root) {
            (Some(before), _) => {
                for (at, record) in before.children() {
                    slots[usize::from(at)] = Some(record);
                }
            }
            // The volume grew: the old root becomes the first child of a new level.
            (None, Some(root)) if level == root.levels + 1 && index == 0 => slots[0] = Some(root.record),
            // The old root itself was cut, and nothing is above it.
            (None, Some(root)) if level == root.levels && level == self.levels => {
                self.change.dropped.push(NodeLoad { level, index, record: root.record });
            }
            _ => {}
        }
        let cuts = self.frozen.cuts();
        if cuts.touches(&leaves_of(level, index)) {
            for (at, child) in slots.iter_mut().enumerate().filter(|(_, c)| c.is_some()) {
                let index = first + at as u64;
                if cuts.covers(&leaves_of(level - 1, index)) {
                    let dropped = child.take().map(|record| NodeLoad { level: level - 1, index, record });
                    self.change.dropped.extend(dropped);
                }
            }
        }
        for (&child, &outcome) in self.below.range(first..first + FANOUT as u64) {
            slots[usize::from(slot(child))] = outcome;
        }
        slots.iter().enumerate().filter_map(|(at, r)| Some((at as u16, (*r)?))).collect()
    }

    /// Encodes a node: see [`NodeToWrite::encode`].
    ///
    /// # Errors
    /// As there.
    pub fn encode(&self, node: &NodeToWrite, base: Option<&[u8]>) -> Result<Option<Vec<u8>>, MapError> {
        node.encode(base)
    }

    /// Says where an encoded node was put: `Some` exactly if it encoded to bytes.
    ///
    /// # Panics
    /// If it was not encoded, or `at` does not fit what it encoded to or is no place in a segment.
    pub fn placed(&mut self, node: NodeToWrite, at: Option<RecordRef>) {
        assert!(at.is_none_or(|r| r.number <= MAX_NUMBER), "a segment numbers its records in 16 bits");
        let Built { what, old } = node.built.get().expect("a node is encoded before it is placed").clone();
        self.outstanding -= 1;
        if !matches!(what, What::Same) {
            node.replaces.iter().for_each(|record| self.change.count_node(record, -1));
            old.iter().for_each(|leaf| self.change.count_leaf(leaf, -1));
            at.iter().for_each(|record| self.change.count_node(record, 1));
        }
        match (what, at) {
            (What::Empty, None) => {
                self.outcome.insert(node.index, None);
            }
            (What::Same, None) => {}
            (What::Leaf(leaf), Some(record)) => {
                self.outcome.insert(node.index, Some(record));
                if old.is_none() || !planted(Mutant::UsageForgetsReplaced) {
                    self.change.count_leaf(&leaf, 1);
                }
                if self.fresh_bytes < self.shared.leaves.limit() / 2 {
                    self.fresh_bytes += leaf.bytes();
                    self.fresh.push((node.index, record, leaf));
                }
            }
            (What::Inner(inner), Some(record)) => {
                self.outcome.insert(node.index, Some(record));
                self.replaced.push((node.level, node.index, Some(inner)));
            }
            _ => unreachable!("a node has a place exactly if it has bytes"),
        }
    }

    /// The root that this checkpoint makes; `None` for an empty map.
    ///
    /// # Panics
    /// Before [`Step::Done`].
    pub fn root(&self) -> Option<RootRef> {
        assert!(matches!(self.phase, Phase::Done), "the root is known when all nodes are placed");
        match self.outcome.get(&0) {
            None => self.old_root,
            Some(None) => None,
            Some(Some(record)) => Some(RootRef { record: *record, levels: self.levels }),
        }
    }

    /// What this checkpoint changes in the accounts. Whole after [`Step::Done`].
    pub fn change(&self) -> &UsageChange {
        &self.change
    }

    /// Makes the new tree the map's base. Call it once everything that was placed is durable, and named by the log.
    /// Changes applied since the begin stay on top.
    ///
    /// # Panics
    /// Before [`Step::Done`].
    pub fn commit(mut self) {
        let root = self.root();
        let old = {
            let mut state = self.shared.state.write();
            state.base.commit(root, self.frozen.cuts(), mem::take(&mut self.replaced));
            state.frozen.take()
        };
        self.committed = true;
        drop(old);
        for (leaf, record, content) in self.fresh.drain(..) {
            self.shared.leaves.insert(leaf, record, content);
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        // Leaf by leaf, so that nobody waits long. The frozen layer is not asked for what was taken over; the cuts follow
        // when no leaf is left that they would wrongly hide.
        let mut next = if planted(Mutant::FrozenLayerDropped) { None } else { self.frozen.next_leaf(0) };
        while let Some(leaf) = next {
            let mut state = self.shared.state.write();
            state.delta.adopt(&self.frozen, leaf);
            state.adopted = leaf + 1;
            drop(state);
            next = self.frozen.next_leaf(leaf + 1);
        }
        let mut state = self.shared.state.write();
        state.delta.adopt_cuts(&self.frozen);
        state.adopted = 0;
        state.rewrites.append(&mut self.rewrites);
        let old = state.frozen.take();
        drop(state);
        drop(old);
    }
}

/// The inner nodes that a checkpoint may change: those above changed leaves, above nodes to be written anew, above the
/// ends of cuts (what lies between the ends goes with an ancestor), and above an old root that lost its place at the top.
fn touched(frozen: &Overlay, rewrites: &BTreeSet<(u8, u64)>, root: Option<RootRef>, levels: u8) -> Vec<Vec<u64>> {
    let rewritten = |level| rewrites.range((level, 0)..=(level, u64::MAX)).map(|(_, index)| *index);
    let ends = |cut: Range<u64>| [cut.start >> FAN_BITS, (cut.end - 1) >> FAN_BITS];
    let mut below: Vec<u64> = frozen.groups().chain(rewritten(0).map(|leaf| leaf >> FAN_BITS)).collect();
    below.extend(frozen.cuts().iter().flat_map(ends));
    if (!below.is_empty() || !rewrites.is_empty()) && root.is_some_and(|r| r.levels < levels) {
        below.push(0);
    }
    let mut all: Vec<Vec<u64>> = Vec::new();
    for level in 1..=levels {
        below.extend(rewritten(level));
        below.sort_unstable();
        below.dedup();
        debug_assert!(below.iter().all(|&i| i < span(levels - level)));
        let above = below.iter().map(|i| i >> FAN_BITS).collect();
        all.push(std::mem::replace(&mut below, above));
    }
    all
}
