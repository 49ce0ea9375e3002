//! Settings of a store, and what every request says of itself.

use std::time::Duration;

use secrecy::SecretString;

/// How to reach a store. What is `None` comes from the usual variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The S3 (or Azure) endpoint as a URL, for stores other than AWS.
    pub endpoint: Option<String>,
    /// The S3 region.
    pub region: Option<String>,
    /// The S3 access key id.
    pub access_key: Option<String>,
    /// The S3 secret key.
    pub secret_key: Option<SecretString>,
    /// The S3 session token.
    pub session_token: Option<SecretString>,
    /// Allows an `http://` endpoint: request headers and sizes can be read on the way.
    pub allow_http: bool,
    /// `file://` only: make the directory if it is missing (`format` does).
    pub create: bool,
    /// How long one attempt of a small request may take; larger ones get time for their bytes on top, and attempts
    /// after one that timed out get more.
    pub attempt_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            allow_http: false,
            create: false,
            attempt_timeout: Duration::from_secs(15),
        }
    }
}

/// How long a request is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it is decided; what an operator must mend (refused credentials, a full disk) is retried slowly and logged.
    Forever,
    /// At most this long, everything included; what an operator must mend fails at once.
    For(Duration),
}

/// What a request is for, in the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A log segment that a flush waits for.
    Flush,
    /// A log segment that filled up.
    Stream,
    /// Data that a read asked for.
    Read,
    /// Map nodes that a read or write asked for.
    Map,
    /// Map nodes written, and what names them.
    Checkpoint,
    /// Reading what compaction merges, and writing what it made.
    Compaction,
    /// Finding, sealing and reading an old log; once after an attach, what earlier writers left behind.
    Recovery,
    /// Pool records, the catalogue, openings.
    Admin,
    /// Probing what the store can do.
    Probe,
    /// Deleting what nothing refers to.
    Delete,
}

impl Cause {
    /// All causes, in the order of the accounts.
    pub const ALL: [Cause; 10] = [
        Cause::Flush,
        Cause::Stream,
        Cause::Read,
        Cause::Map,
        Cause::Checkpoint,
        Cause::Compaction,
        Cause::Recovery,
        Cause::Admin,
        Cause::Probe,
        Cause::Delete,
    ];

    /// A lower-case word for status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Flush => "flush",
            Cause::Stream => "stream",
            Cause::Read => "read",
            Cause::Map => "map",
            Cause::Checkpoint => "checkpoint",
            Cause::Compaction => "compaction",
            Cause::Recovery => "recovery",
            Cause::Admin => "admin",
            Cause::Probe => "probe",
            Cause::Delete => "delete",
        }
    }
}
