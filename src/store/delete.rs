//! Deleting what nothing refers to.

use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;

use super::Store;
use super::counts::Kind;
use super::error::{About, Fault, StoreError};
use super::limit::Load;
use super::options::{Cause, Patience};
use super::retry::Retrying;

impl Store {
    /// Deletes an object. One that is not there is fine.
    ///
    /// # Errors
    /// As for any request.
    pub async fn delete(&self, key: &str, cause: Cause, patience: Patience) -> Result<(), StoreError> {
        let about = self.inner.about(Kind::Delete, key);
        let path = self.path(key)?;
        let mut retrying = Retrying::new(&self.inner, about, patience);
        loop {
            match self.delete_once(about, &path, cause, &retrying).await {
                Ok(()) => return Ok(()),
                Err(fault) => retrying.again(fault).await?,
            }
        }
    }

    /// One DELETE of one object. One that is not there is fine.
    pub(super) async fn delete_once(
        &self,
        about: About<'_>,
        path: &ObjectPath,
        cause: Cause,
        retrying: &Retrying<'_>,
    ) -> Result<(), Fault> {
        let request = async {
            self.check_directory()?;
            self.inner.backend.objects.delete(path).await.map_err(|e| about.fault(e))
        };
        self.inner.turn(cause, Load::default(), retrying).await;
        match self.inner.attempt(Kind::Delete, cause, about, 0, retrying.limit(0), request).await {
            Ok(()) | Err(Fault::Final(StoreError::NotFound { .. })) => {
                self.inner.counts.deleted(cause, 1);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }
}
