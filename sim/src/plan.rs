//! What a seed stands for: a volume, its settings, its users, the weather, and a schedule of faults.
//!
//! Every seed leaves some kinds of faults out ("swarm testing"): what is rare beside everything else is common alone.

use std::time::Duration;

use esker::pool::Compression;
use esker::volume::{CompactOptions, OnOutage};

use crate::rng::Rng;
use crate::weather::Chances;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A fault, or something an operator does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// `kill -9` of the wanted host's daemon.
    Kill,
    /// The same, and again soon after, while it recovers.
    KillAgainAndAgain,
    /// `kill -9` amid the copy of the next write into the journal.
    KillInCopy,
    /// The wanted host loses power.
    HostCrash,
    /// The daemon dies and its journal is gone, on the same boot.
    LoseJournal,
    /// The daemon dies and its journal is cut short.
    CutJournal,
    /// The daemon is stopped for so long.
    Pause(Duration),
    /// The daemon is stopped, and another host takes the volume meanwhile.
    PauseAndTakeover(Duration),
    /// Another host takes the volume from the living owner.
    Takeover,
    /// The same, but that host is stopped on its way for so long, while the owner goes on.
    StalledTakeover(Duration),
    /// The daemon is killed, recovers and is killed again, and another host asks for the volume without force.
    Move,
    /// All hosts attach at once, with takeover.
    Race,
    /// The volume is given back, and attached again by whoever wants it next.
    Detach,
    /// The same, with a kill on the way.
    DetachKilled(Duration),
    /// The store refuses (`true`) or swallows everything for so long.
    Outage(bool, Duration),
    /// The wanted host is cut off from the store for so long.
    Partition(Duration),
    /// The monotonic clocks jump ahead by the first, the wall clocks by the second (ms) besides.
    ClockJump(Duration, i64),
    /// An object is damaged, and restored after so long.
    Damage(Damage, Duration),
}

/// What becomes of a damaged object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A bit flips.
    Flip,
    /// Its end is cut off.
    Truncate,
    /// It changes places with another one of its volume.
    Swap,
    /// An older object's body stands in its place.
    Replay,
    /// It is gone.
    Lose,
    /// It is gone, and was one of the newest data segments.
    LoseNewest,
}

/// One entry of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// When, in made-up time.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What is taken out of a plan to see whether it still fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Edits {
    /// Leave out these events of the schedule, counted from 0
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    pub without_events: Vec<usize>,
    /// Send at most so many requests
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Nothing befalls single requests to the store
    #[arg(long)]
    pub fair: bool,
    /// No task is put off
    #[arg(long)]
    pub prompt: bool,
}

impl Edits {
    /// The options that make these edits.
    pub fn options(&self) -> String {
        let mut words = Vec::new();
        if !self.without_events.is_empty() {
            let list: Vec<String> = self.without_events.iter().map(usize::to_string).collect();
            words.push(format!(" --without-events {}", list.join(",")));
        }
        words.extend(self.requests.map(|n| format!(" --requests {n}")));
        words.extend(self.fair.then(|| " --fair".to_string()));
        words.extend(self.prompt.then(|| " --prompt".to_string()));
        words.concat()
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything random comes from.
    pub seed: u64,
    /// Machines that may attach the volume.
    pub hosts: usize,
    /// The smallest piece that can be written, in bytes: 512 or 4096.
    pub unit: usize,
    /// Bytes of the volume.
    pub size: u64,
    /// Compression of its records.
    pub compression: Compression,
    /// The engine's settings of the same names.
    pub segment_bytes: usize,
    /// See `segment_bytes`.
    pub cache_bytes: u64,
    /// See `segment_bytes`.
    pub leaf_cache_bytes: usize,
    /// See `segment_bytes`.
    pub dirty_map_bytes: usize,
    /// See `segment_bytes`.
    pub max_in_flight: usize,
    /// See `segment_bytes`.
    pub max_unflushed_age: Duration,
    /// See `segment_bytes`.
    pub checkpoint_segments: u64,
    /// See `segment_bytes`.
    pub compact: CompactOptions,
    /// How likely zeroes go over most of the volume at once.
    pub wipe: f64,
    /// Somebody asks each process that serves for a compaction, a few times, each after about this long.
    pub compact_after: Option<Duration>,
    /// See `segment_bytes`.
    pub on_outage: OnOutage,
    /// Requests at once.
    pub users: usize,
    /// Requests in all.
    pub requests: u64,
    /// The longest request, in units.
    pub longest: u64,
    /// Requests come in these many places, each as large as a few requests.
    pub places: u64,
    /// The longest pause of a user between requests.
    pub think: Duration,
    /// One request in so many is a flush.
    pub flush_every: u64,
    /// Users hardly do anything but discard.
    pub discards_only: bool,
    /// Where a restarted daemon may go on under its device.
    pub resumes: bool,
    /// The latency of the store.
    pub latency: (Duration, Duration),
    /// What may befall single requests to the store.
    pub chances: Chances,
    /// How likely a task that could run is put off.
    pub stall: f64,
    /// The schedule, ascending.
    pub events: Vec<Event>,
    /// What happens when all requests are sent.
    pub last: Option<What>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut r = Rng::new(seed, "plan");
        let unit = *r.pick(&[512, 4096, 4096]);
        let long = r.chance(0.02);
        let many = !long && r.chance(0.01);
        let hosts = *r.pick(&[1, 1, 2, 3]);
        let size = *r.pick(&[1u64 << 20, 4 << 20, 4 << 20, 64 << 20, 1 << 40]);
        let slow = *r.pick(&[5, 20, 60, 300]);
        let requests = match (long, many) {
            (true, _) => 12_000,
            (_, true) => 25_000,
            _ => r.in_range(30..500),
        };
        let chances = chances(&mut r);
        // Apart, so that the rest of a seed stays what it was.
        let mut space = Rng::new(seed, "space");
        let mut plan = Self {
            seed,
            hosts,
            unit,
            size,
            compression: *r.pick(&[Compression::None, Compression::Lz4, Compression::Zstd]),
            segment_bytes: *r.pick(&[16 << 10, 64 << 10, 256 << 10, 1 << 20]),
            cache_bytes: *r.pick(&[64 << 10, 256 << 10, 4 << 20]),
            leaf_cache_bytes: *r.pick(&[4 << 10, 64 << 10]),
            dirty_map_bytes: *r.pick(&[8 << 10, 64 << 10, 1 << 20]),
            max_in_flight: *r.pick(&[1, 2, 4, 16]),
            max_unflushed_age: *r.pick(&[MS(20), MS(200), MS(1000), MS(5000)]),
            checkpoint_segments: *r.pick(&[2, 5, 20, 100]),
            compact: compaction(&mut space),
            wipe: 0.05,
            compact_after: space.chance(0.3).then(|| space.time(MS(10), MS(60_000))),
            on_outage: *r.pick(&[OnOutage::Wait, OnOutage::Wait, OnOutage::FailAfter(MS(3000))]),
            users: *r.pick(&[1, 2, 4, 8]),
            requests,
            longest: *r.pick(&[1, 8, 40, (1 << 20) / unit as u64, (3 << 20) / unit as u64]),
            places: *r.pick(&[1, 3, 20]),
            think: *r.pick(&[Duration::ZERO, MS(5), MS(100)]),
            flush_every: if long { 2 } else { *r.pick(&[2, 5, 20, 1000]) },
            discards_only: false,
            resumes: r.chance(0.3),
            latency: (MS(1), MS(slow)),
            chances,
            stall: *r.pick(&[0.0, 0.0, 0.001, 0.02]),
            events: Vec::new(),
            last: None,
        };
        plan.stretch(long, many);
        plan.events = if long || many { Vec::new() } else { schedule(&mut r, &plan) };
        plan.hurt_space(&mut space);
        let ends = [None, None, Some(What::Kill), Some(What::HostCrash), Some(What::Takeover)];
        plan.wipe = *space.pick(&[0.05, 0.05, 0.5]);
        plan.last = if many {
            Some(What::KillAgainAndAgain)
        } else if long {
            Some(What::Kill)
        } else if plan.asks_politely() {
            None
        } else {
            *r.pick(&ends[..if hosts == 1 { 4 } else { 5 }])
        };
        plan
    }

    /// Makes room for what the requests need, and goes to an extreme where the plan is to be one.
    fn stretch(&mut self, long: bool, many: bool) {
        if self.longest * self.unit as u64 > 1 << 20 {
            // Requests of several operations need room to lie in.
            (self.size, self.places) = (self.size.max(16 << 20), self.places.min(3));
        }
        if long {
            (self.checkpoint_segments, self.think, self.users, self.longest) = (5000, Duration::ZERO, 2, 2);
            (self.dirty_map_bytes, self.latency) = (16 << 20, (MS(1), MS(5)));
            self.max_unflushed_age = MS(5000);
        }
        if many {
            // Segments of little else but trims: an index longer than what is fetched at first.
            (self.discards_only, self.size, self.longest, self.places) = (true, 1 << 40, 2, 20_000);
            (self.max_unflushed_age, self.segment_bytes, self.flush_every) = (MS(20), 4 << 20, 1_000_000);
            (self.think, self.users, self.unit) = (Duration::ZERO, 8, 4096);
        }
    }

    /// What is hard on giving space back.
    fn hurt_space(&mut self, space: &mut Rng) {
        if self.asks_politely() {
            return;
        }
        self.events.extend(space_at_risk(space, self.hosts));
        if space.chance(0.15) {
            self.checkpoint_segments = 2;
            self.events.extend(failing_checkpoints(space));
        }
        self.events.sort_by_key(|e| e.at);
    }

    /// Whether nobody ever takes the volume by force, or gets hurt otherwise.
    fn asks_politely(&self) -> bool {
        self.events.iter().all(|e| e.what == What::Move)
    }

    /// Whether processes are stopped or clocks jump: then nobody can say how long anything may take.
    pub fn stands_still(&self) -> bool {
        let stops = |e: &Event| {
            matches!(
                e.what,
                What::Pause(_) | What::PauseAndTakeover(_) | What::StalledTakeover(_) | What::ClockJump(..)
            )
        };
        self.stall > 0.0 || self.events.iter().any(stops)
    }

    /// The plan with less in it.
    pub fn edited(mut self, edits: &Edits) -> Self {
        let mut at = 0;
        self.events.retain(|_| {
            at += 1;
            !edits.without_events.contains(&(at - 1))
        });
        if let Some(requests) = edits.requests {
            self.requests = self.requests.min(requests);
        }
        if edits.fair {
            self.chances = Chances::NONE;
        }
        if edits.prompt {
            self.stall = 0.0;
        }
        self
    }

    /// The plan in a few lines.
    pub fn describe(&self) -> String {
        let mut lines = vec![format!("{self:?}").split(", events:").next().unwrap_or_default().to_string()];
        lines.push(format!("  last of all: {:?}", self.last));
        lines.extend(self.events.iter().map(|e| format!("  at {:>10.3?} {:?}", e.at, e.what)));
        lines.join("\n")
    }
}

/// Some kinds of trouble, each often enough to matter.
fn chances(r: &mut Rng) -> Chances {
    let calm = r.chance(0.25);
    let mut some = |most: f64| if !calm && r.chance(0.35) { most * (1 + r.below(4)) as f64 / 4.0 } else { 0.0 };
    Chances {
        lost: some(0.02),
        reply_lost: some(0.03),
        error: some(0.1),
        error_after: some(0.1),
        throttled: some(0.2),
        conflict: some(0.1),
        late: some(0.01),
        short: some(0.05),
        flipped: some(0.02),
    }
}

/// How eagerly space is given back.
fn compaction(r: &mut Rng) -> CompactOptions {
    CompactOptions {
        enabled: r.chance(0.95),
        target: *r.pick(&[1.02, 1.1, 1.3]),
        slack: *r.pick(&[0, 0, 8 << 10, 256 << 10]),
        tiny_segments: *r.pick(&[1, 2, 8, 64]),
        compression: *r.pick(&[None, None, Some(Compression::Zstd)]),
        max_bandwidth: *r.pick(&[None, None, None, Some(1 << 20)]),
    }
}

/// What is hard on deletion and on the accounts: somebody who looks at the log, stops, and meets what became of it; checkpoints
/// that fail as what they need is damaged, and a volume that is given back meanwhile.
fn space_at_risk(r: &mut Rng, hosts: usize) -> Vec<Event> {
    let mut events = Vec::new();
    if hosts > 1 && r.chance(0.3) {
        for _ in 0..=r.below(2) {
            let at = r.time(MS(50), MS(10_000));
            events.push(Event { at, what: What::StalledTakeover(r.time(MS(100), MS(30_000))) });
        }
    }
    if r.chance(0.15) {
        let mut at = Duration::ZERO;
        for _ in 0..=r.below(4) {
            at += r.time(MS(100), MS(4000));
            let how = *r.pick(&[Damage::Flip, Damage::Truncate, Damage::Lose]);
            events.push(Event { at, what: What::Damage(how, r.time(MS(1000), MS(40_000))) });
        }
        if r.chance(0.5) {
            events.push(Event { at: at + r.time(MS(1), MS(2000)), what: What::Detach });
        }
    }
    events
}

/// What checkpoints need is gone for a while, again and again.
fn failing_checkpoints(r: &mut Rng) -> Vec<Event> {
    let mut at = Duration::ZERO;
    let mut one = || {
        at += r.time(MS(100), MS(3000));
        Event { at, what: What::Damage(Damage::LoseNewest, r.time(MS(300), MS(20_000))) }
    };
    (0..6).map(|_| one()).collect()
}

/// Makes an event of one kind.
type Make = fn(&mut Rng) -> What;

fn schedule(r: &mut Rng, plan: &Plan) -> Vec<Event> {
    let one = plan.hosts == 1;
    if !one && r.chance(0.15) {
        // Hosts that only ever ask politely.
        let moves = (0..=r.below(3)).map(|_| Event { at: r.time(MS(1), MS(20_000)), what: What::Move });
        let mut events: Vec<Event> = moves.collect();
        events.sort_by_key(|e| e.at);
        return events;
    }
    let all: [(bool, Make); 17] = [
        (true, |_| What::Kill),
        (true, |_| What::Kill),
        (true, |_| What::KillAgainAndAgain),
        (true, |_| What::KillInCopy),
        (true, |_| What::HostCrash),
        (true, |_| What::LoseJournal),
        (true, |_| What::CutJournal),
        (true, |r| What::Pause(r.time(MS(1), MS(200_000)))),
        (!one, |r| What::PauseAndTakeover(r.time(MS(10), MS(100_000)))),
        (!one, |_| What::Takeover),
        (!one, |_| What::Move),
        (!one, |_| What::Race),
        (true, |_| What::Detach),
        (true, |r| What::DetachKilled(r.time(MS(1), MS(1000)))),
        (true, |r| What::Outage(r.chance(0.5), r.time(MS(100), MS(200_000)))),
        (true, |r| What::Partition(r.time(MS(100), MS(200_000)))),
        (true, |r| What::ClockJump(r.time(MS(1), MS(100_000)), r.in_range(0..2_000_000) as i64 - 1_000_000)),
    ];
    let mut kinds: Vec<Make> =
        all.iter().filter(|(possible, _)| *possible && r.chance(0.4)).map(|(_, make)| *make).collect();
    if r.chance(0.3) {
        kinds.push(|r| {
            let how = [Damage::Flip, Damage::Truncate, Damage::Swap, Damage::Replay, Damage::Lose];
            What::Damage(*r.pick(&how), r.time(MS(100), MS(60_000)))
        });
    }
    let count = r.below(12);
    let mut at = Duration::ZERO;
    let mut events = Vec::new();
    for _ in 0..count {
        if kinds.is_empty() {
            break;
        }
        at += r.time(MS(1), MS(5000));
        let make = *r.pick(&kinds);
        events.push(Event { at, what: make(r) });
    }
    events
}
