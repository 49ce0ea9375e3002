//! (room: map)
