//! Why a ring could not be made or opened, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a ring could not be made, opened or inspected. Messages name the file and what to do.
#[derive(Debug, Error)]
pub enum RingError {
    /// Another process (or another attachment in this one) holds the ring.
    #[error("the journal {path} is in use by another process")]
    Busy {
        /// The ring file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("there is no journal at {path}")]
    NotFound {
        /// The ring file.
        path: PathBuf,
    },
    /// A file of that name is there already; it may hold acknowledged writes, so it is never overwritten.
    #[error("a file is already at {path}; it may hold acknowledged writes and is left alone")]
    Exists {
        /// The ring file.
        path: PathBuf,
    },
    /// The file system has no room for the whole ring.
    #[error("no room for a journal of {want} bytes at {path}: enlarge that file system or choose a smaller journal")]
    NoSpace {
        /// The ring file.
        path: PathBuf,
        /// Bytes the file needs in all.
        want: u64,
    },
    /// The directory is not on tmpfs: plaintext must not reach a disk.
    #[error("{path} is not on tmpfs; the journal holds plaintext and must stay in memory (use a directory below /run)")]
    NotTmpfs {
        /// The ring file.
        path: PathBuf,
    },
    /// The ring's memory could not be locked and the policy requires it.
    #[error("cannot lock the journal's {bytes} bytes in memory ({source}): raise LimitMEMLOCK or grant CAP_IPC_LOCK")]
    Mlock {
        /// Bytes to lock.
        bytes: u64,
        /// What mlock said.
        source: io::Error,
    },
    /// The size asked for is outside what a ring can have.
    #[error("a journal of {bytes} bytes is not possible: it takes {min} to {max} bytes")]
    Size {
        /// Bytes asked for.
        bytes: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The file is not a ring, or was cut off.
    #[error("{path} is not an esker journal: {why}")]
    NotARing {
        /// The ring file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A newer esker wrote the ring.
    #[error("the journal {path} has format version {found}; this esker reads versions up to {newest}: use a newer one")]
    Version {
        /// The ring file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version known here.
        newest: u16,
    },
    /// The ring holds what no crash of esker can leave behind: memory or file damage. Nothing of it is adopted.
    #[error("the journal {path} is damaged near operation {op}: {why}; its unflushed writes cannot be trusted")]
    Damaged {
        /// The ring file.
        path: PathBuf,
        /// The operation number at which it was noticed.
        op: u64,
        /// What was found.
        why: &'static str,
    },
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The ring file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an operation was not put in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// No room now: wait until space has been freed.
    #[error("the journal is full")]
    Full,
    /// The operation is empty, too long, or beyond the address space. Waiting will not help.
    #[error("invalid journal record: {0}")]
    Invalid(&'static str),
}
