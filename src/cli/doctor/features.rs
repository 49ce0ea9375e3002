//! What esker does with each feature of ublk, and what falls away without it.

use super::checks::{Check, State};
use crate::ublk::{Feature, Features};

/// A feature that esker uses.
struct Use {
    feature: Feature,
    /// Without it there is no device.
    needed: bool,
    /// What falls away without it, and the first Linux that has it.
    without: &'static str,
}

const fn needed(feature: Feature, without: &'static str) -> Use {
    Use { feature, needed: true, without }
}

const fn helpful(feature: Feature, without: &'static str) -> Use {
    Use { feature, needed: false, without }
}

const USES: &[Use] = &[
    needed(Feature::USER_RECOVERY, "a device would die with its server (Linux 6.1 has it)"),
    needed(Feature::USER_RECOVERY_REISSUE, "requests under way would fail when the server dies (Linux 6.1 has it)"),
    needed(Feature::CMD_IOCTL_ENCODE, "esker's commands are not understood (Linux 6.4 has it)"),
    helpful(Feature::USER_COPY, "each request needs a buffer of its own and one more copy (Linux 6.5 has it)"),
    helpful(Feature::UPDATE_SIZE, "a volume's new size shows only once it is attached anew (Linux 6.16 has it)"),
    helpful(
        Feature::QUIESCE,
        "a handover ends the old server as a crash does, not between two requests (Linux 6.16 has it)",
    ),
    helpful(
        Feature::SAFE_STOP_DEV,
        "whether a device is in use is looked up in /proc and /sys before it is removed (Linux 7.0 has it)",
    ),
];

/// The check of what a kernel's ublk can do, and one for each use that falls away.
pub fn checks(found: Features) -> Vec<Check> {
    let used: Vec<&str> = USES.iter().filter(|u| found.contains(u.feature)).map(|u| u.feature.name).collect();
    let says = format!("{found} ({:#x})", found.0);
    let used = match used.is_empty() {
        true => "esker uses none of them".into(),
        false => format!("esker uses {}", used.join(", ")),
    };
    let mut checks = vec![Check { name: "ublk features", state: State::Ok, says, help: Some(used) }];
    checks.extend(USES.iter().filter(|u| !found.contains(u.feature)).map(|u| Check {
        name: "ublk features",
        state: if u.needed { State::Lacking } else { State::Note },
        says: format!("without {}: {}", u.feature.name, u.without),
        help: None,
    }));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_falls_away() {
        let all = checks(Features(0xf_ffff));
        assert_eq!(all.len(), 1);
        assert!(all[0].says.ends_with("(0xfffff)"), "{}", all[0].says);
        let debian = checks(Features(0x1fe));
        assert!(debian.iter().all(|c| matches!(c.state, State::Ok | State::Note)));
        let text: Vec<&str> = debian[1..].iter().map(|c| c.says.as_str()).collect();
        assert!(
            text.len() == 3 && text[0].starts_with("without UPDATE_SIZE") && text[1].contains("handover"),
            "{text:?}"
        );
        let none = checks(Features(0));
        assert_eq!(none.iter().filter(|c| c.state == State::Lacking).count(), 3);
        assert_eq!(none.len(), 1 + USES.len());
    }
}
