//! Where the kernel's block drivers for userspace are: running, to be loaded, to be installed, or not to be had.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::release::Release;
use super::rings::IoUring;

/// ublk's control device, below a root.
const CONTROL: &str = "dev/ublk-control";

/// Whether `/dev/ublk-control` can be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum ControlDevice {
    /// It can.
    Open,
    /// There is no such file.
    Missing,
    /// This user may not.
    Denied,
    /// It is there and does not open.
    Broken(String),
}

/// Where a driver of the running kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// At work.
    Running,
    /// Part of the kernel image.
    BuiltIn,
    /// A module that is installed and not loaded.
    Loadable,
    /// The kernel's configuration has it as a module, which is not installed.
    Uninstalled,
    /// Neither the kernel nor its installed modules have it.
    Absent,
    /// Nothing is known: the kernel's modules are not visible here.
    Unknown,
}

impl Driver {
    /// Of the module `name` (with `_` between words), by the files of the kernel `release`. `running` where it shows.
    fn find(root: &Path, release: &str, name: &str, option: &str, running: bool) -> Self {
        if running {
            return Self::Running;
        }
        let modules = root.join("lib/modules").join(release);
        let lists = |file: &str| fs::read_to_string(modules.join(file)).is_ok_and(|text| names(&text, name));
        if lists("modules.builtin") {
            return Self::BuiltIn;
        }
        if lists("modules.dep") {
            return Self::Loadable;
        }
        let configs = [root.join(format!("boot/config-{release}")), modules.join("config")];
        let config = configs.iter().find_map(|path| fs::read_to_string(path).ok());
        match config.map(|text| text.lines().any(|l| l == format!("{option}=m"))) {
            Some(true) => Self::Uninstalled,
            Some(false) => Self::Absent,
            None if modules.join("modules.dep").exists() => Self::Absent,
            None => Self::Unknown,
        }
    }
}

/// Whether a list of modules has one called `name`, as `kernel/drivers/block/NAME.ko`, perhaps compressed.
fn names(text: &str, name: &str) -> bool {
    let file = |line: &str| line.split(':').next().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    let stem = |file: String| file.split(".ko").next().map(|s| s.replace('-', "_"));
    text.lines().filter_map(file).filter_map(stem).any(|found| found == name)
}

/// What is known of ublk on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UblkFacts {
    /// The kernel.
    pub release: Release,
    /// The way to its ublk.
    pub control: ControlDevice,
    /// The driver behind it.
    pub driver: Driver,
    /// Whether this process may speak to it.
    pub io_uring: IoUring,
    /// `ID` of os-release(5), such as `debian`; empty where there is none.
    pub system: String,
}

impl UblkFacts {
    /// Looks below `root` (`/`, but in tests) and at this process.
    pub fn gather(root: &Path) -> Self {
        let release = Release::running();
        // The driver's control device is a misc device (drivers/block/ublk_drv.c).
        let running = has_word(&root.join("proc/misc"), "ublk-control");
        let driver = Driver::find(root, &release.text, "ublk_drv", "CONFIG_BLK_DEV_UBLK", running);
        let control = open_control(&root.join(CONTROL));
        Self { release, control, driver, io_uring: IoUring::of_this_process(root), system: system_id(root) }
    }

    /// Why no ublk device can be served here, and how that is mended; `None` where nothing stands against it.
    pub fn why_not(&self) -> Option<String> {
        self.device_why_not().or_else(|| self.io_uring.why_not())
    }

    /// The same, but for what the way of speaking to it needs.
    pub fn device_why_not(&self) -> Option<String> {
        match &self.control {
            ControlDevice::Open if self.release.is_before(Release::NEEDED) => Some(self.too_old()),
            ControlDevice::Open => None,
            ControlDevice::Missing => Some(format!("/dev/ublk-control is not there: {}", self.missing())),
            ControlDevice::Denied => Some(
                "/dev/ublk-control cannot be opened: permission denied. Run as root, or in a container with the device \
                 and CAP_SYS_ADMIN"
                    .into(),
            ),
            ControlDevice::Broken(why) if self.driver == Driver::Running => {
                Some(format!("/dev/ublk-control cannot be opened: {why}"))
            }
            ControlDevice::Broken(why) => Some(format!("/dev/ublk-control cannot be opened ({why}): {}", self.missing())),
        }
    }

    fn too_old(&self) -> String {
        let (major, minor) = Release::NEEDED;
        let came = if self.release.is_before(Release::UBLK) { ", and ublk came with 6.0" } else { "" };
        format!("this kernel is {}{came}: esker needs Linux {major}.{minor} or newer", self.release.text)
    }

    fn missing(&self) -> String {
        let release = &self.release.text;
        if self.driver != Driver::Running && self.release.is_before(Release::NEEDED) {
            return self.too_old();
        }
        match self.driver {
            Driver::Running | Driver::BuiltIn => {
                "this kernel has ublk, but this /dev is without it, as in a container: \
                                                  pass the device in (such as `--device /dev/ublk-control`), with \
                                                  CAP_SYS_ADMIN and a /dev in which new devices appear"
                    .into()
            }
            Driver::Loadable => {
                "the module is not loaded: run `modprobe ublk_drv`, and for every boot write `ublk_drv` \
                                 into /etc/modules-load.d/esker.conf"
                    .into()
            }
            Driver::Uninstalled | Driver::Absent => match self.package() {
                Some(package) => {
                    format!("kernel {release} has no module ublk_drv: {package}, then `modprobe ublk_drv`")
                }
                None => format!(
                    "kernel {release} was built without CONFIG_BLK_DEV_UBLK, or its module comes in another package: \
                     install that, or another kernel"
                ),
            },
            Driver::Unknown => format!(
                "run `modprobe ublk_drv`, on the host if this is a container (the modules of kernel {release} are not \
                 to be seen here)"
            ),
        }
    }

    /// What to install, where that is known.
    fn package(&self) -> Option<String> {
        let release = &self.release.text;
        let install = |package: &str| format!("install {package}");
        match self.system.as_str() {
            "ubuntu" => Some(install(&format!("linux-modules-extra-{release}"))),
            "debian" if release.contains("-cloud-") => {
                Some(format!("this is the cloud flavour: install {} and boot it", release_package(release)))
            }
            "fedora" | "centos" | "rhel" => Some(install(&format!("kernel-modules-extra-{release}"))),
            _ => None,
        }
    }
}

/// Debian's package of the full kernel beside a cloud one.
fn release_package(release: &str) -> &'static str {
    if release.ends_with("arm64") { "linux-image-arm64" } else { "linux-image-amd64" }
}

/// What is known of the kernel's own NBD client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NbdFacts {
    /// The driver.
    pub driver: Driver,
    /// Whether `/dev/nbd0` is there.
    pub device: bool,
    /// The `nbd-client` program, where it is in the path.
    pub client: Option<PathBuf>,
}

impl NbdFacts {
    /// Looks below `root`, and for the program along `path` (the value of `PATH`).
    pub fn gather(root: &Path, path: &str) -> Self {
        let running = has_word(&root.join("proc/devices"), "nbd");
        let driver = Driver::find(root, &Release::running().text, "nbd", "CONFIG_BLK_DEV_NBD", running);
        // It is for root, whose directories are not in everybody's path.
        let dirs = path.split(':').filter(|d| d.starts_with('/')).chain(["/usr/sbin", "/sbin"]);
        let client = dirs.map(|d| root.join(&d[1..]).join("nbd-client")).find(|p| p.is_file());
        Self { driver, device: root.join("dev/nbd0").exists(), client }
    }

    /// Why the kernel's nbd cannot be used, and what helps.
    pub fn why_not(&self) -> Option<String> {
        if !self.device {
            return Some(match self.driver {
                Driver::Loadable => "the module is not loaded: run `modprobe nbd`".into(),
                Driver::Running | Driver::BuiltIn => "this /dev has no /dev/nbd0: pass one in".into(),
                Driver::Uninstalled | Driver::Absent => "this kernel has no nbd driver (CONFIG_BLK_DEV_NBD)".into(),
                Driver::Unknown => {
                    "there is no /dev/nbd0: run `modprobe nbd`, on the host if this is a container".into()
                }
            });
        }
        self.client.is_none().then(|| "the program nbd-client is not installed (package nbd-client or nbd)".into())
    }
}

fn open_control(path: &Path) -> ControlDevice {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => ControlDevice::Open,
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound => ControlDevice::Missing,
            io::ErrorKind::PermissionDenied => ControlDevice::Denied,
            _ => ControlDevice::Broken(e.to_string()),
        },
    }
}

/// Whether a line of `file` ends with the word `word`.
fn has_word(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|l| l.split_whitespace().next_back() == Some(word)))
}

fn system_id(root: &Path) -> String {
    let text = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let id = text.lines().find_map(|l| l.strip_prefix("ID="));
    id.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
