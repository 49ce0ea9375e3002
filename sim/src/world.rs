//! The simulated world: a bucket, hosts with their files, the processes that run there, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use esker::env::Env;
use esker::pool::{Argon2Params, NewVolume, Pool, VolumeRecord};
use esker::store::Store;
use esker::volume::{AttachOptions, Host};
use parking_lot::Mutex;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::exec::{Exec, Process, WORLD};
use crate::files::Files;
use crate::model::Model;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::session::Session;
use crate::tally::{Fault, Tally};
use crate::trace::Trace;
use crate::weather::Weather;

/// Everything there is in a run.
pub struct World {
    /// Time and tasks.
    pub exec: Exec,
    /// What was decided beforehand.
    pub plan: Plan,
    /// The store.
    pub bucket: Bucket,
    /// Faults met.
    pub tally: Tally,
    /// The checker.
    pub model: Mutex<Model>,
    /// What changes.
    pub state: Mutex<State>,
    dir: TempDir,
}

/// See [`World`].
pub struct State {
    /// The machines.
    pub hosts: Vec<Machine>,
    /// All that ever ran, by number.
    pub processes: BTreeMap<Process, Daemon>,
    /// The host that is to have the volume.
    pub wanted: usize,
    /// Faults are over: whatever still fails is a failure.
    pub calm: bool,
    /// Since when they are.
    pub calm_since: Duration,
    /// Somebody has asked for the volume with force, ever.
    pub forced: bool,
    /// Objects that are damaged now.
    pub broken: BTreeSet<String>,
    /// Whether objects were damaged, ever: then errors that say so are right.
    pub damaged: bool,
    /// Requests that users may still send.
    pub requests_left: u64,
    next_stamp: u64,
    next_request: u64,
    failure: Option<String>,
    /// For whoever has no stream of its own.
    pub rng: Rng,
}

/// A machine.
pub struct Machine {
    /// Counts its boots.
    pub boot: u8,
    /// Its journal has been lost on this boot, or put aside.
    pub journal_lost: bool,
    /// When that was, in made-up time.
    pub lost_at: Duration,
    /// A volume was taken from somebody here, so journals may lie about that no opening names.
    pub strays: bool,
    /// Ids of the openings that its device has shown.
    pub writers: Vec<[u8; 16]>,
    /// Until an attach succeeds here: it may fence a living owner.
    pub takeover: bool,
    /// Until an attach succeeds here: it may go on without journals.
    pub lose_journal: bool,
    /// The next attach resumes the device.
    pub resume: bool,
    /// It has a device that outlives its daemon.
    pub device: bool,
}

/// A process that attaches the volume, or serves it.
pub struct Daemon {
    /// Where it runs.
    pub host: usize,
    /// That host's boot.
    pub boot: u8,
    /// When it began, and when it was last seen alive, in made-up time.
    pub began: Duration,
    /// See `began`.
    pub ended: Option<Duration>,
    /// Since it has the volume.
    pub session: Option<Arc<Session>>,
    /// When it got that, in made-up time.
    pub attached: Option<Duration>,
    /// It may take the volume from a living owner.
    pub takeover: bool,
    /// It is giving the volume back.
    pub detaching: bool,
    /// It is stopped.
    pub paused: bool,
}

impl World {
    /// An empty world.
    pub fn new(plan: Plan, aloud: bool) -> std::io::Result<Arc<Self>> {
        let trace = Trace::new(aloud);
        let exec = Exec::new(plan.seed, plan.stall, trace);
        let tally = Tally::default();
        let weather = Weather::new(Rng::new(plan.seed, "weather"), plan.latency, plan.chances);
        let machine = || Machine {
            boot: 1,
            journal_lost: false,
            lost_at: Duration::ZERO,
            strays: false,
            writers: Vec::new(),
            takeover: false,
            lose_journal: false,
            resume: false,
            device: false,
        };
        let state = State {
            hosts: (0..plan.hosts).map(|_| machine()).collect(),
            processes: BTreeMap::new(),
            wanted: 0,
            calm: false,
            calm_since: Duration::ZERO,
            forced: false,
            broken: BTreeSet::new(),
            damaged: plan.chances.flipped > 0.0,
            requests_left: plan.requests,
            next_stamp: 1,
            next_request: 0,
            failure: None,
            rng: Rng::new(plan.seed, "world"),
        };
        Ok(Arc::new(Self {
            bucket: Bucket::new(exec.clone(), weather, tally.clone()),
            exec,
            tally,
            model: Mutex::new(Model::new(plan.unit)),
            state: Mutex::new(state),
            // In memory where there is such a place: journals are copied with every crash.
            dir: tempfile::Builder::new().prefix("esker-sim").tempdir_in(shared_memory())?,
            plan,
        }))
    }

    /// Writes a line for people.
    pub fn say(&self, line: impl AsRef<str>) {
        // The one thing that differs from run to run is where the journals lie.
        let line = line.as_ref().replace(&*self.dir.path().to_string_lossy(), "");
        self.exec.trace.say(self.exec.now(), line);
    }

    /// A promise was broken. The first such ends the run.
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into().replace(&*self.dir.path().to_string_lossy(), "");
        self.say(format!("FAILURE: {why}"));
        self.state.lock().failure.get_or_insert(why);
    }

    /// The same, for a check.
    pub fn check(&self, what: Result<(), String>) {
        if let Err(why) = what {
            self.fail(why);
        }
    }

    /// The first broken promise.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone().or_else(|| self.bucket.breach())
    }

    /// The number of the next request, while there are any left to send.
    pub fn next_request(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.requests_left = state.requests_left.checked_sub(1)?;
        state.next_request += 1;
        Some(state.next_request)
    }

    /// A stamp that no write has had.
    pub fn stamp(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_stamp += 1;
        state.next_stamp
    }

    /// The environment of a process.
    pub fn env(&self, process: Process) -> Env {
        self.exec.env(self.plan.seed, process)
    }

    /// The files of a host's journals.
    pub fn journals(&self, host: usize) -> Files {
        Files(self.place("journal", host))
    }

    fn place(&self, what: &str, host: usize) -> PathBuf {
        self.dir.path().join(format!("{what}{host}"))
    }

    /// Makes the pool and its volume, in fair weather.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn found(self: &Arc<Self>) -> Result<(), String> {
        let env = self.env(WORLD);
        let store = Store::over_network(self.bucket.client(0, WORLD), "p", "sim", env.clone());
        let cheap = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };
        let pool = Pool::format(store, &password(), cheap, &env).await.map_err(|e| e.to_string())?;
        let new = NewVolume {
            name: "v".into(),
            size: self.plan.size,
            block_size: self.plan.unit as u32,
            compression: self.plan.compression,
        };
        pool.create_volume(new, &env).await.map(drop).map_err(|e| e.to_string())
    }

    /// Opens the pool as a process does.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn pool(&self, process: Process, host: usize) -> Result<(Pool, VolumeRecord), String> {
        let env = self.env(process);
        let store = Store::over_network(self.bucket.client(host, process), "p", "sim", env.clone());
        let pool = Pool::open(store, &password(), &env).await.map_err(|e| e.to_string())?;
        let volume = pool.volume("v").await.map_err(|e| e.to_string())?;
        Ok((pool, volume))
    }

    /// The options with which a process of `host` attaches now; its wishes are used up by it.
    pub fn options(&self, host: usize, env: &Env) -> AttachOptions {
        let (journal, state_dir) = (self.place("journal", host), self.place("state", host));
        let mut state = self.state.lock();
        let machine = &mut state.hosts[host];
        let who = Host { id: [host as u8 + 1; 16], boot: [machine.boot; 16], name: format!("host{host}") };
        let writer = env.random16();
        let resume = (std::mem::take(&mut machine.resume) && machine.device).then(|| machine.writers.clone());
        // A plain attach is another device's.
        machine.device &= resume.is_some();
        if resume.is_none() {
            machine.writers.clear();
        }
        machine.writers.push(writer);
        let plan = &self.plan;
        AttachOptions {
            journal_bytes: 4 << 20,
            require_tmpfs: false,
            cache_bytes: plan.cache_bytes,
            leaf_cache_bytes: plan.leaf_cache_bytes,
            dirty_map_bytes: plan.dirty_map_bytes,
            segment_bytes: plan.segment_bytes,
            max_in_flight: plan.max_in_flight,
            max_unflushed_age: plan.max_unflushed_age,
            checkpoint_segments: plan.checkpoint_segments,
            compact: plan.compact,
            on_outage: plan.on_outage,
            takeover: machine.takeover,
            lose_journal: machine.lose_journal,
            writer: Some(writer),
            resume,
            ..AttachOptions::new(who, journal, state_dir)
        }
    }

    /// The host that is to have the volume.
    pub fn wanted(&self) -> usize {
        self.state.lock().wanted
    }

    /// The living process that serves on `host`, or is about to.
    pub fn daemon(&self, host: usize) -> Option<Process> {
        let state = self.state.lock();
        state.processes.iter().rev().find(|(_, d)| d.host == host && d.ended.is_none()).map(|(id, _)| *id)
    }

    /// The session of a process that has the volume.
    pub fn session(&self, process: Process) -> Option<Arc<Session>> {
        self.state.lock().processes.get(&process)?.session.clone()
    }

    /// `kill -9`: the process is gone, its journal is as `journals` (or as it lies there now).
    pub fn kill(&self, process: Process, journals: Option<crate::files::Snapshot>) {
        let (host, session) = {
            let mut state = self.state.lock();
            let now = self.exec.now();
            let Some(daemon) = state.processes.get_mut(&process).filter(|d| d.ended.is_none()) else { return };
            daemon.ended = Some(now);
            if daemon.session.is_none() {
                self.tally.count(Fault::KillInRecovery);
            }
            (daemon.host, daemon.session.take())
        };
        self.say(format!("process {process} on host {host} is killed"));
        let files = self.journals(host);
        let before = journals.unwrap_or_else(|| files.snapshot());
        // What is dropped must leave no trace: the dead do not tidy up.
        self.exec.kill(process);
        drop(session);
        self.check(files.restore(&before));
    }

    /// Kills whatever runs on `host`.
    pub fn kill_all(&self, host: usize) {
        while let Some(process) = self.daemon(host) {
            self.kill(process, None);
        }
    }

    /// Journals of a host are gone or spoilt.
    pub fn note_lost(&self, host: usize) {
        let machine = &mut self.state.lock().hosts[host];
        (machine.journal_lost, machine.lost_at) = (true, self.exec.now());
    }

    /// The host loses power: its processes and what was in memory are gone.
    pub fn crash_host(&self, host: usize) {
        self.kill_all(host);
        self.check(self.journals(host).remove_all());
        let mut state = self.state.lock();
        let machine = &mut state.hosts[host];
        machine.boot += 1;
        machine.journal_lost = false;
        machine.strays = false;
        machine.writers.clear();
        machine.device = false;
    }
}

fn password() -> SecretString {
    SecretString::from("secret")
}

fn shared_memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}
