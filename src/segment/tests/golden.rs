//! Golden files pin the bytes of the newest format; those in `v1` were made by the first, and are read for ever. `UPDATE_GOLDEN=1` writes them anew: only with a new version.

use std::path::PathBuf;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/segment/golden").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

fn golden(name: &str, built: &[u8]) -> Vec<u8> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path(name), built).unwrap();
    }
    read(name)
}

fn first_opening() -> Opening {
    Opening { epoch: 1, predecessor: None, replay: vec![], domain: Domain::Object, ..opening() }
}

#[test]
fn building_makes_the_golden_bytes() {
    let keys = keys();
    let made = [
        ("segment-stored.bin", sample(Compression::None).bytes),
        ("opening.bin", opening().seal(&keys, [0x55; 16])),
        ("opening-first.bin", first_opening().seal(&keys, [0x56; 16])),
        ("seal.bin", end_of_log().seal(&keys, [0x57; 16])),
    ];
    for (name, bytes) in made {
        assert!(golden(name, &bytes) == bytes, "{name}: what is built is not what the format says");
    }
}

/// Compressors may make other bytes in another version of theirs: these files need only be read for ever.
#[test]
fn golden_files_read() {
    let keys = keys();
    let files = [
        ("segment-stored.bin", Compression::None),
        ("segment-lz4.bin", Compression::Lz4),
        ("segment-zstd.bin", Compression::Zstd),
    ];
    for (name, how) in files {
        let built = sample(how);
        let bytes = golden(name, &built.bytes);
        assert_sample(how, &bytes);
        let index = whole_index(&keys, built.id, &bytes).unwrap();
        assert_eq!((&index.relocations, &index.trims), (&built.index.relocations, &built.index.trims), "{name}");
        assert_eq!((index.ops, index.checkpoint), (built.index.ops, built.index.checkpoint), "{name}");
        assert_eq!((index.salt, index.predecessor_salt), ([0x33; 16], [0x44; 16]), "{name}");
        assert_eq!(index.deletable, built.index.deletable, "{name}");
    }
    assert_eq!(Opening::open(&keys, 3, 2, &read("opening.bin")).unwrap(), opening());
    assert_eq!(Opening::open(&keys, 3, 1, &read("opening-first.bin")).unwrap(), first_opening());
    assert_eq!(Seal::open(&keys, 3, 1, 300, &read("seal.bin")).unwrap(), end_of_log());
}

/// What the first version did not have is absent, and all the rest is there.
#[test]
fn files_of_version_1_read() {
    let keys = keys();
    for (name, how) in [("v1/segment-stored.bin", Compression::None), ("v1/segment-zstd.bin", Compression::Zstd)] {
        let (built, bytes) = (sample(how), read(name));
        assert_sample(how, &bytes);
        let index = whole_index(&keys, built.id, &bytes).unwrap();
        let checkpoint = built.index.checkpoint.map(|c| CheckpointRef { usage: None, ..c });
        assert_eq!((index.checkpoint, index.introduced.len()), (checkpoint, 0), "{name}");
        assert_eq!(
            (&index.relocations, &index.deletable),
            (&built.index.relocations, &built.index.deletable),
            "{name}"
        );
    }
    assert_eq!(Opening::open(&keys, 3, 2, &read("v1/opening.bin")).unwrap(), opening());
    assert_eq!(Opening::open(&keys, 3, 1, &read("v1/opening-first.bin")).unwrap(), first_opening());
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    use aws_lc_rs::hmac;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &parts.concat());
    tag.as_ref().try_into().unwrap()
}

/// HKDF-SHA256 as docs/format.md states it, written out.
fn subkey(purpose: &str) -> [u8; 32] {
    let prk = hmac(&[0x11; 16], &[&[0x22; 32]]);
    hmac(&prk, &[b"esker 1 ", purpose.as_bytes(), &[1, 0, 0, 0], &[1]])
}

/// XChaCha20-Poly1305 of another crate, with the nonce that docs/format.md states.
fn decrypt(purpose: &str, salt: &[u8], number: u64, aad: &[&[u8]], sealed: &[u8]) -> Vec<u8> {
    let nonce: [u8; 24] = [salt, &number.to_le_bytes()].concat().try_into().unwrap();
    XChaCha20Poly1305::new(&subkey(purpose).into())
        .decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad.concat() })
        .unwrap()
}

/// docs/format.md read literally, with none of the code that it describes.
#[test]
fn the_document_suffices_for_a_segment() {
    let f = read("segment-stored.bin");
    let key = b"log/00000003/fffffffffffffffd/0000000000001234";
    assert_eq!(&f[..16], b"ESKERSEG\x02\0\0\0\x01\0\0\0");
    let trailer = &f[f.len() - 40..];
    assert_eq!(&trailer[..16], b"ESKERIDX\x02\0\0\0\x01\0\0\0");
    assert_eq!(trailer[16..32], f[16..32]);
    let number = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap()) as usize;
    assert_eq!(number(&trailer[36..]), f.len());
    let at = f.len() - 40 - number(&trailer[32..36]);
    let index = decrypt("index", &trailer[16..32], 0, &[trailer, &[0x11; 16], key], &f[at..f.len() - 40]);
    assert_eq!(index[..4], [0xe8, 0x07, 0x94, 0x0a], "operations 1000 to 1300");
    assert_eq!(index[4..20], [0x44; 16]);
    // The records' table is last: 5 records, the first of mask 1, extent 40 (zigzag 80), 4134 bytes.
    let table = index.windows(5).rposition(|w| w == [5, 1, 80, 0xa6, 0x20]).unwrap();
    let second = &index[table + 5..];
    assert_eq!(second[..4], [0b1000_0010, 3, 0xa6, 0x40], "extent 39 is two before the one expected: zigzag 3");
    let record = &f[32..32 + 4134];
    assert_eq!(record[..16], trailer[16..32]);
    assert_eq!(record[16..22], [0, 0, 1, 0, 1, 0], "number 0, generation 1, mask 1, stored");
    let aad: [&[u8]; 6] = [&[0x11; 16], &[0; 4], &40u64.to_le_bytes(), &[1], &[0], key];
    assert_eq!(decrypt("record", &record[..16], 0, &aad, &record[22..]), noise(1, BLOCK));
}

#[test]
fn the_document_suffices_for_an_opening() {
    let f = read("opening.bin");
    assert_eq!(&f[..16], b"ESKEROBJ\x02\0\x02\0\x01\0\0\0");
    let key = b"log/00000003/fffffffffffffffd/0000000000000000";
    let payload = decrypt("object", &f[16..32], 0, &[&f[..36], &[0x11; 16], key], &f[36..]);
    assert_eq!(f[32..36], (payload.len() as u32).to_le_bytes());
    let ids = [[1; 16], [2; 16], [3; 16], [4; 16]].concat();
    assert_eq!(
        payload,
        [
            &[3, 2],
            &ids[..],
            &[5],
            "höst".as_bytes(),
            &[1, 0],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20],
            &[1, 1, 0xac, 0x02],
            &[5; 16],
            &[1; 16],
            &[0, 1, 0xc8, 0x01, 0x88, 0x27, 0],
            &[1, 1, 0xc9, 0x01, 0xac, 0x02],
            &[0xf0, 0x2e],
            &[0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31],
        ]
        .concat()
    );
}
