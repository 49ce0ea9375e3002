//! A connected socket, read by one thread and written by any, with a deadline while the handshake lasts.
//!
//! Plain system calls, because what is needed is not in std: sending without waiting on a socket whose reader
//! waits, several buffers in one call, and no SIGPIPE.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most buffers in one send.
pub(crate) const MAX_SLICES: usize = 64;

/// A connected stream socket in blocking mode.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    born: Instant,
    /// Nanoseconds after `born` at which waiting ends; 0: never.
    deadline: AtomicU64,
}

impl Socket {
    /// Takes over a connected socket: makes it blocking and, where it is TCP, switches delays off and keepalive on.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let raw = fd.as_raw_fd();
        // SAFETY: F_GETFL and F_SETFL on a descriptor we own touch no memory.
        let flags = check(unsafe { libc::fcntl(raw, libc::F_GETFL) } as isize)? as libc::c_int;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(raw, libc::F_SETFL, flags & !libc::O_NONBLOCK) } as isize)?;
        let socket = Self { fd, born: Instant::now(), deadline: AtomicU64::new(0) };
        if socket.option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).is_ok() {
            socket.option(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
            socket.option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60)?;
            socket.option(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15)?;
        }
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let len = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: `value` lives through the call and `len` is its size.
        let done = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
        check(done as isize).map(|_| ())
    }

    /// From now on `recv` and waiting sends fail with `TimedOut` once `after` has passed; `None` lifts it.
    pub(crate) fn set_deadline(&self, after: Option<Duration>) {
        let at = after.map_or(0, |after| (self.born.elapsed() + after).as_nanos().clamp(1, u64::MAX as u128) as u64);
        self.deadline.store(at, Ordering::Relaxed);
    }

    /// Waits until `events` come up, if there is a deadline to keep.
    fn await_events(&self, events: libc::c_short) -> io::Result<()> {
        loop {
            let at = self.deadline.load(Ordering::Relaxed);
            if at == 0 {
                return Ok(());
            }
            let left = Duration::from_nanos(at).saturating_sub(self.born.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let millis = left.as_millis().saturating_add(1).min(60_000) as libc::c_int;
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events, revents: 0 };
            // SAFETY: one pollfd, which lives through the call.
            match check(unsafe { libc::poll(&raw mut poll, 1, millis) } as isize) {
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for bytes and takes what is there. 0: the peer will send no more.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_flags(buf, 0)
    }

    /// The same, waiting in the kernel until `buf` is full; less where the peer ends, a signal comes, or there is a
    /// deadline.
    pub(crate) fn recv_all(&self, buf: &mut [u8]) -> io::Result<usize> {
        // A peer that drips would hold the call beyond the deadline.
        let flags = if self.deadline.load(Ordering::Relaxed) == 0 { libc::MSG_WAITALL } else { 0 };
        self.recv_flags(buf, flags)
    }

    fn recv_flags(&self, buf: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        loop {
            self.await_events(libc::POLLIN)?;
            // SAFETY: the pointer and length are those of `buf`.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) };
            match check(got) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Sends some of `slices` (at most [`MAX_SLICES`] of them). Without `wait`, `WouldBlock` where there is no room.
    pub(crate) fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            if wait {
                self.await_events(libc::POLLOUT)?;
            }
            let sent = if let [one] = slices {
                // SAFETY: the pointer and length are those of the slice.
                unsafe { libc::send(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len(), flags) }
            } else {
                // SAFETY: an all-zero msghdr is valid; IoSlice has the layout of iovec, and the slices outlive the call.
                unsafe {
                    let mut msg: libc::msghdr = mem::zeroed();
                    msg.msg_iov = slices.as_ptr().cast_mut().cast();
                    msg.msg_iovlen = slices.len().min(MAX_SLICES) as _;
                    libc::sendmsg(self.fd.as_raw_fd(), &raw const msg, flags)
                }
            };
            match check(sent) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Whether the peer closed the connection, or it broke.
    pub(crate) fn hung_up(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one pollfd, which lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Ends reading: a waiting `recv` returns. Replies can still be sent.
    pub(crate) fn stop_reading(&self) {
        // SAFETY: touches no memory. An error means that the peer is gone already.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Ends both directions: whoever waits on this socket returns.
    pub(crate) fn close(&self) {
        // SAFETY: as above.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
