//! Starting and stopping a server.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::admin;
use crate::delay::Delay;
use crate::disk::{Disk, DiskError};
use crate::faults::Faults;
use crate::front::Front;
use crate::log::RequestLog;
use crate::s3::S3Ops;

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct S3dOptions {
    /// Where the objects lie, and stay; `None`: a temporary directory that goes when the server does.
    pub dir: Option<PathBuf>,
    /// Where it listens; port 0: any free one.
    pub listen: SocketAddr,
    /// Where the admin port listens; `None`: there is none.
    pub admin: Option<SocketAddr>,
    /// Buckets that are made unless they exist. The first is the one of [`S3d::url`].
    pub buckets: Vec<String>,
    /// The access key that clients must use.
    pub access_key: String,
    /// The secret key that clients must sign with.
    pub secret_key: String,
    /// The delay of every request.
    pub delay: Option<Delay>,
    /// Where the random numbers of faults begin.
    pub seed: u64,
    /// Threads that serve requests.
    pub threads: usize,
}

impl Default for S3dOptions {
    fn default() -> Self {
        Self {
            dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            buckets: vec!["esker".into()],
            access_key: "s3d-access-key".into(),
            secret_key: "s3d-secret-key".into(),
            delay: None,
            seed: 0,
            threads: 2,
        }
    }
}

/// A running S3 server, on threads of its own: any kind of test can use it. It stops when dropped.
pub struct S3d {
    options: S3dOptions,
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    disk: Arc<Disk>,
    faults: Arc<Faults>,
    log: Arc<RequestLog>,
    runtime: Option<Runtime>,
    // Dropped last: the runtime is gone before the files are.
    _temporary: Option<TempDir>,
}

impl S3d {
    /// Starts a server. It accepts connections when this returns.
    ///
    /// # Errors
    /// The address is in use, or the directory or a bucket cannot be made.
    pub fn start(options: S3dOptions) -> io::Result<Self> {
        let temporary = if options.dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let dir = options.dir.as_deref().or(temporary.as_ref().map(TempDir::path)).unwrap_or(Path::new("."));
        let disk = Arc::new(Disk::open(dir)?);
        for bucket in &options.buckets {
            if !s3s::path::check_bucket_name(bucket) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{bucket:?} is no bucket name")));
            }
            match disk.create_bucket(bucket) {
                Ok(()) | Err(DiskError::BucketExists) => {}
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        let faults = Faults::new(options.seed, options.delay);
        let log = Arc::new(RequestLog::new());
        let mut builder = S3ServiceBuilder::new(S3Ops::new(disk.clone()));
        builder.set_auth(SimpleAuth::from_single(options.access_key.clone(), options.secret_key.clone()));
        let front = Front { s3: builder.build(), faults: faults.clone(), log: log.clone() };

        let (socket, listen) = bind(options.listen)?;
        let admin = options.admin.map(bind).transpose()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("s3d")
            .enable_all()
            .build()?;
        {
            let _inside = runtime.enter();
            runtime.spawn(accept(tokio::net::TcpListener::from_std(socket)?, move |req| front.clone().call(req)));
        }
        let admin = match admin {
            None => None,
            Some((socket, address)) => {
                let state = admin::Admin { faults: faults.clone(), log: log.clone() };
                let _inside = runtime.enter();
                runtime.spawn(accept(tokio::net::TcpListener::from_std(socket)?, move |req| state.clone().call(req)));
                Some(address)
            }
        };
        Ok(Self { options, listen, admin, disk, faults, log, runtime: Some(runtime), _temporary: temporary })
    }

    /// The endpoint: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin port listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The first bucket: `s3://BUCKET`.
    pub fn url(&self) -> String {
        format!("s3://{}", self.bucket())
    }

    /// The name of the first bucket.
    pub fn bucket(&self) -> &str {
        self.options.buckets.first().map_or("", String::as_str)
    }

    /// The access key and the secret key.
    pub fn credentials(&self) -> (&str, &str) {
        (&self.options.access_key, &self.options.secret_key)
    }

    /// What a client process needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let o = &self.options;
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", o.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", o.secret_key.clone()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ALLOW_HTTP", "true".into()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into()
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Which requests came.
    pub fn log(&self) -> &Arc<RequestLog> {
        &self.log
    }

    /// Where the objects lie.
    pub fn dir(&self) -> &Path {
        self.disk.root()
    }

    /// The file of an object, for tests that damage it. The next request sees the change.
    ///
    /// # Errors
    /// The key cannot be a file name.
    pub fn object_path(&self, bucket: &str, key: &str) -> io::Result<PathBuf> {
        self.disk.path(bucket, key).map_err(io::Error::other)
    }

    /// Stops: the port is closed, connections end without answers. Blocks until this is so.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be shut down on a thread of another one: a test may well be such a thread.
            let halt = move || runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            // An error means that the thread panicked: the runtime is gone all the same.
            drop(std::thread::spawn(halt).join());
        }
    }
}

impl Drop for S3d {
    fn drop(&mut self) {
        self.halt();
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let socket = TcpListener::bind(address).map_err(named)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Serves connections until the runtime ends.
async fn accept<F, R, E>(socket: tokio::net::TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Result<http::Response<s3s::Body>, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    loop {
        let connection = match socket.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                // Out of file descriptors, most likely: some may be free again soon.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
            let service = service_fn(answer);
            let io = TokioIo::new(connection);
            if let Err(error) = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}
