//! The handshake: greeting, options, and with GO or EXPORT_NAME an opened export.
//!
//! All of it runs on the connection's own thread with the socket's deadline set. Bytes are taken exactly as needed,
//! never ahead: what a man in the middle appends to STARTTLS in the clear must fail as TLS, not be obeyed after it.

mod choose;
mod meta;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use esker_block::BlockDevice;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::exports::Exports;
use crate::options::ServerOptions;
use crate::proto::{self, handshake, opt, rep};
use crate::socket::Socket;
use crate::stream::{Stream, TlsStream};
use crate::tls::TlsMode;
use wire::OptionHeader;

/// What the client and the server agreed on.
pub(crate) struct Agreed {
    pub(crate) stream: Stream,
    pub(crate) device: Arc<dyn BlockDevice>,
    /// Structured replies were asked for.
    pub(crate) structured: bool,
    /// `base:allocation` was selected for this export.
    pub(crate) block_status: bool,
}

/// Why a handshake ended without an export.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the client ended the session")]
    Aborted,
    #[error("export {0:?} could not be opened: {1}")]
    Refused(String, String),
}

type Result<T> = std::result::Result<T, HandshakeError>;

/// One handshake in progress.
pub(crate) struct Handshake<'a> {
    exports: &'a dyn Exports,
    options: &'a ServerOptions,
    runtime: &'a Handle,
    stopping: &'a (dyn Fn() -> bool + Sync),
    stream: Stream,
    tls: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    meta_export: Option<String>,
    /// When the client's time is up.
    deadline: Instant,
}

impl<'a> Handshake<'a> {
    /// Shakes hands on `socket`. `stopping` says whether the server is going down.
    pub(crate) fn run(
        socket: Arc<Socket>,
        exports: &'a dyn Exports,
        options: &'a ServerOptions,
        runtime: &'a Handle,
        stopping: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Agreed> {
        socket.set_deadline(Some(options.handshake_timeout));
        let mut this = Self {
            exports,
            options,
            runtime,
            stopping,
            stream: Stream::Plain(socket),
            tls: false,
            no_zeroes: false,
            structured: false,
            meta_export: None,
            deadline: Instant::now() + options.handshake_timeout,
        };
        this.greet()?;
        loop {
            let header = this.option_header()?;
            if let Some((device, export)) = this.option(header)? {
                let selected = this.meta_export.as_deref().is_some_and(|meta| this.same_export(meta, &export));
                let block_status = this.structured && selected;
                this.stream.socket().set_deadline(None);
                return Ok(Agreed { stream: this.stream, device, structured: this.structured, block_status });
            }
        }
    }

    fn greet(&mut self) -> Result<()> {
        let mut hello = [0; 18];
        hello[..8].copy_from_slice(&proto::INIT_PASSWD.to_be_bytes());
        hello[8..16].copy_from_slice(&proto::OPTION_MAGIC.to_be_bytes());
        hello[16..].copy_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
        self.stream.send_all(&hello)?;
        let mut answer = [0; 4];
        self.stream.recv_exact(&mut answer)?;
        let flags = u32::from_be_bytes(answer);
        if flags & !u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES) != 0 {
            return Err(HandshakeError::Protocol("unknown client flags"));
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        Ok(())
    }

    /// Answers one option; the device, once transmission begins.
    fn option(&mut self, header: OptionHeader) -> Result<Option<(Arc<dyn BlockDevice>, String)>> {
        let Some(data) = self.option_data(header)? else {
            return Ok(None);
        };
        let code = header.code;
        if code == opt::ABORT {
            self.reply(code, rep::ACK, &[])?;
            return Err(HandshakeError::Aborted);
        }
        if code != opt::STARTTLS && !self.tls && self.tls_required() {
            if code == opt::EXPORT_NAME {
                return Err(HandshakeError::Protocol("EXPORT_NAME before TLS, which is required"));
            }
            self.refuse(code, rep::ERR_TLS_REQD, "TLS is required: send STARTTLS first")?;
            return Ok(None);
        }
        if (self.stopping)() && code != opt::EXPORT_NAME {
            self.refuse(code, rep::ERR_SHUTDOWN, "the server is shutting down")?;
            return Ok(None);
        }
        match code {
            opt::EXPORT_NAME => return self.export_name(&data).map(Some),
            opt::GO | opt::INFO => return self.go_or_info(code, &data),
            opt::LIST => self.list(&data)?,
            opt::STARTTLS => self.start_tls(&data)?,
            opt::STRUCTURED_REPLY => self.structured_reply(&data)?,
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(code, &data)?,
            _ => self.refuse(code, rep::ERR_UNSUP, "this option is not supported")?,
        }
        Ok(None)
    }

    fn tls_required(&self) -> bool {
        self.options.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Required)
    }

    fn list(&mut self, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            return self.refuse(opt::LIST, rep::ERR_INVALID, "LIST takes no data");
        }
        for entry in self.exports.list() {
            let mut payload = Vec::with_capacity(4 + entry.name.len() + entry.description.len());
            payload.extend_from_slice(&(entry.name.len() as u32).to_be_bytes());
            payload.extend_from_slice(entry.name.as_bytes());
            payload.extend_from_slice(entry.description.as_bytes());
            self.reply(opt::LIST, rep::SERVER, &payload)?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    fn structured_reply(&mut self, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            return self.refuse(opt::STRUCTURED_REPLY, rep::ERR_INVALID, "STRUCTURED_REPLY takes no data");
        }
        self.structured = true;
        self.reply(opt::STRUCTURED_REPLY, rep::ACK, &[])
    }

    fn start_tls(&mut self, data: &[u8]) -> Result<()> {
        if !data.is_empty() || self.tls {
            return self.refuse(opt::STARTTLS, rep::ERR_INVALID, "STARTTLS takes no data and comes once");
        }
        let Some(tls) = &self.options.tls else {
            return self.refuse(opt::STARTTLS, rep::ERR_POLICY, "this server has no TLS certificates");
        };
        let config = tls.config.clone();
        self.reply(opt::STARTTLS, rep::ACK, &[])?;
        let socket = self.stream.socket().clone();
        self.stream = Stream::Tls(Box::new(TlsStream::accept(socket, config)?));
        self.tls = true;
        // Nothing said in the clear counts any more.
        self.structured = false;
        self.meta_export = None;
        Ok(())
    }
}
