//! The ring's file: made whole or not at all, locked, on tmpfs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, FlockOperation, RenameFlags, fallocate, flock, fstatfs, renameat_with};
use rustix::io::Errno;

use super::error::RingError;
use super::layout::{DATA_AT, Fixed, FixedRead, VERSION};

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// An I/O error with what was tried.
pub(super) fn io_error(what: &'static str, path: &Path, source: impl Into<io::Error>) -> RingError {
    RingError::Io { what, path: path.to_owned(), source: source.into() }
}

/// Makes a whole new ring file under `path` and answers it locked. A crash leaves no file of that name, or all of it.
pub(super) fn create(path: &Path, fixed: &Fixed, require_tmpfs: bool) -> Result<File, RingError> {
    // Only a courtesy; the rename decides.
    if path.symlink_metadata().is_ok() {
        return Err(RingError::Exists { path: path.to_owned() });
    }
    let draft = draft_path(path);
    let file = new_draft(path, &draft)?;
    let filled = fill(path, &file, fixed, require_tmpfs).and_then(|()| {
        renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE).map_err(|e| match e {
            Errno::EXIST => RingError::Exists { path: path.to_owned() },
            e => io_error("naming the journal", path, e),
        })
    });
    if filled.is_err() {
        drop(std::fs::remove_file(&draft));
    }
    filled.map(|()| file)
}

fn draft_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// A new, empty, locked draft; one that a dead process left is replaced.
fn new_draft(path: &Path, draft: &Path) -> Result<File, RingError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    match options.open(draft) {
        Ok(stale) => {
            lock(&stale, path)?;
            std::fs::remove_file(draft).map_err(|e| io_error("removing an unfinished journal beside", path, e))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error("opening an unfinished journal beside", path, e)),
    }
    let file = match options.create_new(true).open(draft) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(RingError::Busy { path: path.to_owned() }),
        Err(e) => return Err(io_error("making the journal", path, e)),
    };
    lock(&file, path)?;
    Ok(file)
}

fn fill(path: &Path, file: &File, fixed: &Fixed, require_tmpfs: bool) -> Result<(), RingError> {
    check_tmpfs(path, file, require_tmpfs)?;
    allocate(path, file, DATA_AT + fixed.bytes)?;
    file.write_all_at(&fixed.page(), 0).map_err(|e| io_error("writing the journal", path, e))
}

/// Opens and locks the ring file, and makes sure that `path` still names it.
pub(super) fn open(path: &Path, require_tmpfs: bool) -> Result<(File, Fixed), RingError> {
    let file = open_plain(path, true)?;
    lock(&file, path)?;
    let ours = file.metadata().map_err(|e| io_error("looking at the journal", path, e))?;
    match path.symlink_metadata() {
        Ok(m) if (m.dev(), m.ino()) == (ours.dev(), ours.ino()) => {}
        // Removed or replaced before the lock was had.
        _ => return Err(RingError::NotFound { path: path.to_owned() }),
    }
    check_tmpfs(path, &file, require_tmpfs)?;
    let fixed = read_fixed(path, &file)?;
    allocate(path, &file, DATA_AT + fixed.bytes)?;
    Ok((file, fixed))
}

/// Opens the ring file to look at it.
pub(super) fn open_to_look(path: &Path) -> Result<(File, Fixed), RingError> {
    let file = open_plain(path, false)?;
    let fixed = read_fixed(path, &file)?;
    Ok((file, fixed))
}

/// Whether somebody else holds the ring now.
pub(super) fn is_busy(path: &Path, file: &File) -> Result<bool, RingError> {
    // Let go at once: who opens the ring meanwhile must not be refused for long.
    let asked = flock(file, FlockOperation::NonBlockingLockShared).and_then(|()| flock(file, FlockOperation::Unlock));
    match asked {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(io_error("locking the journal", path, e)),
    }
}

fn open_plain(path: &Path, write: bool) -> Result<File, RingError> {
    let mut options = OpenOptions::new();
    // Not blocking: a fifo of that name must not hang us.
    options.read(true).write(write).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => RingError::NotFound { path: path.to_owned() },
        _ => io_error("opening the journal", path, e),
    })?;
    let meta = file.metadata().map_err(|e| io_error("looking at the journal", path, e))?;
    if !meta.is_file() {
        return Err(RingError::NotARing { path: path.to_owned(), why: "it is not a regular file" });
    }
    Ok(file)
}

fn read_fixed(path: &Path, file: &File) -> Result<Fixed, RingError> {
    let bad = |why| RingError::NotARing { path: path.to_owned(), why };
    let len = file.metadata().map_err(|e| io_error("looking at the journal", path, e))?.len();
    if len < DATA_AT {
        return Err(bad("it is too short"));
    }
    let mut page = vec![0; DATA_AT as usize];
    file.read_exact_at(&mut page, 0).map_err(|e| io_error("reading the journal", path, e))?;
    match Fixed::parse(&page, len) {
        FixedRead::Ok(fixed) => Ok(fixed),
        FixedRead::Newer(found) => Err(RingError::Version { path: path.to_owned(), found, newest: VERSION }),
        FixedRead::Bad(why) => Err(bad(why)),
    }
}

/// Takes the exclusive flock. Somebody who only looks holds a shared one for a moment, so a refusal is asked again.
fn lock(file: &File, path: &Path) -> Result<(), RingError> {
    for last in [false, false, false, false, true] {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if !last => std::thread::sleep(Duration::from_millis(10)),
            Err(Errno::WOULDBLOCK) => break,
            Err(e) => return Err(io_error("locking the journal", path, e)),
        }
    }
    Err(RingError::Busy { path: path.to_owned() })
}

fn check_tmpfs(path: &Path, file: &File, require: bool) -> Result<(), RingError> {
    if !require {
        return Ok(());
    }
    let fs = fstatfs(file).map_err(|e| io_error("looking at the file system of", path, e))?;
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    if fs.f_type as i64 == TMPFS_MAGIC { Ok(()) } else { Err(RingError::NotTmpfs { path: path.to_owned() }) }
}

/// Allocates every page, so that no later store can find the file system full (which would be a SIGBUS).
fn allocate(path: &Path, file: &File, len: u64) -> Result<(), RingError> {
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM) => {
                return Err(RingError::NoSpace { path: path.to_owned(), want: len });
            }
            Err(e) => return Err(io_error("allocating the journal", path, e)),
        }
    }
}

/// Removes `path` if it still names `file`.
pub(super) fn remove(path: &Path, file: &File) -> io::Result<()> {
    let (ours, named) = (file.metadata()?, path.symlink_metadata()?);
    if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "another file has the journal's name now"));
    }
    std::fs::remove_file(path)
}
