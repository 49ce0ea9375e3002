//! The real program under test: hosts, servers on them, clients that put load on them and keep account. For tests: what is
//! not as it should be is a panic with what the server says of it.
#![allow(clippy::unwrap_used)]

mod daemon;
mod host;
mod load;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub use daemon::{Daemon, Ran};
pub use host::Host;
pub use load::{Load, VOLUME, VOLUME_SIZE, flush, image, try_image, verify, write};

/// Longer than anything here takes, on a machine that is busy with something else.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// How a host reaches the store.
pub trait Site {
    /// The program with these arguments, and all that it needs to reach the store.
    fn command(&self, args: &[&str]) -> Command;

    /// The pool.
    fn url(&self) -> String;
}

/// The program at `binary` with these arguments: nothing of this process's environment changes what it does.
pub fn program(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "ESKER_", "XDG_", "CREDENTIALS_"].iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command
}
