//! Two who want one volume, and stores that answer late, twice or not at all.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use esker_block::BlockError;
use futures::FutureExt;

use super::hooked::{Act, Hooked};
use super::*;
use crate::segment::SegmentId;

fn takeover(o: AttachOptions) -> AttachOptions {
    AttachOptions { takeover: true, ..o }
}

#[test]
fn another_host_is_refused_with_the_owners_name() {
    let w = World::new(1 << 20);
    w.run(async {
        let _v = w.attach().await.unwrap();
        let error = w.attach_as(w.options(2, 1)).await.err().unwrap();
        assert!(matches!(error, AttachError::InUse { .. }));
        let text = error.to_string();
        assert!(text.contains("host1") && text.contains("--takeover") && text.contains(" v "), "{text}");
        let same_host = w.attach().await.err().unwrap();
        assert!(matches!(same_host, AttachError::InUse { .. }), "{same_host}");
    });
}

#[test]
fn a_fenced_writer_gets_errors_and_never_a_success() {
    let w = World::new(1 << 20);
    w.run(async {
        let old = w.attach().await.unwrap();
        old.write(0, block(1), true).await.unwrap();
        let new = w.attach_as(takeover(w.options(2, 1))).await.unwrap();
        assert_eq!(read(&new, 0, 4096).await.unwrap(), block(1));
        // What the old one buffers is acknowledged, but no flush of it ever completes.
        old.write(0, block(9), false).await.unwrap();
        assert_eq!(old.flush().await, Err(BlockError::Fenced));
        assert_eq!(old.write(0, block(9), false).await, Err(BlockError::Fenced));
        assert_eq!(old.flush().await, Err(BlockError::Fenced));
        assert_eq!(old.detach().await, Err(BlockError::Fenced));
        new.write(4096, block(2), true).await.unwrap();
        assert_eq!(read(&new, 0, 4096).await.unwrap(), block(1));
        assert_eq!(read(&new, 4096, 4096).await.unwrap(), block(2));
    });
}

#[test]
fn of_two_attaches_at_once_one_wins() {
    let w = World::new(1 << 20);
    w.run(async {
        let first = w.attach().await.unwrap();
        first.write(0, block(1), true).await.unwrap();
        first.detach().await.unwrap();
        drop(first);
        let (a, b) = futures::join!(w.attach_as(w.options(2, 1)), w.attach_as(w.options(3, 1)));
        let (winner, loser) = match (a, b) {
            (Ok(v), Err(e)) | (Err(e), Ok(v)) => (v, e),
            (a, b) => panic!("one must win: {:?} {:?}", a.err(), b.err()),
        };
        assert!(matches!(loser, AttachError::LostRace { .. } | AttachError::InUse { .. }), "{loser}");
        assert_eq!(read(&winner, 0, 4096).await.unwrap(), block(1));
        winner.write(0, block(2), true).await.unwrap();
    });
}

#[test]
fn a_stalled_attacher_that_wakes_is_not_the_owner() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        w.crash(v).await;
        // Host 1 seals, then stalls before its opening lands.
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let slow = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Slow(Duration::from_secs(10)),
            false => Act::Fine,
        })
        .await;
        let stalled = Volume::attach(&slow, &w.volume, w.options(1, 1), w.env.clone());
        let other = async {
            w.env.clock.sleep(Duration::from_secs(5)).await;
            let v = w.attach_as(takeover(w.options(2, 1))).await.unwrap();
            v.write(0, block(2), true).await.unwrap();
            w.env.clock.sleep(Duration::from_secs(30)).await;
            v.write(4096, block(3), true).await.unwrap();
            assert_eq!(read(&v, 0, 4096).await.unwrap(), block(2));
        };
        let (stalled, ()) = futures::join!(stalled, other);
        let error = stalled.err().unwrap();
        assert!(matches!(error, AttachError::LostRace { .. }), "{error}");
        assert!(error.to_string().contains("host2"), "{error}");
    });
}

#[test]
fn a_journal_that_no_opening_names_is_refused_with_its_writes_counted() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        w.env.clock.sleep(Duration::from_millis(10)).await;
        v.write(0, block(8), false).await.unwrap();
        v.write(4096, block(8), false).await.unwrap();
        w.crash(v).await;
        let other = w.attach_as(takeover(w.options(2, 1))).await.unwrap();
        other.write(0, block(2), true).await.unwrap();
        other.detach().await.unwrap();
        drop(other);
        let error = w.attach().await.err().unwrap();
        assert!(matches!(error, AttachError::StrayJournal { writes: 2, .. }), "{error}");
        assert!(error.to_string().contains("2 acknowledged writes"), "{error}");
        let v = w.attach_as(AttachOptions { lose_journal: true, ..w.options(1, 1) }).await.unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(2));
    });
}

#[test]
fn an_empty_journal_of_an_attach_that_died_goes_once_the_volume_is_ours() {
    let w = World::new(1 << 20);
    w.run(async {
        let journals = || std::fs::read_dir(w.dir.path().join("journal1")).unwrap().count();
        let opening = SegmentId::log(w.volume.number, 1, 0).key();
        let dying = Hooked::pool(&w, move |_, key| if key == opening { Act::Hang } else { Act::Fine }).await;
        let attempt = Volume::attach(&dying, &w.volume, w.options(1, 1), w.env.clone()).boxed();
        drop(futures::future::select(attempt, w.env.clock.sleep(Duration::from_millis(5))).await);
        assert_eq!(journals(), 1, "made before the opening names it");
        let v = w.attach().await.unwrap();
        assert_eq!(journals(), 1, "its own only");
        v.detach().await.unwrap();
        assert_eq!(journals(), 0);
    });
}

#[test]
fn a_put_that_failed_but_landed_is_our_own() {
    let w = World::new(1 << 20);
    w.run(async {
        let seen = parking_lot::Mutex::new(std::collections::HashSet::new());
        let tricky = Hooked::pool(&w, move |verb, key| match verb == "put" && seen.lock().insert(key.to_owned()) {
            true => Act::LandThenFail,
            false => Act::Fine,
        })
        .await;
        let v = Volume::attach(&tricky, &w.volume, w.options(1, 1), w.env.clone()).await.unwrap();
        for i in 0..20u64 {
            v.write(i * 4096, block(i as u8 + 1), true).await.unwrap();
        }
        v.detach().await.unwrap();
        let v = w.attach().await.unwrap();
        for i in 0..20u64 {
            assert_eq!(read(&v, i * 4096, 4096).await.unwrap(), block(i as u8 + 1));
        }
    });
}

#[test]
fn a_late_object_below_the_seal_belongs_to_the_log() {
    let w = World::new(1 << 20);
    w.run(async {
        // Each PUT of a segment takes longer than the one after it: they land in reverse order.
        let n = Arc::new(AtomicU32::new(0));
        let slow = Hooked::pool(&w, move |verb, key| {
            match verb == "put" && key.starts_with("log/") && !key.ends_with("0000") {
                true => {
                    Act::Slow(Duration::from_millis(u64::from(4000 - 1000 * n.fetch_add(1, Ordering::SeqCst).min(3))))
                }
                false => Act::Fine,
            }
        })
        .await;
        let v = Volume::attach(&slow, &w.volume, w.options(1, 1), w.env.clone()).await.unwrap();
        let flushes = async {
            let mut done = Vec::new();
            for i in 0..3u8 {
                v.write(u64::from(i) * 4096, block(i + 1), false).await.unwrap();
                done.push(v.flush());
                w.env.clock.sleep(Duration::from_millis(10)).await;
            }
            futures::future::join_all(done).await
        };
        let thief = async {
            // Segments 3 and 2 are there, 1 is not.
            w.env.clock.sleep(Duration::from_millis(3500)).await;
            w.attach_as(takeover(w.options(2, 1))).await.unwrap()
        };
        let (flushed, thief) = futures::join!(flushes, thief);
        assert!(flushed.iter().all(|f| *f == Err(BlockError::Fenced)), "{flushed:?}");
        let got: Vec<u8> = futures::future::join_all((0..3u64).map(|i| read(&thief, i * 4096, 1)))
            .await
            .into_iter()
            .map(|r| r.unwrap()[0])
            .collect();
        assert_eq!(got, [0, 0, 0], "nothing beyond the gap was ever acknowledged: a prefix, not a mix");
    });
}

#[test]
fn crashes_during_recovery_lose_nothing() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        v.write(4096, block(2), false).await.unwrap();
        w.crash(v).await;
        // Recovery dies at each of its requests in turn: the request happens, or not, and the process is gone.
        for step in 0..12u32 {
            for lands in [false, true] {
                let n = Arc::new(AtomicU32::new(0));
                let dying = Hooked::pool(&w, move |verb, _| {
                    let here = n.fetch_add(1, Ordering::SeqCst) == step + 2;
                    match (here, lands && verb == "put") {
                        (true, true) => Act::Slow(Duration::from_millis(1)),
                        (true, false) => Act::Hang,
                        _ => Act::Fine,
                    }
                })
                .await;
                let attempt = Volume::attach(&dying, &w.volume, w.options(1, 1), w.env.clone()).boxed();
                let death = w.env.clock.sleep(Duration::from_millis(5));
                drop(futures::future::select(attempt, death).await);
                w.env.clock.sleep(Duration::from_millis(1)).await;
            }
        }
        let v = w.attach().await.unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(1));
        assert_eq!(read(&v, 4096, 4096).await.unwrap(), block(2));
    });
}

#[test]
fn an_outage_waits_or_fails_as_asked_and_heals_by_itself() {
    use crate::volume::OnOutage;
    let w = World::new(8 << 20);
    w.run(async {
        let away = Arc::new(AtomicBool::new(false));
        let seen = away.clone();
        let pool = Hooked::pool(&w, move |_, _| if seen.load(Ordering::SeqCst) { Act::Fail } else { Act::Fine }).await;
        let patient = w.options(1, 1);
        let strict = AttachOptions { on_outage: OnOutage::FailAfter(Duration::from_secs(30)), ..w.options(1, 1) };
        for options in [patient.clone(), strict] {
            let v = Volume::attach(&pool, &w.volume, options.clone(), w.env.clone()).await.unwrap();
            v.write(0, block(5), true).await.unwrap();
            away.store(true, Ordering::SeqCst);
            v.write(4096, block(6), false).await.unwrap();
            assert_eq!(read(&v, 0, 4096).await.unwrap(), block(5), "what is in memory is still read");
            let begin = w.time.now();
            let heal = async {
                w.env.clock.sleep(Duration::from_secs(120)).await;
                away.store(false, Ordering::SeqCst);
            };
            let (flushed, ()) = futures::join!(v.flush(), heal);
            match options.on_outage {
                OnOutage::Wait => assert_eq!(flushed, Ok(())),
                OnOutage::FailAfter(_) => assert!(matches!(flushed, Err(BlockError::Store(_))), "{flushed:?}"),
            }
            assert!(w.time.now() - begin >= Duration::from_secs(120));
            w.env.clock.sleep(Duration::from_secs(10)).await;
            // Nothing was dropped: the same data goes out when the store is back.
            v.flush().await.unwrap();
            assert_eq!(read(&v, 4096, 4096).await.unwrap(), block(6));
            v.detach().await.unwrap();
        }
    });
}

#[test]
fn a_rolled_back_bucket_is_noticed() {
    let w = World::new(1 << 20);
    w.run(async {
        for _ in 0..2 {
            let v = w.attach().await.unwrap();
            v.write(0, block(1), true).await.unwrap();
            v.detach().await.unwrap();
        }
        for key in w.keys("log/").await.into_iter().filter(|k| k.contains(&format!("{:016x}/", !2u64))) {
            w.objects.delete(&Path::from(key)).await.unwrap();
        }
        let error = w.attach().await.err().unwrap();
        assert!(matches!(error, AttachError::RolledBack { .. }), "{error}");
        let elsewhere = w.attach_as(AttachOptions { expect_epoch: Some(2), ..w.options(2, 1) }).await.err().unwrap();
        assert!(matches!(elsewhere, AttachError::RolledBack { .. }), "{elsewhere}");
    });
}

#[test]
fn segments_that_vanished_from_the_end_are_noticed() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        for i in 0..3 {
            v.write(i * 4096, block(1), true).await.unwrap();
        }
        v.detach().await.unwrap();
        drop(v);
        for seq in 3..6 {
            let key = format!("p/{}", SegmentId::log(w.volume.number, 1, seq).key());
            // The seal, and what stood before it.
            drop(w.objects.delete(&Path::from(key)).await);
        }
        let error = w.attach().await.err().unwrap();
        assert!(matches!(error, AttachError::RolledBack { .. }), "{error}");
    });
}

#[test]
fn damaged_objects_are_errors_with_their_key_and_the_rest_goes_on() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach_as(AttachOptions { cache_bytes: 0, ..w.options(1, 1) }).await.unwrap();
        for i in 0..3u64 {
            v.write(i * 32768, noise(32768, i), true).await.unwrap();
        }
        w.env.clock.sleep(Duration::from_secs(1)).await;
        let key = |seq| format!("p/{}", SegmentId::log(w.volume.number, 1, seq).key());
        let good = w.object(&key(2)).await;
        let mut flipped = good.to_vec();
        flipped[5000] ^= 1;
        let swapped = w.object(&key(3)).await;
        for bad in [Bytes::from(flipped), good.slice(..9000), swapped] {
            w.put(&key(2), bad).await;
            let error = read(&v, 32768, 4096).await.unwrap_err();
            assert!(matches!(&error, BlockError::Corrupt { key: k, .. } if key(2).ends_with(k)), "{error}");
            assert_eq!(read(&v, 0, 32768).await.unwrap(), noise(32768, 0));
            assert_eq!(read(&v, 65536, 32768).await.unwrap(), noise(32768, 2));
        }
        w.put(&key(2), good).await;
        assert_eq!(read(&v, 32768, 32768).await.unwrap(), noise(32768, 1));
        w.objects.delete(&Path::from(key(1))).await.unwrap();
        let missing = read(&v, 0, 4096).await.unwrap_err();
        assert!(matches!(missing, BlockError::Corrupt { .. }), "{missing}");
    });
}
