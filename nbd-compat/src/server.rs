//! Accepting connections, and ending them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::exports::Exports;
use crate::handshake::{Handshake, HandshakeError};
use crate::options::ServerOptions;
use crate::session::Session;
use crate::socket::Socket;

/// Stack of a connection's thread in bytes; the device's quick paths run on it.
const STACK: usize = 1 << 20;
/// The pause after an accept that failed (too many open files, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections that were closed by force may take to go.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);

/// An NBD server. Clones share exports and limits, so that one server can listen in many places.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    options: ServerOptions,
    connections: Arc<Semaphore>,
    next_id: AtomicU64,
}

/// How a connection's thread is reached from outside.
struct Link {
    socket: Arc<Socket>,
    stopping: AtomicBool,
    gone: watch::Sender<bool>,
}

/// The connections of one listener. Dropped, it closes them all at once.
#[derive(Default)]
struct Links {
    open: Arc<Mutex<HashMap<u64, Arc<Link>>>>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Server {
    /// A server of `exports`.
    pub fn new(exports: Arc<dyn Exports>, options: ServerOptions) -> Self {
        let connections = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
        Self { shared: Arc::new(Shared { exports, options, connections, next_id: AtomicU64::new(0) }) }
    }

    /// Connections at this moment, handshakes included.
    pub fn connections(&self) -> usize {
        self.shared.options.max_connections.saturating_sub(self.shared.connections.available_permits())
    }

    /// Serves a unix socket until `shutdown` completes: then it accepts no more, finishes the requests in flight
    /// (within `drain_timeout`), closes the connections and returns. Dropped before, it closes them at once.
    ///
    /// Needs a multi-threaded tokio runtime.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: impl Future<Output = ()>) {
        self.serve(Listener::Unix(listener), shutdown).await;
    }

    /// Serves TCP, otherwise as [`Self::serve_unix`].
    pub async fn serve_tcp(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.serve(Listener::Tcp(listener), shutdown).await;
    }

    /// Serves one connected stream socket (std's or tokio's `into_std`) to its end.
    ///
    /// Errors: there are as many connections as may be, or the socket or a thread could not be set up.
    pub async fn handle(&self, socket: impl Into<OwnedFd>) -> io::Result<()> {
        let links = Links::default();
        let (done, mut all_done) = mpsc::channel(1);
        self.start(socket.into(), &links, done)?;
        // Nothing is ever sent: this ends when the connection's thread drops its sender.
        let _closed: Option<()> = all_done.recv().await;
        Ok(())
    }

    async fn serve(&self, listener: Listener, shutdown: impl Future<Output = ()>) {
        let links = Links::default();
        let (done, mut all_done) = mpsc::channel(1);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            let started = accepted.and_then(|socket| self.start(socket, &links, done.clone()));
            match started {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                    tracing::warn!(max = self.shared.options.max_connections, "a client was turned away: {error}");
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        drop(done);
        links.stop();
        if tokio::time::timeout(self.shared.options.drain_timeout, all_done.recv()).await.is_err() {
            links.close();
            if tokio::time::timeout(CLOSE_PATIENCE, all_done.recv()).await.is_err() {
                tracing::error!("connections are still open after the shutdown");
            }
        }
    }

    /// Starts the thread of one connection.
    fn start(&self, fd: OwnedFd, links: &Links, done: mpsc::Sender<()>) -> io::Result<()> {
        let permit = self.shared.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections"))?;
        let link = Arc::new(Link {
            socket: Arc::new(Socket::new(fd)?),
            stopping: AtomicBool::new(false),
            gone: watch::Sender::new(false),
        });
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            id,
            shared: self.shared.clone(),
            runtime: Handle::current(),
            open: links.open.clone(),
            link: link.clone(),
            _permit: permit,
            _done: done,
        };
        links.open.lock().insert(id, link);
        // Where no thread can be had, `connection` is dropped and with it its entry.
        thread::Builder::new().name(format!("nbd-{id}")).stack_size(STACK).spawn(move || connection.run())?;
        Ok(())
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(listener) => Ok(listener.accept().await?.0.into_std()?.into()),
            Self::Tcp(listener) => {
                let (stream, peer): (_, SocketAddr) = listener.accept().await?;
                tracing::debug!(%peer, "connected");
                Ok(stream.into_std()?.into())
            }
        }
    }
}

impl Links {
    /// Asks all connections to end after the requests they have.
    fn stop(&self) {
        for link in self.open.lock().values() {
            link.stopping.store(true, Ordering::SeqCst);
            link.socket.stop_reading();
        }
    }

    /// Ends all connections.
    fn close(&self) {
        for link in self.open.lock().values() {
            link.stopping.store(true, Ordering::SeqCst);
            link.gone.send_replace(true);
            link.socket.close();
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread of one connection holds.
struct Connection {
    id: u64,
    shared: Arc<Shared>,
    runtime: Handle,
    open: Arc<Mutex<HashMap<u64, Arc<Link>>>>,
    link: Arc<Link>,
    _permit: OwnedSemaphorePermit,
    _done: mpsc::Sender<()>,
}

impl Connection {
    fn run(self) {
        let options = &self.shared.options;
        let link = &self.link;
        let stopping = || link.stopping.load(Ordering::Relaxed);
        let agreed = Handshake::run(link.socket.clone(), &*self.shared.exports, options, &self.runtime, &stopping);
        let id = self.id;
        match agreed {
            Ok(agreed) => {
                tracing::debug!(id, export = agreed.device.info().name, "in transmission");
                match Session::run(agreed, options, &self.runtime, &stopping, &link.gone) {
                    Ok(()) => tracing::debug!(id, "closed"),
                    Err(error) => tracing::debug!(id, %error, "closed"),
                }
            }
            Err(HandshakeError::Aborted) => tracing::debug!(id, "closed before transmission"),
            Err(error) => tracing::debug!(id, %error, "the handshake failed"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.socket.close();
        self.open.lock().remove(&self.id);
    }
}
