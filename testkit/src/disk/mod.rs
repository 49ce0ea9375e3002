//! Buckets and objects as directories and files. Blocking; every answer is the file system's, nothing is cached, so that
//! files changed by hand are served as they are.

mod list;
mod names;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use thiserror::Error;

pub(crate) use list::{ListQuery, Listed, Listing};
use names::decode as decode_name;

/// Why an operation was not done.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error("no such bucket")]
    NoSuchBucket,
    #[error("no such key")]
    NoSuchKey,
    #[error("the bucket exists")]
    BucketExists,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the condition of the request does not hold")]
    Precondition,
    #[error("the key cannot be a file here: {0}")]
    Key(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a PUT asks of the object's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// None: replace what is there.
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match: "tag"`
    Tag(String),
}

/// An object's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Bytes.
    pub size: u64,
    /// Time of the PUT; no two PUTs of one server share it.
    pub modified: SystemTime,
}

impl Meta {
    fn of(m: &fs::Metadata) -> io::Result<Self> {
        Ok(Self { size: m.len(), modified: m.modified()? })
    }

    /// The entity tag, without quotes: one per PUT, not per content.
    pub fn tag(&self) -> String {
        let nanos = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{nanos:024x}-{:x}", self.size)
    }
}

/// An object that is open for reading: what is read stays one version.
pub(crate) struct Open {
    file: File,
    pub meta: Meta,
}

impl Open {
    /// `len` bytes from `at`, which must lie inside the object.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let mut buf = vec![0; len];
        self.file.read_exact_at(&mut buf, at)?;
        Ok(buf.into())
    }
}

const STRIPES: usize = 256;
const SCRATCH: &str = ".s3d";

/// The directory that holds the buckets.
pub(crate) struct Disk {
    root: PathBuf,
    /// Held for reading by changes of one object, for writing by LIST and changes of buckets: a LIST is one moment.
    gate: RwLock<()>,
    /// One of these is held while an object's condition is checked and its change is made.
    keys: [Mutex<()>; STRIPES],
    scratch: AtomicU64,
    last_stamp: AtomicU64,
}

impl Disk {
    /// Opens (or makes) the directory. Left-over unfinished PUTs are removed.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        match fs::remove_dir_all(root.join(SCRATCH)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir(root.join(SCRATCH))?,
        }
        Ok(Self {
            root,
            gate: RwLock::new(()),
            keys: [const { Mutex::new(()) }; STRIPES],
            scratch: AtomicU64::new(0),
            last_stamp: AtomicU64::new(0),
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn bucket(&self, bucket: &str) -> Result<PathBuf, DiskError> {
        let path = self.root.join(bucket);
        if bucket != SCRATCH && path.is_dir() { Ok(path) } else { Err(DiskError::NoSuchBucket) }
    }

    /// The file of an object.
    pub fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, DiskError> {
        Ok(self.root.join(bucket).join(names::encode_key(key)?))
    }

    pub fn create_bucket(&self, bucket: &str) -> Result<(), DiskError> {
        let _all = self.gate.write();
        match fs::create_dir(self.root.join(bucket)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(DiskError::BucketExists),
            other => Ok(other?),
        }
    }

    pub fn delete_bucket(&self, bucket: &str) -> Result<(), DiskError> {
        let _all = self.gate.write();
        let path = self.bucket(bucket)?;
        let query = ListQuery { limit: 1, ..ListQuery::default() };
        if !list::list(&path, &query)?.items.is_empty() {
            return Err(DiskError::BucketNotEmpty);
        }
        Ok(fs::remove_dir_all(path)?)
    }

    pub fn has_bucket(&self, bucket: &str) -> Result<(), DiskError> {
        self.bucket(bucket).map(drop)
    }

    /// The buckets with the time they were made, in order.
    pub fn buckets(&self) -> Result<Vec<(String, SystemTime)>, DiskError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && name != SCRATCH
                && entry.file_type()?.is_dir()
            {
                found.push((name, entry.metadata()?.modified()?));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Opens an object.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Open, DiskError> {
        let path = self.path(bucket, key)?;
        let absent = || if self.bucket(bucket).is_ok() { DiskError::NoSuchKey } else { DiskError::NoSuchBucket };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Err(absent()),
            Err(e) => return Err(e.into()),
        };
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(absent());
        }
        Ok(Open { meta: Meta::of(&meta)?, file })
    }

    /// Creates or replaces an object, all or nothing, if the condition holds.
    pub fn put(&self, bucket: &str, key: &str, body: &[Bytes], condition: &Condition) -> Result<Meta, DiskError> {
        self.bucket(bucket)?;
        let path = self.path(bucket, key)?;
        let parts = body.iter().map(|b| Ok(b.clone()));
        let scratch = self.write_scratch(parts)?;
        self.place(bucket, key, &path, scratch, condition)
    }

    /// Writes the parts to a new file that is no object yet.
    pub fn write_scratch(&self, parts: impl Iterator<Item = io::Result<Bytes>>) -> io::Result<Scratch> {
        let number = self.scratch.fetch_add(1, Ordering::Relaxed);
        let scratch = Scratch(self.root.join(SCRATCH).join(number.to_string()));
        let mut file = File::options().write(true).create_new(true).open(&scratch.0)?;
        for part in parts {
            file.write_all(&part?)?;
        }
        Ok(scratch)
    }

    /// Makes a scratch file the object, if the condition holds.
    pub fn place_scratch(&self, bucket: &str, key: &str, from: Scratch, cond: &Condition) -> Result<Meta, DiskError> {
        let path = self.path(bucket, key)?;
        self.place(bucket, key, &path, from, cond)
    }

    fn place(&self, bucket: &str, key: &str, path: &Path, from: Scratch, cond: &Condition) -> Result<Meta, DiskError> {
        let _changes = self.gate.read();
        let _key = self.keys[stripe(bucket, key)].lock();
        self.bucket(bucket)?;
        match (cond, self.meta_of(path)?) {
            (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => {}
            (Condition::Absent, Some(_)) => return Err(DiskError::Precondition),
            (Condition::Present | Condition::Tag(_), None) => return Err(DiskError::NoSuchKey),
            (Condition::Tag(tag), Some(now)) if *tag == now.tag() => {}
            (Condition::Tag(_), Some(_)) => return Err(DiskError::Precondition),
        }
        let modified = self.stamp();
        File::options().write(true).open(&from.0)?.set_modified(modified)?;
        let parent = path.parent().unwrap_or(&self.root);
        // A DELETE may remove a directory that has just become empty, so the directory may be gone again.
        for _ in 0..100 {
            match fs::create_dir_all(parent) {
                Err(_) if parent.ancestors().any(Path::is_file) => {
                    return Err(DiskError::Key("another object's key is a leading part of it"));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => continue,
                other => other?,
            }
            match fs::rename(&from.0, path) {
                Ok(()) => {
                    let size = fs::metadata(path)?.len();
                    return Ok(Meta { size, modified });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                    return Err(DiskError::Key("it is the leading part of another object's key"));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(DiskError::Io(io::ErrorKind::NotFound.into()))
    }

    /// Deletes an object; an absent one is fine.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), DiskError> {
        let path = self.path(bucket, key)?;
        let _changes = self.gate.read();
        let _key = self.keys[stripe(bucket, key)].lock();
        let root = self.bucket(bucket)?;
        if self.meta_of(&path)?.is_none() {
            return Ok(());
        }
        fs::remove_file(&path)?;
        for dir in path.ancestors().skip(1).take_while(|d| **d != root) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// One page of a bucket's keys, at one moment.
    pub fn list(&self, bucket: &str, query: &ListQuery) -> Result<Listing, DiskError> {
        let _all = self.gate.write();
        list::list(&self.bucket(bucket)?, query)
    }

    fn meta_of(&self, path: &Path) -> Result<Option<Meta>, DiskError> {
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => Ok(None),
            Ok(m) => Ok(Some(Meta::of(&m)?)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The present time, later than any that this server gave before.
    fn stamp(&self) -> SystemTime {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let next = |last: u64| Some(now.max(last + 1));
        let last = match self.last_stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => last,
        };
        UNIX_EPOCH + Duration::from_nanos(now.max(last + 1))
    }
}

/// A file that is no object yet; removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.0)?.len())
    }

    /// `len` bytes from `at`.
    pub fn read(&self, at: u64, len: u64) -> io::Result<Bytes> {
        let mut buf = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        File::open(&self.0)?.read_exact_at(&mut buf, at)?;
        Ok(buf.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After it became an object the name is gone.
        drop(fs::remove_file(&self.0));
    }
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn stripe(bucket: &str, key: &str) -> usize {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    (bucket, key).hash(&mut h);
    (h.finish() % STRIPES as u64) as usize
}

#[cfg(test)]
mod tests;
