#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;

fn disk() -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    disk.create_bucket("b").unwrap();
    (dir, disk)
}

fn put(disk: &Disk, key: &str) -> Meta {
    disk.put("b", key, &[Bytes::from(key.to_owned())], &Condition::Always).unwrap()
}

const KEYS: &[&str] = &[
    "a",
    "a-b",
    "a.b/c",
    "ab",
    "b/c",
    "b//d",
    "e/",
    "b0",
    "c%d",
    "c/%",
    "c/./e",
    "c/../f",
    "log/1/ff/0",
    "log/1/ff/1",
    "log/1/fe/0",
    "log/10/0",
    "z",
];

/// What S3 answers, computed the plain way.
fn plain(keys: &BTreeSet<String>, q: &ListQuery) -> (Vec<String>, bool) {
    let mut out: Vec<String> = Vec::new();
    for key in keys.iter().filter(|k| k.starts_with(&q.prefix) && (q.after.is_empty() || **k > q.after)) {
        if q.beyond.as_ref().is_some_and(|b| key.starts_with(b.as_str())) {
            continue;
        }
        let line = match key[q.prefix.len()..].find(&q.delimiter) {
            Some(at) if !q.delimiter.is_empty() => key[..q.prefix.len() + at + q.delimiter.len()].to_owned(),
            _ => key.clone(),
        };
        if out.last() != Some(&line) {
            out.push(line);
        }
    }
    let truncated = out.len() > q.limit && q.limit > 0;
    out.truncate(q.limit);
    (out, truncated)
}

#[test]
fn listing_agrees_with_the_plain_way() {
    let (_dir, disk) = disk();
    // `a` is no leading component of another key, nor is any other.
    for key in KEYS {
        put(&disk, key);
    }
    let keys: BTreeSet<String> = KEYS.iter().map(|k| (*k).to_owned()).collect();
    let words = ["", "a", "b", "b/", "b//", "c", "c/", "c/.", "log", "log/1", "log/1/", "log/1/fe/0", "log/1/ff", "zz"];
    for prefix in words {
        for after in words {
            for delimiter in ["", "/", "f", "./"] {
                for limit in [0, 1, 2, 3, 100] {
                    let query = ListQuery {
                        prefix: prefix.into(),
                        after: after.into(),
                        delimiter: delimiter.into(),
                        beyond: None,
                        limit,
                    };
                    let got = disk.list("b", &query).unwrap();
                    let lines: Vec<String> = got
                        .items
                        .into_iter()
                        .map(|l| match l {
                            Listed::Object(key, meta) => {
                                assert_eq!(meta.size, key.len() as u64);
                                key
                            }
                            Listed::Prefix(p) => p,
                        })
                        .collect();
                    assert_eq!((lines, got.truncated), plain(&keys, &query), "{query:?}");
                }
            }
        }
    }
}

#[test]
fn conditions_hold() {
    let (_dir, disk) = disk();
    let one = [Bytes::from_static(b"one")];
    let put = |c: &Condition| disk.put("b", "x/y", &one, c);
    assert!(matches!(put(&Condition::Present), Err(DiskError::NoSuchKey)));
    let first = put(&Condition::Absent).unwrap();
    assert!(matches!(put(&Condition::Absent), Err(DiskError::Precondition)));
    let second = put(&Condition::Tag(first.tag())).unwrap();
    assert_ne!(first.tag(), second.tag(), "the same bytes put twice are two versions");
    assert!(matches!(put(&Condition::Tag(first.tag())), Err(DiskError::Precondition)));
    assert_eq!(disk.get("b", "x/y").unwrap().meta, second);
    assert!(matches!(disk.put("c", "x", &one, &Condition::Always), Err(DiskError::NoSuchBucket)));
    assert_eq!(fs::read_dir(disk.root().join(SCRATCH)).unwrap().count(), 0, "refused bodies are removed");
}

#[test]
fn deleting_leaves_no_directories_and_races_with_nothing() {
    let (_dir, disk) = disk();
    std::thread::scope(|s| {
        for t in 0..4 {
            let disk = &disk;
            s.spawn(move || {
                for i in 0..200 {
                    let key = format!("deep/er/{}/{t}-{i}", i % 3);
                    put(disk, &key);
                    assert_eq!(&disk.get("b", &key).unwrap().read(0, key.len()).unwrap()[..], key.as_bytes());
                    disk.delete("b", &key).unwrap();
                    disk.delete("b", &key).unwrap();
                }
            });
        }
    });
    assert!(disk.delete_bucket("b").is_ok());
    assert!(matches!(disk.has_bucket("b"), Err(DiskError::NoSuchBucket)));
}

#[test]
fn a_key_below_an_object_is_refused_in_words() {
    let (_dir, disk) = disk();
    put(&disk, "a");
    put(&disk, "d/e");
    let one = [Bytes::from_static(b"one")];
    assert!(matches!(disk.put("b", "a/b", &one, &Condition::Always), Err(DiskError::Key(_))));
    assert!(matches!(disk.put("b", "d", &one, &Condition::Always), Err(DiskError::Key(_))));
    assert!(matches!(disk.get("b", "d"), Err(DiskError::NoSuchKey)));
    assert!(matches!(disk.get("b", "a/b"), Err(DiskError::NoSuchKey)));
}
