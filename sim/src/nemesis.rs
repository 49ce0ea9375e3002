//! Carries out the schedule of faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::exec::{Process, Role, WORLD};
use crate::plan::{Event, What};
use crate::tally::Fault;
use crate::world::World;

impl World {
    /// Carries out the schedule, event by event; what lasts a while goes on beside it.
    pub fn trouble(self: &Arc<Self>) {
        for event in self.plan.events.clone() {
            let world = self.clone();
            self.exec.spawn(WORLD, Role::Other, async move {
                let Event { at, what } = event;
                world.exec.sleep(at).await;
                if world.state.lock().calm {
                    return;
                }
                world.say(format!("now: {what:?}"));
                world.befall(what).await;
            });
        }
    }

    /// The last thing before calm.
    pub async fn last_blow(self: &Arc<Self>) {
        if let Some(what) = self.plan.last {
            self.say(format!("at last: {what:?}"));
            self.befall(what).await;
        }
    }

    async fn befall(self: &Arc<Self>, what: What) {
        let host = self.wanted();
        match what {
            What::Kill => self.kill_daemon(host),
            What::KillAgainAndAgain => self.kill_again(host).await,
            What::KillInCopy => self.kill_in_copy(host).await,
            What::HostCrash => {
                self.tally.count(Fault::HostCrash);
                self.crash_host(host);
                self.move_on();
            }
            What::LoseJournal => {
                self.tally.count(Fault::JournalLost);
                self.kill_daemon(host);
                self.check(self.journals(host).remove_all());
                self.note_lost(host);
            }
            What::CutJournal => {
                self.tally.count(Fault::JournalCut);
                // All of them: whoever still had the file in its memory would die of it.
                self.kill_all(host);
                self.check(self.journals(host).cut_all());
                self.note_lost(host);
            }
            What::Pause(long) => self.pause(host, long).await,
            What::PauseAndTakeover(long) => {
                self.tally.count(Fault::PausedThroughTakeover);
                self.take_over();
                self.pause(host, long).await;
            }
            What::Takeover => {
                self.tally.count(Fault::Takeover);
                self.take_over();
            }
            What::StalledTakeover(long) => self.stall_takeover(long).await,
            What::Move => {
                self.tally.count(Fault::Move);
                self.kill_daemon(host);
                self.kill_at_seal(host).await;
                let mut state = self.state.lock();
                state.wanted = (state.wanted + 1) % self.plan.hosts;
            }
            What::Race => self.race(),
            What::Detach => self.detach(host, None).await,
            What::DetachKilled(after) => self.detach(host, Some(after)).await,
            What::Outage(refuse, long) => {
                self.tally.count(Fault::Outage);
                self.bucket.weather(|w| w.outage = Some(refuse));
                self.exec.sleep(long).await;
                self.bucket.weather(|w| w.outage = None);
            }
            What::Partition(long) => {
                self.tally.count(Fault::Partition);
                self.bucket.weather(|w| w.cut_off.insert(host));
                self.exec.sleep(long).await;
                self.bucket.weather(|w| w.cut_off.remove(&host));
            }
            What::ClockJump(by, wall) => {
                self.tally.count(Fault::ClockJump);
                self.exec.jump(by, wall);
            }
            What::Damage(how, long) => self.damage(how, long).await,
        }
    }

    /// Kills what runs on `host`.
    fn kill_daemon(&self, host: usize) {
        let Some(process) = self.daemon(host) else { return };
        self.tally.count(Fault::Kill);
        self.kill(process, None);
    }

    async fn kill_again(&self, host: usize) {
        self.kill_daemon(host);
        for _ in 0..4 {
            let wait = self.state.lock().rng.time(Duration::from_millis(1), Duration::from_millis(1500));
            self.exec.sleep(wait).await;
            self.kill_daemon(host);
        }
    }

    /// Kills what recovers on `host` as soon as its seal is there: before the next opening, if it can be.
    async fn kill_at_seal(&self, host: usize) {
        let seals = || {
            let keys = self.bucket.objects().into_iter().map(|(key, _)| key);
            let closing = keys.filter(|k| k.starts_with("p/log/") && !k.ends_with("/0000000000000000"));
            closing.filter(|k| self.bucket.peek(k).is_some_and(|b| b.starts_with(b"ESKEROBJ"))).count()
        };
        let before = seals();
        for _ in 0..5000 {
            self.exec.sleep(Duration::from_millis(1)).await;
            if seals() > before {
                break;
            }
        }
        self.kill_daemon(host);
    }

    async fn kill_in_copy(&self, host: usize) {
        let Some(session) = self.daemon(host).and_then(|process| self.session(process)) else { return };
        session.die_in_copy.store(true, Ordering::SeqCst);
        drop(session);
        self.exec.sleep(Duration::from_secs(3)).await;
    }

    async fn pause(&self, host: usize, long: Duration) {
        let Some(process) = self.daemon(host) else { return };
        self.tally.count(Fault::Pause);
        self.set_paused(process, true);
        self.exec.sleep(long).await;
        self.set_paused(process, false);
    }

    fn set_paused(&self, process: Process, paused: bool) {
        let mut state = self.state.lock();
        if let Some(daemon) = state.processes.get_mut(&process).filter(|d| d.ended.is_none()) {
            daemon.paused = paused;
            if paused { self.exec.pause(process) } else { self.exec.resume(process) }
        }
    }

    /// Another host is to have the volume.
    fn take_over(&self) {
        let mut state = self.state.lock();
        let next = (state.wanted + 1) % self.plan.hosts;
        state.wanted = next;
        state.hosts[next].takeover = true;
    }

    /// Another host sets out to take the volume, and is stopped before it has it.
    async fn stall_takeover(&self, long: Duration) {
        self.take_over();
        let host = self.wanted();
        let on_its_way = || self.daemon(host).filter(|process| self.session(*process).is_none());
        for _ in 0..5000 {
            if let Some(process) = on_its_way() {
                let wait = self.state.lock().rng.time(Duration::from_millis(1), self.plan.latency.1 * 8);
                self.exec.sleep(wait).await;
                if on_its_way() == Some(process) {
                    self.tally.count(Fault::TakeoverStalled);
                    self.pause(host, long).await;
                }
                return;
            }
            self.exec.sleep(Duration::from_millis(1)).await;
        }
    }

    /// After a crash of its host a volume is taken up there again, or elsewhere.
    fn move_on(&self) {
        if self.state.lock().rng.chance(0.3) {
            self.take_over();
        }
    }

    fn race(self: &Arc<Self>) {
        self.tally.count(Fault::Race);
        for host in 0..self.plan.hosts {
            self.state.lock().hosts[host].takeover = true;
            self.start(host);
        }
    }

    /// The owner gives the volume back; `killed` after so long.
    async fn detach(self: &Arc<Self>, host: usize, killed: Option<Duration>) {
        let Some(process) = self.daemon(host) else { return };
        let Some(session) = self.session(process) else { return };
        self.tally.count(Fault::Detach);
        if let Some(daemon) = self.state.lock().processes.get_mut(&process) {
            daemon.detaching = true;
        }
        let world = self.clone();
        self.exec.spawn(process, Role::Other, async move {
            let answer = session.volume.detach().await;
            session.over.store(true, Ordering::SeqCst);
            match answer {
                Ok(()) => {
                    world.say(format!("process {process} gave the volume back"));
                    world.check(world.model.lock().detached(process));
                    let mut state = world.state.lock();
                    state.hosts[host].device = false;
                    if state.rng.chance(0.5) {
                        state.wanted = state.rng.below(world.plan.hosts);
                    }
                }
                Err(why) => {
                    world.say(format!("process {process} could not give the volume back: {why}"));
                    session.judge(&why);
                }
            }
            drop(session);
            let exec = world.exec.clone();
            exec.afterwards(move || world.kill(process, None));
        });
        if let Some(after) = killed {
            self.exec.sleep(after).await;
            if self.daemon(host) == Some(process) {
                self.tally.count(Fault::KillInDetach);
                self.kill(process, None);
            }
        }
    }
}
