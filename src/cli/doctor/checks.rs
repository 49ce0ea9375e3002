//! What the facts mean: a check for each, and a verdict over all.

use serde::Serialize;

use super::facts::Facts;
use super::features;
use crate::cli::size::show_size;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, with a risk.
    Warning,
    /// There can be no ublk device.
    #[serde(rename = "missing")]
    Lacking,
}

impl State {
    /// One word for people; as in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Lacking => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub says: String,
    /// What that means, or what helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Check {
    fn ok(name: &'static str, says: impl Into<String>) -> Self {
        Self { name, state: State::Ok, says: says.into(), help: None }
    }

    fn of(name: &'static str, state: State, says: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, state, says: says.into(), help: Some(help.into()) }
    }
}

/// Whether `esker attach` can make a ublk device, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It can.
    pub ready: bool,
    /// For people.
    pub text: String,
}

/// All checks, in the order in which they are worth reading.
pub fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![Check::ok("kernel", format!("Linux {}", facts.ublk.release.text)), ublk(facts)];
    match &facts.features {
        Some(Ok(found)) => checks.extend(features::checks(*found)),
        Some(Err(why)) => {
            checks.push(Check { name: "ublk features", state: State::Lacking, says: why.clone(), help: None })
        }
        None => {}
    }
    checks.extend([io_uring(facts), privilege(facts), journal(facts), journal_swap(facts)]);
    checks.extend([memory_lock(facts), io_flusher(facts), swap(facts), udev(facts), nbd(facts)]);
    checks
}

/// The verdict over `checks`, which are those of `facts`.
pub fn verdict(facts: &Facts, checks: &[Check]) -> Verdict {
    let count = |state| checks.iter().filter(|c| c.state == state).count();
    if count(State::Lacking) == 0 {
        let warnings = match count(State::Warning) {
            0 => String::new(),
            1 => ", with one warning".into(),
            n => format!(", with {n} warnings"),
        };
        return Verdict { ready: true, text: format!("ublk: ready{warnings}") };
    }
    let first = checks.iter().find(|c| c.state == State::Lacking);
    let why = first.map(|c| format!("{}: {}", c.name, c.says)).unwrap_or_default();
    let instead = match (&facts.journal, facts.nbd.why_not()) {
        (Ok(journal), _) if !journal.tmpfs => {
            "nor can volumes be served over NBD without a place for the journal".into()
        }
        (_, None) => "use --nbd: `esker attach --nbd` makes /dev/nbdN through the kernel's NBD client".to_owned(),
        (_, Some(no_nbd)) => format!(
            "use --nbd: `esker attach --nbd` serves the volume to NBD clients such as qemu, but makes no block device \
             here ({no_nbd})"
        ),
    };
    Verdict { ready: false, text: format!("ublk: not ready ({why}); {instead}") }
}

fn ublk(facts: &Facts) -> Check {
    match facts.ublk.device_why_not() {
        None => Check::ok("ublk", "/dev/ublk-control opens"),
        Some(why) => Check { name: "ublk", state: State::Lacking, says: why, help: None },
    }
}

fn io_uring(facts: &Facts) -> Check {
    match facts.ublk.io_uring.why_not() {
        None => Check::ok("io_uring", "allowed"),
        Some(why) => Check { name: "io_uring", state: State::Lacking, says: why, help: None },
    }
}

fn privilege(facts: &Facts) -> Check {
    if facts.rights.sys_admin {
        return Check::ok("privilege", "CAP_SYS_ADMIN");
    }
    let says = "no CAP_SYS_ADMIN: the kernel takes the features away that let a device outlive its server";
    Check::of("privilege", State::Lacking, says, "run as root, or through systemd/esker@.service")
}

fn journal(facts: &Facts) -> Check {
    let journal = match &facts.journal {
        Ok(journal) => journal,
        Err(why) => return Check::of("journal", State::Lacking, why.clone(), "name another one with --journal-dir"),
    };
    let path = journal.path.display();
    if !journal.tmpfs {
        let says = format!("{path} is not in memory, and the journal holds plaintext");
        return Check::of("journal", State::Lacking, says, "name a directory on a tmpfs with --journal-dir");
    }
    let (free, usual) = (show_size(journal.free), show_size(journal.usual));
    if journal.free < journal.usual {
        let says = format!("{path} has {free} free, a journal takes {usual}");
        let help = "enlarge that tmpfs (`mount -o remount,size=...`), or choose --journal-size or --journal-dir";
        return Check::of("journal", State::Lacking, says, help);
    }
    Check::ok("journal", format!("{path} is in memory, {free} free; each volume takes {usual}"))
}

/// Whether the journal's pages can get to a disk.
fn journal_swap(facts: &Facts) -> Check {
    let noswap = facts.journal.as_ref().is_ok_and(|j| j.noswap);
    let lockable = facts.rights.ipc_lock || facts.rights.memlock.is_none();
    match (facts.swap.is_empty(), noswap, lockable) {
        (true, ..) => Check::ok("journal in swap", "this host has no swap"),
        (_, true, _) => Check::ok("journal in swap", "its filesystem is mounted with noswap"),
        (_, _, true) => Check::ok("journal in swap", "its pages will be locked in memory"),
        _ => Check::of(
            "journal in swap",
            State::Warning,
            format!("its plaintext can get into {}", facts.swap.join(", ")),
            "raise the limit of locked memory (LimitMEMLOCK=infinity), or put it on a tmpfs mounted with noswap",
        ),
    }
}

fn memory_lock(facts: &Facts) -> Check {
    match facts.rights.memlock {
        None => Check::ok("locked memory", "no limit"),
        Some(_) if facts.rights.ipc_lock => Check::ok("locked memory", "CAP_IPC_LOCK"),
        Some(_) if facts.rights.sys_resource => Check::ok("locked memory", "CAP_SYS_RESOURCE raises the limit"),
        Some(bytes) => Check::of(
            "locked memory",
            State::Warning,
            format!("no more than {}: the server can be swapped out under its own device", show_size(bytes)),
            "set LimitMEMLOCK=infinity, or grant CAP_IPC_LOCK",
        ),
    }
}

fn io_flusher(facts: &Facts) -> Check {
    if facts.rights.sys_resource {
        return Check::ok("io flusher", "CAP_SYS_RESOURCE");
    }
    let says = "no CAP_SYS_RESOURCE: when memory is short, a filesystem on a device of this host can hang";
    Check::of("io flusher", State::Warning, says, "run as root, or grant CAP_SYS_RESOURCE")
}

fn swap(facts: &Facts) -> Check {
    if facts.stacked_swap.is_empty() {
        return Check::ok("swap", "none on a network or userspace block device");
    }
    let says = format!("{} may lie on a volume: the host can hang when memory is short", facts.stacked_swap.join(", "));
    Check::of("swap", State::Warning, says, "swap to a local disk")
}

fn udev(facts: &Facts) -> Check {
    match &facts.udev_rule {
        Some(path) => Check::ok("udev rule", path.display().to_string()),
        None => Check::of(
            "udev rule",
            State::Note,
            "not installed: devices get no names below /dev/esker from udev",
            "copy udev/60-esker.rules to /etc/udev/rules.d, then `udevadm control --reload`",
        ),
    }
}

fn nbd(facts: &Facts) -> Check {
    match facts.nbd.why_not() {
        None => Check::ok("nbd", "the kernel's NBD client can be used (--nbd)"),
        Some(why) => Check { name: "nbd", state: State::Note, says: format!("no /dev/nbdN: {why}"), help: None },
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
