//! The durable tree below the overlays: its root and the inner nodes that were loaded. It only changes when a
//! checkpoint is committed.

use std::collections::HashMap;
use std::sync::Arc;

use super::cuts::Cuts;
use super::geometry::{ancestor, leaves_of, slot, span};
use super::hash::FastHash;
use super::node::Inner;
use super::piece::NodeLoad;
use crate::segment::{RecordRef, RootRef};

/// Where a node of the durable tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// There is none, nor any at the leaves before this one.
    Absent(u64),
    /// Its record.
    At(RecordRef),
    /// An inner node above it must be loaded to know.
    Load(NodeLoad),
}

/// A node that a checkpoint replaced: its new content, or none.
pub type Replaced = (u8, u64, Option<Arc<Inner>>);

#[derive(Debug)]
pub struct Base {
    root: Option<RootRef>,
    /// Levels that the volume's size asks for; the root may have fewer until the next checkpoint.
    levels: u8,
    /// Every node of it is part of the tree, and so are the nodes above it.
    inners: HashMap<(u8, u64), Arc<Inner>, FastHash>,
    bytes: usize,
}

impl Base {
    pub fn new(root: Option<RootRef>, levels: u8) -> Self {
        Self { root, levels, inners: HashMap::default(), bytes: 0 }
    }

    pub fn root(&self) -> Option<RootRef> {
        self.root
    }

    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes + self.inners.capacity() * 32
    }

    /// Checks the accounts, and that every inner node is where its parent says.
    #[cfg(test)]
    pub fn audit(&self) {
        assert_eq!(self.bytes, self.inners.values().map(|i| i.bytes()).sum::<usize>());
        for &(level, index) in self.inners.keys() {
            assert!(matches!(self.locate(level, index), Located::At(_)), "an inner node outside of the tree");
        }
    }

    pub fn inner(&self, level: u8, index: u64) -> Option<&Arc<Inner>> {
        self.inners.get(&(level, index))
    }

    /// Where a node is, as far as the loaded inner nodes tell.
    pub fn locate(&self, level: u8, index: u64) -> Located {
        let Some(root) = self.root else { return Located::Absent(u64::MAX) };
        let top = root.levels;
        if level > top || ancestor(index, top - level) != 0 {
            // A volume that grew: the old root covers only its beginning.
            return Located::Absent(u64::MAX);
        }
        if level == top {
            return Located::At(root.record);
        }
        for up in level + 1..=top {
            let Some(inner) = self.inner(up, ancestor(index, up - level)) else { continue };
            let child = ancestor(index, up - 1 - level);
            return match inner.child(slot(child)) {
                None => Located::Absent(leaves_of(up - 1, child).end),
                Some(record) if up - 1 == level => Located::At(record),
                Some(record) => Located::Load(NodeLoad { level: up - 1, index: child, record }),
            };
        }
        Located::Load(NodeLoad { level: top, index: 0, record: root.record })
    }

    /// Whether some leaf of a range may exist. Never loads; answers yes where it does not know.
    pub fn may_hold(&self, leaves: &std::ops::Range<u64>) -> bool {
        let mut leaf = leaves.start;
        // Each step skips an absent subtree: few steps, whatever the range.
        for _ in 0..64 {
            if leaf >= leaves.end {
                return false;
            }
            match self.locate(0, leaf) {
                Located::Absent(end) => leaf = end,
                _ => return true,
            }
        }
        true
    }

    /// Takes an inner node that was read. Answers whether it was wanted.
    pub fn loaded(&mut self, load: &NodeLoad, inner: Inner) -> bool {
        let wanted = self.locate(load.level, load.index) == Located::At(load.record)
            && self.inner(load.level, load.index).is_none();
        if wanted {
            self.insert(load.level, load.index, Arc::new(inner));
        }
        wanted
    }

    fn insert(&mut self, level: u8, index: u64, inner: Arc<Inner>) {
        self.bytes += inner.bytes();
        if let Some(old) = self.inners.insert((level, index), inner) {
            self.bytes -= old.bytes();
        }
    }

    /// Moves on to the tree that a checkpoint wrote.
    pub fn commit(&mut self, root: Option<RootRef>, cuts: &Cuts, replaced: Vec<Replaced>) {
        self.root = root;
        let mut gone = 0;
        if !cuts.is_empty() {
            self.inners.retain(|&(level, index), inner| {
                let keep = !cuts.covers(&leaves_of(level, index));
                gone += if keep { 0 } else { inner.bytes() };
                keep
            });
        }
        self.bytes -= gone;
        for (level, index, inner) in replaced {
            match inner {
                Some(inner) => self.insert(level, index, inner),
                None => {
                    if let Some(old) = self.inners.remove(&(level, index)) {
                        self.bytes -= old.bytes();
                    }
                }
            }
        }
    }

    /// One past the last leaf that the tree can address.
    pub fn leaf_limit(&self) -> u64 {
        span(self.levels)
    }
}
