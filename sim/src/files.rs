//! The journal files of a host: what a crash leaves of them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A directory of journals.
pub struct Files(pub PathBuf);

/// What lay there at some moment.
pub struct Snapshot(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    fn list(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let mut all: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        all.sort();
        all
    }

    /// How the files are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.list().into_iter().filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect())
    }

    /// Makes the files what they were, in place: others may hold some of them.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), String> {
        for path in self.list().iter().filter(|p| !snapshot.0.iter().any(|(path, _)| path == *p)) {
            fs::remove_file(path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        for (path, bytes) in &snapshot.0 {
            let now = fs::read(path).unwrap_or_default();
            if now == *bytes {
                continue;
            }
            let write = || {
                let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
                file.set_len(bytes.len() as u64)?;
                file.write_all_at(bytes, 0)?;
                file.flush()
            };
            write().map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// Cuts all of them in half.
    ///
    /// # Errors
    /// One that cannot be cut.
    pub fn cut_all(&self) -> Result<(), String> {
        let cut = |path: &PathBuf| {
            let file = fs::OpenOptions::new().write(true).open(path)?;
            file.set_len(file.metadata()?.len() / 2)
        };
        self.list().iter().try_for_each(|path| cut(path).map_err(|e| format!("{}: {e}", path.display())))
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// One that cannot be removed.
    pub fn remove_all(&self) -> Result<(), String> {
        self.list().iter().try_for_each(|path| fs::remove_file(path).map_err(|e| format!("{}: {e}", path.display())))
    }
}
