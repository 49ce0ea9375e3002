//! `esker compact`: everything that is not as it should be in the store, at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::attach_args::AttachArgs;
use super::devices::devices_below;
use super::engine::{Attached, Engine, VolumeEngine};
use super::failure::{Doing, Exit, Failure, Outcome};
use super::limit_args::LimitArgs;
use super::output::{self, print_json};
use super::password::PasswordArgs;
use super::process::named_volumes;
use super::running::{Running, running};
use super::size::show_size;
use super::stop::Stop;
use super::store_args::{StoreArgs, open_pool};
use crate::env::Env;
use crate::host::{ControlError, ask};
use crate::pool::{Pool, VolumeRecord};
use crate::volume::{AttachOptions, Compacted};

/// The journal of a volume that is attached for this alone: nothing is written to it, in bytes.
const JOURNAL: u64 = 16 << 20;
/// How long deletions of what has become dead are waited for before a volume is given back; the next owner goes on.
const DELETIONS: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);

/// Compact a volume now: merge what is scattered, rewrite what holds garbage, delete what is dead
///
/// The background does the same by and by and within limits; this goes as far as it goes, reading and writing as much as
/// that takes. A volume that is attached on this host is compacted by the process that holds it, while it is used. Another one
/// is attached for the time, and refused if somebody else has it; the limits on the store are for those, as whoever holds a
/// volume has its own. Interrupting the command loses nothing; a process that holds the volume goes on.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker compact data\n  \
    esker compact /dev/ublkb0\n  \
    esker compact s3://bucket/pool data --max-bandwidth 20M\n  \
    esker compact s3://bucket/pool --json | jq '.[] | {volume, before, after}'")]
pub struct CompactCommand {
    /// The pool, or a volume that is attached here: its name or its device
    #[arg(value_name = "URL|VOLUME|DEVICE")]
    target: String,
    /// The volume of that pool; by default all, one after another
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    attach: AttachArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Control socket of the server to ask, where it does not lie in the usual directory
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Print a JSON array with one element per volume; sizes in bytes
    #[arg(long)]
    json: bool,
}

pub async fn run(args: CompactCommand, env: Env) -> Outcome {
    let here = running(args.control.as_deref()).await?;
    let mut report = Report { json: args.json, done: Vec::new() };
    if !args.target.contains("://") {
        let one = find(&here, &args)?;
        report.add(&one.name, ask_owner(one).await?)?;
        return report.finish();
    }
    let pool = open_pool(&args.target, &args.store, &args.password, &env).await?;
    pool.store().limit(args.limits.limits());
    let records = match &args.volume {
        Some(name) => named_volumes(&pool, std::slice::from_ref(name)).await?,
        None => pool.volumes().await.doing(&args.target)?,
    };
    let (id, mut failed) = (pool.id_hex(), None);
    let stop = Stop::on_signals().doing("signals")?;
    for record in records {
        if stop.is_requested() {
            break;
        }
        let outcome = match here.iter().find(|r| r.pool == id && r.name == record.name) {
            Some(owner) => tokio::select! {
                biased;
                () = stop.requested() => {
                    let why = "told to stop; the process that holds it goes on";
                    Err(Failure::plain(format!("volume {}", record.name), why))
                }
                done = ask_owner(owner) => done,
            },
            None => alone(&pool, &record, &args.attach, &env, &stop).await,
        };
        match outcome {
            Ok(done) => report.add(&record.name, done)?,
            Err(e) if args.volume.is_some() => return Err(e),
            Err(e) => {
                eprintln!("esker: {e}");
                failed.get_or_insert(e.exit());
            }
        }
    }
    report.finish()?;
    match failed {
        Some(exit) => Err(Failure::new(exit, &args.target, "not all of its volumes were compacted")),
        None => Ok(()),
    }
}

/// The one attached volume that is meant.
fn find<'a>(here: &'a [Running], args: &CompactCommand) -> Outcome<&'a Running> {
    let target = args.target.as_str();
    if args.volume.is_some() {
        return Err(Failure::new(Exit::Usage, target, "it is no URL of a pool, such as s3://bucket/pool"));
    }
    let meant: Vec<&Running> = here.iter().filter(|r| r.is_meant(target)).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => {
            let why = "no such volume is attached here; with the URL of its pool before the name it is attached for it";
            Err(Failure::new(Exit::NotFound, target, why))
        }
        _ => {
            let urls: Vec<&str> = meant.iter().map(|r| r.url.as_str()).collect();
            let why = format!("there is one in {}; name the pool, too", urls.join(" and in "));
            Err(Failure::new(Exit::Usage, target, why))
        }
    }
}

/// What was done, for people as it comes, for scripts at the end.
struct Report {
    json: bool,
    done: Vec<Value>,
}

impl Report {
    fn add(&mut self, volume: &str, done: Value) -> Outcome {
        if self.json {
            let mut done = done;
            if let Some(fields) = done.as_object_mut() {
                fields.insert("volume".into(), json!(volume));
            }
            self.done.push(done);
            return Ok(());
        }
        let number = |name: &str| done[name].as_u64().unwrap_or(0);
        let size = |name: &str| show_size(number(name));
        let waiting = match number("dead") {
            0 => String::new(),
            dead => format!(" and {} that waits to be deleted", show_size(dead)),
        };
        output::line(format_args!(
            "compacted volume {volume}: {} stored before, {} now{}; read {}, wrote {}, emptied {} segments, merged {} extents",
            size("before"),
            size("after"),
            waiting,
            size("read"),
            size("written"),
            number("segments"),
            number("extents"),
        ))
    }

    fn finish(&self) -> Outcome {
        if self.json { print_json(&Value::Array(self.done.clone())) } else { Ok(()) }
    }
}

/// Has the process that holds the volume do it.
async fn ask_owner(owner: &Running) -> Outcome<Value> {
    let what = format!("volume {}", owner.name);
    let request = json!({ "op": "compact", "volume": owner.name });
    let bar = ProgressBar::new_spinner();
    let outcome = ask(&owner.socket, &request, |said| bar.set_message(format!("{what}: {said}"))).await;
    bar.finish_and_clear();
    match outcome {
        Err(ControlError::Refused(r)) => Err(Failure::new(Exit::of_code(r.exit), what, r.why)),
        other => other.doing(what),
    }
}

/// Attaches the volume, compacts it, and gives it back.
async fn alone(pool: &Pool, record: &VolumeRecord, attach: &AttachArgs, env: &Env, stop: &Stop) -> Outcome<Value> {
    let dirs = attach.dirs()?;
    let options = AttachOptions { journal_bytes: JOURNAL, ..attach.options(&dirs, env)? };
    let engine = VolumeEngine::new(pool.clone(), options, devices_below(&dirs.runtime)?, env);
    let volume = engine.attach(record).await?;
    let bar = ProgressBar::new_spinner();
    let outcome = compact(&volume, record, &bar, stop).await;
    bar.set_message(format!("volume {}: giving it back", record.name));
    let detached = volume.detach().await;
    bar.finish_and_clear();
    let done = outcome?;
    detached?;
    serde_json::to_value(done).map_err(|e| Failure::plain(&record.name, e))
}

async fn compact(
    volume: &Arc<dyn Attached>,
    record: &VolumeRecord,
    bar: &ProgressBar,
    stop: &Stop,
) -> Outcome<Compacted> {
    let (what, shown) = (format!("volume {}", record.name), bar.clone());
    let tell = {
        let what = what.clone();
        Box::new(move |said: String| shown.set_message(format!("{what}: {said}")))
    };
    tokio::select! {
        biased;
        () = stop.requested() => Err(Failure::plain(what, "told to stop; what was done until then is kept")),
        done = volume.compact(tell) => {
            let done = done?;
            bar.set_message(format!("{what}: deleting what is dead"));
            deleted(volume).await;
            Ok(done)
        }
    }
}

/// Waits until what may go now is deleted. Segments of the log that the volume has now go five seconds later, or when it is
/// attached the next time.
async fn deleted(volume: &Arc<dyn Attached>) {
    let mut waited = Duration::ZERO;
    while waited < DELETIONS {
        waited += TICK;
        tokio::time::sleep(TICK).await;
        if volume.status()["space"]["deleting"].as_u64().unwrap_or(0) == 0 {
            return;
        }
    }
}
