//! A writer that is stopped under load, and taken over from before it goes on (promises 1, 2 and 4).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use esker_testkit::{EIO, History, Keeps, NbdError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{Load, image, rounds, seed, verify, write};
use crate::world::World;

const EIO_REPLY: Result<(), NbdError> = Err(NbdError::Errno(EIO));

#[test]
fn a_writer_that_wakes_after_a_takeover_gets_errors_and_never_a_success() {
    let seed = seed("takeover");
    for round in 0..rounds(4) {
        let mut rng = StdRng::seed_from_u64(seed + round);
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
