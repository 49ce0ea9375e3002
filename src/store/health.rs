//! Whether the store answers, for status and for `--on-outage`.

use std::time::Duration;

use parking_lot::Mutex;

/// The state of a store as its requests saw it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Set while requests fail and none has been answered since.
    pub outage: Option<Outage>,
    /// The last failure of all, also after the store came back.
    pub last_error: Option<LastError>,
}

/// Requests fail and none succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// When the first attempt failed, on the clock of `Env`.
    pub since: Duration,
    /// The same in milliseconds since 1970, for people.
    pub since_wall_ms: u64,
    /// Attempts that failed since then.
    pub failures: u64,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
    /// What happened, to which key.
    pub message: String,
}

/// The live state.
#[derive(Default)]
pub(super) struct HealthCell {
    state: Mutex<Health>,
}

impl HealthCell {
    pub(super) fn get(&self) -> Health {
        self.state.lock().clone()
    }

    /// The store answered; yields the outage that this ends.
    pub(super) fn answered(&self) -> Option<Outage> {
        self.state.lock().outage.take()
    }

    /// An attempt failed; true if this begins an outage.
    pub(super) fn failed(&self, now: Duration, wall_ms: u64, message: &str) -> bool {
        let mut state = self.state.lock();
        state.last_error = Some(LastError { wall_ms, message: message.to_string() });
        let begins = state.outage.is_none();
        let outage = state.outage.get_or_insert(Outage { since: now, since_wall_ms: wall_ms, failures: 0 });
        outage.failures += 1;
        begins
    }
}
