//! kill -9 at random moments under load, with the journal and without (promises 1, 2 and 3).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use esker_testkit::{Delay, History, Keeps};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{Load, rounds, seed, verify};
use crate::world::{Daemon, Host, World};

/// How the clock of unflushed data is set: almost at once, as usual, practically never.
const AGES: [&str; 3] = ["10ms", "1s", "60s"];

/// A server, as one of its kind is run.
fn serve(world: &World, host: &Host, rng: &mut StdRng, more: &[&str]) -> Daemon {
    let age = AGES[rng.random_range(0..AGES.len())];
    host.serve(world, &[more, &["--max-unflushed-age", age]].concat())
}

/// Load for a moment, then kill -9.
fn load_and_kill(daemon: Daemon, history: &Arc<History>, rng: &mut StdRng) {
    let load = Load::start(&daemon, history, rng.random(), rng.random_range(1..=4));
    load.wait_for(rng.random_range(1..600));
    thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
    daemon.kill();
    assert_eq!(load.finish(), 0, "no request fails");
    history.crashed();
}

fn slow_down(world: &World, rng: &mut StdRng) {
    let delay = ["1ms", "uniform:1ms,30ms", "lognormal:10ms,2"][rng.random_range(0..3)];
    world.store().faults().set_delay(Some(delay.parse::<Delay>().unwrap()));
}

fn nothing_acknowledged_is_lost(world: &World, rounds: u64, seed: u64) {
    let (host, history) = (world.host("a"), Arc::new(History::new()));
    let mut unanswered = 0;
    let mut daemon = host.serve(world, &[]);
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
        if world.on_s3() {
            slow_down(world, &mut rng);
        }
        load_and_kill(daemon, &history, &mut rng);
        daemon = serve(world, &host, &mut rng, &[]);
        let (image, outcome) = verify(&daemon, &history, Keeps::Completed);
        assert_eq!(outcome.lost, 0);
        world.scrub();
        unanswered += outcome.unanswered;
        history.settle(&image);
    }
    println!("{unanswered} writes happened that were never answered");
}

/// Promise 3.
#[test]
fn a_kill_of_the_daemon_loses_nothing_acknowledged_on_s3() {
    nothing_acknowledged_is_lost(&World::s3(), rounds(20), seed("kill on s3"));
}

/// Promise 3.
#[test]
fn a_kill_of_the_daemon_loses_nothing_acknowledged_on_a_directory() {
    nothing_acknowledged_is_lost(&World::file(), rounds(20) / 4, seed("kill on a directory"));
}

fn a_lost_journal_leaves_a_prefix(world: &World, rounds: u64, seed: u64) {
    let (host, history) = (world.host("a"), Arc::new(History::new()));
    let mut lost = 0;
    let mut daemon = host.serve(world, &[]);
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
        if world.on_s3() {
            slow_down(world, &mut rng);
        }
        load_and_kill(daemon, &history, &mut rng);
        host.lose_journals();
        daemon = if round.is_multiple_of(2) {
            if round == 0 {
                host.refused(world, &[]).failed(5, "--lose-journal");
            }
            serve(world, &host, &mut rng, &["--takeover", "--lose-journal"])
        } else {
            // The whole machine went down: nobody need be asked.
            host.boot(round + 2);
            serve(world, &host, &mut rng, &[])
        };
        let (image, outcome) = verify(&daemon, &history, Keeps::Flushed);
        lost += outcome.lost;
        history.settle(&image);
        if round.is_multiple_of(4) {
            daemon.stop();
            daemon = serve(world, &host, &mut rng, &[]);
        }
    }
    println!("{lost} completed, unflushed writes were lost");
    assert!(lost > 0, "this is no test if there is nothing to lose");
}

/// Promises 1 and 2.
#[test]
fn a_lost_journal_leaves_a_prefix_with_all_that_was_flushed_on_s3() {
    a_lost_journal_leaves_a_prefix(&World::s3(), rounds(12), seed("journal lost on s3"));
}

/// Promises 1 and 2.
#[test]
fn a_lost_journal_leaves_a_prefix_with_all_that_was_flushed_on_a_directory() {
    a_lost_journal_leaves_a_prefix(&World::file(), rounds(12) / 3, seed("journal lost on a directory"));
}
