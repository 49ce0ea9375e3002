//! Where a log with holes ends.
//!
//! Segments that a checkpoint contains may be deleted once a segment that names it is durable in order; those after it
//! stay. So of the runs of consecutive segments the newest one counts that begins with the log or right behind what a
//! checkpoint named at its end contains: what is missing below was there once, and was allowed to go. A run that begins
//! otherwise lies beyond a gap: a writer had it on its way when it ended, and it was never acknowledged.
//!
//! A seal ends the log only right behind that run. Below it one may stand in a hole that deletion left: somebody who
//! wanted to seal the log stalled, and met the hole where the log's end had been. No opening names such a seal.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::try_join_all;

use super::error::AttachError;
use super::locate::{self, Found, LogEntry};
use super::replay::{Log, LogReader};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{LogObject, Seal, SegmentId, SegmentIndex, log_object_kind};
use crate::store::{Cause, StoreError};

/// One writer never has a segment on its way so far behind one that has not landed.
const NEAR_END: u64 = 64;
const _: () = assert!(NEAR_END > super::cutter::MAX_UNDURABLE);
/// A seal is smaller than this (bytes).
const SEAL_MAX: u64 = 1024;

/// The run that counts.
struct Run<'a> {
    segments: &'a [LogEntry],
    /// The index of its last segment.
    last: Option<SegmentIndex>,
    /// The first seq behind it.
    end: u64,
    /// What a segment behind it says to be contained in a checkpoint, and that segment.
    covered: Option<(u64, u64)>,
}

/// What is known of a log's objects near its end.
struct NearEnd<'a> {
    found: &'a Found,
    tails: BTreeMap<u64, Bytes>,
    seals: BTreeSet<u64>,
}

impl LogReader<'_> {
    /// Opening, last segment and seal of the newest epoch, in one round trip.
    pub(super) async fn read(&self, found: &Found) -> Result<Log, AttachError> {
        let (opening, near) = futures::try_join!(self.opening(found.epoch), self.near_end(found))?;
        let run = self.newest_run(&near).await?;
        self.check_gap(&near, &run).await?;
        if found.entries.last().is_some_and(|e| e.seq > run.end) {
            reached(Branch::ObjectsBeyondGap);
        }
        if run.segments.first().is_some_and(|e| e.seq > found.after + 1) {
            reached(Branch::LogWithHoles);
        }
        let seal = match near.seals.contains(&run.end) {
            true => Some(self.seal(&near, run.end)?),
            false => None,
        };
        Ok(Log { opening, segments: run.segments.to_vec(), seal, last: run.last })
    }

    async fn near_end<'a>(&self, found: &'a Found) -> Result<NearEnd<'a>, AttachError> {
        let tails = telling(&found.entries).into_iter().map(|e| async move {
            let tail = self.tail(found.epoch, e).await?;
            let seal = e.size <= SEAL_MAX && log_object_kind(&tail) == LogObject::Seal;
            Ok::<_, AttachError>((e.seq, tail, seal))
        });
        let tails = try_join_all(tails).await?;
        let seals = tails.iter().filter(|(.., seal)| *seal).map(|(seq, ..)| *seq).collect();
        Ok(NearEnd { found, tails: tails.into_iter().map(|(seq, tail, _)| (seq, tail)).collect(), seals })
    }

    async fn last_index(&self, near: &NearEnd<'_>, last: LogEntry) -> Result<SegmentIndex, AttachError> {
        match near.tails.get(&last.seq) {
            Some(tail) => self.index_from(near.found.epoch, last, tail.clone()).await,
            None => self.index(near.found.epoch, last).await,
        }
    }

    fn seal(&self, near: &NearEnd<'_>, seq: u64) -> Result<Seal, AttachError> {
        let bytes = near.tails.get(&seq).map_or(&[][..], |b| b);
        Ok(Seal::open(self.pool.keys(), self.volume.number, near.found.epoch, seq, bytes)?)
    }

    /// The run that the module's text speaks of; an empty one where the log has no segment.
    ///
    /// A run whose last segment cannot be read decides nothing, and is passed over for none before it: that would show an
    /// older volume, and nobody would know.
    async fn newest_run<'a>(&self, near: &NearEnd<'a>) -> Result<Run<'a>, AttachError> {
        let found = near.found;
        let newest = found.entries.last().map_or(0, |e| e.seq);
        let mut covered = None;
        for segments in locate::runs(&found.entries, |seq| near.seals.contains(&seq)).into_iter().rev() {
            let (Some(first), Some(last)) = (segments.first(), segments.last()) else { continue };
            // What is before the first one is not missing, as far as is known.
            let whole = first.seq == found.after + 1;
            if !whole && newest - last.seq > NEAR_END {
                continue;
            }
            let index = self.last_index(near, *last).await?;
            let covers = covers(&index, found.epoch);
            if whole || covers >= first.seq - 1 {
                return Ok(Run { segments, last: Some(index), end: last.seq + 1, covered });
            }
            covered = covered.max(Some((covers, last.seq)));
        }
        Ok(Run { segments: &[], last: None, end: found.after + 1, covered })
    }

    /// Refuses a log in which something shows that the gap behind `run` was none once: to go on from before it would show
    /// an older volume, and nobody would know.
    async fn check_gap(&self, near: &NearEnd<'_>, run: &Run<'_>) -> Result<(), AttachError> {
        let (found, gap) = (near.found, run.end);
        let key = |seq| SegmentId::log(self.volume.number, found.epoch, seq).key();
        let newest = found.entries.last().map_or(0, |e| e.seq);
        let sealed_behind = || near.seals.range(gap + 1..).find(|seq| self.seal(near, **seq).is_ok()).copied();
        let says = run.covered.filter(|(covers, _)| *covers >= gap).map(|(_, seq)| seq).or_else(sealed_behind);
        let proof = match says {
            Some(seq) => format!("{} says so", key(seq)),
            None if newest > gap + NEAR_END => format!("the log goes on up to {newest}"),
            // A later page of a log begins with what is there.
            None if run.segments.is_empty() && found.after > 0 => "what was listed before it goes on there".into(),
            None => return Ok(()),
        };
        let why = format!("it was in the log once ({proof}), and is missing from the bucket");
        if near.seals.contains(&gap) {
            return Err(self.missing(key(gap), why));
        }
        match self.pool.store().get_range(&key(gap), 0..1, Cause::Recovery, self.patience).await {
            Err(StoreError::NotFound { .. }) => Err(self.missing(key(gap), why)),
            Err(StoreError::Short { .. }) | Ok(_) => {
                Err(self.missing(key(gap), "it was not there a moment ago, and the log goes on behind it"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the seal at `seq` ends the log although objects may stand behind it. If not it is in a hole: the log goes on,
    /// and its writer will never meet the seal.
    pub(super) async fn ends_at(&self, epoch: u32, seq: u64) -> Result<bool, AttachError> {
        let (store, volume) = (self.pool.store(), self.volume.number);
        if planted(Mutant::SealInHoleCounts) {
            return Ok(true);
        }
        let behind = locate::range(store, volume, epoch, seq, None, self.patience).await?;
        if behind.last().is_some_and(|e| e.seq > seq + NEAR_END) {
            return Ok(false);
        }
        let found = Found { epoch, after: seq, entries: behind };
        let near = self.near_end(&found).await?;
        if near.seals.iter().any(|seq| self.seal(&near, *seq).is_ok()) {
            return Ok(false);
        }
        for run in locate::runs(&found.entries, |seq| near.seals.contains(&seq)) {
            let Some(last) = run.last() else { continue };
            if covers(&self.last_index(&near, *last).await?, epoch) >= seq {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The last seq of `epoch` that the checkpoint contains which a segment names.
fn covers(index: &SegmentIndex, epoch: u32) -> u64 {
    index.checkpoint.filter(|c| c.covers_epoch == epoch).map_or(0, |c| c.covers_seq)
}

/// The objects whose ends tell where the log ends: the last ones before a gap, what may be a seal, and what is before
/// that.
fn telling(entries: &[LogEntry]) -> Vec<LogEntry> {
    let newest = entries.last().map_or(0, |e| e.seq);
    let near = entries.partition_point(|e| e.seq + NEAR_END < newest);
    let ends = |at: usize| entries.get(at + 1).is_none_or(|next| next.seq != entries[at].seq + 1);
    let small = |at: usize| entries[at].size <= SEAL_MAX;
    let tells = |at: &usize| ends(*at) || small(*at) || (small(*at + 1) && ends(*at + 1));
    (near..entries.len()).filter(tells).map(|at| entries[at]).collect()
}
