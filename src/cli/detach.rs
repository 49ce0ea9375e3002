//! `esker detach`: a device is written back and removed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::detach_nbd::detach_nbd;
use super::devices::{Kernel, Seen, blocking, devices_below, kernel_instance, look, look_at_all, remove_dead};
use super::failure::{Doing, Exit, Failure, Outcome};
use super::output;
use crate::host::{
    ControlError, DeviceRecord, Devices, Dirs, HostTree, ProcessHandle, ask, describe_users, device_number_of,
    process_start, users_of,
};

/// How long a killed process may take to end.
const KILLED: Duration = Duration::from_secs(30);
/// How long a process that has removed its device may take to say so on record.
const ENDING: Duration = Duration::from_secs(1);

/// Write an attached volume back and remove its device
///
/// Waits until the store has everything, and says how far it is; interrupting it does not stop the process that does the
/// work. A device that is in use (mounted, swapped to, under another device, open) is refused.
///
/// --force removes the device whoever uses it: their requests fail. What the store does not take within half a minute
/// stays in the journal, and the next attach sends it. A process that serves the device and does not answer is
/// killed; if it serves others, these wait for `esker attach --recover`. A device whose process is dead is removed with
/// --force only: requests that wait for it get EIO. Nothing that the volume acknowledged is lost by any of this: the
/// journal has it. What is lost is what the kernel still had in memory for the device.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker detach data\n  \
    esker detach /dev/ublkb0\n  \
    esker detach bucket-pool/data --force")]
pub struct DetachArgs {
    /// The volume's name (or POOL/VOLUME, as in /dev/esker), or its device: /dev/ublkbN, ublkbN, N, a link to it, /dev/nbdN
    #[arg(value_name = "VOLUME|DEVICE")]
    target: String,
    /// Remove it although it is in use, or its process is dead or does not answer
    #[arg(long)]
    force: bool,
}

pub async fn run(args: DetachArgs) -> Outcome {
    let runtime = Dirs::of_this_user().runtime;
    let devices = devices_below(&runtime)?;
    let (all, target) = (devices.clone(), args.target.clone());
    let mut seen = match blocking("device records", move || find(&all, &target)).await {
        Ok(seen) => seen,
        Err(unknown) => match detach_nbd(&runtime, &args.target, args.force).await {
            Some(outcome) => return outcome,
            None => return Err(unknown),
        },
    };
    let name = format!("{} (volume {})", seen.record.path().display(), seen.record.volume);
    if seen.owned {
        let request = json!({ "op": "detach", "device": seen.record.id, "force": args.force });
        match ask(&seen.record.control, &request, |said| eprintln!("{said}")).await {
            Ok(_) => return output::line(format_args!("detached {name}")),
            Err(ControlError::Refused(r)) => {
                let failure = Failure::new(Exit::of_code(r.exit), name.clone(), r.why);
                let (devices, record) = (devices.clone(), seen.record.clone());
                let now = blocking("device records", move || look(&devices, record)).await?;
                // Its process tried, by force, and it is there still.
                if !args.force
                    || failure.exit() != Exit::Failure
                    || !now.owned
                    || matches!(now.kernel, Kernel::Gone | Kernel::Dead)
                {
                    return Err(failure);
                }
                eprintln!("esker: {failure}: killing process {}", seen.record.pid);
            }
            Err(e) if !args.force => {
                let why = format!("its process {} does not answer: {e}; --force kills it", seen.record.pid);
                return Err(Failure::plain(name, why));
            }
            Err(e) => {
                let (devices, id) = (devices.clone(), seen.record.id);
                if blocking("device records", move || is_forgotten(&devices, id)).await? {
                    return output::line(format_args!("detached {name}"));
                }
                eprintln!("esker: process {} does not answer ({e}): killing it", seen.record.pid);
            }
        }
        let (devices, record) = (devices.clone(), seen.record.clone());
        seen = blocking("killing a process", move || {
            kill(&devices, &record)?;
            look(&devices, record)
        })
        .await?;
    }
    if !args.force && seen.has_volume() {
        return Err(Failure::new(Exit::InUse, name, dead(&seen)));
    }
    blocking("removing a device", move || remove(&devices, &seen.record)).await?;
    output::line(format_args!("removed {name}; what the store lacks is in the journal, and the next attach sends it"))
}

/// Whether the device is off the record: its process may have removed it, and ended before its answer was out. Blocks, for
/// the moment that an end takes.
fn is_forgotten(devices: &Devices, id: u32) -> Outcome<bool> {
    let until = Instant::now() + ENDING;
    loop {
        if devices.load(id).doing("device records")?.is_none() {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(ENDING / 20);
    }
}

/// What both ways out mean for a device whose process is dead.
fn dead(seen: &Seen) -> String {
    let (url, volume) = (&seen.record.url, &seen.record.volume);
    let users = users_of(&HostTree::default(), &seen.record.name());
    let users = if users.is_empty() { String::new() } else { format!(" ({})", describe_users(&users)) };
    format!(
        "the process that served it is dead, and its users wait{users}; `esker attach {url} {volume} --recover` brings \
         it back and loses nothing; --force removes it: waiting requests get EIO, and what the kernel has in memory for \
         it is lost"
    )
}

fn remove(devices: &Devices, record: &DeviceRecord) -> Outcome {
    let name = record.path().display().to_string();
    let Some(held) = devices.try_hold(record.id).doing(&name)? else {
        return Err(Failure::new(Exit::InUse, name, "another process has just taken it up; look at `esker list`"));
    };
    match devices.load(record.id).doing(&name)? {
        Some(now) => remove_dead(&held, &now),
        None => Ok(()),
    }
}

/// Kills the process that serves `record`, if it still does. Blocks, half a minute at most.
fn kill(devices: &Devices, record: &DeviceRecord) -> Outcome {
    let what = format!("process {}", record.pid);
    let process = ProcessHandle::open(record.pid);
    if !devices.is_held(record.id).doing(&what)? {
        return Ok(());
    }
    // Whoever holds the lock by now need not be the process that was asked, nor that number be its own any more.
    let now = devices.load(record.id).doing(&what)?;
    if !still_serves(record, now.as_ref(), process_start(record.pid)) {
        let why = "it is not, or no longer, the one that serves the device; look at `esker list`, and try again";
        return Err(Failure::plain(what, why));
    }
    let process = process.doing(&what)?;
    process.kill().doing(&what)?;
    if process.wait(KILLED).doing(&what)? {
        return Ok(());
    }
    Err(Failure::plain(what, format!("it was killed, and has not ended after {} s", KILLED.as_secs())))
}

/// Whether the process of the number in `asked`, which began at `began`, is still the one on record.
fn still_serves(asked: &DeviceRecord, now: Option<&DeviceRecord>, began: Option<u64>) -> bool {
    began.is_some() && now.is_some_and(|now| now.pid == asked.pid && now.started == began)
}

/// The recorded device that is meant.
fn find(devices: &Devices, target: &str) -> Outcome<Seen> {
    let (all, unreadable) = look_at_all(devices)?;
    let path = Path::new(target);
    // A link of ours or udev's, or somebody's own.
    let real = if path.is_absolute() { fs::canonicalize(path).ok() } else { None };
    let name = real.as_deref().unwrap_or(path).to_string_lossy().into_owned();
    let mut matching: Vec<Seen> = all.into_iter().filter(|s| is_meant(&s.record, &name)).collect();
    if matching.len() > 1 {
        // One that is no more does not make a name ambiguous.
        matching.retain(|s| s.kernel != Kernel::Gone || s.owned);
    }
    let names: Vec<_> = matching.iter().map(|s| s.record.path().display().to_string()).collect();
    match (matching.pop(), names.len()) {
        (Some(seen), 1) => Ok(seen),
        (Some(_), _) => {
            Err(Failure::new(Exit::Usage, target, format!("that can be {}; say which", names.join(" or "))))
        }
        (None, _) if let Some(its) = unreadable.iter().find(|u| number_in(&name) == Some(u.id)) => {
            Err(Failure::plain(target, &its.why))
        }
        (None, _) if number_in(&name).and_then(kernel_instance).is_some() => {
            Err(Failure::new(Exit::NotFound, target, "that ublk device is another program's"))
        }
        (None, _) => Err(Failure::new(Exit::NotFound, target, "no such device or attached volume; see `esker list`")),
    }
}

fn is_meant(record: &DeviceRecord, name: &str) -> bool {
    record.volume == name || format!("{}/{}", record.label, record.volume) == name || number_in(name) == Some(record.id)
}

fn number_in(name: &str) -> Option<u32> {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    name.parse().ok().or_else(|| device_number_of(name).filter(|id| *name == format!("ublkb{id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_on_record_is_killed() {
        let text = r#"{"format":1,"id":0,"boot":"b","instance":7,"stage":"live","pool":"p","url":"s3://b/p","label":"b-p",
            "volume":"v","number":1,"size":8192,"read_only":false,"queues":1,"depth":1,"durability":"object",
            "pid":42,"started":900,"control":"/c","links":[],"arguments":[],"writers":[]}"#;
        let asked: DeviceRecord = serde_json::from_str(text).expect("as records are written");
        assert!(still_serves(&asked, Some(&asked), Some(900)));
        assert!(!still_serves(&asked, Some(&asked), Some(901)), "its number is another's");
        assert!(!still_serves(&asked, Some(&asked), None) && !still_serves(&asked, None, Some(900)));
        let successor = DeviceRecord { pid: 43, ..asked.clone() };
        assert!(!still_serves(&asked, Some(&successor), Some(900)));
        let unknown = DeviceRecord { started: None, ..asked.clone() };
        assert!(!still_serves(&unknown, Some(&unknown), Some(900)));
    }

    #[test]
    fn devices_have_many_names() {
        for name in ["/dev/ublkb3", "ublkb3", "3"] {
            assert_eq!(number_in(name), Some(3), "{name}");
        }
        for name in ["/dev/ublkb3p1", "ublkb", "ublkc3", "x3", "", "/dev/sda", "ublkb03"] {
            assert_eq!(number_in(name), None, "{name}");
        }
    }
}
