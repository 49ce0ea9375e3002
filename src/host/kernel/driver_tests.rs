//! Kernels and hosts as they are met.
#![allow(clippy::unwrap_used)]

use super::*;

fn facts(release: &str, control: ControlDevice, driver: Driver) -> UblkFacts {
    let release = Release::parse(release);
    UblkFacts { release, control, driver, io_uring: IoUring::Allowed, system: String::new() }
}

fn why(release: &str, control: ControlDevice, driver: Driver) -> String {
    facts(release, control, driver).why_not().unwrap()
}

#[test]
fn nothing_stands_against_a_device_that_opens() {
    assert_eq!(facts("6.12.0", ControlDevice::Open, Driver::Running).why_not(), None);
    assert_eq!(facts("mystery", ControlDevice::Open, Driver::Unknown).why_not(), None);
    let forbidden =
        UblkFacts { io_uring: IoUring::Refused(Some(2)), ..facts("6.12.0", ControlDevice::Open, Driver::Running) };
    assert!(forbidden.why_not().unwrap().contains("io_uring_disabled=2"));
}

#[test]
fn each_lack_names_its_remedy() {
    use ControlDevice::Missing;
    assert!(why("6.12.0", Missing, Driver::Loadable).contains("modprobe ublk_drv"));
    assert!(why("6.12.0", Missing, Driver::Running).contains("container"));
    assert!(why("6.12.0", Missing, Driver::BuiltIn).contains("--device"));
    assert!(why("6.12.0", Missing, Driver::Absent).contains("CONFIG_BLK_DEV_UBLK"));
    assert!(why("6.12.0", Missing, Driver::Unknown).contains("on the host"));
    assert!(why("6.12.0", ControlDevice::Denied, Driver::Running).contains("Run as root"));
    let broken = why("6.12.0", ControlDevice::Broken("No such device".into()), Driver::Loadable);
    assert!(broken.contains("No such device") && broken.contains("modprobe"));
}

#[test]
fn packages_are_named_where_they_are_known() {
    let why = |system: &str, release| {
        let facts = facts(release, ControlDevice::Missing, Driver::Uninstalled);
        UblkFacts { system: system.into(), ..facts }.why_not().unwrap()
    };
    assert!(why("ubuntu", "6.8.0-45-generic").contains("install linux-modules-extra-6.8.0-45-generic"));
    assert!(why("debian", "6.12.9-cloud-arm64").contains("install linux-image-arm64"));
    assert!(why("fedora", "6.11.4-301.fc41.x86_64").contains("kernel-modules-extra-6.11.4-301.fc41.x86_64"));
    assert!(why("arch", "6.11.4").contains("CONFIG_BLK_DEV_UBLK"));
}

#[test]
fn an_old_kernel_is_called_old_whatever_else_it_lacks() {
    let old = why("5.15.0-1", ControlDevice::Missing, Driver::Absent);
    assert!(old.contains("this kernel is 5.15.0-1, and ublk came with 6.0") && old.contains("6.5 or newer"), "{old}");
    let young = why("6.1.0-9-amd64", ControlDevice::Open, Driver::Running);
    assert!(young.contains("6.5 or newer") && !young.contains("came with"), "{young}");
}

#[test]
fn drivers_are_found_in_the_kernels_files() {
    let root = tempfile::tempdir().unwrap();
    let find = || Driver::find(root.path(), "6.12.0", "ublk_drv", "CONFIG_BLK_DEV_UBLK", false);
    assert_eq!(find(), Driver::Unknown);
    let modules = root.path().join("lib/modules/6.12.0");
    fs::create_dir_all(&modules).unwrap();
    assert_eq!(find(), Driver::Unknown);
    fs::write(modules.join("modules.dep"), "kernel/drivers/block/nbd.ko.xz:\n").unwrap();
    assert_eq!(find(), Driver::Absent);
    fs::create_dir(root.path().join("boot")).unwrap();
    fs::write(root.path().join("boot/config-6.12.0"), "CONFIG_BLK_DEV_UBLK=m\n").unwrap();
    assert_eq!(find(), Driver::Uninstalled);
    fs::write(root.path().join("boot/config-6.12.0"), "# CONFIG_BLK_DEV_UBLK is not set\n").unwrap();
    assert_eq!(find(), Driver::Absent);
    fs::write(modules.join("modules.dep"), "kernel/x.ko: kernel/y.ko\nkernel/drivers/block/ublk-drv.ko.zst:\n")
        .unwrap();
    assert_eq!(find(), Driver::Loadable);
    fs::write(modules.join("modules.builtin"), "kernel/drivers/block/ublk_drv.ko\n").unwrap();
    assert_eq!(find(), Driver::BuiltIn);
    assert_eq!(Driver::find(root.path(), "6.12.0", "ublk_drv", "", true), Driver::Running);
}

#[test]
fn a_made_up_host_is_gathered() {
    let root = tempfile::tempdir().unwrap();
    for dir in ["dev", "proc", "etc", "usr/sbin"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    fs::write(root.path().join("etc/os-release"), "NAME=\"X\"\nID=\"ubuntu\"\nID_LIKE=debian\n").unwrap();
    let found = UblkFacts::gather(root.path());
    assert_eq!((found.system.as_str(), &found.control), ("ubuntu", &ControlDevice::Missing));
    fs::write(root.path().join("dev/ublk-control"), "").unwrap();
    fs::write(root.path().join("proc/misc"), "120 ublk-control\n231 snapshot\n").unwrap();
    let found = UblkFacts::gather(root.path());
    assert_eq!((found.driver, found.control), (Driver::Running, ControlDevice::Open));
    fs::remove_file(root.path().join("dev/ublk-control")).unwrap();
    fs::create_dir(root.path().join("dev/ublk-control")).unwrap();
    assert!(matches!(open_control(&root.path().join(CONTROL)), ControlDevice::Broken(_)));

    let nbd = NbdFacts::gather(root.path(), "/bin:relative");
    assert!(nbd.client.is_none() && !nbd.device && nbd.why_not().unwrap().contains("nbd"));
    fs::write(root.path().join("usr/sbin/nbd-client"), "").unwrap();
    fs::write(root.path().join("dev/nbd0"), "").unwrap();
    fs::write(root.path().join("proc/devices"), "Block devices:\n 43 nbd\n").unwrap();
    let nbd = NbdFacts::gather(root.path(), "/bin");
    assert_eq!((nbd.driver, nbd.why_not()), (Driver::Running, None));
}
