//! The process that serves devices: until it is told to stop, has lost or given away the last of them, or handed all of
//! them over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::background::bound_log;
use super::handover::{ABOUT_TO_LET_GO, LETTING_GO};
use super::served::{Phase, Served};
use crate::cli::compacting::{answer, asked_for};
use crate::cli::daemon_status::DaemonFacts;
use crate::cli::devices::Kernel;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::stop::Stop;
use crate::host::{Done, Refusal, Say, StatusSource, describe_users};

/// How long a flush may take before a handover: it spares the successor work, no more.
const BEFORE_HANDOVER: Duration = Duration::from_secs(5);
/// How often the log's length is looked at.
const LOG_CHECK: Duration = Duration::from_secs(60);
/// How long an answer may take to get to its client before this process ends.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a device is looked at that somebody else is removing.
const MOMENT: Duration = Duration::from_millis(50);
/// How often a device is looked at that would not outlive this process.
const UNTIL_FREE: Duration = Duration::from_secs(1);
/// How long what is said before letting go may take to be acted upon; requests are served meanwhile.
const HEARD: Duration = Duration::from_millis(100);
/// Events that may wait.
const EVENTS: usize = 64;

/// What happened to a device.
#[derive(Debug)]
enum Event {
    /// It was removed, as asked.
    Removed,
    /// The kernel gives us no more requests for it, and nobody here asked for that.
    Ended(usize),
    /// All were handed over; the successor knows.
    HandedOver,
}

/// The devices of this process.
pub struct Daemon {
    facts: DaemonFacts,
    served: Vec<Arc<Served>>,
    events: mpsc::Sender<Event>,
    inbox: Mutex<Option<mpsc::Receiver<Event>>>,
    background: bool,
}

impl Daemon {
    /// Of live devices; in the background, where stderr is a log of ours.
    pub fn new(facts: DaemonFacts, served: Vec<Served>, background: bool) -> Arc<Self> {
        let (events, inbox) = mpsc::channel(EVENTS);
        let served = served.into_iter().map(Arc::new).collect();
        Arc::new(Self { facts, served, events, inbox: Mutex::new(Some(inbox)), background })
    }

    /// Serves until the end.
    ///
    /// # Errors
    /// `InUse` where a device was taken away by somebody else; what writing back said.
    pub async fn run(self: &Arc<Self>, stop: &Stop) -> Outcome {
        let Some(mut inbox) = self.inbox.lock().take() else { return Ok(()) };
        for n in 0..self.served.len() {
            let this = self.clone();
            tokio::spawn(async move {
                this.served[n].ended().await;
                // The receiver is gone only when the process ends.
                drop(this.events.send(Event::Ended(n)).await);
            });
        }
        let mut check = interval(LOG_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = inbox.recv() => event,
                () = stop.requested() => return self.stop().await,
                _ = check.tick() => {
                    if self.background {
                        bound_log();
                    }
                    continue;
                }
            };
            match event {
                Event::HandedOver => {
                    tracing::info!("handed over");
                    return Ok(());
                }
                Event::Removed => {}
                Event::Ended(n) => self.lost(&self.served[n]).await?,
            }
            if self.served.iter().all(|s| s.phase() == Phase::Gone) {
                return Ok(());
            }
        }
    }

    /// A device whose threads have ended.
    async fn lost(&self, served: &Served) -> Outcome {
        if !served.step(Phase::Live, Phase::Removing) {
            return Ok(());
        }
        let record = served.record();
        let name = format!("{} (volume {})", record.path().display(), record.volume);
        if !matches!(served.kernel(), Kernel::Gone | Kernel::Dead) {
            // A thread failed. The device waits; so that it can be brought back, this process must be out of the way.
            return Err(Failure::plain(name, "it cannot be served any more; it waits for `esker attach --recover`"));
        }
        tracing::error!("{name}: somebody removed it; writing back what was written to it");
        served.clear_up(&|text| tracing::info!("{text}")).await?;
        if self.served.iter().all(|s| s.phase() == Phase::Gone) {
            return Err(Failure::new(Exit::InUse, name, "somebody else removed it"));
        }
        Ok(())
    }

    /// Told to stop: devices that nobody uses are removed, others are left for a successor.
    async fn stop(&self) -> Outcome {
        let outcomes = join_all(self.served.iter().map(|served| end(served))).await;
        for failure in outcomes.iter().filter_map(|o| o.as_ref().err()).skip(1) {
            tracing::error!("{failure}");
        }
        if self.served.iter().any(|s| s.is_forced()) {
            // Somebody else waits for an answer.
            sleep(ANSWER).await;
        }
        outcomes.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    fn find(&self, request: &Value) -> Result<Arc<Served>, Refusal> {
        let id = request["device"].as_u64();
        let found = self.served.iter().find(|s| Some(u64::from(s.id())) == id && s.phase() != Phase::Gone);
        found.cloned().ok_or_else(|| refusal(Exit::NotFound, "this process does not serve that device"))
    }

    /// Removes one device, in a task of its own: a client that goes away does not stop it halfway.
    async fn detach(&self, request: &Value, say: Say) -> Result<Done, Refusal> {
        let served = self.find(request)?;
        let force = request["force"].as_bool().unwrap_or(false);
        if !served.step(Phase::Live, Phase::Removing) {
            if force && served.phase() == Phase::Removing {
                return hurry(&served).await;
            }
            return Err(refusal(Exit::InUse, "it is being removed or handed over already"));
        }
        let (sent, told) = oneshot::channel();
        let events = self.events.clone();
        let work = tokio::spawn(async move {
            let outcome = served.remove(force, &|text| say.progress(text)).await;
            // With its last device this process ends: not before the client has its answer.
            tokio::spawn(async move {
                drop(timeout(ANSWER, told).await);
                drop(events.send(Event::Removed).await);
            });
            outcome
        });
        let outcome = work.await.map_err(|e| refusal(Exit::Failure, e))?;
        match outcome {
            Ok(()) => Ok(Done { answer: json!({ "removed": true }), sent: Some(sent) }),
            Err(failure) => {
                // Kept until the answer has had its time.
                tokio::spawn(async move {
                    sleep(ANSWER).await;
                    drop(sent);
                });
                Err(refusal(failure.exit(), failure))
            }
        }
    }

    /// Compacts the volume of one device.
    async fn compact(&self, request: &Value, say: Say) -> Result<Done, Refusal> {
        let name = asked_for(request);
        let live = |s: &&Arc<Served>| s.phase() == Phase::Live && s.record().volume == name;
        let Some(served) = self.served.iter().find(live) else {
            return Err(refusal(Exit::NotFound, format!("this process does not serve a volume {name}")));
        };
        answer(served.compact(Box::new(move |text| say.progress(text))).await)
    }

    /// Lets go of all devices, for the process that asks.
    async fn hand_over(self: Arc<Self>, request: &Value, say: Say) -> Result<Done, Refusal> {
        let asked: BTreeSet<u64> =
            request["devices"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let live: Vec<_> = self.served.iter().filter(|s| s.phase() != Phase::Gone).cloned().collect();
        if live.iter().map(|s| u64::from(s.id())).collect::<BTreeSet<_>>() != asked {
            let names: Vec<_> = live.iter().map(|s| s.record().volume).collect();
            return Err(refusal(Exit::InUse, format!("this process serves {}; name all of them", names.join(" "))));
        }
        if let Some(served) = live.iter().find(|s| !s.target.is_recoverable()) {
            let why = "was made without recovery and would not outlive this process; detach it instead";
            return Err(refusal(Exit::InUse, format!("{} {why}", served.record().path().display())));
        }
        join_all(live.iter().map(|s| s.flush_a_while(BEFORE_HANDOVER))).await;
        say.progress(ABOUT_TO_LET_GO);
        sleep(HEARD).await;
        // From here to the task nothing is waited for: whoever asks may go away at any wait, and this with it.
        for (n, served) in live.iter().enumerate() {
            if !served.step(Phase::Live, Phase::Left) {
                for taken in &live[..n] {
                    taken.step(Phase::Left, Phase::Live);
                }
                return Err(refusal(Exit::InUse, "one of its devices is being removed"));
            }
        }
        say.progress(LETTING_GO);
        let work = tokio::spawn(async move {
            for outcome in join_all(live.iter().map(|s| s.let_go())).await {
                if let Err(failure) = outcome {
                    // This process ends in any case, and with it whatever holds on.
                    tracing::error!("{failure}");
                }
            }
            let (sent, told) = oneshot::channel();
            let events = self.events.clone();
            tokio::spawn(async move {
                // The answer has gone out, or its reader is gone: there is no way back either way.
                drop(told.await);
                drop(events.send(Event::HandedOver).await);
            });
            Done { answer: json!({ "handed_over": true }), sent: Some(sent) }
        });
        work.await.map_err(|e| refusal(Exit::Failure, e))
    }
}

/// A removal that is under way becomes one by force.
async fn hurry(served: &Served) -> Result<Done, Refusal> {
    served.force();
    while served.phase() == Phase::Removing {
        sleep(MOMENT).await;
    }
    match served.phase() {
        Phase::Gone => Ok(Done { answer: json!({ "removed": true }), sent: None }),
        _ => Err(refusal(Exit::Failure, "it could not be removed")),
    }
}

/// Removes a device, or leaves it if it is used.
async fn end(served: &Served) -> Outcome {
    let record = served.record();
    let name = format!("{} (volume {})", record.path().display(), record.volume);
    let mut said = false;
    loop {
        match served.phase() {
            Phase::Live => {}
            // Somebody is at it: either it goes, or it is live again.
            Phase::Removing => {
                sleep(MOMENT).await;
                continue;
            }
            Phase::Left | Phase::Gone => return Ok(()),
        }
        let mut who = describe_users(&served.users().await);
        if who.is_empty() && served.step(Phase::Live, Phase::Removing) {
            match served.remove(false, &|text| tracing::info!("{text}")).await {
                Err(failure) if failure.exit() == Exit::InUse => who = format!("in use: {failure}"),
                outcome => return outcome,
            }
        }
        if !who.is_empty() && !served.target.is_recoverable() {
            if !said {
                said = true;
                tracing::warn!(
                    "{name} is {who}, and would fail its users without this process, which goes on until it is free; a \
                     second signal ends it"
                );
            }
            sleep(UNTIL_FREE).await;
        } else if !who.is_empty() && served.step(Phase::Live, Phase::Left) {
            served.leave().await?;
            let (url, volume) = (&record.url, &record.volume);
            tracing::warn!(
                "{name} is {who}: it stays, and waits for `esker attach {url} {volume} --recover`; or free it and run \
                 `esker detach {volume} --force`"
            );
            return Ok(());
        }
    }
}

fn refusal(exit: Exit, why: impl std::fmt::Display) -> Refusal {
    Refusal { why: why.to_string(), exit: exit as u8 }
}

/// The daemon as its control socket sees it.
pub struct Controlled(pub Arc<Daemon>);

impl StatusSource for Controlled {
    fn status(&self) -> Value {
        let live = self.0.served.iter().filter(|s| s.phase() != Phase::Gone);
        self.0.facts.status(live.map(|s| s.status()).collect(), Value::Null)
    }

    fn operate<'a>(
        &'a self,
        op: &'a str,
        request: &'a Value,
        say: Say,
    ) -> Option<BoxFuture<'a, Result<Done, Refusal>>> {
        match op {
            "detach" => Some(Box::pin(self.0.detach(request, say))),
            "compact" => Some(Box::pin(self.0.compact(request, say))),
            "handover" => Some(Box::pin(self.0.clone().hand_over(request, say))),
            _ => None,
        }
    }
}
