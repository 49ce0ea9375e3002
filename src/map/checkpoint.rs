//! Writing the frozen layer into the tree: which nodes, bottom up, with what content.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::Shared;
use super::base::{Located, Replaced};
use super::codec;
use super::delta::LeafDelta;
use super::error::MapError;
use super::geometry::{FAN_BITS, FANOUT, leaves_of, slot, span};
use super::node::{Inner, Leaf, MAX_NUMBER, NumberTooHigh};
use super::overlay::Overlay;
use super::piece::{NodeLoad, Piece};
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

/// One node that a checkpoint writes. It can be encoded on any thread.
#[derive(Debug)]
pub struct NodeToWrite {
    /// Levels above the leaves; 0 is a leaf.
    pub level: u8,
    /// Its index among the nodes of its level.
    pub index: u64,
    /// The node whose plaintext `encode` must be given, if any. Only leaves that are not in memory have one.
    pub base: Option<NodeLoad>,
    work: Work,
    built: OnceLock<Built>,
}

#[derive(Debug)]
enum Work {
    Leaf { frozen: Arc<Overlay>, base: Option<Leaf> },
    Inner(Arc<Inner>),
}

#[derive(Debug, Clone)]
enum Built {
    /// The node holds nothing any more.
    Empty,
    /// The node is as it was.
    Same,
    Leaf(Leaf),
    Inner(Arc<Inner>),
}

/// A checkpoint being made. Dropped without [`Checkpoint::commit`], its changes are dirty again.
#[derive(Debug)]
pub struct Checkpoint {
    shared: Arc<Shared>,
    frozen: Arc<Overlay>,
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
        let (frozen, old_root, levels) = {
            let mut state = shared.state.write();
            assert!(state.frozen.is_none(), "one checkpoint at a time");
            let frozen = Arc::new(mem::take(&mut state.delta));
            state.frozen = Some(frozen.clone());
            (frozen, state.base.root(), state.base.levels())
        };
        let touched = touched(&frozen, old_root, levels);
        Self {
            shared,
            frozen,
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
                        1 => Phase::Leaves(self.frozen.next_leaf(0)),
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

    /// The next changed leaves. Those that only lose what a missing base never held are settled here.
    fn leaves(&mut self, mut from: Option<u64>, max: usize) -> Result<Vec<NodeToWrite>, NodeLoad> {
        let mut nodes = Vec::new();
        while let Some(leaf) = from {
            if nodes.len() == max {
                break;
            }
            let delta = self.frozen.leaf(leaf).expect("next_leaf names leaves that are there");
            let record = match self.base_of(leaf) {
                Ok(record) => record,
                Err(load) if nodes.is_empty() => return Err(load),
                Err(_) => break,
            };
            if delta.pieces().is_empty() && (record.is_none() || delta.decides_all()) {
                self.outcome.insert(leaf, None);
            } else {
                let record = record.filter(|_| !delta.decides_all());
                let cached = record.and_then(|r| self.shared.leaves.get(leaf, &r));
                let base = match (&cached, record) {
                    (None, Some(record)) => Some(NodeLoad { level: 0, index: leaf, record }),
                    _ => None,
                };
                let work = Work::Leaf { frozen: self.frozen.clone(), base: cached };
                nodes.push(NodeToWrite { level: 0, index: leaf, base, work, built: OnceLock::new() });
            }
            from = leaf.checked_add(1).and_then(|next| self.frozen.next_leaf(next));
            self.phase = Phase::Leaves(from);
        }
        Ok(nodes)
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
            let children = self.children(level, index, before.as_deref());
            if children.is_empty() {
                self.outcome.insert(index, None);
                self.replaced.push((level, index, None));
            } else if !before.as_ref().is_some_and(|b| b.children().eq(children.iter().copied())) {
                let work = match Inner::new(&children) {
                    Ok(inner) => Work::Inner(Arc::new(inner)),
                    Err(NumberTooHigh(n)) => unreachable!("record number {n} was refused when the child was placed"),
                };
                nodes.push(NodeToWrite { level, index, base: None, work, built: OnceLock::new() });
            }
            at += 1;
            self.phase = Phase::Inner { level, at };
        }
        Ok(nodes)
    }

    /// The node as the base has it.
    fn durable(&self, level: u8, index: u64) -> Result<Option<Arc<Inner>>, NodeLoad> {
        if self.frozen.cuts().covers(&leaves_of(level, index)) {
            return Ok(None);
        }
        let state = self.shared.state.read();
        if let Some(inner) = state.base.inner(level, index) {
            return Ok(Some(inner.clone()));
        }
        match state.base.locate(level, index) {
            Located::Absent(_) => Ok(None),
            Located::At(record) => Err(NodeLoad { level, index, record }),
            Located::Load(load) => Err(load),
        }
    }

    /// The children that a node has after this checkpoint.
    fn children(&self, level: u8, index: u64, before: Option<&Inner>) -> Vec<(u16, RecordRef)> {
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
            _ => {}
        }
        let cuts = self.frozen.cuts();
        if cuts.touches(&leaves_of(level, index)) {
            for (at, child) in slots.iter_mut().enumerate().filter(|(_, c)| c.is_some()) {
                if cuts.covers(&leaves_of(level - 1, first + at as u64)) {
                    *child = None;
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
        let built = node.built.get().expect("a node is encoded before it is placed").clone();
        self.outstanding -= 1;
        match (built, at) {
            (Built::Empty, None) => {
                self.outcome.insert(node.index, None);
            }
            (Built::Same, None) => {}
            (Built::Leaf(leaf), Some(record)) => {
                self.outcome.insert(node.index, Some(record));
                if self.fresh_bytes < self.shared.leaves.limit() / 2 {
                    self.fresh_bytes += leaf.bytes();
                    self.fresh.push((node.index, record, leaf));
                }
            }
            (Built::Inner(inner), Some(record)) => {
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
        // Leaf by leaf, so that nobody waits long. A leaf already taken over hides its twin in the frozen layer; the
        // cuts follow when no leaf is left that they would wrongly hide.
        let mut next = self.frozen.next_leaf(0);
        while let Some(leaf) = next {
            self.shared.state.write().delta.adopt(&self.frozen, leaf);
            next = self.frozen.next_leaf(leaf + 1);
        }
        let mut state = self.shared.state.write();
        state.delta.adopt_cuts(&self.frozen);
        let old = state.frozen.take();
        drop(state);
        drop(old);
    }
}

impl NodeToWrite {
    /// The node's plaintext, to be sealed as a map node; `None` if there is nothing to write: it became empty or did
    /// not change. `base` is the plaintext of the node that [`NodeToWrite::base`] names.
    ///
    /// # Errors
    /// [`MapError::Node`] if the base cannot be decoded, [`MapError::NoBase`] if it is not given.
    pub fn encode(&self, base: Option<&[u8]>) -> Result<Option<Vec<u8>>, MapError> {
        let (built, bytes) = match &self.work {
            Work::Inner(inner) => (Built::Inner(inner.clone()), Some(codec::encode_inner(self.level, inner))),
            Work::Leaf { frozen, base: cached } => {
                let read;
                let base = match (cached, &self.base, base) {
                    (Some(leaf), _, _) => Some(leaf),
                    (None, None, _) => None,
                    (None, Some(_), None) => return Err(MapError::NoBase { index: self.index }),
                    (None, Some(_), Some(bytes)) => {
                        read = codec::decode_leaf(bytes).map_err(|source| MapError::Node {
                            level: 0,
                            index: self.index,
                            source,
                        })?;
                        Some(&read)
                    }
                };
                let delta = frozen.leaf(self.index).expect("only changed leaves are written");
                let leaf = merge(frozen, delta, base).map_err(|NumberTooHigh(number)| MapError::Number {
                    level: 0,
                    index: self.index,
                    number,
                })?;
                if leaf.pieces.is_empty() {
                    (Built::Empty, None)
                } else if base.is_some_and(|b| *b == leaf) {
                    (Built::Same, None)
                } else {
                    let bytes = codec::encode_leaf(&leaf);
                    (Built::Leaf(leaf), Some(bytes))
                }
            }
        };
        // Encoding twice gives the same answer: the first stays.
        self.built.get_or_init(|| built);
        Ok(bytes)
    }
}

/// A changed leaf with its base below it.
fn merge(frozen: &Overlay, delta: &LeafDelta, base: Option<&Leaf>) -> Result<Leaf, NumberTooHigh> {
    let below = base.map_or(0, |b| b.pieces.len());
    let mut pieces: Vec<(u16, Piece)> = Vec::with_capacity(delta.pieces().len() + below);
    pieces.extend(delta.pieces().iter().map(|p| (p.extent, frozen.piece(p))));
    if let Some(base) = base {
        let decided = delta.decided();
        for p in base.pieces.iter() {
            let visible = p.visible & !decided[usize::from(p.extent)];
            if visible != 0 {
                pieces.push((p.extent, Piece { visible, ..base.piece(p) }));
            }
        }
    }
    Leaf::new(pieces)
}

/// The inner nodes that a checkpoint may change: those above changed leaves and above the ends of cuts (what lies
/// between the ends goes with an ancestor), and above an old root that lost its place at the top.
fn touched(frozen: &Overlay, root: Option<RootRef>, levels: u8) -> Vec<Vec<u64>> {
    let mut level1: Vec<u64> = frozen.groups().collect();
    let ends = |cut: Range<u64>| [cut.start >> FAN_BITS, (cut.end - 1) >> FAN_BITS];
    level1.extend(frozen.cuts().iter().flat_map(ends));
    if !level1.is_empty() && root.is_some_and(|r| r.levels < levels) {
        level1.push(0);
    }
    level1.sort_unstable();
    level1.dedup();
    debug_assert!(level1.iter().all(|&i| i < span(levels - 1)));
    let mut all = vec![level1];
    for _ in 1..levels {
        let mut upper: Vec<u64> = all[all.len() - 1].iter().map(|i| i >> FAN_BITS).collect();
        upper.dedup();
        all.push(upper);
    }
    all
}
