//! Finding a number for a new device, and noting down whose it is before the kernel hears of it.

use crate::cli::devices::{kernel_instance, look};
use crate::cli::failure::{Doing, Exit, Failure, Outcome};
use crate::host::{DeviceRecord, Devices, HeldDevice};
use crate::ublk::{Added, TargetOptions, UblkError, block_path};

/// Numbers tried where any will do.
const NUMBERS: u32 = 4096;

/// A device that is in the kernel and not started, its record, and the lock that makes it ours.
pub struct Claimed {
    pub held: HeldDevice,
    pub record: DeviceRecord,
    pub added: Added,
}

/// Which number is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// This one or none.
    pub id: Option<u32>,
    /// Where any will do, rather this one: the volume had it last.
    pub last: Option<u32>,
}

/// Adds a device for `record`, whose number is filled in. Blocks.
///
/// # Errors
/// `InUse` where the number asked for is taken; what the kernel says.
pub fn claim(devices: &Devices, wanted: Wanted, record: DeviceRecord, options: &TargetOptions) -> Outcome<Claimed> {
    if let Some(id) = wanted.id {
        return match try_claim(devices, id, &record, options)? {
            Some(claimed) => Ok(claimed),
            None => Err(Failure::new(Exit::InUse, format_args!("--id {id}"), holder_of(devices, id)?)),
        };
    }
    for id in wanted.last.into_iter().chain(0..NUMBERS) {
        if let Some(claimed) = try_claim(devices, id, &record, options)? {
            if let Some(last) = wanted.last.filter(|last| *last != id) {
                tracing::warn!("volume {} had {} before; it is taken", record.volume, block_path(last).display());
            }
            return Ok(claimed);
        }
    }
    Err(Failure::plain("attach", format_args!("the first {NUMBERS} device numbers are taken")))
}

/// `None` where the number is somebody's.
fn try_claim(devices: &Devices, id: u32, record: &DeviceRecord, options: &TargetOptions) -> Outcome<Option<Claimed>> {
    let name = block_path(id);
    if kernel_instance(id).is_some() {
        return Ok(None);
    }
    let Some(held) = devices.try_hold(id).doing(name.display())? else { return Ok(None) };
    let mut record = DeviceRecord { id, instance: None, ..record.clone() };
    // On record first: were we killed in between, a device that nobody knows would be left.
    held.store(&record).doing(name.display())?;
    let added = match Added::add(&TargetOptions { id: Some(id), mark: record.mark, ..options.clone() }) {
        Ok(added) => added,
        Err(e) => {
            // After a time-out it may still come; its mark tells then whose it is.
            let may_come = matches!(e, UblkError::TimedOut { .. });
            if matches!(e, UblkError::Taken(_)) || (!may_come && kernel_instance(id).is_none()) {
                held.forget().doing(name.display())?;
            }
            return if matches!(e, UblkError::Taken(_)) { Ok(None) } else { Err(e).doing(name.display()) };
        }
    };
    record.instance = kernel_instance(id);
    held.store(&record).doing(name.display())?;
    Ok(Some(Claimed { held, record, added }))
}

/// Who has the number, for people.
fn holder_of(devices: &Devices, id: u32) -> Outcome<String> {
    let path = block_path(id);
    let Some(record) = devices.load(id).doing(path.display())? else {
        return Ok(format!("{} is another program's", path.display()));
    };
    let (volume, url) = (record.volume.clone(), record.url.clone());
    Ok(format!("it is volume {volume} of {url}: {}", look(devices, record)?))
}
