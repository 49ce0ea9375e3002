//! A device from its making to its end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use esker_block::BlockDevice;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::control::{Control, DeviceState, open_error};
use super::error::UblkError;
use super::features::{CopyMode, Feature, Features};
use super::params::{MAX_IO, SECTOR, params};
use super::queue::Shared;
use super::serving::Serving;
use super::status::{Counters, TargetStatus};
use super::uapi::DevInfo;
use super::{block_path, char_path};

/// Most queues of a device; more than enough for one daemon.
pub const MAX_QUEUES: u16 = 64;
/// Most requests of one queue: the kernel's own bound.
pub const MAX_DEPTH: u16 = super::uapi::MAX_QUEUE_DEPTH as u16;
/// Most requests of one queue where each has a buffer of its own.
const MAX_DEPTH_WITH_BUFFERS: u16 = 32;
/// How long reading the device's ends may take before it is started.
const WARM_LIMIT: Duration = Duration::from_secs(30);
/// How long the character device may take to appear, or to be let go.
const NODE_LIMIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to notice a daemon's end, and threads to end.
const SETTLE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(10);

/// How a device is made.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// Its number; any free one where none is named.
    pub id: Option<u32>,
    /// Queues, each with a thread: 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Requests that each queue holds: 1 to [`MAX_DEPTH`]; 32 at most where each has a buffer of its own.
    pub depth: u16,
    /// How bytes get in and out; the kernel's best where nobody says.
    pub copy: Option<CopyMode>,
    /// Go on where the kernel does not grant recovery.
    pub allow_unrecoverable: bool,
    /// Kept by the kernel with the device ([`DeviceState::mark`]): tells it from other programs' devices.
    pub mark: u64,
}

/// A device that has a number and is not there yet for anybody else. Dropping it leaves it so.
#[derive(Debug)]
pub struct Added {
    control: Control,
    state: DeviceState,
}

/// A live device, served by threads of this process. Its calls block: not for threads that serve requests.
///
/// Dropping it stops nothing: the threads go on, until the process ends and the device waits for its recovery.
pub struct Target {
    control: Control,
    state: DeviceState,
    counters: Vec<Arc<Counters>>,
    serving: Mutex<Option<Serving>>,
    ended: watch::Receiver<usize>,
}

impl Added {
    /// Adds a device to the kernel.
    ///
    /// # Errors
    /// [`UblkError::Taken`], [`UblkError::Withheld`], or that there is no ublk here.
    pub fn add(options: &TargetOptions) -> Result<Self, UblkError> {
        let control = Control::open()?;
        let features = control.features()?;
        let copy = options.copy.unwrap_or_else(|| features.best_copy());
        let most = if copy == CopyMode::Kernel { MAX_DEPTH_WITH_BUFFERS } else { MAX_DEPTH };
        let wanted = features.wanted(copy);
        let info = control.add(DevInfo {
            nr_hw_queues: options.queues.clamp(1, MAX_QUEUES),
            queue_depth: options.depth.clamp(1, most),
            max_io_buf_bytes: MAX_IO as u32,
            dev_id: options.id.unwrap_or(u32::MAX),
            ublksrv_pid: std::process::id() as i32,
            flags: wanted.0,
            ublksrv_flags: options.mark,
            ..DevInfo::default()
        })?;
        let added = Self { control, state: info.into() };
        // Without CAP_SYS_ADMIN the kernel clears flags in silence.
        let missing = added.state.flags.missing(wanted);
        let bearable = if options.allow_unrecoverable { Features::RECOVERY } else { Features(0) };
        let fatal = bearable.missing(missing);
        if fatal != Features(0) {
            added.control.delete(added.id())?;
            return Err(UblkError::Withheld { missing: fatal });
        }
        Ok(added)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// Makes `/dev/ublkbN` appear, ready for I/O. A device that cannot be started is removed again.
    ///
    /// # Errors
    /// [`UblkError::Unreadable`] where its ends cannot be read: the kernel will look for partitions there, with locks
    /// held that removing a device needs.
    pub fn start(self, device: Arc<dyn BlockDevice>, runtime: Handle) -> Result<Target, UblkError> {
        let (control, id) = (self.control.clone(), self.id());
        self.try_start(device, runtime).inspect_err(|_| {
            if let Err(e) = control.delete(id) {
                tracing::error!("after a failed start: {e}");
            }
        })
    }

    fn try_start(self, device: Arc<dyn BlockDevice>, runtime: Handle) -> Result<Target, UblkError> {
        self.control.set_params(self.id(), params(device.info())?)?;
        warm(&*device, &runtime)?;
        let target = Target::serve(self.control, self.state, device, runtime, true)?;
        target.go_live(Control::start)
    }
}

impl Target {
    /// Takes over a device whose daemon is gone: what waited for it is answered by `device`.
    ///
    /// # Errors
    /// [`UblkError::NoDevice`], [`UblkError::Unfit`] where the sizes differ, EBUSY in [`UblkError::Command`] while the
    /// old daemon lives. The device goes on waiting after an error.
    pub fn recover(id: u32, device: Arc<dyn BlockDevice>, runtime: Handle) -> Result<Self, UblkError> {
        let control = Control::open()?;
        let state = control.info(id)?.ok_or(UblkError::NoDevice(id))?;
        same_size(id, device.info().size)?;
        begin_recovery(&control, id)?;
        let target = Self::serve(control, state, device, runtime, false)?;
        target.go_live(Control::end_recovery)
    }

    /// Starts the queues' threads. While the kernel looks for partitions on a device that is `starting`, reads have a time
    /// limit; what waited for a recovery has none.
    fn serve(
        control: Control,
        state: DeviceState,
        device: Arc<dyn BlockDevice>,
        runtime: Handle,
        starting: bool,
    ) -> Result<Self, UblkError> {
        let shared = Arc::new(Shared {
            id: state.id,
            depth: state.depth,
            copy: state.flags.copy_mode(),
            device,
            runtime,
            char: Arc::new(open_char(state.id)?),
            starting: AtomicBool::new(starting),
            leaving: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        });
        let (serving, ended) = Serving::begin(&control, &state, shared)?;
        let counters = serving.threads.iter().map(|t| t.counters.clone()).collect();
        Ok(Self { control, state, counters, serving: Mutex::new(Some(serving)), ended })
    }

    /// Gives the command after which requests come. Where it fails the threads let go of the device, so that it can be
    /// removed or recovered.
    fn go_live(self, command: impl FnOnce(&Control, u32) -> Result<(), UblkError>) -> Result<Self, UblkError> {
        let answer = command(&self.control, self.id());
        let mut serving = self.serving.lock();
        if let Err(e) = answer {
            if let Some(live) = serving.take() {
                live.leave(SETTLE)?;
            }
            return Err(e);
        }
        if let Some(live) = &*serving {
            live.shared.starting.store(false, Ordering::Release);
        }
        drop(serving);
        Ok(self)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// Its path, `/dev/ublkbN`.
    pub fn path(&self) -> PathBuf {
        block_path(self.state.id)
    }

    /// Answers every request with EIO from now on, also those that wait: whoever takes the device away need not wait for
    /// the store then. There is no way back.
    pub fn fail(&self) {
        if let Some(serving) = &*self.serving.lock() {
            serving.fail();
        }
    }

    /// Whether the kernel keeps the device, and its users waiting, when nobody serves it.
    pub fn is_recoverable(&self) -> bool {
        self.state.flags.contains(Feature::USER_RECOVERY)
    }

    /// Ends the threads of a device that was stopped, and closes it, so that it can be deleted.
    ///
    /// Stopping is not done here: it waits for requests that this process answers. A thread that waits in the kernel for
    /// its own process keeps that process from ending when it is killed, and the device from being recovered.
    ///
    /// # Errors
    /// [`UblkError::TimedOut`] where a thread does not end.
    pub fn finish(&self) -> Result<(), UblkError> {
        let serving = self.serving.lock().take();
        serving.map_or(Ok(()), |serving| serving.join(SETTLE))
    }

    /// Stops serving without removing the device: it waits for [`Target::recover`], and so do its users. Where the
    /// kernel can, requests that are with us are answered first, for `limit`; others are given to the successor.
    ///
    /// # Errors
    /// Where a thread does not end; the process must end then, before anybody goes on with the volume.
    pub fn leave(&self, limit: Duration) -> Result<(), UblkError> {
        let Some(serving) = self.serving.lock().take() else { return Ok(()) };
        if self.state.flags.contains(Feature::QUIESCE)
            && let Err(e) = self.control.quiesce(self.id(), limit)
        {
            tracing::info!("{e}; what is under way goes to the successor");
        }
        serving.leave(limit.max(SETTLE))
    }

    /// Resolves when a thread has ended: the device was stopped, by whomever, or cannot be served any more.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error says that all threads are gone.
        drop(ended.wait_for(|n| *n > 0).await);
    }

    /// How it is served, and what its queues have done.
    pub fn status(&self) -> TargetStatus {
        TargetStatus {
            id: self.state.id,
            depth: self.state.depth,
            copy: self.state.flags.copy_mode(),
            features: self.state.flags.names(),
            queues: self.counters.iter().map(|c| (&**c).into()).collect(),
        }
    }
}

/// Reads both ends of the device into memory: there the kernel looks for partitions.
fn warm(device: &dyn BlockDevice, runtime: &Handle) -> Result<(), UblkError> {
    let size = device.info().size;
    let len = size.min(MAX_IO as u64);
    let ends = async {
        let first = device.read(0, len as usize, BytesMut::with_capacity(len as usize));
        let last = device.read(size - len, len as usize, BytesMut::with_capacity(len as usize));
        futures::future::try_join(first, last).await
    };
    match runtime.block_on(async { tokio::time::timeout(WARM_LIMIT, ends).await }) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(UblkError::Unreadable(e.to_string())),
        Err(_) => Err(UblkError::Unreadable(format!("no answer within {} s", WARM_LIMIT.as_secs()))),
    }
}

/// Opens the character device. Its node appears a moment after the device was added, and for a moment after a daemon's
/// death it is still held.
fn open_char(id: u32) -> Result<File, UblkError> {
    let path = char_path(id);
    let open = || OpenOptions::new().read(true).write(true).open(&path).map_err(|e| open_error(&path, e));
    let passing = |e: &UblkError| match e {
        UblkError::NoUblk { .. } | UblkError::Denied { .. } => true,
        other => other.is_busy(),
    };
    retry(NODE_LIMIT, open, passing)
}

/// Tells the kernel that a new daemon takes the device; it refuses until it has noticed the end of the old one.
fn begin_recovery(control: &Control, id: u32) -> Result<(), UblkError> {
    retry(SETTLE, || control.start_recovery(id), UblkError::is_busy)
}

fn retry<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, UblkError>,
    passing: impl Fn(&UblkError) -> bool,
) -> Result<T, UblkError> {
    let until = Instant::now() + limit;
    loop {
        match attempt() {
            Err(e) if passing(&e) && Instant::now() < until => std::thread::sleep(TICK),
            outcome => return outcome,
        }
    }
}

/// The kernel keeps a device's size across recovery; a volume of another size is not what it shows.
fn same_size(id: u32, volume: u64) -> Result<(), UblkError> {
    let file = format!("/sys/block/ublkb{id}/size");
    let failed = |source| UblkError::Command { what: format!("reading {file}"), source };
    let text = fs::read_to_string(&file).map_err(failed)?;
    let sectors: u64 = text.trim().parse().map_err(|e| failed(io::Error::other(e)))?;
    if sectors.checked_mul(SECTOR) == Some(volume) {
        return Ok(());
    }
    Err(UblkError::Unfit(format!(
        "/dev/ublkb{id} has {sectors} sectors, the volume {volume} bytes: it was resized since"
    )))
}
