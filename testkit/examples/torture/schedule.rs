//! What happens to a volume in one round: drawn from the round's seed, and from nothing else.

use std::fmt;
use std::time::Duration;

use esker_testkit::Line;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How the journal goes, and who goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The file is gone; the operator says so.
    Flags,
    /// The machine was started anew.
    Reboot,
    /// The machine is gone; another takes over.
    Elsewhere,
}

/// What the disk of the journals is full for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// A server that finds its ring there after a crash: it needs no more.
    Recovery,
    /// A server that needs a new ring, after a good end.
    Start,
    /// The same, after the old one was lost.
    Loss,
}

/// One thing that goes wrong, under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// kill -9; as many recoveries as there are times are killed too, each after so long.
    Kill { again: Vec<Duration> },
    /// kill -9, and the journal is lost.
    LoseRing { how: Loss },
    /// SIGSTOP, SIGCONT.
    Freeze { time: Duration },
    /// SIGSTOP, another host takes over, SIGCONT (or it is killed as it sleeps).
    FreezeTakeover { refused_first: bool, killed: bool },
    /// The store is killed and started again; perhaps the server is killed meanwhile and started without a store.
    StoreDown { time: Duration, kill: bool },
    /// The store's disk is full.
    StoreFull { time: Duration, kill: bool },
    /// The network to the store; what it held back arrives late, or not at all.
    Network { line: Line, time: Duration, late: bool, kill: bool },
    /// The host is cut off, and another takes over.
    NetworkTakeover { line: Line, late: bool },
    /// The disk of the journals is full.
    JournalFull { at: Full },
    /// SIGTERM under load, and a new start.
    Stop,
}

/// What requests do while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Wait,
    FailAfter(Duration),
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub policy: Policy,
    /// `--max-unflushed-age`.
    pub age: &'static str,
    /// `--journal-size`.
    pub ring: &'static str,
    /// How the store is on good days: as it is, slow, erring.
    pub weather: usize,
    pub steps: Vec<Step>,
}

impl Schedule {
    /// Of this seed. `long`: outages take minutes instead of seconds.
    pub fn draw(seed: u64, long: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let policy = match rng.random_range(0..3) {
            0 => Policy::FailAfter(Duration::from_millis(rng.random_range(2000..4000))),
            _ => Policy::Wait,
        };
        let most = match policy {
            _ if long => 180_000,
            Policy::Wait => 2500,
            Policy::FailAfter(_) => 6000,
        };
        let age = ["10ms", "200ms", "1s", "60s"][rng.random_range(0..4)];
        let ring = ["8M", "32M"][rng.random_range(0..2)];
        let weather = rng.random_range(0..3);
        let steps = (0..rng.random_range(3..=5)).map(|_| step(&mut rng, most)).collect();
        Self { seed, policy, age, ring, weather, steps }
    }
}

/// One step; outages last at most `most` milliseconds.
fn step(rng: &mut StdRng, most: u64) -> Step {
    let outage = |rng: &mut StdRng| Duration::from_millis(rng.random_range(100..most));
    let line = |rng: &mut StdRng| [Line::Cut, Line::Dead, Line::Deaf][rng.random_range(0..3)];
    match rng.random_range(0..100) {
        0..24 => {
            let deaths = [0, 0, 1, 1, 2, 4][rng.random_range(0..6)];
            Step::Kill { again: (0..deaths).map(|_| Duration::from_millis(rng.random_range(1..400))).collect() }
        }
        24..36 => Step::LoseRing { how: [Loss::Flags, Loss::Reboot, Loss::Elsewhere][rng.random_range(0..3)] },
        36..44 => Step::Freeze { time: outage(rng) },
        44..54 => {
            Step::FreezeTakeover { refused_first: rng.random_range(0..4) == 0, killed: rng.random_range(0..4) == 0 }
        }
        54..64 => Step::StoreDown { time: outage(rng), kill: rng.random() },
        64..70 => Step::StoreFull { time: outage(rng), kill: rng.random_range(0..4) == 0 },
        70..82 => Step::Network { line: line(rng), time: outage(rng), late: rng.random(), kill: rng.random() },
        82..90 => Step::NetworkTakeover { line: line(rng), late: rng.random() },
        90..96 => Step::JournalFull { at: [Full::Recovery, Full::Start, Full::Loss][rng.random_range(0..3)] },
        _ => Step::Stop,
    }
}

impl Step {
    /// One word for the account of what was tried.
    pub fn name(&self) -> String {
        let killed = |kill: &bool| if *kill { ", killed meanwhile" } else { "" };
        match self {
            Self::Kill { again } if again.is_empty() => "kill -9".into(),
            Self::Kill { .. } => "kill -9, and of recoveries".into(),
            Self::LoseRing { how } => format!("kill -9, journal lost ({how:?})"),
            Self::Freeze { .. } => "SIGSTOP, SIGCONT".into(),
            Self::FreezeTakeover { .. } => "SIGSTOP, takeover, SIGCONT".into(),
            Self::StoreDown { kill, .. } => format!("store killed{}", killed(kill)),
            Self::StoreFull { kill, .. } => format!("store's disk full{}", killed(kill)),
            Self::Network { line, kill, .. } => format!("network {line:?}{}", killed(kill)),
            Self::NetworkTakeover { line, .. } => format!("network {line:?}, takeover"),
            Self::JournalFull { at } => format!("journal's disk full ({at:?})"),
            Self::Stop => "SIGTERM".into(),
        }
    }

    /// Whether a small disk of its own is needed.
    pub fn needs_disks(&self) -> bool {
        matches!(self, Self::StoreFull { .. } | Self::JournalFull { .. })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, age, ring, weather, steps, .. } = self;
        writeln!(f, "  --on-outage {policy:?}, --max-unflushed-age {age}, --journal-size {ring}, weather {weather}")?;
        steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "  step {n}: {step:?}"))
    }
}
