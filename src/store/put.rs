//! The create-only PUT that finds out what became of it.

use bytes::Bytes;
use object_store::{PutMode, PutOptions, PutPayload};

use super::counts::Kind;
use super::error::{Fault, StoreError};
use super::limit::Load;
use super::options::{Cause, Patience};
use super::retry::Retrying;
use super::{MAX_OBJECT, Store};
use crate::probe::{Branch, Mutant, planted, reached};

/// What became of a create-only PUT. In each case the key holds its object for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The store says that this request created the object.
    Created,
    /// The object was there already with the very same bytes: an earlier attempt of ours had landed.
    Ours,
    /// The object was there already with these other bytes: somebody else has the key.
    Taken(Bytes),
}

impl Put {
    /// Whether the key holds the bytes that were put.
    pub fn is_ours(&self) -> bool {
        matches!(self, Put::Created | Put::Ours)
    }
}

impl Store {
    /// Creates `key` with `body`, or finds out what is there.
    ///
    /// The body is frozen: every retry sends the same bytes. After "exists already" (412) or "conflict" (409) the
    /// object is fetched: identical bytes are ours, other bytes are somebody else's, nothing there means send again.
    ///
    /// # Errors
    /// With [`Patience::For`]: out of time, or something that an operator must mend. The object may have been created
    /// all the same: nobody may ever put another body under this key. A future that is dropped leaves the same doubt.
    pub async fn put_new(&self, key: &str, body: Bytes, cause: Cause, patience: Patience) -> Result<Put, StoreError> {
        if body.len() as u64 > MAX_OBJECT {
            return Err(StoreError::Config(format!("{key} has {} bytes, more than an object may have", body.len())));
        }
        let about = self.inner.about(Kind::Put, key);
        let mut retrying = Retrying::new(&self.inner, about, patience);
        let mut body = body;
        loop {
            let fault = match self.put_once(key, &body, cause, &retrying).await {
                Ok(()) => return Ok(Put::Created),
                Err(Fault::Exists) if planted(Mutant::ExistsIsOurs) => return Ok(Put::Ours),
                Err(Fault::Exists) => match self.compare(key, &body, cause, retrying.left()).await? {
                    Compared::Decided(put) => return Ok(put),
                    Compared::Absent if planted(Mutant::ConflictFences) => return Ok(Put::Taken(Bytes::new())),
                    Compared::Absent => {
                        reached(Branch::PutConflictWithNothing);
                        Fault::Transient(about.other("the store reports a conflict, and nothing is there"), false)
                    }
                    Compared::Unsettled(fault) => fault,
                },
                Err(fault) => fault,
            };
            retrying.again(fault).await?;
            if planted(Mutant::AnotherBodyOnRetry) {
                body = body.iter().rev().copied().collect();
            }
        }
    }

    async fn put_once(&self, key: &str, body: &Bytes, cause: Cause, retrying: &Retrying<'_>) -> Result<(), Fault> {
        let about = self.inner.about(Kind::Put, key);
        let path = self.path(key).map_err(Fault::Final)?;
        let len = body.len() as u64;
        let request = async {
            self.check_directory()?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let payload = PutPayload::from_bytes(body.clone());
            self.inner.backend.objects.put_opts(&path, payload, options).await.map_err(|e| about.fault(e))?;
            self.settle(key, true).await
        };
        self.inner.turn(cause, Load { up: len, down: 0 }, retrying).await;
        self.inner.attempt(Kind::Put, cause, about, len, retrying.limit(len), request).await
    }

    async fn compare(&self, key: &str, body: &Bytes, cause: Cause, left: Patience) -> Result<Compared, StoreError> {
        let there = match self.get(key, cause, left).await {
            Ok(there) if there == *body => return Ok(self.ours(key).await),
            Ok(there) => there,
            Err(StoreError::NotFound { .. }) => return Ok(Compared::Absent),
            Err(e) => return Err(e),
        };
        // "Taken" fences a writer for good: a bit that flipped on the way must not. Whoever else put the object hardly
        // made it as long as ours, so this costs next to nothing.
        if there.len() == body.len() {
            let again = self.get(key, cause, left).await?;
            if again == *body {
                return Ok(self.ours(key).await);
            }
            if again != there {
                let why = "two reads of the object differ".to_string();
                return Ok(Compared::Unsettled(Fault::Transient(self.inner.about(Kind::Get, key).other(why), false)));
            }
        }
        reached(Branch::PutTaken);
        Ok(Compared::Decided(Put::Taken(there)))
    }

    async fn ours(&self, key: &str) -> Compared {
        reached(Branch::PutOursAfterAll);
        match self.settle(key, false).await {
            Ok(()) => Compared::Decided(Put::Ours),
            Err(fault) => Compared::Unsettled(fault),
        }
    }

    /// `file://`: is the directory still the one that was opened?
    pub(super) fn check_directory(&self) -> Result<(), Fault> {
        let Some(local) = &self.inner.backend.local else { return Ok(()) };
        let gone = |why| Fault::Permanent(StoreError::NoSuchBucket { url: self.inner.label.clone(), why });
        local.check().map_err(gone)
    }

    /// `file://`: makes the name of `key` durable.
    async fn settle(&self, key: &str, fresh: bool) -> Result<(), Fault> {
        let Some(local) = self.inner.backend.local.clone() else { return Ok(()) };
        let full = self.inner.full(key);
        if fresh && local.is_settled(&full) {
            return Ok(());
        }
        let about = self.inner.about(Kind::Put, key);
        match self.inner.env.heavy(move || local.settle(&full, fresh)).await {
            Some(Ok(())) => Ok(()),
            Some(Err(e)) => Err(about.io_fault(&e)),
            None => Err(Fault::Transient(about.other("the worker that makes the directory durable failed"), false)),
        }
    }
}

enum Compared {
    Decided(Put),
    Absent,
    Unsettled(Fault),
}
