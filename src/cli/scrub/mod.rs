//! `esker scrub` and `esker fsck`: what is damaged, missing or left over in a pool, and which data that concerns.

mod show;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::failure::{Doing, Exit, Failure, HasExit, Outcome};
use super::output::{self, print_json};
use super::size::parse_size;
use super::store_args::PoolArgs;
use crate::env::Env;
use crate::pool::{Pool, PoolError};
use crate::scrub::{Progress, Report, ScrubError, ScrubOptions, scrub, unopenable};

const WHAT: &str = "FINDINGS:\n  \
    damage  something is not as it was written: exit code 7\n  \
    leak    space is taken by objects that nothing refers to\n  \
    note    worth knowing, and no harm\n\n\
    docs/scrub.md has the kinds of findings and the JSON document.";

const SCRUB_EXAMPLES: &str = "EXAMPLES:\n  \
    esker scrub s3://bucket/pool\n  \
    esker scrub s3://bucket/pool data --rate 50M\n  \
    esker scrub file:///srv/pool --json | jq '.findings[] | {kind, key, ranges}'";

const FSCK_EXAMPLES: &str = "EXAMPLES:\n  \
    esker fsck s3://bucket/pool\n  \
    esker fsck s3://bucket/pool data --json | jq .summary";

/// Read and authenticate all live data of a pool, and say what is damaged
///
/// Checks every pool record, catalogue, opening, seal, log index and map node, compares map and log, and reads every
/// record that a block of a volume resolves to. What is found is told with the object's key and the bytes of the volume
/// that it concerns. Nothing in the bucket is changed; volumes may be attached and written to meanwhile. What is still in
/// the journal of a host is not in the bucket, and is not looked at.
#[derive(Debug, Args)]
#[command(after_help = format!("{SCRUB_EXAMPLES}\n\n{WHAT}"))]
pub struct ScrubArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Check a pool without reading its data
///
/// As `esker scrub`, but reads openings, seals, indexes and map nodes only. An object that is missing, cut short or of
/// another name is found all the same; damage inside data is not.
#[derive(Debug, Args)]
#[command(after_help = format!("{FSCK_EXAMPLES}\n\n{WHAT}"))]
pub struct FsckArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// One volume; by default all of the pool
    volume: Option<String>,
    /// Read at most this much a second: 50M is 50 MiB
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Requests side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Memory for comparing a volume's map with its log from the beginning; a longer log is not compared
    #[arg(long, value_name = "BYTES", default_value = "512M", value_parser = parse_size)]
    memory: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("nothing would ever be read".into()),
        rate => Ok(rate),
    }
}

pub async fn run_scrub(args: ScrubArgs, env: Env) -> Outcome {
    run(args.common, "scrub", true, &env).await
}

pub async fn run_fsck(args: FsckArgs, env: Env) -> Outcome {
    run(args.common, "fsck", false, &env).await
}

async fn run(args: CommonArgs, command: &'static str, data: bool, env: &Env) -> Outcome {
    let url = args.pool.url.as_str();
    let (report, pool_id) = match open(&args.pool, env).await? {
        Ok(pool) => {
            let options = ScrubOptions {
                data,
                rate: args.rate,
                parallel: args.parallel.into(),
                replay_bytes: usize::try_from(args.memory).unwrap_or(usize::MAX),
            };
            let bar = Bar::new();
            let report = scrub(&pool, args.volume.as_deref(), options, env, &bar).await;
            bar.0.finish_and_clear();
            (report.doing(url)?, Some(pool.id_hex()))
        }
        Err(report) => (report, None),
    };
    if args.json {
        print_json(&show::document(command, url, pool_id.as_deref(), &report))?;
    } else {
        output::bytes(show::text(&report).as_bytes())?;
    }
    if report.is_damaged() {
        return Err(Failure::new(Exit::Damaged, url, "it is damaged; the findings say what is concerned"));
    }
    Ok(())
}

/// The pool; by an older record where the newest is damaged; else what there is to say of that.
async fn open(args: &PoolArgs, env: &Env) -> Outcome<Result<Pool, Report>> {
    let store = args.store.open(&args.url, env)?;
    let password = args.password.current()?;
    let error = match Pool::open(store.clone(), &password, env).await {
        Ok(pool) => return Ok(Ok(pool)),
        Err(error) => error,
    };
    let Some(report) = unopenable(&error) else { return Err(error).doing(&args.url) };
    match Pool::open_older(store, &password, env).await {
        Ok(pool) => Ok(Ok(pool)),
        Err(PoolError::Store(e)) => Err(e).doing(&args.url),
        Err(_) => Ok(Err(report)),
    }
}

impl HasExit for ScrubError {
    fn exit(&self) -> Exit {
        match self {
            ScrubError::Store(e) => e.exit(),
            ScrubError::NoSuchVolume(_) => Exit::NotFound,
            ScrubError::Worker => Exit::Failure,
        }
    }
}

/// A bar on a terminal; nothing elsewhere.
pub struct Bar(pub ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(ProgressBar::new(0))
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, len: u64) {
        let template = if len > 0 { "{msg} [{bar:30}] {percent}% {eta}" } else { "{msg}" };
        // A template that does not parse would only look plainer.
        self.0.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.0.set_length(len);
        self.0.set_position(0);
        self.0.set_message(what.to_owned());
        self.0.reset_eta();
    }

    fn at(&self, done: u64) {
        self.0.set_position(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_by_the_second() {
        assert_eq!(parse_rate("50M"), Ok(50 << 20));
        assert_eq!(parse_rate("4096/s"), Ok(4096));
        assert!(parse_rate("0").is_err() && parse_rate("fast").is_err());
    }

    #[test]
    fn progress_is_shown_in_a_style_that_exists() {
        let bar = Bar::new();
        for len in [0, 10] {
            bar.begin("volume v: log", len);
            bar.at(3);
            assert_eq!((bar.0.length(), bar.0.position()), (Some(len), 3));
        }
        assert!(ProgressStyle::with_template("{msg} [{bar:30}] {percent}% {eta}").is_ok());
    }
}
