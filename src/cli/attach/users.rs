//! Who uses a device of this process.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::helper::Helper;
use super::served::Served;
use crate::cli::device::Job;
use crate::cli::failure::Exit;
use crate::host::{DeviceUser, HostTree, users_of};

/// How long a look at who uses a device may take.
const LOOK: Duration = Duration::from_secs(5);
/// How long a passing look at the device, such as udev's, is waited for.
const PASSING: Duration = Duration::from_secs(2);

impl Served {
    /// Who uses the device. A look that hangs counts as a use: something waits there.
    pub async fn users(&self) -> Vec<DeviceUser> {
        let name = self.record.lock().name();
        lasting_users(&name).await
    }
}

/// Who uses the block device `name` for longer than a passing look takes.
pub async fn lasting_users(name: &str) -> Vec<DeviceUser> {
    let until = Instant::now() + PASSING;
    loop {
        let users = look_for_users(name.to_owned()).await;
        // udev and the like open every device for a moment.
        let passing = users.iter().all(|u| matches!(u, DeviceUser::Process { .. }));
        if users.is_empty() || !passing || Instant::now() >= until {
            return users;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Who uses the block device `name`. A look that hangs counts as a use: something waits there. Whether the kernel holds
/// it is seen by opening it, which can wait for its requests: a helper does that, if nobody was found without.
pub async fn look_for_users(name: String) -> Vec<DeviceUser> {
    let disk = name.clone();
    let shown = spawn_blocking(move || users_of(&HostTree::default(), &disk));
    match timeout(LOOK, shown).await {
        Ok(Ok(users)) if !users.is_empty() => return users,
        Ok(Ok(_)) => {}
        _ => return vec![DeviceUser::Kernel],
    }
    match Helper::begin(Job::Look, name.clone()).within(LOOK).await {
        Some(Ok(())) => Vec::new(),
        Some(Err(failure)) if failure.exit() != Exit::InUse => {
            tracing::warn!("{name}: whether somebody holds it cannot be seen: {failure}");
            vec![DeviceUser::Kernel]
        }
        Some(Err(_)) | None => vec![DeviceUser::Kernel],
    }
}
