//! Locks of open file descriptions (fcntl(2), `F_OFD_SETLK`): they go with the descriptor, as those of flock(2) do, and can
//! be looked at without being taken. Whoever takes a lock to look at it makes another's attempt fail.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes the lock of `file`, which is open for writing; false where somebody else has it.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, libc::F_OFD_SETLK) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether somebody else has the lock of `file`.
pub(super) fn is_locked(file: &File) -> io::Result<bool> {
    Ok(fcntl(file, libc::F_OFD_GETLK)?.l_type != libc::F_UNLCK as libc::c_short)
}

fn fcntl(file: &File, command: libc::c_int) -> io::Result<libc::flock> {
    // The whole file. Open file descriptions have no pid: it must be 0.
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // Safety: the descriptor is open, and `lock` is what these commands read and write.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0.. => Ok(lock),
        _ => Err(io::Error::last_os_error()),
    }
}
