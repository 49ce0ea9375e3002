//! The local high-water mark: what this host has seen of a volume, so that a rolled-back bucket is noticed.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::AttachError;
use super::options::AttachOptions;
use super::rings::hex;
use crate::pool::{Pool, VolumeRecord};

/// The newest that was surely in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    pub epoch: u32,
    /// A log object of that epoch.
    pub seq: u64,
}

/// Where one volume's mark is kept.
pub(super) struct HighWater {
    path: PathBuf,
}

impl HighWater {
    pub(super) fn new(pool: &Pool, volume: &VolumeRecord, options: &AttachOptions) -> Self {
        let name = format!("{:08x}.seen", volume.number);
        Self { path: options.state_dir.join(hex(pool.id())).join(name) }
    }

    fn local(&self, source: io::Error) -> AttachError {
        AttachError::Local { path: self.path.clone(), source }
    }

    /// What was seen before. To be read before the bucket is looked at: whoever writes a mark meanwhile has put more there.
    pub(super) fn load(&self) -> Result<Option<Mark>, AttachError> {
        match fs::read(&self.path) {
            // A mark that cannot be read says nothing; it is written anew by this attach.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.local(e)),
        }
    }

    /// Remembers `mark`, atomically.
    pub(super) fn save(&self, mark: Mark) -> Result<(), AttachError> {
        let write = || {
            let dir = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(dir)?;
            let temporary = self.path.with_extension("new");
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&mark)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|e| self.local(e))
    }

    /// Compares what the bucket shows with the mark of before, and with the epoch that the operator expects.
    pub(super) fn check(
        &self,
        volume: &VolumeRecord,
        seen: Option<Mark>,
        found: Option<Mark>,
        expect_epoch: Option<u32>,
    ) -> Result<(), AttachError> {
        let expected = expect_epoch.map(|epoch| Mark { epoch, seq: 0 });
        let Some(least) = seen.max(expected) else { return Ok(()) };
        if found >= Some(least) {
            return Ok(());
        }
        let show = |m: Mark| format!("epoch {} up to object {}", m.epoch, m.seq);
        Err(AttachError::RolledBack {
            volume: volume.name.clone(),
            found: found.map_or("nothing".into(), show),
            expected: show(least),
            path: self.path.display().to_string(),
        })
    }
}
