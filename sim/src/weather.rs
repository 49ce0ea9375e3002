//! What may befall requests: how long they take, which are lost, refused or answered wrongly.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::rng::Rng;
use crate::tally::Fault;

/// A request that takes longer than this to arrive is late: its sender has given up by then.
pub const LATE: Duration = Duration::from_secs(20);

/// No request takes longer than this, there and back.
pub const LATEST: Duration = Duration::from_secs(420);

/// Chances of single requests, each from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    /// Never arrives.
    pub lost: f64,
    /// Is carried out; the reply never arrives.
    pub reply_lost: f64,
    /// A 5xx, and nothing was done.
    pub error: f64,
    /// A 5xx, and it was done.
    pub error_after: f64,
    /// A 503 SlowDown.
    pub throttled: f64,
    /// A 409 for a PUT, with nothing there.
    pub conflict: f64,
    /// Arrives long after it was sent.
    pub late: f64,
    /// A body that ends early.
    pub short: f64,
    /// A body with a flipped bit.
    pub flipped: f64,
}

impl Chances {
    /// Everything goes well.
    pub const NONE: Self = Self {
        lost: 0.0,
        reply_lost: 0.0,
        error: 0.0,
        error_after: 0.0,
        throttled: 0.0,
        conflict: 0.0,
        late: 0.0,
        short: 0.0,
        flipped: 0.0,
    };
}

/// See the module.
pub struct Weather {
    rng: Rng,
    /// The quickest and the slowest way of a request to the store, and of a reply back.
    pub latency: (Duration, Duration),
    /// What happens to single requests.
    pub chances: Chances,
    /// The store is away: requests are refused (`true`) or never answered.
    pub outage: Option<bool>,
    /// Hosts that cannot reach the store.
    pub cut_off: BTreeSet<usize>,
}

/// What becomes of one request, as far as it is its own.
pub struct Fate {
    /// How long it takes to the store.
    pub there: Duration,
    /// How long the reply takes.
    pub back: Duration,
    /// For whatever else is up to chance on the way.
    pub luck: u64,
    arrival: Option<Fault>,
    answer: Option<Fault>,
}

impl Weather {
    /// Fair weather with the given latencies.
    pub fn new(rng: Rng, latency: (Duration, Duration), chances: Chances) -> Self {
        Self { rng, latency, chances, outage: None, cut_off: BTreeSet::new() }
    }

    /// From here on everything goes well.
    pub fn clear_up(&mut self) {
        self.chances = Chances::NONE;
        self.outage = None;
        self.cut_off.clear();
    }

    /// The fate of a request that is sent now.
    pub fn draw(&mut self, put: bool) -> Fate {
        let c = self.chances;
        let rng = &mut self.rng;
        let late = rng.chance(c.late);
        let there = match late {
            true => rng.time(LATE, LATEST - Duration::from_secs(20)),
            false => rng.time(self.latency.0, self.latency.1),
        };
        let back = rng.time(self.latency.0, self.latency.1);
        let mut of = |faults: &[(f64, Fault)]| faults.iter().find(|(p, _)| rng.chance(*p)).map(|(_, f)| *f);
        let arrival = of(&[
            (c.lost, Fault::RequestLost),
            (c.error, Fault::ErrorBefore),
            (c.throttled, Fault::Throttled),
            (if put { c.conflict } else { 0.0 }, Fault::Conflict),
        ]);
        let answer = of(&[
            (c.reply_lost, Fault::ReplyLost),
            (c.error_after, Fault::ErrorAfter),
            (c.short, Fault::ShortBody),
            (c.flipped, Fault::FlippedBody),
        ]);
        Fate { there, back, luck: rng.next(), arrival, answer }
    }

    /// A request has come this far: what meets it instead of being carried out.
    pub fn on_arrival(&self, host: usize, fate: &Fate) -> Option<Fault> {
        if self.cut_off.contains(&host) {
            return Some(Fault::RequestLost);
        }
        match self.outage {
            Some(true) => Some(Fault::ErrorBefore),
            Some(false) => Some(Fault::RequestLost),
            None => fate.arrival,
        }
    }

    /// A reply is on its last bit of way: what meets it.
    pub fn on_return(&self, host: usize, fate: &Fate) -> Option<Fault> {
        if self.cut_off.contains(&host) { Some(Fault::ReplyLost) } else { fate.answer }
    }
}
