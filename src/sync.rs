//! What threads share, for the rooms whose schedules are explored: locks, queues and atomics, from here and from nowhere else.
//!
//! In the product these are those of parking_lot and std. tests/models compiles the same sources with a module of this name
//! over loom's or shuttle's, where every use is a place at which another thread may come in.

pub use crossbeam_queue::ArrayQueue;
pub use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::atomic;

/// A place, between two steps that no lock or atomic of this module separates, at which another thread may come in.
#[inline(always)]
pub fn step() {}

/// Whether a model has weakened this place, to see itself fail. Nothing is weak in the product.
#[inline(always)]
#[must_use]
pub const fn weak(_: &str) -> bool {
    false
}
