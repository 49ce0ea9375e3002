//! s3d is a right S3 server in what esker asks of one; object_store's AmazonS3 is the client.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{builder, client, start};
use esker_testkit::{Kind, S3d, S3dOptions};
use futures::{StreamExt, TryStreamExt, future, stream};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creators_one_wins_and_its_bytes_stay() {
    let s3d = start();
    let store = Arc::new(client(&s3d));
    for round in 0..40 {
        let key = Path::from(format!("log/00000001/fffffffffffffffe/{round:016x}"));
        let racers = (0..16u8).map(|i| {
            let (store, key) = (store.clone(), key.clone());
            // Bodies of several sizes, so that they arrive at different moments.
            let body = vec![i; 1000 << (i % 8)];
            tokio::spawn(async move { store.put_opts(&key, body.into(), create()).await })
        });
        let results = future::join_all(racers).await;
        let mut winners = Vec::new();
        for (i, result) in results.into_iter().enumerate() {
            match result.unwrap() {
                Ok(_) => winners.push(i),
                Err(Error::AlreadyExists { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let winner = winners[0];
        let body = store.get(&key).await.unwrap().bytes().await.unwrap();
        assert_eq!(body, vec![winner as u8; 1000 << (winner % 8)]);
    }
    assert_eq!(s3d.log().count(Kind::Create), 40 * 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swaps_lose_no_update() {
    let s3d = start();
    let store = Arc::new(client(&s3d));
    let key = Path::from("counter");
    store.put(&key, PutPayload::from_static(b"0")).await.unwrap();
    let add = |store: Arc<_>, key: Path| async move {
        let store: &object_store::aws::AmazonS3 = &store;
        let mut done = 0;
        while done < 20 {
            let got = store.get(&key).await.unwrap();
            let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: None };
            let n: u64 = std::str::from_utf8(&got.bytes().await.unwrap()).unwrap().parse().unwrap();
            let swap = PutOptions::from(PutMode::Update(version));
            match store.put_opts(&key, (n + 1).to_string().into(), swap).await {
                Ok(_) => done += 1,
                Err(Error::Precondition { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    future::join_all((0..8).map(|_| tokio::spawn(add(store.clone(), key.clone())))).await;
    assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "160");
    assert!(s3d.log().count(Kind::Swap) >= 160);
}

#[tokio::test]
async fn ranges_are_exact() {
    let s3d = start();
    let store = client(&s3d);
    let key = Path::from("data/00000001/0000000000000001/0000000000000000");
    let body: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let n = body.len() as u64;
    store.put(&key, body.clone().into()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), body);
    for range in [0..1, 0..n, n - 1..n, 4095..4097, 1_000_000..1_400_000, 17..17 + (256 << 10), 17..18 + (256 << 10)] {
        let got = store.get_range(&key, range.clone()).await.unwrap();
        assert_eq!(got, body[range.start as usize..range.end as usize], "{range:?}");
    }
    let get = |range: GetRange| store.get_opts(&key, GetOptions::new().with_range(Some(range)));
    let tail = get(GetRange::Suffix(1000)).await.unwrap();
    assert_eq!((tail.range.clone(), tail.meta.size), (n - 1000..n, n));
    assert_eq!(tail.bytes().await.unwrap(), body[body.len() - 1000..]);
    assert_eq!(get(GetRange::Suffix(2 * n)).await.unwrap().bytes().await.unwrap(), body);
    assert_eq!(get(GetRange::Offset(n - 5)).await.unwrap().bytes().await.unwrap(), body[body.len() - 5..]);
    // A range that ends beyond the object is what there is; one that begins there is refused.
    assert_eq!(get(GetRange::Bounded(n - 5..n + 5)).await.unwrap().bytes().await.unwrap(), body[body.len() - 5..]);
    assert!(get(GetRange::Bounded(n..n + 5)).await.is_err());
    assert_eq!(s3d.log().tail(1)[0].status, 416);
    let head = store.head(&key).await.unwrap();
    assert_eq!(head.size, n);
    assert!(matches!(store.get(&Path::from("data/none")).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&Path::from("data/none")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn an_empty_object_is_an_object() {
    let s3d = start();
    let store = client(&s3d);
    let key = Path::from("empty");
    store.put_opts(&key, PutPayload::new(), create()).await.unwrap();
    assert!(matches!(store.put_opts(&key, PutPayload::new(), create()).await, Err(Error::AlreadyExists { .. })));
    assert!(store.get(&key).await.unwrap().bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn listings_of_many_keys_are_ordered_and_whole() {
    let s3d = start();
    let store = client(&s3d);
    let mut keys: Vec<String> = Vec::new();
    for epoch in [1u64, 2, 300] {
        for seq in 0..500 {
            keys.push(format!("log/00000001/{:016x}/{seq:016x}", !epoch));
        }
    }
    keys.extend((0..5).map(|n| format!("log/00000002/{:016x}/{n:016x}", !1u64)));
    keys.extend((0..5).map(|n| format!("pool/{:016x}", !n as u64)));
    let put = |key: &String| {
        let (store, key) = (&store, Path::from(key.as_str()));
        async move { store.put_opts(&key, PutPayload::from_static(b"x"), create()).await }
    };
    stream::iter(keys.iter().map(put)).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    keys.sort();

    s3d.log().clear();
    let listed = |prefix: &str, after: Option<&str>| {
        let prefix = Some(Path::from(prefix));
        let list = match after {
            Some(after) => store.list_with_offset(prefix.as_ref(), &Path::from(after)),
            None => store.list(prefix.as_ref()),
        };
        list.map_ok(|m| m.location.to_string()).try_collect::<Vec<_>>()
    };
    let below = |prefix: &str| keys.iter().filter(|k| k.starts_with(prefix)).cloned().collect::<Vec<_>>();
    assert_eq!(listed("log", None).await.unwrap(), below("log/"));
    assert_eq!(s3d.log().count(Kind::List), 2, "1,505 keys are two pages");
    assert_eq!(listed("log/00000001", None).await.unwrap(), below("log/00000001/"));
    // The newest epoch is the first in order.
    let first = format!("log/00000001/{:016x}/{:016x}", !300u64, 0);
    assert_eq!(listed("log/00000001", None).await.unwrap()[0], first);
    let offset = format!("log/00000001/{:016x}/{:016x}", !300u64, 250);
    let expected: Vec<_> = below("log/00000001/").into_iter().filter(|k| *k > offset).collect();
    assert_eq!(expected.len(), 249 + 1000);
    assert_eq!(listed("log/00000001", Some(&offset)).await.unwrap(), expected);

    let split = store.list_with_delimiter(Some(&Path::from("log/00000001"))).await.unwrap();
    let epochs: Vec<String> = split.common_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(epochs, [300u64, 2, 1].map(|k| format!("log/00000001/{:016x}", !k)));
    assert!(split.objects.is_empty());

    // Deleting in bulk, as object_store does it: 1,000 a request.
    s3d.log().clear();
    let paths = stream::iter(below("log/").into_iter().map(|k| Ok(Path::from(k)))).boxed();
    assert_eq!(store.delete_stream(paths).try_collect::<Vec<_>>().await.unwrap().len(), 1505);
    assert_eq!(s3d.log().count(Kind::DeleteMany), 2);
    assert_eq!(listed("", None).await.unwrap(), below("pool/"));
}

#[tokio::test]
async fn multipart_uploads_are_joined_in_order() {
    let s3d = start();
    let store = client(&s3d);
    let key = Path::from("big");
    let mut upload = store.put_multipart(&key).await.unwrap();
    let part = |i: u8| PutPayload::from(vec![i; 5 << 20]);
    future::try_join_all((0..3u8).map(|i| upload.put_part(part(i)))).await.unwrap();
    upload.complete().await.unwrap();
    let body = store.get(&key).await.unwrap().bytes().await.unwrap();
    assert_eq!(body.len(), 15 << 20);
    for i in 0..3u8 {
        assert!(body[(i as usize) * (5 << 20)..][..5 << 20].iter().all(|b| *b == i));
    }
}

#[tokio::test]
async fn copies_can_be_made() {
    let s3d = start();
    let store = client(&s3d);
    store.put(&Path::from("a"), PutPayload::from_static(b"hello")).await.unwrap();
    store.copy(&Path::from("a"), &Path::from("b/c")).await.unwrap();
    assert_eq!(store.get(&Path::from("b/c")).await.unwrap().bytes().await.unwrap(), "hello");
    assert_eq!(s3d.log().count(Kind::Copy), 1);
}

#[tokio::test]
async fn wrong_credentials_and_buckets_are_refused() {
    let s3d =
        S3d::start(S3dOptions { buckets: vec!["one-bucket".into(), "two".into()], ..S3dOptions::default() }).unwrap();
    let key = Path::from("k");
    let put = |b: object_store::aws::AmazonS3Builder| {
        let store = b.build().unwrap();
        let key = key.clone();
        async move { store.put(&key, PutPayload::from_static(b"v")).await }
    };
    put(builder(&s3d)).await.unwrap();
    put(builder(&s3d).with_bucket_name("two")).await.unwrap();
    assert!(put(builder(&s3d).with_secret_access_key("wrong")).await.is_err());
    assert!(put(builder(&s3d).with_access_key_id("nobody")).await.is_err());
    assert!(put(builder(&s3d).with_skip_signature(true)).await.is_err());
    let statuses: Vec<u16> = s3d.log().entries().iter().map(|e| e.status).collect();
    assert_eq!(statuses, [200, 200, 403, 403, 403]);
    let gone = put(builder(&s3d).with_bucket_name("three")).await.unwrap_err();
    assert!(format!("{gone:?}").contains("NoSuchBucket"), "{gone:?}");
    let gone = builder(&s3d).with_bucket_name("three").build().unwrap().list(None).next().await.unwrap().unwrap_err();
    assert!(format!("{gone:?}").contains("NoSuchBucket"), "{gone:?}");
}

#[tokio::test]
async fn objects_are_files_that_can_be_damaged_and_that_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = || S3dOptions { dir: Some(dir.path().to_owned()), ..S3dOptions::default() };
    let s3d = S3d::start(options()).unwrap();
    let key = Path::from("log/00000001/ffff/0000");
    client(&s3d).put(&key, PutPayload::from_static(b"hello")).await.unwrap();
    let path = s3d.object_path(s3d.bucket(), key.as_ref()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    std::fs::write(&path, "hell").unwrap();
    assert_eq!(client(&s3d).get(&key).await.unwrap().bytes().await.unwrap(), "hell");
    let address = s3d.address();
    let before = client(&s3d).head(&key).await.unwrap();
    s3d.stop();
    let s3d = S3d::start(S3dOptions { listen: address, ..options() }).unwrap();
    assert_eq!(s3d.address(), address);
    let after = client(&s3d).head(&key).await.unwrap();
    assert_eq!((after.size, after.e_tag), (4, before.e_tag));
    std::fs::remove_file(path).unwrap();
    assert!(matches!(client(&s3d).get(&key).await, Err(Error::NotFound { .. })));
    assert!(client(&s3d).list(None).next().await.is_none());
}

#[tokio::test]
async fn odd_keys_are_keys() {
    let s3d = start();
    let store = client(&s3d);
    for key in ["a b", "ü/ß", "p%rcent", "plus+and&amp", "x=y?z", "#hash", "'quote\"", "log/.s3d"] {
        let path = Path::parse(key).unwrap();
        store.put(&path, Bytes::from(key).into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), key);
    }
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 8, "{listed:?}");
}
