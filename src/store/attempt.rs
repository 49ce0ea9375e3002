//! One attempt of one request: time limit, accounts, health.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use object_store::path::Path as ObjectPath;

use super::counts::Kind;
use super::error::{About, Fault, StoreError};
use super::limit::Load;
use super::options::Cause;
use super::retry::Retrying;
use super::{Inner, Store};

impl Store {
    /// The full path of `key`.
    pub(super) fn path(&self, key: &str) -> Result<ObjectPath, StoreError> {
        let full = self.inner.full(key);
        ObjectPath::parse(&full).map_err(|e| StoreError::Config(format!("{key} cannot be a key: {e}")))
    }
}

impl Inner {
    /// `key` with the store's prefix before it.
    pub(super) fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_string() } else { format!("{}/{key}", self.prefix) }
    }

    pub(super) fn about<'a>(&'a self, kind: Kind, key: &'a str) -> About<'a> {
        About { op: kind.name(), key, url: &self.label }
    }

    /// Waits until the limits allow a request with so many bytes up and down. What is spent so is not out of its patience.
    pub(super) async fn turn(&self, cause: Cause, load: Load, retrying: &Retrying<'_>) {
        let waited = self.limiter.turn(&self.env, &self.label, cause, load).await;
        retrying.excuse(waited);
    }

    /// Runs `request`, which had its turn, for at most `limit`, and enters it in the books. `sent` is the length of its
    /// body.
    pub(super) async fn attempt<T>(
        &self,
        kind: Kind,
        cause: Cause,
        about: About<'_>,
        sent: u64,
        limit: Duration,
        request: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        self.counts.sent(kind, cause, sent);
        let begun = self.env.clock.now();
        let answer = match select(pin!(request), self.env.clock.sleep(limit)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => Err(Fault::Transient(about.other(format!("no answer within {limit:?}")), true)),
        };
        match &answer {
            Ok(_) => {
                self.pace.learn(sent, self.env.clock.now().saturating_sub(begun));
                self.answered();
            }
            Err(Fault::Exists | Fault::Final(_)) => self.answered(),
            Err(Fault::Permanent(e) | Fault::Transient(e, _)) => {
                self.failed(kind, cause, e);
            }
        }
        answer
    }

    pub(super) fn failed(&self, kind: Kind, cause: Cause, e: &StoreError) {
        self.counts.failed(kind, cause);
        let clock = &self.env.clock;
        if self.health.failed(clock.now(), clock.wall_ms(), &e.to_string()) {
            tracing::warn!(store = %self.label, "the object store is in trouble: {e}");
        }
    }

    fn answered(&self) {
        if let Some(outage) = self.health.answered() {
            let lasted = self.env.clock.now().saturating_sub(outage.since);
            tracing::info!(store = %self.label, failures = outage.failures, "the object store answers again after {lasted:?}");
        }
    }
}
