//! One round: a schedule is carried out on a world of its own, and what is found is held against what was promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use esker_testkit::served::{Daemon, Load, flush, try_image};
use esker_testkit::{EIO, History, Keeps, NbdClient, NbdError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::schedule::{Loss, Policy, Schedule, Step};
use crate::world::World;

/// Everything outstanding ends, and a flush succeeds, this long after the last fault at the latest.
pub(crate) const RECOVERS: Duration = Duration::from_secs(90);

/// What was tried and found.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// How often each kind of step was carried out.
    pub steps: BTreeMap<String, u64>,
    /// Comparisons of the whole volume with the account.
    pub checks: u64,
    /// Answers that clients had.
    pub answers: u64,
    /// Answers that were errors, where errors are allowed.
    pub errors: u64,
    /// Completed writes that were gone, where the journal was lost.
    pub lost: u64,
    /// Writes that had never been answered and were there.
    pub unanswered: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        for (name, n) in &other.steps {
            *self.steps.entry(name.clone()).or_default() += n;
        }
        self.checks += other.checks;
        self.answers += other.answers;
        self.errors += other.errors;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
    }
}

pub struct Round {
    pub world: World,
    pub tally: Tally,
    pub(crate) schedule: Schedule,
    pub(crate) owner: usize,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) history: Arc<History>,
    pub(crate) rng: StdRng,
    /// Hosts that hold a journal whose time is over.
    pub(crate) stale: [bool; 2],
    boots: u64,
    disks: bool,
}

impl Round {
    pub fn new(world: World, schedule: Schedule, disks: bool) -> Self {
        let rng = StdRng::seed_from_u64(schedule.seed.rotate_left(17));
        Self {
            world,
            tally: Tally::default(),
            schedule,
            owner: 0,
            daemon: None,
            history: Arc::default(),
            rng,
            stale: [false; 2],
            boots: 1,
            disks,
        }
    }

    pub fn run(&mut self) {
        let begin = Instant::now();
        self.daemon = Some(self.serve(self.owner, &[]));
        for (n, step) in self.schedule.steps.clone().into_iter().enumerate() {
            if step.needs_disks() && !self.disks {
                continue;
            }
            self.world.note(&format!("{:?} step {n}: {step:?}", begin.elapsed()));
            *self.tally.steps.entry(step.name()).or_default() += 1;
            self.step(step);
        }
        self.world.note(&format!("{:?} the end", begin.elapsed()));
        self.flush_surely();
        self.check(Keeps::Completed);
        let ran = self.daemon.take().expect("there is a server").terminate();
        assert!(ran.code == Some(0) || self.may_fail(), "{ran:?}");
        self.daemon = Some(self.serve(self.owner, &[]));
        self.check(Keeps::Completed);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Kill { again } => {
                let load = self.load();
                self.kill(load);
                self.recover(&again);
            }
            Step::LoseRing { how } => {
                let load = self.load();
                self.kill(load);
                self.lose_ring(how);
            }
            Step::Freeze { time } => self.freeze(time),
            Step::FreezeTakeover { refused_first, killed } => self.freeze_takeover(refused_first, killed),
            Step::StoreDown { time, kill } => self.store_down(time, kill),
            Step::StoreFull { time, kill } => self.store_full(time, kill),
            Step::Network { line, time, late, kill } => self.network(line, time, late, kill),
            Step::NetworkTakeover { line, late } => self.network_takeover(line, late),
            Step::JournalFull { at } => self.journal_full(at),
            Step::Stop => {
                let load = self.load();
                self.stop(load);
                self.recover(&[]);
            }
        }
    }

    // --- servers

    /// The flags that every server of this round has, and more.
    pub(crate) fn flags<'a>(&self, more: &[&'a str], policy: &'a str) -> Vec<&'a str> {
        let own = ["--max-unflushed-age", self.schedule.age, "--journal-size", self.schedule.ring];
        [&own[..], &["--on-outage", policy, "--cache-size", "4M"], more].concat()
    }

    pub(crate) fn policy(&self) -> String {
        match self.schedule.policy {
            Policy::Wait => "wait".into(),
            Policy::FailAfter(time) => format!("fail-after={}ms", time.as_millis()),
        }
    }

    /// A server on this host that is ready.
    #[track_caller]
    pub(crate) fn serve(&mut self, host: usize, more: &[&str]) -> Daemon {
        let mut daemon = self.start(host, more);
        assert!(daemon.is_ready(), "the server does not get ready: {}", daemon.stderr());
        self.world.forget_lost(host);
        daemon
    }

    pub(crate) fn start(&self, host: usize, more: &[&str]) -> Daemon {
        let policy = self.policy();
        self.world.hosts[host].start(&self.world.via(host), &self.flags(more, &policy))
    }

    /// What another host says to take the volume over.
    pub(crate) fn taking(&mut self, host: usize) -> &'static [&'static str] {
        let stale = std::mem::replace(&mut self.stale[host], false);
        if stale { &["--takeover", "--lose-journal"] } else { &["--takeover"] }
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("there is a server")
    }

    // --- load

    /// Clients at work, some way into it.
    pub(crate) fn load(&mut self) -> Load {
        let rest = Duration::from_micros(self.rng.random_range(500..5000));
        let clients = self.rng.random_range(1..=3);
        let load = Load::paced(
            self.daemon.as_ref().expect("there is a server"),
            &self.history,
            self.rng.random(),
            clients,
            rest,
        );
        load.wait_for_within(self.rng.random_range(10..250), Duration::from_secs(10));
        load
    }

    /// Whether requests may fail where the store is slow or away: with `wait` never.
    fn may_fail(&self) -> bool {
        self.schedule.policy != Policy::Wait
    }

    /// The load ends; with `wait` no request of it failed.
    pub(crate) fn errors(&mut self, load: Load) {
        self.tally.answers += load.answers() as u64;
        let errors = load.finish();
        assert!(self.may_fail() || errors == 0, "{errors} requests failed: {}", self.said());
        self.tally.errors += errors as u64;
    }

    fn said(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, Daemon::stderr)
    }

    /// kill -9 under load.
    pub(crate) fn kill(&mut self, load: Load) {
        thread::sleep(Duration::from_micros(self.rng.random_range(0..20_000)));
        self.daemon.take().expect("there is a server").kill();
        self.errors(load);
        self.history.crashed();
    }

    /// SIGTERM under load, and a good end.
    pub(crate) fn stop(&mut self, load: Load) {
        let ran = self.daemon.take().expect("there is a server").terminate();
        // With the store's errors it may have lost patience; what was acknowledged is in the journal then.
        let good = ran.code == Some(0) || (self.may_fail() && ran.code == Some(4));
        assert!(good, "{ran:?}");
        // What it did not answer before it let go of the connections may have happened.
        self.errors(load);
        self.history.crashed();
    }

    /// A flush succeeds before long, now that all is well: what failed under `fail-after` is sent on.
    pub(crate) fn flush_surely(&mut self) {
        let start = Instant::now();
        let nbd = self.daemon().connect();
        while let Err(why) = within(&nbd, |nbd| flush(nbd, &self.history)) {
            self.may_be_late(&why, start);
        }
    }

    // --- checks

    /// The volume shows what it must. Half of the time what it shows is made durable and is where the account begins anew.
    pub(crate) fn check(&mut self, keeps: Keeps) {
        // Not after a loss: in the account a flush would cover what was lost before it.
        let settles = self.rng.random::<bool>() && keeps == Keeps::Completed;
        if settles {
            self.flush_surely();
        }
        let image = self.image();
        let outcome = match self.history.check(&image, keeps) {
            Ok(outcome) => outcome,
            Err(wrong) => panic!("{keeps:?}: {wrong}; the server says: {}", self.said()),
        };
        self.tally.checks += 1;
        self.tally.lost += outcome.lost as u64;
        self.tally.unanswered += outcome.unanswered as u64;
        if settles || keeps == Keeps::Flushed {
            self.history.settle(&image);
        }
    }

    /// The next server on this host has all that was acknowledged, however many die on the way to it.
    pub(crate) fn recover(&mut self, again: &[Duration]) {
        for time in again {
            let dying = self.start(self.owner, &[]);
            thread::sleep(*time);
            dying.kill();
        }
        self.daemon = Some(self.serve(self.owner, &[]));
        self.check(Keeps::Completed);
    }

    /// The server is dead; its journal is lost.
    pub(crate) fn lose_ring(&mut self, how: Loss) {
        let flags: &[&str] = match how {
            Loss::Flags => {
                self.world.hosts[self.owner].lose_journals();
                &["--takeover", "--lose-journal"]
            }
            Loss::Reboot => {
                self.world.hosts[self.owner].lose_journals();
                self.boots += 1;
                self.world.hosts[self.owner].boot(self.boots);
                &[]
            }
            Loss::Elsewhere => {
                self.stale[self.owner] = true;
                self.owner = 1 - self.owner;
                self.taking(self.owner)
            }
        };
        self.daemon = Some(self.serve(self.owner, flags));
        self.check(Keeps::Flushed);
    }

    /// The content of the volume as the present server shows it, now or, under `fail-after`, before long.
    pub(crate) fn image(&self) -> Vec<u8> {
        let start = Instant::now();
        loop {
            match try_image(self.daemon()) {
                Ok(image) => return image,
                Err(why) => self.may_be_late(&why, start),
            }
        }
    }

    /// A request has failed although no fault is left: it is to be tried again for a while, if it may fail at all.
    pub(crate) fn may_be_late(&self, why: &NbdError, start: Instant) {
        assert!(self.may_fail() && *why == NbdError::Errno(EIO), "a request fails: {why}: {}", self.said());
        assert!(start.elapsed() < RECOVERS, "it does not recover: {}", self.said());
        thread::sleep(Duration::from_millis(50));
    }
}

/// A call of the client that must come back.
pub(crate) fn within<R: Send>(nbd: &NbdClient, call: impl FnOnce(&NbdClient) -> R + Send) -> R {
    thread::scope(|s| {
        let (told, answer) = std::sync::mpsc::channel();
        s.spawn(move || told.send(call(nbd)).unwrap_or_default());
        match answer.recv_timeout(RECOVERS) {
            Ok(answer) => answer,
            Err(_) => {
                nbd.hang_up();
                panic!("a request is not answered within {RECOVERS:?}")
            }
        }
    })
}
