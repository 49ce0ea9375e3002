//! An object store whose requests go wrong as a script says.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::env::Clock;

use super::timeline::Timeline;

/// What happens to one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// It does what it should.
    Fine,
    /// Takes this long, then does what it should.
    Slow(Duration),
    /// Nothing happens, and an error with this text comes back.
    Fail(&'static str),
    /// Is done, and an error with this text comes back.
    LandThenFail(&'static str),
    /// Is done, and no answer ever comes.
    LandThenHang,
    /// No answer ever comes.
    Hang,
    /// 409, and nothing is done.
    Conflict,
    /// 403.
    Deny,
    /// PUT: somebody else puts these bytes first.
    Before(&'static [u8]),
    /// GET: the body ends this many bytes early.
    CutBody(usize),
    /// GET: a bit of the body is flipped.
    FlipBody,
}

/// A store in memory with a script of faults for its PUTs and GETs; off script everything is fine.
pub(crate) struct Faulty {
    pub(crate) inner: InMemory,
    time: Timeline,
    puts: Mutex<VecDeque<Act>>,
    gets: Mutex<VecDeque<Act>>,
    /// PUT overwrites, as stores do that ignore `If-None-Match`.
    overwrites: bool,
}

impl Faulty {
    pub(crate) fn new(time: &Timeline) -> Self {
        Self {
            inner: InMemory::new(),
            time: time.clone(),
            puts: Mutex::default(),
            gets: Mutex::default(),
            overwrites: false,
        }
    }

    pub(crate) fn puts(self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.puts.lock().extend(acts);
        self
    }

    pub(crate) fn gets(self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.gets.lock().extend(acts);
        self
    }

    pub(crate) fn overwriting(mut self) -> Self {
        self.overwrites = true;
        self
    }

    pub(crate) fn push_get(&self, act: Act) {
        self.gets.lock().push_back(act);
    }

    pub(crate) fn push_put(&self, act: Act) {
        self.puts.lock().push_back(act);
    }

    pub(crate) fn arc(self) -> Arc<Self> {
        Arc::new(self)
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "Faulty", source: text.to_string().into() }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "403 AccessDenied".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        assert!(matches!(opts.mode, PutMode::Create), "every PUT is create-only");
        if self.overwrites {
            opts.mode = PutMode::Overwrite;
        }
        let act = self.puts.lock().pop_front().unwrap_or(Act::Fine);
        match act {
            Act::Fail(text) => return Err(generic(text)),
            Act::Conflict => {
                return Err(Error::AlreadyExists { path: path.to_string(), source: "409 Conflict".into() });
            }
            Act::Deny => return Err(denied(path)),
            Act::Hang => std::future::pending().await,
            Act::Slow(d) => self.time.sleep(d).await,
            Act::Before(bytes) => drop(self.inner.put(path, bytes.into()).await?),
            _ => {}
        }
        let done = self.inner.put_opts(path, payload, opts).await;
        match act {
            Act::LandThenFail(text) => Err(generic(text)),
            Act::LandThenHang => std::future::pending().await,
            _ => done,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads are not create-only")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let act = self.gets.lock().pop_front().unwrap_or(Act::Fine);
        match act {
            Act::Fail(text) => return Err(generic(text)),
            Act::Deny => return Err(denied(path)),
            Act::Hang => std::future::pending().await,
            Act::Slow(d) => self.time.sleep(d).await,
            _ => {}
        }
        let mut result = self.inner.get_opts(path, options).await?;
        if let Act::CutBody(_) | Act::FlipBody = act {
            let GetResult { payload, meta, range, attributes, extensions } = result;
            let whole = GetResult {
                payload,
                meta: meta.clone(),
                range: range.clone(),
                attributes: attributes.clone(),
                extensions: extensions.clone(),
            };
            let bytes = whole.bytes().await?;
            let bad = if let Act::CutBody(n) = act { bytes.slice(..bytes.len() - n) } else { flipped(&bytes) };
            let payload = GetResultPayload::Stream(stream::once(async { Ok(bad) }).boxed());
            result = GetResult { payload, meta, range, attributes, extensions };
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}
