//! The object store: URLs, create-only puts that decide themselves, checked reads, retries, accounting, health.
//!
//! Everything above speaks [`Store`] and keys below the pool's prefix; only this room knows `object_store`. Its own
//! retries are off: a create-only PUT that timed out may have landed, and only [`Store::put_new`] knows how to find out.

mod attempt;
mod backend;
mod bucket;
mod bulk;
mod counts;
mod delete;
mod error;
mod get;
mod health;
mod hedge;
mod limit;
mod list;
mod local;
mod options;
mod probe;
mod put;
mod retry;
mod url;

#[cfg(test)]
mod bulk_tests;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod timeline;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use tokio::sync::Semaphore;

pub use counts::{CountRow, Kind};
pub use error::StoreError;
pub use health::{Health, LastError, Outage};
pub use limit::{Limits, Throttle};
pub use list::Listed;
pub use options::{Cause, Patience, StoreOptions};
pub use probe::Probe;
pub use put::Put;

use crate::env::Env;
use backend::{Backend, Lister};
use counts::Counts;
use health::HealthCell;
use hedge::Hedging;
use limit::Limiter;
use retry::Pace;

/// Ranged GETs under way at once; more wait their turn. PUTs never queue behind them.
const MAX_READS: usize = 256;

/// The largest object that is ever written or read whole, in bytes: a segment and some room.
pub const MAX_OBJECT: u64 = 80 << 20;

/// One pool's place in an object store. Cheap to clone; all clones share counts and health.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Below the bucket (or the directory); no slash at either end; may be empty.
    prefix: String,
    /// How the store is called in messages.
    label: String,
    env: Env,
    counts: Counts,
    health: HealthCell,
    hedging: Option<Hedging>,
    pace: Pace,
    limiter: Arc<Limiter>,
    /// Ranged GETs at once: more would only exhaust file descriptors and patience.
    reads: Semaphore,
}

impl Store {
    /// Opens the store that `url` names: `file:///abs`, `s3://bucket/prefix`, `gs://`, `az://container/prefix`, or
    /// `memory://NAME` (one per process and name). Sends no request, but for `file://` the directory must be there.
    ///
    /// # Errors
    /// [`StoreError::Config`] for a URL or settings that cannot work, [`StoreError::NoSuchBucket`] for a missing directory.
    pub fn open(url: &str, opts: &StoreOptions, env: Env) -> Result<Store, StoreError> {
        let location = url::parse(url)?;
        let backend = backend::open(&location, opts)?;
        let hedging = backend.remote.then(Hedging::default);
        Ok(Self::build(backend, location.prefix(), &location.to_string(), opts, hedging, env))
    }

    /// A store over any `object_store`, below `prefix`; for tests. Lists by scanning, never hedges.
    pub fn over(inner: Arc<dyn ObjectStore>, prefix: &str, label: &str, env: Env) -> Store {
        Self::scanned(inner, prefix, label, None, env)
    }

    /// The same as if a network lay between: slow GETs are hedged. For the simulator.
    pub fn over_network(inner: Arc<dyn ObjectStore>, prefix: &str, label: &str, env: Env) -> Store {
        Self::scanned(inner, prefix, label, Some(Hedging::default()), env)
    }

    /// As [`Store::over`], where `bulk` takes many deletions at once.
    #[cfg(test)]
    pub(crate) fn over_bulk(
        inner: Arc<dyn ObjectStore>,
        bulk: Arc<dyn ObjectStore>,
        at_once: usize,
        env: Env,
    ) -> Store {
        let bulk = Some(bulk::Bulk::new(bulk, at_once));
        let backend = Backend { objects: inner, lister: Lister::Scan, bulk, local: None, remote: false };
        Self::build(backend, "some/prefix", "test://", &StoreOptions::default(), None, env)
    }

    fn scanned(inner: Arc<dyn ObjectStore>, prefix: &str, label: &str, hedging: Option<Hedging>, env: Env) -> Store {
        let backend =
            Backend { objects: inner, lister: Lister::Scan, bulk: None, local: None, remote: hedging.is_some() };
        Self::build(backend, prefix, label, &StoreOptions::default(), hedging, env)
    }

    fn build(
        backend: Backend,
        prefix: &str,
        label: &str,
        opts: &StoreOptions,
        hedging: Option<Hedging>,
        env: Env,
    ) -> Store {
        let inner = Inner {
            backend,
            prefix: prefix.trim_matches('/').to_string(),
            label: label.to_string(),
            env,
            counts: Counts::default(),
            health: HealthCell::default(),
            hedging,
            pace: Pace::new(opts.attempt_timeout),
            limiter: Arc::default(),
            reads: Semaphore::new(MAX_READS),
        };
        Store { inner: Arc::new(inner) }
    }

    /// What was opened, without secrets.
    pub fn url(&self) -> &str {
        &self.inner.label
    }

    /// The directory of a `file://` store: a device must not hold its own pool.
    pub fn local_path(&self) -> Option<&Path> {
        self.inner.backend.local.as_ref().map(|l| l.root())
    }

    /// Whether the store answers, since when it does not, and what it said last.
    pub fn health(&self) -> Health {
        self.inner.health.get()
    }

    /// Sets how much may be asked of the store from now on. Whatever is beyond that waits its turn, and nothing else.
    pub fn limit(&self, limits: Limits) {
        self.inner.limiter.set(limits, self.inner.env.clock.now());
    }

    /// What the limits do; `None` where there are none.
    pub fn throttle(&self) -> Option<Throttle> {
        self.inner.limiter.get()
    }

    /// Requests sent so far by kind and cause; rows without requests are left out.
    pub fn counts(&self) -> Vec<CountRow> {
        self.inner.counts.rows()
    }
}

/// What a URL names, as messages show it.
///
/// # Errors
/// [`StoreError::Config`].
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn parse_url(text: &str) -> Result<String, StoreError> {
    url::parse(text).map(|location| location.to_string())
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.inner.label).finish()
    }
}
