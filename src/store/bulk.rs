//! Deleting many objects with one request, where the store has that.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use super::Store;
use super::counts::Kind;
use super::error::{About, Fault, StoreError};
use super::limit::Load;
use super::options::{Cause, Patience};
use super::retry::Retrying;

/// DELETEs of single objects side by side.
const SINGLES: usize = 16;
/// Requests for many objects side by side.
const BATCHES: usize = 2;
/// After every so many attempts that failed, one object is deleted alone: a store may answer a request that it does not
/// have with any error.
const DOUBT: u32 = 3;

/// A store's request for many deletions at once.
pub(super) struct Bulk {
    /// Its `delete_stream` sends one request for up to `at_once` keys.
    objects: Arc<dyn ObjectStore>,
    at_once: usize,
    /// The store turned out not to have it.
    refused: AtomicBool,
    /// How often in a row it failed for a while and a single DELETE did not.
    doubts: AtomicU32,
}

impl Bulk {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, at_once: usize) -> Bulk {
        Bulk { objects, at_once, refused: AtomicBool::new(false), doubts: AtomicU32::new(0) }
    }

    fn works(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }
}

impl Store {
    /// Deletes objects, many with one request where the store has that, and answers for each key in order. An object
    /// that is not there is fine. A store that lacks such requests, or refuses them, is asked for one key at a time from
    /// then on. A bounded number of requests is under way at once, however many keys there are.
    pub async fn delete_many(&self, keys: &[String], cause: Cause, patience: Patience) -> Vec<Result<(), StoreError>> {
        let Some(bulk) = self.inner.backend.bulk.as_ref().filter(|b| b.works()) else {
            return self.delete_each(keys, cause, patience).await;
        };
        let batches: Vec<_> =
            keys.chunks(bulk.at_once).map(|keys| Batch { store: self, bulk, keys, cause }.run(patience)).collect();
        let answers: Vec<_> = stream::iter(batches).buffered(BATCHES).collect().await;
        answers.into_iter().flatten().collect()
    }

    async fn delete_each(
        &self,
        keys: &[impl AsRef<str> + Sync],
        cause: Cause,
        patience: Patience,
    ) -> Vec<Result<(), StoreError>> {
        let requests: Vec<_> = keys.iter().map(|key| self.delete(key.as_ref(), cause, patience)).collect();
        stream::iter(requests).buffered(SINGLES).collect().await
    }
}

/// Keys that one request deletes.
struct Batch<'a> {
    store: &'a Store,
    bulk: &'a Bulk,
    keys: &'a [String],
    cause: Cause,
}

/// A key whose fate is open.
struct Open<'a> {
    at: usize,
    key: &'a str,
    path: ObjectPath,
}

impl<'a> Batch<'a> {
    async fn run(self, patience: Patience) -> Vec<Result<(), StoreError>> {
        let mut results = vec![Ok(()); self.keys.len()];
        let mut open = self.open(&mut results);
        let label = match self.keys {
            [first, _, ..] => format!("{first} and {} more", self.keys.len() - 1),
            _ => self.keys.concat(),
        };
        let about = self.store.inner.about(Kind::Delete, &label);
        let mut retrying = Retrying::new(&self.store.inner, about, patience);
        let mut failures = 0;
        while !open.is_empty() {
            if open.len() == 1 || !self.bulk.works() {
                let keys: Vec<&str> = open.iter().map(|o| o.key).collect();
                let answers = self.store.delete_each(&keys, self.cause, retrying.left()).await;
                open.iter().zip(answers).for_each(|(o, answer)| results[o.at] = answer);
                break;
            }
            let fault = match self.once(about, &open, &retrying).await {
                Ok(answers) => match self.settle(&mut open, answers, patience, &mut results) {
                    None => continue,
                    Some(fault) => fault,
                },
                Err(fault) => {
                    failures += 1;
                    match self.doubt(fault, failures, &mut open, &retrying).await {
                        None => continue,
                        Some(fault) => fault,
                    }
                }
            };
            if let Err(e) = retrying.again(fault).await {
                open.iter().for_each(|o| results[o.at] = Err(e.clone()));
                break;
            }
        }
        results
    }

    /// The keys that can be keys; the results say what is wrong with the others.
    fn open(&self, results: &mut [Result<(), StoreError>]) -> Vec<Open<'a>> {
        let mut open = Vec::with_capacity(self.keys.len());
        for (at, key) in self.keys.iter().enumerate() {
            match self.store.path(key) {
                Ok(path) => open.push(Open { at, key, path }),
                Err(e) => results[at] = Err(e),
            }
        }
        open
    }

    /// Sends the request once; an answer for each key.
    async fn once(
        &self,
        about: About<'_>,
        open: &[Open<'_>],
        retrying: &Retrying<'_>,
    ) -> Result<Vec<Result<(), Fault>>, Fault> {
        let inner = &self.store.inner;
        let paths: Vec<_> = open.iter().map(|o| Ok(o.path.clone())).collect();
        let request = async {
            let answers = self.bulk.objects.delete_stream(stream::iter(paths).boxed()).collect::<Vec<_>>();
            // object_store panics where the answer names a key that it was not asked for.
            let answers = match AssertUnwindSafe(answers).catch_unwind().await {
                Ok(answers) => answers,
                Err(_) => return Err(Fault::Permanent(about.other("the answer is about other keys than the request"))),
            };
            if answers.len() == open.len() {
                return Ok(answers);
            }
            // The request itself failed: that is all that comes.
            match answers.into_iter().find_map(Result::err) {
                Some(e) if e.to_string().contains("invalid DeleteObjects response") => {
                    Err(Fault::Permanent(about.other(e)))
                }
                Some(e) => Err(about.fault(e)),
                None => Err(Fault::Transient(about.other("some keys were left without an answer"), false)),
            }
        };
        inner.turn(self.cause, Load::default(), retrying).await;
        let answers = inner.attempt(Kind::Delete, self.cause, about, 0, retrying.limit(0), request).await?;
        let judged = open
            .iter()
            .zip(answers)
            .map(|(o, a)| a.map(drop).or_else(|e| verdict(inner.about(Kind::Delete, o.key), e)));
        let judged = judged.collect::<Vec<_>>();
        self.bulk.doubts.store(0, Ordering::Relaxed);
        let done = judged.iter().filter(|j| j.is_ok()).count();
        inner.counts.deleted(self.cause, done as u64);
        match judged.iter().find_map(|j| j.as_ref().err()) {
            Some(Fault::Permanent(e) | Fault::Transient(e, _)) if done == 0 => {
                inner.failed(Kind::Delete, self.cause, e)
            }
            Some(_) => inner.counts.failed(Kind::Delete, self.cause),
            None => {}
        }
        Ok(judged)
    }

    /// Takes out what is decided. What is left must be asked again because of the fault that comes back.
    fn settle(
        &self,
        open: &mut Vec<Open<'_>>,
        answers: Vec<Result<(), Fault>>,
        patience: Patience,
        results: &mut [Result<(), StoreError>],
    ) -> Option<Fault> {
        let mut again = None;
        let mut answers = answers.into_iter();
        open.retain(|o| match answers.next() {
            Some(Err(Fault::Permanent(e))) if patience != Patience::Forever => {
                results[o.at] = Err(e);
                false
            }
            Some(Err(fault)) => {
                again = Some(fault);
                true
            }
            Some(Ok(())) | None => false,
        });
        again
    }

    /// Is it the keys, the store, or this kind of request? Deleting one key alone tells. `None`: the rest can go on.
    async fn doubt(
        &self,
        fault: Fault,
        failures: u32,
        open: &mut Vec<Open<'_>>,
        retrying: &Retrying<'_>,
    ) -> Option<Fault> {
        let passing = matches!(fault, Fault::Transient(..));
        if passing && !failures.is_multiple_of(DOUBT) {
            return Some(fault);
        }
        let first = open.first()?;
        let about = self.store.inner.about(Kind::Delete, first.key);
        if let Err(single) = self.store.delete_once(about, &first.path, self.cause, retrying).await {
            return Some(single);
        }
        open.remove(0);
        // The store may have come back just now; twice in a row is no accident.
        let sure = !passing || self.bulk.doubts.fetch_add(1, Ordering::Relaxed) > 0;
        if sure && !self.bulk.refused.swap(true, Ordering::Relaxed) {
            let (store, why) = (&self.store.inner.label, fault.said());
            tracing::info!(store, "the store does not delete many objects at once; one by one from now on: {why}");
        }
        None
    }
}

/// What is wrong with one key of a request that was answered.
fn verdict(about: About<'_>, e: object_store::Error) -> Result<(), Fault> {
    let text = e.to_string();
    let code = text.rsplit_once("(code: ").and_then(|(_, rest)| rest.split_once(')')).map(|(code, _)| code);
    match code {
        Some("NoSuchKey" | "404") => Ok(()),
        Some("AccessDenied" | "AllAccessDisabled" | "InvalidObjectState" | "403" | "409") => {
            Err(Fault::Permanent(StoreError::Denied { key: about.key.to_string(), why: text }))
        }
        Some(_) => Err(Fault::Transient(about.other(text), false)),
        None => match about.fault(e) {
            Fault::Final(StoreError::NotFound { .. }) => Ok(()),
            Fault::Exists | Fault::Final(_) => Err(Fault::Transient(about.other(text), false)),
            fault => Err(fault),
        },
    }
}
