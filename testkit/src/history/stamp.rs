//! What a test writes into a block: who wrote it, where, and filler that follows from both, so that a torn, misplaced or
//! mixed block is told from a whole one.

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// One of the words that fill a block.
fn word(id: u64, lba: u64, at: u64) -> u64 {
    // Every fourth write compresses well, so that every codec has its turn.
    let at = if id.is_multiple_of(4) { at % 8 } else { at };
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lba.rotate_left(32) ^ at.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 29
}

fn words(id: u64, lba: u64) -> impl Iterator<Item = u64> {
    [id, lba].into_iter().chain((2..BLOCK as u64 / 8).map(move |at| word(id, lba, at)))
}

/// The blocks that write `id` (not 0) puts at `lba` and after it.
pub fn stamped(id: u64, lba: u64, blocks: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks as usize * BLOCK);
    (lba..lba + blocks).flat_map(|lba| words(id, lba)).for_each(|w| bytes.extend_from_slice(&w.to_le_bytes()));
    bytes
}

/// Which write left this block at `lba`: 0 for zeroes.
///
/// # Errors
/// What is wrong with it, where no single write left it there.
pub fn read_stamp(lba: u64, block: &[u8]) -> Result<u64, String> {
    if block.iter().all(|b| *b == 0) {
        return Ok(0);
    }
    let mut found = block.chunks_exact(8).map(|w| w.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    let id = found.next().unwrap_or(0);
    let wrong = words(id, lba).skip(1).zip(found).position(|(expected, found)| expected != found);
    match wrong {
        None if block.len() == BLOCK && id != 0 => Ok(id),
        None => Err(format!("block {lba} is no whole block of a write")),
        Some(at) => Err(format!("block {lba} begins as write {id} left it, but differs from byte {} on", (at + 1) * 8)),
    }
}
