//! The sending side of a connection: replies of the reader and of finished tasks, each sent whole.
//!
//! Whoever has a reply when nobody sends, sends, and takes along what others add meanwhile: no hop to a writer. The
//! connection's own thread may wait for the client; a task never does: what the socket does not take at once it
//! leaves to a writer thread, which is started the first time that happens.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::slots::Slot;
use crate::socket::MAX_SLICES;
use crate::stream::Stream;

/// Bytes that may be queued before the connection's own thread waits. What tasks add is bounded by their slots.
const QUEUE_LIMIT: usize = 1 << 20;
/// How many rounds a task sends for others before it leaves that to the writer thread.
const TASK_ROUNDS: usize = 8;

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Output {
    stream: Arc<Stream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Part>,
    queued: usize,
    sender: Sender,
    writer: Option<JoinHandle<()>>,
    /// Nothing can be sent any more.
    dead: bool,
    /// The writer thread may end.
    finished: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Sender {
    #[default]
    Nobody,
    Somebody,
    /// The writer thread is to go on.
    HandedOver,
}

/// A piece of a reply. The last one gives back the request's share.
#[derive(Debug)]
struct Part {
    bytes: Bytes,
    _slot: Option<Slot>,
}

impl Output {
    pub(crate) fn new(stream: Arc<Stream>) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Sends `bytes` (whole replies) from the connection's own thread, waiting as needed.
    pub(crate) fn send(self: &Arc<Self>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.sender == Sender::Nobody {
            state.sender = Sender::Somebody;
            drop(state);
            let sent = self.stream.send_all(bytes);
            return self.carry_on(sent, true);
        }
        state.push(vec![Bytes::copy_from_slice(bytes)], None);
        while state.queued > QUEUE_LIMIT && !state.dead {
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Sends a reply in `parts`. Only the connection's own thread may `wait`.
    pub(crate) fn push(self: &Arc<Self>, parts: Vec<Bytes>, slot: Option<Slot>, wait: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.push(parts, slot);
        if state.sender != Sender::Nobody {
            while wait && state.queued > QUEUE_LIMIT && !state.dead {
                self.changed.wait(&mut state);
            }
            return Ok(());
        }
        state.sender = Sender::Somebody;
        drop(state);
        self.carry_on(Ok(()), wait)
    }

    /// As the sender: sends what is queued until nothing is, then steps down.
    fn carry_on(self: &Arc<Self>, mut sent: io::Result<()>, wait: bool) -> io::Result<()> {
        let mut rounds = 0;
        let mut batch = VecDeque::new();
        loop {
            let mut state = self.state.lock();
            match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    state.put_back(batch);
                    return self.hand_over(&mut state);
                }
                Err(e) => {
                    self.die(&mut state);
                    return Err(e);
                }
                Ok(()) => {}
            }
            if state.queue.is_empty() {
                state.sender = Sender::Nobody;
                drop(state);
                self.changed.notify_all();
                return Ok(());
            }
            if !wait && rounds == TASK_ROUNDS {
                return self.hand_over(&mut state);
            }
            rounds += 1;
            batch = std::mem::take(&mut state.queue);
            state.queued = 0;
            drop(state);
            self.changed.notify_all();
            sent = self.send_parts(&mut batch, wait);
        }
    }

    fn send_parts(&self, batch: &mut VecDeque<Part>, wait: bool) -> io::Result<()> {
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = batch.len().min(MAX_SLICES);
            for (slice, part) in slices.iter_mut().zip(batch.iter()) {
                *slice = IoSlice::new(&part.bytes);
            }
            let mut taken = self.stream.send(&slices[..count], wait)?;
            while let Some(first) = batch.front_mut() {
                if first.bytes.len() > taken {
                    bytes::Buf::advance(&mut first.bytes, taken);
                    break;
                }
                taken -= first.bytes.len();
                batch.pop_front();
            }
        }
        self.stream.flush(wait)
    }

    /// Leaves the sending to the writer thread.
    fn hand_over(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        state.sender = Sender::HandedOver;
        if state.writer.is_none() {
            let this = self.clone();
            match thread::Builder::new().name("nbd-writer".into()).stack_size(256 << 10).spawn(move || this.write()) {
                Ok(thread) => state.writer = Some(thread),
                Err(e) => {
                    self.die(state);
                    return Err(e);
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The writer thread.
    fn write(self: Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            while state.sender != Sender::HandedOver {
                if state.finished {
                    return;
                }
                self.changed.wait(&mut state);
            }
            state.sender = Sender::Somebody;
            drop(state);
            let flushed = self.stream.flush(true);
            if let Err(error) = self.carry_on(flushed, true) {
                tracing::debug!(%error, "the client is gone");
            }
        }
    }

    fn die(&self, state: &mut State) {
        state.dead = true;
        state.sender = Sender::Nobody;
        state.queue.clear();
        state.queued = 0;
        self.stream.socket().close();
        self.changed.notify_all();
    }

    /// Ends the sending side: waits up to `patience` until all is sent, then closes the connection.
    pub(crate) fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.sender != Sender::Nobody && !state.dead {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.finished = true;
        let writer = state.writer.take();
        drop(state);
        self.stream.close();
        self.changed.notify_all();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer thread of a connection panicked");
        }
    }
}

impl State {
    fn push(&mut self, mut parts: Vec<Bytes>, slot: Option<Slot>) {
        let last = parts.pop();
        for bytes in parts {
            self.queued += bytes.len();
            self.queue.push_back(Part { bytes, _slot: None });
        }
        if let Some(bytes) = last {
            self.queued += bytes.len();
            self.queue.push_back(Part { bytes, _slot: slot });
        }
    }

    /// Puts what could not be sent before what was added since.
    fn put_back(&mut self, batch: VecDeque<Part>) {
        self.queued += batch.iter().map(|part| part.bytes.len()).sum::<usize>();
        for part in batch.into_iter().rev() {
            self.queue.push_front(part);
        }
    }
}
