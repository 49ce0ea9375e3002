//! The control socket: one line of JSON asks, one line of JSON answers.
//!
//! Requests: `{"op":"status"}`. Answers: `{"ok":...}` or `{"error":"..."}`. The socket has mode 0600, so only the
//! user who runs the server (and root) can ask.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::socket::{SocketError, SocketFile, is_socket, listen_on};

/// Longest request line, in bytes.
const MAX_REQUEST: u64 = 4096;
/// Longest answer that a client reads, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 16;
/// Longest wait of either side for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sockets looked at in a runtime directory.
const MAX_SOCKETS: usize = 1024;

/// What a server tells about itself.
pub trait StatusSource: Send + Sync + 'static {
    /// The state right now; must not block.
    fn status(&self) -> Value;
}

/// Why a server could not be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens behind the socket file.
    #[error("no server listens on {0} any more")]
    Stale(String),
    /// The server answered with an error, or not with an answer.
    #[error("{path}: {why}")]
    Answer {
        /// The socket.
        path: String,
        /// What came back.
        why: String,
    },
    /// The socket could not be used.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound control socket.
pub struct ControlServer {
    listener: UnixListener,
    file: SocketFile,
}

impl ControlServer {
    /// Binds `path`.
    ///
    /// # Errors
    /// Those of [`listen_on`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let (listener, file) = listen_on(path, 0o600)?;
        Ok(Self { listener, file })
    }

    /// Binds `<dir>/<stem>.sock`, or `<stem>-2.sock` and so on where servers already answer.
    ///
    /// # Errors
    /// Those of [`listen_on`].
    pub fn bind_in(dir: &Path, stem: &str) -> Result<Self, SocketError> {
        let mut last = Self::bind(&dir.join(format!("{stem}.sock")));
        for n in 2..=64 {
            if !matches!(last, Err(SocketError::InUse(_))) {
                break;
            }
            last = Self::bind(&dir.join(format!("{stem}-{n}.sock")));
        }
        last
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Answers until the future is dropped.
    pub async fn run(&self, source: Arc<dyn StatusSource>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let source = source.clone();
                    tokio::spawn(async move {
                        // A client that is slow or gone concerns nobody else.
                        drop(timeout(PATIENCE, answer(stream, &*source)).await);
                        drop(slot);
                    });
                }
                Err(e) => {
                    tracing::warn!("control socket {}: accept: {e}", self.path().display());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(stream: UnixStream, source: &dyn StatusSource) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(read).take(MAX_REQUEST).read_until(b'\n', &mut line).await?;
    let op = serde_json::from_slice::<Value>(&line).ok().and_then(|v| v.get("op")?.as_str().map(str::to_owned));
    let answer = match op.as_deref() {
        Some("status") => json!({ "ok": source.status() }),
        Some(other) => json!({ "error": format!("unknown request {other:?}") }),
        None => json!({ "error": "the request is not one line of JSON with an \"op\"" }),
    };
    let mut bytes = answer.to_string().into_bytes();
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Asks the server behind `path` for its status.
///
/// # Errors
/// [`ControlError::Stale`] where nobody listens there, the others where the answer is none.
pub async fn ask_status(path: &Path) -> Result<Value, ControlError> {
    let bad = |why: String| ControlError::Answer { path: path.display().to_string(), why };
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"{\"op\":\"status\"}\n").await?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    };
    let bytes = match timeout(PATIENCE, exchange).await {
        Err(_) => return Err(bad(format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(ControlError::Stale(path.display().to_string()));
        }
        Ok(Err(source)) => return Err(ControlError::Io { path: path.display().to_string(), source }),
        Ok(Ok(bytes)) => bytes,
    };
    let mut answer: Value = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not an answer: {e}")))?;
    match answer.get_mut("ok").map(Value::take) {
        Some(status) => Ok(status),
        None => Err(bad(answer.get("error").and_then(Value::as_str).unwrap_or("not an answer").to_owned())),
    }
}

/// The control sockets in a runtime directory, by name; some may be stale. None where there is no such directory.
///
/// # Errors
/// Where the directory cannot be read.
pub fn find_sockets(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let named = |p: &PathBuf| p.extension().is_some_and(|e| e == "sock") && is_socket(p);
    let mut found: Vec<_> = entries.flatten().map(|e| e.path()).filter(named).take(MAX_SOCKETS).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Fixed;

    impl StatusSource for Fixed {
        fn status(&self) -> Value {
            json!({"volumes": [{"name": "v"}]})
        }
    }

    async fn ask_raw(path: &Path, request: &[u8]) -> Value {
        let mut s = UnixStream::connect(path).await.unwrap();
        s.write_all(request).await.unwrap();
        s.shutdown().await.unwrap();
        let mut out = Vec::new();
        s.read_to_end(&mut out).await.unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[tokio::test]
    async fn status_comes_back_and_nonsense_gets_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(ControlServer::bind_in(dir.path(), "pool").unwrap());
        let path = server.path().to_path_buf();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let running = tokio::spawn({
            let server = server.clone();
            async move { server.run(Arc::new(Fixed)).await }
        });
        assert_eq!(ask_status(&path).await.unwrap()["volumes"][0]["name"], "v");
        for nonsense in [&b"{\"op\":\"explode\"}\n"[..], b"\n", b"{}", b"\xff\xff\n", b"[1"] {
            assert!(ask_raw(&path, nonsense).await["error"].is_string());
        }
        assert!(ask_raw(&path, &[b'x'; MAX_REQUEST as usize]).await["error"].is_string());
        // Idle connections up to the bound do not stop the server for good, and below it not at all.
        let idle = futures::future::join_all((0..MAX_CONNECTIONS - 1).map(|_| UnixStream::connect(&path))).await;
        assert!(ask_status(&path).await.is_ok());
        drop(idle);
        running.abort();
        assert!(running.await.is_err());
        drop(server);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_living_server_keeps_its_path_and_a_dead_ones_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves the file behind
        assert!(matches!(ask_status(&path).await, Err(ControlError::Stale(_))));
        let first = ControlServer::bind(&path).unwrap();
        assert!(matches!(ControlServer::bind(&path), Err(SocketError::InUse(_))));
        let second = ControlServer::bind_in(dir.path(), "pool").unwrap();
        assert_eq!(second.path(), dir.path().join("pool-2.sock"));
        fs::write(dir.path().join("other.sock"), "").unwrap();
        assert_eq!(find_sockets(dir.path()).unwrap(), [second.path(), first.path()]);
        assert_eq!(find_sockets(&dir.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }
}
