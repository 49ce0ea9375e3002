//! Deleting what nothing refers to.

use object_store::ObjectStoreExt;

use super::Store;
use super::counts::Kind;
use super::error::{Fault, StoreError};
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
            let request = async {
                self.check_directory()?;
                self.inner.backend.objects.delete(&path).await.map_err(|e| about.fault(e))
            };
            match self.inner.attempt(Kind::Delete, cause, about, 0, retrying.limit(0), request).await {
                Ok(()) | Err(Fault::Final(StoreError::NotFound { .. })) => return Ok(()),
                Err(fault) => retrying.again(fault).await?,
            }
        }
    }
}
