//! Holds the tree to its rules: sizes, layering, no panics on input, working links, licences. CONTRIBUTING.md has them in
//! words; each test prints everything that it finds.
#![allow(clippy::unwrap_used)]

#[path = "tidy_parts/code.rs"]
mod code;
#[path = "tidy_parts/layers.rs"]
mod layers;
#[path = "tidy_parts/licences.rs"]
mod licences;
#[path = "tidy_parts/links.rs"]
mod links;
#[path = "tidy_parts/proofs.rs"]
mod proofs;
#[path = "tidy_parts/source.rs"]
mod source;

use source::{Source, files, rust_sources};

const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_FILE_LINES: usize = 1000;
/// Longer ones are listed (`--no-capture`), not refused.
const LONG_FILE_LINES: usize = 400;
const MAX_FN_LINES: usize = 70;
/// A test is a story, and a story may take longer.
const MAX_TEST_FN_LINES: usize = 100;

/// Functions that are long for a reason: `(file, function, why)`.
const LONG_FNS: &[(&str, &str, &str)] = &[];

/// Fails with all findings, or prints that there are none.
fn report(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}: {} found\n  {}\n", findings.len(), findings.join("\n  "));
}

#[test]
fn files_are_of_a_size_to_be_read() {
    let mut findings = Vec::new();
    for source in rust_sources() {
        match source.text.lines().count() {
            lines if lines > MAX_FILE_LINES => findings.push(format!("{}: {lines} lines", source.path)),
            lines if lines > LONG_FILE_LINES => println!("long: {} has {lines} lines", source.path),
            _ => {}
        }
    }
    report(&format!("files over {MAX_FILE_LINES} lines"), findings);
}

#[test]
fn functions_fit_a_screen() {
    let mut findings = Vec::new();
    let mut unused: Vec<_> = LONG_FNS.iter().map(|(file, name, _)| (*file, *name)).collect();
    for source in rust_sources() {
        for f in code::functions(&source) {
            let limit = if f.test { MAX_TEST_FN_LINES } else { MAX_FN_LINES };
            if f.lines <= limit {
                continue;
            }
            match unused.iter().position(|(file, name)| *file == source.path && *name == f.name) {
                Some(at) => drop(unused.swap_remove(at)),
                None => {
                    findings.push(format!("{}:{}: {} has {} lines, not {limit}", source.path, f.line, f.name, f.lines))
                }
            }
        }
    }
    findings.extend(unused.iter().map(|(file, name)| format!("{file}: {name} is listed as long and is not")));
    report("long functions", findings);
}

#[test]
fn rooms_use_only_the_rooms_below() {
    let sources: Vec<Source> = rust_sources();
    report("arrows that point up", sources.iter().flat_map(layers::arrows_up).collect());
}

#[test]
fn front_ends_know_only_the_block_device() {
    report("crates that know too much", layers::crates_that_know_too_much(&licences::metadata()));
}

#[test]
fn library_code_does_not_panic_or_print() {
    report("panics and prints", rust_sources().iter().flat_map(code::panics_and_prints).collect());
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = ["TO", "FIX"].map(|s| format!("{s}{}", if s == "TO" { "DO" } else { "ME" }));
    let mut findings = Vec::new();
    for path in files() {
        let Ok(text) = std::fs::read_to_string(source::root().join(&path)) else { continue };
        for (n, line) in text.lines().enumerate() {
            // A rule may name what it forbids: `so`.
            let marked = |mark: &String| line.contains(mark.as_str()) && !line.contains(&format!("`{mark}"));
            if marks.iter().any(marked) {
                findings.push(format!("{path}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    report("marks of work left undone", findings);
}

#[test]
fn no_file_is_large() {
    let size = |path: &String| std::fs::metadata(source::root().join(path)).map_or(0, |m| m.len());
    let large = files().into_iter().filter(|path| size(path) > MAX_FILE_BYTES);
    report("files over 1 MiB", large.collect());
}

#[test]
fn links_in_documents_lead_somewhere() {
    report("broken links", files().iter().filter(|f| f.ends_with(".md")).flat_map(|f| links::broken(f)).collect());
}

#[test]
fn tests_that_documents_name_are_there() {
    let sources = rust_sources();
    let documents: Vec<String> = files().into_iter().filter(|f| f.ends_with(".md")).collect();
    report("proofs that are none", documents.iter().flat_map(|d| proofs::missing(d, &sources)).collect());
}

#[test]
fn licences_are_ones_we_can_ship() {
    let metadata = licences::metadata();
    report("licences and sources", licences::refused(&metadata));
}
