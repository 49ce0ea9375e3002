//! One device that this process serves, until it is removed or left to a successor.

use std::sync::Arc;
use std::time::Duration;

use esker_block::BlockDevice;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::devices::{Kernel, ask_kernel, unlink_all};
use crate::cli::failure::{Doing, Exit, Failure, HasExit, Outcome};
use crate::cli::size::show_size;
use crate::host::{DeviceRecord, DeviceUser, HeldDevice, HostTree, Stage, describe_users, is_held_by_kernel, users_of};
use crate::ublk::{Target, UblkError};
use crate::volume::Volume;

/// How often somebody who waits is told how far it is.
const REPORT: Duration = Duration::from_secs(1);
/// How long what is buffered may take to reach the store where a device goes by force.
const FORCED: Duration = Duration::from_secs(30);
/// How long a flush may take before a device is left behind. The journal has what it does not cover.
const LAST_FLUSH: Duration = Duration::from_secs(30);
/// How long requests under way may take before a device is left behind.
const LEAVE: Duration = Duration::from_secs(5);
/// How long a look at who uses a device may take: it opens it.
const LOOK: Duration = Duration::from_secs(5);
/// How long a passing look at the device, such as udev's, is waited for.
const PASSING: Duration = Duration::from_secs(2);

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
    held: HeldDevice,
    record: Mutex<DeviceRecord>,
    target: Arc<Target>,
    volume: Arc<Volume>,
    phase: Mutex<Phase>,
}

impl Served {
    /// Holds what belongs together from now on.
    pub fn new(held: HeldDevice, record: DeviceRecord, target: Target, volume: Arc<Volume>) -> Self {
        let target = Arc::new(target);
        Self { held, record: Mutex::new(record), target, volume, phase: Mutex::new(Phase::Live) }
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

    fn name(&self) -> String {
        let record = self.record.lock();
        format!("{} (volume {})", record.path().display(), record.volume)
    }

    fn set_stage(&self, stage: Stage) -> Outcome {
        let mut record = self.record.lock();
        record.stage = stage;
        self.held.store(&record).doing("device records")
    }

    /// Who uses the device. A look that hangs counts as a use: something waits there.
    pub async fn users(&self) -> Vec<DeviceUser> {
        let name = self.record.lock().name();
        let until = Instant::now() + PASSING;
        loop {
            let users = look_for_users(name.clone()).await;
            // udev and the like open every device for a moment.
            let passing = users.iter().all(|u| matches!(u, DeviceUser::Process { .. }));
            if users.is_empty() || !passing || Instant::now() >= until {
                return users;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Writes everything back and removes the device: kernel, links, record; the volume is given back. To be called in
    /// phase `Removing`. By force it is removed at once, whoever uses it, and what the store does not take within a
    /// while stays in the journal.
    ///
    /// # Errors
    /// `InUse` where somebody uses it and it is not by force: then it is served on. Others where writing back failed.
    pub async fn remove(&self, force: bool, progress: Progress<'_>) -> Outcome {
        let outcome = self.take_away(force, progress).await;
        if outcome.is_err() && self.kernel() == Kernel::Live {
            self.set_stage(Stage::Live)?;
            self.step(Phase::Removing, Phase::Live);
            return outcome;
        }
        outcome?;
        let detached = self.give_back(force, progress).await;
        self.forget()?;
        detached
    }

    /// The device goes from the kernel.
    async fn take_away(&self, force: bool, progress: Progress<'_>) -> Outcome {
        if !force {
            let users = self.users().await;
            if !users.is_empty() {
                return Err(Failure::new(Exit::InUse, self.name(), format!("it is {}", describe_users(&users))));
            }
        }
        self.set_stage(Stage::Removing)?;
        let target = self.target.clone();
        let synced = self.reporting(blocking(move || target.sync()), progress);
        match (force, if force { timeout(FORCED, synced).await.unwrap_or(Ok(())) } else { synced.await }) {
            (false, Err(e)) => return Err(e).doing(format_args!("{}; --force removes it all the same", self.name())),
            (true, Err(e)) => tracing::warn!("{}: {e}", self.name()),
            (_, Ok(())) => {}
        }
        loop {
            let target = self.target.clone();
            match self.reporting(blocking(move || target.stop()), progress).await {
                Ok(()) => return Ok(()),
                // Requests wait for the store; the device is served on meanwhile.
                Err(e @ UblkError::TimedOut { .. }) if !force => progress(e.to_string()),
                Err(e) => return Err(e).doing(self.name()),
            }
        }
    }

    /// The volume is given back.
    async fn give_back(&self, force: bool, progress: Progress<'_>) -> Outcome {
        let detaching = self.reporting(self.volume.detach(), progress);
        let outcome = if force {
            match timeout(FORCED, detaching).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let why =
                        "the store does not answer; what it lacks stays in the journal, and the next attach sends it";
                    return Err(Failure::new(Exit::Store, format_args!("{}: removed", self.name()), why));
                }
            }
        } else {
            detaching.await
        };
        outcome.map_err(|e| {
            let why = format!("{e}; what the store lacks stays in the journal");
            Failure::new(e.exit(), format_args!("{}: removed, but not written back", self.name()), why)
        })
    }

    /// Links and record go; there is nothing left to find.
    fn forget(&self) -> Outcome {
        let record = self.record();
        self.step(Phase::Removing, Phase::Gone);
        unlink_all(&record);
        self.held.forget().doing("device records")
    }

    /// After somebody else took the device away: what it wrote is written back.
    pub async fn clear_up(&self, progress: Progress<'_>) -> Outcome {
        let detached = self.give_back(false, progress).await;
        self.forget()?;
        detached
    }

    /// Stops serving; the device stays, and whoever uses it waits for the next process.
    pub async fn leave(&self) -> Outcome {
        match timeout(LAST_FLUSH, self.volume.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("{}: flushing: {e}; the journal has what is not flushed", self.name()),
            Err(_) => tracing::warn!("{}: the store does not answer; the journal has what is not flushed", self.name()),
        }
        self.let_go().await
    }

    /// As [`Served::leave`], without the flush.
    pub async fn let_go(&self) -> Outcome {
        let target = self.target.clone();
        blocking(move || target.leave(LEAVE)).await.doing(self.name())
    }

    /// Flushes, for a while at most: what is flushed need not be sent by the successor.
    pub async fn flush_a_while(&self, limit: Duration) {
        // Only to have less to do later.
        drop(timeout(limit, self.volume.flush()).await);
    }

    async fn reporting<T>(&self, work: impl Future<Output = T>, progress: Progress<'_>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(REPORT) => progress(self.backlog()),
            }
        }
    }

    fn backlog(&self) -> String {
        let status = self.volume.status();
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
        let mut status = serde_json::to_value(self.volume.status()).unwrap_or(Value::Null);
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

/// Who uses the block device `name`. A look that hangs counts as a use: something waits there.
pub async fn look_for_users(name: String) -> Vec<DeviceUser> {
    let looking = spawn_blocking(move || {
        let tree = HostTree::default();
        let mut users = users_of(&tree, &name);
        let shown = users.iter().any(|u| !matches!(u, DeviceUser::Process { .. }));
        if !shown && is_held_by_kernel(&tree, &name) {
            users.push(DeviceUser::Kernel);
        }
        users
    });
    match timeout(LOOK, looking).await {
        Ok(Ok(users)) => users,
        _ => vec![DeviceUser::Kernel],
    }
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, UblkError> + Send + 'static,
) -> Result<T, UblkError> {
    let crashed = |e| UblkError::Command { what: "a task".into(), source: std::io::Error::other(e) };
    spawn_blocking(job).await.map_err(crashed)?
}
