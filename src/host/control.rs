//! The control socket: one line of JSON asks, lines of JSON answer.
//!
//! Requests: `{"op":"status"}`, and what the server's [`StatusSource`] offers besides. Answers: any number of
//! `{"progress":"..."}` (at least one every two seconds, null where there is nothing new), then `{"ok":...}` or
//! `{"error":"...","exit":N}`. The socket has mode 0600, so only the user who runs the server (and root) can ask.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::socket::{SocketError, SocketFile, is_socket, listen_on};

/// Longest request line, in bytes.
const MAX_REQUEST: u64 = 4096;
/// Longest answer that a client reads, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 16;
/// Longest wait of either side for the other's next line.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a server that is at work says so.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Messages of progress that may wait to be sent.
const MESSAGES: usize = 16;
/// Sockets looked at in a runtime directory.
const MAX_SOCKETS: usize = 1024;

/// What a server tells about itself.
pub trait StatusSource: Send + Sync + 'static {
    /// The state right now; must not block.
    fn status(&self) -> Value;

    /// Does what else it is asked for; `None` where it does not know the operation. The future is dropped when the client
    /// goes away: work that must be finished runs in a task of its own.
    fn operate<'a>(
        &'a self,
        op: &'a str,
        request: &'a Value,
        say: Say,
    ) -> Option<BoxFuture<'a, Result<Done, Refusal>>> {
        let _ = (op, request, say);
        None
    }
}

/// Tells a client how far its request is.
#[derive(Debug, Clone)]
pub struct Say(mpsc::Sender<String>);

impl Say {
    /// Says it, or drops it if the client does not listen.
    pub fn progress(&self, text: impl Into<String>) {
        // Progress is no promise: the next message says more.
        drop(self.0.try_send(text.into()));
    }
}

/// A request that was carried out.
#[derive(Debug, Default)]
pub struct Done {
    /// What the client is told.
    pub answer: Value,
    /// Told once the answer is on its way.
    pub sent: Option<oneshot::Sender<()>>,
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for people.
    pub why: String,
    /// The exit code of the command that asked.
    pub exit: u8,
}

/// Why a server could not be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens behind the socket file.
    #[error("no server listens on {0} any more")]
    Stale(String),
    /// The server refuses, or could not do it.
    #[error("{}", .0.why)]
    Refused(Refusal),
    /// The server did not answer, or not with an answer.
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
                        drop(answer(stream, &*source).await);
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
    timeout(PATIENCE, BufReader::new(read).take(MAX_REQUEST).read_until(b'\n', &mut line)).await??;
    let request: Option<Value> = serde_json::from_slice(&line).ok();
    let op = request.as_ref().and_then(|v| v.get("op")?.as_str()).unwrap_or_default();
    let (say, said) = mpsc::channel(MESSAGES);
    let (answer, sent) = match (op, &request) {
        ("status", _) => (json!({ "ok": source.status() }), None),
        ("", _) | (_, None) => (json!({ "error": "the request is not one line of JSON with an \"op\"" }), None),
        (op, Some(request)) => match source.operate(op, request, Say(say)) {
            None => (json!({ "error": format!("unknown request {op:?}") }), None),
            Some(work) => match at_work(work, said, &mut write).await? {
                Ok(done) => (json!({ "ok": done.answer }), done.sent),
                Err(refusal) => (json!({ "error": refusal.why, "exit": refusal.exit }), None),
            },
        },
    };
    send(&mut write, &answer).await?;
    let closed = write.shutdown().await;
    if let Some(sent) = sent {
        // Nobody waits for it any more where the server ends for another reason.
        let _ = sent.send(());
    }
    closed
}

/// Passes on progress until the work is done.
async fn at_work(
    mut work: BoxFuture<'_, Result<Done, Refusal>>,
    mut said: mpsc::Receiver<String>,
    write: &mut OwnedWriteHalf,
) -> io::Result<Result<Done, Refusal>> {
    loop {
        let message = tokio::select! {
            outcome = &mut work => return Ok(outcome),
            Some(text) = said.recv() => Some(text),
            () = tokio::time::sleep(HEARTBEAT) => None,
        };
        send(write, &json!({ "progress": message })).await?;
    }
}

async fn send(write: &mut OwnedWriteHalf, line: &Value) -> io::Result<()> {
    let mut bytes = line.to_string().into_bytes();
    bytes.push(b'\n');
    timeout(PATIENCE, write.write_all(&bytes)).await?
}

/// Asks the server behind `path` for its status.
///
/// # Errors
/// Those of [`ask`].
pub async fn ask_status(path: &Path) -> Result<Value, ControlError> {
    ask(path, &json!({ "op": "status" }), |_| ()).await
}

/// Asks the server behind `path`, which may take its time: `progress` is told what it says meanwhile. Silence of ten
/// seconds is an error.
///
/// # Errors
/// [`ControlError::Stale`] where nobody listens there, [`ControlError::Refused`], the others where the answer is none.
pub async fn ask(path: &Path, request: &Value, mut progress: impl FnMut(&str)) -> Result<Value, ControlError> {
    let name = || path.display().to_string();
    let bad = |why: String| ControlError::Answer { path: name(), why };
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::ConnectionRefused => ControlError::Stale(name()),
        _ => ControlError::Io { path: name(), source: e },
    };
    let late = |_| bad(format!("no answer within {} s", PATIENCE.as_secs()));
    let mut stream = timeout(PATIENCE, UnixStream::connect(path)).await.map_err(late)?.map_err(failed)?;
    let line = format!("{request}\n");
    timeout(PATIENCE, stream.write_all(line.as_bytes())).await.map_err(late)?.map_err(failed)?;
    let mut lines = BufReader::new(stream.take(MAX_ANSWER));
    loop {
        let mut bytes = Vec::new();
        timeout(PATIENCE, lines.read_until(b'\n', &mut bytes)).await.map_err(late)?.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not an answer: {e}")))?;
        if let Some(message) = answer.get("progress") {
            message.as_str().into_iter().for_each(&mut progress);
            continue;
        }
        let exit = answer.get("exit").and_then(Value::as_u64).and_then(|n| u8::try_from(n).ok()).unwrap_or(1);
        return match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
            (Some(ok), _) => Ok(ok.clone()),
            (None, Some(why)) => Err(ControlError::Refused(Refusal { why: why.to_owned(), exit })),
            (None, None) => Err(bad("not an answer".into())),
        };
    }
}

/// Removes the socket at `path` if nobody listens behind it any more: its server was killed.
pub fn remove_stale_socket(path: &Path) {
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket(path)
        && std::os::unix::net::UnixStream::connect(path).is_err_and(refused)
        && let Err(e) = fs::remove_file(path)
    {
        tracing::warn!("{}: cannot be removed: {e}", path.display());
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

        fn operate<'a>(&'a self, op: &'a str, r: &'a Value, say: Say) -> Option<BoxFuture<'a, Result<Done, Refusal>>> {
            (op == "count").then(|| {
                let work = async move {
                    let to = r["to"].as_u64().ok_or(Refusal { why: "count to what?".into(), exit: 2 })?;
                    for n in 0..to {
                        say.progress(format!("{n}"));
                        tokio::task::yield_now().await;
                    }
                    Ok(Done { answer: json!(to), sent: None })
                };
                Box::pin(work) as BoxFuture<'a, _>
            })
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
        let mut heard = Vec::new();
        let count = |to: Value| json!({"op": "count", "to": to});
        assert_eq!(ask(&path, &count(json!(3)), |t| heard.push(t.to_owned())).await.unwrap(), 3);
        assert!(heard.len() <= 3 && heard.iter().all(|t| ["0", "1", "2"].contains(&t.as_str())), "{heard:?}");
        let refused = ask(&path, &count(json!("x")), |_| ()).await.unwrap_err();
        assert!(matches!(&refused, ControlError::Refused(r) if r.exit == 2), "{refused}");
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
        remove_stale_socket(&path);
        assert!(!path.exists());
        remove_stale_socket(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = ControlServer::bind(&path).unwrap();
        assert!(matches!(ControlServer::bind(&path), Err(SocketError::InUse(_))));
        let second = ControlServer::bind_in(dir.path(), "pool").unwrap();
        assert_eq!(second.path(), dir.path().join("pool-2.sock"));
        remove_stale_socket(first.path());
        fs::write(dir.path().join("other.sock"), "").unwrap();
        remove_stale_socket(&dir.path().join("other.sock"));
        assert_eq!(find_sockets(dir.path()).unwrap(), [second.path(), first.path()]);
        assert_eq!(find_sockets(&dir.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }
}
