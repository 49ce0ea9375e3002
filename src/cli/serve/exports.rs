//! What the NBD server offers: the volumes of the catalogue, attached once and kept until the server ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esker_block::{BlockDevice, DeviceInfo};
use futures::future::BoxFuture;
use nbd_compat::{ExportEntry, ExportError, Exports};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cli::compacting::Tell;
use crate::cli::engine::{Attached, Engine};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::size::show_size;
use crate::env::Env;
use crate::pool::{Pool, VolumeRecord};
use crate::segment::{BLOCK, EXTENT};
use crate::volume::Compacted;

/// The catalogue is read again at most this often: clients who ask for names that do not exist must not cost requests
/// without bound.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A volume while somebody attaches it, holds it, or nobody does. Locked for the length of an attach, so that clients
/// who come together attach it once.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<dyn Attached>>>>;

/// What is on offer besides the volumes known at the start, and how.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Volumes made later are offered too.
    pub all: bool,
    /// Writes are refused.
    pub read_only: bool,
}

/// The volumes of one server.
pub struct Offered {
    pool: Pool,
    engine: Arc<dyn Engine>,
    volumes: Mutex<BTreeMap<String, Offer>>,
    all: bool,
    read_only: bool,
    closing: AtomicBool,
    env: Env,
    /// When the catalogue was last read again, on the clock of `env`.
    refreshed: tokio::sync::Mutex<Option<Duration>>,
}

#[derive(Clone)]
struct Offer {
    record: VolumeRecord,
    slot: Slot,
}

impl Offer {
    fn new(record: VolumeRecord) -> Self {
        Self { record, slot: Slot::default() }
    }
}

impl Offered {
    /// Offers `records`.
    pub fn new(pool: Pool, engine: Arc<dyn Engine>, records: Vec<VolumeRecord>, scope: Scope, env: &Env) -> Self {
        let volumes = records.into_iter().map(|r| (r.name.clone(), Offer::new(r))).collect();
        Self {
            pool,
            engine,
            volumes: Mutex::new(volumes),
            all: scope.all,
            read_only: scope.read_only,
            closing: AtomicBool::new(false),
            env: env.clone(),
            refreshed: tokio::sync::Mutex::default(),
        }
    }

    /// The names on offer, in order.
    pub fn names(&self) -> Vec<String> {
        self.volumes.lock().keys().cloned().collect()
    }

    /// The logical block size of the volume called `name` in bytes; that of most where there is none.
    pub fn block_size(&self, name: &str) -> u32 {
        self.find(name).map_or(BLOCK as u32, |offer| offer.record.block_size)
    }

    /// Attaches all volumes on offer; several at a time, since each waits mostly for the store. Those that succeeded
    /// are detached again where one fails.
    pub async fn attach_all(self: &Arc<Self>) -> Outcome {
        let offers: Vec<_> = self.volumes.lock().values().cloned().collect();
        let attempts = offers.into_iter().map(|offer| self.attach(offer));
        let failed = futures::future::join_all(attempts).await.into_iter().find_map(Result::err);
        match failed {
            None => Ok(()),
            Some(failure) => {
                drop(self.detach_all().await);
                Err(failure)
            }
        }
    }

    /// Runs on its own, so that a client who goes away while it lasts does not leave the volume half attached.
    async fn attach(self: &Arc<Self>, offer: Offer) -> Outcome<Arc<dyn Attached>> {
        let name = offer.record.name.clone();
        let this = self.clone();
        let task = tokio::spawn(async move {
            let mut slot = offer.slot.lock().await;
            if let Some(attached) = &*slot {
                return Ok(attached.clone());
            }
            if this.closing.load(Ordering::SeqCst) {
                return Err(Failure::plain(format_args!("volume {}", offer.record.name), "the server is stopping"));
            }
            let attached = this.engine.attach(&offer.record).await?;
            *slot = Some(attached.clone());
            Ok(attached)
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(e) => Err(Failure::plain(format_args!("volume {name}"), format_args!("attaching it crashed: {e}"))),
        }
    }

    /// Detaches everything, waiting for attaches under way. Goes on to the next volume where one fails; answers the
    /// first failure.
    pub async fn detach_all(&self) -> Outcome {
        self.closing.store(true, Ordering::SeqCst);
        let offers: Vec<_> = self.volumes.lock().values().cloned().collect();
        let detaching = offers.into_iter().map(Self::detach_offer);
        futures::future::join_all(detaching).await.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Compacts the volume called `name`, if it is attached.
    ///
    /// # Errors
    /// `NotFound` where it is not; what the engine says.
    pub async fn compact(&self, name: &str, tell: Tell) -> Outcome<Compacted> {
        let offer = self.volumes.lock().get(name).cloned();
        let attached = match offer {
            Some(offer) => offer.slot.lock().await.clone(),
            None => None,
        };
        let what = format!("volume {name}");
        let attached = attached.ok_or_else(|| Failure::new(Exit::NotFound, what, "this process does not hold it"))?;
        attached.compact(tell).await
    }

    /// Detaches the volume called `name`, if it is attached, and offers it no more.
    pub async fn detach_one(&self, name: &str) -> Outcome {
        let offer = self.volumes.lock().get(name).cloned();
        let outcome = match offer {
            Some(offer) => Self::detach_offer(offer).await,
            None => Ok(()),
        };
        self.volumes.lock().remove(name);
        outcome
    }

    async fn detach_offer(offer: Offer) -> Outcome {
        // It stays in its slot meanwhile: a detach that waits for the store is when people ask for the status.
        let Some(attached) = offer.slot.lock().await.clone() else { return Ok(()) };
        let outcome = attached.detach().await;
        *offer.slot.lock().await = None;
        if let Err(failure) = &outcome {
            tracing::error!("{failure}");
        }
        outcome
    }

    /// Each volume's state, for `esker status`. One that is being attached is shown as not attached.
    pub fn status(&self) -> Vec<Value> {
        let offers: Vec<_> = self.volumes.lock().values().cloned().collect();
        offers.iter().map(|offer| self.status_of(offer)).collect()
    }

    fn status_of(&self, offer: &Offer) -> Value {
        let attached = offer.slot.try_lock().ok().and_then(|slot| slot.clone());
        let mut status = json!({
            "name": offer.record.name,
            "size": offer.record.size,
            "read_only": self.read_only,
            "attached": attached.is_some(),
        });
        if let (Some(fields), Some(Value::Object(more))) = (status.as_object_mut(), attached.map(|a| a.status())) {
            fields.extend(more);
        }
        status
    }

    /// The volume that a client means: `""` is the only one, where there is only one.
    fn find(&self, name: &str) -> Option<Offer> {
        let volumes = self.volumes.lock();
        if name.is_empty() {
            let mut all = volumes.values();
            return all.next().filter(|_| all.next().is_none()).cloned();
        }
        volumes.get(name).cloned()
    }

    /// Looks for volumes made, and forgets those deleted, since the catalogue was read.
    async fn refresh(&self) -> Result<(), ExportError> {
        let mut refreshed = self.refreshed.lock().await;
        if let Some(next) = refreshed.map(|r| r + REFRESH_PAUSE) {
            self.env.clock.sleep(next.saturating_sub(self.env.clock.now())).await;
        }
        *refreshed = Some(self.env.clock.now());
        let records = self.pool.volumes().await.map_err(|e| ExportError::Failed(e.to_string()))?;
        let mut volumes = self.volumes.lock();
        volumes.retain(|_, offer| {
            let free = offer.slot.try_lock().is_ok_and(|slot| slot.is_none());
            !free || records.iter().any(|r| r.number == offer.record.number)
        });
        for record in records {
            volumes.entry(record.name.clone()).or_insert_with(|| Offer::new(record));
        }
        Ok(())
    }

    async fn open_named(self: Arc<Self>, name: String) -> Result<Arc<dyn BlockDevice>, ExportError> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(ExportError::ShuttingDown);
        }
        let mut found = self.find(&name);
        if found.is_none() && self.all {
            self.refresh().await?;
            found = self.find(&name);
        }
        let offer = found.ok_or(ExportError::Unknown)?;
        match self.attach(offer).await {
            Ok(attached) => Ok(attached.device()),
            Err(failure) => {
                tracing::warn!("a client could not open {name:?}: {failure}");
                Err(match failure.exit() {
                    Exit::InUse => ExportError::Refused(failure.to_string()),
                    _ => ExportError::Failed(failure.to_string()),
                })
            }
        }
    }
}

/// [`Offered`] as the NBD server takes it.
pub struct OfferedExports(pub Arc<Offered>);

impl Exports for OfferedExports {
    fn list(&self) -> Vec<ExportEntry> {
        let volumes = self.0.volumes.lock();
        let entry = |r: &VolumeRecord| ExportEntry {
            name: r.name.clone(),
            description: format!("esker volume, {}", show_size(r.size)),
            size: r.size,
            read_only: self.0.read_only,
        };
        volumes.values().map(|o| entry(&o.record)).collect()
    }

    fn describe(&self, name: &str) -> Option<DeviceInfo> {
        let record = self.0.find(name)?.record;
        Some(DeviceInfo {
            name: record.name,
            size: record.size,
            logical_block: record.block_size,
            physical_block: BLOCK as u32,
            optimal_io: EXTENT as u32,
            read_only: self.0.read_only,
        })
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, ExportError>> {
        Box::pin(self.0.clone().open_named(name.to_owned()))
    }
}

#[cfg(test)]
#[path = "exports_tests.rs"]
mod tests;
