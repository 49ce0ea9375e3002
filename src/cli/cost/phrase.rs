//! A load as people say it: "20 flushes/s, 5 MB/s random, 200 GB".

use super::model::Load;

/// What a phrase may hold, for messages.
const SHAPES: &str = "write such as \"20 flushes/s, 5 MB/s random, 3 MB/s sequential, 100 reads/s 90% hits, 200 GB\"";

/// Parses a phrase: parts with commas between them, in any order.
///
/// # Errors
/// Which part is not understood, in a sentence.
pub fn parse(text: &str) -> Result<Load, String> {
    let mut load = Load::default();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        take(&mut load, part).map_err(|why| format!("{part:?}: {why}; {SHAPES}"))?;
    }
    if load == Load::default() {
        return Err(format!("nothing is said; {SHAPES}"));
    }
    Ok(load)
}

fn take(load: &mut Load, part: &str) -> Result<(), String> {
    let (number, unit, rest) = quantity(part)?;
    let words: Vec<String> = rest.split_whitespace().map(str::to_lowercase).collect();
    let (thing, seconds) = match unit.split_once('/') {
        Some((thing, per)) => (thing, Some(seconds(per)?)),
        None => (unit.as_str(), None),
    };
    match (thing.to_lowercase().as_str(), seconds) {
        ("flush" | "flushes" | "fsync" | "fsyncs", Some(s)) => {
            only(&words, &[])?;
            load.flushes += number / s;
        }
        ("read" | "reads", Some(s)) => {
            load.reads += number / s;
            load.hits = hits(&words)?.unwrap_or(load.hits);
        }
        (_, Some(s)) => {
            let rate = number * size(thing)? / s;
            if words.iter().any(|w| w.starts_with("read")) {
                only(&words, &["sequential", "read", "reads", "reading"])?;
                load.read_bytes += rate;
            } else if words.iter().any(|w| w == "random") {
                only(&words, &["random", "write", "writes", "written"])?;
                load.random += rate;
            } else {
                only(&words, &["sequential", "seq", "write", "writes", "written"])?;
                load.sequential += rate;
            }
        }
        (_, None) => {
            only(&words, &["stored", "live", "data", "used"])?;
            load.stored += number * size(thing)?;
        }
    }
    Ok(())
}

/// `5 MB/s random` is 5, `MB/s` and the rest.
fn quantity(part: &str) -> Result<(f64, String, &str), String> {
    let end = part.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(part.len());
    let number: f64 = part[..end].parse().map_err(|_| "it does not begin with a number".to_string())?;
    let rest = part[end..].trim_start();
    let (unit, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if unit.is_empty() {
        return Err("a number without a unit".into());
    }
    Ok((number, unit.to_string(), rest))
}

fn seconds(per: &str) -> Result<f64, String> {
    match per.to_lowercase().as_str() {
        "s" | "sec" | "second" => Ok(1.0),
        "min" | "minute" => Ok(60.0),
        "h" | "hour" => Ok(3600.0),
        "d" | "day" => Ok(86_400.0),
        "month" => Ok(super::bill::MONTH),
        _ => Err(format!("per {per:?} is not understood")),
    }
}

/// Bytes of a unit: kB, MB, GB are powers of 1000 as in bills, KiB, MiB, GiB and K, M, G powers of 1024.
fn size(unit: &str) -> Result<f64, String> {
    let lower = unit.to_lowercase();
    let power = |letter: &str| "kmgtp".find(letter).filter(|_| letter.len() == 1).map(|p| p as i32 + 1);
    match lower.as_str() {
        "b" | "byte" | "bytes" => Ok(1.0),
        _ => {
            let (letter, base) = match lower.strip_suffix("ib") {
                Some(letter) => (letter, 1024.0f64),
                None => lower.strip_suffix('b').map_or((lower.as_str(), 1024.0), |letter| (letter, 1000.0)),
            };
            power(letter).map(|p| base.powi(p)).ok_or_else(|| format!("{unit:?} is not a unit"))
        }
    }
}

fn only(words: &[String], known: &[&str]) -> Result<(), String> {
    match words.iter().find(|w| !known.contains(&w.as_str())) {
        Some(word) => Err(format!("{word:?} is not understood")),
        None => Ok(()),
    }
}

/// `90% hits`, `with 90 % cached`, `random`: the share that caches answer.
fn hits(words: &[String]) -> Result<Option<f64>, String> {
    let mut found = None;
    let rest: Vec<String> = words.iter().filter(|w| *w != "%").cloned().collect();
    for word in &rest {
        match word.trim_end_matches('%').parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => found = Some(percent / 100.0),
            Ok(_) => return Err(format!("{word} is no share")),
            Err(_) => {
                only(std::slice::from_ref(word), &["random", "with", "at", "hit", "hits", "cached", "hit-ratio"])?
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_say_what_they_say() {
        let load = parse("20 flushes/s, 5 MB/s random, 200 GB");
        assert_eq!(load, Ok(Load { flushes: 20.0, random: 5e6, stored: 200e9, ..Load::default() }));
        let load = parse("1 fsync/min,2MiB/s sequential writes, 100 reads/s with 90% hits, 1.5 TiB stored");
        let expected = Load {
            flushes: 1.0 / 60.0,
            sequential: 2.0 * 1_048_576.0,
            reads: 100.0,
            hits: 0.9,
            stored: 1.5 * 1024f64.powi(4),
            ..Load::default()
        };
        assert_eq!(load, Ok(expected));
        assert_eq!(parse("86400 reads/day").map(|l| (l.reads, l.hits)), Ok((1.0, 0.0)));
        assert_eq!(parse("10 MB/s sequential reads").map(|l| l.read_bytes), Ok(1e7));
        assert_eq!(parse("10 MB/s").map(|l| l.sequential), Ok(1e7));
    }

    #[test]
    fn letters_that_change_their_length_in_lower_case_are_letters() {
        assert_eq!(parse("5 \u{212a}B/s"), parse("5 kB/s"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, word) in [
            ("", "nothing"),
            ("fast", "number"),
            ("20", "unit"),
            ("20 flushes", "not a unit"),
            ("20 flushes/week", "week"),
            ("5 MB/s randomly", "randomly"),
            ("5 XB/s", "XB"),
            ("5 MB/s random reads", "random"),
            ("10 reads/s 190% hits", "share"),
            ("-5 GB", "number"),
            ("200 GB of data", "of"),
        ] {
            let why = parse(text).expect_err(text);
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
