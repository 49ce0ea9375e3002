//! `esker-sim`: runs seeds of the deterministic simulator (docs/testing.md).

mod bucket;
mod copy;
mod crowd;
mod damage;
mod exec;
mod files;
mod model;
mod mutants;
mod nemesis;
mod operate;
mod plan;
mod report;
mod request;
mod rng;
mod run;
mod session;
mod shrink;
mod stamp;
mod tally;
mod trace;
mod watch;
mod weather;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use esker::probe::{self, Mutant};

use crate::crowd::{Budget, search};
use crate::plan::{Edits, Plan};
use crate::shrink::shrink;

/// Runs esker's engine in made-up worlds, one seed each, and checks what it promises.
///
/// Ends with status 1 when a seed fails; prints that seed, its plan, made smaller, and the command that runs it again.
#[derive(Parser)]
#[command(after_help = "Examples:
  esker-sim --seeds 1000                 a thousand new seeds
  esker-sim --minutes 3 --known sim/seeds.txt
                                         all that ever failed, then new ones for three minutes
  esker-sim --seed 42 --trace            one seed, told line by line
  esker-sim --mutants                    plants each bug in turn, and fails unless all are found")]
struct Args {
    /// Run this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run so many new seeds
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    seeds: u64,
    /// Stop after so many minutes
    #[arg(long, value_name = "M", default_value_t = 3.0)]
    minutes: f64,
    /// The first new seed; by default one that nobody had before
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Run the seeds in this file first: one a line, what follows it is a remark, or the planted bug that it finds
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Run so many at once; by default one a core
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Plant this bug
    #[arg(long, value_name = "NAME", value_parser = mutants::parse)]
    mutant: Option<Mutant>,
    /// Plant each bug in turn (or those named), and fail unless all are found
    #[arg(long, value_name = "NAME", num_args = 0.., value_parser = mutants::parse)]
    mutants: Option<Vec<Mutant>>,
    /// Go on until so many have failed
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: usize,
    /// Tell what happens, line by line
    #[arg(long)]
    trace: bool,
    /// Tell which faults and branches were reached
    #[arg(long)]
    coverage: bool,
    /// Fail if some fault or branch was never reached
    #[arg(long)]
    complete: bool,
    /// Write the coverage to this file as JSON
    #[arg(long, value_name = "FILE")]
    coverage_json: Option<PathBuf>,
    #[command(flatten)]
    edits: Edits,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let done = match (&args.mutants, args.seed) {
        (Some(chosen), _) => {
            let time = Duration::from_secs_f64(args.minutes * 60.0);
            known(&args).and_then(|known| mutants::all(chosen, &known, args.from.unwrap_or(1), time, jobs))
        }
        (None, Some(seed)) => one(&args, seed),
        (None, None) => many(&args, jobs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn one(args: &Args, seed: u64) -> Result<(), String> {
    probe::plant(args.mutant);
    let outcome = run::run(Plan::of(seed).edited(&args.edits), args.trace);
    println!(
        "seed {seed}: hash {:016x} of {} events, {} operations, {} attaches, {:.1} s of made-up time",
        outcome.hash,
        outcome.events,
        outcome.size.0,
        outcome.size.1,
        outcome.lasted.as_secs_f64()
    );
    match outcome.failure {
        None => Ok(()),
        Some(_) => Err(report::failure(&outcome, &args.edits, args.mutant)),
    }
}

fn many(args: &Args, jobs: usize) -> Result<(), String> {
    let known = known(args)?;
    let from = args.from.unwrap_or_else(fresh);
    println!("new seeds from {from} on, {} known ones before them, {jobs} at once", known.len());
    let seeds = |place: u64| match known.get(place as usize) {
        Some((seed, _)) => Some(*seed),
        None => Some(from.wrapping_add(place - known.len() as u64)),
    };
    let budget = Budget {
        runs: args.seeds.saturating_add(known.len() as u64),
        time: Duration::from_secs_f64(args.minutes * 60.0),
        failures: args.failures,
    };
    let begun = Instant::now();
    let progress = |runs: u64| {
        if runs.is_multiple_of(1000) {
            println!("{runs} runs");
        }
    };
    let found = search(seeds, &args.edits, args.mutant, budget, jobs, progress);
    let t = &found.totals;
    println!(
        "{} runs in {:.0} s: {} operations, {} attaches, {:.1} hours of made-up time",
        t.runs,
        begun.elapsed().as_secs_f64(),
        t.operations,
        t.attaches,
        t.seconds as f64 / 3600.0
    );
    if args.coverage {
        println!("{}", t.coverage());
    }
    if let Some(path) = &args.coverage_json {
        std::fs::write(path, t.json().to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if found.failures.len() > 1 {
        found.failures.iter().for_each(|(seed, why)| println!("seed {seed}: {why}"));
    }
    if let Some(failed) = found.failed {
        probe::plant(args.mutant);
        let seed = failed.plan.seed;
        println!("seed {seed} fails; looking for a smaller plan that does");
        let (edits, smaller) = shrink(seed, failed);
        return Err(report::failure(&smaller, &edits, args.mutant));
    }
    if t.runs == 0 {
        return Err("not one run in the time that was given".into());
    }
    let never = t.never();
    if args.complete && !never.is_empty() {
        return Err(format!("never reached: {}", never.join("; ")));
    }
    Ok(())
}

/// The seeds of the file that was named, each with its remark.
fn known(args: &Args) -> Result<Vec<(u64, String)>, String> {
    let Some(path) = &args.known else { return Ok(Vec::new()) };
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| told(&e))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (seed, remark) = line.split_once(' ').unwrap_or((line, ""));
            Ok((seed.parse().map_err(|e| told(&format_args!("{seed}: {e}")))?, remark.trim().to_string()))
        })
        .collect()
}

/// A seed that nobody had before, short enough to type.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    now.wrapping_mul(1000) % 1_000_000_000_000_000
}
