//! Functions and their lengths; calls that library code must not make.

use crate::source::{Source, closing, line_of, test_items};

pub struct Function {
    pub name: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
    pub test: bool,
}

/// The functions that have a body, nested ones too.
pub fn functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    let items = test_items(code);
    let function = |at: usize| {
        let rest = &code[at + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            return None;
        }
        let open = at + 3 + body(rest)?;
        let line = line_of(code, at);
        let test = source.test || items.iter().any(|range| range.contains(&at));
        Some(Function { name, line, lines: line_of(code, closing(code, open)) + 1 - line, test })
    };
    let is_word =
        |at: usize| at == 0 || !(code.as_bytes()[at - 1].is_ascii_alphanumeric() || code.as_bytes()[at - 1] == b'_');
    code.match_indices("fn ").filter(|(at, _)| is_word(*at)).filter_map(|(at, _)| function(at)).collect()
}

/// Where the body opens; none if the signature ends with a semicolon.
fn body(signature: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in signature.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

const PANICS: &[&str] =
    &[".unwrap()", ".unwrap_err()", "panic!(", "todo!(", "unimplemented!(", "unreachable!()", "dbg!("];
const PRINTS: &[&str] = &["println!(", "print!(", "eprintln!(", "eprint!("];

/// `expect("why it holds")` is the one way to state what cannot fail; words to people are the command line's alone.
pub fn panics_and_prints(source: &Source) -> Vec<String> {
    let library = ["src/", "block/src/", "nbd-compat/src/"].iter().any(|folder| source.path.starts_with(folder));
    if source.test || !library {
        return Vec::new();
    }
    let speaks = source.path.starts_with("src/cli/") || source.path == "src/main.rs";
    let prints = if speaks { &[] } else { PRINTS };
    let items = test_items(&source.code);
    let mut findings = Vec::new();
    for what in PANICS.iter().chain(prints) {
        for (at, _) in source.code.match_indices(what) {
            let whole = !what.starts_with(char::is_alphabetic)
                || !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if whole && !items.iter().any(|range| range.contains(&at)) {
                findings.push(format!("{}:{}: {what}", source.path, line_of(&source.code, at)));
            }
        }
    }
    findings
}

#[test]
fn findings_are_found() {
    let text = "fn a(x: [u8; 4]) {\n    x.unwrap();\n    println!();\n}\n#[cfg(test)]\nmod t {\n    fn b() { y.unwrap() }\n}\n";
    let mut source =
        Source { path: "src/x/y.rs".into(), text: text.into(), code: crate::source::blank(text), test: false };
    let found: Vec<_> = functions(&source).into_iter().map(|f| (f.name, f.line, f.lines, f.test)).collect();
    assert_eq!(found, [("a".into(), 1, 4, false), ("b".into(), 7, 1, true)]);
    assert_eq!(panics_and_prints(&source), ["src/x/y.rs:2: .unwrap()", "src/x/y.rs:3: println!("]);
    source.path = "src/cli/y.rs".into();
    assert_eq!(panics_and_prints(&source), ["src/cli/y.rs:2: .unwrap()"]);
}
