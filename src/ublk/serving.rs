//! The threads that serve a device's queues: beginning, ending, where they run.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::watch;

use super::control::{Control, DeviceState};
use super::error::UblkError;
use super::mailbox::Mailbox;
use super::queue::{Queue, Shared};
use super::status::Counters;

/// How long the threads may take to offer their tags to the kernel.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);

/// The threads, and what they share. The kernel takes the device for orphaned when the last of it is gone.
pub(super) struct Serving {
    pub shared: Arc<Shared>,
    pub threads: Vec<QueueThread>,
}

pub(super) struct QueueThread {
    handle: JoinHandle<()>,
    mailbox: Arc<Mailbox>,
    pub counters: Arc<Counters>,
}

type Opened = mpsc::Sender<Result<(), UblkError>>;

impl Serving {
    /// Starts a thread for each queue and waits until each has offered its tags. The receiver counts threads that have
    /// ended.
    pub(super) fn begin(
        control: &Control,
        state: &DeviceState,
        shared: Arc<Shared>,
    ) -> Result<(Self, watch::Receiver<usize>), UblkError> {
        let (end, ended) = watch::channel(0);
        let (opened, waiting) = mpsc::channel();
        let mut serving = Self { shared, threads: Vec::new() };
        let outcome = (0..state.queues).try_for_each(|queue| {
            let cpus = control.affinity(state.id, queue)?;
            let start = QueueStart { queue, cpus, end: end.clone(), opened: opened.clone() };
            serving.threads.push(start.spawn(serving.shared.clone())?);
            Ok(())
        });
        drop(opened);
        let outcome = outcome.and_then(|()| {
            let until = Instant::now() + OPEN_LIMIT;
            (0..state.queues).try_for_each(|_| {
                let left = until.saturating_duration_since(Instant::now());
                let late = |_| UblkError::TimedOut { what: "starting the queues".into(), limit: OPEN_LIMIT };
                waiting.recv_timeout(left).map_err(late)?
            })
        });
        match outcome {
            Ok(()) => Ok((serving, ended)),
            Err(e) => {
                serving.leave(OPEN_LIMIT)?;
                Err(e)
            }
        }
    }

    /// Tells the threads to go, whatever is under way, and waits for that.
    pub(super) fn leave(self, limit: Duration) -> Result<(), UblkError> {
        self.shared.leaving.store(true, Ordering::Release);
        self.threads.iter().for_each(|t| t.mailbox.ring());
        self.join(limit)
    }

    /// From now on the threads answer every request with EIO.
    pub(super) fn fail(&self) {
        self.shared.failing.store(true, Ordering::Release);
        self.threads.iter().for_each(|t| t.mailbox.ring());
    }

    /// Waits for threads that end by themselves.
    pub(super) fn join(self, limit: Duration) -> Result<(), UblkError> {
        let until = Instant::now() + limit;
        while !self.threads.iter().all(|t| t.handle.is_finished()) {
            if Instant::now() >= until {
                return Err(UblkError::TimedOut {
                    what: format!("ending the queues of ublk device {}", self.shared.id),
                    limit,
                });
            }
            std::thread::sleep(TICK);
        }
        let id = self.shared.id;
        for (queue, thread) in self.threads.into_iter().enumerate() {
            let failed =
                |_| UblkError::Queue { id, queue: queue as u16, source: io::Error::other("its thread panicked") };
            thread.handle.join().map_err(failed)?;
        }
        Ok(())
    }
}

/// What a queue's thread is started with.
struct QueueStart {
    queue: u16,
    cpus: Vec<usize>,
    end: watch::Sender<usize>,
    opened: Opened,
}

impl QueueStart {
    fn spawn(self, shared: Arc<Shared>) -> Result<QueueThread, UblkError> {
        let (id, queue) = (shared.id, self.queue);
        let failed = |source| UblkError::Queue { id, queue, source };
        let mailbox = Arc::new(Mailbox::new(shared.depth).map_err(failed)?);
        let counters = Arc::new(Counters::default());
        let run = {
            let (mailbox, counters) = (mailbox.clone(), counters.clone());
            move || self.run(shared, mailbox, counters)
        };
        let thread = std::thread::Builder::new().name(format!("ublk{id}-q{queue}"));
        Ok(QueueThread { handle: thread.spawn(run).map_err(failed)?, mailbox, counters })
    }

    fn run(self, shared: Arc<Shared>, mailbox: Arc<Mailbox>, counters: Arc<Counters>) {
        let (id, queue) = (shared.id, self.queue);
        stay_on(&self.cpus);
        let failed = |source| UblkError::Queue { id, queue, source };
        let opened = Queue::open(shared, queue, mailbox, counters).map_err(failed);
        let (open, answer) = match opened {
            Ok(queue) => (Some(queue), Ok(())),
            Err(e) => (None, Err(e)),
        };
        // Whoever waited may have given up; then `leaving` is set.
        drop(self.opened.send(answer));
        drop(self.opened);
        if let Some(Err(e)) = open.map(Queue::serve) {
            tracing::error!("{}; the device waits for `esker attach --recover`", failed(e));
        }
        self.end.send_modify(|n| *n += 1);
    }
}

/// Keeps this thread on the CPUs whose requests it gets. Where that is not allowed it runs anywhere.
fn stay_on(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    if set.count() > 0
        && let Err(e) = sched_setaffinity(None, &set)
    {
        tracing::debug!("a ublk queue runs on any CPU: {e}");
    }
}
