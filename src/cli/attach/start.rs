//! A new device: the volume is attached, a number found, the device added, put on record and started.

use std::sync::Arc;

use super::claim::{Claimed, Wanted, claim};
use super::context::Context;
use super::links::see_to_link;
use super::served::Served;
use crate::cli::devices::{blocking, kernel_instance};
use crate::cli::failure::{Doing, Failure, Outcome};
use crate::host::{DeviceRecord, HeldDevice, Stage};
use crate::pool::VolumeRecord;
use crate::ublk::{Control, Target};
use crate::volume::Volume;

/// Attaches `volume` and makes its device.
///
/// # Errors
/// What stands against attaching, adding or starting; then nothing is left behind, or what is left is named.
pub async fn attach_new(context: &Context, volume: &VolumeRecord) -> Outcome<Served> {
    let what = format!("volume {}", volume.name);
    let writer = context.env.random16();
    let options = context.options_of(writer, None);
    let attached = Volume::attach(&context.pool, volume, options, context.env.clone()).await.doing(&what)?;
    let attached = Arc::new(attached);
    let started = start(context, volume, &attached, &writer).await;
    let (held, record, target) = match started {
        Ok(parts) => parts,
        Err(failure) => {
            // Nobody has written anything yet.
            if let Err(e) = attached.detach().await {
                tracing::warn!("{what}: after a failed start: {e}");
            }
            return Err(failure);
        }
    };
    Ok(Served::new(held, record, target, attached))
}

async fn start(
    context: &Context,
    volume: &VolumeRecord,
    attached: &Arc<Volume>,
    writer: &[u8; 16],
) -> Outcome<(HeldDevice, DeviceRecord, Target)> {
    let mut record = context.record_of(volume, writer);
    record.durability = attached.status().durability.into();
    let last = context.numbers.last(&record.pool, record.number);
    let wanted = Wanted { id: context.target.id, last };
    let (devices, target) = (context.devices.clone(), context.target.clone());
    let claimed = blocking("adding a device", move || claim(&devices, wanted, record, &target)).await?;
    let (device, runtime) = (attached.clone(), context.runtime.clone());
    let (held, mut record, target) =
        blocking("starting a device", move || start_claimed(claimed, device, runtime)).await?;
    if let Err(e) = context.numbers.remember(&record.pool, record.number, record.id) {
        tracing::warn!("the number of {} cannot be kept for the next time: {e}", record.path().display());
    }
    // It is live: whatever fails from here on, somebody may have written to it.
    match linked(&record).await {
        Ok(links) => record.links = links,
        Err(failure) => tracing::warn!("{}: {failure}", record.path().display()),
    }
    record.stage = Stage::Live;
    if let Err(e) = held.store(&record) {
        tracing::warn!("{}: {e}", record.path().display());
    }
    Ok((held, record, target))
}

/// Starts the device. One that cannot be started leaves nothing behind.
fn start_claimed(
    claimed: Claimed,
    device: Arc<Volume>,
    runtime: tokio::runtime::Handle,
) -> Outcome<(HeldDevice, DeviceRecord, Target)> {
    let Claimed { held, mut record, added } = claimed;
    if let Some(info) = Control::open().and_then(|c| c.info(record.id)).doing("the new device")? {
        (record.queues, record.depth) = (info.queues, info.depth);
    }
    let stored = held.store(&record).doing("device records");
    let started = match stored {
        Ok(()) => added.start(device, runtime).doing(record.path().display()),
        Err(failure) => Control::open().and_then(|c| c.delete(record.id)).doing("the new device").and(Err(failure)),
    };
    match started {
        Ok(target) => Ok((held, record, target)),
        Err(failure) => {
            if kernel_instance(record.id).is_none() {
                held.forget().doing("device records")?;
            }
            Err(failure)
        }
    }
}

/// Makes the device's link, or waits for udev to make it.
pub async fn linked(record: &DeviceRecord) -> Outcome<Vec<std::path::PathBuf>> {
    let record = record.clone();
    blocking("links", move || Ok::<_, Failure>(see_to_link(&record))).await
}
