//! Crashes of the daemon and of the host.

use std::sync::atomic::{AtomicU64, Ordering};

use super::hooked::{Act, Hooked};
use super::*;

#[test]
fn a_crash_of_the_daemon_loses_no_acknowledged_write() {
    let w = World::new(16 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        v.write(4096, block(2), false).await.unwrap();
        v.discard(0, 4096, false).await.unwrap();
        w.crash(v).await;
        // Crash after crash, some of them before anything else is done.
        for round in 0..4u8 {
            let v = w.attach().await.unwrap();
            assert_eq!(read(&v, 0, 4096).await.unwrap(), vec![0; 4096], "round {round}");
            assert_eq!(read(&v, 4096, 4096).await.unwrap(), block(2), "round {round}");
            for r in 0..round {
                assert_eq!(read(&v, 8192 + u64::from(r) * 4096, 4096).await.unwrap(), block(r + 10));
            }
            v.write(8192 + u64::from(round) * 4096, block(round + 10), false).await.unwrap();
            w.crash(v).await;
        }
    });
}

#[test]
fn a_crash_of_the_host_leaves_a_prefix_with_everything_flushed() {
    let w = World::new(16 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), false).await.unwrap();
        v.flush().await.unwrap();
        v.write(0, block(2), false).await.unwrap();
        v.write(4096, block(3), false).await.unwrap();
        w.crash(v).await;
        w.lose_journals(1);
        let v = w.attach_as(w.options(1, 2)).await.unwrap();
        let (a, b) = (read(&v, 0, 1).await.unwrap()[0], read(&v, 4096, 1).await.unwrap()[0]);
        assert!([(1, 0), (2, 0), (2, 3)].contains(&(a, b)), "{a} {b}");
        // Numbers go on: nothing that was lost comes back later.
        v.write(8192, block(4), true).await.unwrap();
        v.detach().await.unwrap();
        w.crash(v).await;
        let v = w.attach_as(w.options(1, 2)).await.unwrap();
        assert_eq!(read(&v, 8192, 4096).await.unwrap(), block(4));
    });
}

#[test]
fn a_missing_journal_on_the_same_boot_is_refused() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        v.write(0, block(2), false).await.unwrap();
        w.crash(v).await;
        w.lose_journals(1);
        let error = w.attach().await.err().unwrap();
        assert!(matches!(error, AttachError::JournalMissing { .. }), "{error}");
        assert!(error.to_string().contains("--takeover --lose-journal"));
        let half = w.attach_as(AttachOptions { lose_journal: true, ..w.options(1, 1) }).await.err().unwrap();
        assert!(matches!(half, AttachError::JournalMissing { .. }), "its owner may be alive: {half}");
        let said = AttachOptions { lose_journal: true, takeover: true, ..w.options(1, 1) };
        let v = w.attach_as(said).await.unwrap();
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(1));
    });
}

#[test]
fn a_journal_that_goes_with_a_detach_while_another_process_looks_is_not_missed() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        v.write(0, block(1), true).await.unwrap();
        // It lists the log before the seal is there, and reads it after the journal has gone.
        let slow = Hooked::pool(&w, |verb, key| match verb == "get" && key.starts_with("log/") {
            true => Act::Slow(Duration::from_secs(1)),
            false => Act::Fine,
        })
        .await;
        let given_back = async {
            w.env.clock.sleep(Duration::from_millis(500)).await;
            v.detach().await.unwrap();
        };
        let (taken, ()) = futures::join!(Volume::attach(&slow, &w.volume, w.options(1, 1), w.env.clone()), given_back);
        assert_eq!(read(&taken.unwrap(), 0, 4096).await.unwrap(), block(1));
    });
}

#[test]
fn damage_on_the_way_does_not_keep_a_volume_from_being_attached() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        for i in 0..5u64 {
            v.write(i * 4096, block(i as u8 + 1), true).await.unwrap();
        }
        w.crash(v).await;
        let mut flipped = 0;
        for one in 1..=12u64 {
            let gets = Arc::new(AtomicU64::new(0));
            let seen = gets.clone();
            let pool = Hooked::pool(&w, move |verb, key| {
                let hit = verb == "get" && key.starts_with("log/") && seen.fetch_add(1, Ordering::SeqCst) + 1 == one;
                if hit { Act::Flip } else { Act::Fine }
            })
            .await;
            let v = Volume::attach(&pool, &w.volume, w.options(1, 1), w.env.clone()).await;
            let v = v.unwrap_or_else(|e| panic!("GET {one} flipped: {e}"));
            flipped += u64::from(gets.load(Ordering::SeqCst) >= one);
            for i in 0..5u64 {
                assert_eq!(read(&v, i * 4096, 4096).await.unwrap(), block(i as u8 + 1));
            }
            w.crash(v).await;
        }
        assert!(flipped >= 5, "{flipped} were flipped");
    });
}

#[test]
fn long_logs_and_checkpoints_recover() {
    let w = World::new(1 << 30);
    w.run(async {
        let mut model = std::collections::HashMap::new();
        for epoch in 0..5u64 {
            let v = w.attach().await.unwrap();
            assert!(v.status().segments_since_checkpoint < 60);
            for (at, n) in &model {
                assert_eq!(read(&v, *at, 4096).await.unwrap(), noise(4096, *n), "epoch {epoch}");
            }
            for i in 0..30u64 {
                let n = epoch * 100 + i;
                let at = (n * 7919 % 4096) * 65536;
                v.write(at, noise(4096, n), true).await.unwrap();
                model.insert(at, n);
            }
            if epoch == 2 {
                v.detach().await.unwrap();
                assert_eq!(v.status().map_dirty, 0);
            }
            w.crash(v).await;
        }
        assert!(!w.keys("data/").await.is_empty(), "checkpoints were written");
    });
}

#[test]
fn recovery_takes_few_round_trips() {
    let w = World::new(1 << 30);
    w.run(async {
        let v = w.attach_as(AttachOptions { checkpoint_segments: 500, ..w.options(1, 1) }).await.unwrap();
        for i in 0..128u64 {
            v.write(i << 20, noise(4096, i), true).await.unwrap();
        }
        w.crash(v).await;
        let pool = Hooked::pool(&w, |_, _| Act::Slow(Duration::from_secs(1))).await;
        let before = w.time.now();
        let v = Volume::attach(&pool, &w.volume, w.options(1, 1), w.env.clone()).await.unwrap();
        let trips = (w.time.now() - before).as_secs();
        assert!(trips <= 6, "{trips} round trips from an open pool to an attached volume");
        assert_eq!(read(&v, 5 << 20, 4096).await.unwrap(), noise(4096, 5));
    });
}
