//! One device that this process serves, until it is removed or left to a successor.

use std::sync::Arc;
use std::time::Duration;

use esker_block::{BlockDevice, BlockResult};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::cli::compacting::{OnRequest, Tell};
use crate::cli::devices::{Kernel, ask_kernel};
use crate::cli::failure::{Doing, Exit, Failure, Outcome};
use crate::cli::size::show_size;
use crate::host::{DeviceRecord, HeldDevice, Stage};
use crate::ublk::{Target, UblkError};
use crate::volume::{Compacted, Volume};

/// How often somebody who waits is told how far it is.
const REPORT: Duration = Duration::from_secs(1);
/// How long a flush may take before a device is left behind. The journal has what it does not cover.
const LAST_FLUSH: Duration = Duration::from_secs(30);
/// How long requests under way may take before a device is left behind.
const LEAVE: Duration = Duration::from_secs(5);

/// Tells somebody how far it is.
pub type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// What is being done with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is served.
    Live,
    /// It is being removed.
    Removing,
    /// It is left for another process.
    Left,
    /// It is no more.
    Gone,
}

/// A live device.
pub struct Served {
    pub(super) held: HeldDevice,
    pub(super) record: Mutex<DeviceRecord>,
    pub(super) target: Arc<Target>,
    pub(super) volume: Mutex<Option<Arc<Volume>>>,
    pub(super) phase: Mutex<Phase>,
    /// Whether its removal is by force.
    pub(super) forced: watch::Sender<bool>,
    pub(super) requests: OnRequest,
}

impl Served {
    /// Holds what belongs together from now on.
    pub fn new(held: HeldDevice, record: DeviceRecord, target: Target, volume: Arc<Volume>) -> Self {
        let target = Arc::new(target);
        Self {
            held,
            record: Mutex::new(record),
            target,
            volume: Mutex::new(Some(volume)),
            phase: Mutex::new(Phase::Live),
            forced: watch::channel(false).0,
            requests: OnRequest::default(),
        }
    }

    /// N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.held.id()
    }

    /// Its record as it is now.
    pub fn record(&self) -> DeviceRecord {
        self.record.lock().clone()
    }

    /// What is being done with it.
    pub fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    /// Goes from one phase to the next; false where it was not in the first.
    pub fn step(&self, from: Phase, to: Phase) -> bool {
        let mut phase = self.phase.lock();
        let may = *phase == from;
        if may {
            *phase = to;
        }
        may
    }

    /// Resolves when the kernel no longer gives us its requests.
    pub async fn ended(&self) {
        self.target.ended().await;
    }

    /// Whether the kernel still has the device.
    pub fn kernel(&self) -> Kernel {
        ask_kernel(&self.record())
    }

    pub(super) fn name(&self) -> String {
        let record = self.record.lock();
        format!("{} (volume {})", record.path().display(), record.volume)
    }

    pub(super) fn set_stage(&self, stage: Stage) -> Outcome {
        let mut record = self.record.lock();
        record.stage = stage;
        self.held.store(&record).doing("device records")
    }

    /// Stops serving; the device stays, and whoever uses it waits for the next process.
    pub async fn leave(&self) -> Outcome {
        match self.flush_a_while(LAST_FLUSH).await {
            Some(Ok(())) => {}
            Some(Err(e)) => tracing::warn!("{}: flushing: {e}; the journal has what is not flushed", self.name()),
            None => tracing::warn!("{}: the store does not answer; the journal has what is not flushed", self.name()),
        }
        self.let_go().await
    }

    /// As [`Served::leave`], without the flush.
    pub async fn let_go(&self) -> Outcome {
        let target = self.target.clone();
        blocking(move || target.leave(LEAVE)).await.doing(self.name())
    }

    /// Compacts the volume now, in a task of its own.
    ///
    /// # Errors
    /// Where that is being done already, or the device is being removed; what the engine says.
    pub async fn compact(&self, tell: Tell) -> Outcome<Compacted> {
        let name = self.record().volume;
        let Some(volume) = self.volume.lock().clone() else {
            return Err(Failure::new(Exit::InUse, self.name(), "it is being removed"));
        };
        self.requests.compact(volume, &name, tell).await
    }

    /// Flushes; `None` where it takes longer than `limit`. What is flushed need not be sent by the successor.
    pub async fn flush_a_while(&self, limit: Duration) -> Option<BlockResult<()>> {
        let Some(volume) = self.volume.lock().clone() else { return Some(Ok(())) };
        timeout(limit, volume.flush()).await.ok()
    }

    pub(super) async fn reporting<T>(&self, work: impl Future<Output = T>, progress: Progress<'_>) -> T {
        let mut work = std::pin::pin!(work);
        let mut said = String::new();
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(REPORT) => {}
            }
            let backlog = self.backlog();
            if backlog != said {
                progress(backlog.clone());
                said = backlog;
            }
        }
    }

    fn backlog(&self) -> String {
        let Some(status) = self.volume.lock().as_ref().map(|v| v.status()) else { return self.name() };
        let left = show_size(status.unflushed_bytes);
        match status.outage_ms {
            Some(ms) => {
                format!("{}: {left} to write back; the store has not answered for {} s", self.name(), ms / 1000)
            }
            None => format!("{}: {left} to write back", self.name()),
        }
    }

    /// For `esker status`.
    pub fn status(&self) -> Value {
        let record = self.record();
        // Plain numbers and strings: this cannot fail, and status is no place to fail in.
        let volume = self.volume.lock().as_ref().map(|v| v.status());
        let mut status = serde_json::to_value(volume).unwrap_or(Value::Null);
        if let Some(fields) = status.as_object_mut() {
            fields.insert("attached".into(), json!(true));
            fields.insert("read_only".into(), json!(record.read_only));
            fields.insert("path".into(), json!(record.path()));
            fields.insert("links".into(), json!(record.links));
            fields.insert("stage".into(), json!(record.stage));
            fields.insert("device".into(), serde_json::to_value(self.target.status()).unwrap_or(Value::Null));
        }
        status
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, UblkError> + Send + 'static,
) -> Result<T, UblkError> {
    let crashed = |e| UblkError::Command { what: "a task".into(), source: std::io::Error::other(e) };
    spawn_blocking(job).await.map_err(crashed)?
}
