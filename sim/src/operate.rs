//! Operators: whoever is to have the volume starts a daemon for it, looks at what it says, and tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use esker::journal::RingError;
use esker::store::StoreError;
use esker::volume::{AttachError, Volume};
use parking_lot::Mutex;

use crate::exec::{Process, Role, WORLD};
use crate::model::Circumstances;
use crate::rng::Rng;
use crate::session::Session;
use crate::tally::Fault;
use crate::world::{Daemon, State, World};

/// How often an operator looks.
const TICK: Duration = Duration::from_millis(150);

impl World {
    /// Looks after all hosts for as long as the run lasts.
    pub fn operate(self: &Arc<Self>) {
        for host in 0..self.plan.hosts {
            let world = self.clone();
            let mut rng = Rng::new(self.plan.seed, &format!("operator {host}"));
            self.exec.spawn(WORLD, Role::Other, async move {
                loop {
                    let idle = world.wanted() == host && world.daemon(host).is_none();
                    if idle {
                        world.may_resume(host);
                        world.start(host);
                    }
                    let wait = rng.time(TICK / 10, TICK * 10);
                    world.exec.sleep(wait).await;
                }
            });
        }
    }

    /// Where a device waits its daemon may go on with it, or forget it.
    fn may_resume(&self, host: usize) {
        let mut state = self.state.lock();
        let resume = self.plan.resumes && state.rng.chance(0.7);
        state.hosts[host].resume = resume;
    }

    /// Starts a daemon on `host`.
    pub fn start(self: &Arc<Self>, host: usize) -> Process {
        let process = {
            let mut state = self.state.lock();
            let process = state.processes.last_key_value().map_or(WORLD, |(id, _)| *id) + 1;
            let daemon = Daemon {
                host,
                boot: state.hosts[host].boot,
                began: self.exec.now(),
                ended: None,
                session: None,
                attached: None,
                takeover: false,
                detaching: false,
                paused: false,
            };
            state.processes.insert(process, daemon);
            process
        };
        let world = self.clone();
        self.exec.spawn(process, Role::Other, async move { world.serve(process, host).await });
        process
    }

    /// A takeover from `host`: journals of those whom it fences lie about from now on.
    fn leave_strays(&self, process: Process, host: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (other, machine) in state.hosts.iter_mut().enumerate() {
            let ran = |d: &Daemon| d.host == other && d.boot == machine.boot;
            let beside =
                |(id, d): (&Process, &Daemon)| *id != process && ran(d) && (other != host || d.ended.is_none());
            machine.strays |= state.processes.iter().any(beside);
        }
    }

    /// The life of a daemon.
    async fn serve(self: Arc<Self>, process: Process, host: usize) {
        let (pool, record) = match self.pool(process, host).await {
            Ok(found) => found,
            Err(why) => return self.give_up(process, format!("the pool: {why}")),
        };
        let env = self.env(process);
        let options = self.options(host, &env);
        if options.resume.is_some() {
            self.tally.count(Fault::Resume);
        }
        let (takeover, lose, resume) = (options.takeover, options.lose_journal, options.resume.is_some());
        if takeover || lose {
            self.state.lock().forced = true;
        }
        if takeover {
            self.leave_strays(process, host);
            self.state.lock().processes.entry(process).and_modify(|d| d.takeover = true);
        }
        self.say(format!(
            "process {process} attaches on host {host} (takeover {takeover}, lose {lose}, resume {resume})"
        ));
        let writer = options.writer;
        match Volume::attach(&pool, &record, options, env).await {
            Ok(volume) => {
                // Also who came and acknowledged writes while this one was attaching.
                let living = self.rivals(process);
                let may_lose_unflushed = !resume && (lose || (takeover && living));
                self.attached(process, host, volume, writer, may_lose_unflushed).await;
            }
            Err(why) => {
                self.excuse(process, host, &why);
                self.give_up(process, format!("attach: {why}"));
            }
        }
    }

    async fn attached(
        self: &Arc<Self>,
        process: Process,
        host: usize,
        volume: Volume,
        writer: Option<[u8; 16]>,
        may_lose_unflushed: bool,
    ) {
        let volume = Arc::new(volume);
        let (epoch, last) = (volume.epoch(), volume.last_operation());
        let (boot, unforced) = {
            let state = self.state.lock();
            (state.processes[&process].boot, !state.forced)
        };
        let how = Circumstances { host, boot, may_lose_unflushed, unforced };
        self.say(format!("process {process} has epoch {epoch}, after operation {last}"));
        self.check(self.model.lock().attached(process, epoch, last, how));
        let session = Arc::new_cyclic(|me| Session {
            me: me.clone(),
            world: self.clone(),
            process,
            volume,
            dying: AtomicBool::new(false),
            die_in_copy: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            rng: Mutex::new(Rng::new(self.plan.seed, &format!("users of {process}"))),
        });
        {
            let mut state = self.state.lock();
            let began = state.processes[&process].began;
            let machine = &mut state.hosts[host];
            machine.writers = writer.into_iter().collect();
            // What was lost while it attached may be its own.
            machine.journal_lost &= machine.lost_at >= began;
            (machine.takeover, machine.lose_journal) = (false, false);
            machine.device = true;
            if let Some(daemon) = state.processes.get_mut(&process) {
                daemon.session = Some(session.clone());
                daemon.attached = Some(self.exec.now());
            }
        }
        // Some users come at once, others after everything was looked at.
        let eager = session.rng.lock().chance(0.5);
        if eager {
            session.start();
        }
        if let Err(why) = session.read_all().await {
            self.say(format!("process {process}, looking at everything: {why}"));
            session.judge(&why);
        }
        if !eager {
            session.start();
        }
        self.outlive(&session).await;
    }

    /// A daemon whose volume has failed is restarted by its operator after a while.
    async fn outlive(self: &Arc<Self>, session: &Arc<Session>) {
        let mut rng = Rng::new(self.plan.seed, &format!("end of {}", session.process));
        loop {
            let wait = rng.time(TICK, TICK * 20);
            self.exec.sleep(wait).await;
            let failed = session.volume.status().state != "ok";
            let detaching = self.state.lock().processes[&session.process].detaching;
            if (failed || session.over.load(Ordering::SeqCst)) && !detaching {
                break;
            }
        }
        self.give_up(session.process, "its volume has failed".into());
    }

    /// The process ends by itself.
    fn give_up(self: &Arc<Self>, process: Process, why: String) {
        self.say(format!("process {process} ends: {why}"));
        let world = self.clone();
        self.exec.afterwards(move || world.kill(process, None));
    }

    /// Whether anybody else attached, or tried to, since `process` began: what it put may fence that one.
    pub fn rivals(&self, process: Process) -> bool {
        let state = self.state.lock();
        let began = state.processes[&process].began;
        state.processes.iter().any(|(id, d)| *id != process && d.ended.is_none_or(|ended| ended >= began))
    }

    /// Whether an attach on `host` may fail with `why`; what to do about it next time.
    fn excuse(self: &Arc<Self>, process: Process, host: usize, why: &AttachError) {
        let mut state = self.state.lock();
        let calm = state.calm && self.exec.now() > state.calm_since + Duration::from_secs(600);
        let damaged = state.damaged;
        let alive_here = state.processes.iter().any(|(id, d)| *id != process && d.host == host && d.ended.is_none());
        let others = state.processes.values().any(|d| d.host != host);
        // What the dead have sent may arrive for as long as anything may.
        let began = state.processes[&process].began;
        let near = |d: &Daemon| d.ended.is_none_or(|ended| ended + crate::weather::LATEST >= began);
        let rivals = state.processes.iter().any(|(id, d)| *id != process && near(d));
        let here = |d: &Daemon| d.host == host && d.boot == state.hosts[host].boot;
        let taken = state.processes.values().any(|d| here(d) && may_have_been_taken_from(&state, d));
        let machine = &mut state.hosts[host];
        let fine = match why {
            AttachError::InUse { .. } => {
                machine.takeover = true;
                others || alive_here
            }
            AttachError::LostRace { .. } => rivals,
            AttachError::JournalMissing { .. } => {
                (machine.takeover, machine.lose_journal) = (true, true);
                machine.journal_lost
            }
            AttachError::StrayJournal { .. } => {
                machine.lose_journal = true;
                machine.strays || taken || machine.journal_lost
            }
            AttachError::NotResumable { .. } => {
                machine.device = false;
                others || machine.journal_lost || machine.strays || taken
            }
            AttachError::Store(StoreError::NotFound { .. } | StoreError::Short { .. }) => damaged && !calm,
            AttachError::Store(_) | AttachError::Undecided(_) => !calm,
            AttachError::Segment(_) | AttachError::Log { .. } => damaged && !calm,
            AttachError::Ring(RingError::Busy { .. }) => alive_here,
            AttachError::Ring(_) => {
                (machine.takeover, machine.lose_journal) = (true, true);
                machine.journal_lost
            }
            _ => false,
        };
        drop(state);
        if !fine {
            self.fail(format!("process {process} had no reason to refuse: {why}"));
        }
    }
}

/// Whether somebody who began before `daemon` may have taken the volume from it: after a long pause, or what it had put landed
/// after its death.
fn may_have_been_taken_from(state: &State, daemon: &Daemon) -> bool {
    let others = state.processes.values().filter(|d| !std::ptr::eq(*d, daemon));
    others.filter(|d| d.takeover && d.began <= daemon.began).any(|d| match (d.attached, d.ended) {
        (Some(attached), _) => attached >= daemon.began,
        (None, Some(ended)) => ended + crate::weather::LATEST >= daemon.began,
        (None, None) => true,
    })
}
