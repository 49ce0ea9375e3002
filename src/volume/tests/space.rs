//! Space comes back: deletion, compaction, orphans, and nothing that anybody reads changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hooked::{Act, Hooked};
use super::*;

/// Compaction that begins early.
pub(super) fn eager(w: &World) -> AttachOptions {
    let compact = CompactOptions { slack: 64 << 10, tiny_segments: 8, ..CompactOptions::default() };
    AttachOptions { compact, ..w.options(1, 1) }
}

impl World {
    /// Objects of the volume below a prefix, and their bytes.
    async fn stored(&self, prefix: &str) -> (usize, u64) {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.objects.list(Some(&Path::from(format!("p/{prefix}")))).try_collect().await.unwrap();
        (listed.len(), listed.iter().map(|m| m.size).sum())
    }

    async fn all_stored(&self) -> (usize, u64) {
        let (log, data) = (self.stored("log").await, self.stored("data").await);
        (log.0 + data.0, log.1 + data.1)
    }

    pub(super) async fn settle(&self) {
        self.env.clock.sleep(Duration::from_secs(120)).await;
    }
}

/// What each block must be: the seed of its noise, or none for zeroes.
type Model = BTreeMap<u64, u64>;

async fn write(v: &Volume, model: &mut Model, lba: u64, seed: u64) {
    v.write(lba * 4096, noise(4096, seed), false).await.unwrap();
    model.insert(lba, seed);
}

async fn check(v: &Volume, model: &Model, blocks: u64) {
    for lba in 0..blocks {
        let expected = model.get(&lba).map_or_else(|| vec![0; 4096], |seed| noise(4096, *seed).to_vec());
        assert_eq!(read(v, lba * 4096, 4096).await.unwrap(), expected, "block {lba}");
    }
}

/// The next of the made-up random numbers that `x` is at, below `n`.
fn draw(x: &mut u64, n: u64) -> u64 {
    *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*x >> 33) % n
}

#[test]
fn what_is_overwritten_and_trimmed_leaves_the_bucket() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        for round in 0..6 {
            for lba in 0..1024 {
                write(&v, &mut model, lba, round * 10_000 + lba).await;
            }
        }
        v.flush().await.unwrap();
        w.settle().await;
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < (1024 * 4096) * 3 / 2, "{bytes} bytes for 4 MiB");
        v.discard(0, 512 * 4096, false).await.unwrap();
        model.retain(|lba, _| *lba >= 512);
        v.discard(0, 512 * 4096, false).await.unwrap();
        v.flush().await.unwrap();
        // A small trim is no reason for a checkpoint of its own; this many writes are.
        for lba in 2000..2600 {
            write(&v, &mut model, lba, lba).await;
        }
        v.flush().await.unwrap();
        w.settle().await;
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < (1112 * 4096) * 3 / 2, "{bytes} bytes for 4.3 MiB");
        check(&v, &model, 2700).await;
        v.detach().await.unwrap();
        w.crash(v).await;
        let v = w.attach().await.unwrap();
        check(&v, &model, 2700).await;
    });
}

#[test]
fn random_overwrites_are_compacted_and_read_as_before() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        let mut x = 1u64;
        for n in 0..20_000u64 {
            write(&v, &mut model, draw(&mut x, 2048), n).await;
        }
        v.flush().await.unwrap();
        w.settle().await;
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < 2048 * 4096 * 14 / 10, "{bytes} bytes for 8 MiB, {:?}", v.engine.accounts.totals());
        assert!(v.engine.compaction.done().written > 0, "nothing was compacted");
        check(&v, &model, 2100).await;
        // A crash of the daemon, and of the host.
        w.crash(v).await;
        let v = w.attach_as(eager(&w)).await.unwrap();
        check(&v, &model, 2100).await;
        w.settle().await;
        w.crash(v).await;
        w.lose_journals(1);
        let v = w.attach_as(w.options(1, 2)).await.unwrap();
        check(&v, &model, 2100).await;
    });
}

#[test]
fn tiny_segments_of_flushes_are_merged() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        for n in 0..300 {
            write(&v, &mut model, n * 7, n).await;
            v.flush().await.unwrap();
        }
        w.settle().await;
        let (objects, _) = w.all_stored().await;
        assert!(objects < 60, "{objects} objects after 300 flushes");
        check(&v, &model, 2200).await;
        v.detach().await.unwrap();
        w.crash(v).await;
        let v = w.attach().await.unwrap();
        check(&v, &model, 2200).await;
    });
}

#[test]
fn a_discard_of_everything_frees_everything() {
    let w = World::new(1 << 44);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        for n in 0..64u64 {
            v.write(n << 38, noise(64 << 10, n), false).await.unwrap();
        }
        v.flush().await.unwrap();
        w.settle().await;
        let before = w.env.clock.now();
        v.discard(0, 1 << 44, false).await.unwrap();
        v.flush().await.unwrap();
        assert!(w.env.clock.now() - before < Duration::from_secs(1));
        w.settle().await;
        let (objects, bytes) = w.all_stored().await;
        assert!(objects < 12 && bytes < 64 << 10, "{objects} objects, {bytes} bytes: {:?}", w.keys("").await);
        assert_eq!(read(&v, 5 << 38, 4096).await.unwrap(), vec![0; 4096]);
    });
}

#[test]
fn an_idle_volume_asks_for_nothing() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        for n in 0..3000 {
            write(&v, &mut model, n % 700, n).await;
        }
        v.discard(0, 4096 * 100, false).await.unwrap();
        v.flush().await.unwrap();
        w.settle().await;
        let requests = || w.pool.store().counts().iter().map(|c| c.requests).sum::<u64>();
        let before = requests();
        w.env.clock.sleep(Duration::from_secs(600)).await;
        assert_eq!(requests(), before);
    });
}

/// Found by a review: a detach lists what is dead, and ends before it is deleted; who attached after it looked ten seconds later.
#[test]
fn short_sessions_delete_what_those_before_left_dead() {
    let w = World::new(64 << 20);
    w.run(async {
        for n in 0..40 {
            let v = w.attach_as(eager(&w)).await.unwrap();
            w.env.clock.sleep(Duration::from_secs(1)).await;
            v.write(0, noise(512 << 10, n), false).await.unwrap();
            v.detach().await.unwrap();
            w.crash(v).await;
        }
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < 3 << 20, "{bytes} bytes for 512 KiB");
        let v = w.attach_as(eager(&w)).await.unwrap();
        assert_eq!(read(&v, 0, 512 << 10).await.unwrap(), noise(512 << 10, 39));
    });
}

#[test]
fn nothing_holds_a_volume_that_was_given_back() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, noise(4096, 1), false).await.unwrap();
        v.flush().await.unwrap();
        w.settle().await;
        let engine = Arc::downgrade(&v.engine);
        v.detach().await.unwrap();
        drop(v);
        w.env.clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(engine.strong_count(), 0, "its journal, caches and map stay in memory");
    });
}

#[test]
fn a_lost_object_does_not_stop_compaction() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        for lba in 0..1024 {
            write(&v, &mut model, lba, lba).await;
        }
        v.flush().await.unwrap();
        w.settle().await;
        let lost = w.keys("log/").await.into_iter().nth(2).unwrap();
        assert!(w.object(&lost).await.len() > 100_000, "{lost} holds data");
        w.objects.delete(&Path::from(lost.as_str())).await.unwrap();
        let mut x = 1u64;
        for n in 0..12_000 {
            write(&v, &mut model, draw(&mut x, 1000), 5000 + n).await;
        }
        v.flush().await.unwrap();
        w.settle().await;
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < 1024 * 4096 * 2, "{bytes} bytes for 4 MiB: {:?}", v.engine.accounts.totals());
        assert!(v.engine.compaction.done().written > 0, "nothing was compacted");
    });
}

#[test]
fn a_sequential_read_of_what_was_overwritten_at_random_takes_few_ranges() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(AttachOptions { segment_bytes: 1 << 20, ..eager(&w) }).await.unwrap();
        let mut model = Model::new();
        v.write(0, noise(4 << 20, 1), false).await.unwrap();
        v.write(4 << 20, noise(4 << 20, 2), false).await.unwrap();
        for n in 0..3000 {
            write(&v, &mut model, (n * 7919) % 2048, 5000 + n).await;
        }
        v.flush().await.unwrap();
        let before = ranges_per_mib(&v).await;
        v.compact(&|_| ()).await.unwrap();
        let after = ranges_per_mib(&v).await;
        println!("GETs for a MiB: {before:.1} before, {after:.1} after");
        assert!(before > 4.0, "{before} before: nothing was scattered");
        assert!(after <= 2.0, "{after} after; a MiB that crosses the end of a segment takes 2");
        for (lba, seed) in &model {
            assert_eq!(read(&v, lba * 4096, 4096).await.unwrap(), noise(4096, *seed).to_vec());
        }
    });
}

/// GETs that a sequential read of the first 8 MiB takes, by the MiB.
async fn ranges_per_mib(v: &Volume) -> f64 {
    let mut ranges = 0;
    for mib in 0..8 {
        let extents: Vec<u64> = (mib * 32..(mib + 1) * 32).collect();
        let found = super::super::merge::resolve(&v.engine, extents).await.unwrap();
        ranges += crate::compact::ranges(found.iter().flat_map(|(_, pieces)| pieces));
    }
    ranges as f64 / 8.0
}

#[test]
fn an_idle_volume_behind_a_slow_store_asks_for_nothing() {
    let w = World::new(64 << 20);
    w.run(async {
        let slow = |verb: &str, _: &str| if verb == "put" { Act::Slow(Duration::from_secs(2)) } else { Act::Fine };
        let pool = Hooked::pool(&w, slow).await;
        let v = Volume::attach(&pool, &w.volume, eager(&w), w.env.clone()).await.unwrap();
        let mut model = Model::new();
        for n in 0..1500 {
            write(&v, &mut model, n % 300, n).await;
        }
        v.discard(0, 4096 * 100, false).await.unwrap();
        v.flush().await.unwrap();
        for _ in 0..3 {
            w.settle().await;
        }
        let requests = || pool.store().counts().iter().map(|c| c.requests).sum::<u64>();
        let before = requests();
        w.env.clock.sleep(Duration::from_secs(600)).await;
        assert_eq!(requests(), before);
    });
}

#[test]
fn leaves_are_looked_at_side_by_side() {
    let w = World::new(16 << 30);
    w.run(async {
        let slow = |verb: &str, _: &str| if verb == "get" { Act::Slow(Duration::from_millis(20)) } else { Act::Fine };
        let pool = Hooked::pool(&w, slow).await;
        let compact = CompactOptions { enabled: false, ..CompactOptions::default() };
        let options = AttachOptions { compact, leaf_cache_bytes: 16 << 20, ..w.options(1, 1) };
        let v = Volume::attach(&pool, &w.volume, options.clone(), w.env.clone()).await.unwrap();
        // A block in each of 1,000 leaves, twice: half of each segment is garbage.
        for n in [1, 2] {
            for leaf in 0..1000 {
                v.write(leaf << 24, noise(4096, leaf * n), false).await.unwrap();
                v.write((leaf << 24) + n * 8192, noise(4096, leaf * n), false).await.unwrap();
            }
        }
        v.flush().await.unwrap();
        v.detach().await.unwrap();
        let v = Volume::attach(&pool, &w.volume, options, w.env.clone()).await.unwrap();
        let begun = w.env.clock.now();
        let done = v.compact(&|_| ()).await.unwrap();
        let took = w.env.clock.now() - begun;
        assert!(done.segments > 10, "{done:?}");
        assert!(
            took < Duration::from_secs(10),
            "{took:?}: one GET of 20 ms after the other for 1,000 leaves takes 20 s"
        );
    });
}

#[test]
fn what_was_trimmed_before_a_crash_leaves_the_bucket_after_it() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        for n in 0..32u64 {
            v.write(n << 20, noise(1 << 20, n), false).await.unwrap();
        }
        v.flush().await.unwrap();
        w.settle().await;
        v.discard(0, 64 << 20, false).await.unwrap();
        v.flush().await.unwrap();
        w.crash(v).await;
        w.lose_journals(1);
        let v = w.attach_as(AttachOptions { takeover: true, lose_journal: true, ..eager(&w) }).await.unwrap();
        w.settle().await;
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < 64 << 10, "{bytes} bytes of an empty volume");
        assert_eq!(read(&v, 5 << 20, 4096).await.unwrap(), vec![0; 4096]);
    });
}

#[test]
fn a_volume_that_is_never_quiet_gives_space_back_too() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(AttachOptions { checkpoint_segments: 10_000, ..eager(&w) }).await.unwrap();
        for n in 0..32u64 {
            v.write(n << 20, noise(1 << 20, n), false).await.unwrap();
        }
        v.flush().await.unwrap();
        w.settle().await;
        v.discard(1 << 20, 31 << 20, false).await.unwrap();
        for n in 0..180 {
            v.write(0, noise(4096, n), false).await.unwrap();
            v.flush().await.unwrap();
            w.env.clock.sleep(Duration::from_secs(1)).await;
        }
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < 4 << 20, "{bytes} bytes for 1 MiB");
    });
}

#[test]
fn a_volume_that_is_let_go_does_not_wait_for_the_store() {
    let w = World::new(64 << 20);
    w.run(async {
        let deaf = |verb: &str, key: &str| match (verb, key.starts_with("data")) {
            ("list", true) => Act::Hang,
            _ => Act::Fine,
        };
        let pool = Hooked::pool(&w, deaf).await;
        let v = Volume::attach(&pool, &w.volume, eager(&w), w.env.clone()).await.unwrap();
        w.env.clock.sleep(Duration::from_secs(5)).await;
        let engine = Arc::downgrade(&v.engine);
        w.crash(v).await;
        w.env.clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(engine.strong_count(), 0, "looking for orphans keeps it, and its journal");
    });
}

#[test]
fn compaction_stops_where_nothing_can_be_deleted() {
    let w = World::new(64 << 20);
    w.run(async {
        let undeletable = |verb: &str, _: &str| if verb == "delete" { Act::Fail } else { Act::Fine };
        let pool = Hooked::pool(&w, undeletable).await;
        let v = Volume::attach(&pool, &w.volume, eager(&w), w.env.clone()).await.unwrap();
        let mut model = Model::new();
        let mut x = 1u64;
        for n in 0..12_000u64 {
            write(&v, &mut model, draw(&mut x, 1024), n).await;
            if n % 1000 == 999 {
                v.flush().await.unwrap();
                w.env.clock.sleep(Duration::from_secs(600)).await;
            }
        }
        let done = v.engine.compaction.done();
        assert_eq!(done.deleted, 0);
        assert!(done.written > 0, "nothing was compacted before it was known");
        assert!(done.written < 8 << 20, "{done:?}: 4 MiB are copied again and again, and nothing ever goes");
        check(&v, &model, 1024).await;
    });
}

/// Found by a reviewer: moves waited until the log was cut for another reason, an hour here.
#[test]
fn a_merge_ends_beside_writes_that_nobody_flushes() {
    let w = World::new(64 << 20);
    w.run(async {
        let options = AttachOptions { max_unflushed_age: Duration::from_secs(3600), ..eager(&w) };
        let v = w.attach_as(options).await.unwrap();
        let mut model = Model::new();
        for n in 0..3000 {
            write(&v, &mut model, (n * 7919) % 1024, n).await;
        }
        v.flush().await.unwrap();
        let began = w.env.clock.now();
        let trickle = async {
            for n in 0.. {
                v.write(2000 * 4096, noise(4096, n), false).await.unwrap();
                w.env.clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let (merged, trickle) = (std::pin::pin!(v.compact(&|_| ())), std::pin::pin!(trickle));
        let first = futures::future::select(merged, trickle).await;
        assert!(matches!(first, futures::future::Either::Left((Ok(_), _))));
        let took = w.env.clock.now() - began;
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(v.engine.compaction.done().written > 0, "nothing was compacted");
        check(&v, &model, 1024).await;
    });
}

/// Found by a reviewer: what came damaged once was left where it was, and called damaged in the bucket.
#[test]
fn damage_on_the_way_is_looked_at_twice() {
    let w = World::new(64 << 20);
    w.run(async {
        // 0: none is flipped yet.
        let gets = Arc::new(AtomicU64::new(0));
        let counted = gets.clone();
        let every_fifth = move |verb: &str, _: &str| match verb {
            "get"
                if counted.load(Ordering::Relaxed) > 0 && counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) =>
            {
                Act::Flip
            }
            _ => Act::Fine,
        };
        let v = w.attach_as(eager(&w)).await.unwrap();
        let mut model = Model::new();
        for n in 0..3000 {
            write(&v, &mut model, (n * 7919) % 1024, n).await;
        }
        v.detach().await.unwrap();
        w.crash(v).await;
        let pool = Hooked::pool(&w, every_fifth).await;
        let v = Volume::attach(&pool, &w.volume, eager(&w), w.env.clone()).await.unwrap();
        gets.store(1, Ordering::Relaxed);
        v.compact(&|_| ()).await.unwrap();
        w.settle().await;
        let status = v.status();
        assert_eq!(status.last_error, None);
        assert!(gets.load(Ordering::Relaxed) > 25, "hardly anything was read");
        gets.store(0, Ordering::Relaxed);
        let (_, bytes) = w.all_stored().await;
        assert!(bytes < (1024 * 4096) * 11 / 10, "{bytes} bytes for 4 MiB");
        check(&v, &model, 1024).await;
    });
}

/// Found by a reviewer: `df` of a running owner called it garbage.
#[test]
fn what_no_checkpoint_has_counted_is_new_and_no_garbage() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach_as(eager(&w)).await.unwrap();
        // No accounts, no figures: they are read, or made, a moment later.
        w.env.clock.sleep(Duration::from_secs(5)).await;
        v.write(0, noise(512 << 10, 1), false).await.unwrap();
        v.flush().await.unwrap();
        w.env.clock.sleep(Duration::from_secs(1)).await;
        let s = v.status().space.unwrap();
        assert!(s.new > 500 << 10, "{s:?}");
        assert_eq!(s.stored, s.live + s.new + s.overhead + s.dead, "{s:?}");
        v.compact(&|_| ()).await.unwrap();
        let s = v.status().space.unwrap();
        assert!(s.live > 500 << 10 && s.new < 4096 && s.overhead > 0, "{s:?}");
    });
}
