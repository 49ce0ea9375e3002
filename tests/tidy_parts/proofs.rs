//! The tests that documents name as proof of a promise: they must be there.

use crate::source::{Source, files, root};

/// Where the last name pointed, for those that follow it in a cell.
enum Place {
    /// A module of the `esker` crate: its path.
    Module(String),
    /// A file of the tree: its path.
    File(String),
}

/// Names in the tables headed `| test | ..` of the document at `path` that are the names of nothing.
///
/// A cell has `room::module::name`, `…name` (in the same module), `path/of/a/file`, then perhaps `name` or *case* in that
/// file. `*` at the end of a name stands for anything, and so does `…` at the end of a case.
pub fn missing(path: &str, sources: &[Source]) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(path)).expect("a document is UTF-8");
    let files = files();
    let mut findings = Vec::new();
    for (line, cell) in cells(&text) {
        let mut place = None;
        for name in names(cell) {
            if !exists(name, &mut place, sources, &files) {
                findings.push(format!("{path}:{line}: {}", name.text));
            }
        }
    }
    findings
}

/// The first cells of the rows of tables whose first column is headed `test`, with their lines.
fn cells(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let first = line.strip_prefix('|').and_then(|row| row.split('|').next()).map(str::trim);
        match first {
            None => inside = false,
            Some("test" | "tests") => inside = true,
            Some(cell) if inside => found.push((n + 1, cell)),
            Some(_) => {}
        }
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Name<'a> {
    text: &'a str,
    /// `code`, or else *words*.
    code: bool,
}

fn names(cell: &str) -> Vec<Name<'_>> {
    let mut rest = cell;
    let mut found = Vec::new();
    while let Some(open) = rest.find(['`', '*']) {
        let mark = &rest[open..=open];
        let inner = &rest[open + 1..];
        let Some(end) = inner.find(mark) else { break };
        found.push(Name { text: &inner[..end], code: mark == "`" });
        rest = &inner[end + 1..];
    }
    found
}

fn exists(name: Name, place: &mut Option<Place>, sources: &[Source], files: &[String]) -> bool {
    let text = name.text;
    if !name.code {
        let Some(Place::File(file)) = place else { return false };
        let body = std::fs::read_to_string(root().join(file)).unwrap_or_default().to_lowercase();
        let words = text.to_lowercase();
        return words.split('…').all(|part| body.contains(part.trim()));
    }
    if let Some(last) = text.strip_prefix('…') {
        return has_function(place, last, sources);
    }
    if let Some((module, last)) = text.rsplit_once("::") {
        *place = Some(Place::Module(module.to_owned()));
        return has_function(place, last, sources);
    }
    if text.contains('/') {
        *place = Some(Place::File(text.to_owned()));
        let folder = text.trim_end_matches('*').trim_end_matches('/');
        return files.iter().any(|f| f == text || f.starts_with(&format!("{folder}/")));
    }
    has_function(place, text, sources)
}

fn has_function(place: &Option<Place>, name: &str, sources: &[Source]) -> bool {
    let (wanted, open) = name.strip_suffix('*').map_or((name, false), |n| (n, true));
    let defines = |source: &Source| {
        let whole = |rest: &str| open || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        source
            .code
            .match_indices("fn ")
            .any(|(at, f)| source.code[at + f.len()..].strip_prefix(wanted).is_some_and(whole))
    };
    let at = |path: &str| match place {
        None => false,
        Some(Place::File(file)) => path == file || path.starts_with(&format!("{}/", file.trim_end_matches("/main.rs"))),
        // A module is a file, a folder's mod.rs, or stands inside a file of a shorter path.
        Some(Place::Module(module)) => {
            let parts: Vec<&str> = module.split("::").collect();
            (1..=parts.len()).any(|n| {
                let stem = parts[..n].join("/");
                path == format!("src/{stem}.rs") || path == format!("src/{stem}/mod.rs")
            })
        }
    };
    sources.iter().any(|source| at(&source.path) && defines(source))
}

#[test]
fn names_lead_to_functions_and_cases() {
    let text = "| test | what |\n| --- | --- |\n| `a::b::*`, `…c` | `x::y` |\n\n| other | t |\n| `d::e` | |";
    assert_eq!(cells(text), [(2, "---"), (3, "`a::b::*`, `…c`")]);
    let found: Vec<_> =
        names("`a::b::*`, `…c`; `f/g.sh`: *some case…*").into_iter().map(|n| (n.text, n.code)).collect();
    assert_eq!(found, [("a::b::*", true), ("…c", true), ("f/g.sh", true), ("some case…", false)]);
    let source =
        |path: &str, code: &str| Source { path: path.into(), text: String::new(), code: code.into(), test: true };
    let sources = [source("src/a/b.rs", "fn one_thing() {}")];
    let known = |names: &[&str]| {
        let mut place = None;
        names.iter().map(|text| exists(Name { text, code: true }, &mut place, &sources, &[])).collect::<Vec<_>>()
    };
    assert_eq!(known(&["a::b::one_thing", "…one_thin", "…one_*", "one_thing"]), [true, false, true, true]);
    assert_eq!(known(&["a::b::tests::one_thing", "a::c::one_thing", "x::*"]), [true, false, false]);
}
