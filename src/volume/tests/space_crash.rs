//! A crash at each request that compaction, its checkpoint and its deletions make, under load: at the first, at the second, and so
//! on until it gets through.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{Either, select};
use futures::join;

use super::hooked::{Act, Hooked};
use super::space::eager;
use super::*;
use crate::scrub::{ScrubOptions, scrub};

/// Requests are not counted yet.
const UNARMED: u64 = u64::MAX;
const BLOCKS: u64 = 96;

/// When it crashes, and what then is left.
#[derive(Debug, Clone, Copy)]
struct Crash {
    /// At this request, from 1.
    at: u64,
    /// That one still lands.
    lands: bool,
    /// The journal is lost, too.
    host: bool,
}

/// What each block may be; the seed of its noise, or none for zeroes.
#[derive(Default)]
struct Model(BTreeMap<u64, Vec<Option<u64>>>);

impl Model {
    /// It is on its way: before it is acknowledged the old is as good.
    fn begins(&mut self, lba: u64, value: Option<u64>) {
        self.0.entry(lba).or_insert_with(|| vec![None]).push(value);
    }

    /// Nothing older can be there any more.
    fn settled(&mut self, lba: u64) {
        let Some(values) = self.0.get_mut(&lba) else { return };
        values.drain(..values.len() - 1);
    }

    fn all_settled(&mut self) {
        (0..BLOCKS).for_each(|lba| self.settled(lba));
    }

    /// Reads all; what each block is now it has to stay.
    async fn check(&mut self, v: &Volume, crash: Crash) {
        for lba in 0..BLOCKS {
            let got = read(v, lba * 4096, 4096).await.unwrap();
            let values = self.0.entry(lba).or_insert_with(|| vec![None]);
            let is = |seed: &Option<u64>| got == seed.map_or_else(|| vec![0; 4096], |seed| noise(4096, seed).to_vec());
            let found = values.iter().copied().find(is);
            let found = found.unwrap_or_else(|| panic!("block {lba} is none of {values:?} after {crash:?}"));
            *values = vec![found];
        }
    }
}

/// Requests take 5 ms until it dies; then nothing happens any more.
fn hook(left: Arc<AtomicU64>, lands: bool) -> impl Fn(hooked::Verb, &str) -> Act + Send + Sync {
    move |_, _| match left.load(Ordering::Acquire) {
        UNARMED => Act::Slow(Duration::from_millis(5)),
        0 => Act::Hang,
        n => {
            left.store(n - 1, Ordering::Release);
            match n {
                1 if lands => Act::LandThenFail,
                1 => Act::Hang,
                _ => Act::Slow(Duration::from_millis(5)),
            }
        }
    }
}

/// Flushed data in many segments, much of it overwritten, some trimmed.
async fn prepare(v: &Volume, model: &mut Model) {
    for n in 0..BLOCKS + 48 {
        let lba = if n < BLOCKS { n } else { n * 37 % BLOCKS };
        model.begins(lba, Some(n));
        v.write(lba * 4096, noise(4096, n), false).await.unwrap();
        if n % 8 == 7 {
            v.flush().await.unwrap();
        }
    }
    (80..88).for_each(|lba| model.begins(lba, None));
    v.discard(80 * 4096, 8 * 4096, false).await.unwrap();
    v.flush().await.unwrap();
    model.all_settled();
}

/// Writes and trims here and there, of what is being moved, too.
async fn load(v: &Volume, model: &mut Model, env: &Env, host: bool) {
    for n in 1000..1040 {
        let lba = n * 13 % BLOCKS;
        env.clock.sleep(Duration::from_millis(7)).await;
        let seed = (n % 4 > 0).then_some(n);
        model.begins(lba, seed);
        match seed {
            Some(seed) => v.write(lba * 4096, noise(4096, seed), false).await.unwrap(),
            None => v.discard(lba * 4096, 4096, false).await.unwrap(),
        }
        if !host {
            model.settled(lba);
        }
        if n % 10 == 0 {
            v.flush().await.unwrap();
            model.all_settled();
        }
    }
}

/// Compacts under load until the crash. Answers whether it came to that: whether there were as many requests.
async fn live(w: &World, env: &Env, options: AttachOptions, crash: Crash, model: &mut Model) -> bool {
    let left = Arc::new(AtomicU64::new(UNARMED));
    let pool = Hooked::pool_in(w, env, hook(left.clone(), crash.lands)).await;
    let v = Volume::attach(&pool, &w.volume, options, env.clone()).await.unwrap();
    prepare(&v, model).await;
    left.store(crash.at, Ordering::Release);
    let work = async {
        let (compacted, ()) = join!(v.compact(&|_| ()), load(&v, model, env, crash.host));
        compacted.unwrap();
        env.clock.sleep(Duration::from_secs(60)).await;
    };
    let death = async {
        while left.load(Ordering::Acquire) > 0 {
            env.clock.sleep(Duration::from_millis(1)).await;
        }
        // What runs side by side goes on until it asks the store for something.
        env.clock.sleep(Duration::from_millis(500)).await;
    };
    matches!(select(std::pin::pin!(work), std::pin::pin!(death)).await, Either::Right(_))
}

/// What is there afterwards is what may be there; it can be compacted again; and nothing is damaged, lost or left over.
async fn recovers(w: &World, options: AttachOptions, crash: Crash, model: &mut Model) {
    let v = w.attach_as(options).await.unwrap_or_else(|e| panic!("{e} after {crash:?}"));
    model.check(&v, crash).await;
    w.settle().await;
    v.compact(&|_| ()).await.unwrap();
    w.settle().await;
    model.check(&v, crash).await;
    v.detach().await.unwrap();
    w.crash(v).await;
    let options = ScrubOptions { data: true, ..ScrubOptions::default() };
    let report = scrub(&w.pool, None, options, &w.env, &()).await.unwrap();
    let found: Vec<String> =
        report.findings.iter().map(|f| format!("{}: {}: {}", f.kind.word(), f.key, f.why)).collect();
    assert!(found.is_empty(), "{found:?} after {crash:?}");
}

/// Whether it crashed.
fn crashes(crash: Crash) -> bool {
    let (w, mut model) = (World::new(1 << 20), Model::default());
    let mut options = AttachOptions { segment_bytes: 64 << 10, checkpoint_segments: 1000, ..eager(&w) };
    let died = {
        let time = Timeline::default();
        time.run(live(&w, &time.env(), options.clone(), crash, &mut model))
    };
    if crash.host {
        w.lose_journals(1);
        options.host = w.options(1, 2).host;
    }
    w.run(recovers(&w, options, crash, &mut model));
    died
}

/// At each request in turn, lost and landed.
fn at_each_request(host: bool) {
    for lands in [false, true] {
        let mut at = 1;
        loop {
            if !crashes(Crash { at, lands, host }) {
                break;
            }
            at += 1;
        }
        println!("{} requests, lands: {lands}, host: {host}", at - 1);
        assert!(at > 50, "only {at} requests: that was no compaction");
    }
}

#[test]
fn a_crash_of_the_daemon_at_any_request_of_compaction_and_deletion_loses_nothing() {
    at_each_request(false);
}

#[test]
fn a_crash_of_the_host_at_any_request_of_compaction_and_deletion_loses_nothing_flushed() {
    at_each_request(true);
}
