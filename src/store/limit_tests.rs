//! Limits on requests and bytes, in made-up time.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::stream::{FuturesUnordered, StreamExt};

use super::faults::{Act, Faulty};
use super::timeline::Timeline;
use super::*;

const SEC: Duration = Duration::from_secs(1);
const SOON: Patience = Patience::For(Duration::from_secs(5));

fn limited(requests: Option<u32>, bytes: Option<u64>) -> (Timeline, Store, Arc<Faulty>) {
    let time = Timeline::default();
    let faulty = Faulty::new(&time).arc();
    let store = Store::over(faulty.clone(), "", "test://", time.env());
    store.limit(Limits { requests_per_second: requests, bytes_per_second: bytes });
    (time, store, faulty)
}

async fn put(store: &Store, key: String, len: usize, cause: Cause) {
    store.put_new(&key, Bytes::from(vec![1; len]), cause, SOON).await.unwrap();
}

fn near(took: Duration, seconds: f64) -> bool {
    (took.as_secs_f64() - seconds).abs() < 0.02
}

#[test]
fn requests_keep_to_their_rate_and_none_fails() {
    let (time, store, _) = limited(Some(20), None);
    // Five at once, then one in 50 ms: far longer than anybody's patience.
    time.run(join_all((0..405).map(|n| put(&store, format!("k/{n:03}"), 1, Cause::Flush))));
    assert!(near(time.now(), 20.0), "{:?}", time.now());
    let throttle = store.throttle().unwrap();
    assert_eq!((throttle.waiting, throttle.held), (0, 400));
    assert!(near(throttle.waited / 400, 10.025), "{throttle:?}");
    time.run(time.env().clock.sleep(60 * SEC));
    let begun = time.now();
    time.run(join_all((0..5).map(|n| put(&store, format!("j/{n}"), 1, Cause::Flush))));
    assert_eq!(time.now(), begun, "what a rest left may go at once, and no more than that");
}

#[test]
fn without_limits_nothing_waits() {
    let (time, store, _) = limited(None, None);
    time.run(join_all((0..1000).map(|n| put(&store, format!("k/{n:03}"), 1, Cause::Flush))));
    assert_eq!((time.now(), store.throttle()), (Duration::ZERO, None));
}

#[test]
fn bytes_up_and_down_have_a_bucket_each() {
    let (time, store, _) = limited(None, Some(1 << 20));
    // A quarter of a second is in the bucket; what is larger goes when that is full, and is paid off.
    let puts = time.run(async {
        join_all((0..5).map(|n| put(&store, format!("k/{n}"), 1 << 20, Cause::Stream))).await;
        time.now()
    });
    assert!(near(puts, 4.0), "{puts:?}");
    let begun = time.now();
    let get = async {
        store.get_range("k/0", 0..1024, Cause::Read, SOON).await.unwrap();
        time.now()
    };
    let (got, ()) = time.run(join(get, put(&store, "k/9".into(), 1024, Cause::Stream)));
    assert_eq!(got, begun, "a read does not wait for what is written");
    assert!(time.now() > begun);
}

#[test]
fn what_a_whole_object_weighs_is_paid_after() {
    let (time, store, _) = limited(None, Some(1 << 20));
    time.run(async {
        put(&store, "k".into(), 4 << 20, Cause::Stream).await;
        store.get("k", Cause::Recovery, SOON).await.unwrap();
        let begun = time.now();
        store.get_range("k", 0..1, Cause::Read, SOON).await.unwrap();
        assert!(near(time.now() - begun, 3.75), "{:?}", time.now() - begun);
    });
}

/// Which causes' requests end in which order.
fn order(causes: &[(Cause, usize)]) -> Vec<Cause> {
    let (time, store, _) = limited(Some(10), None);
    time.run(async {
        let mut all = FuturesUnordered::new();
        for (cause, n) in causes {
            for i in 0..*n {
                let (store, cause) = (store.clone(), *cause);
                all.push(async move {
                    put(&store, format!("{}/{i}", cause.name()), 1, cause).await;
                    cause
                });
            }
        }
        let mut order = Vec::new();
        while let Some(cause) = all.next().await {
            order.push(cause);
        }
        order
    })
}

#[test]
fn what_programs_wait_for_goes_first() {
    let order = order(&[(Cause::Compaction, 8), (Cause::Checkpoint, 3), (Cause::Flush, 4)]);
    // Two and a half turns are there at once, and go to those who come first.
    let waited = &order[2..];
    let at = |cause| waited.iter().position(|c| *c == cause).unwrap();
    assert!(at(Cause::Flush) < at(Cause::Checkpoint) && at(Cause::Checkpoint) < at(Cause::Compaction), "{order:?}");
    assert_eq!(waited[..4], [Cause::Flush; 4]);
    assert_eq!(waited[4..7], [Cause::Checkpoint; 3]);
}

#[test]
fn a_lower_class_gets_one_turn_in_sixteen() {
    let order = order(&[(Cause::Read, 2), (Cause::Compaction, 4), (Cause::Flush, 60)]);
    let low: Vec<_> = (0..order.len()).filter(|i| order[*i] == Cause::Compaction).collect();
    assert_eq!(low.len(), 4);
    assert!(low[0] >= 15 && low.windows(2).all(|w| w[1] - w[0] == 16), "{low:?}");
}

#[test]
fn a_timeout_does_not_run_while_waiting_and_patience_does_not_either() {
    let (time, store, faulty) = limited(Some(1), None);
    time.run(async {
        put(&store, "k/a".into(), 1, Cause::Flush).await;
        // Twenty wait before it, and then it needs a second attempt.
        let before = join_all((0..20).map(|n| put(&store, format!("k/{n}"), 1, Cause::Flush)));
        let last = async {
            let result = store.get("k/a", Cause::Read, SOON).await;
            result.unwrap();
        };
        faulty.push_get(Act::Fail("503"));
        join(before, last).await;
    });
    assert!(time.now() > 20 * SEC);
    assert!(store.health().outage.is_none());
}

#[test]
fn one_that_goes_away_leaves_its_turn_to_others() {
    let (time, store, _) = limited(Some(1), None);
    time.run(async {
        put(&store, "k/a".into(), 1, Cause::Flush).await;
        let begun = time.now();
        {
            let gone = join_all((0..50).map(|n| put(&store, format!("gone/{n}"), 1, Cause::Flush)));
            let soon = time.env().clock.sleep(SEC / 10);
            futures::future::select(std::pin::pin!(gone), soon).await;
        }
        assert_eq!(store.throttle().unwrap().waiting, 0);
        put(&store, "k/b".into(), 1, Cause::Flush).await;
        assert!(near(time.now() - begun, 1.0), "{:?}", time.now() - begun);
    });
}

/// A place in the queue whose future nobody polls must not stop the others.
#[test]
fn one_that_is_not_polled_holds_up_nobody() {
    let (time, store, _) = limited(Some(1), None);
    time.run(async {
        put(&store, "k/a".into(), 1, Cause::Flush).await;
        let mut sleeper = std::pin::pin!(put(&store, "k/sleeper".into(), 1, Cause::Flush));
        assert!(futures::poll!(sleeper.as_mut()).is_pending());
        put(&store, "k/b".into(), 1, Cause::Flush).await;
        assert!(near(time.now(), 2.0), "{:?}", time.now());
        sleeper.await;
        assert!(near(time.now(), 2.0), "its turn had come");
    });
}

#[test]
fn limits_can_be_lifted_while_requests_wait() {
    let (time, store, _) = limited(Some(1), None);
    time.run(async {
        let all = join_all((0..100).map(|n| put(&store, format!("k/{n}"), 1, Cause::Flush)));
        let lift = async {
            time.env().clock.sleep(3 * SEC).await;
            assert!(store.throttle().unwrap().waiting > 90);
            store.limit(Limits::default());
        };
        join(all, lift).await;
    });
    assert!(near(time.now(), 3.0), "{:?}", time.now());
}

#[test]
fn a_request_that_waits_for_its_turn_is_not_hedged() {
    let time = Timeline::default();
    let faulty = Faulty::new(&time).arc();
    let store = Store::over_network(faulty, "", "test://", time.env());
    time.run(async {
        put(&store, "k".into(), 4096, Cause::Flush).await;
        let read = || store.get_range("k", 0..4096, Cause::Read, SOON);
        for _ in 0..20 {
            read().await.unwrap();
        }
        store.limit(Limits { requests_per_second: Some(2), bytes_per_second: None });
        join_all((0..20).map(|_| read())).await;
    });
    let gets = store.counts().into_iter().find(|r| r.kind == Kind::Get).unwrap().requests;
    assert_eq!(gets, 40);
}
