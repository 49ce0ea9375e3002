//! The store over scripted faults, in memory, and in a directory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::faults::{Act, Faulty};
use super::hedge::Hedging;
use super::timeline::Timeline;
use super::*;

const SEC: Duration = Duration::from_secs(1);
const SOON: Patience = Patience::For(Duration::from_secs(120));

fn over(time: &Timeline, faulty: Faulty) -> (Store, Arc<Faulty>) {
    let faulty = faulty.arc();
    (Store::over(faulty.clone(), "some/prefix", "test://", time.env()), faulty)
}

fn body() -> Bytes {
    Bytes::from_static(b"the body")
}

async fn put(store: &Store, patience: Patience) -> Result<Put, StoreError> {
    store.put_new("a/b", body(), Cause::Flush, patience).await
}

/// Puts `body()` under a script and answers what came of it.
fn put_under(acts: &[Act]) -> Put {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time).puts(acts.iter().cloned()));
    time.run(async {
        let put = put(&store, Patience::Forever).await.unwrap();
        if put.is_ours() {
            assert_eq!(store.get("a/b", Cause::Read, SOON).await.unwrap(), body());
        }
        put
    })
}

#[test]
fn a_put_creates_and_a_second_one_is_refused() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time));
    time.run(async {
        assert_eq!(put(&store, SOON).await, Ok(Put::Created));
        assert_eq!(put(&store, SOON).await, Ok(Put::Ours));
        let other = store.put_new("a/b", Bytes::from_static(b"other"), Cause::Flush, SOON).await;
        assert_eq!(other, Ok(Put::Taken(body())));
        assert_eq!(store.get("a/b", Cause::Read, SOON).await, Ok(body()));
    });
}

#[test]
fn a_conflict_with_nothing_there_is_sent_again() {
    assert_eq!(put_under(&[Act::Conflict]), Put::Created);
    assert_eq!(put_under(&[Act::Conflict, Act::Conflict, Act::Conflict]), Put::Created);
}

#[test]
fn a_put_that_landed_is_known_by_its_bytes() {
    assert_eq!(put_under(&[Act::LandThenFail("connection reset")]), Put::Ours);
    assert_eq!(put_under(&[Act::LandThenHang]), Put::Ours);
    assert_eq!(put_under(&[Act::LandThenHang, Act::Fail("503"), Act::Conflict]), Put::Ours);
}

#[test]
fn other_bytes_under_the_key_mean_taken() {
    let other = Put::Taken(Bytes::from_static(b"another"));
    assert_eq!(put_under(&[Act::Before(b"another")]), other);
    assert_eq!(put_under(&[Act::Hang, Act::Fail("503"), Act::Before(b"another")]), other);
    assert_eq!(put_under(&[Act::Before(b"the body")]), Put::Ours);
}

#[test]
fn a_bit_flipped_on_the_way_fences_nobody() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time).puts([Act::LandThenFail("reset")]).gets([Act::FlipBody]));
    assert_eq!(time.run(put(&store, SOON)), Ok(Put::Ours));
    let other = Bytes::from_static(b"the BODY");
    faulty.push_get(Act::FlipBody);
    let taken = time.run(store.put_new("a/b", other, Cause::Flush, SOON));
    assert_eq!(taken, Ok(Put::Taken(body())), "equally long, read until two reads agree");
}

fn an_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Fine),
        (1u64..40).prop_map(|ms| Act::Slow(Duration::from_millis(ms))),
        Just(Act::Fail("503")),
        Just(Act::LandThenFail("reset")),
        Just(Act::LandThenHang),
        Just(Act::Hang),
        Just(Act::Conflict),
        Just(Act::Deny),
    ]
}

proptest! {
    /// Whatever happens on the way, of all who create a key exactly one has it, and everybody knows who.
    #[test]
    fn of_racing_creates_one_wins_and_all_know(
        puts in prop::collection::vec(an_act(), 0..16),
        gets in prop::collection::vec(an_act(), 0..8),
        writers in 2usize..4,
    ) {
        let time = Timeline::default();
        let (store, _) = over(&time, Faulty::new(&time).puts(puts).gets(gets));
        let bodies: Vec<Bytes> = (0..writers).map(|n| Bytes::from(format!("body {n}"))).collect();
        let all = bodies.iter().map(|b| store.put_new("k", b.clone(), Cause::Flush, Patience::Forever));
        let verdicts = time.run(futures::future::try_join_all(all)).unwrap();
        let there = time.run(store.get("k", Cause::Read, Patience::Forever)).unwrap();
        for (body, verdict) in bodies.iter().zip(verdicts) {
            if *body == there {
                prop_assert!(verdict.is_ours());
            } else {
                prop_assert_eq!(verdict, Put::Taken(there.clone()));
            }
        }
    }
}

#[test]
fn patience_ends_and_says_why() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time).puts(std::iter::repeat_n(Act::Fail("503 SlowDown"), 1000)));
    let e = time.run(put(&store, Patience::For(10 * SEC))).unwrap_err();
    assert!(matches!(&e, StoreError::Timeout { op: "PUT", key, .. } if key == "a/b"), "{e}");
    assert!(e.to_string().contains("SlowDown"), "{e}");
    let lasted = time.now();
    assert!((10 * SEC - Duration::from_millis(100)..=10 * SEC).contains(&lasted), "all of it is used up: {lasted:?}");
    let attempts = store.counts()[0].requests;
    assert!((10..=20).contains(&attempts), "50 ms doubling, then half of what is left each time: {attempts}");

    let (store, _) = over(&time, Faulty::new(&time).puts([Act::Hang]));
    let begun = time.now();
    assert!(time.run(put(&store, Patience::For(2 * SEC))).is_err());
    assert_eq!(time.now() - begun, 2 * SEC, "patience also ends an attempt");
}

#[test]
fn what_an_operator_must_mend_fails_at_once_or_waits_for_ever() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time).puts([Act::Deny]));
    let e = time.run(put(&store, SOON)).unwrap_err();
    assert!(matches!(e, StoreError::Denied { .. }), "{e}");
    assert!(e.to_string().contains("check the credentials"), "{e}");
    assert_eq!(time.now(), Duration::ZERO);
    for _ in 0..5 {
        faulty.push_put(Act::Deny);
    }
    assert_eq!(time.run(put(&store, Patience::Forever)), Ok(Put::Created));
    assert!(time.now() > 60 * SEC, "slowly: {:?}", time.now());
}

#[test]
fn health_tells_of_an_outage_and_its_end() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time).puts([Act::Fail("503"), Act::Fail("503")]));
    let env = time.env();
    let watched = store.clone();
    env.spawner.spawn(Box::pin(async move { drop(put(&watched, Patience::Forever).await) }));
    time.run(env.clock.sleep(Duration::from_millis(60)));
    let outage = store.health().outage.unwrap();
    assert_eq!((outage.since, outage.failures), (Duration::ZERO, 2));
    time.run(env.clock.sleep(SEC));
}

#[test]
fn health_is_well_again_after_an_answer() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time).puts([Act::Fail("503 one")]));
    time.run(put(&store, Patience::Forever)).unwrap();
    let health = store.health();
    assert_eq!(health.outage, None);
    assert!(health.last_error.unwrap().message.contains("503 one"));
}

#[test]
fn short_bodies_are_noticed() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time));
    time.run(async {
        put(&store, SOON).await.unwrap();
        faulty.push_get(Act::CutBody(3));
        assert_eq!(store.get("a/b", Cause::Read, SOON).await, Ok(body()), "once is the network");
        for _ in 0..3 {
            faulty.push_get(Act::CutBody(3));
        }
        let e = store.get_range("a/b", 2..8, Cause::Read, Patience::Forever).await;
        assert_eq!(e, Err(StoreError::Short { key: "a/b".into(), want: 6, got: 3 }), "thrice is damage");
    });
}

#[test]
fn ranges_are_exact_or_refused() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time));
    time.run(async {
        put(&store, SOON).await.unwrap();
        let get = |r| store.get_range("a/b", r, Cause::Read, Patience::Forever);
        assert_eq!(get(4..8).await.unwrap(), b"body"[..]);
        assert_eq!(get(3..3).await.unwrap(), b""[..]);
        assert_eq!(get(4..9).await, Err(StoreError::Short { key: "a/b".into(), want: 5, got: 4 }));
        assert_eq!(get(8..9).await, Err(StoreError::Short { key: "a/b".into(), want: 1, got: 0 }));
        let none = store.get("none", Cause::Read, Patience::Forever).await;
        assert_eq!(none, Err(StoreError::NotFound { key: "none".into() }));
        assert!(store.health().outage.is_none(), "an answer is no outage");
    });
}

#[test]
fn transient_trouble_of_reads_passes() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time).gets([Act::Fail("500"), Act::Hang, Act::Fail("reset")]));
    time.run(async {
        put(&store, SOON).await.unwrap();
        assert_eq!(store.get("a/b", Cause::Read, SOON).await, Ok(body()));
        faulty.push_get(Act::Deny);
        assert!(matches!(store.get("a/b", Cause::Read, SOON).await, Err(StoreError::Denied { .. })));
    });
    let row = store.counts().into_iter().find(|r| r.kind == Kind::Get).unwrap();
    assert_eq!((row.requests, row.errors, row.bytes), (5, 4, 8));
}

fn hedged(time: &Timeline, faulty: Faulty) -> (Store, Arc<Faulty>) {
    let faulty = faulty.arc();
    let backend = Backend { objects: faulty.clone(), lister: Lister::Scan, bulk: None, local: None, remote: true };
    let hedging = Some(Hedging::default());
    (Store::build(backend, "", "test://", &StoreOptions::default(), hedging, time.env()), faulty)
}

#[test]
fn a_slow_get_is_overtaken_by_a_second_one() {
    let time = Timeline::default();
    let (store, faulty) = hedged(&time, Faulty::new(&time));
    let ms = Duration::from_millis;
    let get = || store.get_range("a/b", 0..8, Cause::Read, SOON);
    time.run(async {
        put(&store, SOON).await.unwrap();
        for _ in 0..20 {
            faulty.push_get(Act::Slow(ms(20)));
            get().await.unwrap();
        }
        let begun = time.now();
        faulty.push_get(Act::Hang);
        faulty.push_get(Act::Slow(ms(20)));
        assert_eq!(get().await, Ok(body()));
        assert_eq!(time.now() - begun, ms(80), "three times the typical 20 ms, then 20 ms");

        let begun = time.now();
        faulty.push_get(Act::Slow(ms(70)));
        faulty.push_get(Act::Fail("503"));
        assert_eq!(get().await, Ok(body()));
        assert_eq!(time.now() - begun, ms(70), "a second one that fails takes nothing away");

        let begun = time.now();
        for _ in 0..40 {
            faulty.push_get(Act::Slow(ms(90)));
        }
        for _ in 0..20 {
            get().await.unwrap();
        }
        assert!(time.now() - begun >= 19 * ms(90));
    });
    let sent = store.counts().into_iter().find(|r| r.kind == Kind::Get).unwrap().requests;
    assert!(sent <= 42 + 12, "second requests are bounded: {sent}");
}

#[test]
fn lists_come_in_order_from_a_key_on_and_limited() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time));
    time.run(async {
        for key in ["p/3", "p/1", "p/2/x", "q", "p0", "p/4"] {
            store.put_new(key, body(), Cause::Admin, SOON).await.unwrap();
        }
        let keys = async |prefix, after, limit| {
            let found = store.list(prefix, after, limit, Cause::Recovery, SOON).await.unwrap();
            found.into_iter().map(|l| l.key).collect::<Vec<_>>()
        };
        assert_eq!(keys("p/", None, 9).await, ["p/1", "p/2/x", "p/3", "p/4"]);
        assert_eq!(keys("p/", None, 1).await, ["p/1"]);
        assert_eq!(keys("p/", Some("p/1"), 2).await, ["p/2/x", "p/3"]);
        assert_eq!(keys("", Some("p/4"), 9).await, ["p0", "q"]);
        assert!(keys("none/", None, 9).await.is_empty());
        assert!(store.list("p", None, 1, Cause::Recovery, SOON).await.is_err());
    });
}

#[test]
fn long_lists_take_several_pages() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time));
    time.run(async {
        for n in 0..2100 {
            store.put_new(&format!("p/{n:04}"), Bytes::new(), Cause::Admin, SOON).await.unwrap();
        }
        let all = store.list("p/", None, 5000, Cause::Recovery, SOON).await.unwrap();
        assert_eq!(all.len(), 2100);
        assert!(all.is_sorted());
        assert_eq!(store.list("p/", None, 2050, Cause::Recovery, SOON).await.unwrap()[..], all[..2050]);
    });
}

#[test]
fn deleting_twice_is_fine() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time));
    time.run(async {
        put(&store, SOON).await.unwrap();
        store.delete("a/b", Cause::Delete, SOON).await.unwrap();
        store.delete("a/b", Cause::Delete, SOON).await.unwrap();
        assert!(matches!(store.get("a/b", Cause::Read, SOON).await, Err(StoreError::NotFound { .. })));
    });
}

#[test]
fn the_probe_accepts_a_store_that_keeps_its_word() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time));
    time.run(async {
        for stranger in ["probe/0", "probe/ffffffffffffffffffffffffffffffff-0", "probe/zz"] {
            store.put_new(stranger, body(), Cause::Admin, SOON).await.unwrap();
        }
        for act in [Act::Conflict, Act::LandThenFail("reset"), Act::Fine, Act::Fail("503"), Act::LandThenHang] {
            faulty.push_put(act);
        }
        assert!(store.probe().await.unwrap().deletes);
        assert_eq!(store.list("", None, 9, Cause::Probe, SOON).await.unwrap().len(), 3, "it cleans up");
    });
}

#[test]
fn the_probe_refuses_a_store_that_ignores_create_only() {
    let time = Timeline::default();
    let (store, _) = over(&time, Faulty::new(&time).overwriting());
    let e = time.run(store.probe()).unwrap_err();
    assert!(matches!(&e, StoreError::Unsupported(_)) && e.to_string().contains("overwrote"), "{e}");
}

#[test]
fn keys_and_sizes_are_checked() {
    let time = Timeline::default();
    let (store, faulty) = over(&time, Faulty::new(&time));
    time.run(async {
        for key in ["", "a//b", "a/../b"] {
            let put = store.put_new(key, body(), Cause::Flush, SOON).await;
            assert!(put.is_err() || key.is_empty(), "{key}: {put:?}");
        }
        let huge = store.get_range("a/b", 0..MAX_OBJECT + 1, Cause::Read, SOON).await;
        assert!(matches!(huge, Err(StoreError::Config(_))));
    });
    drop(faulty);
}

fn system() -> Env {
    Env::system(tokio::runtime::Handle::current()).unwrap()
}

#[tokio::test]
async fn memory_is_shared_by_name() {
    let opts = StoreOptions::default();
    let name = format!("memory://shared-{}", std::process::id());
    let one = Store::open(&name, &opts, system()).unwrap();
    one.put_new("k", body(), Cause::Admin, SOON).await.unwrap();
    let other = Store::open(&format!("{name}/"), &opts, system()).unwrap();
    assert_eq!(other.get("k", Cause::Admin, SOON).await, Ok(body()));
    let below = Store::open(&format!("{name}/below"), &opts, system()).unwrap();
    assert!(below.get("k", Cause::Admin, SOON).await.is_err());
    assert_eq!(below.url(), format!("{name}/below"));
    one.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_a_store() {
    let tmp = tempfile::tempdir().unwrap();
    let url = format!("file://{}/pool", tmp.path().display());
    let opts = StoreOptions::default();
    let e = Store::open(&url, &opts, system()).unwrap_err();
    assert!(matches!(e, StoreError::NoSuchBucket { .. }), "{e}");
    let store = Store::open(&url, &StoreOptions { create: true, ..opts }, system()).unwrap();
    assert_eq!(store.local_path().unwrap(), tmp.path().canonicalize().unwrap().join("pool"));
    store.probe().await.unwrap();

    assert_eq!(put(&store, SOON).await, Ok(Put::Created));
    assert_eq!(put(&store, SOON).await, Ok(Put::Ours));
    let other = store.put_new("a/b", Bytes::from_static(b"x"), Cause::Flush, SOON).await;
    assert_eq!(other, Ok(Put::Taken(body())));
    let get = |r| store.get_range("a/b", r, Cause::Read, SOON);
    assert_eq!(get(4..8).await.unwrap(), b"body"[..]);
    assert_eq!(get(4..9).await, Err(StoreError::Short { key: "a/b".into(), want: 5, got: 4 }));
    assert_eq!(get(9..10).await, Err(StoreError::Short { key: "a/b".into(), want: 1, got: 0 }));
    let listed = store.list("a/", None, 1, Cause::Read, SOON).await.unwrap();
    assert_eq!(listed, [Listed { key: "a/b".into(), size: 8 }]);

    std::fs::rename(tmp.path().join("pool"), tmp.path().join("gone")).unwrap();
    let e = store.get("a/b", Cause::Read, SOON).await.unwrap_err();
    assert!(matches!(e, StoreError::NoSuchBucket { .. }), "an unmounted disk is no missing object: {e}");
    assert!(put(&store, SOON).await.is_err());
    assert!(!tmp.path().join("pool").exists(), "nothing is written below a mount point");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creates_in_a_directory_one_wins() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", tmp.path().display()), &StoreOptions::default(), system()).unwrap();
    for round in 0..20 {
        let key = format!("race/{round}");
        let puts = (0..4u8).map(|n| store.put_new(&key, vec![n; 1000].into(), Cause::Admin, SOON));
        let won = futures::future::try_join_all(puts).await.unwrap();
        assert_eq!(won.iter().filter(|p| p.is_ours()).count(), 1);
    }
}
