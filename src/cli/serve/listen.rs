//! Where clients come in, and the URIs that they use for it.

use std::net::SocketAddr;
use std::path::Path;

use nbd_compat::Server;
use tokio::net::{TcpListener, UnixListener};

use super::args::ServeArgs;
use crate::cli::failure::{Doing, Failure, Outcome};
use crate::cli::stop::Stop;
use crate::host::{SocketError, SocketFile, listen_on};

/// The sockets of one server.
pub struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<(TcpListener, SocketAddr)>,
}

impl Listeners {
    /// Binds what the command line asks for; a unix socket `<runtime>/<short>.nbd` where it asks for nothing.
    pub async fn bind(args: &ServeArgs, runtime: &Path, short: &str) -> Outcome<Self> {
        let unix = match (&args.unix, &args.tcp) {
            (Some(path), _) => Some(listen_on(path, args.unix_mode).doing("--unix")?),
            (None, Some(_)) => None,
            (None, None) => Some(bind_in(runtime, short, args.unix_mode).doing("unix socket")?),
        };
        let tcp = match &args.tcp {
            Some(address) => Some(bind_tcp(address, args.tls_certificates.is_some()).await?),
            None => None,
        };
        Ok(Self { unix, tcp })
    }

    /// One URI per socket and name, as nbdinfo, nbdcopy and qemu take them.
    pub fn uris(&self, names: &[String], tls: bool) -> Vec<String> {
        let scheme = if tls { "nbds" } else { "nbd" };
        let mut uris = Vec::new();
        for name in names {
            let name = percent_encode(name.as_bytes());
            if let Some((_, file)) = &self.unix {
                let path = percent_encode(file.path().as_os_str().as_encoded_bytes());
                uris.push(format!("{scheme}+unix:///{name}?socket={path}"));
            }
            if let Some((_, address)) = &self.tcp {
                uris.push(format!("{scheme}://{address}/{name}"));
            }
        }
        uris
    }

    /// Serves until told to stop, then finishes what is under way.
    pub async fn serve(self, server: &Server, stop: &Stop) {
        let unix = async {
            if let Some((listener, file)) = self.unix {
                server.serve_unix(listener, stop.requested()).await;
                drop(file);
            }
        };
        let tcp = async {
            if let Some((listener, _)) = self.tcp {
                server.serve_tcp(listener, stop.requested()).await;
            }
        };
        tokio::join!(unix, tcp);
    }
}

fn bind_in(runtime: &Path, short: &str, mode: u32) -> Result<(UnixListener, SocketFile), SocketError> {
    let mut last = listen_on(&runtime.join(format!("{short}.nbd")), mode);
    for n in 2..=64 {
        if !matches!(last, Err(SocketError::InUse(_))) {
            break;
        }
        last = listen_on(&runtime.join(format!("{short}-{n}.nbd")), mode);
    }
    last
}

async fn bind_tcp(address: &str, tls: bool) -> Outcome<(TcpListener, SocketAddr)> {
    let failed = |e| Failure::plain(format_args!("--tcp {address}"), e);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    if !tls && !local.ip().is_loopback() {
        tracing::warn!("{local} is open to the network without TLS: whoever reaches it can read and write the volumes");
    }
    Ok((listener, local))
}

/// Leaves what a URI's path or query value may hold as it is (RFC 3986, unreserved, and the slash).
fn percent_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uris_escape_what_they_must() {
        assert_eq!(percent_encode(b"/run/a-b_c.nbd"), "/run/a-b_c.nbd");
        assert_eq!(percent_encode("/x y/ä&=%".as_bytes()), "/x%20y/%C3%A4%26%3D%25");
    }

    #[tokio::test]
    async fn every_name_gets_a_uri_per_socket() {
        let dir = tempfile::tempdir().unwrap();
        let unix = bind_in(dir.path(), "abc", 0o600).unwrap();
        let second = bind_in(dir.path(), "abc", 0o600).unwrap();
        assert_eq!(second.1.path(), dir.path().join("abc-2.nbd"));
        let tcp = bind_tcp("[::1]:0", false).await.unwrap();
        let port = tcp.1.port();
        let listeners = Listeners { unix: Some(unix), tcp: Some(tcp) };
        let socket = dir.path().join("abc.nbd");
        let uris = listeners.uris(&["a".into(), "b.c".into()], true);
        assert_eq!(uris[0], format!("nbds+unix:///a?socket={}", socket.display()));
        assert_eq!(uris[3], format!("nbds://[::1]:{port}/b.c"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let (_held, address) = bind_tcp("127.0.0.1:0", false).await.unwrap();
        let failure = bind_tcp(&address.to_string(), false).await.unwrap_err().to_string();
        assert!(failure.contains(&format!("--tcp {address}")), "{failure}");
        assert!(bind_tcp("nonsense", false).await.is_err());
    }
}
