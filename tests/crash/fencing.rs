//! Who owns a volume: races, stalled attachers, other bodies under our keys, journals whose time is over.

use std::fs;
use std::time::Duration;

use esker_testkit::{Action, EIO, History, Keeps, Kind, NbdError, Rule};

use crate::load::{flush, verify, write};
use crate::world::{Daemon, Host, World};

const OPENING: &str = "*/log/*/0000000000000000";
const EIO_REPLY: Result<(), NbdError> = Err(NbdError::Errno(EIO));

/// Exactly one of two gets ready; the other gives way with code 5 and says why.
#[track_caller]
fn one_wins(mut a: Daemon, mut b: Daemon) -> Daemon {
    let (winner, loser) = match (a.is_ready(), b.is_ready()) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        (true, true) => panic!("both own it: {} and {}", a.stderr(), b.stderr()),
        (false, false) => panic!("nobody owns it: {} and {}", a.stderr(), b.stderr()),
    };
    let ran = loser.wait();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let said = ["is in use by host", "at the same moment", "is held by another process"];
    assert!(said.iter().any(|s| ran.stderr.contains(s)), "{ran:?}");
    winner
}

#[test]
fn of_two_that_attach_at_once_one_wins_and_the_other_says_so() {
    let (world, history) = (World::s3(), History::new());
    let hosts = [world.host("a"), world.host("b")];
    world.store().faults().set_delay(Some("uniform:1ms,40ms".parse().unwrap()));
    for round in 0..5u64 {
        // The last two rounds are between servers of one host, over one journal directory.
        let (a, b) = if round < 3 { (&hosts[0], &hosts[1]) } else { (&hosts[0], &hosts[0]) };
        let winner = one_wins(a.start(&world, &[]), b.start(&world, &[]));
        let nbd = winner.connect();
        write(&nbd, &history, round * 8, 8, false).unwrap();
        flush(&nbd, &history).unwrap();
        drop(nbd);
        if round == 4 {
            // And over the journal of one that was killed.
            winner.kill();
            let winner = one_wins(a.start(&world, &[]), a.start(&world, &[]));
            verify(&winner, &history, Keeps::Completed);
            return;
        }
        verify(&winner, &history, Keeps::Completed);
        winner.stop();
    }
}

/// A volume that host `c` has written to and been killed with.
fn crashed(world: &World, history: &History) -> Host {
    let host = world.host("c");
    let daemon = host.serve(world, &[]);
    let nbd = daemon.connect();
    write(&nbd, history, 0, 64, false).unwrap();
    flush(&nbd, history).unwrap();
    drop(nbd);
    daemon.kill();
    history.crashed();
    host
}

/// An attacher that sleeps before its seal or its opening lands finds another owner when it wakes.
#[test]
fn an_attacher_that_slept_is_not_the_owner() {
    for (key, frozen) in [(OPENING, false), (OPENING, true), ("*/log/*", false), ("*/log/*", true)] {
        let (world, history) = (World::s3(), History::new());
        let _crashed = crashed(&world, &history);
        let (a, b) = (world.host("a"), world.host("b"));
        let faults = world.store().faults();
        let rule = faults.add(Rule::on([Kind::Create]).key(key).times(1).then(Action::Stall));
        let mut sleeper = a.start(&world, &["--takeover"]);
        assert!(faults.wait_for_hits(rule, 1, Duration::from_secs(60)));
        if frozen {
            sleeper.freeze();
        }
        let owner = b.serve(&world, &["--takeover"]);
        let nbd = owner.connect();
        write(&nbd, &history, 32, 64, true).unwrap();
        faults.release(rule);
        if frozen {
            sleeper.thaw();
        }
        assert!(!sleeper.is_ready(), "it takes itself for the owner: {}", sleeper.stderr());
        sleeper.wait().failed(5, "at the same moment");
        write(&nbd, &history, 64, 64, true).unwrap();
        verify(&owner, &history, Keeps::Completed);
        drop(nbd);
        owner.stop();
    }
}

/// Promise 4: an attacher whose opening landed is the owner, until somebody takes over while it does not know yet.
#[test]
fn an_attacher_that_slept_after_its_opening_landed_makes_nothing_durable() {
    let (world, history) = (World::s3(), History::new());
    let _crashed = crashed(&world, &history);
    let (a, b) = (world.host("a"), world.host("b"));
    let faults = world.store().faults();
    let rule = faults.add(Rule::on([Kind::Create]).key(OPENING).times(1).then(Action::ApplyThenStall));
    let mut sleeper = a.start(&world, &["--takeover"]);
    assert!(faults.wait_for_hits(rule, 1, Duration::from_secs(60)));
    b.refused(&world, &[]).failed(5, "--takeover");
    let owner = b.serve(&world, &["--takeover"]);
    faults.release(rule);
    if sleeper.is_ready() {
        let nbd = sleeper.connect();
        assert_eq!(nbd.write_fua(0, &[1; 4096]), EIO_REPLY, "it makes writes durable that nobody will see");
        assert_eq!(nbd.flush(), EIO_REPLY);
        drop(nbd);
        sleeper.terminate().failed(5, "fenced");
    } else {
        assert_eq!(sleeper.wait().code, Some(5));
    }
    verify(&owner, &history, Keeps::Completed);
    owner.stop();
}

/// Promise 4: bytes that are not ours under our next key mean that somebody else owns the volume. Another volume of the
/// same server goes on.
#[test]
fn another_body_under_our_key_fences_and_the_next_volume_goes_on() {
    for copied in [false, true] {
        let world = World::s3();
        world.create_volume("w", &[]);
        let host = world.host("a");
        let daemon = host.serve(&world, &["v", "w"]);
        let (v, w) = (daemon.connect(), daemon.connect_to("w"));
        v.write_fua(0, &[7; 8192]).unwrap();
        let files = world.log_files();
        let last = files.last().unwrap();
        let number = u64::from_str_radix(&last.file_name().unwrap().to_string_lossy(), 16).unwrap();
        let body = if copied { fs::read(last).unwrap() } else { b"somebody else's".to_vec() };
        fs::write(last.with_file_name(format!("{:016x}", number + 1)), body).unwrap();

        v.write(8192, &[8; 4096]).unwrap();
        assert_eq!(v.flush(), EIO_REPLY);
        assert_eq!(v.write_fua(0, &[9; 4096]), EIO_REPLY);
        assert_eq!(v.flush(), EIO_REPLY, "and it stays so");
        assert!(daemon.stderr().contains(&format!("{:016x}", number + 1)), "the key is not named: {}", daemon.stderr());
        w.write_fua(0, &[1; 4096]).unwrap();
        assert_eq!(w.read(0, 4096).unwrap(), [1; 4096]);
        drop((v, w));
        assert_eq!(daemon.terminate().code, Some(5));
        // What stands there is no part of the log: nobody serves the volume as if it were.
        let ran = host.refused(&world, &["v"]);
        assert!(ran.stderr.contains(&format!("{:016x}", number + 1)), "{ran:?}");
    }
}

/// A journal that the newest opening does not name is refused, with the number of writes in it, and never forgotten.
#[test]
fn a_journal_whose_time_is_over_is_refused_with_its_count() {
    let (world, history) = (World::s3(), History::new());
    let (a, b) = (world.host("a"), world.host("b"));
    let old = a.serve(&world, &["--max-unflushed-age", "1h"]);
    let nbd = old.connect();
    for n in 0..23 {
        nbd.write(n * 4096, &[3; 4096]).unwrap();
    }
    drop(nbd);
    old.kill();
    let new = b.serve(&world, &["--takeover"]);
    let nbd = new.connect();
    write(&nbd, &history, 5, 10, true).unwrap();
    drop(nbd);
    new.stop();

    let ran = a.refused(&world, &[]);
    ran.failed(1, "holds 23 acknowledged writes");
    ran.failed(1, "--lose-journal");
    assert_eq!(a.journals("ring").len(), 1, "it is still there");
    let daemon = a.serve(&world, &["--lose-journal"]);
    verify(&daemon, &history, Keeps::Completed);
    assert_eq!(a.journals("lost").len(), 1, "it is kept aside");
    daemon.stop();
    a.serve(&world, &[]).stop();
}
