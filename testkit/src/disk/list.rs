//! Listing: one page of keys in byte order, by walking only the directories that can hold them.

use std::fs;
use std::path::Path;

use super::{DiskError, Meta, decode_name};

/// What to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListQuery {
    /// Keys start with this.
    pub prefix: String,
    /// Keys with this after the prefix are rolled up to one common prefix; empty: none are.
    pub delimiter: String,
    /// Keys after this one only.
    pub after: String,
    /// Nothing that starts with this: the common prefix that ended the page before.
    pub beyond: Option<String>,
    /// Keys and common prefixes together, at most.
    pub limit: usize,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// An object.
    Object(String, Meta),
    /// Objects that were rolled up.
    Prefix(String),
}

/// One page.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In byte order of keys.
    pub items: Vec<Listed>,
    /// Whether more follow.
    pub truncated: bool,
}

struct Walk<'a> {
    query: &'a ListQuery,
    beyond: Option<String>,
    out: Listing,
}

pub(super) fn list(bucket: &Path, query: &ListQuery) -> Result<Listing, DiskError> {
    let mut walk = Walk { query, beyond: query.beyond.clone(), out: Listing::default() };
    if query.limit > 0 {
        walk.directory(bucket, "")?;
    }
    Ok(walk.out)
}

impl Walk<'_> {
    /// Walks one directory, whose keys all start with `base`; false when the page is full.
    fn directory(&mut self, dir: &Path, base: &str) -> Result<bool, DiskError> {
        let mut entries = Vec::new();
        let mut full = String::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(decode_name) else { continue };
            let is_dir = entry.file_type()?.is_dir();
            full.clear();
            full.push_str(base);
            full.push_str(&name);
            if is_dir {
                // A directory sorts as its keys do: with the slash.
                full.push('/');
            }
            if self.may_hold(&full, is_dir) {
                entries.push((full.clone(), is_dir, file_name));
            }
        }
        // Only as much of a large directory is put in order as the page takes.
        let page = self.query.limit + 1;
        let mut rest = entries.as_mut_slice();
        while !rest.is_empty() {
            if rest.len() > page {
                rest.select_nth_unstable(page);
            }
            let (first, later) = rest.split_at_mut(page.min(rest.len()));
            first.sort_unstable();
            for (full, is_dir, file_name) in first {
                if !self.entry(&dir.join(file_name), full, *is_dir)? {
                    return Ok(false);
                }
            }
            rest = later;
        }
        Ok(true)
    }

    /// Takes up one entry of a directory; false when the page is full.
    fn entry(&mut self, path: &Path, full: &str, is_dir: bool) -> Result<bool, DiskError> {
        // The common prefix may have moved on since the directory was read.
        if !self.may_hold(full, is_dir) {
            Ok(true)
        } else if is_dir {
            self.directory(path, full)
        } else {
            self.object(path, full)
        }
    }

    /// Whether this key, or a key in this directory, can be in the listing.
    fn may_hold(&self, full: &str, is_dir: bool) -> bool {
        let q = self.query;
        if self.beyond.as_ref().is_some_and(|b| full.starts_with(b.as_str())) {
            return false;
        }
        if is_dir {
            (full.starts_with(&q.prefix) || q.prefix.starts_with(full))
                && (full >= q.after.as_str() || q.after.starts_with(full))
        } else {
            full.starts_with(&q.prefix) && (q.after.is_empty() || full > q.after.as_str())
        }
    }

    fn object(&mut self, path: &Path, key: &str) -> Result<bool, DiskError> {
        if self.out.items.len() == self.query.limit {
            self.out.truncated = true;
            return Ok(false);
        }
        let rest = &key[self.query.prefix.len()..];
        let delimiter = &self.query.delimiter;
        if !delimiter.is_empty()
            && let Some(at) = rest.find(delimiter.as_str())
        {
            let common = key[..self.query.prefix.len() + at + delimiter.len()].to_owned();
            self.beyond = Some(common.clone());
            self.out.items.push(Listed::Prefix(common));
            return Ok(true);
        }
        let meta = Meta::of(&fs::metadata(path)?)?;
        self.out.items.push(Listed::Object(key.to_owned(), meta));
        Ok(true)
    }
}
