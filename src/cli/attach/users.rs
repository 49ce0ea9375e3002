//! Who uses a device of this process.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::served::Served;
use crate::host::{DeviceUser, HostTree, is_held_by_kernel, users_of};

/// How long a look at who uses a device may take: it opens it.
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

/// Who uses the block device `name`. A look that hangs counts as a use: something waits there.
pub async fn look_for_users(name: String) -> Vec<DeviceUser> {
    let looking = spawn_blocking(move || {
        let tree = HostTree::default();
        let mut users = users_of(&tree, &name);
        let shown = users.iter().any(|u| !matches!(u, DeviceUser::Process { .. }));
        if !shown && is_held_by_kernel(&tree, &name) {
            users.push(DeviceUser::Kernel);
        }
        users
    });
    match timeout(LOOK, looking).await {
        Ok(Ok(users)) => users,
        _ => vec![DeviceUser::Kernel],
    }
}
