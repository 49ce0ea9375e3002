//! What a log says: its newest checkpoint, and the map after it. Where it ends is found in `log_end`.

use bytes::Bytes;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::future::try_join_all;
use futures::stream;

use super::error::AttachError;
use super::locate::{self, LogEntry};
use super::publish::apply;
use crate::map::Map;
use crate::pool::{Pool, VolumeRecord};
use crate::probe::{Branch, reached};
use crate::segment::{
    CheckpointRef, IndexRead, Introduced, Opening, ReplayRange, Seal, SegmentId, SegmentIndex, read_index, tail_range,
};
use crate::store::{Cause, Patience};

/// GETs of indexes side by side.
const PARALLEL: usize = 256;

/// Reads logs of one volume.
pub(super) struct LogReader<'a> {
    pub pool: &'a Pool,
    pub volume: &'a VolumeRecord,
    pub patience: Patience,
}

/// The newest epoch's log as far as LIST and a few GETs tell.
pub(super) struct Log {
    pub opening: Opening,
    /// Its segments, at consecutive seqs: from the last hole that deletion left, or from the beginning of what LIST has
    /// shown.
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
            true => {
                reached(Branch::ReplayFromCheckpoint);
                (Vec::new(), newest.covers_seq + 1)
            }
            false => (self.opening.replay.clone(), 1),
        };
        if !ranges.is_empty() {
            reached(Branch::ReplayOldEpochs);
        }
        if first_seq < self.end() {
            ranges.push(ReplayRange { epoch, first_seq, end_seq: self.end() });
        }
        (newest, ranges)
    }
}

impl LogReader<'_> {
    pub(super) fn err(&self, key: String, why: impl Into<String>) -> AttachError {
        AttachError::Log { volume: self.volume.name.clone(), key, why: why.into(), moved: false }
    }

    /// The error for a segment that must be there, unless the log has gone on meanwhile.
    pub(super) fn missing(&self, key: String, why: impl Into<String>) -> AttachError {
        AttachError::Log { volume: self.volume.name.clone(), key, why: why.into(), moved: true }
    }

    /// The opening of an epoch.
    pub(super) async fn opening(&self, epoch: u32) -> Result<Opening, AttachError> {
        let number = self.volume.number;
        let key = SegmentId::log(number, epoch, 0).key();
        let bytes = self.pool.store().get(&key, Cause::Recovery, self.patience).await?;
        Ok(Opening::open(self.pool.keys(), number, epoch, &bytes)?)
    }

    pub(super) async fn tail(&self, epoch: u32, entry: LogEntry) -> Result<Bytes, AttachError> {
        let key = SegmentId::log(self.volume.number, epoch, entry.seq).key();
        Ok(self.pool.store().get_range(&key, tail_range(entry.size), Cause::Recovery, self.patience).await?)
    }

    pub(super) async fn index(&self, epoch: u32, entry: LogEntry) -> Result<SegmentIndex, AttachError> {
        let tail = self.tail(epoch, entry).await?;
        self.index_from(epoch, entry, tail).await
    }

    pub(super) async fn index_from(
        &self,
        epoch: u32,
        entry: LogEntry,
        tail: Bytes,
    ) -> Result<SegmentIndex, AttachError> {
        let id = SegmentId::log(self.volume.number, epoch, entry.seq);
        match read_index(self.pool.keys(), id, entry.size, &tail)? {
            IndexRead::Index(index) => Ok(index),
            IndexRead::NeedTail(bytes) => {
                reached(Branch::IndexLongerThanTail);
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
                return Err(self.missing(key, "a segment of the log is missing from the bucket"));
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

/// The segments in `ranges` with `indexes`, and those that they are the first to refer to: what the accounts of the
/// checkpoint before them cannot know. A segment without operations is as old as the operation before it.
pub(super) fn segments(
    volume: u32,
    ranges: &[ReplayRange],
    indexes: &[SegmentIndex],
    start_op: u64,
) -> Vec<Introduced> {
    let names = ranges.iter().flat_map(|r| (r.first_seq..r.end_seq).map(|s| SegmentId::log(volume, r.epoch, s)));
    let (mut all, mut born) = (Vec::with_capacity(indexes.len()), start_op);
    for (segment, index) in names.zip(indexes) {
        if !index.ops.is_empty() {
            born = index.ops.last;
        }
        all.extend(index.introduced.iter().copied());
        all.push(Introduced { segment, bytes: index.bytes, born });
    }
    all
}
