//! A writer that is stopped under load, and taken over from before it goes on (promises 1, 2 and 4).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use esker_testkit::{Action, EIO, History, Keeps, Kind, NbdError, NbdRequest, Rule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{Load, flush, image, rounds, seed, verify, write};
use crate::world::World;

const EIO_REPLY: Result<(), NbdError> = Err(NbdError::Errno(EIO));

#[test]
fn a_writer_that_wakes_after_a_takeover_gets_errors_and_never_a_success() {
    let seed = seed("takeover");
    for round in 0..rounds(4) {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
        let (world, theirs) = (World::s3(), Arc::new(History::new()));
        let (a, b) = (world.host("a"), world.host("b"));
        world.store().faults().set_delay(Some("uniform:1ms,30ms".parse().unwrap()));
        let old = a.serve(&world, &["--max-unflushed-age", if rng.random() { "20ms" } else { "30s" }]);
        let late = old.connect();
        let load = Load::start(&old, &theirs, rng.random(), 3);
        load.wait_for(rng.random_range(20..500));
        thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
        old.freeze();
        load.pause();

        b.refused(&world, &[]).failed(5, "is in use by host");
        let new = b.serve(&world, &["--takeover"]);
        let taken = image(&new);
        let ours = Arc::new(theirs.fork(&taken));
        let load_on_new = Load::start(&new, &ours, rng.random(), 2);
        load_on_new.wait_for(30);

        old.thaw();
        // What was under way when it was stopped ends one way or the other. A flush may be told of success: then all it
        // covers is in what was taken over, which is what is checked here.
        load.finish();
        drop(late.write(0, &[1; 4096]));
        assert_eq!(late.flush(), EIO_REPLY, "a fenced writer flushes");
        assert_eq!(late.write_fua(4096, &[2; 4096]), EIO_REPLY, "a fenced writer makes a write durable");
        assert_eq!(late.flush(), EIO_REPLY);
        theirs.check(&taken, Keeps::Flushed).unwrap_or_else(|wrong| panic!("{wrong}; {}", new.stderr()));

        assert_eq!(load_on_new.finish(), 0, "the new owner is not disturbed");
        verify(&new, &ours, Keeps::Completed);
        drop(late);
        old.terminate().failed(5, "fenced");
        let nbd = new.connect();
        write(&nbd, &ours, 0, 16, true).unwrap();
        drop(nbd);
        verify(&new, &ours, Keeps::Completed);
        new.stop();
        let last = a.serve(&world, &["--lose-journal"]);
        verify(&last, &ours, Keeps::Completed);
    }
}

/// Promise 1: a segment that lands after the successor has looked, and before its seal, belongs to the log: its flush is
/// told of success.
#[test]
fn a_segment_that_lands_before_the_seal_is_kept_and_the_next_one_is_not() {
    let (world, history) = (World::s3(), Arc::new(History::new()));
    let (a, b) = (world.host("a"), world.host("b"));
    let old = a.serve(&world, &["--max-unflushed-age", "30s"]);
    let nbd = old.connect();
    write(&nbd, &history, 0, 8, true).unwrap();
    write(&nbd, &history, 4, 8, false).unwrap();
    let faults = world.store().faults();
    let put = || Rule::on([Kind::Create]).key("*/log/*").times(1).then(Action::Stall);
    let segment = faults.add(put());
    let told = nbd.start(NbdRequest::Flush);
    assert!(faults.wait_for_hits(segment, 1, Duration::from_secs(60)));
    let seal = faults.add(put());
    let mut new = b.start(&world, &["--takeover"]);
    assert!(faults.wait_for_hits(seal, 1, Duration::from_secs(60)));
    faults.release(segment);
    told.recv().unwrap().expect("the flush landed before the seal");
    faults.release(seal);
    assert!(new.is_ready(), "{}", new.stderr());
    // All that was completed was flushed.
    verify(&new, &history, Keeps::Completed);
    drop(nbd.write(0, &[1; 4096]));
    assert_eq!(nbd.flush(), EIO_REPLY);
    let other = new.connect();
    write(&other, &history, 0, 2, false).unwrap();
    flush(&other, &history).unwrap();
    drop(other);
    verify(&new, &history, Keeps::Completed);
}
