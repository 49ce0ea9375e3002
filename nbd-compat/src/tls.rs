//! TLS: certificates from files as nbdkit and qemu lay them out, and the modes of the protocol.
//!
//! Only X.509. External pre-shared keys (nbdkit's `--tls-psk`) are not offered: rustls 0.23 has no server side for
//! them.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// When TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// For clients that ask for it.
    Optional,
    /// For all: nothing but STARTTLS and ABORT is answered before.
    Required,
}

/// How a server speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Whether clients must use it.
    pub mode: TlsMode,
    /// Certificates and versions.
    pub config: Arc<ServerConfig>,
}

/// Why TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing or is not PEM.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The certificates do not fit together.
    #[error("the TLS certificates cannot be used: {0}")]
    Config(String),
}

impl TlsOptions {
    /// Loads `server-cert.pem` and `server-key.pem` from `dir`, and `ca-cert.pem` where `verify_clients` asks that
    /// every client shows a certificate signed by it: the layout of `nbdkit --tls-certificates=DIR`
    /// (and `--tls-verify-peer`).
    pub fn from_dir(dir: &Path, mode: TlsMode, verify_clients: bool) -> Result<Self, TlsError> {
        let certs = read_certs(&dir.join("server-cert.pem"))?;
        let key_path = dir.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|e| file_error(&key_path, &e))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Config(e.to_string()))?;
        let builder = if verify_clients {
            let mut roots = RootCertStore::empty();
            for cert in read_certs(&dir.join("ca-cert.pem"))? {
                roots.add(cert).map_err(|e| TlsError::Config(e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| TlsError::Config(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(certs, key).map_err(|e| TlsError::Config(e.to_string()))?;
        Ok(Self { mode, config: Arc::new(config) })
    }
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs = CertificateDer::pem_file_iter(path)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(|e| file_error(path, &e))?;
    if certs.is_empty() {
        return Err(TlsError::File { path: path.display().to_string(), why: "holds no certificate".into() });
    }
    Ok(certs)
}

fn file_error(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), why: why.to_string() }
}
