//! How a command fails: one line that says what, why and what to do, and an exit code that scripts can tell apart.

use std::fmt;
use std::process::ExitCode;

use esker_block::BlockError;

use crate::host::{ControlError, DevicesError, SocketError, StackedError};
use crate::journal::RingError;
use crate::pool::PoolError;
use crate::store::StoreError;
use crate::ublk::UblkError;
use crate::volume::AttachError;

/// Exit codes, as `esker --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something else failed.
    Failure = 1,
    /// The command line, or a value on it, is wrong.
    Usage = 2,
    /// The password does not open the pool.
    WrongPassword = 3,
    /// The store cannot be reached, refuses, or cannot hold a pool.
    Store = 4,
    /// The volume is in use elsewhere, or was taken over.
    InUse = 5,
    /// There is no such volume, pool or bucket.
    NotFound = 6,
    /// Something in the pool is damaged.
    Damaged = 7,
}

impl Exit {
    /// The code of another process of ours.
    pub fn of_code(code: u8) -> Self {
        [Self::Usage, Self::WrongPassword, Self::Store, Self::InUse, Self::NotFound, Self::Damaged]
            .into_iter()
            .find(|e| *e as u8 == code)
            .unwrap_or(Self::Failure)
    }
}

/// The paragraph on exit codes in the help.
pub const EXIT_CODES: &str = "EXIT CODES:\n  \
    0  success\n  \
    1  failure\n  \
    2  wrong usage\n  \
    3  wrong password\n  \
    4  the store cannot be reached or refuses\n  \
    5  the volume is in use elsewhere, or was taken over\n  \
    6  no such volume, pool or bucket\n  \
    7  damage was found (scrub, fsck)";

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    text: String,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// `what` was being done or looked at, and `why` it failed, with what to do after a semicolon.
    pub fn new(exit: Exit, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        let (what, why) = (what.to_string(), why.to_string());
        // Messages of stores and volumes begin with what they are about.
        let text = if why.starts_with(&what) { why } else { format!("{what}: {why}") };
        Self { exit, text }
    }

    /// A failure without an exit code of its own.
    pub fn plain(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Exit::Failure, what, why)
    }

    /// The code that the process ends with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Errors that know their exit code.
pub trait HasExit {
    /// The code.
    fn exit(&self) -> Exit;
}

impl HasExit for StoreError {
    fn exit(&self) -> Exit {
        match self {
            StoreError::Config(_) => Exit::Usage,
            StoreError::NoSuchBucket { .. } | StoreError::NotFound { .. } => Exit::NotFound,
            _ => Exit::Store,
        }
    }
}

impl HasExit for PoolError {
    fn exit(&self) -> Exit {
        match self {
            PoolError::Store(e) => e.exit(),
            PoolError::WrongPassword => Exit::WrongPassword,
            PoolError::NotAPool(_) | PoolError::NoSuchVolume(_) => Exit::NotFound,
            PoolError::EmptyPassword
            | PoolError::Argon2(_)
            | PoolError::Name(_)
            | PoolError::Size(_)
            | PoolError::BlockSize(_) => Exit::Usage,
            _ => Exit::Failure,
        }
    }
}

impl HasExit for AttachError {
    fn exit(&self) -> Exit {
        match self {
            AttachError::InUse { .. }
            | AttachError::LostRace { .. }
            | AttachError::JournalMissing { .. }
            | AttachError::NotResumable { .. }
            | AttachError::Ring(RingError::Busy { .. }) => Exit::InUse,
            AttachError::Deleted { .. } => Exit::NotFound,
            AttachError::Ring(RingError::Size { .. }) => Exit::Usage,
            AttachError::Store(e) | AttachError::Undecided(e) => e.exit(),
            AttachError::Volume { source, .. } => source.exit(),
            _ => Exit::Failure,
        }
    }
}

impl HasExit for BlockError {
    fn exit(&self) -> Exit {
        match self {
            BlockError::Fenced => Exit::InUse,
            BlockError::Store(_) => Exit::Store,
            _ => Exit::Failure,
        }
    }
}

impl HasExit for StackedError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

impl HasExit for ControlError {
    fn exit(&self) -> Exit {
        match self {
            ControlError::Stale(_) => Exit::NotFound,
            ControlError::Io { source, .. } => source.exit(),
            ControlError::Refused(refusal) => Exit::of_code(refusal.exit),
            ControlError::Answer { .. } => Exit::Failure,
        }
    }
}

impl HasExit for SocketError {
    fn exit(&self) -> Exit {
        Exit::Failure
    }
}

impl HasExit for DevicesError {
    fn exit(&self) -> Exit {
        Exit::Failure
    }
}

impl HasExit for UblkError {
    fn exit(&self) -> Exit {
        match self {
            UblkError::NoDevice(_) => Exit::NotFound,
            UblkError::Taken(_) => Exit::InUse,
            UblkError::Unreadable(_) => Exit::Store,
            _ => Exit::Failure,
        }
    }
}

impl HasExit for std::io::Error {
    fn exit(&self) -> Exit {
        match self.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        }
    }
}

/// Turns a room's error into a [`Failure`] that says what was being done.
pub trait Doing<T> {
    /// `what`: the thing it was done to, such as a URL or a volume's name.
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: HasExit + fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|e| Failure::new(e.exit(), what, &e))
    }
}
