//! `/proc/self/mountinfo`: which filesystem a path lies on, where its device number alone does not say.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo (see proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Major and minor of `st_dev` for files on it.
    pub dev: (u32, u32),
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type, such as `ext4` or `fuse.nbdfuse`.
    pub fs_type: String,
    /// The device or name it was mounted from.
    pub source: OsString,
    /// Options of the filesystem itself.
    pub options: OsString,
}

impl Mount {
    /// Whether the option `name`, one without a value, is set.
    pub fn has_flag(&self, name: &str) -> bool {
        split_unescaped(self.options.as_encoded_bytes(), b',').contains(&name.as_bytes())
    }

    /// The value of a `name=value` option.
    pub fn option(&self, name: &str) -> Option<PathBuf> {
        let bytes = self.options.as_encoded_bytes();
        let prefix = format!("{name}=");
        split_unescaped(bytes, b',').into_iter().find_map(|o| {
            o.strip_prefix(prefix.as_bytes()).map(|v| PathBuf::from(OsString::from_vec(unescape_backslash(v))))
        })
    }
}

/// Parses mountinfo; lines that do not look like mounts are passed over.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ').filter(|f| !f.is_empty());
    let dev = parse_dev(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let point = unescape_octal(fields.nth(1)?);
    fields.find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape_octal(fields.next()?);
    let options = fields.next().map(unescape_octal).unwrap_or_default();
    Some(Mount { dev, point: point.into(), fs_type, source, options })
}

/// `MAJOR:MINOR`, as sysfs and mountinfo write it.
pub(super) fn parse_dev(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The mount that a canonical path lies on: the last one at the longest mount point that is a prefix of it.
pub(super) fn covering<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // Of several at the same point the later one lies on top, and max_by_key answers the last of equals.
    mounts.iter().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.components().count())
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape_octal(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field.get(i + 1..i + 4).filter(|d| field[i] == b'\\' && d.iter().all(|c| (b'0'..b'8').contains(c)));
        if let Some(d) = octal {
            let value = d.iter().fold(0u32, |v, c| v * 8 + u32::from(c - b'0'));
            out.push(value as u8);
            i += 4;
        } else {
            out.push(field[i]);
            i += 1;
        }
    }
    OsString::from_vec(out)
}

/// Splits where `at` is not preceded by a backslash (overlay escapes colons and commas so).
pub(super) fn split_unescaped(bytes: &[u8], at: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut i) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 1,
            b if b == at => {
                parts.push(&bytes[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        i += 1;
    }
    parts.push(&bytes[start..]);
    parts
}

fn unescape_backslash(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&b) = rest.next() {
        if b != b'\\' {
            out.push(b);
        } else if let Some(&escaped) = rest.next() {
            out.push(escaped);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_with_optional_fields_and_escapes_parse() {
        let text = b"36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                     garbage\n40 1 0:33 / / rw - tmpfs tmpfs rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].dev, (98, 0));
        assert_eq!(mounts[0].point, Path::new("/mnt/a b"));
        assert_eq!(mounts[0].fs_type, "ext3");
        assert_eq!(mounts[0].source, "/dev/root");
        assert_eq!(mounts[0].option("errors").unwrap(), Path::new("continue"));
        assert!(mounts[0].has_flag("rw") && !mounts[0].has_flag("r") && !mounts[0].has_flag("errors"));
        assert_eq!(mounts[1].option("errors"), None);
    }

    #[test]
    fn the_longest_and_last_mount_point_covers() {
        let text =
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /a rw - tmpfs one rw\n3 1 0:6 / /a rw - tmpfs two rw\n\
                     4 1 0:7 / /a/b rw - tmpfs three rw\n";
        let mounts = parse(text);
        assert_eq!(covering(&mounts, Path::new("/a/x")).unwrap().source, "two");
        assert_eq!(covering(&mounts, Path::new("/a/b/x")).unwrap().source, "three");
        assert_eq!(covering(&mounts, Path::new("/ab")).unwrap().source, "/dev/sda1");
    }

    #[test]
    fn overlay_options_split_at_unescaped_separators() {
        assert_eq!(split_unescaped(b"a\\:b:c", b':'), [&b"a\\:b"[..], b"c"]);
        let m = parse(b"1 0 0:5 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\134,x,workdir=/w\n");
        assert_eq!(m[0].option("upperdir").unwrap(), Path::new("/u,x"));
    }
}
