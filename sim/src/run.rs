//! One run: a world, its troubles, calm, and the last judgement.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker::probe;
use esker::scrub::{ScrubOptions, scrub};
use esker_block::BlockDevice;

use crate::exec::WORLD;
use crate::plan::Plan;
use crate::world::World;

/// Made-up time that a run may take in all.
const LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Made-up time after which, in calm, everything outstanding must have come to its end.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What came of a run.
pub struct Outcome {
    /// What was to happen.
    pub plan: Plan,
    /// The promise that was broken, if any.
    pub failure: Option<String>,
    /// A hash of all that happened.
    pub hash: u64,
    /// How many things that were.
    pub events: u64,
    /// The last lines of what happened.
    pub tail: Vec<String>,
    /// Made-up time that passed.
    pub lasted: Duration,
    /// Operations and attaches.
    pub size: (usize, usize),
    /// Faults met, as [`crate::tally::Fault::ALL`].
    pub faults: Vec<u64>,
    /// Branches of the engine reached, as [`probe::Branch::ALL`].
    pub branches: Vec<u64>,
}

/// Carries out a plan on this thread.
pub fn run(plan: Plan, aloud: bool) -> Outcome {
    drop(probe::take_reached());
    let world = match World::new(plan.clone(), aloud) {
        Ok(world) => world,
        Err(e) => return Outcome::failed(plan, format!("no place for journals: {e}")),
    };
    let story = world.clone();
    let run = AssertUnwindSafe(|| {
        story.exec.run(LIMIT, story.clone().story())?;
        match story.failure() {
            None => story.exec.run(LIMIT, story.scrubbed()),
            Some(_) => Ok(()),
        }
    });
    let failure = match catch_unwind(run) {
        Ok(Ok(())) => world.failure(),
        Ok(Err(why)) => Some(world.failure().unwrap_or(why)),
        // After a broken promise the checker may be at its wits' end: what was broken first counts.
        Err(panic) => Some(world.failure().unwrap_or_else(|| format!("panic: {}", text_of(panic.as_ref())))),
    };
    let (hash, events) = world.exec.trace.hash();
    let size = world.model.lock().size();
    let outcome = Outcome {
        plan,
        failure,
        hash,
        events,
        tail: world.exec.trace.tail(),
        lasted: world.exec.now(),
        size,
        faults: world.tally.counts(),
        branches: probe::take_reached(),
    };
    world.end();
    outcome
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "of another kind".into())
}

impl Outcome {
    fn failed(plan: Plan, why: String) -> Self {
        Self {
            plan,
            failure: Some(why),
            hash: 0,
            events: 0,
            tail: Vec::new(),
            lasted: Duration::ZERO,
            size: (0, 0),
            faults: Vec::new(),
            branches: Vec::new(),
        }
    }
}

impl World {
    /// From founding the pool to the last judgement. Returns early where a promise is broken.
    async fn story(self: Arc<Self>) {
        let fair = self.bucket.weather(|w| (w.chances, w.clear_up()).0);
        if let Err(why) = self.found().await {
            return self.fail(format!("the pool could not be made: {why}"));
        }
        self.bucket.weather(|w| w.chances = fair);
        self.operate();
        self.trouble();
        let spent = self.until(LIMIT / 4, |w| w.spent()).await;
        if !spent && self.failure().is_none() {
            return self.fail("the schedule of faults does not come to its end");
        }
        if spent {
            self.last_blow().await;
            self.calm_down();
            if !self.until(PATIENCE, |w| w.at_rest()).await && self.failure().is_none() {
                let state = self.state.lock().processes.iter().filter(|(_, d)| d.ended.is_none()).count();
                return self.fail(format!(
                    "faults are over, and after {PATIENCE:?} the volume is not served to its users' end ({state} processes)"
                ));
            }
            self.last_judgement().await;
        }
    }

    /// Waits until `done`; false if a promise is broken first, or time runs out.
    async fn until(&self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let begun = self.exec.now();
        loop {
            if self.failure().is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            if self.exec.now() > begun + limit {
                return false;
            }
            self.exec.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether all requests have been sent (or a while has passed) and the schedule is over.
    fn spent(&self) -> bool {
        let last = self.plan.events.last().map_or(Duration::ZERO, |e| e.at);
        let now = self.exec.now();
        now > last && (self.state.lock().requests_left == 0 || now > last + Duration::from_secs(300))
    }

    fn calm_down(&self) {
        self.say("calm");
        let wanted = self.wanted();
        (0..self.plan.hosts).filter(|host| *host != wanted).for_each(|host| self.kill_all(host));
        self.bucket.weather(crate::weather::Weather::clear_up);
        let paused: Vec<_> = {
            let mut state = self.state.lock();
            state.calm = true;
            state.calm_since = self.exec.now();
            state.requests_left += 20;
            let unpause = |(id, d): (&u32, &mut crate::world::Daemon)| std::mem::take(&mut d.paused).then_some(*id);
            state.processes.iter_mut().filter_map(unpause).collect()
        };
        paused.into_iter().for_each(|process| self.exec.resume(process));
    }

    /// Whether the wanted host serves the volume, with nothing left to send.
    fn at_rest(&self) -> bool {
        let Some(session) = self.daemon(self.wanted()).and_then(|p| self.session(p)) else { return false };
        let served = self.state.lock().requests_left == 0;
        let fine = session.volume.status().state == "ok" && !session.over.load(Ordering::SeqCst);
        // Late requests of the dead and damage that heals by itself must be over, too.
        let quiet = self.exec.now() > self.state.lock().calm_since + Duration::from_secs(500);
        if quiet && fine && self.model.lock().newest_epoch() > session.volume.epoch() {
            // Fenced by an attach that came late, and idle, so it does not know.
            let (host, process) = (self.wanted(), session.process);
            drop(session);
            self.state.lock().hosts[host].takeover = true;
            self.kill(process, None);
            return false;
        }
        let answered = session.under_way.load(Ordering::SeqCst) == 0;
        served && fine && quiet && answered
    }

    /// In calm: everything reads as it must, flushes, goes back clean, and is the same for the next one, wherever.
    async fn last_judgement(self: &Arc<Self>) {
        for round in 0..2 {
            let host = self.wanted();
            let Some(process) = self.daemon(host) else { return self.fail("its daemon is gone in calm") };
            let Some(session) = self.session(process) else { return self.fail("its session is gone in calm") };
            self.say(format!("judgement {round}: process {process}"));
            let judged = self.clone();
            let done = Arc::new(parking_lot::Mutex::new(None));
            let slot = done.clone();
            self.exec.spawn(process, crate::exec::Role::Other, async move {
                let answer = async {
                    session.read_all().await?;
                    let covers = judged.model.lock().flush_begins(process);
                    session.volume.flush().await?;
                    judged.check(judged.model.lock().flushed(process, covers));
                    if let Some(daemon) = judged.state.lock().processes.get_mut(&process) {
                        daemon.detaching = true;
                    }
                    session.volume.detach().await?;
                    judged.check(judged.model.lock().detached(process));
                    Ok::<(), esker_block::BlockError>(())
                };
                *slot.lock() = Some(answer.await);
            });
            let over = done.clone();
            if !self.until(PATIENCE, move |_| over.lock().is_some()).await {
                return self.fail("in calm, a read, a flush or a detach does not come to its end");
            }
            if let Some(Err(why)) = done.lock().take() {
                return self.fail(format!("in calm: {why}"));
            }
            self.kill(process, None);
            let next = (host + 1) % self.plan.hosts;
            if let Some(fenced) = self.daemon(next) {
                self.kill(fenced, None);
            }
            self.state.lock().wanted = next;
            let next = |w: &Self| w.daemon(w.wanted()).and_then(|p| w.session(p)).is_some();
            if !self.until(PATIENCE, next).await && self.failure().is_none() {
                return self.fail("a volume that was given back cleanly is not attached again");
            }
        }
    }

    /// Whatever happened, nothing in the bucket is damaged: `esker scrub`, or `esker fsck` of most seeds, says so.
    async fn scrubbed(&self) {
        let pool = match self.pool(WORLD, 0).await {
            Ok((pool, _)) => pool,
            Err(why) => return self.fail(format!("in calm, the pool: {why}")),
        };
        let options = ScrubOptions { data: self.plan.seed.is_multiple_of(8), ..ScrubOptions::default() };
        match scrub(&pool, None, options, &self.env(WORLD), &()).await {
            Ok(report) if report.is_damaged() => {
                let first =
                    report.findings.sorted().first().map(|f| format!("{}: {}: {}", f.kind.word(), f.key, f.why));
                self.fail(format!("scrub finds damage: {}", first.unwrap_or_default()));
            }
            Ok(_) => {}
            Err(why) => self.fail(format!("in calm, scrub: {why}")),
        }
    }

    /// Takes the world apart.
    fn end(&self) {
        let all: Vec<_> = self.state.lock().processes.keys().copied().collect();
        all.into_iter().for_each(|process| self.exec.kill(process));
        self.state.lock().processes.clear();
        self.exec.kill_world();
    }
}
