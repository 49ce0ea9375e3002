//! The seam to the engine: how a daemon attaches a volume and lets it go.

use std::sync::Arc;

use esker_block::BlockDevice;
use futures::future::BoxFuture;
use serde_json::Value;

use super::compacting::{OnRequest, Tell};
use super::devices::refuse_attached;
use super::failure::{Doing, Outcome};
use crate::env::Env;
use crate::host::Devices;
use crate::pool::{Pool, VolumeRecord};
use crate::volume::{AttachOptions, Compacted, Volume};

/// Attaches volumes.
pub trait Engine: Send + Sync + 'static {
    /// Attaches one; the future answers once it can be read and written.
    fn attach<'a>(&'a self, record: &'a VolumeRecord) -> BoxFuture<'a, Outcome<Arc<dyn Attached>>>;
}

/// An attached volume.
pub trait Attached: Send + Sync + 'static {
    /// What front ends read and write.
    fn device(&self) -> Arc<dyn BlockDevice>;
    /// Its state as a JSON object, for `esker status`.
    fn status(&self) -> Value;
    /// Compacts it now, in a task of its own; `tell` is told how far that is.
    fn compact(&self, tell: Tell) -> BoxFuture<'_, Outcome<Compacted>>;
    /// Writes back what is unflushed and closes its log. Requests after that fail.
    fn detach(&self) -> BoxFuture<'_, Outcome>;
}

/// The engine of this crate.
pub struct VolumeEngine {
    pool: Pool,
    options: AttachOptions,
    devices: Devices,
    env: Env,
}

impl VolumeEngine {
    /// Attaches volumes of `pool` with `options`; not one that is among `devices`.
    pub fn new(pool: Pool, options: AttachOptions, devices: Devices, env: &Env) -> Self {
        Self { pool, options, devices, env: env.clone() }
    }
}

impl Engine for VolumeEngine {
    fn attach<'a>(&'a self, record: &'a VolumeRecord) -> BoxFuture<'a, Outcome<Arc<dyn Attached>>> {
        Box::pin(async move {
            refuse_attached(self.devices.clone(), self.pool.id_hex(), record.number, &record.name).await?;
            let attach = Volume::attach(&self.pool, record, self.options.clone(), self.env.clone());
            let volume = attach.await.doing(format_args!("volume {}", record.name))?;
            let (volume, name) = (Arc::new(volume), record.name.clone());
            Ok(Arc::new(AttachedVolume { volume, name, requests: OnRequest::default() }) as Arc<dyn Attached>)
        })
    }
}

struct AttachedVolume {
    volume: Arc<Volume>,
    name: String,
    requests: OnRequest,
}

impl Attached for AttachedVolume {
    fn device(&self) -> Arc<dyn BlockDevice> {
        self.volume.clone()
    }

    fn status(&self) -> Value {
        // Plain numbers and strings: this cannot fail, and status is no place to fail in.
        serde_json::to_value(self.volume.status()).unwrap_or(Value::Null)
    }

    fn compact(&self, tell: Tell) -> BoxFuture<'_, Outcome<Compacted>> {
        Box::pin(self.requests.compact(self.volume.clone(), &self.name, tell))
    }

    fn detach(&self) -> BoxFuture<'_, Outcome> {
        Box::pin(async {
            let outcome = self.volume.detach().await;
            if outcome.is_err() {
                // A request that still runs would keep the volume, and with it the journal.
                self.requests.end();
            }
            outcome.doing(format_args!("volume {}", self.name))
        })
    }
}
