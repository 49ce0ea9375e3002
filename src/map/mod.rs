//! Extent to records: a copy-on-write radix tree, and the changes that no checkpoint holds yet.
//!
//! # Shape
//!
//! A *leaf* covers 512 extents (16 MiB), an *inner node* 512 nodes of the level below; the volume's size fixes how many
//! levels of inner nodes there are (1 to 5). What a reader sees is three layers, the upper winning block by block:
//!
//! 1. the **delta**: what was applied since the last [`Map::begin_checkpoint`];
//! 2. the **frozen** layer, while a checkpoint runs: the delta as of its begin. Nothing changes it;
//! 3. the **base**: the durable tree that the last committed checkpoint wrote. Its nodes are loaded on demand; inner
//!    nodes stay, leaves live in a bounded cache and are found by the record they were read from.
//!
//! A layer of changes says of each block "this record", "zeroes" or "as below": per leaf a list of pieces and masks of
//! zeroed blocks, and a set of ranges of leaves that were *cut*, erased whole. So applying never needs a node of the
//! base: a write to an unloaded leaf is a piece in the delta; a trim of any size is at most two partial leaves and one
//! range. A trim records nothing where nothing can lie underneath. A relocation ("what is in this record is now in that
//! one") moves what the delta decides at once; for what it leaves open it is a *conditional move*, through which the
//! answers of the layers below are seen.
//!
//! A checkpoint folds the frozen layer into the base and writes the nodes that differ, bottom up. Its commit swaps the
//! base and drops the frozen layer, which says the same as before; the delta is not touched, so nothing that happened
//! meanwhile can be undone. Giving a checkpoint up puts the frozen layer back below the delta, leaf by leaf.
//!
//! Everything here is synchronous and in memory: the caller reads and writes the nodes' records.

mod base;
mod cache;
mod checkpoint;
mod codec;
mod cuts;
mod delta;
mod error;
mod fold;
mod geometry;
mod hash;
mod inspect;
mod moves;
mod node;
mod overlay;
mod piece;
mod scan;
mod sparse;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
mod usage;
mod usage_codec;

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

pub use checkpoint::{Checkpoint, Step};
pub use error::MapError;
pub use fold::NodeToWrite;
pub use geometry::levels_for;
pub use inspect::{NodeContent, leaf_of, node_extents, read_node};
pub use piece::{Lookup, NodeLoad, Piece, Run};
pub use usage::{SegmentChange, SegmentUsage, Usage, UsageChange, UsageTotals};
pub use usage_codec::{
    MAX_USAGE_PAGE, MAX_USAGE_PAGES, USAGE_DIRECTORY_LEVEL, USAGE_PAGE_LEVEL, decode_usage_directory,
    decode_usage_pages, encode_usage_directory, encode_usage_pages,
};

use crate::segment::{RecordRef, Relocation, RootRef};
use crate::sync::RwLock;
use base::{Base, Located};
use cache::LeafCache;
use geometry::{FAN_BITS, LEAF_BLOCKS, MAX_LEVELS, slot};
use moves::{Move, through};
use overlay::{Overlay, Removed};

/// What a map is made for.
#[derive(Debug, Clone, Copy)]
pub struct MapOptions {
    /// The volume's size in bytes.
    pub size: u64,
    /// How much memory clean leaves may take. One leaf is kept even where it is larger (up to 128 KiB).
    pub leaf_cache_bytes: usize,
}

/// Memory of a map, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// Clean leaves in the cache.
    pub leaf_bytes: usize,
    /// Changes that no committed checkpoint holds.
    pub dirty_bytes: usize,
    /// Inner nodes.
    pub inner_bytes: usize,
}

/// The map of one volume. Cheap to clone: clones share it.
#[derive(Debug, Clone)]
pub struct Map {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    leaves: LeafCache,
    /// Blocks of the volume.
    blocks: u64,
}

/// The three layers. Locked for one lookup or one change at a time.
#[derive(Debug)]
struct State {
    delta: Overlay,
    frozen: Option<Arc<Overlay>>,
    base: Base,
    /// Nodes that the next checkpoint writes anew, by level and index.
    rewrites: BTreeSet<(u8, u64)>,
    /// While a checkpoint is given up: changes of leaves before this one are in the delta, no longer in the frozen layer.
    adopted: u64,
}

impl Map {
    /// A map of the tree below `root`, or of an empty volume. Nothing is loaded yet. The root may be of a smaller size
    /// of the volume.
    ///
    /// # Errors
    /// [`MapError::Levels`] for a root of impossible depth.
    pub fn new(options: MapOptions, root: Option<RootRef>) -> Result<Self, MapError> {
        let mut levels = levels_for(options.size);
        if let Some(root) = root {
            if !(1..=MAX_LEVELS).contains(&root.levels) {
                return Err(MapError::Levels(root.levels));
            }
            levels = levels.max(root.levels);
        }
        let state = State {
            delta: Overlay::default(),
            frozen: None,
            base: Base::new(root, levels),
            rewrites: BTreeSet::new(),
            adopted: 0,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                state: RwLock::new(state),
                leaves: LeafCache::new(options.leaf_cache_bytes),
                blocks: options.size.div_ceil(4096),
            }),
        })
    }

    /// Blocks `mask` (bit i = block i) of an extent are now in `record`, which holds exactly them. Newest wins. Never
    /// needs a node of the base. An extent that no volume of these levels can have is ignored, as is an empty mask.
    pub fn apply_data(&self, extent: u64, mask: u8, record: RecordRef) {
        let leaf = extent >> FAN_BITS;
        let mut state = self.shared.state.write();
        if mask != 0 && leaf < state.base.leaf_limit() {
            state.delta.write(leaf, slot(extent), mask, &record);
        }
    }

    /// `blocks` blocks from block `first_lba` on now read as zeroes: trims and zeroes alike, of any size. Costs what
    /// the changed leaves in the range cost to drop, and never needs a node of the base.
    pub fn apply_trim(&self, first_lba: u64, blocks: u64) {
        let end = first_lba.saturating_add(blocks);
        let mut removed: SmallVec<[Removed; 3]> = SmallVec::new();
        let mut state = self.shared.state.write();
        let limit = state.base.leaf_limit() * LEAF_BLOCKS;
        // Nothing lies behind the volume's end: what reaches it cuts all that the tree could hold there.
        let end = if end >= self.shared.blocks { limit } else { end };
        if blocks == 0 || first_lba >= end {
            return;
        }
        let (first, last) = (first_lba / LEAF_BLOCKS, (end - 1) / LEAF_BLOCKS);
        let head = (first_lba % LEAF_BLOCKS) as u32;
        let tail = ((end - 1) % LEAF_BLOCKS) as u32 + 1;
        if first == last {
            removed.push(state.erase(first, head..tail));
        } else {
            removed.push(state.erase(first, head..LEAF_BLOCKS as u32));
            removed.push(state.erase(last, 0..tail));
            let underneath = state.underneath(&(first + 1..last));
            removed.push(state.delta.cut(first + 1..last, underneath));
        }
        drop(state);
    }

    /// Blocks of an extent moved: those of the mask that resolve to `from` now resolve to `to`, others stay as they are.
    /// Never needs a node of the base. Blocks that `to` does not hold do not move; an extent that no volume of these
    /// levels can have is ignored.
    pub fn apply_relocation(&self, relocation: &Relocation) {
        let leaf = relocation.extent >> FAN_BITS;
        let mut state = self.shared.state.write();
        let mask = relocation.mask & relocation.original;
        if mask != 0 && leaf < state.base.leaf_limit() {
            let underneath = state.underneath(&(leaf..leaf + 1));
            state.delta.relocate(&Relocation { mask, ..*relocation }, underneath);
        }
    }

    /// The next checkpoint writes this node anew, if it exists then, although nothing in it may have changed: how a
    /// segment that holds few live nodes is emptied. Costs an entry in a set until then.
    pub fn rewrite(&self, level: u8, index: u64) {
        self.shared.state.write().rewrites.insert((level, index));
    }

    /// Whether the durable tree refers to this node record; `None`: an inner node above must be loaded to know, the one
    /// that [`Map::above`] names.
    pub fn holds(&self, load: &NodeLoad) -> Option<bool> {
        match self.shared.state.read().base.locate(load.level, load.index) {
            Located::Absent(_) => Some(false),
            Located::At(record) => Some(record == load.record),
            Located::Load(_) => None,
        }
    }

    /// The inner node to load before [`Map::holds`] can answer; `None` if it can.
    pub fn above(&self, load: &NodeLoad) -> Option<NodeLoad> {
        match self.shared.state.read().base.locate(load.level, load.index) {
            Located::Load(above) => Some(above),
            _ => None,
        }
    }

    /// The records that the blocks `want` of an extent resolve to; only pieces that hold one of them.
    pub fn lookup(&self, extent: u64, want: u8) -> Lookup {
        let (leaf, at) = (extent >> FAN_BITS, slot(extent));
        let mut pieces = SmallVec::new();
        let mut open = 0xff;
        let (record, moves) = {
            let state = self.shared.state.read();
            let moves = state.resolve(leaf, at, want, &mut open, &mut pieces);
            if open & want == 0 {
                return Lookup::Pieces(pieces);
            }
            match state.base.locate(0, leaf) {
                Located::Absent(_) => return Lookup::Pieces(pieces),
                Located::Load(load) => return Lookup::Load(load),
                Located::At(record) => (record, moves),
            }
        };
        let found = self.shared.leaves.with(leaf, &record, |node| {
            for p in node.at(at) {
                if p.visible & open & want != 0 {
                    let piece = Piece { visible: p.visible & open, ..node.piece(p) };
                    through(&moves.frozen, piece, |p| through(&moves.delta, p, |p| show(&mut pieces, want, p)));
                }
            }
        });
        match found {
            Some(()) => Lookup::Pieces(pieces),
            None => Lookup::Load(NodeLoad { level: 0, index: leaf, record }),
        }
    }

    /// Takes the plaintext of a node that [`Lookup::Load`], [`Step::Load`] or [`Map::loads_for`] asked for. Ignored if
    /// it is no longer wanted.
    ///
    /// A leaf may be evicted again at once when the cache is under pressure: keep what a lookup answered.
    ///
    /// # Errors
    /// [`MapError::Node`]: the bytes are not a node.
    pub fn loaded(&self, load: &NodeLoad, plaintext: &[u8]) -> Result<(), MapError> {
        let malformed = |source| MapError::Node { level: load.level, index: load.index, source };
        if load.level == 0 {
            let leaf = codec::decode_leaf(plaintext).map_err(malformed)?;
            if self.shared.state.read().base.locate(0, load.index) == Located::At(load.record) {
                self.shared.leaves.insert(load.index, load.record, leaf);
            }
        } else {
            let inner = codec::decode_inner(load.level, plaintext).map_err(malformed)?;
            self.shared.state.write().base.loaded(load, inner);
        }
        Ok(())
    }

    /// The root of the durable tree as of the last committed checkpoint; `None` while it is empty.
    pub fn root(&self) -> Option<RootRef> {
        self.shared.state.read().base.root()
    }

    /// Bytes of memory that changes take which no committed checkpoint holds; 0 exactly if there are none.
    pub fn dirty_bytes(&self) -> usize {
        self.shared.state.read().dirty_bytes()
    }

    /// What is in memory.
    pub fn memory(&self) -> MapMemory {
        let state = self.shared.state.read();
        MapMemory {
            leaf_bytes: self.shared.leaves.bytes(),
            dirty_bytes: state.dirty_bytes(),
            inner_bytes: state.base.bytes(),
        }
    }

    /// Freezes the changes so far for a checkpoint; applies and lookups go on meanwhile.
    ///
    /// # Panics
    /// While another checkpoint of this map exists.
    pub fn begin_checkpoint(&self) -> Checkpoint {
        Checkpoint::begin(self.shared.clone())
    }
}

impl State {
    fn dirty_bytes(&self) -> usize {
        self.delta.bytes() + self.frozen.as_ref().map_or(0, |f| f.bytes())
    }

    /// Whether a layer below the delta may hold something in a range of leaves.
    fn underneath(&self, leaves: &std::ops::Range<u64>) -> bool {
        // What a frozen layer holds is not looked at: a needless mark costs little, a missing one loses a trim.
        !leaves.is_empty() && (self.frozen.is_some() || self.base.may_hold(leaves))
    }

    fn erase(&mut self, leaf: u64, blocks: std::ops::Range<u32>) -> Removed {
        let underneath = self.underneath(&(leaf..leaf + 1));
        self.delta.erase(leaf, blocks, underneath)
    }

    /// The upper layers' answer; `open` keeps the blocks that are left to the base.
    fn resolve(&self, leaf: u64, at: u16, want: u8, open: &mut u8, pieces: &mut SmallVec<[Piece; 2]>) -> Above {
        let delta = self.delta.resolve(leaf, at, open, |p| show(pieces, want, p));
        let mut above = Above { delta, frozen: Vec::new() };
        if *open & want != 0
            && let Some(frozen) = &self.frozen
        {
            if leaf >= self.adopted {
                let found = |p| through(&above.delta, p, |p| show(pieces, want, p));
                above.frozen = frozen.resolve(leaf, at, open, found);
            } else if frozen.cuts().holds(leaf) {
                *open = 0;
            }
        }
        above
    }
}

/// What moves between the base and the reader.
struct Above {
    delta: Vec<Move>,
    /// Applied first.
    frozen: Vec<Move>,
}

/// Adds a piece to an answer, if somebody wants it: one piece for each record, wherever its blocks were found.
fn show(pieces: &mut SmallVec<[Piece; 2]>, want: u8, p: Piece) {
    if p.visible & want == 0 {
        return;
    }
    match pieces.iter_mut().find(|known| (known.record, known.original) == (p.record, p.original)) {
        Some(known) => known.visible |= p.visible,
        None => pieces.push(p),
    }
}
