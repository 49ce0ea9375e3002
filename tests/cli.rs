//! The command line as people and scripts meet it: messages, exit codes, JSON, and a served volume from end to end.
#![allow(clippy::unwrap_used)]

#[path = "cli_parts/nbd.rs"]
mod nbd;
#[path = "cli_parts/run.rs"]
mod run;
#[path = "cli_parts/scrub.rs"]
mod scrub;
#[path = "cli_parts/space.rs"]
mod space;

use std::fs;
use std::thread;
use std::time::Duration;

use nbd::Client;
use run::{Ran, World};
use serde_json::Value;

#[test]
fn bad_input_is_answered_with_its_reason_and_a_code() {
    let w = World::with_pool();
    let url = w.url();
    let missing = format!("file://{}/missing", w.dir.path().display());
    let empty = format!("file://{}", w.subdir("empty").display());
    w.ok(&["volume", "create", &url, "taken", "--size", "1M"]);
    let create = |name: &'static str, size: &'static str| vec!["volume", "create", &url, name, "--size", size];
    let table: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["volume", "list", &missing], 6, "does not exist"),
        (vec!["volume", "list", &empty], 6, "there is no pool at"),
        (vec!["volume", "list", "ftp://x"], 2, "unknown"),
        (vec!["format", &url], 1, "a pool at"),
        (create("v", "0"), 2, "not a size for a volume"),
        (create("v", "4097"), 2, "multiple of 4096"),
        (create("v", "8E"), 2, "not a size for a volume"),
        (create("v", "10GB"), 2, "1000 or of 1024"),
        (create("v", "1.5G"), 2, "whole number"),
        (create("", "1M"), 2, "not a name"),
        (create(".hidden", "1M"), 2, "not a name"),
        (create("a/b", "1M"), 2, "not a name"),
        (create("taken", "1M"), 1, "already"),
        (vec!["volume", "show", &url, "none"], 6, "there is no volume"),
        (vec!["volume", "delete", &url, "none", "--yes"], 6, "there is no volume"),
        (vec!["volume", "delete", &url, "taken"], 2, "--yes"),
        (vec!["serve", &url, "none"], 6, "volume none"),
        (vec!["serve", &url, "--expect", "3"], 2, "name that volume"),
        (vec!["serve", &url, "--tls", "on"], 2, "--tls-certificates"),
        (vec!["serve", &url, "--tls-certificates", "/nonexistent"], 2, "server-cert.pem"),
        (vec!["serve", &url, "taken", "--tcp", "nonsense"], 1, "--tcp nonsense"),
        (vec!["serve", &url, "taken", "--journal-size", "1K"], 2, "journal of 1024 bytes"),
        (vec!["check", &missing], 6, "does not exist"),
        (vec!["status", "/nonexistent.sock"], 6, "/nonexistent.sock"),
        (vec!["format", "s3://b/p", "--endpoint", "http://127.0.0.1:9"], 2, "http"),
        (vec!["volume"], 2, "Usage"),
    ];
    for (args, code, text) in table {
        let ran = match args[0] {
            "serve" => w.esker(&w.serve_args(&args[1..])),
            _ => w.esker(&args),
        };
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(text), "{args:?} does not say {text:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
    }
}

#[test]
fn passwords_come_from_everywhere_but_the_command_line() {
    let w = World::with_pool();
    let (url, file) = (w.url(), w.dir.path().join("pw"));
    fs::write(&file, "wrong\n").unwrap();
    let file = file.to_str().unwrap();
    let wrong = w.esker(&["volume", "list", &url, "--password-file", file]);
    assert_eq!(wrong.code, Some(3), "{wrong:?}");
    assert!(
        wrong.stderr.contains("wrong password") && wrong.stderr.contains("can be read by other users"),
        "{wrong:?}"
    );
    let none = w.run(w.command_without_terminal(&["volume", "list", &url]).env_remove("ESKER_PASSWORD"));
    assert_eq!(none.code, Some(2), "{none:?}");
    assert!(none.stderr.contains("ESKER_PASSWORD"), "{none:?}");

    let credentials = w.subdir("credentials");
    fs::write(credentials.join("esker-password"), "secret\n").unwrap();
    let mut command = w.command(&["volume", "list", &url]);
    w.run(command.env_remove("ESKER_PASSWORD").env("CREDENTIALS_DIRECTORY", &credentials)).succeeded();

    w.run(w.command(&["passwd", &url]).env("ESKER_NEW_PASSWORD", "other")).succeeded();
    assert_eq!(w.esker(&["volume", "list", &url]).code, Some(3));
    fs::write(file, "other\n").unwrap();
    w.ok(&["volume", "list", &url, "--password-file", file]);
}

#[test]
fn volumes_are_made_listed_shown_and_deleted() {
    let w = World::with_pool();
    let url = w.url();
    assert!(w.ok(&["volume", "create", &url, "a", "--size", "10G"]).stdout.contains("made volume a of 10 GiB"));
    let args =
        ["volume", "create", &url, "b", "--size", "8192", "--block-size", "512", "--compression", "zstd", "--json"];
    let made = w.ok(&args).json();
    assert_eq!((&made["size"], &made["block_size"], &made["compression"]), (&8192.into(), &512.into(), &"zstd".into()));
    let listed = w.ok(&["volume", "list", &url, "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let table = w.ok(&["volume", "list", &url]).stdout;
    assert!(table.starts_with("NAME") && table.contains("10 GiB"), "{table}");
    assert_eq!(w.ok(&["volume", "show", &url, "b", "--json", "--quick"]).json(), made);
    assert!(w.ok(&["volume", "show", &url, "a"]).stdout.contains("(10737418240 bytes)"));
    w.ok(&w.with_dirs(&["volume", "delete", &url, "a", "--yes"]));
    assert_eq!(w.esker(&["volume", "show", &url, "a"]).code, Some(6));
}

#[test]
fn a_store_is_checked_and_measured() {
    let w = World::with_pool();
    let args = ["check", &w.url(), "--small", "3", "--large", "1"];
    let text = w.ok(&args).stdout;
    assert!(text.contains("can hold a pool") && text.contains("A flush will take about"), "{text}");
    let json = w.ok(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(json["measured"].as_array().unwrap().len(), 4);
    assert!(json["measured"][0]["p95_ms"].is_number());
}

#[test]
fn scripts_and_pages_are_generated() {
    let w = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(w.ok(&["completions", shell]).stdout.contains("esker"));
    }
    assert!(w.ok(&["man"]).stdout.contains(".TH esker 1"));
    let dir = w.dir.path().join("man");
    w.ok(&["man", "--dir", dir.to_str().unwrap()]);
    assert!(dir.join("esker-volume-create.1").exists());
    let help = w.ok(&["serve", "--help"]).stdout;
    assert!(help.contains("EXAMPLES") && help.contains("--takeover"), "{help}");
    assert!(w.ok(&["--help"]).stdout.contains("EXIT CODES"));
}

#[test]
fn a_served_volume_keeps_its_data_over_stop_kill_and_refusal() {
    let w = World::with_pool();
    let url = w.url();
    w.ok(&["volume", "create", &url, "data", "--size", "16M"]);
    w.ok(&["volume", "create", &url, "spare", "--size", "4M"]);

    let server = w.serve(&[&url, "data"]);
    assert_eq!(server.ready, [format!("ready: nbd+unix:///data?socket={}", w.socket().display())]);
    let mut client = Client::connect(&w.socket(), "data");
    assert_eq!(client.size, 16 << 20);
    client.write(4096, &[7; 8192]);
    client.flush();
    client.write(1 << 20, &[9; 4096]); // acknowledged, not flushed

    let status = w.ok(&["status", w.control().to_str().unwrap(), "--json"]).json();
    let volume = &status[0]["volumes"][0];
    assert_eq!((&volume["name"], &volume["attached"]), (&Value::from("data"), &Value::from(true)), "{status}");
    assert_eq!(volume["durability"], "object", "{status}");
    let text = w.ok(&["status", w.control().to_str().unwrap()]).stdout;
    assert!(text.contains("volume data") && text.contains("size: 16 MiB"), "{text}");

    let other = w.subdir("elsewhere");
    let second = World::serve_elsewhere(&w, &other, &[&url, "data"]);
    assert_eq!(second.code, Some(5), "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    let delete = w.esker(&w.with_dirs(&["volume", "delete", &url, "data", "--yes"]));
    assert_eq!(delete.code, Some(5), "{delete:?}");

    server.kill();
    let server = w.serve(&[&url, "data"]);
    let mut client = Client::connect(&w.socket(), "");
    assert_eq!(client.read(4096, 8192), [7; 8192]);
    assert_eq!(client.read(1 << 20, 4096), [9; 4096], "the daemon alone died: nothing acknowledged is lost");
    client.write(0, &[1; 512]);
    server.stop();
    assert!(!w.control().exists() && !w.socket().exists());

    // All volumes on offer, attached when a client opens them.
    let server = w.serve(&[&url]);
    assert_eq!(server.ready.len(), 2);
    let mut client = Client::connect(&w.socket(), "data");
    assert_eq!(client.read(0, 512), [1; 512]);
    w.ok(&["volume", "create", &url, "late", "--size", "8M"]);
    assert_eq!(Client::connect(&w.socket(), "late").size, 8 << 20);
    assert!(Client::try_connect(&w.socket(), "none").is_none());
    server.stop();
}

#[test]
fn a_stop_without_the_store_waits_and_a_second_signal_ends_it_without_loss() {
    let w = World::with_pool();
    let url = w.url();
    w.ok(&["volume", "create", &url, "data", "--size", "1M"]);
    let mut server = w.serve(&[&url, "data"]);
    let mut client = Client::connect(&w.socket(), "data");
    // A file in the directory's place: every request fails.
    let (pool, aside) = (w.dir.path().join("pool"), w.dir.path().join("aside"));
    fs::rename(&pool, &aside).unwrap();
    fs::write(&pool, "").unwrap();
    client.write(8192, &[5; 4096]);
    server.terminate();
    thread::sleep(Duration::from_secs(2));
    assert!(!server.ended(), "what is acknowledged is not durable yet");
    let status = w.ok(&["status", w.control().to_str().unwrap(), "--json"]).json();
    assert!(status[0]["store"]["last_error"]["message"].is_string(), "{status}");
    server.terminate();
    let (code, stderr) = server.wait();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("stay in the journal"), "{stderr}");

    fs::remove_file(&pool).unwrap();
    fs::rename(&aside, &pool).unwrap();
    let server = w.serve(&[&url, "data"]);
    assert_eq!(Client::connect(&w.socket(), "data").read(8192, 4096), [5; 4096]);
    server.stop();
}

#[test]
fn read_only_exports_refuse_writes() {
    let w = World::with_pool();
    let url = w.url();
    w.ok(&["volume", "create", &url, "data", "--size", "1M"]);
    let server = w.serve(&[&url, "data", "--read-only"]);
    let mut client = Client::connect(&w.socket(), "data");
    assert!(client.read_only);
    assert_eq!(client.try_write(0, &[1; 512]), Err(1), "EPERM");
    assert_eq!(client.read(0, 512), [0; 512]);
    server.stop();
}

#[test]
fn a_stack_trace_never_reaches_a_user() {
    // A reader that goes away ends a command quietly.
    let w = World::new();
    let mut child = w.command(&["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(ran.code == Some(0) && ran.stderr.is_empty(), "{ran:?}");
}

#[test]
fn devices_that_cannot_be_are_answered_with_the_reason() {
    let w = World::with_pool();
    let url = w.url();
    w.ok(&["volume", "create", &url, "data", "--size", "1M"]);
    let list = w.ok(&["list", "--json"]).json();
    assert!(list.is_array(), "{list}");
    assert!(w.ok(&["list"]).stdout.starts_with("DEVICE"));
    let table: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["attach", &url], 2, "VOLUME"),
        (vec!["attach", &url, "data", "--recover", "--handover"], 2, "cannot be used with"),
        (vec!["attach", &url, "data", "--queues", "0"], 2, "--queues"),
        (vec!["attach", &url, "data", "--depth", "5000"], 2, "--depth"),
        (vec!["attach", &url, "data", "--copy", "twice"], 2, "user"),
        (vec!["attach", &url, "data", "more", "--id", "3"], 2, "--id"),
        (vec!["detach"], 2, "VOLUME|DEVICE"),
        (vec!["detach", "no-such-volume"], 6, "esker list"),
        (vec!["detach", "/dev/null"], 6, "esker list"),
        (vec!["udev", "sda"], 6, "no device of ours"),
        (vec!["udev", "ublkb999999"], 6, "no device of ours"),
    ];
    for (args, code, text) in table {
        let ran = w.esker(&args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(text), "{args:?} does not say {text:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
    }
    if std::path::Path::new("/dev/ublk-control").exists() {
        return;
    }
    // In the background or not, what is missing is said and the exit code is the same.
    for more in [&["--foreground"][..], &[]] {
        let ran = w.esker(&w.with_dirs(&[&["attach", &url, "data"], more].concat()));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("/dev/ublk-control") && ran.stdout.is_empty(), "{ran:?}");
    }
}
