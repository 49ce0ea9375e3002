//! Unix sockets that are never open to more users than asked for, and that outlive no server.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Why a socket could not be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A living server answers at this path.
    #[error("another server is listening on {0}; stop it, or choose another path")]
    InUse(String),
    /// The path cannot hold a socket.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The file of a listening socket; removed on drop.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Listens on `path`, with permission bits `mode` from the first moment on. A socket file that nobody listens on is
/// replaced; a file of any other kind is left alone. Needs a tokio runtime.
///
/// # Errors
/// [`SocketError::InUse`] where a server answers there.
pub fn listen_on(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |source| SocketError::Io { path: path.display().to_string(), source };
    // Two servers that find the same stale file must not remove each other's new one.
    let lock = fs::File::open(directory(path)).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(SocketError::InUse(path.display().to_string())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {} // absent, or something that bind will name
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    // The file takes the mode of the descriptor it is bound by (less the umask, so it is set again after).
    fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
    socket.bind(path).map_err(failed)?;
    let file = SocketFile { path: path.to_path_buf() };
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
    Ok((socket.listen(BACKLOG).map_err(failed)?, file))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` is a socket, whoever listens.
pub(super) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_mode_is_as_asked_and_the_file_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for mode in [0o600, 0o666] {
            let (_listener, file) = listen_on(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(file.path(), path);
            drop(file);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(is_socket(&path));
        let _held = listen_on(&path, 0o600).unwrap();
        assert!(matches!(listen_on(&path, 0o600), Err(SocketError::InUse(_))));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(listen_on(&path, 0o600), Err(SocketError::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        assert!(listen_on(&dir.path().join("no/such/dir"), 0o600).is_err());
    }
}
