//! What s3d can do on this machine, with object_store as the client in the same process: the ceiling of any benchmark
//! against it. `cargo run -p esker-testkit --example load --release [DIR]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use esker_testkit::{S3d, S3dOptions};
use futures::{StreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs `op(0..n)`, `depth` at a time, and yields the time it took.
async fn timed<R>(n: usize, depth: usize, op: impl Fn(usize) -> R) -> Result<Duration, Failure>
where
    R: Future<Output = Result<(), object_store::Error>> + Send + 'static,
{
    let begin = Instant::now();
    let mut running = stream::iter((0..n).map(|i| tokio::spawn(op(i)))).buffer_unordered(depth);
    while let Some(done) = running.next().await {
        done??;
    }
    Ok(begin.elapsed())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = std::env::args_os().nth(1).map(Into::into);
    let s3d = S3d::start(S3dOptions { dir, ..S3dOptions::default() })?;
    let (access_key, secret_key) = s3d.credentials();
    for unsigned in [false, true] {
        let store = AmazonS3Builder::new()
            .with_endpoint(s3d.endpoint())
            .with_bucket_name(s3d.bucket())
            .with_access_key_id(access_key)
            .with_secret_access_key(secret_key)
            .with_region("us-east-1")
            .with_unsigned_payload(unsigned)
            .with_client_options(ClientOptions::new().with_allow_http(true));
        let store: Arc<dyn ObjectStore> = Arc::new(store.build()?);
        println!("payload hashes: {}", if unsigned { "no" } else { "yes" });
        for (what, size, n) in [("8 MiB", 8 << 20, 64), ("4 KiB", 4096, 4000)] {
            let body = Bytes::from(vec![0x5a; size]);
            for depth in [1, 4, 32] {
                let n = if depth == 1 { n / 4 } else { n };
                let key = move |i: usize| Path::from(format!("load/{unsigned}/{size}/{depth}/{i:016x}"));
                let put = timed(n, depth, |i| {
                    let (store, body) = (store.clone(), body.clone());
                    async move {
                        let create = PutOptions::from(PutMode::Create);
                        store.put_opts(&key(i), body.into(), create).await.map(drop)
                    }
                });
                let put = put.await?.as_secs_f64();
                let get = timed(n, depth, |i| {
                    let store = store.clone();
                    async move { store.get(&key(i)).await?.bytes().await.map(drop) }
                });
                let get = get.await?.as_secs_f64();
                let rate = |t: f64| (n as f64 / t, (n * size) as f64 / t / 1e6);
                let ((puts, put_mb), (gets, get_mb)) = (rate(put), rate(get));
                println!(
                    "{what} x{depth:<2}  PUT {puts:>7.0}/s {put_mb:>6.0} MB/s   GET {gets:>7.0}/s {get_mb:>6.0} MB/s"
                );
            }
        }
    }
    Ok(())
}
