//! Why objects are there, against what is known of how they came to be.

use std::collections::BTreeMap;

use super::accounts::{Accounted, trimmed};
use super::leaks::orphan;
use super::model::Table;
use super::*;
use crate::segment::SegmentKind;

async fn look(w: &World) -> Explanation {
    let all = explain(&w.pool, "v", ScrubOptions::default(), &w.env, &()).await.unwrap();
    let keys: Vec<&str> = all.objects.iter().map(|o| o.key.as_str()).collect();
    let mut there = w.keys("data/").await;
    there.extend(w.keys("log/").await);
    assert_eq!(keys, there, "each object once");
    all
}

fn reasons(all: &Explanation) -> BTreeMap<&str, Reason> {
    all.objects.iter().map(|o| (o.key.as_str(), o.reason)).collect()
}

fn with(all: &Explanation, reason: Reason) -> BTreeSet<String> {
    all.objects.iter().filter(|o| o.reason == reason).map(|o| o.key.clone()).collect()
}

#[test]
fn every_object_of_a_volume_has_its_reason() {
    let w = World::with_history();
    w.time.clone().run(async {
        let a = Accounted::new(w, |_| {}).await;
        let w = &a.w;
        let live = Table::of(w).await.live();
        let (old, body) = orphan(w, 2, 500);
        w.put(&old, &body).await;
        let (running, body) = orphan(w, 4, 990);
        w.put(&running, &body).await;
        let (late, stranger) = (w.log(1, 900), format!("log/{:08x}/notes", w.volume.number));
        w.put(&late, &w.object(&w.log(1, 0)).await).await;
        w.put(&stranger, b"x").await;
        let all = look(w).await;
        let covers = (a.checkpoint.covers_epoch, a.checkpoint.covers_seq);
        assert_eq!((all.epoch, all.state, all.covers), (4, State::Open, Some(covers)));
        assert_eq!(with(&all, Reason::Opening), (1..=4).map(|e| w.log(e, 0)).collect());
        assert_eq!(with(&all, Reason::Seal).len(), 3);
        assert_eq!(with(&all, Reason::Dead), a.dead().iter().map(|id| id.key()).collect());
        assert_eq!(with(&all, Reason::Orphan), BTreeSet::from([old, late]));
        assert_eq!(with(&all, Reason::Accounts), BTreeSet::from([a.table.clone()]));
        assert_eq!(with(&all, Reason::Unknown), BTreeSet::from([stranger]));
        assert!(with(&all, Reason::InFlight).contains(&running));
        let reasons = reasons(&all);
        for record in live.keys() {
            let id = record.segment;
            let after = (id.epoch(), id.number()) > covers && id.kind() == SegmentKind::Log;
            let reason = if after { Reason::Replayed } else { Reason::Holds };
            assert_eq!(reasons[id.key().as_str()], reason, "{}", id.key());
        }
        for object in &all.objects {
            let needed = object.live > 0;
            assert!(object.live <= object.size && !(needed && object.reason.goes()), "{object:?}");
            assert!(needed || object.reason != Reason::Holds, "{object:?}");
        }
        for id in a.dead() {
            w.delete(&id.key()).await;
        }
        assert_eq!(with(&look(w).await, Reason::Dead), BTreeSet::new());
    });
}

#[test]
fn what_a_trim_dropped_goes_after_a_walk() {
    let w = World::with_history();
    w.time.clone().run(async {
        let (dropped, change) = trimmed(&w).await;
        let a = Accounted::new(w, |usage| usage.apply(&change).unwrap()).await;
        let all = look(&a.w).await;
        assert_eq!(reasons(&all)[dropped.record.segment.key().as_str()], Reason::Freed);
        assert!(!with(&all, Reason::Dead).contains(&dropped.record.segment.key()));
    });
}

#[test]
fn what_was_overwritten_since_goes_with_the_next_checkpoint() {
    let w = World::new();
    w.run(async {
        let v = w.attach().await;
        v.write(0, noise(65536, 1), true).await.unwrap();
        v.detach().await.unwrap();
        let all = look(&w).await;
        assert_eq!((all.state, reasons(&all)[w.log(1, 1).as_str()]), (State::Sealed, Reason::Holds));
        let v = w.attach().await;
        v.write(0, noise(65536, 2), true).await.unwrap();
        drop(v);
        w.env.clock.sleep(Duration::from_millis(1)).await;
        let all = look(&w).await;
        assert_eq!(with(&all, Reason::Superseded), BTreeSet::from([w.log(1, 1)]));
        assert!(with(&all, Reason::Replayed).contains(&w.log(2, 1)));
        assert!(!all.damaged);
    });
}

#[test]
fn a_volume_that_was_deleted_or_never_used_is_no_riddle() {
    let w = World::new();
    w.run(async {
        let all = look(&w).await;
        assert_eq!((all.epoch, all.state, all.covers, all.objects.len()), (0, State::Unused, None, 0));
        let unknown = explain(&w.pool, "x", ScrubOptions::default(), &w.env, &()).await;
        assert!(matches!(unknown, Err(ScrubError::NoSuchVolume(name)) if name == "x"));
    });
    let w = World::with_history();
    w.run(async {
        let (key, body) = (w.log(1, 3), w.object(&w.log(1, 3)).await);
        crate::volume::delete(&w.pool, &w.volume, &w.options(), &w.env, |_| {}).await.unwrap();
        w.put(&key, &body).await;
        let all = look(&w).await;
        assert_eq!((all.state, with(&all, Reason::VolumeDeleted)), (State::Deleted, BTreeSet::from([key])));
        assert!(
            all.objects
                .iter()
                .filter(|o| !o.reason.goes())
                .all(|o| { matches!(o.reason, Reason::Opening | Reason::Seal) })
        );
    });
}
