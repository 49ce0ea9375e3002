//! What a log says: its end, its newest checkpoint, and the map after it.

use bytes::Bytes;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::future::try_join_all;
use futures::stream;

use super::error::AttachError;
use super::locate::{self, Found, LogEntry};
use super::publish::apply;
use crate::map::Map;
use crate::pool::{Pool, VolumeRecord};
use crate::segment::{
    CheckpointRef, IndexRead, LogObject, Opening, ReplayRange, Seal, SegmentId, SegmentIndex, log_object_kind,
    read_index, tail_range,
};
use crate::store::{Cause, Patience};

/// GETs of indexes side by side.
const PARALLEL: usize = 256;
/// Objects near the end that may be the seal although others stand behind it: at most what one writer had in flight.
const NEAR_END: usize = 64;
const _: () = assert!(NEAR_END as u64 > super::cutter::MAX_UNDURABLE);
/// A seal is smaller than this (bytes).
const SEAL_MAX: u64 = 1024;

/// Reads logs of one volume.
pub(super) struct LogReader<'a> {
    pub pool: &'a Pool,
    pub volume: &'a VolumeRecord,
    pub patience: Patience,
}

/// The newest epoch's log as far as LIST and a few GETs tell.
pub(super) struct Log {
    pub opening: Opening,
    /// Its segments, at consecutive seqs, from the last LISTed page or the beginning.
    pub segments: Vec<LogEntry>,
    /// The seal that ends it, if there is one.
    pub seal: Option<Seal>,
    /// The index of the last segment.
    pub last: Option<SegmentIndex>,
}

impl Log {
    /// The first seq that carries no segment: where the seal stands, or must be put.
    pub(super) fn end(&self) -> u64 {
        self.segments.last().map_or(1, |e| e.seq + 1)
    }

    /// Where recovery starts, and what is to be applied after it.
    pub(super) fn plan(&self) -> (CheckpointRef, Vec<ReplayRange>) {
        let epoch = self.opening.epoch;
        let newest = self.last.as_ref().and_then(|i| i.checkpoint).unwrap_or(self.opening.start);
        let (mut ranges, first_seq) = match newest.covers_epoch == epoch {
            true => (Vec::new(), newest.covers_seq + 1),
            false => (self.opening.replay.clone(), 1),
        };
        if first_seq < self.end() {
            ranges.push(ReplayRange { epoch, first_seq, end_seq: self.end() });
        }
        (newest, ranges)
    }
}

impl LogReader<'_> {
    fn err(&self, key: String, why: impl Into<String>) -> AttachError {
        AttachError::Log { volume: self.volume.name.clone(), key, why: why.into() }
    }

    /// The opening of an epoch.
    pub(super) async fn opening(&self, epoch: u32) -> Result<Opening, AttachError> {
        let number = self.volume.number;
        let key = SegmentId::log(number, epoch, 0).key();
        let bytes = self.pool.store().get(&key, Cause::Recovery, self.patience).await?;
        Ok(Opening::open(self.pool.keys(), number, epoch, &bytes)?)
    }

    /// Opening, last segment and seal of the newest epoch, in one round trip.
    pub(super) async fn read(&self, found: &Found) -> Result<Log, AttachError> {
        let run = &found.entries[..locate::contiguous(&found.entries)];
        let run = if found.entries.first().is_some_and(|e| e.seq == 1 || run.len() > NEAR_END) { run } else { &[] };
        let near_end = run.len().saturating_sub(NEAR_END);
        let candidates = run[near_end..].iter().filter(|e| e.size <= SEAL_MAX || Some(*e) == run.last());
        let fetched = try_join_all(candidates.map(|e| async { Ok((*e, self.tail(found.epoch, *e).await?)) }));
        let (opening, fetched) = futures::try_join!(self.opening(found.epoch), fetched)?;

        let mut segments = run.to_vec();
        let mut seal = None;
        for (entry, bytes) in &fetched {
            if entry.size <= SEAL_MAX && log_object_kind(bytes) == LogObject::Seal {
                let keys = self.pool.keys();
                seal = Some(Seal::open(keys, self.volume.number, found.epoch, entry.seq, bytes)?);
                segments.retain(|e| e.seq < entry.seq);
                break;
            }
        }
        let last = match segments.last() {
            Some(entry) => match fetched.iter().find(|(e, _)| e == entry) {
                Some((e, bytes)) => Some(self.index_from(found.epoch, *e, bytes.clone()).await?),
                None => Some(self.index(found.epoch, *entry).await?),
            },
            None => None,
        };
        Ok(Log { opening, segments, seal, last })
    }

    async fn tail(&self, epoch: u32, entry: LogEntry) -> Result<Bytes, AttachError> {
        let key = SegmentId::log(self.volume.number, epoch, entry.seq).key();
        Ok(self.pool.store().get_range(&key, tail_range(entry.size), Cause::Recovery, self.patience).await?)
    }

    async fn index(&self, epoch: u32, entry: LogEntry) -> Result<SegmentIndex, AttachError> {
        let tail = self.tail(epoch, entry).await?;
        self.index_from(epoch, entry, tail).await
    }

    async fn index_from(&self, epoch: u32, entry: LogEntry, tail: Bytes) -> Result<SegmentIndex, AttachError> {
        let id = SegmentId::log(self.volume.number, epoch, entry.seq);
        match read_index(self.pool.keys(), id, entry.size, &tail)? {
            IndexRead::Index(index) => Ok(index),
            IndexRead::NeedTail(bytes) => {
                let range = entry.size.saturating_sub(bytes)..entry.size;
                let key = id.key();
                let tail = self.pool.store().get_range(&key, range, Cause::Recovery, self.patience).await?;
                match read_index(self.pool.keys(), id, entry.size, &tail)? {
                    IndexRead::Index(index) => Ok(index),
                    IndexRead::NeedTail(_) => Err(self.err(key, "its index is longer than it says")),
                }
            }
        }
    }

    /// The index of a segment whose whole object is at hand.
    pub(super) fn index_of(&self, id: SegmentId, bytes: &Bytes) -> Result<SegmentIndex, AttachError> {
        match read_index(self.pool.keys(), id, bytes.len() as u64, bytes)? {
            IndexRead::Index(index) => Ok(index),
            IndexRead::NeedTail(_) => Err(self.err(id.key(), "it is shorter than its index")),
        }
    }

    /// The indexes of all segments in `ranges`, in order. `known` spares LISTs for the newest epoch.
    pub(super) async fn indexes(
        &self,
        ranges: &[ReplayRange],
        known: (u32, &[LogEntry]),
    ) -> Result<Vec<SegmentIndex>, AttachError> {
        let listed = try_join_all(ranges.iter().map(|r| async move {
            let have = known.1.iter().filter(|e| (r.first_seq..r.end_seq).contains(&e.seq)).copied();
            let mut entries: Vec<LogEntry> = if r.epoch == known.0 { have.collect() } else { Vec::new() };
            if entries.len() as u64 != r.end_seq - r.first_seq {
                let store = self.pool.store();
                let (after, end) = (r.first_seq - 1, Some(r.end_seq));
                entries = locate::range(store, self.volume.number, r.epoch, after, end, self.patience).await?;
            }
            if entries.len() as u64 != r.end_seq - r.first_seq {
                let seqs = entries.iter().map(|e| e.seq).collect::<std::collections::BTreeSet<_>>();
                let gap = (r.first_seq..r.end_seq).find(|s| !seqs.contains(s)).unwrap_or(r.first_seq);
                let key = SegmentId::log(self.volume.number, r.epoch, gap).key();
                return Err(self.err(key, "a segment of the log is missing from the bucket"));
            }
            Ok(entries.into_iter().map(|e| (r.epoch, e)).collect::<Vec<_>>())
        }))
        .await?;
        stream::iter(listed.into_iter().flatten())
            .map(|(epoch, entry)| self.index(epoch, entry))
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    /// Applies `indexes` to `map`; they must continue at `last_op`. Answers the last operation number.
    pub(super) fn apply_all(
        &self,
        map: &Map,
        ranges: &[ReplayRange],
        indexes: &[SegmentIndex],
        mut last_op: u64,
    ) -> Result<u64, AttachError> {
        let names = ranges.iter().flat_map(|r| (r.first_seq..r.end_seq).map(|s| (r.epoch, s)));
        let mut before: Option<(u32, [u8; 16])> = None;
        for ((epoch, seq), index) in names.zip(indexes) {
            let key = || SegmentId::log(self.volume.number, epoch, seq).key();
            if before.is_some_and(|(e, salt)| e == epoch && salt != index.predecessor_salt) {
                return Err(self.err(key(), "it does not follow the segment before it: one of the two was replaced"));
            }
            if !index.ops.is_empty() {
                if index.ops.first != last_op + 1 {
                    let why = format!("it continues at operation {}, not {}", index.ops.first, last_op + 1);
                    return Err(self.err(key(), why));
                }
                last_op = index.ops.last;
            }
            before = Some((epoch, index.salt));
            apply(map, index);
        }
        Ok(last_op)
    }
}
