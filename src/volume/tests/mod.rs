//! The engine on a store in memory and in made-up time: what it promises, checked through the block-device trait.
#![allow(clippy::unwrap_used)]

mod basics;
mod fencing;
mod holes;
mod hooked;
mod model;
mod recovery;
mod regressions;
mod resume;
mod space;
mod space_crash;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use esker_block::{BlockDevice, BlockResult};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use secrecy::SecretString;
use tempfile::TempDir;

use super::{AttachError, AttachOptions, CompactOptions, Host, Volume};
use crate::env::Env;
use crate::pool::{Argon2Params, NewVolume, Pool, VolumeRecord};
use crate::segment::Compression;
use crate::store::Store;
use crate::store::timeline::Timeline;

/// A host, a pool and one volume.
struct World {
    time: Timeline,
    env: Env,
    objects: Arc<InMemory>,
    pool: Pool,
    volume: VolumeRecord,
    dir: TempDir,
    compact: CompactOptions,
}

impl World {
    fn new(size: u64) -> Self {
        Self::with_blocks(size, 4096)
    }

    fn with_blocks(size: u64, block_size: u32) -> Self {
        let time = Timeline::default();
        let env = time.env();
        let objects = Arc::new(InMemory::new());
        let store = Store::over(objects.clone(), "p", "test", env.clone());
        let cheap = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };
        let password = SecretString::from("secret");
        let (pool, volume) = time.run(async {
            let pool = Pool::format(store, &password, cheap, &env).await.unwrap();
            let new = NewVolume { name: "v".into(), size, block_size, compression: Compression::Lz4 };
            let volume = pool.create_volume(new, &env).await.unwrap();
            (pool, volume)
        });
        Self { time, env, objects, pool, volume, dir: tempfile::tempdir().unwrap(), compact: CompactOptions::default() }
    }

    /// The options of host `n` in its boot `boot`; small, so that tests meet limits.
    fn options(&self, n: u8, boot: u8) -> AttachOptions {
        let host = Host { id: [n; 16], boot: [boot; 16], name: format!("host{n}") };
        let place = |what: &str| -> PathBuf { self.dir.path().join(format!("{what}{n}")) };
        AttachOptions {
            journal_bytes: 4 << 20,
            require_tmpfs: false,
            cache_bytes: 256 << 10,
            leaf_cache_bytes: 64 << 10,
            segment_bytes: 256 << 10,
            checkpoint_segments: 8,
            max_in_flight: 4,
            max_unflushed_age: Duration::from_secs(1),
            compact: self.compact,
            ..AttachOptions::new(host, place("journal"), place("state"))
        }
    }

    async fn attach(&self) -> Result<Volume, AttachError> {
        self.attach_as(self.options(1, 1)).await
    }

    async fn attach_as(&self, options: AttachOptions) -> Result<Volume, AttachError> {
        Volume::attach(&self.pool, &self.volume, options, self.env.clone()).await
    }

    fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.time.run(main)
    }

    /// The daemon dies: nothing is flushed, what is under way ends as it may, the journal stays.
    async fn crash(&self, volume: Volume) {
        drop(volume);
        self.env.clock.sleep(Duration::from_millis(1)).await;
    }

    /// Keys of objects, newest state.
    async fn keys(&self, prefix: &str) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.objects.list(Some(&Path::from(format!("p/{prefix}")))).try_collect().await.unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|m| m.location.to_string()).collect();
        keys.sort();
        keys
    }

    async fn object(&self, key: &str) -> Bytes {
        self.objects.get(&Path::from(key)).await.unwrap().bytes().await.unwrap()
    }

    async fn put(&self, key: &str, body: Bytes) {
        self.objects.put(&Path::from(key), body.into()).await.unwrap();
    }

    /// The tmpfs of a host is gone, as after a reboot.
    fn lose_journals(&self, n: u8) {
        std::fs::remove_dir_all(self.dir.path().join(format!("journal{n}"))).unwrap();
    }
}

/// A block of one byte.
fn block(b: u8) -> Bytes {
    Bytes::from(vec![b; 4096])
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

async fn read(volume: &Volume, offset: u64, len: usize) -> BlockResult<Vec<u8>> {
    volume.read(offset, len, BytesMut::new()).await.map(|b| b.to_vec())
}
