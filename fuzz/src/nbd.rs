//! A hostile NBD client: options and requests, right and wrong, cut off anywhere. The server closes in time, and what it
//! says after a sound handshake is well-formed.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use esker_block::{BlockDevice, DeviceInfo};
use futures::future::BoxFuture;
use nbd_compat::proto::{self, opt};
use nbd_compat::{ExportEntry, ExportError, Exports, Server, ServerOptions};
use tokio::runtime::Runtime;

use crate::disk::{Disk, SIZE};

/// How long a connection may take to end once its client has.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that one input may send.
const MAX_SENT: usize = 256 << 10;

/// What a client sends, in order.
#[derive(Debug, Arbitrary)]
pub struct Script {
    flags: Flags,
    options: Vec<Opt>,
    /// Enter transmission properly.
    enter: bool,
    export: Export,
    requests: Vec<Request>,
    /// Bytes cut off at the end.
    cut: u8,
}

#[derive(Debug, Arbitrary)]
enum Flags {
    Usual,
    Any(u32),
    Missing,
}

#[derive(Debug, Arbitrary)]
enum Opt {
    Structured,
    Meta { set: bool, export: Export, queries: Vec<Query>, count: Option<u32> },
    Info { go: bool, export: Export, wanted: Vec<u8>, count: Option<u16> },
    List,
    ExportName(Export),
    Abort,
    Tls,
    Any { code: u8, len: Option<u32>, data: Vec<u8> },
    Raw(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Query {
    Base,
    All,
    Any(Vec<u8>),
}

#[derive(Debug, Arbitrary, Clone)]
enum Export {
    Default,
    Late,
    ReadOnly,
    Busy,
    Any(Vec<u8>),
    Long(u32),
}

#[derive(Debug, Arbitrary)]
struct Request {
    kind: u8,
    flags: u8,
    offset: Place,
    len: Len,
    payload: Payload,
    raw: Option<Vec<u8>>,
}

#[derive(Debug, Arbitrary)]
enum Place {
    Inside(u32),
    End(u8),
    Any(u64),
}

#[derive(Debug, Arbitrary)]
enum Len {
    Short(u16),
    Long(u8),
    Any(u32),
}

#[derive(Debug, Arbitrary)]
enum Payload {
    Right(u8),
    None,
    Some(Vec<u8>),
}

struct Disks([Arc<Disk>; 3]);

impl Disks {
    fn find(&self, name: &str) -> Option<&Arc<Disk>> {
        if name.is_empty() { self.0.first() } else { self.0.iter().find(|d| d.info().name == name) }
    }
}

impl Exports for Disks {
    fn list(&self) -> Vec<ExportEntry> {
        let entry = |d: &Arc<Disk>| ExportEntry {
            name: d.info().name.clone(),
            description: "memory".into(),
            size: d.info().size,
            read_only: d.info().read_only,
        };
        self.0.iter().map(entry).collect()
    }

    fn describe(&self, name: &str) -> Option<DeviceInfo> {
        self.find(name).map(|d| d.info().clone())
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, ExportError>> {
        let found = match (name, self.find(name)) {
            ("busy", _) => Err(ExportError::Refused("in use".into())),
            (_, Some(disk)) => Ok(disk.clone() as Arc<dyn BlockDevice>),
            (_, None) => Err(ExportError::Unknown),
        };
        Box::pin(std::future::ready(found))
    }
}

struct World {
    runtime: Runtime,
    server: Server,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads are to be had");
    let disks = Disks([Disk::new("disk", false, false), Disk::new("late", true, false), Disk::new("ro", false, true)]);
    // Limits that short inputs reach.
    let options = ServerOptions {
        max_request: 64 << 10,
        max_in_flight: 8,
        max_parked: 128 << 10,
        max_option: 4096,
        max_extents: 16,
        ..ServerOptions::default()
    };
    World { runtime, server: Server::new(Arc::new(disks), options) }
});

/// One connection, from the greeting to its end.
pub fn run(script: &Script) {
    let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
    let server = WORLD.server.clone();
    let serving = WORLD.runtime.spawn(async move { server.handle(theirs).await });
    let mut bytes = script.bytes();
    bytes.truncate(MAX_SENT);
    bytes.truncate(bytes.len().saturating_sub(usize::from(script.cut)));
    let said = converse(ours, &bytes);
    let ended = WORLD.runtime.block_on(async { tokio::time::timeout(PATIENCE, serving).await });
    ended.expect("the connection ends").expect("its task does not panic").expect("a thread was to be had");
    assert!(said >= 18, "the greeting comes whatever the client does");
}

/// Sends and receives at the same time, to the end of both; how many bytes came.
fn converse(mut stream: UnixStream, mut bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("a socket of ours");
    let (begin, mut said, mut buf) = (Instant::now(), 0, vec![0; 64 << 10]);
    let mut open = true;
    loop {
        let mut idle = true;
        if !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(sent) => (bytes, idle) = (&bytes[sent..], false),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // The server has closed: that is an answer too.
                Err(_) => bytes = &[],
            }
        } else if open {
            // An error means that the server was first.
            drop(stream.shutdown(Shutdown::Write));
            open = false;
        }
        match stream.read(&mut buf) {
            Ok(0) => return said,
            Ok(got) => {
                said += got;
                idle = false;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return said,
        }
        assert!(begin.elapsed() < PATIENCE, "the server hangs");
        if idle {
            let events = if bytes.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
            let mut poll = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&stream), events, revents: 0 };
            // SAFETY: one pollfd, which lives through the call.
            unsafe { libc::poll(&raw mut poll, 1, 100) };
        }
    }
}

impl Export {
    /// The name's length as said, and the name.
    fn named(&self) -> (u32, Vec<u8>) {
        let name: Vec<u8> = match self {
            Self::Default => Vec::new(),
            Self::Late => b"late".to_vec(),
            Self::ReadOnly => b"ro".to_vec(),
            Self::Busy => b"busy".to_vec(),
            Self::Any(name) => name.clone(),
            Self::Long(len) => return (*len, b"disk".to_vec()),
        };
        (name.len() as u32, name)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (len, name) = self.named();
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&name);
    }
}

fn option(out: &mut Vec<u8>, code: u32, len: Option<u32>, data: &[u8]) {
    out.extend_from_slice(&proto::OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&len.unwrap_or(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

impl Opt {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Structured => option(out, opt::STRUCTURED_REPLY, None, &[]),
            Self::Meta { set, export, queries, count } => {
                let mut data = Vec::new();
                export.put(&mut data);
                data.extend_from_slice(&count.unwrap_or(queries.len() as u32).to_be_bytes());
                for query in queries {
                    let query = match query {
                        Query::Base => b"base:allocation".as_slice(),
                        Query::All => b"base:",
                        Query::Any(query) => query,
                    };
                    data.extend_from_slice(&(query.len() as u32).to_be_bytes());
                    data.extend_from_slice(query);
                }
                option(out, if *set { opt::SET_META_CONTEXT } else { opt::LIST_META_CONTEXT }, None, &data);
            }
            Self::Info { go, export, wanted, count } => {
                let mut data = Vec::new();
                export.put(&mut data);
                data.extend_from_slice(&count.unwrap_or(wanted.len() as u16).to_be_bytes());
                wanted.iter().for_each(|w| data.extend_from_slice(&u16::from(*w).to_be_bytes()));
                option(out, if *go { opt::GO } else { opt::INFO }, None, &data);
            }
            Self::List => option(out, opt::LIST, None, &[]),
            Self::ExportName(export) => {
                let (len, name) = export.named();
                option(out, opt::EXPORT_NAME, Some(len), &name);
            }
            Self::Abort => option(out, opt::ABORT, None, &[]),
            Self::Tls => option(out, opt::STARTTLS, None, &[]),
            Self::Any { code, len, data } => option(out, u32::from(*code), *len, data),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl Request {
    fn put(&self, cookie: u64, out: &mut Vec<u8>) {
        let len = match self.len {
            Len::Short(n) => u32::from(n),
            Len::Long(n) => u32::from(n) << 10,
            Len::Any(n) => n,
        };
        let offset = match self.offset {
            Place::Inside(n) => u64::from(n) % SIZE as u64,
            Place::End(n) => SIZE as u64 - u64::from(n),
            Place::Any(n) => n,
        };
        out.extend_from_slice(&proto::REQUEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&u16::from(self.flags).to_be_bytes());
        out.extend_from_slice(&u16::from(self.kind % 12).to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        match &self.payload {
            Payload::Right(fill) if u16::from(self.kind % 12) == proto::cmd::WRITE => {
                out.resize(out.len() + (len as usize).min(MAX_SENT), *fill);
            }
            Payload::Right(_) | Payload::None => {}
            Payload::Some(bytes) => out.extend_from_slice(bytes),
        }
        out.extend_from_slice(self.raw.as_deref().unwrap_or_default());
    }
}

impl Script {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.flags {
            Flags::Usual => out.extend_from_slice(&3u32.to_be_bytes()),
            Flags::Any(flags) => out.extend_from_slice(&flags.to_be_bytes()),
            Flags::Missing => {}
        }
        self.options.iter().for_each(|o| o.put(&mut out));
        if self.enter {
            Opt::Info { go: true, export: self.export.clone(), wanted: vec![3], count: None }.put(&mut out);
        }
        for (cookie, request) in self.requests.iter().enumerate() {
            if out.len() > MAX_SENT {
                break;
            }
            request.put(cookie as u64, &mut out);
        }
        out
    }
}
