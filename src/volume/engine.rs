//! The state of one attached volume, shared by its requests and its tasks.

use std::sync::Arc;
use std::time::Duration;

use esker_block::{BlockError, BlockResult, DeviceInfo};
use futures::channel::oneshot;
use tokio::sync::Notify;
use tracing::{debug, error, warn};

use super::accounts::Accounts;
use super::compaction::Compaction;
use super::deleting::Deletions;
use super::fetch::Fetches;
use super::gate::Gates;
use super::highwater::{HighWater, Mark};
use super::index::WriteIndex;
use super::options::{AttachOptions, OnOutage};
use super::pipeline::{Pipeline, tell};
use super::readahead::Readahead;
use super::space::Space;
use super::upkeep::Upkeep;
use super::wakes::Wakes;
use crate::cache::MemoryCache;
use crate::env::Env;
use crate::journal::Ring;
use crate::map::Map;
use crate::pool::keys::PoolKeys;
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{Compression, Introduced, log_prefix};
use crate::store::{Cause, Patience, Store, StoreError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The store has not answered for a while.
pub(super) struct Outage {
    pub lasted: Duration,
    pub error: String,
}

/// See the module.
pub(super) struct Engine {
    pub info: DeviceInfo,
    pub volume: u32,
    pub epoch: u32,
    pub compression: Compression,
    pub tuning: AttachOptions,
    pub keys: Arc<PoolKeys>,
    pub store: Store,
    pub env: Env,
    pub ring: Ring,
    pub index: WriteIndex,
    pub gates: Gates,
    pub space: Arc<Space>,
    pub map: Map,
    pub cache: MemoryCache,
    pub fetches: Fetches,
    pub readahead: Readahead,
    pub log: Mutex<Pipeline>,
    /// [`Pipeline::durable_op`] for those who only look.
    pub durable_op: AtomicU64,
    pub wakes: Wakes,
    pub cutter_wake: Notify,
    pub publisher_wake: Notify,
    /// Notified after every publication and at every failure.
    pub published: Notify,
    pub checkpointing: AtomicBool,
    /// After a failed checkpoint: none is begun unasked until then.
    pub no_checkpoint_before: Mutex<Duration>,
    /// What each segment holds.
    pub accounts: Accounts,
    pub compaction: Compaction,
    pub deletions: Deletions,
    pub upkeep: Upkeep,
    /// Held while a segment is shown in the map, and while a checkpoint begins.
    pub publishing: Mutex<()>,
    /// Log segments that attaching applied after the checkpoint.
    pub replayed: u64,
    /// What this host remembers of the volume.
    pub high: HighWater,
    /// Names this attach in its opening and seal.
    pub writer: [u8; 16],
    /// The next data segment's number.
    pub next_data: AtomicU64,
    /// No new requests.
    pub closing: AtomicBool,
    has_failed: AtomicBool,
    failed: Mutex<Option<BlockError>>,
    last_error: Mutex<Option<String>>,
}

/// The parts of an [`Engine`] that attaching prepares.
pub(super) struct Parts {
    pub info: DeviceInfo,
    pub volume: u32,
    pub epoch: u32,
    pub compression: Compression,
    pub tuning: AttachOptions,
    pub keys: Arc<PoolKeys>,
    pub store: Store,
    pub env: Env,
    pub ring: Ring,
    pub map: Map,
    pub log: Pipeline,
    pub replayed: u64,
    /// The segments that came into use with the replayed log.
    pub fresh: Vec<Introduced>,
    pub high: HighWater,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Self {
        let space = Arc::new(Space::default());
        let waiting = space.clone();
        parts.ring.on_space(move || {
            if !planted(Mutant::SpaceWaiterForgotten) {
                waiting.wake();
            }
        });
        let start = parts.log.checkpoint;
        Self {
            accounts: Accounts::new(start.usage, start.root.is_none(), parts.fresh),
            compaction: Compaction::default(),
            deletions: Deletions::default(),
            upkeep: Upkeep::default(),
            cache: MemoryCache::new(parts.tuning.cache_bytes),
            durable_op: AtomicU64::new(parts.log.durable_op),
            writer: parts.log.last_salt,
            replayed: parts.replayed,
            high: parts.high,
            info: parts.info,
            volume: parts.volume,
            epoch: parts.epoch,
            compression: parts.compression,
            tuning: parts.tuning,
            keys: parts.keys,
            store: parts.store,
            env: parts.env,
            ring: parts.ring,
            map: parts.map,
            log: Mutex::new(parts.log),
            index: WriteIndex::new(),
            gates: Gates::new(),
            space,
            fetches: Fetches::new(),
            readahead: Readahead::default(),
            wakes: Wakes::default(),
            cutter_wake: Notify::new(),
            publisher_wake: Notify::new(),
            published: Notify::new(),
            checkpointing: AtomicBool::new(false),
            no_checkpoint_before: Mutex::new(Duration::ZERO),
            publishing: Mutex::new(()),
            next_data: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            failed: Mutex::new(None),
            last_error: Mutex::new(None),
        }
    }

    /// Why the volume serves nobody any more, if so.
    pub(super) fn failure(&self) -> Option<BlockError> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        self.failed.lock().clone()
    }

    /// Ends the volume: everything that waits and everything that comes gets `why`. The journal is left as it is.
    pub(super) fn fail(&self, why: BlockError) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            if why == BlockError::ShuttingDown {
                // Let go of on purpose: the journal goes to whoever attaches next.
                debug!(volume = self.info.name, epoch = self.epoch, "let go");
            } else {
                error!(volume = self.info.name, epoch = self.epoch, error = %why, "the volume has failed");
            }
            *failed = Some(why.clone());
        }
        drop(failed);
        self.has_failed.store(true, Ordering::Release);
        self.note_error(why.to_string());
        let waiters = {
            let mut log = self.log.lock();
            log.drop_moves();
            log.take_waiters()
        };
        tell(waiters, &Err(why));
        self.space.wake();
        self.cutter_wake.notify_one();
        self.publisher_wake.notify_one();
        self.upkeep.wake();
        self.published.notify_waiters();
    }

    /// Remembers an error for `esker status`.
    pub(super) fn note_error(&self, what: String) {
        *self.last_error.lock() = Some(what);
    }

    /// The last error, for `esker status`.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// An error if requests are not served any more.
    pub(super) fn check_open(&self) -> BlockResult<()> {
        match self.failure() {
            Some(why) => Err(why),
            None if self.closing.load(Ordering::Acquire) => Err(BlockError::ShuttingDown),
            None => Ok(()),
        }
    }

    /// How long a read tries.
    pub(super) fn patience(&self) -> Patience {
        match self.tuning.on_outage {
            OnOutage::Wait => Patience::Forever,
            OnOutage::FailAfter(limit) => Patience::For(limit),
        }
    }

    /// The outage that the store is in, if it is.
    pub(super) fn outage(&self) -> Option<Outage> {
        let health = self.store.health();
        let lasted = self.env.clock.now().saturating_sub(health.outage?.since);
        Some(Outage { lasted, error: health.last_error.map(|e| e.message).unwrap_or_default() })
    }

    /// The error for somebody who has waited through too long an outage.
    pub(super) fn outage_error(&self) -> Option<BlockError> {
        let OnOutage::FailAfter(limit) = self.tuning.on_outage else { return None };
        if let Some(outage) = self.outage().filter(|o| o.lasted >= limit) {
            return Some(BlockError::Store(format!("no answer for {} s: {}", outage.lasted.as_secs(), outage.error)));
        }
        // The store answers reads and refuses writes: that is an outage for whoever waits for a write.
        let oldest = self.log.lock().oldest_cut()?;
        let stuck = self.env.clock.now().saturating_sub(oldest);
        let last = self.store.health().last_error.map(|e| e.message).unwrap_or_default();
        (stuck >= limit).then(|| BlockError::Store(format!("writes have waited for {} s: {last}", stuck.as_secs())))
    }

    /// Remembers on this host that the log reached `seq`. A mark that cannot be written only makes a rollback harder to
    /// notice.
    pub(super) fn remember(&self, seq: u64) {
        if let Err(e) = self.high.save(Mark { epoch: self.epoch, seq }) {
            warn!(volume = self.info.name, error = %e, "cannot keep the local high-water mark");
        }
    }

    /// Bytes of data that are not durable yet.
    pub(super) fn unflushed_bytes(&self, log: &Pipeline) -> u64 {
        self.wakes.uncut() + log.bytes_in_flight
    }

    /// Completes when operation `op` is durable.
    pub(super) async fn durable(&self, op: u64) -> BlockResult<()> {
        if let Some(why) = self.failure() {
            return Err(why);
        }
        if self.durable_op.load(Ordering::Acquire) >= op {
            return Ok(());
        }
        let receiver = {
            let mut log = self.log.lock();
            if log.durable_op >= op {
                return Ok(());
            }
            let (sender, receiver) = oneshot::channel();
            log.wait_for(op, sender);
            receiver
        };
        self.cutter_wake.notify_one();
        // The failure may have come between the first look and the registration.
        if let Some(why) = self.failure() {
            return Err(why);
        }
        receiver.await.unwrap_or(Err(BlockError::ShuttingDown))
    }

    /// A key that must exist does not: somebody newer may own the volume and have deleted it.
    pub(super) async fn explain_missing(&self, key: &str) -> BlockError {
        // There is no epoch after the last one.
        let Some(epoch) = self.epoch.checked_add(1) else { return self.corrupt(key, "it does not exist".into()) };
        let next = format!("{}{:016x}", log_prefix(self.volume, epoch), 0);
        match self.store.get(&next, Cause::Read, self.patience()).await {
            Ok(_) => {
                reached(Branch::MissingExplainedByOpening);
                self.fail(BlockError::Fenced);
                BlockError::Fenced
            }
            Err(StoreError::NotFound { .. }) => self.corrupt(key, "it does not exist".into()),
            Err(e) => BlockError::Store(e.to_string()),
        }
    }

    /// Logs that an object is damaged, and makes the error.
    pub(super) fn corrupt(&self, key: &str, why: String) -> BlockError {
        error!(%key, volume = self.info.name, %why, "object is damaged or missing: reads that need it fail");
        self.note_error(format!("{key}: {why}"));
        BlockError::Corrupt { key: key.into(), why }
    }
}
