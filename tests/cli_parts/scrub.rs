//! `esker scrub` and `esker fsck` on pools that are damaged by hand.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::nbd::Client;
use crate::run::{Ran, World};

const KIB: u64 = 1024;

/// A pool with a volume `data` that was written and given back.
fn world() -> World {
    let w = World::with_pool();
    let url = w.url();
    w.ok(&["volume", "create", &url, "data", "--size", "64M", "--compression", "none"]);
    let server = w.serve(&[&url, "data"]);
    let mut client = Client::connect(&w.socket(), "data");
    client.write(64 * KIB, &[7; 8192]);
    client.flush();
    client.write(20 << 20, &[9; 4096]);
    client.flush();
    server.stop();
    w
}

fn look(w: &World, command: &str) -> (Option<i32>, Value) {
    let ran = w.esker(&[command, &w.url(), "--json"]);
    (ran.code, ran.json())
}

/// The objects below a prefix, in the order of their keys.
fn objects(w: &World, prefix: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&w.dir.path().join("pool").join(prefix), &mut found);
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut body = fs::read(path).unwrap();
    body[at] ^= 0x10;
    fs::write(path, body).unwrap();
}

fn key(w: &World, path: &Path) -> String {
    path.strip_prefix(w.dir.path().join("pool")).unwrap().display().to_string()
}

/// Kind, key and ranges of all findings.
fn found(report: &Value) -> Vec<(String, String, Value)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|f| (text(&f["kind"]), text(&f["key"]), f["ranges"].clone())).collect()
}

#[test]
fn a_pool_that_is_well_is_found_well() {
    let w = world();
    for command in ["scrub", "fsck"] {
        let (code, report) = look(&w, command);
        assert_eq!((code, found(&report)), (Some(0), vec![]), "{report:#}");
        let v = &report["volumes"][0];
        assert_eq!((&v["name"], &v["state"], &v["live_blocks"]), (&"data".into(), &"sealed".into(), &3.into()));
        assert_eq!(v["not_compared"], Value::Null);
        assert_eq!(v["bytes_read"].as_u64() > v["live_node_bytes"].as_u64(), command == "scrub", "{v}");
    }
    let text = w.ok(&["scrub", &w.url(), "data", "--rate", "100M", "--parallel", "2"]).stdout;
    assert!(text.starts_with("VOLUME") && text.ends_with("nothing found\n"), "{text}");
    for (args, code, says) in [
        (vec!["scrub", "none"], 6, "there is no volume"),
        (vec!["scrub", "data", "--rate", "0"], 2, "nothing would ever be read"),
        (vec!["fsck", "data", "--parallel", "0"], 2, "0 is not in"),
    ] {
        let ran: Ran = w.esker(&[&[args[0], &w.url()], &args[1..]].concat());
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
    }
}

#[test]
fn what_is_damaged_by_hand_is_told_with_the_bytes_it_concerns() {
    let w = world();
    let log = objects(&w, "log");
    // Opening, two segments, the one that names the checkpoint, the seal.
    let segment = &log[1];
    let whole = fs::read(segment).unwrap();
    let ranges = json!([{ "offset": 64 * KIB, "length": 8192 }]);

    flip(segment, 100);
    let (code, report) = look(&w, "scrub");
    assert_eq!((code, found(&report)), (Some(7), vec![("damaged-record".into(), key(&w, segment), ranges.clone())]));
    assert_eq!(report["summary"]["damage"], 1);
    assert_eq!(report["findings"][0]["volume"], "data");
    assert_eq!(look(&w, "fsck").0, Some(0), "it is inside data");
    let ran = w.esker(&["scrub", &w.url()]);
    assert!(ran.stdout.contains("bytes: 65536 to 73727 (8 KiB)"), "{ran:?}");
    assert!(ran.stdout.contains("so: reads of these ranges fail with EIO"), "{ran:?}");
    assert!(ran.stderr.contains("it is damaged"), "{ran:?}");

    fs::write(segment, &whole[..100]).unwrap();
    for command in ["scrub", "fsck"] {
        let (code, report) = look(&w, command);
        let expected = vec![("truncated-object".into(), key(&w, segment), ranges.clone())];
        assert_eq!((code, found(&report)), (Some(7), expected), "{command}");
    }
    fs::remove_file(segment).unwrap();
    let (code, report) = look(&w, "fsck");
    assert_eq!((code, found(&report)), (Some(7), vec![("missing-object".into(), key(&w, segment), ranges)]));
    fs::write(segment, &whole).unwrap();

    let node = &objects(&w, "data")[0];
    let body = fs::read(node).unwrap();
    fs::remove_file(node).unwrap();
    let (_, report) = look(&w, "fsck");
    let all = json!([{ "offset": 0, "length": 64 << 20 }]);
    assert_eq!(found(&report), [("missing-object".into(), key(&w, node), all)]);
    fs::write(node, body).unwrap();

    fs::write(w.dir.path().join("pool/notes.txt"), "x").unwrap();
    let (code, report) = look(&w, "scrub");
    assert_eq!((code, found(&report)), (Some(0), vec![("unknown-object".into(), "notes.txt".into(), json!([]))]));
}

#[test]
fn a_pool_that_cannot_be_opened_is_a_finding_too() {
    let w = world();
    let record = &objects(&w, "pool")[0];
    flip(record, 60);
    let (code, report) = look(&w, "scrub");
    assert_eq!((code, found(&report)), (Some(7), vec![("damaged-pool-record".into(), key(&w, record), json!([]))]));
    assert_eq!(report["pool"], Value::Null);
    flip(record, 60);
    assert_eq!(look(&w, "scrub").0, Some(0));
    let wrong = w.run(w.command(&["fsck", &w.url()]).env("ESKER_PASSWORD", "wrong"));
    assert_eq!(wrong.code, Some(3), "{wrong:?}");
    fs::rename(w.dir.path().join("pool"), w.dir.path().join("gone")).unwrap();
    assert_eq!(w.esker(&["fsck", &w.url()]).code, Some(6));
}
