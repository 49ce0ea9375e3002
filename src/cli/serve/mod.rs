//! `esker serve`: the NBD server.

mod args;
mod exports;
mod listen;
mod status;

use std::io::{self, Write};
use std::sync::Arc;

use nbd_compat::{Server, ServerOptions, TlsMode, TlsOptions};
use sd_notify::NotifyState;

use super::daemon_status::DaemonFacts;
use super::devices::devices_below;
use super::engine::VolumeEngine;
use super::failure::{Doing, Exit, Failure, Outcome};
use super::process::{abort_on_panic, named_volumes, tell_systemd};
use super::stop::Stop;
use crate::env::Env;
use crate::host::{ControlServer, Dirs, ReclaimReport, StatusSource, make_private_dir, prepare_process};
use crate::pool::{Pool, VolumeRecord};
pub use args::ServeArgs;
use args::TlsArg;
pub use exports::Offered;
use exports::{OfferedExports, Scope};
use listen::Listeners;
pub use status::ServerStatus;

/// Hex digits of the pool's id in the names of sockets.
const SHORT_ID: usize = 16;

/// Prepares the process, which must happen before the first thread, and serves until told to stop.
pub fn main(args: ServeArgs) -> Outcome {
    let reclaim = prepare_process();
    abort_on_panic();
    super::with_runtime(async move |env| serve(args, reclaim, env).await)
}

async fn serve(args: ServeArgs, reclaim: ReclaimReport, env: Env) -> Outcome {
    let stop = Stop::on_signals().doing("signals")?;
    let serving = tokio::select! {
        biased;
        () = stop.requested() => Err(Failure::plain("serve", "told to stop before it was ready")),
        ready = prepare(&args, reclaim, env) => ready,
    }?;
    announce(&serving.uris);
    tell_systemd(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let status = serving.status();
    serving.run(&stop, status).await
}

/// Everything up to the first client: the pool is open, sockets are bound, named volumes attached.
pub async fn prepare(args: &ServeArgs, reclaim: ReclaimReport, env: Env) -> Outcome<Serving> {
    let tls = tls_options(args)?;
    let dirs = directories(args)?;
    let mut warnings: Vec<String> = reclaim.warnings().map(str::to_owned).collect();
    warnings.extend(args.engine.check_backing(&dirs)?);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let pool = args.pool.open(&env).await?;
    pool.store().limit(args.engine.limits.limits());
    if let Some(path) = pool.store().local_path() {
        args.engine.refuse_stacked("the pool", path)?;
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

    let options = args.engine.options(&dirs, args.read_only, &env)?;
    let engine = VolumeEngine::new(pool.clone(), options, devices_below(&dirs.runtime)?, &env);
    let scope = Scope { all: args.volumes.is_empty(), read_only: args.read_only };
    let offered = Arc::new(Offered::new(pool.clone(), Arc::new(engine), records, scope, &env));
    if !args.volumes.is_empty() {
        offered.attach_all().await?;
    }
    let uris = listeners.uris(&offered.names(), tls.is_some());
    let server =
        Server::new(Arc::new(OfferedExports(offered.clone())), ServerOptions { tls, ..ServerOptions::default() });
    let facts = DaemonFacts::new(pool, &env, reclaim, warnings);
    let status = ServerStatus::new(facts, offered.clone(), server.clone(), uris.clone());
    Ok(Serving { offered, listeners, control, server, status: Arc::new(status), uris })
}

/// A server that only has to be let go.
pub struct Serving {
    offered: Arc<Offered>,
    listeners: Listeners,
    control: ControlServer,
    server: Server,
    status: Arc<ServerStatus>,
    uris: Vec<String>,
}

impl Serving {
    /// A URI per socket and volume.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The logical block size of a volume on offer, in bytes.
    pub fn block_size(&self, volume: &str) -> u32 {
        self.offered.block_size(volume)
    }

    /// What it tells of itself.
    pub fn status(&self) -> Arc<ServerStatus> {
        self.status.clone()
    }

    /// Its volumes.
    pub fn offered(&self) -> Arc<Offered> {
        self.offered.clone()
    }

    /// Serves until told to stop, then writes back and detaches. `controlled` answers the control socket.
    ///
    /// # Errors
    /// What writing back said.
    pub async fn run(self, stop: &Stop, controlled: Arc<dyn StatusSource>) -> Outcome {
        let work = async {
            self.listeners.serve(&self.server, stop).await;
            tell_systemd(&[NotifyState::Stopping, NotifyState::Status("writing back")]);
            self.offered.detach_all().await
        };
        // Status is answered to the last: a detach can wait for the store.
        tokio::select! {
            outcome = work => outcome,
            () = self.control.run(controlled) => Ok(()),
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
    let dirs = args.engine.attach.dirs()?;
    if args.control.is_none() || (args.unix.is_none() && args.tcp.is_none()) {
        make_private_dir(&dirs.runtime).doing("runtime directory")?;
    }
    Ok(dirs)
}

/// The volumes named on the command line, or all.
async fn chosen(args: &ServeArgs, pool: &Pool) -> Outcome<Vec<VolumeRecord>> {
    if !args.volumes.is_empty() {
        return named_volumes(pool, &args.volumes).await;
    }
    if args.engine.expect.is_some() {
        return Err(Failure::new(Exit::Usage, "--expect", "it is about one volume; name that volume"));
    }
    pool.volumes().await.doing(&args.pool.url)
}
