//! Answers that other threads found, on their way to the queue's thread.
//!
//! The thread sleeps in io_uring, where no waker reaches it: an eventfd that the ring polls does. It is written only
//! while the thread is about to sleep or asleep, which `armed` says; so a busy queue costs its helpers no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use bytes::BytesMut;
use esker_block::BlockResult;
use rustix::event::{EventfdFlags, eventfd};

use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{self, ArrayQueue};

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Done {
    /// Which request.
    pub tag: u16,
    /// What came of it; a read's bytes.
    pub result: BlockResult<Option<BytesMut>>,
}

/// Where answers wait for the queue's thread.
#[derive(Debug)]
pub(super) struct Mailbox {
    done: ArrayQueue<Done>,
    armed: AtomicBool,
    event: OwnedFd,
}

impl Mailbox {
    /// For a queue of `depth` requests: each is answered once, so that the box never fills.
    ///
    /// # Errors
    /// Where no eventfd is to be had.
    pub(super) fn new(depth: u16) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { done: ArrayQueue::new(usize::from(depth).max(1)), armed: AtomicBool::new(false), event })
    }

    /// Hands in an answer, from any thread.
    pub(super) fn put(&self, done: Done) {
        assert!(self.done.push(done).is_ok(), "a request is answered once");
        // Pairs with the fence in `may_sleep`: either the thread sees the answer there, or we see that it is armed.
        if !sync::weak("no fence after the put") {
            fence(Ordering::SeqCst);
        }
        if self.armed.swap(false, Ordering::AcqRel) {
            self.ring();
        }
    }

    /// Wakes the thread, whatever it does.
    pub(super) fn ring(&self) {
        // The counter can hold 2^64-2 rings, and it is never read: the poll reports each write.
        if let Err(e) = rustix::io::write(self.event.as_fd(), &1_u64.to_ne_bytes()) {
            tracing::error!("a ublk queue cannot be woken: {e}");
        }
    }

    /// The next answer; for the queue's thread.
    pub(super) fn take(&self) -> Option<Done> {
        self.done.pop()
    }

    /// Whether the thread may sleep: nothing has come, and whatever comes from now on rings.
    pub(super) fn may_sleep(&self) -> bool {
        let early = sync::weak("a look before arming").then(|| self.done.is_empty());
        self.armed.store(true, Ordering::Release);
        if !sync::weak("no fence before the look") {
            fence(Ordering::SeqCst);
        }
        if early.unwrap_or_else(|| self.done.is_empty()) {
            return true;
        }
        self.awake();
        false
    }

    /// The thread is awake and looks by itself.
    pub(super) fn awake(&self) {
        self.armed.store(false, Ordering::Release);
    }

    /// What the ring polls.
    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rung(mailbox: &Mailbox, wait_ms: i64) -> bool {
        let mut fds = [PollFd::new(&mailbox.event, PollFlags::IN)];
        let limit = Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 };
        poll(&mut fds, Some(&limit)).unwrap() > 0
    }

    #[test]
    fn it_rings_only_for_a_sleeper_and_once() {
        let mailbox = Mailbox::new(4).unwrap();
        mailbox.put(Done { tag: 0, result: Ok(None) });
        assert!(!rung(&mailbox, 0), "the thread is awake");
        assert!(!mailbox.may_sleep(), "an answer waits");
        assert_eq!(mailbox.take().map(|d| d.tag), Some(0));
        assert!(mailbox.may_sleep());
        mailbox.put(Done { tag: 1, result: Ok(None) });
        assert!(rung(&mailbox, 0));
        let mut count = [0; 8];
        rustix::io::read(mailbox.event.as_fd(), &mut count).unwrap();
        mailbox.put(Done { tag: 2, result: Ok(None) });
        assert!(!rung(&mailbox, 0), "it has rung for this sleep");
    }

    /// Without the fences, or with `may_sleep` looking before it arms, an answer is slept over.
    #[test]
    fn no_answer_is_slept_over() {
        let mailbox = Arc::new(Mailbox::new(1).unwrap());
        let (ask, asked) = std::sync::mpsc::channel::<u16>();
        let helper = {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || asked.iter().for_each(|tag| mailbox.put(Done { tag, result: Ok(None) })))
        };
        for tag in 0..20_000 {
            ask.send(tag).unwrap();
            loop {
                if let Some(done) = mailbox.take() {
                    assert_eq!(done.tag, tag);
                    break;
                }
                if mailbox.may_sleep() {
                    assert!(rung(&mailbox, 10_000), "slept over answer {tag}");
                    let mut count = [0; 8];
                    rustix::io::read(mailbox.event.as_fd(), &mut count).unwrap();
                    mailbox.awake();
                }
            }
        }
        drop(ask);
        helper.join().unwrap();
    }
}
