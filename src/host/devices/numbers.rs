//! Which number a volume's device had last, so that it gets it again, across restarts and boots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::identity::make_private_dir;

/// Remembered numbers: `<state directory>/devices/<pool>-<volume number>` holds one each.
#[derive(Debug, Clone)]
pub struct Numbers {
    dir: PathBuf,
}

impl Numbers {
    /// Those below `state`.
    pub fn below(state: &Path) -> Self {
        Self { dir: state.join("devices") }
    }

    /// The number that the volume's device had last. What cannot be read counts as nothing: it is a preference.
    pub fn last(&self, pool: &str, number: u32) -> Option<u32> {
        fs::read_to_string(self.path(pool, number)).ok()?.trim().parse().ok()
    }

    /// Remembers `id`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn remember(&self, pool: &str, number: u32, id: u32) -> io::Result<()> {
        if self.last(pool, number) == Some(id) {
            return Ok(());
        }
        make_private_dir(&self.dir)?;
        let path = self.path(pool, number);
        let temporary = path.with_extension(format!("new.{}", std::process::id()));
        fs::write(&temporary, format!("{id}\n"))?;
        fs::rename(&temporary, &path)
    }

    fn path(&self, pool: &str, number: u32) -> PathBuf {
        self.dir.join(format!("{pool}-{number:08x}"))
    }
}
