//! What is on its way to the bucket: cut, in flight, durable in order, published.
//!
//! Segments are cut in operation order and PUT side by side. They count as durable only as a contiguous prefix: a
//! flush completes when that prefix covers its operations, so flushes complete in order (docs/semantics.md, promises
//! 1 and 2).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::channel::oneshot;

use super::merge::Moves;
use crate::cache::RecordKey;
use crate::journal::Record;
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{CheckpointRef, SegmentId, SegmentIndex};

/// A segment whose object is in the bucket.
pub(super) struct Landed {
    /// Its place in the log.
    pub seq: u64,
    /// Highest operation number up to and including this segment.
    pub through_op: u64,
    /// The operations it carries.
    pub records: Vec<Record>,
    /// What it says.
    pub index: SegmentIndex,
    /// Its plaintext, for the cache.
    pub pieces: Vec<(RecordKey, Bytes)>,
    /// What it moves: see [`super::merge`].
    pub moves: Option<Moves>,
    /// Bytes of data in the operations.
    pub bytes: u64,
    /// Whether a flush asked for it.
    pub for_flush: bool,
}

/// Someone who waits until an operation is durable.
pub(super) type Waiter = oneshot::Sender<BlockResult<()>>;

/// See the module. Lives under one short lock.
pub(super) struct Pipeline {
    /// Highest operation number that some segment carries.
    pub cut_op: u64,
    /// The next segment's place in the log.
    pub next_seq: u64,
    /// Salt of the segment cut last.
    pub last_salt: [u8; 16],
    /// When the cutter first saw operations that no segment carries.
    pub uncut_since: Option<Duration>,
    /// Highest operation number that a flush waits for.
    pub flush_goal: u64,
    /// Segments being built or PUT.
    pub in_flight: usize,
    /// Those of them that a flush asked for.
    pub flushes_in_flight: usize,
    /// Bytes of data in segments that are not durable in order yet.
    pub bytes_in_flight: u64,
    /// The newest durable checkpoint: every segment names it.
    pub checkpoint: CheckpointRef,
    /// A segment must be cut to name the checkpoint, although there may be no writes.
    pub name_checkpoint: bool,
    /// The last seq that names [`Self::checkpoint`] or a later one, once cut.
    pub checkpoint_named_by: Option<u64>,
    /// What [`Self::checkpoint`] leaves to be deleted: the segment that names it first lists it, as far as it has room, and
    /// those after it the rest.
    pub deletable: VecDeque<SegmentId>,
    /// Blocks that moved, in this order.
    moves: VecDeque<Moves>,
    /// Since when something waits for a segment although nobody else needs one: moves, or a checkpoint that is to be named.
    idle_since: Option<Duration>,
    /// Durable as a contiguous prefix: the next seq that is not.
    pub durable_seq: u64,
    /// Durable as a contiguous prefix: the highest operation number.
    pub durable_op: u64,
    /// When each segment that is not durable in order was cut.
    cut_times: VecDeque<(u64, Duration)>,
    /// Durable, but something before it is not yet.
    ahead: BTreeMap<u64, Landed>,
    /// Durable in order, to be published to the map.
    pub to_publish: VecDeque<Landed>,
    /// The last published segment and operation.
    pub published_seq: u64,
    /// The highest operation number that the map shows.
    pub published_op: u64,
    /// When an operation was published last.
    pub published_at: Duration,
    waiters: BTreeMap<u64, Vec<Waiter>>,
    /// Nothing more is cut: the log is about to be sealed.
    pub closed: bool,
}

impl Pipeline {
    /// The state of an epoch that begins after `last_op`, whose opening (seq 0) has salt `salt`.
    pub(super) fn new(last_op: u64, salt: [u8; 16], checkpoint: CheckpointRef) -> Self {
        Self {
            cut_op: last_op,
            next_seq: 1,
            last_salt: salt,
            uncut_since: None,
            flush_goal: last_op,
            in_flight: 0,
            flushes_in_flight: 0,
            bytes_in_flight: 0,
            checkpoint,
            name_checkpoint: false,
            checkpoint_named_by: None,
            deletable: VecDeque::new(),
            moves: VecDeque::new(),
            idle_since: None,
            durable_seq: 1,
            durable_op: last_op,
            cut_times: VecDeque::new(),
            ahead: BTreeMap::new(),
            to_publish: VecDeque::new(),
            published_seq: 0,
            published_op: last_op,
            published_at: Duration::ZERO,
            waiters: BTreeMap::new(),
            closed: false,
        }
    }

    /// Registers someone who waits until `op` is durable.
    pub(super) fn wait_for(&mut self, op: u64, waiter: Waiter) {
        self.flush_goal = self.flush_goal.max(op);
        self.waiters.entry(op).or_default().push(waiter);
    }

    /// Segment `seq` was cut. What waited to ride on one rides on it, or waits anew.
    pub(super) fn was_cut(&mut self, seq: u64, now: Duration) {
        self.cut_times.push_back((seq, now));
        self.idle_since = None;
    }

    /// When the oldest segment that is not durable yet was cut.
    pub(super) fn oldest_cut(&self) -> Option<Duration> {
        self.cut_times.front().map(|(_, at)| *at)
    }

    /// Log segments that the map shows and no durable checkpoint contains; `replayed` of them before this epoch if none of
    /// its checkpoints is durable yet.
    pub(super) fn since_checkpoint(&self, epoch: u32, replayed: u64) -> u64 {
        match self.checkpoint.covers_epoch == epoch {
            true => self.published_seq - self.checkpoint.covers_seq,
            false => self.published_seq + replayed,
        }
    }

    /// Segments cut and not durable in order.
    pub(super) fn undurable(&self) -> u64 {
        self.next_seq - self.durable_seq
    }

    /// A segment's object is in the bucket. Moves the durable prefix on; answers who need wait no longer.
    pub(super) fn landed(&mut self, segment: Landed) -> Vec<Waiter> {
        assert!(segment.seq >= self.durable_seq, "segment {} landed twice", segment.seq);
        self.in_flight -= 1;
        self.flushes_in_flight -= usize::from(segment.for_flush);
        if segment.seq > self.durable_seq {
            reached(Branch::LandedAhead);
            if planted(Mutant::FlushesOutOfOrder) {
                let through_op = segment.through_op;
                self.ahead.insert(segment.seq, segment);
                let later = self.waiters.split_off(&(through_op + 1));
                return std::mem::replace(&mut self.waiters, later).into_values().flatten().collect();
            }
        }
        self.ahead.insert(segment.seq, segment);
        while let Some(next) = self.ahead.remove(&self.durable_seq) {
            assert!(next.through_op >= self.durable_op, "operation numbers only grow along the log");
            self.durable_op = next.through_op;
            self.durable_seq += 1;
            self.bytes_in_flight -= next.bytes;
            self.to_publish.push_back(next);
        }
        while self.cut_times.pop_front_if(|(seq, _)| *seq < self.durable_seq).is_some() {}
        let later = self.waiters.split_off(&(self.durable_op + 1));
        std::mem::replace(&mut self.waiters, later).into_values().flatten().collect()
    }

    /// Blocks have moved: a segment is to say so.
    pub(super) fn push_moves(&mut self, moves: Moves) {
        self.moves.push_back(moves);
    }

    /// What the next segment says has moved: one part, and more where they are small.
    pub(super) fn take_moves(&mut self) -> Option<Moves> {
        let mut taken = self.moves.pop_front()?;
        while self.moves.front().is_some_and(|next| taken.has_room_for(next)) {
            self.moves.pop_front().into_iter().for_each(|next| taken.append(next));
        }
        Some(taken)
    }

    /// Whether something waits for a segment that nobody else needs: how long it has, as of `now`.
    pub(super) fn idle_wait(&mut self, now: Duration, closing: bool) -> Option<Duration> {
        if !self.name_checkpoint && (self.moves.is_empty() || closing) {
            self.idle_since = None;
            return None;
        }
        Some(now.saturating_sub(*self.idle_since.get_or_insert(now)))
    }

    /// Nothing moves any more.
    pub(super) fn forget_moves(&mut self) {
        self.moves.clear();
    }

    /// Nobody shows what was moved any more: whoever waits for that learns it.
    pub(super) fn drop_moves(&mut self) {
        self.moves.clear();
        self.ahead.values_mut().chain(&mut self.to_publish).for_each(|landed| landed.moves = None);
    }

    /// Everybody who waits, to be told of a failure.
    pub(super) fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters).into_values().flatten().collect()
    }

    /// Whether anybody waits for durability.
    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }
}

/// Tells all of `waiters` the outcome.
pub(super) fn tell(waiters: Vec<Waiter>, outcome: &Result<(), BlockError>) {
    for waiter in waiters {
        // Whoever waited may have given up.
        drop(waiter.send(outcome.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_checkpoint() -> CheckpointRef {
        CheckpointRef { root: None, covers_epoch: 1, covers_seq: 0, last_op: 0, usage: None }
    }

    fn empty_index() -> SegmentIndex {
        SegmentIndex {
            bytes: 0,
            salt: [0; 16],
            ops: crate::segment::OpRange::NONE,
            predecessor_salt: [0; 16],
            checkpoint: None,
            deletable: Vec::new(),
            introduced: Vec::new(),
            relocations: Vec::new(),
            trims: Vec::new(),
            records: Vec::new(),
            nodes: Vec::new(),
        }
    }

    fn landed(seq: u64, through_op: u64) -> Landed {
        Landed {
            seq,
            through_op,
            records: Vec::new(),
            index: empty_index(),
            pieces: Vec::new(),
            moves: None,
            bytes: 0,
            for_flush: true,
        }
    }

    #[test]
    fn flushes_complete_in_order_only() {
        let mut p = Pipeline::new(0, [0; 16], no_checkpoint());
        let mut asked = Vec::new();
        for op in [1, 2, 2, 5] {
            let (tx, rx) = oneshot::channel();
            p.wait_for(op, tx);
            asked.push(rx);
        }
        (p.in_flight, p.flushes_in_flight, p.next_seq) = (3, 3, 4);
        assert!(p.landed(landed(3, 5)).is_empty(), "a gap before it");
        assert!(p.landed(landed(2, 4)).is_empty());
        assert_eq!(p.durable_op, 0);
        assert_eq!(p.landed(landed(1, 1)).len(), 4);
        assert_eq!((p.durable_op, p.durable_seq, p.in_flight), (5, 4, 0));
        assert_eq!(p.to_publish.iter().map(|l| l.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
