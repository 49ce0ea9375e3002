//! What goes wrong: rules that are matched against each request, and a delay for all of them.

mod rule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::sync::watch;

use crate::delay::Delay;
use crate::log::Kind;

pub use rule::{Action, Rule};

/// Names a rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RuleId(pub u64);

/// A rule in force, as [`Faults::rules`] shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ActiveRule {
    /// Its id.
    pub id: RuleId,
    /// The rule.
    pub rule: Rule,
    /// Requests that it matched by kind, bucket and key.
    pub seen: u64,
    /// Requests that it acted on.
    pub hits: u64,
}

struct Active {
    shown: ActiveRule,
    released: watch::Sender<bool>,
}

struct State {
    last: u64,
    rules: Vec<Active>,
    delay: Option<Delay>,
    rng: StdRng,
}

/// The faults of one server. Changes hold for requests that arrive later; a stalled one goes on when its rule is
/// released or removed.
pub struct Faults {
    state: Mutex<State>,
}

/// What is to be done with one request.
pub(crate) struct Plan {
    pub delay: Duration,
    pub action: Option<Action>,
    pub gate: Option<watch::Receiver<bool>>,
}

impl Faults {
    pub(crate) fn new(seed: u64, delay: Option<Delay>) -> Arc<Self> {
        let state = State { last: 0, rules: Vec::new(), delay, rng: StdRng::seed_from_u64(seed) };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Adds a rule, after those in force.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.state.lock();
        state.last += 1;
        let id = RuleId(state.last);
        let shown = ActiveRule { id, rule, seen: 0, hits: 0 };
        state.rules.push(Active { shown, released: watch::Sender::new(false) });
        id
    }

    /// Removes a rule; what it stalls goes on. False if there is none.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut state = self.state.lock();
        let before = state.rules.len();
        state.rules.retain(|r| r.shown.id != id);
        state.rules.len() < before
    }

    /// Removes all rules; what they stall goes on. The delay for all stays.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// Lets go on what a rule stalls, now and from now on. False if there is none.
    pub fn release(&self, id: RuleId) -> bool {
        let state = self.state.lock();
        let rule = state.rules.iter().find(|r| r.shown.id == id);
        rule.map(|r| r.released.send_replace(true)).is_some()
    }

    /// Delays every request (`None`: no longer), all in parallel.
    pub fn set_delay(&self, delay: Option<Delay>) {
        self.state.lock().delay = delay;
    }

    /// The delay of every request.
    pub fn delay(&self) -> Option<Delay> {
        self.state.lock().delay
    }

    /// Starts the random numbers anew.
    pub fn set_seed(&self, seed: u64) {
        self.state.lock().rng = StdRng::seed_from_u64(seed);
    }

    /// Requests that a rule has acted on so far.
    pub fn hits(&self, id: RuleId) -> u64 {
        let state = self.state.lock();
        state.rules.iter().find(|r| r.shown.id == id).map_or(0, |r| r.shown.hits)
    }

    /// Waits until a rule has acted on `n` requests; false when `limit` passes first. Blocks the thread.
    pub fn wait_for_hits(&self, id: RuleId, n: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.hits(id) < n {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// [`wait_for_hits`](Self::wait_for_hits) for tasks.
    pub async fn hit(&self, id: RuleId, n: u64, limit: Duration) -> bool {
        let wait = async {
            while self.hits(id) < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// The rules in force.
    pub fn rules(&self) -> Vec<ActiveRule> {
        self.state.lock().rules.iter().map(|r| r.shown.clone()).collect()
    }

    /// Decides about one request: the delays of all rules that match add up; of the other actions the first counts.
    pub(crate) fn plan(&self, kind: Kind, bucket: &str, key: &str) -> Plan {
        let mut state = self.state.lock();
        let State { rules, delay, rng, .. } = &mut *state;
        let mut plan = Plan { delay: delay.map_or(Duration::ZERO, |d| d.sample(rng)), action: None, gate: None };
        for active in rules {
            let ActiveRule { rule, seen, hits, .. } = &mut active.shown;
            let taken = plan.action.is_some() && !matches!(rule.action, Action::Delay(_));
            if taken || !rule.matches(kind, bucket, key) {
                continue;
            }
            *seen += 1;
            let due = *seen > rule.skip && (*seen - rule.skip - 1).is_multiple_of(rule.every.max(1));
            if !due || rule.times.is_some_and(|n| *hits >= n) || rng.random::<f64>() >= rule.probability {
                continue;
            }
            *hits += 1;
            if let Action::Delay(d) = &rule.action {
                plan.delay += d.sample(rng);
            } else {
                plan.gate = Some(active.released.subscribe());
                plan.action = Some(rule.action.clone());
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn acted(faults: &Faults, kind: Kind, key: &str) -> bool {
        faults.plan(kind, "b", key).action.is_some()
    }

    #[test]
    fn a_rule_acts_when_it_should() {
        let faults = Faults::new(1, None);
        let id = faults.add(Rule::on([Kind::Create]).key("log/*").skip(1).every(2).times(2).then(Action::conflict()));
        let got: Vec<bool> = (0..8).map(|_| acted(&faults, Kind::Create, "log/1/2")).collect();
        assert_eq!(got, [false, true, false, true, false, false, false, false]);
        assert_eq!(faults.hits(id), 2);
        assert!(faults.remove(id) && !faults.remove(id));
        faults.add(Rule::on([Kind::Create]).key("log/*").then(Action::conflict()));
        assert!(!acted(&faults, Kind::Put, "log/1"));
        assert!(!acted(&faults, Kind::Create, "data/1"));
        assert!(acted(&faults, Kind::Create, "log/1"));
        faults.clear();
        assert!(!acted(&faults, Kind::Create, "log/1"));
    }

    #[test]
    fn chance_follows_the_seed() {
        let run = |seed| {
            let faults = Faults::new(seed, None);
            faults.add(Rule::any().probability(0.25).then(Action::Drop));
            (0..1000).map(|_| acted(&faults, Kind::Get, "x")).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let hits = run(7).iter().filter(|h| **h).count();
        assert!((200..300).contains(&hits), "{hits}");
    }

    #[test]
    fn delays_add_up_and_the_first_action_counts() {
        let faults = Faults::new(1, Some(Delay::Fixed(Duration::from_millis(1))));
        let slow = Action::Delay(Delay::Fixed(Duration::from_millis(2)));
        faults.add(Rule::any().then(slow.clone()));
        faults.add(Rule::any().then(Action::Drop));
        let second = faults.add(Rule::any().then(Action::conflict()));
        faults.add(Rule::any().then(slow));
        let plan = faults.plan(Kind::Get, "b", "k");
        assert_eq!((plan.delay, plan.action), (Duration::from_millis(5), Some(Action::Drop)));
        assert_eq!(faults.hits(second), 0);
    }

    #[test]
    fn rules_are_json() {
        let text =
            r#"{"kinds":["create"],"key":"log/*","times":3,"action":{"reply":{"status":503,"code":"SlowDown"}}}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule, Rule::on([Kind::Create]).key("log/*").times(3).then(Action::slow_down()));
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule);
        for bad in [
            r#"{"action":"explode"}"#,
            r#"{"action":"drop","keys":"x"}"#,
            r#"{"action":{"reply":{"status":99,"code":"x"}}}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(bad).is_err(), "{bad}");
        }
    }
}
