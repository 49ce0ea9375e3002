//! The whole engine: front-end threads, cutter, publisher and PUTs of one volume, over a store in memory. Time stands
//! still, so that whoever should be woken and is not waits for ever.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Plain;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use esker_block::BlockDevice;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use secrecy::SecretString;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, thread};

use crate::env::{Clock, Entropy, Env, Spawner};
use crate::explore;
use crate::harness::{Model, holds};
use crate::pool::{Argon2Params, Compression, NewVolume, Pool};
use crate::store::Store;
use crate::volume::{AttachOptions, Host, Volume};

pub const MODELS: &[Model] = &[
    Model {
        name: "engine::a_reader_never_sees_a_hole_or_the_past",
        weak: &["the index before the map"],
        explore: |n| explore(100 * n, 700 * n, readers),
    },
    Model {
        name: "engine::a_write_after_idleness_wakes_the_cutter",
        weak: &["no look after arming"],
        explore: |n| explore(400 * n, 400 * n, idleness),
    },
    Model { name: "engine::writers_get_by_with_a_full_journal", weak: &[], explore: |n| explore(8 * n, 8 * n, full) },
];

struct World(Plain);

/// A sleep of up to a millisecond is a turn; a longer one never ends.
struct Sleep(bool);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.0) {
            // Also a thread of the highest priority lets others go on.
            thread::yield_now();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Clock for World {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_ms(&self) -> u64 {
        0
    }

    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        match d > Duration::from_millis(1) {
            true => Box::pin(futures::future::pending()),
            false => Box::pin(Sleep(true)),
        }
    }
}

impl Entropy for World {
    fn fill(&self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            chunk.copy_from_slice(&(n ^ n >> 29).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Spawner for World {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(future::spawn(task));
    }

    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

fn attach(unflushed: Duration) -> Arc<Volume> {
    let world = Arc::new(World(Plain::new(1)));
    let env = Env { clock: world.clone(), entropy: world.clone(), spawner: world };
    let dir = PathBuf::from(format!("/dev/shm/esker-models-{}", std::process::id()));
    // Absent, mostly: what an earlier schedule left.
    drop(std::fs::remove_dir_all(&dir));
    future::block_on(async {
        let store = Store::over(Arc::new(InMemory::new()), "p", "models", env.clone());
        let cheap = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };
        let pool = Pool::format(store, &SecretString::from("secret"), cheap, &env).await.unwrap();
        let new = NewVolume { name: "v".into(), size: 64 << 20, block_size: 4096, compression: Compression::None };
        let volume = pool.create_volume(new, &env).await.unwrap();
        let options = AttachOptions {
            journal_bytes: 4 << 20,
            segment_bytes: 1 << 20,
            max_unflushed_age: unflushed,
            ..AttachOptions::new(
                Host { id: [1; 16], boot: [2; 16], name: "models".into() },
                dir.join("journal"),
                dir.join("state"),
            )
        };
        let attached = Arc::new(Volume::attach(&pool, &volume, options, env.clone()).await.unwrap());
        // The journal is mapped and needs its name no longer.
        std::fs::remove_dir_all(&dir).unwrap();
        attached
    })
}

/// What block 3 holds after each operation of the writer; 0 is a trim.
const CONTENTS: [u8; 6] = [0, 1, 0, 2, 3, 0];

/// One writes, trims and flushes a block; two read it: each time what some operation left that was under way or newest.
fn readers() {
    let volume = attach(Duration::from_secs(1));
    let (began, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (volume, began, ended) = (volume.clone(), began.clone(), ended.clone());
            thread::spawn(move || {
                for _ in 0..8 {
                    let from = ended.load(Ordering::SeqCst) as usize;
                    let read = future::block_on(volume.read(3 * 4096, 4096, BytesMut::new())).unwrap();
                    let to = began.load(Ordering::SeqCst) as usize;
                    let seen = read[17];
                    let known = CONTENTS[from..=to].contains(&seen);
                    holds(known, || format!("{seen} after operations {from} to {to}"));
                    thread::yield_now();
                }
            })
        })
        .collect();
    for (i, content) in CONTENTS.iter().enumerate().skip(1) {
        began.store(i as u64, Ordering::SeqCst);
        match content {
            0 => future::block_on(volume.discard(2 * 4096, 4 * 4096, false)).unwrap(),
            n => future::block_on(volume.write(3 * 4096, Bytes::from(vec![*n; 4096]), false)).unwrap(),
        }
        ended.store(i as u64, Ordering::SeqCst);
        if i % 2 == 1 {
            future::block_on(volume.flush()).unwrap();
        }
    }
    readers.into_iter().for_each(|r| r.join().unwrap());
}

/// Writes go out as soon as the cutter sees them; each comes to a cutter that has just fallen asleep, or is about to.
fn idleness() {
    let volume = attach(Duration::ZERO);
    for n in 0..3u64 {
        future::block_on(volume.write(n * 4096, Bytes::from(vec![7; 4096]), false)).unwrap();
        // No schedule needs nearly as many turns, unless the cutter sleeps.
        let out = (0..5000).any(|_| {
            thread::yield_now();
            volume.status().unflushed_bytes == 0
        });
        holds(out, || "the cutter sleeps over a write".into());
    }
}

/// Two write more than the journal holds; nobody flushes.
fn full() {
    let volume = attach(Duration::from_secs(1));
    let writers: Vec<_> = (0..2u64)
        .map(|w| {
            let volume = volume.clone();
            thread::spawn(move || {
                for n in 0..3 {
                    let data = Bytes::from(vec![9; 1 << 20]);
                    future::block_on(volume.write((w * 8 + n) << 20, data, false)).unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
}
