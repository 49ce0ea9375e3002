//! The transmission phase of one connection, on the connection's own thread.
//!
//! What the device answers at once is answered here, with no task and no allocation: receive, do, send. Replies are
//! gathered while further complete requests are in the buffer and leave in one system call. What must wait becomes
//! a task, bounded in number and bytes; when the bounds are reached, nothing more is read.

mod input;
mod output;
mod reply;
mod request;
mod slots;
mod work;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use esker_block::{BlockDevice, BlockError};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::handshake::Agreed;
use crate::options::ServerOptions;
use crate::proto::{REQUEST_LEN, errno};
use crate::stream::Stream;
use input::Input;
use output::Output;
use reply::{Answer, Format};
use request::{Op, Request, Rules};
use slots::{Slot, Slots};
use work::{Work, perform};

/// Replies gathered before they are sent, in bytes.
const GATHER: usize = 256 << 10;
/// The longest read answered from the reply buffer, in bytes; longer ones get their own.
const INLINE_READ: usize = 1 << 20;
/// Replies up to this many bytes are copied into the reply buffer rather than sent on their own.
const SMALL: usize = 16 << 10;
/// The longest refused write whose data is skipped rather than the connection closed, in bytes.
const MAX_SKIP: u32 = 64 << 20;
/// How often a thread that waits for room looks whether its client is still there.
const ROOM_POLL: Duration = Duration::from_secs(1);
/// How long cancelled requests may take to go.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// Why a session ended otherwise than by DISC or the server's shutdown.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the client is gone")]
    Gone,
}

type Result<T> = std::result::Result<T, SessionError>;

/// What the main loop does next.
enum Next {
    /// The next request.
    Request,
    /// More bytes are needed: this many for the request at hand.
    Receive(usize),
    /// The client said goodbye.
    End,
}

/// One connection in transmission.
pub(crate) struct Session<'a> {
    stream: Arc<Stream>,
    device: Arc<dyn BlockDevice>,
    options: &'a ServerOptions,
    runtime: &'a Handle,
    stopping: &'a (dyn Fn() -> bool + Sync),
    /// Turns true when requests in flight are to be given up.
    gone: &'a watch::Sender<bool>,
    rules: Rules,
    format: Format,
    input: Input,
    replies: Replies,
    output: Arc<Output>,
    slots: Arc<Slots>,
}

/// Replies that were not sent yet: a buffer whose bytes are initialised once, and how many count.
#[derive(Default)]
struct Replies {
    buf: Vec<u8>,
    len: usize,
}

impl Replies {
    fn space(&mut self, len: usize) -> &mut [u8] {
        if self.buf.len() < self.len + len {
            self.buf.resize((self.len + len).next_power_of_two().min(self.len + len + GATHER), 0);
        }
        &mut self.buf[self.len..self.len + len]
    }

    fn add(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl<'a> Session<'a> {
    /// Serves `agreed` until its end, then waits for requests in flight and closes the connection.
    pub(crate) fn run(
        agreed: Agreed,
        options: &'a ServerOptions,
        runtime: &'a Handle,
        stopping: &'a (dyn Fn() -> bool + Sync),
        gone: &'a watch::Sender<bool>,
    ) -> Result<()> {
        let stream = Arc::new(agreed.stream);
        let info = agreed.device.info();
        let rules = Rules {
            size: info.size,
            read_only: info.read_only,
            structured: agreed.structured,
            block_status: agreed.block_status,
            max_request: options.max_request,
        };
        let mut session = Self {
            output: Output::new(stream.clone()),
            stream,
            device: agreed.device,
            options,
            runtime,
            stopping,
            gone,
            rules,
            format: Format { structured: agreed.structured, max_extents: options.max_extents },
            input: Input::new(),
            replies: Replies::default(),
            slots: Slots::new(options.max_in_flight, options.max_parked),
        };
        // Futures are polled on this thread first: timers and tasks of theirs need the runtime.
        let _entered = runtime.enter();
        // A device that panics must leave no thread and no client waiting.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.serve()));
        session.finish();
        ended.unwrap_or(Err(SessionError::Protocol("the device panicked")))
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let want = loop {
                if (self.stopping)() {
                    return self.send_replies();
                }
                match self.next()? {
                    Next::Request => {}
                    Next::Receive(want) => break want,
                    Next::End => return self.send_replies(),
                }
            };
            self.send_replies()?;
            if !self.input.fill(&self.stream, want)? {
                return if (self.stopping)() { Ok(()) } else { Err(SessionError::Gone) };
            }
        }
    }

    /// Handles the next request, if all of it is there.
    fn next(&mut self) -> Result<Next> {
        let Some(head) = self.input.bytes().first_chunk::<REQUEST_LEN>() else {
            return Ok(Next::Receive(REQUEST_LEN));
        };
        let request = Request::parse(head).ok_or(SessionError::Protocol("bad request magic"))?;
        if self.replies.len >= GATHER {
            self.send_replies()?;
        }
        let op = match request.check(&self.rules) {
            Ok(op) => op,
            Err(error) => {
                self.refuse(request, error)?;
                return Ok(Next::Request);
            }
        };
        if let Op::Write { fua } = op {
            return self.write(request, fua);
        }
        self.input.consume(REQUEST_LEN);
        let (offset, len) = (request.offset, u64::from(request.len));
        let work = match op {
            Op::Disconnect => return Ok(Next::End),
            Op::Read { split } => return self.read(request, split).map(|()| Next::Request),
            Op::Flush => Work::Flush,
            _ if len == 0 => {
                self.replies.add(&reply::simple(request.cookie, 0));
                return Ok(Next::Request);
            }
            Op::Trim { fua } => Work::Trim { offset, len, fua },
            Op::WriteZeroes { may_unmap, fua } => Work::WriteZeroes { offset, len, may_unmap, fua },
            Op::Cache => Work::Prefetch { offset, len },
            Op::BlockStatus { one } => {
                Work::BlockStatus { offset, len, max: if one { 1 } else { self.options.max_extents.max(1) } }
            }
            Op::Write { .. } => return Err(SessionError::Protocol("a write is handled above")),
        };
        let format = match op {
            Op::BlockStatus { one: true } => Format { max_extents: 1, ..self.format },
            _ => self.format,
        };
        let writes = matches!(op, Op::Trim { .. } | Op::WriteZeroes { .. });
        let slot = self.slot(writes, 0)?;
        self.submit(request, work, format, false, slot)?;
        Ok(Next::Request)
    }

    fn read(&mut self, request: Request, split: bool) -> Result<()> {
        let len = request.len as usize;
        if len == 0 {
            let parts = reply::encode(self.format, &request, false, Ok(Answer::Done));
            return self.answer(parts, None);
        }
        if len <= INLINE_READ && self.read_inline(&request)? {
            return Ok(());
        }
        let slot = self.slot(false, len)?;
        self.submit(request, Work::Read { offset: request.offset, len }, self.format, split, slot)
    }

    /// Answers a read from memory, straight into the reply buffer; false where the device needs time.
    fn read_inline(&mut self, request: &Request) -> Result<bool> {
        let len = request.len as usize;
        let head = reply::read_head_len(self.format.structured);
        if self.replies.len > 0 && self.replies.len + head + len > GATHER {
            self.send_replies()?;
        }
        let space = self.replies.space(head + len);
        match self.device.try_read(request.offset, &mut space[head..]) {
            None => return Ok(false),
            Some(Ok(())) if self.format.structured && reply::is_zero(&space[head..]) => {
                self.replies.add(&reply::hole(crate::proto::chunk::DONE, request.cookie, request.offset, request.len));
            }
            Some(Ok(())) => {
                reply::read_head(&mut space[..head], self.format.structured, request);
                self.replies.len += head + len;
            }
            Some(Err(error)) => self.fail(request, &error),
        }
        Ok(true)
    }

    fn write(&mut self, request: Request, fua: bool) -> Result<Next> {
        let len = request.len as usize;
        let whole = REQUEST_LEN + len;
        if !self.input.fits(whole) {
            self.write_long(request, fua)?;
            return Ok(Next::Request);
        }
        let Some(data) = self.input.bytes().get(REQUEST_LEN..whole) else {
            return Ok(Next::Receive(whole));
        };
        let done = if len == 0 { Some(Ok(())) } else { try_write(&*self.device, request.offset, data, fua) };
        if let Some(result) = done {
            self.input.consume(whole);
            self.written(&request, result);
            return Ok(Next::Request);
        }
        let slot = self.slot(true, len)?;
        let data = Bytes::copy_from_slice(&self.input.bytes()[REQUEST_LEN..whole]);
        self.input.consume(whole);
        self.submit(request, Work::Write { offset: request.offset, data, fua }, self.format, false, slot)?;
        Ok(Next::Request)
    }

    /// A write that is longer than the receive buffer. Nothing of it is applied before all of it is here.
    fn write_long(&mut self, request: Request, fua: bool) -> Result<()> {
        let slot = self.slot(true, request.len as usize)?;
        self.send_replies()?;
        // Zeroed pages cost nothing until data arrives, so a client that sends only the header holds no memory.
        let mut data = vec![0; request.len as usize];
        let here = &self.input.bytes()[REQUEST_LEN..];
        let early = here.len();
        data[..early].copy_from_slice(here);
        self.input.consume(REQUEST_LEN + early);
        self.stream.recv_exact(&mut data[early..])?;
        if let Some(result) = try_write(&*self.device, request.offset, &data, fua) {
            self.written(&request, result);
            return Ok(());
        }
        let work = Work::Write { offset: request.offset, data: data.into(), fua };
        self.submit(request, work, self.format, false, slot)
    }

    fn written(&mut self, request: &Request, result: std::result::Result<(), BlockError>) {
        match result {
            Ok(()) => self.replies.add(&reply::simple(request.cookie, 0)),
            Err(error) => self.fail(request, &error),
        }
    }

    fn fail(&mut self, request: &Request, error: &BlockError) {
        let number = reply::error_number(request.kind, error);
        self.replies.add(&reply::error(self.format, request, number, &error.to_string()));
    }

    /// Answers a request that may not be, after the data that comes with it.
    fn refuse(&mut self, request: Request, error: u32) -> Result<()> {
        self.input.consume(REQUEST_LEN);
        if request.kind == crate::proto::cmd::WRITE {
            if request.len > MAX_SKIP.max(self.options.max_request) {
                return Err(SessionError::Protocol("a write far too long"));
            }
            let mut left = request.len as usize;
            loop {
                let here = left.min(self.input.bytes().len());
                self.input.consume(here);
                left -= here;
                if left == 0 {
                    break;
                }
                self.send_replies()?;
                if !self.input.fill(&self.stream, 1)? {
                    return Err(SessionError::Gone);
                }
            }
        }
        let why = match error {
            errno::EPERM => "the export is read-only",
            errno::ENOSPC => "the range ends beyond the export",
            errno::EOVERFLOW => "the request is longer than the maximum payload",
            _ => "the request is not valid",
        };
        self.replies.add(&reply::error(self.format, &request, error, why));
        Ok(())
    }

    /// A share for a request that waits; itself waits for room, with all replies sent first.
    fn slot(&mut self, write: bool, bytes: usize) -> Result<Slot> {
        if let Some(slot) = self.slots.try_take(write, bytes) {
            return Ok(slot);
        }
        self.send_replies()?;
        loop {
            if let Some(slot) = self.slots.take(write, bytes, ROOM_POLL) {
                return Ok(slot);
            }
            if self.stream.socket().hung_up() {
                return Err(SessionError::Gone);
            }
        }
    }

    /// Asks the device; what is not done at the first look becomes a task.
    fn submit(&mut self, request: Request, work: Work, format: Format, split: bool, slot: Slot) -> Result<()> {
        let mut future = Box::pin(perform(self.device.clone(), work));
        if let Poll::Ready(result) = poll_once(future.as_mut()) {
            return self.answer(reply::encode(format, &request, split, result), Some(slot));
        }
        let output = self.output.clone();
        let mut gone = self.gone.subscribe();
        self.runtime.spawn(async move {
            let result = tokio::select! {
                biased;
                result = future => result,
                _ = gone.wait_for(|gone| *gone) => Err(BlockError::ShuttingDown),
            };
            let parts = reply::encode(format, &request, split, result);
            if let Err(error) = output.push(parts, Some(slot), false) {
                tracing::trace!(%error, "a reply found no client");
            }
        });
        Ok(())
    }

    fn answer(&mut self, parts: Vec<Bytes>, slot: Option<Slot>) -> Result<()> {
        if parts.iter().map(Bytes::len).sum::<usize>() <= SMALL {
            for part in parts {
                self.replies.add(&part);
            }
            return Ok(());
        }
        self.send_replies()?;
        Ok(self.output.push(parts, slot, true)?)
    }

    fn send_replies(&mut self) -> Result<()> {
        if self.replies.len > 0 {
            let len = std::mem::take(&mut self.replies.len);
            self.output.send(&self.replies.buf[..len])?;
        }
        Ok(())
    }

    /// Waits for requests in flight, then closes the connection.
    fn finish(&mut self) {
        let patience = self.options.drain_timeout;
        if !self.slots.wait_idle(patience) {
            tracing::warn!(export = self.device.info().name, "requests in flight are given up");
            self.gone.send_replace(true);
            self.stream.socket().close();
            if !self.slots.wait_idle(CANCEL_PATIENCE) {
                tracing::error!(export = self.device.info().name, "a request could not be cancelled");
            }
        }
        self.output.finish(patience);
    }
}

fn try_write(
    device: &dyn BlockDevice,
    offset: u64,
    data: &[u8],
    fua: bool,
) -> Option<std::result::Result<(), BlockError>> {
    // What must be durable before its reply waits for the store: never done at once.
    if fua { None } else { device.try_write(offset, data) }
}

/// Looks once whether a future is ready. Who takes it on polls it again, with a waker that counts.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
