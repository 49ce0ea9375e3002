//! `esker attach --nbd`: for kernels without ublk. The volumes are served over NBD on a unix socket, and the kernel's own
//! NBD client makes devices of them where there is one.
//!
//! Such a device ends with this process, with EIO for whoever uses it: nothing tells a server that comes back whether the
//! device may go on over what the volume holds by then.

mod client;
mod control;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

use super::args::AttachCommand;
use super::background::Report;
use super::users::look_for_users;
use crate::cli::failure::{Doing, Failure, Outcome};
use crate::cli::output;
use crate::cli::process::tell_systemd;
use crate::cli::serve::ServeArgs;
use crate::cli::stop::Stop;
use crate::env::Env;
use crate::host::{NbdFacts, ReclaimReport, describe_users, make_private_dir};
use client::NbdDevice;
use control::{Controlled, NbdDaemon};

/// How often the kernel's side is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often somebody is told that the device is still in use.
const REMIND: u32 = 15;

/// Attaches the volumes of `args`, says where they are, and serves them until told to stop. A device that is in use then
/// is served until it is free.
///
/// # Errors
/// What stands against attaching or connecting; what writing back said.
pub async fn attach_over_nbd(
    args: AttachCommand,
    mut report: Option<Report>,
    reclaim: ReclaimReport,
    env: Env,
) -> Outcome {
    let stop = Stop::on_signals().doing("signals")?;
    let dirs = args.engine.attach.dirs()?;
    make_private_dir(&dirs.runtime).doing("runtime directory")?;
    let (names, first) = (args.volumes.clone(), args.volumes[0].clone());
    if let Some(report) = &mut report {
        let log = dirs.runtime.join(format!("{first}.log"));
        report.log_to(&log).doing(log.display())?;
    }
    let socket = dirs.runtime.join(format!("{first}.nbd"));
    let serve = ServeArgs::on_socket(args.pool, args.volumes, socket.clone(), args.read_only, args.engine);
    let serving = tokio::select! {
        biased;
        () = stop.requested() => Err(Failure::plain("attach", "told to stop before it was ready")),
        ready = crate::cli::serve::prepare(&serve, reclaim, env) => ready,
    }?;
    let blocks: Vec<_> = names.into_iter().map(|name| (serving.block_size(&name), name)).collect();
    let (tell, told) = Stop::by_hand();
    let uris = serving.uris().to_vec();
    let daemon = NbdDaemon::new(serving.status(), serving.offered());
    let devices = async {
        let outcome = async {
            daemon.connected(connect(&socket, &blocks).await?);
            let ready = announce(daemon.devices(), &uris, &socket, &blocks);
            if ready.is_ok() {
                if let Some(report) = report {
                    report.ready();
                }
                tell_systemd(&[
                    NotifyState::Ready,
                    NotifyState::MainPid(std::process::id()),
                    NotifyState::Status("serving"),
                ]);
                until_over(&daemon, &stop).await;
            }
            let ends = daemon.devices().iter().map(let_go);
            let outcomes = futures::future::join_all(ends).await;
            outcomes.into_iter().fold(ready, Result::and)
        };
        let outcome = outcome.await;
        // Only now: requests of the devices were answered until they were gone.
        tell.send_replace(true);
        outcome
    };
    let controlled = Arc::new(Controlled(daemon.clone()));
    let (served, outcome) = tokio::join!(serving.run(&told, controlled), devices);
    outcome.and(served)
}

/// A device for each volume, or none at all where this kernel has no NBD client to be used.
async fn connect(socket: &Path, volumes: &[(u32, String)]) -> Outcome<Vec<NbdDevice>> {
    let facts = NbdFacts::gather(Path::new("/"), &std::env::var("PATH").unwrap_or_default());
    let (None, Some(client)) = (facts.why_not(), facts.client) else { return Ok(Vec::new()) };
    let mut devices: Vec<NbdDevice> = Vec::new();
    for (block, name) in volumes {
        match NbdDevice::connect(&client, socket, name, *block).await {
            Ok(device) => devices.push(device),
            Err(failure) => {
                for device in &devices {
                    if let Err(e) = device.disconnect().await {
                        tracing::warn!("{e}");
                    }
                }
                return Err(failure);
            }
        }
    }
    Ok(devices)
}

/// Says where the volumes are: the devices, or the server and how to reach it.
fn announce(devices: &[NbdDevice], uris: &[String], socket: &Path, volumes: &[(u32, String)]) -> Outcome {
    for device in devices {
        output::line(device.path().display())?;
    }
    if !devices.is_empty() {
        return Ok(());
    }
    let facts = NbdFacts::gather(Path::new("/"), &std::env::var("PATH").unwrap_or_default());
    let why = facts.why_not().unwrap_or_default();
    eprintln!("esker: there is no device: {why}. The volumes are served over NBD; where a kernel has /dev/nbdN:");
    for (block, name) in volumes {
        eprintln!("  nbd-client -unix {} -N {name} -b {block} /dev/nbd0", socket.display());
    }
    uris.iter().try_for_each(output::line)
}

/// Until told to stop, or until all devices are gone: detached, or disconnected by somebody else.
async fn until_over(daemon: &NbdDaemon, stop: &Stop) {
    while !daemon.is_over() {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = daemon.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
    tracing::info!("the devices are disconnected: writing back");
}

/// Disconnects a device once nobody uses it: before that its users would get EIO.
async fn let_go(device: &NbdDevice) -> Outcome {
    for look in 0_u32.. {
        if !device.is_connected() {
            return Ok(());
        }
        let users = look_for_users(device.name().to_owned()).await;
        if users.is_empty() {
            return device.disconnect().await;
        }
        if look.is_multiple_of(REMIND) {
            let (name, users) = (device.name(), describe_users(&users));
            tracing::warn!(
                "/dev/{name} is {users}: it is served until it is free; a second signal ends it at once, with EIO"
            );
        }
        sleep(LOOK).await;
    }
    Ok(())
}
