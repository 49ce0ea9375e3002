//! `esker list`: the devices of this host.

use clap::Args;
use serde_json::{Value, json};

use super::devices::{Seen, devices_below, look_at_all};
use super::failure::{Doing, Outcome};
use super::output::{self, print_json, table};
use super::size::show_size;
use crate::host::{Dirs, UnreadableRecord};
use crate::ublk::{Control, State, block_path, device_ids};

/// List attached volumes and their devices
///
/// STATE is one of: live; starting; recovering; being removed; waiting for recovery (its process is dead, its users
/// wait: `esker attach --recover`); dead (never started); gone (only its record is left);
/// unreadable record (written by another version of esker, or damaged). PID is that of the process
/// that serves it.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker list\n  \
    esker list --all\n  \
    esker list --json | jq -r '.[] | select(.state == \"live\") | .device'")]
pub struct ListArgs {
    /// Other programs' ublk devices, too
    #[arg(long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ListArgs) -> Outcome {
    let (seen, unreadable) = look_at_all(&devices_below(&Dirs::of_this_user().runtime)?)?;
    let mut others = if args.all { others(&seen)? } else { Vec::new() };
    others.retain(|o| !unreadable.iter().any(|u| u.id == o.id));
    others.extend(unreadable.iter().map(unread));
    if args.json {
        return print_json(&seen.iter().map(describe).chain(others.iter().map(|o| json!(o))).collect());
    }
    let heading = ["DEVICE", "VOLUME", "POOL", "SIZE", "STATE", "PID", "DURABILITY"].map(str::to_owned);
    let none = || "-".to_owned();
    let ours = seen.iter().map(|s| {
        let (r, state) = (&s.record, s.state().to_owned());
        let pid = if s.owned { r.pid.to_string() } else { none() };
        let device = r.path().display().to_string();
        [device, r.volume.clone(), r.label.clone(), show_size(r.size), state, pid, r.durability.clone()]
    });
    let foreign = others.iter().map(|o| {
        let pid = o.pid.map_or_else(none, |pid| pid.to_string());
        [o.device.clone(), none(), none(), none(), o.state.to_owned(), pid, none()]
    });
    output::bytes(table(&[heading].into_iter().chain(ours).chain(foreign).collect::<Vec<_>>()).as_bytes())
}

fn describe(seen: &Seen) -> Value {
    let r = &seen.record;
    json!({
        "device": r.path(),
        "id": r.id,
        "volume": r.volume,
        "number": r.number,
        "pool": r.pool,
        "url": r.url,
        "link": format!("/dev/esker/{}/{}", r.label, r.volume),
        "size": r.size,
        "read_only": r.read_only,
        "queues": r.queues,
        "depth": r.depth,
        "state": seen.state(),
        "pid": seen.owned.then_some(r.pid),
        "control": seen.owned.then_some(&r.control),
        "durability": r.durability,
    })
}

/// A device of which it is not known whose it is.
fn unread(record: &UnreadableRecord) -> Other {
    eprintln!("esker: {}", record.why);
    Other { device: record.path().display().to_string(), id: record.id, state: "unreadable record", pid: None }
}

/// Another program's device, or one whose record cannot be read.
#[derive(serde::Serialize)]
struct Other {
    device: String,
    id: u32,
    state: &'static str,
    pid: Option<i32>,
}

fn others(ours: &[Seen]) -> Outcome<Vec<Other>> {
    let control = Control::open();
    let ids = device_ids().doing("ublk devices")?;
    let foreign = ids.into_iter().filter(|id| !ours.iter().any(|s| s.record.id == *id && s.has_volume()));
    Ok(foreign
        .map(|id| {
            let info = control.as_ref().ok().and_then(|c| c.info(id).ok().flatten());
            let state = info.as_ref().map_or("unknown", |i| match i.state {
                State::Dead => "dead",
                State::Live => "live",
                State::Quiesced | State::FailIo => "waiting for recovery",
                State::Unknown(_) => "unknown",
            });
            let pid = info.map(|i| i.pid).filter(|pid| *pid > 0);
            Other { device: block_path(id).display().to_string(), id, state, pid }
        })
        .collect())
}
