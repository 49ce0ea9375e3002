//! The pool: its keys, how bytes are sealed under them, and small sealed objects.

pub mod aead;
pub mod keys;
pub mod sealed;
