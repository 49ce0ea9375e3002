//! A store that errs, and one that goes away and comes back.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use esker_testkit::{Action, EIO, History, Keeps, Kind, NbdError, Rule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{Load, flush, rounds, seed, verify, write};
use crate::world::World;

/// PUTs that land although the reply is lost, errors, conflicts where nothing is: nothing fails, and the data is right;
/// while it goes on, after a kill, and without the journal.
#[test]
fn a_store_that_errs_is_borne() {
    let mut rng = StdRng::seed_from_u64(seed("faults"));
    let (world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    let faults = world.store().faults();
    let error = |status: u16, code: &str| Action::ApplyThenReply { status, code: code.into() };
    let rules = [
        faults.add(Rule::on([Kind::Create]).key("*/log/*").every(4).skip(1).then(Action::ApplyThenDrop)),
        faults.add(Rule::on([Kind::Create]).every(5).skip(2).then(Action::conflict())),
        faults.add(Rule::on([Kind::Create]).every(6).skip(3).then(error(500, "InternalError"))),
        faults.add(Rule::any().every(9).skip(4).then(Action::slow_down())),
        faults.add(Rule::on([Kind::Get]).every(7).skip(1).then(Action::CutBody { keep: 100 })),
        faults.add(Rule::any().every(11).skip(5).then(Action::Drop)),
    ];
    for _ in 0..rounds(3) {
        let daemon = host.serve(&world, &["--max-unflushed-age", "20ms"]);
        let load = Load::start(&daemon, &history, rng.random(), 3);
        load.wait_for(300);
        load.pause();
        assert_eq!(load.finish(), 0, "no request fails");
        let nbd = daemon.connect();
        flush(&nbd, &history).unwrap();
        drop(nbd);
        verify(&daemon, &history, Keeps::Completed);
        let load = Load::start(&daemon, &history, rng.random(), 3);
        load.wait_for(100);
        daemon.kill();
        assert_eq!(load.finish(), 0, "no request fails");
        history.crashed();
        let daemon = host.serve(&world, &[]);
        let (image, _) = verify(&daemon, &history, Keeps::Completed);
        history.settle(&image);
        // A checkpoint and a seal under faults too.
        daemon.stop();
    }
    for rule in rules {
        assert!(faults.hits(rule) > 0, "a fault was never made: {rule:?}");
    }
    let daemon = host.serve(&world, &[]);
    verify(&daemon, &history, Keeps::Completed);
}

/// Promise 8 with `wait`: requests wait as long as it takes.
#[test]
fn while_the_store_is_away_requests_wait_and_none_fails() {
    let mut rng = StdRng::seed_from_u64(seed("outage, wait"));
    let (mut world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    let daemon = host.serve(&world, &["--max-unflushed-age", "20ms", "--on-outage", "wait"]);
    let load = Load::start(&daemon, &history, rng.random(), 3);
    load.wait_for(100);
    world.stop_store();
    thread::sleep(Duration::from_secs(3));
    world.start_store();
    load.wait_for(600);
    assert_eq!(load.finish(), 0, "no request fails");
    verify(&daemon, &history, Keeps::Completed);
    daemon.kill();
    history.crashed();
    let daemon = host.serve(&world, &[]);
    verify(&daemon, &history, Keeps::Completed);
}

/// Promise 8 with `fail-after`: a flush gets EIO once the outage has lasted so long, cached reads go on, and what was
/// acknowledged is durable after all once the store is back.
#[test]
fn while_the_store_is_away_requests_fail_after_the_time_given_and_recover() {
    let (mut world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    let daemon = host.serve(&world, &["--max-unflushed-age", "20ms", "--on-outage", "fail-after=2s"]);
    let nbd = daemon.connect();
    write(&nbd, &history, 0, 64, true).unwrap();
    world.stop_store();
    write(&nbd, &history, 32, 64, false).unwrap();
    let start = Instant::now();
    assert_eq!(flush(&nbd, &history), Err(NbdError::Errno(EIO)));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1500) && took < Duration::from_secs(30), "it fails after {took:?}");
    assert_eq!(nbd.read(0, 4096).unwrap(), esker_testkit::stamped(1, 0, 1), "what is cached is read");
    write(&nbd, &history, 100, 8, false).unwrap();
    world.start_store();
    let start = Instant::now();
    while let Err(why) = flush(&nbd, &history) {
        assert_eq!(why, NbdError::Errno(EIO));
        assert!(start.elapsed() < Duration::from_secs(60), "it does not recover: {}", daemon.stderr());
        thread::sleep(Duration::from_millis(50));
    }
    drop(nbd);
    verify(&daemon, &history, Keeps::Completed);
    daemon.kill();
    history.crashed();
    host.lose_journals();
    let daemon = host.serve(&world, &["--takeover", "--lose-journal"]);
    verify(&daemon, &history, Keeps::Completed);
}
