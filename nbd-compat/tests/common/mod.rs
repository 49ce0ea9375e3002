//! A server over memory, and a client that speaks the protocol byte by byte.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../examples/memory/device.rs"]
pub mod device;
pub mod gated;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use esker_block::{BlockDevice, DeviceInfo};
use futures::future::BoxFuture;
use nbd_compat::proto::{self, cmd, opt, rep};
use nbd_compat::{ExportEntry, ExportError, Exports, Server, ServerOptions};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Exports by name; the first is the default. "busy" is refused.
pub struct Disks(pub Vec<Arc<dyn BlockDevice>>);

impl Disks {
    fn find(&self, name: &str) -> Option<&Arc<dyn BlockDevice>> {
        if name.is_empty() { self.0.first() } else { self.0.iter().find(|device| device.info().name == name) }
    }
}

impl Exports for Disks {
    fn list(&self) -> Vec<ExportEntry> {
        let entry = |device: &Arc<dyn BlockDevice>| ExportEntry {
            name: device.info().name.clone(),
            description: format!("the {}", device.info().name),
            size: device.info().size,
            read_only: device.info().read_only,
        };
        self.0.iter().map(entry).collect()
    }

    fn describe(&self, name: &str) -> Option<DeviceInfo> {
        self.find(name).map(|device| device.info().clone())
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, ExportError>> {
        let found = match name {
            "busy" => Err(ExportError::Refused("in use by another host".into())),
            name => self.find(name).cloned().ok_or(ExportError::Unknown),
        };
        Box::pin(std::future::ready(found))
    }
}

/// A running server on a unix socket.
pub struct Running {
    pub runtime: Runtime,
    pub server: Server,
    pub path: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub fn start(devices: Vec<Arc<dyn BlockDevice>>, options: ServerOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nbd");
        let server = Server::new(Arc::new(Disks(devices)), options);
        let (shutdown, stop) = oneshot::channel::<()>();
        let serving = {
            let _entered = runtime.enter();
            let listener = UnixListener::bind(&path).unwrap();
            let server = server.clone();
            runtime.spawn(async move {
                server.serve_unix(listener, async { drop(stop.await) }).await;
            })
        };
        Self { runtime, server, path, shutdown: Some(shutdown), serving: Some(serving), _dir: dir }
    }

    /// A device of 4 MiB named "disk", with usual limits.
    pub fn usual() -> Self {
        Self::start(vec![Arc::new(device::Memory::new("disk", 4 << 20, false))], ServerOptions::default())
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, structured: false, cookie: 0 }
    }

    /// A client in transmission, with structured replies or without.
    pub fn client(&self, structured: bool) -> Client {
        let mut client = self.connect();
        client.greet(3);
        client.enter("", structured);
        client
    }

    /// Asks the server to end.
    pub fn begin_shutdown(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has ended.
    pub fn wait_ended(&mut self, patience: Duration) {
        let serving = self.serving.take().unwrap();
        self.runtime.block_on(async { tokio::time::timeout(patience, serving).await }).unwrap().unwrap();
    }
}

/// The client's end of a connection.
pub struct Client {
    pub stream: UnixStream,
    pub structured: bool,
    cookie: u64,
}

/// A reply in transmission.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Simple { cookie: u64, error: u32 },
    Chunk { flags: u16, kind: u16, cookie: u64, payload: Vec<u8> },
}

impl Client {
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().unwrap())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn greet(&mut self, flags: u32) {
        assert_eq!(self.u64(), proto::INIT_PASSWD);
        assert_eq!(self.u64(), proto::OPTION_MAGIC);
        assert_eq!(self.u16(), 3);
        self.send(&flags.to_be_bytes());
    }

    pub fn option(&mut self, code: u32, data: &[u8]) {
        let head = [&proto::OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &(data.len() as u32).to_be_bytes()];
        self.send(&[head.concat().as_slice(), data].concat());
    }

    /// One option reply: type and payload.
    pub fn option_reply(&mut self, code: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.u64(), proto::OPTION_REPLY_MAGIC);
        assert_eq!(self.u32(), code);
        let kind = self.u32();
        let len = self.u32() as usize;
        (kind, self.take(len))
    }

    /// Sends an option and takes its replies up to the final one.
    pub fn ask(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.option(code, data);
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply(code);
            let last = reply.0 == rep::ACK || reply.0 & (1 << 31) != 0;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    /// Goes into transmission on export `name`, with `base:allocation` if structured. The transmission flags.
    pub fn enter(&mut self, name: &str, structured: bool) -> u16 {
        if structured {
            assert_eq!(self.ask(opt::STRUCTURED_REPLY, &[]), vec![(rep::ACK, vec![])]);
            let replies = self.ask(opt::SET_META_CONTEXT, &meta(name, &[proto::BASE_ALLOCATION]));
            assert_eq!(replies.len(), 2, "{replies:?}");
            self.structured = true;
        }
        let replies = self.ask(opt::GO, &go(name, &[]));
        assert_eq!(replies.last().unwrap().0, rep::ACK, "{replies:?}");
        u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap())
    }

    /// Sends a request; its cookie.
    pub fn request(&mut self, flags: u16, kind: u16, offset: u64, len: u32, data: &[u8]) -> u64 {
        self.cookie += 1;
        let cookie = self.cookie;
        self.send(&[request(flags, kind, cookie, offset, len).as_slice(), data].concat());
        cookie
    }

    pub fn reply(&mut self) -> Reply {
        match self.u32() {
            proto::SIMPLE_REPLY_MAGIC => {
                let error = self.u32();
                Reply::Simple { error, cookie: self.u64() }
            }
            proto::STRUCTURED_REPLY_MAGIC => {
                let (flags, kind, cookie) = (self.u16(), self.u16(), self.u64());
                let len = self.u32() as usize;
                Reply::Chunk { flags, kind, cookie, payload: self.take(len) }
            }
            other => panic!("bad reply magic {other:#x}"),
        }
    }

    /// Expects the reply to `cookie`; its error number, 0 for success without data.
    pub fn status(&mut self, cookie: u64) -> u32 {
        match self.reply() {
            Reply::Simple { cookie: got, error } if got == cookie => error,
            Reply::Chunk { cookie: got, kind: proto::chunk::ERROR, payload, .. } if got == cookie => {
                u32::from_be_bytes(*payload.first_chunk().unwrap())
            }
            other => panic!("{other:?} is not the reply to {cookie}"),
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        let cookie = self.request(0, cmd::WRITE, offset, data.len() as u32, data);
        self.status(cookie)
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        let cookie = self.request(0, cmd::READ, offset, len, &[]);
        self.read_reply(cookie, offset, len)
    }

    /// Puts the reply to a read together, from data, holes or a simple reply.
    pub fn read_reply(&mut self, cookie: u64, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        let mut data = vec![0xee; len as usize];
        let mut seen = 0;
        loop {
            match self.reply() {
                Reply::Simple { cookie: got, error } => {
                    assert!(!self.structured && got == cookie);
                    return if error == 0 { Ok(self.take(len as usize)) } else { Err(error) };
                }
                Reply::Chunk { flags, kind, cookie: got, payload } => {
                    assert!(self.structured && got == cookie);
                    let at = |payload: &[u8]| (u64::from_be_bytes(*payload.first_chunk().unwrap()) - offset) as usize;
                    match kind {
                        proto::chunk::OFFSET_DATA => {
                            data[at(&payload)..][..payload.len() - 8].copy_from_slice(&payload[8..]);
                            seen += payload.len() - 8;
                        }
                        proto::chunk::OFFSET_HOLE => {
                            let hole = u32::from_be_bytes(*payload[8..].first_chunk().unwrap()) as usize;
                            data[at(&payload)..][..hole].fill(0);
                            seen += hole;
                        }
                        proto::chunk::ERROR => return Err(u32::from_be_bytes(*payload.first_chunk().unwrap())),
                        proto::chunk::NONE => assert!(payload.is_empty()),
                        other => panic!("chunk type {other}"),
                    }
                    if flags & proto::chunk::DONE != 0 {
                        assert_eq!(seen, len as usize, "the whole range is covered once");
                        return Ok(data);
                    }
                }
            }
        }
    }

    /// Whether the server closed the connection, without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(got) => got == 0,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A request's header.
pub fn request(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = proto::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// The data of GO and INFO.
pub fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
    wanted.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

/// Bytes that are not zero and differ by `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i * 31 + seed * 17) % 251 + 1) as u8).collect()
}
