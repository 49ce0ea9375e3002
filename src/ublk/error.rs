//! Why a ublk device cannot be made, served or removed.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::features::Features;

/// Why something with a ublk device failed.
#[derive(Debug, Error)]
pub enum UblkError {
    /// The kernel has no ublk, or its module is not loaded.
    #[error(
        "{path} is not there: this kernel has no ublk, or its module is not loaded; try `modprobe ublk_drv`, or see `esker doctor`"
    )]
    NoUblk {
        /// The control device.
        path: String,
    },
    /// The device files may not be opened.
    #[error("{path}: permission denied; ublk devices need root (CAP_SYS_ADMIN), see `esker doctor`")]
    Denied {
        /// The file.
        path: String,
    },
    /// The kernel's ublk is too old to say what it can do.
    #[error("this kernel's ublk is too old: Linux 6.5 or newer is needed")]
    TooOld,
    /// A command came back with an error.
    #[error("{what}: {source}")]
    Command {
        /// What was asked, of which device.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A command did not come back in time. It may still take effect.
    #[error("{what}: the kernel did not answer within {} s", .limit.as_secs())]
    TimedOut {
        /// What was asked, of which device.
        what: String,
        /// How long we waited.
        limit: Duration,
    },
    /// There is no such device.
    #[error("there is no ublk device {0}")]
    NoDevice(u32),
    /// The number is taken.
    #[error("/dev/ublkb{0} is there already")]
    Taken(u32),
    /// The kernel withheld features without which a device would not survive its daemon.
    #[error(
        "the kernel did not grant {missing}: the device would not outlive this process, and a crash would lose \
         acknowledged writes; run as root (CAP_SYS_ADMIN), or pass --allow-unrecoverable"
    )]
    Withheld {
        /// What was not granted.
        missing: Features,
    },
    /// The volume cannot be what the kernel asks of a block device.
    #[error("{0}")]
    Unfit(String),
    /// The first or last blocks could not be read before the kernel was let at the device.
    #[error("the volume cannot be read: {0}; the device was not started, so that nothing waits for it")]
    Unreadable(String),
    /// A queue's thread could not start or go on.
    #[error("queue {queue} of ublk device {id}: {source}")]
    Queue {
        /// The device.
        id: u32,
        /// The queue.
        queue: u16,
        /// What the system said.
        source: io::Error,
    },
}

impl UblkError {
    /// Whether the kernel answered EBUSY: somebody has the device, which may pass.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Command { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }

    /// `outcome` of taking a device away: one that is gone already needs nothing more.
    ///
    /// # Errors
    /// All but [`UblkError::NoDevice`].
    pub fn gone_is_done(outcome: Result<(), Self>) -> Result<(), Self> {
        match outcome {
            Err(Self::NoDevice(_)) => Ok(()),
            other => other,
        }
    }
}
