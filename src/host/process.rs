//! Another process, held by a descriptor: its number cannot become somebody else's meanwhile.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that was there when this was opened.
#[derive(Debug)]
pub struct ProcessHandle {
    fd: OwnedFd,
}

impl ProcessHandle {
    /// The process of this number.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the number of a process"))?;
        Ok(Self { fd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// Where that is not allowed, or it has ended.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, Signal::KILL)?)
    }

    /// Blocks until it has ended, with all its files closed, `limit` at most; whether it has.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

/// When the process of this number began, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in brackets and may hold anything; what follows it begins with field 3.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_waited_for_and_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap();
        assert!(!handle.wait(Duration::from_millis(20)).unwrap());
        let (ours, its) = (process_start(std::process::id()).unwrap(), process_start(child.id()).unwrap());
        assert!(0 < ours && ours <= its && process_start(u32::MAX).is_none());
        handle.kill().unwrap();
        assert!(handle.wait(Duration::from_secs(30)).unwrap());
        child.wait().unwrap();
        assert!(handle.kill().is_err() && ProcessHandle::open(0).is_err());
    }
}
