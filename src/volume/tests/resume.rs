//! Resuming a device: what its newest opening, the journal and the seal must be, and that a refusal changes nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::FutureExt;

use super::hooked::{Act, Hooked};
use super::*;
use crate::segment::{Opening, Seal, SegmentId};

const A: [u8; 16] = [0xa; 16];
const B: [u8; 16] = [0xb; 16];

/// Attaches of host 1 that serve the device: with their writer's id, plain or resuming.
fn first(w: &World, writer: [u8; 16]) -> AttachOptions {
    AttachOptions { writer: Some(writer), ..w.options(1, 1) }
}

fn resume(w: &World, of: &[[u8; 16]]) -> AttachOptions {
    AttachOptions { resume: Some(of.to_vec()), ..first(w, B) }
}

/// With every word that lets a plain attach go on.
fn resume_at_any_price(w: &World, of: &[[u8; 16]]) -> AttachOptions {
    AttachOptions { takeover: true, lose_journal: true, ..resume(w, of) }
}

/// The device was served by writer A: a flushed block of 1, then a block of 2 that only the journal has.
async fn served(w: &World) -> Volume {
    let v = w.attach_as(first(w, A)).await.unwrap();
    v.write(0, block(1), true).await.unwrap();
    v.write(4096, block(2), false).await.unwrap();
    v
}

/// Everything in the bucket and in the journal directory of host 1.
async fn everything(w: &World) -> (Vec<String>, Vec<String>) {
    let files = std::fs::read_dir(w.dir.path().join("journal1"))
        .map_or(Vec::new(), |dir| dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect());
    (w.keys("log/").await, files)
}

/// Resuming is refused whatever is said, for `why`, and nothing has changed.
async fn refused(w: &World, of: &[[u8; 16]], why: &str) {
    let before = everything(w).await;
    for options in [resume(w, of), resume_at_any_price(w, of)] {
        let error = w.attach_as(options).await.err().unwrap();
        assert!(matches!(error, AttachError::NotResumable { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(!error.may_pass());
        assert_eq!(everything(w).await, before, "{error}");
    }
}

async fn has_all(v: &Volume) {
    assert_eq!(read(v, 0, 4096).await.unwrap(), block(1));
    assert_eq!(read(v, 4096, 4096).await.unwrap(), block(2));
}

/// The only ring file of host 1.
fn ring_file(w: &World) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(w.dir.path().join("journal1")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_killed_server_is_resumed_with_every_acknowledged_write() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let v = w.attach_as(resume(&w, &[[9; 16], A])).await.unwrap();
        has_all(&v).await;
        v.write(8192, block(3), true).await.unwrap();
        w.crash(v).await;
        refused(&w, &[A], "host host1 opened it (epoch 2, ").await;
        let v = w.attach_as(AttachOptions { writer: None, ..resume(&w, &[A, B]) }).await.unwrap();
        has_all(&v).await;
        assert_eq!(read(&v, 8192, 4096).await.unwrap(), block(3));
    });
}

#[test]
fn a_preset_writer_is_the_one_in_the_opening() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        let key = SegmentId::log(w.volume.number, 1, 0).key();
        let bytes = w.object(&format!("p/{key}")).await;
        let opening = Opening::open(w.pool.keys(), w.volume.number, 1, &bytes).unwrap();
        assert_eq!(opening.writer, A);
        drop(v);
    });
}

#[test]
fn crashes_at_each_step_of_resuming_are_resumed() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let mut known = vec![A];
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
                let writer = [0x10 + 2 * step as u8 + u8::from(lands); 16];
                // On record before the attempt.
                known.push(writer);
                let options = AttachOptions { writer: Some(writer), ..resume(&w, &known) };
                let attempt = Volume::attach(&dying, &w.volume, options, w.env.clone()).boxed();
                let death = w.env.clock.sleep(Duration::from_millis(5));
                drop(futures::future::select(attempt, death).await);
                w.env.clock.sleep(Duration::from_millis(1)).await;
            }
        }
        refused(&w, &[A], "host host1 opened it").await;
        let v = w.attach_as(resume(&w, &known)).await.unwrap();
        has_all(&v).await;
    });
}

#[test]
fn a_crash_between_seal_and_opening_is_resumed() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Fail,
            false => Act::Fine,
        })
        .await;
        let error = Volume::attach(&dying, &w.volume, resume(&w, &[A]), w.env.clone()).await.err().unwrap();
        assert!(error.may_pass(), "{error}");
        let v = w.attach_as(resume(&w, &[A])).await.unwrap();
        has_all(&v).await;
    });
}

#[test]
fn a_journal_whose_holder_has_not_ended_yet_only_delays() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        // The first try waits for its opening, as one that hangs while it dies, and has the journal meanwhile.
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let slow = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Slow(Duration::from_secs(2)),
            false => Act::Fine,
        })
        .await;
        let known = [A, [0xc; 16], B];
        let options = AttachOptions { writer: Some([0xc; 16]), ..resume(&w, &known) };
        let attempt = Volume::attach(&slow, &w.volume, options, w.env.clone()).boxed();
        let death = w.env.clock.sleep(Duration::from_secs(1));
        let attempt = match futures::future::select(attempt, death).await {
            futures::future::Either::Right(((), attempt)) => attempt,
            futures::future::Either::Left((outcome, _)) => panic!("it has ended: {:?}", outcome.err()),
        };
        let busy = w.attach_as(resume(&w, &known)).await.err().unwrap();
        assert!(busy.may_pass() && busy.to_string().contains("in use"), "{busy}");
        let v = attempt.await.unwrap();
        w.crash(v).await;
        let v = w.attach_as(resume(&w, &known)).await.unwrap();
        has_all(&v).await;
    });
}

#[test]
fn whoever_served_it_in_between_ends_it() {
    for how in ["crashed", "detached", "serving"] {
        let w = World::new(1 << 20);
        w.run(async {
            let v = served(&w).await;
            w.crash(v).await;
            let between = w.attach().await.unwrap();
            between.write(0, block(7), true).await.unwrap();
            match how {
                "crashed" => w.crash(between).await,
                "detached" => {
                    between.detach().await.unwrap();
                    drop(between);
                }
                _ => {
                    refused(&w, &[A], "host host1 opened it (epoch 2, ").await;
                    return;
                }
            }
            refused(&w, &[A], "host host1 opened it (epoch 2, ").await;
            // The volume itself is as free as ever.
            let v = w.attach().await.unwrap();
            assert_eq!(read(&v, 0, 4096).await.unwrap(), block(7));
            assert_eq!(read(&v, 4096, 4096).await.unwrap(), block(2));
        });
    }
}

#[test]
fn a_takeover_by_another_host_ends_it() {
    for gone in [false, true] {
        let w = World::new(1 << 20);
        w.run(async {
            let v = served(&w).await;
            w.crash(v).await;
            let other = w.attach_as(AttachOptions { takeover: true, ..w.options(2, 1) }).await.unwrap();
            other.write(0, block(7), true).await.unwrap();
            if gone {
                other.detach().await.unwrap();
            }
            refused(&w, &[A], "host host2 opened it (epoch 2, 20").await;
            drop(other);
        });
    }
}

#[test]
fn a_takeover_that_only_sealed_changes_nothing() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Fail,
            false => Act::Fine,
        })
        .await;
        let options = AttachOptions { takeover: true, ..w.options(2, 1) };
        assert!(Volume::attach(&dying, &w.volume, options, w.env.clone()).await.is_err());
        let v = w.attach_as(resume(&w, &[A])).await.unwrap();
        has_all(&v).await;
    });
}

#[test]
fn a_missing_journal_ends_it() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let name = ring_file(&w).file_name().unwrap().to_str().unwrap().to_owned();
        w.lose_journals(1);
        refused(&w, &[A], &format!("{name} is missing")).await;
    });
}

#[test]
fn a_clean_seal_counts_only_by_the_owner_itself() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        v.flush().await.unwrap();
        w.crash(v).await;
        w.lose_journals(1);
        let seq = w.keys("log/").await.len() as u64;
        let seal = Seal {
            volume: w.volume.number,
            epoch: 1,
            seq,
            writer: [9; 16],
            clean: true,
            predecessor_salt: [0; 16],
            wall_ms: 0,
        };
        let key = SegmentId::log(w.volume.number, 1, seq).key();
        for (n, seal) in [seal, Seal { writer: A, clean: false, ..seal }].into_iter().enumerate() {
            w.put(&format!("p/{key}"), seal.seal(w.pool.keys(), [3 + n as u8; 16])).await;
            refused(&w, &[A], "is missing").await;
        }
        w.put(&format!("p/{key}"), Seal { writer: A, ..seal }.seal(w.pool.keys(), [9; 16])).await;
        has_all(&w.attach_as(resume(&w, &[A])).await.unwrap()).await;
    });
}

#[test]
fn what_the_owner_detached_is_resumed_without_a_journal() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        v.detach().await.unwrap();
        drop(v);
        let v = w.attach_as(resume(&w, &[A])).await.unwrap();
        has_all(&v).await;
        v.write(0, block(3), false).await.unwrap();
        w.crash(v).await;
        let v = w.attach_as(resume(&w, &[A, B])).await.unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(3));
    });
}

#[test]
fn a_journal_that_ends_before_the_log_or_begins_after_it_ends_it() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach_as(first(&w, A)).await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        let path = ring_file(&w);
        let early = std::fs::read(&path).unwrap();
        for i in 0..3u64 {
            v.write(i * 4096, block(2), true).await.unwrap();
        }
        w.env.clock.sleep(Duration::from_secs(1)).await;
        w.crash(v).await;
        let late = std::fs::read(&path).unwrap();
        std::fs::write(&path, early).unwrap();
        refused(&w, &[A], "but its log ends at operation 4").await;
        // The log loses its end, and so does the mark that would tell.
        std::fs::write(&path, late).unwrap();
        std::fs::remove_dir_all(w.dir.path().join("state1")).unwrap();
        for key in w.keys("log/").await.split_off(3) {
            w.objects.delete(&Path::from(key)).await.unwrap();
        }
        refused(&w, &[A], "but its log ends at operation 2").await;
    });
}

#[test]
fn a_damaged_or_foreign_journal_ends_it() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let path = ring_file(&w);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[..4096].fill(0xff);
        std::fs::write(&path, bad).unwrap();
        refused(&w, &[A], "is not an esker journal").await;
        // Another volume's, under this one's name.
        let new = NewVolume { name: "u".into(), size: 1 << 20, block_size: 4096, compression: Compression::Lz4 };
        let other = w.pool.create_volume(new, &w.env).await.unwrap();
        let u = Volume::attach(&w.pool, &other, w.options(1, 1), w.env.clone()).await.unwrap();
        let all = std::fs::read_dir(w.dir.path().join("journal1")).unwrap();
        let others: Vec<_> = all.map(|e| e.unwrap().path()).filter(|p| *p != path).collect();
        w.crash(u).await;
        std::fs::copy(&others[0], &path).unwrap();
        refused(&w, &[A], "belongs to another pool or volume").await;
        std::fs::write(&path, good).unwrap();
        has_all(&w.attach_as(resume(&w, &[A])).await.unwrap()).await;
    });
}

#[test]
fn a_store_out_of_reach_is_no_verdict() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let away = Arc::new(AtomicBool::new(false));
        let seen = away.clone();
        let pool = Hooked::pool(&w, move |_, _| if seen.load(Ordering::SeqCst) { Act::Fail } else { Act::Fine }).await;
        away.store(true, Ordering::SeqCst);
        let attach = || Volume::attach(&pool, &w.volume, resume(&w, &[A]), w.env.clone());
        let error = attach().await.err().unwrap();
        assert!(matches!(error, AttachError::Store(_)) && error.may_pass() && !error.may_have_opened(), "{error}");
        away.store(false, Ordering::SeqCst);
        has_all(&attach().await.unwrap()).await;
    });
}

#[test]
fn an_opening_that_may_be_there_is_told_of() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = served(&w).await;
        w.crash(v).await;
        let fails =
            |verb: &str, key: &str| verb == "put" && key.starts_with("log/") && key.ends_with("/0000000000000000");
        let pool = Hooked::pool(&w, move |verb, key| if fails(verb, key) { Act::Fail } else { Act::Fine }).await;
        let error = Volume::attach(&pool, &w.volume, resume(&w, &[A]), w.env.clone()).await.err().unwrap();
        assert!(error.may_have_opened() && error.may_pass(), "{error}");
        has_all(&w.attach_as(resume(&w, &[A])).await.unwrap()).await;
    });
}

#[test]
fn a_journal_of_older_times_beside_it_is_left_alone() {
    let w = World::new(1 << 20);
    w.run(async {
        // Fenced while it runs, so that the journal with its writes is left when it ends.
        let fenced = w.attach().await.unwrap();
        fenced.write(0, block(8), false).await.unwrap();
        let other = w.attach_as(AttachOptions { takeover: true, ..w.options(2, 1) }).await.unwrap();
        other.detach().await.unwrap();
        let v = served(&w).await;
        fenced.write(0, block(8), false).await.unwrap();
        w.crash(fenced).await;
        w.crash(v).await;
        let v = w.attach_as(resume(&w, &[A])).await.unwrap();
        has_all(&v).await;
        w.crash(v).await;
        let error = w.attach().await.err().unwrap();
        assert!(matches!(error, AttachError::StrayJournal { .. }), "a plain attach tells of it: {error}");
    });
}

#[test]
fn a_volume_that_was_never_served_or_was_deleted_is_refused() {
    let w = World::new(1 << 20);
    w.run(async {
        refused(&w, &[A], "nobody has ever opened it").await;
        let v = served(&w).await;
        v.detach().await.unwrap();
        drop(v);
        let options = w.options(1, 1);
        super::super::delete(&w.pool, &w.volume, &options, &w.env, |_| {}).await.unwrap();
        refused(&w, &[A], "has been deleted").await;
    });
}
