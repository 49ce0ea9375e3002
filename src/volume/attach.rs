//! Taking a volume: read its log, seal it, create the next opening, adopt the journal (ARCHITECTURE.md,
//! "Attach and recovery").
//!
//! Creating the opening is the acquisition. Before it nothing is served, completed or deleted.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use esker_block::DeviceInfo;
use futures::FutureExt;
use tracing::{info, warn};

use super::engine::{Engine, Parts};
use super::error::AttachError;
use super::highwater::{HighWater, Mark};
use super::locate;
use super::options::AttachOptions;
use super::pipeline::Pipeline;
use super::replay::{self, Log, LogReader};
use super::rings::{Named, Rings, put_aside, remove_empty};
use super::write::Placed;
use super::{cutter, publish, upkeep};
use crate::env::Env;
use crate::journal::{Part, RecordKind, Ring};
use crate::map::{Map, MapOptions};
use crate::pool::{Pool, VolumeRecord};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{
    BLOCK, CheckpointRef, Domain, EXTENT, Introduced, LogObject, MAX_OP, Opening, Predecessor, ReplayRange, Seal,
    SegmentId, SegmentIndex, log_object_kind,
};
use crate::store::{Cause, Patience, Put, StoreError};

/// How long attaching tries to reach the store.
const PATIENCE: Patience = Patience::For(std::time::Duration::from_secs(30));
/// Segments that may land below the seal while it is being put: at most what one writer has in flight, with room.
const SEAL_TRIES: u64 = 1000;
/// How often a log is read anew that changed while it was read. A busy owner goes on, and deletes right behind itself: it may
/// take many looks until the seal is ahead of it.
const READ_ANEW: u32 = 40;

/// Where a log ends that can be continued: as many operations again are left to its new owner.
const LAST_OP: u64 = MAX_OP / 2;

/// One attempt to take a volume.
pub(super) struct Attach<'a> {
    pub pool: &'a Pool,
    pub volume: &'a VolumeRecord,
    pub options: &'a AttachOptions,
    pub env: &'a Env,
    /// Random; names this attempt in seals and in its opening.
    pub writer: [u8; 16],
}

/// An epoch that is ours.
pub(super) struct Acquired {
    pub opening: Opening,
    pub map: Map,
    pub ring: Option<Ring>,
    /// Segments that were applied after the checkpoint.
    pub replayed: u64,
    /// Those segments, and what they were the first to refer to: the accounts of the checkpoint do not have them.
    pub replayed_segments: Vec<Introduced>,
    /// Blocks that they trim.
    pub trimmed: u64,
}

/// What was found of the epochs before ours, sealed.
struct Sealed {
    predecessor: Option<Predecessor>,
    start: CheckpointRef,
    replay: Vec<ReplayRange>,
    last_op: u64,
    epoch: u32,
    map: Map,
    segments: Vec<Introduced>,
    trimmed: u64,
}

/// What recovery came to.
enum Recovered {
    /// Everything before the acquisition is done. The paths are of empty journals that may go afterwards.
    Ready(Box<Sealed>, Option<Ring>, Vec<PathBuf>),
    /// The log changed while it was read.
    Again(AttachError),
}

/// Attaches: see [`super::Volume::attach`].
pub(super) async fn attach(
    pool: &Pool,
    volume: &VolumeRecord,
    mut options: AttachOptions,
    env: Env,
) -> Result<Arc<Engine>, AttachError> {
    if options.resume.is_some() {
        // What would let an operator go on without the journal makes nothing the continuation of a device.
        (options.takeover, options.lose_journal) = (false, false);
    }
    let writer = options.writer.unwrap_or_else(|| env.random16());
    let attempt = Attach { pool, volume, options: &options, env: &env, writer };
    let acquired = attempt.acquire(false).await?;
    let high = HighWater::new(pool, volume, &options);
    let Some(ring) = acquired.ring else {
        return Err(attempt.log_error(String::new(), "no journal was made"));
    };
    let opening = acquired.opening;
    let info = DeviceInfo {
        name: volume.name.clone(),
        size: volume.size,
        logical_block: volume.block_size,
        physical_block: BLOCK as u32,
        optimal_io: EXTENT as u32,
        read_only: options.read_only,
    };
    let engine = Arc::new(Engine::new(Parts {
        info,
        volume: volume.number,
        epoch: opening.epoch,
        compression: volume.compression,
        keys: pool.keys().clone(),
        store: pool.store().clone(),
        log: Pipeline::new(opening.last_op, writer, opening.start),
        env: env.clone(),
        tuning: options,
        ring,
        map: acquired.map,
        replayed: acquired.replayed,
        fresh: acquired.replayed_segments,
        high,
    }));
    // A volume that is attached for seconds only gets no checkpoint to free what the last one left.
    engine.log.lock().published_at = engine.env.clock.now();
    // They are freed as soon as there is a checkpoint, whoever trimmed them.
    engine.compaction.trimmed(acquired.trimmed);
    let adopted = adopt(&engine, opening.last_op);
    info!(
        volume = volume.name,
        epoch = opening.epoch,
        segments = acquired.replayed,
        journal_records = adopted,
        "attached"
    );
    engine.env.spawner.spawn(cutter::run(engine.clone()).boxed());
    engine.env.spawner.spawn(publish::run(engine.clone()).boxed());
    engine.env.spawner.spawn(upkeep::run(engine.clone()).boxed());
    Ok(engine)
}

/// Enters what the journal holds beyond the log into the index; it is cut into segments of this epoch like new writes.
fn adopt(engine: &Engine, last_op: u64) -> usize {
    engine.ring.free_through(last_op);
    let mut end = engine.ring.next_op() - 1;
    if planted(Mutant::ReplayDropsLast) && end > last_op {
        end -= 1;
    }
    let (mut from, mut count) = (last_op + 1, 0);
    while from <= end {
        let mut records = Vec::new();
        engine.ring.collect(from, end, engine.tuning.segment_bytes, &mut records);
        assert!(!records.is_empty(), "an adopted ring has no incomplete records");
        for record in &records {
            let parts: Vec<Placed> = match &record.kind {
                RecordKind::Write { lba, blocks, body } => {
                    vec![placed(&Part::Write { lba: *lba, blocks: *blocks, body: *body })]
                }
                RecordKind::Trim { lba, blocks } => vec![placed(&Part::Trim { lba: *lba, blocks: *blocks })],
                RecordKind::Batch(parts) => parts.iter().map(placed).collect(),
                RecordKind::Void => {
                    reached(Branch::RingAdoptedWithVoid);
                    Vec::new()
                }
            };
            engine.index_parts(record.op, &parts);
            engine.wakes.appending(super::cutter::data_bytes(record));
            from = record.op + 1;
        }
        count += records.len();
    }
    if count > 0 {
        reached(Branch::RingAdopted);
    }
    count
}

fn placed(part: &Part) -> Placed {
    match *part {
        Part::Write { lba, blocks, body } => Placed { lba, blocks: u64::from(blocks), at: Some(body.at()) },
        Part::Trim { lba, blocks } => Placed { lba, blocks, at: None },
    }
}

impl Attach<'_> {
    fn log_error(&self, key: String, why: &str) -> AttachError {
        self.reader().err(key, why)
    }

    pub(super) fn rings(&self) -> Rings<'_> {
        Rings { pool: self.pool, volume: self.volume, options: self.options }
    }

    fn reader(&self) -> LogReader<'_> {
        LogReader { pool: self.pool, volume: self.volume, patience: PATIENCE }
    }

    /// Seals the newest epoch and creates the opening of the next: with `tombstone` its last.
    pub(super) async fn acquire(&self, tombstone: bool) -> Result<Acquired, AttachError> {
        let high = HighWater::new(self.pool, self.volume, self.options);
        // The probe runs beside the recovery, and is over before anything is acquired.
        let probe = async { Ok::<_, AttachError>(self.pool.store().probe_quick().await?) };
        let (_, (sealed, ring, empty)) = futures::try_join!(probe, self.recover(&high))?;
        let acquired = self.open(*sealed, ring, tombstone, &high).await?;
        empty.iter().for_each(|path| remove_empty(path));
        Ok(acquired)
    }

    /// Everything before the acquisition: what was is sealed and read, the journal that belongs to it is held. Answers
    /// with the empty journals, too, that may go afterwards.
    ///
    /// A living owner goes on until the seal stands: checkpoints, and deletes what they have made needless. What is missing
    /// then was not lost.
    async fn recover(&self, high: &HighWater) -> Result<(Box<Sealed>, Option<Ring>, Vec<PathBuf>), AttachError> {
        let mut first_epoch = None;
        let mut left = READ_ANEW;
        let (mut missed, mut damaged) = (false, false);
        loop {
            let error = match self.recover_once(high, &mut first_epoch).await {
                Ok(Recovered::Ready(sealed, ring, empty)) => return Ok((sealed, ring, empty)),
                Ok(Recovered::Again(error)) => error,
                Err(error) if error.may_have_moved() => error,
                // Its owner may have given the volume back since its log was read, and the journal with it.
                Err(error @ AttachError::JournalMissing { .. }) if !missed => {
                    reached(Branch::RingMissingLookedAgain);
                    missed = true;
                    error
                }
                // Damage on the way is not damage in the bucket. And where a new owner has deleted a segment, somebody else's
                // seal may stand, who met the hole: shorter than what the LIST has shown.
                Err(error @ (AttachError::Segment(_) | AttachError::Store(StoreError::Short { .. }))) if !damaged => {
                    reached(Branch::RecoveryDamagedLookedAgain);
                    damaged = true;
                    error
                }
                Err(error) => return Err(error),
            };
            if left == 0 {
                return Err(error);
            }
            left -= 1;
            reached(Branch::RecoveryStartedOver);
            info!(volume = self.volume.name, why = %error, "the log could not be read, or changed meanwhile; reading it anew");
        }
    }

    /// One look at the log. `first_epoch` is the newest epoch of the first one.
    async fn recover_once(&self, high: &HighWater, first_epoch: &mut Option<u32>) -> Result<Recovered, AttachError> {
        let seen = high.load()?;
        let Some(found) = locate::newest(self.pool.store(), self.volume.number, PATIENCE).await? else {
            high.check(self.volume, seen, None, self.options.expect_epoch)?;
            reached(Branch::FirstAttach);
            if self.options.resume.is_some() {
                return Err(self.not_resumable("nobody has ever opened it"));
            }
            let empty = self.rings().settle_strays(None)?;
            let start = CheckpointRef { root: None, covers_epoch: 0, covers_seq: 0, last_op: 0, usage: None };
            let map = self.map(start)?;
            let (replay, segments) = (Vec::new(), Vec::new());
            let first = Sealed { predecessor: None, start, replay, last_op: 0, epoch: 0, map, segments, trimmed: 0 };
            return Ok(Recovered::Ready(Box::new(first), None, empty));
        };
        let log = self.reader().read(&found).await?;
        let mark = Mark { epoch: found.epoch, seq: log.end() - 1 };
        high.check(self.volume, seen, Some(mark), self.options.expect_epoch)?;
        if log.opening.tombstone && self.options.resume.is_some() {
            return Err(self.not_resumable("it has been deleted"));
        }
        if log.opening.tombstone {
            return Err(AttachError::Deleted { volume: self.volume.name.clone() });
        }
        let epoch = log.opening.epoch;
        if epoch != *first_epoch.get_or_insert(epoch) {
            reached(Branch::OpeningLost);
            return Err(self.gave_way(&log.opening));
        }
        let ring = match &self.options.resume {
            Some(writers) => self.may_resume(&log, writers)?,
            None => self.may_take(&log)?,
        };
        let empty = self.rings().settle_strays(Some(&log.opening.ring))?;
        let Some(sealed) = self.seal_and_replay(&log, ring.as_ref()).await? else {
            let key = SegmentId::log(self.volume.number, epoch, log.end()).key();
            return Ok(Recovered::Again(self.log_error(key, "its writer goes on behind it")));
        };
        let ring = match ring {
            Some(ring) => self.fitting(ring, sealed.last_op)?,
            None => None,
        };
        Ok(Recovered::Ready(Box::new(sealed), ring, empty))
    }

    /// Whether the volume is free to take, and with which journal (ARCHITECTURE.md, "Attach and recovery"). Never judged by pid or time.
    fn may_take(&self, log: &Log) -> Result<Option<Ring>, AttachError> {
        let (owner, options) = (&log.opening, self.options);
        let in_use = || AttachError::InUse {
            volume: self.volume.name.clone(),
            owner: owner.hostname.clone(),
            epoch: owner.epoch,
        };
        let clean = log.seal.is_some_and(|s| s.clean || planted(Mutant::AnySealFrees));
        if owner.host != options.host.id {
            // An unclean seal gives nobody a right: the owner's own recovery may have put it a moment ago.
            if !clean && !options.takeover {
                reached(Branch::OtherHostRefused);
                return Err(in_use());
            }
            if owner.domain == Domain::Journal && !clean && !options.lose_journal {
                let (volume, owner, epoch) = (self.volume.name.clone(), owner.hostname.clone(), owner.epoch);
                return Err(AttachError::SpoolElsewhere { volume, owner, epoch });
            }
            if !clean {
                reached(Branch::OtherHostTakenOver);
            }
            return Ok(None);
        }
        match self.rings().named(&owner.ring)? {
            Named::Held(ring) => {
                if planted(Mutant::SecondCrashRefused) && log.segments.is_empty() {
                    return Err(self.rings().mismatch(ring.path().into(), "it was adopted before".into()));
                }
                Ok(Some(*ring))
            }
            Named::GivenUp => Ok(None),
            Named::Busy if clean || options.takeover || planted(Mutant::LivingJournalIgnored) => {
                reached(Branch::RingBusyTakenOver);
                Ok(None)
            }
            Named::Busy => {
                reached(Branch::RingBusyRefused);
                Err(in_use())
            }
            // The journal went with the last boot, or was empty and removed with the seal.
            Named::Missing(_) if owner.boot != options.host.boot || clean => {
                reached(if clean { Branch::RingGoneWithSeal } else { Branch::RingGoneWithBoot });
                Ok(None)
            }
            // Its owner is dead and its journal removed, or it runs on with a journal in another directory.
            Named::Missing(_) if options.lose_journal && options.takeover => {
                reached(Branch::RingMissingGivenUp);
                Ok(None)
            }
            Named::Missing(_) if planted(Mutant::JournalNotNeeded) => Ok(None),
            Named::Missing(path) => {
                reached(Branch::RingMissingRefused);
                Err(AttachError::JournalMissing { volume: self.volume.name.clone(), path })
            }
        }
    }

    /// The journal, if it continues where the log ends; one that does not is put aside where the operator said so.
    fn fitting(&self, ring: Ring, last_op: u64) -> Result<Option<Ring>, AttachError> {
        let (first, next) = (ring.first_op(), ring.next_op());
        if next == last_op + 1 {
            reached(Branch::RingAdoptedEmpty);
        }
        if first > last_op + 1 || next <= last_op {
            if self.options.resume.is_some() {
                return Err(self.does_not_continue(&ring, last_op));
            }
            if self.options.lose_journal {
                put_aside(ring.path())?;
                return Ok(None);
            }
            let why = format!("the log ends at operation {last_op}, the journal holds {first} to {next} (excluded)");
            return Err(self.rings().mismatch(ring.path().into(), why));
        }
        Ok(Some(ring))
    }

    fn map(&self, start: CheckpointRef) -> Result<Map, AttachError> {
        let options = MapOptions { size: self.volume.size, leaf_cache_bytes: self.options.leaf_cache_bytes };
        let key = || start.root.map_or(String::new(), |r| r.record.segment.key());
        Map::new(options, start.root).map_err(|e| self.log_error(key(), &e.to_string()))
    }

    /// Seals the epoch at its first free seq, and builds the map of everything before the seal. Where a device is resumed
    /// `ring` is compared with the log before the seal is put. `None`: the log went on meanwhile, so it must be read anew.
    async fn seal_and_replay(&self, log: &Log, ring: Option<&Ring>) -> Result<Option<Sealed>, AttachError> {
        let reader = self.reader();
        let (start, mut ranges) = log.plan();
        let epoch = log.opening.epoch;
        let indexes = reader.indexes(&ranges, (epoch, &log.segments));
        let (sealed, indexes) = match &self.options.resume {
            None => futures::try_join!(self.put_seal(log), indexes)?,
            Some(_) => {
                let indexes = indexes.await?;
                self.continues(ring, start.last_op, &indexes)?;
                (self.put_seal(log).await?, indexes)
            }
        };
        let Some((seal, late)) = sealed else { return Ok(None) };
        // What an older checkpoint needs may be deleted once a newer one is named, even by one who is fenced by now.
        if late.last().and_then(|i| i.checkpoint).is_some_and(|named| named != start) {
            return Ok(None);
        }
        let map = self.map(start)?;
        let mut all = indexes;
        all.extend(late);
        if seal.seq > log.end() {
            let first_seq = match ranges.last() {
                Some(r) if r.epoch == epoch => ranges.pop().map_or(log.end(), |r| r.first_seq),
                _ => log.end(),
            };
            ranges.push(ReplayRange { epoch, first_seq, end_seq: seal.seq });
        }
        let last_op = reader.apply_all(&map, &ranges, &all, start.last_op)?;
        let segments = replay::segments(self.volume.number, &ranges, &all, start.last_op);
        let trimmed = all.iter().flat_map(|index| &index.trims).fold(0, |n: u64, trim| n.saturating_add(trim.blocks));
        let predecessor =
            Some(Predecessor { epoch, end_seq: seal.seq, salt: seal.predecessor_salt, seal_writer: seal.writer });
        Ok(Some(Sealed { predecessor, start, replay: ranges, last_op, epoch, map, segments, trimmed }))
    }

    /// Puts the seal; whatever landed before it belongs to the log. Answers the seal that stands, and those segments;
    /// `None` if it stands where the log was open when it was listed, and does not end any more.
    async fn put_seal(&self, log: &Log) -> Result<Option<(Seal, Vec<SegmentIndex>)>, AttachError> {
        if let Some(seal) = log.seal {
            reached(if seal.clean { Branch::CleanlySealed } else { Branch::UncleanSealFound });
            return Ok(Some((seal, Vec::new())));
        }
        let mut late = Vec::new();
        let mut salt = log.last.as_ref().map_or(log.opening.writer, |i| i.salt);
        let epoch = log.opening.epoch;
        for seq in log.end()..log.end() + SEAL_TRIES {
            let id = SegmentId::log(self.volume.number, epoch, seq);
            let seal = self.seal(epoch, seq, salt, false);
            if planted(Mutant::SkipSeal) {
                return Ok(Some((seal, late)));
            }
            let body = seal.seal(self.pool.keys(), self.env.random16());
            match self.pool.store().put_new(&id.key(), body, Cause::Recovery, PATIENCE).await? {
                Put::Created | Put::Ours => {
                    reached(Branch::SealPut);
                    return self.standing(seal, late).await;
                }
                Put::Taken(bytes) => match log_object_kind(&bytes) {
                    LogObject::Seal => {
                        let seal = Seal::open(self.pool.keys(), self.volume.number, epoch, seq, &bytes)?;
                        reached(Branch::SealRaced);
                        return self.standing(seal, late).await;
                    }
                    LogObject::Segment => {
                        reached(Branch::SegmentBelowSeal);
                        if planted(Mutant::LateSegmentsIgnored) {
                            return Ok(Some((seal, late)));
                        }
                        let index = self.reader().index_of(id, &bytes)?;
                        salt = index.salt;
                        late.push(index);
                    }
                    _ => return Err(self.log_error(id.key(), "it is neither a segment nor a seal")),
                },
            }
        }
        Err(self.log_error(
            SegmentId::log(self.volume.number, epoch, log.end()).key(),
            "its writer goes on faster than its log can be sealed; stop it, or cut it off from the store",
        ))
    }

    /// The seal and what was found before it, unless it stands in a hole: where a segment was that its writer, at work all
    /// the while, has deleted since the log was listed. That writer would never meet the seal.
    async fn standing(
        &self,
        seal: Seal,
        late: Vec<SegmentIndex>,
    ) -> Result<Option<(Seal, Vec<SegmentIndex>)>, AttachError> {
        if self.reader().ends_at(seal.epoch, seal.seq).await? {
            return Ok(Some((seal, late)));
        }
        reached(Branch::SealInHole);
        Ok(None)
    }

    /// A seal by this attempt.
    pub(super) fn seal(&self, epoch: u32, seq: u64, predecessor_salt: [u8; 16], clean: bool) -> Seal {
        Seal {
            volume: self.volume.number,
            epoch,
            seq,
            writer: self.writer,
            clean,
            predecessor_salt,
            wall_ms: self.env.clock.wall_ms(),
        }
    }

    /// The epoch to be opened, if the volume can have one more and its operations can be numbered on.
    fn next_epoch(&self, sealed: &Sealed, ring: Option<&Ring>, tombstone: bool) -> Result<u32, AttachError> {
        let last = || SegmentId::log(self.volume.number, sealed.epoch, 0).key();
        let last_op = sealed.last_op.max(ring.map_or(0, |ring| ring.next_op() - 1));
        if last_op > LAST_OP && !tombstone {
            let why = format!("its operations are numbered up to {last_op}: no volume gets that far");
            return Err(self.log_error(last(), &why));
        }
        let full = || self.log_error(last(), "its epoch is the last that a volume can have");
        sealed.epoch.checked_add(1).ok_or_else(full)
    }

    /// Creates the opening: the acquisition.
    async fn open(
        &self,
        sealed: Sealed,
        ring: Option<Ring>,
        tombstone: bool,
        high: &HighWater,
    ) -> Result<Acquired, AttachError> {
        let epoch = self.next_epoch(&sealed, ring.as_ref(), tombstone)?;
        let fresh = ring.is_none() && !tombstone;
        let ring = match ring {
            None if fresh => Some(self.rings().create(self.env.random16(), sealed.last_op)?),
            kept => kept,
        };
        let opening = Opening {
            volume: self.volume.number,
            epoch,
            writer: self.writer,
            host: self.options.host.id,
            boot: self.options.host.boot,
            hostname: self.options.host.name.clone(),
            ring: ring.as_ref().map_or([0; 16], Ring::id),
            domain: Domain::Object,
            size: self.volume.size,
            predecessor: sealed.predecessor,
            start: sealed.start,
            replay: sealed.replay,
            last_op: sealed.last_op,
            wall_ms: self.env.clock.wall_ms(),
            tombstone,
        };
        let body = opening.seal(self.pool.keys(), self.env.random16());
        let id = SegmentId::log(self.volume.number, epoch, 0);
        let put = if planted(Mutant::ServeBeforeOpening) {
            let (store, key) = (self.pool.store().clone(), id.key());
            let late = async move { drop(store.put_new(&key, body, Cause::Recovery, PATIENCE).await) };
            self.env.spawner.spawn(late.boxed());
            Ok(Put::Created)
        } else {
            self.pool.store().put_new(&id.key(), body, Cause::Recovery, PATIENCE).await
        };
        let lost = match put {
            Ok(Put::Created | Put::Ours) => None,
            Ok(Put::Taken(_)) if planted(Mutant::LostRaceIsWon) => None,
            Ok(Put::Taken(bytes)) => Some(self.lost_race(epoch, &bytes)),
            // Undecided: it may yet land. The new journal stays, empty.
            Err(e) => {
                reached(Branch::OpeningUndecided);
                return Err(AttachError::Undecided(e));
            }
        };
        if let Some(error) = lost {
            if let (true, Some(ring)) = (fresh, ring) {
                ring.remove().map_err(|source| AttachError::Local { path: ring.path().into(), source })?;
            }
            return Err(error);
        }
        // The volume is ours whether or not this host can note it down.
        if let Err(e) = high.save(Mark { epoch, seq: 0 }) {
            warn!(volume = self.volume.name, error = %e, "cannot keep the local high-water mark");
        }
        let replayed = opening.replay.iter().map(|r| r.end_seq - r.first_seq).sum();
        let (replayed_segments, trimmed) = (sealed.segments, sealed.trimmed);
        Ok(Acquired { opening, map: sealed.map, ring, replayed, replayed_segments, trimmed })
    }

    fn lost_race(&self, epoch: u32, bytes: &Bytes) -> AttachError {
        reached(Branch::OpeningLost);
        match Opening::open(self.pool.keys(), self.volume.number, epoch, bytes) {
            Ok(winner) => self.gave_way(&winner),
            Err(e) => e.into(),
        }
    }

    fn gave_way(&self, winner: &Opening) -> AttachError {
        let (volume, winner, epoch) = (self.volume.name.clone(), winner.hostname.clone(), winner.epoch);
        AttachError::LostRace { volume, winner, epoch }
    }
}
