//! A device whose process is gone: its volume is attached as the continuation of what the device has shown, and the
//! device is served again. Otherwise it is failed.

use std::sync::Arc;

use super::context::{Context, arguments};
use super::patience::Outage;
use super::served::Served;
use super::start::linked;
use crate::cli::devices::{blocking, remove_dead};
use crate::cli::failure::{Doing, Exit, Failure, HasExit, Outcome};
use crate::host::{DeviceRecord, HeldDevice, MAX_WRITERS, Stage, hex16, process_start, remove_stale_socket};
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
    record.started = process_start(record.pid);
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
    // It serves from here on: what fails now is said and borne.
    match linked(&record).await {
        Ok(links) => record.links = links,
        Err(failure) => tracing::warn!("{}: {failure}", record.path().display()),
    }
    record.writers = vec![hex16(&writer)];
    record.durability = attached.status().durability.into();
    record.stage = Stage::Live;
    if let Err(e) = held.store(&record) {
        tracing::warn!("{}: {e}", record.path().display());
    }
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
    let mut writer = context.env.random16();
    note(held, record, &writer).map_err(Stop::Leave)?;
    loop {
        let options = context.options_of(writer, Some(record));
        let attach = Volume::attach(&context.pool, volume, options, context.env.clone());
        let error = match outage.attempt(context.pool.store(), attach).await.map_err(Stop::Fail)? {
            Ok(attached) => return Ok((attached, writer)),
            Err(e) => e,
        };
        // As long as it has opened nothing, one id serves all tries; there is room for so many only.
        let used = error.may_have_opened();
        match &error {
            AttachError::NotResumable { .. } | AttachError::Deleted { .. } => {
                return Err(Stop::Fail(Failure::new(Exit::InUse, what, &error)));
            }
            AttachError::Store(_) | AttachError::Undecided(_) if error.may_pass() => {
                outage.wait(Failure::new(error.exit(), &what, &error)).await.map_err(Stop::Fail)?;
                // An attach may leave an opening, so none is tried before the store answers.
                while let Err(e) =
                    outage.attempt(context.pool.store(), context.pool.volumes()).await.map_err(Stop::Fail)?
                {
                    outage.wait(Failure::new(e.exit(), &what, &e)).await.map_err(Stop::Fail)?;
                }
            }
            // With the code that lets it be tried again: the device waits.
            e if e.may_pass() => match outage.moment(Failure::plain(&what, e)).await {
                Ok(()) => {}
                Err(failure) => return Err(Stop::Leave(forgotten(held, record, &writer, used, failure))),
            },
            e => {
                let failure = Failure::new(e.exit(), what, e);
                return Err(Stop::Leave(forgotten(held, record, &writer, used, failure)));
            }
        }
        if used {
            writer = context.env.random16();
            note(held, record, &writer).map_err(Stop::Leave)?;
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

/// Takes the writer off the record, so that the next process has room for its own; not one that may have opened.
fn forgotten(held: &HeldDevice, record: &mut DeviceRecord, writer: &[u8; 16], used: bool, failure: Failure) -> Failure {
    if !used {
        let id = hex16(writer);
        record.writers.retain(|w| *w != id);
        if let Err(e) = held.store(record) {
            tracing::warn!("{e}");
        }
    }
    failure
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
