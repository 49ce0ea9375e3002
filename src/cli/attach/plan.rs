//! From what is on record to what is done about each volume.

use super::policy::{Asked, Obstacle, Verdict, Wish, contradiction, judge};
use crate::cli::devices::{Kernel, Seen, ask_kernel, await_pause, kernel_size, refuse_unreadable, remove_dead};
use crate::cli::failure::{Doing, Exit, Failure, Outcome};
use crate::host::{DeviceRecord, Devices, HeldDevice};
use crate::pool::VolumeRecord;

/// Records that came and went while they were looked at are looked at again, this often.
const LOOKS: usize = 4;

/// What is done about one volume.
pub enum Plan {
    /// A new device.
    Anew,
    /// This one is served again; its lock is ours.
    Resume(Box<(HeldDevice, DeviceRecord)>),
    /// A living process is asked for this one.
    TakeOver(Box<DeviceRecord>),
}

/// Looks at the volume's recorded devices, clears away what is of no use any more, and decides. Blocks; half a minute
/// where a daemon has just died.
///
/// # Errors
/// What stands in the way.
pub fn plan(devices: &Devices, wish: Wish, pool: &str, volume: &VolumeRecord, asked: &Asked) -> Outcome<Plan> {
    let mut plan = Plan::Anew;
    let mut known = false;
    let records = devices.all().doing("device records")?;
    for record in records.readable.into_iter().filter(|r| r.is_of(pool, volume.number)) {
        known = true;
        match plan_for(devices, wish, record.id, asked)? {
            Plan::Anew => {}
            other => plan = other,
        }
    }
    if !known {
        refuse_unreadable(devices, &records.unreadable)?;
    }
    match judge(wish, None) {
        Verdict::Refuse(obstacle) if !known => Err(refused(wish, obstacle, &volume.name, None)),
        _ => Ok(plan),
    }
}

fn plan_for(devices: &Devices, wish: Wish, id: u32, asked: &Asked) -> Outcome<Plan> {
    for _ in 0..LOOKS {
        let held = devices.try_hold(id).doing("device records")?;
        // Read again now that nobody can change it, if so.
        let Some(record) = devices.load(id).doing("device records")? else { return Ok(Plan::Anew) };
        let kernel = ask_kernel(&record);
        match (judge(wish, Some((held.is_none(), kernel))), held) {
            (Verdict::Resume, Some(held)) => {
                agreed(asked, &record)?;
                return Ok(Plan::Resume(Box::new((held, record))));
            }
            (Verdict::TakeOver, _) => {
                agreed(asked, &record)?;
                return Ok(Plan::TakeOver(Box::new(record)));
            }
            (Verdict::ForgetAndAnew | Verdict::DeleteAndAnew, Some(held)) => {
                tracing::info!("{}: clearing away what a process that is gone has left", record.path().display());
                remove_dead(&held, &record)?;
                return Ok(Plan::Anew);
            }
            (Verdict::AwaitPause, _) => {
                if await_pause(&record) == Kernel::Live {
                    let volume = record.volume.clone();
                    return Err(refused(wish, Obstacle::Unclear, &volume, Some(seen(record, false, kernel))));
                }
            }
            (Verdict::Refuse(obstacle), held) => {
                let volume = record.volume.clone();
                return Err(refused(wish, obstacle, &volume, Some(seen(record, held.is_none(), kernel))));
            }
            _ => return Ok(Plan::Anew),
        }
    }
    Err(Failure::plain("device records", "they keep changing; try again"))
}

/// Refuses what would change the device under its users, before anything has happened.
fn agreed(asked: &Asked, record: &DeviceRecord) -> Outcome {
    let Some(why) = contradiction(asked, record, kernel_size(record.id)) else { return Ok(()) };
    Err(Failure::new(Exit::Usage, record.path().display(), format!("{why}; nothing was done to it")))
}

fn seen(record: DeviceRecord, owned: bool, kernel: Kernel) -> Seen {
    Seen { record, owned, kernel }
}

fn refused(wish: Wish, obstacle: Obstacle, volume: &str, seen: Option<Seen>) -> Failure {
    let what = format!("volume {volume}");
    let Some(seen) = seen else {
        return Failure::new(
            Exit::NotFound,
            what,
            "no process on this host serves it as a device; attach it without --handover",
        );
    };
    let device = seen.record.path().display().to_string();
    let why = match obstacle {
        Obstacle::Served => format!(
            "it is attached already: {seen}; --handover replaces that process, `esker detach {volume}` removes the device"
        ),
        Obstacle::Busy => format!("{seen}: another process is at it; try again when it has finished"),
        Obstacle::Waiting => format!(
            "{device} waits for it, and so may its users; bring it back with --recover, which loses nothing, or give it \
             up with `esker detach {device} --force`, which fails its users' requests"
        ),
        Obstacle::NobodyServes => {
            format!("{device} is {}: no process serves it; attach it without --handover", seen.state())
        }
        Obstacle::Unclear => format!("the kernel does not say how {device} stands; are you root?"),
    };
    // What is in the way of a recovery passes by itself, so that whoever restarts us is to try again; the code of a device
    // that was failed would tell it not to.
    let exit = if wish == Wish::Recover { Exit::Failure } else { Exit::InUse };
    Failure::new(exit, what, why)
}
