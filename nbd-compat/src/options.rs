//! The limits of a server.

use std::time::Duration;

use crate::tls::TlsOptions;

/// Limits and settings of a [`crate::Server`]. Each bounds what one client, or all of them, can take.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at a time, handshakes included; further ones are closed at once. Each costs a thread.
    pub max_connections: usize,
    /// The longest payload of a read or write, in bytes. The protocol asks for at least 32 MiB.
    pub max_request: u32,
    /// Requests of one connection that may wait for the device at a time; writes get three quarters of them.
    pub max_in_flight: usize,
    /// Bytes of one connection's waiting requests and unsent replies; writes get three quarters of them.
    /// One request is always let in, so `max_request` can come on top.
    pub max_parked: usize,
    /// The longest option data that is looked at, in bytes. Up to 16 times as much is skipped; beyond that the
    /// connection is closed.
    pub max_option: u32,
    /// Most extents in one answer to BLOCK_STATUS.
    pub max_extents: usize,
    /// How long a client may take from connecting to transmission, the opening of the export not counted.
    pub handshake_timeout: Duration,
    /// How long a connection that ends, or a server that shuts down, waits for requests in flight.
    pub drain_timeout: Duration,
    /// TLS; `None` refuses STARTTLS.
    pub tls: Option<TlsOptions>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_request: 32 << 20,
            max_in_flight: 128,
            max_parked: 64 << 20,
            max_option: 64 << 10,
            max_extents: 16 << 10,
            handshake_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            tls: None,
        }
    }
}
