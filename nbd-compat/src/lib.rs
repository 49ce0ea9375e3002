//! An NBD server over any block device that implements [`esker_block::BlockDevice`], and nothing else of esker.
//!
//! Fixed newstyle with GO, INFO, LIST, STARTTLS, structured replies, block status (`base:allocation`) and block-size
//! information; read, write, flush, FUA, trim, write-zeroes, fast zero, cache, multi-conn, read-only exports.
//!
//! | room | about |
//! | --- | --- |
//! | `server` | accepting, limits, shutdown |
//! | `handshake` | options, up to an opened export |
//! | `session` | requests and replies of one connection |
//! | `stream`, `socket` | the bytes: plain or TLS, over a socket |
//! | `tls` | certificates |
//! | `proto` | the protocol's numbers |
//!
//! A connection has a thread of its own (docs/decisions/0002-nbd-connections.md says why): a request that the device
//! answers from memory costs one receive and one send. Operations that must wait run as tasks on the tokio runtime.

mod exports;
mod handshake;
mod options;
pub mod proto;
mod server;
mod session;
mod socket;
mod stream;
mod tls;

pub use exports::{ExportEntry, ExportError, Exports};
pub use options::ServerOptions;
pub use server::Server;
pub use tls::{TlsError, TlsMode, TlsOptions};
