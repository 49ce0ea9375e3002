//! The command `s3d`: what it prints, its admin port, its end.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use serde_json::{Value, json};

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_s3d"))
}

/// A running s3d, which is killed when a test fails.
struct Running {
    child: Child,
    env: HashMap<String, String>,
    admin: String,
    dir: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(args: &[&str]) -> Running {
    let mut child = command().args(["--admin", "127.0.0.1:0"]).args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut env = HashMap::new();
    let (mut admin, mut dir) = (String::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(at) = line.strip_prefix("# admin: http://") {
            admin = at.trim_end_matches('/').to_owned();
        } else if let Some((_, at)) = line.split_once("objects in ") {
            dir = at.to_owned();
        } else if let Some((name, value)) = line.strip_prefix("export ").and_then(|l| l.split_once('=')) {
            env.insert(name.to_owned(), value.to_owned());
        }
        if env.len() == 5 {
            break;
        }
    }
    Running { child, env, admin, dir }
}

impl Running {
    fn store(&self) -> impl ObjectStore {
        AmazonS3Builder::new()
            .with_endpoint(&self.env["AWS_ENDPOINT_URL"])
            .with_access_key_id(&self.env["AWS_ACCESS_KEY_ID"])
            .with_secret_access_key(&self.env["AWS_SECRET_ACCESS_KEY"])
            .with_region(&self.env["AWS_REGION"])
            .with_allow_http(true)
            .with_bucket_name("esker")
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.admin).unwrap();
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: s3d\r\nconnection: close\r\ncontent-length: {length}");
        connection.write_all(format!("{request}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, body) = self.ask(method, path, body);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test]
async fn faults_can_be_made_from_outside() {
    let s3d = run(&["--fault", r#"{"kinds":["put"],"key":"a","times":1,"action":"drop"}"#]);
    let store = s3d.store();
    let put = |key: &'static str| {
        let store = &store;
        async move { store.put(&Path::from(key), PutPayload::from_static(b"v")).await }
    };
    assert!(put("a").await.is_err());
    put("a").await.unwrap();

    let id =
        s3d.json("POST", "/rules", r#"{"key":"b","action":{"reply":{"status":503,"code":"SlowDown"}}}"#)["id"].clone();
    assert!(format!("{:?}", put("b").await.unwrap_err()).contains("SlowDown"));
    assert_eq!(s3d.json("GET", "/rules", "")[1]["hits"], 1);
    s3d.json("DELETE", &format!("/rules/{id}"), "");
    put("b").await.unwrap();

    s3d.json("PUT", "/delay", r#"{"delay":"uniform:30ms,40ms"}"#);
    assert_eq!(s3d.json("GET", "/delay", ""), json!({ "delay": "uniform:30ms,40ms" }));
    s3d.json("DELETE", "/log", "");
    let begin = std::time::Instant::now();
    put("c").await.unwrap();
    assert!(begin.elapsed().as_millis() >= 30);
    let counts = s3d.json("GET", "/counts", "");
    assert_eq!((&counts["total"], &counts["kinds"], &counts["bytes_in"]), (&json!(1), &json!({ "put": 1 }), &json!(1)));
    assert_eq!(s3d.json("GET", "/log?json", "")[0]["key"], "c");
    assert!(s3d.ask("GET", "/log", "").1.contains("esker/c"));

    for (method, path, body, status) in [
        ("GET", "/nothing", "", 404),
        ("DELETE", "/rules/77", "", 404),
        ("POST", "/rules/x/release", "", 404),
        ("POST", "/rules", "{", 400),
        ("POST", "/rules", r#"{"action":"explode"}"#, 400),
        ("PUT", "/delay", r#"{"delay":"soon"}"#, 400),
        ("GET", "/", "", 200),
    ] {
        assert_eq!(s3d.ask(method, path, body).0, status, "{method} {path} {body}");
    }
}

#[test]
fn it_ends_cleanly_and_takes_its_directory_along() {
    let mut s3d = run(&[]);
    assert!(std::path::Path::new(&s3d.dir).join("esker").is_dir());
    let id = s3d.child.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    assert!(s3d.child.wait().unwrap().success());
    assert!(!std::path::Path::new(&s3d.dir).exists());
}

#[test]
fn bad_arguments_are_told() {
    let said = |args: &[&str]| {
        let out = command().args(args).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(said(&["--delay", "soon"]).contains("is not a time such as 20ms"));
    assert!(said(&["--fault", "{}"]).contains("missing field `action`"));
    assert!(said(&["--bucket", "No_Bucket"]).contains("is no bucket name"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(said(&["--listen", &address]).contains(&format!("cannot listen on {address}")));
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("lognormal:20ms,1.5"), "{help}");
}
