//! Volumes that are well: after a history, and while they are written to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::model::{Table, index};
use super::slow::Slow;
use super::*;
use crate::store::{Kind as Request, StoreOptions};

#[test]
fn a_history_of_epochs_and_checkpoints_is_clean_and_counted_exactly() {
    let w = World::with_history();
    w.run(async {
        let report = w.scrub().await;
        clean(&report);
        let v = &report.volumes[0];
        assert_eq!((v.state, v.epoch, v.name.as_deref()), (State::Open, 3, Some("v")));
        assert_eq!((&v.not_compared, &v.leaks_unknown), (&None, &None));
        assert!(!w.keys("data/").await.is_empty(), "checkpoints were written");

        let live = Table::of(&w).await.live();
        let mut usage: HashMap<SegmentId, Usage> = HashMap::new();
        for (record, blocks) in &live {
            let u = usage.entry(record.segment).or_default();
            (u.blocks, u.records, u.bytes) = (u.blocks + blocks, u.records + 1, u.bytes + u64::from(record.len));
        }
        let data: HashMap<_, _> =
            v.usage.iter().filter(|(id, _)| id.key().starts_with("log/")).map(|(i, u)| (*i, *u)).collect();
        assert_eq!(data, usage);
        assert_eq!(v.live_blocks, live.values().sum::<u64>());
        assert_eq!(v.live_data_bytes, live.keys().map(|r| u64::from(r.len)).sum::<u64>());
        let mut stored = (0, 0);
        for key in w.keys("log/").await.into_iter().chain(w.keys("data/").await) {
            stored = (stored.0 + 1, stored.1 + w.object(&key).await.len() as u64);
        }
        assert_eq!((v.objects, v.stored_bytes), stored);
        assert_eq!(v.bytes_read, v.live_data_bytes + v.live_node_bytes);
        assert_eq!(v.garbage_bytes(), stored.1 - v.bytes_read);

        let fsck = w.fsck().await;
        clean(&fsck);
        assert_eq!((fsck.volumes[0].bytes_read, fsck.volumes[0].live_blocks), (v.live_node_bytes, v.live_blocks));
    });
}

#[test]
fn nodes_are_counted_as_the_newest_tree_has_them() {
    let w = World::with_history();
    w.run(async {
        let v = w.attach().await;
        v.detach().await.unwrap();
        let report = w.scrub().await;
        clean(&report);
        assert_eq!(report.volumes[0].state, State::Sealed);
        // The last checkpoint wrote the nodes that changed; what its data segments hold is all alive. The last one of all
        // holds the accounts.
        let nodes_in = |id: &&SegmentId| report.volumes[0].usage[*id].blocks == 0;
        let id = *report.volumes[0].usage.keys().filter(nodes_in).max().unwrap();
        let nodes = index(&w, id).await.unwrap().nodes;
        let usage = report.volumes[0].usage[&id];
        assert_eq!((usage.records, usage.blocks), (nodes.len() as u64, 0));
        assert_eq!(usage.bytes, nodes.iter().map(|n| u64::from(n.record.len)).sum::<u64>());
    });
}

#[test]
fn nothing_is_written_and_nothing_taken() {
    let w = World::with_history();
    w.run(async {
        let before = w.keys("").await;
        let store = Store::over(w.objects.clone(), "p", "test", w.env.clone());
        let pool = Pool::open(store, &SecretString::from("secret"), &w.env).await.unwrap();
        clean(&scrub(&pool, Some("v"), ScrubOptions::default(), &w.env, &()).await.unwrap());
        assert!(pool.store().counts().iter().all(|row| matches!(row.kind, Request::Get | Request::List)));
        assert_eq!(w.keys("").await, before);
    });
}

#[test]
fn a_volume_under_load_is_scrubbed_again_and_again_without_a_finding() {
    let w = World::new();
    w.run(async {
        let writers = Slow::new(&w, 400).pool(&w).await;
        let readers = Slow::new(&w, 40).pool(&w).await;
        let over = AtomicBool::new(false);
        let load = async {
            let mut n = 0u64;
            while !over.load(Ordering::SeqCst) {
                let v = Volume::attach(&writers, &w.volume, w.options(), w.env.clone()).await.unwrap();
                for _ in 0..120 {
                    n += 1;
                    let at = n * 7919 % 512 * 4096;
                    v.write(at, noise(8192, n), n.is_multiple_of(5)).await.unwrap();
                    if n.is_multiple_of(3) {
                        w.env.clock.sleep(Duration::from_millis(n * 37 % 300)).await;
                    }
                    // Several flushes at once, so that several segments are on their way.
                    if n.is_multiple_of(11) {
                        futures::future::join_all((0..3).map(|_| v.flush())).await;
                    }
                }
                if n.is_multiple_of(2) {
                    v.detach().await.unwrap();
                }
                drop(v);
                w.env.clock.sleep(Duration::from_millis(50)).await;
            }
            n
        };
        let look = async {
            let mut epochs = BTreeSet::new();
            for round in 0..40 {
                let options = ScrubOptions { data: round % 2 == 0, parallel: 4, ..ScrubOptions::default() };
                let report = scrub(&readers, None, options, &w.env, &()).await.unwrap();
                clean(&report);
                epochs.insert(report.volumes[0].epoch);
                w.env.clock.sleep(Duration::from_millis(round * 91 % 700)).await;
            }
            over.store(true, Ordering::SeqCst);
            epochs
        };
        let (n, epochs) = futures::join!(load, look);
        assert!(n > 300 && epochs.len() > 3, "{n} writes, epochs {epochs:?}");
    });
}

#[test]
fn an_outage_ends_the_run_and_is_no_finding() {
    let w = World::with_history();
    w.run(async {
        let slow = Slow::new(&w, 20);
        let pool = slow.clone().pool(&w).await;
        let away = async {
            w.env.clock.sleep(Duration::from_millis(100)).await;
            slow.away.store(true, Ordering::SeqCst);
        };
        let (got, ()) = futures::join!(scrub(&pool, None, ScrubOptions::default(), &w.env, &()), away);
        assert!(matches!(got, Err(ScrubError::Store(_))), "{got:?}");
        slow.away.store(false, Ordering::SeqCst);
        clean(&scrub(&pool, None, ScrubOptions::default(), &w.env, &()).await.unwrap());
    });
}

#[test]
fn the_pace_is_kept() {
    let w = World::with_history();
    w.run(async {
        let bytes = w.scrub().await.volumes[0].bytes_read;
        let begun = w.time.now();
        let options = ScrubOptions { rate: Some(10_000), ..ScrubOptions::default() };
        scrub(&w.pool, None, options, &w.env, &()).await.unwrap();
        let took = (w.time.now() - begun).as_secs();
        assert!(took >= bytes / 10_000, "{took} s for {bytes} bytes");
    });
}

#[test]
fn a_log_that_does_not_fit_the_memory_allowed_is_not_compared_and_says_so() {
    let w = World::with_history();
    w.run(async {
        let options = ScrubOptions { replay_bytes: 100, ..ScrubOptions::default() };
        let report = scrub(&w.pool, None, options, &w.env, &()).await.unwrap();
        clean(&report);
        assert!(report.volumes[0].not_compared.as_deref().unwrap().contains("memory"));
    });
}

#[test]
fn a_volume_that_nobody_opened_is_clean_and_an_unknown_name_is_an_error() {
    let w = World::new();
    w.run(async {
        let report = w.scrub().await;
        clean(&report);
        assert_eq!((report.volumes[0].state, report.volumes[0].objects), (State::Unused, 0));
        let none = scrub(&w.pool, Some("none"), ScrubOptions::default(), &w.env, &()).await;
        assert_eq!(none.err(), Some(ScrubError::NoSuchVolume("none".into())));
        let missing = Store::open("memory://scrub-none", &StoreOptions::default(), w.env.clone()).unwrap();
        assert!(Pool::open_older(missing, &SecretString::from("secret"), &w.env).await.is_err());
    });
}
