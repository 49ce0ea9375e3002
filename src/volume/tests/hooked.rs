//! A second way to a world's objects, on which a test decides what becomes of each request.

use std::fmt;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Fine,
    Slow(Duration),
    /// Nothing happens, and the answer is an error.
    Fail,
    /// It happens, and the answer is an error.
    LandThenFail,
    /// It never happens, and no answer comes.
    Hang,
}

/// `put`, `get`, `list` or `delete`.
pub(super) type Verb = &'static str;
type Hook = dyn Fn(Verb, &str) -> Act + Send + Sync;

/// See the module.
pub(super) struct Hooked {
    inner: Arc<InMemory>,
    env: Env,
    hook: Box<Hook>,
}

impl Hooked {
    pub(super) fn new(world: &World, hook: impl Fn(Verb, &str) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner: world.objects.clone(), env: world.env.clone(), hook: Box::new(hook) })
    }

    /// The pool of `world`, reached through the hook.
    pub(super) async fn pool(world: &World, hook: impl Fn(Verb, &str) -> Act + Send + Sync + 'static) -> Pool {
        let store = Store::over(Self::new(world, hook), "p", "test", world.env.clone());
        Pool::open(store, &SecretString::from("secret"), &world.env).await.unwrap()
    }

    async fn meet(&self, verb: Verb, key: &str) -> Result<Act> {
        let act = (self.hook)(verb, key.strip_prefix("p/").unwrap_or(key));
        match act {
            Act::Slow(d) => self.env.clock.sleep(d).await,
            Act::Fail => return Err(broken()),
            Act::Hang => std::future::pending().await,
            Act::Fine | Act::LandThenFail => {}
        }
        Ok(act)
    }
}

fn broken() -> Error {
    Error::Generic { store: "test", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, path: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let act = self.meet("put", path.as_ref()).await?;
        let done = self.inner.put_opts(path, payload, opts).await;
        if matches!(act, Act::LandThenFail) { Err(broken()) } else { done }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads are not create-only")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.meet("get", path.as_ref()).await?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let act = (self.hook)("list", prefix.map_or("", |p| p.as_ref()));
        let (env, listed) = (self.env.clone(), self.inner.list(prefix));
        let wait = async move {
            if let Act::Slow(d) = act {
                env.clock.sleep(d).await;
            }
            listed
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

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}
