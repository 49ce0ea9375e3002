//! Why a volume cannot be attached, detached or deleted.

use std::path::PathBuf;

use esker_block::BlockError;
use thiserror::Error;

use crate::journal::RingError;
use crate::segment::SegmentError;
use crate::store::StoreError;

/// Why attaching failed. Nothing is lost by any of these; messages say what to do.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Somebody holds the volume, or may.
    #[error(
        "volume {volume} is in use by host {owner} (epoch {epoch}); if that host is gone for good, take the volume with --takeover: it is fenced then, and writes it has not flushed are lost"
    )]
    InUse {
        /// The volume's name.
        volume: String,
        /// The owner's host name.
        owner: String,
        /// The epoch it holds.
        epoch: u32,
    },
    /// Somebody else attached it at the same moment.
    #[error("volume {volume} was attached by host {winner} (epoch {epoch}) at the same moment; this attach gave way")]
    LostRace {
        /// The volume's name.
        volume: String,
        /// The winner's host name.
        winner: String,
        /// The epoch it holds.
        epoch: u32,
    },
    /// The volume has been deleted.
    #[error("volume {volume} has been deleted")]
    Deleted {
        /// The volume's name.
        volume: String,
    },
    /// The last owner ran on this boot of this host, and its journal is not there.
    #[error(
        "volume {volume}: its journal {path} is missing; it may hold writes that were acknowledged but not flushed, and its server may still run. If it is in another directory, name that with --journal-dir; to fence that server and go on without those writes, say --takeover --lose-journal"
    )]
    JournalMissing {
        /// The volume's name.
        volume: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The last owner's promises were kept by a local spool on another host.
    #[error(
        "volume {volume}: flushes of epoch {epoch} are durable in the spool of host {owner} only; start esker there first, or say --lose-journal with --takeover to lose what the bucket lacks"
    )]
    SpoolElsewhere {
        /// The volume's name.
        volume: String,
        /// The host.
        owner: String,
        /// The epoch.
        epoch: u32,
    },
    /// A journal that the newest opening does not name holds writes.
    #[error(
        "volume {volume}: the journal {path} holds {writes} acknowledged writes, some or all of which never reached the bucket, and the volume has been opened elsewhere since: they cannot be applied. To go on without them say --lose-journal; the file is kept aside"
    )]
    StrayJournal {
        /// The volume's name.
        volume: String,
        /// The ring file.
        path: PathBuf,
        /// Writes in it.
        writes: u64,
    },
    /// A journal does not fit the log that names it.
    #[error(
        "volume {volume}: the journal {path} does not fit the log: {why}. Nothing was lost; to go on without it say --lose-journal: the file is kept aside"
    )]
    JournalMismatch {
        /// The volume's name.
        volume: String,
        /// The ring file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// What the volume holds now is not, or may not be, what the device to be resumed has shown. Nothing was sealed, put
    /// or moved; trying again does not help.
    #[error("volume {volume} cannot go on under its device: {why}")]
    NotResumable {
        /// The volume's name.
        volume: String,
        /// Who opened it since and when, or what is wrong with which journal.
        why: String,
    },
    /// The bucket shows less than this host has seen, or was told to expect.
    #[error(
        "volume {volume}: the bucket shows {found}, but {expected} was seen before: the bucket, or a part of it, has been rolled back. If that is meant, remove {path}"
    )]
    RolledBack {
        /// The volume's name.
        volume: String,
        /// What is there.
        found: String,
        /// What must be.
        expected: String,
        /// Where the mark is kept.
        path: String,
    },
    /// The log is not what it must be.
    #[error("volume {volume}: object {key}: {why}; the volume is not attached")]
    Log {
        /// The volume's name.
        volume: String,
        /// The object.
        key: String,
        /// What is wrong.
        why: String,
        /// A living owner may have caused it by going on, and deleting, while the log was read: then it reads well anew.
        moved: bool,
    },
    /// An object does not open.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The journal cannot be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed while the opening was being put: it may be there, or land later.
    #[error(transparent)]
    Undecided(StoreError),
    /// A local file cannot be read or written.
    #[error("{path}: {source}")]
    Local {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The volume failed while it was being detached or deleted.
    #[error("volume {volume}: {source}")]
    Volume {
        /// The volume's name.
        volume: String,
        /// Why.
        source: BlockError,
    },
}

impl AttachError {
    /// Whether an opening by this attempt's writer may be there, now or later. If not, its id is as good as new.
    pub fn may_have_opened(&self) -> bool {
        matches!(self, AttachError::Undecided(_))
    }

    /// Whether the log may have changed while it was read, so that it has to be listed anew before this counts.
    pub(super) fn may_have_moved(&self) -> bool {
        match self {
            AttachError::Log { moved, .. } => *moved,
            AttachError::Store(StoreError::NotFound { .. }) => true,
            _ => false,
        }
    }

    /// Whether the same attach may succeed later, by itself or once the store is mended: the store is out of reach or
    /// refuses, the journal's last holder has not ended yet, or an opening of before landed late. Each try is judged anew.
    pub fn may_pass(&self) -> bool {
        match self {
            AttachError::LostRace { .. } | AttachError::Ring(RingError::Busy { .. }) => true,
            AttachError::Store(e) | AttachError::Undecided(e) => matches!(
                e,
                StoreError::Timeout { .. }
                    | StoreError::Other { .. }
                    | StoreError::Denied { .. }
                    | StoreError::NoSpace { .. }
                    | StoreError::NoSuchBucket { .. }
            ),
            _ => false,
        }
    }
}
