//! Every fault, as object_store's AmazonS3 meets it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{client, start};
use esker_testkit::{Action, Kind, Rule, S3d, S3dOptions, max_in_flight, round_trips};
use futures::future;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult};

const LIMIT: Duration = Duration::from_secs(10);

async fn create(store: &AmazonS3, key: &str, body: &'static [u8]) -> Result<PutResult, Error> {
    store.put_opts(&Path::from(key), PutPayload::from_static(body), PutOptions::from(PutMode::Create)).await
}

async fn read(store: &AmazonS3, key: &str) -> Result<Vec<u8>, Error> {
    Ok(store.get(&Path::from(key)).await?.bytes().await?.to_vec())
}

#[tokio::test]
async fn replies_before_applying_apply_nothing() {
    let s3d = start();
    let store = client(&s3d);
    for (action, status) in [
        (Action::slow_down(), 503),
        (Action::internal_error(), 500),
        (Action::conflict(), 409),
        (Action::forbidden(), 403),
        (Action::no_such_bucket(), 404),
        (Action::no_space(), 507),
    ] {
        let id = s3d.faults().add(Rule::on(Kind::PUTS).key("log/*").times(1).then(action.clone()));
        let error = create(&store, "log/1", b"one").await.unwrap_err();
        match action {
            Action::Reply { code, .. } if code == "ConditionalRequestConflict" => {
                assert!(matches!(error, Error::AlreadyExists { .. }), "object_store maps every 409 so: {error:?}");
            }
            Action::Reply { code, .. } => assert!(format!("{error:?}").contains(&code), "{error:?}"),
            _ => unreachable!(),
        }
        assert_eq!(s3d.log().tail(1)[0].status, status);
        assert_eq!(s3d.faults().hits(id), 1);
        assert!(matches!(read(&store, "log/1").await, Err(Error::NotFound { .. })));
    }
    create(&store, "log/1", b"one").await.unwrap();
}

#[tokio::test]
async fn a_store_that_lies_says_yes_and_has_nothing() {
    let s3d = start();
    let store = client(&s3d);
    s3d.faults().add(Rule::on([Kind::Create]).times(1).then(Action::Pretend));
    create(&store, "log/1", b"one").await.unwrap();
    assert!(matches!(read(&store, "log/1").await, Err(Error::NotFound { .. })));
    create(&store, "log/1", b"two").await.unwrap();
    assert_eq!(read(&store, "log/1").await.unwrap(), b"two");
}

#[tokio::test]
async fn what_was_applied_without_an_answer_is_there() {
    let s3d = start();
    let store = client(&s3d);
    for (n, action) in [Action::ApplyThenDrop, Action::ApplyThenReply { status: 500, code: "InternalError".into() }]
        .into_iter()
        .enumerate()
    {
        let key = format!("log/{n}");
        s3d.faults().add(Rule::on([Kind::Create]).times(1).then(action));
        assert!(create(&store, &key, b"one").await.is_err());
        assert_eq!(read(&store, &key).await.unwrap(), b"one");
        assert!(matches!(create(&store, &key, b"two").await, Err(Error::AlreadyExists { .. })));
    }
    s3d.faults().add(Rule::on([Kind::Create]).times(1).then(Action::Drop));
    assert!(create(&store, "log/9", b"one").await.is_err());
    let entry = s3d.log().tail(1).remove(0);
    assert_eq!((entry.status, entry.fault.as_deref()), (0, Some("drop")));
    assert!(matches!(read(&store, "log/9").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn bodies_can_be_cut_shortened_and_flipped() {
    let s3d = start();
    let store = client(&s3d);
    let body: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    store.put(&Path::from("x"), body.clone().into()).await.unwrap();
    let next = |action| s3d.faults().add(Rule::on([Kind::Get]).times(1).then(action));

    next(Action::CutBody { keep: 1000 });
    assert!(read(&store, "x").await.is_err());
    next(Action::FlipByte { at: Some(7) });
    let got = read(&store, "x").await.unwrap();
    assert_eq!((got[7], &got[..7], &got[8..]), (!body[7], &body[..7], &body[8..]));
    next(Action::FlipByte { at: None });
    assert_eq!(read(&store, "x").await.unwrap().iter().zip(&body).filter(|(a, b)| a != b).count(), 1);
    // The client takes fewer bytes than it asked for as they come: a caller has to check the length.
    next(Action::ShortBody { keep: 1000 });
    assert_eq!(store.get_range(&Path::from("x"), 0..5000).await.unwrap(), body[..1000]);
    assert_eq!(read(&store, "x").await.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_create_lands_when_it_is_released_though_nobody_waits() {
    let s3d = start();
    let store = Arc::new(client(&s3d));
    let id = s3d.faults().add(Rule::on([Kind::Create]).key("log/0").times(1).then(Action::Stall));
    let stalled = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "log/0", b"late").await }
    });
    assert!(s3d.faults().hit(id, 1, LIMIT).await);
    assert!(matches!(read(&store, "log/0").await, Err(Error::NotFound { .. })));
    assert_eq!(s3d.log().in_flight(), 1);
    stalled.abort();
    assert!(stalled.await.unwrap_err().is_cancelled());
    s3d.faults().release(id);
    let end = Instant::now() + LIMIT;
    while s3d.log().in_flight() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(read(&store, "log/0").await.unwrap(), b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_create_loses_to_one_that_was_faster() {
    let s3d = start();
    let store = Arc::new(client(&s3d));
    let id = s3d.faults().add(Rule::on([Kind::Create]).times(1).then(Action::Stall));
    let stalled = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "log/0", b"late").await }
    });
    assert!(s3d.faults().hit(id, 1, LIMIT).await);
    create(&store, "log/0", b"first").await.unwrap();
    assert!(s3d.faults().remove(id));
    assert!(matches!(stalled.await.unwrap(), Err(Error::AlreadyExists { .. })));
    assert_eq!(read(&store, "log/0").await.unwrap(), b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_create_can_be_left_without_an_answer() {
    let s3d = start();
    let store = Arc::new(client(&s3d));
    let id = s3d.faults().add(Rule::on([Kind::Create]).times(1).then(Action::ApplyThenStall));
    let stalled = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "log/0", b"one").await }
    });
    assert!(s3d.faults().hit(id, 1, LIMIT).await);
    let end = Instant::now() + LIMIT;
    while read(&store, "log/0").await.is_err() && Instant::now() < end {}
    assert_eq!(read(&store, "log/0").await.unwrap(), b"one");
    assert!(!stalled.is_finished());
    s3d.faults().clear();
    stalled.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_that_ignores_create_only_can_be_played() {
    let s3d = start();
    let store = client(&s3d);
    s3d.faults().add(Rule::on(Kind::PUTS).then(Action::IgnoreIfNoneMatch));
    create(&store, "probe", b"one").await.unwrap();
    create(&store, "probe", b"two").await.unwrap();
    assert_eq!(read(&store, "probe").await.unwrap(), b"two");
    s3d.faults().clear();
    assert!(create(&store, "probe", b"three").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn delays_are_in_parallel_and_round_trips_are_counted() {
    let s3d = S3d::start(S3dOptions { delay: Some("250ms".parse().unwrap()), ..S3dOptions::default() }).unwrap();
    let store = Arc::new(client(&s3d));
    create(&store, "k", b"v").await.unwrap();
    let begin = Instant::now();
    let gets = (0..64).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { read(&store, "k").await.unwrap() })
    });
    future::join_all(gets).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(4), "{took:?}");
    read(&store, "k").await.unwrap();
    let entries = s3d.log().entries();
    assert_eq!(round_trips(&entries), 3, "{}", s3d.log().dump());
    assert!(max_in_flight(&entries) == 64, "{}", s3d.log().dump());
    assert!(entries.iter().all(|e| e.end - e.begin >= Duration::from_millis(250)));
}

#[test]
fn a_server_lives_without_a_runtime_of_the_test() {
    let s3d = start();
    let env = s3d.env();
    assert!(env.contains(&("AWS_ENDPOINT_URL".into(), s3d.endpoint())));
    assert_eq!(s3d.url(), "s3://esker");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { create(&client(&s3d), "k", b"v").await }).unwrap();
    let endpoint = s3d.address();
    s3d.stop();
    assert!(std::net::TcpStream::connect(endpoint).is_err());
}
