//! The devices of this host as every command sees them: what is on record, who holds it, what the kernel says.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::failure::{Doing, Exit, Failure, Outcome};
use crate::host::{DeviceRecord, Devices, HeldDevice, UnreadableRecord, boot_id, hex16, remove_stale_socket};
use crate::ublk::{Control, State, UblkError};

/// How long the kernel may take to notice that a daemon died.
const NOTICE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

/// What the kernel says of a recorded device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// It has none of that number, or another program's.
    Gone,
    /// Added and never started, or stopped.
    Dead,
    /// Started; its daemon lives, or died a moment ago.
    Live,
    /// Its requests wait for a daemon.
    Paused,
    /// It is there; its state cannot be asked for.
    Present,
}

/// A recorded device, and how it stands.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What is on record.
    pub record: DeviceRecord,
    /// A living process holds its lock.
    pub owned: bool,
    /// The kernel's word.
    pub kernel: Kernel,
}

impl Seen {
    /// In a word, for people and scripts.
    pub fn state(&self) -> &'static str {
        use crate::host::Stage;
        match (self.owned, self.kernel, self.record.stage) {
            (true, Kernel::Gone | Kernel::Dead, Stage::Removing) => "being removed",
            (true, Kernel::Gone | Kernel::Dead, _) => "starting",
            (true, Kernel::Paused, _) => "recovering",
            (true, _, Stage::Removing) => "being removed",
            (true, Kernel::Live | Kernel::Present, Stage::Recovering) => "recovering",
            (true, Kernel::Live | Kernel::Present, _) => "live",
            (false, Kernel::Live | Kernel::Paused | Kernel::Present, _) => "waiting for recovery",
            (false, Kernel::Dead, _) => "dead",
            (false, Kernel::Gone, _) => "gone",
        }
    }

    /// Whether requests to the device may wait for its volume, or its daemon holds it: nobody else may have the volume.
    pub fn has_volume(&self) -> bool {
        self.owned || matches!(self.kernel, Kernel::Live | Kernel::Paused | Kernel::Present)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.record.path().display(), self.state())?;
        if self.owned { write!(f, ", process {})", self.record.pid) } else { f.write_str(")") }
    }
}

/// The records of this user and this boot.
pub fn devices_below(runtime: &Path) -> Outcome<Devices> {
    let boot = boot_id().map_err(|e| Failure::plain("the id of this boot", e))?;
    Ok(Devices::below(runtime, hex16(&boot)))
}

/// How a recorded device stands. Blocks for a moment.
pub fn look(devices: &Devices, record: DeviceRecord) -> Outcome<Seen> {
    let owned = devices.is_held(record.id).doing("device records")?;
    Ok(Seen { kernel: ask_kernel(&record), owned, record })
}

/// All that is on record, each as it stands, and the records that cannot be read. Blocks for a moment.
pub fn look_at_all(devices: &Devices) -> Outcome<(Vec<Seen>, Vec<UnreadableRecord>)> {
    let records = devices.all().doing("device records")?;
    let seen = records.readable.into_iter().map(|record| look(devices, record)).collect::<Outcome<_>>()?;
    Ok((seen, records.unreadable))
}

/// Refuses what is about a volume without a record of its own: one that cannot be read may be it, if there is, or is about
/// to be, a device behind it.
pub fn refuse_unreadable(devices: &Devices, unreadable: &[UnreadableRecord]) -> Outcome {
    for record in unreadable {
        if kernel_instance(record.id).is_some() || devices.is_held(record.id).doing("device records")? {
            let why = format!("{}; it may be about this volume", record.why);
            return Err(Failure::plain(record.path().display(), why));
        }
    }
    Ok(())
}

/// What the kernel has in the place of `record`.
pub fn ask_kernel(record: &DeviceRecord) -> Kernel {
    let instance = kernel_instance(record.id);
    if instance.is_none() {
        return Kernel::Gone;
    }
    let info = match Control::open().and_then(|control| control.info(record.id)) {
        Ok(None) => return Kernel::Gone,
        Ok(Some(info)) => Some(info),
        Err(_) => None,
    };
    if !is_same(record, instance, info.as_ref().map(|i| i.mark)) {
        return Kernel::Gone;
    }
    match info.map(|i| i.state) {
        Some(State::Dead) => Kernel::Dead,
        Some(State::Live) => Kernel::Live,
        Some(State::Quiesced | State::FailIo) => Kernel::Paused,
        Some(State::Unknown(_)) | None => Kernel::Present,
    }
}

/// Whether what the kernel has under the record's number is the record's, and no other program's.
fn is_same(record: &DeviceRecord, instance: Option<u64>, mark: Option<u64>) -> bool {
    match record.instance {
        Some(known) => Some(known) == instance,
        // Its maker died, or the kernel was slow, before more could be noted.
        None => record.mark != 0 && mark == Some(record.mark),
    }
}

/// What tells the device of number `id` from all before and after it: sysfs gives every directory a number of its own.
pub fn kernel_instance(id: u32) -> Option<u64> {
    fs::metadata(format!("/sys/class/ublk-char/ublkc{id}")).ok().map(|m| m.ino())
}

/// Bytes of the disk of number `id`, where the kernel tells.
pub fn kernel_size(id: u32) -> Option<u64> {
    // Sectors of 512 bytes, whatever the disk's own are.
    let sectors: u64 = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(512)
}

/// Waits until the kernel has noticed that nobody serves the device any more. Blocks, 30 seconds at most.
pub fn await_pause(record: &DeviceRecord) -> Kernel {
    let until = Instant::now() + NOTICE;
    loop {
        match ask_kernel(record) {
            Kernel::Live if Instant::now() < until => std::thread::sleep(TICK),
            kernel => return kernel,
        }
    }
}

/// Removes the device of `held` from the kernel, failing with EIO what waits for it, then its links and its record.
/// Blocks, a minute at most. Nothing that the volume acknowledged is lost by it: that is in its journal.
pub fn remove_dead(held: &HeldDevice, record: &DeviceRecord) -> Outcome {
    let name = record.path().display().to_string();
    if ask_kernel(record) != Kernel::Gone {
        let control = Control::open().doing(&name)?;
        // The number may become another program's at any time; so each step asks again whose it is.
        if ask_kernel(record) != Kernel::Gone {
            UblkError::gone_is_done(control.stop(record.id)).doing(&name)?;
        }
        if ask_kernel(record) != Kernel::Gone {
            UblkError::gone_is_done(control.delete(record.id)).doing(&name)?;
        }
    }
    unlink_all(record);
    remove_stale_socket(&record.control);
    held.forget().doing(name)
}

/// Removes the links that the device's process made.
pub fn unlink_all(record: &DeviceRecord) {
    for link in &record.links {
        if fs::read_link(link).is_ok_and(|to| to == record.path()) {
            if let Err(e) = fs::remove_file(link) {
                tracing::warn!("{}: cannot be removed: {e}", link.display());
            }
            // The pool's directory goes with its last link.
            if let Some(dir) = link.parent()
                && let Err(e) = fs::remove_dir(dir)
                && e.kind() != io::ErrorKind::DirectoryNotEmpty
            {
                tracing::debug!("{}: {e}", dir.display());
            }
        }
    }
}

/// Refuses to take hold of a volume of the pool with this id that a device of this host has, or waits for.
pub async fn refuse_attached(devices: Devices, pool: String, number: u32, name: &str) -> Outcome {
    let found = blocking("device records", move || {
        let records = devices.all().doing("device records")?;
        let ours: Vec<_> = records.readable.into_iter().filter(|r| r.is_of(&pool, number)).collect();
        if ours.is_empty() {
            refuse_unreadable(&devices, &records.unreadable)?;
        }
        ours.into_iter().map(|record| look(&devices, record)).collect::<Outcome<Vec<_>>>()
    })
    .await?;
    let Some(seen) = found.into_iter().find(Seen::has_volume) else { return Ok(()) };
    let device = seen.record.path();
    let device = device.display();
    let (url, volume) = (&seen.record.url, &seen.record.volume);
    let why = if seen.owned {
        format!("it is attached as {seen}; `esker detach {device}` ends that")
    } else {
        format!(
            "{device} waits for it; bring the device back with `esker attach {url} {volume} --recover`, or give it up \
             with `esker detach {device} --force`"
        )
    };
    Err(Failure::new(Exit::InUse, format_args!("volume {name}"), why))
}

/// Runs what blocks, off the async threads.
pub async fn blocking<T: Send + 'static>(what: &str, job: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    match spawn_blocking(job).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Failure::plain(what, e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::Stage;

    fn record(devices: &Devices) -> DeviceRecord {
        DeviceRecord {
            format: devices.format(),
            id: 4_000_000,
            boot: devices.boot().into(),
            instance: None,
            mark: 0,
            stage: Stage::Live,
            pool: "ab".repeat(16),
            url: "s3://b/p".into(),
            label: "b-p".into(),
            volume: "data".into(),
            number: 3,
            size: 4096,
            read_only: false,
            queues: 1,
            depth: 1,
            durability: "object".into(),
            journal_dir: None,
            pid: 42,
            started: None,
            control: "/nonexistent".into(),
            links: Vec::new(),
            arguments: Vec::new(),
            writers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_volume_that_a_device_has_is_refused_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let devices = Devices::below(dir.path(), "b".into());
        let record = record(&devices);
        let refused = async |number| refuse_attached(devices.clone(), record.pool.clone(), number, "data").await;
        refused(3).await.unwrap();
        let held = devices.try_hold(record.id).unwrap().unwrap();
        held.store(&record).unwrap();
        let failure = refused(3).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::InUse);
        assert!(failure.to_string().contains("esker detach /dev/ublkb4000000"), "{failure}");
        refused(4).await.unwrap();
        refuse_attached(devices.clone(), "cd".repeat(16), 3, "data").await.unwrap();
        drop(held);
        // The record alone, of a device that the kernel does not have, is in nobody's way.
        refused(3).await.unwrap();
    }

    #[test]
    fn a_number_alone_makes_no_device_ours() {
        let devices = Devices::below(Path::new("/nonexistent"), "b".into());
        let noted = DeviceRecord { instance: Some(7), mark: 5, ..record(&devices) };
        assert!(is_same(&noted, Some(7), Some(5)) && is_same(&noted, Some(7), None));
        assert!(!is_same(&noted, Some(8), Some(5)) && !is_same(&noted, None, Some(5)));
        let unnoted = DeviceRecord { instance: None, ..noted };
        assert!(is_same(&unnoted, Some(8), Some(5)));
        assert!(!is_same(&unnoted, Some(8), Some(0)) && !is_same(&unnoted, Some(8), None));
        assert!(!is_same(&record(&devices), Some(8), Some(0)), "no mark is nobody's mark");
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_may_be_any_volumes() {
        let dir = tempfile::tempdir().unwrap();
        let devices = Devices::below(dir.path(), "b".into());
        let record = record(&devices);
        let refused = async || refuse_attached(devices.clone(), record.pool.clone(), 3, "data").await;
        let unreadable = devices.try_hold(4_000_001).unwrap().unwrap();
        fs::write(dir.path().join("devices/ublkb4000001.json"), "{\"format\":2}").unwrap();
        let failure = refused().await.unwrap_err().to_string();
        assert!(failure.contains("ublkb4000001") && failure.contains("another version"), "{failure}");
        // Not of one that has a record of its own, and not where nothing is behind it.
        let held = devices.try_hold(record.id).unwrap().unwrap();
        held.store(&record).unwrap();
        drop(held);
        refused().await.unwrap();
        drop(unreadable);
        fs::remove_file(dir.path().join("devices/ublkb4000000.json")).unwrap();
        refused().await.unwrap();
    }

    #[test]
    fn every_state_has_a_word() {
        let devices = Devices::below(Path::new("/nonexistent"), "b".into());
        let state =
            |owned, kernel, stage| Seen { record: DeviceRecord { stage, ..record(&devices) }, owned, kernel }.state();
        assert_eq!(state(true, Kernel::Live, Stage::Live), "live");
        assert_eq!(state(true, Kernel::Gone, Stage::Starting), "starting");
        assert_eq!(state(true, Kernel::Dead, Stage::Removing), "being removed");
        assert_eq!(state(true, Kernel::Paused, Stage::Recovering), "recovering");
        for kernel in [Kernel::Live, Kernel::Paused, Kernel::Present] {
            assert_eq!(state(false, kernel, Stage::Live), "waiting for recovery");
        }
        assert_eq!(state(false, Kernel::Dead, Stage::Starting), "dead");
        assert_eq!(state(false, Kernel::Gone, Stage::Live), "gone");
    }
}
