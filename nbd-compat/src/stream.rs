//! A connection's byte stream: the socket as it is, or TLS over it. One thread reads, any thread sends.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection};

use crate::socket::Socket;

/// Bytes taken from the socket at a time under TLS: a full record and its frame.
const TLS_READ: usize = 18 << 10;
/// Plaintext encrypted at a time, in bytes.
const TLS_WRITE: usize = 64 << 10;

/// The byte stream of a connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// The bytes as they are.
    Plain(Arc<Socket>),
    /// TLS.
    Tls(Box<TlsStream>),
}

/// TLS over a socket.
///
/// The state of TLS is locked only to encrypt or decrypt, never while the socket waits: a client that does not read
/// its replies cannot keep its requests from being read. Order of locks: `sealed`, then `tls`.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: Arc<Socket>,
    tls: Mutex<ServerConnection>,
    /// Ciphertext that the socket has not taken yet; whoever sends holds it.
    sealed: Mutex<Sealed>,
    /// Ciphertext that was received and not decrypted yet; only the one reader locks it.
    incoming: Mutex<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

#[derive(Debug, Default)]
struct Sealed {
    bytes: Vec<u8>,
    sent: usize,
}

impl Stream {
    /// The socket below.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    /// Waits for bytes and takes what is there. 0: the peer will send no more.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.recv(buf),
            Self::Tls(tls) => tls.recv(buf),
        }
    }

    /// The same for a buffer of which all is wanted: where it can, it waits for that in one call.
    pub(crate) fn recv_wanted(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.recv_all(buf),
            Self::Tls(tls) => tls.recv(buf),
        }
    }

    /// Takes some of `slices`, 0 only if all are empty. Under TLS, what it takes may still have to be
    /// [flushed](Self::flush).
    pub(crate) fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.send(slices, wait),
            Self::Tls(tls) => tls.send(slices, wait),
        }
    }

    /// Gives the socket all that was taken before; `WouldBlock` where that would mean waiting and `wait` is not set.
    pub(crate) fn flush(&self, wait: bool) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.push(&mut tls.sealed.lock(), wait),
        }
    }

    /// Sends all of `bytes`, waiting as needed.
    pub(crate) fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send(&[IoSlice::new(bytes)], true)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => bytes = &bytes[sent..],
            }
        }
        self.flush(true)
    }

    /// Fills `buf`; `UnexpectedEof` where the peer ends first.
    pub(crate) fn recv_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.recv_wanted(buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => buf = &mut buf[got..],
            }
        }
        Ok(())
    }

    /// Says goodbye as TLS wants it, without waiting, then ends both directions.
    pub(crate) fn close(&self) {
        if let Self::Tls(tls) = self
            && let Some(mut sealed) = tls.sealed.try_lock()
        {
            tls.tls.lock().send_close_notify();
            if let Err(error) = tls.seal_pending(&mut sealed).and_then(|()| tls.push(&mut sealed, false)) {
                tracing::trace!(%error, "the peer was gone before TLS was closed");
            }
        }
        self.socket().close();
    }
}

impl TlsStream {
    /// Makes the TLS handshake with the client, within the socket's deadline.
    pub(crate) fn accept(socket: Arc<Socket>, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        let stream = Self {
            socket,
            tls: Mutex::new(tls),
            sealed: Mutex::default(),
            incoming: Mutex::new(Incoming { buf: vec![0; TLS_READ], start: 0, end: 0 }),
        };
        while stream.tls.lock().is_handshaking() {
            if stream.flush_handshake().and_then(|()| stream.pull())? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        stream.flush_handshake()?;
        Ok(stream)
    }

    fn flush_handshake(&self) -> io::Result<()> {
        let mut sealed = self.sealed.lock();
        self.seal_pending(&mut sealed)?;
        self.push(&mut sealed, true)
    }

    /// Decrypts the next bytes, taking them from the socket if none are left. 0: the peer will send no more.
    fn pull(&self) -> io::Result<usize> {
        let mut guard = self.incoming.lock();
        let incoming = &mut *guard;
        if incoming.start == incoming.end {
            incoming.start = 0;
            incoming.end = self.socket.recv(&mut incoming.buf)?;
        }
        let mut rest = &incoming.buf[incoming.start..incoming.end];
        let available = rest.len();
        let mut tls = self.tls.lock();
        // Not beyond the first plaintext: rustls bounds what it holds, and refuses more until that is read.
        let mut readable = 0;
        while !rest.is_empty() && readable == 0 {
            if tls.read_tls(&mut rest)? == 0 {
                break;
            }
            match tls.process_new_packets() {
                Ok(state) => readable = state.plaintext_bytes_to_read(),
                Err(error) => {
                    drop(tls);
                    // Tell the client which alert it earned, if it still listens.
                    let told = self.flush_handshake().is_ok();
                    tracing::debug!(%error, told, "TLS failed");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        incoming.start = incoming.end - rest.len();
        Ok(available)
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.lock().reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A close without TLS's goodbye is an end as any other: every request has its length.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.pull()? == 0 {
                return Ok(0);
            }
        }
    }

    fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        let mut sealed = self.sealed.lock();
        self.push(&mut sealed, wait)?;
        let mut taken = 0;
        {
            let mut tls = self.tls.lock();
            for slice in slices {
                let part = &slice[..slice.len().min(TLS_WRITE - taken)];
                tls.writer().write_all(part)?;
                taken += part.len();
                // Moved out after every piece, so that the buffer of rustls never reaches its limit.
                seal(&mut tls, &mut sealed)?;
                if taken == TLS_WRITE {
                    break;
                }
            }
        }
        match self.push(&mut sealed, wait) {
            // What was taken is in `sealed` and goes with the next flush.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            Err(e) => Err(e),
            Ok(()) => Ok(taken),
        }
    }

    fn seal_pending(&self, sealed: &mut Sealed) -> io::Result<()> {
        seal(&mut self.tls.lock(), sealed)
    }

    fn push(&self, sealed: &mut Sealed, wait: bool) -> io::Result<()> {
        while sealed.sent < sealed.bytes.len() {
            sealed.sent += self.socket.send(&[IoSlice::new(&sealed.bytes[sealed.sent..])], wait)?;
        }
        sealed.bytes.clear();
        sealed.sent = 0;
        Ok(())
    }
}

/// Moves what TLS has ready to be sent into `sealed`.
fn seal(tls: &mut ServerConnection, sealed: &mut Sealed) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut sealed.bytes)?;
    }
    Ok(())
}
