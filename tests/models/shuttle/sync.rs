//! The locks and atomics of the product's module of this name, over shuttle's: every use may hand over to another thread.

use std::ops::{Deref, DerefMut};

use shuttle::sync as inner;

pub use crate::weak::weak;
pub use shuttle::sync::atomic;

/// Hands over to another thread, perhaps. No `yield_now`: after that the scheduler of priorities holds nobody up here.
pub fn step() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

/// Hands over many times, perhaps: work that takes long.
pub fn steps() {
    (0..20).for_each(|_| step());
}

#[derive(Debug, Default)]
pub struct Mutex<T>(inner::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(inner::Mutex::new(value))
    }

    pub fn lock(&self) -> inner::MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

#[derive(Debug, Default)]
pub struct RwLock<T>(inner::RwLock<T>);

pub struct RwLockReadGuard<'a, T>(inner::RwLockReadGuard<'a, T>);
pub struct RwLockWriteGuard<'a, T>(inner::RwLockWriteGuard<'a, T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        Self(inner::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard(self.0.read().expect("nobody panics with the lock"))
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard(self.0.write().expect("nobody panics with the lock"))
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
