//! The volumes that processes of this user hold on this host, as their control sockets tell.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::failure::{Doing, Outcome};
use crate::host::{Dirs, ask_status, find_sockets};

/// A volume that is attached here.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where its process answers.
    pub socket: PathBuf,
    /// The id of its pool, in hex.
    pub pool: String,
    /// The URL of its pool.
    pub url: String,
    /// Its name.
    pub name: String,
    /// What its process says of it.
    pub status: Value,
}

impl Running {
    /// Whether `target` means it: its name, its device, or a link to that.
    pub fn is_meant(&self, target: &str) -> bool {
        if self.name == target {
            return true;
        }
        let Some(path) = self.status["path"].as_str() else { return false };
        let real = Path::new(target).is_absolute().then(|| fs::canonicalize(target).ok()).flatten();
        path == target || path.strip_prefix("/dev/") == Some(target) || real.as_deref() == Some(Path::new(path))
    }
}

/// All of them; of the process behind `control`, if that is given. Processes that do not answer are passed over unless
/// they are named.
pub async fn running(control: Option<&Path>) -> Outcome<Vec<Running>> {
    let sockets = match control {
        Some(socket) => vec![socket.to_owned()],
        None => {
            let dir = Dirs::of_this_user().runtime;
            find_sockets(&dir).doing(dir.display())?
        }
    };
    let mut all = Vec::new();
    for socket in sockets {
        match ask_status(&socket).await {
            Ok(status) => all.extend(held(&socket, &status)),
            Err(e) if control.is_some() => return Err(e).doing("control socket"),
            Err(e) => tracing::debug!("{}: {e}", socket.display()),
        }
    }
    Ok(all)
}

/// The attached volumes of one process.
fn held(socket: &Path, status: &Value) -> Vec<Running> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let attached = |v: &&Value| v["attached"] == true;
    let volumes = status["volumes"].as_array().into_iter().flatten().filter(attached);
    let (pool, url) = (text(&status["pool"]), text(&status["url"]));
    let running = |v: &Value| Running {
        socket: socket.to_owned(),
        pool: pool.clone(),
        url: url.clone(),
        name: text(&v["name"]),
        status: v.clone(),
    };
    volumes.map(running).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attached_volumes_go_by_name_and_device() {
        let status = json!({ "pool": "ab", "url": "file:///p", "volumes": [
            { "name": "idle", "attached": false },
            { "name": "data", "attached": true, "path": "/dev/nbd2" },
            { "name": "plain", "attached": true },
        ] });
        let all = held(Path::new("/s"), &status);
        assert_eq!(all.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["data", "plain"]);
        assert_eq!((all[0].pool.as_str(), all[0].url.as_str()), ("ab", "file:///p"));
        for target in ["data", "/dev/nbd2", "nbd2"] {
            assert!(all[0].is_meant(target) && !all[1].is_meant(target), "{target}");
        }
        assert!(!all[0].is_meant("idle") && !all[0].is_meant("/dev/null"));
        assert!(held(Path::new("/s"), &json!({})).is_empty());
    }
}
