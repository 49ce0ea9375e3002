//! The kernel's own NBD client, driven through `nbd-client`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::failure::{Failure, Outcome};

/// How long `nbd-client` may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel may take to show what was done.
const SHOWN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
/// Devices tried before it is given up: others may take them first.
const TRIES: usize = 16;

/// A `/dev/nbdN` that carries a volume of this process.
#[derive(Debug)]
pub struct NbdDevice {
    client: PathBuf,
    name: String,
    volume: String,
}

impl NbdDevice {
    /// Connects the volume `volume`, served on `socket`, as the first device that is free, in blocks of `block` bytes.
    ///
    /// # Errors
    /// Where none is free, or `nbd-client` (at `client`) refuses.
    pub async fn connect(client: &Path, socket: &Path, volume: &str, block: u32) -> Outcome<Self> {
        let mut refused = None;
        for name in free(Path::new("/sys/block")).into_iter().take(TRIES) {
            let device = Self { client: client.to_path_buf(), name, volume: volume.to_owned() };
            match device.run(&arguments(socket, volume, block, &device.path())).await {
                Ok(()) => {
                    device.shown(true).await?;
                    return Ok(device);
                }
                Err(failure) => refused = Some(failure),
            }
        }
        Err(refused
            .unwrap_or_else(|| Failure::plain("--nbd", "every /dev/nbdN is in use; see nbds_max of the module nbd")))
    }

    /// The volume that it carries.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// Its name, `nbdN`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/dev/nbdN`.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Whether the kernel has it connected.
    pub fn is_connected(&self) -> bool {
        connected(&Path::new("/sys/block").join(&self.name))
    }

    /// Takes it away from the kernel. Whoever uses it gets EIO.
    ///
    /// # Errors
    /// Where `nbd-client` refuses.
    pub async fn disconnect(&self) -> Outcome {
        self.run(&["-d".into(), self.path().into()]).await?;
        self.shown(false).await
    }

    async fn run(&self, arguments: &[OsString]) -> Outcome {
        let what = format!("{} {}", self.client.display(), self.path().display());
        let output = Command::new(&self.client).args(arguments).kill_on_drop(true).output();
        let output = match timeout(PATIENCE, output).await {
            Ok(output) => output.map_err(|e| Failure::plain(&what, e))?,
            Err(_) => return Err(Failure::plain(what, format_args!("no end after {} s", PATIENCE.as_secs()))),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::plain(what, format_args!("{}: {}", output.status, said.trim().replace('\n', "; "))))
    }

    async fn shown(&self, there: bool) -> Outcome {
        let until = Instant::now() + SHOWN;
        while self.is_connected() != there {
            if Instant::now() >= until {
                let state = if there { "connected" } else { "disconnected" };
                let why = format!("the kernel does not show it {state} after {} s", SHOWN.as_secs());
                return Err(Failure::plain(self.path().display(), why));
            }
            sleep(TICK).await;
        }
        Ok(())
    }
}

/// What connects a device. One connection: with more the kernel gives one up whose answers take 30 s, and a store may be
/// away for longer (drivers/block/nbd.c, `nbd_xmit_timeout`). Not `-persist`: a server that comes back need not have the
/// content that the device has shown.
fn arguments(socket: &Path, volume: &str, block: u32, device: &Path) -> Vec<OsString> {
    let block = block.to_string();
    let words: [&dyn AsRef<std::ffi::OsStr>; 7] = [&"-unix", &socket, &"-N", &volume, &"-b", &block, &device];
    words.into_iter().map(|w| w.as_ref().to_owned()).collect()
}

/// A device has a `pid` while it is connected, and its size once the kernel has it (drivers/block/nbd.c).
fn connected(dir: &Path) -> bool {
    let size = fs::read_to_string(dir.join("size")).unwrap_or_default();
    dir.join("pid").exists() && size.trim() != "0"
}

/// The devices that nobody has connected, by number.
fn free(class: &Path) -> Vec<String> {
    let names = fs::read_dir(class).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names.filter_map(|n| n.strip_prefix("nbd")?.parse().ok()).collect();
    numbers.sort_unstable();
    let names = numbers.into_iter().map(|n| format!("nbd{n}"));
    names.filter(|name| !class.join(name).join("pid").exists()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn free_devices_are_found_by_number() {
        let class = tempfile::tempdir().unwrap();
        for name in ["nbd0", "nbd10", "nbd2", "nbd3", "sda", "nbdx"] {
            fs::create_dir(class.path().join(name)).unwrap();
            fs::write(class.path().join(name).join("size"), "0\n").unwrap();
        }
        fs::write(class.path().join("nbd0/pid"), "7\n").unwrap();
        assert_eq!(free(class.path()), ["nbd2", "nbd3", "nbd10"]);
        assert!(!connected(&class.path().join("nbd0")), "its size is not there yet");
        fs::write(class.path().join("nbd0/size"), "2048\n").unwrap();
        assert!(connected(&class.path().join("nbd0")));
        assert!(!connected(&class.path().join("nbd2")));
        assert!(free(&class.path().join("none")).is_empty());
    }

    #[test]
    fn one_connection_is_asked_for_in_the_volumes_blocks() {
        let words = arguments(Path::new("/run/esker/v.nbd"), "v", 512, Path::new("/dev/nbd3"));
        assert_eq!(words, ["-unix", "/run/esker/v.nbd", "-N", "v", "-b", "512", "/dev/nbd3"]);
    }

    #[tokio::test]
    async fn what_the_program_says_is_told() {
        let device = |client: &str| NbdDevice { client: client.into(), name: "nbd5".into(), volume: "v".into() };
        assert!(device("/bin/true").run(&[]).await.is_ok());
        let said = device("/bin/ls").run(&["/not/there".into()]).await.unwrap_err().to_string();
        assert!(said.contains("/dev/nbd5") && said.contains("/not/there"), "{said}");
    }
}
