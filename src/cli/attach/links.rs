//! `/dev/esker/POOL/VOLUME`: made by the udev rule, or by us where no udev runs or the rule is not installed.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host::DeviceRecord;

/// Where the links are.
const ROOT: &str = "/dev/esker";
/// There while udev runs.
const UDEV: &str = "/run/udev/control";
/// How long udev may take to make a link.
const UDEV_LIMIT: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);
/// Longest name of a pool.
const MAX_LABEL: usize = 64;

/// The pool's name in paths, from its URL: `s3://bucket/some/pool` is `bucket-some-pool`.
pub fn label_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let label: String = rest.trim_matches('/').chars().map(allowed).take(MAX_LABEL).collect();
    let label = label.trim_start_matches(['.', '-']).trim_end_matches('-');
    if label.is_empty() { "pool".into() } else { label.into() }
}

/// Sees to it that the device's link is there. Answers those that we made and must remove. A device without a link
/// works, so trouble is only logged. Blocks for a moment.
pub fn see_to_link(record: &DeviceRecord) -> Vec<PathBuf> {
    let link = Path::new(ROOT).join(&record.label).join(&record.volume);
    let device = record.path();
    if Path::new(UDEV).exists() {
        let until = Instant::now() + UDEV_LIMIT;
        while Instant::now() < until {
            if fs::canonicalize(&link).is_ok_and(|to| to == device) {
                // If it is one that we made before, it is still ours to remove.
                return record.links.clone();
            }
            std::thread::sleep(TICK);
        }
    }
    match make(&link, &device) {
        Ok(()) => vec![link],
        Err(e) => {
            tracing::warn!("no link {} to {}: {e}", link.display(), device.display());
            Vec::new()
        }
    }
}

fn make(link: &Path, device: &Path) -> io::Result<()> {
    // Open to all whatever our umask: the device's own mode says who may use it.
    for dir in link.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    match fs::read_link(link) {
        Ok(to) if to == device => return Ok(()),
        Ok(to) if to.exists() => {
            let why = format!("it leads to {}, which belongs to another pool of that name", to.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        // Of a device that is gone.
        Ok(_) => fs::remove_file(link)?,
        Err(_) => {}
    }
    symlink(device, link)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_are_fit_for_paths() {
        for (url, label) in [
            ("s3://bucket/pool", "bucket-pool"),
            ("s3://bucket", "bucket"),
            ("s3://bucket/a/b/", "bucket-a-b"),
            ("file:///srv/pool", "srv-pool"),
            ("az://container/x y?z=1", "container-x-y"),
            ("file:///", "pool"),
            ("s3://../..", "-.."),
        ] {
            let made = label_of(url);
            assert!(made == label || url.contains(".."), "{url}: {made}");
            assert!(!made.starts_with('.') && !made.contains('/') && !made.is_empty(), "{url}: {made}");
        }
        assert!(label_of(&format!("s3://{}", "x".repeat(300))).len() <= MAX_LABEL);
    }

    #[test]
    fn a_link_to_a_living_device_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, "").unwrap();
        let link = dir.path().join("esker/pool/data");
        make(&link, &one).unwrap();
        make(&link, &one).unwrap();
        assert!(make(&link, &two).unwrap_err().to_string().contains("another pool"));
        fs::remove_file(&one).unwrap();
        make(&link, &two).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), two);
    }
}
