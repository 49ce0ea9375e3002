//! Pool records and catalogues, and what lies beside them.

use super::*;
use crate::pool::{ChainKey, PoolError};

async fn three_of_each(w: &World) {
    for n in 0..2 {
        let password = SecretString::from(if n == 0 { "next" } else { "secret" });
        let old = SecretString::from(if n == 0 { "secret" } else { "next" });
        let store = Store::over(w.objects.clone(), "p", "test", w.env.clone());
        let pool = Pool::open(store, &old, &w.env).await.unwrap();
        pool.change_password(&password, &w.env).await.unwrap();
        pool.create_volume(World::called(&format!("v{n}")), &w.env).await.unwrap();
    }
}

#[test]
fn every_pool_record_and_catalogue_is_looked_at() {
    let w = World::new();
    w.run(async {
        three_of_each(&w).await;
        clean(&w.scrub().await);
        let record: fn(u64) -> ChainKey = ChainKey::Record;
        for (key, damaged, newest) in [
            (record, "damaged-pool-record", "cannot be opened"),
            (ChainKey::Catalogue, "damaged-catalogue", "no volume"),
        ] {
            for n in 1..=3 {
                let key = key(n).key();
                let whole = w.object(&key).await;
                w.flip(&key, 60).await;
                let report = w.scrub().await;
                assert_eq!(said(&report), [(damaged, key.clone(), vec![])]);
                let effect = only(&report).effect();
                assert_eq!(effect.contains(newest), n == 3, "{n}: {effect}");
                w.cut(&key, 40).await;
                assert_eq!(said(&w.scrub().await), [("truncated-object", key.clone(), vec![])]);
                w.delete(&key).await;
                let missing = w.scrub().await;
                match n {
                    // Nothing tells that there was a newer one.
                    3 => clean(&missing),
                    _ => assert_eq!(said(&missing), [("missing-object", key.clone(), vec![])]),
                }
                w.put(&key, &whole).await;
            }
        }
        w.swap(&ChainKey::Catalogue(1).key(), &ChainKey::Catalogue(2).key()).await;
        assert_eq!(said(&w.scrub().await).len(), 2);
        assert_eq!(w.scrub().await.volumes.len(), 3, "the newest that can be read names the volumes");
    });
}

#[test]
fn a_pool_whose_newest_record_is_damaged_is_looked_at_by_an_older_one() {
    let w = World::new();
    w.run(async {
        three_of_each(&w).await;
        let key = ChainKey::Record(3).key();
        w.flip(&key, -1).await;
        let store = || Store::over(w.objects.clone(), "p", "test", w.env.clone());
        let secret = SecretString::from("secret");
        let error = Pool::open(store(), &secret, &w.env).await.err().unwrap();
        assert_eq!(said(&unopenable(&error).unwrap()), [("damaged-pool-record", key.clone(), vec![])]);
        let pool = Pool::open_older(store(), &secret, &w.env).await.unwrap();
        let report = scrub(&pool, None, ScrubOptions::default(), &w.env, &()).await.unwrap();
        assert_eq!(said(&report), [("damaged-pool-record", key, vec![])]);
        let wrong = Pool::open_older(store(), &SecretString::from("wrong"), &w.env).await;
        assert_eq!(wrong.err(), Some(PoolError::WrongPassword));
        assert!(unopenable(&PoolError::WrongPassword).is_none());
    });
}

#[test]
fn strangers_are_told_wherever_they_lie() {
    let w = World::with_history();
    w.run(async {
        let log = format!("log/{:08x}/zzz", w.volume.number);
        let nobody = SegmentId::data(77, 1, 0).key();
        let strays = ["about", "data/x", &nobody, &log, "pool/zzz", "snapshots/1", "volumes/1", "zebra"];
        for key in strays {
            w.put(key, b"12345").await;
        }
        w.put("probe/0123", b"left").await;
        let report = w.scrub().await;
        let mut expected: Vec<Said> = strays.iter().map(|k| ("unknown-object", (*k).to_owned(), vec![])).collect();
        expected.push(("leftover-probe", "probe/0123".into(), vec![]));
        let (mut got, mut expected) = (said(&report), expected);
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
        assert!(!report.is_damaged());
        assert_eq!(report.findings.count(Severity::Note), 9);
        assert!(report.findings.iter().all(|f| f.effect().starts_with("wastes")), "{got:?}");
        let one = scrub(&w.pool, Some("v"), ScrubOptions::default(), &w.env, &()).await.unwrap();
        let mut keys: Vec<_> = said(&one).into_iter().map(|(_, key, _)| key).collect();
        keys.sort();
        assert_eq!(keys, [log, "pool/zzz".into(), "volumes/1".into()], "only what is about the volume");
    });
}

#[test]
fn a_volume_that_was_opened_is_one_whatever_the_catalogues_say() {
    let w = World::with_history();
    w.run(async {
        let before = w.scrub().await;
        clean(&before);
        let key = ChainKey::Catalogue(1).key();
        let whole = w.object(&key).await;
        w.flip(&key, 60).await;
        let unreadable = w.scrub().await;
        assert_eq!(said(&unreadable), [("damaged-catalogue", key.clone(), vec![])], "its objects are no waste");
        assert_eq!(unreadable.volumes[0].live_blocks, before.volumes[0].live_blocks);
        let named = scrub(&w.pool, Some("v"), ScrubOptions::default(), &w.env, &()).await.unwrap();
        assert!(named.is_damaged(), "why it is not found");
        w.delete(&key).await;
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), [("missing-object", key.clone(), vec![])]);
            assert!(report.is_damaged());
        }
        w.put(&key, &whole).await;
        clean(&w.scrub().await);
        let error = scrub(&w.pool, Some("w"), ScrubOptions::default(), &w.env, &()).await.unwrap_err();
        assert_eq!(error, ScrubError::NoSuchVolume("w".into()));
    });
}

#[test]
fn an_epoch_whose_log_is_gone_is_told_by_its_data() {
    let w = World::with_history();
    w.run(async {
        let prefix = w.log(3, 0).rsplit_once('/').unwrap().0.to_string();
        for key in w.keys(&prefix).await {
            w.delete(&key).await;
        }
        let report = w.scrub().await;
        assert_eq!(said(&report), [("missing-object", w.log(3, 0), vec![])]);
        assert!(only(&report).effect().contains("before that epoch"), "{}", only(&report).effect());
    });
}
