//! Device records: which ublk device carries which volume, and who serves it.
//!
//! `ublkbN.json` says what the device is; it is replaced as a whole. `ublkbN.lock` is held by the process that serves the
//! device or decides about it: alive is judged by this lock, never by a pid. Lock files stay: removing one that somebody
//! waits for would give two processes a lock each.

mod lock;
mod numbers;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::identity::make_private_dir;
pub use numbers::Numbers;
pub use record::{DeviceRecord, MAX_WRITERS, Stage, device_number_of};
use record::{FORMAT, kernel_name};

/// Longest record read, in bytes.
const MAX_RECORD: u64 = 1 << 20;
/// Most records in a directory.
const MAX_RECORDS: usize = 4096;

/// Why the records cannot be used.
#[derive(Debug, Error)]
pub enum DevicesError {
    /// A file or directory refused.
    #[error("device records: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record is not one, or is another version's.
    #[error("{path} is not a device record of this version ({why}); was it written by another version of esker?")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// All that is on record.
#[derive(Debug, Default)]
pub struct Records {
    /// What can be read, by number.
    pub readable: Vec<DeviceRecord>,
    /// What cannot: of another version of esker, or damaged.
    pub unreadable: Vec<UnreadableRecord>,
}

/// A record that cannot be read; it concerns its own number, and whatever volume it may be about.
#[derive(Debug)]
pub struct UnreadableRecord {
    /// N of `/dev/ublkbN`.
    pub id: u32,
    /// What is wrong with it.
    pub why: DevicesError,
}

impl UnreadableRecord {
    /// `/dev/ublkbN`.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(kernel_name(self.id))
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub struct Devices {
    dir: PathBuf,
    boot: String,
}

/// A device's lock, held by this process; its record, if there is one. The lock goes with this value.
#[derive(Debug)]
pub struct HeldDevice {
    devices: Devices,
    id: u32,
    _lock: File,
}

impl Devices {
    /// The records below `runtime`, of the boot with this id (hex). Nothing is created yet.
    pub fn below(runtime: &Path, boot: String) -> Self {
        Self { dir: runtime.join("devices"), boot }
    }

    /// Which boot records are of.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The version that records are written in.
    pub fn format(&self) -> u32 {
        FORMAT
    }

    /// All records of this boot; none where there is no directory.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn all(&self) -> Result<Records, DevicesError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Records::default()),
            other => other.map_err(failed(&self.dir))?,
        };
        let number = |e: fs::DirEntry| device_number_of(e.file_name().to_str()?.strip_suffix(".json")?);
        let mut ids: Vec<u32> = entries.flatten().filter_map(number).take(MAX_RECORDS).collect();
        ids.sort_unstable();
        let mut records = Records::default();
        for id in ids {
            match self.load(id) {
                Ok(record) => records.readable.extend(record),
                Err(why) => records.unreadable.push(UnreadableRecord { id, why }),
            }
        }
        Ok(records)
    }

    /// The record of device `id`, if there is one of this boot.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(&self, id: u32) -> Result<Option<DeviceRecord>, DevicesError> {
        let path = self.record_path(id);
        let bytes = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(m) if m.len() > MAX_RECORD => {
                return Err(DevicesError::Unreadable { path, why: format!("it has {} bytes", m.len()) });
            }
            Ok(_) => match fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(failed(&path))?,
            },
            Err(e) => return Err(failed(&path)(e)),
        };
        let unreadable = |why: String| DevicesError::Unreadable { path: path.clone(), why };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(f) if f == u64::from(FORMAT) => {}
            other => return Err(unreadable(format!("format {other:?}"))),
        }
        let record: DeviceRecord = serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))?;
        if record.id != id || record.writer_ids().len() != record.writers.len() {
            return Err(unreadable("its fields contradict each other".into()));
        }
        Ok((record.boot == self.boot).then_some(record))
    }

    /// Takes the lock of device `id`; `None` where another process holds it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn try_hold(&self, id: u32) -> Result<Option<HeldDevice>, DevicesError> {
        make_private_dir(&self.dir).map_err(failed(&self.dir))?;
        let path = self.lock_path(id);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = open.map_err(failed(&path))?;
        let taken = lock::try_lock(&lock).map_err(failed(&path))?;
        Ok(taken.then(|| HeldDevice { devices: self.clone(), id, _lock: lock }))
    }

    /// Whether a process holds the lock of device `id` right now. Looking is in nobody's way.
    ///
    /// # Errors
    /// Where the lock file cannot be looked at.
    pub fn is_held(&self, id: u32) -> Result<bool, DevicesError> {
        let path = self.lock_path(id);
        let lock = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(failed(&path))?,
        };
        lock::is_locked(&lock).map_err(failed(&path))
    }

    fn record_path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{}.json", kernel_name(id)))
    }

    fn lock_path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{}.lock", kernel_name(id)))
    }
}

impl HeldDevice {
    /// N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The record as it is now.
    ///
    /// # Errors
    /// Those of [`Devices::load`].
    pub fn load(&self) -> Result<Option<DeviceRecord>, DevicesError> {
        self.devices.load(self.id)
    }

    /// Puts `record` in the place of what was there, whole.
    ///
    /// # Errors
    /// Where it cannot be written; then the old one is still there.
    pub fn store(&self, record: &DeviceRecord) -> Result<(), DevicesError> {
        let path = self.devices.record_path(self.id);
        let temporary = path.with_extension("new");
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|e| DevicesError::Unreadable { path: path.clone(), why: e.to_string() })?;
        fs::write(&temporary, bytes).map_err(failed(&temporary))?;
        fs::rename(&temporary, &path).map_err(failed(&path))
    }

    /// Removes the record.
    ///
    /// # Errors
    /// Where it is there and cannot be removed.
    pub fn forget(&self) -> Result<(), DevicesError> {
        let path = self.devices.record_path(self.id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path)(e)),
            _ => Ok(()),
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DevicesError {
    let path = path.to_path_buf();
    |source| DevicesError::Io { path, source }
}

#[cfg(test)]
mod tests;
