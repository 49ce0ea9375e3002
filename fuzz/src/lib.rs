//! What the fuzz targets do with their input, one file per target; `fuzz_targets/` only hands it over.
//!
//! Where bytes are authenticated, the targets hold the key: what they choose is sealed as a buggy or hostile writer would
//! seal it, so that the decoders behind the AEAD see it too.

pub mod attach;
mod bounded;
pub mod device_record;
pub mod disk;
pub mod input;
pub mod journal;
pub mod log_object;
pub mod map;
pub mod nbd;
pub mod pool;
pub mod segment;
pub mod text;

use std::path::PathBuf;
use std::sync::LazyLock;

use esker::pool::keys::PoolKeys;

/// The keys of the pool that all targets speak of.
pub static KEYS: LazyLock<std::sync::Arc<PoolKeys>> =
    LazyLock::new(|| std::sync::Arc::new(PoolKeys::new(*b"a pool for fuzz.", 1, &[7; 32])));

/// A directory in memory, of this process and this target.
pub fn scratch(target: &str) -> PathBuf {
    let dir = PathBuf::from(format!("/dev/shm/esker-fuzz-{target}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("there is room in /dev/shm");
    dir
}
