//! What `object_store` leaves undone for a directory: directory entries made durable, listing in order, and a
//! directory that is no longer the one that was opened (an unmounted disk).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;

use super::error::StoreError;
use super::list::Listed;

/// Directories remembered as durable; forgetting one costs an fsync.
const SETTLED_MAX: usize = 4096;

/// The directory of a `file://` store. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalDir {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// Device and inode of the root when it was opened.
    identity: (u64, u64),
    /// Directories whose own entries, up to the root, were fsynced by this process.
    settled: Mutex<HashSet<PathBuf>>,
}

impl LocalDir {
    /// Opens the directory, making it first if `create` says so.
    pub(super) fn open(path: &Path, create: bool) -> Result<LocalDir, StoreError> {
        let missing = |e: io::Error| {
            let (url, why) = (format!("file://{}", path.display()), e.to_string());
            match e.kind() {
                io::ErrorKind::PermissionDenied => StoreError::Denied { key: url, why },
                _ => StoreError::NoSuchBucket { url, why },
            }
        };
        if create {
            make_durably(path).map_err(missing)?;
        }
        let root = path.canonicalize().map_err(missing)?;
        let meta = fs::metadata(&root).map_err(missing)?;
        if !meta.is_dir() {
            return Err(StoreError::Config(format!("{} is not a directory", root.display())));
        }
        let identity = (meta.dev(), meta.ino());
        Ok(LocalDir { inner: Arc::new(Inner { root, identity, settled: Mutex::default() }) })
    }

    /// The directory, with every object fsynced before it gets its name and its directory after.
    pub(super) fn objects(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let store = LocalFileSystem::new_with_prefix(self.root()).map_err(|e| StoreError::Config(e.to_string()))?;
        Ok(Arc::new(store.with_fsync(true)))
    }

    /// The canonical path.
    pub(super) fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Fails if the directory is gone or another one stands in its place: writing on would fill the disk below a mount
    /// point with a second history.
    pub(super) fn check(&self) -> Result<(), String> {
        match fs::metadata(self.root()) {
            Ok(meta) if (meta.dev(), meta.ino()) == self.inner.identity => Ok(()),
            Ok(_) => Err("another directory stands in its place (is the disk still mounted?)".to_string()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Whether the directory of `key` is known to be durable.
    pub(super) fn is_settled(&self, key: &str) -> bool {
        let path = self.root().join(key);
        path.parent().is_none_or(|dir| self.inner.settled.lock().contains(dir))
    }

    /// Makes the name of `key` durable. `object_store` fsyncs a new object's file and its directory, and directories
    /// that it made itself; directories that another writer made, and an object that an earlier attempt linked without
    /// getting to the fsync, are left.
    pub(super) fn settle(&self, key: &str, fresh: bool) -> io::Result<()> {
        let path = self.root().join(key);
        let Some(dir) = path.parent() else { return Ok(()) };
        if !fresh {
            File::open(&path)?.sync_all()?;
            File::open(dir)?.sync_all()?;
        }
        if self.inner.settled.lock().contains(dir) {
            return Ok(());
        }
        for above in dir.ancestors().skip(1).take_while(|d| d.starts_with(self.root())) {
            File::open(above)?.sync_all()?;
        }
        let mut settled = self.inner.settled.lock();
        if settled.len() >= SETTLED_MAX {
            settled.clear();
        }
        settled.insert(dir.to_path_buf());
        Ok(())
    }

    /// The first `limit` objects below the directory `prefix` (empty or ending in a slash) after `after`, in order.
    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        let mut walk = Walk { root: self.root(), after: after.unwrap_or(""), limit, found: &mut found };
        walk.directory(prefix)?;
        Ok(found)
    }
}

/// Makes a directory and the missing ones above it, and their entries durable.
fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    make_durably(above)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(above)?.sync_all()
}

/// A walk in the order of keys that stops at the limit and skips subtrees that lie before `after`.
struct Walk<'a> {
    root: &'a Path,
    after: &'a str,
    limit: usize,
    found: &'a mut Vec<Listed>,
}

impl Walk<'_> {
    fn directory(&mut self, prefix: &str) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Names that are not UTF-8 or hold a '#' (an upload under way, or left over) are no objects of ours.
            let Some(name) = entry.file_name().to_str().filter(|n| !n.contains('#')).map(str::to_string) else {
                continue;
            };
            // With its slash a directory sorts where its keys do.
            names.push(if entry.file_type()?.is_dir() {
                format!("{prefix}{name}/")
            } else {
                format!("{prefix}{name}")
            });
        }
        names.sort_unstable();
        for name in names {
            if self.found.len() >= self.limit {
                break;
            }
            if name.ends_with('/') {
                if name.as_str() > self.after || self.after.starts_with(&name) {
                    self.directory(&name)?;
                }
            } else if name.as_str() > self.after {
                self.file(name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, key: String) -> io::Result<()> {
        match fs::metadata(self.root.join(&key)) {
            Ok(meta) if meta.is_file() => self.found.push(Listed { key, size: meta.len() }),
            Ok(_) => {}
            // Deleted since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dir_with(keys: &[&str]) -> (tempfile::TempDir, LocalDir) {
        let tmp = tempfile::tempdir().unwrap();
        for key in keys {
            let path = tmp.path().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, key).unwrap();
        }
        let dir = LocalDir::open(tmp.path(), false).unwrap();
        (tmp, dir)
    }

    fn keys(dir: &LocalDir, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        dir.list(prefix, after, limit).unwrap().into_iter().map(|l| l.key).collect()
    }

    #[test]
    fn lists_in_the_order_of_keys() {
        let (_tmp, dir) = dir_with(&["a/b/2", "a/b/1", "a-c", "a/c", "b", "a/b/1#1", "z/z/z"]);
        assert_eq!(keys(&dir, "", None, 9), ["a-c", "a/b/1", "a/b/2", "a/c", "b", "z/z/z"]);
        assert_eq!(keys(&dir, "", None, 2), ["a-c", "a/b/1"]);
        assert_eq!(keys(&dir, "a/", None, 9), ["a/b/1", "a/b/2", "a/c"]);
        assert_eq!(keys(&dir, "a/", Some("a/b/1"), 9), ["a/b/2", "a/c"]);
        assert_eq!(keys(&dir, "a/", Some("a/b/9"), 9), ["a/c"]);
        assert_eq!(keys(&dir, "", Some("b"), 9), ["z/z/z"]);
        assert!(keys(&dir, "none/", None, 9).is_empty());
        assert_eq!(dir.list("a/b/", None, 1).unwrap()[0].size, 5);
    }

    #[test]
    fn another_directory_in_its_place_is_noticed() {
        let (tmp, dir) = dir_with(&["pool/x"]);
        let pool = LocalDir::open(&tmp.path().join("pool"), false).unwrap();
        assert_eq!(pool.check(), Ok(()));
        fs::rename(dir.root().join("pool"), dir.root().join("old")).unwrap();
        assert!(pool.check().is_err());
        fs::create_dir(dir.root().join("pool")).unwrap();
        assert!(pool.check().unwrap_err().contains("mounted"));
    }

    #[test]
    fn a_missing_directory_is_made_only_when_asked() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a/b/c");
        assert!(matches!(LocalDir::open(&path, false), Err(StoreError::NoSuchBucket { .. })));
        assert!(LocalDir::open(&path, true).is_ok());
        fs::write(tmp.path().join("f"), "").unwrap();
        assert!(matches!(LocalDir::open(&tmp.path().join("f"), false), Err(StoreError::Config(_))));
    }

    #[test]
    fn settling_remembers_directories() {
        let (_tmp, dir) = dir_with(&["log/1/2/3"]);
        dir.settle("log/1/2/3", false).unwrap();
        assert_eq!(dir.inner.settled.lock().len(), 1);
        assert!(dir.settle("log/1/2/4", false).is_err(), "an object that is not there cannot be settled");
    }
}
