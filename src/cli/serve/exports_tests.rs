//! Attaching once, failing, and letting go, with an engine that counts.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicU32;

use bytes::{Bytes, BytesMut};
use esker_block::{BatchOp, BlockError, BlockResult, Extent};
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::*;
use crate::pool::{Argon2Params, NewVolume};
use crate::segment::Compression;
use crate::store::{Store, StoreOptions};

/// Attaches after `go`; counts what it does.
#[derive(Default)]
struct Counting {
    go: Notify,
    waits: bool,
    refuse: AtomicBool,
    started: AtomicU32,
    detached: Arc<AtomicU32>,
}

impl Engine for Counting {
    fn attach<'a>(&'a self, record: &'a VolumeRecord) -> BoxFuture<'a, Outcome<Arc<dyn Attached>>> {
        Box::pin(async move {
            self.started.fetch_add(1, Ordering::SeqCst);
            if self.waits {
                self.go.notified().await;
            }
            if self.refuse.load(Ordering::SeqCst) || record.name == "bad" {
                return Err(Failure::new(Exit::InUse, "volume", "in use by somebody"));
            }
            Ok(Arc::new(Held { detached: self.detached.clone() }) as Arc<dyn Attached>)
        })
    }
}

struct Held {
    detached: Arc<AtomicU32>,
}

impl Attached for Held {
    fn device(&self) -> Arc<dyn BlockDevice> {
        Arc::new(Nothing)
    }

    fn status(&self) -> Value {
        json!({"epoch": 3})
    }

    fn compact(&self, tell: Tell) -> BoxFuture<'_, Outcome<Compacted>> {
        tell("halfway".into());
        Box::pin(async { Ok(Compacted { before: 2, after: 1, ..Compacted::default() }) })
    }

    fn detach(&self) -> BoxFuture<'_, Outcome> {
        self.detached.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }
}

/// A device that refuses everything.
struct Nothing;

fn refused<T: Send + 'static>() -> BoxFuture<'static, BlockResult<T>> {
    Box::pin(async { Err(BlockError::ShuttingDown) })
}

impl BlockDevice for Nothing {
    fn info(&self) -> &DeviceInfo {
        unreachable!("nobody asks in these tests")
    }
    fn try_read(&self, _: u64, _: &mut [u8]) -> Option<BlockResult<()>> {
        None
    }
    fn read(&self, _: u64, _: usize, _: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>> {
        refused()
    }
    fn try_write(&self, _: u64, _: &[u8]) -> Option<BlockResult<()>> {
        None
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
    fn flush(&self) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
    fn discard(&self, _: u64, _: u64, _: bool) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
    fn block_status(&self, _: u64, _: u64, _: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>> {
        refused()
    }
    fn prefetch(&self, _: u64, _: u64) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
    fn batch(&self, _: Vec<BatchOp>, _: bool) -> BoxFuture<'_, BlockResult<()>> {
        refused()
    }
}

async fn pool_with(names: &[&str]) -> (Pool, Env) {
    let env = Env::system(Handle::current()).unwrap();
    let unique = crate::host::hex16(&env.random16());
    let store = Store::open(&format!("memory://{unique}"), &StoreOptions::default(), env.clone()).unwrap();
    let cheap = Argon2Params { memory_kib: 64, passes: 1, lanes: 1 };
    let pool = Pool::format(store, &SecretString::from("secret"), cheap, &env).await.unwrap();
    for name in names {
        make(&pool, name, &env).await;
    }
    (pool, env)
}

async fn make(pool: &Pool, name: &str, env: &Env) {
    let new = NewVolume { name: (*name).into(), size: 1 << 20, block_size: 512, compression: Compression::None };
    pool.create_volume(new, env).await.unwrap();
}

async fn offer(names: &[&str], engine: Counting, all: bool) -> (Arc<Offered>, OfferedExports, Arc<Counting>, Env) {
    let (pool, env) = pool_with(names).await;
    let (records, engine) = (pool.volumes().await.unwrap(), Arc::new(engine));
    let scope = Scope { all, read_only: false };
    let offered = Arc::new(Offered::new(pool, engine.clone(), records, scope, &env));
    (offered.clone(), OfferedExports(offered), engine, env)
}

#[tokio::test]
async fn list_and_info_attach_nothing() {
    let (offered, exports, engine, _) = offer(&["a", "b"], Counting::default(), true).await;
    assert_eq!(exports.list().iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let info = exports.describe("a").unwrap();
    assert_eq!((info.size, info.logical_block, info.physical_block), (1 << 20, 512, 4096));
    assert!(exports.describe("").is_none(), "two volumes: none is the default");
    assert!(exports.describe("c").is_none());
    assert_eq!(engine.started.load(Ordering::SeqCst), 0);
    assert_eq!(offered.status()[0]["attached"], false);
}

#[tokio::test]
async fn clients_who_come_together_attach_once_and_one_who_leaves_breaks_nothing() {
    let (offered, exports, engine, _) = offer(&["a"], Counting { waits: true, ..Counting::default() }, true).await;
    let exports = Arc::new(exports);
    let open = |name: &'static str| {
        let exports = exports.clone();
        tokio::spawn(async move { exports.open(name).await.map(drop) })
    };
    let leaves = open("a");
    while engine.started.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    leaves.abort();
    let (second, third) = (open("a"), open(""));
    engine.go.notify_one();
    assert_eq!((second.await.unwrap(), third.await.unwrap()), (Ok(()), Ok(())));
    assert_eq!(engine.started.load(Ordering::SeqCst), 1);
    assert_eq!(offered.status()[0]["epoch"], 3);
    offered.detach_all().await.unwrap();
    offered.detach_all().await.unwrap();
    assert_eq!(engine.detached.load(Ordering::SeqCst), 1);
    assert!(matches!(exports.open("a").await, Err(ExportError::ShuttingDown)));
}

#[tokio::test]
async fn a_refused_attach_is_told_and_can_be_tried_again() {
    let (_, exports, engine, _) = offer(&["a"], Counting { refuse: true.into(), ..Counting::default() }, true).await;
    match exports.open("a").await {
        Err(ExportError::Refused(why)) => assert!(why.contains("in use by somebody")),
        other => panic!("{:?}", other.map(drop)),
    }
    engine.refuse.store(false, Ordering::SeqCst);
    assert!(exports.open("a").await.is_ok());
}

#[tokio::test]
async fn where_one_of_several_fails_at_the_start_the_others_are_let_go() {
    let (offered, _, engine, _) = offer(&["a", "bad", "c"], Counting::default(), false).await;
    assert_eq!(offered.attach_all().await.unwrap_err().exit(), Exit::InUse);
    assert_eq!(engine.detached.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn volumes_made_later_are_found_where_all_are_offered() {
    let (offered, exports, _, env) = offer(&["a"], Counting::default(), true).await;
    make(&offered.pool, "late", &env).await;
    assert!(exports.describe("late").is_none());
    assert!(exports.open("late").await.is_ok());
    assert!(exports.describe("late").is_some());

    let (named, exports, _, env) = offer(&["a"], Counting::default(), false).await;
    make(&named.pool, "late", &env).await;
    assert!(matches!(exports.open("late").await, Err(ExportError::Unknown)));
}

#[tokio::test]
async fn deleted_volumes_leave_the_offer_unless_they_are_held() {
    let (offered, exports, _, env) = offer(&["held", "gone"], Counting::default(), true).await;
    exports.open("held").await.map(drop).unwrap();
    for name in ["held", "gone"] {
        let record = offered.pool.volume(name).await.unwrap();
        offered.pool.delete_volume_record(&record, &env).await.unwrap();
    }
    assert!(matches!(exports.open("never").await, Err(ExportError::Unknown)));
    assert_eq!(offered.names(), ["held"]);
}

#[tokio::test]
async fn letting_go_waits_for_an_attach_under_way() {
    let (offered, exports, engine, _) = offer(&["a"], Counting { waits: true, ..Counting::default() }, true).await;
    let opening = tokio::spawn(async move { exports.open("a").await.map(drop) });
    while engine.started.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn(async move { offered.detach_all().await });
    tokio::task::yield_now().await;
    engine.go.notify_one();
    closing.await.unwrap().unwrap();
    opening.await.unwrap().unwrap();
    assert_eq!(engine.detached.load(Ordering::SeqCst), 1);
}
