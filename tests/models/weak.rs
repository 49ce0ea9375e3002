//! Planted weaknesses: a model that still holds with one of them is blind.

use parking_lot::Mutex;

static WEAK: Mutex<&str> = Mutex::new("");

/// Whether the model that runs has this place weakened.
pub fn weak(name: &str) -> bool {
    *WEAK.lock() == name
}

/// Weakens a place, or none (`""`).
pub fn set(name: &'static str) {
    *WEAK.lock() = name;
}
