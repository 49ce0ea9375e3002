//! The JSON that says which device carries which volume, as another version, or a hand, may have left it.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use esker::host::Devices;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = crate::scratch("device-record");
    fs::create_dir_all(dir.join("devices")).expect("there is room in /dev/shm");
    dir
});

/// The bytes as the record of device 7, in the boot "b0".
pub fn run(data: &[u8]) {
    let path = DIR.join("devices/ublkb7.json");
    fs::write(&path, data).expect("there is room in /dev/shm");
    let devices = Devices::below(&DIR, "b0".into());
    let all = devices.all().expect("the directory is there");
    match devices.load(7) {
        Ok(Some(record)) => {
            assert_eq!((record.id, record.boot.as_str()), (7, "b0"));
            assert_eq!(record.writer_ids().len(), record.writers.len());
            assert_eq!(record.path().to_str(), Some("/dev/ublkb7"));
            assert_eq!(all.readable, [record.clone()]);
            // What was read is written and read as the same.
            let held = devices.try_hold(7).expect("the lock file can be made").expect("nobody else holds it");
            held.store(&record).expect("there is room in /dev/shm");
            assert_eq!(devices.load(7).expect("it was just written"), Some(record));
        }
        Ok(None) => assert!(all.readable.is_empty() && all.unreadable.is_empty()),
        Err(_) => assert_eq!((all.readable.len(), all.unreadable.len()), (0, 1)),
    }
}
