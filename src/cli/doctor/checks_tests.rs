//! Hosts that are ready, and hosts that lack one thing each.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::host::{ControlDevice, Driver, IoUring, JournalFacts, NbdFacts, Release, Rights, UblkFacts};
use crate::ublk::Features;

/// What takes one thing away from a host.
type Lack = fn(&mut Facts);

/// A host with everything.
fn ready() -> Facts {
    Facts {
        ublk: UblkFacts {
            release: Release::parse("6.12.95"),
            control: ControlDevice::Open,
            driver: Driver::Running,
            io_uring: IoUring::Allowed,
            system: "debian".into(),
        },
        features: Some(Ok(Features(0x1fe))),
        nbd: NbdFacts { driver: Driver::Running, device: true, client: Some("/usr/sbin/nbd-client".into()) },
        rights: Rights { sys_admin: true, sys_resource: true, ipc_lock: true, memlock: None },
        journal: Ok(JournalFacts {
            path: "/run/esker".into(),
            tmpfs: true,
            noswap: true,
            free: 1 << 30,
            usual: 256 << 20,
        }),
        swap: Vec::new(),
        stacked_swap: Vec::new(),
        udev_rule: Some("/etc/udev/rules.d/60-esker.rules".into()),
    }
}

fn judged(facts: &Facts) -> (Vec<Check>, Verdict) {
    let checks = all(facts);
    let verdict = verdict(facts, &checks);
    (checks, verdict)
}

/// The names of checks that came out as `state`.
fn named(facts: &Facts, state: State) -> Vec<&'static str> {
    let mut names: Vec<_> = all(facts).iter().filter(|c| c.state == state).map(|c| c.name).collect();
    names.dedup();
    names
}

#[test]
fn a_host_with_everything_is_ready() {
    let (checks, verdict) = judged(&ready());
    assert_eq!(verdict, Verdict { ready: true, text: "ublk: ready".into() });
    let notes = checks.iter().filter(|c| c.state != State::Ok).count();
    assert_eq!((checks.len() - notes, notes), (12, 3), "{checks:#?}");
}

#[test]
fn each_lack_alone_makes_it_not_ready() {
    let lacks: [(&str, Lack); 8] = [
        ("ublk", |f| {
            f.ublk.control = ControlDevice::Missing;
            f.ublk.driver = Driver::Loadable;
            f.features = None;
        }),
        ("ublk", |f| {
            f.ublk.release = Release::parse("6.1.0");
            f.features = Some(Ok(Features(0x1fe)));
        }),
        ("ublk features", |f| f.features = Some(Ok(Features(0x1fe & !0x10)))),
        ("ublk features", |f| f.features = Some(Err("the kernel did not answer".into()))),
        ("io_uring", |f| {
            f.ublk.io_uring = IoUring::Refused(Some(2));
            f.features = None;
        }),
        ("privilege", |f| f.rights.sys_admin = false),
        ("journal", |f| f.journal.as_mut().unwrap().tmpfs = false),
        ("journal", |f| f.journal.as_mut().unwrap().free = 1 << 20),
    ];
    for (name, lack) in lacks {
        let mut facts = ready();
        lack(&mut facts);
        assert_eq!(named(&facts, State::Lacking), [name]);
        let (_, verdict) = judged(&facts);
        assert!(!verdict.ready && verdict.text.starts_with(&format!("ublk: not ready ({name}: ")), "{}", verdict.text);
    }
}

#[test]
fn what_is_only_risky_is_a_warning() {
    let mut facts = ready();
    facts.rights = Rights { sys_admin: true, sys_resource: false, ipc_lock: false, memlock: Some(8 << 20) };
    facts.swap = vec!["/dev/nbd3".into()];
    facts.stacked_swap = facts.swap.clone();
    facts.journal.as_mut().unwrap().noswap = false;
    assert_eq!(named(&facts, State::Warning), ["journal in swap", "locked memory", "io flusher", "swap"]);
    let (checks, verdict) = judged(&facts);
    assert_eq!(verdict, Verdict { ready: true, text: "ublk: ready, with 4 warnings".into() });
    assert!(checks.iter().any(|c| c.says.contains("8M") || c.says.contains("8 M")), "{checks:#?}");
    facts.rights.ipc_lock = true;
    assert_eq!(named(&facts, State::Warning), ["io flusher", "swap"]);
}

#[test]
fn the_verdict_says_what_nbd_can_do_instead() {
    let mut facts = ready();
    facts.rights.sys_admin = false;
    assert!(judged(&facts).1.text.contains("use --nbd: `esker attach --nbd` makes /dev/nbdN"));
    facts.nbd.device = false;
    facts.nbd.driver = Driver::Loadable;
    let text = judged(&facts).1.text;
    assert!(text.contains("makes no block device here") && text.contains("modprobe nbd"), "{text}");
    facts.journal.as_mut().unwrap().tmpfs = false;
    assert!(judged(&facts).1.text.contains("without a place for the journal"));
}
