//! The place of journals: is it in memory, is there room, can it be swapped out.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::host::identity::is_tmpfs;
use crate::host::mounts;

/// What is known of the directory for journals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalFacts {
    /// The directory.
    pub path: PathBuf,
    /// It lies on a filesystem in memory.
    pub tmpfs: bool,
    /// That filesystem was mounted with `noswap` (Linux 6.4).
    pub noswap: bool,
    /// Bytes free there.
    pub free: u64,
    /// Bytes of a journal where nobody names a size.
    pub usual: u64,
}

impl JournalFacts {
    /// Of `dir`, or of the nearest directory above it that is there.
    ///
    /// # Errors
    /// Those of statvfs(2), and of reading `/proc/self/mountinfo`.
    pub fn gather(dir: &Path) -> io::Result<Self> {
        let path = std::path::absolute(dir)?;
        let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).canonicalize()?;
        let stat = rustix::fs::statvfs(&there)?;
        let mounts = mounts::parse(&std::fs::read("/proc/self/mountinfo")?);
        let noswap = mounts::covering(&mounts, &there).is_some_and(|m| m.has_flag("noswap"));
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Self { tmpfs: is_tmpfs(&there)?, noswap, free, usual: usual_journal_bytes(), path })
    }
}

/// Bytes of a journal where nobody names a size: 256 MiB, or 5 % of memory where that is less; whole pages.
pub fn usual_journal_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = u64::from(info.mem_unit).saturating_mul(info.totalram as u64);
    (memory / 20).min(256 << 20) & !0xfff
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let facts = JournalFacts::gather(Path::new("/dev/shm/not/there")).unwrap();
        assert!(facts.tmpfs && facts.free > 0);
        assert_eq!(facts.path, Path::new("/dev/shm/not/there"));
        assert!(!JournalFacts::gather(Path::new("/proc/self")).unwrap().tmpfs);
        let usual = usual_journal_bytes();
        assert!(usual > 0 && usual <= 256 << 20 && usual.is_multiple_of(4096));
    }
}
