//! Taking a volume whose log somebody with the key made up: openings, segments, seals, checkpoints, nodes and a journal of
//! which any number may be wrong. Attaching ends, with an error or a volume; the volume answers, with an error or data.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use esker::env::Env;
use esker::journal::{MIN_BYTES, MlockPolicy, OpHeader, Ring, RingOptions, RingSpec};
use esker::pool::{Argon2Params, Compression, NewVolume, Pool, VolumeRecord};
use esker::segment::{
    CheckpointRef, Domain, MAX_OP, MAX_SEQ, OpRange, Opening, Predecessor, RecordRef, ReplayRange, RootRef, Seal,
    SegmentBuilder, SegmentId, SegmentTail,
};
use esker::store::Store;
use esker::store::timeline::Timeline;
use esker::volume::{AttachOptions, Host, OnOutage, Volume};
use esker_block::BlockDevice;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use secrecy::SecretString;

const SIZE: u64 = 1 << 30;
const MAX_EPOCHS: usize = 3;
const MAX_SEGMENTS: usize = 4;
const RING: [u8; 16] = [6; 16];

/// A number that is right, nearly right, or anything.
#[derive(Debug, Arbitrary, Clone, Copy)]
enum Number {
    Right,
    Same,
    Near(i8),
    Any(u64),
}

impl Number {
    fn of(self, right: u64) -> u64 {
        match self {
            Self::Right | Self::Same => right,
            Self::Near(d) => right.wrapping_add_signed(d.into()),
            Self::Any(n) => n,
        }
    }
}

/// A bucket, a host, and what is done with the volume.
#[derive(Debug, Arbitrary)]
pub struct Bucket {
    epochs: Vec<Epoch>,
    nodes: Vec<Node>,
    journal: Option<Journal>,
    host: u8,
    boot: u8,
    takeover: bool,
    lose_journal: bool,
    resume: bool,
    expect: Option<u8>,
    uses: Vec<Use>,
}

#[derive(Debug, Arbitrary)]
struct Epoch {
    number: Number,
    opening: Start,
    segments: Vec<Segment>,
    seal: Option<End>,
}

#[derive(Debug, Arbitrary)]
struct Start {
    raw: Option<Vec<u8>>,
    host: u8,
    journal_domain: bool,
    tombstone: bool,
    predecessor: bool,
    end_seq: Number,
    start: Checkpoint,
    replay: Vec<(Number, Number, Number)>,
    last_op: Number,
    wall_ms: u64,
}

#[derive(Debug, Arbitrary)]
struct Checkpoint {
    /// Node number and levels.
    root: Option<(u8, u8)>,
    epoch: Number,
    seq: Number,
    last_op: Number,
}

#[derive(Debug, Arbitrary)]
struct Segment {
    raw: Option<Vec<u8>>,
    seq: Number,
    first_op: Number,
    ops: Number,
    wrong_salt: bool,
    checkpoint: Option<Checkpoint>,
    trims: Vec<(u32, u64)>,
    records: Vec<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
struct End {
    raw: Option<Vec<u8>>,
    seq: Number,
    clean: bool,
    wrong_salt: bool,
}

#[derive(Debug, Arbitrary)]
struct Node {
    level: u8,
    index: u8,
    plaintext: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
struct Journal {
    first_op: Number,
    writes: u8,
    foreign: bool,
}

#[derive(Debug, Arbitrary)]
enum Use {
    Read { block: u32, blocks: u8 },
    Write { block: u32, part: bool },
    Trim { block: u32, blocks: u32 },
    Flush,
    Wait,
}

/// The objects of an empty pool with one volume.
static POOL: LazyLock<Vec<(ObjectPath, Bytes)>> = LazyLock::new(|| {
    let (time, objects) = (Timeline::default(), Arc::new(InMemory::new()));
    let env = time.env();
    let store = Store::over(objects.clone(), "p", "fuzz", env.clone());
    time.run(async {
        let cheap = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };
        let pool = Pool::format(store, &password(), cheap, &env).await.expect("memory takes a pool");
        let new = NewVolume { name: "v".into(), size: SIZE, block_size: 512, compression: Compression::Lz4 };
        pool.create_volume(new, &env).await.expect("a pool takes a volume");
        let listed: Vec<_> = objects.list(None).try_collect().await.expect("memory lists");
        let mut found = Vec::new();
        for meta in listed {
            let body = objects.get(&meta.location).await.expect("it was listed").bytes().await.expect("memory reads");
            found.push((meta.location, body));
        }
        found
    })
});

static DIR: LazyLock<PathBuf> = LazyLock::new(|| crate::scratch("attach"));

fn password() -> SecretString {
    SecretString::from("secret")
}

/// Builds the bucket, attaches, uses the volume, gives it back.
pub fn run(bucket: &Bucket) {
    let (time, objects) = (Timeline::default(), Arc::new(InMemory::new()));
    let env = time.env();
    time.run(async {
        for (path, body) in POOL.iter() {
            objects.put(path, body.clone().into()).await.expect("memory takes an object");
        }
        let store = Store::over(objects.clone(), "p", "fuzz", env.clone());
        let pool = Pool::open(store, &password(), &env).await.expect("the pool was not touched");
        let record = pool.volume("v").await.expect("the catalogue was not touched");
        for (key, body) in bucket.objects(&pool, &record) {
            objects.put(&ObjectPath::from(format!("p/{key}")), body.into()).await.expect("memory takes an object");
        }
        bucket.journal(&pool, &record);
        bucket.attach_and_use(&pool, &record, &env).await;
        // What still runs is polled once more, and then dropped with the world.
        env.clock.sleep(Duration::from_millis(1)).await;
    });
    for entry in std::fs::read_dir(DIR.join("journal")).into_iter().flatten().flatten() {
        std::fs::remove_file(entry.path()).expect("a file of ours");
    }
    // Absent where nothing was attached.
    drop(std::fs::remove_dir_all(DIR.join("state")));
}

impl Bucket {
    async fn attach_and_use(&self, pool: &Pool, record: &VolumeRecord, env: &Env) {
        let host = Host { id: [self.host % 2; 16], boot: [self.boot % 2; 16], name: "fuzz".into() };
        let options = AttachOptions {
            journal_bytes: MIN_BYTES,
            cache_bytes: 256 << 10,
            leaf_cache_bytes: 64 << 10,
            segment_bytes: 256 << 10,
            checkpoint_segments: 4,
            max_in_flight: 4,
            on_outage: OnOutage::FailAfter(Duration::from_secs(5)),
            takeover: self.takeover,
            lose_journal: self.lose_journal,
            resume: self.resume.then(|| vec![writer(1), writer(2), writer(3)]),
            expect_epoch: self.expect.map(u32::from),
            ..AttachOptions::new(host, DIR.join("journal"), DIR.join("state"))
        };
        let attached = Volume::attach(pool, record, options, env.clone()).await;
        let volume = match attached {
            Ok(volume) => volume,
            Err(e) => {
                // Every error has words.
                assert!(!e.to_string().is_empty());
                return;
            }
        };
        for one in self.uses.iter().take(16) {
            one.run(&volume, env).await;
        }
        volume.status();
        let detached = volume.detach().await;
        volume.status();
        drop((detached, volume));
    }

    /// The ring that the newest opening names.
    fn journal(&self, pool: &Pool, record: &VolumeRecord) {
        let dir = DIR.join("journal");
        std::fs::create_dir_all(&dir).expect("there is room in /dev/shm");
        let Some(journal) = &self.journal else { return };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let path = dir.join(format!("{}-{:08x}-{}.ring", hex(&pool.id()[..8]), record.number, hex(&RING)));
        journal.make(&path, pool, record, self.last_op());
    }

    /// What the log's last operation should be.
    fn last_op(&self) -> u64 {
        let count = |e: &Epoch| e.segments.iter().take(MAX_SEGMENTS).count() as u64 * 4;
        self.epochs.iter().take(MAX_EPOCHS).map(count).sum()
    }

    /// The objects of log and map.
    fn objects(&self, pool: &Pool, record: &VolumeRecord) -> Vec<(String, Bytes)> {
        let mut objects = Vec::new();
        let v = record.number;
        let data = SegmentId::data(v, 1, 1);
        let mut builder = SegmentBuilder::new(pool.keys().clone(), data, [8; 16], Compression::Lz4);
        let nodes: Vec<RecordRef> = self
            .nodes
            .iter()
            .take(8)
            .map(|n| builder.add_node(n.level % 4, u64::from(n.index), &n.plaintext))
            .collect();
        objects.push((data.key(), builder.finish(tail(OpRange::NONE, [0; 16], None)).bytes));
        let mut so_far = SoFar { pool, v, nodes, last_op: 0, end: None, ranges: Vec::new() };
        for (i, epoch) in self.epochs.iter().take(MAX_EPOCHS).enumerate() {
            so_far.epoch(i as u32 + 1, epoch, &mut objects);
        }
        objects
    }
}

fn writer(epoch: u32) -> [u8; 16] {
    [epoch as u8 + 100; 16]
}

fn tail(ops: OpRange, predecessor_salt: [u8; 16], checkpoint: Option<CheckpointRef>) -> SegmentTail {
    SegmentTail { ops, predecessor_salt, checkpoint, deletable: Vec::new() }
}

/// The log as a right writer would go on.
struct SoFar<'a> {
    pool: &'a Pool,
    v: u32,
    nodes: Vec<RecordRef>,
    last_op: u64,
    /// Epoch, seq and salt of the end, and who sealed it.
    end: Option<(u32, u64, [u8; 16], [u8; 16])>,
    ranges: Vec<ReplayRange>,
}

impl SoFar<'_> {
    fn checkpoint(&self, c: &Checkpoint, epoch: u64, seq: u64) -> CheckpointRef {
        let root = c.root.and_then(|(node, levels)| {
            let record = *self.nodes.get(usize::from(node) % self.nodes.len().max(1))?;
            Some(RootRef { record, levels })
        });
        CheckpointRef {
            root,
            covers_epoch: c.epoch.of(epoch) as u32,
            covers_seq: c.seq.of(seq) & MAX_SEQ,
            last_op: c.last_op.of(self.last_op) & MAX_OP,
            usage: None,
        }
    }

    fn epoch(&mut self, right: u32, epoch: &Epoch, objects: &mut Vec<(String, Bytes)>) {
        let k = epoch.number.of(right.into()) as u32;
        let keys = self.pool.keys();
        let opening = self.opening(k, right, &epoch.opening);
        let body = match &epoch.opening.raw {
            Some(raw) => Bytes::copy_from_slice(raw),
            None => opening.seal(keys, [20 + right as u8; 16]),
        };
        objects.push((SegmentId::log(self.v, k, 0).key(), body));
        let (mut salt, mut next) = (writer(right), 1);
        for (i, segment) in epoch.segments.iter().take(MAX_SEGMENTS).enumerate() {
            let seq = segment.seq.of(next);
            let id = SegmentId::log(self.v, k, seq);
            let own = [40 + right as u8 * 8 + i as u8; 16];
            let bytes = self.segment(segment, id, own, if segment.wrong_salt { [1; 16] } else { salt });
            objects.push((id.key(), bytes));
            (salt, next) = (own, (seq.wrapping_add(1) & MAX_SEQ).max(1));
            self.last_op += 4;
        }
        self.ranges.push(ReplayRange { epoch: k, first_seq: 1, end_seq: next });
        let sealer = [90 + right as u8; 16];
        if let Some(end) = &epoch.seal {
            let seq = end.seq.of(next);
            let seal = Seal {
                volume: self.v,
                epoch: k,
                seq,
                writer: sealer,
                clean: end.clean,
                predecessor_salt: if end.wrong_salt { [2; 16] } else { salt },
                wall_ms: 5,
            };
            let body = match &end.raw {
                Some(raw) => Bytes::copy_from_slice(raw),
                None => seal.seal(keys, [60 + right as u8; 16]),
            };
            objects.push((SegmentId::log(self.v, k, seq).key(), body));
        }
        self.end = Some((k, next, salt, sealer));
    }

    fn opening(&self, k: u32, right: u32, start: &Start) -> Opening {
        let replay = if start.replay.is_empty() {
            self.ranges.clone()
        } else {
            let range = |(epoch, first, end): &(Number, Number, Number)| {
                let (first_seq, end_seq) = (first.of(1), end.of(2));
                ReplayRange { epoch: epoch.of(1) as u32, first_seq, end_seq: end_seq.max(first_seq) }
            };
            start.replay.iter().take(4).map(range).collect()
        };
        let predecessor = self.end.filter(|_| !start.predecessor).map(|(epoch, seq, salt, seal_writer)| Predecessor {
            epoch,
            end_seq: start.end_seq.of(seq),
            salt,
            seal_writer,
        });
        Opening {
            volume: self.v,
            epoch: k,
            writer: writer(right),
            host: [start.host % 2; 16],
            boot: [start.host / 2 % 2; 16],
            hostname: "other".into(),
            ring: RING,
            domain: if start.journal_domain { Domain::Journal } else { Domain::Object },
            size: SIZE,
            predecessor,
            start: match start.start.root {
                // What a first epoch starts from.
                None => self.checkpoint(&Checkpoint { last_op: Number::Any(0), ..start.start }, 0, 0),
                Some(_) => self.checkpoint(&start.start, 0, 0),
            },
            replay,
            last_op: start.last_op.of(self.last_op),
            wall_ms: start.wall_ms,
            tombstone: start.tombstone,
        }
    }

    fn segment(&self, segment: &Segment, id: SegmentId, own: [u8; 16], before: [u8; 16]) -> Bytes {
        if let Some(raw) = &segment.raw {
            return Bytes::copy_from_slice(raw);
        }
        let mut builder = SegmentBuilder::new(self.pool.keys().clone(), id, own, Compression::Lz4);
        for (extent, mask) in segment.records.iter().take(8).filter(|r| r.1 != 0) {
            builder.add_extent(u64::from(*extent), *mask, &vec![own[0]; mask.count_ones() as usize * 4096]);
        }
        for (lba, blocks) in segment.trims.iter().take(8) {
            builder.add_trim(u64::from(*lba), *blocks % (1 << 51));
        }
        let first = segment.first_op.of(self.last_op + 1);
        // The builder holds its own output to what a reader takes; the target `segment` has what it does not.
        let first = first & MAX_OP;
        let ops = OpRange { first, last: segment.ops.of(first.wrapping_add(3)) & MAX_OP };
        let checkpoint =
            segment.checkpoint.as_ref().map(|c| self.checkpoint(c, id.epoch().into(), id.number().wrapping_sub(1)));
        builder.finish(tail(ops, before, checkpoint)).bytes
    }
}

impl Journal {
    fn make(&self, path: &Path, pool: &Pool, record: &VolumeRecord, last_op: u64) {
        let first_op = self.first_op.of(last_op + 1);
        let volume = if self.foreign { 77 } else { record.number };
        let spec = RingSpec { pool: *pool.id(), volume, ring: RING, bytes: MIN_BYTES, first_op };
        let options = RingOptions { mlock: MlockPolicy::Off, require_tmpfs: true };
        // Numbers that no ring can begin with leave a file that is none.
        let Ok(ring) = Ring::create(path, &spec, &options) else { return };
        for n in 0..self.writes % 8 {
            let mut slot = ring.reserve(&OpHeader::write(u64::from(n) * 3, 2)).expect("a new ring has room");
            slot.body().fill(n);
            if n % 4 != 3 {
                slot.complete();
            }
        }
    }
}

impl Use {
    async fn run(&self, volume: &Volume, env: &Env) {
        let blocks = SIZE / 4096;
        match *self {
            Self::Read { block, blocks: n } => {
                let offset = u64::from(block) % (blocks - 256) * 4096;
                let len = (usize::from(n) + 1) * 4096;
                if let Ok(data) = volume.read(offset, len, BytesMut::new()).await {
                    assert_eq!(data.len(), len);
                }
            }
            Self::Write { block, part } => {
                let (skip, len) = if part { (512, 1024) } else { (0, 8192) };
                let offset = u64::from(block) % (blocks - 256) * 4096 + skip;
                let written = volume.write(offset, Bytes::from(vec![0xcd; len]), false).await;
                if written.is_ok()
                    && let Ok(data) = volume.read(offset, len, BytesMut::new()).await
                {
                    assert!(data.iter().all(|b| *b == 0xcd), "what was written is read");
                }
            }
            Self::Trim { block, blocks: n } => {
                let offset = u64::from(block) % (blocks - 256) * 4096;
                let len = (u64::from(n) * 4096).min(SIZE - offset);
                drop(volume.discard(offset, len, false).await);
            }
            Self::Flush => drop(volume.flush().await),
            Self::Wait => env.clock.sleep(Duration::from_secs(3)).await,
        }
    }
}
