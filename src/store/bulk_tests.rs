//! Deleting many objects: over scripted answers, in memory, in a directory, and as S3 does it.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use esker_testkit::{Action, Kind as Asked, Rule, S3d, S3dOptions};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::timeline::Timeline;
use super::*;

const SOON: Patience = Patience::For(Duration::from_secs(120));

/// How one request for many deletions is answered.
#[derive(Debug, Clone)]
enum Answer {
    /// Nothing is deleted, and an error with this text comes back.
    Fail(&'static str),
    /// As [`Answer::Fail`], as often as it is asked.
    AlwaysFail(&'static str),
    /// All are deleted but the one key that ends so, of which this is said.
    But(&'static str, &'static str),
    /// Nothing happens, and no answer comes.
    Hang,
}

/// A store's deletions in bulk, scripted; off script everything is fine. Counts its requests.
struct Scripted {
    inner: Arc<InMemory>,
    script: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<usize>>,
}

fn failed(text: &str) -> Error {
    Error::Generic { store: "S3", source: text.to_string().into() }
}

impl Scripted {
    async fn answer(&self, paths: Vec<Path>) -> Vec<Result<Path>> {
        self.requests.lock().push(paths.len());
        let answer = {
            let mut script = self.script.lock();
            match script.front() {
                Some(Answer::AlwaysFail(_)) => script.front().cloned(),
                _ => script.pop_front(),
            }
        };
        let bad = match answer {
            Some(Answer::Fail(text) | Answer::AlwaysFail(text)) => return vec![Err(failed(text))],
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::But(end, code)) => Some((end, code)),
            None => None,
        };
        let mut answers = Vec::new();
        for path in paths {
            match bad {
                Some((end, code)) if path.as_ref().ends_with(end) => {
                    answers
                        .push(Err(failed(&format!("DeleteObjects request failed for key {path}: no (code: {code})"))));
                }
                _ => answers.push(self.inner.delete(&path).await.map(|()| path)),
            }
        }
        answers
    }
}

/// [`Scripted`] as an object store that can do nothing else.
#[derive(Clone)]
struct OnlyBulk(Arc<Scripted>);

#[async_trait]
impl ObjectStore for OnlyBulk {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        panic!("only deletes")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("only deletes")
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
        panic!("only deletes")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.0.clone();
        let answers = async move {
            let paths = locations.map(|p| p.unwrap()).collect().await;
            stream::iter(this.answer(paths).await)
        };
        stream::once(answers).flatten().boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        panic!("only deletes")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        panic!("only deletes")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("only deletes")
    }
}

impl fmt::Debug for OnlyBulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyBulk")
    }
}

impl fmt::Display for OnlyBulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyBulk")
    }
}

struct World {
    time: Timeline,
    store: Store,
    bulk: Arc<Scripted>,
    keys: Vec<String>,
}

/// Ten objects in a store that deletes four at once.
fn world(script: impl IntoIterator<Item = Answer>) -> World {
    let time = Timeline::default();
    let inner = Arc::new(InMemory::new());
    let script = Mutex::new(script.into_iter().collect());
    let bulk = Arc::new(Scripted { inner: inner.clone(), script, requests: Mutex::default() });
    let store = Store::over_bulk(inner, Arc::new(OnlyBulk(bulk.clone())), 4, time.env());
    let keys: Vec<String> = (0..10).map(|n| format!("o/{n}")).collect();
    time.run(fill(&store, &keys));
    World { time, store, bulk, keys }
}

async fn fill(store: &Store, keys: &[String]) {
    for key in keys {
        store.put_new(key, Bytes::from_static(b"x"), Cause::Admin, SOON).await.unwrap();
    }
}

async fn left(store: &Store) -> usize {
    store.list("", None, 9999, Cause::Admin, SOON).await.unwrap().len()
}

impl World {
    fn delete(&self, patience: Patience) -> Vec<std::result::Result<(), StoreError>> {
        self.time.run(self.store.delete_many(&self.keys, Cause::Delete, patience))
    }

    fn left(&self) -> usize {
        self.time.run(left(&self.store))
    }

    fn requests(&self) -> Vec<usize> {
        std::mem::take(&mut *self.bulk.requests.lock())
    }

    /// Requests and objects of the accounts.
    fn deleted(&self) -> (u64, u64) {
        let row = self.store.counts().into_iter().find(|r| r.kind == Kind::Delete).unwrap();
        (row.requests, row.objects)
    }
}

#[test]
fn many_go_with_few_requests_and_all_are_counted() {
    let mut w = world([]);
    w.keys.push("o/never-there".into());
    assert_eq!(w.delete(SOON), vec![Ok(()); 11]);
    assert_eq!((w.left(), w.requests(), w.deleted()), (0, vec![4, 4, 3], (3, 11)));
    w.keys.clear();
    assert!(w.delete(SOON).is_empty());
    w.keys = vec!["o/1".into()];
    assert_eq!(w.delete(SOON), [Ok(())]);
    assert!(w.requests().is_empty(), "one object needs no such request");
}

#[test]
fn what_failed_is_asked_again_and_nothing_else() {
    let w = world([Answer::But("/2", "InternalError"), Answer::Fail("status code: 503 Slow: SlowDown"), Answer::Hang]);
    assert_eq!(w.delete(Patience::Forever), vec![Ok(()); 10]);
    assert_eq!(w.left(), 0);
    let (requests, objects) = w.deleted();
    assert_eq!(objects, 10);
    assert!(requests <= 7, "{requests}");
}

#[test]
fn one_key_that_may_not_be_deleted_is_said_of_that_key() {
    let w = world([Answer::But("/2", "AccessDenied")]);
    let answers = w.delete(SOON);
    assert!(matches!(&answers[2], Err(StoreError::Denied { key, .. }) if key == "o/2"), "{answers:?}");
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 9);
    assert_eq!(w.left(), 1);
    let gone = world([Answer::But("/2", "NoSuchKey")]);
    assert_eq!(gone.delete(SOON), vec![Ok(()); 10], "what is not there is deleted");
}

#[test]
fn a_key_that_cannot_be_one_does_not_spoil_the_rest() {
    let mut w = world([]);
    w.keys.insert(1, "a//b".into());
    let answers = w.delete(SOON);
    assert!(matches!(answers[1], Err(StoreError::Config(_))));
    assert_eq!((answers.iter().filter(|a| a.is_ok()).count(), w.left()), (10, 0));
}

#[test]
fn a_store_without_such_requests_is_asked_one_by_one_from_then_on() {
    for text in [
        "status code: 501 Not Implemented: <Code>NotImplemented</Code>",
        "status code: 400 Bad Request: <Code>InvalidArgument</Code>",
        "status code: 404 Not Found: <Code>NoSuchKey</Code>",
        "status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>",
        "Got invalid DeleteObjects response: no XML",
    ] {
        let w = world([Answer::AlwaysFail(text)]);
        assert_eq!(w.delete(SOON), vec![Ok(()); 10], "{text}");
        assert_eq!((w.left(), w.deleted().1), (0, 10), "{text}");
        assert!(w.requests().len() <= 3, "{text}");
        w.time.run(fill(&w.store, &w.keys));
        assert_eq!(w.delete(SOON), vec![Ok(()); 10]);
        assert!(w.requests().is_empty(), "{text}: it is remembered");
        assert_eq!(w.left(), 0);
    }
}

#[test]
fn a_store_that_always_fails_at_it_is_found_out_too() {
    let w = world([Answer::AlwaysFail("status code: 500 Internal Server Error: <Code>InternalError</Code>")]);
    assert_eq!(w.delete(Patience::Forever), vec![Ok(()); 10]);
    assert_eq!(w.left(), 0);
    w.requests();
    w.time.run(fill(&w.store, &w.keys));
    assert_eq!(w.delete(Patience::Forever), vec![Ok(()); 10]);
    assert!(w.requests().is_empty());
}

#[test]
fn a_short_outage_does_not_end_it() {
    let w = world(vec![Answer::Fail("connection reset"); 3]);
    assert_eq!(w.delete(Patience::Forever), vec![Ok(()); 10]);
    w.requests();
    w.time.run(fill(&w.store, &w.keys));
    assert_eq!(w.delete(SOON), vec![Ok(()); 10]);
    assert_eq!(w.requests(), [4, 4, 2]);
}

#[test]
fn memory_and_directories_delete_one_by_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tmp = tempfile::tempdir().unwrap();
        for url in [format!("file://{}", tmp.path().display()), "memory://delete-many".to_string()] {
            let env = Env::system(tokio::runtime::Handle::current()).unwrap();
            let store = Store::open(&url, &StoreOptions::default(), env).unwrap();
            let keys: Vec<String> = (0..40).map(|n| format!("a/{n}")).collect();
            fill(&store, &keys[..30]).await;
            assert_eq!(store.delete_many(&keys, Cause::Delete, SOON).await, vec![Ok(()); 40], "{url}");
            assert_eq!(left(&store).await, 0, "{url}");
            let row = store.counts().into_iter().find(|r| r.kind == Kind::Delete).unwrap();
            assert_eq!((row.requests, row.objects), (40, 40), "{url}");
        }
    });
}

/// A store over a real S3 server.
fn s3() -> (S3d, StoreOptions, String) {
    let s3d = S3d::start(S3dOptions::default()).unwrap();
    let (access, secret) = s3d.credentials();
    let opts = StoreOptions {
        endpoint: Some(s3d.endpoint()),
        region: Some("us-east-1".into()),
        access_key: Some(access.into()),
        secret_key: Some(secret.to_string().into()),
        allow_http: true,
        ..StoreOptions::default()
    };
    let url = format!("{}/pool", s3d.url());
    (s3d, opts, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_deletes_a_thousand_at_once_through_faults() {
    let (s3d, opts, url) = s3();
    let store = Store::open(&url, &opts, Env::system(tokio::runtime::Handle::current()).unwrap()).unwrap();
    let keys: Vec<String> = (0..1100).map(|n| format!("log/{n:04}")).collect();
    fill(&store, &keys[..50]).await;
    for action in [Action::slow_down(), Action::ApplyThenDrop] {
        s3d.faults().add(Rule::on([Asked::DeleteMany]).times(1).then(action));
    }
    s3d.log().clear();
    assert_eq!(store.delete_many(&keys, Cause::Delete, SOON).await, vec![Ok(()); 1100]);
    assert_eq!(left(&store).await, 0);
    assert_eq!((s3d.log().count(Asked::DeleteMany), s3d.log().count(Asked::Delete)), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_store_without_delete_objects_is_spoken_to_one_by_one() {
    let (s3d, opts, url) = s3();
    let store = Store::open(&url, &opts, Env::system(tokio::runtime::Handle::current()).unwrap()).unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("log/{n:04}")).collect();
    fill(&store, &keys).await;
    let refuse = Action::Reply { status: 501, code: "NotImplemented".into() };
    s3d.faults().add(Rule::on([Asked::DeleteMany]).then(refuse));
    assert_eq!(store.delete_many(&keys, Cause::Delete, SOON).await, vec![Ok(()); 20]);
    assert_eq!(left(&store).await, 0);
    assert_eq!((s3d.log().count(Asked::DeleteMany), s3d.log().count(Asked::Delete)), (1, 20));
    // Nobody may delete: that says nothing about the kind of request.
    let (s3d, opts, url) = s3();
    let store = Store::open(&url, &opts, Env::system(tokio::runtime::Handle::current()).unwrap()).unwrap();
    let denied = s3d.faults().add(Rule::on([Asked::DeleteMany, Asked::Delete]).then(Action::forbidden()));
    let answers = store.delete_many(&keys, Cause::Delete, SOON).await;
    assert!(answers.iter().all(|a| matches!(a, Err(StoreError::Denied { .. }))), "{answers:?}");
    assert!(s3d.log().total() <= 2, "one refusal is enough: {}", s3d.log().dump());
    s3d.faults().remove(denied);
    s3d.log().clear();
    assert_eq!(store.delete_many(&keys, Cause::Delete, SOON).await, vec![Ok(()); 20]);
    assert_eq!(s3d.log().count(Asked::DeleteMany), 1);
}
