//! `esker udev`: what the udev rule asks about a device.

use clap::Args;

use super::devices::devices_below;
use super::failure::{Doing, Exit, Failure, Outcome};
use super::output;
use crate::host::{DeviceRecord, Dirs, device_number_of};

/// Tell udev whose a device is: properties for IMPORT{program}
#[derive(Debug, Args)]
#[command(hide = true, after_help = "EXAMPLES:\n  esker udev ublkb0")]
pub struct UdevArgs {
    /// The kernel's name of a disk or partition
    #[arg(value_name = "NAME")]
    name: String,
}

pub fn run(args: &UdevArgs) -> Outcome {
    let none = || Failure::new(Exit::NotFound, &args.name, "no device of ours");
    let id = device_number_of(&args.name).ok_or_else(none)?;
    let devices = devices_below(&Dirs::of_this_user().runtime)?;
    let record = devices.load(id).doing("device records")?.ok_or_else(none)?;
    output::bytes(properties(&record).as_bytes())
}

/// A quarter of the requests is kept for reads and what waits for nothing: a scheduler that hands out no more than these
/// to writes keeps a full journal from stopping readers.
fn properties(record: &DeviceRecord) -> String {
    let depth = (record.depth - record.depth / 4).max(1);
    format!("ESKER_POOL={}\nESKER_VOLUME={}\nESKER_ASYNC_DEPTH={depth}\n", record.label, record.volume)
}
