//! Taking a volume: read its log, seal it, create the next opening, adopt the journal (DESIGN section 5).
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
use super::replay::{Log, LogReader};
use super::rings::{Named, Rings, put_aside, remove_empty};
use super::write::Placed;
use super::{cutter, publish};
use crate::env::Env;
use crate::journal::{Part, RecordKind, Ring};
use crate::map::{Map, MapOptions};
use crate::pool::{Pool, VolumeRecord};
use crate::segment::{
    BLOCK, CheckpointRef, Domain, EXTENT, LogObject, Opening, Predecessor, ReplayRange, Seal, SegmentId, SegmentIndex,
    log_object_kind,
};
use crate::store::{Cause, Patience, Put};

/// How long attaching tries to reach the store.
const PATIENCE: Patience = Patience::For(std::time::Duration::from_secs(30));
/// Segments that may land below the seal while it is being put: at most what one writer has in flight, with room.
const SEAL_TRIES: u64 = 1000;

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
}

/// What was found of the epochs before ours, sealed.
struct Sealed {
    predecessor: Option<Predecessor>,
    start: CheckpointRef,
    replay: Vec<ReplayRange>,
    last_op: u64,
    epoch: u32,
    map: Map,
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
        high,
    }));
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
    Ok(engine)
}

/// Enters what the journal holds beyond the log into the index; it is cut into segments of this epoch like new writes.
fn adopt(engine: &Engine, last_op: u64) -> usize {
    engine.ring.free_through(last_op);
    let end = engine.ring.next_op() - 1;
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
                RecordKind::Void => Vec::new(),
            };
            engine.index_parts(record.op, &parts);
            engine.wakes.appending(super::cutter::data_bytes(record));
            from = record.op + 1;
        }
        count += records.len();
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
        AttachError::Log { volume: self.volume.name.clone(), key, why: why.into() }
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
        let acquired = self.open(sealed, ring, tombstone, &high).await?;
        empty.iter().for_each(|path| remove_empty(path));
        Ok(acquired)
    }

    /// Everything before the acquisition: what was is sealed and read, the journal that belongs to it is held. Answers
    /// with the empty journals, too, that may go afterwards.
    async fn recover(&self, high: &HighWater) -> Result<(Sealed, Option<Ring>, Vec<PathBuf>), AttachError> {
        let seen = high.load()?;
        let Some(found) = locate::newest(self.pool.store(), self.volume.number, PATIENCE).await? else {
            high.check(self.volume, seen, None, self.options.expect_epoch)?;
            if self.options.resume.is_some() {
                return Err(self.not_resumable("nobody has ever opened it"));
            }
            let empty = self.rings().settle_strays(None)?;
            let start = CheckpointRef { root: None, covers_epoch: 0, covers_seq: 0, last_op: 0 };
            let map = self.map(start)?;
            let first = Sealed { predecessor: None, start, replay: Vec::new(), last_op: 0, epoch: 0, map };
            return Ok((first, None, empty));
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
        let ring = match &self.options.resume {
            Some(writers) => self.may_resume(&log, writers)?,
            None => self.may_take(&log)?,
        };
        let empty = self.rings().settle_strays(Some(&log.opening.ring))?;
        let sealed = self.seal_and_replay(&log, ring.as_ref()).await?;
        let ring = match ring {
            Some(ring) => self.fitting(ring, sealed.last_op)?,
            None => None,
        };
        Ok((sealed, ring, empty))
    }

    /// Whether the volume is free to take, and with which journal (section 5, point 1). Never judged by pid or time.
    fn may_take(&self, log: &Log) -> Result<Option<Ring>, AttachError> {
        let (owner, options) = (&log.opening, self.options);
        let in_use = || AttachError::InUse {
            volume: self.volume.name.clone(),
            owner: owner.hostname.clone(),
            epoch: owner.epoch,
        };
        let clean = log.seal.is_some_and(|s| s.clean);
        if owner.host != options.host.id {
            // An unclean seal gives nobody a right: the owner's own recovery may have put it a moment ago.
            if !clean && !options.takeover {
                return Err(in_use());
            }
            if owner.domain == Domain::Journal && !clean && !options.lose_journal {
                let (volume, owner, epoch) = (self.volume.name.clone(), owner.hostname.clone(), owner.epoch);
                return Err(AttachError::SpoolElsewhere { volume, owner, epoch });
            }
            return Ok(None);
        }
        match self.rings().named(&owner.ring)? {
            Named::Held(ring) => Ok(Some(*ring)),
            Named::GivenUp => Ok(None),
            Named::Busy if clean || options.takeover => Ok(None),
            Named::Busy => Err(in_use()),
            // The journal went with the last boot, or was empty and removed with the seal.
            Named::Missing(_) if owner.boot != options.host.boot || clean => Ok(None),
            // Its owner is dead and its journal removed, or it runs on with a journal in another directory.
            Named::Missing(_) if options.lose_journal && options.takeover => Ok(None),
            Named::Missing(path) => Err(AttachError::JournalMissing { volume: self.volume.name.clone(), path }),
        }
    }

    /// The journal, if it continues where the log ends; one that does not is put aside where the operator said so.
    fn fitting(&self, ring: Ring, last_op: u64) -> Result<Option<Ring>, AttachError> {
        let (first, next) = (ring.first_op(), ring.next_op());
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
    /// `ring` is compared with the log before the seal is put.
    async fn seal_and_replay(&self, log: &Log, ring: Option<&Ring>) -> Result<Sealed, AttachError> {
        let reader = self.reader();
        let (start, mut ranges) = log.plan();
        let epoch = log.opening.epoch;
        let indexes = reader.indexes(&ranges, (epoch, &log.segments));
        let ((seal, late), indexes) = match &self.options.resume {
            None => futures::try_join!(self.put_seal(log), indexes)?,
            Some(_) => {
                let indexes = indexes.await?;
                self.continues(ring, start.last_op, &indexes)?;
                (self.put_seal(log).await?, indexes)
            }
        };
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
        let predecessor =
            Some(Predecessor { epoch, end_seq: seal.seq, salt: seal.predecessor_salt, seal_writer: seal.writer });
        Ok(Sealed { predecessor, start, replay: ranges, last_op, epoch, map })
    }

    /// Puts the seal; whatever landed before it belongs to the log. Answers the seal that stands, and those segments.
    async fn put_seal(&self, log: &Log) -> Result<(Seal, Vec<SegmentIndex>), AttachError> {
        if let Some(seal) = log.seal {
            return Ok((seal, Vec::new()));
        }
        let mut late = Vec::new();
        let mut salt = log.last.as_ref().map_or(log.opening.writer, |i| i.salt);
        let epoch = log.opening.epoch;
        for seq in log.end()..log.end() + SEAL_TRIES {
            let id = SegmentId::log(self.volume.number, epoch, seq);
            let seal = self.seal(epoch, seq, salt, false);
            let body = seal.seal(self.pool.keys(), self.env.random16());
            match self.pool.store().put_new(&id.key(), body, Cause::Recovery, PATIENCE).await? {
                Put::Created | Put::Ours => return Ok((seal, late)),
                Put::Taken(bytes) => match log_object_kind(&bytes) {
                    LogObject::Seal => {
                        let seal = Seal::open(self.pool.keys(), self.volume.number, epoch, seq, &bytes)?;
                        return Ok((seal, late));
                    }
                    LogObject::Segment => {
                        let index = self.reader().index_of(id, &bytes)?;
                        salt = index.salt;
                        late.push(index);
                    }
                    _ => return Err(self.log_error(id.key(), "it is neither a segment nor a seal")),
                },
            }
        }
        Err(self.log_error(SegmentId::log(self.volume.number, epoch, log.end()).key(), "its log does not end"))
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

    /// Creates the opening: the acquisition.
    async fn open(
        &self,
        sealed: Sealed,
        ring: Option<Ring>,
        tombstone: bool,
        high: &HighWater,
    ) -> Result<Acquired, AttachError> {
        let fresh = ring.is_none() && !tombstone;
        let ring = match ring {
            None if fresh => Some(self.rings().create(self.env.random16(), sealed.last_op)?),
            kept => kept,
        };
        let epoch = sealed.epoch + 1;
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
        let put = self.pool.store().put_new(&id.key(), body, Cause::Recovery, PATIENCE).await;
        let lost = match put {
            Ok(Put::Created | Put::Ours) => None,
            Ok(Put::Taken(bytes)) => Some(self.lost_race(epoch, &bytes)),
            // Undecided: it may yet land. The new journal stays, empty.
            Err(e) => return Err(AttachError::Undecided(e)),
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
        Ok(Acquired { opening, map: sealed.map, ring, replayed })
    }

    fn lost_race(&self, epoch: u32, bytes: &Bytes) -> AttachError {
        match Opening::open(self.pool.keys(), self.volume.number, epoch, bytes) {
            Ok(winner) => AttachError::LostRace { volume: self.volume.name.clone(), winner: winner.hostname, epoch },
            Err(e) => e.into(),
        }
    }
}
