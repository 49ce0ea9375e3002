//! Pools that are damaged in each way, and the exact finding.
#![allow(clippy::unwrap_used)]

mod accounts;
mod chains;
mod damage;
mod explain;
mod leaks;
mod live;
mod model;
mod slow;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker_block::BlockDevice;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use secrecy::SecretString;
use tempfile::TempDir;

use super::*;
use crate::pool::{Argon2Params, NewVolume, VolumeRecord};
use crate::segment::{Compression, SegmentId};
use crate::store::Store;
use crate::store::timeline::Timeline;
use crate::volume::{AttachOptions, CompactOptions, Host, Volume};

const SIZE: u64 = 64 << 20;

/// A pool with one volume, and a host that may attach it.
struct World {
    time: Timeline,
    env: Env,
    objects: Arc<InMemory>,
    pool: Pool,
    volume: VolumeRecord,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let time = Timeline::default();
        let env = time.env();
        let objects = Arc::new(InMemory::new());
        let store = Store::over(objects.clone(), "p", "test", env.clone());
        let cheap = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };
        let (pool, volume) = time.run(async {
            let pool = Pool::format(store, &SecretString::from("secret"), cheap, &env).await.unwrap();
            let volume = pool.create_volume(Self::called("v"), &env).await.unwrap();
            (pool, volume)
        });
        Self { time, env, objects, pool, volume, dir: tempfile::tempdir().unwrap() }
    }

    fn called(name: &str) -> NewVolume {
        NewVolume { name: name.into(), size: SIZE, block_size: 4096, compression: Compression::Lz4 }
    }

    /// With a history of three epochs and several checkpoints: detached, crashed, and left open by a crash.
    fn with_history() -> Self {
        let w = Self::new();
        w.run(async {
            let v = w.attach().await;
            for i in 0..30u64 {
                v.write(i * 7919 % 2048 * 32768 % SIZE, noise(4096 * (1 + i as usize % 9), i), true).await.unwrap();
            }
            v.discard(1 << 20, 3 << 20, true).await.unwrap();
            v.write(8192, Bytes::from(vec![0; 8192]), true).await.unwrap();
            v.detach().await.unwrap();
            drop(v);
            for epoch in 2..4u64 {
                let v = w.attach().await;
                for i in 0..13u64 {
                    v.write((i * 104_729 + epoch * 4096) / 4096 * 4096, noise(12288, epoch * 100 + i), true)
                        .await
                        .unwrap();
                }
                v.write(40 << 20, Bytes::from(vec![7; 65536]), true).await.unwrap();
                w.env.clock.sleep(Duration::from_secs(5)).await;
                drop(v);
                w.env.clock.sleep(Duration::from_millis(1)).await;
            }
        });
        w
    }

    fn options(&self) -> AttachOptions {
        let host = Host { id: [1; 16], boot: [1; 16], name: "host".into() };
        AttachOptions {
            journal_bytes: 4 << 20,
            require_tmpfs: false,
            cache_bytes: 256 << 10,
            leaf_cache_bytes: 64 << 10,
            segment_bytes: 256 << 10,
            checkpoint_segments: 8,
            max_in_flight: 4,
            max_unflushed_age: Duration::from_secs(1),
            // What is looked for must not be deleted before.
            compact: CompactOptions { enabled: false, ..CompactOptions::default() },
            ..AttachOptions::new(host, self.dir.path().join("journal"), self.dir.path().join("state"))
        }
    }

    async fn attach(&self) -> Volume {
        Volume::attach(&self.pool, &self.volume, self.options(), self.env.clone()).await.unwrap()
    }

    fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.time.run(main)
    }

    /// Below the pool's prefix, in order.
    async fn keys(&self, prefix: &str) -> Vec<String> {
        let listed: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        let keys: BTreeSet<String> =
            listed.into_iter().map(|m| m.location.as_ref().strip_prefix("p/").unwrap().to_owned()).collect();
        keys.into_iter().filter(|k| k.starts_with(prefix)).collect()
    }

    async fn object(&self, key: &str) -> Vec<u8> {
        self.objects.get(&Path::from(format!("p/{key}"))).await.unwrap().bytes().await.unwrap().to_vec()
    }

    async fn put(&self, key: &str, body: &[u8]) {
        self.objects.put(&Path::from(format!("p/{key}")), body.to_vec().into()).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.objects.delete(&Path::from(format!("p/{key}"))).await.unwrap();
    }

    /// Flips the lowest bit of the byte at `at`; from the end if it is negative.
    async fn flip(&self, key: &str, at: i64) {
        let mut body = self.object(key).await;
        let at = if at < 0 { body.len() as i64 + at } else { at };
        body[at as usize] ^= 1;
        self.put(key, &body).await;
    }

    async fn cut(&self, key: &str, len: usize) {
        let body = self.object(key).await;
        self.put(key, &body[..len]).await;
    }

    async fn swap(&self, a: &str, b: &str) {
        let (one, other) = (self.object(a).await, self.object(b).await);
        self.put(a, &other).await;
        self.put(b, &one).await;
    }

    async fn look(&self, data: bool) -> Report {
        let options = ScrubOptions { data, ..ScrubOptions::default() };
        scrub(&self.pool, None, options, &self.env, &()).await.unwrap()
    }

    async fn scrub(&self) -> Report {
        self.look(true).await
    }

    async fn fsck(&self) -> Report {
        self.look(false).await
    }

    fn log(&self, epoch: u32, seq: u64) -> String {
        SegmentId::log(self.volume.number, epoch, seq).key()
    }
}

/// What a finding says: kind, key, ranges.
type Said = (&'static str, String, Vec<(u64, u64)>);

fn said(report: &Report) -> Vec<Said> {
    let one = |f: &&Finding| {
        let ranges = f.ranges.iter().map(|r| (r.offset, r.length)).collect();
        (f.kind.word(), f.key.clone(), ranges)
    };
    report.findings.sorted().iter().map(one).collect()
}

#[track_caller]
fn clean(report: &Report) {
    let all: Vec<_> = report.findings.sorted();
    assert!(all.is_empty(), "{all:#?}");
}

/// The one finding.
#[track_caller]
fn only(report: &Report) -> Finding {
    let all = report.findings.sorted();
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0].clone()
}

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}
