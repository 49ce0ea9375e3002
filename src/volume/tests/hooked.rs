//! A second way to a world's objects, on which a test decides what becomes of each request.

use std::fmt;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
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
    /// GET: the last bit of the body is flipped on the way.
    Flip,
}

/// `put`, `get`, `list` or `delete`.
pub(super) type Verb = &'static str;
type Hook = dyn Fn(Verb, &str) -> Act + Send + Sync;

/// See the module.
pub(super) struct Hooked {
    inner: Arc<InMemory>,
    env: Env,
    hook: Arc<Hook>,
}

impl Hooked {
    /// The pool of `world`, reached through the hook.
    pub(super) async fn pool(world: &World, hook: impl Fn(Verb, &str) -> Act + Send + Sync + 'static) -> Pool {
        Self::pool_in(world, &world.env, hook).await
    }

    /// The same for a process with a time of its own: when that ends it is as dead as after a kill.
    pub(super) async fn pool_in(
        world: &World,
        env: &Env,
        hook: impl Fn(Verb, &str) -> Act + Send + Sync + 'static,
    ) -> Pool {
        let hooked = Self { inner: world.objects.clone(), env: env.clone(), hook: Arc::new(hook) };
        let store = Store::over(Arc::new(hooked), "p", "test", env.clone());
        Pool::open(store, &SecretString::from("secret"), env).await.unwrap()
    }

    async fn meet(&self, verb: Verb, key: &str) -> Result<Act> {
        meet(&*self.hook, &self.env, verb, key).await
    }
}

async fn meet(hook: &Hook, env: &Env, verb: Verb, key: &str) -> Result<Act> {
    let act = hook(verb, key.strip_prefix("p/").unwrap_or(key));
    match act {
        Act::Slow(d) => env.clock.sleep(d).await,
        Act::Fail => return Err(broken()),
        Act::Hang => std::future::pending().await,
        Act::Fine | Act::LandThenFail | Act::Flip => {}
    }
    Ok(act)
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
        let act = self.meet("get", path.as_ref()).await?;
        let got = self.inner.get_opts(path, options).await?;
        if !matches!(act, Act::Flip) {
            return Ok(got);
        }
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let (attributes, extensions) = (got.attributes.clone(), got.extensions.clone());
        let mut body = got.bytes().await?.to_vec();
        body.last_mut().into_iter().for_each(|last| *last ^= 1);
        let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(body.into()) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, env, hook) = (self.inner.clone(), self.env.clone(), self.hook.clone());
        let one = move |path: Result<Path>| {
            let (inner, env, hook) = (inner.clone(), env.clone(), hook.clone());
            async move {
                let path = path?;
                let act = meet(&*hook, &env, "delete", path.as_ref()).await?;
                inner.delete(&path).await?;
                if matches!(act, Act::LandThenFail) { Err(broken()) } else { Ok(path) }
            }
        };
        locations.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix_of = |p: &Path| p.as_ref().strip_prefix("p/").unwrap_or(p.as_ref()).to_owned();
        let act = (self.hook)("list", &prefix.map(prefix_of).unwrap_or_default());
        let (env, listed) = (self.env.clone(), self.inner.list(prefix));
        let wait = async move {
            match act {
                Act::Slow(d) => env.clock.sleep(d).await,
                Act::Hang => std::future::pending().await,
                Act::Fine | Act::Fail | Act::LandThenFail | Act::Flip => {}
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
