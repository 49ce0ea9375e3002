//! Clients that write, flush, trim and read at random, and keep account of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::LIMIT;
use super::daemon::Daemon;
use crate::history::{BLOCK, History, Keeps, Outcome, What, stamped};
use crate::nbd::{NbdClient, NbdError, NbdRequest};

/// The volume of most tests.
pub const VOLUME: &str = "v";
/// Its bytes: few, so that writes meet each other.
pub const VOLUME_SIZE: u64 = 16 << 20;
/// Requests under way at a time on each connection.
const DEPTH: usize = 8;

/// What clients share with those who started them.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    errors: AtomicUsize,
    done: AtomicUsize,
    /// What cannot be, whatever comes later: a block that no write left as it is.
    wrong: Mutex<Option<String>>,
}

/// Clients under way.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients of a volume of whole MiB on connections of their own, as fast as they can.
    pub fn start(daemon: &Daemon, history: &Arc<History>, seed: u64, connections: usize) -> Self {
        Self::paced(daemon, history, seed, connections, Duration::ZERO)
    }

    /// Starts clients on connections of their own, which take a rest after each answer.
    pub fn paced(daemon: &Daemon, history: &Arc<History>, seed: u64, connections: usize, rest: Duration) -> Self {
        let shared = Arc::<Shared>::default();
        let clients = (0..connections).map(|n| {
            let client = Client {
                nbd: daemon.connect(),
                history: history.clone(),
                rng: StdRng::seed_from_u64(seed.wrapping_add(n as u64)),
                shared: shared.clone(),
                rest,
            };
            thread::spawn(move || client.run())
        });
        let clients = clients.collect();
        Self { shared, clients }
    }

    /// Waits until the clients have had so many answers.
    pub fn wait_for(&self, answers: usize) {
        self.wait_for_within(answers, Duration::MAX);
    }

    /// Waits until the clients have had so many answers, or so much time has passed.
    pub fn wait_for_within(&self, answers: usize, limit: Duration) {
        let start = Instant::now();
        while self.answers() < answers && start.elapsed() < limit && !self.is_over() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many answers there were.
    pub fn answers(&self) -> usize {
        self.shared.done.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// No further requests; those under way are waited for. Answers how many errors there were.
    ///
    /// # Panics
    /// A request is never answered, or a read was answered with what nobody wrote.
    pub fn finish(self) -> usize {
        self.pause();
        let start = Instant::now();
        while !self.is_over() {
            assert!(start.elapsed() < LIMIT, "there are requests that are not answered");
            thread::sleep(Duration::from_millis(1));
        }
        self.clients.into_iter().for_each(|c| c.join().expect("a client does not panic"));
        if let Some(wrong) = self.shared.wrong.lock().take() {
            panic!("a read was answered with what nobody wrote: {wrong}");
        }
        self.shared.errors.load(Ordering::SeqCst)
    }

    /// No further requests, from now on; those under way are not waited for.
    pub fn pause(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

struct Client {
    nbd: NbdClient,
    history: Arc<History>,
    rng: StdRng,
    shared: Arc<Shared>,
    rest: Duration,
}

impl Client {
    fn run(mut self) {
        let (told, answers) = channel::<bool>();
        let mut under_way = 0;
        let mut gone = false;
        while !gone && !self.shared.stop.load(Ordering::SeqCst) {
            while under_way < DEPTH {
                let told = told.clone();
                self.one(move |alive| told.send(alive).expect("whoever sent it waits"));
                under_way += 1;
            }
            gone = !answers.recv().expect("it is our own");
            under_way -= 1;
            if !self.rest.is_zero() {
                thread::sleep(self.rest);
            }
        }
        for _ in 0..under_way {
            answers.recv().expect("it is our own");
        }
    }

    /// Sends one request. `told` learns whether the server is still there.
    fn one(&mut self, told: impl FnOnce(bool) + Send + 'static) {
        let roll = self.rng.random_range(0..100);
        let what = match roll {
            0..5 => What::Flush,
            5..10 => What::Zero,
            10..18 => What::Read { saw: None },
            18..23 => What::Write { fua: true },
            _ => What::Write { fua: false },
        };
        let blocks = match what {
            What::Flush => 0,
            What::Read { .. } => 1,
            // Mostly small, now and then the largest that must not be torn.
            _ if roll == 99 => 256,
            _ => {
                let most = 1u64 << self.rng.random_range(0..=6);
                self.rng.random_range(1..=most)
            }
        };
        let lba = self.rng.random_range(0..=self.nbd.size() / BLOCK as u64 - blocks);
        let id = self.history.begin(what, lba, blocks);
        let (history, shared) = (self.history.clone(), self.shared.clone());
        let answered = move |result: Result<Vec<u8>, NbdError>| {
            match &result {
                Ok(data) if matches!(what, What::Read { .. }) => {
                    if let Err(wrong) = history.end_read(id, data) {
                        *shared.wrong.lock() = Some(wrong);
                        shared.stop.store(true, Ordering::SeqCst);
                    }
                }
                Ok(_) => history.end(id),
                Err(NbdError::Errno(_)) => drop(shared.errors.fetch_add(1, Ordering::SeqCst)),
                Err(NbdError::Gone(_)) => {}
            }
            shared.done.fetch_add(1, Ordering::SeqCst);
            told(!matches!(result, Err(NbdError::Gone(_))));
        };
        let (offset, len) = (lba * BLOCK as u64, blocks as u32 * BLOCK as u32);
        match what {
            What::Write { fua } => self.nbd.send(NbdRequest::Write(offset, &stamped(id, lba, blocks), fua), answered),
            What::Zero if id.is_multiple_of(2) => self.nbd.send(NbdRequest::Trim(offset, len), answered),
            What::Zero => self.nbd.send(NbdRequest::Zeroes(offset, len), answered),
            What::Flush => self.nbd.send(NbdRequest::Flush, answered),
            What::Read { .. } => self.nbd.send(NbdRequest::Read(offset, len), answered),
        }
    }
}

/// The whole volume.
///
/// # Errors
/// See [`NbdError`].
///
/// # Panics
/// A read is not answered.
#[track_caller]
pub fn try_image(daemon: &Daemon) -> Result<Vec<u8>, NbdError> {
    let nbd = daemon.connect();
    let step = 1u32 << 20;
    let offsets = (0..nbd.size()).step_by(step as usize);
    let parts: Vec<_> = offsets.map(|at| nbd.start(NbdRequest::Read(at, step))).collect();
    let mut image = Vec::with_capacity(nbd.size() as usize);
    for part in parts {
        let answer = part.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("a read hangs: {}", daemon.stderr()));
        image.extend_from_slice(&answer?);
    }
    Ok(image)
}

/// The whole volume.
///
/// # Panics
/// It cannot be read.
#[track_caller]
pub fn image(daemon: &Daemon) -> Vec<u8> {
    try_image(daemon).unwrap_or_else(|e| panic!("{e}: {}", daemon.stderr()))
}

/// Reads the volume, which must show what `keeps` says; answers its content and what was found.
///
/// # Panics
/// It shows something else.
#[track_caller]
pub fn verify(daemon: &Daemon, history: &History, keeps: Keeps) -> (Vec<u8>, Outcome) {
    let image = image(daemon);
    match history.check(&image, keeps) {
        Ok(outcome) => (image, outcome),
        Err(wrong) => panic!("{keeps:?}: {wrong}; the server says: {}", daemon.stderr()),
    }
}

/// One write of whole blocks that is in the account.
///
/// # Errors
/// See [`NbdError`].
pub fn write(nbd: &NbdClient, history: &History, lba: u64, blocks: u64, fua: bool) -> Result<(), NbdError> {
    let id = history.begin(What::Write { fua }, lba, blocks);
    let data = stamped(id, lba, blocks);
    nbd.call(NbdRequest::Write(lba * BLOCK as u64, &data, fua))?;
    history.end(id);
    Ok(())
}

/// One flush that is in the account.
///
/// # Errors
/// See [`NbdError`].
pub fn flush(nbd: &NbdClient, history: &History) -> Result<(), NbdError> {
    let id = history.begin(What::Flush, 0, 0);
    nbd.flush()?;
    history.end(id);
    Ok(())
}
