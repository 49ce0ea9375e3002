//! What compaction remembers: what has moved and waits for a checkpoint, what cannot be moved, what it has done.

use std::collections::{HashMap, HashSet};

use super::engine::Engine;
use super::merge::Merged;
use crate::map::{NodeLoad, Usage};
use crate::segment::{Compression, SegmentId};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// So many times what is written to the volume compaction may write to have less garbage than it must. Uniform overwrites need
/// more than that at the usual target, so nothing is spent on them beyond it; skewed ones much less.
const AHEAD: u64 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    state: Mutex<State>,
    /// One merge at a time.
    pub turn: tokio::sync::Mutex<()>,
    trimmed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Segments that were emptied, and how many checkpoints had begun by then.
    moved: HashMap<SegmentId, u64>,
    /// Checkpoints that have begun.
    begun: u64,
    /// The newest of them that is committed.
    committed: u64,
    /// Damaged segments.
    left_alone: HashSet<SegmentId>,
    /// Nodes of the free list that cannot be read.
    unreadable: HashSet<NodeLoad>,
    /// What may be written ahead of need (bytes); below zero what was written for other reasons.
    allowance: i64,
    done: Done,
}

/// What was done since the volume was attached.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Done {
    /// Stored bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Segments emptied.
    pub segments: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Their bytes, as far as known.
    pub deleted_bytes: u64,
}

impl Compaction {
    /// A checkpoint begins: its number, from 1.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.begun += 1;
        state.begun
    }

    /// Segments were emptied, and the map shows it: the next checkpoint that begins has it.
    pub(super) fn moved(&self, segments: &[SegmentId], merged: &Merged) {
        let mut state = self.state.lock();
        let begun = state.begun;
        state.moved.extend(segments.iter().map(|id| (*id, begun)));
        state.allowance = state.allowance.saturating_sub_unsigned(merged.written);
        state.done.read += merged.read;
        state.done.written += merged.written;
        state.done.segments += segments.len() as u64;
    }

    /// So many bytes were written to the volume: that allows a multiple of it, up to `most`.
    pub(super) fn wrote(&self, bytes: u64, most: u64) {
        let most = most as i64;
        let mut state = self.state.lock();
        let more = state.allowance.saturating_add_unsigned(bytes.saturating_mul(AHEAD));
        state.allowance = more.clamp(-most, most);
    }

    /// Whether compaction has written so little lately that it may do more than it must.
    pub(super) fn may_go_ahead(&self) -> bool {
        self.state.lock().allowance > 0
    }

    /// The checkpoint with this number is committed: its accounts say what is left of what moved before it began. Segments
    /// that could not be emptied are left alone from then on, if it is not the free list that holds them.
    pub(super) fn checkpointed(&self, number: u64, usage: &Usage) {
        let mut state = self.state.lock();
        state.committed = number;
        let covered: Vec<SegmentId> =
            state.moved.iter().filter(|(_, begun)| **begun < number).map(|(id, _)| *id).collect();
        for id in covered {
            let alive = usage.segments.get(&id).is_some_and(|s| !s.is_dead());
            if alive && !usage.dropped.is_empty() {
                continue;
            }
            state.moved.remove(&id);
            if alive {
                state.left_alone.insert(id);
            }
        }
    }

    /// The checkpoint with this number is committed without accounts: nothing that moved is known to be free.
    pub(super) fn abandoned(&self, number: u64) {
        let mut state = self.state.lock();
        state.committed = number;
        state.moved.clear();
    }

    /// A node of the free list cannot be read: what it held stays accounted for.
    pub(super) fn pass_by(&self, load: NodeLoad) {
        self.state.lock().unreadable.insert(load);
    }

    /// Whether a node of the free list can be read, as far as is known.
    pub(super) fn is_readable(&self, load: &NodeLoad) -> bool {
        !self.state.lock().unreadable.contains(load)
    }

    /// A segment cannot be read: it is not chosen again.
    pub(super) fn leave_alone(&self, id: SegmentId) {
        self.state.lock().left_alone.insert(id);
    }

    /// Segments that are not to be chosen.
    pub(super) fn passed_over(&self) -> HashSet<SegmentId> {
        let state = self.state.lock();
        state.moved.keys().chain(&state.left_alone).copied().collect()
    }

    /// The emptied segments that wait for a checkpoint.
    pub(super) fn waiting_segments(&self) -> Vec<SegmentId> {
        let state = self.state.lock();
        state.moved.iter().filter(|(_, begun)| **begun >= state.committed).map(|(id, _)| *id).collect()
    }

    /// How many emptied segments wait for a checkpoint.
    pub(super) fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.moved.values().filter(|begun| **begun >= state.committed).count()
    }

    /// Blocks were trimmed.
    pub(super) fn trimmed(&self, blocks: u64) {
        self.trimmed.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Blocks trimmed since this was asked last.
    pub(super) fn take_trimmed(&self) -> u64 {
        self.trimmed.swap(0, Ordering::Relaxed)
    }

    /// Blocks trimmed since that was asked last.
    pub(super) fn trimmed_blocks(&self) -> u64 {
        self.trimmed.load(Ordering::Relaxed)
    }

    /// Objects were deleted.
    pub(super) fn count_deleted(&self, objects: u64, bytes: u64) {
        let mut state = self.state.lock();
        state.done.deleted += objects;
        state.done.deleted_bytes += bytes;
    }

    /// What was done so far.
    pub(super) fn done(&self) -> Done {
        self.state.lock().done
    }

    /// How copies are compressed.
    pub(super) fn compression(&self, engine: &Engine) -> Compression {
        engine.tuning.compact.compression.unwrap_or(engine.compression)
    }
}
