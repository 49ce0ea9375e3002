//! Taking devices over from the process that serves them. Asked, it stops serving and ends; the journal has what the
//! store lacks, as after a crash, and requests wait meanwhile.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use serde_json::json;

use crate::cli::devices::blocking;
use crate::cli::failure::{Doing, Exit, Failure, Outcome};
use crate::cli::process::tell_systemd;
use crate::host::{ControlError, DeviceRecord, ProcessHandle, ask};

/// How long the old process may take to end once it has let go.
const END: Duration = Duration::from_secs(60);
/// What the old process says when it is about to, and still serves.
pub const ABOUT_TO_LET_GO: &str = "about to let go";
/// What the old process says at the moment from which requests wait.
pub const LETTING_GO: &str = "letting go";

/// Makes the process that serves `records` let go of them, and waits for its end. Answers when requests began to wait.
///
/// # Errors
/// Where it serves other volumes too, or refuses: then nothing has happened. Where it does not end: the devices wait.
pub async fn take_over(records: &[DeviceRecord]) -> Outcome<Instant> {
    let Some(first) = records.first() else { return Err(Failure::plain("--handover", "no device is named")) };
    if let Some(other) = records.iter().find(|r| r.pid != first.pid || r.control != first.control) {
        let why = format!(
            "volume {} is served by process {}, volume {} by process {}; hand them over one process at a time",
            first.volume, first.pid, other.volume, other.pid
        );
        return Err(Failure::new(Exit::InUse, "--handover", why));
    }
    let what = format!("--handover from process {}", first.pid);
    // Before it is asked: afterwards its number may be another's.
    let old = ProcessHandle::open(first.pid).doing(&what)?;
    let began = Mutex::new(Instant::now());
    let ids: Vec<u32> = records.iter().map(|r| r.id).collect();
    let asked = ask(&first.control, &json!({ "op": "handover", "devices": ids }), |said| {
        tracing::info!("process {}: {said}", first.pid);
        if said == ABOUT_TO_LET_GO {
            // Before it ends: systemd takes the end of the main process for the end of the service.
            tell_systemd(&[NotifyState::MainPid(std::process::id())]);
        }
        if said == LETTING_GO
            && let Ok(mut at) = began.lock()
        {
            *at = Instant::now();
        }
    })
    .await;
    match asked {
        Ok(_) => {}
        Err(ControlError::Refused(refusal)) => {
            tell_systemd(&[NotifyState::MainPid(first.pid)]);
            return Err(Failure::new(Exit::of_code(refusal.exit), what, refusal.why));
        }
        // It may have let go before it fell silent; whether it ends is what counts.
        Err(e) => tracing::warn!("{what}: {e}"),
    }
    let ended = blocking("waiting for a process", move || old.wait(END).doing("waiting for a process")).await;
    if let Ok(true) = ended {
        // If it fell silent it may not have said so.
        tell_systemd(&[NotifyState::MainPid(std::process::id())]);
        return Ok(began.into_inner().unwrap_or_else(|e| e.into_inner()));
    }
    tell_systemd(&[NotifyState::MainPid(first.pid)]);
    ended?;
    let why = format!(
        "it does not end; once it is gone (kill -9 {}), `esker attach --recover` brings its devices back",
        first.pid
    );
    Err(Failure::plain(what, why))
}
