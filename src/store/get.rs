//! Reads whose length is checked: whole objects and ranges, hedged where a network lies between.

use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, GetResult};

use super::counts::Kind;
use super::error::{About, Fault, StoreError, ends_before_range};
use super::limit::Load;
use super::options::{Cause, Patience};
use super::retry::Retrying;
use super::{MAX_OBJECT, Store};
use crate::probe::{Branch, Mutant, planted, reached};

/// How often a body that ends early is fetched again before the object counts as damaged.
const SHORT_TRIES: u32 = 3;

impl Store {
    /// Fetches a whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] at once, whatever the patience: the store is strongly consistent.
    pub async fn get(&self, key: &str, cause: Cause, patience: Patience) -> Result<Bytes, StoreError> {
        self.fetch(key, None, cause, patience).await
    }

    /// Fetches exactly the bytes `range` of an object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Short`] (the object ends before the range does) at once, whatever the
    /// patience.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        cause: Cause,
        patience: Patience,
    ) -> Result<Bytes, StoreError> {
        if range.end <= range.start {
            return Ok(Bytes::new());
        }
        if range.end - range.start > MAX_OBJECT {
            return Err(StoreError::Config(format!("{key}: a range of {} bytes", range.end - range.start)));
        }
        // Never closed, so there is always a permit to come.
        let _turn = self.inner.reads.acquire().await;
        self.fetch(key, Some(range), cause, patience).await
    }

    async fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        cause: Cause,
        patience: Patience,
    ) -> Result<Bytes, StoreError> {
        let about = self.inner.about(Kind::Get, key);
        let get = Get { store: self, about, path: self.path(key)?, range, cause };
        let mut retrying = Retrying::new(&self.inner, about, patience);
        let mut shorts = 0;
        loop {
            match get.hedged(&retrying).await {
                Ok(bytes) => return Ok(bytes),
                Err(Fault::Transient(e @ StoreError::Short { .. }, _)) => {
                    shorts += 1;
                    let fault = if shorts < SHORT_TRIES { Fault::Transient(e, false) } else { Fault::Final(e) };
                    retrying.again(fault).await?;
                }
                Err(fault) => retrying.again(fault).await?,
            }
        }
    }
}

/// One GET, as often as it is sent.
struct Get<'a> {
    store: &'a Store,
    about: About<'a>,
    path: ObjectPath,
    range: Option<Range<u64>>,
    cause: Cause,
}

impl Get<'_> {
    fn len(&self) -> u64 {
        // A whole object is asked for without knowing its size: segments are of this order.
        self.range.as_ref().map_or(8 << 20, |r| r.end - r.start)
    }

    /// Sends the request, and a second one if the first is slow; the first good answer counts.
    async fn hedged(&self, retrying: &Retrying<'_>) -> Result<Bytes, Fault> {
        let Some(hedging) = self.store.inner.hedging.as_ref().filter(|_| self.range.is_some()) else {
            self.turn(retrying).await;
            return self.once(retrying).await;
        };
        // A request that waits for its turn is not slow, and deserves no second one.
        self.turn(retrying).await;
        let clock = &self.store.inner.env.clock;
        let begun = clock.now();
        let answer = match hedging.delay(self.len()) {
            None => self.once(retrying).await,
            Some(delay) => match select(pin!(self.once(retrying)), clock.sleep(delay)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(((), first)) if hedging.take() => {
                    reached(Branch::GetHedged);
                    let second = async {
                        self.turn(retrying).await;
                        self.once(retrying).await
                    };
                    match select(first, pin!(second)).await {
                        Either::Left((Err(Fault::Transient(..)), second)) => second.await,
                        Either::Right((Err(Fault::Transient(..)), first)) => first.await,
                        Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
                    }
                }
                Either::Right(((), first)) => first.await,
            },
        };
        if answer.is_ok() {
            hedging.record(self.len(), clock.now().saturating_sub(begun));
        }
        answer
    }

    async fn turn(&self, retrying: &Retrying<'_>) {
        let down = self.range.as_ref().map_or(0, |r| r.end - r.start);
        self.store.inner.turn(self.cause, Load { up: 0, down }, retrying).await;
    }

    async fn once(&self, retrying: &Retrying<'_>) -> Result<Bytes, Fault> {
        let inner = &self.store.inner;
        let request = async {
            let options = GetOptions { range: self.range.clone().map(GetRange::Bounded), ..GetOptions::default() };
            match inner.backend.objects.get_opts(&self.path, options).await {
                Ok(result) => self.body(result).await,
                Err(e) => Err(self.fault(e)),
            }
        };
        let bytes = inner.attempt(Kind::Get, self.cause, self.about, 0, retrying.limit(self.len()), request).await?;
        inner.counts.received(Kind::Get, self.cause, bytes.len() as u64);
        if self.range.is_none() {
            // Nobody knew how long it is.
            inner.limiter.received(bytes.len() as u64, inner.env.clock.now());
        }
        Ok(bytes)
    }

    fn short(&self, got: u64) -> StoreError {
        StoreError::Short { key: self.about.key.to_string(), want: self.len(), got }
    }

    /// "Not satisfiable" means that the object ends before the range begins.
    fn fault(&self, e: object_store::Error) -> Fault {
        if self.range.is_some() && ends_before_range(&e) {
            return Fault::Final(self.short(0));
        }
        match self.about.fault(e) {
            Fault::Final(StoreError::Short { .. }) => Fault::Final(self.short(0)),
            // A directory that is gone has no objects, but that says nothing about the pool's.
            Fault::Final(e @ StoreError::NotFound { .. }) => match self.store.check_directory() {
                Ok(()) => Fault::Final(e),
                Err(gone) => gone,
            },
            fault => fault,
        }
    }

    async fn body(&self, result: GetResult) -> Result<Bytes, Fault> {
        let want = match &self.range {
            // What the store says of the object's size: it ends too early, and it will not grow.
            Some(range) if result.meta.size < range.end => {
                return Err(Fault::Final(self.short(result.meta.size.saturating_sub(range.start))));
            }
            Some(range) if result.range != *range => {
                let why = format!("bytes {range:?} were asked for, {:?} came", result.range);
                return Err(Fault::Permanent(self.about.other(why)));
            }
            Some(range) => range.end - range.start,
            None if result.meta.size > MAX_OBJECT => {
                let why = format!("it has {} bytes, more than any object of a pool", result.meta.size);
                return Err(Fault::Final(self.about.other(why)));
            }
            None => result.meta.size,
        };
        let bytes = result.bytes().await.map_err(|e| self.about.fault(e))?;
        if bytes.len() as u64 == want {
            Ok(bytes)
        } else if planted(Mutant::ShortBodyAccepted) {
            let mut filled = bytes.to_vec();
            filled.resize(want as usize, 0);
            Ok(filled.into())
        } else {
            reached(Branch::GetShort);
            let (key, got) = (self.about.key.to_string(), bytes.len() as u64);
            Err(Fault::Transient(StoreError::Short { key, want, got }, false))
        }
    }
}
