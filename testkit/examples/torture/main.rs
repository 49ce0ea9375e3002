//! Torture of the built program: rounds of random faults under load, on a real S3 server behind lines that can be cut, with
//! clients that stamp every block and know what was acknowledged and flushed (docs/semantics.md, promises 1 to 4 and 8).
//!
//! Each round has a world of its own: a store, two hosts, one volume. What happens in it, and in which order, follows from
//! the round's seed; at which instant does not, for these are real processes. `tests/torture.sh` is how it is run.
#![allow(clippy::unwrap_used)]

mod faults;
mod round;
mod schedule;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use parking_lot::Mutex;

use round::{Round, Tally};
use schedule::Schedule;
use world::{Programs, World, can_mount};

/// After so many failures nothing new is to be learned.
const ENOUGH: usize = 5;

/// Random faults on the real program under load, checked by clients that keep account.
#[derive(Parser, Debug)]
struct Args {
    /// Rounds
    #[arg(long, env = "TORTURE_ROUNDS", default_value_t = 200)]
    rounds: u64,
    /// Where the random numbers begin; drawn and printed where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only this round of the seed
    #[arg(long)]
    round: Option<u64>,
    /// The same round so often: its moments are others each time
    #[arg(long, default_value_t = 1)]
    repeat: u64,
    /// Rounds side by side
    #[arg(long, default_value_t = 8)]
    lanes: usize,
    /// Go on until so many minutes have passed, however many rounds that is
    #[arg(long)]
    minutes: Option<u64>,
    /// Outages of minutes instead of seconds
    #[arg(long)]
    long: bool,
    /// A fault that must be found, in one round: the program is to fail
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// What failed is kept below this directory
    #[arg(long, default_value = "/tmp/esker-torture")]
    keep: PathBuf,
    /// Mount small disks that can be full; to be done in a mount namespace of one's own
    #[arg(long)]
    disks: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Plant {
    /// The store acknowledges segments and forgets them
    Pretend,
    /// Somebody deletes the newest segment
    Remove,
}

struct Torture {
    args: Args,
    seed: u64,
    dir: tempfile::TempDir,
    disks: bool,
    next: AtomicU64,
    begun: Instant,
    tally: Mutex<Tally>,
    failed: Mutex<Vec<u64>>,
}

impl Torture {
    /// The number of the next round, until there are enough.
    fn next(&self) -> Option<u64> {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        let over = match (self.args.round, self.args.minutes) {
            (Some(_), _) => n >= self.args.repeat,
            (None, Some(minutes)) => self.begun.elapsed() > Duration::from_secs(minutes * 60),
            (None, None) => n >= self.args.rounds,
        };
        (!over && self.failed.lock().len() < ENOUGH).then_some(n)
    }

    fn lane(&self) {
        while let Some(n) = self.next() {
            let number = self.args.round.unwrap_or(n);
            let dir = self.dir.path().join(format!("r{n}"));
            let schedule = Schedule::draw(round_seed(self.seed, number), self.args.long);
            if let Err(what) = self.round(&dir, number, &schedule) {
                self.failed.lock().push(number);
                println!(
                    "FAILED  round {number} of seed {}: {what}\n{schedule}  replay: {}",
                    self.seed,
                    self.replay(number)
                );
            } else if (n + 1).is_multiple_of(25) {
                println!("{} rounds, {} s", n + 1, self.begun.elapsed().as_secs());
            }
            // What is still mounted there goes with the namespace.
            drop(std::fs::remove_dir_all(&dir));
        }
    }

    fn replay(&self, number: u64) -> String {
        let long = if self.args.long { " --long" } else { "" };
        format!("tests/torture.sh --seed {} --round {number} --repeat 20{long}", self.seed)
    }

    /// Carries one round out; an error is what was found.
    fn round(&self, dir: &Path, number: u64, schedule: &Schedule) -> Result<(), String> {
        let plant = self.args.plant;
        // From some segment of the first epoch on, to its seal: one alone would be a hole, which is seen when attaching.
        let lie = r#"{"kinds":["create"],"key":"*/log/*/fffffffffffffffe/*","skip":12,"action":"pretend"}"#;
        let lies: &[&str] = if matches!(plant, Some(Plant::Pretend)) { &[lie] } else { &[] };
        let weather = if plant.is_some() { 0 } else { schedule.weather };
        let seed = schedule.seed;
        let make = || World::new(dir, Programs::find(), weather, seed, self.disks, lies);
        let world = catch_unwind(AssertUnwindSafe(make)).map_err(|e| words(&*e))?;
        let mut round = Round::new(world, schedule.clone(), self.disks);
        let run = || match plant {
            None => round.run(),
            Some(plant) => round.planted(matches!(plant, Plant::Remove)),
        };
        let result = catch_unwind(AssertUnwindSafe(run)).map_err(|e| words(&*e));
        self.tally.lock().add(&round.tally);
        result.map_err(|what| {
            let to = self.args.keep.join(format!("{}-{number}", self.seed));
            round.world.note(&format!("FAILED: {what}"));
            round.world.keep(&to);
            format!("{what}\n  kept: {}", to.display())
        })
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// The seed of a round.
fn round_seed(seed: u64, round: u64) -> u64 {
    (seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let dir = tempfile::Builder::new().prefix("esker-torture").tempdir_in("/dev/shm").unwrap();
    let disks = args.disks && can_mount(dir.path());
    if !disks {
        println!("skipped full disks: small ones cannot be mounted here");
    }
    println!("seed {seed}, {} lanes", args.lanes);
    let lanes = if args.plant.is_some() { 1 } else { args.lanes };
    let rounds = if args.plant.is_some() { 1 } else { args.rounds };
    let args = Args { rounds, ..args };
    let torture = Torture {
        seed,
        dir,
        disks,
        next: AtomicU64::new(0),
        begun: Instant::now(),
        tally: Mutex::default(),
        failed: Mutex::default(),
        args,
    };
    thread::scope(|s| {
        for n in 0..lanes {
            let torture = &torture;
            let lane = thread::Builder::new().name(format!("lane {n}"));
            lane.spawn_scoped(s, || torture.lane()).unwrap();
        }
    });
    torture.report()
}

impl Torture {
    fn report(&self) -> ExitCode {
        let tally = self.tally.lock();
        for (step, n) in &tally.steps {
            println!("{n:6} {step}");
        }
        let Tally { checks, answers, errors, lost, unanswered, .. } = &*tally;
        println!(
            "{checks} comparisons; {answers} answers, {errors} of them errors where they may be; {lost} unflushed writes \
             lost with a journal; {unanswered} writes there that were never answered; {} s",
            self.begun.elapsed().as_secs()
        );
        let failed = self.failed.lock();
        if failed.is_empty() {
            println!("torture: no round failed");
            return ExitCode::SUCCESS;
        }
        println!("torture: {} rounds failed: {failed:?}", failed.len());
        ExitCode::FAILURE
    }
}
