//! What a server offers: the exports, by name.

use std::sync::Arc;

use esker_block::{BlockDevice, DeviceInfo};
use futures::future::BoxFuture;
use thiserror::Error;

/// One export, as `LIST` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportEntry {
    /// The name a client asks for.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
}

/// Why an export could not be opened.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ExportError {
    /// There is no export of that name.
    #[error("no such export")]
    Unknown,
    /// It exists, but this client may not have it now (in use elsewhere, for one).
    #[error("{0}")]
    Refused(String),
    /// It exists and could not be opened (the store is down, for one).
    #[error("{0}")]
    Failed(String),
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The exports of a server. `""` names the default export, where there is one.
pub trait Exports: Send + Sync + 'static {
    /// All exports. Never attaches anything.
    fn list(&self) -> Vec<ExportEntry>;

    /// What the export is, without attaching it. `None`: there is no such export.
    fn describe(&self, name: &str) -> Option<DeviceInfo>;

    /// Opens the export, attaching it if need be. The device is dropped when the connection ends.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, ExportError>>;
}
