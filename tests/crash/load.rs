//! Clients that write, flush, trim and read at random, and keep account of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use esker_testkit::{BLOCK, History, Keeps, NbdClient, NbdError, NbdRequest, NbdResult, Outcome, What, stamped};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{Daemon, SIZE};

/// Blocks of the volume.
pub const BLOCKS: u64 = SIZE / BLOCK as u64;
/// Requests under way at a time on each connection.
const DEPTH: usize = 8;

/// The seed of this run: `ESKER_SEED`, or a new one. It is printed, which is seen where a test fails.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("ESKER_SEED").ok().map(|s| s.parse().expect("ESKER_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random);
    println!("{test}: ESKER_SEED={seed}");
    seed
}

/// Rounds: those of every run, or `ESKER_CRASH_ROUNDS`.
pub fn rounds(usual: u64) -> u64 {
    let given = std::env::var("ESKER_CRASH_ROUNDS").ok();
    given.map_or(usual, |n| n.parse().expect("ESKER_CRASH_ROUNDS is a number"))
}

/// Clients under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub errors: Arc<AtomicUsize>,
    pub done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients on connections of their own.
    pub fn start(daemon: &Daemon, history: &Arc<History>, seed: u64, connections: usize) -> Self {
        let (stop, errors, done) = (Arc::default(), Arc::default(), Arc::default());
        let clients = (0..connections).map(|n| {
            let client = Client {
                nbd: daemon.connect(),
                history: history.clone(),
                rng: StdRng::seed_from_u64(seed + n as u64),
                stop: Arc::clone(&stop),
                errors: Arc::clone(&errors),
                done: Arc::clone(&done),
            };
            thread::spawn(move || client.run())
        });
        let clients = clients.collect();
        Self { stop, errors, done, clients }
    }

    /// Waits until the clients have had so many answers.
    pub fn wait_for(&self, answers: usize) {
        while self.done.load(Ordering::SeqCst) < answers && !self.clients.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// No further requests; those under way are waited for. Answers how many errors there were.
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|c| c.join().expect("a client sees nothing wrong"));
        self.errors.load(Ordering::SeqCst)
    }

    /// No further requests, from now on; those under way are not waited for.
    pub fn pause(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Client {
    nbd: NbdClient,
    history: Arc<History>,
    rng: StdRng,
    stop: Arc<AtomicBool>,
    errors: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Client {
    fn run(mut self) {
        let (told, answers) = channel::<bool>();
        let mut under_way = 0;
        let mut gone = false;
        while !gone && !self.stop.load(Ordering::SeqCst) {
            while under_way < DEPTH {
                let told = told.clone();
                self.one(move |alive| drop(told.send(alive)));
                under_way += 1;
            }
            gone = !answers.recv().expect("it is our own");
            under_way -= 1;
        }
        for _ in 0..under_way {
            drop(answers.recv());
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
        let lba = self.rng.random_range(0..=BLOCKS - blocks);
        let id = self.history.begin(what, lba, blocks);
        let (history, errors, done) = (self.history.clone(), self.errors.clone(), self.done.clone());
        let answered = move |result: Result<Vec<u8>, NbdError>| {
            match &result {
                Ok(data) if matches!(what, What::Read { .. }) => {
                    history.end_read(id, data).expect("a block is what some write left");
                }
                Ok(_) => history.end(id),
                Err(NbdError::Errno(_)) => drop(errors.fetch_add(1, Ordering::SeqCst)),
                Err(NbdError::Gone(_)) => {}
            }
            done.fetch_add(1, Ordering::SeqCst);
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
pub fn image(daemon: &Daemon) -> Vec<u8> {
    let nbd = daemon.connect();
    let step = 1u32 << 20;
    let parts: Vec<_> = (0..SIZE).step_by(step as usize).map(|at| nbd.start(NbdRequest::Read(at, step))).collect();
    let read = |r: Receiver<NbdResult>| r.recv().unwrap().unwrap_or_else(|e| panic!("{e}: {}", daemon.stderr()));
    parts.into_iter().flat_map(read).collect()
}

/// Reads the volume, which must show what `keeps` says; answers its content and what was found.
#[track_caller]
pub fn verify(daemon: &Daemon, history: &History, keeps: Keeps) -> (Vec<u8>, Outcome) {
    let image = image(daemon);
    match history.check(&image, keeps) {
        Ok(outcome) => (image, outcome),
        Err(wrong) => panic!("{keeps:?}: {wrong}; the server says: {}", daemon.stderr()),
    }
}

/// One write of whole blocks that is in the account.
pub fn write(nbd: &NbdClient, history: &History, lba: u64, blocks: u64, fua: bool) -> Result<(), NbdError> {
    let id = history.begin(What::Write { fua }, lba, blocks);
    let data = stamped(id, lba, blocks);
    nbd.call(NbdRequest::Write(lba * BLOCK as u64, &data, fua))?;
    history.end(id);
    Ok(())
}

/// One flush that is in the account.
pub fn flush(nbd: &NbdClient, history: &History) -> Result<(), NbdError> {
    let id = history.begin(What::Flush, 0, 0);
    nbd.flush()?;
    history.end(id);
    Ok(())
}
