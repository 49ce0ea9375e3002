//! `esker attach`: volumes as /dev/ublkbN.

mod args;
mod background;
mod bring_up;
mod claim;
mod context;
mod daemon;
mod handover;
mod helper;
mod links;
mod nbd;
mod patience;
mod plan;
mod policy;
mod removal;
mod resume;
mod served;
mod start;
mod users;
mod waiting;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::runtime::Handle;

use super::daemon_status::DaemonFacts;
use super::devices::{blocking, devices_below};
use super::failure::{Doing, Exit, Failure, Outcome};
use super::process::{abort_on_panic, tell_systemd};
use super::stop::Stop;
use crate::env::Env;
use crate::host::{ControlServer, Numbers, ReclaimReport, make_private_dir, prepare_process, why_no_ublk};
use crate::ublk::{Control, UblkError};
pub use args::AttachCommand;
use background::Report;
use context::Context;
use daemon::{Controlled, Daemon};
use waiting::open;

/// Goes to the background if so asked, prepares the process, and serves until the end. Nothing here starts a thread
/// before the process is prepared.
pub fn main(args: AttachCommand) -> Outcome {
    if args.volumes.len() > 1 && (args.id.is_some() || args.engine.expect.is_some()) {
        return Err(Failure::new(Exit::Usage, "--id and --expect", "they are about one volume; name that alone"));
    }
    let report = if args.foreground { None } else { Some(background::go()?) };
    let reclaim = prepare_process();
    abort_on_panic();
    match args.nbd {
        true => super::with_runtime(async move |env| nbd::attach_over_nbd(args, report, reclaim, env).await),
        false => super::with_runtime(async move |env| attach(args, report, reclaim, env).await),
    }
}

async fn attach(args: AttachCommand, mut report: Option<Report>, reclaim: ReclaimReport, env: Env) -> Outcome {
    let stop = Stop::on_signals().doing("signals")?;
    let runtime = args.engine.attach.dirs()?.runtime;
    make_private_dir(&runtime).doing("runtime directory")?;
    if let Some(report) = &mut report {
        // Before there is a device: one that nobody serves for want of a log would be worse than none.
        let log = runtime.join(format!("{}.log", args.volumes[0]));
        report.log_to(&log).doing(log.display())?;
    }
    let ready = tokio::select! {
        biased;
        () = stop.requested() => Err(Failure::plain("attach", "told to stop before it was ready; devices that wait still do")),
        ready = prepare(&args, reclaim, env) => ready,
    }?;
    announce(&ready.paths);
    if let Some(report) = report {
        report.ready();
    }
    let status = format!("serving {}", ready.paths.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>().join(" "));
    tell_systemd(&[NotifyState::Ready, NotifyState::MainPid(std::process::id()), NotifyState::Status(&status)]);
    let outcome = tokio::select! {
        outcome = ready.daemon.run(&stop) => outcome,
        () = ready.control.run(Arc::new(Controlled(ready.daemon.clone()))) => Ok(()),
    };
    if let Err(failure) = &outcome {
        // In the background nobody else would hear of it.
        tracing::error!("{failure}");
    }
    outcome
}

/// A process whose devices are ready for I/O.
struct Ready {
    daemon: Arc<Daemon>,
    control: ControlServer,
    paths: Vec<PathBuf>,
}

/// Everything up to the first request.
async fn prepare(args: &AttachCommand, reclaim: ReclaimReport, env: Env) -> Outcome<Ready> {
    let dirs = args.engine.attach.dirs()?;
    let mut warnings: Vec<String> = reclaim.warnings().map(str::to_owned).collect();
    warnings.extend(args.engine.check_backing(&dirs)?);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    blocking("ublk", || Control::open().map(drop).map_err(no_ublk)).await?;
    let devices = devices_below(&dirs.runtime)?;
    let (pool, volumes) = open(args, &devices, &env).await?;
    pool.store().limit(args.engine.limits.limits());
    if let Some(path) = pool.store().local_path() {
        args.engine.refuse_stacked("the pool", path)?;
    }
    let control = ControlServer::bind_in(&dirs.runtime, &format!("attach-{}", std::process::id()));
    let control = control.doing("control socket")?;
    let context = Context {
        options: args.engine.options(&dirs, args.read_only, &env)?,
        target: Context::target_options(args),
        devices,
        numbers: Numbers::below(&dirs.state),
        control: control.path().to_path_buf(),
        journal: args.engine.attach.journal_dir.clone(),
        env: env.clone(),
        runtime: Handle::current(),
        pool: pool.clone(),
    };
    let served = bring_up::bring_up(&context, args.wish(), volumes).await?;
    let paths = served.iter().map(|s| s.record().path()).collect();
    let daemon = Daemon::new(DaemonFacts::new(pool, &env, reclaim, warnings), served, !args.foreground);
    Ok(Ready { daemon, control, paths })
}

/// Says what is missing, how to get it, and the other way.
fn no_ublk(seen: UblkError) -> Failure {
    let why = why_no_ublk().unwrap_or_else(|| seen.to_string());
    Failure::plain("attach", format_args!("{why}. Or say --nbd; `esker doctor` tells more"))
}

/// Prints where the devices are. A daemon whose output nobody reads serves all the same.
fn announce(paths: &[PathBuf]) {
    let mut out = io::stdout().lock();
    for path in paths {
        drop(writeln!(out, "{}", path.display()));
    }
    drop(out.flush());
}
