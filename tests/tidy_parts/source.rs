//! The files of the tree, and Rust sources with comments and literals blanked out.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A Rust file.
pub struct Source {
    /// From the root of the tree.
    pub path: String,
    pub text: String,
    /// `text` with the inside of comments, strings and characters replaced by spaces; the lines stay.
    pub code: String,
    /// All of it is compiled for tests only.
    pub test: bool,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is tracked or about to be, by its path from the root.
pub fn files() -> Vec<String> {
    let git = Command::new("git")
        // The tree may belong to somebody else, as in containers.
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is there");
    assert!(git.status.success(), "git ls-files: {}", String::from_utf8_lossy(&git.stderr));
    let text = String::from_utf8(git.stdout).expect("paths are UTF-8");
    let files: Vec<String> =
        text.split_terminator('\0').filter(|f| root().join(f).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 100, "only {} files found", files.len());
    files
}

pub fn rust_sources() -> Vec<Source> {
    let mut sources: Vec<Source> = files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).expect("a source is UTF-8");
            let code = blank(&text);
            Source { test: is_test_path(&path), path, text, code }
        })
        .collect();
    // What a file declares as `#[cfg(test)] mod name;` is test code too, with all below it.
    let below: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        source.test |= below.iter().any(|b| stem == b || stem.starts_with(&format!("{b}/")));
    }
    sources
}

fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
        || path.ends_with("_tests.rs")
}

/// The paths, without `.rs`, of the modules that `source` declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let folder = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        other => format!("{folder}/{}", other.trim_end_matches(".rs")),
    };
    let item = |rest: &str| {
        // Whatever its visibility.
        let (head, name) = rest.split_once(';')?.0.rsplit_once("mod ")?;
        let whole = |text: &str| text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '(' | ')' | ' ' | '\n'));
        (whole(head) && whole(name)).then(|| format!("{folder}/{}", name.trim()))
    };
    source.code.split("#[cfg(test)]").skip(1).filter_map(item).collect()
}

/// Where the items under `#[cfg(test)]` are, as ranges of bytes of `code`.
pub fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let ends = |from: usize| match code[from..].find(['{', ';']) {
        Some(at) if code.as_bytes()[from + at] == b'{' => closing(code, from + at),
        Some(at) => from + at,
        None => code.len(),
    };
    code.match_indices("#[cfg(test)]").map(|(at, _)| at..ends(at)).collect()
}

/// The position of the brace that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// `text` with comments and literals replaced by spaces, byte for byte, so that positions and lines stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        match end {
            None => at += 1,
            Some(end) => {
                let end = end.min(bytes.len());
                out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
                at = end;
            }
        }
    }
    String::from_utf8(out).expect("whole tokens were blanked")
}

/// The end of the comment or literal that begins at `at`, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |what: &[u8], from: usize| {
        rest[from..].windows(what.len()).position(|w| w == what).map_or(bytes.len(), |n| at + from + n)
    };
    match rest {
        [b'/', b'/', ..] => Some(find(b"\n", 0)),
        [b'/', b'*', ..] => Some(find(b"*/", 2) + 2),
        [b'"', ..] => Some(string_end(bytes, at)),
        [b'r', b'"' | b'#', ..] if !in_word(bytes, at) => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            // Otherwise a raw identifier.
            (rest.get(1 + hashes) == Some(&b'"')).then(|| {
                let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
                find(&close, 2 + hashes) + close.len()
            })
        }
        // A character, not a lifetime.
        [b'\'', b'\\', ..] => Some(find(b"'", 3) + 1),
        [b'\'', ..] => {
            let len = std::str::from_utf8(&rest[1..rest.len().min(5)]).map_or_else(
                |e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]).ok().and_then(|s| s.chars().next()),
                |s| s.chars().next(),
            )?;
            (rest.get(1 + len.len_utf8()) == Some(&b'\'')).then(|| at + 2 + len.len_utf8())
        }
        _ => None,
    }
}

/// Whether the byte before belongs to the same word; `b` and `c` may stand before a raw string.
fn in_word(bytes: &[u8], at: usize) -> bool {
    let word = |n: usize| n.checked_sub(1).is_some_and(|n| bytes[n].is_ascii_alphanumeric() || bytes[n] == b'_');
    word(at) && (!matches!(bytes[at - 1], b'b' | b'c') || word(at - 1))
}

fn string_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

#[test]
fn blanking_leaves_code_and_lines() {
    let text = "let a = \"{\\\"\"; // }\nf('{', 'x', '\\'', b'{', r#\"}\"#, br\"{\", 'l: {}) /* { */ é('é')";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 1);
    let words: Vec<_> = code.split_whitespace().collect();
    assert_eq!(words.join(" "), "let a = ; f( , , , b , , b , 'l: {}) é( )");
}
