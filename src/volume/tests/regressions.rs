//! What was once broken, each with the test that failed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::hooked::{Act, Hooked};
use super::*;
use crate::segment::{MAX_OP, Opening, SegmentId};

#[test]
fn a_write_after_a_trim_is_never_read_as_zeroes() {
    let w = World::new(16 << 20);
    let options = AttachOptions { segment_bytes: 2 << 20, cache_bytes: 16 << 20, ..w.options(1, 1) };
    w.run(async {
        let v = Arc::new(w.attach_as(options).await.unwrap());
        // Even: writes are under way. Odd: everything is written.
        let phase = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (v, phase, done) = (v.clone(), phase.clone(), done.clone());
            move || {
                let (mut wrong, mut buf) = (0u64, vec![0; 4096]);
                while !done.load(Ordering::SeqCst) {
                    let before = phase.load(Ordering::SeqCst);
                    let Some(Ok(())) = v.try_read(0, &mut buf) else { continue };
                    if before % 2 == 1 && phase.load(Ordering::SeqCst) == before && buf[0] == 0 {
                        wrong += 1;
                    }
                }
                wrong
            }
        });
        for _ in 0..200 {
            v.discard(0, 1 << 20, false).await.unwrap();
            for i in 0..256 {
                v.write(i * 4096, block(7), false).await.unwrap();
            }
            phase.fetch_add(1, Ordering::SeqCst);
            v.flush().await.unwrap();
            w.env.clock.sleep(Duration::from_millis(1)).await;
            phase.fetch_add(1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        assert_eq!(reader.join().unwrap(), 0, "written blocks were read as zeroes");
    });
}

#[test]
fn a_detach_after_earlier_checkpoints_names_its_own() {
    let w = World::new(16 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        for i in 0..9u64 {
            v.write(i * 4096, block(1), true).await.unwrap();
        }
        w.env.clock.sleep(Duration::from_secs(5)).await;
        for i in 0..3u64 {
            v.write(i * 4096, block(2), true).await.unwrap();
        }
        v.detach().await.unwrap();
        w.crash(v).await;
        let v = w.attach().await.unwrap();
        let replayed = v.status().segments_since_checkpoint;
        assert!(replayed <= 1, "{replayed} segments were replayed after a clean detach");
    });
}

#[test]
fn a_publication_during_the_checkpoint_of_a_detach_begins_no_second_one() {
    let w = World::new(16 << 20);
    w.run(async {
        let slow = Arc::new(AtomicBool::new(false));
        let seen = slow.clone();
        let pool = Hooked::pool(&w, move |verb, key| match (verb, seen.load(Ordering::SeqCst)) {
            ("put", _) if key.starts_with("data/") => Act::Slow(Duration::from_secs(10)),
            ("put", true) => Act::Slow(Duration::from_secs(5)),
            _ => Act::Fine,
        })
        .await;
        let v = Volume::attach(&pool, &w.volume, w.options(1, 1), w.env.clone()).await.unwrap();
        // The first checkpoint begins after 8 segments and takes a while; more are published meanwhile.
        for i in 0..24u64 {
            v.write(i * 4096, block(1), true).await.unwrap();
        }
        // It ends; the segment that names it is under way when the volume is detached.
        slow.store(true, Ordering::SeqCst);
        w.env.clock.sleep(Duration::from_millis(10_001)).await;
        v.detach().await.unwrap();
    });
}

#[test]
fn a_seal_with_many_objects_behind_it_is_found_again() {
    let w = World::new(16 << 20);
    w.run(async {
        let stuck = SegmentId::log(w.volume.number, 1, 5).key();
        let pool = Hooked::pool(&w, move |verb, key| match verb == "put" && key == stuck {
            true => Act::Hang,
            false => Act::Fine,
        })
        .await;
        let v = Volume::attach(&pool, &w.volume, w.options(1, 1), w.env.clone()).await.unwrap();
        for i in 0..4u64 {
            v.write(i * 4096, block(1), true).await.unwrap();
        }
        for i in 0..80u64 {
            v.write(i * 4096, block(2), false).await.unwrap();
            w.env.clock.sleep(Duration::from_millis(1100)).await;
        }
        w.crash(v).await;
        w.lose_journals(1);
        // The next attach seals, and dies before its opening lands.
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Fail,
            false => Act::Fine,
        })
        .await;
        assert!(Volume::attach(&dying, &w.volume, w.options(1, 2), w.env.clone()).await.is_err());
        let v = w.attach_as(w.options(1, 2)).await;
        let v = v.unwrap_or_else(|e| panic!("{} objects: {e}", 85));
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(1));
    });
}

#[test]
fn a_damaged_journal_can_be_given_up() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        w.crash(v).await;
        let dir = w.dir.path().join("journal1");
        for file in std::fs::read_dir(&dir).unwrap() {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(file.unwrap().path()).unwrap();
            file.write_all_at(&[0xff; 4096], 0).unwrap();
        }
        println!("{}", w.attach().await.err().unwrap());
        let said = AttachOptions { lose_journal: true, takeover: true, ..w.options(1, 1) };
        let v = w.attach_as(said).await.unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(1));
    });
}

#[test]
fn a_second_start_while_the_first_recovers_loses_nothing() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        v.write(0, block(2), false).await.unwrap();
        w.crash(v).await;
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let slow = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Slow(Duration::from_millis(200)),
            false => Act::Fine,
        })
        .await;
        let first = Volume::attach(&slow, &w.volume, w.options(1, 1), w.env.clone());
        let second = async {
            w.env.clock.sleep(Duration::from_millis(100)).await;
            w.attach().await
        };
        let (first, second) = futures::join!(first, second);
        let v = first.or(second).unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(2), "an acknowledged write is lost");
    });
}

#[test]
fn a_journal_full_of_trims_can_be_written_out() {
    let w = World::new(1 << 54);
    w.run(async {
        let options = AttachOptions { journal_bytes: 256 << 20, ..w.options(1, 1) };
        let v = w.attach_as(options).await.unwrap();
        // All before the cutter looks again, as behind a store that hangs.
        for i in 1..2_600_000u64 {
            v.discard(i << 32, 4096, false).await.unwrap();
        }
        v.flush().await.unwrap();
    });
}

#[test]
fn fail_after_counts_for_writers_although_reads_go_on() {
    let w = World::new(16 << 20);
    w.run(async {
        let full = Arc::new(AtomicBool::new(false));
        let seen = full.clone();
        let pool = Hooked::pool(&w, move |verb, key| {
            match verb == "put" && key.starts_with("log/") && seen.load(Ordering::SeqCst) {
                true => Act::Fail,
                false => Act::Fine,
            }
        })
        .await;
        let on_outage = super::super::OnOutage::FailAfter(Duration::from_secs(10));
        let options = AttachOptions { on_outage, ..w.options(1, 1) };
        let v = Volume::attach(&pool, &w.volume, options, w.env.clone()).await.unwrap();
        for i in 0..64u64 {
            v.write(i * 65536, noise(65536, i), i % 8 == 7).await.unwrap();
        }
        full.store(true, Ordering::SeqCst);
        v.write(0, block(1), false).await.unwrap();
        let reads = async {
            for i in 0..120u64 {
                read(&v, i % 64 * 65536 + 8192, 4096).await.unwrap();
                w.env.clock.sleep(Duration::from_secs(1)).await;
            }
        };
        let flush = std::pin::pin!(v.flush());
        let reads = std::pin::pin!(reads);
        let first = futures::future::select(flush, reads).await;
        assert!(matches!(first, futures::future::Either::Left((Err(_), _))), "two minutes, and no answer");
    });
}

#[test]
fn an_unclean_seal_frees_the_volume_for_no_other_host() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        v.write(0, block(2), false).await.unwrap();
        w.crash(v).await;
        // Host 1 recovers: it seals, and its opening cannot be put for a while.
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Fail,
            false => Act::Fine,
        })
        .await;
        assert!(Volume::attach(&dying, &w.volume, w.options(1, 1), w.env.clone()).await.is_err());
        let other = w.attach_as(w.options(2, 1)).await;
        assert!(matches!(other, Err(AttachError::InUse { .. })), "nobody said --takeover: {:?}", other.err());
    });
}

#[test]
fn a_mark_written_while_the_bucket_is_read_is_no_rollback() {
    let w = World::new(1 << 20);
    w.run(async {
        // Two servers of one host start at once; the slower one has LISTed before the other's opening was there.
        let slow = Hooked::pool(&w, |verb, key| match verb {
            "list" if key.contains("log") => Act::Slow(Duration::from_secs(1)),
            _ => Act::Fine,
        })
        .await;
        let first = w.attach().await.unwrap();
        first.write(0, block(1), true).await.unwrap();
        first.detach().await.unwrap();
        drop(first);
        let late = Volume::attach(&slow, &w.volume, w.options(1, 1), w.env.clone());
        let quick = async {
            w.env.clock.sleep(Duration::from_millis(500)).await;
            w.attach().await.unwrap()
        };
        let (late, quick) = futures::join!(late, quick);
        let error = late.err().unwrap();
        assert!(matches!(error, AttachError::LostRace { .. } | AttachError::InUse { .. }), "{error}");
        assert_eq!(read(&quick, 0, 4096).await.unwrap(), block(1));
    });
}

/// Recovery took the log before the hole for the whole log: another host, which has no high-water mark, got an old volume
/// without a word.
#[test]
fn a_segment_lost_from_the_middle_of_the_newest_log_refuses_the_attach() {
    // By how far the log goes on behind it; by the seal of a recovery that came to no opening.
    for (writes, sealed) in [(80u64, false), (30, true)] {
        let w = World::new(1 << 20);
        w.run(async {
            let v = w.attach_as(AttachOptions { checkpoint_segments: 500, ..w.options(1, 1) }).await.unwrap();
            for i in 0..writes {
                v.write(i % 200 * 4096, noise(4096, i), true).await.unwrap();
            }
            w.env.clock.sleep(Duration::from_secs(1)).await;
            if sealed {
                let opening = SegmentId::log(w.volume.number, 2, 0).key();
                let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
                    true => Act::Fail,
                    false => Act::Fine,
                })
                .await;
                let take = AttachOptions { takeover: true, ..w.options(2, 1) };
                assert!(Volume::attach(&dying, &w.volume, take, w.env.clone()).await.is_err());
            }
            w.crash(v).await;
            let lost = crate::segment::SegmentId::log(w.volume.number, 1, 3).key();
            let body = w.object(&format!("p/{lost}")).await;
            w.objects.delete(&Path::from(format!("p/{lost}"))).await.unwrap();
            let take = || AttachOptions { takeover: true, ..w.options(2, 1) };
            let error = w.attach_as(take()).await.err().unwrap();
            assert!(matches!(&error, AttachError::Log { key, .. } if *key == lost), "{error}");
            w.put(&format!("p/{lost}"), body).await;
            let v = w.attach_as(take()).await.unwrap();
            for i in 0..writes {
                assert_eq!(read(&v, i * 4096, 4096).await.unwrap(), noise(4096, i));
            }
        });
    }
}

/// Found by fuzzing: the first write had a number that no segment can carry.
#[test]
fn a_log_whose_operations_are_numbered_too_high_is_refused() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        w.crash(v).await;
        w.lose_journals(1);
        let key = format!("p/{}", SegmentId::log(w.volume.number, 1, 0).key());
        let mut opening = Opening::open(w.pool.keys(), w.volume.number, 1, &w.object(&key).await).unwrap();
        opening.start.last_op = MAX_OP - 3;
        opening.last_op = MAX_OP - 3;
        w.put(&key, opening.seal(w.pool.keys(), [7; 16])).await;
        let options = AttachOptions { takeover: true, lose_journal: true, ..w.options(1, 1) };
        let refused = w.attach_as(options).await.err().expect("no write could be numbered").to_string();
        assert!(refused.contains(&key[2..]) && refused.contains("numbered up to 4611686018427387900"), "{refused}");
    });
}
