//! What is done about a volume's device that is already there: one table.

use std::path::PathBuf;

use crate::cli::devices::Kernel;
use crate::host::DeviceRecord;

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A new device.
    Attach,
    /// Bring back a device that waits; a new one where none does.
    Recover,
    /// Take over the device from a living process.
    Handover,
}

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A living process serves the device.
    Served,
    /// A living process is making, recovering or removing it.
    Busy,
    /// It waits for its recovery, which was not asked for.
    Waiting,
    /// There is no living process to take it from.
    NobodyServes,
    /// The kernel does not say how it stands.
    Unclear,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Make a new device.
    Anew,
    /// Only the record is left: remove that, make a new device.
    ForgetAndAnew,
    /// It was never started, or was stopped: remove it, make a new one.
    DeleteAndAnew,
    /// Serve it from here on.
    Resume,
    /// Its daemon died a moment ago; wait until the kernel has noticed, then look again.
    AwaitPause,
    /// Ask the process that serves it for it.
    TakeOver,
    /// Leave everything as it is.
    Refuse(Obstacle),
}

/// Decides. `found` is the volume's recorded device, if there is one: whether a process holds its lock, and what the
/// kernel says.
pub fn judge(wish: Wish, found: Option<(bool, Kernel)>) -> Verdict {
    use Verdict::{Anew, AwaitPause, DeleteAndAnew, ForgetAndAnew, Refuse, Resume, TakeOver};
    match (found, wish) {
        (None | Some((false, Kernel::Gone | Kernel::Dead)), Wish::Handover) => Refuse(Obstacle::NobodyServes),
        (None, _) => Anew,
        (Some((false, Kernel::Gone)), _) => ForgetAndAnew,
        (Some((false, Kernel::Dead)), _) => DeleteAndAnew,
        (Some((false, Kernel::Present)), _) => Refuse(Obstacle::Unclear),
        (Some((false, Kernel::Live | Kernel::Paused)), Wish::Attach) => Refuse(Obstacle::Waiting),
        // A handover from a process that is dead is a recovery.
        (Some((false, Kernel::Live)), _) => AwaitPause,
        (Some((false, Kernel::Paused)), _) => Resume,
        (Some((true, Kernel::Live)), Wish::Handover) => TakeOver,
        (Some((true, Kernel::Live | Kernel::Present)), _) => Refuse(Obstacle::Served),
        (Some((true, Kernel::Gone | Kernel::Dead | Kernel::Paused)), _) => Refuse(Obstacle::Busy),
    }
}

/// What is said of a device that is to be served on.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Writes are to be refused.
    pub read_only: bool,
    /// The volume's size in bytes.
    pub size: u64,
    /// The journal's directory, where the command names one.
    pub journal: Option<PathBuf>,
}

/// Why what is asked cannot be had of the device: its users have it as it was made. `kernel_size` is the disk's, in bytes.
pub fn contradiction(asked: &Asked, record: &DeviceRecord, kernel_size: Option<u64>) -> Option<String> {
    if let (Some(named), Some(dir)) = (&asked.journal, &record.journal_dir)
        && named != dir
    {
        let (named, dir) = (named.display(), dir.display());
        return Some(format!("its journal lies in {dir}, not in {named}; say --journal-dir {dir}, or leave it out"));
    }
    match (asked.read_only, record.read_only) {
        (true, false) => return Some("it takes writes; leave out --read-only".into()),
        (false, true) => return Some("it is read-only; say --read-only".into()),
        _ => {}
    }
    let size = kernel_size.unwrap_or(record.size);
    if asked.size != size || record.size != size {
        let why = format!("it has {size} bytes, {} on record, and its volume {} by now", record.size, asked.size);
        return Some(format!("{why}; a device is not resized under its users"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_on_as_it_was_made() {
        let text = r#"{"format":1,"id":0,"boot":"b","instance":7,"stage":"live","pool":"p","url":"s3://b/p","label":"b-p",
            "volume":"v","number":1,"size":8192,"read_only":false,"queues":1,"depth":1,"durability":"object",
            "journal_dir":"/run/j","pid":1,"control":"/c","links":[],"arguments":[],"writers":[]}"#;
        let record: DeviceRecord = serde_json::from_str(text).expect("as records are written");
        let asked = Asked { read_only: false, size: 8192, journal: None };
        let says = |asked: &Asked, kernel| contradiction(asked, &record, kernel).unwrap_or_default();
        assert_eq!((says(&asked, None), says(&asked, Some(8192))), Default::default());
        let named = |dir: &str| Asked { journal: Some(dir.into()), ..asked.clone() };
        assert_eq!(says(&named("/run/j"), None), "");
        assert!(says(&named("/run/k"), None).contains("--journal-dir /run/j"));
        assert!(says(&Asked { read_only: true, ..asked.clone() }, None).contains("leave out --read-only"));
        let shown = DeviceRecord { read_only: true, ..record.clone() };
        assert!(contradiction(&asked, &shown, None).is_some_and(|why| why.contains("say --read-only")));
        assert!(says(&Asked { size: 4096, ..asked.clone() }, Some(8192)).contains("8192 bytes"));
        assert!(says(&asked, Some(4096)).contains("4096 bytes"));
    }

    #[test]
    fn the_table() {
        use Kernel::{Dead, Gone, Live, Paused, Present};
        use Verdict::{Anew, AwaitPause, DeleteAndAnew, ForgetAndAnew, Refuse, Resume, TakeOver};
        let nobody = Refuse(Obstacle::NobodyServes);
        let (busy, served) = (Refuse(Obstacle::Busy), Refuse(Obstacle::Served));
        let (waiting, unclear) = (Refuse(Obstacle::Waiting), Refuse(Obstacle::Unclear));
        let table = [
            (None, [Anew, Anew, nobody]),
            (Some((false, Gone)), [ForgetAndAnew, ForgetAndAnew, nobody]),
            (Some((false, Dead)), [DeleteAndAnew, DeleteAndAnew, nobody]),
            (Some((false, Live)), [waiting, AwaitPause, AwaitPause]),
            (Some((false, Paused)), [waiting, Resume, Resume]),
            (Some((false, Present)), [unclear, unclear, unclear]),
            (Some((true, Gone)), [busy, busy, busy]),
            (Some((true, Dead)), [busy, busy, busy]),
            (Some((true, Live)), [served, served, TakeOver]),
            (Some((true, Paused)), [busy, busy, busy]),
            (Some((true, Present)), [served, served, served]),
        ];
        for (found, verdicts) in table {
            let judged = [Wish::Attach, Wish::Recover, Wish::Handover].map(|wish| judge(wish, found));
            assert_eq!(judged, verdicts, "{found:?}");
        }
    }

    #[test]
    fn a_device_that_somebody_may_wait_for_is_never_replaced() {
        for kernel in [Kernel::Live, Kernel::Paused, Kernel::Present] {
            for owned in [false, true] {
                for wish in [Wish::Attach, Wish::Recover, Wish::Handover] {
                    let verdict = judge(wish, Some((owned, kernel)));
                    let replaced = matches!(verdict, Verdict::Anew | Verdict::ForgetAndAnew | Verdict::DeleteAndAnew);
                    assert!(!replaced, "{owned} {kernel:?} {wish:?}: {verdict:?}");
                }
            }
        }
    }
}
