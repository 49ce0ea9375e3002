//! `esker detach` of a volume that is attached as /dev/nbdN: its daemon is found by asking all of this user's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::devices::blocking;
use super::failure::{Doing, Exit, Failure, Outcome};
use super::output;
use crate::host::{ControlError, ProcessHandle, ask, ask_status, find_sockets};

/// How long a daemon may take to end after its last volume.
const END: Duration = Duration::from_secs(30);

/// A volume with a /dev/nbdN, and its daemon.
struct Found {
    socket: PathBuf,
    pid: u32,
    volume: String,
    path: String,
}

/// Writes back and disconnects the volume or device that `target` names; `None` where no daemon has it.
pub async fn detach_nbd(runtime: &Path, target: &str, force: bool) -> Option<Outcome> {
    for socket in find_sockets(runtime).ok()? {
        // One that does not answer is not the one, as far as can be told.
        let Ok(status) = ask_status(&socket).await else { continue };
        if let Some(found) = find(&status, target, &socket) {
            return Some(detach(found, force).await);
        }
    }
    None
}

async fn detach(found: Found, force: bool) -> Outcome {
    let name = format!("{} (volume {})", found.path, found.volume);
    let process = ProcessHandle::open(found.pid);
    let request = json!({ "op": "detach-nbd", "volume": found.volume, "force": force });
    let answer = match ask(&found.socket, &request, |said| eprintln!("{said}")).await {
        Ok(answer) => answer,
        Err(ControlError::Refused(r)) => return Err(Failure::new(Exit::of_code(r.exit), name, r.why)),
        Err(e) => return Err(e).doing(name),
    };
    if let (Some(true), Ok(process)) = (answer["last"].as_bool(), process) {
        // Its sockets go with it: the next attach finds their names free.
        blocking("waiting for the daemon", move || process.wait(END).doing("its daemon")).await?;
    }
    output::line(format_args!("detached {name}"))
}

fn find(status: &Value, target: &str, socket: &Path) -> Option<Found> {
    let pid = u32::try_from(status["pid"].as_u64()?).ok()?;
    let volumes = status["volumes"].as_array()?;
    volumes.iter().find_map(|v| {
        let (volume, path) = (v["name"].as_str()?, v["path"].as_str()?);
        let name = path.strip_prefix("/dev/").filter(|name| name.starts_with("nbd"))?;
        let meant = [volume, path, name].contains(&target);
        meant.then(|| Found { socket: socket.into(), pid, volume: volume.into(), path: path.into() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_found_by_name_and_by_device() {
        let status = json!({ "pid": 7, "volumes": [
            { "name": "a" },
            { "name": "b", "path": "/dev/ublkb1" },
            { "name": "c", "path": "/dev/nbd2" },
        ] });
        let found = |target| find(&status, target, Path::new("/s")).map(|f| (f.pid, f.volume, f.path));
        for target in ["c", "/dev/nbd2", "nbd2"] {
            assert_eq!(found(target), Some((7, "c".into(), "/dev/nbd2".into())));
        }
        for target in ["a", "b", "/dev/ublkb1", "d", "nbd1"] {
            assert_eq!(found(target), None, "{target}");
        }
        assert!(find(&json!({}), "c", Path::new("/s")).is_none());
    }
}
