//! Stores that refuse, and disks that are full: what people are told, and that nothing is lost by it.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use esker_testkit::{Action, EIO, Kind, NbdClient, NbdError, Rule, S3d, S3dOptions};

const ESKER: &str = env!("CARGO_BIN_EXE_esker");

/// The command, with nothing of the surroundings but the password.
fn esker(args: &[&str], variables: &[(String, String)]) -> Command {
    let mut command = Command::new(ESKER);
    for (name, _) in std::env::vars_os() {
        if ["AWS_", "ESKER_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.args(args).env("ESKER_PASSWORD", "secret").stdin(Stdio::null());
    command.envs(variables.iter().map(|(n, v)| (n, v)));
    command
}

/// Runs it; expects this exit code, and these words on stderr.
#[track_caller]
fn refused(args: &[&str], variables: &[(String, String)], code: i32, words: &[&str]) {
    let ran = esker(args, variables).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(code), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?} does not say {word:?}: {stderr}");
    }
}

#[test]
fn a_bucket_that_is_missing_or_closed_is_named() {
    let s3d = S3d::start(S3dOptions::default()).unwrap();
    let variables = s3d.env();
    let url = format!("{}/pool", s3d.url());
    let nowhere = "s3://no-such-bucket/pool";
    refused(&["format", nowhere, "--allow-http"], &variables, 6, &["no-such-bucket"]);
    refused(&["volume", "list", nowhere, "--allow-http"], &variables, 6, &["no-such-bucket"]);

    let mut wrong = variables.clone();
    for (name, value) in &mut wrong {
        if name == "AWS_SECRET_ACCESS_KEY" {
            *value = "not-the-secret".into();
        }
    }
    refused(&["format", &url, "--allow-http"], &wrong, 4, &["credentials"]);

    assert!(esker(&["format", &url, "--allow-http"], &variables).status().unwrap().success());
    let mut other = variables.clone();
    other.push(("ESKER_PASSWORD".into(), "wrong".into()));
    refused(&["volume", "list", &url, "--allow-http"], &other, 3, &["password"]);
    refused(&["format", &url, "--allow-http"], &variables, 1, &["a pool at"]);
}

#[test]
fn a_store_that_ignores_create_only_puts_is_refused_before_anything_is_made() {
    let s3d = S3d::start(S3dOptions::default()).unwrap();
    s3d.faults().add(Rule::on([Kind::Put, Kind::Create]).then(Action::IgnoreIfNoneMatch));
    let url = format!("{}/pool", s3d.url());
    refused(&["format", &url, "--allow-http"], &s3d.env(), 4, &["create-only", "If-None-Match"]);
    refused(&["check", &url, "--allow-http"], &s3d.env(), 4, &["create-only"]);
    s3d.faults().clear();
    refused(&["volume", "list", &url, "--allow-http"], &s3d.env(), 6, &["there is no pool"]);
}

/// Runs `script` with `sh` where `dir` is a tmpfs of `size` that nobody else sees.
fn on_small_disk(dir: &Path, size: &str, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = format!("mount -t tmpfs -o size={size},mode=700 tmpfs \"$1\"; shift; {script}");
    command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(dir).args(args);
    command.env("ESKER_PASSWORD", "secret").env("E", ESKER).stdin(Stdio::null());
    command
}

/// A server in its surroundings; killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_full_disk_under_the_pool_fails_the_flush_and_keeps_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let journal = tempfile::Builder::new().prefix("esker-test").tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("pool")).unwrap();
    let script = "\"$E\" format \"$1\" >&2; \"$E\" volume create \"$1\" v --size 64M >&2; \
                  exec \"$E\" serve \"$1\" v --unix \"$2\" --control \"$3\" --journal-dir \"$4\" --state-dir \"$5\" \
                  --journal-size 32M --on-outage fail-after=1s";
    let url = format!("file://{}/here", path("pool"));
    let ring = journal.path().join("ring").display().to_string();
    let args = [&*url, &path("nbd"), &path("control"), &ring, &path("state")];
    let mut command = on_small_disk(&dir.path().join("pool"), "3M", script, &args);
    let mut server = Server(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut ready = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    if !ready.starts_with("ready: ") {
        let mut why = String::new();
        server.0.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        panic!("the server did not get ready: {why}");
    }

    let nbd = NbdClient::connect(Path::new(&path("nbd")), "v").unwrap();
    let mut x = 7u64;
    let mut noise = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    let data: Vec<u8> = (0..8 << 20).map(|_| noise()).collect();
    for (i, chunk) in data.chunks(1 << 20).enumerate() {
        nbd.write((i as u64) << 20, chunk).unwrap();
    }
    assert_eq!(nbd.flush().unwrap_err(), NbdError::Errno(EIO), "8 MiB are not durable on 3");
    for (i, chunk) in data.chunks(1 << 20).enumerate() {
        assert!(nbd.read((i as u64) << 20, 1 << 20).unwrap() == chunk, "MiB {i}: what was acknowledged is still there");
    }
    let status = Command::new(ESKER).args(["status", &path("control")]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.to_lowercase().contains("space"), "the status does not say what is wrong: {status}");
}

#[test]
fn a_journal_that_does_not_fit_is_refused_before_the_volume_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("journal")).unwrap();
    let url = format!("file://{}", path("pool"));
    assert!(esker(&["format", &url], &[]).status().unwrap().success());
    assert!(esker(&["volume", "create", &url, "v", "--size", "64M"], &[]).status().unwrap().success());
    let script = "exec \"$E\" serve \"$1\" v --unix \"$2\" --control \"$3\" --journal-dir \"$4\" --state-dir \"$5\" \
                  --journal-size 32M";
    let args = [&*url, &path("nbd"), &path("control"), &path("journal"), &path("state")];
    let ran = on_small_disk(&dir.path().join("journal"), "1M", script, &args).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no room for a journal"), "{stderr}");
    assert!(!dir.path().join("pool/log").exists(), "no epoch was begun: {stderr}");
}
