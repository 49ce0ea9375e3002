//! `esker df`, `compact`, `gc` and `volume show`: what is stored, of volumes that are served and that are not.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::nbd::Client;
use crate::run::World;

const MIB: u64 = 1 << 20;

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A pool with a volume `data`.
fn world() -> World {
    let w = World::with_pool();
    w.ok(&["volume", "create", &w.url(), "data", "--size", "64M", "--compression", "none"]);
    w
}

/// Writes 8 MiB, then every second 64 KiB of it again.
fn scatter(client: &mut Client) {
    for at in 0..128u64 {
        client.write(at * 65536, &noise(65536, at));
    }
    client.flush();
    for at in (0..128u64).step_by(2) {
        client.write(at * 65536, &noise(65536, 1000 + at));
        client.flush();
    }
}

fn number(v: &Value, name: &str) -> u64 {
    v[name].as_u64().unwrap_or_else(|| panic!("no {name} in {v}"))
}

#[test]
fn a_served_volume_is_shown_and_compacted_by_its_owner() {
    let w = world();
    let (url, control) = (w.url(), w.control());
    let control = control.to_str().unwrap();
    let server = w.serve(&[&url, "data", "--compact-slack", "1G"]);
    let mut client = Client::connect(&w.socket(), "data");
    scatter(&mut client);

    let done = w.ok(&["compact", "data", "--control", control, "--json"]).json();
    assert_eq!((&done[0]["volume"], done.as_array().unwrap().len()), (&"data".into(), 1), "{done}");
    assert!(number(&done[0], "after") < number(&done[0], "before"), "{done}");
    assert!(number(&done[0], "after") < 9 * MIB, "{done}");
    for at in 0..128u64 {
        let seed = if at % 2 == 0 { 1000 + at } else { at };
        assert_eq!(client.read(at * 65536, 65536), noise(65536, seed), "{at}");
    }

    let df = w.ok(&["df", "--control", control, "--json"]).json();
    let row = &df[0];
    assert_eq!((&row["volume"], &row["url"], &row["attached_here"]), (&"data".into(), &url.into(), &true.into()));
    assert_eq!((number(row, "size"), number(row, "written")), (64 * MIB, 8 * MIB));
    assert!(number(row, "live") >= 8 * MIB && number(row, "stored") >= number(row, "live"), "{row}");
    assert_eq!(
        number(row, "stored"),
        ["live", "new", "overhead", "garbage", "dead"].map(|part| number(row, part)).iter().sum::<u64>()
    );
    assert!(row["space_amplification"].as_f64().unwrap() >= 1.0, "{row}");
    let table = w.ok(&["df", "--control", control]).stdout;
    assert!(table.starts_with("VOLUME") && table.contains("8 MiB"), "{table}");
    let status = w.ok(&["status", control]).stdout;
    assert!(status.contains("space: ") && status.contains("compaction wrote"), "{status}");
    let again = w.ok(&["compact", &w.url(), "data", "--control", control]).stdout;
    assert!(again.starts_with("compacted volume data:"), "{again}");
    let bill = w.ok(&["cost", "data", "--control", control, "--json"]).json();
    assert!(bill.to_string().contains("compaction"), "{bill}");

    // Nobody else is let in, and what is not there is said.
    let elsewhere = w.esker(&w.with_dirs(&["compact", &w.url(), "data"]));
    assert_eq!(elsewhere.code, Some(5), "{elsewhere:?}");
    for (args, code, text) in [
        (vec!["compact", "none", "--control", control], 6, "no such volume is attached here"),
        (vec!["compact", "data", "more", "--control", control], 2, "no URL"),
        (vec!["df", "--control", "/nonexistent.sock"], 6, "/nonexistent.sock"),
    ] {
        let ran = w.esker(&args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(text) && ran.stdout.is_empty(), "{args:?}: {ran:?}");
    }
    server.stop();
}

#[test]
fn a_volume_that_nobody_has_is_attached_to_be_compacted() {
    let w = world();
    let url = w.url();
    assert_eq!(number(&w.ok(&["df", &url, "data", "--json"]).json()[0], "stored"), 0);
    let server = w.serve(&[&url, "data", "--compact", "off"]);
    scatter(&mut Client::connect(&w.socket(), "data"));
    server.stop();

    let before = w.ok(&["df", &url, "--json"]).json();
    assert_eq!((&before[0]["attached_here"], number(&before[0], "written")), (&false.into(), 8 * MIB), "{before}");
    let shown = w.ok(&["volume", "show", &url, "data", "--json"]).json();
    assert_eq!(number(&shown["space"], "stored"), number(&before[0], "stored"));
    assert!(w.ok(&["volume", "show", &url, "data"]).stdout.contains("space amplification"));
    let text = w.ok(&["gc", &url, "data"]).stdout;
    assert!(text.starts_with("REASON") && text.contains("opening"), "{text}");

    // At 4 MiB a second, what is written alone takes its time.
    let began = Instant::now();
    let done = w.ok(&w.with_dirs(&["compact", &url, "--json", "--max-bandwidth", "4M"])).json();
    let least =
        Duration::from_millis(number(&done[0], "written") * 1000 / (4 * MIB)).saturating_sub(Duration::from_secs(1));
    assert!(began.elapsed() >= least && !least.is_zero(), "{:?} of {least:?}", began.elapsed());
    assert!(number(&done[0], "written") > 0 && number(&done[0], "extents") > 0, "{done}");
    let after = w.ok(&["df", &url, "data", "--json"]).json();
    assert!(number(&after[0], "stored") < number(&before[0], "stored"), "{before} {after}");
    assert!(number(&after[0], "objects") < number(&before[0], "objects"), "{before} {after}");
    assert!(number(&after[0], "stored") < 9 * MIB, "{after}");
    assert_eq!(number(&after[0], "written"), 8 * MIB);
    assert_eq!(w.esker(&["fsck", &url]).code, Some(0));

    let gc = w.ok(&["gc", &url, "data", "--explain", "--json"]).json();
    let objects = gc["objects"].as_array().unwrap();
    let opened = objects.iter().filter(|o| o["reason"] == "opening").count();
    assert_eq!((opened, &gc["state"], &gc["damaged"]), (2, &"sealed".into(), &false.into()), "{gc}");
    let summed: u64 = gc["reasons"].as_object().unwrap().values().map(|r| number(r, "objects")).sum();
    assert_eq!(summed as usize, objects.len());
    assert!(w.ok(&["gc", &url, "data", "--explain"]).stdout.starts_with("KEY"));
    assert_eq!(w.esker(&["gc", &url, "none"]).code, Some(6));

    let server = w.serve(&[&url, "data"]);
    let mut client = Client::connect(&w.socket(), "data");
    assert_eq!(client.read(65536, 65536), noise(65536, 1));
    assert_eq!(client.read(2 * 65536, 65536), noise(65536, 1002));
    server.stop();
}
