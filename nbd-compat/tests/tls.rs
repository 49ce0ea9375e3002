//! TLS: the modes, client certificates, and what an attacker in the middle appends.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::device::Memory;
use common::{Client, Running, go, pattern, request};
use nbd_compat::proto::{self, OPTION_MAGIC, OPTION_REPLY_MAGIC, cmd, opt, rep};
use nbd_compat::{ServerOptions, TlsError, TlsMode, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

struct Certificates {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ca).unwrap();
        std::fs::write(dir.path().join("ca-cert.pem"), ca.pem()).unwrap();
        std::fs::write(dir.path().join("server-cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("server-key.pem"), key.serialize_pem()).unwrap();
        Self { dir, ca }
    }

    fn server(&self, mode: TlsMode, verify: bool) -> Running {
        let tls = Some(TlsOptions::from_dir(self.dir.path(), mode, verify).unwrap());
        let memory = Arc::new(Memory::new("disk", 4 << 20, false));
        let options = ServerOptions { tls, handshake_timeout: Duration::from_secs(5), ..ServerOptions::default() };
        Running::start(vec![memory], options)
    }

    /// A client's configuration, with a certificate of our own authority or without.
    fn client(&self, with_certificate: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        if !with_certificate {
            return Arc::new(builder.with_no_client_auth());
        }
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["client".into()]).unwrap().signed_by(&key, &self.ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(builder.with_client_auth_cert(vec![cert.der().clone()], key).unwrap())
    }
}

type Tls = StreamOwned<ClientConnection, UnixStream>;

fn start_tls(client: Client, config: Arc<ClientConfig>) -> Tls {
    let mut client = client;
    assert_eq!(client.ask(opt::STARTTLS, &[]), vec![(rep::ACK, vec![])]);
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), client.stream)
}

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

fn option_reply(tls: &mut Tls) -> (u32, Vec<u8>) {
    let mut head = [0; 20];
    tls.read_exact(&mut head).unwrap();
    assert_eq!(head[..8], OPTION_REPLY_MAGIC.to_be_bytes());
    let word = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().unwrap());
    let mut payload = vec![0; word(16) as usize];
    tls.read_exact(&mut payload).unwrap();
    (word(12), payload)
}

fn enter(tls: &mut Tls) {
    tls.write_all(&option(opt::GO, &go("disk", &[]))).unwrap();
    while option_reply(tls).0 != rep::ACK {}
}

fn status(tls: &mut Tls) -> (u32, u64) {
    let mut head = [0; 16];
    tls.read_exact(&mut head).unwrap();
    assert_eq!(head[..4], proto::SIMPLE_REPLY_MAGIC.to_be_bytes());
    (u32::from_be_bytes(*head[4..].first_chunk().unwrap()), u64::from_be_bytes(*head[8..].first_chunk().unwrap()))
}

#[test]
fn data_goes_both_ways_under_tls() {
    let certificates = Certificates::new();
    let server = certificates.server(TlsMode::Optional, false);
    let mut client = server.connect();
    client.greet(3);
    let mut tls = start_tls(client, certificates.client(false));
    enter(&mut tls);
    for (cookie, len) in [(1u64, 17usize), (2, 4096), (3, 70_000), (4, 3 << 20)] {
        let data = pattern(cookie, len);
        tls.write_all(&[request(0, cmd::WRITE, cookie, 9, len as u32), data.clone()].concat()).unwrap();
        assert_eq!(status(&mut tls), (0, cookie));
        tls.write_all(&request(0, cmd::READ, cookie, 9, len as u32)).unwrap();
        assert_eq!(status(&mut tls), (0, cookie));
        let mut back = vec![0; len];
        tls.read_exact(&mut back).unwrap();
        assert!(back == data, "{len} bytes came back changed");
    }
    // Many small records: more plaintext at a time than TLS holds unread.
    for cookie in 0..300 {
        tls.write_all(&request(0, cmd::READ, cookie, 0, 900)).unwrap();
    }
    for cookie in 0..300 {
        assert_eq!(status(&mut tls), (0, cookie));
        tls.read_exact(&mut [0; 900]).unwrap();
    }
    tls.write_all(&request(0, cmd::DISC, 0, 0, 0)).unwrap();
    assert_eq!(tls.read(&mut [0; 1]).unwrap(), 0, "closed with TLS's own goodbye");
}

#[test]
fn required_means_nothing_before() {
    let certificates = Certificates::new();
    let server = certificates.server(TlsMode::Required, false);
    let mut client = server.connect();
    client.greet(3);
    for (code, data) in [(opt::LIST, vec![]), (opt::GO, go("disk", &[])), (opt::STRUCTURED_REPLY, vec![]), (99, vec![])]
    {
        assert_eq!(client.ask(code, &data)[0].0, rep::ERR_TLS_REQD);
    }
    let mut tls = start_tls(client, certificates.client(false));
    tls.write_all(&option(opt::STARTTLS, &[])).unwrap();
    assert_eq!(option_reply(&mut tls).0, rep::ERR_INVALID);
    enter(&mut tls);
    let mut client = server.connect();
    client.greet(3);
    client.option(opt::EXPORT_NAME, b"disk");
    assert!(client.is_closed());
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(opt::ABORT, &[]), vec![(rep::ACK, vec![])]);
}

#[test]
fn a_client_without_a_certificate_is_turned_away_where_one_is_asked() {
    let certificates = Certificates::new();
    let server = certificates.server(TlsMode::Required, true);
    for (with_certificate, welcome) in [(true, true), (false, false)] {
        let mut client = server.connect();
        client.greet(3);
        let mut tls = start_tls(client, certificates.client(with_certificate));
        let listed = tls.write_all(&option(opt::LIST, &[])).and_then(|()| tls.read_exact(&mut [0; 20]));
        assert_eq!(listed.is_ok(), welcome);
    }
    let stranger = Certificates::new().client(true);
    let mut client = server.connect();
    client.greet(3);
    let mut tls = start_tls(client, stranger);
    assert!(tls.write_all(&option(opt::LIST, &[])).and_then(|()| tls.read_exact(&mut [0; 20])).is_err());
}

#[test]
fn what_was_said_in_the_clear_does_not_count_after() {
    let certificates = Certificates::new();
    let server = certificates.server(TlsMode::Optional, false);
    // Structured replies asked for before TLS are forgotten: reads get simple replies.
    let mut client = server.connect();
    client.greet(3);
    client.ask(opt::STRUCTURED_REPLY, &[]);
    let mut tls = start_tls(client, certificates.client(false));
    enter(&mut tls);
    tls.write_all(&request(0, cmd::READ, 1, 0, 1)).unwrap();
    assert_eq!(status(&mut tls), (0, 1));
    // An option appended to STARTTLS in the clear is no option after it.
    let mut client = server.connect();
    client.greet(3);
    client.send(&[option(opt::STARTTLS, &[]), option(opt::STRUCTURED_REPLY, &[])].concat());
    assert_eq!(client.option_reply(opt::STARTTLS), (rep::ACK, vec![]));
    let mut rest = Vec::new();
    let ended = client.stream.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(rest.len() < 20, "an alert at most, no answer: {rest:?}");
}

#[test]
fn a_tls_handshake_has_the_same_deadline() {
    let certificates = Certificates::new();
    let server = certificates.server(TlsMode::Optional, false);
    let mut client = server.connect();
    client.greet(3);
    client.ask(opt::STARTTLS, &[]);
    client.send(&[0x16, 3, 1]);
    let began = std::time::Instant::now();
    assert!(client.is_closed());
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let certificates = Certificates::new();
    let load = |dir: &Path| TlsOptions::from_dir(dir, TlsMode::Optional, true).map(|_| ());
    assert!(load(certificates.dir.path()).is_ok());
    std::fs::write(certificates.dir.path().join("ca-cert.pem"), "nonsense").unwrap();
    match load(certificates.dir.path()) {
        Err(TlsError::File { path, .. }) => assert!(path.ends_with("ca-cert.pem")),
        other => panic!("{other:?}"),
    }
    assert!(load(Path::new("/nonexistent")).is_err());
}
