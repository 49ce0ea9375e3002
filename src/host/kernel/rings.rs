//! Whether this process may use io_uring, the way in which ublk speaks.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// What io_uring is to this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum IoUring {
    /// A ring can be made.
    Allowed,
    /// The kernel has none.
    Missing,
    /// It was refused: by `kernel.io_uring_disabled` (its value), or by something else, such as a container's filter.
    Refused(Option<u8>),
    /// It failed in another way.
    Failed(String),
}

impl IoUring {
    /// Makes a small ring and drops it.
    pub fn of_this_process(root: &Path) -> Self {
        Self::judge(io_uring::IoUring::new(2).map(drop), || sysctl(root))
    }

    fn judge(tried: io::Result<()>, disabled: impl Fn() -> Option<u8>) -> Self {
        let Err(e) = tried else { return Self::Allowed };
        match e.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::Refused(disabled().filter(|v| *v > 0)),
            _ => Self::Failed(e.to_string()),
        }
    }

    /// What stands against it and what helps; `None` where a ring can be made.
    pub fn why_not(&self) -> Option<String> {
        Some(match self {
            Self::Allowed => return None,
            Self::Missing => "this kernel has no io_uring (CONFIG_IO_URING): use another kernel".into(),
            Self::Refused(Some(value)) => format!(
                "io_uring is forbidden (kernel.io_uring_disabled={value}): set it to 0 with `sysctl \
                 kernel.io_uring_disabled=0` and in /etc/sysctl.d{}",
                if *value == 1 { ", or run as root or as a member of kernel.io_uring_group" } else { "" }
            ),
            Self::Refused(None) => "io_uring is forbidden to this process, as container runtimes do by their seccomp \
                                    filter: run outside, or allow io_uring_setup, io_uring_enter and io_uring_register"
                .into(),
            Self::Failed(why) => format!("io_uring cannot be used: {why}"),
        })
    }
}

fn sysctl(root: &Path) -> Option<u8> {
    fs::read_to_string(root.join("proc/sys/kernel/io_uring_disabled")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_names_what_refuses() {
        let judge = |errno, value: Option<u8>| IoUring::judge(Err(io::Error::from_raw_os_error(errno)), || value);
        assert_eq!(IoUring::judge(Ok(()), || Some(2)).why_not(), None);
        assert_eq!(judge(libc::ENOSYS, None), IoUring::Missing);
        let by = |value| judge(libc::EPERM, value).why_not().unwrap();
        assert!(by(Some(2)).contains("io_uring_disabled=2") && !by(Some(2)).contains("group"));
        assert!(by(Some(1)).contains("kernel.io_uring_group"));
        assert!(by(Some(0)).contains("seccomp") && by(None).contains("seccomp"));
        assert!(judge(libc::ENOMEM, None).why_not().unwrap().contains("memory"));
    }

    #[test]
    fn the_sysctl_is_read_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sysctl(dir.path()), None);
        fs::create_dir_all(dir.path().join("proc/sys/kernel")).unwrap();
        fs::write(dir.path().join("proc/sys/kernel/io_uring_disabled"), "2\n").unwrap();
        assert_eq!(sysctl(dir.path()), Some(2));
    }
}
