//! Licences and sources of everything we build with.

use std::iter::Peekable;
use std::process::Command;

use serde_json::Value;

/// What may be linked into a program that people get under MIT or Apache-2.0.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Root certificates: data.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
const OURS: &str = "MIT OR Apache-2.0";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What cargo knows of all packages of the workspace and those it builds with on Linux.
pub fn metadata() -> Value {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(crate::source::root())
        .output()
        .expect("cargo is there");
    assert!(cargo.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&cargo.stderr));
    serde_json::from_slice(&cargo.stdout).expect("cargo metadata is JSON")
}

pub fn refused(metadata: &Value) -> Vec<String> {
    // The list of packages has other platforms' too; those resolved for this one are the nodes.
    let nodes = metadata["resolve"]["nodes"].as_array().expect("metadata has a graph");
    let built: std::collections::BTreeSet<&str> = nodes.iter().filter_map(|n| n["id"].as_str()).collect();
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name =
            format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        let licence = package["license"].as_str();
        match package["source"].as_str() {
            None if licence != Some(OURS) => findings.push(format!("{name} is ours and not under {OURS}")),
            Some(source) if source != REGISTRY => findings.push(format!("{name} comes from {source}")),
            _ => {}
        }
        let named = licence.is_some_and(allowed);
        if !named && built.contains(package["id"].as_str().unwrap_or_default()) {
            findings.push(format!("{name}: {}", licence.unwrap_or("no licence")));
        }
    }
    findings
}

/// Whether a licence expression (SPDX; old ones have `/` for OR) can be met with allowed licences alone.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+WITH+");
    let words: Vec<String> = spaced.split_whitespace().map(|w| w.replace("+WITH+", " WITH ")).collect();
    let mut words = words.iter().map(String::as_str).peekable();
    any(&mut words) == Some(true) && words.next().is_none()
}

/// One alternative can be met; none if what is there is no expression.
fn any<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    let mut met = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words)?;
    }
    Some(met)
}

fn all<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    let mut met = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words)?;
    }
    Some(met)
}

fn one<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let met = any(words)?;
            words.next_if_eq(&")").map(|_| met)
        }
        "AND" | "OR" | ")" => None,
        word => Some(ALLOWED.contains(&word)),
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for fine in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(allowed(fine), "{fine}");
    }
    for not in ["GPL-3.0", "MIT AND GPL-3.0", "MIT OR", "(MIT", "MIT)", "", "AGPL-3.0 OR (MIT AND SSPL-1.0)", "MIT ISC"]
    {
        assert!(!allowed(not), "{not}");
    }
}
