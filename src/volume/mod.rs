//! (room: volume)
