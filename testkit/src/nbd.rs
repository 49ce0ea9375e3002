//! A pipelined NBD client for tests: fixed newstyle, simple replies, unix sockets (proto.md of NetworkBlockDevice/nbd).
//!
//! Requests are sent by whoever calls; a thread of the connection reads the replies and tells each caller, in whatever
//! order they come. When the connection ends every request without a reply is told [`NbdError::Gone`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;

const OPTION: u64 = 0x4948_4156_454F_5054;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
/// NBD_CMD_FLAG_FUA.
const FUA: u16 = 1;
/// Option replies are longer than this only by mistake.
const MAX_OPTION_REPLY: u32 = 1 << 16;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NbdError {
    /// The server answered with this errno, as the protocol numbers them.
    #[error("the server answered with errno {0}")]
    Errno(u32),
    /// The connection ended first: it is unknown what became of the request.
    #[error("the connection ended: {0}")]
    Gone(String),
}

/// NBD_EIO.
pub const EIO: u32 = 5;

/// The bytes that a read got; empty for everything else.
pub type NbdResult = Result<Vec<u8>, NbdError>;

/// One request.
#[derive(Debug, Clone, Copy)]
pub enum NbdRequest<'a> {
    /// So many bytes from an offset.
    Read(u64, u32),
    /// These bytes at an offset; the last field asks for FUA.
    Write(u64, &'a [u8], bool),
    /// Everything completed before is durable once this is.
    Flush,
    /// The range may read as zeroes.
    Trim(u64, u32),
    /// The range reads as zeroes.
    Zeroes(u64, u32),
}

type Done = Box<dyn FnOnce(NbdResult) + Send>;

struct Waiting {
    /// Bytes that follow a good reply.
    data: usize,
    done: Done,
}

#[derive(Default)]
struct Replies {
    waiting: HashMap<u64, Waiting>,
    last: u64,
    gone: Option<String>,
}

/// A connection in transmission. Any number of threads may send.
pub struct NbdClient {
    stream: Mutex<UnixStream>,
    replies: Arc<Mutex<Replies>>,
    reader: Option<JoinHandle<()>>,
    size: u64,
    flags: u16,
}

impl NbdClient {
    /// Opens an export over a unix socket.
    ///
    /// # Errors
    /// Those of the socket; ConnectionRefused with the server's words where it refuses the export.
    pub fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let (size, flags) = go(&mut stream, export)?;
        stream.set_read_timeout(None)?;
        let replies = Arc::new(Mutex::new(Replies::default()));
        let (input, told) = (stream.try_clone()?, replies.clone());
        let reader =
            std::thread::Builder::new().name("nbd replies".into()).spawn(move || read_replies(input, &told))?;
        Ok(Self { stream: Mutex::new(stream), replies, reader: Some(reader), size, flags })
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The transmission flags.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Ends the connection: whoever waits is told that it is gone.
    pub fn hang_up(&self) {
        // An error means that it has ended already.
        drop(self.stream.lock().shutdown(Shutdown::Both));
    }

    /// Sends a request; `done` is called from the connection's thread, once, and must not block.
    pub fn send(&self, request: NbdRequest<'_>, done: impl FnOnce(NbdResult) + Send + 'static) {
        let (kind, fua, offset, len, data, expect): (u16, bool, u64, u32, &[u8], usize) = match request {
            NbdRequest::Read(offset, len) => (0, false, offset, len, &[], len as usize),
            NbdRequest::Write(offset, data, fua) => (1, fua, offset, data.len() as u32, data, 0),
            NbdRequest::Flush => (3, false, 0, 0, &[], 0),
            NbdRequest::Trim(offset, len) => (4, false, offset, len, &[], 0),
            NbdRequest::Zeroes(offset, len) => (6, false, offset, len, &[], 0),
        };
        // Held to the end: requests must not be mixed up on the wire.
        let mut stream = self.stream.lock();
        let cookie = {
            let mut replies = self.replies.lock();
            if let Some(why) = replies.gone.clone() {
                drop(replies);
                return done(Err(NbdError::Gone(why)));
            }
            replies.last += 1;
            let cookie = replies.last;
            replies.waiting.insert(cookie, Waiting { data: expect, done: Box::new(done) });
            cookie
        };
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend(REQUEST.to_be_bytes());
        message.extend(if fua { FUA } else { 0 }.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(len.to_be_bytes());
        message.extend(data);
        if stream.write_all(&message).is_err() {
            // The thread that reads sees the end too, and tells everybody, this request included.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Sends a request; the answer comes over the channel.
    pub fn start(&self, request: NbdRequest<'_>) -> Receiver<NbdResult> {
        let (sender, receiver) = sync_channel(1);
        self.send(request, move |result| drop(sender.send(result)));
        receiver
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn call(&self, request: NbdRequest<'_>) -> NbdResult {
        self.start(request).recv().unwrap_or_else(|_| Err(NbdError::Gone("nobody answers".into())))
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn read(&self, offset: u64, len: u32) -> NbdResult {
        self.call(NbdRequest::Read(offset, len))
    }

    /// Writes, without FUA.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.call(NbdRequest::Write(offset, data, false)).map(drop)
    }

    /// Writes with FUA.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn write_fua(&self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.call(NbdRequest::Write(offset, data, true)).map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn flush(&self) -> Result<(), NbdError> {
        self.call(NbdRequest::Flush).map(drop)
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        drop(self.stream.lock().shutdown(Shutdown::Both));
        if let Some(reader) = self.reader.take() {
            // It has nothing to say; a panic of it was printed.
            drop(reader.join());
        }
    }
}

/// Reads replies until the connection ends, then tells everybody who waits.
fn read_replies(mut stream: UnixStream, replies: &Mutex<Replies>) {
    let why = loop {
        if let Err(why) = read_reply(&mut stream, replies) {
            break why.to_string();
        }
    };
    let waiting = {
        let mut replies = replies.lock();
        replies.gone = Some(why.clone());
        std::mem::take(&mut replies.waiting)
    };
    for one in waiting.into_values() {
        (one.done)(Err(NbdError::Gone(why.clone())));
    }
}

fn read_reply(stream: &mut UnixStream, replies: &Mutex<Replies>) -> io::Result<()> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let (magic, errno, cookie) = (be32(&head[..4]), be32(&head[4..8]), be64(&head[8..16]));
    if magic != REPLY {
        return Err(io::Error::other(format!("{magic:#x} is no reply")));
    }
    let one = replies.lock().waiting.remove(&cookie);
    let Some(one) = one else { return Err(io::Error::other(format!("nobody asked for reply {cookie}"))) };
    let mut data = Vec::new();
    if errno == 0 {
        data.resize(one.data, 0);
        if let Err(e) = stream.read_exact(&mut data) {
            (one.done)(Err(NbdError::Gone(e.to_string())));
            return Err(e);
        }
    }
    (one.done)(if errno == 0 { Ok(data) } else { Err(NbdError::Errno(errno)) });
    Ok(())
}

/// The handshake: answers size and transmission flags.
fn go(stream: &mut UnixStream, export: &str) -> io::Result<(u64, u16)> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    if &greeting[..8] != b"NBDMAGIC" || be64(&greeting[8..16]) != OPTION {
        return Err(io::Error::other("this is no NBD server of the newstyle kind"));
    }
    let mut message = 3u32.to_be_bytes().to_vec();
    message.extend(OPTION.to_be_bytes());
    message.extend(OPT_GO.to_be_bytes());
    message.extend((export.len() as u32 + 6).to_be_bytes());
    message.extend((export.len() as u32).to_be_bytes());
    message.extend(export.as_bytes());
    message.extend(0u16.to_be_bytes());
    stream.write_all(&message)?;
    let mut about = None;
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let (kind, len) = (be32(&head[12..16]), be32(&head[16..20]));
        if len > MAX_OPTION_REPLY {
            return Err(io::Error::other("an option reply is too long"));
        }
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data)?;
        match kind {
            REP_ACK => return about.ok_or_else(|| io::Error::other("the server did not tell the size")),
            REP_INFO if data.len() >= 12 && data[..2] == [0, 0] => {
                about = Some((be64(&data[2..10]), u16::from_be_bytes([data[10], data[11]])));
            }
            kind if kind & REP_ERROR != 0 => {
                let words = String::from_utf8_lossy(&data).into_owned();
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, words));
            }
            _ => {}
        }
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
