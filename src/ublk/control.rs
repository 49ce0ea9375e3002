//! `/dev/ublk-control`: commands about whole devices, each with a time limit.
//!
//! The kernel carries these commands out in a worker of its own, and some wait for requests that the device's daemon
//! must answer. So none is given on a thread that serves requests, and none is waited for without a limit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use serde::Serialize;

use super::error::UblkError;
use super::features::Features;
use super::uapi::{self, CtrlCmd, DevInfo, Params};

/// The control device.
pub const CONTROL_PATH: &str = "/dev/ublk-control";
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a removed device's number may take to become free.
const FREED: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(2);
/// `ENOTSUPP` of `include/linux/errno.h`: what old kernels answer to commands they do not know.
const ENOTSUPP: i32 = 524;
/// A command that is about no queue.
const NO_QUEUE: u16 = u16::MAX;
/// Bytes of a CPU mask: room for 1,024 CPUs.
const CPU_MASK: usize = 128;

/// The state of a device, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Added, but not started; or stopped.
    Dead,
    /// Started, with a daemon (which may have died a moment ago).
    Live,
    /// Its daemon is gone; requests wait for the next one.
    Quiesced,
    /// Its daemon is gone; requests fail.
    FailIo,
    /// A number that has no name here.
    Unknown(u16),
}

/// A device, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceState {
    /// Its number.
    pub id: u32,
    /// Its state.
    pub state: State,
    /// The process that serves or served it.
    pub pid: i32,
    /// Its queues.
    pub queues: u16,
    /// Requests of one queue.
    pub depth: u16,
    /// Bytes of the largest read or write.
    pub max_io_bytes: u32,
    /// What it was made with.
    pub flags: Features,
    /// What its maker left with it (`ublksrv_flags`): [`super::TargetOptions::mark`].
    pub mark: u64,
}

impl From<DevInfo> for DeviceState {
    fn from(info: DevInfo) -> Self {
        let state = match info.state {
            uapi::S_DEV_DEAD => State::Dead,
            uapi::S_DEV_LIVE => State::Live,
            uapi::S_DEV_QUIESCED => State::Quiesced,
            uapi::S_DEV_FAIL_IO => State::FailIo,
            other => State::Unknown(other),
        };
        Self {
            id: info.dev_id,
            state,
            pid: info.ublksrv_pid,
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            max_io_bytes: info.max_io_buf_bytes,
            flags: Features(info.flags),
            mark: info.ublksrv_flags,
        }
    }
}

/// The control device, open. Its calls block, up to 30 seconds each: not for threads that serve requests.
#[derive(Debug, Clone)]
pub struct Control {
    file: Arc<File>,
    limit: Duration,
}

/// What a command carries besides its number.
#[derive(Default)]
struct Extra<T> {
    /// The inline word.
    data: u64,
    /// A structure that the kernel reads or writes; on the heap, since a command that timed out may still write it.
    body: Option<Box<T>>,
}

impl Control {
    /// Opens `/dev/ublk-control`.
    ///
    /// # Errors
    /// [`UblkError::NoUblk`] where it is missing, [`UblkError::Denied`] where it may not be opened.
    pub fn open() -> Result<Self, UblkError> {
        let file = OpenOptions::new().read(true).write(true).open(CONTROL_PATH);
        file.map(|file| Self { file: Arc::new(file), limit: LIMIT }).map_err(|e| open_error(Path::new(CONTROL_PATH), e))
    }

    /// The same, with calls that may take `limit` each instead of 30 seconds: for a process that does nothing else.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// What this kernel's ublk can do.
    ///
    /// # Errors
    /// [`UblkError::TooOld`] before Linux 6.5.
    pub fn features(&self) -> Result<Features, UblkError> {
        let extra = Extra { data: 0, body: Some(Box::new(0_u64)) };
        match self.run("asking for ublk's features", uapi::GET_FEATURES, u32::MAX, extra) {
            Ok((_, mask)) => Ok(Features(mask.map_or(0, |m| *m))),
            Err(UblkError::Command { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(UblkError::TooOld)
            }
            Err(e) => Err(e),
        }
    }

    /// The device of number `id`, if there is one.
    ///
    /// # Errors
    /// Where the kernel refuses to tell.
    pub fn info(&self, id: u32) -> Result<Option<DeviceState>, UblkError> {
        let extra = Extra { data: 0, body: Some(Box::new(DevInfo::default())) };
        match self.run(&format!("asking for ublk device {id}"), uapi::GET_DEV_INFO, id, extra) {
            Ok((_, info)) => Ok(info.map(|i| DeviceState::from(*i))),
            Err(UblkError::NoDevice(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes the block device away: buffered writes are written, waiting requests answered or, where no daemon is left,
    /// failed with EIO. The number stays taken until [`Control::delete`].
    ///
    /// # Errors
    /// [`UblkError::TimedOut`] where the daemon does not answer what is waiting.
    pub fn stop(&self, id: u32) -> Result<(), UblkError> {
        self.run(&format!("stopping /dev/ublkb{id}"), uapi::STOP_DEV, id, Extra::<u64>::default()).map(drop)
    }

    /// As [`Control::stop`], if nobody has the device open. Only for devices with
    /// [`Feature::SAFE_STOP_DEV`](super::Feature::SAFE_STOP_DEV).
    ///
    /// # Errors
    /// EBUSY in [`UblkError::Command`] where somebody has; those of [`Control::stop`].
    pub fn stop_unused(&self, id: u32) -> Result<(), UblkError> {
        self.run(&format!("stopping /dev/ublkb{id}"), uapi::TRY_STOP_DEV, id, Extra::<u64>::default()).map(drop)
    }

    /// Takes the device out of the kernel; stops it first if that was not done. Its number is free once the last who has
    /// it open lets go, a mounted filesystem for one: that is waited for a moment only.
    ///
    /// # Errors
    /// [`UblkError::NoDevice`]; before Linux 6.9 [`UblkError::TimedOut`] while somebody has it open.
    pub fn delete(&self, id: u32) -> Result<(), UblkError> {
        let what = format!("removing /dev/ublkb{id}");
        match self.run(&what, uapi::DEL_DEV_ASYNC, id, Extra::<u64>::default()) {
            Err(UblkError::Command { source, .. }) if is_unsupported(&source) => {
                self.run(&what, uapi::DEL_DEV, id, Extra::<u64>::default()).map(drop)
            }
            Err(e) => Err(e),
            Ok(_) => {
                let until = Instant::now() + FREED;
                while self.info(id)?.is_some() && Instant::now() < until {
                    std::thread::sleep(TICK);
                }
                Ok(())
            }
        }
    }

    /// Lets requests wait, and gives the daemon `limit` to answer those that it has; its threads end then.
    ///
    /// # Errors
    /// EBUSY in [`UblkError::Command`] where it did not; EOPNOTSUPP where the device was made without `QUIESCE`.
    pub fn quiesce(&self, id: u32, limit: Duration) -> Result<(), UblkError> {
        let data = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.run(&format!("quiescing /dev/ublkb{id}"), uapi::QUIESCE_DEV, id, Extra::<u64> { data, body: None })
            .map(drop)
    }

    /// Adds a device; the kernel fills in its number and the flags that it granted.
    pub(super) fn add(&self, info: DevInfo) -> Result<DevInfo, UblkError> {
        let id = info.dev_id;
        let extra = Extra { data: 0, body: Some(Box::new(info)) };
        match self.run("adding a ublk device", uapi::ADD_DEV, id, extra) {
            Ok((_, info)) => Ok(info.map_or(DevInfo::default(), |i| *i)),
            Err(UblkError::Command { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                Err(UblkError::Taken(id))
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn set_params(&self, id: u32, params: Params) -> Result<(), UblkError> {
        let extra = Extra { data: 0, body: Some(Box::new(params)) };
        self.run(&format!("describing ublk device {id}"), uapi::SET_PARAMS, id, extra).map(drop)
    }

    /// Starts a device whose queues have fetched.
    pub(super) fn start(&self, id: u32) -> Result<(), UblkError> {
        let extra = Extra::<u64> { data: u64::from(std::process::id()), body: None };
        self.run(&format!("starting /dev/ublkb{id}"), uapi::START_DEV, id, extra).map(drop)
    }

    pub(super) fn start_recovery(&self, id: u32) -> Result<(), UblkError> {
        self.run(&format!("recovering /dev/ublkb{id}"), uapi::START_USER_RECOVERY, id, Extra::<u64>::default())
            .map(drop)
    }

    pub(super) fn end_recovery(&self, id: u32) -> Result<(), UblkError> {
        let extra = Extra::<u64> { data: u64::from(std::process::id()), body: None };
        self.run(&format!("resuming /dev/ublkb{id}"), uapi::END_USER_RECOVERY, id, extra).map(drop)
    }

    /// The CPUs whose requests come to `queue`.
    pub(super) fn affinity(&self, id: u32, queue: u16) -> Result<Vec<usize>, UblkError> {
        let extra = Extra { data: u64::from(queue), body: Some(Box::new([0_u8; CPU_MASK])) };
        let (_, mask) =
            self.run(&format!("asking for the CPUs of ublk device {id}"), uapi::GET_QUEUE_AFFINITY, id, extra)?;
        let mask = mask.map_or([0; CPU_MASK], |m| *m);
        Ok((0..CPU_MASK * 8).filter(|cpu| mask[cpu / 8] & 1 << (cpu % 8) != 0).collect())
    }

    /// Gives one command and waits for it, for the limit at most. A ring of its own each time: commands are rare, and one
    /// that did not come back cannot be mistaken for the next.
    fn run<T>(&self, what: &str, op: u32, id: u32, extra: Extra<T>) -> Result<(i32, Option<Box<T>>), UblkError> {
        let failed = |source| UblkError::Command { what: what.into(), source };
        let mut body = extra.body;
        let addr = body.as_mut().map_or(0, |b| std::ptr::from_mut::<T>(b.as_mut()) as u64);
        let len = if body.is_some() { size_of::<T>() as u16 } else { 0 };
        let cmd = CtrlCmd { dev_id: id, queue_id: NO_QUEUE, len, addr, data: extra.data, ..CtrlCmd::default() };
        let mut ring: IoUring<squeue::Entry128, cqueue::Entry> = IoUring::builder().build(2).map_err(failed)?;
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), op).cmd(cmd.bytes()).build();
        // Safety: `body` is on the heap and lives until the command has come back, or for ever if it does not.
        unsafe { ring.submission().push(&entry) }.map_err(|e| failed(io::Error::other(e)))?;
        let deadline = Instant::now() + self.limit;
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = types::Timespec::from(left);
            match ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
                Ok(_) => {}
                // A signal, or the end of the time: both are settled below.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {}
                Err(e) => {
                    // It may have been submitted before: the kernel may still write there.
                    std::mem::forget(body);
                    return Err(failed(e));
                }
            }
            if let Some(entry) = ring.completion().next() {
                break entry.result();
            }
            if left.is_zero() {
                std::mem::forget(body);
                return Err(UblkError::TimedOut { what: what.into(), limit: self.limit });
            }
        };
        match answer {
            0.. => Ok((answer, body)),
            e if e == -libc::ENODEV => Err(UblkError::NoDevice(id)),
            e => Err(failed(io::Error::from_raw_os_error(-e))),
        }
    }
}

fn is_unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | ENOTSUPP))
}

/// The error for a device file that cannot be opened.
pub(super) fn open_error(path: &Path, e: io::Error) -> UblkError {
    let name = path.display().to_string();
    match e.kind() {
        io::ErrorKind::NotFound => UblkError::NoUblk { path: name },
        io::ErrorKind::PermissionDenied => UblkError::Denied { path: name },
        // The node is there, the driver is not.
        _ if e.raw_os_error() == Some(libc::ENXIO) => UblkError::NoUblk { path: name },
        _ if e.raw_os_error() == Some(libc::ENODEV) => UblkError::NoUblk { path: name },
        _ => UblkError::Command { what: format!("opening {name}"), source: e },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_says_why() {
        let say = |errno| open_error(Path::new("/dev/x"), io::Error::from_raw_os_error(errno)).to_string();
        assert!(say(libc::ENOENT).contains("modprobe ublk_drv"));
        assert!(say(libc::ENODEV).contains("modprobe ublk_drv"));
        assert!(say(libc::EACCES).contains("CAP_SYS_ADMIN"));
        assert!(say(libc::EMFILE).starts_with("opening /dev/x"));
    }

    #[test]
    fn states_have_names() {
        let state = |state| DeviceState::from(DevInfo { state, ..DevInfo::default() }).state;
        assert_eq!(
            [state(0), state(1), state(2), state(3)],
            [State::Dead, State::Live, State::Quiesced, State::FailIo]
        );
        assert_eq!(state(9), State::Unknown(9));
    }
}
