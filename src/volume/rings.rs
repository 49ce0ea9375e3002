//! The journal files of a volume on this host: which may be adopted, which must not be forgotten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::error::AttachError;
use super::options::AttachOptions;
use crate::journal::{MlockPolicy, Ring, RingError, RingOptions, RingSpec};
use crate::pool::{Pool, VolumeRecord};
use crate::probe::{Branch, reached};

/// Lowercase hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The journal directory, as far as one volume is concerned.
pub(super) struct Rings<'a> {
    pub pool: &'a Pool,
    pub volume: &'a VolumeRecord,
    pub options: &'a AttachOptions,
}

/// What stands where a named ring should be.
pub(super) enum Named {
    /// Ours now: its lock is held.
    Held(Box<Ring>),
    /// A living process has it.
    Busy,
    /// No such file.
    Missing(PathBuf),
    /// It cannot be used, and the operator said to go on without it: it was put aside.
    GivenUp,
}

impl Rings<'_> {
    fn prefix(&self) -> String {
        format!("{}-{:08x}-", hex(&self.pool.id()[..8]), self.volume.number)
    }

    pub(super) fn path(&self, ring: &[u8; 16]) -> PathBuf {
        self.options.journal_dir.join(format!("{}{}.ring", self.prefix(), hex(ring)))
    }

    fn ring_options(&self) -> RingOptions {
        RingOptions { mlock: MlockPolicy::Try, require_tmpfs: self.options.require_tmpfs }
    }

    /// The ring that an opening names.
    pub(super) fn named(&self, ring: &[u8; 16]) -> Result<Named, AttachError> {
        let path = self.path(ring);
        match Ring::open(&path, &self.ring_options()) {
            Ok(found) => {
                let (pool, volume) = (found.pool(), found.volume());
                if pool != *self.pool.id() || volume != self.volume.number || found.id() != *ring {
                    if self.options.lose_journal {
                        put_aside(&path)?;
                        return Ok(Named::GivenUp);
                    }
                    return Err(self.mismatch(path, "it belongs to another pool or volume".into()));
                }
                Ok(Named::Held(Box::new(found)))
            }
            Err(RingError::Busy { .. }) => Ok(Named::Busy),
            Err(RingError::NotFound { .. }) => Ok(Named::Missing(path)),
            Err(e) if self.options.lose_journal && unusable(&e) => {
                put_aside(&path)?;
                Ok(Named::GivenUp)
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn mismatch(&self, path: PathBuf, why: String) -> AttachError {
        AttachError::JournalMismatch { volume: self.volume.name.clone(), path, why }
    }

    /// A new ring whose first operation follows `last_op`.
    pub(super) fn create(&self, ring: [u8; 16], last_op: u64) -> Result<Ring, AttachError> {
        let dir = &self.options.journal_dir;
        fs::create_dir_all(dir).map_err(|source| AttachError::Local { path: dir.clone(), source })?;
        let spec = RingSpec {
            pool: *self.pool.id(),
            volume: self.volume.number,
            ring,
            bytes: self.options.journal_bytes,
            first_op: last_op + 1,
        };
        Ok(Ring::create(&self.path(&ring), &spec, &self.ring_options())?)
    }

    /// Looks at the volume's other journals. One with writes in it is refused, or put aside where the operator said
    /// `--lose-journal`; one that a living process holds belongs to a fenced owner. Where a device is resumed none is in the
    /// way: its content never had those writes, and the next plain attach tells of them. Answers the empty ones: an opening of
    /// ours that is still on its way may name one, so they go only once the volume is ours.
    pub(super) fn settle_strays(&self, named: Option<&[u8; 16]>) -> Result<Vec<PathBuf>, AttachError> {
        let keep = named.map(|r| self.path(r));
        let mut empty = Vec::new();
        for path in self.files()? {
            if Some(&path) == keep.as_ref() {
                continue;
            }
            let summary = match Ring::inspect(&path) {
                Ok(summary) => summary,
                Err(RingError::NotFound { .. }) => continue,
                Err(e) if self.options.resume.is_some() => {
                    warn!(path = %path.display(), error = %e, "another journal of this volume is left as it is");
                    continue;
                }
                Err(e) if self.options.lose_journal && unusable(&e) => {
                    put_aside(&path)?;
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            if summary.busy {
                warn!(path = %path.display(), "another process still holds a journal of this volume: it is fenced");
            } else if summary.records == 0 {
                empty.push(path);
            } else if self.options.resume.is_some() {
                let writes = summary.records;
                warn!(path = %path.display(), writes, "another journal of this volume is left as it is");
            } else if self.options.lose_journal {
                put_aside(&path)?;
            } else {
                reached(Branch::StrayRefused);
                let volume = self.volume.name.clone();
                return Err(AttachError::StrayJournal { volume, path, writes: summary.records });
            }
        }
        Ok(empty)
    }

    fn files(&self) -> Result<Vec<PathBuf>, AttachError> {
        let dir = &self.options.journal_dir;
        let local = |source| AttachError::Local { path: dir.clone(), source };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(local(e)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(local)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&self.prefix()) && name.ends_with(".ring") {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Whether a ring file is beyond use, whatever is tried.
pub(super) fn unusable(e: &RingError) -> bool {
    matches!(e, RingError::NotARing { .. } | RingError::Version { .. } | RingError::Damaged { .. })
}

/// Keeps a journal that was given up, under another name.
pub(super) fn put_aside(path: &Path) -> Result<(), AttachError> {
    reached(Branch::StrayPutAside);
    let aside = path.with_extension("lost");
    fs::rename(path, &aside).map_err(|source| AttachError::Local { path: path.into(), source })?;
    warn!(path = %aside.display(), "a journal with acknowledged writes was given up and kept aside");
    Ok(())
}

/// Removes a journal that is still empty and nobody's.
pub(super) fn remove_empty(path: &Path) {
    if !matches!(Ring::inspect(path), Ok(summary) if !summary.busy && summary.records == 0) {
        return;
    }
    match fs::remove_file(path) {
        Ok(()) => {
            reached(Branch::StrayEmptyRemoved);
            info!(path = %path.display(), "removed an empty journal");
        }
        Err(e) => warn!(path = %path.display(), error = %e, "cannot remove an empty journal"),
    }
}
