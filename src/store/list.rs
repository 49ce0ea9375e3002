//! The first keys of a prefix, in order.

use std::collections::BinaryHeap;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as ObjectPath;

use super::Store;
use super::backend::Lister;
use super::counts::Kind;
use super::error::{About, Fault, StoreError};
use super::limit::Load;
use super::options::{Cause, Patience};
use super::retry::Retrying;

/// Keys in one page: what S3 gives at most.
const PAGE: usize = 1000;

/// An object that a LIST shows. Ordered by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its key, below the pool's prefix.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// The first `limit` objects whose keys begin with `prefix` (empty, or ending in a slash) and come after
    /// `start_after`, in the order of their keys' bytes.
    ///
    /// # Errors
    /// As for any request; an empty answer is none.
    pub async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        cause: Cause,
        patience: Patience,
    ) -> Result<Vec<Listed>, StoreError> {
        if !prefix.is_empty() && !prefix.ends_with('/') {
            return Err(StoreError::Config(format!("cannot list {prefix}: a prefix ends in a slash")));
        }
        let about = self.inner.about(Kind::List, prefix);
        let mut retrying = Retrying::new(&self.inner, about, patience);
        let mut found: Vec<Listed> = Vec::new();
        loop {
            // Pages that have come are kept; the next begins after their last key.
            let after = found.last().map(|l| l.key.clone()).or_else(|| start_after.map(str::to_string));
            let want = (limit - found.len()).min(PAGE);
            let ask = Ask { store: self, about, prefix, after: after.as_deref(), want };
            self.inner.turn(cause, Load::default(), &retrying).await;
            match self.inner.attempt(Kind::List, cause, about, 0, retrying.limit(0), ask.page()).await {
                Ok(page) => {
                    let last = page.objects.is_empty() || page.last;
                    ask.check_order(&page.objects)?;
                    found.extend(page.objects);
                    if last || found.len() >= limit {
                        return Ok(found);
                    }
                }
                Err(fault) => retrying.again(fault).await?,
            }
        }
    }
}

/// One page that is asked for.
struct Ask<'a> {
    store: &'a Store,
    about: About<'a>,
    prefix: &'a str,
    after: Option<&'a str>,
    want: usize,
}

struct Page {
    objects: Vec<Listed>,
    /// Nothing comes after this page.
    last: bool,
}

impl Ask<'_> {
    async fn page(&self) -> Result<Page, Fault> {
        let backend = &self.store.inner.backend;
        match &backend.lister {
            Lister::Paged(lister) => self.paged(lister.as_ref()).await,
            Lister::Scan => self.scan().await,
            Lister::Local => self.local().await,
        }
    }

    /// The key below the store's prefix, if it is one of those asked for.
    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let full = meta.location.as_ref();
        let store_prefix = &self.store.inner.prefix;
        let key = if store_prefix.is_empty() { full } else { full.strip_prefix(store_prefix)?.strip_prefix('/')? };
        let wanted = key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after);
        wanted.then(|| Listed { key: key.to_string(), size: meta.size })
    }

    async fn paged(&self, lister: &dyn PaginatedListStore) -> Result<Page, Fault> {
        let full = self.store.inner.full(self.prefix);
        let options = PaginatedListOptions {
            offset: self.after.map(|after| self.store.inner.full(after)),
            max_keys: Some(self.want),
            ..PaginatedListOptions::default()
        };
        let answer = lister.list_paginated((!full.is_empty()).then_some(&full), options).await;
        let answer = answer.map_err(|e| self.about.fault(e))?;
        let objects: Vec<Listed> = answer.result.objects.iter().filter_map(|m| self.listed(m)).collect();
        if objects.is_empty() && answer.page_token.is_some() && !answer.result.objects.is_empty() {
            // Keys before `start_after` came: a server that ignores it would be asked for the same page for ever.
            let why = "its LIST ignores start-after".to_string();
            return Err(Fault::Permanent(StoreError::Unsupported(why)));
        }
        Ok(Page { objects, last: answer.page_token.is_none() })
    }

    /// Picks the least keys out of a listing in any order.
    async fn scan(&self) -> Result<Page, Fault> {
        let full = self.store.inner.full(self.prefix);
        let path = ObjectPath::parse(&full).map_err(|e| Fault::Final(StoreError::Config(e.to_string())))?;
        let mut stream = self.store.inner.backend.objects.list(Some(&path));
        let mut least = BinaryHeap::new();
        while let Some(meta) = stream.try_next().await.map_err(|e| self.about.fault(e))? {
            least.extend(self.listed(&meta));
            if least.len() > self.want {
                least.pop();
            }
        }
        let last = least.len() < self.want;
        Ok(Page { objects: least.into_sorted_vec(), last })
    }

    async fn local(&self) -> Result<Page, Fault> {
        self.store.check_directory()?;
        let Some(local) = self.store.inner.backend.local.clone() else {
            return Err(Fault::Final(self.about.other("not a directory")));
        };
        let (prefix, after, want) = (self.prefix.to_string(), self.after.map(str::to_string), self.want);
        match self.store.inner.env.heavy(move || local.list(&prefix, after.as_deref(), want)).await {
            Some(Ok(objects)) => Ok(Page { last: objects.len() < want, objects }),
            Some(Err(e)) => Err(self.about.io_fault(&e)),
            None => Err(Fault::Transient(self.about.other("the worker that lists the directory failed"), false)),
        }
    }

    fn check_order(&self, objects: &[Listed]) -> Result<(), StoreError> {
        if objects.is_sorted_by(|a, b| a.key < b.key) {
            Ok(())
        } else {
            let why = "its LIST does not come in the order of keys (S3 Express directory buckets do that)";
            Err(StoreError::Unsupported(why.to_string()))
        }
    }
}
