//! The thread of one queue: takes requests from the kernel, answers at once what memory can answer, and hands the rest
//! to tasks, whose answers come back through the mailbox.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use esker_block::{BlockDevice, BlockError, BlockResult};
use futures::FutureExt;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use memmap2::{MmapOptions, MmapRaw};
use tokio::runtime::Handle;

use super::data::Data;
use super::features::CopyMode;
use super::lanes::Lanes;
use super::mailbox::{Done, Mailbox};
use super::request::{Request, ask};
use super::status::Counters;
use super::uapi::{self, IO_COMMIT_AND_FETCH, IO_FETCH, IO_RES_ABORT, IO_RES_OK, IoCmd, IoDesc};

/// Marks completions of the eventfd's poll among those of tags.
const RUNG: u64 = u64::MAX;

/// What the queues of one device share.
pub(super) struct Shared {
    pub id: u32,
    pub depth: u16,
    pub copy: CopyMode,
    pub device: Arc<dyn BlockDevice>,
    pub runtime: Handle,
    /// `/dev/ublkcN`; the kernel takes the device for orphaned once it is closed.
    pub char: Arc<File>,
    /// The kernel has not said yet that a new device is live.
    pub starting: AtomicBool,
    /// Threads are to go without answering any more.
    pub leaving: AtomicBool,
    /// Every request is to fail: the device is being taken away from its users.
    pub failing: AtomicBool,
}

/// One queue; made on its own thread, which alone may give its commands.
pub(super) struct Queue {
    shared: Arc<Shared>,
    number: u16,
    ring: IoUring,
    descriptors: MmapRaw,
    data: Data,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    /// Each tag's request while it is with us.
    requests: Vec<Option<Request>>,
    /// Requests are answered with EIO from now on, and answers that come late are nobody's.
    failing: bool,
    /// Bytes that requests hold, and those that wait for theirs.
    lanes: Lanes,
    /// Tags that the kernel may still send requests for.
    live: u16,
    /// Completions that were reaped; kept for its memory.
    reaped: Vec<(u64, i32, bool)>,
}

impl Queue {
    /// Sets up the ring and offers all tags to the kernel.
    ///
    /// # Errors
    /// Where the kernel refuses one of them, or memory is short.
    pub(super) fn open(
        shared: Arc<Shared>,
        number: u16,
        mailbox: Arc<Mailbox>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let depth = shared.depth;
        // A command of each tag, and the poll.
        let entries = (u32::from(depth) + 1).next_power_of_two();
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries)?;
        let descriptors = MmapOptions::new()
            .offset(uapi::descriptors_offset(number))
            .len(usize::from(depth) * size_of::<IoDesc>())
            .populate()
            .map_raw_read_only(&*shared.char)?;
        let data = Data::new(shared.copy, shared.char.clone(), number, depth)?;
        let mut queue = Self {
            number,
            ring,
            descriptors,
            data,
            mailbox,
            counters,
            requests: vec![None; usize::from(depth)],
            failing: false,
            lanes: Lanes::new(depth),
            live: depth,
            reaped: Vec::with_capacity(usize::from(depth) + 1),
            shared,
        };
        queue.watch_mailbox()?;
        for tag in 0..depth {
            queue.command(IO_FETCH, tag, 0)?;
        }
        queue.ring.submit()?;
        Ok(queue)
    }

    /// Serves until the device is stopped or quiesced, or the queue is told to leave.
    ///
    /// # Errors
    /// Where io_uring fails, or the kernel refuses an answer; the device waits for recovery then.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let runtime = self.shared.runtime.clone();
        // Futures are polled here first, and some of them need timers.
        let _inside = runtime.enter();
        loop {
            while let Some(done) = self.mailbox.take() {
                self.answer(done)?;
            }
            if !self.failing && self.shared.failing.load(Ordering::Acquire) {
                self.fail()?;
            }
            self.ask_waiting()?;
            if self.live == 0 || self.shared.leaving.load(Ordering::Acquire) {
                return Ok(());
            }
            let wait = usize::from(self.mailbox.may_sleep());
            match self.ring.submit_and_wait(wait) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {}
                Err(e) => return Err(e),
            }
            self.mailbox.awake();
            self.counters.sleeps.add(1);
            self.take_completions()?;
        }
    }

    /// Answers all that waits with EIO. Nothing is asked again, so what tasks find afterwards belongs to no request.
    fn fail(&mut self) -> io::Result<()> {
        self.failing = true;
        self.lanes = Lanes::new(self.shared.depth);
        for tag in 0..self.shared.depth {
            if self.requests[usize::from(tag)].take().is_some() {
                self.commit(tag, -libc::EIO)?;
            }
        }
        Ok(())
    }

    fn take_completions(&mut self) -> io::Result<()> {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), cqueue::more(c.flags()))));
        for (who, result, more) in reaped.drain(..) {
            if who == RUNG {
                self.counters.rings.add(1);
                if !more {
                    self.watch_mailbox()?;
                }
                continue;
            }
            match result {
                IO_RES_OK => self.take_request(who as u16)?,
                IO_RES_ABORT => self.live -= 1,
                e => return Err(io::Error::from_raw_os_error(-e)),
            }
        }
        self.reaped = reaped;
        Ok(())
    }

    /// A request has come: answers it at once where that needs no waiting.
    fn take_request(&mut self, tag: u16) -> io::Result<()> {
        if self.failing {
            return self.commit(tag, -libc::EIO);
        }
        let Some(request) = Request::parse(&self.descriptor(tag)) else {
            self.counters.others.add(1);
            return self.commit(tag, -libc::EOPNOTSUPP);
        };
        match request {
            Request::Read { offset, len } => {
                self.counters.reads.add(1);
                self.counters.read_bytes.add(len as u64);
                if let Some(result) = self.shared.device.try_read(offset, self.data.buffer(tag, len)) {
                    self.counters.inline.add(1);
                    let given = result.map(|()| self.data.give(tag, len));
                    return self.commit_given(tag, request, given);
                }
            }
            Request::Write { offset, len, fua } => {
                self.counters.writes.add(1);
                self.counters.written_bytes.add(len as u64);
                if !fua && let Some(result) = self.write_now(tag, offset, len) {
                    self.counters.inline.add(1);
                    return self.commit_given(tag, request, result.map(Ok));
                }
            }
            Request::Flush => self.counters.flushes.add(1),
            Request::Discard { .. } | Request::WriteZeroes { .. } => self.counters.others.add(1),
        }
        self.requests[usize::from(tag)] = Some(request);
        if self.lanes.enter(tag, request) { self.ask(tag, request) } else { Ok(()) }
    }

    /// A write that has room: its bytes go straight to where the device keeps them, if the kernel still has them.
    fn write_now(&mut self, tag: u16, offset: u64, len: usize) -> Option<BlockResult<()>> {
        if let Some(source) = self.data.source(tag) {
            return self.shared.device.try_write_with(offset, len, &mut |place| source(place));
        }
        self.shared.device.try_write(offset, self.data.buffer(tag, len))
    }

    /// Asks the device for what may take time: here as far as it goes without waiting, then as a task.
    fn ask(&mut self, tag: u16, request: Request) -> io::Result<()> {
        let bytes = match request {
            Request::Write { len, .. } => match self.data.take(tag, len) {
                Ok(data) => Bytes::copy_from_slice(data),
                Err(e) => {
                    let result = Err(BlockError::Source(e.to_string()));
                    return self.answer(Done { tag, result });
                }
            },
            _ => Bytes::new(),
        };
        let starting = self.shared.starting.load(Ordering::Acquire);
        let mut asked = ask(self.shared.device.clone(), request, bytes, starting).boxed();
        // Whoever would wake this waker is asked again by the task, with a waker of its own.
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => {
                self.counters.inline.add(1);
                self.answer(Done { tag, result })
            }
            Poll::Pending => {
                let mailbox = self.mailbox.clone();
                self.shared.runtime.spawn(async move {
                    let result = asked.await;
                    mailbox.put(Done { tag, result });
                });
                Ok(())
            }
        }
    }

    fn answer(&mut self, done: Done) -> io::Result<()> {
        let Some(request) = self.requests[usize::from(done.tag)].take() else {
            assert!(self.failing, "answers belong to requests that wait");
            return Ok(());
        };
        self.lanes.leave(request);
        let given = done.result.map(|data| self.give(done.tag, data));
        self.commit_given(done.tag, request, given)
    }

    /// Asks for what had to wait until others were done.
    fn ask_waiting(&mut self) -> io::Result<()> {
        while let Some((tag, request)) = self.lanes.next() {
            self.ask(tag, request)?;
        }
        Ok(())
    }

    fn give(&mut self, tag: u16, data: Option<BytesMut>) -> io::Result<()> {
        data.map_or(Ok(()), |data| self.data.give_bytes(tag, &data))
    }

    /// Tells the kernel what came of a request: of the device, and of moving its bytes.
    fn commit_given(&mut self, tag: u16, request: Request, given: BlockResult<io::Result<()>>) -> io::Result<()> {
        let result = match given {
            Ok(Ok(())) => request.success(),
            Ok(Err(e)) => {
                tracing::warn!("ublk device {}: moving the bytes of {request:?}: {e}", self.shared.id);
                -libc::EIO
            }
            Err(e) => {
                tracing::warn!("ublk device {}: {request:?}: {e}", self.shared.id);
                -e.errno()
            }
        };
        self.commit(tag, result)
    }

    fn commit(&mut self, tag: u16, result: i32) -> io::Result<()> {
        if result < 0 {
            self.counters.errors.add(1);
        }
        self.command(IO_COMMIT_AND_FETCH, tag, result)
    }

    fn command(&mut self, op: u32, tag: u16, result: i32) -> io::Result<()> {
        let cmd = IoCmd { q_id: self.number, tag, result, addr: self.data.address(tag) };
        let fd = types::Fd(self.shared.char.as_raw_fd());
        let entry = opcode::UringCmd16::new(fd, op).cmd(cmd.bytes()).build().user_data(u64::from(tag));
        self.push(&entry)
    }

    /// Reports each write to the mailbox's eventfd. The eventfd is never read: a poll tells of writes, not of states.
    fn watch_mailbox(&mut self) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(self.mailbox.event()), libc::POLLIN as u32).multi(true);
        self.push(&poll.build().user_data(RUNG))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // Safety: the commands point at nothing but `data`, which lives as long as the ring.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn descriptor(&self, tag: u16) -> IoDesc {
        assert!(usize::from(tag) < self.requests.len(), "the kernel answers the tags that were offered");
        // Safety: within the mapping, which holds `depth` descriptors; the kernel writes one before it completes the
        // tag's command, and not again before the tag is offered again.
        unsafe { self.descriptors.as_ptr().cast::<IoDesc>().add(usize::from(tag)).read_volatile() }
    }
}
