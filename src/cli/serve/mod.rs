//! `esker serve`: the NBD server.

mod args;
mod engine;
mod exports;
mod listen;
mod status;
mod stop;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use nbd_compat::{Server, ServerOptions, TlsMode, TlsOptions};
use sd_notify::NotifyState;

use super::failure::{Doing, Exit, Failure, Outcome};
use crate::env::Env;
use crate::host::{
    ControlServer, Dirs, HostTree, ReclaimReport, check_not_stacked, make_private_dir, prepare_process, swap_on_stacked,
};
use crate::pool::{Pool, VolumeRecord};
pub use args::ServeArgs;
use args::TlsArg;
use engine::VolumeEngine;
use exports::{Offered, OfferedExports, Scope};
use listen::Listeners;
use status::ServerStatus;
use stop::Stop;

/// Hex digits of the pool's id in the names of sockets.
const SHORT_ID: usize = 16;

/// Prepares the process, which must happen before the first thread, and serves until told to stop.
pub fn main(args: ServeArgs) -> Outcome {
    let reclaim = prepare_process();
    abort_on_panic();
    super::with_runtime(async move |env| serve(args, reclaim, env).await)
}

/// A broken invariant ends the process at once: the journal holds whatever was acknowledged, and the next start recovers
/// it, while a server that limps on could go on to answer wrongly.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        report(what);
        std::process::abort();
    }));
}

async fn serve(args: ServeArgs, reclaim: ReclaimReport, env: Env) -> Outcome {
    let stop = Stop::on_signals().doing("signals")?;
    tokio::select! {
        biased;
        () = stop.requested() => Err(Failure::plain("serve", "told to stop before it was ready")),
        ready = prepare(&args, reclaim, env) => ready,
    }?
    .run(&stop)
    .await
}

/// Everything up to the first client: the pool is open, sockets are bound, named volumes attached.
async fn prepare(args: &ServeArgs, reclaim: ReclaimReport, env: Env) -> Outcome<Ready> {
    let tls = tls_options(args)?;
    let dirs = directories(args)?;
    let mut warnings: Vec<String> = reclaim.warnings().map(str::to_owned).collect();
    warnings.extend(check_backing(args, &dirs)?);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let pool = args.pool.open(&env).await?;
    if let Some(path) = pool.store().local_path() {
        refuse_stacked(args, "the pool", path)?;
    }
    let records = chosen(args, &pool).await?;
    let short = pool.id_hex().chars().take(SHORT_ID).collect::<String>();
    // Bound before anything is attached: a busy address must not cost an epoch.
    let listeners = Listeners::bind(args, &dirs.runtime, &short).await?;
    let control = match &args.control {
        Some(path) => ControlServer::bind(path),
        None => ControlServer::bind_in(&dirs.runtime, &short),
    }
    .doing("control socket")?;

    let engine = VolumeEngine::new(args, &dirs, pool.clone(), &env)?;
    let scope = Scope { all: args.volumes.is_empty(), read_only: args.read_only };
    let offered = Arc::new(Offered::new(pool.clone(), Arc::new(engine), records, scope, &env));
    if !args.volumes.is_empty() {
        offered.attach_all().await?;
    }
    let uris = listeners.uris(&offered.names(), tls.is_some());
    let server =
        Server::new(Arc::new(OfferedExports(offered.clone())), ServerOptions { tls, ..ServerOptions::default() });
    let status = ServerStatus::new(pool, &env, offered.clone(), server.clone(), reclaim, warnings, uris.clone());
    Ok(Ready { offered, listeners, control, server, status: Arc::new(status), uris })
}

/// A server that only has to be let go.
struct Ready {
    offered: Arc<Offered>,
    listeners: Listeners,
    control: ControlServer,
    server: Server,
    status: Arc<ServerStatus>,
    uris: Vec<String>,
}

impl Ready {
    async fn run(self, stop: &Stop) -> Outcome {
        announce(&self.uris);
        tell_systemd(&[NotifyState::Ready, NotifyState::Status("serving")]);
        let work = async {
            self.listeners.serve(&self.server, stop).await;
            tell_systemd(&[NotifyState::Stopping, NotifyState::Status("writing back")]);
            self.offered.detach_all().await
        };
        // Status is answered to the last: a detach can wait for the store.
        tokio::select! {
            outcome = work => outcome,
            () = self.control.run(self.status.clone()) => Ok(()),
        }
    }
}

/// Prints where the exports are. A server whose output nobody reads serves all the same.
fn announce(uris: &[String]) {
    let mut out = io::stdout().lock();
    for uri in uris {
        drop(writeln!(out, "ready: {uri}"));
    }
    drop(out.flush());
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {e}");
    }
}

fn tls_options(args: &ServeArgs) -> Outcome<Option<TlsOptions>> {
    let Some(dir) = &args.tls_certificates else { return Ok(None) };
    let mode = match args.tls {
        TlsArg::Off => return Ok(None),
        TlsArg::On => TlsMode::Optional,
        TlsArg::Require => TlsMode::Required,
    };
    TlsOptions::from_dir(dir, mode, args.tls_verify_peer)
        .map(Some)
        .map_err(|e| Failure::new(Exit::Usage, "--tls-certificates", e))
}

fn directories(args: &ServeArgs) -> Outcome<Dirs> {
    let dirs = args.attach.dirs()?;
    if args.control.is_none() || (args.unix.is_none() && args.tcp.is_none()) {
        make_private_dir(&dirs.runtime).doing("runtime directory")?;
    }
    Ok(dirs)
}

/// Refuses a journal that may lie on a volume; answers what is merely worth a warning.
fn check_backing(args: &ServeArgs, dirs: &Dirs) -> Outcome<Vec<String>> {
    refuse_stacked(args, "the journal directory", &dirs.journal)?;
    refuse_stacked(args, "the state directory", &dirs.state)?;
    let swaps = swap_on_stacked(&HostTree::default());
    let warn = |area| {
        format!(
            "swap area {area} lies on a network or userspace block device: if that is a volume served here, the machine \
             can hang when memory is short"
        )
    };
    Ok(swaps.into_iter().map(warn).collect())
}

fn refuse_stacked(args: &ServeArgs, what: &str, path: &Path) -> Outcome {
    if args.allow_stacked {
        return Ok(());
    }
    check_not_stacked(&HostTree::default(), what, path).doing("serve")
}

/// The volumes named on the command line, or all.
async fn chosen(args: &ServeArgs, pool: &Pool) -> Outcome<Vec<VolumeRecord>> {
    let all = pool.volumes().await.doing(&args.pool.url)?;
    if args.volumes.is_empty() {
        if args.expect.is_some() {
            return Err(Failure::new(Exit::Usage, "--expect", "it is about one volume; name that volume"));
        }
        return Ok(all);
    }
    let mut chosen: Vec<VolumeRecord> = Vec::new();
    for name in &args.volumes {
        let Some(record) = all.iter().find(|r| r.name == *name) else {
            let why = "the pool has none of that name; see `esker volume list`";
            return Err(Failure::new(Exit::NotFound, format_args!("volume {name}"), why));
        };
        if !chosen.iter().any(|r| r.number == record.number) {
            chosen.push(record.clone());
        }
    }
    Ok(chosen)
}
