//! The task that cuts segments from the journal, and the one that builds and PUTs each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use esker_block::BlockError;
use futures::FutureExt;
use tracing::{error, warn};

use super::coalesce::Coalesced;
use super::deleting;
use super::engine::Engine;
use super::merge::Moves;
use super::pipeline::{Landed, tell};
use crate::cache::key_of;
use crate::journal::{Part, Record, RecordKind, Stop};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{BLOCK, BuiltSegment, CheckpointRef, OpRange, SegmentBuilder, SegmentId, SegmentTail};
use crate::store::{Cause, Patience, Put};

/// Segments of flushes in flight at once; more flushes gather for the next one.
const FLUSHES_IN_FLIGHT: usize = 8;
/// Segments that may be cut and not durable in order: while one PUT is stuck the others do not run away from it. Recovery
/// relies on it (`replay::NEAR_END`).
pub(super) const MAX_UNDURABLE: u64 = 48;
/// What a trim counts as, in bytes: its record in the ring.
pub(super) const TRIM_BYTES: u64 = 64;
/// A segment of at most this many bytes is built where it is cut: a hop to a worker costs more.
const BUILD_INLINE: u64 = 128 << 10;
/// Moves, and a checkpoint that is to be named, wait so long for a segment that is cut for other reasons: a merge ends, and
/// deletions begin, although somebody writes now and then and never flushes.
const RIDE_WAIT: Duration = Duration::from_millis(250);
/// How often somebody who waits through an outage is looked after.
const OUTAGE_TICK: Duration = Duration::from_millis(250);

/// A segment that is cut but not yet built.
struct Cut {
    id: SegmentId,
    salt: [u8; 16],
    predecessor_salt: [u8; 16],
    first_op: u64,
    through_op: u64,
    records: Vec<Record>,
    bytes: u64,
    checkpoint: CheckpointRef,
    deletable: Vec<SegmentId>,
    moves: Option<Moves>,
    for_flush: bool,
}

/// What the cutter does next.
enum Next {
    Write(Box<Cut>),
    /// A record below the cut is still being copied in.
    Incomplete,
    Sleep(Option<Duration>),
    Stop,
}

/// Runs until the volume is closed or has failed.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut spins = 0u32;
    loop {
        let woken = engine.cutter_wake.notified();
        match next(&engine) {
            Next::Write(cut) => {
                spins = 0;
                engine.env.spawner.spawn(write_out(engine.clone(), *cut).boxed());
            }
            Next::Incomplete => {
                // A writer is between taking its number and finishing its copy: microseconds, unless descheduled.
                spins += 1;
                let pause = Duration::from_micros(if spins < 10 { 20 } else { 500 });
                engine.env.clock.sleep(pause).await;
            }
            Next::Sleep(None) => woken.await,
            Next::Sleep(Some(limit)) => {
                futures::future::select(std::pin::pin!(woken), engine.env.clock.sleep(limit)).await;
                engine.look_after_outage();
            }
            Next::Stop => return,
        }
    }
}

fn next(engine: &Engine) -> Next {
    if engine.failure().is_some() {
        return Next::Stop;
    }
    let now = engine.env.clock.now();
    let (last_op, uncut_bytes) = engine.wakes.look(engine);
    let mut log = engine.log.lock();
    if log.closed {
        return Next::Stop;
    }
    let uncut = last_op > log.cut_op;
    if uncut && log.uncut_since.is_none() {
        log.uncut_since = Some(now);
    }
    let blocked = log.undurable() >= MAX_UNDURABLE;
    let room = log.in_flight < engine.tuning.max_in_flight && !blocked;
    let age = log.uncut_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    let for_flush = uncut && log.flush_goal > log.cut_op && log.flushes_in_flight < FLUSHES_IN_FLIGHT && !blocked;
    let full = uncut && uncut_bytes >= engine.tuning.segment_bytes as u64 && room;
    let aged = uncut && age >= engine.tuning.max_unflushed_age && room;
    let squeezed = uncut && engine.space.contended() && log.in_flight == 0;
    // It rides on a segment that is cut anyway, if there is one soon.
    let idle = log.idle_wait(now, engine.closing.load(Ordering::Acquire)).filter(|_| !blocked);
    let alone = idle.is_some_and(|waited| !uncut || (room && waited >= RIDE_WAIT));
    let naming = log.name_checkpoint && alone;
    if blocked {
        reached(Branch::CutBlocked);
    }
    if !(for_flush || full || aged || squeezed || alone) {
        let waiting = log.has_waiters() || engine.space.contended();
        let tick = waiting.then_some(OUTAGE_TICK);
        let aged = (uncut && room).then(|| engine.tuning.max_unflushed_age.saturating_sub(age));
        let ride = idle.filter(|_| room).map(|waited| RIDE_WAIT.saturating_sub(waited));
        let nap = tick.into_iter().chain(aged).chain(ride).min();
        return Next::Sleep(nap.map(|nap| nap.max(Duration::from_millis(1))));
    }
    let from = log.cut_op + 1;
    drop(log);
    for (why, branch) in [
        (for_flush, Branch::CutForFlush),
        (full, Branch::CutFull),
        (aged, Branch::CutAged),
        (squeezed, Branch::CutSqueezed),
        (naming, Branch::CutToNameCheckpoint),
        (alone && !naming, Branch::CutToMove),
        (alone && uncut, Branch::CutWhatWaits),
    ] {
        if why {
            reached(branch);
        }
    }

    let mut records = Vec::new();
    let max = engine.tuning.segment_bytes;
    if uncut {
        let collected = engine.ring.collect(from, last_op, max, &mut records);
        if records.is_empty() {
            debug_assert_eq!(collected.stop, Stop::Incomplete);
            reached(Branch::CutWaitedForWriter);
            return Next::Incomplete;
        }
    }
    cut(engine, records, for_flush, now).map_or(Next::Stop, |cut| Next::Write(Box::new(cut)))
}

/// Takes `records` as the next segment of the log. `None`: the log was closed meanwhile.
fn cut(engine: &Engine, records: Vec<Record>, for_flush: bool, now: Duration) -> Option<Cut> {
    let salt = if planted(Mutant::SaltUsedAgain) { engine.writer } else { engine.env.random16() };
    let bytes = records.iter().map(data_bytes).sum();
    let mut log = engine.log.lock();
    if log.closed {
        assert!(records.is_empty(), "nothing is written to a closed volume");
        return None;
    }
    let first_op = log.cut_op + 1;
    if let (Some(first), Some(last)) = (records.first(), records.last()) {
        assert_eq!(first.op, first_op, "segments carry consecutive operations");
        assert_eq!(last.op - first.op + 1, records.len() as u64, "segments carry consecutive operations");
        log.cut_op = last.op;
    }
    engine.wakes.cut(bytes);
    log.uncut_since = (engine.ring.next_op() - 1 > log.cut_op).then_some(now);
    let seq = log.next_seq;
    log.next_seq += 1;
    log.was_cut(seq, now);
    log.in_flight += 1;
    log.bytes_in_flight += bytes;
    log.flushes_in_flight += usize::from(for_flush);
    let mut deletable = Vec::new();
    // A volume that is given back moves nothing any more, and lists no more than one segment holds: its log is about to end.
    let closing = engine.closing.load(Ordering::Acquire);
    if std::mem::take(&mut log.name_checkpoint) {
        log.checkpoint_named_by.get_or_insert(seq);
        let listed = log.deletable.len().min(deleting::LISTED);
        deletable = log.deletable.drain(..listed).collect();
        log.name_checkpoint = !log.deletable.is_empty() && !closing;
    }
    let moves = if closing { None } else { log.take_moves() };
    Some(Cut {
        id: SegmentId::log(engine.volume, engine.epoch, seq),
        salt,
        predecessor_salt: std::mem::replace(&mut log.last_salt, salt),
        first_op,
        through_op: log.cut_op,
        records,
        bytes,
        checkpoint: log.checkpoint,
        deletable,
        moves,
        for_flush,
    })
}

/// What a record counts for where bytes are bounded: its data, or [`TRIM_BYTES`].
pub(super) fn data_bytes(record: &Record) -> u64 {
    let blocks = match &record.kind {
        RecordKind::Trim { .. } => return TRIM_BYTES,
        RecordKind::Void => 0,
        RecordKind::Write { blocks, .. } => u64::from(*blocks),
        RecordKind::Batch(parts) => parts
            .iter()
            .map(|part| match part {
                Part::Write { blocks, .. } => u64::from(*blocks),
                Part::Trim { .. } => 0,
            })
            .sum(),
    };
    blocks * BLOCK as u64
}

/// Builds a segment, PUTs it until it is there, and reports it.
async fn write_out(engine: Arc<Engine>, cut: Cut) {
    let id = cut.id;
    let cause = if cut.for_flush { Cause::Flush } else { Cause::Stream };
    let (built, landed) = if cut.bytes <= BUILD_INLINE {
        build(&engine, cut)
    } else {
        let worker = engine.clone();
        match engine.env.heavy(move || build(&worker, cut)).await {
            Some(done) => done,
            None => return engine.fail(BlockError::Store("building a segment failed".into())),
        }
    };
    let key = id.key();
    if planted(Mutant::FlushBeforePut) {
        let waiters = engine.log.lock().take_waiters();
        tell(waiters, &Ok(()));
    }
    loop {
        // Frozen from here on: the same bytes, under this key only, until it is decided.
        match engine.store.put_new(&key, built.clone(), cause, Patience::Forever).await {
            Ok(Put::Created | Put::Ours) => return engine.segment_landed(landed),
            Ok(Put::Taken(_)) if planted(Mutant::TakenIsOurs) => return engine.segment_landed(landed),
            Ok(Put::Taken(_)) => {
                reached(Branch::Fenced);
                error!(%key, volume = engine.info.name, "another writer owns the volume: its object stands here");
                return engine.fail(BlockError::Fenced);
            }
            Err(e) => {
                warn!(%key, error = %e, "cannot write a segment; trying again");
                engine.note_error(format!("PUT {key}: {e}"));
                engine.env.clock.sleep(Duration::from_secs(1)).await;
            }
        }
        if engine.failure().is_some() {
            return;
        }
    }
}

/// The body of a segment, and what is to be published once it is in the bucket.
fn build(engine: &Engine, cut: Cut) -> (Bytes, Landed) {
    let mut builder = SegmentBuilder::new(engine.keys.clone(), cut.id, cut.salt, engine.compression);
    if let Some(moves) = &cut.moves {
        moves.introduced.iter().for_each(|i| builder.introduce(*i));
        moves.relocations.iter().for_each(|r| builder.add_relocation(*r));
    }
    let mut pieces = Vec::new();
    let copy = |at: u64, buf: &mut [u8]| engine.ring.read_at(at, buf);
    let trims = Coalesced::of(&cut.records).emit(copy, |extent, mask, plain| {
        let record = builder.add_extent(extent, mask, &plain);
        pieces.push((key_of(&record), Bytes::from(plain)));
    });
    for (lba, blocks) in trims {
        builder.add_trim(lba, blocks);
    }
    let tail = SegmentTail {
        ops: OpRange { first: cut.first_op, last: cut.through_op },
        predecessor_salt: cut.predecessor_salt,
        checkpoint: Some(cut.checkpoint),
        deletable: cut.deletable,
    };
    let BuiltSegment { bytes, index, .. } = builder.finish(tail);
    let landed = Landed {
        seq: cut.id.number(),
        through_op: cut.through_op,
        records: cut.records,
        index,
        pieces,
        moves: cut.moves,
        bytes: cut.bytes,
        for_flush: cut.for_flush,
    };
    (bytes, landed)
}

impl Engine {
    /// A segment is in the bucket: completes the flushes that its prefix covers, hands it to the publisher.
    fn segment_landed(&self, mut landed: Landed) {
        if planted(Mutant::FreedBeforePublished) {
            self.ring.free_through(landed.through_op);
        }
        let done = {
            let mut log = self.log.lock();
            if self.failure().is_some() {
                // Nobody publishes it any more, and the merge that waits for it must learn that.
                landed.moves = None;
            }
            let done = log.landed(landed);
            self.durable_op.store(log.durable_op, Ordering::Release);
            done
        };
        // A fenced writer stays fenced: nothing completes after the failure was seen.
        let outcome = self.failure().map_or(Ok(()), Err);
        tell(done, &outcome);
        if !planted(Mutant::PublisherNotWoken) {
            self.publisher_wake.notify_one();
        }
        self.cutter_wake.notify_one();
    }

    /// With `fail-after`: those who waited through too long an outage get an error. Their data stays and goes on being
    /// sent.
    fn look_after_outage(&self) {
        if let Some(error) = self.outage_error() {
            reached(Branch::OutageToldWaiters);
            let waiters = self.log.lock().take_waiters();
            tell(waiters, &Err(error));
            self.space.wake();
        }
    }
}
