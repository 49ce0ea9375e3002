//! Golden files: the bytes of format version 1, and a reader written from docs/format.md alone.
