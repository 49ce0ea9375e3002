//! A store whose requests take a while, each another time, and that can go away.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;

pub(super) struct Slow {
    inner: Arc<InMemory>,
    env: Env,
    most_ms: u64,
    count: AtomicU64,
    pub away: AtomicBool,
}

impl Slow {
    pub(super) fn new(w: &World, most_ms: u64) -> Arc<Self> {
        let (inner, env) = (w.objects.clone(), w.env.clone());
        Arc::new(Self { inner, env, most_ms, count: AtomicU64::new(0), away: AtomicBool::new(false) })
    }

    pub(super) async fn pool(self: Arc<Self>, w: &World) -> Pool {
        let store = Store::over(self, "p", "test", w.env.clone());
        Pool::open(store, &SecretString::from("secret"), &w.env).await.unwrap()
    }

    async fn wait(&self) -> Result<()> {
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let ms = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        self.env.clock.sleep(Duration::from_millis(1 + ms % self.most_ms)).await;
        match self.away.load(Ordering::SeqCst) {
            true => Err(Error::Generic { store: "test", source: "connection reset".into() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, path: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.wait().await?;
        self.inner.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads are not create-only")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.wait().await?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        let away = self.away.load(Ordering::SeqCst);
        let (env, most) = (self.env.clone(), self.most_ms);
        let wait = async move {
            env.clock.sleep(Duration::from_millis(1 + most / 2)).await;
            match away {
                true => {
                    let gone = Error::Generic { store: "test", source: "connection reset".into() };
                    futures::stream::once(async { Err(gone) }).boxed()
                }
                false => listed,
            }
        };
        futures::stream::once(wait).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}
