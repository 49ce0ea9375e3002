//! The mailbox of a ublk queue under loom: schedules of one or two answers and a sleeper, and every value that the memory
//! model lets a load see. scripts/concurrency runs it.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

#[path = "../harness.rs"]
mod harness;
#[path = "../weak.rs"]
mod weak;

mod sync;

#[path = "../../../src/ublk/mailbox.rs"]
mod mailbox;

use std::os::fd::BorrowedFd;
use std::process::ExitCode;

use loom::sync::Arc;
use loom::thread;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use harness::{Model, holds, schedule};
use mailbox::{Done, Mailbox};

fn main() -> ExitCode {
    harness::run(&[
        Model {
            name: "mailbox::no_answer_is_slept_over",
            weak: &["a look before arming", "no fence before the look", "no fence after the put"],
            explore: |_| explore(false, || answers(1)),
        },
        Model {
            name: "mailbox::none_of_two_answers_is_slept_over",
            weak: &["a look before arming", "no fence before the look"],
            explore: |_| explore(true, || answers(2)),
        },
    ])
}

/// `swaps`: see `sync::atomic::SWAPS`; more than one answer needs them.
fn explore(swaps: bool, model: fn()) {
    sync::atomic::SWAPS.store(swaps, std::sync::atomic::Ordering::Relaxed);
    let mut builder = loom::model::Builder::new();
    // Every schedule in which at most three times a thread is cut short.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn rung(mailbox: &Mailbox) -> bool {
    // SAFETY: the mailbox, and with it its eventfd, outlives the call.
    let event = unsafe { BorrowedFd::borrow_raw(mailbox.event()) };
    let mut fds = [PollFd::new(&event, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).unwrap() > 0
}

/// Each helper answers one request; the queue's thread takes all answers, asleep in between or not.
fn answers(requests: u16) {
    schedule();
    let mailbox = Arc::new(Mailbox::new(requests).unwrap());
    let helpers: Vec<_> = (0..requests)
        .map(|tag| {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.put(Done { tag, result: Ok(None) }))
        })
        .collect();
    let mut helpers = Some(helpers);
    let mut taken = 0;
    while taken < requests {
        if mailbox.take().is_some() {
            taken += 1;
            continue;
        }
        if mailbox.may_sleep() {
            // Whatever is to come has come once the helpers are done: then the bell has rung, or never will.
            if let Some(helpers) = helpers.take() {
                helpers.into_iter().for_each(|h| h.join().unwrap());
            }
            holds(rung(&mailbox), || "slept over an answer".into());
            mailbox.awake();
        }
    }
}
