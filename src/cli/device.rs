//! `esker device`: what may wait for a device's own requests, as a process apart from the one that answers them.
//!
//! A thread that waits in the kernel keeps its process from ending when it is killed. If that process served the device,
//! the kernel would not notice its end, and nothing could ever bring the device back or take it away.

use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::failure::{Doing, Exit, Failure, Outcome};
use crate::host::{DeviceUser, HostTree, claim, describe_users, device_number_of, is_held_by_kernel, users_of};
use crate::ublk::{Control, Feature, UblkError};

/// How long a command may take: as long as the store is away. Whoever started this process waits as long as it likes.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a passing look at the device, such as udev's, is waited for.
const PASSING: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// Work on a device, for the process that serves it
#[derive(Debug, Args)]
#[command(hide = true, after_help = "EXAMPLES:\n  esker device look ublkb0")]
pub struct DeviceArgs {
    /// What is to be done
    #[arg(value_enum)]
    job: Job,
    /// The kernel's name of the disk
    #[arg(value_name = "NAME")]
    name: String,
}

/// What is done in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// Fails with exit code 5 where the kernel holds the disk for somebody
    Look,
    /// Writes back what the kernel has buffered for the disk, and flushes it
    Sync,
    /// Stops the device if nobody uses it; exit code 5 otherwise
    StopUnused,
    /// Stops the device, whoever uses it
    Stop,
    /// Deletes a stopped device; waits for those who have it open where the kernel does
    Delete,
}

pub fn run(args: &DeviceArgs) -> Outcome {
    let name = &args.name;
    let path = Path::new("/dev").join(name);
    let number = || {
        let number = device_number_of(name);
        number.ok_or_else(|| Failure::new(Exit::Usage, name, "that is no ublk device"))
    };
    match args.job {
        Job::Look => match is_held_by_kernel(&HostTree::default(), name) {
            true => Err(in_use(name, &[DeviceUser::Kernel])),
            false => Ok(()),
        },
        Job::Sync => {
            File::open(&path).and_then(|f| f.sync_all()).doing(format_args!("writing back {}", path.display()))
        }
        Job::StopUnused => stop_unused(name, number()?),
        Job::Stop => UblkError::gone_is_done(control(name)?.stop(number()?)).doing(name),
        Job::Delete => UblkError::gone_is_done(control(name)?.delete(number()?)).doing(name),
    }
}

fn control(name: &str) -> Outcome<Control> {
    Control::open().map(|c| c.with_limit(PATIENCE)).doing(name)
}

fn in_use(name: &str, users: &[DeviceUser]) -> Failure {
    Failure::new(Exit::InUse, name, format_args!("it is {}", describe_users(users)))
}

/// The kernel itself refuses where it can. Where it cannot, a claim keeps others from mounting the device until it has
/// stopped; one who opens it without a claim between the look and the stop is not seen.
fn stop_unused(name: &str, id: u32) -> Outcome {
    let control = control(name)?;
    let Some(info) = control.info(id).doing(name)? else { return Ok(()) };
    let tree = HostTree::default();
    let until = Instant::now() + PASSING;
    if info.flags.contains(Feature::SAFE_STOP_DEV) {
        loop {
            match control.stop_unused(id) {
                Err(e) if !e.is_busy() => return UblkError::gone_is_done(Err(e)).doing(name),
                Err(_) if Instant::now() >= until => {
                    let users = users_of(&tree, name);
                    return Err(in_use(name, if users.is_empty() { &[DeviceUser::Kernel] } else { &users }));
                }
                Err(_) => sleep(TICK),
                Ok(()) => return Ok(()),
            }
        }
    }
    loop {
        let claimed = claim(name).doing(name)?;
        let users = users_of(&tree, name);
        match claimed {
            Some(held) if users.is_empty() => {
                let outcome = UblkError::gone_is_done(control.stop(id)).doing(name);
                drop(held);
                return outcome;
            }
            None if users.is_empty() && Instant::now() >= until => return Err(in_use(name, &[DeviceUser::Kernel])),
            _ if Instant::now() >= until => return Err(in_use(name, &users)),
            _ => sleep(TICK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ublk_devices_are_stopped() {
        for job in [Job::StopUnused, Job::Stop, Job::Delete] {
            let refused = run(&DeviceArgs { job, name: "nosuchdisk".into() });
            // Whichever is looked at first: the name, or whether there is ublk at all.
            assert!(refused.is_err(), "{job:?}");
        }
        let busy = UblkError::Command { what: "x".into(), source: std::io::Error::from_raw_os_error(libc::EBUSY) };
        assert!(busy.is_busy() && !UblkError::NoDevice(1).is_busy());
        assert!(
            UblkError::gone_is_done(Err(UblkError::NoDevice(1))).is_ok() && UblkError::gone_is_done(Err(busy)).is_err()
        );
    }
}
