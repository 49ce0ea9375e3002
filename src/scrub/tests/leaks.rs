//! What nothing refers to.

use super::*;
use crate::segment::{OpRange, SegmentBuilder, SegmentTail};

/// A data segment as a checkpoint that was given up leaves it.
pub(super) fn orphan(w: &World, epoch: u32, n: u64) -> (String, Bytes) {
    let id = SegmentId::data(w.volume.number, epoch, n);
    let mut builder = SegmentBuilder::new(w.pool.keys().clone(), id, [epoch as u8; 16], Compression::Zstd);
    builder.add_node(0, 0, &[1; 100]);
    let tail = SegmentTail { ops: OpRange::NONE, predecessor_salt: [0; 16], checkpoint: None, deletable: Vec::new() };
    let built = builder.finish(tail);
    (id.key(), built.bytes)
}

#[test]
fn what_a_finished_epoch_left_is_leaked_and_what_a_running_one_has_is_not() {
    let w = World::with_history();
    w.run(async {
        let (old, body) = orphan(&w, 2, 500);
        w.put(&old, &body).await;
        let (running, other) = orphan(&w, 3, 500);
        w.put(&running, &other).await;
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), [("leaked-object", old.clone(), vec![])]);
            assert_eq!(only(&report).wasted, body.len() as u64);
            assert_eq!(only(&report).effect(), format!("wastes {} bytes", body.len()));
            assert_eq!(report.volumes[0].leaked_bytes, body.len() as u64);
            assert!(!report.is_damaged());
        }
    });
}

#[test]
fn what_lies_behind_a_seal_that_counts_is_leaked() {
    let w = World::with_history();
    w.run(async {
        let body = w.object(&w.log(1, 3)).await;
        let (late, running) = (w.log(1, 900), w.log(3, 900));
        w.put(&late, &body).await;
        assert_eq!(said(&w.scrub().await), [("leaked-object", late.clone(), vec![])]);
        w.put(&running, &body).await;
        let found = said(&w.scrub().await);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], ("damaged-index", running.clone(), vec![]), "it might be where the log ends");
        assert_eq!((found[2].0, found[1].1.as_str()), ("log-gap", late.as_str()), "{found:?}");
    });
}

#[test]
fn a_deleted_volume_leaves_its_openings_and_seals_and_nothing_else() {
    let w = World::with_history();
    w.run(async {
        let (key, body) = (w.log(1, 3), w.object(&w.log(1, 3)).await);
        crate::volume::delete(&w.pool, &w.volume, &w.options(), &w.env, |_| {}).await.unwrap();
        let report = w.scrub().await;
        clean(&report);
        assert_eq!(report.volumes[0].state, State::Deleted);
        w.put(&key, &body).await;
        assert_eq!(said(&w.scrub().await), [("leaked-object", key.clone(), vec![])]);
        w.pool.delete_volume_record(&w.volume, &w.env).await.unwrap();
        let report = w.scrub().await;
        assert_eq!(said(&report), [("leaked-object", key.clone(), vec![])]);
        assert_eq!(report.volumes[0].name.as_deref(), Some("v"), "older catalogues know its name");
        w.delete(&key).await;
        clean(&w.scrub().await);
    });
}

#[test]
fn data_without_a_log_says_what_attaching_would_do() {
    let w = World::new();
    w.run(async {
        let (key, body) = orphan(&w, 1, 0);
        w.put(&key, &body).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("missing-object", w.log(1, 0), vec![])]);
        assert!(only(&report).effect().contains("empty"));
    });
}
