//! What goes wrong, one function for each kind of step.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use esker_testkit::served::{Daemon, Load, flush, verify, write};
use esker_testkit::{EIO, History, Keeps, Line, NbdClient, NbdError};
use rand::RngExt;

use crate::round::{RECOVERS, Round, within};
use crate::schedule::{Full, Loss};

const EIO_REPLY: Result<(), NbdError> = Err(NbdError::Errno(EIO));
/// What a server says once it knows that it is fenced.
const FENCED: &str = "fenced: another writer owns the volume now";
/// Longer than this no server is left to look for a store that is away: attaching gives up after 30 s.
const PATIENT: Duration = Duration::from_secs(15);

impl Round {
    pub(crate) fn freeze(&mut self, time: Duration) {
        let load = self.load();
        self.daemon().freeze();
        thread::sleep(time);
        self.daemon().thaw();
        self.goes_on(load);
    }

    /// After a fault that did not end the server: requests go on, and nothing is lost.
    fn goes_on(&mut self, load: Load) {
        load.wait_for_within(load.answers() + 50, Duration::from_secs(60));
        self.errors(load);
        self.flush_surely();
        self.check(Keeps::Completed);
    }

    pub(crate) fn store_down(&mut self, time: Duration, kill: bool) {
        let load = self.load();
        self.world.kill_store();
        if !kill {
            thread::sleep(time);
            self.world.start_store();
            return self.goes_on(load);
        }
        thread::sleep(time.saturating_sub(PATIENT));
        self.kill(load);
        let daemon = self.start(self.owner, &[]);
        thread::sleep(time.min(PATIENT));
        self.world.start_store();
        self.gets_ready(daemon);
    }

    /// A server that began without a store has one now.
    fn gets_ready(&mut self, mut daemon: Daemon) {
        assert!(daemon.is_ready(), "the store is back, and it is not ready: {}", daemon.stderr());
        self.daemon = Some(daemon);
        self.check(Keeps::Completed);
    }

    pub(crate) fn store_full(&mut self, time: Duration, kill: bool) {
        let load = self.load();
        self.world.fill_store(true);
        thread::sleep(time);
        if !kill {
            self.world.fill_store(false);
            return self.goes_on(load);
        }
        self.kill(load);
        // An operator must mend this, so it is no shame to give up.
        let mut daemon = self.start(self.owner, &[]);
        if daemon.is_ready() {
            // The few pages that are left were enough.
            daemon.kill();
        } else {
            let ran = daemon.wait();
            assert!(ran.code.is_some_and(|c| c != 0) && ran.stderr.contains("no space"), "{ran:?}");
        }
        self.world.fill_store(false);
        self.recover(&[]);
    }

    pub(crate) fn network(&mut self, line: Line, time: Duration, late: bool, kill: bool) {
        let load = self.load();
        self.world.lines[self.owner].set(line);
        if !kill {
            thread::sleep(time);
            self.world.heal(self.owner, late);
            return self.goes_on(load);
        }
        thread::sleep(time.saturating_sub(PATIENT));
        self.kill(load);
        let daemon = self.start(self.owner, &[]);
        thread::sleep(time.min(PATIENT));
        self.world.heal(self.owner, late);
        self.gets_ready(daemon);
    }

    pub(crate) fn journal_full(&mut self, at: Full) {
        let load = self.load();
        match at {
            Full::Recovery => {
                self.kill(load);
                self.world.fill_journal(self.owner, true);
                self.recover(&[]);
                self.world.fill_journal(self.owner, false);
            }
            Full::Start => {
                self.stop(load);
                self.has_no_room(&[]);
                self.recover(&[]);
            }
            Full::Loss => {
                self.kill(load);
                self.world.hosts[self.owner].lose_journals();
                self.has_no_room(&["--takeover", "--lose-journal"]);
                // Nothing was acknowledged since; whether an opening was left behind is its own affair.
                self.daemon = Some(self.serve(self.owner, &["--takeover", "--lose-journal"]));
                self.check(Keeps::Flushed);
            }
        }
    }

    /// A server that needs a new ring says that there is no room for it.
    fn has_no_room(&mut self, flags: &[&str]) {
        self.world.fill_journal(self.owner, true);
        let mut daemon = self.start(self.owner, flags);
        assert!(!daemon.is_ready(), "it has a journal on a full disk: {}", daemon.stderr());
        let ran = daemon.wait();
        assert!(ran.code.is_some_and(|c| c != 0) && ran.stderr.contains("no room"), "{ran:?}");
        self.world.fill_journal(self.owner, false);
    }

    // --- takeovers

    pub(crate) fn freeze_takeover(&mut self, refused_first: bool, killed: bool) {
        let (old_host, new_host) = (self.owner, 1 - self.owner);
        let late = self.daemon().connect();
        let load = self.load();
        self.daemon().freeze();
        load.pause();
        if refused_first && !self.stale[new_host] {
            let mut daemon = self.start(new_host, &[]);
            assert!(!daemon.is_ready(), "it takes what is in use: {}", daemon.stderr());
            daemon.wait().failed(5, "is in use by host");
        }
        let taken = self.takes_over(new_host);
        let TakenOver { old, theirs, image, load_on_new } = taken;
        if killed {
            old.kill();
            self.tally.answers += load.answers() as u64;
            load.finish();
            self.stale[old_host] = true;
            is_prefix(&theirs, &image, self.daemon());
        } else {
            old.thaw();
            self.is_fenced(old_host, old, &late, load, &theirs, &image);
        }
        self.is_not_disturbed(load_on_new);
    }

    pub(crate) fn network_takeover(&mut self, line: Line, late: bool) {
        let (old_host, new_host) = (self.owner, 1 - self.owner);
        let client = self.daemon().connect();
        let load = self.load();
        self.world.lines[old_host].set(line);
        thread::sleep(Duration::from_millis(self.rng.random_range(0..400)));
        let TakenOver { old, theirs, image, load_on_new } = self.takes_over(new_host);
        load.pause();
        self.world.heal(old_host, late);
        self.is_fenced(old_host, old, &client, load, &theirs, &image);
        self.is_not_disturbed(load_on_new);
    }

    /// Another host takes the volume over, and gets load.
    fn takes_over(&mut self, new_host: usize) -> TakenOver {
        let flags = self.taking(new_host);
        let new = self.serve(new_host, flags);
        let old = self.daemon.replace(new).expect("there is a server");
        self.owner = new_host;
        let image = self.image();
        let ours = Arc::new(self.history.fork(&image));
        let theirs = std::mem::replace(&mut self.history, ours);
        let load_on_new = self.load();
        TakenOver { old, theirs, image, load_on_new }
    }

    /// A server that was taken over from makes nothing durable any more; what it was told of before is there.
    fn is_fenced(&mut self, host: usize, old: Daemon, late: &NbdClient, load: Load, theirs: &History, image: &[u8]) {
        self.tally.answers += load.answers() as u64;
        self.tally.errors += load.finish() as u64;
        // Whether this is taken into a journal is nobody's business; it must not become durable.
        drop(within(late, |nbd| nbd.write(0, &[1; 4096])));
        assert_eq!(within(late, NbdClient::flush), EIO_REPLY, "a fenced writer flushes");
        assert_eq!(
            within(late, |nbd| nbd.write_fua(4096, &[2; 4096])),
            EIO_REPLY,
            "a fenced writer makes a write durable"
        );
        assert_eq!(within(late, NbdClient::flush), EIO_REPLY, "a fenced writer flushes");
        // Those errors may have been about the outage. That it is fenced it learns in the end.
        let start = Instant::now();
        while !old.stderr().contains(FENCED) {
            assert_eq!(within(late, NbdClient::flush), EIO_REPLY, "a fenced writer flushes");
            assert!(start.elapsed() < RECOVERS, "it does not learn that it is fenced: {}", old.stderr());
            thread::sleep(Duration::from_millis(20));
        }
        is_prefix(theirs, image, self.daemon());
        self.tally.checks += 1;
        self.stale[host] = true;
        if self.rng.random() {
            old.kill();
        } else {
            old.terminate().failed(5, "fenced");
        }
    }

    fn is_not_disturbed(&mut self, load: Load) {
        self.errors(load);
        let nbd = self.daemon().connect();
        let written =
            within(&nbd, |nbd| write(nbd, &self.history, 0, 16, true).and_then(|()| flush(nbd, &self.history)));
        written.expect("the owner writes");
        drop(nbd);
        self.check(Keeps::Completed);
    }

    // --- a store that lies

    /// What the checker is there to find: an object that a flush waited for is gone, and the volume is served all the same.
    pub fn planted(&mut self, remove: bool) {
        self.daemon = Some(self.serve(0, &[]));
        let nbd = self.daemon().connect();
        for lba in 0..24 {
            write(&nbd, &self.history, lba * 16, 16, false).expect("a write");
            flush(&nbd, &self.history).expect("a flush");
        }
        drop(nbd);
        self.daemon.take().expect("there is a server").kill();
        self.history.crashed();
        if remove {
            std::fs::remove_file(self.world.newest_segment()).expect("there is one");
        }
        self.lose_ring(Loss::Elsewhere);
        let (_, outcome) = verify(self.daemon(), &self.history, Keeps::Flushed);
        println!("the volume is as it should be: {outcome:?}");
    }
}

/// A takeover, as it is under way.
struct TakenOver {
    old: Daemon,
    theirs: Arc<History>,
    image: Vec<u8>,
    load_on_new: Load,
}

fn is_prefix(theirs: &History, image: &[u8], new: &Daemon) {
    theirs.check(image, Keeps::Flushed).unwrap_or_else(|wrong| panic!("taken over: {wrong}; {}", new.stderr()));
}
