//! Accounts: what of each segment the map still needs. Exact together with the free list, the subtrees that left the
//! map unread: what lies in those counts as live until somebody has walked them.

use std::collections::{BTreeMap, HashSet};

use super::error::MapError;
use super::inspect::{NodeContent, read_node};
use super::node::Leaf;
use super::piece::{NodeLoad, Piece, live_bytes};
use crate::segment::{RecordRef, SegmentId};

/// The account of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentUsage {
    /// The object's length.
    pub bytes: u32,
    /// Stored bytes of what is live: of data records the share of their visible blocks, of nodes of the map all.
    pub live: u32,
    /// Visible blocks.
    pub blocks: u32,
    /// Live nodes.
    pub nodes: u32,
    /// The operation number that tells the age of what is in it.
    pub born: u64,
}

impl SegmentUsage {
    /// Whether nothing in it is needed.
    pub fn is_dead(&self) -> bool {
        self.blocks == 0 && self.nodes == 0
    }

    /// What it takes besides its records (bytes, about): header, trailer, and the index with an entry for each record. Copies take
    /// it again, so it is no garbage.
    pub fn overhead(&self) -> u64 {
        let all = 512 + 32 * (u64::from(self.blocks) + u64::from(self.nodes));
        all.min(u64::from(self.bytes).saturating_sub(u64::from(self.live)))
    }

    fn changed(&self, by: &SegmentChange) -> Option<Self> {
        let add = |v: u32, by: i64| i64::from(v).checked_add(by).and_then(|v| u32::try_from(v).ok());
        let (live, blocks, nodes) =
            (add(self.live, by.live)?, add(self.blocks, by.blocks)?, add(self.nodes, by.nodes)?);
        let new = Self { live, blocks, nodes, ..*self };
        (new.is_dead() == (live == 0)).then_some(new)
    }
}

/// All accounts of a volume, as of one map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// By segment. A dead one stays until its object is known to be gone.
    pub segments: BTreeMap<SegmentId, SegmentUsage>,
    /// The free list: roots of subtrees that are no part of the map any more and whose content is still counted.
    pub dropped: Vec<NodeLoad>,
}

/// Sums over all accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Segments.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Stored bytes of what is live.
    pub live: u64,
    /// Visible blocks.
    pub blocks: u64,
    /// Live nodes.
    pub nodes: u64,
    /// Segments of which nothing is live.
    pub dead_objects: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// What the others take besides their records ([`SegmentUsage::overhead`]).
    pub overhead: u64,
}

impl Usage {
    /// Opens the account of a segment of which nothing is live yet. One that is known keeps its counts.
    pub fn add(&mut self, id: SegmentId, bytes: u32, born: u64) {
        let account = self.segments.entry(id).or_default();
        (account.bytes, account.born) = (bytes, born);
    }

    /// Closes an account: the object is gone.
    pub fn remove(&mut self, id: SegmentId) {
        self.segments.remove(&id);
    }

    /// Takes a change over, whole or, if it fails, not at all.
    ///
    /// # Errors
    /// [`MapError::Account`], [`MapError::FreeList`]: the change does not fit the accounts, so they are wrong.
    pub fn apply(&mut self, change: &UsageChange) -> Result<(), MapError> {
        let mut changed = Vec::with_capacity(change.segments.len());
        for (&segment, by) in change.segments.iter().filter(|(_, by)| !by.is_nothing()) {
            let account = self.segments.get(&segment).ok_or(MapError::Account { segment, what: "unknown" })?;
            let new = account.changed(by).ok_or(MapError::Account { segment, what: "off" })?;
            changed.push((segment, new));
        }
        let mut walked: HashSet<&NodeLoad> = change.walked.iter().collect();
        let listed = self.dropped.iter().chain(&change.dropped);
        let dropped: Vec<NodeLoad> = listed.filter(|load| !walked.remove(load)).copied().collect();
        if let Some(load) = walked.into_iter().next() {
            return Err(MapError::FreeList { level: load.level, index: load.index });
        }
        self.segments.extend(changed);
        self.dropped = dropped;
        Ok(())
    }

    /// Sums.
    pub fn totals(&self) -> UsageTotals {
        let mut t = UsageTotals::default();
        for s in self.segments.values() {
            t.objects += 1;
            t.bytes += u64::from(s.bytes);
            t.live += u64::from(s.live);
            t.blocks += u64::from(s.blocks);
            t.nodes += u64::from(s.nodes);
            if s.is_dead() {
                t.dead_objects += 1;
                t.dead_bytes += u64::from(s.bytes);
            } else {
                t.overhead += s.overhead();
            }
        }
        t
    }
}

/// What changes in one segment's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentChange {
    /// Stored bytes of what is live.
    pub live: i64,
    /// Visible blocks.
    pub blocks: i64,
    /// Live nodes.
    pub nodes: i64,
}

impl SegmentChange {
    /// Whether it changes nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes live or dead in one step: a checkpoint, or a walk of the free list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageChange {
    /// By segment.
    pub segments: BTreeMap<SegmentId, SegmentChange>,
    /// What comes onto the free list.
    pub dropped: Vec<NodeLoad>,
    /// What goes off it.
    pub walked: Vec<NodeLoad>,
}

impl UsageChange {
    /// A node of the free list was read: it and its pieces are gone, its children are dropped in its place.
    ///
    /// # Errors
    /// [`MapError::Node`]: these are not the node's bytes. Nothing has changed.
    pub fn walk(&mut self, load: &NodeLoad, plaintext: &[u8]) -> Result<(), MapError> {
        match read_node(load.level, load.index, plaintext)? {
            NodeContent::Leaf(pieces) => pieces.iter().for_each(|(_, piece)| self.count_piece(piece, -1)),
            NodeContent::Inner(children) => self.dropped.extend(children),
        }
        self.count_node(&load.record, -1);
        self.walked.push(*load);
        Ok(())
    }

    /// A node is in the map (1), or no longer (-1); its content is counted apart.
    pub fn count_node(&mut self, record: &RecordRef, sign: i64) {
        let change = self.segments.entry(record.segment).or_default();
        change.nodes += sign;
        change.live += sign * i64::from(record.len);
    }

    /// A piece of a leaf is in the map (1), or no longer (-1).
    pub fn count_piece(&mut self, piece: &Piece, sign: i64) {
        let change = self.segments.entry(piece.record.segment).or_default();
        change.blocks += sign * i64::from(piece.visible.count_ones());
        change.live += sign * live_bytes(piece.record.len, piece.visible, piece.original) as i64;
    }

    /// The same for all pieces of a leaf.
    pub(super) fn count_leaf(&mut self, leaf: &Leaf, sign: i64) {
        // By the leaf's own numbers first: a look into the tree for each segment, not for each piece.
        let mut of = vec![SegmentChange::default(); leaf.segments.len()];
        for p in leaf.pieces.iter() {
            let change = &mut of[usize::from(p.place.segment)];
            change.blocks += sign * i64::from(p.visible.count_ones());
            change.live += sign * live_bytes(p.place.len, p.visible, p.original) as i64;
        }
        for (id, by) in leaf.segments.iter().zip(of) {
            let change = self.segments.entry(*id).or_default();
            change.blocks += by.blocks;
            change.live += by.live;
        }
    }
}
