//! What `esker doctor` looks at.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::{ControlDevice, Dirs, HostTree, JournalFacts, NbdFacts, Rights, UblkFacts, swap_on_stacked};
use crate::ublk::{Control, Features};

/// Where udev reads rules, the first winning (udev(7)).
const RULES: [&str; 5] =
    ["etc/udev/rules.d", "run/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d"];

/// Everything that the checks judge.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The kernel and its ublk.
    pub ublk: UblkFacts,
    /// What its ublk can do, or why it does not say; `None` where there is none to ask.
    pub features: Option<Result<Features, String>>,
    /// The kernel's NBD client.
    pub nbd: NbdFacts,
    /// What this process may do.
    pub rights: Rights,
    /// The place of journals, or why it cannot be looked at.
    pub journal: Result<JournalFacts, String>,
    /// Swap areas.
    pub swap: Vec<String>,
    /// Those of them that may lie on a volume.
    pub stacked_swap: Vec<String>,
    /// Our udev rule.
    pub udev_rule: Option<PathBuf>,
}

impl Facts {
    /// Looks at this host. Blocks: the kernel is asked what its ublk can do.
    pub fn gather() -> Self {
        let root = Path::new("/");
        let ublk = UblkFacts::gather(root);
        let ask = || Control::open().and_then(|c| c.features()).map_err(|e| e.to_string());
        let features = (ublk.control == ControlDevice::Open && ublk.io_uring.why_not().is_none()).then(ask);
        let dir = Dirs::of_this_user().journal;
        Self {
            features,
            nbd: NbdFacts::gather(root, &std::env::var("PATH").unwrap_or_default()),
            rights: Rights::of_this_process(),
            journal: JournalFacts::gather(&dir).map_err(|e| format!("{}: {e}", dir.display())),
            swap: swap_areas(&fs::read_to_string("/proc/swaps").unwrap_or_default()),
            stacked_swap: swap_on_stacked(&HostTree::default()),
            udev_rule: udev_rule(root),
            ublk,
        }
    }
}

/// The areas in the text of `/proc/swaps`, below its heading.
fn swap_areas(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

fn udev_rule(root: &Path) -> Option<PathBuf> {
    let ours = |name: &str| name.contains("esker") && name.ends_with(".rules");
    RULES.iter().find_map(|dir| {
        let entries = fs::read_dir(root.join(dir)).ok()?;
        entries.flatten().find(|e| e.file_name().to_str().is_some_and(ours)).map(|e| e.path())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn swap_and_rules_are_found() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n/swap file 1 0 -3\n";
        assert_eq!(swap_areas(text), ["/dev/sda2", "/swap"]);
        assert!(swap_areas("").is_empty());
        let root = tempfile::tempdir().unwrap();
        assert_eq!(udev_rule(root.path()), None);
        let dir = root.path().join("usr/lib/udev/rules.d");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("50-default.rules"), "").unwrap();
        assert_eq!(udev_rule(root.path()), None);
        fs::write(dir.join("60-esker.rules"), "").unwrap();
        assert_eq!(udev_rule(root.path()), Some(dir.join("60-esker.rules")));
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let facts = Facts::gather();
        assert_eq!(facts.features.is_some(), facts.ublk.why_not().is_none());
    }
}
