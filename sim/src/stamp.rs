//! What writes put into blocks: every unit of the volume says which write it comes from and where it belongs.
//!
//! One in four says so in its last bytes and is zeroes before them, one in four is noise, the others compress well.

/// The stamp of what was never written, or was zeroed.
pub const ZERO: u64 = 0;

/// Bytes of stamp and place.
const MARK: usize = 16;

/// Fills `unit` with what write `stamp` puts at unit number `at`.
pub fn fill(stamp: u64, at: u64, unit: &mut [u8]) {
    if stamp == ZERO {
        unit.fill(0);
        return;
    }
    if stamp % 4 == 3 {
        let zeroes = unit.len() - MARK;
        unit[..zeroes].fill(0);
        unit[zeroes..zeroes + 8].copy_from_slice(&stamp.to_le_bytes());
        unit[zeroes + 8..].copy_from_slice(&at.to_le_bytes());
        return;
    }
    unit[..8].copy_from_slice(&stamp.to_le_bytes());
    unit[8..16].copy_from_slice(&at.to_le_bytes());
    let mut x = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.wrapping_mul(0xd6e8_feb8_6659_fd93) | 1;
    for word in unit[16..].chunks_mut(8) {
        if !stamp.is_multiple_of(2) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        word.copy_from_slice(&x.to_le_bytes()[..word.len()]);
    }
}

/// The stamp that `unit`, read from unit number `at`, carries.
///
/// # Errors
/// What is wrong with it, if no write ever put these bytes there.
pub fn read(at: u64, unit: &[u8]) -> Result<u64, String> {
    let word = |i: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| unit[i + n]));
    let mark = if word(0) == ZERO { unit.len() - MARK } else { 0 };
    let stamp = word(mark);
    if stamp == ZERO {
        return match unit.iter().all(|b| *b == 0) {
            true => Ok(ZERO),
            false => Err("bytes that nobody wrote, beginning with zeroes".into()),
        };
    }
    let mut wanted = vec![0; unit.len()];
    fill(stamp, at, &mut wanted);
    if wanted == unit {
        return Ok(stamp);
    }
    let belongs = word(mark + 8);
    if belongs != at {
        return Err(format!("what write {stamp} put at unit {belongs}"));
    }
    let first = wanted.iter().zip(unit).position(|(a, b)| a != b);
    Err(format!("bytes that write {stamp} did not put there, from byte {first:?} on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_says_whose_it_is_and_any_other_bytes_are_noticed() {
        for stamp in [1, 2, 3, 77, 79] {
            let mut unit = vec![9; 512];
            fill(stamp, 5, &mut unit);
            assert_eq!(read(5, &unit), Ok(stamp));
            assert!(read(6, &unit).is_err());
            unit[300] ^= 1;
            assert!(read(5, &unit).is_err());
        }
        assert_eq!(read(5, &[0; 512]), Ok(ZERO));
        let mut torn = vec![0; 512];
        torn[400] = 1;
        assert!(read(5, &torn).is_err());
    }
}
