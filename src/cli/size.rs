//! Sizes as people write them: `10G` is 10 GiB.

/// Suffixes, each 1024 times the one before.
const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Parses a size in bytes: a whole number, alone or with K, M, G, T, P or E (powers of 1024), also as `KiB` and so on.
///
/// # Errors
/// What is wrong with the text, in a sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("a size is a whole number with an optional unit, such as 10G or 4096".into());
    }
    let number: u64 = number.parse().map_err(|_| too_large(text))?;
    number.checked_mul(multiplier(unit, text)?).ok_or_else(|| too_large(text))
}

fn multiplier(unit: &str, text: &str) -> Result<u64, String> {
    let upper = unit.to_ascii_uppercase();
    if upper.is_empty() || upper == "B" {
        return Ok(1);
    }
    let position = upper.chars().next().and_then(|c| UNITS.iter().position(|u| *u == c));
    match (position, &upper[upper.chars().next().map_or(0, char::len_utf8)..]) {
        (Some(p), "" | "IB") => Ok(1 << (10 * (p + 1))),
        (Some(p), "B") => Err(format!("{text} may mean powers of 1000 or of 1024: write {} for the latter", UNITS[p])),
        (None, _) if unit.starts_with('.') => Err(format!("{text} is not a whole number: use a smaller unit")),
        _ => Err(format!("{unit:?} is not a unit: use K, M, G, T, P or E")),
    }
}

fn too_large(text: &str) -> String {
    format!("{text} is beyond 16 EiB")
}

/// A number of bytes for people: exact where it is whole in some unit, else with one or two digits after the point.
pub fn show_size(bytes: u64) -> String {
    let mut unit = 0;
    while unit < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let one = 1u64 << (10 * unit);
    let name = UNITS[unit - 1];
    if bytes.is_multiple_of(one) {
        return format!("{} {name}iB", bytes >> (10 * unit));
    }
    let value = bytes as f64 / one as f64;
    if value < 10.0 { format!("{value:.2} {name}iB") } else { format!("{value:.1} {name}iB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("1K", 1 << 10),
            ("1k", 1 << 10),
            ("10G", 10 << 30),
            ("10GiB", 10 << 30),
            ("3MIB", 3 << 20),
            ("2T", 2 << 40),
            ("8E", 1 << 63),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        let table = [
            ("", "whole number"),
            ("G", "whole number"),
            ("-1", "whole number"),
            (" 1", "whole number"),
            ("1.5G", "not a whole number"),
            ("10GB", "1000 or of 1024"),
            ("10X", "not a unit"),
            ("10Gi", "not a unit"),
            ("10 G", "not a unit"),
            ("10é", "not a unit"),
            ("16E", "beyond"),
            ("99999999999999999999", "beyond"),
        ];
        for (text, reason) in table {
            let message = parse_size(text).expect_err(text);
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    #[test]
    fn shown_sizes_are_short_and_exact_where_they_can_be() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (10 << 30, "10 GiB"),
            (1536, "1.50 KiB"),
            ((100 << 20) + 1, "100.0 MiB"),
            (1 << 63, "8 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(show_size(bytes), text);
        }
    }
}
