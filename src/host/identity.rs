//! Who this host is, which boot of it this is, and where its files go.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::env::Env;

/// Makes the host id ours alone: machine-id(5) asks not to publish the id itself.
const HOST_ID_TAG: &[u8] = b"esker host id v1\0";

/// Where machine and boot ids are read from instead of `/`.
const ROOT_VARIABLE: &str = "ESKER_HOST_ROOT";

/// `f_type` of tmpfs in statfs(2).
const TMPFS_MAGIC: u32 = 0x0102_1994;
/// `f_type` of ramfs in statfs(2).
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// A host and one boot of it. Another boot of the same host may take a volume over without asking, so an id must
/// never be shared by two machines; that it changes needlessly costs one `--takeover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The host, across boots.
    pub host: [u8; 16],
    /// This boot of it.
    pub boot: [u8; 16],
    /// The name people know it by.
    pub hostname: String,
}

impl HostIdentity {
    /// Reads it from the running system. Where the hardware's UUID cannot be read, a random id kept in `state_dir` takes
    /// its place: a machine id alone can be shared by the copies of an image.
    ///
    /// The variable `ESKER_HOST_ROOT` names another root to read the machine id and the boot id below: with it a test poses
    /// as another host, or as another boot of this one. It is of no use to others, and two hosts that are given the same
    /// identity can take volumes from each other without asking.
    ///
    /// # Errors
    /// Where the boot id cannot be read, or a random host id can be neither read nor written.
    pub fn of_this_host(state_dir: &Path, env: &Env) -> io::Result<Self> {
        Self::read(&identity_root(), state_dir, env)
    }

    fn read(root: &Path, state_dir: &Path, env: &Env) -> io::Result<Self> {
        let own = match hardware_uuid(root) {
            Some(uuid) => uuid.into_bytes(),
            None => kept_host_id(state_dir, env)?.to_vec(),
        };
        let host = host_id(&machine_id(root).unwrap_or_default(), &own);
        let boot = read_boot_id(root)?;
        let hostname = hostname::get().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|_| "unknown".into());
        Ok(Self { host, boot, hostname })
    }
}

/// The id of this boot, as [`HostIdentity`] has it.
///
/// # Errors
/// Where it cannot be read.
pub fn boot_id() -> io::Result<[u8; 16]> {
    read_boot_id(&identity_root())
}

fn identity_root() -> PathBuf {
    std::env::var_os(ROOT_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn read_boot_id(root: &Path) -> io::Result<[u8; 16]> {
    let file = root.join("proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(&file)?;
    parse_uuid(text.trim()).ok_or_else(|| io::Error::other(format!("{} does not hold a UUID", file.display())))
}

/// The machine id, in lower case; `None` where there is none yet.
fn machine_id(root: &Path) -> Option<String> {
    let machine = fs::read_to_string(root.join("etc/machine-id")).ok()?;
    let machine = machine.trim();
    // Empty, or "uninitialized" before the first boot.
    let valid = machine.len() == 32 && machine.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| machine.to_ascii_lowercase())
}

/// The hardware's UUID: only root may read it, and not every machine has one.
fn hardware_uuid(root: &Path) -> Option<String> {
    let uuid = fs::read_to_string(root.join("sys/class/dmi/id/product_uuid")).ok()?;
    let uuid = uuid.trim();
    (!uuid.is_empty()).then(|| uuid.to_ascii_lowercase())
}

/// A digest: the ids themselves are nobody else's business.
fn host_id(machine: &str, own: &[u8]) -> [u8; 16] {
    let mut text = HOST_ID_TAG.to_vec();
    text.extend_from_slice(machine.as_bytes());
    text.push(0);
    text.extend_from_slice(own);
    let mut id = [0; 16];
    id.copy_from_slice(&digest(&SHA256, &text).as_ref()[..16]);
    id
}

fn kept_host_id(state_dir: &Path, env: &Env) -> io::Result<[u8; 16]> {
    let file = state_dir.join("host-id");
    if let Some(id) = read_kept(&file)? {
        return Ok(id);
    }
    make_private_dir(state_dir)?;
    // Linked into place whole, so that of two who make one at once both end up with the same.
    let temporary = state_dir.join(format!("host-id.{}", hex16(&env.random16())));
    fs::write(&temporary, format!("{}\n", hex16(&env.random16())))?;
    fs::File::open(&temporary)?.sync_all()?;
    let linked = fs::hard_link(&temporary, &file);
    fs::remove_file(&temporary)?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => read_kept(&file)?.ok_or_else(|| io::Error::other(format!("{} vanished", file.display()))),
    }
}

fn read_kept(file: &Path) -> io::Result<Option<[u8; 16]>> {
    match fs::read_to_string(file) {
        Ok(text) => match parse_uuid(text.trim()) {
            Some(id) => Ok(Some(id)),
            None => Err(io::Error::other(format!("{} does not hold an id: remove it", file.display()))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// 32 hex digits, hyphens ignored.
pub(super) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |b: u8| char::from(b).to_digit(16);
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    Some(id)
}

/// 16 bytes as 32 lower-case hex digits.
pub fn hex16(id: &[u8; 16]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where files go on this host, for this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Kept across boots: high-water marks, a random host id.
    pub state: PathBuf,
    /// Sockets; gone with the boot.
    pub runtime: PathBuf,
    /// Journal rings: on tmpfs, so that they outlive the process and not the boot.
    pub journal: PathBuf,
}

impl Dirs {
    /// The defaults for the user who runs this process. Nothing is created; see [`make_private_dir`].
    pub fn of_this_user() -> Self {
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        Self::choose(rustix::process::geteuid().as_raw(), var, |p| is_tmpfs(p).unwrap_or(false))
    }

    fn choose(uid: u32, var: impl Fn(&str) -> Option<PathBuf>, tmpfs: impl Fn(&Path) -> bool) -> Self {
        if uid == 0 {
            let journal = if tmpfs(Path::new("/run")) { "/run/esker" } else { "/dev/shm/esker" };
            return Self { state: "/var/lib/esker".into(), runtime: "/run/esker".into(), journal: journal.into() };
        }
        let shared = PathBuf::from(format!("/dev/shm/esker-{uid}"));
        let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|h| h.join(".local/state")));
        let runtime = var("XDG_RUNTIME_DIR");
        let journal = runtime.as_deref().filter(|d| tmpfs(d)).map_or_else(|| shared.clone(), |d| d.join("esker"));
        Self {
            state: state.map_or_else(|| shared.join("state"), |d| d.join("esker")),
            runtime: runtime.map_or(shared, |d| d.join("esker")),
            journal,
        }
    }
}

/// Whether the filesystem at `path`, or at the nearest directory above it that exists, is in memory.
///
/// # Errors
/// Those of statfs(2).
pub fn is_tmpfs(path: &Path) -> io::Result<bool> {
    let path = std::path::absolute(path)?;
    for p in path.ancestors() {
        match rustix::fs::statfs(p) {
            Ok(s) => {
                // The width and sign of the field differ by architecture; the number is 32 bits.
                let magic = s.f_type as u32;
                return Ok(magic == TMPFS_MAGIC || magic == RAMFS_MAGIC);
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

/// Creates `dir` with mode 0700 where it is missing, and refuses one that another user owns or can enter: /dev/shm is
/// open to all, so somebody may have been there first.
///
/// # Errors
/// Those of mkdir(2), and PermissionDenied where the directory is not private.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot create {}: {e}", dir.display())))?;
    let m = fs::symlink_metadata(dir)?;
    let uid = rustix::process::geteuid().as_raw();
    let why = if !m.is_dir() {
        "is not a directory".into()
    } else if m.uid() != uid {
        format!("belongs to user {}, not to {uid}", m.uid())
    } else if m.mode() & 0o022 != 0 {
        format!("can be written by others (mode {:04o})", m.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let hint = "choose another directory, or remove this one";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}: {hint}", dir.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn test_env() -> Env {
        Env::system(tokio::runtime::Handle::current()).unwrap()
    }

    fn root(machine_id: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("proc/sys/kernel/random");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("boot_id"), "0d1d5a0e-1f7b-4d2b-9c55-0123456789ab\n").unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        if let Some(id) = machine_id {
            fs::write(dir.path().join("etc/machine-id"), id).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn the_host_id_follows_machine_and_hardware_and_does_not_show_them() {
        let id = "0123456789abcdef0123456789abcdef";
        let (a, state) = (root(Some(&format!("{id}\n"))), tempfile::tempdir().unwrap());
        let first = HostIdentity::read(a.path(), state.path(), &test_env()).unwrap();
        assert_eq!(first, HostIdentity::read(a.path(), state.path(), &test_env()).unwrap());
        assert_ne!(hex16(&first.host), id);
        assert_eq!(hex16(&first.boot), "0d1d5a0e1f7b4d2b9c550123456789ab");
        assert!(!first.hostname.is_empty());

        let dmi = a.path().join("sys/class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        fs::write(dmi.join("product_uuid"), "4C4C4544-0000-1111-2222-333333333333\n").unwrap();
        assert_ne!(HostIdentity::read(a.path(), state.path(), &test_env()).unwrap().host, first.host);
    }

    #[tokio::test]
    async fn without_a_machine_id_a_random_one_is_kept() {
        for machine in [None, Some(""), Some("uninitialized\n")] {
            let (a, state) = (root(machine), tempfile::tempdir().unwrap());
            let dir = state.path().join("esker");
            let first = HostIdentity::read(a.path(), &dir, &test_env()).unwrap();
            let again = HostIdentity::read(a.path(), &dir, &test_env()).unwrap();
            assert_eq!(first.host, again.host);
            assert_ne!(first.host, [0; 16]);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");
            fs::write(dir.join("host-id"), "damaged").unwrap();
            assert!(HostIdentity::read(a.path(), &dir, &test_env()).unwrap_err().to_string().contains("host-id"));
        }
    }

    #[tokio::test]
    async fn the_real_host_has_an_identity() {
        let state = tempfile::tempdir().unwrap();
        HostIdentity::of_this_host(state.path(), &test_env()).unwrap();
    }

    #[test]
    fn directories_by_user_and_surroundings() {
        let none = |_: &str| None;
        let root = Dirs::choose(0, none, |_| true);
        assert_eq!(root.journal, Path::new("/run/esker"));
        assert_eq!(root.state, Path::new("/var/lib/esker"));
        assert_eq!(Dirs::choose(0, none, |_| false).journal, Path::new("/dev/shm/esker"));

        let user = |n: &str| match n {
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let dirs = Dirs::choose(7, user, |_| true);
        assert_eq!(dirs.state, Path::new("/home/u/.local/state/esker"));
        assert_eq!(dirs.runtime, Path::new("/run/user/7/esker"));
        assert_eq!(dirs.journal, Path::new("/run/user/7/esker"));
        assert_eq!(Dirs::choose(7, user, |_| false).journal, Path::new("/dev/shm/esker-7"));
        assert_eq!(Dirs::choose(7, none, |_| true).runtime, Path::new("/dev/shm/esker-7"));
    }

    #[test]
    fn private_directories_are_made_so_and_open_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let private = dir.path().join("a/b");
        make_private_dir(&private).unwrap();
        make_private_dir(&private).unwrap();
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&private, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make_private_dir(&private).unwrap_err().to_string().contains("0777"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("a"), &link).unwrap();
        assert!(make_private_dir(&link).is_err());
    }

    #[test]
    fn tmpfs_is_told_from_others() {
        assert!(is_tmpfs(Path::new("/dev/shm/not/there")).unwrap());
        assert!(!is_tmpfs(Path::new("/proc")).unwrap());
    }
}
