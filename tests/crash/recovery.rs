//! Crashes during recovery: a second and a third lose nothing.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use esker_testkit::{Action, History, Keeps, Kind, Rule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{Load, rounds, seed, verify};
use crate::world::{Host, World};

/// Where the keys of openings end.
const OPENING: &str = "*/log/*/0000000000000000";

fn crash_under_load(world: &World, host: &Host, history: &Arc<History>, rng: &mut StdRng) {
    let daemon = host.serve(world, &["--max-unflushed-age", "30s"]);
    let load = Load::start(&daemon, history, rng.random(), 3);
    load.wait_for(rng.random_range(50..400));
    daemon.kill();
    assert_eq!(load.finish(), 0, "no request fails");
    history.crashed();
}

/// Promise 3, at moments taken by chance; then promises 1 and 2, the journal lost after all.
#[test]
fn crashes_of_the_recovery_at_any_moment_lose_nothing() {
    let mut rng = StdRng::seed_from_u64(seed("recovery killed"));
    let (world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    world.store().faults().set_delay(Some("15ms".parse().unwrap()));
    for _ in 0..rounds(3) {
        crash_under_load(&world, &host, &history, &mut rng);
        for _ in 0..3 {
            let daemon = host.start(&world, &[]);
            thread::sleep(Duration::from_millis(rng.random_range(100..900)));
            daemon.kill();
        }
        let daemon = host.serve(&world, &["--max-unflushed-age", "30s"]);
        verify(&daemon, &history, Keeps::Completed);
        daemon.kill();
    }
    host.lose_journals();
    let daemon = host.serve(&world, &["--takeover", "--lose-journal"]);
    verify(&daemon, &history, Keeps::Flushed);
}

/// Promise 3, at each step of the recovery in turn. What the dead server had sent lands before its successor looks, after
/// it has looked, or has landed although nobody was told.
#[test]
fn crashes_at_each_step_of_the_recovery_lose_nothing() {
    let mut rng = StdRng::seed_from_u64(seed("steps of the recovery"));
    let (world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    let seal = || Rule::on([Kind::Create]).key("*/log/*").times(1);
    let opening = || Rule::on([Kind::Create]).key(OPENING).times(1);
    let list = || Rule::on([Kind::List]).key("*/log/*").times(1);
    let first_put = || Rule::on([Kind::Create]).key("*/log/*").skip(2).times(1);
    let steps = [
        list().then(Action::Stall),
        seal().then(Action::Stall),
        seal().then(Action::ApplyThenStall),
        opening().then(Action::Stall),
        opening().then(Action::ApplyThenStall),
        first_put().then(Action::Stall),
        first_put().then(Action::ApplyThenStall),
    ];
    for (n, step) in steps.into_iter().enumerate() {
        if n % 3 == 0 {
            crash_under_load(&world, &host, &history, &mut rng);
        }
        let faults = world.store().faults();
        let rule = faults.add(step);
        // What was adopted goes out at once, so that there is a PUT to crash in.
        let daemon = host.start(&world, &["--max-unflushed-age", "10ms"]);
        assert!(faults.wait_for_hits(rule, 1, Duration::from_secs(60)), "step {n} is not reached");
        daemon.kill();
        let late: bool = rng.random();
        if !late {
            faults.remove(rule);
        }
        let daemon = host.serve(&world, &["--max-unflushed-age", "30s"]);
        faults.remove(rule);
        verify(&daemon, &history, Keeps::Completed);
        daemon.kill();
    }
}
