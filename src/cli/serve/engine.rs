//! The seam to the engine: how the server attaches a volume and lets it go.

use std::sync::Arc;

use esker_block::BlockDevice;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::cli::failure::Outcome;
use crate::pool::VolumeRecord;

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
    /// Writes back what is unflushed and closes its log. Requests after that fail.
    fn detach(&self) -> BoxFuture<'_, Outcome>;
}
