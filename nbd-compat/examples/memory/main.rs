//! Serves memory over NBD: `memory --unix PATH | --tcp ADDR:PORT [--size MIB] [--read-only]
//! [--tls DIR [--tls-required] [--tls-verify]]`.
//!
//! SIGTERM or SIGINT shuts it down cleanly.

mod device;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use device::Memory;
use esker_block::{BlockDevice, DeviceInfo};
use futures::future::BoxFuture;
use nbd_compat::{ExportEntry, ExportError, Exports, Server, ServerOptions, TlsMode, TlsOptions};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

struct One(Arc<Memory>);

impl Exports for One {
    fn list(&self) -> Vec<ExportEntry> {
        let info = self.0.info();
        vec![ExportEntry {
            name: info.name.clone(),
            description: "memory, gone when the server ends".into(),
            size: info.size,
            read_only: info.read_only,
        }]
    }

    fn describe(&self, name: &str) -> Option<DeviceInfo> {
        let info = self.0.info();
        (name.is_empty() || name == info.name).then(|| info.clone())
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, ExportError>> {
        let found = self.describe(name).map(|_| self.0.clone() as Arc<dyn BlockDevice>);
        Box::pin(std::future::ready(found.ok_or(ExportError::Unknown)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mut unix, mut tcp, mut size, mut read_only) = (None, None, 1024, false);
    let (mut tls, mut tls_mode, mut verify) = (None, TlsMode::Optional, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--unix" => unix = Some(value()?),
            "--tcp" => tcp = Some(value()?),
            "--size" => size = value()?.parse()?,
            "--tls" => tls = Some(value()?),
            "--tls-required" => tls_mode = TlsMode::Required,
            "--tls-verify" => verify = true,
            "--read-only" => read_only = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let tls = tls.map(|dir| TlsOptions::from_dir(Path::new(&dir), tls_mode, verify)).transpose()?;
    let memory = Arc::new(Memory::new("memory", size << 20, read_only));
    let server = Server::new(Arc::new(One(memory)), ServerOptions { tls, ..ServerOptions::default() });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match (unix, tcp) {
        (Some(path), None) => {
            let listener = UnixListener::bind(&path)?;
            println!("ready");
            server.serve_unix(listener, shutdown).await;
            std::fs::remove_file(path)?;
        }
        (None, Some(address)) => {
            let listener = TcpListener::bind(address).await?;
            println!("ready");
            server.serve_tcp(listener, shutdown).await;
        }
        _ => return Err("give one of --unix PATH and --tcp ADDR:PORT".into()),
    }
    Ok(())
}
