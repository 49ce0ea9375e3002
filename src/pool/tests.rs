//! Pools over a store in memory: passwords, races, damage, golden bytes.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use object_store::{ObjectStoreExt, path::Path};
use proptest::prelude::*;
use secrecy::SecretString;

use super::chain::Chain;
use super::record::Record;
use super::slot::Slot;
use super::*;
use crate::store::StoreError;
use crate::store::faults::{Act, Faulty};
use crate::store::timeline::Timeline;

const POOL: Chain = Chain("pool");
const VOLUMES: Chain = Chain("volumes");
/// The cheapest that Argon2 allows: what it costs is not what is tested.
const CHEAP: Argon2Params = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };

struct World {
    time: Timeline,
    env: crate::env::Env,
    faulty: Arc<Faulty>,
    store: Store,
}

impl World {
    fn new() -> World {
        let time = Timeline::default();
        let faulty = Faulty::new(&time).arc();
        let store = Store::over(faulty.clone(), "p", "test://p", time.env());
        World { env: time.env(), time, faulty, store }
    }

    fn format(&self) -> Pool {
        self.time.run(Pool::format(self.store.clone(), &pw("secret"), CHEAP, &self.env)).unwrap()
    }

    fn open(&self, password: &str) -> Result<Pool, PoolError> {
        self.time.run(Pool::open(self.store.clone(), &pw(password), &self.env))
    }

    fn raw(&self, key: &str) -> Vec<u8> {
        let path = Path::from(format!("p/{key}"));
        self.time.run(async { self.faulty.inner.get(&path).await.unwrap().bytes().await.unwrap() }).to_vec()
    }

    fn set_raw(&self, key: &str, bytes: Vec<u8>) {
        let path = Path::from(format!("p/{key}"));
        self.time.run(self.faulty.inner.put(&path, bytes.into())).unwrap();
    }

    fn create(&self, pool: &Pool, name: &str) -> Result<VolumeRecord, PoolError> {
        self.time.run(pool.create_volume(new(name), &self.env))
    }
}

fn pw(text: &str) -> SecretString {
    SecretString::from(text.to_string())
}

fn new(name: &str) -> NewVolume {
    NewVolume { name: name.to_string(), size: 1 << 30, block_size: 4096, compression: Compression::Lz4 }
}

#[test]
fn a_pool_opens_with_its_password_only() {
    let w = World::new();
    assert_eq!(w.open("secret").unwrap_err(), PoolError::NotAPool("test://p".into()));
    let made = w.format();
    let opened = w.open("secret").unwrap();
    assert_eq!(opened.id(), made.id());
    assert_eq!(opened.id_hex().len(), 32);
    assert_eq!(opened.keys().mac(keys::Purpose::Record, b"x"), made.keys().mac(keys::Purpose::Record, b"x"));
    assert_eq!(w.open("Secret").unwrap_err(), PoolError::WrongPassword);
    assert_eq!(w.open("").unwrap_err(), PoolError::WrongPassword);
}

#[test]
fn a_pool_is_not_made_over_another_nor_without_a_password() {
    let w = World::new();
    let empty = w.time.run(Pool::format(w.store.clone(), &pw(""), CHEAP, &w.env)).unwrap_err();
    assert_eq!(empty, PoolError::EmptyPassword);
    w.format();
    let before = w.raw(&POOL.key(1));
    let again = w.time.run(Pool::format(w.store.clone(), &pw("other"), CHEAP, &w.env)).unwrap_err();
    assert_eq!(again, PoolError::AlreadyAPool("test://p".into()));
    assert_eq!(w.raw(&POOL.key(1)), before);
}

#[test]
fn of_two_who_make_a_pool_one_wins() {
    let w = World::new();
    let w = &w;
    let make = |password| {
        let password = pw(password);
        async move { Pool::format(w.store.clone(), &password, CHEAP, &w.env).await.map(|p| *p.id()) }
    };
    // Slow GETs and PUTs make the two take turns.
    for _ in 0..60 {
        w.faulty.push_put(Act::Slow(Duration::from_millis(10)));
    }
    let (a, b) = w.time.run(async { join(make("a"), make("b")).await });
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let (winner, loser) = if a.is_ok() { ("a", "b") } else { ("b", "a") };
    assert!(w.open(winner).is_ok());
    assert_eq!(w.open(loser).unwrap_err(), PoolError::WrongPassword);
}

#[test]
fn a_store_that_overwrites_is_refused() {
    let time = Timeline::default();
    let store = Store::over(Faulty::new(&time).overwriting().arc(), "", "test://", time.env());
    let e = time.run(Pool::format(store, &pw("x"), CHEAP, &time.env())).unwrap_err();
    assert!(matches!(e, PoolError::Store(StoreError::Unsupported(_))), "{e}");
}

#[test]
fn a_changed_password_is_the_only_one_that_opens() {
    let w = World::new();
    let pool = w.format();
    let volume = w.create(&pool, "v").unwrap();
    w.time.run(pool.change_password(&pw("fresh"), &w.env)).unwrap();
    assert_eq!(w.open("secret").unwrap_err(), PoolError::WrongPassword);
    let opened = w.open("fresh").unwrap();
    assert_eq!(w.time.run(opened.volume("v")).unwrap(), volume, "the data's keys are the same");
    assert_eq!(w.time.run(pool.change_password(&pw("again"), &w.env)).unwrap_err(), PoolError::SlotGone);
    assert_eq!(w.time.run(opened.change_password(&pw(""), &w.env)).unwrap_err(), PoolError::EmptyPassword);
    w.time.run(opened.change_password(&pw("third"), &w.env)).unwrap();
    assert!(w.open("third").is_ok());
}

#[test]
fn a_damaged_record_is_not_a_wrong_password() {
    let w = World::new();
    w.format();
    let key = POOL.key(1);
    let good = w.raw(&key);
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        w.set_raw(&key, bad);
        let e = w.open("secret").unwrap_err();
        assert!(matches!(e, PoolError::Damaged { .. } | PoolError::Newer { .. }), "byte {at}: {e}");
        assert!(e.to_string().contains(&key), "{e}");
    }
    for len in [0, 7, 8, 10, 50, good.len() - 1] {
        w.set_raw(&key, good[..len].to_vec());
        assert!(matches!(w.open("secret"), Err(PoolError::Damaged { .. })), "cut at {len}");
    }
}

#[test]
fn an_old_record_under_a_new_number_is_refused() {
    let w = World::new();
    let pool = w.format();
    w.time.run(pool.change_password(&pw("fresh"), &w.env)).unwrap();
    w.set_raw(&POOL.key(3), w.raw(&POOL.key(1)));
    let e = w.open("secret").unwrap_err();
    assert!(e.to_string().contains("another key"), "{e}");
}

#[test]
fn a_record_made_without_the_pool_key_is_refused() {
    let w = World::new();
    let pool = w.format();
    let bytes = Bytes::from(w.raw(&POOL.key(1)));
    let mut record = Record::decode("k", 1, &bytes).unwrap().record;
    record.n = 2;
    let stranger = PoolKeys::new(*pool.id(), 1, &[9; 32]);
    w.set_raw(&POOL.key(2), record.encode(&stranger).to_vec());
    let e = w.open("secret").unwrap_err();
    assert!(e.to_string().contains("not made with the pool's key"), "{e}");
}

#[test]
fn a_newer_format_says_so() {
    let w = World::new();
    w.format();
    let mut bytes = w.raw(&POOL.key(1));
    bytes[8] = 2;
    w.set_raw(&POOL.key(1), bytes);
    let e = w.open("secret").unwrap_err();
    assert!(matches!(e, PoolError::Newer { found: 2, .. }) && e.to_string().contains("newer esker"), "{e}");
}

#[test]
fn volumes_come_and_go_and_numbers_are_never_used_again() {
    let w = World::new();
    let pool = w.format();
    assert!(w.time.run(pool.volumes()).unwrap().is_empty());
    let a = w.create(&pool, "a").unwrap();
    let b = w.create(&pool, "b").unwrap();
    assert_eq!((a.number, b.number, a.size, a.block_size), (1, 2, 1 << 30, 4096));
    assert_ne!(a.uuid, b.uuid);
    assert_eq!(w.create(&pool, "a").unwrap_err(), PoolError::VolumeExists("a".into()));
    w.time.run(pool.delete_volume_record(&b, &w.env)).unwrap();
    assert_eq!(w.time.run(pool.delete_volume_record(&b, &w.env)).unwrap_err(), PoolError::NoSuchVolume("b".into()));
    assert_eq!(w.time.run(pool.volume("b")).unwrap_err(), PoolError::NoSuchVolume("b".into()));
    assert_eq!(w.create(&pool, "b").unwrap().number, 3);
    let late = w.time.run(pool.delete_volume_record(&b, &w.env));
    assert_eq!(late.unwrap_err(), PoolError::NoSuchVolume("b".into()), "a new volume of that name stays");
    let names: Vec<String> = w.time.run(pool.volumes()).unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn names_sizes_and_block_sizes_are_checked() {
    let w = World::new();
    let pool = w.format();
    let long = "x".repeat(65);
    for name in ["", ".a", "-a", "_a", "a/b", "a b", "ä", "a\n", &long] {
        assert!(matches!(w.create(&pool, name), Err(PoolError::Name(_))), "{name:?}");
    }
    for name in ["a", "0", "A.b_c-d", &long[..64]] {
        w.create(&pool, name).unwrap();
    }
    for size in [0, 1, 4095, 4097, 1 << 63, u64::MAX] {
        let new = NewVolume { size, ..new("s") };
        assert_eq!(w.time.run(pool.create_volume(new, &w.env)).unwrap_err(), PoolError::Size(size));
    }
    let large = NewVolume { size: MAX_VOLUME_BYTES, ..new("large") };
    w.time.run(pool.create_volume(large, &w.env)).unwrap();
    for block_size in [0, 511, 1024, 8192] {
        let new = NewVolume { block_size, ..new("s") };
        assert_eq!(w.time.run(pool.create_volume(new, &w.env)).unwrap_err(), PoolError::BlockSize(block_size));
    }
}

#[test]
fn changes_at_the_same_time_all_happen() {
    let w = World::new();
    let pool = w.format();
    for n in 0..40 {
        w.faulty.push_put(Act::Slow(Duration::from_millis(5 + n % 3)));
        w.faulty.push_get(Act::Slow(Duration::from_millis(3)));
    }
    let names: Vec<String> = (0..6).map(|n| format!("v{n}")).collect();
    let all = names.iter().map(|name| pool.create_volume(new(name), &w.env));
    let made = w.time.run(futures::future::try_join_all(all)).unwrap();
    let mut numbers: Vec<u32> = made.iter().map(|v| v.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(w.time.run(pool.catalogue()).unwrap().n, 6);
    let same = join(pool.create_volume(new("same"), &w.env), pool.create_volume(new("same"), &w.env));
    for _ in 0..9 {
        w.faulty.push_get(Act::Slow(Duration::from_millis(3)));
    }
    let (a, b) = w.time.run(same);
    assert!(a.is_ok() != b.is_ok(), "one name, one volume: {a:?} {b:?}");
}

#[test]
fn a_catalogue_under_another_number_or_of_another_pool_is_refused() {
    let w = World::new();
    let pool = w.format();
    w.create(&pool, "a").unwrap();
    w.create(&pool, "b").unwrap();
    let old = w.raw(&VOLUMES.key(1));
    w.set_raw(&VOLUMES.key(3), old);
    let e = w.time.run(pool.volumes()).unwrap_err();
    assert!(matches!(e, PoolError::Sealed(sealed::SealedError::Auth { .. })), "{e}");
    assert!(e.to_string().contains(&VOLUMES.key(3)));

    let other = World::new();
    // Other random bytes than the first world's.
    other.env.random16();
    let other_pool = other.format();
    other.set_raw(&VOLUMES.key(1), w.raw(&VOLUMES.key(1)));
    let e = other.time.run(other_pool.volumes()).unwrap_err();
    assert!(matches!(e, PoolError::Sealed(sealed::SealedError::Auth { .. })), "{e}");
}

#[test]
fn strangers_objects_in_a_chain_are_passed_over() {
    let w = World::new();
    let pool = w.format();
    w.create(&pool, "a").unwrap();
    w.set_raw("volumes/README", b"hello".to_vec());
    w.set_raw("pool/.keep", b"".to_vec());
    assert!(w.open("secret").is_ok());
    assert_eq!(w.time.run(pool.volumes()).unwrap().len(), 1);
}

#[test]
fn a_store_that_comes_back_is_waited_for_and_one_that_does_not_is_named() {
    let w = World::new();
    w.format();
    for _ in 0..5 {
        w.faulty.push_get(Act::Fail("503 SlowDown"));
    }
    assert!(w.open("secret").is_ok());
    for _ in 0..500 {
        w.faulty.push_get(Act::Fail("503 SlowDown"));
    }
    let e = w.open("secret").unwrap_err();
    assert!(e.to_string().contains("SlowDown"), "{e}");
}

#[test]
fn argon2_settings_out_of_bounds_are_refused() {
    let w = World::new();
    for params in [
        Argon2Params { memory_kib: 1, ..CHEAP },
        Argon2Params { memory_kib: u32::MAX, ..CHEAP },
        Argon2Params { passes: 0, ..CHEAP },
        Argon2Params { lanes: 65, memory_kib: 1 << 20, ..CHEAP },
    ] {
        let e = w.time.run(Pool::format(w.store.clone(), &pw("x"), params, &w.env)).unwrap_err();
        assert!(matches!(e, PoolError::Argon2(_)), "{e}");
    }
    assert!(w.store.counts().is_empty(), "before anything is asked of the store");
}

fn golden(name: &str, built: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/pool/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, built).unwrap();
    }
    std::fs::read(path).unwrap()
}

fn golden_slot() -> Slot {
    let mut slot = Slot { id: 5, params: CHEAP, salt: [3; 16], wrap_salt: [4; 16], wrapped: [0; 48] };
    let mut kek = [0; 32];
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, CHEAP.check().unwrap())
        .hash_password_into(b"golden", &slot.salt, &mut kek)
        .unwrap();
    slot.wrap(&kek, &[1; 16], 7, &[2; 32]);
    slot
}

#[test]
fn the_golden_record_is_what_is_built_and_opens() {
    let keys = PoolKeys::new([1; 16], 7, &[2; 32]);
    let record =
        Record { n: 9, pool_id: [1; 16], generation: 7, made_ms: 1_700_000_000_000, slots: vec![golden_slot()] };
    let built = record.encode(&keys);
    let bytes = golden("pool-record.bin", &built);
    assert!(built == bytes, "what is built is not what format version 1 says");
    let read = Record::decode("k", 9, &Bytes::from(bytes.clone())).unwrap();
    assert_eq!(read.verify(&keys).unwrap(), record);

    let w = World::new();
    w.set_raw(&POOL.key(9), bytes);
    let pool = w.open("golden").unwrap();
    assert_eq!((pool.id(), pool.keys().generation()), (&[1; 16], 7));
}

#[test]
fn the_golden_catalogue_is_what_is_built_and_opens() {
    let keys = PoolKeys::new([1; 16], 7, &[2; 32]);
    let volume = |number, name: &str, size, block_size, compression| VolumeRecord {
        number,
        uuid: [number as u8; 16],
        name: name.to_string(),
        size,
        block_size,
        compression,
        created_ms: 1_700_000_000_000 + u64::from(number),
    };
    let volumes = vec![
        volume(1, "a", 4096, 512, Compression::None),
        volume(3, "disk.2-x_y", 1 << 40, 4096, Compression::Lz4),
        volume(70_000, "z", MAX_VOLUME_BYTES, 4096, Compression::Zstd),
    ];
    let catalogue = Catalogue { n: 4, next: 70_002, volumes };
    let key = VOLUMES.key(4);
    let built = sealed::seal_object(&keys, sealed::ObjectKind::Catalogue, &key, [6; 16], &catalogue.encode());
    let bytes = golden("catalogue.bin", &built);
    assert!(built == bytes, "what is built is not what format version 1 says");
    let payload = sealed::open_object(&keys, sealed::ObjectKind::Catalogue, &key, &bytes).unwrap();
    assert_eq!(Catalogue::decode(4, &payload).unwrap(), catalogue);
}

fn a_catalogue() -> impl Strategy<Value = Catalogue> {
    let volume = ("[a-z0-9][a-zA-Z0-9._-]{0,20}", 1u64..1 << 50, any::<bool>(), 0u8..3, any::<[u8; 16]>());
    prop::collection::vec(volume, 0..20).prop_map(|made| {
        let mut volumes: Vec<VolumeRecord> = Vec::new();
        for (n, (name, pages, small, compression, uuid)) in made.into_iter().enumerate() {
            volumes.push(VolumeRecord {
                number: 2 * n as u32,
                uuid,
                name: format!("{name}{n}"),
                size: pages * 4096,
                block_size: if small { 512 } else { 4096 },
                compression: Compression::from_u8(compression).unwrap(),
                created_ms: pages,
            });
        }
        Catalogue { n: 3, next: 2 * volumes.len() as u32 + 1, volumes }
    })
}

proptest! {
    #[test]
    fn catalogues_round_trip_and_cut_ones_are_refused(catalogue in a_catalogue(), at: prop::sample::Index) {
        let bytes = catalogue.encode();
        prop_assert_eq!(&Catalogue::decode(3, &bytes).unwrap(), &catalogue);
        prop_assert!(Catalogue::decode(3, &bytes[..at.index(bytes.len())]).is_err());
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(Catalogue::decode(3, &longer).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), stamp: bool) {
        drop(Catalogue::decode(1, &bytes));
        let mut record = bytes;
        if stamp {
            record.splice(..0, *b"ESKERPOL\x01\x00\x01\x00");
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &record) as u32;
            record.extend_from_slice(&crc.to_le_bytes());
        }
        prop_assert!(Record::decode("k", 1, &record.into()).is_err());
    }
}
