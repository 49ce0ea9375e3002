//! Which room may use which: arrows point down only.

use serde_json::Value;

use crate::source::{Source, line_of, test_items};

/// From the top to the bottom; a room uses rooms of lower lines, never one of its own line.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["host", "scrub"],
    &["volume"],
    &["compact"],
    &["map", "journal", "cache"],
    &["segment"],
    &["pool"],
    &["store"],
    &["env_tokio"],
    // The ublk target knows the block trait, so nothing of ours.
    &["env", "wire", "probe", "ublk"],
    &["sync"],
];

/// The engine is handed its clock and its threads: only the command line takes the real ones.
const REAL_WORLD: (&str, &str) = ("env_tokio", "cli");
/// The front ends, and the one room that starts them.
const FRONT_END: (&str, &str) = ("nbd_compat", "cli");
const UBLK: (&str, &str) = ("ublk", "cli");

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

/// `src/room/..` and `src/room.rs`; the root of the crate has no room.
fn room(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let room = rest.split('/').next()?.trim_end_matches(".rs");
    (!matches!(room, "lib" | "main")).then_some(room)
}

/// What `source` uses that it must not.
pub fn arrows_up(source: &Source) -> Vec<String> {
    let Some(from) = room(&source.path) else { return Vec::new() };
    let Some(height) = layer(from) else { return vec![format!("{}: {from} is in no layer", source.path)] };
    if source.test {
        return Vec::new();
    }
    let items = test_items(&source.code);
    let mut findings = Vec::new();
    for (at, to) in used(source) {
        if to == from || items.iter().any(|range| range.contains(&at)) {
            continue;
        }
        let alone = [REAL_WORLD, FRONT_END, UBLK].iter().any(|(what, by)| to == *what && from != *by);
        let up = to != FRONT_END.0 && layer(&to).is_none_or(|to| to <= height);
        if up || alone {
            findings.push(format!("{}:{}: {from} uses {to}", source.path, line_of(&source.code, at)));
        }
    }
    findings
}

/// The rooms and front ends named in `source`, each with where.
fn used(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        // A public macro's `$crate::` and a word that ends so (`nbd_crate::`) are no rooms of ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        found.extend(first_words(&code[at + path.len()..]).into_iter().map(|word| (at, word)));
    }
    found.extend(code.match_indices("nbd_compat::").map(|(at, _)| (at, FRONT_END.0.to_owned())));
    // In src/room/mod.rs one `super` is the root, in src/room/file.rs two are.
    let depth = source.path.matches('/').count() - usize::from(source.path.ends_with("/mod.rs"));
    let climb = "super::".repeat(depth);
    found.extend(
        code.match_indices(&climb)
            .filter(|(at, _)| !code[..*at].ends_with("super::"))
            .flat_map(|(at, _)| first_words(&code[at + climb.len()..]).into_iter().map(move |word| (at, word)))
            .filter(|(_, word)| layer(word).is_some()),
    );
    found
}

/// `a::b` names a; `{a::b, c}` names a and c.
fn first_words(rest: &str) -> Vec<String> {
    let word =
        |s: &str| -> String { s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut begin, mut words) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                words.push(word(&group[begin..at]));
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Our crates, and which of our crates each may depend on outside its tests.
const CRATES: &[(&str, &[&str])] = &[
    ("esker-block", &[]),
    ("nbd-compat", &["esker-block"]),
    ("esker-testkit", &["esker-block", "nbd-compat"]),
    ("esker", &["esker-block", "nbd-compat"]),
    ("esker-sim", &["esker", "esker-block"]),
];

pub fn crates_that_know_too_much(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("metadata has packages");
    let ours: Vec<&Value> = packages.iter().filter(|p| p["source"].is_null()).collect();
    let name = |p: &Value| p["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = ours.iter().map(|p| name(p)).collect();
    let mut findings = Vec::new();
    for package in &ours {
        let from = name(package);
        let Some((_, allowed)) = CRATES.iter().find(|(n, _)| *n == from) else {
            findings.push(format!("{from} is not in the table of crates"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = name(dependency);
            if dependency["kind"] != "dev" && names.contains(&to) && !allowed.contains(&to.as_str()) {
                findings.push(format!("{from} depends on {to}"));
            }
        }
    }
    findings
}

#[test]
fn an_arrow_up_is_found() {
    let findings = |path: &str, text: &str| {
        arrows_up(&Source { path: path.into(), text: text.into(), code: crate::source::blank(text), test: false })
    };
    assert_eq!(findings("src/pool/a.rs", "use crate::segment::X;"), ["src/pool/a.rs:1: pool uses segment"]);
    assert_eq!(
        findings("src/map/a.rs", "\nlet x = crate::{\n  wire::{a, b}, journal::Y};"),
        ["src/map/a.rs:2: map uses journal"]
    );
    assert_eq!(findings("src/map/a.rs", "super::super::volume::X"), ["src/map/a.rs:1: map uses volume"]);
    assert_eq!(findings("src/map/mod.rs", "super::volume::X"), ["src/map/mod.rs:1: map uses volume"]);
    assert_eq!(findings("src/volume/a.rs", "crate::env_tokio::X"), ["src/volume/a.rs:1: volume uses env_tokio"]);
    assert_eq!(findings("src/volume/a.rs", "nbd_compat::X"), ["src/volume/a.rs:1: volume uses nbd_compat"]);
    assert_eq!(findings("src/attic/a.rs", ""), ["src/attic/a.rs: attic is in no layer"]);
    let fine = "use crate::{map, pool::{self, X}}; // crate::cli\n#[cfg(test)]\nmod t { use crate::cli::X; }";
    assert!(findings("src/volume/a.rs", fine).is_empty());
    assert!(
        findings("src/cli/serve/a.rs", "use nbd_compat::X; use super::super::size; use crate::env_tokio;").is_empty()
    );
}
