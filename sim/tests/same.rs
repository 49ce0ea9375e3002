//! The same seed is the same run, byte for byte: in one process, in another, and whatever runs beside it.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_esker-sim")).args(args).output().unwrap()
}

/// What a run says of itself: its hash, its events, its operations.
fn says(seed: &str) -> String {
    let out = sim(&["--seed", seed]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_seed_is_one_run_in_every_process() {
    for seed in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let first = says(seed);
        assert!(first.contains("hash"), "{first}");
        assert_eq!(first, says(seed));
    }
    assert_ne!(says("1"), says("2"));
}

#[test]
fn every_line_of_a_run_is_the_same_again() {
    let lines = || String::from_utf8(sim(&["--seed", "11", "--trace"]).stdout).unwrap();
    let first = lines();
    assert!(first.lines().count() > 100, "{first}");
    assert!(first == lines(), "two runs of one seed differ");
}

#[test]
fn a_failure_names_its_seed_and_the_command_that_shows_it_again() {
    let out = sim(&["--mutant", "flush-before-put", "--from", "1", "--minutes", "2"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    let again = said.lines().find_map(|l| l.strip_prefix("again: scripts/sim ")).expect("a command");
    let args: Vec<&str> = again.split_whitespace().filter(|a| *a != "--trace").collect();
    let once_more = sim(&args);
    assert_eq!(once_more.status.code(), Some(1));
    let reason = |text: &str| text.lines().nth(1).map(str::to_string);
    assert_eq!(reason(&String::from_utf8(once_more.stderr).unwrap()), reason(&said));
}
