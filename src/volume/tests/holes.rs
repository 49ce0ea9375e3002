//! Logs from which covered segments have been deleted, by owners that are gone and by those that go on meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use esker_block::BlockError;

use super::super::attach::Attach;
use super::hooked::{Act, Hooked};
use super::*;
use crate::segment::{CheckpointRef, IndexRead, Opening, Seal, SegmentId, SegmentIndex, log_prefix, read_index};

/// Blocks that [`churn`] writes over and over.
const BLOCKS: u64 = 4;
/// Segments before a checkpoint's end that may hold what is live.
const LIVE: u64 = 8;

fn takeover(o: AttachOptions) -> AttachOptions {
    AttachOptions { takeover: true, ..o }
}

/// Writes number `from` to `to`, each flushed, so that each is a segment; old ones are soon dead.
async fn churn(v: &Volume, from: u64, to: u64) {
    for i in from..to {
        v.write(i % BLOCKS * 4096, noise(4096, i), true).await.unwrap();
    }
}

/// Asserts that the volume shows all writes before number `to`, and no more.
async fn shows(v: &Volume, to: u64) {
    for i in to - BLOCKS..to {
        assert_eq!(read(v, i % BLOCKS * 4096, 4096).await.unwrap(), noise(4096, i), "write {i} of {to}");
    }
}

fn segment(w: &World, epoch: u32, seq: u64) -> String {
    format!("p/{}", SegmentId::log(w.volume.number, epoch, seq).key())
}

async fn seqs(w: &World, epoch: u32) -> Vec<u64> {
    let keys = w.keys(&log_prefix(w.volume.number, epoch)).await;
    let seq = |k: &String| u64::from_str_radix(k.rsplit('/').next().unwrap(), 16).unwrap();
    keys.iter().map(seq).filter(|s| *s > 0).collect()
}

async fn index(w: &World, epoch: u32, seq: u64) -> Option<SegmentIndex> {
    let body = w.object(&segment(w, epoch, seq)).await;
    let id = SegmentId::log(w.volume.number, epoch, seq);
    match read_index(w.pool.keys(), id, body.len() as u64, &body) {
        Ok(IndexRead::Index(index)) => Some(index),
        _ => None,
    }
}

/// The newest checkpoint that the log names.
async fn newest_checkpoint(w: &World, epoch: u32) -> CheckpointRef {
    for seq in seqs(w, epoch).await.into_iter().rev() {
        if let Some(index) = index(w, epoch, seq).await {
            return index.checkpoint.unwrap();
        }
    }
    panic!("no segment");
}

/// A world where nobody deletes but the test.
fn still(size: u64) -> World {
    World { compact: CompactOptions { enabled: false, ..CompactOptions::default() }, ..World::new(size) }
}

async fn delete(w: &World, epoch: u32, seq: u64) {
    w.objects.delete(&Path::from(segment(w, epoch, seq))).await.unwrap();
}

/// What an owner may do: deletes of the segments that hold nothing live those that `goes` names. Answers the last one.
async fn collect(w: &World, epoch: u32, goes: impl Fn(u64) -> bool) -> u64 {
    let dead = newest_checkpoint(w, epoch).await.covers_seq.checked_sub(LIVE).unwrap();
    let doomed: Vec<u64> = seqs(w, epoch).await.into_iter().filter(|s| *s <= dead && goes(*s)).collect();
    for seq in &doomed {
        delete(w, epoch, *seq).await;
    }
    *doomed.last().unwrap()
}

async fn opening(w: &World, epoch: u32) -> Opening {
    let body = w.object(&segment(w, epoch, 0)).await;
    Opening::open(w.pool.keys(), w.volume.number, epoch, &body).unwrap()
}

async fn end(w: &World, epoch: u32) -> u64 {
    opening(w, epoch + 1).await.predecessor.unwrap().end_seq
}

#[test]
fn a_log_with_holes_recovers() {
    for which in 0..5u64 {
        for clean in [false, true] {
            let w = still(1 << 20);
            w.run(async {
                let v = w.attach().await.unwrap();
                churn(&v, 0, 60).await;
                w.env.clock.sleep(Duration::from_secs(5)).await;
                collect(&w, 1, |s| [true, s > 1, s % 2 == 0, s % 3 > 0, s == 7][which as usize]).await;
                churn(&v, 60, 63).await;
                if clean {
                    v.detach().await.unwrap();
                }
                w.crash(v).await;
                let last = *seqs(&w, 1).await.last().unwrap();
                for epoch in 2..4u32 {
                    let v = w.attach_as(takeover(w.options(epoch as u8, 1))).await.unwrap();
                    shows(&v, 63).await;
                    assert_eq!(end(&w, 1).await, last + u64::from(!clean));
                    w.crash(v).await;
                }
            });
        }
    }
}

#[test]
fn a_long_log_with_holes_recovers() {
    let w = still(1 << 20);
    w.run(async {
        let v = w.attach_as(AttachOptions { checkpoint_segments: 1040, ..w.options(1, 1) }).await.unwrap();
        churn(&v, 0, 1100).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        churn(&v, 1100, 2060).await;
        collect(&w, 1, |s| s % 5 > 0).await;
        w.crash(v).await;
        let v = w.attach_as(takeover(w.options(2, 1))).await.unwrap();
        assert!(v.status().segments_since_checkpoint > 900);
        shows(&v, 2060).await;
    });
}

#[test]
fn behind_the_holes_nothing_may_be_missing() {
    let w = still(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        churn(&v, 0, 60).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        collect(&w, 1, |s| s % 2 == 0).await;
        churn(&v, 60, 64).await;
        w.crash(v).await;
        let last = *seqs(&w, 1).await.last().unwrap();
        // Not known to have been there: what lies behind it was never acknowledged.
        let body = w.object(&segment(&w, 1, last - 1)).await;
        delete(&w, 1, last - 1).await;
        let opening = SegmentId::log(w.volume.number, 2, 0).key();
        let dying = Hooked::pool(&w, move |verb, key| match verb == "put" && key == opening {
            true => Act::Fail,
            false => Act::Fine,
        })
        .await;
        let tried = Volume::attach(&dying, &w.volume, takeover(w.options(2, 1)), w.env.clone()).await;
        assert!(matches!(tried, Err(AttachError::Undecided(_))), "{:?}", tried.err());
        let seal = w.object(&segment(&w, 1, last - 1)).await;
        w.put(&segment(&w, 1, last - 1), body).await;
        // The seal of a recovery stands behind it.
        w.put(&segment(&w, 1, last + 1), seal).await;
        assert!(w.attach_as(takeover(w.options(3, 1))).await.is_err(), "a seal under another name");
        delete(&w, 1, last + 1).await;
        let tried = Volume::attach(&dying, &w.volume, takeover(w.options(2, 1)), w.env.clone()).await;
        assert!(matches!(tried, Err(AttachError::Undecided(_))), "{:?}", tried.err());
        let body = w.object(&segment(&w, 1, last - 1)).await;
        delete(&w, 1, last - 1).await;
        let error = w.attach_as(takeover(w.options(3, 1))).await.err().unwrap();
        let lost = segment(&w, 1, last - 1);
        assert!(matches!(&error, AttachError::Log { key, .. } if lost.ends_with(key)), "{error}");
        w.put(&lost, body).await;
        shows(&w.attach_as(takeover(w.options(3, 1))).await.unwrap(), 64).await;
    });
}

#[test]
fn what_lies_beyond_a_gap_is_left_out_of_a_log_with_holes() {
    let w = still(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        churn(&v, 0, 60).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        collect(&w, 1, |s| s != 3).await;
        churn(&v, 60, 68).await;
        w.crash(v).await;
        w.lose_journals(1);
        let last = *seqs(&w, 1).await.last().unwrap();
        // The last three were on their way, of which the first never landed.
        delete(&w, 1, last - 2).await;
        let v = w.attach_as(w.options(1, 2)).await.unwrap();
        assert_eq!(end(&w, 1).await, last - 2);
        shows(&v, 65).await;
    });
}

#[test]
fn a_damaged_last_segment_is_not_passed_over_for_an_older_log() {
    let w = still(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        churn(&v, 0, 60).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        collect(&w, 1, |s| s > 4).await;
        w.crash(v).await;
        let last = segment(&w, 1, *seqs(&w, 1).await.last().unwrap());
        let good = w.object(&last).await;
        let mut bad = good.to_vec();
        let at = bad.len() - 60;
        bad[at] ^= 1;
        w.put(&last, bad.into()).await;
        let before = seqs(&w, 1).await;
        let error = w.attach_as(takeover(w.options(2, 1))).await.err().unwrap();
        assert!(matches!(error, AttachError::Segment(_)), "{error}");
        assert_eq!(seqs(&w, 1).await, before, "nothing was sealed");
        w.put(&last, good).await;
        shows(&w.attach_as(takeover(w.options(2, 1))).await.unwrap(), 60).await;
    });
}

/// Somebody who wanted to seal the log stalled; what was its end has been deleted since.
#[test]
fn a_seal_in_a_hole_ends_no_log() {
    for clean in [false, true] {
        for at in [2, 5, 6, 20, u64::MAX] {
            let w = still(1 << 20);
            w.run(async {
                let v = w.attach().await.unwrap();
                churn(&v, 0, 60).await;
                w.env.clock.sleep(Duration::from_secs(5)).await;
                // Seq 5 is left alone between holes.
                let last = collect(&w, 1, |s| s > 1 && s != 5 && s != 7).await;
                churn(&v, 60, 63).await;
                let seq = if at == 5 { 4 } else { at.min(last) };
                let seal = Seal {
                    volume: w.volume.number,
                    epoch: 1,
                    seq,
                    writer: [7; 16],
                    clean: false,
                    predecessor_salt: [9; 16],
                    wall_ms: 0,
                };
                w.put(&segment(&w, 1, seq), seal.seal(w.pool.keys(), w.env.random16())).await;
                if clean {
                    v.detach().await.unwrap();
                }
                w.crash(v).await;
                let last = *seqs(&w, 1).await.last().unwrap();
                let v = w.attach_as(takeover(w.options(2, 1))).await.unwrap();
                assert_eq!(end(&w, 1).await, last + u64::from(!clean), "seal at {seq}");
                shows(&v, 63).await;
            });
        }
    }
}

/// A host that takes over lists the log and stalls before its seal; the owner lives, and goes on deleting.
#[test]
fn a_takeover_that_stalls_before_its_seal_loses_nothing_of_a_living_owner() {
    // All that is dead goes, or what stood at the log's end stays, or all stays.
    for kept in 0..3u64 {
        let w = still(1 << 20);
        w.run(async {
            let old = w.attach().await.unwrap();
            churn(&old, 0, 20).await;
            w.env.clock.sleep(Duration::from_secs(5)).await;
            let listed = *seqs(&w, 1).await.last().unwrap();
            let (stalled, log) = (AtomicBool::new(false), log_prefix(w.volume.number, 1));
            let slow = Hooked::pool(&w, move |verb, key| match verb == "put" && key.starts_with(&log) {
                true if !stalled.swap(true, Ordering::SeqCst) => Act::Slow(Duration::from_secs(20)),
                _ => Act::Fine,
            })
            .await;
            let new = Volume::attach(&slow, &w.volume, takeover(w.options(2, 1)), w.env.clone());
            let going_on = async {
                w.env.clock.sleep(Duration::from_secs(5)).await;
                churn(&old, 20, 80).await;
                w.env.clock.sleep(Duration::from_secs(5)).await;
                let keeps = |s| (kept == 1 && s == listed + 1) || kept == 2;
                collect(&w, 1, |s| s == 1 || !keeps(s)).await;
            };
            let (new, ()) = futures::join!(new, going_on);
            let new = new.unwrap();
            shows(&new, 80).await;
            assert!(end(&w, 1).await > listed + 60);
            // What an older checkpoint needs may be gone.
            assert_eq!(opening(&w, 2).await.start, newest_checkpoint(&w, 1).await);
            assert_eq!(old.write(0, block(9), true).await, Err(BlockError::Fenced));
            churn(&new, 80, 84).await;
            shows(&new, 84).await;
        });
    }
}

/// The same, but somebody else has taken the volume over meanwhile, and deletes what was before it.
#[test]
fn a_takeover_that_stalls_before_its_seal_gives_way_to_a_newer_owner() {
    let w = still(1 << 20);
    w.run(async {
        let old = w.attach().await.unwrap();
        churn(&old, 0, 20).await;
        let (stalled, log) = (AtomicBool::new(false), log_prefix(w.volume.number, 1));
        let slow = Hooked::pool(&w, move |verb, key| match verb == "put" && key.starts_with(&log) {
            true if !stalled.swap(true, Ordering::SeqCst) => Act::Slow(Duration::from_secs(20)),
            _ => Act::Fine,
        })
        .await;
        let late = Volume::attach(&slow, &w.volume, takeover(w.options(2, 1)), w.env.clone());
        let other = async {
            w.env.clock.sleep(Duration::from_secs(1)).await;
            churn(&old, 20, 40).await;
            let v = w.attach_as(takeover(w.options(3, 1))).await.unwrap();
            churn(&v, 40, 70).await;
            w.env.clock.sleep(Duration::from_secs(5)).await;
            let seal = end(&w, 1).await;
            for seq in seqs(&w, 1).await {
                if seq != seal {
                    delete(&w, 1, seq).await;
                }
            }
            v
        };
        let (late, v) = futures::join!(late, other);
        let error = late.err().unwrap();
        assert!(matches!(&error, AttachError::LostRace { winner, .. } if winner == "host3"), "{error}");
        churn(&v, 70, 74).await;
        shows(&v, 74).await;
        v.detach().await.unwrap();
        shows(&w.attach_as(w.options(4, 1)).await.unwrap(), 74).await;
    });
}

/// Between LIST and GETs the owner names a newer checkpoint, and deletes what the older one needed.
#[test]
fn a_log_that_is_deleted_from_while_it_is_read_is_read_anew() {
    let w = still(1 << 20);
    w.run(async {
        let old = w.attach().await.unwrap();
        churn(&old, 0, 20).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        let (reads, log) = (std::sync::atomic::AtomicU64::new(0), log_prefix(w.volume.number, 1));
        // The second round of GETs comes late: those of the indexes after the checkpoint.
        let slow = Hooked::pool(&w, move |verb, key| match verb == "get" && key.starts_with(&log) {
            true => match reads.fetch_add(1, Ordering::SeqCst) {
                0..=40 => Act::Slow(Duration::from_secs(8)),
                _ => Act::Fine,
            },
            _ => Act::Fine,
        })
        .await;
        let new = Volume::attach(&slow, &w.volume, takeover(w.options(2, 1)), w.env.clone());
        let going_on = async {
            w.env.clock.sleep(Duration::from_secs(1)).await;
            churn(&old, 20, 60).await;
            w.env.clock.sleep(Duration::from_secs(4)).await;
            collect(&w, 1, |_| true).await;
        };
        let (new, ()) = futures::join!(new, going_on);
        shows(&new.unwrap(), 60).await;
    });
}

#[test]
fn what_was_replayed_is_handed_on_for_the_accounts() {
    let w = still(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        churn(&v, 0, 20).await;
        w.env.clock.sleep(Duration::from_secs(5)).await;
        churn(&v, 20, 23).await;
        w.crash(v).await;
        let start = newest_checkpoint(&w, 1).await;
        let options = takeover(w.options(2, 1));
        let attempt =
            Attach { pool: &w.pool, volume: &w.volume, options: &options, env: &w.env, writer: w.env.random16() };
        let acquired = attempt.acquire(false).await.unwrap();
        assert_eq!(acquired.replayed, acquired.replayed_segments.len() as u64);
        let mut born = start.last_op;
        for (seq, got) in (start.covers_seq + 1..end(&w, 1).await).zip(&acquired.replayed_segments) {
            assert_eq!(got.segment, SegmentId::log(w.volume.number, 1, seq));
            assert_eq!(u64::from(got.bytes), w.object(&segment(&w, 1, seq)).await.len() as u64);
            let ops = index(&w, 1, seq).await.unwrap().ops;
            born = if ops.is_empty() { born } else { ops.last };
            assert_eq!(got.born, born);
        }
        assert_eq!(born, 23);
    });
}
