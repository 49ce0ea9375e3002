//! The log from its beginning: every segment's index, in order, each following the one before.

use std::cmp::Ordering;

use futures::{StreamExt, TryStreamExt, stream};

use super::ScrubError;
use super::epochs::MAX_GAPS;
use super::finding::Kind;
use super::report::State;
use super::segments::Expected;
use super::source::{Got, InLog};
use super::volume::{Chain, Pass};
use crate::map::{Map, MapOptions, leaf_of};
use crate::segment::{CheckpointRef, ReplayRange, Seal, SegmentId, SegmentIndex};
use crate::volume::apply;

/// Memory for clean leaves: each is looked at once.
const LEAF_CACHE: usize = 4 << 20;
/// Segments at the end of a log that are tried for the newest checkpoint.
const TRIED: u64 = 16;

impl Pass<'_> {
    /// Reads the logs of all epochs, and builds the map that attaching would build.
    pub(super) async fn read_log(&mut self) -> Result<(), ScrubError> {
        let logs = self.listing.log.iter();
        self.suspects.names.extend(logs.flat_map(|(epoch, objects)| {
            objects.keys().filter(|s| **s > 0).map(|s| SegmentId::log(self.volume.number, *epoch, *s))
        }));
        self.suspects.names.extend(self.listing.data.keys());
        self.start = self.newest_checkpoint().await?;
        self.read_accounts().await?;
        let options = MapOptions { size: self.size(), leaf_cache_bytes: LEAF_CACHE };
        let new = |root| Map::new(options, root).map_err(|e| e.to_string());
        self.replayed = new(None);
        match new(self.start.and_then(|c| c.root)) {
            Ok(map) => self.map = Some(map),
            Err(why) => {
                let key = self.start.and_then(|c| c.root).map_or(String::new(), |r| r.record.segment.key());
                self.find(Kind::InconsistentLog, &key, why).blocking(true);
            }
        }
        self.chain = Chain { op: Some(0), ..Chain::default() };
        let epochs: Vec<u32> = self.listing.log.keys().copied().collect();
        let total = self.listing.log.values().map(|o| o.len() as u64).sum();
        self.begin("log", total);
        let (mut done, mut expected) = (0, 1);
        for epoch in epochs {
            if epoch != expected {
                self.chain = Chain::default();
                self.replayed = Err(format!("epoch {expected} is missing"));
            }
            expected = epoch.saturating_add(1);
            self.begin_epoch(epoch);
            match self.finish(epoch) {
                Some(end) => {
                    self.read_segments(epoch, end.end_seq, &mut done).await?;
                    self.check_seal(epoch, end).await?;
                    self.check_end(epoch, end.salt);
                }
                None => self.read_segments(epoch, self.open_end(epoch), &mut done).await?,
            }
        }
        Ok(())
    }

    /// One past the last seq of an epoch that no opening ends.
    fn open_end(&self, epoch: u32) -> u64 {
        if epoch == self.newest() {
            return self.run_end + 1;
        }
        let objects = self.listing.log.get(&epoch);
        if self.accounts.exist() {
            return objects.and_then(|o| o.keys().next_back()).map_or(1, |last| last + 1);
        }
        objects.map_or(1, |o| (1..).take_while(|s| o.contains_key(s)).last().map_or(1, |s| s + 1))
    }

    /// The checkpoint that the newest log names last, or the one that its opening starts from.
    async fn newest_checkpoint(&self) -> Result<Option<CheckpointRef>, ScrubError> {
        let epoch = self.newest();
        for seq in (1..=self.run_end).rev().take(TRIED as usize) {
            let id = SegmentId::log(self.volume.number, epoch, seq);
            let Some(size) = self.sizes.get(&id) else { continue };
            if let Got::Good(InLog::Segment(index)) = self.source.tail(id, *size).await?
                && let Some(checkpoint) = index.checkpoint
            {
                return Ok(Some(checkpoint));
            }
        }
        Ok(self.openings.get(&epoch).map(|o| o.start))
    }

    /// Whether attaching reads this segment of the log.
    fn is_replayed(&self, epoch: u32, seq: u64) -> bool {
        let last = epoch == self.newest() && seq == self.run_end;
        last || self.start.is_none_or(|c| (epoch, seq) > (c.covers_epoch, c.covers_seq))
    }

    /// What an opening says of the log before it.
    fn begin_epoch(&mut self, epoch: u32) {
        let Some(opening) = self.openings.get(&epoch).cloned() else {
            self.replayed = Err(format!("the opening of epoch {epoch} cannot be read"));
            (self.chain.salt, self.chain.checkpoint) = (None, None);
            return;
        };
        let (key, newest) = (SegmentId::log(self.volume.number, epoch, 0).key(), epoch == self.newest());
        let hole = self.chain.hole;
        let follows = |op: u64| if hole { op <= opening.last_op } else { op == opening.last_op };
        if let Some(op) = self.chain.op.filter(|op| !follows(*op)) {
            let why = format!("it goes on after operation {}, the log before it ends at {op}", opening.last_op);
            self.find(Kind::InconsistentLog, &key, why).blocking(newest);
        }
        // A segment that landed while the log was being sealed may name a newer checkpoint.
        let covers = |c: &CheckpointRef| (c.covers_epoch, c.covers_seq);
        let newer = !hole && self.chain.checkpoint.is_some_and(|before| covers(&opening.start) > covers(&before));
        let replay: Vec<_> = opening.replay.iter().filter(|r| r.first_seq < r.end_seq).copied().collect();
        let expected = self.replay_before(epoch, opening.start);
        if newer || expected.as_ref().is_some_and(|r| *r != replay) {
            let said = |r: &[ReplayRange]| {
                let one = |r: &ReplayRange| format!("{}/{} to {}", r.epoch, r.first_seq, r.end_seq);
                r.iter().map(one).collect::<Vec<_>>().join(", ")
            };
            let why = format!(
                "it does not start from what the log before it says: from {}/{}, then [{}], not [{}]",
                opening.start.covers_epoch,
                opening.start.covers_seq,
                said(&replay),
                expected.map_or_else(|| "?".into(), |r| said(&r)),
            );
            self.find(Kind::InconsistentLog, &key, why).blocking(newest);
        }
        self.roots.extend(opening.start.root);
        self.chain = Chain {
            salt: Some(opening.writer),
            op: Some(opening.last_op),
            checkpoint: Some(opening.start),
            hole: false,
        };
    }

    /// What is to be applied to a checkpoint before `epoch`; `None` where some epoch's end is not known.
    fn replay_before(&self, epoch: u32, c: CheckpointRef) -> Option<Vec<ReplayRange>> {
        let range = |e: u32| {
            let first_seq = if e == c.covers_epoch { c.covers_seq + 1 } else { 1 };
            self.ends.get(&e).map(|end| ReplayRange { epoch: e, first_seq, end_seq: *end })
        };
        let all: Option<Vec<_>> = (c.covers_epoch.max(1)..epoch).map(range).collect();
        all.map(|all| all.into_iter().filter(|r| r.first_seq < r.end_seq).collect())
    }

    /// Reads the segments of an epoch up to `end` (not included).
    async fn read_segments(&mut self, epoch: u32, end: u64, done: &mut u64) -> Result<(), ScrubError> {
        let (seqs, left_out) = self.seqs(epoch, end);
        if left_out > 0 {
            self.replayed = Err(format!("of epoch {epoch} {left_out} and more segments are missing"));
        }
        let (source, volume) = (self.source, self.volume.number);
        let mut read = stream::iter(seqs.into_iter().map(|(seq, size)| async move {
            let id = SegmentId::log(volume, epoch, seq);
            let got = match size {
                Some(size) => source.tail(id, size).await?,
                None => Got::Missing,
            };
            Ok::<_, ScrubError>((id, size.unwrap_or(0), got))
        }))
        .buffered(source.parallel());
        let mut expected = 1;
        while let Some((id, size, got)) = read.try_next().await? {
            *done += 1;
            source.progress.at(*done);
            if id.number() != expected {
                self.hole();
            }
            expected = id.number() + 1;
            match got {
                Got::Good(InLog::Segment(index)) => self.follow(id, index),
                // Somebody who stalled before it put it there, and did not get the volume.
                Got::Good(InLog::Seal(_)) if self.may_be_gone(id) => {
                    self.stray_seals.insert(id);
                    self.hole();
                }
                Got::Missing if self.may_be_gone(id) => self.hole(),
                Got::Good(InLog::Seal(seal)) if self.ends_with(id, &seal) => {
                    expected = end;
                    break;
                }
                Got::Good(InLog::Seal(_)) => {
                    self.lost(id, Kind::ForeignObject, "a seal stands where the log goes on".into());
                }
                Got::Missing => {
                    // Under its name something may be that the LIST did not show yet.
                    if source.is_missing(&id.key()).await? {
                        self.lost(id, Kind::MissingObject, "the log goes on after it".into());
                    } else {
                        self.broken(id);
                    }
                }
                Got::Short => self.lost(id, Kind::TruncatedObject, "it was longer a moment ago".into()),
                Got::Bad(why, bytes) => {
                    let (kind, why) = self.suspects.judge(source, (id, size), Expected::Segment, (why, bytes)).await?;
                    self.lost(id, kind, why);
                }
            }
        }
        if expected != end {
            self.hole();
        }
        if left_out > 0
            && let Some((seq, _)) = self.seqs(epoch, end).0.iter().find(|(_, size)| size.is_none())
            && let Some(finding) =
                self.findings.of(Kind::MissingObject, &SegmentId::log(self.volume.number, epoch, *seq).key())
        {
            finding.why = format!("the log goes on after it; {left_out} more are missing than are listed here");
        }
        Ok(())
    }

    /// Below are segments that have been deleted.
    fn hole(&mut self) {
        self.chain.salt = None;
        self.chain.hole = true;
        if self.replayed.is_ok() {
            self.replayed = Err("segments of the log have been deleted".into());
        }
    }

    /// The seqs below `end` with their sizes; of those that are missing and must not be only the first ones, and how many
    /// more.
    fn seqs(&self, epoch: u32, end: u64) -> (Vec<(u64, Option<u64>)>, u64) {
        let empty = std::collections::BTreeMap::new();
        let objects = self.listing.log.get(&epoch).unwrap_or(&empty);
        let (mut seqs, mut expected, mut missing, mut left_out) = (Vec::new(), 1, 0, 0);
        let there = objects.range(1..end).map(|(s, size)| (*s, Some(*size)));
        for (seq, size) in there.chain([(end, None)]) {
            // What the accounts say to be needed all the same is told of with them.
            let covered =
                self.start.filter(|_| self.accounts.exist()).map_or(0, |c| match c.covers_epoch.cmp(&epoch) {
                    Ordering::Less => 0,
                    Ordering::Equal => c.covers_seq,
                    Ordering::Greater => u64::MAX,
                });
            expected = expected.max(covered.saturating_add(1)).min(seq);
            let gap = seq - expected;
            let told = gap.min(MAX_GAPS as u64 - missing);
            seqs.extend((expected..expected + told).map(|s| (s, None)));
            missing += told;
            left_out += gap - told;
            seqs.extend(size.map(|size| (seq, Some(size))));
            expected = seq + 1;
        }
        (seqs, left_out)
    }

    /// Whether the log of a running epoch ends with this seal.
    fn ends_with(&mut self, id: SegmentId, seal: &Seal) -> bool {
        let open = self.finish(id.epoch()).is_none();
        if open && id.epoch() == self.newest() {
            self.report.state = State::Sealed;
            if self.chain.salt.is_some_and(|salt| salt != seal.predecessor_salt) {
                let why = "it does not follow the segment before it";
                self.find(Kind::InconsistentLog, &id.key(), why);
            }
        }
        open
    }

    /// A segment that is as it was written: does it follow?
    fn follow(&mut self, id: SegmentId, index: SegmentIndex) {
        let (key, blocks) = (id.key(), self.is_replayed(id.epoch(), id.number()));
        if self.chain.salt.is_some_and(|salt| salt != index.predecessor_salt) {
            let why = "it does not follow the segment before it: one of the two was replaced";
            self.find(Kind::InconsistentLog, &key, why).blocking(blocks);
        }
        self.chain.salt = Some(index.salt);
        if !index.ops.is_empty() {
            let hole = std::mem::take(&mut self.chain.hole);
            let follows = |op: u64| if hole { op < index.ops.first } else { op + 1 == index.ops.first };
            if let Some(op) = self.chain.op.filter(|op| !follows(*op)) {
                let why = format!("it continues at operation {}, not {}", index.ops.first, op + 1);
                self.find(Kind::InconsistentLog, &key, why).blocking(blocks);
            }
            self.chain.op = Some(index.ops.last);
        }
        if let Some(c) = index.checkpoint {
            let covers = |c: &CheckpointRef| (c.covers_epoch, c.covers_seq, c.last_op);
            let older = self.chain.checkpoint.is_some_and(|before| covers(&c) < covers(&before));
            if older || (c.covers_epoch, c.covers_seq) >= (id.epoch(), id.number()) {
                let why = format!("it names a checkpoint of {}/{}", c.covers_epoch, c.covers_seq);
                self.find(Kind::InconsistentLog, &key, why).blocking(blocks);
            }
            self.chain.checkpoint = Some(c);
            self.roots.extend(c.root);
        }
        self.replay(id, &index);
    }

    /// Applies a segment to the map from the checkpoint, if attaching would, and to the one from the beginning.
    fn replay(&mut self, id: SegmentId, index: &SegmentIndex) {
        self.leaves.extend(index.records.iter().map(|d| leaf_of(d.extent)));
        let after = self.start.is_none_or(|c| (id.epoch(), id.number()) > (c.covers_epoch, c.covers_seq));
        if after {
            self.introduced.extend(index.introduced.iter().map(|i| i.segment));
        }
        if let Some(map) = self.map.as_ref().filter(|_| after) {
            apply(map, index);
        }
        let Ok(map) = &self.replayed else { return };
        apply(map, index);
        if map.dirty_bytes() > self.source.options.replay_bytes {
            self.replayed = Err(format!("it takes more than {} bytes of memory", self.source.options.replay_bytes));
        }
    }

    /// A segment of the log that is not as it was written.
    fn lost(&mut self, id: SegmentId, kind: Kind, why: String) {
        if matches!(kind, Kind::MissingObject | Kind::TruncatedObject | Kind::ForeignObject) {
            self.bad.insert(id, kind);
        }
        // The gap at the end of a log may have been told of.
        if self.findings.of(kind, &id.key()).is_none() {
            let blocks = self.is_replayed(id.epoch(), id.number());
            self.find(kind, &id.key(), why).blocking(blocks);
        }
        self.broken(id);
    }

    /// What follows `id` cannot be compared with it.
    fn broken(&mut self, id: SegmentId) {
        (self.chain.salt, self.chain.op, self.chain.checkpoint) = (None, None, None);
        self.replayed = Err(format!("{} cannot be read", id.key()));
    }

    /// What the next opening says of the end of an epoch.
    fn check_end(&mut self, epoch: u32, salt: [u8; 16]) {
        if self.chain.salt.is_some_and(|last| last != salt) {
            let next = epoch.saturating_add(1);
            let key = SegmentId::log(self.volume.number, next, 0).key();
            let why = format!("it names another segment as the last of epoch {epoch}");
            let newest = next == self.newest();
            self.find(Kind::InconsistentLog, &key, why).blocking(newest);
        }
    }

    /// Reads the indexes of all data segments.
    pub(super) async fn read_data_indexes(&mut self) -> Result<(), ScrubError> {
        let (source, all): (_, Vec<_>) = (self.source, self.listing.data.iter().map(|(i, s)| (*i, *s)).collect());
        self.begin("data segments", all.len() as u64);
        let mut read = stream::iter(all.into_iter().map(|(id, size)| async move {
            let got = source.tail(id, size).await?;
            Ok::<_, ScrubError>((id, size, got))
        }))
        .buffered(source.parallel());
        let mut done = 0;
        while let Some((id, size, got)) = read.try_next().await? {
            done += 1;
            source.progress.at(done);
            let (kind, why) = match got {
                Got::Good(_) => continue,
                Got::Missing if self.may_be_gone(id) => continue,
                Got::Missing => (Kind::MissingObject, "it was there a moment ago".into()),
                Got::Short => (Kind::TruncatedObject, "it was longer a moment ago".into()),
                Got::Bad(why, bytes) => {
                    self.suspects.judge(source, (id, size), Expected::Segment, (why, bytes)).await?
                }
            };
            if kind != Kind::DamagedIndex {
                self.bad.insert(id, kind);
            }
            self.find(kind, &id.key(), why);
        }
        Ok(())
    }
}
