//! Openings and seals: each epoch begins with the one and, once it is finished, ends with the other.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::ScrubError;
use super::finding::Kind;
use super::segments::Expected;
use super::source::{Got, InLog};
use super::volume::Pass;
use crate::segment::{LogObject, Opening, Predecessor, SegmentId, log_object_kind, log_prefix};

/// Missing objects in a row that are told one by one.
pub(super) const MAX_GAPS: usize = 100;
/// More segments than one writer has on their way at a time.
const IN_FLIGHT: usize = 64;
/// How often, and after what pauses, it is looked whether what was on its way has arrived.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A segment that cannot be read: its size, why, and its last bytes.
type Unreadable = (SegmentId, u64, String, Bytes);

impl Pass<'_> {
    /// Reads the openings of all epochs.
    pub(super) async fn read_openings(&mut self) -> Result<(), ScrubError> {
        let (volume, newest) = (self.volume.number, self.newest());
        let opening = |epoch: u32| SegmentId::log(volume, epoch, 0);
        self.add_missing_epochs();
        let epochs: Vec<u32> = self.listing.log.keys().copied().collect();
        self.suspects.names = epochs.iter().map(|e| opening(*e)).collect();
        self.begin("openings", epochs.len() as u64);
        let source = self.source;
        let sizes: Vec<_> = epochs.iter().map(|e| (*e, self.sizes.get(&opening(*e)).copied())).collect();
        let mut read = stream::iter(sizes.into_iter().map(|(epoch, size)| async move {
            let key = opening(epoch).key();
            let Some(size) = size else { return Ok((epoch, 0, Got::Missing)) };
            let got = source.whole(&key, size, |bytes| Opening::open(source.keys(), volume, epoch, bytes)).await?;
            Ok::<_, ScrubError>((epoch, size, got))
        }))
        .buffered(source.parallel());
        while let Some((epoch, size, got)) = read.try_next().await? {
            let id = opening(epoch);
            let (kind, why) = match got {
                Got::Good(opening) => {
                    self.openings.insert(epoch, opening);
                    continue;
                }
                Got::Missing if source.is_missing(&id.key()).await? => {
                    (Kind::MissingObject, format!("epoch {epoch} has no opening"))
                }
                Got::Missing => continue,
                Got::Short => (Kind::TruncatedObject, "it was longer a moment ago".into()),
                Got::Bad(why, bytes) => {
                    self.suspects.judge(source, (id, size), Expected::Opening, (why, bytes)).await?
                }
            };
            self.find(kind, &id.key(), why).blocking(epoch == newest);
        }
        self.check_openings();
        Ok(())
    }

    /// Epochs count up by one, and openings are never deleted: those between the first and the newest belong here, too.
    fn add_missing_epochs(&mut self) {
        let mut expected = 1;
        let mut missing: Vec<u32> = Vec::new();
        for epoch in self.listing.log.keys() {
            missing.extend((expected..*epoch).take(MAX_GAPS.saturating_sub(missing.len())));
            expected = epoch.saturating_add(1);
        }
        for epoch in missing {
            self.listing.log.entry(epoch).or_default();
        }
    }

    /// What each opening says of the epoch before.
    fn check_openings(&mut self) {
        let mut wrong = Vec::new();
        for (epoch, opening) in &self.openings {
            match opening.predecessor {
                None if *epoch == 1 => {}
                Some(p) if p.epoch + 1 == *epoch => drop(self.ends.insert(p.epoch, p.end_seq)),
                _ => wrong.push((*epoch, opening.predecessor.map(|p| p.epoch))),
            }
        }
        for (epoch, before) in wrong {
            let key = SegmentId::log(self.volume.number, epoch, 0).key();
            let named = before.map_or("none".into(), |e| e.to_string());
            let why = format!("epoch {epoch} names {named} as the epoch before it");
            self.find(Kind::InconsistentLog, &key, why);
        }
    }

    /// The predecessor that the next opening names: `epoch` is finished if there is one.
    pub(super) fn finish(&self, epoch: u32) -> Option<Predecessor> {
        let next = self.openings.get(&epoch.checked_add(1)?)?;
        next.predecessor.filter(|p| p.epoch == epoch)
    }

    /// Checks the seals of all finished epochs.
    pub(super) async fn check_seals(&mut self) -> Result<(), ScrubError> {
        let epochs: Vec<u32> = self.listing.log.keys().copied().collect();
        for epoch in epochs {
            if let Some(end) = self.finish(epoch) {
                self.check_seal(epoch, end).await?;
            }
        }
        Ok(())
    }

    /// Checks the seal that the next opening relies on.
    pub(super) async fn check_seal(&mut self, epoch: u32, end: Predecessor) -> Result<(), ScrubError> {
        let id = SegmentId::log(self.volume.number, epoch, end.end_seq);
        let key = id.key();
        let size = match self.sizes.get(&id) {
            Some(size) => *size,
            None if self.source.is_missing(&key).await? => {
                self.missing_seal(&key, epoch);
                return Ok(());
            }
            None => return Ok(()),
        };
        let got = self.source.tail(id, size).await?;
        let (kind, why) = match got {
            Got::Good(InLog::Seal(seal)) => {
                if seal.writer == end.seal_writer && seal.predecessor_salt == end.salt {
                    return Ok(());
                }
                (Kind::InconsistentLog, "it is not the seal that the next opening names".into())
            }
            Got::Good(InLog::Segment(_)) => (Kind::ForeignObject, "a segment stands in the place of the seal".into()),
            Got::Missing => {
                self.missing_seal(&key, epoch);
                return Ok(());
            }
            Got::Short => (Kind::TruncatedObject, "it was longer a moment ago".into()),
            Got::Bad(why, bytes) => self.suspects.judge(self.source, (id, size), Expected::Seal, (why, bytes)).await?,
        };
        self.find(kind, &key, why);
        Ok(())
    }

    fn missing_seal(&mut self, key: &str, epoch: u32) {
        let finding = self.find(Kind::MissingObject, key, format!("epoch {epoch} has no seal"));
        finding.meaning(format!("a writer of epoch {epoch} that still runs would not be stopped there"));
    }

    /// Finds where the newest epoch's log ends. Behind a gap may lie what is on its way, and what is lost: waits a
    /// while for the former.
    pub(super) async fn settle_newest(&mut self) -> Result<(), ScrubError> {
        let epoch = self.newest();
        let prefix = log_prefix(self.volume.number, epoch);
        let target = self.log_of(epoch).last().copied().unwrap_or(0);
        let mut unreadable = None;
        for look in 0..=LOOKS {
            // What came after the first LIST may name data that came after it, too.
            let (end, bad) = self.end_of_log(epoch).await?;
            (self.run_end, unreadable) = (end.min(target), bad);
            if self.run_end == target || look == LOOKS {
                break;
            }
            self.source.env.clock.sleep(PAUSE).await;
            let after = Some(format!("{prefix}{:016x}", self.run_end));
            self.listing.below(self.source, &prefix, after).await?;
        }
        self.sizes = self.listing.sizes(self.volume.number);
        (self.report.objects, self.report.stored_bytes) = (self.listing.objects, self.listing.bytes);
        if self.run_end < target {
            self.judge_gap(epoch).await?;
        }
        if let Some((id, size, why, bytes)) = unreadable.filter(|(id, ..)| id.number() > self.run_end) {
            let what = (why, bytes);
            let (kind, why) = self.suspects.judge(self.source, (id, size), Expected::Segment, what).await?;
            self.find(kind, &id.key(), why).blocking(true);
        }
        Ok(())
    }

    /// The seqs of an epoch's log after the opening.
    fn log_of(&self, epoch: u32) -> Vec<u64> {
        let objects = self.listing.log.get(&epoch);
        objects.into_iter().flat_map(|o| o.keys().copied()).filter(|s| *s > 0).collect()
    }

    /// The last object of the newest run that begins with the log, or right behind what a checkpoint named at its end
    /// contains: what is missing below may have been deleted (`volume::log_end` decides the same way). 0: there is none.
    /// And what stands at the end of a run and cannot be read: attaching is refused on its account.
    async fn end_of_log(&self, epoch: u32) -> Result<(u64, Option<Unreadable>), ScrubError> {
        let seqs = self.log_of(epoch);
        let mut unreadable: Option<Unreadable> = None;
        for run in seqs.chunk_by(|a, b| a + 1 == *b).rev() {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            if *first == 1 {
                return Ok((*last, unreadable));
            }
            for seq in run.iter().rev().take(IN_FLIGHT) {
                let id = SegmentId::log(self.volume.number, epoch, *seq);
                let size = self.listing.log.get(&epoch).and_then(|o| o.get(seq)).copied().unwrap_or(0);
                match self.source.tail(id, size).await? {
                    Got::Good(InLog::Seal(_)) => continue,
                    Got::Good(InLog::Segment(index)) => {
                        if index.checkpoint.is_some_and(|c| c.covers_epoch == epoch && c.covers_seq >= first - 1) {
                            return Ok((*last, unreadable));
                        }
                    }
                    Got::Bad(why, bytes) if unreadable.is_none() => unreadable = Some((id, size, why, bytes)),
                    Got::Bad(..) | Got::Short | Got::Missing => {}
                }
                break;
            }
        }
        let end = unreadable.as_ref().map_or(0, |(id, ..)| id.number());
        Ok((end, unreadable))
    }

    /// Whether what lies behind a gap proves that something was there.
    async fn judge_gap(&mut self, epoch: u32) -> Result<(), ScrubError> {
        let mut gap = self.run_end + 1;
        let beyond: Vec<u64> = self.log_of(epoch).into_iter().filter(|s| *s > gap).collect();
        let mut proof = (beyond.len() > IN_FLIGHT).then(|| format!("{} objects lie behind it", beyond.len()));
        for seq in beyond.iter().rev().take(IN_FLIGHT) {
            if proof.is_some() {
                break;
            }
            let id = SegmentId::log(self.volume.number, epoch, *seq);
            let size = self.sizes.get(&id).copied().unwrap_or(0);
            proof = match self.source.tail(id, size).await? {
                Got::Good(InLog::Seal(_)) => Some(format!("the log was sealed behind it, at {}", id.key())),
                Got::Good(InLog::Segment(index)) => {
                    let covers = index.checkpoint.filter(|c| c.covers_epoch == epoch).map_or(0, |c| c.covers_seq);
                    (covers >= gap).then(|| {
                        // What the checkpoint contains may have been deleted; what is after it may not.
                        gap = (covers + 1..*seq).find(|s| !beyond.contains(s)).unwrap_or(gap);
                        format!("{} names a checkpoint that shows it", id.key())
                    })
                }
                Got::Bad(_, bytes) if log_object_kind(&bytes) == LogObject::Seal => {
                    Some(format!("the log was sealed behind it, at {}", id.key()))
                }
                _ => None,
            };
        }
        let key = SegmentId::log(self.volume.number, epoch, gap).key();
        let behind = beyond.len();
        if let Some(proof) = proof {
            self.run_end = beyond.last().copied().unwrap_or(gap);
            self.find(Kind::MissingObject, &key, proof).blocking(true);
        } else {
            let why = format!("there is no such object, and {behind} behind it");
            let meaning = "none of them was ever acknowledged if this was a writer's end or it is at work; if not, an \
                           object is lost";
            self.find(Kind::LogGap, &key, why).meaning(meaning);
        }
        Ok(())
    }
}
