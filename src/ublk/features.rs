//! What a kernel's ublk can do, and what we ask of it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// One `UBLK_F_*` bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its bit, as in `ublk_cmd.h`.
    pub bit: u64,
    /// Its name there, without `UBLK_F_`.
    pub name: &'static str,
}

const fn feature(bit: u32, name: &'static str) -> Feature {
    Feature { bit: 1 << bit, name }
}

impl Feature {
    /// The device survives its daemon: requests wait for the next one.
    pub const USER_RECOVERY: Feature = feature(3, "USER_RECOVERY");
    /// Requests that the dead daemon had taken are given to the next one again, not failed.
    pub const USER_RECOVERY_REISSUE: Feature = feature(4, "USER_RECOVERY_REISSUE");
    /// An unprivileged user's device.
    pub const UNPRIVILEGED_DEV: Feature = feature(5, "UNPRIVILEGED_DEV");
    /// Commands are numbered as ioctls.
    pub const CMD_IOCTL_ENCODE: Feature = feature(6, "CMD_IOCTL_ENCODE");
    /// Requests' bytes are read and written with pread and pwrite on the character device.
    pub const USER_COPY: Feature = feature(7, "USER_COPY");
    /// The size of a live device can change.
    pub const UPDATE_SIZE: Feature = feature(10, "UPDATE_SIZE");
    /// A live device can be asked to hold requests while its daemon is replaced.
    pub const QUIESCE: Feature = feature(12, "QUIESCE");
    /// A device can be asked to stop only if nobody has it open.
    pub const SAFE_STOP_DEV: Feature = feature(17, "SAFE_STOP_DEV");

    /// All that have a name so far, by bit.
    pub const ALL: &[Feature] = &[
        feature(0, "SUPPORT_ZERO_COPY"),
        feature(1, "URING_CMD_COMP_IN_TASK"),
        feature(2, "NEED_GET_DATA"),
        Self::USER_RECOVERY,
        Self::USER_RECOVERY_REISSUE,
        Self::UNPRIVILEGED_DEV,
        Self::CMD_IOCTL_ENCODE,
        Self::USER_COPY,
        feature(8, "ZONED"),
        feature(9, "USER_RECOVERY_FAIL_IO"),
        Self::UPDATE_SIZE,
        feature(11, "AUTO_BUF_REG"),
        Self::QUIESCE,
        feature(13, "PER_IO_DAEMON"),
        feature(14, "BUF_REG_OFF_DAEMON"),
        feature(15, "BATCH_IO"),
        feature(16, "INTEGRITY"),
        Self::SAFE_STOP_DEV,
        feature(18, "NO_AUTO_PART_SCAN"),
        feature(19, "SHMEM_ZC"),
    ];
}

/// A set of features, as the kernel's mask. A newer kernel may set bits that have no name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Features(pub u64);

/// How the bytes of requests get in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyMode {
    /// `UBLK_F_USER_COPY`: we read and write them through the character device.
    User,
    /// The kernel copies them to and from a buffer for each tag.
    Kernel,
}

impl FromStr for CopyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "user" => Ok(Self::User),
            "kernel" => Ok(Self::Kernel),
            _ => Err("say `user` or `kernel`".into()),
        }
    }
}

impl Features {
    /// Without these a device dies with its daemon.
    pub const RECOVERY: Features = Features(Feature::USER_RECOVERY.bit | Feature::USER_RECOVERY_REISSUE.bit);

    /// Whether `feature` is in the set.
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & feature.bit != 0
    }

    /// The names of those that have one, by bit.
    pub fn names(self) -> Vec<&'static str> {
        Feature::ALL.iter().filter(|f| self.contains(**f)).map(|f| f.name).collect()
    }

    /// Those of `wanted` that are not in the set.
    pub fn missing(self, wanted: Features) -> Features {
        Features(wanted.0 & !self.0)
    }

    /// The copy mode for a kernel that has these features, where nobody asked for one.
    pub fn best_copy(self) -> CopyMode {
        if self.contains(Feature::USER_COPY) { CopyMode::User } else { CopyMode::Kernel }
    }

    /// The copy mode of a device with these flags.
    pub fn copy_mode(self) -> CopyMode {
        self.best_copy()
    }

    /// What we ask for when a device is added to a kernel that has `self`.
    pub fn wanted(self, copy: CopyMode) -> Features {
        let optional = [Feature::UPDATE_SIZE, Feature::QUIESCE, Feature::SAFE_STOP_DEV];
        let mut mask = Self::RECOVERY.0 | Feature::CMD_IOCTL_ENCODE.bit;
        mask |= optional.iter().map(|f| f.bit).fold(0, |a, b| a | b) & self.0;
        if copy == CopyMode::User {
            mask |= Feature::USER_COPY.bit;
        }
        Features(mask)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The masks of Debian's 6.12 and of 7.2.
    const OLD: Features = Features(0x1fe);
    const NEW: Features = Features(0xf_ffff);

    #[test]
    fn every_bit_has_one_name() {
        assert_eq!(NEW.names().len(), 20);
        for (n, feature) in Feature::ALL.iter().enumerate() {
            assert_eq!(feature.bit, 1 << n, "{}", feature.name);
        }
        assert_eq!(Features(0).to_string(), "none");
        assert_eq!(Features(0x18).to_string(), "USER_RECOVERY, USER_RECOVERY_REISSUE");
    }

    #[test]
    fn an_old_kernel_is_asked_for_what_it_has() {
        let wanted = OLD.wanted(OLD.best_copy());
        assert_eq!(OLD.missing(wanted), Features(0));
        assert!(wanted.contains(Feature::USER_RECOVERY_REISSUE) && wanted.contains(Feature::USER_COPY));
        assert!(!wanted.contains(Feature::QUIESCE));
        let wanted = NEW.wanted(CopyMode::Kernel);
        assert!(wanted.contains(Feature::QUIESCE) && !wanted.contains(Feature::USER_COPY));
        assert_eq!(wanted.copy_mode(), CopyMode::Kernel);
        assert_eq!(Features(0).best_copy(), CopyMode::Kernel);
    }

    #[test]
    fn copy_modes_are_said_by_name() {
        assert_eq!("user".parse(), Ok(CopyMode::User));
        assert_eq!("kernel".parse(), Ok(CopyMode::Kernel));
        assert!("zero".parse::<CopyMode>().is_err());
    }
}
