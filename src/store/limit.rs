//! A ceiling on requests and bytes per second: what is beyond it waits its turn.
//!
//! Tokens come in at a steady rate, and what an idle quarter of a second left may go at once. While somebody waits, a task
//! of its own lets in whoever is next: one that waits is not always polled, and must not hold up the others.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::select;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bucket::Bucket;
use super::options::Cause;
use crate::env::Env;

/// Classes of requests: those before must be gone before those after get a turn.
const CLASSES: usize = 3;
/// Requests that carry bytes up, and all others.
const LANES: usize = 2;
/// Of so many turns one goes to a lower class that waits, whatever waits above it: space must not run away.
const SHARE: u32 = 16;
/// The log speaks of the limit once in so long at most, and only where a request waited so long.
const SPEAK: Duration = Duration::from_secs(60);
/// The shortest sleep of whoever lets others in.
const SHORTEST: Duration = Duration::from_micros(50);
const WORTH_SAYING: Duration = Duration::from_millis(500);

/// Ceilings on what a store is asked; all of them by default infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests per second, each attempt counted.
    pub requests_per_second: Option<u32>,
    /// Bytes of bodies per second, sent and received each.
    pub bytes_per_second: Option<u64>,
}

/// What the limits do, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// The limits.
    pub limits: Limits,
    /// Requests that wait for their turn now.
    pub waiting: usize,
    /// Requests that had to wait.
    pub held: u64,
    /// How long these waited, all together.
    pub waited: Duration,
}

/// What a request takes out of the buckets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub up: u64,
    pub down: u64,
}

/// The live limits.
#[derive(Default)]
pub(super) struct Limiter {
    /// Something is limited: otherwise nobody need look at the state.
    on: AtomicBool,
    state: Mutex<State>,
    /// Somebody came, or the limits changed: the time until the next turn may be another.
    changed: Notify,
}

#[derive(Default)]
struct State {
    limits: Limits,
    requests: Option<Bucket>,
    /// Up, down.
    bytes: [Option<Bucket>; LANES],
    queues: [[VecDeque<Waiter>; LANES]; CLASSES],
    next: u64,
    /// Turns in a row that went to the highest class while a lower one waited.
    passed: u32,
    /// A task lets in those that wait.
    driven: bool,
    held: u64,
    waited: Duration,
    spoke: Option<Duration>,
}

struct Waiter {
    number: u64,
    load: Load,
    turn: oneshot::Sender<()>,
}

fn class(cause: Cause) -> usize {
    match cause {
        Cause::Flush | Cause::Stream | Cause::Read | Cause::Map | Cause::Recovery | Cause::Admin | Cause::Probe => 0,
        Cause::Checkpoint => 1,
        Cause::Compaction | Cause::Delete => 2,
    }
}

fn lane(load: Load) -> usize {
    usize::from(load.up == 0)
}

impl Limiter {
    pub(super) fn set(&self, limits: Limits, now: Duration) {
        let mut state = self.state.lock();
        state.limits = limits;
        state.requests = limits.requests_per_second.map(|n| Bucket::new(f64::from(n), now));
        state.bytes = [limits.bytes_per_second.map(|n| Bucket::new(n as f64, now)); LANES];
        self.on.store(limits != Limits::default(), Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn get(&self) -> Option<Throttle> {
        if !self.on.load(Ordering::Acquire) {
            return None;
        }
        let s = self.state.lock();
        Some(Throttle { limits: s.limits, waiting: s.waiting(), held: s.held, waited: s.waited })
    }

    /// Waits until the limits allow a request; answers how long that took. `label` is the store's, for the log.
    pub(super) async fn turn(self: &Arc<Self>, env: &Env, label: &str, cause: Cause, load: Load) -> Duration {
        if !self.on.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let begun = env.clock.now();
        let (class, lane) = (class(cause), lane(load));
        let (turn, granted) = oneshot::channel();
        let mut place = {
            let mut state = self.state.lock();
            let number = state.next;
            state.next += 1;
            state.queues[class][lane].push_back(Waiter { number, load, turn });
            state.pump(begun);
            if state.queues[class][lane].back().is_none_or(|last| last.number != number) {
                return Duration::ZERO;
            }
            if !std::mem::replace(&mut state.driven, true) {
                env.spawner.spawn(Box::pin(Driver(Some(self.clone())).drive(env.clone())));
            }
            Place { limiter: self, env, class, lane, number, load, done: false }
        };
        self.changed.notify_one();
        // The sender goes without a word only with the whole limiter.
        place.done = granted.await.is_ok();
        let now = env.clock.now();
        let waited = now.saturating_sub(begun);
        self.state.lock().account(label, waited, now);
        waited
    }

    /// Bytes came that nobody knew of before.
    pub(super) fn received(&self, bytes: u64, now: Duration) {
        if self.on.load(Ordering::Acquire)
            && let Some(bucket) = &mut self.state.lock().bytes[1]
        {
            bucket.take(bytes as f64, now);
        }
    }
}

/// Whoever lets in those that wait. Should it be dropped, the next that comes starts another.
struct Driver(Option<Arc<Limiter>>);

impl Driver {
    /// Works until nobody waits.
    async fn drive(mut self, env: Env) {
        let Some(limiter) = self.0.clone() else { return };
        loop {
            let pause = {
                let (mut state, now) = (limiter.state.lock(), env.clock.now());
                state.pump(now);
                if state.waiting() == 0 {
                    state.driven = false;
                    self.0 = None;
                    return;
                }
                state.soonest(now).max(SHORTEST)
            };
            select(env.clock.sleep(pause), pin!(limiter.changed.notified())).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(limiter) = &self.0 {
            limiter.state.lock().driven = false;
        }
    }
}

impl State {
    /// Lets in whoever may go now.
    fn pump(&mut self, now: Duration) {
        while let Some((class, lane)) = self.pick(now) {
            let Some(waiter) = self.queues[class][lane].pop_front() else { return };
            let lower = self.queues[class + 1..].iter().flatten().any(|q| !q.is_empty());
            let top = self.queues[..class].iter().flatten().all(VecDeque::is_empty);
            self.passed = if top && lower { self.passed + 1 } else { 0 };
            self.pay(waiter.load, 1.0, now);
            // One that is gone gives back what it was given.
            let _gone = waiter.turn.send(());
        }
    }

    fn pay(&mut self, load: Load, sign: f64, now: Duration) {
        let [up, down] = &mut self.bytes;
        let requests = (&mut self.requests, 1.0);
        for (bucket, amount) in [requests, (up, load.up as f64), (down, load.down as f64)] {
            if let Some(bucket) = bucket {
                bucket.take(amount * sign, now);
            }
        }
    }

    /// The queue whose head goes next, if it may.
    fn pick(&self, now: Duration) -> Option<(usize, usize)> {
        let heads = self.heads();
        let may: Vec<_> = heads.into_iter().filter(|&(c, l)| self.missing(c, l, now).is_zero()).collect();
        let number = |&(c, l): &(usize, usize)| self.queues[c][l].front().map_or(u64::MAX, |w| w.number);
        let share = self.passed >= SHARE - 1;
        may.iter().min_by_key(|h| (if share { 0 } else { h.0 }, number(h))).copied()
    }

    /// The heads that may be next: of each lane that of its highest class; where it is their turn, those of lower classes.
    fn heads(&self) -> Vec<(usize, usize)> {
        let waiting = |&(c, l): &(usize, usize)| !self.queues[c][l].is_empty();
        let all: Vec<_> = (0..CLASSES).flat_map(|c| (0..LANES).map(move |l| (c, l))).filter(waiting).collect();
        let Some(top) = all.first().map(|h| h.0) else { return all };
        if self.passed >= SHARE - 1 {
            let lower: Vec<_> = all.iter().copied().filter(|h| h.0 > top).collect();
            if !lower.is_empty() {
                return lower;
            }
        }
        let first_of_lane = |h: &(usize, usize)| all.iter().find(|o| o.1 == h.1) == Some(h);
        all.iter().copied().filter(first_of_lane).collect()
    }

    /// How long until the buckets hold what the head of a queue needs.
    fn missing(&self, class: usize, lane: usize, now: Duration) -> Duration {
        let Some(load) = self.queues[class][lane].front().map(|w| w.load) else { return Duration::MAX };
        let wait = |bucket: &Option<Bucket>, need: u64| bucket.map_or(Duration::ZERO, |b| b.wait(need as f64, now));
        let [up, down] = &self.bytes;
        wait(&self.requests, 1).max(wait(up, load.up)).max(wait(down, load.down))
    }

    /// How long until somebody may go.
    fn soonest(&self, now: Duration) -> Duration {
        self.heads().into_iter().map(|(c, l)| self.missing(c, l, now)).min().unwrap_or(Duration::ZERO)
    }

    fn waiting(&self) -> usize {
        self.queues.iter().flatten().map(VecDeque::len).sum()
    }

    fn account(&mut self, label: &str, waited: Duration, now: Duration) {
        self.held += 1;
        self.waited += waited;
        if waited >= WORTH_SAYING && self.spoke.is_none_or(|at| now >= at + SPEAK) {
            self.spoke = Some(now);
            let (waiting, held, all, limits) = (self.waiting(), self.held, self.waited, self.limits);
            tracing::info!(
                store = label,
                waiting,
                held,
                "limits hold requests back, {all:?} in all so far: {limits:?}"
            );
        }
    }
}

/// A place in a queue, given up when the request is dropped.
struct Place<'a> {
    limiter: &'a Limiter,
    env: &'a Env,
    class: usize,
    lane: usize,
    number: u64,
    load: Load,
    done: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.limiter.state.lock();
        let queue = &mut state.queues[self.class][self.lane];
        match queue.iter().position(|w| w.number == self.number) {
            Some(at) => drop(queue.remove(at)),
            // It had its turn, and never used it.
            None => state.pay(self.load, -1.0, self.env.clock.now()),
        }
        self.limiter.changed.notify_one();
    }
}
