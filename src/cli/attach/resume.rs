//! A device whose process is gone: its volume is attached as the continuation of what the device has shown, and the
//! device is served again. Otherwise it is failed.

use std::sync::Arc;

use super::context::{Context, arguments};
use super::patience::Outage;
use super::served::Served;
use super::start::linked;
use crate::cli::devices::{blocking, remove_dead};
use crate::cli::failure::{Doing, Exit, Failure, HasExit, Outcome};
use crate::host::{DeviceRecord, HeldDevice, MAX_WRITERS, Stage, hex16, remove_stale_socket};
use crate::pool::VolumeRecord;
use crate::ublk::Target;
use crate::volume::{AttachError, Volume};

/// Serves the device of `held` again.
///
/// # Errors
/// `InUse` where it cannot be resumed: then it has been failed and removed. Others leave it waiting.
pub async fn resume(
    context: &Context,
    volume: &VolumeRecord,
    held: HeldDevice,
    mut record: DeviceRecord,
) -> Outcome<Served> {
    let device = record.path().display().to_string();
    record.stage = Stage::Recovering;
    record.pid = std::process::id();
    remove_stale_socket(&record.control);
    record.control.clone_from(&context.control);
    record.arguments = arguments();
    record.journal_dir.get_or_insert_with(|| context.journal_dir());
    held.store(&record).doing("device records")?;
    tracing::info!("{device}: bringing back volume {}", volume.name);
    let (attached, writer) = match attach_on(context, volume, &held, &mut record).await {
        Ok(attached) => attached,
        Err(Stop::Leave(failure)) => return Err(failure),
        Err(Stop::Fail(failure)) => return Err(give_up(held, record, failure).await),
    };
    let attached = Arc::new(attached);
    let (serve, runtime, id) = (attached.clone(), context.runtime.clone(), record.id);
    let target = blocking("recovering a device", move || Target::recover(id, serve, runtime).doing(device)).await?;
    record.links = linked(&record).await?;
    record.writers = vec![hex16(&writer)];
    record.durability = attached.status().durability.into();
    record.stage = Stage::Live;
    held.store(&record).doing("device records")?;
    Ok(Served::new(held, record, target, attached))
}

/// Why the volume is not attached.
enum Stop {
    /// The device goes on waiting.
    Leave(Failure),
    /// The device must not wait any longer.
    Fail(Failure),
}

/// Attaches the volume as the continuation of what the device has shown, trying as long as `--on-outage` says.
async fn attach_on(
    context: &Context,
    volume: &VolumeRecord,
    held: &HeldDevice,
    record: &mut DeviceRecord,
) -> Result<(Volume, [u8; 16]), Stop> {
    let what = format!("volume {}", volume.name);
    let mut outage = Outage::new(context.options.on_outage, &context.env);
    loop {
        let writer = context.env.random16();
        note(held, record, &writer).map_err(Stop::Leave)?;
        let options = context.options_of(writer, Some(record));
        let attach = Volume::attach(&context.pool, volume, options, context.env.clone());
        let error = match outage.attempt(context.pool.store(), attach).await.map_err(Stop::Fail)? {
            Ok(attached) => return Ok((attached, writer)),
            Err(e) => e,
        };
        match &error {
            AttachError::NotResumable { .. } | AttachError::Deleted { .. } => {
                return Err(Stop::Fail(Failure::new(Exit::InUse, what, &error)));
            }
            AttachError::Store(_) if error.may_pass() => {
                outage.wait(Failure::new(error.exit(), &what, &error)).await.map_err(Stop::Fail)?;
                // Each attach is on record, so none is tried before the store answers.
                while let Err(e) =
                    outage.attempt(context.pool.store(), context.pool.volumes()).await.map_err(Stop::Fail)?
                {
                    outage.wait(Failure::new(e.exit(), &what, &e)).await.map_err(Stop::Fail)?;
                }
            }
            // With the code that lets it be tried again: the device waits.
            e if e.may_pass() => outage.moment(Failure::plain(&what, e)).await.map_err(Stop::Leave)?,
            e => return Err(Stop::Leave(Failure::new(e.exit(), what, e))),
        }
    }
}

/// Puts the writer on record before its opening can exist.
fn note(held: &HeldDevice, record: &mut DeviceRecord, writer: &[u8; 16]) -> Outcome {
    if record.writers.len() >= MAX_WRITERS {
        let why = format!("{MAX_WRITERS} tries to bring it back have failed; `esker detach --force` gives it up");
        return Err(Failure::plain(record.path().display(), why));
    }
    record.writers.push(hex16(writer));
    held.store(record).doing("device records")
}

/// Fails the device: what waits for it gets EIO.
pub async fn give_up(held: HeldDevice, record: DeviceRecord, failure: Failure) -> Failure {
    let device = record.path().display().to_string();
    let removed = blocking("removing a device", move || remove_dead(&held, &record)).await;
    let why = match removed {
        Ok(()) => format!("{failure}; the device was failed (EIO) and removed"),
        Err(e) => format!("{failure}; and the device could not be removed: {e}"),
    };
    Failure::new(failure.exit(), device, why)
}
