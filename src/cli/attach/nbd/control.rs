//! The daemon of `esker attach --nbd` as its control socket sees it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::client::NbdDevice;
use crate::cli::attach::users::lasting_users;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::serve::{Offered, ServerStatus};
use crate::host::{Done, Refusal, Say, StatusSource, describe_users};

/// How long an answer may take to get to its client before this process ends.
const ANSWER: Duration = Duration::from_secs(1);

/// The devices of this process, and the server behind them.
pub struct NbdDaemon {
    server: Arc<ServerStatus>,
    offered: Arc<Offered>,
    devices: OnceLock<Vec<NbdDevice>>,
    /// Requests to detach that are not answered yet.
    at_work: AtomicUsize,
    changed: Notify,
}

impl NbdDaemon {
    /// Of a server whose devices are not connected yet.
    pub fn new(server: Arc<ServerStatus>, offered: Arc<Offered>) -> Arc<Self> {
        let (devices, at_work, changed) = (OnceLock::new(), AtomicUsize::new(0), Notify::new());
        Arc::new(Self { server, offered, devices, at_work, changed })
    }

    /// They are now. To be called once.
    pub fn connected(&self, devices: Vec<NbdDevice>) {
        debug_assert!(self.devices.get().is_none());
        self.devices.get_or_init(|| devices);
    }

    /// The devices, connected or not.
    pub fn devices(&self) -> &[NbdDevice] {
        self.devices.get().map_or(&[], Vec::as_slice)
    }

    /// Whether all devices are gone, and whoever asked for that has been answered.
    pub fn is_over(&self) -> bool {
        let devices = self.devices();
        !devices.is_empty() && self.at_work.load(Ordering::SeqCst) == 0 && devices.iter().all(|d| !d.is_connected())
    }

    /// Completes when it is worth asking [`Self::is_over`] again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// In a task of its own: a client that goes away does not stop it halfway.
    async fn detach(self: Arc<Self>, request: &Value) -> Result<Done, Refusal> {
        let volume = request["volume"].as_str().unwrap_or_default().to_owned();
        let force = request["force"].as_bool().unwrap_or(false);
        self.at_work.fetch_add(1, Ordering::SeqCst);
        let (sent, told) = oneshot::channel();
        let this = self.clone();
        let work = tokio::spawn(async move {
            let outcome = this.give_back(&volume, force).await;
            tokio::spawn(async move {
                // A refusal has no use for it, and drops it.
                drop(timeout(ANSWER, told).await);
                this.at_work.fetch_sub(1, Ordering::SeqCst);
                this.changed.notify_one();
            });
            outcome
        });
        let outcome = work.await.unwrap_or_else(|e| Err(Failure::plain("detach", e)));
        let last = self.devices().iter().all(|d| !d.is_connected());
        outcome
            .map(|()| Done { answer: json!({ "detached": true, "last": last }), sent: Some(sent) })
            .map_err(|e| Refusal { why: e.to_string(), exit: e.exit() as u8 })
    }

    async fn give_back(&self, volume: &str, force: bool) -> Outcome {
        let Some(device) = self.devices().iter().find(|d| d.volume() == volume) else {
            return Err(Failure::new(Exit::NotFound, volume, "this process has no device of it"));
        };
        if device.is_connected() {
            let users = if force { Vec::new() } else { lasting_users(device.name()).await };
            if !users.is_empty() {
                let why = format!("it is {}", describe_users(&users));
                return Err(Failure::new(Exit::InUse, device.path().display(), why));
            }
            device.disconnect().await?;
        }
        self.offered.detach_one(volume).await
    }
}

/// [`NbdDaemon`] as a control socket takes it.
pub struct Controlled(pub Arc<NbdDaemon>);

impl StatusSource for Controlled {
    fn status(&self) -> Value {
        let mut status = self.0.server.status();
        for volume in status["volumes"].as_array_mut().into_iter().flatten() {
            let device = self.0.devices().iter().find(|d| volume["name"] == d.volume() && d.is_connected());
            if let (Some(device), Some(fields)) = (device, volume.as_object_mut()) {
                fields.insert("path".into(), json!(device.path()));
            }
        }
        status
    }

    fn operate<'a>(
        &'a self,
        op: &'a str,
        request: &'a Value,
        say: Say,
    ) -> Option<BoxFuture<'a, Result<Done, Refusal>>> {
        match op {
            "detach-nbd" => Some(Box::pin(self.0.clone().detach(request))),
            _ => self.0.server.operate(op, request, say),
        }
    }
}
